"""A scripted API server in the same process: one kind, lists, watches, and every way in which they go wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from smi_adapter.cluster.client import ApiError, Resource, Unreachable

SERVICES = Resource("", "v1", "services", "Service")
Key = tuple[str, str]


def service(namespace: str, name: str, port: int, version: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "namespace": namespace,
            "name": name,
            "resourceVersion": str(version),
            "uid": f"u-{namespace}-{name}",
            "managedFields": [{"manager": "kubectl"}],
        },
        "spec": {"ports": [{"port": port}], "sessionAffinity": "None"},
        "status": {"loadBalancer": {}},
    }


class Stream:
    """One watch that somebody holds."""

    def __init__(self, position: int) -> None:
        self.position = position
        self.end: str | None = None
        self.stalled = False
        self.wake = asyncio.Event()

    def finish(self, how: str) -> None:
        self.end = how
        self.wake.set()


class FakeApi:
    """Implements `reflector.Transport`."""

    def __init__(self, *, page: int | None = None, streaming: str = "refused") -> None:
        self.objects: dict[Key, dict[str, Any]] = {}
        self.log: list[tuple[int, str, dict[str, Any]]] = []
        self.version = 100
        self.compacted = 0
        self.gone_shape = "http"
        self.streaming = streaming
        self.down = False
        self.streams: list[Stream] = []
        self.requests: list[tuple[str, Mapping[str, str]]] = []
        self.watches: list[Mapping[str, str]] = []
        self.errors: list[Exception] = []
        """Raised by the next requests, one each."""
        self.page = page
        self.expire_next_page = False
        self.twice = False
        self.swap = False
        self._snapshots: dict[str, tuple[int, list[dict[str, Any]]]] = {}

    # ------------------------------------------------------------------------------------------------- what happens
    def _happens(self, kind: str, item: dict[str, Any]) -> None:
        self.log.append((self.version, kind, item))
        for stream in self.streams:
            stream.wake.set()

    def put(self, namespace: str, name: str, port: int) -> None:
        self.version += 1
        kind = "MODIFIED" if (namespace, name) in self.objects else "ADDED"
        self.objects[namespace, name] = service(namespace, name, port, self.version)
        self._happens(kind, self.objects[namespace, name])

    def delete(self, namespace: str, name: str) -> None:
        self.version += 1
        item = self.objects.pop((namespace, name))
        last = {**item, "metadata": {**item["metadata"], "resourceVersion": str(self.version)}}
        self._happens("DELETED", last)

    def bookmark(self) -> None:
        self._happens("BOOKMARK", {"kind": "Service", "metadata": {"resourceVersion": str(self.version)}})

    def compact(self) -> None:
        self.compacted = self.version
        self._snapshots.clear()

    def finish_streams(self, how: str) -> None:
        for stream in self.streams:
            stream.finish(how)

    # --------------------------------------------------------------------------------------------------- the answers
    async def request(
        self,
        method: str,  # noqa: ARG002
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        timeout: float = 10.0,  # noqa: ARG002, ASYNC109
    ) -> bytes:
        await asyncio.sleep(0)
        self.requests.append((path, query or {}))
        if self.down:
            raise Unreachable("refused")
        if path == "/readyz":
            return b"ok"
        if self.errors:
            raise self.errors.pop(0)
        return json.dumps(self._page(query or {})).encode()

    def _page(self, query: Mapping[str, str]) -> dict[str, Any]:
        token, limit = query.get("continue", ""), int(query.get("limit", "0"))
        if self.page and limit:
            limit = min(limit, self.page)
        if token:
            snapshot, _, offset_text = token.partition(":")
            if self.expire_next_page or snapshot not in self._snapshots:
                self.expire_next_page = False
                raise ApiError(410, "Expired", "the continue token is too old")
            version, items = self._snapshots[snapshot]
            offset = int(offset_text)
        else:
            version, items, offset = self.version, list(self.objects.values()), 0
            snapshot = str(version)
            self._snapshots[snapshot] = (version, items)
        end = offset + limit if limit else len(items)
        more = f"{snapshot}:{end}" if end < len(items) else ""
        return {
            "kind": "List",
            "metadata": {"resourceVersion": str(version), "continue": more},
            "items": items[offset:end],
        }

    async def watch(
        self,
        path: str,  # noqa: ARG002
        query: Mapping[str, str],
        silence: float = 75.0,  # noqa: ARG002
        opened: Callable[[], None] = lambda: None,
    ) -> AsyncGenerator[bytes, None]:
        await asyncio.sleep(0)
        self.watches.append(query)
        if self.down:
            raise Unreachable("refused")
        initial = query.get("sendInitialEvents") == "true"
        if initial and self.streaming == "refused":
            raise ApiError(422, "Invalid", "sendInitialEvents: Forbidden")
        start = self.version if initial else int(query["resourceVersion"])
        if start < self.compacted and self.gone_shape == "http":
            raise ApiError(410, "Expired", "too old resource version")
        opened()
        if start < self.compacted:
            if self.gone_shape == "event":
                status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
                yield _line("ERROR", status)
            return
        stream = Stream(len(self.log) if initial else sum(1 for version, _, _ in self.log if version <= start))
        self.streams.append(stream)
        try:
            if initial:
                for item in list(self.objects.values()):
                    yield _line("ADDED", item)
                if self.streaming == "halting":
                    await asyncio.sleep(3600)
                annotations = {} if self.streaming == "ignored" else {"k8s.io/initial-events-end": "true"}
                yield _line("BOOKMARK", {"metadata": {"resourceVersion": str(start), "annotations": annotations}})
            async for line in self._events(stream):
                yield line
        finally:
            self.streams.remove(stream)

    async def _events(self, stream: Stream) -> AsyncGenerator[bytes, None]:
        while True:
            if stream.end not in {None, "eof"}:
                raise Unreachable(str(stream.end), streaming=True)
            while not stream.stalled and stream.position < len(self.log):
                if self.swap and len(self.log) - stream.position >= 2:
                    self.swap = False
                    first, second = self.log[stream.position : stream.position + 2]
                    stream.position += 2
                    yield _line(*second[1:])
                    yield _line(*first[1:])
                    continue
                _, kind, item = self.log[stream.position]
                stream.position += 1
                yield _line(kind, item)
                if self.twice:
                    self.twice = False
                    yield _line(kind, item)
            if stream.end == "eof":
                return
            stream.wake.clear()
            await stream.wake.wait()


def _line(kind: str, item: Mapping[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": item}).encode()
