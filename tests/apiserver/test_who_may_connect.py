"""Who may connect, and what a compromised proxy may learn (security.md, sections 2 and 4), on a real TokenReview.

The attacker has the token of web-1 and speaks gRPC itself. Every byte that it receives is searched for the names, the
regular expressions and the identity of another tenant.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from smi_adapter.controller import Controller
from smi_adapter.delivery.xds.types import CLUSTER, ENDPOINTS, LISTENER, ROUTES, SECRET
from smi_adapter.envoy_api import message
from tests.cluster.control_plane import ControlPlane
from tests.cluster.mesh import SERVER_NAME, Mesh, controller, install_crds, ready, settings, until
from tests.cluster.tokens import signed_again
from tests.unit.test_xds_server import METHOD, WireClient

pytestmark = pytest.mark.live

Request = message("envoy.service.discovery.v3.DeltaDiscoveryRequest")
Response = message("envoy.service.discovery.v3.DeltaDiscoveryResponse")
CANARY = "canary-of-vault"
KINDS = (CLUSTER, ENDPOINTS, LISTENER, ROUTES, SECRET)


@dataclass
class Attacker:
    """Speaks gRPC with any token and remembers every byte of every answer."""

    address: str
    roots: bytes
    seen: list[bytes] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def stream(self, token: str | None, node: Mapping[str, Any]) -> AsyncIterator[WireClient]:
        credentials = grpc.ssl_channel_credentials(self.roots)
        options = [("grpc.ssl_target_name_override", SERVER_NAME), ("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.secure_channel(self.address, credentials, options=options) as channel:
            call = channel.stream_stream(
                METHOD, request_serializer=Request.SerializeToString, response_deserializer=self._remember
            )(metadata=[("authorization", f"Bearer {token}")] if token else [])  # type: ignore[call-arg]
            client = _Named(call, "")
            client.about = node
            yield client
            call.cancel()

    def _remember(self, content: bytes) -> Any:
        self.seen.append(content)
        return Response.FromString(content)

    async def refused(self, token: str | None, **node: Any) -> grpc.StatusCode:
        async with self.stream(token, node) as client:
            await client.ask(CLUSTER)
            return (await client.refused())[0]

    def leaked(self) -> list[bytes]:
        """Return the answers in which something of the other tenant stands."""
        return [content for content in self.seen if CANARY.encode() in content or b"/sa/vault" in content]


class _Named(WireClient):
    """A stream with all of a node."""

    about: Mapping[str, Any] = {}

    async def ask(self, type_url: str, *asked: str, **more: Any) -> None:
        request = Request(type_url=type_url, node=self.about, resource_names_subscribe=asked, **more)
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self.call.write(request)


@dataclass
class Town:
    """Two tenants, and the attacker."""

    mesh: Mesh
    vault: Mesh
    attacker: Attacker
    controller: Controller
    token: str

    @property
    def node(self) -> dict[str, str]:
        return {"id": f"{self.mesh.namespace}/web-1"}


@contextlib.asynccontextmanager
async def town(plane: ControlPlane, folder: Path, **chosen: Any) -> AsyncIterator[Town]:
    install_crds(plane)
    web, vault = (Mesh(plane, plane.new_namespace(), folder) for _ in range(2))
    for mesh, account in ((web, "web"), (vault, "vault")):
        mesh.account(account)
        mesh.pod(f"{account}-1", account, {"app": account})
    web.service("web", "web-1", selector={"app": "web"})
    vault.service(CANARY, "vault-1", selector={"app": "vault"})
    group = {
        "apiVersion": "specs.smi-spec.io/v1alpha4",
        "kind": "HTTPRouteGroup",
        "metadata": {"name": CANARY},
        "spec": {"matches": [{"name": "all", "pathRegex": f"/{CANARY}/.*", "methods": ["GET"]}]},
    }
    target = {
        "apiVersion": "access.smi-spec.io/v1alpha3",
        "kind": "TrafficTarget",
        "metadata": {"name": CANARY},
        "spec": {
            "destination": {"kind": "ServiceAccount", "name": "vault", "namespace": vault.namespace},
            "rules": [{"kind": "HTTPRouteGroup", "name": CANARY, "matches": ["all"]}],
            "sources": [{"kind": "ServiceAccount", "name": "vault", "namespace": vault.namespace}],
        },
    }
    vault.apply(group, target)
    settled = settings(plane, **{"check_peer_address": False, **chosen})
    async with controller(plane, settled) as (running, _):
        await ready(running)
        attacker = Attacker(settled.xds_address, running.bundle)
        yield Town(web, vault, attacker, running, web.token("web", "web-1"))


async def everything(client: WireClient, namespace: str, *names: str) -> None:
    """Ask for all that there could be, by wildcard and by name, and take whatever comes."""
    for kind in KINDS:
        await client.ask(kind)
        await client.ask(kind, "*", *names)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1.5):
            while True:
                await client.take()


def names_of(vault: Mesh) -> list[str]:
    """Return the names of the other tenant's resources."""
    space = vault.namespace
    service, workload = f"{space}/{CANARY}/80", f"{space}/vault-1"
    identity = f"spiffe://cluster.local/ns/{space}/sa/vault"
    return [service, f"out/{service}", f"in/{workload}", f"in/{workload}/8080", workload, identity, "default", "ROOTCA"]


async def test_a_proxy_learns_nothing_of_another_tenant(api_server: ControlPlane, tmp_path: Path) -> None:
    async with town(api_server, tmp_path) as place:
        attacker, names = place.attacker, names_of(place.vault)
        nodes: list[dict[str, Any]] = [
            place.node,
            {**place.node, "cluster": place.vault.namespace, "metadata": {"workload": "vault-1"}},
            {},
        ]
        for node in nodes:
            async with attacker.stream(place.token, node) as client:
                await everything(client, place.vault.namespace, *names)
        async with attacker.stream(place.token, place.node) as client:  # what it claims to hold already
            claimed = dict.fromkeys(names, "1")
            for kind in KINDS:
                await client.ask(kind, "*", initial_resource_versions=claimed)
                await client.ask(kind, response_nonce="1")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.5):
                    while True:
                        response = await client.read()
                        await client.ask(response.type_url, response_nonce=f"stale-{response.nonce}")
        received = b"".join(attacker.seen)
        assert f"in/{place.mesh.namespace}/web-1".encode() in received, "it gets its own"
        assert b"PRIVATE KEY" in received
        # Names that the client itself asked for come back as removed; nothing else of the tenant may.
        for content in attacker.leaked():
            answer = Response.FromString(content)
            for removed in list(answer.removed_resources):
                answer.removed_resources.remove(removed)
            assert CANARY.encode() not in answer.SerializeToString()
            assert b"/sa/vault" not in answer.SerializeToString()


async def test_the_control_sees_the_canaries(api_server: ControlPlane, tmp_path: Path) -> None:
    """The search of the test above finds something where there is something."""
    async with town(api_server, tmp_path) as place:
        attacker = place.attacker
        async with attacker.stream(place.vault.token("vault", "vault-1"), {}) as client:
            await everything(client, place.vault.namespace, *names_of(place.vault))
        assert any(CANARY.encode() in content for content in attacker.seen)


async def test_x3_a_forged_node_id_ends_the_stream(api_server: ControlPlane, tmp_path: Path) -> None:
    async with town(api_server, tmp_path) as place:
        for forged in ("vault-1", "vault"):
            code = await place.attacker.refused(place.token, id=f"{place.vault.namespace}/{forged}")
            assert code is grpc.StatusCode.PERMISSION_DENIED
        assert place.attacker.seen == []


async def test_x2_what_is_no_token_for_us_is_refused(api_server: ControlPlane, tmp_path: Path) -> None:
    async with town(api_server, tmp_path) as place:
        attacker, web = place.attacker, place.mesh
        key = (api_server.folder / "sa.key").read_bytes()
        now = time.time()
        refused = {
            "none": None,
            "garbage": "garbage",
            "another audience": web.token("web", "web-1", audience="other"),
            "the API server's own audience": web.token("web", "web-1", audience=""),
            "not bound to a pod": web.token("web"),
            "expired": signed_again(place.token, key, iat=now - 700, nbf=now - 700, exp=now - 100),
            "changed": place.token[:-8] + "AAAAAAAA",
        }
        for name, token in refused.items():
            async with attacker.stream(token, place.node) as client:  # asks nothing: it may be refused before it has
                assert (await client.refused())[0] is grpc.StatusCode.UNAUTHENTICATED, name
        assert attacker.seen == []
        good = signed_again(place.token, key, exp=now + 1000)  # the control: it is the claims that were refused
        async with attacker.stream(good, place.node) as client:
            await client.ask(CLUSTER)
            await client.take()


async def test_x2_a_forged_token_costs_no_review(api_server: ControlPlane, tmp_path: Path) -> None:
    async with town(api_server, tmp_path) as place:
        await until(lambda: place.controller._reviewer.keys.issuer)
        key = rsa.generate_private_key(65537, 2048)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        forged = signed_again(place.token, pem)
        reviewed = await asyncio.to_thread(reviews, api_server)
        for _ in range(20):
            async with place.attacker.stream(forged, {}) as client:
                assert (await client.refused())[0] is grpc.StatusCode.UNAUTHENTICATED
        async with place.attacker.stream(place.token, place.node) as client:
            await client.ask(CLUSTER)
            await client.take()
        await asyncio.to_thread(api_server.wait_for, lambda: reviews(api_server) > reviewed)
        assert await asyncio.to_thread(reviews, api_server) == reviewed + 1, "the good one alone"


def reviews(plane: ControlPlane) -> int:
    """Return how many tokens the controller has had reviewed."""
    found = [event["objectRef"]["resource"] for event in plane.audit_events("admin") if "objectRef" in event]
    return found.count("tokenreviews")


async def test_x4_a_token_replayed_from_another_address_is_refused(api_server: ControlPlane, tmp_path: Path) -> None:
    async with town(api_server, tmp_path, check_peer_address=True) as place:
        assert await place.attacker.refused(place.token, **place.node) is grpc.StatusCode.PERMISSION_DENIED
        assert place.attacker.seen == []


async def test_x7_a_deleted_pod_loses_its_stream_and_its_token(api_server: ControlPlane, tmp_path: Path) -> None:
    async with town(api_server, tmp_path) as place:
        async with place.attacker.stream(place.token, place.node) as client:
            await client.ask(CLUSTER)
            await client.take()
            path = place.mesh.path("pods", "web-1")
            api_server.request("DELETE", f"{path}?gracePeriodSeconds=0")
            assert (await client.refused())[0] is grpc.StatusCode.UNAVAILABLE
        code = await place.attacker.refused(place.token, **place.node)
        assert code in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}


async def test_x7_another_pod_of_the_same_name_does_not_inherit_the_stream(
    api_server: ControlPlane, tmp_path: Path
) -> None:
    async with town(api_server, tmp_path) as place:
        async with place.attacker.stream(place.token, place.node) as client:
            await client.ask(CLUSTER)
            await client.take()
            api_server.request("DELETE", f"{place.mesh.path('pods', 'web-1')}?gracePeriodSeconds=0")
            place.mesh.pod("web-1", "web", {"app": "web"})
            assert (await client.refused())[0] is grpc.StatusCode.UNAVAILABLE
        async with place.attacker.stream(place.mesh.token("web", "web-1"), place.node) as again:
            await until(lambda: (place.mesh.namespace, "web-1") in place.controller.residents.pods)
            await again.ask(CLUSTER)
            await again.take()


async def test_x7_a_deleted_service_account_ends_the_streams_of_its_pods(
    api_server: ControlPlane, tmp_path: Path
) -> None:
    async with town(api_server, tmp_path) as place, place.attacker.stream(place.token, place.node) as client:
        await client.ask(CLUSTER)
        await client.take()
        api_server.request("DELETE", place.mesh.path("serviceaccounts", "web"))
        assert (await client.refused())[0] is grpc.StatusCode.UNAVAILABLE


async def test_x5_health_is_all_that_answers_without_a_credential(api_server: ControlPlane, tmp_path: Path) -> None:
    async with town(api_server, tmp_path) as place:
        credentials = grpc.ssl_channel_credentials(place.attacker.roots)
        options = [("grpc.ssl_target_name_override", SERVER_NAME)]
        async with grpc.aio.secure_channel(place.attacker.address, credentials, options=options) as channel:
            assert await channel.unary_unary("/grpc.health.v1.Health/Check", bytes, bytes)(b"") == b"\x08\x01"
            for method in ("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "grpc.channelz.v1.Channelz/Get"):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await channel.unary_unary(f"/{method}", bytes, bytes)(b"")
                assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
