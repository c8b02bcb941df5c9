"""The real Flagger drives our TrafficSplits on the real API server while a real Envoy carries traffic.

For each provider of Flagger that writes SMI: a whole canary, step by step. The pods of the Deployments are echo servers
at the pods' addresses, Deployments and EndpointSlices are kube-controller-manager's, the proxy is a real client's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from smi_adapter import crds
from tests import tools
from tests.cluster.control_plane import ControlPlane
from tests.cluster.flagger import Flagger, canary
from tests.cluster.kubelet import Kubelet
from tests.cluster.mesh import Mesh, Proxy, controller, ready, servers, settings, until
from tests.live.apps import http_app

pytestmark = [
    pytest.mark.slow,
    pytest.mark.live,
    pytest.mark.skipif(not tools.is_there("flagger"), reason="Flagger is not built: make tools ARGS=flagger"),
]

# Provider -> the version of split.smi-spec.io that it writes.
PROVIDERS = {
    "smi:v1alpha1": "v1alpha1",
    "smi:v1alpha2": "v1alpha2",
    "smi:v1alpha3": "v1alpha3",
    "linkerd": "v1alpha1",
    "osm": "v1alpha2",
}
APP = "shop"


@pytest.fixture(scope="module")
def flagger(api_server_with_controllers: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flagger]:
    api_server_with_controllers.apply(*crds.definitions())
    with Flagger(api_server_with_controllers, tmp_path_factory.mktemp("flagger")) as started:
        yield started


def deployment(namespace: str, version: str) -> dict[str, Any]:
    ports = [{"name": "http", "containerPort": 8080}]
    template = {
        "metadata": {"labels": {"app": APP}, "annotations": {"smi-adapter.io/inject": "false"}},
        "spec": {"containers": [{"name": "web", "image": f"{APP}:{version}", "ports": ports}]},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": APP, "namespace": namespace},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": APP}}, "template": template},
    }


class Traffic:
    """Requests of a client, one after the other, with who answered each."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.answers: list[str] = []

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._flow())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _flow(self) -> None:
        while True:
            reply = await self.proxy.get(APP)
            self.answers.append(reply.app or f"status {reply.status}")
            await asyncio.sleep(0.01)

    async def settles_on(self, *applications: str) -> None:
        """Wait until these and no others answered the last 30 requests."""
        start = len(self.answers)
        await until(lambda: len(self.answers) >= start + 30 and set(self.answers[-30:]) == set(applications))


def serve(running: AsyncExitStack) -> Callable[[Mapping[str, Any], str], None]:
    """Return what runs a pod: an echo whose name says whether it is of the primary, and which version."""
    loop = asyncio.get_running_loop()

    def start(pod: Mapping[str, Any], address: str) -> None:
        role = "primary" if pod["metadata"]["name"].startswith(f"{APP}-primary-") else "canary"
        version = pod["spec"]["containers"][0]["image"].partition(":")[2]
        app = running.enter_async_context(http_app(f"{role} {version}", address, 8080))
        asyncio.run_coroutine_threadsafe(app, loop).result(20)

    return start


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_whole_canary_moves_the_traffic(flagger: Flagger, provider: str, tmp_path: Path) -> None:
    plane, version = flagger.plane, PROVIDERS[provider]
    namespace = await asyncio.to_thread(plane.new_namespace, f"flagger-{provider.replace(':', '-')}")
    path = f"/apis/split.smi-spec.io/{version}/namespaces/{namespace}/trafficsplits"
    start = plane.get(path)["metadata"]["resourceVersion"]
    mesh = Mesh(plane, namespace, tmp_path)
    mesh.account("web")
    mesh.pod("web-1", "web", {"app": "web"})
    chosen = settings(plane)
    async with AsyncExitStack() as running:
        settle = partial(Kubelet(plane, serve(running)).settle, namespace)

        async def advance(**goal: object) -> None:
            await asyncio.to_thread(flagger.advance, namespace, APP, goal, settle)

        await asyncio.to_thread(plane.apply, deployment(namespace, "1"))
        await asyncio.to_thread(settle)
        await asyncio.to_thread(plane.apply, _in(namespace, canary(APP, provider, 80, 8080)))
        await advance(phase="Initialized")
        controlling, _ = await running.enter_async_context(controller(plane, chosen))
        await ready(controlling)
        where = servers(controlling.bundle, chosen.xds_address.rpartition(":")[0])
        proxy = running.enter_context(mesh.envoy("web-1", mesh.token("web", "web-1"), where, APP))
        await proxy.envoy.ready()
        await proxy.until(APP, "primary 1")
        traffic = Traffic(proxy)
        async with traffic.flowing():
            await asyncio.to_thread(plane.apply, deployment(namespace, "2"))
            await traffic.settles_on("primary 1")
            await advance(phase="Progressing", canaryWeight=50)
            await traffic.settles_on("primary 1", "canary 2")
            await advance(phase="Progressing", canaryWeight=100)
            await traffic.settles_on("canary 2")
            await advance(phase="Succeeded")
            await traffic.settles_on("primary 2")
        assert set(traffic.answers) == {"primary 1", "canary 2", "primary 2"}  # no request failed on the way

    owner = plane.get(f"{path}/{APP}")["metadata"]["ownerReferences"][0]
    assert owner["kind"] == "Canary"
    assert history(plane, path, start) == [
        _written(version, {f"{APP}-canary": new, f"{APP}-primary": old})
        for new, old in ((0, 100), (50, 50), (100, 0), (0, 100))
    ]


def history(plane: ControlPlane, path: str, since: str) -> list[dict[str, Any]]:
    """Return the specs that the split had, one after the other."""
    specs: list[dict[str, Any]] = []
    for event in plane.watched(path, since):
        spec = event["object"]["spec"]
        if not specs or specs[-1] != spec:
            specs.append(spec)
    return specs


def _written(version: str, weights: Mapping[str, int]) -> dict[str, Any]:
    quantity = str if version == "v1alpha1" else int
    backends = [{"service": name, "weight": quantity(weight)} for name, weight in weights.items()]
    return {"service": APP, "backends": backends}


def _in(namespace: str, item: dict[str, Any]) -> dict[str, Any]:
    return {**item, "metadata": {**item["metadata"], "namespace": namespace}}
