"""The Kubernetes harness of the conformance suite on a real API server: objects, exec and logs, and what it leaves.

Deployments and namespaces are those of kube-controller-manager. A node's kubelet is played by a server here: the real
API server hands exec and logs over to it, and behind it is the suite's real `echo.py`, at the pod's own address.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from smi_conformance import echo, kubernetes
from smi_conformance.kubernetes import KubernetesHarness
from smi_conformance.protocol import App, Batch, HarnessError, Port, Req
from smi_conformance.target import load
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubelet import NODE, Kubelet
from tests.cluster.mesh import install_crds
from tests.cluster.pki import Authority

pytestmark = pytest.mark.live

TARGET: dict[str, Any] = {
    "implementation": {
        "organization": "acme",
        "project": "plain",
        "url": "https://acme.example",
        "version": "v1",
        "contact": ["@acme"],
    },
    "mesh": {"namespaceLabels": {"mesh": "on"}, "podLabels": {"sidecar": "yes"}},
}
KUBELET_PORT = 10250
ECHO = str(Path(echo.__file__))
PROGRAM = Path(ECHO).read_text(encoding="utf-8")


class Node:
    """Runs the containers of pods as processes, and answers the API server as a kubelet does."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._servers: list[subprocess.Popen[bytes]] = []
        self._times: dict[str, list[str]] = {}
        self._addresses: dict[str, str] = {}
        self._rotated: dict[str, int] = {}

    def start(self, pod: Mapping[str, Any], address: str) -> None:
        """Run the container of a pod that has ports; what it prints is its log."""
        (container,) = pod["spec"]["containers"]
        self._addresses[pod["metadata"]["name"]] = address
        given = {item["name"]: item["value"] for item in container["env"] if "value" in item}
        if not json.loads(given["ECHO_PORTS"]):
            return
        name = pod["metadata"]["name"]
        known = {"ECHO_BIND": address, "ECHO_POD": name, "ECHO_NAMESPACE": pod["metadata"]["namespace"]}
        with (self._folder / name).open("wb") as log:
            command = [sys.executable, "-u", ECHO, "serve"]
            self._servers.append(subprocess.Popen(command, env={**os.environ, **given, **known}, stdout=log))

    async def logs(self, request: web.Request) -> web.Response:
        """Return the lines of a log since a second, each with the time at which it was read first."""
        name, query = request.match_info["pod"], request.query
        times = self._times.setdefault(name, [])
        lines = (self._folder / name).read_text().splitlines()
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
        times += [now] * (len(lines) - len(times))
        first = self._rotated.get(name, 0)
        found = [f"{time} {line}" for time, line in zip(times[first:], lines[first:], strict=True)]
        since = query.get("sinceTime", "")
        assert query.get("timestamps") == "true"
        return web.Response(text="".join(f"{line}\n" for line in found if line[: len(since) - 1] >= since[:-1]))

    def rotate(self, name: str) -> None:
        """Begin a new file of a pod's log; what was in the old one is no longer shown."""
        self._rotated[name] = len((self._folder / name).read_text().splitlines())

    async def exec(self, request: web.Request) -> web.WebSocketResponse:
        """Run the command with its streams on channels; only what a pod can run is run, and its loopback is its own."""
        loopback = f'"{self._addresses[request.match_info["pod"]]}"'.encode()
        socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
        await socket.prepare(request)
        command = request.query.getall("command")
        assert command == ["python", "-u", "/conformance/echo.py", "client"]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-u", ECHO, "client"), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdin is not None
        assert process.stdout is not None

        async def out(stream: asyncio.StreamReader) -> None:
            while data := await stream.read(4096):
                await socket.send_bytes(b"\x01" + data)

        task = asyncio.create_task(out(process.stdout))
        async for message in socket:
            process.stdin.write(message.data[1:].replace(b'"127.0.0.1"', loopback))
        process.kill()
        await process.wait()
        await task
        return socket

    @contextlib.asynccontextmanager
    async def serving(self, address: str) -> AsyncIterator[None]:
        """Listen where the API server expects a kubelet."""
        certificate, key = Authority("kubelet").server(address).write(self._folder, "kubelet")
        trust = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        trust.load_cert_chain(certificate, key)
        application = web.Application()
        application.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self.logs)
        application.router.add_get("/exec/{namespace}/{pod}/{container}", self.exec)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, address, KUBELET_PORT, ssl_context=trust).start()
        try:
            yield
        finally:
            for server in self._servers:
                server.kill()
                server.wait()
            await runner.cleanup()


def _harness(folder: Path, plane: ControlPlane) -> KubernetesHarness:
    (folder / "target.yaml").write_text(yaml.safe_dump(TARGET))
    return KubernetesHarness(load(folder / "target.yaml"), "", str(plane.kubeconfig))


def _is_there(plane: ControlPlane, namespace: str) -> bool:
    return namespace in {item["metadata"]["name"] for item in plane.get("/api/v1/namespaces")["items"]}


async def _settled(kubelet: Kubelet, namespace: str) -> None:
    """Be the kubelet for as long as it takes; a wait in a thread could not be cancelled."""
    while True:
        await asyncio.to_thread(kubelet.is_settled, namespace)
        await asyncio.sleep(0.1)


async def _logged(harness: KubernetesHarness, app: App) -> set[str]:
    """Have every pod make a mark and return those whose logs have it."""
    marks = await harness.mark(app, "mark")
    receipts = await harness.receipts(app)
    assert {item.token for item in receipts} == marks
    assert {item.app for item in receipts} == {app.name}
    return {item.pod for item in receipts}


async def _workloads(folder: Path, plane: ControlPlane) -> None:
    node = Node(folder)
    kubelet = Kubelet(plane, node.start)
    address = plane.addresses.next()
    ports = {"kubeletEndpoint": {"Port": KUBELET_PORT}}
    plane.patch_status(
        f"/api/v1/nodes/{NODE}",
        {"addresses": [{"type": "InternalIP", "address": address}], "daemonEndpoints": ports},
    )
    harness = _harness(folder, plane)
    async with node.serving(address):
        await harness.start()
        assert harness.environment["kubernetes"].startswith("v1.")
        await harness.namespace("cf-work", enforced=True)
        acting = asyncio.create_task(_settled(kubelet, "cf-work"))
        app, client = App("v1", "cf-work", "server", ports=(Port(8080),), replicas=2), App("client", "cf-work")
        pods, _ = await asyncio.gather(harness.deploy(app), harness.deploy(client))
        assert len({pod.address for pod in pods}) == 2
        assert await harness.ready(app)
        assert not await harness.ready(replace(app, replicas=3))
        req = Req(pod=pods[0].address, port=8080)
        replies = await harness.send(client, req, Batch(n=40), "tok")
        assert {(reply.app, reply.backend["pod"]) for reply in replies} == {("v1", pods[0].name)}
        receipts = await harness.receipts(app)
        assert {item.token for item in receipts} == {f"tok-{number}" for number in range(40)}
        assert {item.pod for item in receipts} == {pods[0].name}
        assert await harness.receipts(app) == []
        await harness.send(client, req, Batch(n=3), "more")
        assert {item.token for item in await harness.receipts(app)} == {f"more-{number}" for number in range(3)}
        assert await _logged(harness, app) == {pods[0].name, pods[1].name}
        node.rotate(pods[0].name)
        await harness.send(client, req, Batch(n=2), "late")
        with pytest.raises(HarnessError, match="was rotated"):
            await harness.receipts(app)
        await harness.send(client, req, Batch(n=1), "last")
        assert [item.token for item in await harness.receipts(app)] == ["last-0"]
        fewer = await harness.deploy(App("v1", "cf-work", "server", ports=(Port(8080),)))
        assert len(fewer) == 1
        await harness.undeploy(app)
        await harness.remove_namespace("cf-work")
        assert await harness.removed() == []
        assert not _is_there(plane, "cf-work")
        await harness.stop()
        acting.cancel()


async def _objects(folder: Path, plane: ControlPlane) -> None:
    harness = _harness(folder, plane)
    await harness.start()
    assert harness.served["split.smi-spec.io"] == ("v1alpha1", "v1alpha2", "v1alpha3", "v1alpha4")
    await harness.namespace("cf-objects", enforced=True)
    namespace = plane.get("/api/v1/namespaces/cf-objects")
    assert namespace["metadata"]["labels"]["mesh"] == "on"
    program = plane.get("/api/v1/namespaces/cf-objects/configmaps/conformance-echo")["data"]["echo.py"]
    assert program == PROGRAM
    metadata = {"name": "split", "namespace": "cf-objects"}
    split = {
        "apiVersion": "split.smi-spec.io/v1alpha4",
        "kind": "TrafficSplit",
        "metadata": metadata,
        "spec": {"service": "root", "backends": [{"service": "v1", "weight": 1}]},
    }
    assert [item.accepted for item in await harness.apply([split], dry_run=True)] == [True]
    assert await harness.get(split) is None
    assert [item.accepted for item in await harness.apply([split])] == [True]
    route = {"kind": "UDPRoute", "metadata": {"name": "u", "namespace": "cf-objects"}, "spec": {}}
    left_out = await harness.apply([{"apiVersion": "specs.smi-spec.io/v1alpha3", **route}])  # comes with v1alpha4
    assert [item.code for item in left_out] == [404]
    with pytest.raises(HarnessError, match='namespaces "nowhere" not found'):
        await harness.apply([{**split, "metadata": {"name": "split", "namespace": "nowhere"}}])
    other = await harness.get(split, "v1alpha2")
    assert other is not None
    assert other["apiVersion"] == "split.smi-spec.io/v1alpha2"
    moved = {**split, "spec": {"service": "root", "backends": [{"service": "v2", "weight": 3}]}}
    assert [item.accepted for item in await harness.apply([moved])] == [True]
    again = await harness.get(split)
    assert again is not None
    assert again["spec"] == moved["spec"]
    (refused,) = await harness.apply([{**split, "spec": {"service": "root", "backends": "none"}}])
    assert refused.code == 422
    assert "backends" in refused.message
    event = {
        "metadata": {"name": "about-it", "namespace": "cf-objects"},
        "involvedObject": {"kind": "TrafficSplit", "name": "split", "namespace": "cf-objects"},
        "reason": "PortMismatch",
        "message": "no port 80",
    }
    plane.request("POST", "/api/v1/namespaces/cf-objects/events", event)
    assert [item.reason for item in await harness.events(split)] == ["PortMismatch"]
    await harness.delete([split, split])
    assert await harness.get(split) is None
    await harness.remove_namespace("cf-objects")
    assert harness.remains([]) == ["namespace cf-objects, which is being deleted"]
    assert await harness.removed() == []
    assert not _is_there(plane, "cf-objects")
    await harness.stop()


async def _nothing_installed(folder: Path, plane: ControlPlane) -> None:
    harness = _harness(folder, plane)
    with pytest.raises(HarnessError, match="serves no SMI API group: are the CRDs installed"):
        await harness.start()
    await harness.stop()


def test_workloads_run_and_are_asked_through_the_api_server(
    tmp_path: Path, api_server_with_controllers: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version 5 of the exec protocol would be turned into SPDY for the kubelet, which ours does not speak."""
    monkeypatch.setattr(kubernetes, "PROTOCOLS", ("v4.channel.k8s.io",))
    install_crds(api_server_with_controllers)
    asyncio.run(asyncio.wait_for(_workloads(tmp_path, api_server_with_controllers), 90))


def test_objects_are_written_read_and_removed(tmp_path: Path, api_server_with_controllers: ControlPlane) -> None:
    install_crds(api_server_with_controllers)
    asyncio.run(asyncio.wait_for(_objects(tmp_path, api_server_with_controllers), 90))


def test_an_api_server_without_the_crds_is_told(tmp_path: Path, own_api_server: ControlPlane) -> None:
    asyncio.run(asyncio.wait_for(_nothing_installed(tmp_path, own_api_server), 60))
