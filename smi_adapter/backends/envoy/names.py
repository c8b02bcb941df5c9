"""What everything is called on the wire, in one place: xDS resources, parts and the types of their messages.

A name says what a resource is for and nothing about its content, so that it never changes while its object lives.
`/` cannot occur in a Kubernetes name: no two things collide. UDP has a suffix because a Service may offer one number
over TCP and UDP (DNS does). Envoy shows these names in logs and statistics, so they are what an operator reads.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from smi_adapter.backends import Part
from smi_adapter.mesh import Key, Protocol

_TYPES = "type.googleapis.com/"

LISTENER: Final = "envoy.config.listener.v3.Listener"
ROUTES: Final = "envoy.config.route.v3.RouteConfiguration"
CLUSTER: Final = "envoy.config.cluster.v3.Cluster"
ENDPOINTS: Final = "envoy.config.endpoint.v3.ClusterLoadAssignment"
SECRET: Final = "envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105 - the type of a message
EXTENSION: Final = "envoy.config.core.v3.TypedExtensionConfig"

HCM: Final = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER: Final = "envoy.extensions.filters.http.router.v3.Router"
HTTP_RBAC: Final = "envoy.extensions.filters.http.rbac.v3.RBAC"
HTTP_RBAC_PER_ROUTE: Final = "envoy.extensions.filters.http.rbac.v3.RBACPerRoute"
NETWORK_RBAC: Final = "envoy.extensions.filters.network.rbac.v3.RBAC"
TCP_PROXY: Final = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
UDP_PROXY: Final = "envoy.extensions.filters.udp.udp_proxy.v3.UdpProxyConfig"
UDP_ROUTE: Final = "envoy.extensions.filters.udp.udp_proxy.v3.Route"
DIRECT_RESPONSE: Final = "envoy.extensions.filters.network.direct_response.v3.Config"
ORIGINAL_DST: Final = "envoy.extensions.filters.listener.original_dst.v3.OriginalDst"
UPSTREAM_TLS: Final = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
DOWNSTREAM_TLS: Final = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
RAW_BUFFER: Final = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"
HTTP_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
MTLS_PRINCIPAL: Final = "envoy.extensions.rbac.principals.mtls_authenticated.v3.Config"
PREVIOUS_HOSTS: Final = "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
FILE_ACCESS_LOG: Final = "envoy.extensions.access_loggers.file.v3.FileAccessLog"

RBAC_FILTER: Final = "envoy.filters.http.rbac"
"""The name in the filter chain and the key of every override: an override under another name is ignored by Envoy."""

NOBODY: Final = "urn:smi-adapter:nobody"
"""A subject that no certificate of ours has: an empty list of names would admit every certificate of the CA."""

NOWHERE: Final = "nowhere"
"""A cluster that never exists (it has no `/`): TCP connections sent there are closed."""

DEFAULT_SECRET: Final = "default"  # noqa: S105 - the name of a secret, not one
TRUST_SECRET: Final = "ROOTCA"  # noqa: S105
OUTBOUND_ANY: Final = "out/any"
DENIED: Final = "denied"
PASSTHROUGH: Final = "out/passthrough"

OUTBOUND_PORT: Final = 15001
INBOUND_PORT: Final = 15006

TRUST_PART: Final[Part] = ("trust", "", "")
CATCH_PART: Final[Part] = ("catch", "", "")


@cache
def type_url(message_name: str) -> str:
    """Return the type URL of a message, as one string for all resources of a type."""
    return _TYPES + message_name


def routes_part(service: Key) -> Part:
    """Return the part with what decides where a Service's requests go."""
    return ("routes", *service)


def vip_part(service: Key) -> Part:
    """Return the part with a Service's shared Listeners, one for each virtual IP's port (clusters only)."""
    return ("vip", *service)


def endpoints_part(service: Key) -> Part:
    """Return the part with a Service's own Clusters and their endpoints."""
    return ("endpoints", *service)


def inbound_part(workload: Key) -> Part:
    """Return the part with all that guards one workload."""
    return ("inbound", *workload)


def dial_part(workload: Key) -> Part:
    """Return the part with the Listeners at which one workload's application dials (no-cluster mode only)."""
    return ("dial", *workload)


def cluster_name(service: Key, port: int, protocol: Protocol) -> str:
    """Return the name of a Service port's own Cluster and endpoints."""
    return f"{service[0]}/{service[1]}/{port}{_suffix(protocol)}"


def outbound_name(service: Key, port: int, protocol: Protocol) -> str:
    """Return the name of a Service port's outbound Listener and of its routes."""
    return f"out/{cluster_name(service, port, protocol)}"


def inbound_name(workload: Key, port: int | None = None, protocol: Protocol = Protocol.HTTP) -> str:
    """Return the name of a workload's inbound Listener or, with a port, of that port's routes and local Cluster."""
    whole = f"in/{workload[0]}/{workload[1]}"
    return whole if port is None else f"{whole}/{port}{_suffix(protocol)}"


def tcp_access_name(workload: Key, port: int, mark: str) -> str:
    """Return the name of the secret and of the filter that say who may open a TCP connection to a port.

    With the filter chain's mark in it (`access.generation`), a chain that replaces another after a revocation starts
    with the new rules or not at all.
    """
    return f"tcp/{workload[0]}/{workload[1]}/{port}/{mark}"


def server_name(service: Key) -> str:
    """Return the name that a client asks for in its TLS handshake (SNI)."""
    return f"{service[1]}.{service[0]}.svc"


def _suffix(protocol: Protocol) -> str:
    return "/udp" if protocol is Protocol.UDP else ""
