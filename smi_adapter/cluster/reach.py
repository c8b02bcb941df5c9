"""Whether the API server answers at all, and how long to wait before the next attempt.

When the API is down, one probe asks for all streams (faults.md F1), so that a controller with a dozen kinds knocks
once, not twelve times. A stream that fails beside a healthy API has a back-off of its own, with a longer cap.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from smi_adapter.cluster.client import ApiError, Unreachable

_log = logging.getLogger(__name__)

PAUSE = 0.1
"""Seconds at least between two attempts of one stream."""
FIRST, LONGEST = 0.5, 30.0
"""Seconds of the first back-off of a stream, and of its longest."""
PROBE_LONGEST = 4.0
"""Seconds between two probes of an API that is down, at most: we are to be ready 5 s after it is back."""

Sleep = Callable[[float], Awaitable[None]]


class Requests(Protocol):
    """The part of the client that asks once."""

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] = ...,
        timeout: float = ...,  # noqa: ASYNC109 - the HTTP library's own
    ) -> bytes:
        """Send one request and return the body of the answer."""
        ...


class Backoff:
    """Grows with each failure, jittered; `Retry-After` is the least."""

    def __init__(self, longest: float = LONGEST, pick: Callable[[float, float], float] = random.uniform) -> None:
        self._longest = longest
        self._pick = pick
        self.failures = 0

    def succeeded(self) -> None:
        """Begin anew."""
        self.failures = 0

    def failed(self, least: float | None = None) -> float:
        """Return how long to wait after one more failure."""
        most = min(self._longest, FIRST * 2 ** min(self.failures, 10))
        self.failures += 1
        return max(PAUSE, self._pick(most / 2, most), min(least or 0.0, 10 * self._longest))


class Reach:
    """A gate that closes while the API server does not answer."""

    def __init__(self, client: Requests, sleep: Sleep = asyncio.sleep) -> None:
        self._client = client
        self._sleep = sleep
        self._open = asyncio.Event()
        self._open.set()
        self._probe: asyncio.Task[None] | None = None
        self._was_down = False
        self.probes = 0

    @property
    def up(self) -> bool:
        """Tell whether the API server answered when it was last asked."""
        return self._open.is_set()

    async def wait(self) -> None:
        """Wait until the API server answers; jittered afterwards, so that not all streams begin in one moment.

        A mistake of ours in the probe comes out here: else whoever waits would wait for ever (F42).
        """
        if not self._open.is_set():
            await self._open.wait()
            if self._probe is not None and self._probe.done():
                self._probe.result()
            await self._sleep(random.uniform(0, 0.2))  # noqa: S311 - no secret

    async def lost(self) -> bool:
        """Take note of a lost connection, and return when the API answers; True: it was really down."""
        if self._open.is_set():
            self._open.clear()
            self._was_down = False
            self._probe = asyncio.create_task(self._knock())
            self._probe.add_done_callback(lambda _probe: self._open.set())
        await self.wait()
        return self._was_down

    async def close(self) -> None:
        """End the probe."""
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.wait([self._probe])

    async def _knock(self) -> None:
        backoff = Backoff(PROBE_LONGEST)
        while True:
            self.probes += 1
            try:
                await self._client.request("GET", "/readyz", timeout=5.0)
            except Unreachable as error:
                _log.log(
                    logging.INFO if backoff.failures else logging.WARNING, "no answer from the API server: %s", error
                )
            except ApiError as error:
                if error.status < 500 and error.status != 429:
                    break  # it may not tell us how it is, but it answers
                _log.log(
                    logging.INFO if backoff.failures else logging.WARNING, "the API server is not ready: %s", error
                )
            else:
                break
            self._was_down = True
            await self._sleep(backoff.failed())
