"""How many new streams a second are let in (security.md, section 11): a restart must not drown those who stayed.

And how many of one address may be on their way in: nobody may fill the queue alone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator

import grpc

from smi_adapter.delivery.xds.door import RefusedError


class Admission:
    """A rate with a burst of one second; beyond it streams wait their turn, and beyond `longest_wait` are refused."""

    def __init__(self, per_second: float, longest_wait: float) -> None:
        self._interval = 1.0 / per_second
        self._burst = 1.0
        self._longest_wait = longest_wait
        self._next = 0.0
        self._waiting = 0
        self._queue = asyncio.Lock()

    async def admit(self) -> bool:
        """Wait for a turn; False if the queue is too long. Who goes away while it waits has used none."""
        ahead = self._turn() + self._waiting * self._interval
        if ahead - self._burst - _now() > self._longest_wait:
            return False
        self._waiting += 1
        try:
            async with self._queue:
                turn = self._turn()
                if (wait := turn - self._burst - _now()) > 0:
                    await asyncio.sleep(wait)
                self._next = turn + self._interval
        finally:
            self._waiting -= 1
        return True

    def _turn(self) -> float:
        return max(self._next, _now())


def _now() -> float:
    return asyncio.get_running_loop().time()


@contextlib.contextmanager
def counted(waiting: Counter[str], address: str, most: float) -> Iterator[None]:
    """Count one more of an address until the block ends; RefusedError if there are enough without it."""
    if waiting[address] >= most:
        raise RefusedError(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many new streams of one address")
    waiting[address] += 1
    try:
        yield
    finally:
        waiting[address] -= 1
        if not waiting[address]:
            del waiting[address]
