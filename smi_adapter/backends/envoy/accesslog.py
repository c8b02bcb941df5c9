"""Access logs: one JSON object a line, with who, what, where to, and why not (T14).

A request's line comes from the HTTP connection manager, a connection's line from the Listener: only there a failed
handshake shows (`tls_failure`), which is how a TCP client that may not connect is turned away. Envoy escapes every
value as JSON, so a header cannot forge a line. The path is logged without its query, which may hold secrets.

Of requests, those that failed or were refused are logged, in audit mode those that would have been. A line costs a
fifth of a request, so all of them only where the proxy's own bootstrap asks for it (docs/adr/0027).

`details` and `policy` name the reason of a denial: `rbac_access_denied_matched_policy[none]`, or the TrafficTarget and
rule that permitted the request; in audit mode `would_be` says what enforce mode would have done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from smi_adapter.backends.envoy.messages import Fields, extension, struct
from smi_adapter.backends.envoy.names import FILE_ACCESS_LOG

_CONNECTION: Final[Mapping[str, str]] = {
    "time": "%START_TIME%",
    "source": "%DOWNSTREAM_PEER_URI_SAN%",
    "source_address": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%",
    "destination_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "cluster": "%UPSTREAM_CLUSTER_RAW%",
    "upstream": "%UPSTREAM_HOST%",
    "upstream_identity": "%UPSTREAM_PEER_URI_SAN%",
    "flags": "%RESPONSE_FLAGS%",
    "received": "%BYTES_RECEIVED%",
    "sent": "%BYTES_SENT%",
    "milliseconds": "%DURATION%",
}

_REQUEST: Final[Mapping[str, str]] = {
    **_CONNECTION,
    "method": "%REQ(:METHOD)%",
    "path": "%PATH(NQ)%",
    "authority": "%REQ(:AUTHORITY)%",
    "protocol": "%PROTOCOL%",
    "code": "%RESPONSE_CODE%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "policy": "%DYNAMIC_METADATA(envoy.filters.http.rbac:enforced_effective_policy_id)%",
    "would_be": "%DYNAMIC_METADATA(envoy.filters.http.rbac:shadow_engine_result)%",
    "would_be_policy": "%DYNAMIC_METADATA(envoy.filters.http.rbac:shadow_effective_policy_id)%",
    "route": "%ROUTE_NAME%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "upstream_failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
}

_TCP: Final[Mapping[str, str]] = {
    **_CONNECTION,
    "details": "%CONNECTION_TERMINATION_DETAILS%",
    "would_be": "%DYNAMIC_METADATA(envoy.filters.network.rbac:shadow_engine_result)%",
    "tls_failure": "%DOWNSTREAM_TRANSPORT_FAILURE_REASON%",
    "upstream_failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
}


LOG_FROM: Final = "smi_adapter.log_from"
"""The runtime value of a proxy that says from which HTTP status on requests are logged; from 0: all of them."""

_STATUS: Final[Fields] = {"op": "GE", "value": {"default_value": 400, "runtime_key": LOG_FROM}}
_WOULD_BE_DENIED: Final[Fields] = {
    "filter": "envoy.filters.http.rbac",
    "path": [{"key": "shadow_engine_result"}],
    "value": {"string_match": {"exact": "denied"}},
}

# The HTTP status of gRPC is 200. Of other requests a status of gRPC would be guessed, for most that went well UNKNOWN.
_GRPC: Final[Fields] = {
    "header_filter": {"header": {"name": "content-type", "string_match": {"prefix": "application/grpc"}}}
}
_GRPC_FAILED: Final[Fields] = {"grpc_status_filter": {"statuses": ["OK"], "exclude": True}}

_REFUSED: Final[Fields] = {
    "or_filter": {
        "filters": [
            {"status_code_filter": {"comparison": _STATUS}},
            {"response_flag_filter": {}},  # any: also what has no status, as the client gave up, or broke off after 200
            {"and_filter": {"filters": [_GRPC, _GRPC_FAILED]}},
            {"metadata_filter": {"matcher": _WOULD_BE_DENIED, "match_if_key_not_found": {"value": False}}},
        ]
    }
}
"""What failed or was denied, and in audit mode what would have been."""


@dataclass(frozen=True, slots=True)
class AccessLog:
    """Where lines go: a file of the proxy's machine; "" for nowhere."""

    path: str = "/dev/stdout"

    def of_requests(self, listener: str, reason: str = "") -> list[Fields]:
        """Return the access log of a connection manager; `reason` is a fixed word on why all of it is denied."""
        return self._log(listener, {**_REQUEST, **_reason(reason)}, _REFUSED)

    def of_connections(self, listener: str, reason: str = "") -> list[Fields]:
        """Return the access log of a Listener or a UDP proxy: one line when a connection or session ends."""
        return self._log(listener, {**_TCP, **_reason(reason)}, {})

    def _log(self, listener: str, fields: Mapping[str, str], only: Fields) -> list[Fields]:
        if not self.path:
            return []
        said = {"listener": listener, **fields}
        log_format = {
            "json_format": struct(said),
            "omit_empty_values": True,
        }
        log = extension("file", FILE_ACCESS_LOG, {"path": self.path, "log_format": log_format})
        return [{**log, "filter": only} if only else log]


def _reason(text: str) -> Mapping[str, str]:
    return {"reason": text} if text else {}
