"""F11 on a real API server: replicas of which one, or each, has lost its own link to it."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from smi_adapter.cluster.peers import PATH, SIGNATURE, signature
from smi_adapter.identity import Authority
from tests.apiserver.test_replicas import IN_SYNC, bundle, eventually
from tests.cluster.control_plane import ADMINS, PORT, ControlPlane
from tests.cluster.fault_proxy import PASS, ByteProxy, Hang
from tests.cluster.mesh import Mesh, Replica, install_crds, servers
from tests.live.apps import http_app

pytestmark = [pytest.mark.live, pytest.mark.slow]


@dataclass
class Linked:
    """A replica, and the proxy on its way to the API server."""

    replica: Replica
    link: ByteProxy

    async def says(self) -> tuple[int, str]:
        return await self.replica.ask("/readyz")


@asynccontextmanager
async def pair(plane: ControlPlane, folder: Path) -> AsyncIterator[list[Linked]]:
    """Run two replicas; the one that leads is the first of the list."""
    install_crds(plane)
    async with AsyncExitStack() as stack:
        made = []
        for number in range(2):
            link = await stack.enter_async_context(ByteProxy(plane.host, PORT))
            kubeconfig = plane.user(f"replica-{number}", ADMINS, server=link.url)
            replica = stack.enter_context(Replica(plane, folder, kubeconfig=str(kubeconfig)))
            made.append(Linked(replica, link))
            await replica.ready(120.0)
        await eventually(lambda: _one_leads(made))
        if not await made[0].replica.metric("leader"):
            made.reverse()
        await eventually(lambda: _knows(plane, *made))
        yield made


async def _one_leads(found: list[Linked]) -> bool:
    return sorted([await each.replica.metric("leader") for each in found]) == [0.0, 1.0]


async def _knows(plane: ControlPlane, one: Linked, other: Linked) -> bool:
    """Tell whether one has heard of the other, by asking it as a replica would."""
    secret = plane.get("/api/v1/namespaces/default/secrets/smi-adapter-ca")["data"]
    pem = b"\n".join(base64.b64decode(secret[name]) for name in ("tls.key", "tls.crt"))
    key = Authority.from_pem(pem).shared_key("replicas")
    body = json.dumps({"name": "test", "address": ""}).encode()
    url = f"http://{one.replica.host}:8080{PATH}"
    headers = {SIGNATURE: signature(key, body)}
    async with aiohttp.ClientSession() as session, session.post(url, data=body, headers=headers) as answer:
        assert answer.status == 200
        return f"http://{other.replica.host}:8080" in (await answer.json(content_type=None))["others"]


@pytest.mark.parametrize("role", ["leader", "follower"])
async def test_f11_a_replica_without_its_link_is_unready_while_the_other_has_one(
    api_server: ControlPlane, namespace: str, tmp_path: Path, role: str
) -> None:
    async with pair(api_server, tmp_path) as found:
        stale, fresh = found if role == "leader" else reversed(found)
        mesh = Mesh(api_server, namespace, tmp_path)
        mesh.account("web")
        mesh.pod("web-0", "web")
        mesh.pod("shop-v1", meshed=False)
        mesh.service("shop", "shop-v1")
        where = servers(bundle(api_server), stale.replica.host)
        async with http_app("v1", mesh.addresses["shop-v1"], 8080):
            with mesh.envoy("web-0", mesh.token("web", "web-0"), where, "shop") as proxy:
                await proxy.until("shop", "v1", 60.0)
                await stale.link.set(Hang())

                async def steps_back() -> bool:
                    assert (await fresh.says())[0] == 200
                    return (await stale.says())[0] == 503

                await eventually(steps_back)
                _, why = await stale.says()
                assert "the API server does not answer" in why
                assert f"the replica at http://{fresh.replica.host}:8080 is in touch" in why
                assert await stale.replica.metric(IN_SYNC) == 1, "who streams from it stays"
                assert (await proxy.get("shop")).app == "v1"
                await stale.link.set(PASS)
                await eventually(lambda: _says_ok(stale))


async def _says_ok(one: Linked) -> bool:
    return await one.says() == (200, "ok\n")


async def test_f02_replicas_that_have_all_lost_their_links_stay_ready(api_server: ControlPlane, tmp_path: Path) -> None:
    async with pair(api_server, tmp_path) as found:
        for each in found:
            await each.link.set(Hang())

        async def all_are_degraded() -> bool:
            said = [await each.says() for each in found]
            assert 200 in {status for status, _ in said}, "one may notice later, but somebody serves"
            return all(status == 200 and text.startswith("degraded:") for status, text in said)

        await eventually(all_are_degraded)
        for each in found:
            await each.link.set(PASS)
        for each in found:
            await eventually(lambda each=each: _says_ok(each))  # type: ignore[misc]
