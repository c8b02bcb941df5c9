"""Mutants of one function or constant of a stage: what can't be said as a change of what goes into it or comes out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from smi_adapter import local
from smi_adapter.backends.envoy import hcm, inbound, routes
from smi_adapter.backends.envoy.messages import Fields, extension, resource, seconds, value
from smi_adapter.backends.envoy.names import LISTENER, inbound_name
from smi_adapter.findings import Ref
from smi_adapter.mesh import Match, Principal, Protocol, WeightedTarget
from smi_adapter.smi import schema
from smi_adapter.sources import directory
from smi_adapter.translate import identities, splits, targets
from smi_adapter.translate.names import spiffe_id
from tests.mutants.mutant import Patch

# ---------------------------------------------------------------------------------------------------------- translate


def _any_port(original: Any) -> Any:
    def made(view: Any, item: Any, port: Any, notes: Any) -> tuple[WeightedTarget, ...]:
        found: tuple[WeightedTarget, ...] = original(view, item, port, notes)
        known = {target.service for target in found}
        more = (
            WeightedTarget(backend, leaf.service.ports[0].number, weight)
            for backend, weight in item.resolved.backends
            if weight and backend not in known and (leaf := view.leaves.get(backend)) and leaf.service.ports
        )
        return (*found, *more)

    return made


ports_ignored = (Patch(splits, "_targets", _any_port),)


def _rule(change: Callable[..., tuple[Match, ...]]) -> tuple[Patch, ...]:
    """Change what an HTTPRouteGroup rule of a target matches."""

    def made(original: Any) -> Any:
        return lambda view, target, rule, *more: change(original, view, target, rule, *more)

    return (Patch(targets, "_http", made),)


def _any_if_missing(original: Any, view: Any, target: Any, rule: Any, *more: Any) -> tuple[Match, ...]:
    if view.matches.get((target.meta.namespace, rule.name)) is None:
        return (Match(),)
    found: tuple[Match, ...] = original(view, target, rule, *more)
    return found


def _known_names(original: Any, view: Any, target: Any, rule: Any, *more: Any) -> tuple[Match, ...]:
    known = {named.name for named in view.matches.get((target.meta.namespace, rule.name)) or ()}
    kept = tuple(name for name in rule.matches if name in known)
    found: tuple[Match, ...] = original(view, target, replace(rule, matches=kept), *more)
    return found


def _first_if_unnamed(original: Any, view: Any, target: Any, rule: Any, *more: Any) -> tuple[Match, ...]:
    found: tuple[Match, ...] = original(view, target, rule, *more)
    return found if rule.matches else found[:1]


missing_group_is_any = _rule(_any_if_missing)
missing_match_is_the_group = _rule(_known_names)
first_match_only = _rule(_first_if_unnamed)


def _of_any_namespace(original: Any, view: Any, target: Any, rule: Any, *more: Any) -> tuple[Match, ...]:
    elsewhere = [namespace for namespace, name in view._snapshot.route_groups if name == rule.name]
    metas = [target.meta, *(replace(target.meta, namespace=namespace) for namespace in elsewhere)]
    return tuple(match for meta in metas for match in original(view, replace(target, meta=meta), rule, *more))


groups_of_any_namespace = _rule(_of_any_namespace)


def _selected_anywhere(_: Any) -> Any:
    def made(view: Any, namespace: str, selector: Any) -> dict[Any, Principal]:
        del namespace
        return {
            pod.meta.key: Principal(
                spiffe_id(view.options.trust_domain, (pod.meta.namespace, pod.service_account)), (pod.address,)
            )
            for pod in view._snapshot.pods.values()
            if selector.match_labels and selector.selects(pod.meta.labels) and pod.address
        }

    return made


selector_crosses_namespaces = (Patch(identities, "_selected", _selected_anywhere),)

newest_wins = (Patch(splits, "_age", lambda original: lambda split: _reversed(*original(split))),)
container_ports = (Patch(targets, "_service_ports", lambda _: lambda *_: None),)


def _reversed(unknown: bool, created: str) -> tuple[bool, str]:
    return unknown, "".join(chr(255 - ord(letter)) for letter in created)


# -------------------------------------------------------------------------------------------------------------- Envoy


def _raw_paths(original: Fields) -> Fields:
    return {
        **original,
        "normalize_path": value(False),
        "merge_slashes": False,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
    }


paths_as_they_come = (Patch(hcm, "_SETTINGS", _raw_paths),)


def _unknown(names: Fields) -> tuple[Patch, ...]:
    """Know nothing of requests whose Host header is one of these."""
    host = {"name": ":authority", "string_match": names}
    nowhere = {"match": {"prefix": "/", "headers": [host]}, "direct_response": {"status": 404}}

    def made(original: Any) -> Any:
        return lambda name, fields: original(name, {**fields, "routes": [nowhere, *fields["routes"]]})

    return (Patch(routes, "one_virtual_host", made),)


def _by_client(original: Any) -> Any:
    """Let the address of a client decide which of several backends is its own."""
    address = {"hash_policy": [{"connection_properties": {"source_ip": True}}]}

    def sticky(entry: Fields) -> Fields:
        action = entry.get("route", {})
        if "weighted_clusters" not in action:
            return entry
        weighted = {**action["weighted_clusters"], "use_hash_policy": value(True)}
        return {**entry, "route": {**action, **address, "weighted_clusters": weighted}}

    return lambda name, fields: original(name, {**fields, "routes": [sticky(entry) for entry in fields["routes"]]})


divided_by_client = (Patch(routes, "one_virtual_host", _by_client),)
full_name_unknown = _unknown({"contains": ".svc.cluster.local"})
bare_name_unknown = _unknown({"safe_regex": {"regex": r"root-\d+"}})


def _plain_text_too(_: Any) -> Any:
    def made(workload: Any, port: Any, instance: Any, chain: Fields, log: Any) -> Any:
        secure = {**chain, "filter_chain_match": {**chain["filter_chain_match"], "transport_protocol": "tls"}}
        plain = {key: part for key, part in chain.items() if key != "transport_socket"}
        return resource(
            LISTENER,
            {
                "name": inbound_name(workload.key, port.number, port.protocol),
                "traffic_direction": "INBOUND",
                "filter_chains": [secure, {**plain, "name": "plain"}],
                "listener_filters": [extension("envoy.filters.listener.tls_inspector", TLS_INSPECTOR)],
                "listener_filters_timeout": seconds(1),
                "access_log": log.of_connections(inbound_name(workload.key)),
                "address": {"socket_address": {"address": instance.address, "port_value": port.number}},
            },
        )

    return made


TLS_INSPECTOR = "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"
plain_text_too = (Patch(inbound, "_bound_listener", _plain_text_too),)


def _udp_ports(_: Any) -> Any:
    return lambda workload: tuple(port for port in workload.ports if port.protocol is Protocol.UDP)


udp_left_open = (Patch(inbound, "open_udp_ports", _udp_ports),)

# ----------------------------------------------------------------------------------------------------------- delivery


def late(delay: float) -> tuple[Patch, ...]:
    """Let every change of an SMI object take effect so many seconds after it was made."""

    def made(take: Any) -> Any:
        def later(mesh: Any, batch: Mapping[Ref, Any]) -> None:
            ours = {ref: raw for ref, raw in batch.items() if ref.group.endswith("smi-spec.io")}
            take(mesh, {ref: raw for ref, raw in batch.items() if ref not in ours})
            if ours:
                asyncio.get_running_loop().call_later(delay, take, mesh, ours)

        return later

    return (Patch(local.LocalMesh, "_take", made),)


def _old_comes_back(take: Any) -> Any:
    """Show the last form but one of an updated split again and again, for a moment."""
    now: dict[Ref, Any] = {}

    def show(mesh: Any, ref: Ref, raw: Any, instead: Any) -> None:
        if now.get(ref) is raw:
            take(mesh, {ref: instead})

    def made(mesh: Any, batch: Mapping[Ref, Any]) -> None:
        take(mesh, batch)
        for ref, raw in batch.items():
            before, now[ref] = now.get(ref), raw
            if ref.kind == "TrafficSplit" and before is not None and raw is not None:
                for number in range(1, 15):
                    loop = asyncio.get_running_loop()
                    loop.call_later(number * 1.8, show, mesh, ref, raw, before)
                    loop.call_later(number * 1.8 + 0.4, show, mesh, ref, raw, raw)

    return made


old_comes_back = (Patch(local.LocalMesh, "_take", _old_comes_back),)


def _fails_first(take: Any) -> Any:
    """Let every update of a split lead nowhere for a moment."""
    known: set[Ref] = set()

    def arrived(mesh: Any, batch: Mapping[Ref, Any]) -> None:
        take(mesh, {ref: raw for ref, raw in batch.items() if ref in known})

    def made(mesh: Any, batch: Mapping[Ref, Any]) -> None:
        splits = {ref: raw for ref, raw in batch.items() if ref.kind == "TrafficSplit"}
        updates = {ref: raw for ref, raw in splits.items() if raw is not None and ref in known}
        nobody = [{"service": "nobody", "weight": 1}]
        broken = {ref: {**raw, "spec": {**raw["spec"], "backends": nobody}} for ref, raw in updates.items()}
        known.update(ref for ref, raw in splits.items() if raw is not None)
        known.difference_update(ref for ref, raw in splits.items() if raw is None)
        take(mesh, {**batch, **broken})
        if updates:
            asyncio.get_running_loop().call_later(0.15, arrived, mesh, updates)

    return made


updates_fail_first = (Patch(local.LocalMesh, "_take", _fails_first),)
watch_not_renewed = (
    Patch(directory, "RESCAN", lambda _: 1e6),
    Patch(directory.DirectorySource, "_renew_watch", lambda _: lambda _: None),
)
says_nothing = (Patch(local.LocalMesh, "findings", lambda _: lambda _: ()),)

# ---------------------------------------------------------------------------------------------------------------- API


def _stricter(original: Any) -> Any:
    """Ask for what the documents leave open: ports of a route, and a path of every match."""

    def made(raw: Any) -> Any:
        body = raw.get("spec", raw)
        if raw["kind"] in {"TCPRoute", "UDPRoute"} and not body.get("matches", {}).get("ports"):
            return (("spec.matches.ports", "is required"),)
        if any("pathRegex" not in match for match in body.get("matches", ()) if raw["kind"] == "HTTPRouteGroup"):
            return (("spec.matches.pathRegex", "is required"),)
        return original(raw)

    return made


def _one_version_less(original: Any) -> Any:
    def made() -> Any:
        return {
            kind: tuple(name for name in versions if name != "v1alpha4" or kind[0] != "access.smi-spec.io")
            for kind, versions in original().items()
        }

    return made


api_refuses_and_lacks = (Patch(schema, "problems", _stricter), Patch(schema, "served", _one_version_less))
