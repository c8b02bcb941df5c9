"""Replicas as processes, real Envoys with tokens: who serves whom when one freezes, is killed or is told to go."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from smi_adapter.backends.envoy.bootstrap import ControlPlane as XdsServers
from tests.cluster.control_plane import ControlPlane
from tests.cluster.mesh import Mesh, Proxy, Replica, install_crds, servers
from tests.live.apps import http_app

pytestmark = pytest.mark.live

PROXIES = 3
PATIENCE = 90.0
IN_SYNC = 'proxies{state="in_sync"}'


@pytest.fixture
def mesh(api_server: ControlPlane, namespace: str, tmp_path: Path) -> Mesh:
    """Return a namespace with several proxied clients of one plain Service."""
    install_crds(api_server)
    made = Mesh(api_server, namespace, tmp_path)
    made.account("web")
    for number in range(PROXIES):
        made.pod(f"web-{number}", "web", {"app": "web"})
    for version in ("v1", "v2"):
        made.pod(f"shop-{version}", "default", {"version": version}, meshed=False)
        made.service(f"shop-{version}", f"shop-{version}", selector={"version": version})
    made.service("shop", "shop-v1", "shop-v2", selector={"app": "shop"})
    made.split("shop", {"shop-v1": 1, "shop-v2": 0})
    return made


@pytest.fixture
async def apps(mesh: Mesh) -> AsyncIterator[None]:
    """Serve the two versions."""
    async with http_app("v1", mesh.addresses["shop-v1"], 8080), http_app("v2", mesh.addresses["shop-v2"], 8080):
        yield


def bundle(plane: ControlPlane) -> bytes:
    secret = plane.get("/api/v1/namespaces/default/secrets/smi-adapter-ca")
    return base64.b64decode(secret["data"]["tls.crt"])


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Poll until something is true; how soon it is, is measured elsewhere, on a machine that does nothing else."""
    deadline = time.monotonic() + PATIENCE
    while not await condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE:.0f} s in vain"
        await asyncio.sleep(0.1)


async def proxies(stack: AsyncExitStack, mesh: Mesh, where: XdsServers) -> list[Proxy]:
    """Start all clients' proxies."""
    found = []
    for number in range(PROXIES):
        pod = f"web-{number}"
        proxy = stack.enter_context(mesh.envoy(pod, mesh.token("web", pod), where, "shop"))
        found.append(proxy)
    for proxy in found:
        await proxy.envoy.ready(90.0)
        await proxy.until("shop", "v1")
    return found


async def connected(replica: Replica) -> int:
    count = await replica.metric(IN_SYNC)
    return 0 if count != count else int(count)  # noqa: PLR0124 - NaN


async def test_f14_of_two_replicas_one_is_frozen_and_every_proxy_is_on_the_other(
    mesh: Mesh, apps: None, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        replicas = [stack.enter_context(Replica(mesh.plane, tmp_path)) for _ in range(2)]
        for replica in replicas:
            await replica.ready()
        found = await proxies(stack, mesh, servers(bundle(mesh.plane), *(each.host for each in replicas)))
        counts = [await connected(replica) for replica in replicas]
        assert sum(counts) == PROXIES
        frozen, other = replicas if counts[0] else reversed(replicas)
        frozen.process.freeze()
        try:
            await eventually(lambda: _is(connected(other), PROXIES))
            await mesh.patch_split("shop", {"shop-v1": 0, "shop-v2": 1})
            for proxy in found:
                await proxy.until("shop", "v2")
        finally:
            frozen.process.thaw()


async def _is(found: Awaitable[int], wanted: int) -> bool:
    return await found == wanted


async def test_f39_sigterm_moves_every_proxy_and_fails_no_request(mesh: Mesh, apps: None, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        replicas = [stack.enter_context(Replica(mesh.plane, tmp_path)) for _ in range(2)]
        for replica in replicas:
            await replica.ready()
        found = await proxies(stack, mesh, servers(bundle(mesh.plane), *(each.host for each in replicas)))
        counts = [await connected(replica) for replica in replicas]
        going, other = replicas if counts[0] else reversed(replicas)
        going_down = asyncio.create_task(asyncio.to_thread(going.process.stop))
        while not going_down.done():
            for proxy in found:
                assert (await proxy.get("shop")).app == "v1"
        assert await going_down == 0, "it had to be killed, or failed"
        assert "Traceback" not in going.process.log()
        await eventually(lambda: _is(connected(other), PROXIES))


async def test_a_rotated_token_is_the_one_that_the_next_stream_shows(mesh: Mesh, apps: None, tmp_path: Path) -> None:
    """The kubelet swaps the token; the old one ends with its pod's former ServiceAccount token generation."""
    async with AsyncExitStack() as stack:
        first = stack.enter_context(Replica(mesh.plane, tmp_path))
        await first.ready()
        where = servers(bundle(mesh.plane), first.host)
        proxy = stack.enter_context(mesh.envoy("web-0", mesh.token("web", "web-0", audience="other"), where, "shop"))
        assert await _stays(lambda: _is(connected(first), 0), 3.0), "a token for somebody else lets nobody in"
        proxy.token.write(mesh.token("web", "web-0"))
        await proxy.until("shop", "v1")
        proxy.token.write("no token at all")
        await asyncio.sleep(1.0)
        assert await connected(first) == 1, "the stream that is there goes on"
        first.process.stop(kill=True)
        first.process.start()
        await first.ready()
        assert await _stays(lambda: _is(connected(first), 0), 6.0), "the next one shows the new token"
        assert (await proxy.get("shop")).app == "v1", "traffic needs no controller"
        proxy.token.write(mesh.token("web", "web-0"))
        await eventually(lambda: _is(connected(first), 1))


async def _stays(condition: Callable[[], Awaitable[bool]], seconds: float) -> bool:
    """Tell whether something stays true for a while."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not await condition():
            return False
        await asyncio.sleep(0.1)
    return True
