"""The SMI objects: frozen, free of any API version.

`wire.py` decodes every served version into these and encodes them back; nothing further down the pipeline knows that
versions exist. What a version cannot say is an empty field here. Names follow the SMI specification v0.6.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from smi_adapter.findings import Ref

SPLIT_GROUP = "split.smi-spec.io"
SPECS_GROUP = "specs.smi-spec.io"
ACCESS_GROUP = "access.smi-spec.io"

Key: TypeAlias = tuple[str, str]
"""(namespace, name)"""


NO_PORT = (0,)
"""The `ports` of a route that means no port; also its wire form, which no reader can take for every port."""


def _empty() -> Mapping[str, str]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Meta:
    """The part of an object's metadata that decides something: `created` (RFC 3339) orders conflicting splits (S14)."""

    namespace: str
    name: str
    created: str = ""
    generation: int = 0
    labels: Mapping[str, str] = field(default_factory=_empty)
    annotations: Mapping[str, str] = field(default_factory=_empty)

    @property
    def key(self) -> Key:
        """Return (namespace, name)."""
        return (self.namespace, self.name)


@dataclass(frozen=True, slots=True)
class SplitBackend:
    """One backend Service with its weight in milli-units: `1` is 1000, the v1alpha1 quantity `500m` is 500.

    `weight` is None where the written weight was unusable: that backend is excluded (SMI0105), never rounded.
    """

    service: str
    weight: int | None


@dataclass(frozen=True, slots=True)
class TrafficSplit:
    """Divides the requests to a root Service among backends; `matches` names HTTPRouteGroups of the same namespace."""

    meta: Meta
    service: str
    backends: tuple[SplitBackend, ...]
    matches: tuple[str, ...] = ()
    unknown_matches: tuple[str, ...] = ()  # references of another kind, as `Kind/name`: they match nothing

    @property
    def ref(self) -> Ref:
        """Return the object's name for findings."""
        return Ref("TrafficSplit", self.meta.namespace, self.meta.name, SPLIT_GROUP)


@dataclass(frozen=True, slots=True)
class HTTPMatch:
    """One named match. `methods` empty or holding `*`: any (R5). `path_regex` None: any path (R6). Headers are AND.

    `unusable`: what was written cannot be used (R4, R7). It matches and grants nothing, but its name is known, so that
    a rule which names it beside others is not taken for one that names nothing (T7).
    """

    name: str
    path_regex: str | None = None
    methods: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()  # (name as written, regex), in the order written; a name may repeat
    unusable: bool = False


@dataclass(frozen=True, slots=True)
class HTTPRouteGroup:
    """A named set of HTTP matches."""

    meta: Meta
    matches: tuple[HTTPMatch, ...]

    @property
    def ref(self) -> Ref:
        """Return the object's name for findings."""
        return Ref("HTTPRouteGroup", self.meta.namespace, self.meta.name, SPECS_GROUP)


@dataclass(frozen=True, slots=True)
class TCPRoute:
    """A set of TCP ports; empty means every TCP port (R9). `match_name` is the optional name of the match.

    Where ports were written, but none of them was usable (R11), `ports` is `NO_PORT`: the route means no port then,
    and nobody can take it for every port.
    """

    meta: Meta
    ports: tuple[int, ...] = ()
    match_name: str = ""

    @property
    def closed(self) -> bool:
        """Tell whether the route means no port at all."""
        return self.ports == NO_PORT

    @property
    def ref(self) -> Ref:
        """Return the object's name for findings."""
        return Ref("TCPRoute", self.meta.namespace, self.meta.name, SPECS_GROUP)


@dataclass(frozen=True, slots=True)
class UDPRoute:
    """A set of UDP ports; empty means every UDP port (R9), `NO_PORT` none, as in TCPRoute."""

    meta: Meta
    ports: tuple[int, ...] = ()
    match_name: str = ""

    @property
    def closed(self) -> bool:
        """Tell whether the route means no port at all."""
        return self.ports == NO_PORT

    @property
    def ref(self) -> Ref:
        """Return the object's name for findings."""
        return Ref("UDPRoute", self.meta.namespace, self.meta.name, SPECS_GROUP)


@dataclass(frozen=True, slots=True)
class IdentitySubject:
    """Who: a ServiceAccount or an IdentityBinding. `namespace` "" means the target's own (T10).

    `group` is the API group as written. One that does not fit the kind makes `kind` another one (`Kind.group`), which
    is unknown and so names nobody (B5, T16): nothing has to look at `group` to be safe.
    """

    kind: str
    name: str
    namespace: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True)
class TrafficTargetRule:
    """A reference to a route object of the target's namespace; no `matches` means every match of a group (T6)."""

    kind: str
    name: str
    matches: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TrafficTarget:
    """Allows `sources` to call `destination` on `rules`. `port`: v1alpha1/2 `destination.port`, a restriction."""

    meta: Meta
    destination: IdentitySubject
    rules: tuple[TrafficTargetRule, ...]
    sources: tuple[IdentitySubject, ...]
    port: int | None = None

    @property
    def ref(self) -> Ref:
        """Return the object's name for findings."""
        return Ref("TrafficTarget", self.meta.namespace, self.meta.name, ACCESS_GROUP)


@dataclass(frozen=True, slots=True)
class LabelRequirement:
    """One `matchExpressions` entry: `operator` is In, NotIn, Exists or DoesNotExist."""

    key: str
    operator: str
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """A Kubernetes label selector; both parts empty selects nobody here (B5)."""

    match_labels: tuple[tuple[str, str], ...] = ()
    match_expressions: tuple[LabelRequirement, ...] = ()

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Tell whether the labels satisfy every part; an empty selector selects nobody (B5)."""
        if not self.match_labels and not self.match_expressions:
            return False
        if any(labels.get(key) != value for key, value in self.match_labels):
            return False
        return all(_satisfies(labels, requirement) for requirement in self.match_expressions)


def _satisfies(labels: Mapping[str, str], requirement: LabelRequirement) -> bool:
    present = requirement.key in labels
    match requirement.operator:
        case "In":
            return present and labels[requirement.key] in requirement.values
        case "NotIn":
            return not present or labels[requirement.key] not in requirement.values
        case "Exists":
            return present
        case "DoesNotExist":
            return not present
        case _:
            return False


@dataclass(frozen=True, slots=True)
class IdentityBinding:
    """A set of identities of its own namespace; the schemes are OR (B1). None / empty: that scheme is not used."""

    meta: Meta
    service_account: str | None = None
    pod_label_selector: LabelSelector | None = None
    spiffe_identities: tuple[str, ...] = ()

    @property
    def ref(self) -> Ref:
        """Return the object's name for findings."""
        return Ref("IdentityBinding", self.meta.namespace, self.meta.name, ACCESS_GROUP)


SmiObject: TypeAlias = TrafficSplit | HTTPRouteGroup | TCPRoute | UDPRoute | TrafficTarget | IdentityBinding
