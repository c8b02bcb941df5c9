"""The reporter: which object of ours lies in the API, what its last change led to, and how it stands now.

The composition root tells it each published batch (`take`) and the findings (`absorb`), both at the cost of what
changed, and asks for reports (`news`) of what may stand otherwise by now, a walk that the caller can spread out. Our
own status writes come back as events; they change nothing that is decoded, and so nothing here.

The *mark* of an object is the generation in which it, the routes or rules made from it, or its findings last changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from smi_adapter.decode import RawObject
from smi_adapter.findings import Finding, Ref
from smi_adapter.mesh import Mesh
from smi_adapter.report.conditions import Condition, ObjectStatus, conditions_of
from smi_adapter.report.grouping import Grouped, Tables
from smi_adapter.report.links import Links
from smi_adapter.report.programmed import PASSING, View, with_replicas
from smi_adapter.report.standing import Fleet, Tally
from smi_adapter.smi import schema
from smi_adapter.smi.objects import ACCESS_GROUP, SPECS_GROUP, SPLIT_GROUP, Key
from smi_adapter.snapshot import EMPTY, Snapshot

SMI_GROUPS: Final = frozenset({SPLIT_GROUP, SPECS_GROUP, ACCESS_GROUP})

ANY: Final = "Any"
"""In counts by condition: whatever their conditions are."""

_TABLES: Final[Mapping[str, str]] = {
    "TrafficSplit": "splits",
    "HTTPRouteGroup": "route_groups",
    "TCPRoute": "tcp_routes",
    "UDPRoute": "udp_routes",
    "TrafficTarget": "targets",
    "IdentityBinding": "bindings",
}


@dataclass(frozen=True, slots=True)
class Subject:
    """An SMI object as it lies in the API: `api_version` is the one that it was read in, `raw` all of it."""

    ref: Ref
    uid: str
    generation: int
    api_version: str = ""
    paused: bool = False
    raw: RawObject = field(default_factory=dict, repr=False, compare=False)

    @property
    def version(self) -> str:
        """Return the version to write a status through, "" if no schema takes the object; not cheap."""
        return version_for(self.ref, self.raw)


@dataclass(frozen=True, slots=True)
class Report:
    """How one object stands. `passing`: it only waits for proxies, which usually takes a moment.

    `proxies`: what proxies alone say of `Programmed`.
    """

    subject: Subject
    status: ObjectStatus
    findings: tuple[Finding, ...] = ()
    passing: bool = False
    proxies: Condition | None = field(default=None, repr=False)


_MOVED_BY_ANSWERS: Final = frozenset({"WaitingForApply", "WaitingForProxies"})
"""Reasons that an answer alone can end; the others end with a change, or with proxies that come.

What waits here moves with an answer too, whatever else is said of it: the leader has to know (`tally`).
"""


class Reporter:
    """Knows all SMI objects of the API and answers how they stand. `backend`: the name to report under."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.subjects: dict[Ref, Subject] = {}
        self.counts: Counter[tuple[str, str]] = Counter()
        """How many objects of a kind there are, by (kind, a condition that is true of them, or `Any`)."""
        self._generation = 0
        self._snapshot = EMPTY
        self._mesh = Mesh()
        self._links = Links()
        self._marks: dict[Ref, int] = {}
        self._grouped = Grouped()
        self._had_proxies: set[Key] = set()
        self._last: dict[Ref, Report] = {}
        self._dirty: set[Ref] = set()
        self._waiting: dict[Ref, int] = {}
        self._passing: set[Ref] = set()
        self._acknowledged: Mapping[Key, tuple[int, ...]] | int = 0
        self._others: tuple[Tally, ...] = ()
        self._all_dirty = True

    # ------------------------------------------------------------------------------------------------ what happens

    def take(
        self,
        batch: Mapping[Ref, RawObject | None],
        snapshot: Snapshot,
        mesh: Mesh,
        generation: int,
        touched: tuple[Collection[Key], Collection[Key]] | None = None,
    ) -> None:
        """Note what was published as `generation`; `touched`: Services and workloads that differ (None: all may)."""
        for _ in self.taking(batch, snapshot, mesh, generation, touched):
            pass

    def taking(
        self,
        batch: Mapping[Ref, RawObject | None],
        snapshot: Snapshot,
        mesh: Mesh,
        generation: int,
        touched: tuple[Collection[Key], Collection[Key]] | None = None,
    ) -> Iterator[None]:
        """Do as `take` does, step by step: a first sync is long, and the caller may pause between two steps."""
        before, old = self._snapshot, self._mesh
        self._snapshot, self._mesh, self._generation = snapshot, mesh, generation
        if before.pods is not snapshot.pods:
            self._all_dirty = True  # one may have become ready, or gone
        for ref, raw in batch.items():
            if ref.group in SMI_GROUPS and ref.kind in _TABLES:
                self._take_object(ref, raw, _object(before, ref), _object(snapshot, ref))
                yield
        services, workloads = touched or (old.services.keys() | mesh.services.keys(), None)
        for key in services:
            self._mark(self._links.service_changed(key, old.services.get(key), mesh.services.get(key)))
            yield
        for name in workloads if workloads is not None else old.workloads.keys() | mesh.workloads.keys():
            self._mark(self._links.workload_changed(name, old.workloads.get(name), mesh.workloads.get(name)))
            yield

    def _take_object(self, ref: Ref, raw: RawObject | None, was: object, now: object) -> None:
        if was is not now:
            self._links.object_changed(ref, was, now)
            self._mark(self._links.users.get(ref, ()))
        if raw is None:
            self._count(self._last.get(ref), -1)
            for table in (self.subjects, self._marks, self._last, self._waiting):
                table.pop(ref, None)
            self._passing.discard(ref)
            return
        known = self.subjects.get(ref)
        self.subjects[ref] = subject = subject_of(ref, raw)
        if was is not now or known is None or (known.uid, known.generation) != (subject.uid, subject.generation):
            self._mark((ref,))
        self._dirty.add(ref)

    def _mark(self, refs: Iterable[Ref]) -> None:
        for ref in refs:
            if ref in self.subjects:
                self._marks[ref] = self._generation
                self._dirty.add(ref)

    def absorb(self, tables: Tables, loose: Iterable[Finding]) -> Iterator[None]:
        """Take the findings of now, `tables` by stage and others loose; the caller may pause at each step."""
        for ref in self._grouped.update(tables, loose):
            self._mark((ref,))
            yield

    # ------------------------------------------------------------------------------------------------- how it stands

    def reports(
        self,
        findings: Iterable[Finding],
        acknowledged: Mapping[Key, tuple[int, ...]] | int,
        elsewhere: Iterable[Tally] = (),
    ) -> Iterator[Report]:
        """Yield a report of every object, given all findings: the whole at once, for small worlds."""
        for _ in self.absorb({}, findings):
            pass
        return self.news(acknowledged, elsewhere, everything=True)

    def news(
        self,
        acknowledged: Mapping[Key, tuple[int, ...]] | int,
        elsewhere: Iterable[Tally] = (),
        *,
        everything: bool = False,
    ) -> Iterator[Report]:
        """Yield a report of every object that may stand otherwise than last time; the caller may pause in between.

        `acknowledged`: generations by workload, from the ADS server; for a backend without proxies the last generation
        that was applied. `elsewhere`: the tallies of the other replicas.
        """
        others = tuple(elsewhere)
        everything = everything or self._all_dirty or others != self._others or self._fell_back(acknowledged)
        refs = list(self.subjects) if everything else list(self._dirty | self._passing)
        self._acknowledged, self._others = acknowledged, others
        self._all_dirty = False
        self._dirty = set()
        reached = {} if isinstance(acknowledged, int) else acknowledged
        self._had_proxies.update(reached)
        fleet = Fleet(self._mesh, self._snapshot, reached, others, self._had_proxies)
        view = View(self._mesh, self._links, fleet, acknowledged if isinstance(acknowledged, int) else None)
        for ref in refs:
            if ref in self.subjects:
                yield self._report(ref, view, others)

    def _report(self, ref: Ref, view: View, others: tuple[Tally, ...]) -> Report:
        subject, last = self.subjects[ref], self._last.get(ref)
        standing, programmed = view.programmed(ref, self._marks.get(ref, self._generation))
        if standing.waiting:
            self._waiting[ref] = standing.waiting
        else:
            self._waiting.pop(ref, None)
        programmed = with_replicas(programmed, ref, subject.generation, others)
        moves = standing.waiting or programmed.reason in _MOVED_BY_ANSWERS
        (self._passing.add if moves else self._passing.discard)(ref)
        found = self._grouped.of(ref)
        if last is not None and (last.subject, last.findings, last.proxies) == (subject, found, programmed):
            return last
        conditions = conditions_of(found, programmed)
        passing = not programmed.status and conditions[2] is programmed and programmed.reason in PASSING
        status = ObjectStatus(subject.generation, self.backend, conditions)
        report = self._last[ref] = Report(subject, status, found, passing, programmed)
        self._count(last, -1)
        self._count(report, 1)
        return report

    def _count(self, report: Report | None, by: int) -> None:
        if report is not None:
            kind = report.subject.ref.kind
            for name in (ANY, *(condition.type for condition in report.status.conditions if condition.status)):
                self.counts[kind, name] += by

    def _fell_back(self, acknowledged: Mapping[Key, tuple[int, ...]] | int) -> bool:
        """Tell whether proxies came, went or began anew: else only who waits can have moved, and only forwards."""
        before = self._acknowledged
        if isinstance(acknowledged, int) or isinstance(before, int):
            return isinstance(acknowledged, int) != isinstance(before, int)
        if before.keys() != acknowledged.keys():
            return True
        return any(
            len(now) != len(before[key]) or any(new < old for new, old in zip(now, before[key], strict=True))
            for key, now in acknowledged.items()
        )

    @property
    def tally(self) -> Tally:
        """Return what the other replicas have to know of this one's proxies, as of the last walk."""
        reached = {} if isinstance(self._acknowledged, int) else self._acknowledged
        observed = {ref: subject.generation for ref, subject in self.subjects.items()}
        return Tally({key: len(found) for key, found in reached.items()}, observed, dict(self._waiting))


# ------------------------------------------------------------------------------------------------- from the objects


def subject_of(ref: Ref, raw: RawObject) -> Subject:
    """Return what has to be known of an object to write about it; whatever is not readable is left empty."""
    metadata = raw.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    generation = metadata.get("generation")
    annotations = metadata.get("annotations")
    return Subject(
        ref,
        str(metadata.get("uid") or ""),
        generation if isinstance(generation, int) else 0,
        str(raw.get("apiVersion") or ""),
        isinstance(annotations, Mapping) and annotations.get(PAUSED) == "true",
        raw,
    )


PAUSED: Final = "smi-adapter.io/paused"
"""On an SMI object, `true`: what is generated for it stays as it is (kubernetes.md, 1.5)."""


def version_for(ref: Ref, raw: RawObject) -> str:
    """Return the newest version whose schema takes the object: a status is validated with all of its object.

    A split with the weight `500m` is one of v1alpha1, through whichever version it was read. "" if none takes it.
    """
    for version in reversed(schema.served().get((ref.group, ref.kind), ())):
        as_that = {**raw, "apiVersion": f"{ref.group}/{version}"}
        if not schema.check((ref.group, version, ref.kind), as_that):
            return version
    return ""


def _object(snapshot: Snapshot, ref: Ref) -> object:
    table: Mapping[Key, object] = getattr(snapshot, _TABLES[ref.kind])
    return table.get((ref.namespace, ref.name))
