"""The Kubernetes harness against a server that speaks the same HTTP and WebSocket, with a real `echo.py` behind."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("aiohttp")

from aiohttp import web

from smi_conformance import echo, kubernetes
from smi_conformance.kubernetes import ExecStream, KubernetesHarness
from smi_conformance.protocol import App, Batch, HarnessError, Port, Req
from smi_conformance.target import Target, load

TARGET = """
implementation: {organization: acme, project: acme-mesh, url: "https://acme.example", version: v1, contact: ["@acme"]}
mesh: {hostTemplate: "127.0.0.1", podLabels: {mesh: "on"}}
"""


class Cluster:
    """As much of an API server as the harness uses; its one server pod listens on a local port."""

    def __init__(self, folder: Path) -> None:
        self.objects: dict[str, Any] = {}
        self.log = folder / "log"
        self.groups = True
        self.broken = False
        self.ready = True
        self.refusal: tuple[int, str] = (0, "")
        self.commands: list[list[str]] = []
        self.containers: list[str] = []
        self.wanted = ""
        self.lasting = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        if self.broken:
            return web.json_response({"message": "etcd is away"}, status=500)
        if self.wanted and request.headers.get("authorization") != f"Bearer {self.wanted}":
            return web.json_response({"message": "Unauthorized"}, status=401)
        if self.refusal[0]:
            return web.json_response({"message": self.refusal[1]}, status=self.refusal[0])
        if path.endswith("/exec"):
            return await self.exec(request)
        if path.endswith("/log"):
            return web.Response(text=self.said(request.query.get("sinceTime", "")))
        if request.method in {"PATCH", "POST", "PUT"}:
            return await self.write(request)
        if path.startswith("/api/v1/namespaces/") and path.count("/") == 4 and self.lasting:
            self.lasting -= 1  # it is asked for, and is going
            return web.json_response({"metadata": {}})
        if request.method == "DELETE":
            return web.json_response({}, status=200 if self.objects.pop(path, None) else 404)
        return self.get(request)

    def said(self, since: str) -> str:
        """Return the log from a second on: ten lines are of the same."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        timed = [f"2026-11-02T10:00:{number // 10:02}.{number:09}Z {line}\n" for number, line in enumerate(lines)]
        return "".join(line for line in timed if line[:19] >= since[:19])

    def get(self, request: web.Request) -> web.Response:
        path = request.path
        if path == "/version":
            return web.json_response({"gitVersion": "v1.37.0"})
        if path == "/api/v1/nodes":
            return web.json_response({"items": [{}]})
        if path.startswith("/apis/") and path.count("/") == 2:
            known = self.groups and "split" in path
            return web.json_response({"versions": [{"version": "v1alpha4"}]}, status=200 if known else 404)
        if path.endswith("/pods"):
            name = request.query["labelSelector"].partition("=")[2]
            gone = {"metadata": {"name": f"{name}-old", "deletionTimestamp": "now"}}
            conditions = [{"type": "Ready", "status": str(self.ready)}]
            status = {"podIP": "10.0.0.9", "phase": "Running", "conditions": conditions}
            return web.json_response(
                {"items": [{"metadata": {"name": f"{name}-6c5b9f7d8c-x2x4k"}, "status": status}, gone]}
            )
        if path.endswith("/events"):
            return web.json_response({"items": [{"reason": "PortMismatch", "message": request.query["fieldSelector"]}]})
        found = self.objects.get(path)
        return web.json_response(found or {"message": "not found"}, status=200 if found else 404)

    async def write(self, request: web.Request) -> web.Response:
        raw = json.loads(await request.text())
        if request.content_type == "application/merge-patch+json":
            raw = {**self.objects[request.path], **raw}
        path = request.path + (f"/{raw['metadata']['name']}" if request.method == "POST" else "")
        if request.method == "POST" and path in self.objects:
            return web.json_response({"message": "already exists"}, status=409)
        if raw["kind"] == "TrafficSplit" and not raw["spec"].get("backends"):
            return web.json_response({"message": "spec.backends is required"}, status=422)
        if not request.query.get("dryRun"):
            if raw["kind"] == "Deployment":
                count = raw["spec"]["replicas"]
                raw["metadata"]["generation"] = 3
                raw["status"] = {
                    "observedGeneration": 3,
                    "replicas": count,
                    "updatedReplicas": count,
                    "readyReplicas": count if self.ready else 0,
                }
            raw["metadata"].pop("resourceVersion", None)
            self.objects[path] = raw
        return web.json_response(raw, status=201)

    async def exec(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=("v5.channel.k8s.io",))
        await socket.prepare(request)
        self.commands.append(request.query.getall("command"))
        self.containers.append(request.query["container"])
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-u", echo.__file__, "client"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None

        async def out(stream: asyncio.StreamReader) -> None:
            while data := await stream.read(37):  # pieces that end anywhere
                await socket.send_bytes(b"\x01" + data)

        task = asyncio.create_task(out(process.stdout))
        async for message in socket:
            process.stdin.write(message.data[1:])
        process.kill()
        await process.wait()
        await task
        return socket


@asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[tuple[Cluster, KubernetesHarness]]:
    found = Cluster(folder)
    application = web.Application()
    application.router.add_route("*", "/{tail:.*}", found.handle)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    address = runner.addresses[0]
    config = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{address[1]}"}}],
        "users": [{"name": "u", "user": {"token": "not-a-secret"}}],
    }
    (folder / "config").write_text(yaml.safe_dump(config))
    (folder / "target.yaml").write_text(TARGET)
    harness = KubernetesHarness(target_of(folder), "", str(folder / "config"))
    try:
        yield found, harness
    finally:
        await harness.stop()
        await runner.cleanup()


def target_of(folder: Path) -> Target:
    return load(folder / "target.yaml")


async def _listen(folder: Path) -> tuple[int, asyncio.subprocess.Process]:
    with __import__("socket").socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    environment = {
        **os.environ,
        "ECHO_BIND": "127.0.0.1",
        "ECHO_APP": "v1",
        "ECHO_POD": "v1-6c5b9f7d8c-x2x4k",
        "ECHO_PORTS": json.dumps([{"port": port, "protocol": "http"}]),
        "ECHO_LEDGER": str(folder / "log"),
    }
    process = await asyncio.create_subprocess_exec(sys.executable, echo.__file__, "serve", env=environment)
    for _ in range(200):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return port, process
    raise AssertionError("the server did not start")


async def _whole_story(folder: Path) -> None:
    async with cluster(folder) as (found, harness):
        await harness.start()
        assert harness.served == {"split.smi-spec.io": ("v1alpha4",)}
        assert harness.environment["kubernetes"] == "v1.37.0"
        await harness.namespace("cf-1", enforced=True)
        program = found.objects["/api/v1/namespaces/cf-1/configmaps/conformance-echo"]["data"]["echo.py"]
        assert program == Path(echo.__file__).read_text()
        port, process = await _listen(folder)
        app, client = App("v1", "cf-1", ports=(Port(port),)), App("client", "cf-1")
        pods = await harness.deploy(app)
        assert [pod.name for pod in pods] == ["v1-6c5b9f7d8c-x2x4k"]  # the one that is going does not count
        await harness.deploy(client)
        labels = found.objects["/apis/apps/v1/namespaces/cf-1/deployments/v1"]["spec"]["template"]["metadata"]["labels"]
        assert labels == {"conformance-app": "v1", "mesh": "on"}
        try:
            replies = await harness.send(client, Req("cf-1/v1", port), Batch(n=30), "tok")
            assert [reply.app for reply in replies] == ["v1"] * 30
            receipts = await harness.receipts(app)
            assert {item.token for item in receipts} == {f"tok-{number}" for number in range(30)}
            assert {(item.app, item.pod) for item in receipts} == {("v1", pods[0].name)}
            assert await harness.receipts(app) == []  # each is told once
            found.refusal = (403, "no right to pods/log")
            with pytest.raises(HarnessError, match="/log: the API server answered 403"):
                await harness.receipts(app)
            found.refusal = (0, "")
            again = await harness.send(client, Req("cf-1/v1", port), Batch(n=1), "more")
            assert again[0].ok
            assert [item.token for item in await harness.receipts(app)] == ["more-0"]
            assert len(found.commands) == 1  # one exec stays open
            marks = await harness.mark(app, "mark")
            assert len(marks) == 1
            assert {item.token for item in await harness.receipts(app)} == marks
            assert len(found.commands) == 2, "the server's pod asks itself"
        finally:
            process.kill()
            await process.wait()
        with pytest.raises(HarnessError, match="does not answer itself"):
            await harness.mark(app, "mark")
        found.log.write_text("")
        with pytest.raises(HarnessError, match="the log was rotated"):
            await harness.receipts(app)
        assert await harness.receipts(app) == []  # it was told
        refused = (await harness.send(client, Req("cf-1/v1", port), Batch(n=1), "gone"))[0]
        assert refused.outcome == "refused"


async def _objects(folder: Path) -> None:
    async with cluster(folder) as (found, harness):
        await harness.start()
        metadata = {"name": "s", "namespace": "cf-1"}
        split = {"apiVersion": "split.smi-spec.io/v1alpha4", "kind": "TrafficSplit", "metadata": metadata, "spec": {}}
        (result,) = await harness.apply([split])
        assert (result.code, result.message) == (422, "spec.backends is required")
        good = {**split, "spec": {"backends": [{"service": "a", "weight": 1}]}}
        assert (await harness.apply([good], dry_run=True))[0].accepted
        assert await harness.get(good) is None
        assert (await harness.apply([good]))[0].accepted
        assert await harness.get(good) == good
        more = {**split, "spec": {"backends": [{"service": "b", "weight": 1}]}}
        assert (await harness.apply([more]))[0].accepted
        assert await harness.get(good) == more
        assert (await harness.patch(more, {"spec": good["spec"]})).accepted
        assert await harness.get(good) == good
        assert (await harness.patch(more, {"spec": {}})).code == 422
        (event,) = await harness.events(good)
        assert event.message == "involvedObject.kind=TrafficSplit,involvedObject.name=s"
        await harness.delete([good, good])
        assert await harness.get(good) is None
        found.broken = True
        with pytest.raises(HarnessError, match="answered 500"):
            await harness.apply([good])


async def _refusals(folder: Path) -> None:
    """Take as a refusal what is said about the object; whatever else goes wrong is no verdict about anybody."""
    async with cluster(folder) as (found, harness):
        await harness.start()
        metadata = {"name": "s", "namespace": "cf-1"}
        split = {"apiVersion": "split.smi-spec.io/v1alpha4", "kind": "TrafficSplit", "metadata": metadata, "spec": {}}
        for code, message in (
            (400, "strict decoding error"),
            (403, 'admission webhook "smi.example" denied the request: no weights'),
            (404, "404 page not found"),  # the version is served, this kind is not
            (422, "ValidatingAdmissionPolicy 'smi' with binding 'smi' denied request: no weights"),
        ):
            found.refusal = (code, message)
            assert [(item.code, item.accepted) for item in await harness.apply([split])] == [(code, False)]
        for code, message in (
            (401, "Unauthorized"),
            (403, 'User "me" cannot create resource "trafficsplits"'),
            (404, 'namespaces "cf-1" not found'),
            (429, "too many requests"),
        ):
            found.refusal = (code, message)
            with pytest.raises(HarnessError, match=f"answered {code}"):
                await harness.apply([split])
        found.refusal = (403, "forbidden")
        for call in (harness.delete([split]), harness.remove_namespace("cf-1"), harness.get(split)):
            with pytest.raises(HarnessError, match="answered 403"):
                await call
        found.refusal = (404, "not found")
        await harness.delete([split])
        await harness.remove_namespace("cf-1")
        assert await harness.get(split) is None


async def _outside(folder: Path) -> None:
    """Reach a host outside if the target names one; without one there is no such capability."""
    async with cluster(folder) as (_, harness):
        assert "egress" not in harness.capabilities
        port, process = await _listen(folder)
        try:
            (folder / "target.yaml").write_text(f'{TARGET}settings: {{egress: "127.0.0.1:{port}"}}\n')
            other = KubernetesHarness(target_of(folder), "", str(folder / "config"))
            await other.start()
            assert {"egress", "probes"} <= other.capabilities
            host, _, number = other.environment["egress"].rpartition(":")
            (reply,) = await other.send(
                App("alice", "cf-1"), Req(pod=host, port=int(number), host=host), Batch(n=1), "x"
            )
            assert reply.outcome == "ok"
            await other.stop()
        finally:
            process.kill()
            await process.wait()


async def _left_out(folder: Path) -> None:
    """Have a client outside of the mesh only if the target says how its pod is left out."""
    async with cluster(folder) as (_, harness):
        assert "unmeshed" not in harness.capabilities
        for field in ("Labels", "Annotations"):
            (folder / "target.yaml").write_text(f'{TARGET.rstrip()[:-1]}, unmeshedPod{field}: {{mesh: "off"}}}}\n')
            other = KubernetesHarness(target_of(folder), "", str(folder / "config"))
            assert "unmeshed" in other.capabilities


async def _round_its_proxy(folder: Path) -> None:
    """Send what goes round a client's own proxy from its own pod, as a user whom the mesh leaves alone."""
    async with cluster(folder) as (found, harness):
        assert "bypass" not in harness.capabilities
        (folder / "target.yaml").write_text(f"{TARGET.rstrip()[:-1]}, bypassUser: 1337}}\n")
        other = KubernetesHarness(target_of(folder), "", str(folder / "config"))
        assert "bypass" in other.capabilities
        await other.start()
        client, port = App("client", "cf-1"), 9
        for app in (client, App("v1", "cf-1", ports=(Port(8080),)), App("out", "cf-1", meshed=False)):
            await other.deploy(app)
            spec = found.objects[f"/apis/apps/v1/namespaces/cf-1/deployments/{app.name}"]["spec"]["template"]["spec"]
            users = {each["name"]: each["securityContext"].get("runAsUser") for each in spec["containers"]}
            assert users == ({"echo": None, "bypass": 1337} if app is client else {"echo": None})
        for bypass in (False, True, True):
            (reply,) = await other.send(client, Req("cf-1/v1", port, bypass=bypass), Batch(n=1), "x")
            assert reply.outcome == "refused"
        assert found.containers == ["echo", "bypass"]
        await other.stop()


async def _probes(folder: Path) -> None:
    """Ask only a probed workload over HTTP, and leave it to a case what comes of that."""
    async with cluster(folder) as (found, harness):
        await harness.start()
        for probed in (False, True):
            app = App("api", "cf-1", ports=(Port(8080),), probed=probed)
            found.ready = not probed
            await harness.deploy(app)
            spec = found.objects["/apis/apps/v1/namespaces/cf-1/deployments/api"]["spec"]["template"]["spec"]
            assert ("readinessProbe" in spec["containers"][0]) == probed
            assert "exec" in spec["containers"][0]["startupProbe"]
            assert await harness.ready(app) == (not probed)


async def _goes(folder: Path) -> None:
    """Be done when namespaces are gone, and name those that take too long."""
    async with cluster(folder) as (found, harness):
        await harness.start()
        said: list[str] = []
        harness.tell = said.append
        await harness.namespace("cf-1", enforced=True)
        found.lasting = 5
        await harness.remove_namespace("cf-1")
        left = ["namespace cf-1, which is being deleted"]
        assert harness.remains(["cf-1", "cf-2"]) == ["namespace cf-2 (kubectl delete namespace cf-2)", *left]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kubernetes, "_GONE_WITHIN", 0.1)
            patch.setattr(kubernetes, "_SLOW", 0.0)
            assert await harness.removed() == left
            assert said == ["waiting until 1 namespaces are gone, for at most 0 s"]
        found.objects.clear()
        assert await harness.removed() == []
        assert found.lasting == 0
        await harness.remove_namespace("cf-1")  # somebody else was faster
        assert harness.remains([]) == []


async def _renewed(folder: Path) -> None:
    """Fetch a credential again that the API server takes no more."""
    async with cluster(folder) as (found, _):
        config = yaml.safe_load((folder / "config").read_text())
        program = "import json; print(json.dumps({'status': {'token': open('token').read()}}))"
        plugin = {"command": "sh", "args": ["-c", f'cd {folder}; {sys.executable} -c "{program}"']}
        config["users"][0]["user"] = {"exec": plugin}
        (folder / "config").write_text(yaml.safe_dump(config))
        (folder / "token").write_text("one")
        found.wanted = "one"
        harness = KubernetesHarness(target_of(folder), "", str(folder / "config"))
        await harness.start()
        await harness.deploy(App("client", "cf-1"))
        for number in (2, 3):
            (folder / "token").write_text(f"of {number}")
            found.wanted = f"of {number}"
            if number == 2:
                await harness.namespace("cf-1", enforced=True)
            else:
                (reply,) = await harness.send(App("client", "cf-1"), Req("cf-1/v1", 9), Batch(n=1), "x")
                assert reply.outcome == "refused"
        found.wanted = "of somebody else"
        with pytest.raises(HarnessError, match="answered 401"):
            await harness.remove_namespace("cf-1")
        await harness.stop()


async def _nothing_served(folder: Path) -> None:
    async with cluster(folder) as (found, harness):
        found.groups = False
        with pytest.raises(HarnessError, match="CRDs"):
            await harness.start()


async def _unreachable(folder: Path) -> None:
    async with cluster(folder) as (_, harness):
        config = yaml.safe_load((folder / "config").read_text())
        config["clusters"][0]["cluster"]["server"] = "http://127.0.0.1:9"
        (folder / "config").write_text(yaml.safe_dump(config))
        with pytest.raises(HarnessError, match="does not answer"):
            await harness.start()


@pytest.mark.parametrize(
    ("host", "client", "template", "dialled"),
    [
        ("", "shop", "{svc}.{ns}", "root.shop"),
        ("root", "shop", "{svc}.{ns}", "root"),
        ("root", "other", "{svc}.{ns}", "root.shop"),
        ("root.shop", "other", "{svc}.{ns}.svc", "root.shop"),
        ("root.shop.svc", "shop", "{svc}.{ns}", "root.shop.svc"),
        ("root.shop.svc.cluster.local:8080", "shop", "{svc}.{ns}", "root.shop.svc.cluster.local"),
        ("second.shop", "shop", "{svc}.{ns}", "root.shop"),
        ("shop.example.com", "shop", "{svc}.{ns}", "root.shop"),
        ("root.shop.svc", "shop", "{svc}.{ns}.mesh.example", "root.shop.mesh.example"),
    ],
)
def test_the_name_that_a_case_spells_is_dialled_if_it_is_one_of_the_service(
    host: str, client: str, template: str, dialled: str
) -> None:
    req = Req("shop/root", host=host)
    assert kubernetes._dialled({"hostTemplate": template}, App("client", client), req) == dialled


class Recorded:
    """A WebSocket that plays a recorded exec stream."""

    def __init__(self, *frames: bytes) -> None:
        self._frames = frames

    async def send_bytes(self, data: bytes) -> None:
        assert data[0] == 0

    async def close(self) -> None:
        pass

    async def __aiter__(self) -> AsyncIterator[Any]:
        await asyncio.sleep(0.01)
        for data in self._frames:
            yield type("Message", (), {"data": data})()
        await asyncio.sleep(0.01)


async def _recorded() -> None:
    frames = (b"\x01", b"\x02a warning", b'\x01{"id": 1, "bod', b'\x01ies": []}\nnoise\n', b'\x03{"status":"Failure"}')
    stream = ExecStream(Recorded(*frames), "exec")
    assert (await stream.ask({}, 5))["bodies"] == []
    with pytest.raises(HarnessError, match="Failure"):
        await stream.ask({}, 5)
    await stream.close()


@pytest.mark.parametrize(
    "story",
    [
        _whole_story,
        _objects,
        _refusals,
        _outside,
        _left_out,
        _round_its_proxy,
        _probes,
        _goes,
        _renewed,
        _nothing_served,
        _unreachable,
    ],
)
def test_harness(story: Any, tmp_path: Path) -> None:
    asyncio.run(asyncio.wait_for(story(tmp_path), 60))


def test_a_recorded_exec_stream_is_read_in_pieces_and_its_end_is_told() -> None:
    asyncio.run(_recorded())


def test_a_kubeconfig_without_the_context_is_told(tmp_path: Path) -> None:
    (tmp_path / "target.yaml").write_text(TARGET)
    (tmp_path / "config").write_text("contexts: []\n")
    harness = KubernetesHarness(target_of(tmp_path), "kind-x", str(tmp_path / "config"))
    with pytest.raises(HarnessError, match="no context 'kind-x'"):
        asyncio.run(harness.start())


def test_who_looks_on_is_told_once_that_pods_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes, "_SLOW", 0.0)

    async def story() -> None:
        async with cluster(tmp_path) as (found, harness):
            await harness.start()
            said: list[str] = []
            found.ready = False

            def tell(line: str) -> None:
                said.append(line)
                found.ready = True
                for path, item in found.objects.items():
                    if "/deployments/" in path:
                        item["status"]["readyReplicas"] = item["spec"]["replicas"]

            harness.tell = tell
            await asyncio.gather(*(harness.deploy(App(name, "cf-1")) for name in ("api", "web")))
            (line,) = said
            assert "waiting for pods of cf-1/" in line
            assert "kubectl get pods --namespace cf-1" in line

    asyncio.run(story())


def test_without_aiohttp_a_command_is_named_that_works_in_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    (tmp_path / "target.yaml").write_text(TARGET)
    with pytest.raises(HarnessError, match=re.escape("pip install './conformance[kubernetes]' in a checkout")):
        asyncio.run(KubernetesHarness(target_of(tmp_path)).start())
