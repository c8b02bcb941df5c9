"""One candidate as a process: leads a Lease and writes a ConfigMap while it may. Started by test_lease.py.

It ends with code 3 when it loses the lease, and releases it on SIGTERM.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time

import msgspec

from smi_adapter.cluster import lease as lease_module
from smi_adapter.cluster.client import ApiError, Client, Unreachable
from smi_adapter.cluster.lease import Lease, LeaseLostError, Timing

LOST = 3
MERGE = "application/merge-patch+json"


async def write(client: Client, lease: Lease, path: str) -> None:
    """Write as fast as allowed; each write carries the resourceVersion of the one before."""
    await lease.acquired.wait()
    version = ""
    number = 0
    while True:
        await asyncio.sleep(0.02)
        left = lease.left()
        if left <= 0:
            continue
        try:
            if not version:
                version = (await client.get(path))["metadata"]["resourceVersion"]
            number += 1
            body = {"metadata": {"resourceVersion": version}, "data": {lease.holder: str(number)}}
            answer = await client.request("PATCH", path, body=body, content_type=MERGE, timeout=lease.left())
            version = msgspec.json.decode(answer)["metadata"]["resourceVersion"]
        except (ApiError, Unreachable):
            version = ""


async def main(kubeconfig: str, namespace: str, holder: str, timing: Timing, skew: float) -> int:
    """Run until SIGTERM or until the lease is lost."""
    if skew:
        vars(lease_module)["time"] = SkewedTime(skew)
    client = await Client.connect(kubeconfig)
    lease = Lease(client, namespace, "smi-adapter", holder, timing=timing, on_lost=lambda: os._exit(LOST))
    leading = asyncio.create_task(lease.run())
    writing = asyncio.create_task(write(client, lease, f"/api/v1/namespaces/{namespace}/configmaps/written"))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({leading, stopping}, return_when=asyncio.FIRST_COMPLETED)
    for task in (writing, leading):
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, LeaseLostError):
            await task
    await lease.release()
    await client.close()
    return 0


class SkewedTime:
    """The module `time`, on a machine whose clock is wrong."""

    def __init__(self, skew: float) -> None:
        self._skew = skew

    def time(self) -> float:
        """Return the wrong time."""
        return time.time() + self._skew

    def monotonic(self) -> float:
        """Return the right one: nobody can set this clock."""
        return time.monotonic()


if __name__ == "__main__":
    file, space, name, seconds, wrong = sys.argv[1:]
    duration, renew, retry = map(float, seconds.split("/"))
    sys.exit(asyncio.run(main(file, space, name, Timing(duration, renew, retry), float(wrong))))
