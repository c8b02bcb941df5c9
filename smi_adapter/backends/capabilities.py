"""What the selected backend cannot do is taken out of the Mesh before it renders, and the user is told.

This is the core's half of the backend contract: between translate and render, `supported` compares what the Mesh uses
with what the backend claims. A backend never sees what it did not claim, so that a new Feature cannot be rendered by
accident into something that it does not mean. Nothing that is taken out opens anything:

- traffic: a match or route that the backend lacks is left out, and its requests go on to the root Service;
- access: what the backend lacks is not granted. Access rules only ever add (semantics.md T2), so one rule less is one
  permission less. Audit without audit is enforcement;
- a backend without any access feature configures no workload's door. It gets no workloads at all, and each object
  that asks for access is an error: somebody else decides there who may call whom (docs/adr/0017).

Like translation it is a pure function of the whole Mesh that costs only what changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import TypeAlias, TypeVar

from smi_adapter.backends import Backend
from smi_adapter.findings import Finding, Ref, Severity, by_severity_then_object, finding
from smi_adapter.mesh import (
    AccessMode,
    AccessRule,
    Feature,
    InboundPort,
    Key,
    Mesh,
    Protocol,
    Route,
    Service,
    ServicePort,
    WeightedTarget,
    Workload,
    match_features,
    service_features,
    workload_features,
)

Lacks: TypeAlias = frozenset[tuple[Ref, Feature]]
"""Objects, each with a Feature that it asks for and the backend has not."""

_V = TypeVar("_V")

_SPLITS: Mapping[Protocol, Feature] = MappingProxyType(
    {Protocol.HTTP: Feature.HTTP_SPLIT, Protocol.TCP: Feature.TCP_SPLIT, Protocol.UDP: Feature.UDP_SPLIT}
)


def _no_lacks() -> Mapping[Key, Lacks]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Supported:
    """The part of a Mesh that a backend can do, what to tell about the rest, and what each key lacks."""

    mesh: Mesh
    findings: tuple[Finding, ...] = ()
    service_lacks: Mapping[Key, Lacks] = field(default_factory=_no_lacks)
    workload_lacks: Mapping[Key, Lacks] = field(default_factory=_no_lacks)


def supported(
    mesh: Mesh,
    backend: Backend,
    since: Supported | None = None,
    services: Iterable[Key] = (),
    workloads: Iterable[Key] = (),
) -> Supported:
    """Return the Mesh without what the backend lacks, with one finding for each object that asked for it.

    With `since`, the answer for the same backend's last Mesh, only `services` and `workloads` are looked at again;
    they must name each key that was added, changed or removed. What lacks nothing is the same value as in `mesh`.
    """
    has = backend.features
    if has >= frozenset(Feature):
        return Supported(mesh)
    if since is None:
        since, services, workloads = Supported(Mesh()), mesh.services, mesh.workloads
    kept_services, service_lacks = _again(
        (since.mesh.services, since.service_lacks), mesh.services, services, partial(_service, has=has)
    )
    kept_workloads, workload_lacks = _again(
        (since.mesh.workloads, since.workload_lacks), mesh.workloads, workloads, partial(_workload, has=has)
    )
    if not _guards(has):
        kept_workloads = {}
    return Supported(
        replace(mesh, services=_sorted(kept_services), workloads=_sorted(kept_workloads)),
        tuple(_findings(backend, frozenset().union(*service_lacks.values(), *workload_lacks.values()))),
        MappingProxyType(service_lacks),
        MappingProxyType(workload_lacks),
    )


def _guards(has: frozenset[Feature]) -> bool:
    return any(feature.is_access for feature in has)


def _sorted(values: dict[Key, _V]) -> Mapping[Key, _V]:
    return MappingProxyType(dict(sorted(values.items(), key=lambda item: item[0])))


def _again(
    last: tuple[Mapping[Key, _V], Mapping[Key, Lacks]],
    inputs: Mapping[Key, _V],
    keys: Iterable[Key],
    limit: Callable[[_V], tuple[_V, Lacks]],
) -> tuple[dict[Key, _V], dict[Key, Lacks]]:
    """Return the last outcome with `keys` computed again; a key that is not in `inputs` is gone."""
    kept, lacks = dict(last[0]), dict(last[1])
    for key in keys:
        kept.pop(key, None)
        lacks.pop(key, None)
        if key in inputs:
            kept[key], lacking = limit(inputs[key])
            if lacking:
                lacks[key] = lacking
    return kept, lacks


def _service(service: Service, has: frozenset[Feature]) -> tuple[Service, Lacks]:
    lacks = frozenset((ref, feature) for feature, ref in service_features(service) if feature not in has)
    if not lacks:
        return service, lacks
    return replace(service, ports=tuple(_service_port(service, port, has) for port in service.ports)), lacks


def _service_port(service: Service, port: ServicePort, has: frozenset[Feature]) -> ServicePort:
    """Return the port with the routes that the backend can do; the last one matches everything, as always."""
    routes: list[Route] = []
    for route in port.routes:
        if route.origin is None or route.matches is None:
            if route.origin is None or _SPLITS[port.protocol] in has:
                routes.append(route)
            continue
        # A match that loses one of its parts would match more than its author wrote: all of it goes.
        matches = tuple(match for match in route.matches if has.issuperset(match_features(match)))
        if matches and _SPLITS[port.protocol] in has:
            routes.append(replace(route, matches=matches))
    if not routes or routes[-1].matches is not None:
        routes.append(Route((WeightedTarget(service.key, port.number, 1),)))
    return replace(port, routes=tuple(routes))


def _workload(workload: Workload, has: frozenset[Feature]) -> tuple[Workload, Lacks]:
    lacks = frozenset((ref, feature) for feature, ref in workload_features(workload) if feature not in has)
    if not lacks:
        return workload, lacks
    audits = workload.mode is not AccessMode.AUDIT or Feature.ACCESS_AUDIT in has
    ports = tuple(replace(port, rules=tuple(_rules(port, has))) for port in workload.ports)
    return replace(workload, ports=ports, mode=workload.mode if audits else AccessMode.ENFORCE), lacks


def _rules(port: InboundPort, has: frozenset[Feature]) -> Iterator[AccessRule]:
    """Yield what can still be granted: a rule less, or a principal less, is a permission less."""
    kind = Feature.ACCESS_TCP if port.protocol is Protocol.TCP else Feature.ACCESS_HTTP
    if not has >= {Feature.ACCESS_IDENTITY, kind}:
        return
    for rule in port.rules:
        principals = tuple(who for who in rule.principals if who.addresses is None or Feature.ACCESS_ADDRESS in has)
        if principals:
            yield replace(rule, principals=principals)


def _findings(backend: Backend, lacks: Lacks) -> list[Finding]:
    by_object: dict[Ref, set[Feature]] = {}
    for ref, feature in lacks:
        by_object.setdefault(ref, set()).add(feature)
    found = [_finding(backend, ref, features) for ref, features in by_object.items()]
    return sorted(found, key=by_severity_then_object)


def _finding(backend: Backend, ref: Ref, features: set[Feature]) -> Finding:
    what = ", ".join(feature.value for feature in Feature if feature in features)
    lacks = f"the backend {backend.name} has no {what}"
    if any(feature.is_access for feature in features):
        outcome = (
            "what needs it is not granted, and audit becomes enforcement"
            if _guards(backend.features)
            else "it renders no access rules, so neither this grant nor the closing of everything else is enforced"
        )
        return finding("SMI0601", ref, "spec", f"{lacks}; {outcome}", severity=Severity.ERROR)
    place = "spec.backends" if features & set(_SPLITS.values()) else "spec.matches"
    return finding("SMI0601", ref, place, f"{lacks}; those requests go to the root Service")
