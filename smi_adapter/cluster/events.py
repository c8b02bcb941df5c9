"""The Event recorder: `events.k8s.io/v1`, each notice once, and nobody waits for it.

What is to be sent is decided in `report/events.py`; here it is only carried out. The queue is bounded: of too many
notices the oldest are dropped and counted. An Event's name says what it is about, so one that exists already, from
another replica or an earlier run, is not sent twice; when its finding comes back its series is patched.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from smi_adapter.cluster.client import ApiError, Resource, Unreachable
from smi_adapter.cluster.pace import Api, Pace, passes, read
from smi_adapter.report import Notice

_log = logging.getLogger(__name__)

EVENTS: Final = Resource("events.k8s.io", "v1", "events", "Event")
CONTROLLER: Final = "smi-adapter.io/controller"

_TRIES = 5


class EventRecorder:
    """Sends notices; only while `left()` says that there is time for it. `instance`: the pod's name."""

    def __init__(
        self, api: Api, instance: str, left: Callable[[], float], *, workers: int = 2, most: int = 10_000
    ) -> None:
        self.sent = 0
        self.dropped = 0
        self._api = api
        self._instance = instance[:128]
        self._left = left
        self._workers = workers
        self._most = most
        self._queue: deque[tuple[Notice, int]] = deque()
        self._news = asyncio.Event()
        self._pace = Pace()

    def offer(self, notice: Notice) -> None:
        """Take a notice; cheap."""
        if len(self._queue) >= self._most:
            self._queue.popleft()
            self.dropped += 1
        self._queue.append((notice, 0))
        self._news.set()

    @property
    def backlog(self) -> int:
        """Return how many notices wait."""
        return len(self._queue)

    async def run(self) -> None:
        """Send until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._workers):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            await self._pace.ready()
            if not self._queue:
                self._news.clear()
                await self._news.wait()
                continue
            if self._left() <= 0:
                await asyncio.sleep(1.0)
                continue
            notice, tries = self._queue.popleft()
            try:
                await self._send(notice)
                self.sent += 1
                self._pace.worked()
            except (ApiError, Unreachable) as error:
                self._failed(notice, tries, error)

    def _failed(self, notice: Notice, tries: int, error: ApiError | Unreachable) -> None:
        if passes(error) and tries < _TRIES:
            self._pace.failed(error)
            self._queue.append((notice, tries + 1))
            self._news.set()
            return
        self.dropped += 1
        level = logging.DEBUG if isinstance(error, ApiError) and error.status == 404 else logging.WARNING
        _log.log(level, "no Event for %s: %s", notice.ref, error)  # 404: its namespace is gone

    async def _send(self, notice: Notice) -> None:
        """Create the Event, or go on with the series of the one that is there."""
        if notice.count > 1 and await self._go_on(notice):
            return
        namespace = notice.ref.namespace or "default"
        try:
            await self._request("POST", EVENTS.path(namespace), body=self._event(notice, namespace))
        except ApiError as error:
            if error.status != 409:
                raise
            if notice.count > 1:
                await self._go_on(notice)

    async def _go_on(self, notice: Notice) -> bool:
        """Count one more in the series; False if the API has forgotten the Event."""
        path = EVENTS.path(notice.ref.namespace or "default", notice.name)
        try:
            there = read(await self._request("GET", path), _Event)
            count = max(there.series.count if there.series else 1, 1) + 1
            series = {"series": {"count": count, "lastObservedTime": _now()}}
            await self._request("PATCH", path, body=series, content_type="application/merge-patch+json")
        except ApiError as error:
            if error.status != 404:
                raise
            return False
        return True

    def _event(self, notice: Notice, namespace: str) -> dict[str, Any]:
        ref = notice.ref
        return {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"name": notice.name, "namespace": namespace},
            "eventTime": _now(),
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance,
            "action": "Translate",
            "reason": notice.reason[:128],
            "note": notice.note,
            "type": "Warning",
            "regarding": {
                "apiVersion": notice.api_version,
                "kind": ref.kind,
                "namespace": ref.namespace,
                "name": ref.name,
                "uid": notice.uid,
            },
        }

    async def _request(self, method: str, path: str, **more: Any) -> bytes:
        return await self._api.request(method, path, timeout=max(0.1, min(10.0, self._left())), **more)


class _Series(msgspec.Struct):
    count: int = 1


class _Event(msgspec.Struct):
    series: _Series | None = None


def _now() -> str:
    return datetime.fromtimestamp(time.time(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
