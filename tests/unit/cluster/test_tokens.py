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
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from smi_adapter.cluster.client import ApiError, Unreachable
from smi_adapter.cluster.residents import Residents
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


def token(**changed: Any) -> str:
    """Return a token as the API server makes them, with some claims changed."""
    bound = {
        "namespace": "shop",
        "pod": {"name": "web-1", "uid": "pod-1"},
        "serviceaccount": {"name": "web", "uid": "sa-1"},
    }
    now = time.time()
    claims = {"iss": ISSUER, "aud": ["smi-adapter"], "iat": now, "exp": now + 3600, "kubernetes.io": bound, **changed}
    head = f"{encoded({'alg': 'RS256', 'kid': 'k1'})}.{encoded(claims)}"
    return f"{head}.{encoded(KEY.sign(head.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


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

    async def request(self, method: str, path: str, *, body: Any = None, **_more: object) -> bytes:
        self.asked.append(f"{method} {path}")
        if self.down:
            raise self.down
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

    @staticmethod
    def jwks() -> dict[str, Any]:
        numbers = KEY.public_key().public_numbers()
        named = (("n", numbers.n), ("e", numbers.e))
        values = {name: encoded(value.to_bytes(256, "big").lstrip(b"\0")) for name, value in named}
        return {"keys": [{"kty": "RSA", "kid": "k1", **values}, {"kty": "odd"}]}

    async def get(self, path: str, **_query: str) -> Any:
        self.asked.append(f"GET {path}")
        if path.endswith("openid-configuration"):
            return {"issuer": ISSUER}
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


def test_rubbish_costs_no_question() -> None:
    reviewer = World().reviewer
    deep = encoded(b"[" * 5000)
    for text in ("", "x", "a.b.c", f"a.{deep}.c", token(aud="kubernetes"), token(exp=time.time() - 3600), "é.é.é"):
        assert not reviewer.plausible(text), text[:40]
    assert reviewer.plausible(token())
