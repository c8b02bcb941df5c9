"""Snapshot in, Mesh out: what the SMI objects mean (semantics.md), as a pure function of the whole world.

Read `STEPS` below: each step makes one part for each object of a table, from the Snapshot and from parts of the steps
above it, and is a module of this package. A change computes again only the parts that looked at something that
changed (`incremental`), everything else is shared with the last translation, object for object.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, TypeVar

from smi_adapter.findings import Finding, Ref, by_severity_then_object
from smi_adapter.mesh import AccessMode, Mesh, Service, Trust, Workload
from smi_adapter.smi.objects import ACCESS_GROUP, SPECS_GROUP, SPLIT_GROUP, Key
from smi_adapter.snapshot import EMPTY, Mode, Options, Snapshot
from smi_adapter.translate import (
    callers,
    identities,
    matches,
    modes,
    roots,
    selection,
    services,
    splits,
    targets,
    workloads,
)
from smi_adapter.translate.incremental import Draft, Run, State, Step
from smi_adapter.translate.parts import NOTHING, Group
from smi_adapter.translate.relations import Relations, refs, updated
from smi_adapter.translate.view import View

V = TypeVar("V")

__all__ = ["STEPS", "Translation", "findings_of", "translate"]


def _closed(_view: View, _key: Key, last: Group | None) -> Group:
    """Keep the workloads of an owner, but let nobody in: what failed may have been a revocation (D4)."""
    if last is None:
        return Group()
    closed = {
        workload.key: replace(
            workload, mode=AccessMode.ENFORCE, ports=tuple(replace(port, rules=()) for port in workload.ports)
        )
        for workload in last.workloads
    }
    return Group(tuple(closed.values()), {pod: closed[workload.key] for pod, workload in last.of_pod.items()})


def _unsplit(view: View, key: Key, last: Service | None) -> Service | None:
    """Keep the routes of a Service, or at least the Service: an internal error must not lose a flowing route (D4)."""
    leaf = view.leaves.get(key)
    return last or (leaf.service if leaf is not None else None)


def _last_or(otherwise: Any) -> Any:
    return lambda _view, _key, last: otherwise if last is None else last


def _always(part: Any) -> Any:
    return lambda _view, _key, _last: part


def _object(kind: str, group: str = "") -> Any:
    return lambda key: Ref(kind, key[0], key[1], group)


STEPS: tuple[Step, ...] = (
    Step("matches", "route_groups", matches.compute, _always(()), _object("HTTPRouteGroup", SPECS_GROUP)),
    Step("roots", "splits", roots.compute, _last_or(roots.INERT), _object("TrafficSplit", SPLIT_GROUP)),
    Step("leaves", "services", services.compute, _last_or(None), _object("Service")),
    Step("routed", "services", splits.compute, _unsplit, _object("Service")),
    Step("bound", "bindings", identities.compute, _always(identities.NOBODY), _object("IdentityBinding", ACCESS_GROUP)),
    Step(
        "account_ports", "pods_of_account", selection.account_ports, selection.every_number, _object("ServiceAccount")
    ),
    Step(
        "binding_ports",
        "bindings",
        selection.binding_ports,
        selection.every_number,
        _object("IdentityBinding", ACCESS_GROUP),
    ),
    Step("grants", "targets", targets.compute, _always(NOTHING), _object("TrafficTarget", ACCESS_GROUP)),
    Step("groups", "pods_of_owner", workloads.compute, _closed, _object("Workload")),
    Step("admission", "services", callers.admission, _always(callers.ANYBODY), _object("Service")),
    Step("callers", "services", callers.callers, _always(None), _object("Service")),
    Step("checks", "splits", callers.checks, _always(None), _object("TrafficSplit", SPLIT_GROUP)),
    Step("modes", "pods_of_namespace", modes.compute, _always(Mode.ENFORCE), lambda name: Ref("Namespace", "", name)),
)
"""The passes, in order: HTTP matches, the roots of splits, Services alone, Services with their splits, identities,
which numbers mean Service ports, grants, workloads with their access rules; then who may call what, and warnings."""

DEFAULTS = Options()


@dataclass(frozen=True)
class Translation:
    """A Mesh, what to tell the user, and which keys differ from the translation before.

    `services` and `workloads` also name what is gone. The fields that begin with an underscore are what the next
    translation starts from.
    """

    mesh: Mesh
    services: frozenset[Key]
    workloads: frozenset[Key]
    _snapshot: Snapshot = field(repr=False)
    _options: Options = field(repr=False)
    _relations: Relations = field(repr=False)
    _state: State = field(repr=False)

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """Return what translation has to say, each thing once, the worst first; made when first asked for."""
        return tuple(sorted(set(self.notes()), key=by_severity_then_object))

    def tables(self) -> Mapping[str, Mapping[Any, tuple[Finding, ...]]]:
        """Return the findings as they are kept, by step and key; what did not change is the same object as before."""
        return self._state.findings

    def notes(self) -> Iterator[Finding]:
        """Yield the findings as they come, one perhaps twice: for who does not need their order."""
        for of_step in self._state.findings.values():
            for items in of_step.values():
                yield from items


def findings_of(translation: Translation) -> tuple[Finding, ...]:
    """Return a translation's findings (those of decoding are `Snapshot.problems`)."""
    return translation.findings


def translate(
    snapshot: Snapshot,
    options: Options = DEFAULTS,
    since: Translation | None = None,
    changed: frozenset[Ref] = frozenset(),
) -> Translation:
    """Translate the whole world; with `since`, at the cost of what changed.

    `changed` must name every object in which `snapshot` differs from the one of `since`. The result is the same as
    without `since`, except that after an internal error last good routes stay in force (D4).
    """
    if since is None or since._options != options:  # noqa: SLF001 - its own class
        fresh = _advance(snapshot, options, None, refs(snapshot))
        return fresh if since is None else _compared(fresh, since)
    return _advance(snapshot, options, since, changed)


def _advance(snapshot: Snapshot, options: Options, since: Translation | None, changed: frozenset[Ref]) -> Translation:
    since = since or Translation(Mesh(trust=_trust(options)), frozenset(), frozenset(), EMPTY, options, {}, State())
    mesh, state = since.mesh, since._state  # noqa: SLF001 - its own class
    relations, dirty = updated(since._relations, since._snapshot, snapshot, changed)  # noqa: SLF001
    run = Run(STEPS, state)
    universes = {step.universe: _universe(step.universe, snapshot, relations) for step in STEPS}
    differing = run.walk(View(snapshot, relations, run.parts, options), universes, dirty)
    made_services, service_keys = _services(mesh, run.parts, differing["routed"] | differing["callers"])
    made_workloads, workload_keys = _workloads(mesh, state, run.parts, differing["groups"])
    return Translation(
        replace(mesh, services=made_services, workloads=made_workloads),
        service_keys,
        workload_keys,
        snapshot,
        options,
        relations,
        run.state(),
    )


def _universe(table: str, snapshot: Snapshot, relations: Relations) -> Mapping[Any, Any]:
    found: Mapping[Any, Any] = getattr(snapshot, table) if hasattr(snapshot, table) else relations.get(table, {})
    return found


def _trust(options: Options) -> Trust:
    return Trust(options.trust_domain, tuple(sorted(options.federated_domains)), options.bundle)


def _services(
    mesh: Mesh, parts: Mapping[str, Draft[Any, Any]], differing: set[Key]
) -> tuple[Mapping[Key, Service], frozenset[Key]]:
    """Put routes and callers together for each Service of which one of them differs."""
    draft: Draft[Key, Service] = Draft(mesh.services)
    for key in differing:
        routed: Service | None = parts["routed"].get(key)
        if routed is None:
            draft.drop(key)
        else:
            draft.put(key, replace(routed, callers=parts["callers"].get(key)))
    return draft.frozen(ordered=True), frozenset(
        key for key in differing if draft.get(key) is not None or key in mesh.services
    )


def _workloads(
    mesh: Mesh, state: State, parts: Mapping[str, Draft[Any, Any]], owners: set[Key]
) -> tuple[Mapping[Key, Workload], frozenset[Key]]:
    """Replace the workloads of each owner whose group differs."""
    draft: Draft[Key, Workload] = Draft(mesh.workloads)
    differing: set[Key] = set()
    before = state.parts.get("groups", {})
    gone = {workload.key for owner in owners for workload in before.get(owner, Group()).workloads}
    for owner in owners:
        for workload in (parts["groups"].get(owner) or Group()).workloads:
            gone.discard(workload.key)
            if mesh.workloads.get(workload.key) != workload:
                draft.put(workload.key, workload)
                differing.add(workload.key)
    for key in gone:
        draft.drop(key)
    return draft.frozen(ordered=True), frozenset(differing | gone)


def _compared(fresh: Translation, since: Translation) -> Translation:
    """Share with `since` what is equal, after a translation of everything (the options changed)."""
    services_, service_keys = _shared(since.mesh.services, fresh.mesh.services)
    workloads_, workload_keys = _shared(since.mesh.workloads, fresh.mesh.workloads)
    mesh = replace(fresh.mesh, services=services_, workloads=workloads_)
    return replace(fresh, mesh=mesh, services=service_keys, workloads=workload_keys)


def _shared(old: Mapping[Key, V], new: Mapping[Key, V]) -> tuple[Mapping[Key, V], frozenset[Key]]:
    same = {key for key, item in new.items() if key in old and old[key] == item}
    kept = {key: old[key] if key in same else item for key, item in new.items()}
    return MappingProxyType(kept), frozenset((old.keys() | new.keys()) - same)
