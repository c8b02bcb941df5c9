"""Whether the cluster's own keys signed a token: known before anybody is asked, so a forged one costs nearly nothing.

The API server publishes the public keys of its ServiceAccount tokens. They tell a forged token from one that is worth
a review, and, while the API server is away, a genuine one from all others (F2). A review stays what decides: a key
that we can't read, or keys that nobody may give us, only mean that the review is asked earlier. The four forms of
signature that Kubernetes uses are a few lines with `cryptography`, so there is no library for JSON Web Tokens here.
"""

from __future__ import annotations

import base64
import binascii
import logging
import time
from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Any, Final, TypeAlias

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from smi_adapter.cluster.client import ApiError, Unreachable
from smi_adapter.cluster.pace import Asking, read

_log = logging.getLogger(__name__)

AGAIN: Final = 10.0
"""Seconds between two looks for a key that nobody knows: anybody can invent the name of one."""

_KEY_SET: Final = "application/jwk-set+json, application/json"

PublicKey: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

_CURVES: Final[Mapping[str, tuple[ec.EllipticCurve, str, hashes.HashAlgorithm]]] = {
    "P-256": (ec.SECP256R1(), "ES256", hashes.SHA256()),
    "P-384": (ec.SECP384R1(), "ES384", hashes.SHA384()),
    "P-521": (ec.SECP521R1(), "ES512", hashes.SHA512()),
}
_BY_CURVE: Final = {curve.name: (algorithm, digest) for curve, algorithm, digest in _CURVES.values()}


class Signed(Enum):
    """What the signature of a token says."""

    OURS = auto()
    FORGED = auto()
    UNKNOWN_KEY = auto()
    """By a key that the API server did not publish when it was last asked."""
    UNTOLD = auto()
    """Nobody here can tell: no keys may be read, or this one is of a form that we can't check."""


class _BoundTo(msgspec.Struct, frozen=True):
    name: str = ""
    uid: str = ""


class _Bound(msgspec.Struct, frozen=True):
    namespace: str = ""
    pod: _BoundTo = _BoundTo()
    node: _BoundTo = _BoundTo()
    serviceaccount: _BoundTo = _BoundTo()


class Claims(msgspec.Struct, frozen=True):
    """What a token says about itself: believed only after a review, or a check of its signature."""

    exp: float
    iat: float = 0.0
    iss: str = ""
    aud: str | list[str] = ""
    bound: _Bound = msgspec.field(default=_Bound(), name="kubernetes.io")

    def is_for(self, audience: str, now: float) -> bool:
        """Tell whether the token may be for that audience, now."""
        named = [self.aud] if isinstance(self.aud, str) else self.aud
        return audience in named and self.exp > now


class _Header(msgspec.Struct, frozen=True):
    alg: str
    kid: str = ""


class _Discovery(msgspec.Struct, frozen=True):
    issuer: str = ""


class _KeySet(msgspec.Struct, frozen=True):
    keys: list[dict[str, Any]] | None = None


class SigningKeys:
    """The public keys of the API server's tokens, from its own discovery documents; kept while it is away."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.issuer = ""
        self._keys: dict[str, PublicKey | None] = {}
        self._withheld = False
        self._clock = clock
        self._looked_at = -AGAIN
        self._looking = False

    async def refresh(self, client: Asking) -> None:
        """Read them again; ApiError or Unreachable leave the old ones in force."""
        self._looked_at = self._clock()
        try:
            about = await client.request("GET", "/.well-known/openid-configuration")
            content = await client.request("GET", "/openid/v1/jwks", accept=_KEY_SET)
        except ApiError as error:
            self._withheld = self._withheld or error.status in {401, 403, 404}
            raise
        issuer, keys = read(about, _Discovery).issuer, read(content, _KeySet).keys
        self._keys = {str(item.get("kid", "")): _public_key(item) for item in keys or ()}
        self._withheld = not self._keys
        self.issuer = issuer

    def signed(self, token: str) -> Signed:
        """Tell who signed a token, whatever it says: an API server may accept several issuers, but only its keys."""
        head, _, signature = token.rpartition(".")
        header = _decoded(token.partition(".")[0], _Header)
        if header is None:
            return Signed.FORGED
        if header.kid not in self._keys:
            return Signed.UNTOLD if self._withheld or not self._keys else Signed.UNKNOWN_KEY
        key = self._keys[header.kid]
        if key is None:
            return Signed.UNTOLD
        try:
            return Signed.OURS if _fits(key, header.alg, head.encode(), _unpadded(signature)) else Signed.FORGED
        except (InvalidSignature, ValueError):
            return Signed.FORGED

    async def judged(self, token: str, client: Asking) -> Signed:
        """Tell the same; a key that nobody knows is looked for, by one stream at a time and now and then only."""
        found = self.signed(token)
        too_soon = self._looking or self._clock() - self._looked_at < AGAIN
        if found is not Signed.UNKNOWN_KEY or too_soon:
            return found
        self._looking = True
        try:
            await self.refresh(client)
        except (ApiError, Unreachable) as error:
            _log.warning("the keys of ServiceAccount tokens can't be read: %s", error)
        finally:
            self._looking = False
        return self.signed(token)

    def verified(self, token: str, claims: Claims) -> bool:
        """Tell whether one of the keys signed the token, and for the same issuer: enough where nobody can be asked."""
        return bool(self.issuer) and claims.iss == self.issuer and self.signed(token) is Signed.OURS


def claims_of(token: str) -> Claims | None:
    """Read what a token says about itself, unchecked; None if it is no JSON Web Token."""
    parts = token.split(".")
    return _decoded(parts[1], Claims) if len(parts) == 3 else None


def _decoded(part: str, form: type[Any]) -> Any:
    try:
        return msgspec.json.decode(_unpadded(part), type=form)
    except (ValueError, RecursionError):
        return None


def _unpadded(text: str) -> bytes:
    try:
        return base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ValueError("not base64url") from error


def _public_key(item: Mapping[str, Any]) -> PublicKey | None:
    try:
        if item.get("kty") == "RSA":
            return rsa.RSAPublicNumbers(_number(item["e"]), _number(item["n"])).public_key()
        if item.get("kty") == "EC":
            curve = _CURVES[item["crv"]][0]
            return ec.EllipticCurvePublicNumbers(_number(item["x"]), _number(item["y"]), curve).public_key()
    except (KeyError, ValueError, AttributeError, TypeError):
        pass
    return None


def _number(text: str) -> int:
    return int.from_bytes(_unpadded(text), "big")


def _fits(key: PublicKey, algorithm: str, content: bytes, signature: bytes) -> bool:
    """Check a signature; False or an error if it is not the key's."""
    if isinstance(key, rsa.RSAPublicKey):
        if algorithm != "RS256":
            return False
        key.verify(signature, content, padding.PKCS1v15(), hashes.SHA256())
        return True
    expected, digest = _BY_CURVE[key.curve.name]
    size = (key.curve.key_size + 7) // 8
    if algorithm != expected or len(signature) != 2 * size:
        return False
    r, s = int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big")
    key.verify(encode_dss_signature(r, s), content, ec.ECDSA(digest))
    return True
