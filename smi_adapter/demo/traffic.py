"""What the bookstore's applications report, added up.

The numbers are what clients and servers really saw, not what a proxy or the controller believes. Each application
sends its totals by UDP on loopback; a restarted one begins at zero and is counted on top of what it was before.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

DENIED = 403
SOLD = 200


class Seen(NamedTuple):
    """One kind of request: who sent or served it, and what became of it."""

    side: str
    source: str
    service: str
    path: str
    version: str
    status: int


@dataclass(frozen=True, slots=True)
class Window:
    """The requests of a span of time."""

    counts: Counter[Seen]
    seconds: float

    def count(self, side: str = "sent", /, **wanted: str | int) -> int:
        """Return how many requests fit; fields of Seen that are not named may be anything."""
        return sum(
            number
            for seen, number in self.counts.items()
            if seen.side == side and all(getattr(seen, name) == value for name, value in wanted.items())
        )

    def failed(self) -> Counter[Seen]:
        """Return the requests that were neither served nor denied, as their senders saw them."""
        return Counter(
            {
                seen: number
                for seen, number in self.counts.items()
                if seen.side == "sent" and seen.status not in {SOLD, DENIED}
            }
        )


class Traffic(asyncio.DatagramProtocol):
    """Listens to the applications' reports."""

    def __init__(self) -> None:
        self._totals: dict[tuple[str, float], Counter[Seen]] = {}
        self._clock = asyncio.get_running_loop().time
        self._transport: asyncio.DatagramTransport | None = None
        self.address = ""

    async def start(self) -> None:
        """Listen on a free port of 127.0.0.1; `address` then says which."""
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: self, ("127.0.0.1", 0))
        self._transport = transport
        host, port = transport.get_extra_info("sockname")
        self.address = f"{host}:{port}"

    def stop(self) -> None:
        """Listen no more."""
        if self._transport is not None:
            self._transport.close()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Take one report; what is no report is dropped."""
        del addr
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
            report = json.loads(data)
            counts = Counter({Seen(*row[:-1]): int(row[-1]) for row in report["seen"]})
            self._totals[str(report["pod"]), float(report["started"])] = counts

    def mark(self) -> tuple[Counter[Seen], float]:
        """Return the totals of now and the time, the beginning of a window."""
        total: Counter[Seen] = Counter()
        for counts in self._totals.values():
            total.update(counts)
        return total, self._clock()

    def since(self, mark: tuple[Counter[Seen], float]) -> Window:
        """Return what was seen since a mark."""
        before, then = mark
        total, now = self.mark()
        return Window(total - before, now - then)
