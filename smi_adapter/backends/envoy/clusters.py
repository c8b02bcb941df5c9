"""Clusters and their endpoints: one pair for each Service port, and a local one for each port of an application.

An endpoint change touches the endpoints alone. The names that a server must prove are those of all pods behind the
Service, ready or not, so that the Cluster stays as it is when readiness changes. Nothing here moves shares by itself:
no outlier detection, no panic threshold, circuit breakers out of the way (envoy.md section 4).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import lcm
from typing import Final

from smi_adapter.backends import Resource
from smi_adapter.backends.envoy.hcm import HTTP2
from smi_adapter.backends.envoy.messages import ADS, Fields, resource, seconds, socket_address, struct, typed, value
from smi_adapter.backends.envoy.names import (
    CLUSTER,
    ENDPOINTS,
    HTTP_OPTIONS,
    PASSTHROUGH,
    cluster_name,
    inbound_name,
    server_name,
)
from smi_adapter.backends.envoy.routes import origins_of, whole_route
from smi_adapter.backends.envoy.tls import plain_text, upstream
from smi_adapter.findings import Ref
from smi_adapter.mesh import Endpoint, InboundPort, Instance, Key, Protocol, Service, ServicePort, Workload

_MOST: Final = 2**32 - 1
_LOOPBACK: Final = "127.0.0.1"
_PLAIN: Final = "plain_text"

_LIMITS: Final = {
    limit: value(_MOST) for limit in ("max_connections", "max_pending_requests", "max_requests", "max_retries")
}

_COMMON: Final[Fields] = {
    "connect_timeout": seconds(5),
    "circuit_breakers": {"thresholds": [{"priority": "DEFAULT", **_LIMITS}, {"priority": "HIGH", **_LIMITS}]},
    "common_lb_config": {"healthy_panic_threshold": {"value": 0.0}},
}

_EXTENSION: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_AS_THE_CLIENT_SPEAKS: Final[Fields] = {
    "typed_extension_protocol_options": {
        _EXTENSION: typed(HTTP_OPTIONS, {"use_downstream_protocol_config": {"http2_protocol_options": HTTP2}})
    }
}


def of_service(service: Service, services: Mapping[Key, Service]) -> tuple[Resource, ...]:
    """Return a Cluster and its endpoints for each port; `services` is asked only for the targets of a UDP split."""
    resources: list[Resource] = []
    for port in service.ports:
        name = cluster_name(service.key, port.number, port.protocol)
        origins: tuple[Ref, ...] = () if service.origin is None else (service.origin,)
        if port.protocol is Protocol.UDP:
            origins = origins_of(service, port)
            resources.append(resource(CLUSTER, {**_eds(name), **_COMMON}, origins))
            resources.append(resource(ENDPOINTS, _assignment(name, _udp_shares(port, services)), origins))
            continue
        secured = {**_eds(name), **_COMMON, **_sockets(service, port)}
        if port.protocol is Protocol.HTTP:
            secured |= _AS_THE_CLIENT_SPEAKS
        resources.append(resource(CLUSTER, secured, origins))
        resources.append(resource(ENDPOINTS, _assignment(name, ((item, 0) for item in port.endpoints)), origins))
    return tuple(resources)


def of_application(workload: Workload, port: InboundPort, instance: Instance | None) -> Resource:
    """Return the Cluster of the application behind an inbound port, in the same pod and in plain text."""
    name = inbound_name(workload.key, port.number, port.protocol)
    address = instance.app_address if instance is not None and instance.app_address else _LOOPBACK
    fields: Fields = {
        "name": name,
        "type": "STATIC",
        **_COMMON,
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": socket_address(address, port.number, udp=_udp(port))}}]}
            ],
        },
    }
    if port.protocol is Protocol.HTTP:
        fields = {**fields, **_AS_THE_CLIENT_SPEAKS}
    return resource(CLUSTER, fields, () if workload.origin is None else (workload.origin,))


def passthrough() -> Resource:
    """Return the Cluster for addresses that are no Service's: they are reached as they were dialled."""
    return resource(CLUSTER, {"name": PASSTHROUGH, "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", **_COMMON})


def udp_targets(service: Service) -> frozenset[Key]:
    """Return the other Services whose endpoints stand in this one's own UDP endpoints."""
    return frozenset(
        target.service
        for port in service.ports
        if port.protocol is Protocol.UDP
        for target in whole_route(port).targets
        if target.service != service.key
    )


def empty_udp_share(service: Service, services: Mapping[Key, Service]) -> bool:
    """Tell whether a UDP backend with a share has no endpoint: Envoy then gives its share to the others (not S6)."""
    return any(
        not _udp_endpoints(target.service, target.port, services)
        for port in service.ports
        if port.protocol is Protocol.UDP and len(whole_route(port).targets) > 1
        for target in whole_route(port).targets
    )


def _eds(name: str) -> Fields:
    return {"name": name, "type": "EDS", "eds_cluster_config": {"eds_config": ADS}}


def _sockets(service: Service, port: ServicePort) -> Fields:
    """Return mTLS towards everything but endpoints that are marked as having no proxy.

    Those can be reached only if the port has some, or has no proxy behind it at all: a Service of proxied pods alone
    has no plain text to fall back to. The default, for an endpoint without a mark, is always mTLS.
    """
    secure = upstream(port.identities, server_name(service.key))
    if port.identities and all(endpoint.identity for endpoint in port.endpoints):
        return {"transport_socket": secure}
    return {
        "transport_socket_matches": [
            {"name": _PLAIN, "match": struct({_PLAIN: True}), "transport_socket": plain_text()}
        ],
        "transport_socket": secure,
    }


def _assignment(name: str, endpoints: Iterable[tuple[Endpoint, int]]) -> Fields:
    members = [_member(endpoint, weight) for endpoint, weight in endpoints]
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": members}] if members else []}


def _member(endpoint: Endpoint, weight: int) -> Fields:
    """Return an endpoint: weighted for UDP, and for TCP marked if nothing encrypted answers there."""
    udp = weight > 0
    member: Fields = {"endpoint": {"address": socket_address(endpoint.address, endpoint.port, udp=udp)}}
    if udp:
        return {**member, "load_balancing_weight": value(weight)}
    if endpoint.identity:
        return member
    return {**member, "metadata": {"filter_metadata": {"envoy.transport_socket_match": struct({_PLAIN: True})}}}


def _udp_shares(port: ServicePort, services: Mapping[Key, Service]) -> list[tuple[Endpoint, int]]:
    """Return the endpoints of all targets, weighted so that each target has its share (`udp_proxy` knows one cluster).

    A pod behind two targets counts for both. Weights stay exact unless their sum would exceed what Envoy takes.
    """
    groups = [
        (target.weight, _udp_endpoints(target.service, target.port, services)) for target in whole_route(port).targets
    ]
    groups = [(weight, endpoints) for weight, endpoints in groups if endpoints]
    common = lcm(*(len(endpoints) for _, endpoints in groups))
    shares: dict[tuple[str, int], tuple[Endpoint, int]] = {}
    for weight, endpoints in groups:
        for endpoint in endpoints:
            address = (endpoint.address, endpoint.port)
            shares[address] = (endpoint, shares.get(address, (endpoint, 0))[1] + weight * common // len(endpoints))
    total = sum(share for _, share in shares.values())
    scale = max(1, -(-total // (_MOST - len(shares)))) if shares else 1
    return [(endpoint, max(1, share // scale)) for _, (endpoint, share) in sorted(shares.items())]


def _udp_endpoints(service: Key, number: int, services: Mapping[Key, Service]) -> tuple[Endpoint, ...]:
    target = services.get(service)
    if target is None:
        return ()
    return next(
        (port.endpoints for port in target.ports if port.number == number and port.protocol is Protocol.UDP), ()
    )


def _udp(port: InboundPort) -> bool:
    return port.protocol is Protocol.UDP
