"""A grace for objects that go because their CRD goes, not because somebody deleted them.

Whoever deletes a CRD by mistake (an uninstalled chart, say) deletes every TrafficSplit with it, one event each. Access
has to go at once; to send all traffic to the roots in the same second helps nobody. So the deletion of a split is
believed at once if its kind lasts, which costs one request, and after a grace if the CRD is on its way out (F20).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable

from smi_adapter.cluster import discovery
from smi_adapter.cluster.client import ApiError, Resource, Unreachable
from smi_adapter.cluster.reach import Requests
from smi_adapter.findings import Ref

_log = logging.getLogger(__name__)

GRACE = 30.0
"""Seconds for which a split outlives its CRD."""


class Grace:
    """Holds back deletions; `believed` is called with those that are to be delivered."""

    def __init__(self, client: Requests, believed: Callable[[Iterable[Ref]], None], seconds: float = GRACE) -> None:
        self._client = client
        self._believed = believed
        self._seconds = seconds
        self._asked: dict[Ref, Resource] = {}
        self._held: dict[Ref, float] = {}
        self._wake = asyncio.Event()

    def deleted(self, ref: Ref, resource: Resource) -> None:
        """Take a deletion that came as an event."""
        self._asked[ref] = resource
        self._wake.set()

    def vanished(self, refs: Iterable[Ref]) -> None:
        """Take objects whose kind is not served any more."""
        until = time.monotonic() + self._seconds
        for ref in refs:
            self._held.setdefault(ref, until)
        self._wake.set()

    def returned(self, ref: Ref) -> None:
        """Take note that an object is there (again)."""
        self._asked.pop(ref, None)
        self._held.pop(ref, None)

    async def run(self) -> None:
        """Ask and wait for ever."""
        while True:
            until = min(self._held.values(), default=None)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if until is None else max(0.0, until - time.monotonic())):
                    await self._wake.wait()
            self._wake.clear()
            await self._ask()
            now = time.monotonic()
            due = [ref for ref, at in self._held.items() if at <= now]
            for ref in due:
                del self._held[ref]
            if due:
                self._believed(due)

    async def _ask(self) -> None:
        for resource in set(self._asked.values()):
            refs = [ref for ref, of in self._asked.items() if of == resource]
            try:
                lasts = await discovery.lasts(self._client, resource)
            except (ApiError, Unreachable):
                lasts = True
            refs = [ref for ref in refs if self._asked.pop(ref, None) is not None]  # one may have returned meanwhile
            if lasts:
                self._believed(refs)
            else:
                _log.warning(
                    "the CRD of %s goes; its objects stay in effect for %.0f s", resource.plural, self._seconds
                )
                self.vanished(refs)
