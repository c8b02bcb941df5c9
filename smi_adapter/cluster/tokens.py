"""ServiceAccount tokens: who is behind one, asked of the API server, and whether the pod that it names fits.

The xDS server calls `TokenReviewer` for each new stream (security.md, section 3, and X4). Nothing is cached but the
keys that tokens are signed with: while the API is away they tell a forged token from one that only can't be reviewed,
and a pod that is in our own cache may then stream (F2). Tokens are never logged, nor part of an error.
"""

from __future__ import annotations

import base64
import binascii
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from smi_adapter.cluster.client import ApiError, Resource, Unreachable
from smi_adapter.cluster.residents import Resident, Residents
from smi_adapter.identity.callers import Caller, Reason, Refused
from smi_adapter.mesh import Key

_log = logging.getLogger(__name__)

AUDIENCE: Final = "smi-adapter"
_REVIEWS: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
_PODS: Final = Resource("", "v1", "pods", "Pod")
_EXTRA: Final = "authentication.kubernetes.io/"
_ACCOUNT: Final = "system:serviceaccount:"
_SKEW: Final = 300.0  # clocks differ; the API server's counts

_NO_TOKEN: Final = Refused(Reason.UNAUTHENTICATED, "this is not a valid ServiceAccount token for this server")
_NO_POD: Final = Refused(Reason.UNAUTHENTICATED, "the token is not bound to a pod")
_NOT_THERE: Final = Refused(Reason.PERMISSION_DENIED, "the token does not fit the pod and address that it comes from")
_NOT_YET: Final = Refused(Reason.UNAVAILABLE, "this pod is not known here yet, try again")
_NOBODY_TELLS: Final = Refused(Reason.UNAVAILABLE, "tokens can't be checked at present, try again")


class Api(Protocol):
    """The part of the client that asks once."""

    namespace: str

    async def request(  # noqa: PLR0913 - an HTTP request has these parts
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] = ...,
        body: object | None = ...,
        content_type: str = ...,
        accept: str = ...,
        timeout: float = ...,  # noqa: ASYNC109 - the HTTP library's own
    ) -> bytes:
        """Send one request and return the body of the answer."""
        ...

    async def get(self, path: str, **query: str) -> Any:
        """Read one JSON document."""
        ...


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


@dataclass(frozen=True, slots=True)
class _Pod:
    """The pod and account that a checked token names."""

    key: Key
    uid: str
    node: str
    service_account: str
    account_uid: str


@dataclass(frozen=True, slots=True)
class TokenOptions:
    """What is asked of a token. `check_address` is for pods that reach us by their own address, as they do."""

    trust_domain: str
    audience: str = AUDIENCE
    check_address: bool = True
    clock: Callable[[], float] = field(default=time.time, repr=False)


class SigningKeys:
    """The public keys of the API server's tokens, from its own discovery documents; kept while it is away."""

    def __init__(self) -> None:
        self.issuer = ""
        self._keys: dict[str, rsa.RSAPublicKey | ec.EllipticCurvePublicKey] = {}

    async def refresh(self, client: Api) -> None:
        """Read them again; ApiError or Unreachable leave the old ones in force."""
        about = await client.get("/.well-known/openid-configuration")
        content = await client.request("GET", "/openid/v1/jwks", accept="application/jwk-set+json, application/json")
        try:
            found = msgspec.json.decode(content)
        except msgspec.DecodeError as error:
            raise Unreachable(f"the keys of tokens are no JSON document: {error}") from error
        keys = {str(item.get("kid", "")): _public_key(item) for item in found.get("keys", ())}
        self._keys = {kid: key for kid, key in keys.items() if key is not None}
        self.issuer = str(about.get("issuer", ""))

    def verified(self, token: str, claims: Claims) -> bool:
        """Tell whether one of the keys signed the token, and for the same issuer."""
        head, _, signature = token.rpartition(".")
        header = _decoded(token.partition(".")[0], _Header)
        key = self._keys.get(header.kid) if header else None
        if header is None or key is None or not self.issuer or claims.iss != self.issuer:
            return False
        try:
            return _signed(key, header.alg, head.encode(), _unpadded(signature))
        except (InvalidSignature, ValueError):
            return False


class TokenReviewer:
    """Turns a bearer token and the address that it came from into a Caller, or a refusal."""

    def __init__(self, client: Api, residents: Residents, options: TokenOptions) -> None:
        self._client = client
        self._residents = residents
        self._options = options
        self.keys = SigningKeys()

    def plausible(self, token: str) -> bool:
        """Tell whether a text is worth a question to the API: a token for us that has not expired."""
        claims = claims_of(token)
        return claims is not None and claims.is_for(self._options.audience, self._options.clock() - _SKEW)

    def is_current(self, caller: Caller) -> bool:
        """Tell whether the caller's pod and account are still the ones that its token was for (X7)."""
        pod = self._residents.pods.get((caller.namespace, caller.pod))
        account = self._residents.accounts.get((caller.namespace, caller.service_account))
        return (
            pod is not None
            and pod.uid == caller.pod_uid
            and not pod.over
            and account is not None
            and account == caller.service_account_uid
        )

    async def __call__(self, token: str, address: str) -> Caller | Refused:
        """Check a token that came from an address."""
        claims = claims_of(token)
        if claims is None:
            return _NO_TOKEN
        try:
            pod = await self._review(token)
        except (ApiError, Unreachable) as error:
            _log.warning("a token can't be reviewed: %s", error)
            away = isinstance(error, Unreachable) or error.status == 429 or error.status >= 500
            return self._offline(token, claims, address) if away else _NOBODY_TELLS
        if isinstance(pod, Refused):
            return pod
        refused = await self._fits(pod, address)
        return refused or self._caller(pod, claims)

    def _caller(self, pod: _Pod, claims: Claims) -> Caller:
        namespace, name = pod.key
        identity = f"spiffe://{self._options.trust_domain}/ns/{namespace}/sa/{pod.service_account}"
        account = (pod.service_account, pod.account_uid)
        return Caller(identity, namespace, *account, name, pod.uid, claims.iat, claims.exp)

    async def _review(self, token: str) -> _Pod | Refused:
        """Ask the API server whose token it is."""
        spec = {"token": token, "audiences": [self._options.audience]}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}
        answer = msgspec.json.decode(await self._client.request("POST", _REVIEWS, body=body, timeout=5.0))
        status = answer.get("status") or {}
        # An authenticator that knows no audiences returns none: the token may be for anybody.
        if status.get("authenticated") is not True or self._options.audience not in (status.get("audiences") or ()):
            return _NO_TOKEN
        return _pod_of(status.get("user") or {})

    async def _fits(self, pod: _Pod, address: str) -> Refused | None:
        """Compare the claims with the pod that we know; if they do not fit, we may be late: ask for it once (X4)."""
        known = self._residents.pods.get(pod.key)
        if known is not None and self._same(known, pod) and self._from(known, address):
            return None
        try:
            live = Resident.of(await self._client.get(_PODS.path(*pod.key)))
        except ApiError as error:
            return _NOT_THERE if error.status == 404 else _NOBODY_TELLS
        except Unreachable:
            return _NOBODY_TELLS
        if not self._same(live, pod) or (live.addresses and not self._from(live, address)):
            return _NOT_THERE
        cached = known is not None and self._same(known, pod)
        return None if cached and self._from(live, address) else _NOT_YET

    def _offline(self, token: str, claims: Claims, address: str) -> Caller | Refused:
        """Check a token without the API server: its signature, and a pod that is in our own cache (F2)."""
        if not claims.is_for(self._options.audience, self._options.clock()) or not self.keys.verified(token, claims):
            return _NOBODY_TELLS
        bound = claims.bound
        account = bound.serviceaccount
        pod = _Pod((bound.namespace, bound.pod.name), bound.pod.uid, bound.node.name, account.name, account.uid)
        known = self._residents.pods.get(pod.key)
        if not pod.uid or known is None or not self._same(known, pod) or not self._from(known, address):
            return _NOBODY_TELLS
        return self._caller(pod, claims)

    def _same(self, known: Resident, pod: _Pod) -> bool:
        fits = known.uid == pod.uid and known.service_account == pod.service_account and not known.over
        return fits and (not pod.node or not known.node or pod.node == known.node)

    def _from(self, known: Resident, address: str) -> bool:
        return not self._options.check_address or address in known.addresses


def claims_of(token: str) -> Claims | None:
    """Read what a token says about itself, unchecked; None if it is no JSON Web Token."""
    parts = token.split(".")
    return _decoded(parts[1], Claims) if len(parts) == 3 else None


def _pod_of(user: Mapping[str, Any]) -> _Pod | Refused:
    """Read who a reviewed token belongs to."""
    username = str(user.get("username", ""))
    namespace, _, account = username.removeprefix(_ACCOUNT).partition(":")
    extra = user.get("extra") or {}
    name, uid, node = (_one(extra.get(_EXTRA + field)) for field in ("pod-name", "pod-uid", "node-name"))
    if not username.startswith(_ACCOUNT) or not account:
        return _NO_TOKEN
    if not name or not uid:
        return _NO_POD
    return _Pod((namespace, name), uid, node, account, str(user.get("uid", "")))


def _one(values: object) -> str:
    return values[0] if isinstance(values, list) and len(values) == 1 and isinstance(values[0], str) else ""


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


def _public_key(item: Mapping[str, Any]) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey | None:
    try:
        if item.get("kty") == "RSA":
            return rsa.RSAPublicNumbers(_number(item["e"]), _number(item["n"])).public_key()
        if item.get("kty") == "EC" and item.get("crv") == "P-256":
            numbers = ec.EllipticCurvePublicNumbers(_number(item["x"]), _number(item["y"]), ec.SECP256R1())
            return numbers.public_key()
    except (KeyError, ValueError, AttributeError):
        pass
    return None


def _number(text: str) -> int:
    return int.from_bytes(_unpadded(text), "big")


def _signed(
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey, algorithm: str, content: bytes, signature: bytes
) -> bool:
    if isinstance(key, rsa.RSAPublicKey) and algorithm == "RS256":
        key.verify(signature, content, padding.PKCS1v15(), hashes.SHA256())
        return True
    if isinstance(key, ec.EllipticCurvePublicKey) and algorithm == "ES256" and len(signature) == 64:
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        key.verify(encode_dss_signature(r, s), content, ec.ECDSA(hashes.SHA256()))
        return True
    return False
