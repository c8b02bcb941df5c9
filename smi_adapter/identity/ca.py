"""The embedded certificate authority: one P-256 root that signs short-lived SPIFFE leaves.

Proxies and the xDS server itself get their certificates here; `issuer.py` decides when. Keys live in memory. Only the
authority itself may be saved, for a restart on the same machine, and only in a file that nobody else can read. A key
is never part of a `repr`, a log line or an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

BACKDATED: Final = 300.0
"""Seconds that a certificate begins before its issue, for clocks that are late."""

SHORTEST_LIFE: Final = 60.0

_TEN_YEARS: Final = 10 * 365 * 86_400.0
_DIGITAL_SIGNATURE: Final = "digital_signature"
_USAGES: Final = (
    _DIGITAL_SIGNATURE,
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A leaf in PEM and its key. Times are seconds since the epoch; `issued_at` is not backdated."""

    identity: str
    certificate: bytes
    private_key: bytes = field(repr=False)
    issued_at: float
    expires_at: float


class AuthorityFileError(ValueError):
    """A saved authority cannot be used; the message says why and what to do."""


class Authority:
    """A root certificate and its key."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key
        self.trust_domain = _trust_domain(certificate)
        self.bundle = certificate.public_bytes(serialization.Encoding.PEM)
        self.expires_at = certificate.not_valid_after_utc.timestamp()

    def __repr__(self) -> str:
        return f"Authority({self.trust_domain!r})"

    @classmethod
    def create(cls, trust_domain: str, now: float, life: float = _TEN_YEARS) -> Authority:
        """Make a new root for a trust domain."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "smi-adapter"),
                x509.NameAttribute(NameOID.COMMON_NAME, f"mesh root of {trust_domain}"[:64]),
            ]
        )
        builder = (
            _builder(name, name, key.public_key(), now, life)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage("key_cert_sign", "crl_sign"), critical=True)
            .add_extension(_uri_names(f"spiffe://{trust_domain}"), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        return cls(builder.sign(key, hashes.SHA256()), key)

    def shared_key(self, purpose: str) -> bytes:
        """Return a symmetric key that everybody who holds this authority can make, and nobody else."""
        secret = self._key.private_numbers().private_value.to_bytes(32, "big")
        return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=purpose.encode()).derive(secret)

    def issue(self, identity: str, now: float, life: float, *, dns_names: tuple[str, ...] = ()) -> KeyPair:
        """Return a new key and a leaf that is `identity` and nobody else; ValueError for an id of another domain.

        The subject is empty, so the SAN is critical. `dns_names` are for clients that check host names.
        """
        parts = urlsplit(identity)
        if parts.scheme != "spiffe" or parts.netloc != self.trust_domain or len(parts.path) <= 1:
            raise ValueError(f"not a SPIFFE id of {self.trust_domain}: {identity!r}")
        if life < SHORTEST_LIFE:
            raise ValueError(f"a certificate lives at least {SHORTEST_LIFE:.0f} s, not {life:g}")
        life = min(life, self.expires_at - now)
        key = ec.generate_private_key(ec.SECP256R1())
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = (
            _builder(x509.Name([]), self._certificate.subject, key.public_key(), now, life)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(_DIGITAL_SIGNATURE), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(_uri_names(identity, *dns_names), critical=True)
            .add_extension(signer, critical=False)
        )
        leaf = builder.sign(self._key, hashes.SHA256())
        return KeyPair(identity, leaf.public_bytes(serialization.Encoding.PEM), _private_pem(key), now, now + life)

    def to_pem(self) -> bytes:
        """Return key and certificate: what `from_pem` reads. Whoever has it is the authority."""
        return _private_pem(self._key) + self.bundle

    @classmethod
    def from_pem(cls, data: bytes) -> Authority:
        """Read key and certificate; AuthorityFileError if they are damaged or do not belong together."""
        try:
            key = serialization.load_pem_private_key(data, None)
            certificate = x509.load_pem_x509_certificate(data)
            if isinstance(key, ec.EllipticCurvePrivateKey) and key.public_key() == certificate.public_key():
                return cls(certificate, key)
        except (ValueError, TypeError, IndexError, x509.ExtensionNotFound):
            pass  # the library's own message may quote the key
        raise AuthorityFileError("not the PEM of an authority's key and certificate") from None


def _trust_domain(certificate: x509.Certificate) -> str:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return urlsplit(names.get_values_for_type(x509.UniformResourceIdentifier)[0]).netloc


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: float, life: float
) -> x509.CertificateBuilder:
    begin = datetime.fromtimestamp(now, UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin - timedelta(seconds=BACKDATED))
        .not_valid_after(begin + timedelta(seconds=life))
    )


def _usage(*wanted: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{usage: usage in wanted for usage in _USAGES})


def _uri_names(uri: str, *dns_names: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri), *(x509.DNSName(n) for n in dns_names)])


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
