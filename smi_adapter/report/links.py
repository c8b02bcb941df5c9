"""Which nodes of the Mesh an object led to, and which objects refer to it: kept up to date at the cost of a change."""

from __future__ import annotations

from smi_adapter.findings import Ref
from smi_adapter.mesh import AccessRule, Key, Route, Service, Workload
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
        was, now = _routes(before), _routes(after)
        for ref in was.keys() - now.keys():
            roots = self.roots[ref]
            roots.discard(key)
            if not roots:
                del self.roots[ref]
        for ref in now.keys() - was.keys():
            self.roots.setdefault(ref, set()).add(key)
        if before is not None and after is not None and before.callers != after.callers:
            return {*was, *now}
        return {ref for ref in was.keys() | now.keys() if was.get(ref) != now.get(ref)}

    def workload_changed(self, key: Key, before: Workload | None, after: Workload | None) -> set[Ref]:
        """Take note of a workload; return the objects that lead to something else in it than before."""
        was, now = _rules(before), _rules(after)
        for ref in was.keys() - now.keys():
            doors = self.doors[ref]
            doors.pop(key, None)
            if not doors:
                del self.doors[ref]
        changed = {ref for ref in was.keys() | now.keys() if was.get(ref) != now.get(ref)}
        for ref in changed & now.keys():
            admitted = (principal.identity for _, rule in now[ref] for principal in rule.principals)
            self.doors.setdefault(ref, {})[key] = frozenset(admitted)
        return changed


# Lists of what lies in a node, by origin: to compare two of them stops at what they share, object for object.


def _routes(service: Service | None) -> dict[Ref, list[tuple[int, Route]]]:
    found: dict[Ref, list[tuple[int, Route]]] = {}
    for port in service.ports if service is not None else ():
        for route in port.routes:
            if route.origin is not None:
                found.setdefault(route.origin, []).append((port.number, route))
    return found


def _rules(workload: Workload | None) -> dict[Ref, list[tuple[int, AccessRule]]]:
    found: dict[Ref, list[tuple[int, AccessRule]]] = {}
    for port in workload.ports if workload is not None else ():
        for rule in port.rules:
            found.setdefault(rule.origin, []).append((port.number, rule))
    return found


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
