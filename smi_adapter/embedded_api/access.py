"""Who may use the API: whoever can read the kubeconfig file, and that is its owner alone.

A fresh bearer token and a fresh certificate for each run; kubectl sends a token over TLS only. The file lies in the
run's private folder, so its path stays the same over restarts and an exported KUBECONFIG stays good.
"""

from __future__ import annotations

import base64
import datetime as dt
import hmac
import ipaddress
import json
import os
import secrets
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_LIFE = dt.timedelta(days=365)
CONTEXT = "smi-adapter"


class AddressError(ValueError):
    """The API may not listen there."""


def loopback(text: str) -> tuple[str, int]:
    """Return host and port of `ADDRESS[:PORT]`; AddressError unless it is a loopback address."""
    host, _, port = text.rpartition(":") if text.count(":") == 1 or text.startswith("[") else (text, "", "")
    host = host.strip("[]") or "127.0.0.1"
    if host == "localhost":
        host = "127.0.0.1"
    try:
        inside = ipaddress.ip_address(host).is_loopback
        number = int(port or 0)
    except ValueError:
        raise AddressError(f"{text!r} is no address; write 127.0.0.1 or 127.0.0.1:PORT") from None
    if not inside or not 0 <= number <= 65535:
        raise AddressError(f"{text!r} is no loopback address: the API is for this machine only")
    return host, number


@dataclass(frozen=True, slots=True)
class Access:
    """Certificate, key and token of one run."""

    certificate: bytes
    key: bytes
    token: str

    def allows(self, authorization: str) -> bool:
        """Tell whether an Authorization header holds the token."""
        return hmac.compare_digest(authorization.encode(), f"Bearer {self.token}".encode())

    def context(self) -> ssl.SSLContext:
        """Return the TLS context of the server."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        with tempfile.NamedTemporaryFile() as file:  # made with mode 0600; the module reads from files only
            file.write(self.key + self.certificate)
            file.flush()
            context.load_cert_chain(file.name)
        return context

    def kubeconfig(self, url: str, namespace: str) -> str:
        """Return a kubeconfig file for the API at a URL (JSON, which is YAML)."""
        authority = base64.b64encode(self.certificate).decode()
        named = {"name": CONTEXT}
        context = {"cluster": CONTEXT, "user": CONTEXT, "namespace": namespace}
        return json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{**named, "cluster": {"server": url, "certificate-authority-data": authority}}],
                "users": [{**named, "user": {"token": self.token}}],
                "contexts": [{**named, "context": context}],
                "current-context": CONTEXT,
            },
            indent=2,
        )


def new_access(host: str) -> Access:
    """Make the access of one run."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "smi-adapter without a cluster")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=10))
        .not_valid_after(now + _LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host)), x509.DNSName("localhost")]),
            critical=False,
        )
        .add_extension(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Access(certificate.public_bytes(encoding), private, secrets.token_urlsafe(32))


def write_private(path: Path, text: str) -> None:
    """Replace a file that only its owner can read, in one step."""
    fresh = path.with_name(f".{path.name}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    fresh.replace(path)
