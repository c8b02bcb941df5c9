"""The controller on a real API server, with real Envoys that show ServiceAccount tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.cluster.mesh import Mesh, controller, install_crds, ready, servers, settings
from tests.live.apps import http_app

pytestmark = pytest.mark.live


@pytest.fixture
def mesh(api_server: ControlPlane, namespace: str, tmp_path: Path) -> Mesh:
    """Return a namespace with a proxied client and two plain versions of one Service."""
    install_crds(api_server)
    made = Mesh(api_server, namespace, tmp_path)
    made.account("web")
    made.pod("web-1", "web", {"app": "web"})
    for version in ("v1", "v2"):
        made.pod(f"shop-{version}", "default", {"app": "shop", "version": version}, meshed=False)
        made.service(f"shop-{version}", f"shop-{version}", selector={"app": "shop", "version": version})
    made.service("shop", "shop-v1", "shop-v2", selector={"app": "shop"})
    return made


@pytest.fixture
async def apps(mesh: Mesh) -> AsyncIterator[None]:
    """Serve the two versions."""
    async with http_app("v1", mesh.addresses["shop-v1"], 8080), http_app("v2", mesh.addresses["shop-v2"], 8080):
        yield


async def test_a_patched_weight_shows_in_the_traffic_of_a_proxy_with_a_token(mesh: Mesh, apps: None) -> None:
    chosen = settings(mesh.plane)
    mesh.split("shop", {"shop-v1": 100, "shop-v2": 0})
    async with controller(mesh.plane, chosen) as (running, _):
        await ready(running)
        where = servers(running.bundle, chosen.xds_address.rpartition(":")[0])
        with mesh.envoy("web-1", mesh.token("web", "web-1"), where, "shop") as proxy:
            await proxy.envoy.ready()
            await proxy.until("shop", "v1")
            await mesh.patch_split("shop", {"shop-v1": 0, "shop-v2": 1})
            await proxy.until("shop", "v2")
            [status] = running.server.proxies()
            assert status.workload == (mesh.namespace, "web-1")
            assert status.identity == f"spiffe://cluster.local/ns/{mesh.namespace}/sa/web"
