"""Which kinds are served, under which groups, versions and names: the one table of the embedded API.

SMI kinds, their versions and what a version looks like come from their CRDs, so that a cluster and this API serve the
same; the others are those that the directory source reads, and Events.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, TypeAlias

from smi_adapter import crds
from smi_adapter.findings import Ref

GroupKind: TypeAlias = tuple[str, str]

EVENTS_GROUP = "events.k8s.io"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind: `versions` with the preferred one first; `merges` tells that a strategic merge patch is understood."""

    group: str
    name: str
    plural: str
    versions: tuple[str, ...] = ("v1",)
    namespaced: bool = True
    short: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    writable: bool = True
    smi: bool = False
    scale: bool = False

    @property
    def resource(self) -> str:
        """Return how messages call it, such as `trafficsplits.split.smi-spec.io`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def full(self) -> str:
        """Return how messages call one of it, such as `TrafficSplit.split.smi-spec.io`."""
        return f"{self.name}.{self.group}" if self.group else self.name

    def api_version(self, version: str) -> str:
        """Return what stands in `apiVersion`."""
        return f"{self.group}/{version}" if self.group else version

    def ref(self, namespace: str, name: str) -> Ref:
        """Return the name of one object; an Event is the same in both of its groups."""
        group = "" if self.name == "Event" else self.group
        return Ref(self.name, namespace if self.namespaced else "", name, group)

    def holds(self, ref: Ref) -> bool:
        """Tell whether an object is of this kind."""
        return ref.kind == self.name and ref.group == ("" if self.name == "Event" else self.group)


_KUBERNETES = (
    Kind("", "Namespace", "namespaces", namespaced=False, short=("ns",)),
    Kind("", "Service", "services", short=("svc",), categories=("all",)),
    Kind("", "ServiceAccount", "serviceaccounts", short=("sa",)),
    Kind("", "Pod", "pods", short=("po",), categories=("all",)),
    Kind("", "Event", "events", short=("ev",), writable=False),
    Kind("apps", "Deployment", "deployments", short=("deploy",), categories=("all",), scale=True),
    Kind("apps", "StatefulSet", "statefulsets", short=("sts",), categories=("all",), scale=True),
    Kind("apps", "ReplicaSet", "replicasets", short=("rs",), categories=("all",), scale=True),
    Kind("apps", "DaemonSet", "daemonsets", short=("ds",), categories=("all",)),
    Kind("discovery.k8s.io", "EndpointSlice", "endpointslices"),
    Kind(EVENTS_GROUP, "Event", "events", short=("ev",), writable=False),
)


@cache
def kinds() -> tuple[Kind, ...]:
    """Return every kind that is served."""
    found = list(_KUBERNETES)
    for crd in crds.definitions():
        spec, names = crd["spec"], crd["spec"]["names"]
        newest_first = tuple(reversed([one["name"] for one in spec["versions"]]))
        short, categories = tuple(names.get("shortNames", ())), tuple(names.get("categories", ()))
        found.append(
            Kind(
                spec["group"],
                names["kind"],
                names["plural"],
                newest_first,
                short=short,
                categories=categories,
                smi=True,
            )
        )
    return tuple(sorted(found, key=lambda kind: (kind.group, kind.plural)))


@cache
def crd_version(kind: Kind, version: str) -> Mapping[str, Any]:
    """Return what the CRD of an SMI kind says of a version: its schema and columns."""
    crd = next(one for one in crds.definitions() if one["metadata"]["name"] == kind.resource)
    found: Mapping[str, Any] = next(one for one in crd["spec"]["versions"] if one["name"] == version)
    return found


@cache
def groups() -> Mapping[str, tuple[str, ...]]:
    """Return the versions of each API group, the preferred one first."""
    found: dict[str, set[str]] = {}
    for kind in kinds():
        found.setdefault(kind.group, set()).update(kind.versions)
    return MappingProxyType({group: tuple(sorted(versions, reverse=True)) for group, versions in found.items()})


@cache
def by_path(group: str, version: str, plural: str) -> Kind | None:
    """Return the kind behind a path of the API; None: there is none."""
    return next(
        (one for one in kinds() if (one.group, one.plural) == (group, plural) and version in one.versions), None
    )


@cache
def by_ref(group: str, name: str) -> Kind | None:
    """Return the kind of an object; None: it is not served."""
    return next((one for one in kinds() if (one.group, one.name) == (group, name)), None)
