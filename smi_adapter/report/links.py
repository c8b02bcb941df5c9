"""Which nodes of the Mesh an object led to, and which objects refer to it: kept up to date at the cost of a change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from smi_adapter.findings import Ref
from smi_adapter.mesh import Key, Match, Service, Workload
from smi_adapter.smi.objects import ACCESS_GROUP, SPECS_GROUP, IdentitySubject, TrafficSplit, TrafficTarget


class Links:
    """The relations between objects and what was made of them."""

    def __init__(self) -> None:
        self.roots: dict[Ref, set[Key]] = {}
        """The Services that a split routes."""
        self.doors: dict[Ref, dict[Key, frozenset[str]]] = {}
        """The workloads that a target opens, each with the identities that it lets in."""
        self.users: dict[Ref, set[Ref]] = {}
        """The splits and targets that refer to a group, a route or a binding."""

    def object_changed(self, ref: Ref, before: object, after: object) -> None:
        """Take note of an object that may refer to others."""
        old, new = _named_by(before), _named_by(after)
        for name in old - new:
            users = self.users[name]
            users.discard(ref)
            if not users:
                del self.users[name]
        for name in new - old:
            self.users.setdefault(name, set()).add(ref)

    def service_changed(self, key: Key, before: Service | None, after: Service | None) -> set[Ref]:
        """Take note of a Service; return the objects that lead to something else in it than before.

        That is its routes, and who may call it. Endpoints come and go by themselves.
        """
        old, new = set(_of_service(before)), set(_of_service(after))
        was, now = ({ref for ref, part in nodes if not isinstance(part, Match)} for nodes in (old, new))
        for ref in was - now:
            roots = self.roots[ref]
            roots.discard(key)
            if not roots:
                del self.roots[ref]
        for ref in now - was:
            self.roots.setdefault(ref, set()).add(key)
        return {ref for ref, _ in old ^ new}

    def workload_changed(self, key: Key, before: Workload | None, after: Workload | None) -> set[Ref]:
        """Take note of a workload; return the objects that lead to something else in it than before."""
        old, new = set(_of_workload(before)), set(_of_workload(after))
        was, now = _admitted(before), _admitted(after)
        for ref in was.keys() - now.keys():
            doors = self.doors[ref]
            doors.pop(key, None)
            if not doors:
                del self.doors[ref]
        for ref, identities in now.items():
            self.doors.setdefault(ref, {})[key] = identities
        return {ref for ref, _ in old ^ new}


def _of_service(service: Service | None) -> Iterator[tuple[Ref, Any]]:
    for port in service.ports if service is not None else ():
        for route in port.routes:
            if route.origin is not None and service is not None:
                yield route.origin, (port.number, port.protocol, route, service.callers)
                yield from _origins(route.matches)


def _of_workload(workload: Workload | None) -> Iterator[tuple[Ref, Any]]:
    for port in workload.ports if workload is not None else ():
        for rule in port.rules:
            yield rule.origin, (port.number, port.protocol, rule)
            yield from _origins(rule.matches)


def _admitted(workload: Workload | None) -> dict[Ref, frozenset[str]]:
    found: dict[Ref, set[str]] = {}
    for port in workload.ports if workload is not None else ():
        for rule in port.rules:
            found.setdefault(rule.origin, set()).update(principal.identity for principal in rule.principals)
    return {ref: frozenset(identities) for ref, identities in found.items()}


def _origins(matches: Iterable[Match] | None) -> Iterator[tuple[Ref, Match]]:
    for match in matches or ():
        if match.origin is not None:
            yield match.origin, match


def _named_by(smi: object) -> set[Ref]:
    """Return the groups, routes and bindings that a split or target names."""
    if isinstance(smi, TrafficSplit):
        return {Ref("HTTPRouteGroup", smi.meta.namespace, name, SPECS_GROUP) for name in smi.matches}
    if not isinstance(smi, TrafficTarget):
        return set()
    namespace = smi.meta.namespace
    rules = {Ref(rule.kind, namespace, rule.name, SPECS_GROUP) for rule in smi.rules}
    subjects: tuple[IdentitySubject, ...] = (smi.destination, *smi.sources)
    return rules | {
        Ref(subject.kind, subject.namespace or namespace, subject.name, ACCESS_GROUP)
        for subject in subjects
        if subject.kind == "IdentityBinding"
    }
