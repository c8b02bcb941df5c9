"""The Mesh: the neutral, frozen middle of the compiler (the IR).

`translate/` makes it, backends render it, `evaluate.py` answers questions about it. It knows no SMI version, no
Kubernetes object and no word of any proxy. Every node that a user caused carries the `Ref` of that object, so that a
backend's finding can name it. Everything is sorted when it is made: equal input, equal Mesh.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import TypeAlias, TypeVar

from smi_adapter.findings import Ref

Key: TypeAlias = tuple[str, str]
"""(namespace, name)"""

_K = TypeVar("_K")
_V = TypeVar("_V")


def _empty() -> Mapping[_K, _V]:
    return MappingProxyType({})


class Protocol(Enum):
    """What a port speaks. HTTP covers HTTP/1.1, HTTP/2 and gRPC: the client's version is kept."""

    HTTP = "http"
    TCP = "tcp"
    UDP = "udp"


class AccessMode(Enum):
    """What happens to a request that no rule allows."""

    ENFORCE = "enforce"
    AUDIT = "audit"
    PERMISSIVE = "permissive"


class Anchor(Enum):
    """How much of a value an RE2 pattern must cover."""

    START = "start"
    WHOLE = "whole"
    SEARCH = "search"


class Feature(Enum):
    """What a backend may or may not be able to do. The ACCESS_ ones are about permission: lacking one closes."""

    HTTP_SPLIT = "HTTP weights"
    TCP_SPLIT = "TCP weights"
    UDP_SPLIT = "UDP weights"
    MATCH_PATH = "split by path"
    MATCH_METHOD = "split by method"
    MATCH_HEADER = "split by header"
    ACCESS_IDENTITY = "access by identity"
    ACCESS_HTTP = "access by path, method and header"
    ACCESS_TCP = "access by TCP port"
    ACCESS_ADDRESS = "access by source address"
    ACCESS_AUDIT = "audit mode"

    @property
    def is_access(self) -> bool:
        """Tell whether lacking it must close rather than open."""
        return self.name.startswith("ACCESS_")


@dataclass(frozen=True, slots=True)
class Pattern:
    """A valid RE2 pattern as its author wrote it, and how much of the value it must cover."""

    text: str
    anchor: Anchor


@dataclass(frozen=True, slots=True)
class HeaderMatch:
    """A header (lower-case name) of which at least one value must match."""

    name: str
    pattern: Pattern


@dataclass(frozen=True, slots=True)
class Match:
    """All parts must hold. `path` None: any path. `methods` empty: any. The path is meant without its query.

    `origin` and `label` name the HTTPRouteGroup and the match in it.
    """

    path: Pattern | None = None
    methods: tuple[str, ...] = ()
    headers: tuple[HeaderMatch, ...] = ()
    origin: Ref | None = None
    label: str = ""


@dataclass(frozen=True, slots=True)
class WeightedTarget:
    """A share of a route: `weight` is at least 1, and the weights of one route sum to at most 2**32 - 1."""

    service: Key
    port: int
    weight: int


@dataclass(frozen=True, slots=True)
class Route:
    """Requests that satisfy one of `matches` (None: every request) go to `targets`; no target: they get 503."""

    targets: tuple[WeightedTarget, ...]
    matches: tuple[Match, ...] | None = None
    origin: Ref | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A ready address. `identity` is the SPIFFE id that must answer there; "" means it has no proxy: plain text."""

    address: str
    port: int
    identity: str = ""
    pod: str = ""


@dataclass(frozen=True, slots=True)
class ServicePort:
    """A port of a Service: the first route that matches decides, the last one always matches.

    `endpoints` are the Service's own ready ones for this port. `identities` are those of all pods behind the
    Service, ready or not, so that they need not change when readiness does.
    """

    number: int
    protocol: Protocol
    routes: tuple[Route, ...]
    endpoints: tuple[Endpoint, ...] = ()
    identities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Service:
    """Something that can be dialled. `callers`: identities that may call something behind it; None means anybody.

    `addresses` are its virtual IPs (none in no-cluster mode, where each Workload says where it dials).
    """

    key: Key
    ports: tuple[ServicePort, ...]
    addresses: tuple[str, ...] = ()
    callers: frozenset[str] | None = None
    origin: Ref | None = None


@dataclass(frozen=True, slots=True)
class Principal:
    """Who: a SPIFFE id from a verified client certificate and, if not None, one of these source addresses too (B3)."""

    identity: str
    addresses: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class AccessRule:
    """One additive permission. `matches` None: every request or connection (an L4 permission, T4). Never empty.

    `origin` is the TrafficTarget; `rule` names the rule in it, such as `rules[0] HTTPRouteGroup the-routes`.
    """

    principals: tuple[Principal, ...]
    matches: tuple[Match, ...] | None
    origin: Ref
    rule: str = ""


@dataclass(frozen=True, slots=True)
class InboundPort:
    """A port of a workload's application and who may use it; no rule: nobody (unless the mode says otherwise)."""

    number: int
    protocol: Protocol
    rules: tuple[AccessRule, ...] = ()


@dataclass(frozen=True, slots=True)
class Instance:
    """One running copy of a workload. `address`: where it is reached.

    `app_address`: where its application listens; "" if traffic is redirected and that is the pod's own loopback.
    """

    name: str
    address: str
    app_address: str


@dataclass(frozen=True, slots=True)
class Workload:
    """A set of alike pods behind proxies: one identity, one set of inbound rules, one set of services to dial.

    `dial` is used in no-cluster mode only, where a workload is one pod: (service, loopback address) for each Service.
    """

    key: Key
    identity: str
    mode: AccessMode
    instances: tuple[Instance, ...]
    ports: tuple[InboundPort, ...] = ()
    dial: tuple[tuple[Key, str], ...] = ()
    origin: Ref | None = None

    @property
    def direct(self) -> bool:
        """Tell whether the proxy itself binds each address and port, as in no-cluster mode (one instance then)."""
        return any(instance.app_address for instance in self.instances)


@dataclass(frozen=True, slots=True)
class Trust:
    """The trust domain, the domains federated with it and the PEM bundle of their roots (public)."""

    domain: str = "cluster.local"
    federated: tuple[str, ...] = ()
    bundle: bytes = b""


@dataclass(frozen=True, slots=True)
class Mesh:
    """Everything that a proxy fleet has to do."""

    services: Mapping[Key, Service] = field(default_factory=_empty)
    workloads: Mapping[Key, Workload] = field(default_factory=_empty)
    trust: Trust = Trust()


def service_features(service: Service) -> Iterator[tuple[Feature, Ref]]:
    """Yield each Feature that a service's routes use, with the object that asks for it."""
    for port in service.ports:
        for route in port.routes:
            if route.origin is None:
                continue
            yield (
                {
                    Protocol.HTTP: Feature.HTTP_SPLIT,
                    Protocol.TCP: Feature.TCP_SPLIT,
                    Protocol.UDP: Feature.UDP_SPLIT,
                }[port.protocol],
                route.origin,
            )
            for match in route.matches or ():
                for feature in match_features(match):
                    yield feature, route.origin


def match_features(match: Match) -> Iterator[Feature]:
    """Yield each Feature that one match of a route uses."""
    if match.path is not None:
        yield Feature.MATCH_PATH
    if match.methods:
        yield Feature.MATCH_METHOD
    if match.headers:
        yield Feature.MATCH_HEADER


def workload_features(workload: Workload) -> Iterator[tuple[Feature, Ref]]:
    """Yield each Feature that a workload's access rules use, with the object that asks for it."""
    if workload.mode is AccessMode.AUDIT and workload.origin is not None:
        yield Feature.ACCESS_AUDIT, workload.origin
    for port in workload.ports:
        for rule in port.rules:
            yield Feature.ACCESS_IDENTITY, rule.origin
            yield (Feature.ACCESS_TCP if port.protocol is Protocol.TCP else Feature.ACCESS_HTTP), rule.origin
            if any(principal.addresses is not None for principal in rule.principals):
                yield Feature.ACCESS_ADDRESS, rule.origin
