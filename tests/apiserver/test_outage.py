"""F2 as a whole: the API server is gone for long, and replicas, proxies and traffic go on with what they last knew."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.apiserver.test_replicas import bundle, connected, eventually
from tests.cluster.control_plane import ControlPlane
from tests.cluster.mesh import Mesh, Proxy, Replica, install_crds, servers
from tests.cluster.stand import shop
from tests.live.apps import http_app

pytestmark = [pytest.mark.live, pytest.mark.slow]

OUTAGE = float(os.environ.get("SMI_OUTAGE_SECONDS", "30"))
"""Fifteen minutes is the row; what is here by default is longer than a Lease."""
REQUESTS_PER_SECOND = 50


async def test_f02_without_the_api_server_replicas_serve_the_last_good_configuration(
    own_api_server: ControlPlane, tmp_path: Path
) -> None:
    plane = own_api_server
    install_crds(plane)
    mesh = Mesh(plane, plane.new_namespace(), tmp_path)
    shop(mesh)
    for name in ("web-2", "web-3"):
        mesh.pod(name, "web", {"app": "web"})
    async with AsyncExitStack() as stack:
        for version in ("v1", "v2"):
            await stack.enter_async_context(http_app(version, mesh.addresses[f"shop-{version}"], 8080))
        replicas = [stack.enter_context(Replica(plane, tmp_path)) for _ in range(2)]
        for replica in replicas:
            await replica.ready()
        roots = bundle(plane)
        where = servers(roots, *(each.host for each in replicas))
        tokens = {name: mesh.token("web", name) for name in ("web-1", "web-2", "web-3")}
        proxy = stack.enter_context(mesh.envoy("web-1", tokens["web-1"], where, "shop"))
        await proxy.until("shop", "v1")
        before = [memory(each) for each in replicas]
        plane.stop(kill=True)
        with mesh.envoy("web-2", tokens["web-2"], where, "shop") as early:
            await early.until("shop", "v1")
            await eventually(lambda: all_degraded(replicas))
            asked = await asks(proxy, replicas, OUTAGE)
            assert (await early.get("shop")).app == "v1"
        print(  # noqa: T201
            f"{OUTAGE:.0f} s without the API server: {asked} requests, none failed; "
            f"MB of the replicas {before} -> {[memory(each) for each in replicas]}"
        )
        assert min([await each.metric("cache_age_seconds") for each in replicas]) > OUTAGE - 5
        for name, replica in zip(("web-2", "web-3"), replicas, strict=True):  # one that was there before, and a new one
            alone = servers(roots, replica.host)
            again = stack.enter_context(mesh.envoy(name, tokens[name], alone, "shop"))
            await again.until("shop", "v1")
        plane.start()
        for replica in replicas:
            await eventually(lambda replica=replica: says(replica, "ok\n"))  # type: ignore[misc]
        assert sum([await connected(each) for each in replicas]) == 3
        assert all(each.process.is_running() for each in replicas), "nobody had to start anew"
        await eventually(lambda: one_leads(replicas))
        await mesh.patch_split("shop", {"shop-v1": 0, "shop-v2": 1})
        await proxy.until("shop", "v2")


async def asks(proxy: Proxy, replicas: Sequence[Replica], seconds: float) -> int:
    """Send requests for a while, each of which is answered, and see that no replica gives up; return their number."""
    ends, asked = time.monotonic() + seconds, 0
    while time.monotonic() < ends:
        for _ in range(REQUESTS_PER_SECOND):
            reply = await proxy.get("shop")
            assert (reply.status, reply.app) == (200, "v1"), reply
            asked += 1
            await asyncio.sleep(1 / REQUESTS_PER_SECOND)
        assert await all_degraded(replicas)
    return asked


async def all_degraded(replicas: Sequence[Replica]) -> bool:
    """Tell whether all say that they know nothing new; they are to be ready all the while."""
    said = [await each.ask("/readyz") for each in replicas]
    assert {status for status, _ in said} == {200}, said
    return all(text.startswith("degraded:") for _, text in said)


async def says(replica: Replica, text: str) -> bool:
    return await replica.ask("/readyz") == (200, text)


async def one_leads(replicas: Sequence[Replica]) -> bool:
    return sum([await each.metric("leader") for each in replicas]) == 1


def memory(replica: Replica) -> int:
    """Return the resident memory of a replica in MB."""
    pages = Path(f"/proc/{replica.process.pid}/statm").read_text("ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE") // 1_000_000
