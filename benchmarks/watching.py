"""The bare watch: a process that reads the events of one object from the API server, and does nothing with them.

The state is the first backend of the split that has a weight. What the controller adds to this is its own.
"""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
from typing import Any

from benchmarks.channel import answer, arguments, requests


def main() -> None:
    """Answer `start` and `stop`; what was seen in between is the answer of `stop`."""
    given = arguments()
    context = ssl.create_default_context(cafile=given["ca"])
    context.load_cert_chain(given["certificate"], given["key"])
    connection = http.client.HTTPSConnection(given["host"], given["port"], context=context)
    connection.request("GET", given["path"])
    response = connection.getresponse()
    seen: list[tuple[int, str]] = []

    def read() -> None:
        last = ""
        while line := response.readline():
            now = time.monotonic_ns()
            state = _state(json.loads(line)["object"])
            if state != last:
                seen.append((now, state))
                last = state

    threading.Thread(target=read, daemon=True).start()
    for request in requests():
        if request["do"] == "start":
            seen.clear()
            answer()
        else:
            answer(seen=list(seen))


def _state(split: dict[str, Any]) -> str:
    return str(next(item["service"] for item in split["spec"]["backends"] if item["weight"]))


if __name__ == "__main__":
    main()
