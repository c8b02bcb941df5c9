"""Where an application dials: outbound Listeners, and the doors for what it may not call.

One Listener for each Service port, chosen by the address that was dialled (S20). In a cluster its address is a virtual
IP, nothing is bound, and `out/any` hands redirected connections over. In no-cluster mode nothing redirects: each
workload has a loopback address for each Service, and its proxy binds them. A Service that the workload may not call
(its identity is not among the callers) gets a Listener that tells it so: 403 for HTTP, a closed connection for TCP.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from smi_adapter.backends import Resource
from smi_adapter.backends.envoy.access import deny_all_filter
from smi_adapter.backends.envoy.accesslog import AccessLog
from smi_adapter.backends.envoy.clusters import passthrough
from smi_adapter.backends.envoy.hcm import HOUR, by_rds, denier, manager
from smi_adapter.backends.envoy.messages import (
    Fields,
    discovered,
    extension,
    resource,
    seconds,
    socket_address,
    typed,
    value,
)
from smi_adapter.backends.envoy.names import (
    DENIED,
    DIRECT_RESPONSE,
    LISTENER,
    ORIGINAL_DST,
    OUTBOUND_ANY,
    OUTBOUND_PORT,
    PASSTHROUGH,
    TCP_PROXY,
    UDP_PROXY,
    UDP_ROUTE,
    cluster_name,
    outbound_name,
)
from smi_adapter.backends.envoy.routes import refused_connections, refused_requests
from smi_adapter.findings import Ref
from smi_adapter.mesh import Key, Mesh, Protocol, Service, ServicePort, Workload

NOT_GRANTED: Final = "no TrafficTarget lets this identity call the Service"
"""What the access log gives as the reason at the caller's own proxy."""


OWN_DENIALS: Final = 64
"""How many ports that a workload may not call get a Listener each, before they share two."""


DENIAL: Final = 2
"""So many resources say no at one port: its Listener, and what answers there. An open port has its Listener alone."""


@dataclass(frozen=True, slots=True)
class _Door:
    """A Service port as one workload sees it: the address at which it dials."""

    service: Service
    port: ServicePort
    address: str

    @property
    def name(self) -> str:
        """Return the name of its Listener."""
        return outbound_name(self.service.key, self.port.number, self.port.protocol)


@dataclass(frozen=True, slots=True)
class Dialer:
    """What makes the Listeners; it holds the one thing that they do not get from the Mesh."""

    log: AccessLog = field(default_factory=AccessLog)

    def shared(self, service: Service) -> tuple[Resource, ...]:
        """Return the unbound Listeners of a Service's virtual IPs. UDP is not redirected, so it has none."""
        if not service.addresses:
            return ()
        return tuple(
            self._listener(service, port, service.addresses, bind=False)
            for port in service.ports
            if port.protocol is not Protocol.UDP
        )

    def allowed(self, service: Service, address: str) -> tuple[Resource, ...]:
        """Return the Listeners that one workload's application dials to reach a Service that it may call."""
        return tuple(self._listener(service, port, (address,), bind=True) for port in service.ports)

    def denied(
        self,
        workload: Workload,
        services: Mapping[Key, Service],
        same: Container[tuple[Key, str]] = (),
        before: Collection[Resource] = (),
    ) -> tuple[Resource, ...]:
        """Return what answers at the addresses of all Services that a workload dials but may not call.

        A few have the very Listener that they would have if they might be called, and routes of that Listener's name
        that say no. So a grant or a revocation is a change of routes: it is in effect at once, on open connections
        too. But a Listener costs a proxy 19 to 37 kB, and in a big mesh most Services are of this sort: more than
        `OWN_DENIALS` ports share two, at 3 kB an address. Those stand first in their part, because an address must
        have left its old Listener before a new one takes it (docs/adr/0013). UDP has none: without a Listener a
        datagram goes nowhere. `before` is what the workload had so far: what `same` dials need is taken from there.
        """
        doors = [
            _Door(service, port, address)
            for key, address in workload.dial
            if (service := services.get(key)) is not None and not may_call(workload.identity, service)
            for port in service.ports
            if port.protocol is not Protocol.UDP
        ]
        if len(doors) <= OWN_DENIALS:
            kept: dict[str, list[Resource]] = defaultdict(list)
            for item in before:
                kept[item.name].append(item)
            own = (
                kept[door.name]
                if (door.service.key, door.address) in same and len(kept[door.name]) == DENIAL
                else self._own_denial(door)
                for door in doors
            )
            return tuple(item for pair in own for item in pair)
        shared = (
            (kind.value, [door for door in doors if door.port.protocol is kind])
            for kind in (Protocol.HTTP, Protocol.TCP)
        )
        return tuple(self._denial(f"{DENIED}/{kind}", some) for kind, some in shared if some)

    def catching(self, services: Mapping[Key, Service]) -> tuple[Resource, ...]:
        """Return the Listener to which a cluster's iptables rules redirect, and what it needs.

        A connection to a Service in the proxy's scope is handed over to that Service's Listener. One to another
        Service of the mesh stays here and is denied; one to any other address passes through.
        """
        http, tcp = _virtual_addresses(services)
        chains = [
            {
                "name": f"{DENIED}/{protocol}/{port}",
                "filter_chain_match": {"destination_port": value(port), "prefix_ranges": _hosts(addresses)},
                "filters": [self._refusal(DENIED, http=protocol == "http")],
            }
            for protocol, by_port in (("http", http), ("tcp", tcp))
            for port, addresses in sorted(by_port.items())
        ]
        through = {"stat_prefix": PASSTHROUGH, "cluster": PASSTHROUGH, "idle_timeout": seconds(HOUR)}
        fields = {
            "name": OUTBOUND_ANY,
            "address": socket_address("0.0.0.0", OUTBOUND_PORT),  # noqa: S104 - the pod's own namespace, redirected
            "use_original_dst": value(True),
            "listener_filters": [extension("envoy.filters.listener.original_dst", ORIGINAL_DST)],
            "traffic_direction": "OUTBOUND",
            "filter_chains": chains,
            "default_filter_chain": {
                "name": PASSTHROUGH,
                "filters": [extension("envoy.filters.network.tcp_proxy", TCP_PROXY, through)],
            },
            "access_log": self.log.of_connections(OUTBOUND_ANY),
        }
        return (passthrough(), resource(LISTENER, fields))

    def _listener(self, service: Service, port: ServicePort, addresses: tuple[str, ...], *, bind: bool) -> Resource:
        name = outbound_name(service.key, port.number, port.protocol)
        if port.protocol is Protocol.UDP:
            return self._udp(name, service, port, addresses[0])
        if port.protocol is Protocol.HTTP:
            only = manager(name, by_rds(name), self.log.of_requests(name), inbound=False)
            log = []
        else:
            only = discovered(name, TCP_PROXY)
            log = self.log.of_connections(name)
        places = [(address, port.number) for address in addresses]
        return resource(LISTENER, self._outbound(name, places, only, bind=bind, log=log), _origins(service))

    def _own_denial(self, door: _Door) -> tuple[Resource, Resource]:
        listener = self._listener(door.service, door.port, (door.address,), bind=True)
        if door.port.protocol is Protocol.HTTP:
            return listener, refused_requests(door.name, NOT_GRANTED)
        return listener, refused_connections(door.name, self.log.of_connections(door.name, NOT_GRANTED))

    def _denial(self, name: str, doors: list[_Door]) -> Resource:
        """Return one Listener that refuses at these doors, all HTTP or all TCP."""
        http = doors[0].port.protocol is Protocol.HTTP
        log = [] if http else self.log.of_connections(name, NOT_GRANTED)
        places = sorted({(door.address, door.port.number) for door in doors})
        return resource(LISTENER, self._outbound(name, places, self._refusal(name, http=http), bind=True, log=log))

    def _refusal(self, name: str, *, http: bool) -> Fields:
        """Return the filter that says no: 403 to a request, or the end of the connection."""
        if not http:
            return extension("envoy.filters.network.direct_response", DIRECT_RESPONSE)
        return denier(name, deny_all_filter(), self.log.of_requests(name, NOT_GRANTED))

    def _outbound(
        self, name: str, places: list[tuple[str, int]], only: Fields, *, bind: bool, log: list[Fields]
    ) -> Fields:
        first, *others = [socket_address(*place) for place in places]
        return {
            "name": name,
            "address": first,
            "additional_addresses": [{"address": address} for address in others],
            "bind_to_port": value(bind),
            "traffic_direction": "OUTBOUND",
            "filter_chains": [{"name": name, "filters": [only]}],
            "access_log": log,
        }

    def _udp(self, name: str, service: Service, port: ServicePort, address: str) -> Resource:
        cluster = cluster_name(service.key, port.number, port.protocol)
        return udp_listener(name, (address, port.number), cluster, self.log.of_connections(name), _origins(service))


def udp_listener(
    name: str, address: tuple[str, int], cluster: str, log: list[Fields], origins: tuple[Ref, ...]
) -> Resource:
    """Return a Listener that sends each session's datagrams to an endpoint of one Cluster."""
    fields = {
        "stat_prefix": name,
        "idle_timeout": seconds(60),
        "matcher": {
            "on_no_match": {"action": {"name": "route", "typed_config": typed(UDP_ROUTE, {"cluster": cluster})}}
        },
        "access_log": log,
    }
    return resource(
        LISTENER,
        {
            "name": name,
            "address": socket_address(*address, udp=True),
            "udp_listener_config": {},
            "listener_filters": [extension("envoy.filters.udp_listener.udp_proxy", UDP_PROXY, fields)],
        },
        origins,
    )


def may_call(identity: str, service: Service) -> bool:
    """Tell whether a Service is in the scope of an identity; no callers at all means anybody's."""
    return service.callers is None or identity in service.callers


def has_virtual_addresses(mesh: Mesh) -> bool:
    """Tell whether Services are dialled at virtual IPs, as in a cluster."""
    return any(service.addresses for service in mesh.services.values())


def _virtual_addresses(services: Mapping[Key, Service]) -> tuple[dict[int, set[str]], dict[int, set[str]]]:
    http: dict[int, set[str]] = defaultdict(set)
    tcp: dict[int, set[str]] = defaultdict(set)
    for service in services.values():
        for port in service.ports:
            if port.protocol is not Protocol.UDP and service.addresses:
                (http if port.protocol is Protocol.HTTP else tcp)[port.number].update(service.addresses)
    return http, tcp


def _hosts(addresses: Iterable[str]) -> list[Fields]:
    return [
        {"address_prefix": address, "prefix_len": value(128 if ":" in address else 32)} for address in sorted(addresses)
    ]


def _origins(service: Service) -> tuple[Ref, ...]:
    return () if service.origin is None else (service.origin,)
