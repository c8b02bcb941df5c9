"""What cases write down instead of manifests: SMI objects without a version, and the Services beside them.

A case is written once; `render` turns it into the shape of each served version. Fields have the names of the newest
version. Whatever a version cannot say (headers in specs v1alpha1, a port of a target in access v1alpha3) is refused
by `render`, so a case can't silently test something else there.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeAlias

Weight: TypeAlias = int | float | str
Labels: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Versions:
    """The versions of the three groups that belong together in one run of a case."""

    split: str
    access: str
    specs: str


# Which version of a group goes with which: the compatibility lines at the head of the documents, the newest first.
_ACCESS_SPECS = {"v1alpha1": "v1alpha1", "v1alpha2": "v1alpha3", "v1alpha3": "v1alpha4", "v1alpha4": "v1alpha4"}
_SPECS_ACCESS = {
    "v1alpha1": ("v1alpha1",),
    "v1alpha2": ("v1alpha1",),
    "v1alpha3": ("v1alpha2",),
    "v1alpha4": ("v1alpha4", "v1alpha3"),
}


def versions_for(group: str, version: str, served: Collection[tuple[str, str]] = ()) -> Versions:
    """Return the versions to use together when `version` of `group` (split, access or specs) is tested.

    Of two versions that go with it, the one that is among those `served` is taken (pairs of a group and a version).
    """
    if group == "access":
        return Versions(version, version, _ACCESS_SPECS[version])
    # A split of v1alpha1 or v1alpha2 refers to no routes; the access objects around it are those of its time.
    fitting = _SPECS_ACCESS[version]
    access = next((one for one in fitting if ("access.smi-spec.io", one) in served), fitting[0])
    return Versions(version, access, version)


@dataclass(frozen=True, slots=True)
class Obj:
    """What all objects have. `namespace` empty: the namespace that the case was given."""

    name: str
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of a Service; `protocol` is http, tcp or udp."""

    port: int
    target: int = 0
    name: str = ""
    protocol: str = "http"


@dataclass(frozen=True, slots=True)
class Service(Obj):
    """A Service; `kind` is ClusterIP, NodePort, LoadBalancer or Headless."""

    selector: Labels = ()
    ports: tuple[ServicePort, ...] = ()
    kind: str = "ClusterIP"


@dataclass(frozen=True, slots=True)
class Split(Obj):
    """A TrafficSplit; `matches` None: the field is left out. A weight is written as it stands here."""

    service: str = ""
    backends: tuple[tuple[str, Weight], ...] = ()
    matches: tuple[str, ...] | None = None
    annotations: Labels = ()


@dataclass(frozen=True, slots=True)
class Match:
    """One match of an HTTPRouteGroup; None leaves a field out."""

    name: str
    path: str | None = None
    methods: tuple[str, ...] | None = None
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Routes(Obj):
    """An HTTPRouteGroup."""

    matches: tuple[Match, ...] = ()
    headers_as_list: bool | None = None


@dataclass(frozen=True, slots=True)
class TcpRoute(Obj):
    """A TCPRoute; `ports` None leaves them out."""

    ports: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class UdpRoute(Obj):
    """A UDPRoute; `ports` None leaves them out."""

    ports: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """A source or destination of a target; `namespace` None leaves the field out."""

    name: str
    namespace: str | None = ""
    kind: str = "ServiceAccount"
    group: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a target; no `matches`: all of the group."""

    name: str
    kind: str = "HTTPRouteGroup"
    matches: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Target(Obj):
    """A TrafficTarget; None leaves a field out."""

    destination: Subject | None = None
    sources: tuple[Subject, ...] | None = ()
    rules: tuple[Rule, ...] | None = ()
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Binding(Obj):
    """An IdentityBinding."""

    service_account: str | None = None
    selector: Labels | None = None
    spiffe: tuple[str, ...] | None = None
