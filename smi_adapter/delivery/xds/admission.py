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

    async def admit(self) -> bool:
        """Wait for a turn; False if the queue is too long."""
        now = asyncio.get_running_loop().time()
        turn = max(self._next, now)
        wait = turn - now - self._burst
        if wait > self._longest_wait:
            return False
        self._next = turn + self._interval
        if wait > 0:
            await asyncio.sleep(wait)
        return True


class Waiting:
    """Streams that were not let in yet, by the address that they come from."""

    def __init__(self, most: float) -> None:
        self._most = most
        self._of: Counter[str] = Counter()

    @contextlib.contextmanager
    def one_of(self, address: str) -> Iterator[None]:
        """Count one of that address until the block ends; RefusedError if there are enough without it."""
        if self._of[address] >= self._most:
            raise RefusedError(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many new streams of one address")
        self._of[address] += 1
        try:
            yield
        finally:
            self._of[address] -= 1
            if not self._of[address]:
                del self._of[address]
