"""The reflector: keeps one store equal to what the API server has, whatever happens in between.

It lists (by a streaming list where the server has it, else in pages), then watches from there. Every way in which a
watch can go wrong ends in one of two answers: resume at the last resource version, or, when that may have lost
something, list anew and compare. kubernetes.md, section 1.2, has the rules; the model test in `tests/unit/cluster`
holds this module to "store == server once all is quiet, and each deletion delivered once".
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from smi_adapter.cluster.client import ApiError, LineTooLong, Resource, Unreachable
from smi_adapter.cluster.projection import Event, Item, NotJSONError, Page, Projection
from smi_adapter.cluster.reach import PAUSE, Backoff, Reach, Requests, Sleep
from smi_adapter.cluster.store import Changes, Store
from smi_adapter.smi.objects import Key

_log = logging.getLogger(__name__)

PAGE = 500
"""Objects of one page of a list."""
BIG_PAGE = 8 * 1024 * 1024
"""Bytes of a page after which the next one is asked for with half as many objects."""
SILENCE = 75.0
"""Seconds after which a silent watch is dead; bookmarks come each minute."""
HALT = 2.0
"""Seconds for which a streaming list may pause before pages are asked for instead."""
LIST_TIMEOUT = 60.0
"""Seconds for one page."""
_INLINE = 128 * 1024
_RESTARTS = 3
_LASTED = 5.0
_REFUSED = frozenset({400, 405, 406, 415, 422, 501})
T = TypeVar("T")


class Transport(Requests, Protocol):
    """What a reflector needs of the client."""

    def watch(
        self, path: str, query: Mapping[str, str], silence: float = ..., opened: Callable[[], None] = ...
    ) -> AsyncGenerator[bytes, None]:
        """Yield the lines of a watch."""
        ...


class GoneError(Exception):
    """The stream can't be continued from what we hold: list anew."""


class Reflector:
    """One stream: a kind, in all namespaces or in one."""

    def __init__(  # noqa: PLR0913 - a stream is these things
        self,
        transport: Transport,
        resource: Resource,
        reach: Reach,
        changed: Callable[[Reflector, Changes], None],
        *,
        namespace: str = "",
        selector: str = "",
        silence: float = SILENCE,
        sleep: Sleep = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        store: Store | None = None,
    ) -> None:
        self.resource = resource
        self.namespace = namespace
        self.store = store or Store(identified=resource.kind not in {"Pod", "EndpointSlice", "ServiceAccount"})
        self.projection = Projection(resource)
        self.synced = asyncio.Event()
        self.lists = 0
        """How often everything was listed."""
        self.streams = 0
        """How often a watch was begun."""
        self.trouble: Exception | None = None
        """Why the last attempt failed; None while a stream is open."""
        self.seen = clock()
        """When the server last gave a sign of life on this stream."""
        self.last_event: float | None = None
        """When the last change came."""
        self._transport = transport
        self._reach = reach
        self._changed = changed
        self._selector = {"labelSelector": selector} if selector else {}
        self._silence = silence
        self._sleep = sleep
        self._clock = clock
        self._version = ""
        self._backoff = Backoff()
        self._may_stream = True
        self._stream_next = True
        self._streaming = False
        self._limit = PAGE
        self._mute = 0

    def age(self) -> float:
        """Return for how many seconds the store may have been behind the server: 0 while a stream is open."""
        return 0.0 if self.trouble is None and self.synced.is_set() else self._clock() - self.seen

    def __str__(self) -> str:
        """Return what is followed, for logs."""
        return f"{self.resource.plural}{f' in {self.namespace}' if self.namespace else ''}"

    async def run(self) -> None:
        """Follow the server for ever; return only if it says that it has no such kind (404)."""
        while True:
            await self._reach.wait()
            wait = PAUSE
            try:
                await self._follow()
            except ApiError as error:
                self.trouble = error
                if error.status == 404:
                    return
                wait = self._backoff.failed(error.retry_after)
            except Unreachable as error:
                self.trouble = error
                if await self._reach.lost():
                    self._backoff.succeeded()  # an outage is no failure of this kind, however often it comes
                else:
                    wait = self._again() if error.streaming else self._backoff.failed()
            except (GoneError, NotJSONError) as error:
                self.trouble, self._version = error, ""
                wait = self._again()
            else:
                wait = self._again()
            _log.info("%s: %s; again in %.1f s", self, self.trouble or "the stream ended", wait)
            await self._sleep(wait)

    def _again(self) -> float:
        """Return how long to wait after a stream that had begun: hardly, unless that keeps happening."""
        if self._backoff.failures:
            return self._backoff.failed()
        self._backoff.failures = 1
        return PAUSE

    async def _follow(self) -> None:
        """List if need be, then take events until the stream ends.

        Only the first list is a streaming one: after a restart of the API server its caches may need many seconds, and
        whoever lost the thread has to know within five what was deleted (F6). Pages come from the storage itself.
        """
        first = not self._version and not self.synced.is_set()
        self._streaming = first and self._may_stream and self._stream_next
        if not self._version and not self._streaming:
            await self._list()
        stream = _Stream({} if self._streaming else None)
        self.streams += 1
        try:
            await self._watch(stream)
        except TimeoutError as error:
            raise GoneError(f"the streaming list said nothing for {HALT:.0f} s") from error
        except LineTooLong as error:
            raise GoneError(str(error)) from error
        except Unreachable:
            stream.broken = True
            raise
        except ApiError as error:
            if stream.listing is not None and error.status in _REFUSED:
                self._may_stream = False
                raise GoneError(f"no streaming list: {error}") from error
            if error.status == 410:
                raise GoneError(str(error)) from error
            raise
        finally:
            self._ended(stream)
        if stream.listing is not None:
            raise GoneError("the streaming list ended early")

    async def _watch(self, stream: _Stream) -> None:
        """Take events until the stream ends; a streaming list that comes to a halt is given up soon."""
        path, query = self.resource.path(self.namespace), self._query()
        async with asyncio.timeout(None) as limit:

            def opened() -> None:
                stream.opened = self.seen = self._clock()
                self._bound(limit, stream)
                if self._version:
                    self.trouble = None

            async with contextlib.aclosing(self._transport.watch(path, query, self._silence, opened)) as lines:
                async for line in lines:
                    event = await self._off_loop(self.projection.event, line)
                    self.seen = self._clock()
                    self._take(event, stream)
                    self._backoff.succeeded()
                    self._bound(limit, stream)

    @staticmethod
    def _bound(limit: asyncio.Timeout, stream: _Stream) -> None:
        """Give a streaming list some time for its next event; a watch is bounded by its silence alone.

        A server that has just started may let a streaming list wait for its cache; pages come from its storage.
        """
        if stream.listing is not None:
            limit.reschedule(asyncio.get_running_loop().time() + HALT)
        elif limit.when() is not None:
            limit.reschedule(None)

    def _ended(self, stream: _Stream) -> None:
        """Decide how to go on: by pages if a streaming list failed; by a list if the stream said nothing at all.

        A server that can't resume may say so by a bare end of the stream (kubernetes/kubernetes#104171). One that
        breaks is no such answer, unless it does so again: a server that was killed and is back says itself whether it
        can resume. A list that comes before its cache has begun may be too old for a watch, and made a second time.
        """
        self._stream_next = stream.listing is None
        if stream.listing is None and stream.opened is not None:
            if self._clock() - stream.opened > _LASTED:
                self._backoff.succeeded()
            self._mute = 0 if stream.lines else self._mute + 1
            if self._mute > stream.broken:
                self._version, self._mute = "", 0

    def _query(self) -> dict[str, str]:
        seconds = random.randint(300, 600)  # noqa: S311 - so that not all streams end in one moment
        query = {"watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": str(seconds), **self._selector}
        if self._streaming:
            return query | {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        return query | {"resourceVersion": self._version}

    def _take(self, event: Event, stream: _Stream) -> None:
        """Take one event; those of a streaming list are collected until the bookmark that completes it."""
        stream.lines += 1
        if event.type == "ERROR":
            raise ApiError(event.status or 500, event.reason, event.message, event.retry_after)
        if stream.listing is not None:
            if event.item is not None:
                key = (event.item.namespace, event.item.name)
                stream.listing.pop(key, None)
                if event.type != "DELETED":
                    stream.listing[key] = event.item
            elif event.complete:
                self._listed(stream.listing.values(), event.version)
                stream.listing = None
            else:
                self._may_stream = False
                raise GoneError("the server knows no streaming list")
            return
        if event.item is not None and not self._repeated(event, event.item):
            key = (event.item.namespace, event.item.name)
            self._tell(self.store.remove(key) if event.type == "DELETED" else self.store.put(event.item))
        self._version = _later(event.version, self._version)

    def _repeated(self, event: Event, item: Item) -> bool:
        """Tell whether we know an event already; one that comes too late and tells something new breaks the stream."""
        now, last = _number(event.version), _number(self._version)
        if now is None or last is None or now > last:
            return False
        known = self.store.get((item.namespace, item.name))
        if known is None and event.type == "DELETED":
            return True
        version = _number(known.version) if known is not None else None
        if version is not None and (version > now or (version == now and event.type != "DELETED")):
            return True
        raise GoneError(f"events out of order: {event.version} after {self._version}")

    async def _list(self) -> None:
        """List in pages; a list that expires between two pages begins again, at last in one page."""
        for attempt in range(_RESTARTS + 1):
            items: list[Item] = []
            token = ""
            try:
                while True:
                    page = await self._page(token, 0 if attempt == _RESTARTS else self._limit)
                    items += page.items
                    token = page.token
                    if not token:
                        self._listed(items, page.version)
                        self.trouble = None
                        return
            except ApiError as error:
                if error.status != 410 or not token:
                    raise
            await self._sleep(PAUSE)
        raise GoneError("the list expires before it is complete")

    async def _page(self, token: str, limit: int) -> Page:
        query = {**self._selector}
        if limit:
            query["limit"] = str(limit)
        if token:
            query["continue"] = token
        path = self.resource.path(self.namespace)
        content = await self._transport.request("GET", path, query=query, timeout=LIST_TIMEOUT)
        if len(content) > BIG_PAGE:
            self._limit = max(1, self._limit // 2)
        self.seen = self._clock()
        return await self._off_loop(self.projection.page, content)

    def _listed(self, items: Iterable[Item], version: str) -> None:
        self.lists += 1
        self._mute = 0
        self._version = version
        self.trouble = None
        changes = self.store.replace(items)
        self.synced.set()
        self._tell(changes)
        if not changes:  # an empty list too may be the one that the first build waits for
            self._changed(self, {})

    def _tell(self, changes: Changes) -> None:
        if changes:
            self.last_event = self._clock()
            self._changed(self, changes)

    async def _off_loop(self, read: Callable[[bytes], T], content: bytes) -> T:
        """Parse; what is big is parsed in a thread, so that nobody waits for it."""
        return read(content) if len(content) <= _INLINE else await asyncio.to_thread(read, content)


@dataclass(slots=True)
class _Stream:
    """One watch: what a streaming list has collected so far (None: it is complete), and how many lines came."""

    listing: dict[Key, Item] | None
    lines: int = 0
    opened: float | None = None
    broken: bool = False


def _number(version: str) -> int | None:
    """Return a resource version as a number; of other forms we can't tell which is later."""
    return int(version) if version.isdecimal() and len(version) < 20 else None


def _later(one: str, other: str) -> str:
    """Return the later of two resource versions; an event that comes twice must not set us back."""
    first, second = _number(one), _number(other)
    return other if first is not None and second is not None and first < second else one
