"""Certificates for a run: one CA, a server certificate for the ADS port, and a SPIFFE leaf for each account."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from benchmarks.worlds import NAMESPACE

TRUST_DOMAIN = "cluster.local"
SERVER = "server"
SERVER_NAME = "smi-adapter.bench"

_LIFE = datetime.timedelta(days=1)


def identity(account: str) -> str:
    """Return the SPIFFE id of a ServiceAccount of the benchmark's namespace."""
    return f"spiffe://{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/{account}"


@dataclass(frozen=True, slots=True)
class Files:
    """Where a key pair and the roots are."""

    certificate: Path
    key: Path
    roots: Path

    def as_json(self) -> dict[str, str]:
        """Return the paths for a child's arguments."""
        return {"certificate": str(self.certificate), "key": str(self.key), "roots": str(self.roots)}


def files(directory: Path, account: str) -> Files:
    """Return where the key pair of an account (or of `SERVER`) is."""
    return Files(directory / f"{account}.pem", directory / f"{account}.key", directory / "roots.pem")


def issue(directory: Path, accounts: tuple[str, ...]) -> None:
    """Make a CA and key pairs for these accounts and for the server, as files that nobody else can read."""
    directory.chmod(0o700)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "benchmark roots")])
    ca = _builder(name, name, ca_key).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    root = ca.add_extension(usage, critical=True).sign(ca_key, hashes.SHA256())
    (directory / "roots.pem").write_bytes(root.public_bytes(serialization.Encoding.PEM))
    names: dict[str, list[x509.GeneralName]] = {
        account: [x509.UniformResourceIdentifier(identity(account))] for account in accounts
    }
    names[SERVER] = [x509.DNSName(SERVER_NAME), x509.IPAddress(ip_address("127.0.0.1"))]
    for account, alternative in names.items():
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = (
            _builder(x509.Name([]), name, key)
            .add_extension(x509.SubjectAlternativeName(alternative), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]),
                critical=False,
            )
            .sign(ca_key, hashes.SHA256())
        )
        made = files(directory, account)
        made.certificate.write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
        made.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + _LIFE)
    )
