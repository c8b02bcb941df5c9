"""The tutorial backend: TrafficSplits as routes of the Kubernetes Gateway API, for a mesh that somebody else runs.

Read this file if you want to write a backend; `docs/backends-howto.md` is the recipe. A backend is a value with a
name, the features that it has, and one pure function from the Mesh to something that the core can deliver. This one
returns Kubernetes objects (`Manifests`). It opens no file or socket, reads no clock and keeps nothing between calls.

- Gateway API has routes but nothing for access, so no `ACCESS_` feature stands below. The core then takes the
  workloads out of the Mesh before we see it, and tells the user about each TrafficTarget (`capabilities.py`).
- A route attaches to a Service (`parentRefs`, the mesh form that Gateway API calls GAMMA) and to one of its ports,
  as Service ports are what SMI splits: one route for each root port.
- Where its limits bite, the user hears it: SMI0601 when something is left out, SMI0602 when it is only alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import gcd
from typing import Any, Final, TypeAlias

from smi_adapter import regex
from smi_adapter.backends import Change, Manifests
from smi_adapter.findings import Finding, Ref, Severity, by_severity_then_object, finding
from smi_adapter.mesh import (
    Anchor,
    Feature,
    HeaderMatch,
    Match,
    Mesh,
    Pattern,
    Protocol,
    Route,
    Service,
    ServicePort,
    WeightedTarget,
)

Object: TypeAlias = dict[str, Any]

GROUP: Final = "gateway.networking.k8s.io"
# The limits of Gateway API's own schemas: an object beyond one of them is refused as a whole.
MAX_RULES: Final = 16
MAX_MATCHES_PER_RULE: Final = 64
MAX_MATCHES: Final = 128
MAX_BACKENDS: Final = 16
MAX_HEADERS: Final = 16
MAX_WEIGHT: Final = 1_000_000
MAX_PATH: Final = 1024
METHODS: Final = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})


@dataclass(frozen=True, slots=True)
class GatewayAPI:
    """The backend. `tcp_version` is the served version of TCPRoute: v1alpha2 up to Gateway API 1.5, v1 from 1.6."""

    name: str = "gateway_api"
    # What we claim here we must render, or say in a finding why not. What we don't claim we are never given.
    # UDP is not claimed: there is a UDPRoute, but no mesh says what it does on a Service.
    features: frozenset[Feature] = frozenset(
        {
            Feature.HTTP_SPLIT,
            Feature.TCP_SPLIT,
            Feature.MATCH_PATH,
            Feature.MATCH_METHOD,
            Feature.MATCH_HEADER,
        }
    )
    tcp_version: str = "v1alpha2"

    def render(self, mesh: Mesh, change: Change | None = None) -> Manifests:  # noqa: ARG002 - all of it, each time
        """Return a route for each port of each root Service; everything else is what Kubernetes does anyway."""
        objects: list[Object] = []
        findings: list[Finding] = []
        for _, service in sorted(mesh.services.items()):  # sorted: the same mesh gives the same bytes
            for port in service.ports:
                routes, problems = _what_can_be_said(service, port)
                findings += problems
                if port.protocol is Protocol.HTTP:
                    objects += _http_routes(service, port, routes)
                elif port.protocol is Protocol.TCP:
                    objects += self._tcp_route(service, port, routes[-1])
        kinds = ((f"{GROUP}/v1", "HTTPRoute"), (f"{GROUP}/{self.tcp_version}", "TCPRoute"))
        return Manifests(tuple(objects), tuple(sorted(set(findings), key=by_severity_then_object)), kinds)

    def _tcp_route(self, service: Service, port: ServicePort, route: Route) -> Iterator[Object]:
        """Yield the TCPRoute; a split without targets is its root at weight 0, as an empty list is refused."""
        if route.origin is None:
            return
        refs = _backend_refs(service, route) or [{**_backend_ref(service, _root(service, port)), "weight": 0}]
        route_object = _manifest("TCPRoute", service, port, (route.origin,), [{"backendRefs": refs}])
        yield route_object | {"apiVersion": f"{GROUP}/{self.tcp_version}"}


BACKEND: Final = GatewayAPI()


# ------------------------------------------------------------------------------- first pass: what can be said at all


def _what_can_be_said(service: Service, port: ServicePort) -> tuple[tuple[Route, ...], list[Finding]]:
    """Return the routes without what Gateway API cannot express, and a finding for everything that is lost.

    What is left out falls to the root Service: a route that we cannot say must never widen another one. The last
    route returned always matches everything, since Gateway API answers 404 where nothing matches, and SMI does not.
    """
    kept: list[Route] = []
    findings: list[Finding] = []
    for route in port.routes:
        if route.origin is None:
            kept.append(route)
            continue
        earlier = _scopes(match for before in kept for match in before.matches or ())
        sayable, problems = _sayable(route, route.origin, port.protocol, earlier)
        findings += problems
        if sayable is not None:
            kept.append(sayable)
    if not kept or kept[-1].matches is not None:
        kept.append(Route((_root(service, port),)))
    return tuple(kept), findings


def _sayable(route: Route, origin: Ref, protocol: Protocol, earlier: set[str]) -> tuple[Route | None, list[Finding]]:
    """Return what can be said of one route; `earlier`: where the routes before it have a say."""
    if len(route.targets) > MAX_BACKENDS:
        text = f"{len(route.targets)} backends; a route has at most {MAX_BACKENDS}. Everything goes to the root."
        return None, [finding("SMI0601", origin, "spec.backends", text)]
    findings = list(_target_notes(route, origin, protocol))
    if route.matches is None:
        return route, findings
    if protocol is not Protocol.HTTP:
        return None, [finding("SMI0601", origin, "spec.matches", "connections cannot be matched by request")]
    matches: list[Match] = []
    for match in _one_method_each(route.matches):
        if not (reason := _unsayable(match)):
            matches.append(match)
            continue
        text = f"match {match.label!r} is left out, its requests go to the root: {reason}"
        findings.append(finding("SMI0601", origin, "spec.matches", text))
    if not matches:
        return None, findings
    if any(_needs_regex(match) for match in matches):
        text = "regular expressions: each implementation of Gateway API has its own dialect and order for them"
        findings.append(finding("SMI0602", origin, "spec.matches", text, severity=Severity.INFO))
    if any(one.startswith(two) or two.startswith(one) for two in _scopes(matches) for one in earlier):
        text = "another split may match the same and comes first; Gateway API prefers the more specific match"
        findings.append(finding("SMI0602", origin, "spec.matches", text))
    return replace(route, matches=tuple(matches)), findings


def _target_notes(route: Route, origin: Ref, protocol: Protocol) -> Iterator[Finding]:
    if not route.targets:
        text = "requests get 500 instead of 503" if protocol is Protocol.HTTP else "connections are refused, or hang"
        yield finding("SMI0602", origin, "spec.backends", f"no backend has a share: {text}")
    elif not _weights(route.targets)[1]:
        text = f"the weights are scaled to fit {MAX_WEIGHT}; the ratio is rounded"
        yield finding("SMI0602", origin, "spec.backends", text)


def _one_method_each(matches: tuple[Match, ...]) -> Iterator[Match]:
    """Yield each match once for each of its methods: a match of Gateway API has at most one."""
    for match in matches:
        yield from (replace(match, methods=(method,)) for method in match.methods) if match.methods else (match,)


def _scopes(matches: Iterable[Match]) -> set[str]:
    """Return the directories in which the paths lie, as far as one can tell; "/" is everywhere."""
    return {(_portable_path(match.path) or ("", ""))[1].rstrip("/") + "/" for match in matches}


def _needs_regex(match: Match) -> bool:
    return not (_portable_path(match.path) and all(_is_plain(header.pattern) for header in match.headers))


def _unsayable(match: Match) -> str:
    """Return why a match with at most one method cannot be said, or ""."""
    names = [header.name for header in match.headers]
    if match.methods and match.methods[0] not in METHODS:
        return f"there is no method {match.methods[0]}"
    if match.path is not None and len(_wrapped(match.path)) > MAX_PATH:
        return f"the path is longer than {MAX_PATH} characters"
    if len(names) > MAX_HEADERS:
        return f"{len(names)} headers; at most {MAX_HEADERS}"
    if len(set(names)) < len(names):
        return "one header is filtered twice; Gateway API would look at the first filter only"
    if any(not regex.whole(r"[!-~]+(?:[\t ]?[!-~]+)*", _wrapped(header.pattern)) for header in match.headers):
        return "a header value that is not printable ASCII with single spaces"
    return ""


# ------------------------------------------------------------------------------------------ second pass: the objects


def _http_routes(service: Service, port: ServicePort, routes: tuple[Route, ...]) -> Iterator[Object]:
    """Yield the port's HTTPRoutes: one, or several where its rules are too many for one object."""
    origins = tuple(sorted({route.origin for route in routes if route.origin is not None}))
    if not origins:
        return
    # Implementations rank regular expressions above prefixes, below them, or by length. So a port has paths of one
    # kind only: as soon as one path needs a regular expression, all are, down to the last rule's.
    portable = all(_portable_path(match.path) for route in routes for match in route.matches or ())
    pages: list[list[Object]] = [[]]
    for rule in (rule for route in routes for rule in _http_rules(service, route, portable=portable)):
        if len(pages[-1]) == MAX_RULES or sum(len(r["matches"]) for r in (*pages[-1], rule)) > MAX_MATCHES:
            pages.append([])
        pages[-1].append(rule)
    for number, rules in enumerate(pages):
        manifest = _manifest("HTTPRoute", service, port, origins, rules)
        manifest["metadata"]["name"] += f".{number:02}" if number else ""  # of equal age, they count by name
        yield manifest


def _http_rules(service: Service, route: Route, *, portable: bool) -> Iterator[Object]:
    """Yield a rule for every 64 matches. No targets: no backendRefs, which Gateway API answers with 500."""
    matches = [_match(match, portable=portable) for match in route.matches or (Match(),)]
    for start in range(0, len(matches), MAX_MATCHES_PER_RULE):
        rule = {"matches": matches[start : start + MAX_MATCHES_PER_RULE]}
        yield rule | ({"backendRefs": _backend_refs(service, route)} if route.targets else {})


def _match(match: Match, *, portable: bool) -> Object:
    kind, value = _portable_path(match.path) or ("", "")
    if not portable:  # ".*" is the shortest expression there is, so that it loses against every other one
        kind, value = "RegularExpression", _wrapped(match.path) if match.path is not None else ".*"
    said: Object = {"path": {"type": kind, "value": value}}
    if match.headers:
        said["headers"] = [_header(header) for header in sorted(match.headers, key=lambda header: header.name)]
    if match.methods:
        said["method"] = match.methods[0]
    return said


def _header(header: HeaderMatch) -> Object:
    plain = _is_plain(header.pattern)
    value = header.pattern.text if plain else _wrapped(header.pattern)
    return {"type": "Exact" if plain else "RegularExpression", "name": header.name, "value": value}


def _is_plain(pattern: Pattern) -> bool:
    return pattern.anchor is Anchor.WHOLE and regex.whole("[A-Za-z0-9_-]+", pattern.text)


def _portable_path(pattern: Pattern | None) -> tuple[str, str] | None:
    """Return the path as (type, value) in the forms that all implementations agree on, or None if there is none."""
    if pattern in {None, Pattern("/", Anchor.START)} or pattern.text in {".*", "/.*", "^/.*"}:
        return ("PathPrefix", "/")
    if pattern.anchor is Anchor.SEARCH or (pattern.anchor is Anchor.START and not pattern.text.endswith("$")):
        return None  # open-ended: "/user" also matches "/users", which a prefix of whole segments does not
    text = pattern.text.removeprefix("^").removesuffix("$")
    literal = text.removesuffix("(/.*)?")
    if not regex.whole(r"(?:/(?:\\\.)*[A-Za-z0-9_~-](?:[A-Za-z0-9_~-]|\\\.)*)+", literal):
        return None
    return ("Exact" if literal == text else "PathPrefix", literal.replace("\\.", "."))


def _wrapped(pattern: Pattern) -> str:
    """Return an expression that means the same where the whole value must match and where any part of it may."""
    before, after = {Anchor.START: ("", ".*"), Anchor.WHOLE: ("", ""), Anchor.SEARCH: (".*", ".*")}[pattern.anchor]
    return f"^{before}(?:{pattern.text}){after}$"


def _weights(targets: tuple[WeightedTarget, ...]) -> tuple[tuple[int, ...], bool]:
    """Return the weights within the limit, none of them zero, and whether their ratio is still exact."""
    weights = tuple(target.weight for target in targets)
    if max(weights, default=0) <= MAX_WEIGHT:
        return weights, True
    weights = tuple(weight // gcd(*weights) for weight in weights)
    if (largest := max(weights)) <= MAX_WEIGHT:
        return weights, True
    return tuple(max(1, (weight * MAX_WEIGHT + largest // 2) // largest) for weight in weights), False


def _backend_refs(service: Service, route: Route) -> list[Object]:
    shares = zip(route.targets, _weights(route.targets)[0], strict=True)
    return [{**_backend_ref(service, target), "weight": weight} for target, weight in shares]


def _backend_ref(service: Service, target: WeightedTarget) -> Object:
    namespace, name = target.service
    elsewhere = {} if namespace == service.key[0] else {"namespace": namespace}
    return {"kind": "Service", "name": name, **elsewhere, "port": target.port}


def _root(service: Service, port: ServicePort) -> WeightedTarget:
    return WeightedTarget(service.key, port.number, 1)


def _manifest(kind: str, service: Service, port: ServicePort, origins: tuple[Ref, ...], rules: list[Object]) -> Object:
    """Return the object. The dots keep names apart: the name of a Service has none."""
    namespace, name = service.key
    parent = {"group": "", "kind": "Service", "name": name, "port": port.number}
    return {
        "apiVersion": f"{GROUP}/v1",
        "kind": kind,
        "metadata": {
            "name": f"smi.{name}.{port.number}",
            "namespace": namespace,
            "labels": {"app.kubernetes.io/managed-by": "smi-adapter"},
            "annotations": {"smi-adapter.io/origin": ", ".join(map(str, origins))},
        },
        "spec": {"parentRefs": [parent], "rules": rules},
    }
