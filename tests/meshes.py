"""Small Meshes for tests, made by hand: no translator is involved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from smi_adapter.findings import Ref
from smi_adapter.mesh import (
    AccessMode,
    AccessRule,
    Anchor,
    Endpoint,
    HeaderMatch,
    InboundPort,
    Instance,
    Key,
    Match,
    Mesh,
    Pattern,
    Principal,
    Protocol,
    Route,
    Service,
    ServicePort,
    Trust,
    WeightedTarget,
    Workload,
)

NAMESPACE = "shop"
DOMAIN = "cluster.local"
HTTP, TCP, UDP = Protocol.HTTP, Protocol.TCP, Protocol.UDP
SPLIT = Ref("TrafficSplit", NAMESPACE, "split", "split.smi-spec.io")
GROUP = Ref("HTTPRouteGroup", NAMESPACE, "group", "specs.smi-spec.io")


def key(name: str) -> Key:
    return (NAMESPACE, name)


def spiffe(account: str, namespace: str = NAMESPACE) -> str:
    return f"spiffe://{DOMAIN}/ns/{namespace}/sa/{account}"


def pattern(text: str, anchor: Anchor = Anchor.START) -> Pattern:
    return Pattern(text, anchor)


def match(
    path: str | None = None,
    *methods: str,
    headers: Mapping[str, str] | None = None,
    anchor: Anchor = Anchor.START,
    label: str = "m",
) -> Match:
    filters = tuple(HeaderMatch(name, Pattern(text, Anchor.WHOLE)) for name, text in sorted((headers or {}).items()))
    return Match(None if path is None else Pattern(path, anchor), methods, filters, GROUP, label)


def shares(weights: Mapping[str, int], port: int = 80) -> tuple[WeightedTarget, ...]:
    return tuple(WeightedTarget(key(name), port, weight) for name, weight in sorted(weights.items()) if weight)


def split(weights: Mapping[str, int], matches: Iterable[Match] | None = None, port: int = 80) -> Route:
    return Route(shares(weights, port), None if matches is None else tuple(matches), SPLIT)


def service(
    name: str,
    endpoints: Iterable[Endpoint] = (),
    *,
    routes: tuple[Route, ...] | None = None,
    port: int = 80,
    protocol: Protocol = HTTP,
    callers: Iterable[str] | None = None,
    identities: Iterable[str] | None = None,
    addresses: tuple[str, ...] = (),
) -> Service:
    """Return a Service of one port; without routes it leads to its own endpoints."""
    members = tuple(endpoints)
    who = {item.identity for item in members if item.identity} if identities is None else set(identities)
    own = (Route((WeightedTarget(key(name), port, 1),)),)
    return Service(
        key=key(name),
        ports=(ServicePort(port, protocol, own if routes is None else routes, members, tuple(sorted(who))),),
        addresses=addresses,
        callers=None if callers is None else frozenset(callers),
        origin=Ref("Service", NAMESPACE, name),
    )


def rule(
    sources: Iterable[str],
    matches: Iterable[Match] | None = None,
    *,
    name: str = "target",
    addresses: tuple[str, ...] | None = None,
    label: str = "rules[0]",
) -> AccessRule:
    return AccessRule(
        tuple(Principal(identity, addresses) for identity in sorted(sources)),
        None if matches is None else tuple(matches),
        Ref("TrafficTarget", NAMESPACE, name, "access.smi-spec.io"),
        label,
    )


def workload(
    name: str,
    ports: Iterable[InboundPort] = (),
    *,
    account: str = "",
    mode: AccessMode = AccessMode.ENFORCE,
    instance: Instance | None = None,
    dial: Mapping[str, str] | None = None,
) -> Workload:
    return Workload(
        key=key(name),
        identity=spiffe(account or name),
        mode=mode,
        instances=(instance or Instance(name, "", ""),),
        ports=tuple(ports),
        dial=tuple((key(service_name), address) for service_name, address in sorted((dial or {}).items())),
        origin=Ref("Deployment", NAMESPACE, name, "apps"),
    )


def mesh(services: Iterable[Service] = (), workloads: Iterable[Workload] = (), bundle: bytes = b"") -> Mesh:
    return Mesh(
        MappingProxyType({item.key: item for item in services}),
        MappingProxyType({item.key: item for item in workloads}),
        Trust(DOMAIN, (), bundle),
    )
