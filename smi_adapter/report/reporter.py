"""The reporter: which object of ours lies in the API, what its last change led to, and how it stands now.

The composition root tells it each published batch (`take`, at the cost of what changed) and asks for reports whenever
something may differ (`reports`, a walk over all objects that the caller can spread out). Nothing here happens before
a push. Our own status writes come back as events; they change nothing that is decoded, and so nothing here.

The *mark* of an object is the generation in which it, the routes or rules made from it, or its findings last changed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from smi_adapter.decode import RawObject
from smi_adapter.findings import Finding, Ref, by_severity_then_object
from smi_adapter.mesh import Mesh
from smi_adapter.report.conditions import PROGRAMMED, Condition, ObjectStatus, conditions_of
from smi_adapter.report.links import Links
from smi_adapter.report.standing import Fleet, Standing, Tally
from smi_adapter.smi import schema
from smi_adapter.smi.objects import ACCESS_GROUP, SPECS_GROUP, SPLIT_GROUP, Key
from smi_adapter.snapshot import EMPTY, Snapshot

SMI_GROUPS: Final = frozenset({SPLIT_GROUP, SPECS_GROUP, ACCESS_GROUP})

_TABLES: Final[Mapping[str, str]] = {
    "TrafficSplit": "splits",
    "HTTPRouteGroup": "route_groups",
    "TCPRoute": "tcp_routes",
    "UDPRoute": "udp_routes",
    "TrafficTarget": "targets",
    "IdentityBinding": "bindings",
}

APPLIED: Final = Condition(PROGRAMMED, True, "Programmed", "The generated objects are applied.")
_IN_FORCE: Final = Condition(PROGRAMMED, True, "Programmed", "Every proxy concerned has acknowledged it.")
_UNUSED: Final = Condition(PROGRAMMED, True, "NotReferenced", "Nothing refers to it, so no proxy needs it.")


@dataclass(frozen=True, slots=True)
class Subject:
    """An SMI object as it lies in the API: `api_version` is the one that it was read in.

    `version`: the newest one under which our schema takes it as it is, "" if none does.
    """

    ref: Ref
    uid: str
    generation: int
    version: str
    api_version: str = ""
    paused: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """How one object stands. `passing`: it only waits for proxies, which usually takes a moment."""

    subject: Subject
    status: ObjectStatus
    findings: tuple[Finding, ...] = ()
    passing: bool = False


class Reporter:
    """Knows all SMI objects of the API and answers how they stand. `backend`: the name to report under."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.subjects: dict[Ref, Subject] = {}
        self._generation = 0
        self._snapshot = EMPTY
        self._mesh = Mesh()
        self._marks: dict[Ref, int] = {}
        self._said: dict[Ref, tuple[Finding, ...]] = {}
        self._had_proxies: set[Key] = set()
        self._links = Links()
        self.tally = Tally()

    # ------------------------------------------------------------------------------------------------ what happens

    def take(
        self,
        batch: Mapping[Ref, RawObject | None],
        snapshot: Snapshot,
        mesh: Mesh,
        generation: int,
        touched: tuple[frozenset[Key], frozenset[Key]] | None = None,
    ) -> None:
        """Note what was published as `generation`; `touched`: Services and workloads that differ (None: all may)."""
        before, old = self._snapshot, self._mesh
        self._snapshot, self._mesh, self._generation = snapshot, mesh, generation
        for ref, raw in batch.items():
            if ref.group not in SMI_GROUPS or ref.kind not in _TABLES:
                continue
            was, now = _object(before, ref), _object(snapshot, ref)
            if was is not now:
                self._links.object_changed(ref, was, now)
            if raw is None:
                for table in (self.subjects, self._marks, self._said):
                    table.pop(ref, None)
                continue
            known = self.subjects.get(ref)
            self.subjects[ref] = subject = subject_of(ref, raw)
            if was is not now or known is None or (known.uid, known.generation) != (subject.uid, subject.generation):
                self._marks[ref] = generation
        services, workloads = touched or (old.services.keys() | mesh.services.keys(), None)
        for key in services:
            self._mark(self._links.service_changed(key, old.services.get(key), mesh.services.get(key)))
        for name in workloads if workloads is not None else old.workloads.keys() | mesh.workloads.keys():
            self._mark(self._links.workload_changed(name, old.workloads.get(name), mesh.workloads.get(name)))

    def _mark(self, refs: Iterable[Ref]) -> None:
        for ref in refs:
            if ref in self.subjects:
                self._marks[ref] = self._generation

    # ------------------------------------------------------------------------------------------------- how it stands

    def reports(
        self,
        findings: Iterable[Finding],
        acknowledged: Mapping[Key, tuple[int, ...]] | int,
        elsewhere: Iterable[Tally] = (),
    ) -> Iterator[Report]:
        """Yield a report of every object; the caller may do something else for a while between any two.

        `acknowledged`: generations by workload, from the ADS server; for a backend without proxies the last generation
        that was applied. `elsewhere`: the tallies of the other replicas. Afterwards `tally` is that of this replica.
        """
        of_object: defaultdict[Ref, set[Finding]] = defaultdict(set)
        for item in findings:
            if item.subject in self.subjects:
                of_object[item.subject].add(item)
        others = tuple(elsewhere)
        view = _View(self._mesh, self._snapshot, self._links, acknowledged, others, self._had_proxies)
        if not isinstance(acknowledged, int):
            self._had_proxies.update(acknowledged)
        generation = self._generation
        observed: dict[Ref, int] = {}
        waiting: dict[Ref, int] = {}
        for ref, subject in list(self.subjects.items()):
            found = tuple(sorted(of_object.get(ref, ()), key=by_severity_then_object))
            if self._said.get(ref, ()) != found:
                self._said[ref] = found
                self._marks[ref] = generation
            standing, programmed = view.programmed(ref, self._marks.get(ref, generation))
            observed[ref] = subject.generation
            if standing.waiting:
                waiting[ref] = standing.waiting
            programmed = _elsewhere(programmed, subject, others)
            conditions = conditions_of(found, programmed)
            passing = not programmed.status and conditions[2] is programmed and programmed.reason in _PASSING
            yield Report(subject, ObjectStatus(subject.generation, self.backend, conditions), found, passing)
        counts = {} if isinstance(acknowledged, int) else {key: len(reached) for key, reached in acknowledged.items()}
        self.tally = Tally(counts, observed, waiting)


_PASSING: Final = frozenset(
    {"NoProxies", "ProxiesMissing", "WaitingForApply", "WaitingForProxies", "WaitingForReplica"}
)
"""Reasons that mostly go by themselves, within moments: after a change, a restart or a rollout."""


def _elsewhere(programmed: Condition, subject: Subject, others: Iterable[Tally]) -> Condition:
    """Let the proxies of the other replicas have a say."""
    if not programmed.status:
        return programmed
    for tally in others:
        if tally.observed.get(subject.ref, -1) != subject.generation:
            return _waiting("WaitingForReplica", "Another replica has not published the newest form yet.")
        if late := tally.waiting.get(subject.ref, 0):
            return _waiting("WaitingForProxies", f"Not acknowledged yet: {_proxies(late)} of another replica.")
    return programmed


class _View:
    """Answers for one walk over the objects."""

    def __init__(  # noqa: PLR0913, PLR0917 - all that an answer depends on
        self,
        mesh: Mesh,
        snapshot: Snapshot,
        links: Links,
        acknowledged: Mapping[Key, tuple[int, ...]] | int,
        elsewhere: Iterable[Tally],
        had_proxies: set[Key],
    ) -> None:
        self._mesh = mesh
        self._links = links
        self._applied = acknowledged if isinstance(acknowledged, int) else None
        reached = {} if isinstance(acknowledged, int) else acknowledged
        self._fleet = Fleet(mesh, snapshot, reached, elsewhere, had_proxies)

    def programmed(self, ref: Ref, mark: int) -> tuple[Standing, Condition]:
        """Say whether what an object's last change led to is in force."""
        if self._applied is not None:
            waiting = _waiting("WaitingForApply", "The generated objects are not applied yet.")
            return Standing(), APPLIED if self._applied >= mark else waiting
        match ref.kind:
            case "TrafficSplit":
                standing = self._split(ref, mark)
                return standing, _condition(standing) or _no_effect(
                    "NoProxies", "No connected proxy may call the root."
                )
            case "TrafficTarget":
                return self._target_condition(ref, mark)
            case _:
                return self._shared(ref, mark)

    def _split(self, ref: Ref, mark: int) -> Standing:
        standing = Standing()
        for root in self._links.roots.get(ref, ()):
            service = self._mesh.services.get(root)
            if service is not None:
                standing += self._fleet.callers(service.callers, mark)
        return standing

    def _target(self, ref: Ref, mark: int) -> Standing:
        doors = self._links.doors.get(ref, {})
        sources = frozenset().union(*doors.values())
        callers = [key for key in self._fleet.of(sources) if key not in doors]
        return self._fleet.workloads(doors, mark, required=True) + self._fleet.workloads(callers, mark)

    def _target_condition(self, ref: Ref, mark: int) -> tuple[Standing, Condition]:
        if ref not in self._links.doors:
            words = "It opens no port: no pod runs as the destination, or nothing in it resolves."
            return Standing(), _no_effect("GrantsNothing", words)
        standing = self._target(ref, mark)
        words = "No pod of the destination is ready yet."
        return standing, _condition(standing) or _no_effect("NoProxies", words)

    def _shared(self, ref: Ref, mark: int) -> tuple[Standing, Condition]:
        """Answer for what splits and targets refer to: with the proxies of all of these."""
        users = self._links.users.get(ref)
        if not users:
            return Standing(), _UNUSED
        standing = Standing()
        for user in users:
            standing += self._split(user, mark) if user.kind == "TrafficSplit" else self._target(user, mark)
        return standing, _condition(standing) or _no_effect("NoProxies", "No proxy needs it yet.")


def _condition(standing: Standing) -> Condition | None:
    """Return what proxies say; None if there are none."""
    if standing.missing:
        words = f"Not connected: {_proxies(standing.missing)}, such as one of {standing.example}."
        return _waiting("ProxiesMissing", words)
    if standing.waiting:
        words = f"Not acknowledged yet: {_proxies(standing.waiting)}, such as one of {standing.example}."
        return _waiting("WaitingForProxies", words)
    return _IN_FORCE if standing.proxies else None


def _proxies(number: int) -> str:
    return f"{number} proxies" if number > 1 else "1 proxy"


def _waiting(reason: str, message: str) -> Condition:
    return Condition(PROGRAMMED, False, reason, message)


_no_effect = _waiting


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
        version_for(ref, raw),
        str(raw.get("apiVersion") or ""),
        isinstance(annotations, Mapping) and annotations.get(PAUSED) == "true",
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
