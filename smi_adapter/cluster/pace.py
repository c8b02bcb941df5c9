"""How fast to write to an API server that may be slow, overloaded or gone: as fast as it answers, and no retry storm.

There is no budget of requests a second: a healthy server limits us by its own priority and fairness. When it says 429,
an error or nothing, every worker of one writer waits together, for `Retry-After` or a jittered time that doubles.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, TypeVar

import msgspec

from smi_adapter.cluster.client import ApiError, Unreachable
from smi_adapter.cluster.projection import pruned

T = TypeVar("T")

FIRST: Final = 0.5
LONGEST: Final = 30.0

_DEEPEST: Final = 12
"""Levels of an answer that writers read: those of a status, in an object, in a list."""
_TRANSIENT: Final = frozenset({408, 429, 500, 502, 503, 504})


class Api(Protocol):
    """The part of `Client` that writers use."""

    async def request(  # noqa: PLR0913 - as in Client
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] = ...,
        body: object | None = None,
        content_type: str = ...,
        timeout: float = ...,  # noqa: ASYNC109
        accept: str = ...,
    ) -> bytes:
        """Send one request; `ApiError` or `Unreachable`."""
        ...


class Asking(Api, Protocol):
    """The same for who reads single objects of our own namespace, or none of any."""

    namespace: str

    async def get(self, path: str, **query: str) -> Any:
        """Read one JSON document."""
        ...


def read(answer: bytes, kind: type[T]) -> T:
    """Decode an answer; one that was cut off, or is not from an API server, is as good as none."""
    try:
        try:
            return msgspec.json.decode(answer, type=kind)
        except RecursionError:  # what users write may be that deep; what we read of it is not
            return msgspec.json.decode(pruned(answer, _DEEPEST), type=kind)
    except msgspec.DecodeError as error:
        raise Unreachable(f"the answer cannot be read: {error}") from error


def passes(error: ApiError | Unreachable) -> bool:
    """Tell whether the same request may work later."""
    return isinstance(error, Unreachable) or error.status in _TRANSIENT


class Pace:
    """The common pause of all workers of one writer."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until = 0.0
        self._next = FIRST

    async def ready(self) -> None:
        """Wait until the next request may go."""
        while (wait := self._until - self._clock()) > 0:  # noqa: ASYNC110 - another failure may prolong it
            await asyncio.sleep(wait)

    def worked(self) -> None:
        """Note that the server answers."""
        self._next = FIRST

    def failed(self, error: ApiError | Unreachable) -> None:
        """Note a failure that may pass; failures of one moment count once."""
        now = self._clock()
        if self._until > now:
            return
        asked = error.retry_after if isinstance(error, ApiError) else None
        wait = min(asked, LONGEST) if asked is not None else self._next * random.uniform(0.5, 1.0)  # noqa: S311
        self._until = now + wait
        self._next = min(LONGEST, self._next * 2)
