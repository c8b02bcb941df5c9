"""Meshes to try backends with: by hand, one for each Feature, and at random.

Backends take a Mesh and nothing else, so their tests start here and not at YAML.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from hypothesis import strategies as st

from smi_adapter.findings import Ref
from smi_adapter.mesh import (
    AccessMode,
    AccessRule,
    Anchor,
    Endpoint,
    Feature,
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
    WeightedTarget,
    Workload,
)

SPLIT: Final = Ref("TrafficSplit", "shop", "canary", "split.smi-spec.io")
OTHER_SPLIT: Final = Ref("TrafficSplit", "shop", "mobile", "split.smi-spec.io")
GROUP: Final = Ref("HTTPRouteGroup", "shop", "routes", "specs.smi-spec.io")
TARGET: Final = Ref("TrafficTarget", "shop", "buyers", "access.smi-spec.io")
DEPLOYMENT: Final = Ref("Deployment", "shop", "web-v1", "apps")
BUYER: Final = "spiffe://cluster.local/ns/shop/sa/buyer"
STORE: Final = "spiffe://cluster.local/ns/shop/sa/store"


def start(text: str) -> Pattern:
    return Pattern(text, Anchor.START)


def whole(text: str) -> Pattern:
    return Pattern(text, Anchor.WHOLE)


def to(**weights: int) -> tuple[WeightedTarget, ...]:
    """Return targets of namespace `shop`, port 80: `to(web_v1=90, web_v2=10)`."""
    return tuple(WeightedTarget(("shop", name.replace("_", "-")), 80, weight) for name, weight in weights.items())


def split(targets: tuple[WeightedTarget, ...], *matches: Match, origin: Ref = SPLIT, port: int = 80) -> Route:
    moved = tuple(replace(target, port=port) for target in targets)
    return Route(moved, matches or None, origin)


def service(
    name: str, *routes: Route, protocol: Protocol = Protocol.HTTP, port: int = 80, namespace: str = "shop"
) -> Service:
    """Return a Service with one port; without a route that always matches, its own endpoints come last."""
    key = (namespace, name)
    if not routes or routes[-1].matches is not None:
        routes = (*routes, Route((WeightedTarget(key, port, 1),)))
    endpoint = Endpoint("10.0.0.9", 8000 + port, STORE, f"{name}-0")
    return Service(key, (ServicePort(port, protocol, routes, (endpoint,), (STORE,)),), origin=Ref("Service", *key))


def workload(*rules: AccessRule, protocol: Protocol = Protocol.HTTP, mode: AccessMode = AccessMode.ENFORCE) -> Workload:
    return Workload(
        ("shop", "web-v1"),
        STORE,
        mode,
        (Instance("web-v1-0", "10.0.0.9", ""),),
        (InboundPort(8080, protocol, rules),),
        origin=DEPLOYMENT,
    )


def grant(*matches: Match, addresses: tuple[str, ...] | None = None) -> AccessRule:
    return AccessRule((Principal(BUYER, addresses),), matches or None, TARGET, "rules[0] HTTPRouteGroup routes")


def mesh(*services: Service, workloads: tuple[Workload, ...] = ()) -> Mesh:
    return Mesh(_frozen({s.key: s for s in services}), MappingProxyType({w.key: w for w in workloads}))


def _frozen(services: dict[Key, Service]) -> Mapping[Key, Service]:
    return MappingProxyType(services)


LEAVES: Final = (service("web-v1"), service("web-v2"))


def _root(*routes: Route, protocol: Protocol = Protocol.HTTP) -> Mesh:
    leaves = tuple(service(leaf.key[1], protocol=protocol) for leaf in LEAVES)
    return mesh(service("web", *routes, protocol=protocol), *leaves)


_CANARY: Final = to(web_v1=90, web_v2=10)
_PLAIN: Final = _root()
_TCP: Final = Protocol.TCP


def _guarded(*rules: AccessRule, protocol: Protocol = Protocol.HTTP, mode: AccessMode = AccessMode.ENFORCE) -> Mesh:
    return mesh(*LEAVES, workloads=(workload(*rules, protocol=protocol, mode=mode),))


EXAMPLES: Final[Mapping[Feature, tuple[Mesh, Mesh, Ref]]] = MappingProxyType(
    {
        # feature: (a mesh that uses it, the nearest one that does not, the object that asks for it)
        Feature.HTTP_SPLIT: (_root(split(_CANARY)), _PLAIN, SPLIT),
        Feature.TCP_SPLIT: (_root(split(_CANARY), protocol=_TCP), _root(protocol=_TCP), SPLIT),
        Feature.UDP_SPLIT: (_root(split(_CANARY), protocol=Protocol.UDP), _root(protocol=Protocol.UDP), SPLIT),
        Feature.MATCH_PATH: (
            _root(split(_CANARY, Match(start("/user"), origin=GROUP))),
            _root(split(_CANARY, Match(origin=GROUP))),
            SPLIT,
        ),
        Feature.MATCH_METHOD: (
            _root(split(_CANARY, Match(methods=("GET", "HEAD"), origin=GROUP))),
            _root(split(_CANARY, Match(origin=GROUP))),
            SPLIT,
        ),
        Feature.MATCH_HEADER: (
            _root(split(_CANARY, Match(headers=(HeaderMatch("x-beta", whole("yes")),), origin=GROUP))),
            _root(split(_CANARY, Match(origin=GROUP))),
            SPLIT,
        ),
        Feature.ACCESS_IDENTITY: (_guarded(grant()), _guarded(), TARGET),
        Feature.ACCESS_HTTP: (_guarded(grant(Match(start("/buy"), origin=GROUP))), _guarded(), TARGET),
        Feature.ACCESS_TCP: (_guarded(grant(), protocol=_TCP), _guarded(protocol=_TCP), TARGET),
        Feature.ACCESS_ADDRESS: (_guarded(grant(addresses=("10.0.0.7",))), _guarded(), TARGET),
        Feature.ACCESS_AUDIT: (_guarded(mode=AccessMode.AUDIT), _guarded(), DEPLOYMENT),
    }
)


# --------------------------------------------------------------------------------------------------------- at random

_NAMES: Final = ("web", "web-v1", "web-v2", "api")
_PORTS: Final = ((80, Protocol.HTTP), (9000, Protocol.TCP), (5353, Protocol.UDP))
_PATHS: Final = st.none() | st.sampled_from(
    (start("/user"), start("/user(/.*)?$"), start(".*"), whole("/order"), start("/v[0-9]+"), start("/a|/b"))
)
_HEADERS: Final = st.lists(
    st.builds(
        HeaderMatch, st.sampled_from(("x-beta", "user-agent")), st.sampled_from((whole("yes"), whole(".*Fox.*")))
    ),
    max_size=2,
    unique_by=lambda header: header.name,
).map(tuple)
_MATCHES: Final = st.builds(
    Match,
    path=_PATHS,
    methods=st.sampled_from(((), ("GET",), ("GET", "POST"), ("PURGE",))),
    headers=_HEADERS,
    origin=st.just(GROUP),
    label=st.sampled_from(("a", "b")),
)


@st.composite
def _routes(draw: st.DrawFn, key: Key, port: int, protocol: Protocol) -> tuple[Route, ...]:
    def targets() -> tuple[WeightedTarget, ...]:
        names = draw(st.lists(st.sampled_from(_NAMES), max_size=3, unique=True))
        return tuple(
            WeightedTarget((key[0], name), port, draw(st.integers(1, 2**31 - 1) | st.integers(1, 100)))
            for name in names
        )

    routes = [
        Route(targets(), tuple(draw(st.lists(_MATCHES, min_size=1, max_size=3))), origin)
        for origin in draw(st.sampled_from(((), (SPLIT,), (SPLIT, OTHER_SPLIT))))
        if protocol is Protocol.HTTP
    ]
    last = Route(targets(), None, SPLIT) if draw(st.booleans()) else Route((WeightedTarget(key, port, 1),))
    return (*routes, last)


@st.composite
def _services(draw: st.DrawFn) -> Service:
    key = (draw(st.sampled_from(("shop", "lab"))), draw(st.sampled_from(_NAMES)))
    ports = draw(st.lists(st.sampled_from(_PORTS), unique=True, max_size=3))
    return Service(
        key,
        tuple(
            ServicePort(
                number,
                protocol,
                draw(_routes(key, number, protocol)),
                draw(st.sampled_from(((), (Endpoint("10.0.0.9", 8080, STORE, "p"),), (Endpoint("10.0.0.8", 80),)))),
                (STORE,),
            )
            for number, protocol in sorted(ports, key=lambda port: port[0])
        ),
        callers=draw(st.none() | st.sets(st.sampled_from((BUYER, STORE))).map(frozenset)),
        origin=Ref("Service", *key),
    )


@st.composite
def _workloads(draw: st.DrawFn) -> Workload:
    key = (draw(st.sampled_from(("shop", "lab"))), draw(st.sampled_from(_NAMES)))
    principals = st.builds(Principal, st.sampled_from((BUYER, STORE)), st.none() | st.just(("10.0.0.7",)))
    http = st.none() | st.lists(_MATCHES, min_size=1, max_size=2).map(tuple)

    def rules(protocol: Protocol) -> tuple[AccessRule, ...]:
        matches: st.SearchStrategy[tuple[Match, ...] | None] = http if protocol is Protocol.HTTP else st.none()
        rule = st.builds(AccessRule, st.tuples(principals), matches, st.just(TARGET), st.sampled_from(("r0", "r1")))
        return tuple(draw(st.lists(rule, max_size=2)))

    ports = draw(st.lists(st.sampled_from(_PORTS[:2]), unique=True, max_size=2))
    return Workload(
        key,
        STORE,
        draw(st.sampled_from(AccessMode)),
        (Instance(f"{key[1]}-0", "10.0.0.9", ""),),
        tuple(InboundPort(number, protocol, rules(protocol)) for number, protocol in sorted(ports, key=lambda p: p[0])),
        origin=Ref("Deployment", *key, "apps"),
    )


@st.composite
def meshes(draw: st.DrawFn) -> Mesh:
    """Draw a small Mesh with everything in it, sorted as translation makes it."""
    services = sorted(draw(st.lists(_services(), max_size=4, unique_by=lambda s: s.key)), key=lambda s: s.key)
    workloads = sorted(draw(st.lists(_workloads(), max_size=3, unique_by=lambda w: w.key)), key=lambda w: w.key)
    return mesh(*services, workloads=tuple(workloads))


def reversed_mesh(value: Mesh) -> Mesh:
    """Return the same Mesh with its mappings in another order."""
    return replace(
        value,
        services=MappingProxyType(dict(reversed(list(value.services.items())))),
        workloads=MappingProxyType(dict(reversed(list(value.workloads.items())))),
    )
