"""A controller of a cluster in a process of its own, so that its start and its memory can be measured.

With `timer` it is a control: whatever the watch brings waits that long, and is merged with what else comes, before it
is handed on. That is how other controllers coalesce.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from benchmarks.channel import Message, arguments, serve
from benchmarks.memory import resident
from smi_adapter.cluster import client as client_module
from smi_adapter.cluster.client import Client
from smi_adapter.cluster.source import ClusterSource
from smi_adapter.controller import Controller
from smi_adapter.decode import RawObject
from smi_adapter.findings import Ref
from smi_adapter.settings import judged


class _Timed(ClusterSource):
    """The source behind a trailing timer."""

    timer = 0.0

    async def __aiter__(self) -> AsyncIterator[dict[Ref, RawObject | None]]:
        """Yield each batch with all that comes within the timer's time."""
        first = True
        source = super().__aiter__()
        following = asyncio.ensure_future(anext(source))
        while True:
            batch = dict(await following)
            following = asyncio.ensure_future(anext(source))
            until = time.monotonic() + (0 if first else self.timer)
            first = False
            while (wait := until - time.monotonic()) > 0:
                done, _ = await asyncio.wait({following}, timeout=wait)
                if done:
                    batch |= await following
                    following = asyncio.ensure_future(anext(source))
            yield batch


async def main() -> None:
    """Start the controller; answer `ready` (how long that took) and `memory`."""
    given = arguments()
    began = time.monotonic()
    imported = resident()
    settings = judged(given["settings"])
    if given.get("account"):  # as in a pod
        client_module.SERVICE_ACCOUNT = Path(given["account"])
    client = await Client.connect(given.get("kubeconfig"))
    source: ClusterSource = ClusterSource(client)
    if given.get("timer"):
        source = _Timed(client)
        source.timer = given["timer"]
    controller = Controller(settings, client, source)

    async def ready(seconds: float) -> Message:
        while not controller.health().ready:
            if time.monotonic() - began > seconds:
                raise TimeoutError(f"not ready: {controller.health().why}")
            await asyncio.sleep(0.01)
        return {"seconds": time.monotonic() - began}

    async def memory() -> Message:
        return {"bytes": resident(), "imported": imported, "findings": len(controller.findings())}

    async def bundle() -> Message:
        return {"pem": controller.bundle.decode()}

    async def connected(proxies: int, seconds: float) -> Message:
        return {"settled": await controller.server.settled(seconds, proxies)}

    handlers: dict[str, Any] = {"ready": ready, "memory": memory, "bundle": bundle, "connected": connected}
    async with controller.running():
        await serve(handlers)


if __name__ == "__main__":
    asyncio.run(main())
