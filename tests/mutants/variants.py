"""The mutants: what each does wrong, which cases must fail for it, and which near ones must not.

Nothing of this is in the product. `driver` loads one by the variable SMI_MUTANT and patches the running program in
one of three places: the objects as they come in, the changes of a batch, or the Mesh before it is rendered.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from types import MappingProxyType
from typing import Any

from smi_adapter.findings import Ref
from smi_adapter.mesh import AccessMode, AccessRule, Mesh, Protocol, Service, Workload
from smi_adapter.snapshot import Snapshot

Raw = dict[str, Any]
Changes = Mapping[Ref, Mapping[str, Any] | None]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One broken variant. `readings`: of these cases only what was observed is different; they can't fail."""

    name: str
    fails: tuple[str, ...] = ()
    passes: tuple[str, ...] = ()
    readings: tuple[str, ...] = ()
    version: str = "v1alpha4"
    raw: Callable[[Raw], None] | None = None
    changes: Callable[[Snapshot, Changes], Changes] | None = None
    mesh: Callable[[Mesh], Mesh] | None = None


# ------------------------------------------------------------------------------------------------- objects as read


def _body(raw: Raw) -> Raw:
    return raw["spec"] if isinstance(raw.get("spec"), dict) else raw


def _split(change: Callable[[Raw], None]) -> Callable[[Raw], None]:
    def apply(raw: Raw) -> None:
        if raw["kind"] == "TrafficSplit" and isinstance(raw.get("spec", {}).get("backends"), list):
            change(raw["spec"])

    return apply


def _target(change: Callable[[Raw], None]) -> Callable[[Raw], None]:
    def apply(raw: Raw) -> None:
        if raw["kind"] == "TrafficTarget":
            change(_body(raw))

    return apply


def _match(change: Callable[[Raw], None]) -> Callable[[Raw], None]:
    def apply(raw: Raw) -> None:
        if raw["kind"] == "HTTPRouteGroup":
            for match in _body(raw).get("matches", ()):
                change(match)

    return apply


def _weights(spec: Raw, weights: list[Any]) -> None:
    for backend, weight in zip(spec["backends"], weights, strict=True):
        backend["weight"] = weight


def _thousandths(weight: Any) -> Fraction:
    text = str(weight)
    return Fraction(text[:-1]) / 1000 if text.endswith("m") else Fraction(text)


def _swap(spec: Raw) -> None:
    _weights(spec, [backend["weight"] for backend in reversed(spec["backends"])])


def _whole_percent(spec: Raw) -> None:
    numbers = [_thousandths(backend["weight"]) for backend in spec["backends"]]
    _weights(spec, [round(100 * number / (sum(numbers) or 1)) for number in numbers])


def _zero_is_one(spec: Raw) -> None:
    """Give a weight of zero 2 %: of 1 % a quick sample would see nothing in one run of 150."""
    weights = [_thousandths(backend["weight"]) for backend in spec["backends"]]
    _weights(spec, [int(weight * 49) or int(sum(weights)) for weight in weights])


def _unscaled(spec: Raw) -> None:
    _weights(spec, [str(backend["weight"]).rstrip("m") for backend in spec["backends"]])


def _root_leaks(spec: Raw) -> None:
    for backend in spec["backends"]:
        backend["weight"] = int(_thousandths(backend["weight"]) * 97)
    total = sum(backend["weight"] for backend in spec["backends"])
    spec["backends"].append({"service": spec["service"], "weight": max(1, total * 3 // 97)})


def _all_zero_is_even(spec: Raw) -> None:
    if all(not _thousandths(backend["weight"]) for backend in spec["backends"] if _is_number(backend["weight"])):
        _weights(spec, [1 for _ in spec["backends"]])


def _is_number(weight: Any) -> bool:
    return re.fullmatch(r"\d+m?", str(weight)) is not None


def _headers_or(raw: Raw) -> None:
    if raw["kind"] == "HTTPRouteGroup":
        body, split = _body(raw), []
        for match in body.get("matches", ()):
            headers = match.get("headers") or {}
            parts = (
                headers.items() if isinstance(headers, dict) else [pair for item in headers for pair in item.items()]
            )
            one_by_one = [{**match, "headers": {name: value}} for name, value in parts]
            split += [{**item, "name": f"{item['name']}{number or ''}"} for number, item in enumerate(one_by_one)]
            split += [] if one_by_one else [match]
        body["matches"] = split


def _pattern(form: str) -> Callable[[Raw], None]:
    def change(match: Raw) -> None:
        if "pathRegex" in match:
            match["pathRegex"] = form.format(match["pathRegex"])

    return change


def _header_searched(match: Raw) -> None:
    headers = match.get("headers") or {}
    if isinstance(headers, dict) and headers:
        match["headers"] = {name: f".*({value}).*" for name, value in headers.items()}


def _bad_pattern_is_any(match: Raw) -> None:
    try:
        re.compile(match.get("pathRegex", ""))
    except re.error:
        match["pathRegex"] = ".*"


def _empty_sources_are_all(target: Raw) -> None:
    if not target.get("sources"):
        target["sources"] = [{"kind": "ServiceAccount", "name": name} for name in ("alice", "bob", "carol")]


def _whole_groups(target: Raw) -> None:
    for rule in [*target.get("rules", ()), *target.get("specs", ())]:
        rule.pop("matches", None)


def _tcp_ports_ignored(raw: Raw) -> None:
    if raw["kind"] == "TCPRoute":
        _body(raw).pop("matches", None)


def _labels_ignored(raw: Raw) -> None:
    if raw["kind"] == "IdentityBinding":
        schemes = raw["spec"].get("schemes", {})
        if schemes.pop("podLabelSelector", None):
            schemes["serviceAccount"] = "twin"


def _empty_selector_is_all(raw: Raw) -> None:
    if raw["kind"] == "IdentityBinding" and raw["spec"].get("schemes", {}).get("podLabelSelector") == {
        "matchLabels": {}
    }:
        raw["spec"]["schemes"] = {"serviceAccount": "alice"}


def _first_scheme_only(raw: Raw) -> None:
    if raw["kind"] == "IdentityBinding" and len(raw["spec"].get("schemes", {})) > 1:
        raw["spec"]["schemes"].pop("spiffeIdentities", None)


# ------------------------------------------------------------------------------------------------ changes of a batch


def _updates_lost(kind: str) -> Callable[[Snapshot, Changes], Changes]:
    seen: set[Ref] = set()

    def filtered(snapshot: Snapshot, changes: Changes) -> Changes:
        del snapshot
        kept = {ref: raw for ref, raw in changes.items() if ref.kind != kind or raw is None or ref not in seen}
        seen.update(ref for ref in changes if ref.kind == kind)
        return kept

    return filtered


def _deletions_lost(*kinds: str) -> Callable[[Snapshot, Changes], Changes]:
    def filtered(snapshot: Snapshot, changes: Changes) -> Changes:
        del snapshot
        return {ref: raw for ref, raw in changes.items() if raw is not None or ref.kind not in kinds}

    return filtered


def _revocations_lost(snapshot: Snapshot, changes: Changes) -> Changes:
    both = _deletions_lost("TrafficTarget")(snapshot, changes)
    return {ref: raw for ref, raw in both.items() if ref.kind != "TrafficTarget" or not _known(snapshot, ref)}


def _known(snapshot: Snapshot, ref: Ref) -> bool:
    return (ref.namespace, ref.name) in snapshot.targets


def _first_target_wins(snapshot: Snapshot, changes: Changes) -> Changes:
    taken = {(item.meta.namespace, item.destination.name): key for key, item in snapshot.targets.items()}
    kept: dict[Ref, Mapping[str, Any] | None] = {}
    for ref, raw in changes.items():
        if ref.kind == "TrafficTarget" and raw is not None:
            name = _body(dict(raw)).get("destination", {}).get("name")
            if taken.setdefault((ref.namespace, name), (ref.namespace, ref.name)) != (ref.namespace, ref.name):
                continue
        kept[ref] = raw
    return kept


def _one_bad_object_stops_all() -> Callable[[Snapshot, Changes], Changes]:
    stopped: list[Ref] = []

    def filtered(snapshot: Snapshot, changes: Changes) -> Changes:
        del snapshot
        for ref, raw in changes.items():
            if ref.kind == "TrafficSplit" and raw is not None and not isinstance(raw["spec"].get("backends"), list):
                stopped.append(ref)
        return {ref: raw for ref, raw in changes.items() if not stopped or not ref.group.endswith("smi-spec.io")}

    return filtered


# ---------------------------------------------------------------------------------------------------------- the Mesh


def _services(change: Callable[[Service], Service]) -> Callable[[Mesh], Mesh]:
    def apply(mesh: Mesh) -> Mesh:
        return replace(mesh, services=MappingProxyType({key: change(item) for key, item in mesh.services.items()}))

    return apply


def _workloads(change: Callable[[Workload], Workload], *, open_callers: bool = True) -> Callable[[Mesh], Mesh]:
    def apply(mesh: Mesh) -> Mesh:
        changed = {key: change(item) for key, item in mesh.workloads.items()}
        services = mesh.services
        if open_callers:  # else the client's side would still say no
            services = MappingProxyType({key: replace(item, callers=None) for key, item in services.items()})
        return replace(mesh, workloads=MappingProxyType(changed), services=services)

    return apply


def _rules(change: Callable[[Workload, AccessRule], AccessRule | None]) -> Callable[[Mesh], Mesh]:
    def altered(workload: Workload) -> Workload:
        ports = tuple(
            replace(port, rules=tuple(found for rule in port.rules if (found := change(workload, rule)) is not None))
            for port in workload.ports
        )
        return replace(workload, ports=ports)

    return _workloads(altered)


def _any_source(workload: Workload, rule: AccessRule) -> AccessRule:
    namespace = workload.key[0]
    domain = workload.identity.split("/ns/")[0]
    names = ("alice", "bob", "carol", "client")
    anybody = tuple(replace(rule.principals[0], identity=f"{domain}/ns/{namespace}/sa/{name}") for name in names)
    return replace(rule, principals=(*rule.principals, *(item for item in anybody if item not in rule.principals)))


def _first_port_only(service: Service) -> Service:
    kept = [replace(port, routes=port.routes[-1:]) if number else port for number, port in enumerate(service.ports)]
    own = [
        replace(port, routes=(replace(port.routes[-1], targets=_own(service, port.number)),)) if number else port
        for number, port in enumerate(kept)
    ]
    return replace(service, ports=tuple(own))


def _own(service: Service, port: int) -> tuple[Any, ...]:
    targets = [target for item in service.ports for route in item.routes for target in route.targets]
    return (replace(targets[0], service=service.key, port=port, weight=1),) if targets else ()


def _http_rule_opens_tcp(workload: Workload) -> Workload:
    rules = tuple(rule for port in workload.ports if port.protocol is Protocol.HTTP for rule in port.rules)
    ports = tuple(
        replace(port, rules=(*port.rules, *(replace(rule, matches=None) for rule in rules)))
        if port.protocol is Protocol.TCP
        else port
        for port in workload.ports
    )
    return replace(workload, ports=ports)


def _dead(workload: Workload) -> Workload:
    return replace(workload, ports=tuple(replace(port, rules=()) for port in workload.ports))


def _pooled(mesh: Mesh) -> Mesh:
    def weighted(service: Service) -> Service:
        ports = []
        for port in service.ports:
            routes = []
            for route in port.routes:
                targets = tuple(replace(item, weight=item.weight * _count(mesh, item)) for item in route.targets)
                routes.append(replace(route, targets=targets))
            ports.append(replace(port, routes=tuple(routes)))
        return replace(service, ports=tuple(ports))

    return _services(weighted)(mesh)


def _count(mesh: Mesh, target: Any) -> int:
    service = mesh.services.get(target.service)
    counts = [len(port.endpoints) for port in service.ports if port.number == target.port] if service else []
    return max(1, *counts) if counts else 1


def _backends_splits_followed(mesh: Mesh) -> Mesh:
    def followed(service: Service) -> Service:
        ports = []
        for port in service.ports:
            routes = tuple(replace(route, targets=_deeper(mesh, service, route.targets)) for route in port.routes)
            ports.append(replace(port, routes=routes))
        return replace(service, ports=tuple(ports))

    return _services(followed)(mesh)


def _deeper(mesh: Mesh, root: Service, targets: tuple[Any, ...]) -> tuple[Any, ...]:
    found: list[Any] = []
    for target in targets:
        leaf = mesh.services.get(target.service)
        port = next((item for item in leaf.ports if item.number == target.port), None) if leaf else None
        below = port.routes[-1].targets if port is not None and leaf is not root else ()
        found += [replace(item, weight=target.weight) for item in below] or [target]
    return tuple(found)


def _unmatched_to_backends(service: Service) -> Service:
    ports = []
    for port in service.ports:
        split = next((route for route in port.routes if route.matches is not None), None)
        last = replace(port.routes[-1], targets=split.targets) if split else port.routes[-1]
        ports.append(replace(port, routes=(*port.routes[:-1], last)))
    return replace(service, ports=tuple(ports))


def _allow_all(workload: Workload) -> Workload:
    return replace(workload, mode=AccessMode.PERMISSIVE)


_ACCESS = ("TT-02", "HR-01")
_SPLITS = ("TS-02", "TS-25")

MUTANTS: Mapping[str, Mutant] = MappingProxyType(
    {
        mutant.name: mutant
        for mutant in (
            Mutant("weights-swapped", ("TS-02", "TS-05"), ("TS-06", "TS-26", "TT-02"), raw=_split(_swap)),
            Mutant("whole-percent", ("TS-30",), ("TS-02", "TS-07"), raw=_split(_whole_percent)),
            Mutant("zero-leaks", ("TS-07", "TS-08", "TS-25"), ("TS-05", "TS-06"), raw=_split(_zero_is_one)),
            Mutant("quantities-as-integers", ("TS-04",), ("TS-06",), version="v1alpha1", raw=_split(_unscaled)),
            Mutant("pooled-endpoints", ("TS-10",), _SPLITS, mesh=_pooled),
            Mutant("root-leaks", ("TS-06", "TS-09"), ("TS-01", "TT-02"), raw=_split(_root_leaks)),
            Mutant("first-port-only", ("TS-18",), _SPLITS, mesh=_services(_first_port_only)),
            Mutant("backends-split-followed", ("TS-23",), ("TS-02", "TS-12"), mesh=_backends_splits_followed),
            Mutant("delete-ignored", ("TS-26",), _SPLITS, changes=_deletions_lost("TrafficSplit")),
            Mutant("update-never-pushed", ("TS-25", "CV-01"), ("TS-02",), changes=_updates_lost("TrafficSplit")),
            Mutant("bad-object-stops", ("CV-08",), ("TS-01",), changes=_one_bad_object_stops_all()),
            Mutant(
                "matches-ignored",
                ("TS-41", "TS-42"),
                ("TS-40", "TS-02"),
                raw=_split(lambda spec: spec.pop("matches", 0)),
            ),
            Mutant("unmatched-to-backends", ("TS-41", "TS-42"), ("TS-40",), mesh=_services(_unmatched_to_backends)),
            Mutant(
                "second-group-dropped",
                ("TS-43",),
                ("TS-40", "TS-41"),
                raw=_split(lambda spec: spec.update(matches=spec["matches"][:1]) if "matches" in spec else None),
            ),
            Mutant("headers-or", ("TS-44", "HR-10"), ("HR-11", "HR-01", "TS-40"), raw=_headers_or),
            Mutant("path-searched", ("HR-03",), ("HR-04", "HR-01"), raw=_match(_pattern(".*{}"))),
            Mutant("path-whole", ("HR-04",), ("HR-01", "HR-03"), raw=_match(_pattern("(?:{})$"))),
            Mutant(
                "methods-ignored",
                ("HR-06", "HR-13"),
                ("HR-01", "HR-10"),
                raw=_match(lambda match: match.update(methods=["*"])),
            ),
            Mutant(
                "star-literal",
                ("HR-07",),
                ("HR-14",),
                raw=_match(lambda match: match.update(methods=["GET"]) if match.get("methods") == ["*"] else None),
            ),
            Mutant("rule-matches-ignored", ("HR-09",), ("HR-08", "TT-04"), raw=_target(_whole_groups)),
            Mutant("bad-pattern-is-any", ("HR-19",), ("HR-01",), raw=_match(_bad_pattern_is_any)),
            Mutant("header-searched", (), ("HR-10", "HR-11"), ("HR-17",), raw=_match(_header_searched)),
            Mutant("allow-all", ("TT-01", "TT-03", "TT-04", "XR-01"), ("TS-02",), mesh=_workloads(_allow_all)),
            Mutant("any-source", ("TT-03", "TT-05"), ("TT-02", "TT-04"), mesh=_rules(_any_source)),
            Mutant(
                "routes-ignored",
                ("TT-04", "HR-01"),
                ("TT-02", "TT-03"),
                mesh=_rules(lambda _, rule: replace(rule, matches=None)),
            ),
            Mutant("first-target-wins", ("TT-06",), ("TT-02", "TT-03"), changes=_first_target_wins),
            Mutant("revocation-ignored", ("TT-07", "CV-02"), ("TT-02", "TT-03"), changes=_revocations_lost),
            Mutant(
                "port-ignored",
                ("TT-12",),
                ("TT-13", "TT-02"),
                version="v1alpha2",
                raw=_target(lambda target: target.get("destination", {}).pop("port", None)),
            ),
            Mutant("empty-sources-are-all", ("TT-17",), ("TT-02", "TT-03"), raw=_target(_empty_sources_are_all)),
            Mutant("everything-dead", ("TT-01",), ("TS-02",), mesh=_workloads(_dead, open_callers=False)),
            Mutant("labels-ignored", ("IB-02",), ("IB-01", "IB-04"), raw=_labels_ignored),
            Mutant("one-scheme-only", ("IB-06",), ("IB-01", "IB-04"), raw=_first_scheme_only),
            Mutant("empty-selector-is-all", ("IB-10",), ("IB-01",), raw=_empty_selector_is_all),
            Mutant("tcp-ports-ignored", ("TR-02",), ("TR-03",), raw=_tcp_ports_ignored),
            Mutant("http-opens-tcp", (), ("TR-03", "TT-02"), ("TR-06",), mesh=_workloads(_http_rule_opens_tcp)),
            Mutant("all-zero-is-even", (), ("TS-07", "TS-02"), ("TS-35",), raw=_split(_all_zero_is_even)),
        )
    }
)


def rewritten(mutant: Mutant, changes: Changes) -> Changes:
    """Return a batch with every SMI object rewritten."""
    if mutant.raw is None:
        return changes
    found: dict[Ref, Mapping[str, Any] | None] = {}
    for ref, raw in changes.items():
        if raw is None or not str(raw.get("apiVersion", "")).partition("/")[0].endswith("smi-spec.io"):
            found[ref] = raw
            continue
        mine = copy.deepcopy(dict(raw))
        mutant.raw(mine)
        found[ref] = mine
    return found
