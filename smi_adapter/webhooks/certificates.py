"""The certificates of the webhook server: what to hold and what to do next, with the clock as an argument.

One authority of our own signs one serving certificate; the API server trusts it through the `caBundle` of the webhook
configurations. A new authority comes in three steps, so that at no moment an API server trusts less than what a replica
shows: the bundle is widened first (old and new), then the new authority signs, and last the bundle is narrowed. A step
is taken only when the one before has reached everybody, which `keeper.py` finds out. The state between two steps is
part of what is stored, so a restarted controller goes on where the last one stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from smi_adapter.identity.ca import BACKDATED, Authority, AuthorityFileError, KeyPair

_DOMAIN: Final = "webhooks.smi-adapter"
_DAY: Final = 86_400.0
_RENEW_AT: Final = 2 / 3
_JITTER: Final = 0.1


class UnusableError(ValueError):
    """What is stored is not a set of certificates as we make it; never quotes it."""


@dataclass(frozen=True, slots=True)
class Lives:
    """How long things live and how long a change needs to reach everybody, in seconds."""

    authority: float = 365 * _DAY
    serving: float = 30 * _DAY
    settling: float = 120.0


@dataclass(frozen=True, slots=True)
class Certificates:
    """All that is stored. `coming` is trusted but does not sign yet, `leaving` is trusted but signs no more."""

    authority: Authority
    serving: KeyPair
    since: float
    coming: Authority | None = None
    leaving: bytes = b""

    @property
    def bundle(self) -> bytes:
        """Return the PEM of every authority that is to be trusted now."""
        return self.authority.bundle + (self.coming.bundle if self.coming else b"") + self.leaving


def create(names: tuple[str, ...], lives: Lives, now: float) -> Certificates:
    """Return a new authority and a serving certificate for the DNS names."""
    authority = Authority.create(_DOMAIN, now, lives.authority)
    return Certificates(authority, _issued(authority, names, lives, now), now)


def advance(held: Certificates, names: tuple[str, ...], lives: Lives, now: float, *, reached: bool) -> Certificates:
    """Return what is to be held now; the same value if nothing is due.

    `reached`: every webhook configuration has the bundle of `held`. A change of DNS names renews the certificate.
    """
    settled = reached and now - held.since >= lives.settling
    if held.coming is not None and settled:
        signed = _issued(held.coming, names, lives, now)
        return Certificates(held.coming, signed, now, None, held.authority.bundle)
    if held.leaving and settled:
        return replace(held, leaving=b"", since=now)
    if held.coming is None and not held.leaving and due(held.authority.bundle) <= now:
        return replace(held, coming=Authority.create(_DOMAIN, now, lives.authority), since=now)
    if due(held.serving.certificate) <= now or names_of(held.serving.certificate) != frozenset(names):
        return replace(held, serving=_issued(held.authority, names, lives, now))
    return held


def _issued(authority: Authority, names: tuple[str, ...], lives: Lives, now: float) -> KeyPair:
    return authority.issue(f"spiffe://{_DOMAIN}/server", now, lives.serving, dns_names=names)


def due(certificate: bytes) -> float:
    """Return when a certificate is to be renewed: at 2/3 of its life, less a jitter that its bytes decide."""
    parsed = x509.load_pem_x509_certificate(certificate)
    begin = parsed.not_valid_before_utc.timestamp() + BACKDATED
    life = parsed.not_valid_after_utc.timestamp() - begin
    spread = int.from_bytes(blake2b(certificate, digest_size=4).digest(), "big") / 2**32
    return begin + life * _RENEW_AT * (1.0 - spread * _JITTER)


def expiry(certificate: bytes) -> float:
    """Return when a certificate ends."""
    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc.timestamp()


def names_of(certificate: bytes) -> frozenset[str]:
    """Return the DNS names of a certificate."""
    extensions = x509.load_pem_x509_certificate(certificate).extensions
    alternatives = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return frozenset(alternatives.get_values_for_type(x509.DNSName))


# ------------------------------------------------------------------------------------------- as the Secret has it
def to_data(held: Certificates) -> dict[str, bytes]:
    """Return the data of the Secret: the usual three names for whoever looks, and the rest of the state."""
    data = {
        "ca.crt": held.bundle,
        "tls.crt": held.serving.certificate,
        "tls.key": held.serving.private_key,
        "authority.pem": held.authority.to_pem(),
        "since": f"{held.since:.0f}".encode(),
    }
    if held.coming is not None:
        data["coming.pem"] = held.coming.to_pem()
    if held.leaving:
        data["leaving.crt"] = held.leaving
    return data


def from_data(data: Mapping[str, bytes]) -> Certificates:
    """Read what `to_data` wrote; UnusableError if anything of it is missing, damaged or does not belong together."""
    try:
        authority = Authority.from_pem(data["authority.pem"])
        coming = Authority.from_pem(data["coming.pem"]) if data.get("coming.pem") else None
        leaving = data.get("leaving.crt", b"")
        if leaving:
            x509.load_pem_x509_certificates(leaving)
        serving = _pair(data["tls.crt"], data["tls.key"])
        signer = x509.load_pem_x509_certificate(authority.bundle)
        x509.load_pem_x509_certificate(serving.certificate).verify_directly_issued_by(signer)
        return Certificates(authority, serving, float(data["since"]), coming, leaving)
    except (AuthorityFileError, ValueError, TypeError, KeyError, x509.ExtensionNotFound):
        raise UnusableError("is no set of certificates as smi-adapter makes it") from None
    except Exception:  # noqa: BLE001 - the library has one error for a wrong signature, and it is not a ValueError
        raise UnusableError("holds a certificate that its authority did not sign") from None


def _pair(certificate: bytes, key: bytes) -> KeyPair:
    parsed = x509.load_pem_x509_certificate(certificate)
    private = serialization.load_pem_private_key(key, None)
    if private.public_key() != parsed.public_key():
        raise ValueError("a key that is not the certificate's")
    begin = parsed.not_valid_before_utc.timestamp() + BACKDATED
    return KeyPair(f"spiffe://{_DOMAIN}/server", certificate, key, begin, parsed.not_valid_after_utc.timestamp())
