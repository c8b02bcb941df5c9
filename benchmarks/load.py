"""Load: a process that asks one address over several kept connections at once and counts what is not a 200.

It works as a client that does not retry would: a refused connection, a reset and every status but 200 are failures.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import cast

from benchmarks.channel import Message, arguments, serve

_REQUEST = b"GET / HTTP/1.1\r\nhost: load\r\n\r\n"
_REFUSED_PAUSE = 0.01


class _Client(asyncio.Protocol):
    """One kept connection that asks again a short gap after each answer, while `counts` is being filled."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._buffer = b""
        self._waiting = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask the first time."""
        self._transport = cast("asyncio.Transport", transport)
        self._ask()

    def data_received(self, data: bytes) -> None:
        """Count a whole answer and ask again."""
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        lower = head.lower()
        _, found, rest = lower.partition(b"\r\ncontent-length: ")
        if found and len(body) < int(rest.split(b"\r\n", 1)[0]):
            return
        self._buffer = b""
        self._waiting = False
        self._load.counts[head[9:12].decode()] += 1
        if b"\r\nconnection: close" in lower:
            self._transport.close()
        else:
            asyncio.get_running_loop().call_later(self._load.gap, self._ask)

    def connection_lost(self, _error: Exception | None) -> None:
        """Count a request that lost its connection, and connect again."""
        if self._waiting:
            self._load.counts["broken"] += 1
        self._load.reconnect()

    def _ask(self) -> None:
        if self._load.running and not self._transport.is_closing():
            self._waiting = True
            self._transport.write(_REQUEST)
        elif not self._load.running:
            self._transport.close()


class Load:
    """The connections and what they saw."""

    def __init__(self, address: str, port: int, connections: int, gap: float) -> None:
        self._where = (address, port)
        self._connections = connections
        self.gap = gap
        self.running = False
        self.counts: Counter[str] = Counter()
        self._began = 0.0
        self._connecting: set[asyncio.Task[None]] = set()

    async def start(self) -> Message:
        """Begin to ask."""
        self.counts.clear()
        self.running = True
        self._began = time.monotonic()
        for _ in range(self._connections):
            self.reconnect()
        return {}

    async def stop(self) -> Message:
        """Stop, wait for the last answers and return the counts."""
        self.running = False
        seconds = time.monotonic() - self._began
        await asyncio.sleep(0.3)
        total, good = sum(self.counts.values()), self.counts["200"]
        return {"counts": dict(self.counts), "total": total, "failed": total - good, "seconds": seconds}

    def reconnect(self) -> None:
        """Open one connection more, if still running."""
        if self.running:
            task = asyncio.get_running_loop().create_task(self._connect())
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect(self) -> None:
        while self.running:
            try:
                await asyncio.get_running_loop().create_connection(lambda: _Client(self), *self._where)
            except OSError:
                self.counts["refused"] += 1
                await asyncio.sleep(_REFUSED_PAUSE)
            else:
                return


async def main() -> None:
    """Serve `start` and `stop` until the parent ends."""
    given = arguments()
    load = Load(given["address"], given["port"], given.get("connections", 8), given.get("gap", 0.002))
    await serve({"start": load.start, "stop": load.stop})


if __name__ == "__main__":
    asyncio.run(main())
