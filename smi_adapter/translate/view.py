"""All that a pass may look at: the Snapshot, its relations and the parts of earlier passes, each look-up noted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from smi_adapter.mesh import Service
from smi_adapter.smi.objects import (
    HTTPRouteGroup,
    IdentityBinding,
    Key,
    TCPRoute,
    TrafficSplit,
    TrafficTarget,
    UDPRoute,
)
from smi_adapter.snapshot import EndpointSlice, Namespace, Options, Pod, Snapshot
from smi_adapter.snapshot import Service as KubernetesService
from smi_adapter.translate.incremental import Draft, Members, Table, Token, Tracked
from smi_adapter.translate.parts import (
    Admission,
    Bound,
    Grant,
    Group,
    Leaf,
    NamedMatch,
    ResolvedSplit,
)
from smi_adapter.translate.relations import Relations

_NONE: Mapping[Any, Any] = {}


class View:
    """The world of one translation, seen through tables that note what is looked up.

    Tables of the Snapshot, relations of it, and the parts of earlier steps. Each is made when a pass first asks for
    it, because a small change asks for few of them.
    """

    namespaces: Tracked[str, Namespace]
    services: Tracked[Key, KubernetesService]
    slices: Tracked[Key, EndpointSlice]
    pods: Tracked[Key, Pod]
    service_accounts: Tracked[Key, bool]
    splits: Tracked[Key, TrafficSplit]
    route_groups: Tracked[Key, HTTPRouteGroup]
    tcp_routes: Tracked[Key, TCPRoute]
    udp_routes: Tracked[Key, UDPRoute]
    targets: Tracked[Key, TrafficTarget]
    bindings: Tracked[Key, IdentityBinding]

    splits_of_root: Tracked[Key, tuple[Key, ...]]
    slices_of_service: Tracked[Key, tuple[Key, ...]]
    services_with_label: Tracked[tuple[str, str, str], tuple[Key, ...]]
    pods_of_namespace: Tracked[str, tuple[Key, ...]]
    pods_of_owner: Tracked[Key, tuple[Key, ...]]
    pods_of_account: Tracked[Key, tuple[Key, ...]]
    pods_with_label: Tracked[tuple[str, str, str], tuple[Key, ...]]
    targets_of_account: Tracked[Key, tuple[Key, ...]]
    targets_of_binding: Tracked[Key, tuple[Key, ...]]
    bindings_of_account: Tracked[Key, tuple[Key, ...]]
    bindings_with_label: Tracked[tuple[str, str, str], tuple[Key, ...]]
    bindings_of_namespace: Tracked[str, tuple[Key, ...]]

    matches: Tracked[Key, tuple[NamedMatch, ...]]
    roots: Tracked[Key, ResolvedSplit]
    leaves: Tracked[Key, Leaf]
    routed: Tracked[Key, Service]
    bound: Tracked[Key, Bound]
    account_ports: Tracked[Key, frozenset[int]]
    binding_ports: Tracked[Key, frozenset[int]]
    grants: Tracked[Key, Grant]
    groups: Tracked[Key, Group]
    admission: Tracked[Key, Admission]

    def __init__(
        self, snapshot: Snapshot, relations: Relations, parts: Mapping[str, Draft[Any, Any]], options: Options
    ) -> None:
        """`parts` are the drafts of the steps, which fill up while the steps are walked."""
        self.options = options
        self.reads: set[Token] = set()
        self._snapshot = snapshot
        self._relations = relations
        self._parts = parts

    if not TYPE_CHECKING:  # a type checker knows the tables above and no others

        def __getattr__(self, name: str) -> Tracked[Any, Any]:
            """Make the table of that name; from then on it is an ordinary attribute."""
            if name not in View.__annotations__:
                raise AttributeError(name)
            table: Tracked[Any, Any] = Tracked(name, self._values(name), self.reads)
            setattr(self, name, table)
            return table

    def _values(self, name: str) -> Table[Any, Any]:
        if name == "service_accounts":
            return Members(self._snapshot.service_accounts)
        if name in Snapshot.__dataclass_fields__:
            table: Table[Any, Any] = getattr(self._snapshot, name)
            return table
        if "_of_" in name or "_with_" in name:  # as every relation is called, and no step
            relation: Table[Any, Any] = self._relations.get(name, _NONE)
            return relation
        part: Table[Any, Any] = self._parts[name]
        return part
