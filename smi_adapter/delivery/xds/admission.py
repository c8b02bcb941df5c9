"""How many new streams a second are let in (security.md, section 11): a restart must not drown those who stayed."""

from __future__ import annotations

import asyncio


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
