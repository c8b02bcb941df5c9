"""The file that an Envoy starts with: who it claims to be, where its configuration comes from, what it counts.

Everything else comes over the one delta ADS stream that is opened here. The stream proves who the proxy is, by a client
certificate (no cluster, SPIRE) or by a ServiceAccount token that Envoy adds to each new stream (a cluster); `node.id`
only says which workload of that identity it is. Without its configuration a proxy keeps its ports closed.

The result is JSON, as Envoy reads it: durations are "5s", unlike in the other modules of this backend.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from smi_adapter.backends.envoy.accesslog import LOG_FROM
from smi_adapter.mesh import Key
from smi_adapter.regex import MAX_PROGRAM_SIZE

Json: TypeAlias = dict[str, Any]

XDS_CLUSTER: Final = "xds"
ADMIN_CLUSTER: Final = "admin"
_TOKEN: Final = "token"  # noqa: S105 - the name of a secret
_CLIENT: Final = "client"
_TYPE: Final = "type.googleapis.com/"

COUNTED: Final = (
    *(f".upstream_rq_{kind}xx" for kind in range(1, 6)),
    *(f".upstream_rq_{kind}" for kind in ("total", "time", "timeout", "pending_overflow")),
    *(f".upstream_cx_{kind}" for kind in ("active", "total", "connect_fail")),
    ".outlier_detection.ejections_active",
    ".membership_healthy",
)
"""The ends of the names of what is counted of a Cluster: what anybody of us reads.

Every name of every Listener and Cluster that comes is compared with them, which is some hundreds for a Service port: as
text, because expressions take longer. The default set costs 40 % of the memory at 1,000 Services.
"""

_COUNTED_PREFIXES: Final = (
    "http.",
    "tcp.",
    "udp.",
    "listener_manager.",
    "cluster_manager.",
    "control_plane.",
    "server.",
)
_COUNTED_TLS: Final = r"listener\..*\.ssl\.(handshake|fail_verify_.*|connection_error)"


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """A key pair in PEM that the bootstrap holds itself, or two files that are read when Envoy starts."""

    certificate: str
    private_key: str = field(repr=False)
    files: bool = False


@dataclass(frozen=True, slots=True)
class WatchedKeyPair:
    """A key pair that is replaced while Envoy runs: an SDS file (`key_pair_file`) and its directory, to watch."""

    sds_file: str
    directory: str


@dataclass(frozen=True, slots=True)
class ServiceAccountToken:
    """A projected token: an SDS file (`token_file`) beside the bootstrap, and the directory that the kubelet swaps."""

    sds_file: str
    directory: str


Credential: TypeAlias = ClientCertificate | WatchedKeyPair | ServiceAccountToken


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """Where the ADS server is and how to recognise it: its exact SAN (a SPIFFE id or a DNS name) and PEM roots.

    `host` may be a name with several addresses (a headless Service); `others` are further hosts at the same port.
    """

    host: str
    port: int
    server_name: str
    roots: str
    roots_file: bool = False
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Local:
    """What is particular to the machine: `admin` is a Unix socket's path, or `address:port` on loopback.

    `source_address`: the address that connections to others come from (no cluster: the pod's own, which B3 rules
    compare). `metrics`: `address:port` on which /stats/prometheus and /ready of the admin port, and nothing else of
    it, can be reached from elsewhere. `log_every_request`: those that went well have a line in the access log, too.
    """

    admin: str = "127.0.0.1:0"
    source_address: str = ""
    metrics: str = ""
    log_every_request: bool = False
    max_connections: int = 50_000
    max_heap_bytes: int = 1 << 30


def bootstrap(workload: Key, control: ControlPlane, credential: Credential, local: Local = Local()) -> Json:
    """Return the bootstrap of one workload's proxy."""
    clusters = [_xds_cluster(control, credential)]
    listeners = []
    runtime = {
        "re2.max_program_size.error_level": MAX_PROGRAM_SIZE,
        **({LOG_FROM: 0} if local.log_every_request else {}),
    }
    if local.metrics:
        clusters.append(_admin_cluster(local.admin))
        listeners.append(_metrics_listener(local.metrics))
    return {
        "node": {"id": "/".join(workload), "cluster": workload[0]},
        "admin": {"address": _address(local.admin), "ignore_global_conn_limit": True},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [{"envoy_grpc": {"cluster_name": XDS_CLUSTER, "retry_policy": _reconnect()}}],
            },
            "cds_config": _ADS,
            "lds_config": _ADS,
        },
        "static_resources": {"clusters": clusters, "listeners": listeners},
        "cluster_manager": _bind(local.source_address),
        "layered_runtime": {
            "layers": [{"name": "smi-adapter", "static_layer": runtime}],
        },
        "stats_config": {"stats_matcher": {"inclusion_list": {"patterns": _counted()}}},
        "stats_flush_interval": "60s",
        "watchdogs": {"main_thread_watchdog": _PATIENT, "worker_watchdog": _PATIENT},
        "overload_manager": _overload(local),
    }


def token_file(path: str) -> Json:
    """Return the SDS file through which a projected token is read again whenever the kubelet swaps it."""
    secret = {"name": _TOKEN, "generic_secret": {"secret": {"filename": path}}}
    return _sds_file(secret)


def key_pair_file(certificate: str, private_key: str) -> Json:
    """Return the SDS file that holds a key pair in PEM; it is read again when one is moved to its place.

    Were the pair in files of its own, Envoy would take a second inotify instance to watch those.
    """
    pair = {"certificate_chain": {"inline_string": certificate}, "private_key": {"inline_string": private_key}}
    return _sds_file({"name": _CLIENT, "tls_certificate": pair})


_ADS: Final[Mapping[str, Any]] = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "60s"}


_PATIENT: Final[Mapping[str, Any]] = {"miss_timeout": "2s", "megamiss_timeout": "10s"}
"""How long a thread may be stuck before it is counted. Half of that wakes each thread; Envoy's own 0.2 s are what an
idle proxy is busy with."""


def _sds_file(secret: Json) -> Json:
    return {"resources": [{"@type": f"{_TYPE}envoy.extensions.transport_sockets.tls.v3.Secret", **secret}]}


def _watched(credential: WatchedKeyPair | ServiceAccountToken) -> Json:
    source = {"path": credential.sds_file, "watched_directory": {"path": credential.directory}}
    return {"path_config_source": source, "resource_api_version": "V3"}


def _reconnect() -> Json:
    return {"retry_back_off": {"base_interval": "0.5s", "max_interval": "5s"}}


def _xds_cluster(control: ControlPlane, credential: Credential) -> Json:
    """Return the cluster of the ADS server.

    Behind a name there may be several servers: then a gRPC health check leaves a frozen one within seconds, which
    keepalive and outlier detection do not (envoy.md section 3.1). A single address leaves nothing to go to.
    """
    hosts = (control.host, *control.others)
    named = not all(map(_is_address, hosts))
    several = named or len(hosts) > 1
    http2: Json = {"connection_keepalive": {"interval": "5s", "timeout": "3s"}}
    options: Json = {
        "@type": f"{_TYPE}envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": http2},
    }
    if isinstance(credential, ServiceAccountToken):
        options["http_filters"] = [_credential_injector(credential), _UPSTREAM_CODEC]
    cluster: Json = {
        "name": XDS_CLUSTER,
        "type": "STRICT_DNS" if named else "STATIC",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": _tls(control, credential)},
        "load_assignment": {
            "cluster_name": XDS_CLUSTER,
            "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": _socket(host, control.port)}} for host in hosts]},
            ],
        },
    }
    if several:
        check = {"grpc_health_check": {}, "interval": "3s", "timeout": "2s"}
        cluster["health_checks"] = [{**check, "unhealthy_threshold": 1, "healthy_threshold": 1}]
        cluster["close_connections_on_host_health_failure"] = True
    return cluster


def _tls(control: ControlPlane, credential: Credential) -> Json:
    spiffe = control.server_name.startswith("spiffe://")
    san = {"san_type": "URI" if spiffe else "DNS", "matcher": {"exact": control.server_name}}
    roots = {"filename" if control.roots_file else "inline_string": control.roots}
    common: Json = {
        "alpn_protocols": ["h2"],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
        "validation_context": {"trusted_ca": roots, "match_typed_subject_alt_names": [san]},
    }
    if isinstance(credential, ClientCertificate):
        kind = "filename" if credential.files else "inline_string"
        pair = {"certificate_chain": {kind: credential.certificate}, "private_key": {kind: credential.private_key}}
        common["tls_certificates"] = [pair]
    elif isinstance(credential, WatchedKeyPair):
        common["tls_certificate_sds_secret_configs"] = [{"name": _CLIENT, "sds_config": _watched(credential)}]
    return {
        "@type": f"{_TYPE}envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": common,
        **({} if spiffe else {"sni": control.server_name}),
    }


def _credential_injector(token: ServiceAccountToken) -> Json:
    credential = {
        "@type": f"{_TYPE}envoy.extensions.http.injected_credentials.generic.v3.Generic",
        "credential": {"name": _TOKEN, "sds_config": _watched(token)},
        "header": "authorization",
        "header_value_prefix": "Bearer ",
    }
    return {
        "name": "envoy.filters.http.credential_injector",
        "typed_config": {
            "@type": f"{_TYPE}envoy.extensions.filters.http.credential_injector.v3.CredentialInjector",
            "overwrite": True,
            "credential": {"name": "envoy.http.injected_credentials.generic", "typed_config": credential},
        },
    }


_UPSTREAM_CODEC: Final[Mapping[str, Any]] = {
    "name": "envoy.filters.http.upstream_codec",
    "typed_config": {"@type": f"{_TYPE}envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec"},
}


def _counted() -> list[Json]:
    patterns: list[Json] = [{"suffix": end} for end in COUNTED]
    patterns.append({"safe_regex": {"regex": _COUNTED_TLS}})
    return patterns + [{"prefix": prefix} for prefix in _COUNTED_PREFIXES]


def _overload(local: Local) -> Json:
    """Return limits without which Envoy is not safe against many connections, by its own threat model."""
    monitors = "envoy.extensions.resource_monitors"
    connections = {
        "@type": f"{_TYPE}{monitors}.downstream_connections.v3.DownstreamConnectionsConfig",
        "max_active_downstream_connections": local.max_connections,
    }
    heap = {"@type": f"{_TYPE}{monitors}.fixed_heap.v3.FixedHeapConfig", "max_heap_size_bytes": local.max_heap_bytes}
    return {
        "refresh_interval": "1s",
        "resource_monitors": [
            {"name": "envoy.resource_monitors.global_downstream_max_connections", "typed_config": connections},
            {"name": "envoy.resource_monitors.fixed_heap", "typed_config": heap},
        ],
        "actions": [
            _on_heap("envoy.overload_actions.shrink_heap", 0.9),
            _on_heap("envoy.overload_actions.stop_accepting_requests", 0.97),
        ],
    }


def _on_heap(action: str, share: float) -> Json:
    return {"name": action, "triggers": [{"name": "envoy.resource_monitors.fixed_heap", "threshold": {"value": share}}]}


def _bind(source_address: str) -> Json:
    if not source_address:
        return {}
    return {"upstream_bind_config": {"source_address": {"address": source_address, "port_value": 0}}}


def _admin_cluster(admin: str) -> Json:
    return {
        "name": ADMIN_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "upstream_bind_config": {"source_address": {"address": "127.0.0.1", "port_value": 0}},
        "load_assignment": {
            "cluster_name": ADMIN_CLUSTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(admin)}}]}],
        },
    }


def _metrics_listener(where: str) -> Json:
    """Return a Listener for GETs of two exact paths; a path with tricks in it is no exact path."""
    get = [{"name": ":method", "string_match": {"exact": "GET"}}]
    routes = [
        {"match": {"path": path, "headers": get}, "route": {"cluster": ADMIN_CLUSTER, "timeout": "10s"}}
        for path in ("/stats/prometheus", "/ready")
    ]
    manager = {
        "@type": f"{_TYPE}envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "metrics",
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "route_config": {"name": "metrics", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_TYPE}envoy.extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    hcm = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    return {"name": "metrics", "address": _address(where), "filter_chains": [{"filters": [hcm]}]}


def _address(where: str) -> Json:
    if where.startswith("/"):
        return {"pipe": {"path": where, "mode": 0o600}}
    host, _, port = where.rpartition(":")
    return _socket(host.strip("[]"), int(port))


def _socket(host: str, port: int) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
