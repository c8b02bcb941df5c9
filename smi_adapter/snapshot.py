"""The Snapshot: one frozen view of everything the translator may look at.

`decode.py` makes it from raw Kubernetes and SMI objects, `translate/` reads it and nothing else. A change makes a new
Snapshot that shares every unchanged value with the old one, so "did this input change" is an identity test.
Only what decides something is kept of a Kubernetes object.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import TypeVar

from smi_adapter.findings import Finding, Ref
from smi_adapter.smi.objects import (
    HTTPRouteGroup,
    IdentityBinding,
    Key,
    Meta,
    TCPRoute,
    TrafficSplit,
    TrafficTarget,
    UDPRoute,
)

_K = TypeVar("_K")
_V = TypeVar("_V")

MODE_ANNOTATION = "smi-adapter.io/access-mode"
"""On a Namespace: `enforce`, `audit` or `permissive` for the destinations of that namespace (T1)."""

API_SERVER = ("default", "kubernetes")
"""The Service by which a cluster knows its API server."""


def _empty() -> Mapping[_K, _V]:
    return MappingProxyType({})


class Profile(Enum):
    """A semantics profile: whose reading of the rows marked in semantics.md counts."""

    SPEC = "spec"
    OSM = "osm"
    TRAEFIK = "traefik"
    NSM = "nsm"


class Mode(Enum):
    """What happens to a request that nothing allows (T1)."""

    ENFORCE = "enforce"
    AUDIT = "audit"
    PERMISSIVE = "permissive"


@dataclass(frozen=True, slots=True)
class Options:
    """What the operator decides for the whole mesh. `bundle`: PEM of the trusted root certificates (public).

    `guarded`: (namespace, name) of the Services of the API server and of the controller, to which no other may lead.
    """

    profile: Profile = Profile.SPEC
    mode: Mode = Mode.ENFORCE
    trust_domain: str = "cluster.local"
    federated_domains: frozenset[str] = frozenset()
    bundle: bytes = b""
    guarded: frozenset[tuple[str, str]] = frozenset({API_SERVER})


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace with its labels and annotations."""

    name: str
    labels: Mapping[str, str] = field(default_factory=_empty)
    annotations: Mapping[str, str] = field(default_factory=_empty)


@dataclass(frozen=True, slots=True)
class ServicePort:
    """A port of a Service. `protocol` is TCP, UDP or SCTP; `target` a container port's number or name."""

    number: int
    name: str = ""
    protocol: str = "TCP"
    app_protocol: str = ""
    target: int | str = 0


@dataclass(frozen=True, slots=True)
class Service:
    """A Service. `addresses` are its cluster IPs; none for a headless one and in no-cluster mode."""

    meta: Meta
    ports: tuple[ServicePort, ...] = ()
    selector: Mapping[str, str] = field(default_factory=_empty)
    addresses: tuple[str, ...] = ()
    type: str = "ClusterIP"

    @property
    def ref(self) -> Ref:
        """Return the object's name for findings."""
        return Ref("Service", self.meta.namespace, self.meta.name)


@dataclass(frozen=True, slots=True)
class SliceEndpoint:
    """One address of an EndpointSlice; `pod` is "" where it belongs to no Pod of the namespace."""

    address: str
    ready: bool = True
    pod: str = ""


@dataclass(frozen=True, slots=True)
class SlicePort:
    """One port of an EndpointSlice: matched to a Service port by name and protocol."""

    name: str
    number: int
    protocol: str = "TCP"


@dataclass(frozen=True, slots=True)
class EndpointSlice:
    """Addresses and ports behind a Service."""

    meta: Meta
    service: str
    ports: tuple[SlicePort, ...] = ()
    endpoints: tuple[SliceEndpoint, ...] = ()


@dataclass(frozen=True, slots=True)
class ContainerPort:
    """A declared port of a container."""

    number: int
    name: str = ""
    protocol: str = "TCP"


@dataclass(frozen=True, slots=True)
class Pod:
    """A Pod. `workload` is the name of what owns it (its Deployment, say; else its own name).

    In a cluster traffic is redirected to the proxy, and the application is on the pod's own loopback: `app_address` is
    "". In no-cluster mode nothing redirects: `app_address` is the loopback address where the application listens,
    `address` the one where its proxy does, and `dial` says at which loopback address it dials each Service.
    """

    meta: Meta
    workload: str
    service_account: str = "default"
    address: str = ""
    ready: bool = True
    ports: tuple[ContainerPort, ...] = ()
    meshed: bool = True
    app_address: str = ""
    dial: Mapping[Key, str] = field(default_factory=_empty)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything, by (namespace, name). `problems` holds what decoding had to say, by object."""

    namespaces: Mapping[str, Namespace] = field(default_factory=_empty)
    services: Mapping[Key, Service] = field(default_factory=_empty)
    slices: Mapping[Key, EndpointSlice] = field(default_factory=_empty)
    pods: Mapping[Key, Pod] = field(default_factory=_empty)
    service_accounts: frozenset[Key] = frozenset()
    splits: Mapping[Key, TrafficSplit] = field(default_factory=_empty)
    route_groups: Mapping[Key, HTTPRouteGroup] = field(default_factory=_empty)
    tcp_routes: Mapping[Key, TCPRoute] = field(default_factory=_empty)
    udp_routes: Mapping[Key, UDPRoute] = field(default_factory=_empty)
    targets: Mapping[Key, TrafficTarget] = field(default_factory=_empty)
    bindings: Mapping[Key, IdentityBinding] = field(default_factory=_empty)
    problems: Mapping[Ref, tuple[Finding, ...]] = field(default_factory=_empty)


EMPTY = Snapshot()
