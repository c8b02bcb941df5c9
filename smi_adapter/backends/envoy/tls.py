"""Transport sockets: who proves what to whom, on both sides of every connection between proxies.

Both sides take their own key pair (`default`) and the roots (`ROOTCA`) by SDS, so that a rotation closes nothing.
Sessions are never resumed: on a resumed one Envoy does not know its peer, so RBAC would deny who is allowed, and a
certificate is not looked at again (docs/adr/0014).
A list of names is never empty here, because an empty one admits every certificate of the CA (envoy.md section 7);
where nobody is meant it holds `NOBODY`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from smi_adapter.backends.envoy.messages import ADS, Fields, extension, value
from smi_adapter.backends.envoy.names import (
    DEFAULT_SECRET,
    DOWNSTREAM_TLS,
    NOBODY,
    RAW_BUFFER,
    TRUST_SECRET,
    UPSTREAM_TLS,
)
from smi_adapter.mesh import Trust

TLS_SOCKET: Final = "envoy.transport_sockets.tls"

_OWN_KEY: Final[Fields] = {"name": DEFAULT_SECRET, "sds_config": ADS}
_ROOTS: Final[Fields] = {"name": TRUST_SECRET, "sds_config": ADS}
_VERSIONS: Final[Fields] = {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"}


def exactly(identities: Iterable[str]) -> list[Fields]:
    """Return matchers for these URI SANs and no other; for nobody if there are none."""
    named = sorted(set(identities)) or [NOBODY]
    return [{"san_type": "URI", "matcher": {"exact": identity}} for identity in named]


def of_the_mesh(trust: Trust) -> list[Fields]:
    """Return matchers for every identity of the trust domain and of those federated with it."""
    domains = sorted({trust.domain, *trust.federated})
    return [{"san_type": "URI", "matcher": {"prefix": f"spiffe://{domain}/"}} for domain in domains]


def upstream(identities: Iterable[str], sni: str) -> Fields:
    """Return the socket of a client that accepts these servers only."""
    return extension(
        TLS_SOCKET,
        UPSTREAM_TLS,
        {
            "sni": sni,
            "max_session_keys": value(0),
            "common_tls_context": {**_common(), **_combined(exactly(identities))},
        },
    )


def downstream(trust: Trust) -> Fields:
    """Return the socket of a server that lets in who belongs to the mesh; HTTP rules then decide by request."""
    return _server(_combined(of_the_mesh(trust)))


def downstream_from(secret: str) -> Fields:
    """Return the socket of a server whose validation context, names included, is the SDS secret of that name."""
    return _server({"validation_context_sds_secret_config": {"name": secret, "sds_config": ADS}})


def plain_text() -> Fields:
    """Return the socket for an endpoint that has no proxy."""
    return extension("envoy.transport_sockets.raw_buffer", RAW_BUFFER)


def _server(validation: Fields) -> Fields:
    return extension(
        TLS_SOCKET,
        DOWNSTREAM_TLS,
        {
            "require_client_certificate": value(True),
            "disable_stateless_session_resumption": True,
            "disable_stateful_session_resumption": True,
            "common_tls_context": {**_common(), **validation},
        },
    )


def _common() -> Fields:
    return {"tls_params": _VERSIONS, "tls_certificate_sds_secret_configs": [_OWN_KEY]}


def _combined(names: list[Fields]) -> Fields:
    return {
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": names},
            "validation_context_sds_secret_config": _ROOTS,
        }
    }
