"""Backends: what turns a Mesh into the configuration of one kind of proxy.

A backend is a value with a name, the features that it has, and one pure function. It does no I/O: what it returns
decides how the core delivers it (`XdsConfig`: the delta ADS server; `Manifests`: server-side apply; `Files`: atomic
writes). Backends are found by the entry-point group `smi_adapter.backends`; the built-in ones register the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias

from smi_adapter.findings import Finding, Ref
from smi_adapter.mesh import Feature, Key, Mesh

ENTRY_POINT_GROUP = "smi_adapter.backends"

Part: TypeAlias = tuple[str, str, str]
"""(kind, namespace, name): a set of xDS resources that change together and are seen together.

Kinds are the backend's own, such as `routes`, `endpoints`, `inbound`.
"""


@dataclass(frozen=True, slots=True)
class Resource:
    """One xDS resource: `type_url`, `name`, the deterministic bytes of its message, and their hash as `version`.

    `origins` are the objects to name when a proxy refuses it. `closed` is what to send instead when a proxy refuses a
    version that tightened access (a resource of the same type and name that denies), or None.
    """

    type_url: str
    name: str
    body: bytes = field(repr=False)  # may be a secret
    version: str
    origins: tuple[Ref, ...] = ()
    closed: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class XdsConfig:
    """Everything for a fleet that speaks xDS.

    `scopes` says which parts the proxy of each workload sees; `identities` which SPIFFE id may stream as that
    workload. `changed_parts` / `changed_scopes` name what differs from the previous config (None: unknown, compare).
    """

    parts: Mapping[Part, tuple[Resource, ...]]
    scopes: Mapping[Key, frozenset[Part]]
    identities: Mapping[Key, str]
    findings: tuple[Finding, ...] = ()
    changed_parts: frozenset[Part] | None = None
    changed_scopes: frozenset[Key] | None = None


@dataclass(frozen=True, slots=True)
class Manifests:
    """Kubernetes objects to apply.

    `kinds`: every (apiVersion, kind) that the backend ever renders, so that what an earlier run left is found and
    pruned even if there is none of that kind now.
    """

    objects: tuple[Mapping[str, Any], ...]
    findings: tuple[Finding, ...] = ()
    kinds: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Files:
    """Files to write, by relative path."""

    files: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}))
    findings: tuple[Finding, ...] = ()


Rendered: TypeAlias = XdsConfig | Manifests | Files


@dataclass(frozen=True, slots=True)
class Change:
    """What a backend may use to render only what differs: the last Mesh, its Rendered, and the keys that changed.

    A key that is in `services` or `workloads` but not in the new Mesh was removed.
    """

    mesh: Mesh
    rendered: Rendered
    services: frozenset[Key]
    workloads: frozenset[Key]


class Backend(Protocol):
    """The whole contract of a backend. A small one ignores `change` and renders everything."""

    @property
    def name(self) -> str:
        """Return the name that users select it by."""
        ...

    @property
    def features(self) -> frozenset[Feature]:
        """Return what it can do; what a Mesh uses beyond that becomes a finding and, for access, a closed door."""
        ...

    def render(self, mesh: Mesh, change: Change | None = None) -> Rendered:
        """Return the configuration of the whole Mesh. Pure: equal meshes give equal bytes, in any order of calls."""
        ...


WORDS: Mapping[str, str] = MappingProxyType(
    {
        "root": "those requests go to the root Service, as if there were no split.",
        "closed": "what needs it is not granted; nobody gets in who should not.",
        "not its job": "the backend renders routes only. Neither what a TrafficTarget allows nor the closing of "
        "everything else is enforced by what it renders; every TrafficTarget gets an error that says so.",
    }
)
"""What happens where a feature is lacking, each word with its meaning."""


def in_a_word(feature: Feature, features: frozenset[Feature]) -> str:
    """Return "yes", or the one of `WORDS` that says what becomes of who asks a backend with `features` for it."""
    if feature in features:
        return "yes"
    if not feature.is_access:
        return "root"
    return "closed" if any(other.is_access for other in features) else "not its job"


class UnknownBackendError(LookupError):
    """No installed backend has that name."""


def installed() -> tuple[str, ...]:
    """Return the names of all installed backends, sorted, without importing them."""
    return tuple(sorted({point.name for point in entry_points(group=ENTRY_POINT_GROUP)}))


def load(name: str) -> Backend:
    """Return the backend of that name; an unknown one is an error that lists the installed names."""
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name == name:
            backend: Backend = point.load()
            return backend
    message = f"no backend named {name!r} is installed; installed are: {', '.join(installed()) or 'none'}"
    raise UnknownBackendError(message)
