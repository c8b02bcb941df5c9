"""Certificates for a run, from the product's own authority: one CA in a private directory, which every process reads.

A process issues what it needs itself; what Envoy and the probe need are files.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.worlds import NAMESPACE
from smi_adapter.identity import Authority, Issuer

TRUST_DOMAIN = "cluster.local"
SERVER = "server"
SERVER_NAME = "xds.bench.local"

_CA = "authority.pem"
_LIFE = 86_400.0


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


def issuer(directory: Path) -> Issuer:
    """Return an issuer of the run's authority."""
    return Issuer(Authority.from_pem((directory / _CA).read_bytes()), _LIFE, (SERVER_NAME,))


def files(directory: Path, account: str) -> Files:
    """Return where the key pair of an account (or of `SERVER`) is."""
    return Files(directory / f"{account}.pem", directory / f"{account}.key", directory / "roots.pem")


def make(directory: Path, accounts: tuple[str, ...]) -> None:
    """Make the authority, and files with the key pairs of these accounts and of the server."""
    directory.chmod(0o700)
    authority = directory / _CA
    authority.touch(0o600)
    authority.write_bytes(Authority.create(TRUST_DOMAIN, time.time()).to_pem())
    issuing = issuer(directory)
    (directory / "roots.pem").write_bytes(issuing.authority.bundle)
    for account in (*accounts, SERVER):
        pair, made = issuing.key_pair(identity(account), time.time()), files(directory, account)
        made.certificate.write_bytes(pair.certificate)
        made.key.write_bytes(pair.private_key)
