"""The status writer: conditions into the API, beside the path that proxies are served on and never before it.

What is wanted is offered as often as one likes; the newest form of an object waits for a free worker, and nothing is
written that lies there already: a needless write costs a canary controller a conflict and a loop. What only waits for
proxies gets some time before it is written, as it mostly comes right by itself.

Writing is server-side apply on the `status` subresource with the resourceVersion that was read or written last, so a
leader that was deposed, or a view that is old, fails instead of overwriting. The API validates the whole object with
each status, so it goes through a version whose schema takes the object. A foreign CRD without that subresource gets no
status at all (a typed client's update would wipe it), and SMI0502 says so; Events tell the rest.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from smi_adapter.cluster.client import ApiError, Resource, Unreachable
from smi_adapter.cluster.pace import Api, Pace, passes, read
from smi_adapter.cluster.projection import status_of
from smi_adapter.findings import Finding, Ref, finding
from smi_adapter.report import ObjectStatus, Report

_log = logging.getLogger(__name__)

MANAGER: Final = "smi-adapter"
APPLY: Final = "application/apply-patch+yaml"
PLURALS: Final[Mapping[str, str]] = {
    "TrafficSplit": "trafficsplits",
    "HTTPRouteGroup": "httproutegroups",
    "TCPRoute": "tcproutes",
    "UDPRoute": "udproutes",
    "TrafficTarget": "traffictargets",
    "IdentityBinding": "identitybindings",
}
CRD_GROUP: Final = "apiextensions.k8s.io"

_FRESH = 30.0
_PAGE = 500
_WORTH_A_LIST = 20
_TRIES = 4
_FORBIDDEN_PAUSE = 60.0


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds before something is written: what is final, an edit that waits for proxies, and proxies that went away.

    A rollout or a restart of the controller makes proxies reconnect; that is not worth two writes for each object.
    """

    final: float = 0.05
    edit: float = 1.0
    loss: float = 15.0


@dataclass(frozen=True, slots=True)
class _Known:
    """What lies in the API as far as we know; the status as JSON text, of which a big cluster has thousands."""

    uid: str
    resource_version: str
    text: bytes

    @classmethod
    def of(cls, found: _Object) -> _Known:
        """Return what an answer says."""
        return cls(found.metadata.uid, found.metadata.resourceVersion, bytes(found.status))

    @property
    def status(self) -> Mapping[str, Any]:
        """Return the status, empty if there is none."""
        found = status_of(self.text)
        return found if isinstance(found, Mapping) else {}

    def says(self, report: Report) -> bool:
        """Tell whether this status is the report's already, whatever its times."""
        status = self.status
        return self.uid == report.subject.uid and _timeless(report.status.data(status, 0.0)) == _timeless(
            status, report.status.backend
        )

    def observed(self) -> object:
        """Return the generation that the status speaks of."""
        return self.status.get("observedGeneration")


@dataclass(slots=True)
class _Wanted:
    """The newest report of one object that is not written yet."""

    report: Report
    since: float
    due: float
    tries: int = 0


@dataclass(slots=True)
class Counts:
    """What the writer has done, for metrics."""

    written: int = 0
    unchanged: int = 0
    conflicts: int = 0
    refused: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class _Served:
    """Versions of one kind that are served, newest first: with and without a status."""

    at: float
    versions: tuple[str, ...] = ()
    with_status: tuple[str, ...] = ()


class StatusWriter:
    """Writes reports; only while `left()` says that there is time for it. `namespaces`: the only ones with rights."""

    def __init__(  # noqa: PLR0913 - what there is to choose
        self,
        api: Api,
        left: Callable[[], float],
        *,
        namespaces: tuple[str, ...] = (),
        workers: int = 8,
        patience: Patience = Patience(),
        timeout: float = 10.0,
    ) -> None:
        self.counts = Counts()
        self._api = api
        self._left = left
        self._namespaces = namespaces
        self._workers = workers
        self._patience = patience
        self._timeout = timeout
        self._wanted: dict[Ref, _Wanted] = {}
        self._busy: set[Ref] = set()
        self._known: dict[Ref, _Known] = {}
        self._done: dict[Ref, tuple[str, ObjectStatus]] = {}
        self._refused: dict[Ref, tuple[str, int]] = {}
        self._heaps: tuple[list[tuple[float, Ref]], ...] = ([], [])  # what is wrong goes before what is right
        self._news = asyncio.Event()
        self._served: dict[tuple[str, str], _Served] = {}
        self._looking = asyncio.Lock()
        self._learning = asyncio.Lock()
        self._learned: set[tuple[str, str]] = set()
        self._pace = Pace()
        self._foreign: set[Ref] = set()

    # ---------------------------------------------------------------------------------------------------- from above

    def offer(self, report: Report) -> None:
        """Take the newest report of an object; cheap, and whatever was offered before it is forgotten."""
        ref, subject = report.subject.ref, report.subject
        if ref not in self._busy and self._done.get(ref) == (subject.uid, report.status):
            self._wanted.pop(ref, None)
            return
        if self._refused.get(ref) == (subject.uid, subject.generation):
            return
        now = time.monotonic()
        before = self._wanted.get(ref)
        since = now if before is None else before.since
        due = since + self._delay(report, self._known.get(ref))
        self._wanted[ref] = _Wanted(report, since, due, before.tries if before else 0)
        if before is None or due < before.due:
            self._schedule(self._wanted[ref])

    def forget(self, ref: Ref) -> None:
        """Forget an object that is gone."""
        for table in (self._wanted, self._known, self._done, self._refused):
            table.pop(ref, None)

    def findings(self) -> tuple[Finding, ...]:
        """Return a finding for each CRD that has no status."""
        words = "this CRD serves no version with a status; its objects are told about by Events only"
        return tuple(finding("SMI0502", crd, "spec.versions", words) for crd in sorted(self._foreign))

    @property
    def backlog(self) -> int:
        """Return how many objects wait to be written."""
        return len(self._wanted.keys() | self._busy)

    def _delay(self, report: Report, known: _Known | None) -> float:
        if not report.passing:
            return self._patience.final
        edited = known is None or known.observed() != report.subject.generation
        return self._patience.edit if edited else self._patience.loss

    def _schedule(self, wanted: _Wanted) -> None:
        heap = self._heaps[0 if wanted.report.findings else 1]
        heapq.heappush(heap, (wanted.due, wanted.report.subject.ref))
        self._news.set()

    # ------------------------------------------------------------------------------------------------------- writing

    async def run(self) -> None:
        """Write until cancelled whatever is wanted and due."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._workers):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            ref = await self._next()
            self._busy.add(ref)
            try:
                await self._pace.ready()
                newest = self._wanted.pop(ref, None)
                if newest is not None:
                    await self._settle(ref, newest)
            finally:
                self._busy.discard(ref)

    async def _next(self) -> Ref:
        """Wait until something is due; what was replaced, or is being written, is skipped or comes again."""
        while True:
            self._news.clear()
            now = time.monotonic()
            for heap in self._heaps:
                ref = self._due(heap, now)
                if ref is not None:
                    return ref
            next_due = min((heap[0][0] for heap in self._heaps if heap), default=None)
            try:
                async with asyncio.timeout(None if next_due is None else max(0.01, next_due - now)):
                    await self._news.wait()
            except TimeoutError:
                pass

    def _due(self, heap: list[tuple[float, Ref]], now: float) -> Ref | None:
        while heap and heap[0][0] <= now:
            _, ref = heapq.heappop(heap)
            wanted = self._wanted.get(ref)
            if wanted is None:
                continue
            if ref in self._busy:
                heapq.heappush(heap, (now + 0.05, ref))
            elif wanted.due <= now:
                return ref
            else:
                heapq.heappush(heap, (wanted.due, ref))
        return None

    async def _settle(self, ref: Ref, wanted: _Wanted) -> None:
        """Write one status; what may work later is wanted again, unless something newer is by now."""
        try:
            again = await self._write(ref, wanted.report)
            self._pace.worked()
        except (ApiError, Unreachable) as error:
            self.counts.failed += 1
            if not passes(error):
                _log.warning("the status of %s could not be written: %s", ref, error)
                again = _FORBIDDEN_PAUSE
            else:
                self._pace.failed(error)
                again = 0.5
        if again is not None and ref not in self._wanted:
            due = time.monotonic() + again
            tries = wanted.tries + 1
            self._wanted[ref] = _Wanted(wanted.report, wanted.since, due, tries)
            self._schedule(self._wanted[ref])

    async def _write(self, ref: Ref, report: Report) -> float | None:
        """Write, if it differs from what lies there; return in how many seconds to try again, None if it is done."""
        served = await self._versions(ref.group, ref.kind)
        if not served.with_status:
            if served.versions:
                self._foreign.add(_crd(ref))
            return None
        if ref not in self._known:
            await self._learn(ref.group, ref.kind, served)
        known = self._known.get(ref)
        for _ in range(_TRIES):
            if known is None or known.uid != report.subject.uid:
                known = await self._read(ref, served)
                if known is None or known.uid != report.subject.uid:
                    return None  # gone, or another one by now: there will be a report of that
            if known.says(report):
                self.counts.unchanged += 1
                self._done[ref] = (report.subject.uid, report.status)
                return None
            if self._left() <= 0:
                return 1.0
            if await self._try(ref, report, known, served):
                return None
            known = None
        return 1.0

    async def _try(self, ref: Ref, report: Report, known: _Known, served: _Served) -> bool:
        """Write once; False if what we knew of the object is out of date."""
        try:
            await self._apply(ref, report, known, served)
        except ApiError as error:
            if error.status == 404:
                self.forget(ref)
                return True
            if error.status != 409:
                raise
            self.counts.conflicts += 1
            return False
        return True

    async def _apply(self, ref: Ref, report: Report, known: _Known, served: _Served) -> None:
        """Send it through the versions that may take it, the best one first."""
        status = report.status.data(known.status, time.time())
        best = [version for version in (report.subject.version,) if version in served.with_status]
        refusal: ApiError | None = None
        for version in dict.fromkeys((*best, *served.with_status)):
            resource = _resource(ref, version)
            body = {
                "apiVersion": resource.api_version,
                "kind": ref.kind,
                "metadata": {
                    "name": ref.name,
                    "namespace": ref.namespace,
                    "uid": known.uid,
                    "resourceVersion": known.resource_version,
                },
                "status": status,
            }
            try:
                answer = await self._api.request(
                    "PATCH",
                    resource.path(ref.namespace, ref.name, "status"),
                    query={"fieldManager": MANAGER, "force": "true"},
                    body=body,
                    content_type=APPLY,
                    timeout=max(0.1, min(self._timeout, self._left())),
                )
            except ApiError as error:
                if error.status not in {400, 422}:
                    raise
                refusal = error
                continue
            self._note(ref, answer)
            self._done[ref] = (report.subject.uid, report.status)
            self.counts.written += 1
            return
        self.counts.refused += 1
        self._refused[ref] = (report.subject.uid, report.subject.generation)
        _log.warning("no served version takes the status of %s; Events tell instead: %s", ref, refusal)

    # ------------------------------------------------------------------------------------------------------- reading

    def _note(self, ref: Ref, answer: bytes) -> _Known:
        found = read(answer, _Object)
        self._known[ref] = known = _Known.of(found)
        return known

    async def _read(self, ref: Ref, served: _Served) -> _Known | None:
        path = _resource(ref, served.versions[0]).path(ref.namespace, ref.name)
        try:
            return self._note(ref, await self._api.request("GET", path, timeout=self._timeout))
        except ApiError as error:
            if error.status != 404:
                raise
            self.forget(ref)
            return None

    async def _learn(self, group: str, kind: str, served: _Served) -> None:
        """Read all statuses of a kind by pages, once and if many are wanted: else each is read by itself."""
        async with self._learning:
            if (group, kind) in self._learned:
                return
            unknown = sum(
                1 for ref in self._wanted if (ref.group, ref.kind) == (group, kind) and ref not in self._known
            )
            if unknown < _WORTH_A_LIST:
                return
            self._learned.add((group, kind))
            resource = Resource(group, served.versions[0], PLURALS[kind], kind)
            for namespace in self._namespaces or ("",):
                await self._learn_from(resource, namespace)

    async def _learn_from(self, resource: Resource, namespace: str) -> None:
        query = {"limit": str(_PAGE)}
        while True:
            page = read(await self._api.request("GET", resource.path(namespace), query=query), _List)
            for item in page.items or ():
                meta = item.metadata
                ref = Ref(resource.kind, meta.namespace, meta.name, resource.group)
                self._known[ref] = _Known.of(item)
            if not page.metadata.continue_:
                return
            query["continue"] = page.metadata.continue_

    async def _versions(self, group: str, kind: str) -> _Served:
        """Ask which versions are served, and which of them with a status; twice a minute at most."""
        async with self._looking:
            known = self._served.get((group, kind))
            if known is not None and time.monotonic() - known.at < _FRESH:
                return known
            versions: list[str] = []
            with_status: list[str] = []
            for version in await self._group_versions(group):
                answer = await self._api.request("GET", f"/apis/{group}/{version}", timeout=self._timeout)
                found = read(answer, _Resources)
                names = {item.name for item in found.resources}
                if PLURALS[kind] in names:
                    versions.append(version)
                    if f"{PLURALS[kind]}/status" in names:
                        with_status.append(version)
            made = _Served(time.monotonic(), tuple(versions), tuple(with_status))
            self._served[group, kind] = made
            self._foreign.discard(_crd(Ref(kind, "", "", group)))
            return made

    async def _group_versions(self, group: str) -> list[str]:
        try:
            answer = await self._api.request("GET", f"/apis/{group}", timeout=self._timeout)
        except ApiError as error:
            if error.status != 404:
                raise
            return []
        return sorted((item.version for item in read(answer, _Group).versions), reverse=True)


class _Meta(msgspec.Struct):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resourceVersion: str = ""  # noqa: N815 - Kubernetes' name


class _Object(msgspec.Struct):
    metadata: _Meta
    status: msgspec.Raw = msgspec.Raw(b"null")


class _ListMeta(msgspec.Struct):
    continue_: str = msgspec.field(name="continue", default="")


class _List(msgspec.Struct):
    metadata: _ListMeta
    items: list[_Object] | None = None


class _Version(msgspec.Struct):
    version: str


class _Group(msgspec.Struct):
    versions: list[_Version] = []


class _ApiResource(msgspec.Struct):
    name: str


class _Resources(msgspec.Struct):
    resources: list[_ApiResource] = []


def _resource(ref: Ref, version: str) -> Resource:
    return Resource(ref.group, version, PLURALS[ref.kind], ref.kind)


def _crd(ref: Ref) -> Ref:
    return Ref("CustomResourceDefinition", "", f"{PLURALS[ref.kind]}.{ref.group}", CRD_GROUP)


def _timeless(status: Mapping[str, Any], backend: str | None = None) -> object:
    """Return what a status says, without its times; with `backend`, without what others wrote beside us."""
    entries = status.get("backends")
    backends = [item for item in entries if isinstance(item, Mapping)] if isinstance(entries, list) else []
    if backend is not None:
        backends = [item for item in backends if item.get("name") == backend]
    ours = {"Accepted", "ResolvedRefs", "Programmed", "PartiallyTranslated", "Conflicted"}
    return (
        status.get("observedGeneration"),
        _plain(status.get("conditions"), ours),
        [(item.get("name"), _plain(item.get("conditions"), ours)) for item in backends],
    )


def _plain(conditions: object, kinds: set[str]) -> list[dict[str, Any]]:
    found = [item for item in conditions if isinstance(item, dict)] if isinstance(conditions, list) else []
    chosen = [item for item in found if item.get("type") in kinds]
    chosen.sort(key=lambda item: str(item.get("type")))
    return [{key: value for key, value in item.items() if key != "lastTransitionTime"} for item in chosen]
