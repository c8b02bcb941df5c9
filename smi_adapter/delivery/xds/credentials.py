"""What the xDS port shows and whom it believes, asked again at each handshake so that certificates rotate live."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc


@dataclass(frozen=True, slots=True)
class ServerTls:
    """What the server shows and whom it believes: PEM chain and key of its own, PEM roots of client certificates."""

    certificate: bytes
    private_key: bytes = field(repr=False)
    client_roots: bytes = b""


def credentials(tls: Callable[[], ServerTls], *, client_certificates: bool) -> grpc.ServerCredentials:
    """Return credentials that require a client certificate, or ignore them, and ask `tls` again at each handshake.

    What did not change must not be set again: gRPC swaps it without a lock, and handshakes on two threads then crash
    the process (seen with grpcio 1.85).
    """
    current = tls()
    lock = threading.Lock()  # each handshake asks on a thread of its own

    def changed() -> Any:
        nonlocal current
        with lock:
            before, current = current, tls()
            return None if current == before else _configuration(current)

    first = _configuration(current)
    return grpc.dynamic_ssl_server_credentials(first, changed, require_client_authentication=client_certificates)


def _configuration(tls: ServerTls) -> Any:
    return grpc.ssl_server_certificate_configuration([(tls.private_key, tls.certificate)], tls.client_roots or None)
