"""The cluster source: the Kubernetes API as a stream of batches of changed objects.

Flow: `discovery` says which SMI kinds there are, one `reflector` for each kind keeps a `store`, and what changed in any
of them leaves as one batch; whatever comes while the rest of the program works is one batch again. The first batch is
everything, once each served kind was listed: nothing may be configured from half a world. Kinds come and go while we
run. When one goes with its CRD, its grants go at once and its splits after a grace (`grace`).

One process may hold several sources; nothing here is global.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

from smi_adapter.cluster import discovery
from smi_adapter.cluster.client import ApiError, Resource, Unreachable
from smi_adapter.cluster.discovery import Kind, Served, Survey
from smi_adapter.cluster.grace import GRACE, Grace
from smi_adapter.cluster.namespaces import NamespacePoll
from smi_adapter.cluster.projection import Kept, status_of
from smi_adapter.cluster.reach import Backoff, Reach
from smi_adapter.cluster.reflector import SILENCE, Reflector, Transport
from smi_adapter.cluster.store import Changes
from smi_adapter.decode import RawObject
from smi_adapter.findings import Finding, Ref, finding
from smi_adapter.smi.objects import SPLIT_GROUP
from smi_adapter.sources import Batch, Location

_log = logging.getLogger(__name__)

LOOK = 15.0
"""Seconds between two looks at what is served."""
STALE = 120.0
"""Seconds without a word from the API after which that is a finding."""
_PACE = 1.0

NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
CORE: tuple[Resource, ...] = (
    NAMESPACES,
    Resource("", "v1", "services", "Service"),
    Resource("", "v1", "pods", "Pod"),
    Resource("", "v1", "serviceaccounts", "ServiceAccount"),
    Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice"),
)
"""What is always there; the SMI kinds come from discovery."""
_LASTING = frozenset({(SPLIT_GROUP, "TrafficSplit")})
"""Kinds whose objects have a grace when their CRD goes: traffic, never access."""

Stream: TypeAlias = Reflector | NamespacePoll
_Place: TypeAlias = tuple[str, str, str]


class _Manifests(Mapping[Ref, RawObject | None]):
    """A batch. Manifests are made when they are looked at: those of a first sync would be a peak that stays."""

    def __init__(self, found: Mapping[Ref, tuple[Stream, Kept] | None]) -> None:
        self._found = found

    def __getitem__(self, ref: Ref) -> RawObject | None:
        found = self._found[ref]
        return found and found[0].projection.raw(found[1])

    def __iter__(self) -> Iterator[Ref]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


class ClusterSource:
    """Follows one API server; implements `sources.Source`.

    `namespaces`: watch these only, with rights in these only (namespaced mode). `selector`: watch the namespaces that
    have these labels; the others are no part of the mesh.
    """

    def __init__(
        self,
        client: Transport,
        *,
        namespaces: Sequence[str] = (),
        selector: str = "",
        silence: float = SILENCE,
        grace: float = GRACE,
    ) -> None:
        self._client = client
        self._namespaces = tuple(dict.fromkeys(namespaces))
        self._selector = "" if self._namespaces else selector
        self._silence = silence
        self._reach = Reach(client)
        self._grace = Grace(client, self._withdraw, grace)
        self._streams: dict[_Place, Stream] = {}
        self._tasks: dict[_Place, asyncio.Task[None]] = {}
        self._survey: Survey | None = None
        self._pending: dict[Ref, tuple[Stream, Kept] | None] = {}
        self._selected: set[str] | None = set() if self._selector else None
        self._wake = asyncio.Event()
        self._ask = asyncio.Event()

    # ------------------------------------------------------------------------------------------------- what is seen
    @property
    def synced(self) -> bool:
        """Tell whether every served kind was listed once."""
        return self._survey is not None and all(stream.synced.is_set() for stream in self._streams.values())

    @property
    def served(self) -> Mapping[Kind, Served]:
        """Return the SMI kinds that the API server has, by group and kind."""
        return self._survey.kinds if self._survey else MappingProxyType({})

    @property
    def reachable(self) -> bool:
        """Tell whether the API server answered when it was last asked."""
        return self._reach.up

    @property
    def restarts(self) -> int:
        """Return how often a list had to be made again, over all streams."""
        return sum(max(0, stream.lists - 1) for stream in self._streams.values() if isinstance(stream, Reflector))

    def cache_age(self) -> float:
        """Return for how many seconds what we serve may have been behind the API, by its oldest stream; 0: current."""
        return max((stream.age() for stream in self._streams.values()), default=0.0)

    def last_event_age(self, kind: str) -> float | None:
        """Return how long ago the last change of a kind came; None: never."""
        times = [stream.last_event for stream in self._of(kind) if stream.last_event is not None]
        return time.monotonic() - max(times) if times else None

    def event_ages(self) -> Mapping[str, float]:
        """Return how long ago the server gave a sign of life for each kind: a list, an event or a bookmark."""
        now = time.monotonic()
        ages: dict[str, float] = {}
        for stream in self._streams.values():
            kind = stream.resource.kind
            ages[kind] = max(ages.get(kind, 0.0), now - stream.seen)
        return ages

    def relists(self) -> Mapping[tuple[str, str], int]:
        """Return how often each kind had to be listed again, by (kind, `list`)."""
        counts: dict[tuple[str, str], int] = {}
        for stream in self._streams.values():
            if isinstance(stream, Reflector):
                place = (stream.resource.kind, "list")
                counts[place] = counts.get(place, 0) + max(0, stream.lists - 1)
        return counts

    def counts(self) -> Mapping[str, int]:
        """Return how many objects of each kind are held."""
        counts: dict[str, int] = {}
        for stream in self._streams.values():
            counts[stream.resource.kind] = counts.get(stream.resource.kind, 0) + len(stream.store)
        return counts

    def state(self) -> Mapping[str, str]:
        """Return for each stream what it is doing, in words, for logs and bug reports."""
        return {
            str(stream): f"{stream.trouble}"
            if stream.trouble
            else ("in step" if stream.synced.is_set() else "not listed yet")
            for stream in self._streams.values()
        }

    def manifest(self, ref: Ref) -> dict[str, Any] | None:
        """Return an object as we know it, with `uid`, `resourceVersion` and (SMI kinds) `status`; None: not there."""
        for stream in self._of(ref.kind):
            entry = stream.store.get((ref.namespace, ref.name)) if stream.resource.group == ref.group else None
            if entry is not None:
                raw = stream.projection.raw(entry.value)
                raw["metadata"] = {**raw["metadata"], "uid": entry.uid, "resourceVersion": entry.version}
                status = status_of(entry.status)
                return raw if status is None else {**raw, "status": status}
        return None

    def findings(self) -> tuple[Finding, ...]:
        """Return what is to be said about the CRDs, and about streams that fail."""
        told = list(self._survey.findings if self._survey else ())
        for stream in self._streams.values():
            if isinstance(stream.trouble, ApiError) and stream.trouble.status in {401, 403}:
                resource = stream.resource
                name = f"{resource.plural}.{resource.group}" if resource.group else resource.plural
                where = f" in namespace {stream.namespace}" if stream.namespace else ""
                text = f"{resource.kind} can't be read{where}: {stream.trouble}"
                told.append(finding("SMI0904", Ref("Resource", stream.namespace, name), "", text[:500]))
        if self.synced and self.cache_age() > STALE:
            who = "the API server" if not self.reachable else ", ".join(self._silent())
            text = f"nothing was heard of {who} for more than {STALE:.0f} s; what was last heard is served"
            told.append(finding("SMI0903", Ref("Cluster", "", "api"), "", text))
        return tuple(told)

    def _silent(self) -> Sequence[str]:
        """Return the kinds that are out of date."""
        return sorted({stream.resource.kind for stream in self._streams.values() if stream.age() > STALE})

    def location(self, ref: Ref, field: str = "") -> Location | None:  # noqa: ARG002 - the protocol's signature
        """Return None: nothing here is in a file."""
        return None

    # ------------------------------------------------------------------------------------------------------ batches
    async def __aiter__(self) -> AsyncIterator[Batch]:
        """Yield the full sync, then every change for ever; what fails by a mistake of ours is raised here."""
        background = [asyncio.create_task(self._discover()), asyncio.create_task(self._grace.run())]
        for task in background:
            task.add_done_callback(self._wake_up)
        said: tuple[Finding, ...] | None = None
        first = True
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK):  # findings change with time alone
                        await self._wake.wait()
                self._wake.clear()
                for task in (*background, *self._tasks.values()):
                    if task.done():
                        task.result()
                if first and not self.synced:
                    continue
                batch = self._batch()
                if batch or first or said != self.findings():
                    first, said = False, self.findings()
                    yield batch
        finally:
            for task in (*background, *self._tasks.values()):
                task.cancel()
            await asyncio.gather(*background, *self._tasks.values(), self._reach.close(), return_exceptions=True)

    def _wake_up(self, _task: object = None) -> None:
        self._wake.set()

    def _batch(self) -> Batch:
        pending, self._pending = self._pending, {}
        if self._selected is not None:
            pending = self._selected_only(pending, self._selected)
        return _Manifests(pending)

    def _selected_only(
        self, pending: dict[Ref, tuple[Stream, Kept] | None], before: set[str]
    ) -> dict[Ref, tuple[Stream, Kept] | None]:
        """Leave out namespaces that are not selected; one that is newly so brings all its objects, or takes them."""
        now = {name for stream in self._of("Namespace") for _, name in stream.store}
        kept = {ref: found for ref, found in pending.items() if found is None or (ref.namespace or ref.name) in now}
        if now != before:
            self._selected = now
            for ref, stream, value in self._everything():
                if ref.namespace in now and ref.namespace not in before:
                    kept[ref] = (stream, value)
                elif ref.namespace in before and ref.namespace not in now:
                    kept[ref] = None
        return kept

    def _everything(self) -> Iterator[tuple[Ref, Stream, Kept]]:
        for stream in self._streams.values():
            for key in stream.store:
                entry = stream.store.get(key)
                if entry is not None:
                    yield self._ref(stream.resource, key), stream, entry.value

    def _of(self, kind: str) -> Iterator[Stream]:
        return (stream for stream in self._streams.values() if stream.resource.kind == kind)

    @staticmethod
    def _ref(resource: Resource, key: tuple[str, str]) -> Ref:
        return Ref(resource.kind, key[0], key[1], resource.group)

    def _changed(self, stream: Stream, changes: Changes) -> None:
        """Take the changes of a stream into the next batch; deletions of splits are asked about first."""
        lasting = (stream.resource.group, stream.resource.kind) in _LASTING
        for key, value in changes.items():
            ref = self._ref(stream.resource, key)
            if value is not None:
                self._grace.returned(ref)
                self._pending[ref] = (stream, value)
            elif lasting:
                self._grace.deleted(ref, stream.resource)
            else:
                self._pending[ref] = None
        self._wake.set()

    def _withdraw(self, refs: Iterable[Ref]) -> None:
        self._pending.update((ref, None) for ref in refs)
        self._wake.set()

    # ------------------------------------------------------------------------------------------------------ streams
    async def _discover(self) -> None:
        """Look at what is served, start and stop streams, for ever; a stream that got a 404 makes us look at once."""
        backoff = Backoff(LOOK)
        while True:
            await self._reach.wait()
            try:
                survey = await discovery.look(self._client)
                gone = self.served.keys() - survey.kinds.keys()
                if gone or not self.served:  # an API server that starts may not know its CRDs yet
                    await self._client.request("GET", "/readyz", timeout=5.0)
                    await asyncio.sleep(_PACE)
                    survey = await discovery.look(self._client)
            except Unreachable as error:
                if not await self._reach.lost():
                    _log.info("what is served can't be read: %s", error)
                    await asyncio.sleep(backoff.failed())
                continue
            except ApiError as error:
                _log.info("what is served can't be read: %s", error)
                await asyncio.sleep(backoff.failed(error.retry_after))
                continue
            backoff.succeeded()
            self._follow(survey)
            await asyncio.sleep(_PACE)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK - _PACE):
                    await self._ask.wait()
            self._ask.clear()

    def _follow(self, survey: Survey) -> None:
        """Have one running stream for everything that is served, and none for anything else."""
        wanted: dict[_Place, Resource] = {}
        for resource in (*CORE, *(served.resource for served in survey.kinds.values())):
            for namespace in self._namespaces or ("",):
                wanted[resource.group, resource.kind, namespace] = resource
        for place in [place for place in self._streams if place not in wanted]:
            self._end(place)
        for place, resource in wanted.items():
            stream, task = self._streams.get(place), self._tasks.get(place)
            if stream is None or task is None or task.done() or stream.resource != resource:
                self._start(place, resource)
        self._survey = survey
        self._wake.set()

    def _start(self, place: _Place, resource: Resource) -> None:
        """Begin a stream; one that takes over another's store goes on from what is there."""
        before, old = self._streams.get(place), self._tasks.get(place)
        if old is not None:
            old.remove_done_callback(self._wake_up)
            old.cancel()
        namespace = place[2]
        if resource == NAMESPACES and namespace:
            stream: Stream = NamespacePoll(self._client, resource, self._reach, self._changed, namespace)
        else:
            stream = Reflector(
                self._client,
                resource,
                self._reach,
                self._changed,
                namespace=namespace,
                selector=self._selector if resource == NAMESPACES else "",
                silence=self._silence,
                store=before.store if before is not None else None,
            )
        if before is not None and before.synced.is_set():
            stream.synced.set()
        self._streams[place] = stream
        task = asyncio.create_task(self._run(stream), name=f"watch {stream}")
        task.add_done_callback(self._wake_up)
        self._tasks[place] = task

    async def _run(self, stream: Stream) -> None:
        """Run a stream; while it is not served it is asked about again."""
        await stream.run()
        _log.info("%s is not served", stream)
        self._ask.set()

    def _end(self, place: _Place) -> None:
        """Stop a stream whose kind is gone: its objects go at once, or after the grace if they are traffic."""
        stream, task = self._streams.pop(place), self._tasks.pop(place)
        task.remove_done_callback(self._wake_up)
        task.cancel()
        _log.warning("%s is not served any more", stream)
        refs = [self._ref(stream.resource, key) for key in stream.store.replace(())]
        if (stream.resource.group, stream.resource.kind) in _LASTING:
            self._grace.vanished(refs)
        else:
            self._withdraw(refs)
