"""All that a pass may look at: the Snapshot, its relations and the parts of earlier passes, each look-up noted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
    """The world of one translation, seen through tables that note what is looked up."""

    def __init__(
        self, snapshot: Snapshot, relations: Relations, parts: Mapping[str, Draft[Any, Any]], options: Options
    ) -> None:
        """`parts` are the drafts of the steps, which fill up while the steps are walked."""
        self.options = options
        self.reads: set[Token] = set()

        def tracked(table: str, values: Table[Any, Any]) -> Tracked[Any, Any]:
            return Tracked(table, values, self.reads)

        def relation(name: str) -> Tracked[Any, Any]:
            return tracked(name, relations.get(name, _NONE))

        self.namespaces: Tracked[str, Namespace] = tracked("namespaces", snapshot.namespaces)
        self.services: Tracked[Key, KubernetesService] = tracked("services", snapshot.services)
        self.slices: Tracked[Key, EndpointSlice] = tracked("slices", snapshot.slices)
        self.pods: Tracked[Key, Pod] = tracked("pods", snapshot.pods)
        self.accounts: Tracked[Key, bool] = tracked("service_accounts", Members(snapshot.service_accounts))
        self.splits: Tracked[Key, TrafficSplit] = tracked("splits", snapshot.splits)
        self.route_groups: Tracked[Key, HTTPRouteGroup] = tracked("route_groups", snapshot.route_groups)
        self.tcp_routes: Tracked[Key, TCPRoute] = tracked("tcp_routes", snapshot.tcp_routes)
        self.udp_routes: Tracked[Key, UDPRoute] = tracked("udp_routes", snapshot.udp_routes)
        self.targets: Tracked[Key, TrafficTarget] = tracked("targets", snapshot.targets)
        self.bindings: Tracked[Key, IdentityBinding] = tracked("bindings", snapshot.bindings)

        self.splits_of_root: Tracked[Key, frozenset[Key]] = relation("splits_of_root")
        self.slices_of_service: Tracked[Key, frozenset[Key]] = relation("slices_of_service")
        self.services_with_label: Tracked[tuple[str, str, str], frozenset[Key]] = relation("services_with_label")
        self.pods_of_namespace: Tracked[str, frozenset[Key]] = relation("pods_of_namespace")
        self.pods_of_owner: Tracked[Key, frozenset[Key]] = relation("pods_of_owner")
        self.pods_of_account: Tracked[Key, frozenset[Key]] = relation("pods_of_account")
        self.pods_with_label: Tracked[tuple[str, str, str], frozenset[Key]] = relation("pods_with_label")
        self.targets_of_account: Tracked[Key, frozenset[Key]] = relation("targets_of_account")
        self.targets_of_binding: Tracked[Key, frozenset[Key]] = relation("targets_of_binding")
        self.bindings_of_account: Tracked[Key, frozenset[Key]] = relation("bindings_of_account")
        self.bindings_with_label: Tracked[tuple[str, str, str], frozenset[Key]] = relation("bindings_with_label")
        self.bindings_of_namespace: Tracked[str, frozenset[Key]] = relation("bindings_of_namespace")

        self.matches: Tracked[Key, tuple[NamedMatch, ...]] = tracked("matches", parts["matches"])
        self.roots: Tracked[Key, ResolvedSplit] = tracked("roots", parts["roots"])
        self.leaves: Tracked[Key, Leaf] = tracked("leaves", parts["leaves"])
        self.routed: Tracked[Key, Service] = tracked("routed", parts["routed"])
        self.bound: Tracked[Key, Bound] = tracked("bound", parts["bound"])
        self.account_ports: Tracked[Key, frozenset[int]] = tracked("account_ports", parts["account_ports"])
        self.binding_ports: Tracked[Key, frozenset[int]] = tracked("binding_ports", parts["binding_ports"])
        self.grants: Tracked[Key, Grant] = tracked("grants", parts["grants"])
        self.groups: Tracked[Key, Group] = tracked("groups", parts["groups"])
        self.admission: Tracked[Key, Admission] = tracked("admission", parts["admission"])
