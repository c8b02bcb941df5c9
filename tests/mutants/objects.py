"""Mutants that read an object as something else: each changes one as it was written, before it is decoded."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from tests.mutants.mutant import Raw


def _body(raw: Raw) -> Raw:
    return raw["spec"] if isinstance(raw.get("spec"), dict) else raw


def of_split(change: Callable[[Raw], object]) -> Callable[[Raw], None]:
    """Change the spec of a TrafficSplit."""

    def apply(raw: Raw) -> None:
        if raw["kind"] == "TrafficSplit" and isinstance(raw.get("spec", {}).get("backends"), list):
            change(raw["spec"])

    return apply


def of_target(change: Callable[[Raw], object]) -> Callable[[Raw], None]:
    """Change the body of a TrafficTarget, whichever version it has."""

    def apply(raw: Raw) -> None:
        if raw["kind"] == "TrafficTarget":
            change(_body(raw))

    return apply


def of_group(change: Callable[[list[Raw]], list[Raw]]) -> Callable[[Raw], None]:
    """Change the list of matches of an HTTPRouteGroup."""

    def apply(raw: Raw) -> None:
        if raw["kind"] == "HTTPRouteGroup":
            body = _body(raw)
            body["matches"] = change(list(body.get("matches", ())))

    return apply


def of_match(change: Callable[[Raw], object]) -> Callable[[Raw], None]:
    """Change each match of an HTTPRouteGroup."""

    def all_of(matches: list[Raw]) -> list[Raw]:
        for match in matches:
            change(match)
        return matches

    return of_group(all_of)


def of_binding(change: Callable[[Raw], object]) -> Callable[[Raw], None]:
    """Change the schemes of an IdentityBinding."""

    def apply(raw: Raw) -> None:
        if raw["kind"] == "IdentityBinding":
            change(raw["spec"].setdefault("schemes", {}))

    return apply


def of_tcp_route(change: Callable[[Raw], object]) -> Callable[[Raw], None]:
    """Change the body of a TCPRoute."""

    def apply(raw: Raw) -> None:
        if raw["kind"] == "TCPRoute":
            change(_body(raw))

    return apply


# ----------------------------------------------------------------------------------------------------------- weights


def _weights(spec: Raw, weights: list[Any]) -> None:
    for backend, weight in zip(spec["backends"], weights, strict=True):
        backend["weight"] = weight


def _number(weight: Any) -> Fraction:
    text = str(weight)
    return Fraction(text[:-1]) / 1000 if text.endswith("m") else Fraction(text)


def _numbers(spec: Raw) -> list[Fraction]:
    return [_number(backend["weight"]) for backend in spec["backends"]]


def swap(spec: Raw) -> None:
    """Give each backend the weight of its opposite."""
    _weights(spec, [backend["weight"] for backend in reversed(spec["backends"])])


def whole_percent(spec: Raw) -> None:
    """Round shares to whole percent."""
    numbers = _numbers(spec)
    _weights(spec, [round(100 * number / (sum(numbers) or 1)) for number in numbers])


def zero_is_one_percent(spec: Raw) -> None:
    """Give a weight of zero 1 %."""
    numbers = _numbers(spec)
    total = sum(numbers)
    _weights(spec, [int(number * 99) or int(total) for number in numbers])


def without_unit(spec: Raw) -> None:
    """Read a quantity by its digits alone."""
    _weights(spec, [str(backend["weight"]).rstrip("m") for backend in spec["backends"]])


def rounded_up(spec: Raw) -> None:
    """Read a quantity as the whole number above it, as the Go type's Value() does."""
    _weights(spec, [str(math.ceil(number)) for number in _numbers(spec)])


def root_leaks(spec: Raw) -> None:
    """Let the root's own pods keep 3 %."""
    for backend in spec["backends"]:
        backend["weight"] = int(_number(backend["weight"]) * 97)
    total = sum(backend["weight"] for backend in spec["backends"])
    spec["backends"].append({"service": spec["service"], "weight": max(1, total * 3 // 97)})


def all_zero_is_even(spec: Raw) -> None:
    """Spread evenly what has no weight at all."""
    weights = [str(backend["weight"]) for backend in spec["backends"]]
    if all(re.fullmatch(r"\d+m?", weight) and not _number(weight) for weight in weights):
        _weights(spec, [1 for _ in weights])


def first_group_only(spec: Raw) -> None:
    """Forget all groups but the first."""
    if "matches" in spec:
        spec["matches"] = spec["matches"][:1]


# ------------------------------------------------------------------------------------------------------------ routes


def pattern(change: Callable[[str], str]) -> Callable[[Raw], None]:
    """Change the path's expression."""

    def apply(match: Raw) -> None:
        if "pathRegex" in match:
            match["pathRegex"] = change(match["pathRegex"])

    return apply


def header_values(change: Callable[[str], str]) -> Callable[[Raw], None]:
    """Change the headers' expressions."""

    def apply(match: Raw) -> None:
        headers = match.get("headers") or {}
        if isinstance(headers, dict) and headers:
            match["headers"] = {name: change(value) for name, value in headers.items()}

    return apply


def bad_pattern_is_any(match: Raw) -> None:
    """Take an expression that is none for one that matches everything."""
    try:
        re.compile(match.get("pathRegex", ""))
    except re.error:
        match["pathRegex"] = ".*"


def star_is_get(match: Raw) -> None:
    """Take `*` for some method."""
    if match.get("methods") == ["*"]:
        match["methods"] = ["GET"]


def headers_one_by_one(matches: list[Raw]) -> list[Raw]:
    """Make a match of each header of a match."""
    split: list[Raw] = []
    for match in matches:
        headers = match.get("headers") or {}
        pairs = headers.items() if isinstance(headers, dict) else [pair for item in headers for pair in item.items()]
        one_by_one = [{**match, "headers": {name: value}} for name, value in pairs]
        split += [{**item, "name": f"{item['name']}{number or ''}"} for number, item in enumerate(one_by_one)]
        split += [] if one_by_one else [match]
    return split


def without_headers(match: Raw) -> None:
    """Drop the headers and keep the rest."""
    match.pop("headers", None)


# ------------------------------------------------------------------------------------------------------------ access


def empty_sources_are_all(target: Raw) -> None:
    """Let everybody in where nobody is named."""
    if not target.get("sources"):
        target["sources"] = [{"kind": "ServiceAccount", "name": name} for name in ("alice", "bob", "carol")]


def whole_groups(target: Raw) -> None:
    """Forget which matches of a group a rule names."""
    for rule in [*target.get("rules", ()), *target.get("specs", ())]:
        rule.pop("matches", None)


def port_ignored(target: Raw) -> None:
    """Forget the port of the destination."""
    target.get("destination", {}).pop("port", None)


def no_port_grants_nothing(target: Raw) -> None:
    """Grant nothing unless the destination has a port."""
    if "port" not in target.get("destination", {}):
        target["sources"] = []


def bindings_only(target: Raw) -> None:
    """Know sources that are IdentityBindings and no others."""
    target["sources"] = [item for item in target.get("sources", ()) if item["kind"] != "ServiceAccount"]


def own_sources_only(raw: Raw) -> None:
    """Forget the sources of another namespace than the target's."""
    if raw["kind"] == "TrafficTarget":
        own, body = raw["metadata"]["namespace"], _body(raw)
        body["sources"] = [item for item in body.get("sources", ()) if item.get("namespace", own) == own]


def names_only(raw: Raw) -> None:
    """Forget the API group of a subject and the trust domain of an identity."""
    if raw["kind"] == "TrafficTarget":
        for subject in _body(raw).get("sources") or ():
            subject.pop("group", None)
    if raw["kind"] == "IdentityBinding":
        schemes = raw["spec"].get("schemes", {})
        ids = [re.sub("^(spiffe://)?[^/]+/", "cluster.local/", item) for item in schemes.get("spiffeIdentities", ())]
        schemes.update({"spiffeIdentities": ids} if ids else {})


def without_tcp_ports(route: Raw) -> None:
    """Open every port."""
    route.pop("matches", None)


def no_ports_is_none(route: Raw) -> None:
    """Open no port of use where none is listed."""
    if not route.get("matches", {}).get("ports"):
        route["matches"] = {"ports": [1]}


def first_tcp_port(route: Raw) -> None:
    """Open the first of the listed ports."""
    if "matches" in route:
        route["matches"] = {"ports": route["matches"]["ports"][:1]}


# --------------------------------------------------------------------------------------------------------- identities


def labels_are_the_account(schemes: Raw) -> None:
    """Take the account of the selected pods for the pods."""
    if schemes.pop("podLabelSelector", None):
        schemes["serviceAccount"] = "twin"


def empty_selector_is_all(schemes: Raw) -> None:
    """Take a selector without labels for everybody."""
    if schemes.get("podLabelSelector") == {"matchLabels": {}}:
        schemes.clear()
        schemes["serviceAccount"] = "alice"


def one_scheme_only(schemes: Raw) -> None:
    """Forget the SPIFFE ids beside another scheme."""
    if len(schemes) > 1:
        schemes.pop("spiffeIdentities", None)
