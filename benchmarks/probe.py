"""The probe: a process of its own that asks one address again and again over a kept connection and sees what changes.

A closed loop with a gap of half a millisecond: the next request leaves after the last answer. The state is the
answer's body if its status is 200, else the status, else `broken` (no answer). It reports when each state began,
and how many answers it saw; the controller is told of each at once, by a datagram, so that the next change waits for
the last one's effect. It runs between `start` and `stop` only, so that idle arms cost nothing.
"""

from __future__ import annotations

import json
import os
import select
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.channel import answer, arguments

GAP = 0.0005


class Connection:
    """A kept HTTP/1.1 connection; it is opened when needed, and again after the server closed it."""

    def __init__(self, address: tuple[str, int], tls: ssl.SSLContext | None = None, path: str = "/") -> None:
        self._address = address
        self._tls = tls
        self._request = f"GET {path} HTTP/1.1\r\nhost: probe\r\n\r\n".encode()
        self._socket: socket.socket | None = None
        self.opened = 0

    def state(self) -> str:
        """Ask once."""
        try:
            if self._socket is None:
                self._socket = self._open()
            self._socket.sendall(self._request)
            return self._read(self._socket)
        except (OSError, ValueError):
            self.close()
            return "broken"

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _open(self) -> socket.socket:
        self.opened += 1
        plain = socket.create_connection(self._address, timeout=10)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._tls.wrap_socket(plain) if self._tls else plain

    def _read(self, connection: socket.socket) -> str:
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._more(connection)
        head, body = data.split(b"\r\n\r\n", 1)
        lines = head.lower().split(b"\r\n")
        fields = dict(line.split(b": ", 1) for line in lines[1:] if b": " in line)
        length = int(fields.get(b"content-length", b"0"))
        while len(body) < length:
            body += self._more(connection)
        if fields.get(b"connection") == b"close":
            self.close()
        status = lines[0].split(b" ")[1].decode()
        return body.decode() if status == "200" else status

    def _more(self, connection: socket.socket) -> bytes:
        data = connection.recv(65536)
        if not data:
            raise ConnectionResetError
        return data


def tls_context(files: dict[str, str] | None) -> ssl.SSLContext | None:
    """Return a client context with a key pair; the server's name is its SPIFFE id, which ssl cannot compare."""
    if not files:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(files["roots"])
    context.load_cert_chain(files["certificate"], files["key"])
    return context


def watch(connection: Connection, tell: Callable[[str], None]) -> dict[str, Any]:
    """Ask until the next line arrives on stdin; return when states began and how often each was seen."""
    began: list[tuple[int, str]] = []
    counts: dict[str, int] = {}
    last = ""
    while not select.select([sys.stdin], [], [], 0)[0]:
        state = connection.state()
        if state != last:
            began.append((time.monotonic_ns(), state))
            last = state
            tell(state)
        counts[state] = counts.get(state, 0) + 1
        time.sleep(GAP)
    return {"seen": began, "counts": counts, "connections": connection.opened}


def until(connection: Connection, state: str, seconds: float) -> int | None:
    """Ask until a state is seen; return when, or None if it takes too long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if connection.state() == state:
            return time.monotonic_ns()
        time.sleep(GAP)
    return None


def main() -> None:
    """Answer `ask` (one request), and `start` at once; what was seen since is the answer of `stop`."""
    given = arguments()
    connection = Connection((given["address"], given["port"]), tls_context(given.get("tls")), given.get("path", "/"))
    result: dict[str, Any] = {}
    notice = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def tell(state: str) -> None:
        notice.sendto(state.encode(), ("127.0.0.1", given["notify"]))

    for request in requests_one_by_one():
        match request["do"]:
            case "ask":
                answer(state=connection.state())
            case "start":
                answer()
                result = watch(connection, tell if given.get("notify") else lambda _state: None)
            case "stop":
                answer(**result)
            case "opened":
                answer(connections=connection.opened)
            case "reconnect":
                connection.close()
                answer()
            case "until":
                answer(seen=until(connection, request["state"], request["seconds"]))


def requests_one_by_one() -> Iterator[dict[str, Any]]:
    """Yield requests without reading ahead: `watch` must see an unread line as readable."""
    while True:
        line = b""
        while not line.endswith(b"\n"):
            byte = os.read(0, 1)
            if not byte:
                return
            line += byte
        yield json.loads(line)


if __name__ == "__main__":
    main()
