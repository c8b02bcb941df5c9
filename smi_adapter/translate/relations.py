"""Which objects belong together: the Snapshot, looked up the other way round.

"Which splits name this root", "which pods carry this label": answered by tables that are kept up to date from what
each changed object says about itself, so that no pass ever walks over all objects. Every membership is a pure
function of one object.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from smi_adapter.findings import Ref
from smi_adapter.smi.objects import IdentityBinding, Key, TrafficSplit, TrafficTarget
from smi_adapter.snapshot import EndpointSlice, Pod, Service, Snapshot
from smi_adapter.translate.incremental import Token, regrouped
from smi_adapter.translate.names import candidate_root, spiffe_account

Relations: TypeAlias = Mapping[str, Mapping[Any, tuple[Key, ...]]]

TABLES: Mapping[str, str] = {
    "Namespace": "namespaces",
    "Service": "services",
    "EndpointSlice": "slices",
    "Pod": "pods",
    "ServiceAccount": "service_accounts",
    "TrafficSplit": "splits",
    "HTTPRouteGroup": "route_groups",
    "TCPRoute": "tcp_routes",
    "UDPRoute": "udp_routes",
    "TrafficTarget": "targets",
    "IdentityBinding": "bindings",
}
"""Kind of object -> table of the Snapshot. Another group's kind of the same name only costs a look."""


_DESTINATIONS = {"ServiceAccount": "targets_of_account", "IdentityBinding": "targets_of_binding"}


def label_of(selector: Mapping[str, str]) -> tuple[str, str]:
    """Return the one label by which things with this (non-empty) selector are indexed."""
    return min(selector.items())


def memberships(item: object) -> Iterator[Token]:
    """Yield (relation, key) for each relation in which this object stands."""
    match item:
        case TrafficSplit() if (root := candidate_root(item)) is not None:
            yield "splits_of_root", root
        case EndpointSlice():
            yield "slices_of_service", (item.meta.namespace, item.service)
        case Service() if item.selector:
            yield "services_with_label", (item.meta.namespace, *label_of(item.selector))
        case Pod():
            namespace = item.meta.namespace
            yield "pods_of_namespace", namespace
            yield "pods_of_owner", (namespace, item.workload)
            yield "pods_of_account", (namespace, item.service_account)
            for key, value in item.meta.labels.items():
                yield "pods_with_label", (namespace, key, value)
        case TrafficTarget() if item.destination.namespace in ("", item.meta.namespace):
            relation = _DESTINATIONS.get(item.destination.kind)
            if relation is not None:
                yield relation, (item.meta.namespace, item.destination.name)
        case IdentityBinding():
            yield from _binding(item)
        case _:
            return


def _binding(item: IdentityBinding) -> Iterator[Token]:
    namespace = item.meta.namespace
    if item.service_account is not None:
        yield "bindings_of_account", (namespace, item.service_account)
    for text in item.spiffe_identities:
        account = spiffe_account(text)
        if account is not None and account[0] == namespace:
            yield "bindings_of_account", account
    if item.pod_label_selector is not None:
        if item.pod_label_selector.match_labels:
            yield "bindings_with_label", (namespace, *min(item.pod_label_selector.match_labels))
        else:
            yield "bindings_of_namespace", namespace


def key_of(ref: Ref) -> Any:
    """Return the key of an object in its table of the Snapshot."""
    return ref.name if ref.kind == "Namespace" else (ref.namespace, ref.name)


def updated(
    relations: Relations, before: Snapshot, after: Snapshot, changed: frozenset[Ref]
) -> tuple[Relations, set[Token]]:
    """Return the relations of `after`, and every entry of the Snapshot and of a relation that differs."""
    gained: defaultdict[Token, set[Key]] = defaultdict(set)
    lost: defaultdict[Token, set[Key]] = defaultdict(set)
    dirty: set[Token] = set()
    for ref in changed:
        table = TABLES.get(ref.kind)
        if table is None:
            continue
        key = key_of(ref)
        dirty.add((table, key))
        if table == "service_accounts":
            continue
        old = set(memberships(getattr(before, table).get(key)))
        new = set(memberships(getattr(after, table).get(key)))
        for token in new - old:
            gained[token].add(key)
        for token in old - new:
            lost[token].add(key)
    dirty.update(gained, lost)
    return regrouped(relations, gained, lost), dirty


def refs(snapshot: Snapshot) -> frozenset[Ref]:
    """Return a name for every object of the Snapshot, for a translation that starts from nothing."""
    kinds = {table: kind for kind, table in TABLES.items()}
    found: set[Ref] = {Ref("Namespace", "", name) for name in snapshot.namespaces}
    for table, kind in kinds.items():
        if table != "namespaces":
            found.update(Ref(kind, namespace, name) for namespace, name in getattr(snapshot, table))
    return frozenset(found)
