"""Status where the controller is composed: proxies on two replicas, and a backend whose objects go to the API."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.apiserver.test_apply import ROUTES
from tests.apiserver.test_replicas import bundle
from tests.apiserver.told_cluster import until
from tests.cluster.control_plane import ControlPlane, RequestError
from tests.cluster.mesh import Mesh, Replica, controller, install_crds, ready, servers, settings

pytestmark = pytest.mark.live


@pytest.fixture
def mesh(api_server: ControlPlane, namespace: str, tmp_path: Path) -> Mesh:
    """Return a namespace with two proxied clients of one plain Service."""
    install_crds(api_server)
    made = Mesh(api_server, namespace, tmp_path)
    made.account("web")
    for number in range(2):
        made.pod(f"web-{number}", "web", {"app": "web"})
    for version in ("v1", "v2"):
        made.pod(f"shop-{version}", "default", {"version": version}, meshed=False)
        made.service(f"shop-{version}", f"shop-{version}", selector={"version": version})
    made.service("shop", "shop-v1", "shop-v2", selector={"app": "shop"})
    made.split("shop", {"shop-v1": 1, "shop-v2": 0})
    return made


def programmed(mesh: Mesh, generation: int) -> str:
    """Return the reason of `Programmed`, once it speaks of a generation."""
    status = mesh.plane.get(f"/apis/split.smi-spec.io/v1alpha4/namespaces/{mesh.namespace}/trafficsplits/shop")[
        "status"
    ]
    found = {item["type"]: item for item in status.get("conditions", ())}.get("Programmed", {})
    return str(found.get("reason")) if found.get("observedGeneration") == generation else ""


def is_programmed(mesh: Mesh, generation: int, reason: str) -> bool:
    try:
        return programmed(mesh, generation) == reason
    except (KeyError, RequestError):
        return False


async def test_programmed_waits_for_the_proxies_of_the_replica_that_does_not_write(mesh: Mesh, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        replicas = [stack.enter_context(Replica(mesh.plane, tmp_path)) for _ in range(2)]
        for replica in replicas:
            await replica.ready()
        found = []
        for number, replica in enumerate(replicas):  # a proxy on each
            where = servers(bundle(mesh.plane), replica.host)
            pod = f"web-{number}"
            found.append(stack.enter_context(mesh.envoy(pod, mesh.token("web", pod), where, "shop")))
        for proxy in found:
            await proxy.envoy.ready(90.0)
        await until(partial(is_programmed, mesh, 1, "Programmed"), 120)
        for number, proxy in enumerate(found):
            os.kill(proxy.envoy.process.pid, signal.SIGSTOP)
            try:
                await mesh.patch_split("shop", {"shop-v1": number, "shop-v2": number + 1})
                await until(partial(is_programmed, mesh, number + 2, "WaitingForProxies"), 120)
            finally:
                os.kill(proxy.envoy.process.pid, signal.SIGCONT)
            await until(partial(is_programmed, mesh, number + 2, "Programmed"), 120)


async def test_a_backend_of_manifests_is_programmed_when_they_lie_in_the_api(mesh: Mesh) -> None:
    mesh.plane.apply(ROUTES)
    chosen = settings(mesh.plane, backend="gateway_api", namespaces=(mesh.namespace,))
    path = f"/apis/gateway.networking.k8s.io/v1/namespaces/{mesh.namespace}/httproutes"
    async with controller(mesh.plane, chosen) as (running, _):
        await ready(running)
        await until(partial(is_programmed, mesh, 1, "Programmed"), 120)
        routes = await asyncio.to_thread(mesh.plane.get, path)
        [route] = routes["items"]
        assert route["metadata"]["name"].startswith("smi.shop.")
        mesh.plane.kubectl("delete", "trafficsplit", "shop", "-n", mesh.namespace)
        await until(lambda: mesh.plane.get(path)["items"] == [], 120)
