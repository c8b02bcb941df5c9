"""Tokens: what a review says, whether the pod fits, and what is done while nobody can be asked."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from smi_adapter.cluster.client import ApiError, Unreachable
from smi_adapter.cluster.residents import Residents
from smi_adapter.cluster.signing import AGAIN, SigningKeys
from smi_adapter.cluster.tokens import TokenOptions, TokenReviewer
from smi_adapter.findings import Ref
from smi_adapter.identity import Caller, Reason, Refused

KEY = rsa.generate_private_key(65537, 2048)
ISSUER = "https://kubernetes.default.svc"
POD, ACCOUNT = Ref("Pod", "shop", "web-1"), Ref("ServiceAccount", "shop", "web")
USER = "system:serviceaccount:shop:web"


def encoded(data: object) -> str:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def token(*, head: str = "k1", **changed: Any) -> str:
    """Return a token as the API server makes them, by the key named `head`, with some claims changed."""
    bound = {
        "namespace": "shop",
        "pod": {"name": "web-1", "uid": "pod-1"},
        "serviceaccount": {"name": "web", "uid": "sa-1"},
    }
    now = time.time()
    claims = {"iss": ISSUER, "aud": ["smi-adapter"], "iat": now, "exp": now + 3600, "kubernetes.io": bound, **changed}
    content = f"{head_of(head)}.{encoded(claims)}"
    return f"{content}.{encoded(KEY.sign(content.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def pod(uid: str = "pod-1", **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "web-1", "namespace": "shop", "uid": uid},
        "spec": {"serviceAccountName": "web", "nodeName": "n1"},
        "status": {"podIP": "10.0.0.5", "podIPs": [{"ip": "10.0.0.5"}, {"ip": "fd00::5"}], **status},
    }


@dataclass
class Api:
    """An API server as far as tokens go; an exception in place of an answer is raised."""

    namespace: str = "smi-system"
    user: dict[str, Any] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    pod: Any = None
    down: Exception | None = None
    asked: list[str] = field(default_factory=list)
    keys: tuple[str, ...] = ("k1",)
    more_keys: tuple[dict[str, Any], ...] = ()
    documents: dict[str, bytes] = field(default_factory=dict)

    async def request(self, method: str, path: str, *, body: Any = None, **_more: object) -> bytes:
        self.asked.append(f"{method} {path}")
        if self.down:
            raise self.down
        if path in self.documents:
            return self.documents[path]
        if path.endswith("openid-configuration"):
            return json.dumps({"issuer": ISSUER}).encode()
        if path.endswith("jwks"):
            return json.dumps(self.jwks()).encode()
        assert body["spec"]["audiences"] == ["smi-adapter"]
        extra = {
            "authentication.kubernetes.io/pod-name": ["web-1"],
            "authentication.kubernetes.io/pod-uid": ["pod-1"],
            "authentication.kubernetes.io/node-name": ["n1"],
        }
        user = {"username": USER, "uid": "sa-1", "extra": extra, **self.user}
        status = {"authenticated": True, "audiences": ["smi-adapter"], "user": user, **self.status}
        return json.dumps({"status": status}).encode()

    def jwks(self) -> dict[str, Any]:
        numbers = KEY.public_key().public_numbers()
        named = (("n", numbers.n), ("e", numbers.e))
        values = {name: encoded(value.to_bytes(256, "big").lstrip(b"\0")) for name, value in named}
        known = ({"kty": "RSA", "kid": name, **values} for name in self.keys)
        return {"keys": [*known, {"kty": "odd", "kid": "odd"}, *self.more_keys]}

    async def get(self, path: str, **_query: str) -> Any:
        self.asked.append(f"GET {path}")
        answer = self.pod if self.pod is not None else ApiError(404, "NotFound")
        if isinstance(answer, Exception):
            raise answer
        return answer


@dataclass
class World:
    """A reviewer with a cache that holds the pod."""

    api: Api = field(default_factory=Api)
    residents: Residents = field(default_factory=Residents)

    def __post_init__(self) -> None:
        self.reviewer = TokenReviewer(self.api, self.residents, TokenOptions("cluster.local"))
        self.put(pod())
        self.residents.follow({ACCOUNT: {"metadata": {"name": "web", "namespace": "shop", "uid": "sa-1"}}})

    def put(self, raw: Mapping[str, Any] | None) -> None:
        self.residents.follow({POD: raw})

    async def ask(self, address: str = "10.0.0.5", **claims: Any) -> Caller | Refused:
        return await self.reviewer(token(**claims), address)

    async def reason(self, address: str = "10.0.0.5", **claims: Any) -> Reason:
        answer = await self.ask(address, **claims)
        assert isinstance(answer, Refused)
        return answer.reason


async def test_a_reviewed_token_is_its_pod() -> None:
    world = World()
    found = await world.ask()
    assert isinstance(found, Caller)
    assert found.identity == "spiffe://cluster.local/ns/shop/sa/web"
    assert (found.pod, found.pod_uid, round(found.expires - found.issued)) == ("web-1", "pod-1", 3600)
    assert world.reviewer.is_current(found)
    assert isinstance(await world.ask("fd00::5"), Caller), "each of a pod's addresses is its own"


@pytest.mark.parametrize(
    "status",
    [{"authenticated": False}, {"authenticated": "yes"}, {"audiences": None}, {"audiences": ["kubernetes"]}],
)
async def test_an_answer_that_does_not_name_our_audience_is_a_refusal(status: dict[str, Any]) -> None:
    assert await World(Api(status=status)).reason() is Reason.UNAUTHENTICATED


@pytest.mark.parametrize(
    "user",
    [{"username": "admin"}, {"username": "system:serviceaccount:shop"}, {"extra": {}},
     {"extra": {"authentication.kubernetes.io/pod-name": ["web-1"]}}],
)  # fmt: skip
async def test_x4_only_a_pods_token_counts(user: dict[str, Any]) -> None:
    assert await World(Api(user=user)).reason() is Reason.UNAUTHENTICATED


async def test_x4_a_token_replayed_from_another_address_is_refused() -> None:
    assert await World(Api(pod=pod())).reason("10.0.0.6") is Reason.PERMISSION_DENIED


async def test_x4_a_token_of_a_deleted_pod_is_refused() -> None:
    world = World()
    world.put(None)
    assert await world.reason() is Reason.PERMISSION_DENIED
    assert world.api.asked[-1] == "GET /api/v1/namespaces/shop/pods/web-1"


@pytest.mark.parametrize(
    "other",
    [
        pod("pod-2"),
        pod(phase="Succeeded"),
        {**pod(), "spec": {"serviceAccountName": "vault"}},
        {**pod(), "spec": {"serviceAccountName": "web", "nodeName": "n2"}},
    ],
)
async def test_x4_another_pod_of_that_name_is_refused(other: dict[str, Any]) -> None:
    world = World(Api(pod=other))
    world.put(other)
    assert await world.reason() is Reason.PERMISSION_DENIED


async def test_x4_a_pod_that_the_cache_does_not_know_yet_may_try_again() -> None:
    world = World(Api(pod=pod()))
    world.put(None)
    assert await world.reason() is Reason.UNAVAILABLE
    world.put(pod(podIP=None, podIPs=None))  # known, but without the address: the live one has it
    assert isinstance(await world.ask(), Caller)
    world.api.pod = Unreachable("down")
    assert await world.reason() is Reason.UNAVAILABLE


async def test_x7_a_caller_is_current_while_pod_and_account_are_the_same() -> None:
    world = World()
    found = await world.ask()
    assert isinstance(found, Caller)
    account = {"metadata": {"name": "web", "namespace": "shop", "uid": "sa-2"}}
    pods: list[dict[Ref, Any]] = [{POD: None}, {POD: pod("pod-2")}, {POD: pod(phase="Failed")}]
    for change in (*pods, {ACCOUNT: None}, {ACCOUNT: account}):
        world.residents.follow(change)
        assert not world.reviewer.is_current(found), change
        world.__post_init__()


@pytest.mark.parametrize("down", [Unreachable("refused"), ApiError(500, "Internal")])
async def test_f02_without_the_api_a_signed_token_of_a_known_pod_is_enough(down: Exception) -> None:
    world = World()
    world.api.down = down
    assert await world.reason() is Reason.UNAVAILABLE, "no keys have been read"
    world.api.down = None
    await world.reviewer.keys.refresh(world.api)
    world.api.down = down
    found = await world.ask()
    assert isinstance(found, Caller)
    assert found.identity == "spiffe://cluster.local/ns/shop/sa/web"
    assert world.reviewer.is_current(found)


async def test_an_api_that_refuses_the_question_is_not_away() -> None:
    world = World()
    await world.reviewer.keys.refresh(world.api)
    world.api.down = ApiError(403, "Forbidden")
    assert await world.reason() is Reason.UNAVAILABLE, "a revoked token must not pass by its signature alone"


async def test_f02_without_the_api_nothing_else_is() -> None:
    world = World()
    await world.reviewer.keys.refresh(world.api)
    world.api.down = Unreachable("refused")
    head, _, signature = token().rpartition(".")
    claims = encoded({"exp": time.time() + 9, "aud": "smi-adapter", "iss": ISSUER})
    forged = [f"{head.split('.')[0]}.{claims}.{signature}", f"{head}.", f"{head}.!", head, "a.b.c", "", "."]
    for text in forged:
        answer = await world.reviewer(text, "10.0.0.5")
        assert isinstance(answer, Refused), text
    others: list[dict[str, Any]] = [
        {"exp": time.time() - 1},
        {"aud": "kubernetes"},
        {"iss": "https://other"},
        {"kubernetes.io": {}},
    ]
    for changed in others:
        assert await world.reason(**changed) is Reason.UNAVAILABLE, changed
    assert await world.reason("10.0.0.6") is Reason.UNAVAILABLE
    world.put(None)
    assert await world.reason() is Reason.UNAVAILABLE


def head_of(key: str, algorithm: str = "RS256") -> str:
    return encoded({"alg": algorithm, "kid": key})


async def screened(world: World, text: str) -> Reason | None:
    """Return why a token does not get as far as the queue; None if it does. No review may be asked for either way."""
    found = await world.reviewer.screen(text)
    assert not any("tokenreviews" in asked for asked in world.api.asked)
    return found.reason if found else None


@pytest.mark.parametrize("with_keys", [True, False])
async def test_rubbish_costs_no_question(with_keys: bool) -> None:
    world = World()
    if with_keys:
        await world.reviewer.keys.refresh(world.api)
    asked = list(world.api.asked)
    deep = encoded(b"[" * 5000)
    for text in ("", "x", "a.b.c", f"a.{deep}.c", token(aud="kubernetes"), token(exp=time.time() - 3600), "é.é.é"):
        assert await screened(world, text) is Reason.UNAUTHENTICATED, text[:40]
    assert await screened(world, token()) is None
    assert world.api.asked == asked


async def test_x2_a_forged_token_never_gets_as_far_as_the_queue() -> None:
    world = World()
    await world.reviewer.keys.refresh(world.api)
    head, claims, signature = token().split(".")
    others = rsa.generate_private_key(65537, 2048).sign(
        f"{head}.{claims}".encode(), padding.PKCS1v15(), hashes.SHA256()
    )
    forged = {
        "another key": f"{head}.{claims}.{encoded(others)}",
        "other claims": f"{head}.{token(sub='x').split('.')[1]}.{signature}",
        "no signature": f"{head}.{claims}.",
        "no algorithm": f"{head_of('k1', 'none')}.{claims}.",
        "another algorithm": f"{head_of('k1', 'HS256')}.{claims}.{signature}",
        "no header": f"x.{claims}.{signature}",
    }
    for name, text in forged.items():
        assert await screened(world, text) is Reason.UNAUTHENTICATED, name
    assert await screened(world, token(iss="https://former")) is None, "a review decides which issuers count"


async def test_an_unknown_key_is_looked_for_but_not_by_everybody_who_invents_one() -> None:
    now = 0.0
    world = World()
    world.reviewer.keys = SigningKeys(lambda: now)
    await world.reviewer.keys.refresh(world.api)
    signed = token(head="k2")
    asked = len(world.api.asked)
    for number in range(100):
        invented = f"{head_of(str(number))}.{signed.split('.', 1)[1]}"
        assert await screened(world, invented) is Reason.UNAVAILABLE
    assert len(world.api.asked) == asked, "the keys were read a moment ago"
    now = AGAIN + 1
    world.api.keys = ("k1", "k2")
    assert await screened(world, signed) is None, "the API server signs with a new key"
    now += AGAIN - 1
    asked = len(world.api.asked)
    world.api.down = Unreachable("refused")
    assert await screened(world, token(head="k3")) is Reason.UNAVAILABLE
    assert await screened(world, signed) is None, "what was read last stays in force"
    assert len(world.api.asked) == asked


@pytest.mark.parametrize("denied", [ApiError(403, "Forbidden"), ApiError(404, "NotFound")])
async def test_where_nobody_may_read_the_keys_a_review_decides_alone(denied: ApiError) -> None:
    world = World()
    assert await screened(world, token(head="any")) is None, "they were not read yet"
    world.api.down = denied
    with pytest.raises(ApiError):
        await world.reviewer.keys.refresh(world.api)
    assert await screened(world, token(head="any")) is None


@pytest.mark.parametrize(("path", "content"), [
    *(("/openid/v1/jwks", text) for text in (b"[]", b'{"keys":["x"]}', b'{"keys":{}}', b"<html>", b"[" * 100_000)),
    *(("/.well-known/openid-configuration", text) for text in (b"[]", b'{"issuer":[]}', b"null", b"[" * 100_000)),
])  # fmt: skip
async def test_documents_of_another_shape_count_as_none_and_leave_the_old_keys(path: str, content: bytes) -> None:
    world = World()
    await world.reviewer.keys.refresh(world.api)
    world.api.documents[path] = content
    with pytest.raises(Unreachable):
        await world.reviewer.keys.refresh(world.api)
    assert world.reviewer.keys.issuer == ISSUER
    assert await screened(world, token(head="unheard-of")) is Reason.UNAVAILABLE


@pytest.mark.parametrize("content", [
    b"{}",
    b'{"keys":null}',
    b'{"keys":[{"kty":"RSA","kid":"k","n":5,"e":null}, {"kty":"EC","crv":[],"kid":"k"}]}',
])  # fmt: skip
async def test_where_no_key_can_be_read_a_review_decides_alone(content: bytes) -> None:
    world = World()
    world.api.documents["/openid/v1/jwks"] = content
    await world.reviewer.keys.refresh(world.api)
    assert await screened(world, token(head="k")) is None


@pytest.mark.parametrize(("curve", "algorithm", "digest"), [
    (ec.SECP256R1(), "ES256", hashes.SHA256()),
    (ec.SECP384R1(), "ES384", hashes.SHA384()),
    (ec.SECP521R1(), "ES512", hashes.SHA512()),
])  # fmt: skip
async def test_every_form_of_signature_that_kubernetes_uses_is_read(
    curve: ec.EllipticCurve, algorithm: str, digest: hashes.HashAlgorithm
) -> None:
    key = ec.generate_private_key(curve)
    size = (curve.key_size + 7) // 8
    numbers = key.public_key().public_numbers()
    world = World()
    public = {name: encoded(value.to_bytes(size, "big")) for name, value in (("x", numbers.x), ("y", numbers.y))}
    kind = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}[algorithm]
    world.api.more_keys = ({"kty": "EC", "crv": kind, "kid": "e1", **public},)
    await world.reviewer.keys.refresh(world.api)
    content = f"{head_of('e1', algorithm)}.{token().split('.')[1]}"
    r, s = decode_dss_signature(key.sign(content.encode(), ec.ECDSA(digest)))
    signature = r.to_bytes(size, "big") + s.to_bytes(size, "big")
    assert await screened(world, f"{content}.{encoded(signature)}") is None
    for wrong in (signature[:-1], signature[::-1], b"\0" * 2 * size, b""):
        assert await screened(world, f"{content}.{encoded(wrong)}") is Reason.UNAUTHENTICATED


async def test_a_key_of_a_form_that_we_cannot_check_leaves_it_to_the_review() -> None:
    world = World()
    await world.reviewer.keys.refresh(world.api)
    assert await screened(world, token(head="odd")) is None
