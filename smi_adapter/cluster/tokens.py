"""ServiceAccount tokens: who is behind one, asked of the API server, and whether the pod that it names fits.

The xDS server calls `TokenReviewer` for each new stream (security.md, section 3, and X4). Nothing is cached but the
keys that tokens are signed with (`signing`): they keep forged tokens out of the queue, and while the API is away a pod
that is in our own cache may stream with a token that they signed (F2). Tokens are never logged, nor part of an error.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from smi_adapter.cluster.client import ApiError, Resource, Unreachable
from smi_adapter.cluster.pace import Asking
from smi_adapter.cluster.residents import Resident, Residents
from smi_adapter.cluster.signing import Claims, Signed, SigningKeys, claims_of
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
_NO_KEY: Final = Refused(Reason.UNAVAILABLE, "the key that signed this token is not known here (yet), try again")


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


class TokenReviewer:
    """Turns a bearer token and the address that it came from into a Caller, or a refusal."""

    def __init__(self, client: Asking, residents: Residents, options: TokenOptions) -> None:
        self._client = client
        self._residents = residents
        self._options = options
        self.keys = SigningKeys()

    async def screen(self, token: str) -> Refused | None:
        """Refuse what is not worth a question to the API: only a token for us, now, that the cluster signed, is.

        A token for somebody else, an old one and a forged one cost neither a place in the queue nor a review.
        """
        claims = claims_of(token)
        if claims is None or not claims.is_for(self._options.audience, self._options.clock() - _SKEW):
            return _NO_TOKEN
        signed = await self.keys.judged(token, self._client)
        return {Signed.FORGED: _NO_TOKEN, Signed.UNKNOWN_KEY: _NO_KEY}.get(signed)

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
