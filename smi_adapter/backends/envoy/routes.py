"""Where requests go: a Service port's routes (RDS), or for TCP its `tcp_proxy` (ECDS).

One resource for each Service port, so that a changed weight costs one small message whatever the mesh's size, and
closes no connection. A cluster that does not exist is a 503 for its share, never a refused resource.
"""

from __future__ import annotations

from typing import Final

from smi_adapter.backends import Resource
from smi_adapter.backends.envoy.access import http_denial, http_override
from smi_adapter.backends.envoy.hcm import HOUR
from smi_adapter.backends.envoy.matches import route_match
from smi_adapter.backends.envoy.messages import Fields, extension, extension_resource, resource, seconds, value
from smi_adapter.backends.envoy.names import (
    NOWHERE,
    PREVIOUS_HOSTS,
    ROUTES,
    TCP_PROXY,
    cluster_name,
    inbound_name,
    outbound_name,
)
from smi_adapter.findings import Ref
from smi_adapter.mesh import InboundPort, Match, Protocol, Route, Service, ServicePort, Workload

_ATTEMPTS: Final = 3

_RETRY: Final[Fields] = {
    "retry_on": "connect-failure,refused-stream",  # both say that the request was not processed
    "num_retries": value(_ATTEMPTS - 1),
}

_DOTS_LEFT_OVER: Final[Fields] = {
    # `/a/%2e%2e;/b` is `/a/..;/b` once normalised, and `/b` to an application that ignores what follows `;`. Two
    # proxies normalise twice; a caller that goes around its own must not be let past a rule for `/a/`.
    "match": {"safe_regex": {"regex": r"(?s:.*)/\.\.?;(?s:.*)"}},
    "direct_response": {"status": 400},
}

_RETRY_ELSEWHERE: Final[Fields] = {
    **_RETRY,
    "retry_host_predicate": [extension("envoy.retry_host_predicates.previous_hosts", PREVIOUS_HOSTS)],
    "host_selection_retry_max_attempts": _ATTEMPTS,
}


def outbound(service: Service) -> tuple[Resource, ...]:
    """Return what decides where each TCP port's connections and each HTTP port's requests go (UDP: see clusters)."""
    resources = []
    for port in service.ports:
        if port.protocol is Protocol.HTTP:
            resources.append(_http(service, port))
        elif port.protocol is Protocol.TCP:
            resources.append(_tcp(service, port))
    return tuple(resources)


def unavailable(service: Service) -> tuple[Resource, ...]:
    """Return routes that answer 503: for a Service of which not even the plain routes can be made."""
    return outbound(
        Service(
            key=service.key,
            ports=tuple(ServicePort(port.number, port.protocol, (Route(()),)) for port in service.ports),
            origin=service.origin,
        )
    )


def inbound(workload: Workload, port: InboundPort) -> Resource:
    """Return the rules of a workload's HTTP port. Its closed form denies every request.

    In the modes that allow everything there is no closed form: no older version was looser.
    """
    name = inbound_name(workload.key, port.number, port.protocol)
    origins = (*dict.fromkeys(rule.origin for rule in port.rules),) or _origin(workload)
    open_to_all = workload.mode.value != "enforce"
    return resource(
        ROUTES,
        _guarded(name, {"typed_per_filter_config": http_override(workload.mode, port.rules)}),
        origins,
        closed=None if open_to_all else _guarded(name, {"typed_per_filter_config": http_denial()}),
    )


def inbound_denial(workload: Workload, port: InboundPort) -> Resource:
    """Return rules that deny every request: for a port whose rules could not be rendered."""
    name = inbound_name(workload.key, port.number, port.protocol)
    return resource(ROUTES, _guarded(name, {"typed_per_filter_config": http_denial()}), _origin(workload))


def refused_requests(name: str, reason: str) -> Resource:
    """Return the routes of a Service that the caller may not call; the access log shows the reason as the route."""
    answer = {"status": 403, "body": {"inline_string": "RBAC: access denied"}}
    route = {"name": reason, "match": {"prefix": "/"}, "direct_response": answer}
    return resource(ROUTES, one_virtual_host(name, {"routes": [route]}))


def refused_connections(name: str, log: list[Fields]) -> Resource:
    """Return the `tcp_proxy` of a Service that the caller may not call: it leads nowhere, and `log` says why."""
    return extension_resource(name, TCP_PROXY, {"cluster": NOWHERE, "stat_prefix": name, "access_log": log})


def one_virtual_host(name: str, fields: Fields) -> Fields:
    """Return a RouteConfiguration in which the Host header decides nothing (S20)."""
    return {
        "name": name,
        "virtual_hosts": [{"name": "all", "domains": ["*"], **fields}],
        "validate_clusters": value(False),
        "ignore_port_in_host_matching": True,
    }


def origins_of(service: Service, port: ServicePort) -> tuple[Ref, ...]:
    """Return the objects to name when a proxy refuses what was made for this port."""
    named = (match.origin for route in port.routes for match in route.matches or ())
    routes = (route.origin for route in port.routes)
    return tuple(dict.fromkeys(ref for ref in (*routes, *named, service.origin) if ref is not None))


def whole_route(port: ServicePort) -> Route:
    """Return the route for what has no method, path or header: the first one that matches everything."""
    return next((route for route in port.routes if route.matches is None), Route(()))


def _guarded(name: str, override: Fields) -> Fields:
    action: Fields = {"cluster": name, "timeout": seconds(0)}
    route = {"match": {"prefix": "/"}, "route": action}
    return one_virtual_host(name, {"routes": [_DOTS_LEFT_OVER, route], "retry_policy": _RETRY, **override})


def _http(service: Service, port: ServicePort) -> Resource:
    name = outbound_name(service.key, port.number, port.protocol)
    routes = [entry for route in port.routes for entry in _entries(route)]
    fields = {"routes": routes, "retry_policy": _RETRY_ELSEWHERE}
    return resource(ROUTES, one_virtual_host(name, fields), origins_of(service, port))


def _entries(route: Route) -> list[Fields]:
    """Return an Envoy route for each match; a Route whose matches are none matches nothing (S16)."""
    action = _action(route)
    if route.matches is None:
        return [{**action, "match": route_match(None), **_name(route, None)}]
    return [{**action, "match": route_match(match), **_name(route, match)} for match in route.matches]


def _name(route: Route, match: Match | None) -> Fields:
    """Return the name that the access log shows: the TrafficSplit, and the match that chose it."""
    if route.origin is None:
        return {}
    chosen = "" if match is None else f" {match.origin or ''} {match.label}".rstrip()
    return {"name": f"{route.origin}{chosen}"}


def _action(route: Route) -> Fields:
    if not route.targets:  # S4: a sum of 0 is refused by Envoy
        return {"direct_response": {"status": 503, "body": {"inline_string": "no backend has a share of this\n"}}}
    names = [(cluster_name(target.service, target.port, Protocol.HTTP), target.weight) for target in route.targets]
    chosen: Fields
    if len(names) == 1:
        chosen = {"cluster": names[0][0]}
    else:
        chosen = {"weighted_clusters": {"clusters": [{"name": name, "weight": value(share)} for name, share in names]}}
    return {"route": {**chosen, "timeout": seconds(0)}}


def _tcp(service: Service, port: ServicePort) -> Resource:
    """Return the `tcp_proxy`: by ECDS, so that new connections obey new weights and old ones live on."""
    name = outbound_name(service.key, port.number, port.protocol)
    targets = whole_route(port).targets
    names = [(cluster_name(target.service, target.port, Protocol.TCP), target.weight) for target in targets]
    chosen: Fields
    if len(names) > 1:
        chosen = {"weighted_clusters": {"clusters": [{"name": cluster, "weight": share} for cluster, share in names]}}
    else:
        chosen = {"cluster": names[0][0] if names else NOWHERE}
    fields = {
        **chosen,
        "stat_prefix": name,
        "idle_timeout": seconds(HOUR),
        "max_connect_attempts": value(_ATTEMPTS),
    }
    return extension_resource(name, TCP_PROXY, fields, origins_of(service, port))


def _origin(workload: Workload) -> tuple[Ref, ...]:
    return () if workload.origin is None else (workload.origin,)
