"""A mesh on a real API server: its objects, projected tokens as a kubelet writes them, and real Envoys that use them.

There is no kubelet: pods are objects whose status is written here, and what runs "in" them are processes of the test at
the pods' addresses. Nothing redirects traffic either, so a proxy has one Listener of the test beside those that it
gets; that one takes its routes from the controller.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import math
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from smi_adapter import crds
from smi_adapter.backends.envoy.bootstrap import ControlPlane as XdsServers
from smi_adapter.backends.envoy.bootstrap import Local, ServiceAccountToken, bootstrap, token_file
from smi_adapter.cluster.client import Client
from smi_adapter.cluster.source import ClusterSource
from smi_adapter.controller import Controller, Ports
from smi_adapter.settings import Settings, judged
from tests.cluster.control_plane import ControlPlane
from tests.cluster.program import Program
from tests.live.apps import Reply, get
from tests.live.envoys import EnvoyProcess

AUDIENCE: Final = "smi-adapter"
SERVER_NAME: Final = "smi-adapter-xds.default.svc"
_ADS: Final = {"ads": {}, "resource_api_version": "V3"}
_HTTP: Final = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER: Final = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
_INSTALLED: Final[set[str]] = set()
_READY: Final = {"type": "Ready", "status": "True"}


class ProjectedToken:
    """A token file as the kubelet projects it: a symlink through `..data`, which is swapped in one step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "token"
        self._generations = itertools.count(1)
        folder.mkdir(parents=True)

    def write(self, token: str) -> None:
        """Project a new token."""
        fresh = self.folder / f"..2026_01_01_{next(self._generations)}"
        fresh.mkdir()
        (fresh / "token").write_text(token)
        swapped = self.folder / "..data_tmp"
        swapped.symlink_to(fresh.name)
        swapped.rename(self.folder / "..data")
        if not self.path.is_symlink():
            self.path.symlink_to("..data/token")


@dataclass
class Mesh:
    """One namespace of a real API server as the objects of a mesh."""

    plane: ControlPlane
    namespace: str
    folder: Path
    addresses: dict[str, str] = field(default_factory=dict)

    # ---------------------------------------------------------------------------------------------------- objects

    def account(self, name: str) -> None:
        """Create a ServiceAccount."""
        self._create("serviceaccounts", {"metadata": {"name": name}})

    def pod(
        self, name: str, account: str = "default", labels: Mapping[str, str] | None = None, *, meshed: bool = True
    ) -> str:
        """Create a running Pod with an address of its own; return the address."""
        address = self.addresses.get(name) or self.plane.addresses.next()
        self.addresses[name] = address
        annotations = {} if meshed else {"smi-adapter.io/inject": "false"}
        container = {"name": "app", "image": "none", "ports": [{"containerPort": 8080, "name": "http"}]}
        self._create(
            "pods",
            {
                "metadata": {"name": name, "labels": dict(labels or {}), "annotations": annotations},
                "spec": {"serviceAccountName": account, "containers": [container]},
            },
        )
        status = {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": [_READY],
        }
        self.plane.patch_status(self.path("pods", name), status)
        return address

    def service(self, name: str, *pods: str, selector: Mapping[str, str] | None = None) -> None:
        """Create a Service of port 80 and the EndpointSlice that leads to port 8080 of these pods."""
        port = {"name": "http", "port": 80, "targetPort": 8080}
        self._create(
            "services", {"metadata": {"name": name}, "spec": {"selector": dict(selector or {}), "ports": [port]}}
        )
        endpoints = [
            {
                "addresses": [self.addresses[pod]],
                "conditions": {"ready": True},
                "targetRef": {"kind": "Pod", "name": pod, "namespace": self.namespace},
            }
            for pod in pods
        ]
        self.plane.request(
            "POST",
            f"/apis/discovery.k8s.io/v1/namespaces/{self.namespace}/endpointslices",
            {
                "metadata": {"name": f"{name}-1", "labels": {"kubernetes.io/service-name": name}},
                "addressType": "IPv4",
                "endpoints": endpoints,
                "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            },
        )

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Apply objects to the namespace with kubectl."""
        self.plane.apply(*({**item, "metadata": {**item["metadata"], "namespace": self.namespace}} for item in objects))

    def split(self, name: str, weights: Mapping[str, int]) -> None:
        """Apply a TrafficSplit of the Service of that name."""
        self.apply(
            {
                "apiVersion": "split.smi-spec.io/v1alpha4",
                "kind": "TrafficSplit",
                "metadata": {"name": name},
                "spec": {"service": name, "backends": _backends(weights)},
            }
        )

    async def patch_split(self, name: str, weights: Mapping[str, int]) -> None:
        """Change the weights of a TrafficSplit with kubectl."""
        patch = json.dumps({"spec": {"backends": _backends(weights)}})
        arguments = ("patch", "trafficsplit", name, "-n", self.namespace, "--type=merge", "-p", patch)
        await asyncio.to_thread(self.plane.kubectl, *arguments)

    def token(self, account: str, pod: str = "", audience: str = AUDIENCE) -> str:
        """Return a token of a ServiceAccount, bound to a pod if one is named."""
        return self.plane.service_account_token(self.namespace, account, audience, pod)

    def path(self, plural: str, name: str = "") -> str:
        """Return the path of a core object, or of all."""
        return "/".join(filter(None, ["/api/v1/namespaces", self.namespace, plural, name]))

    def _create(self, plural: str, body: Mapping[str, Any]) -> None:
        self.plane.request("POST", self.path(plural), body)

    # ---------------------------------------------------------------------------------------------------- proxies

    @contextlib.contextmanager
    def envoy(self, pod: str, token: str, servers: XdsServers, *roots: str) -> Any:
        """Start the proxy of a pod with a projected token; `roots`: the Services whose routes the test wants to use."""
        home = self.folder / f"{self.namespace}-{pod}-{len(list(self.folder.iterdir()))}"
        projected = ProjectedToken(home / "token")
        projected.write(token)
        sds = home / "token.json"
        sds.write_text(json.dumps(token_file(str(projected.path))))
        credential = ServiceAccountToken(str(sds), str(projected.folder))
        address = self.addresses[pod]
        made = bootstrap((self.namespace, pod), servers, credential, Local(source_address=address))
        ports = dict(zip(roots, range(7001, 7100), strict=False))
        listeners = [_listener(f"{self.namespace}/{root}/80", address, port) for root, port in ports.items()]
        made["static_resources"]["listeners"] += listeners
        with EnvoyProcess.start(made, home / "envoy", flags=("--reject-unknown-dynamic-fields",)) as envoy:
            yield Proxy(envoy, projected, address, ports)


@dataclass
class Proxy:
    """A running Envoy and its token."""

    envoy: EnvoyProcess
    token: ProjectedToken
    address: str
    ports: Mapping[str, int]

    async def get(self, root: str, path: str = "/") -> Reply:
        """Ask a Service through the proxy."""
        return await get(self.address, self.ports[root], path)

    async def until(self, root: str, app: str, seconds: float = 90.0) -> None:
        """Wait until a Service answers by that application, five times in a row."""
        async with asyncio.timeout(seconds):
            hits = 0
            while hits < 5:
                try:
                    reply = await self.get(root)
                except OSError:
                    hits = 0
                else:
                    hits = hits + 1 if reply.app == app else 0
                await asyncio.sleep(0.005)


def install_crds(plane: ControlPlane) -> None:
    """Apply our CRDs, once for each API server."""
    if plane.url not in _INSTALLED:
        plane.apply(*crds.definitions())
        _INSTALLED.add(plane.url)


def settings(plane: ControlPlane, **more: Any) -> Settings:
    """Return settings of a controller whose ports are free ones at an address of the cluster."""
    host = plane.addresses.next()
    given = {"xds_address": f"{host}:18000", "health_address": f"{host}:8080", "authority_secret": "smi-adapter-ca"}
    return judged({**given, **more})


class Replica:
    """A controller as a process of its own."""

    def __init__(self, plane: ControlPlane, folder: Path, **flags: str) -> None:
        self.host = plane.addresses.next()
        given = {
            "kubeconfig": str(plane.kubeconfig),
            "xds-address": f"{self.host}:18000",
            "health-address": f"{self.host}:8080",
            **flags,
        }
        arguments = [f"--{name}={value}" for name, value in given.items()]
        program = "from smi_adapter.cli import entry; entry()"
        self.process = Program(f"replica-{self.host}", [sys.executable, "-c", program, "run", *arguments], folder)

    def __enter__(self) -> Self:
        self.process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stop(kill=True)

    async def ask(self, path: str) -> tuple[int, str]:
        """Return what its health port answers; 0 if nothing."""
        try:
            reply = await asyncio.wait_for(get(self.host, 8080, path), 5)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            return 0, ""
        return reply.status, reply.body.decode()

    async def ready(self, seconds: float = 90.0) -> None:
        """Wait until it says that it is ready."""
        deadline = time.monotonic() + seconds
        while (await self.ask("/readyz"))[0] != 200:
            self.process.check()
            assert time.monotonic() < deadline, self.process.tail()
            await asyncio.sleep(0.05)

    async def metric(self, name: str) -> float:
        """Return the value of a metric, `smi_adapter_` left out; NaN if it is not there."""
        _, text = await self.ask("/metrics")
        for line in text.splitlines():
            if line.startswith(f"smi_adapter_{name} "):
                return float(line.rpartition(" ")[2])
        return math.nan


@contextlib.asynccontextmanager
async def controller(plane: ControlPlane, chosen: Settings) -> AsyncIterator[tuple[Controller, Ports]]:
    """Run a controller in this process."""
    client = await Client.connect(str(plane.kubeconfig))
    source = ClusterSource(client, namespaces=chosen.namespaces, selector=chosen.namespace_selector)
    running = Controller(chosen, client, source)
    try:
        async with running.running() as ports:
            yield running, ports
    finally:
        await client.close()


async def until(condition: Callable[[], object], seconds: float = 90.0) -> None:
    """Poll a condition until it is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain"
        await asyncio.sleep(0.02)


async def ready(controller: Controller, seconds: float = 90.0) -> None:
    """Wait until the first full build is in force."""
    await until(lambda: controller.health().ready, seconds)


def servers(bundle: bytes, *hosts: str) -> XdsServers:
    """Return where proxies connect: one address for each replica."""
    return XdsServers(hosts[0], 18000, SERVER_NAME, bundle.decode(), others=hosts[1:])


def _backends(weights: Mapping[str, int]) -> list[dict[str, Any]]:
    return [{"service": service, "weight": weight} for service, weight in weights.items()]


def _listener(routes: str, address: str, port: int) -> dict[str, Any]:
    manager = {
        "@type": _HTTP,
        "stat_prefix": "test",
        "rds": {"config_source": _ADS, "route_config_name": f"out/{routes}"},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": _ROUTER}}],
    }
    hcm = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    where = {"socket_address": {"address": address, "port_value": port}}
    return {"name": f"test/{routes}", "address": where, "filter_chains": [{"filters": [hcm]}]}
