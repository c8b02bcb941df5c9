"""The door of a workload: its inbound Listener, and what stands behind each of its ports.

Every connection is mutual TLS, in every mode; there is no plain text to fall back to. A port that the workload does
not declare has no filter chain, so a connection to it is closed. In no-cluster mode the proxy binds the pod's address
and each port itself, with a Listener for each; otherwise connections are redirected to one port and their original one
is restored.

The Listener holds ports and structure only. What changes with a rule is beside it: the routes (RDS) of an HTTP port,
and for a TCP port the validation context (SDS) and the network filter (ECDS). A TCP port's chain also carries a mark
that a revocation changes, which makes Envoy close the connections of that chain and of no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from smi_adapter.backends import Resource
from smi_adapter.backends.envoy import access, tls
from smi_adapter.backends.envoy.accesslog import AccessLog
from smi_adapter.backends.envoy.clusters import of_application
from smi_adapter.backends.envoy.hcm import HOUR, by_rds, manager
from smi_adapter.backends.envoy.listeners import udp_listener
from smi_adapter.backends.envoy.messages import (
    Fields,
    discovered,
    extension,
    extension_resource,
    resource,
    seconds,
    socket_address,
    struct,
    value,
)
from smi_adapter.backends.envoy.names import (
    INBOUND_PORT,
    LISTENER,
    NETWORK_RBAC,
    ORIGINAL_DST,
    SECRET,
    TCP_PROXY,
    inbound_name,
    tcp_access_name,
)
from smi_adapter.backends.envoy.routes import inbound, inbound_denial
from smi_adapter.findings import Ref
from smi_adapter.mesh import AccessMode, InboundPort, Instance, Protocol, Trust, Workload

MARK_NAMESPACE: Final = "smi-adapter"


def structure(workload: Workload, trust: Trust, marks: Mapping[int, str], log: AccessLog) -> tuple[Resource, ...]:
    """Return the Listeners and the applications' Clusters. `marks`: of each TCP port, see `access.generation`."""
    instance = workload.instances[0] if workload.direct else None
    stream = [port for port in workload.ports if port.protocol is not Protocol.UDP]
    resources = [of_application(workload, port, instance) for port in stream]
    if stream:
        chains = [_chain(workload, port, trust, marks, log) for port in stream]
        if instance is None:
            resources.append(_listener(workload, chains, log))
        else:
            bound = zip(stream, chains, strict=True)
            resources += [_bound_listener(workload, port, instance, chain, log) for port, chain in bound]
    if instance is not None:
        for port in open_udp_ports(workload):
            name = inbound_name(workload.key, port.number, port.protocol)
            where = (instance.address, port.number)
            resources.append(of_application(workload, port, instance))
            resources.append(udp_listener(name, where, name, log.of_connections(name), _origins(workload)))
    return tuple(resources)


def rules(workload: Workload, port: InboundPort, trust: Trust, mark: str) -> tuple[Resource, ...]:
    """Return what says who may use a port. Each comes with a closed form, for a proxy that refuses it."""
    if port.protocol is Protocol.UDP:
        return ()
    if port.protocol is Protocol.HTTP:
        return (inbound(workload, port),)
    name = tcp_access_name(workload.key, port.number, mark)
    origins = (*dict.fromkeys(rule.origin for rule in port.rules),) or _origins(workload)
    closable = workload.mode is AccessMode.ENFORCE
    decided = extension_resource(
        name,
        NETWORK_RBAC,
        access.tcp_filter(workload.mode, port.rules, name),
        origins,
        closed=access.tcp_denial(name) if closable else None,
    )
    if not trust.bundle:  # without roots nobody can be verified: no context, no handshake
        return (decided,)
    context = resource(
        SECRET,
        {"name": name, "validation_context": access.tcp_context(workload.mode, port.rules, trust)},
        origins,
        closed={"name": name, "validation_context": access.tcp_closed_context(trust)} if closable else None,
    )
    return (context, decided)


def denial(workload: Workload, port: InboundPort, trust: Trust, mark: str) -> tuple[Resource, ...]:
    """Return what lets nobody use a port: for one whose rules could not be rendered."""
    if port.protocol is Protocol.HTTP:
        return (inbound_denial(workload, port),)
    nobody = Workload(key=workload.key, identity="", mode=AccessMode.ENFORCE, instances=(), origin=workload.origin)
    return rules(nobody, InboundPort(port.number, port.protocol), trust, mark)


def open_udp_ports(workload: Workload) -> tuple[InboundPort, ...]:
    """Return the UDP ports that are passed on. A datagram proves no identity, so enforce mode passes none."""
    if workload.mode is AccessMode.ENFORCE:
        return ()
    return tuple(port for port in workload.ports if port.protocol is Protocol.UDP)


def _listener(workload: Workload, chains: list[Fields], log: AccessLog) -> Resource:
    """Return the one Listener behind the redirection of a pod."""
    name = inbound_name(workload.key)
    fields: Fields = {
        "name": name,
        "traffic_direction": "INBOUND",
        "filter_chains": chains,
        "access_log": log.of_connections(name),
        "address": socket_address("0.0.0.0", INBOUND_PORT),  # noqa: S104 - the pod's own namespace, redirected
        "listener_filters": [extension("envoy.filters.listener.original_dst", ORIGINAL_DST)],
    }
    return resource(LISTENER, fields, _origins(workload))


def _bound_listener(
    workload: Workload, port: InboundPort, instance: Instance, chain: Fields, log: AccessLog
) -> Resource:
    """Return the Listener of one port without redirection.

    One for each: Envoy refuses a Listener that gains an address, so a Service that comes later and leads to another
    port of a running pod could otherwise never be served.
    """
    name = inbound_name(workload.key, port.number, port.protocol)
    fields: Fields = {
        "name": name,
        "traffic_direction": "INBOUND",
        "filter_chains": [chain],
        "access_log": log.of_connections(inbound_name(workload.key)),
        "address": socket_address(instance.address, port.number),
        "enable_reuse_port": value(False),  # a port that is taken must be an error
    }
    return resource(LISTENER, fields, _origins(workload))


def _chain(workload: Workload, port: InboundPort, trust: Trust, marks: Mapping[int, str], log: AccessLog) -> Fields:
    name = inbound_name(workload.key, port.number, port.protocol)
    chain: Fields = {
        "name": name,
        "filter_chain_match": {"destination_port": value(port.number)},
        "transport_socket_connect_timeout": seconds(10),
    }
    if port.protocol is Protocol.HTTP:
        guards = (access.deny_all_filter(),)
        http = manager(name, by_rds(name), log.of_requests(name), inbound=True, guards=guards)
        return {**chain, "transport_socket": tls.downstream(trust), "filters": [http]}
    mark = marks[port.number]
    permitted = tcp_access_name(workload.key, port.number, mark)
    forward = {"stat_prefix": name, "cluster": name, "idle_timeout": seconds(HOUR)}
    return {
        **chain,
        "transport_socket": tls.downstream_from(permitted),
        "metadata": {"filter_metadata": {MARK_NAMESPACE: struct({"grants": mark})}},
        "filters": [
            discovered(permitted, NETWORK_RBAC),
            extension("envoy.filters.network.tcp_proxy", TCP_PROXY, forward),
        ],
    }


def _origins(workload: Workload) -> tuple[Ref, ...]:
    return () if workload.origin is None else (workload.origin,)
