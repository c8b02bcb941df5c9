"""The HTTP connection manager: the settings that every HTTP port has, inbound or outbound.

They are one constant, because each of them closes a hole or keeps a stream alive, and a Listener that lacked one would
be the way in. envoy.md section 9 has the measured table of path attacks; timeouts that a plain Service does not have
are off, and the others are explicit.
"""

from __future__ import annotations

from typing import Final

from smi_adapter.backends.envoy.messages import ADS, Fields, extension, seconds, value
from smi_adapter.backends.envoy.names import HCM, ROUTER

HCM_FILTER: Final = "envoy.filters.network.http_connection_manager"

HOUR: Final = 3600

PATHS: Final[Fields] = {
    "normalize_path": value(True),
    "merge_slashes": True,
    "path_with_escaped_slashes_action": "REJECT_REQUEST",
}

HTTP2: Final[Fields] = {
    "max_concurrent_streams": value(1000),
    "initial_stream_window_size": value(1 << 20),
    "initial_connection_window_size": value(16 << 20),
    "allow_connect": True,  # WebSockets over HTTP/2
}

_CONNECTIONS: Final[Fields] = {
    "idle_timeout": seconds(HOUR),
    "headers_with_underscores_action": "REJECT_REQUEST",
    "max_headers_count": value(100),
}

_SETTINGS: Final[Fields] = {
    **PATHS,
    "codec_type": "AUTO",
    "http2_protocol_options": HTTP2,
    "common_http_protocol_options": _CONNECTIONS,
    "max_request_headers_kb": value(60),
    "stream_idle_timeout": seconds(HOUR),
    "drain_timeout": seconds(5),
    "server_header_transformation": "PASS_THROUGH",
    "upgrade_configs": [{"upgrade_type": "websocket"}],
}

_INBOUND: Final[Fields] = {
    "request_headers_timeout": seconds(10),
    "forward_client_cert_details": "SANITIZE_SET",
    "set_current_client_cert_details": {"uri": True},
}

_OUTBOUND: Final[Fields] = {
    "forward_client_cert_details": "SANITIZE",
    # Old clients and old proxies speak HTTP/1.0, and a plain Service takes it.
    "http_protocol_options": {"accept_http_10": True, "default_host_for_http_10": "unnamed"},
}

_ROUTER: Final = extension("envoy.filters.http.router", ROUTER, {"suppress_envoy_headers": True})


def by_rds(name: str) -> Fields:
    """Return the part of a connection manager that takes its routes from the stream."""
    return {"rds": {"route_config_name": name, "config_source": ADS}}


def denier(name: str, guard: Fields, log: list[Fields]) -> Fields:
    """Return a connection manager that has no routes but a guard, for what a caller may not call.

    It closes each connection after the answer, so that a grant, which opens another Listener or chain, is in effect at
    the next request and not only when this one has drained.
    """
    nowhere = {"match": {"prefix": "/"}, "direct_response": {"status": 403}}
    routes = {
        "name": name,
        "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [nowhere]}],
        "validate_clusters": value(False),
    }
    once = {**_CONNECTIONS, "max_requests_per_connection": value(1)}
    fields = {"route_config": routes, "common_http_protocol_options": once}
    return manager(name, fields, log, inbound=False, guards=(guard,))


def manager(name: str, routes: Fields, log: list[Fields], *, inbound: bool, guards: tuple[Fields, ...] = ()) -> Fields:
    """Return the network filter: `guards` come before the router, in that order."""
    return extension(
        HCM_FILTER,
        HCM,
        {
            **_SETTINGS,
            **(_INBOUND if inbound else _OUTBOUND),
            **routes,
            "stat_prefix": name,
            "http_filters": [*guards, _ROUTER],
            "access_log": log,
        },
    )
