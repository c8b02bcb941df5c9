"""Mutants that lose or misplace changes: each filters the changes of a batch before they are decoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from smi_adapter.findings import Ref
from smi_adapter.snapshot import Snapshot
from tests.mutants.mutant import Changes

Filter = Callable[[Snapshot, Changes], Changes]


def updates_lost(*kinds: str) -> Filter:
    """Take the first form of an object and no later one."""
    seen: set[Ref] = set()

    def filtered(snapshot: Snapshot, changes: Changes) -> Changes:
        del snapshot
        kept = {ref: raw for ref, raw in changes.items() if ref.kind not in kinds or raw is None or ref not in seen}
        seen.update(ref for ref in changes if ref.kind in kinds)
        return kept

    return filtered


def deletions_lost(*kinds: str) -> Filter:
    """Keep what was deleted."""

    def filtered(snapshot: Snapshot, changes: Changes) -> Changes:
        del snapshot
        return {ref: raw for ref, raw in changes.items() if raw is not None or ref.kind not in kinds}

    return filtered


def kind_unknown(kind: str) -> Filter:
    """Read no object of a kind."""

    def filtered(snapshot: Snapshot, changes: Changes) -> Changes:
        del snapshot
        return {ref: raw for ref, raw in changes.items() if ref.kind != kind}

    return filtered


def version_unknown(kind: str, version: str) -> Filter:
    """Read no object of a kind that is written in one version."""

    def filtered(snapshot: Snapshot, changes: Changes) -> Changes:
        del snapshot
        unread = {ref for ref, raw in changes.items() if raw is not None and raw["apiVersion"] == version}
        return {ref: raw for ref, raw in changes.items() if ref.kind != kind or ref not in unread}

    return filtered


def references_resolved_once(snapshot: Snapshot, changes: Changes) -> Changes:
    """Forget what refers to something that is not there yet when it is written."""
    kinds = {"Service": snapshot.services, "HTTPRouteGroup": snapshot.route_groups}
    there = {(kind, *key) for kind, items in kinds.items() for key in items}
    there |= {(ref.kind, ref.namespace, ref.name) for ref, raw in changes.items() if raw is not None}

    def lacks(ref: Ref, raw: Mapping[str, Any]) -> bool:
        body = raw.get("spec", raw)
        if ref.kind == "TrafficSplit":
            names = [body["service"], *(backend["service"] for backend in body["backends"])]
            return any(("Service", ref.namespace, name) not in there for name in names)
        rules = body.get("rules") or () if ref.kind == "TrafficTarget" else ()
        groups = (rule["name"] for rule in rules if rule["kind"] == "HTTPRouteGroup")
        return any(("HTTPRouteGroup", ref.namespace, name) not in there for name in groups)

    return {ref: raw for ref, raw in changes.items() if raw is None or not lacks(ref, raw)}


def _without_pods(namespace: str, name: str) -> Mapping[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"selector": {"app": "nobody"}, "ports": [{"name": "http", "port": 8080}]},
    }


def missing_backends_have_no_pods(snapshot: Snapshot, changes: Changes) -> Changes:
    """Take a backend that does not exist for one without pods, so that it keeps its share."""
    kept = dict(changes)
    for ref, raw in changes.items():
        if ref.kind == "TrafficSplit" and raw is not None:
            for backend in raw["spec"]["backends"]:
                key = (ref.namespace, backend["service"])
                if key not in snapshot.services:
                    kept.setdefault(Ref("Service", *key), _without_pods(*key))
    return kept


def cluster_ips_only(snapshot: Snapshot, changes: Changes) -> Changes:
    """Know no Service of another type, nor a headless one."""
    del snapshot

    def other(ref: Ref, raw: Mapping[str, Any] | None) -> bool:
        spec = raw["spec"] if raw is not None and ref.kind == "Service" else {}
        return spec.get("type", "ClusterIP") != "ClusterIP" or spec.get("clusterIP") == "None"

    return {ref: raw for ref, raw in changes.items() if not other(ref, raw)}


def first_target_wins(snapshot: Snapshot, changes: Changes) -> Changes:
    """Take the first target of a destination and no other."""
    gone = {(ref.namespace, ref.name) for ref, raw in changes.items() if ref.kind == "TrafficTarget" and raw is None}
    held = {key: item for key, item in snapshot.targets.items() if key not in gone}
    taken = {(item.meta.namespace, item.destination.name): key for key, item in held.items()}
    kept: dict[Ref, Mapping[str, Any] | None] = {}
    for ref, raw in changes.items():
        if ref.kind == "TrafficTarget" and raw is not None:
            name = raw["spec"].get("destination", {}).get("name")
            if taken.setdefault((ref.namespace, name), (ref.namespace, ref.name)) != (ref.namespace, ref.name):
                continue
        kept[ref] = raw
    return kept


def one_bad_object_stops_all() -> Filter:
    """Read nothing of SMI any more, once something could not be read."""
    stopped: list[Ref] = []

    def filtered(snapshot: Snapshot, changes: Changes) -> Changes:
        del snapshot
        for ref, raw in changes.items():
            if ref.kind == "TrafficSplit" and raw is not None and not isinstance(raw["spec"].get("backends"), list):
                stopped.append(ref)
        return {ref: raw for ref, raw in changes.items() if not stopped or not ref.group.endswith("smi-spec.io")}

    return filtered


def targets_at_their_destination() -> Filter:
    """Take a target as if it had been written in its destination's namespace."""
    moved: dict[Ref, Ref] = {}

    def filtered(snapshot: Snapshot, changes: Changes) -> Changes:
        del snapshot
        kept: dict[Ref, Mapping[str, Any] | None] = {}
        for ref, raw in changes.items():
            if ref.kind == "TrafficTarget" and raw is not None:
                body, own = raw["spec"], ref.namespace
                there = body["destination"].get("namespace", own)
                sources = [{"namespace": own, **source} for source in body.get("sources", ())]
                moved[ref] = replace(ref, namespace=there)
                kept[moved[ref]] = {
                    **raw,
                    "metadata": {**raw["metadata"], "namespace": there},
                    "spec": {**body, "sources": sources},
                }
            else:
                kept[moved.get(ref, ref)] = raw
        return kept

    return filtered
