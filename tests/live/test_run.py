"""`smi-adapter run` and `status` as a user meets them: a directory, real Envoys, edits, mistakes."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from smi_adapter.app import Compiler
from smi_adapter.local import LocalMesh, LocalOptions
from smi_adapter.settings import Settings

pytestmark = [pytest.mark.live, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
MAIN = "from smi_adapter.cli import entry; entry()"
SERVE = (
    "import http.server, os;"
    "H = type('H', (http.server.BaseHTTPRequestHandler,), {'do_GET': lambda s: (s.send_response(200),"
    " s.send_header('content-length', '0'), s.end_headers()), 'log_message': lambda *a: None});"
    "http.server.ThreadingHTTPServer((os.environ['POD_IP'], 8080), H).serve_forever()"
)
WORLD = f"""
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: shop}}
spec: {{selector: {{app: web}}, ports: [{{port: 8080}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: web, namespace: shop, labels: {{app: web}}}}
spec:
  serviceAccountName: web
  containers:
  - name: app
    command: [python3, -c, "{SERVE}"]
    env: [{{name: POD_IP, valueFrom: {{fieldRef: {{fieldPath: status.podIP}}}}}}]
    ports: [{{containerPort: 8080}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: client, namespace: shop}}
spec: {{serviceAccountName: client, containers: [{{name: app}}]}}
---
apiVersion: specs.smi-spec.io/v1alpha4
kind: HTTPRouteGroup
metadata: {{name: all, namespace: shop}}
spec: {{matches: [{{name: all, pathRegex: ".*"}}]}}
"""
TARGET = """
apiVersion: access.smi-spec.io/v1alpha3
kind: TrafficTarget
metadata: {name: web, namespace: shop}
spec:
  destination: {kind: ServiceAccount, name: web}
  sources: [{kind: ServiceAccount, name: client}]
  rules: [{kind: HTTPRouteGroup, name: all}]
"""


def smi(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", MAIN, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    (source / "world.yaml").write_text(WORLD)
    (source / "target.yaml").write_text(TARGET)
    return source


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def run(folder: Path, state: Path) -> Iterator[subprocess.Popen[bytes]]:
    with running(folder, state) as process:
        yield process


@contextmanager
def running(folder: Path, state: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", MAIN, "run", "--source", str(folder), "--state", str(state)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment) as process:
        yield process
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def status(state: Path) -> dict[str, Any]:
    done = smi("status", "--state", str(state), "-o", "json")
    found: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
    return found


def answer(state: Path, service: str = "shop/web") -> int:
    """Ask a Service as the client's application would; 0 where nobody listens."""
    pods = [pod for pod in status(state).get("pods", ()) if pod["pod"] == "shop/client"]
    if not pods:
        return 0
    connection = http.client.HTTPConnection(pods[0]["dials"][service], 8080, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def test_a_directory_is_served_an_edit_counts_and_a_broken_file_changes_nothing(
    run: subprocess.Popen[bytes], folder: Path, state: Path
) -> None:
    until(lambda: answer(state) == 200)
    until(lambda: all(proxy["in_sync"] for proxy in status(state)["proxies"]))
    found = status(state)
    assert {proxy["workload"] for proxy in found["proxies"]} == {"shop/client", "shop/web"}
    assert all(kind["version"] for proxy in found["proxies"] for kind in proxy["types"] if kind["resources"])
    assert "shop/client" in smi("status", "--state", str(state)).stdout

    (folder / "target.yaml").write_text(TARGET.replace("client", "nobody"))
    until(lambda: answer(state) == 403)
    (folder / "target.yaml").write_text(TARGET)
    until(lambda: answer(state) == 200)

    (folder / "target.yaml").write_text(TARGET[:-40] + "\n  ][")
    until(lambda: "SMI0507" in {item["code"] for item in status(state)["findings"]})
    assert answer(state) == 200
    assert run.poll() is None

    second = smi("run", "--source", str(folder), "--state", str(state))
    assert second.returncode == 1
    assert "already" in second.stderr

    assert list(state.rglob("pair.json"))
    run.send_signal(signal.SIGINT)
    assert run.wait(30) == 0
    left = [path for path in state.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()]
    assert not left
    assert list(state.glob("*.log"))


def test_the_example_of_the_guide_answers_a_request_of_its_client(tmp_path: Path) -> None:
    source, state = tmp_path / "hello", Path(os.path.relpath(tmp_path / "hello-state"))
    source.mkdir()
    guide = (ROOT / "docs" / "no-cluster.md").read_text()
    (example,) = [block for block in re.findall(r"(?ms)^```yaml\n(.*?)^```$", guide) if "name: hello" in block]
    (source / "shop.yaml").write_text(example)
    with running(source, state):
        until(lambda: answer(state, "shop/hello") == 200)
        assert [item for item in status(state)["findings"] if item["severity"] != "info"] == []
        (source / "shop.yaml").write_text(example.replace("permissive", "enforce"))
        until(lambda: answer(state, "shop/hello") == 403)


def test_what_cannot_be_run_is_one_clear_error(folder: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert smi("status", "--state", str(state)).returncode == 3
    monkeypatch.setenv("SMI_ENVOY_BIN", "/nowhere/envoy")
    done = smi("run", "--source", str(folder), "--state", str(state))
    assert (done.returncode, "SMI_ENVOY_BIN" in done.stderr, "Traceback" in done.stderr) == (1, True, False)
    file = state.with_name("file")
    file.write_text("")
    done = smi("run", "--source", str(folder), "--state", str(file))
    assert (done.returncode, "no folder" in done.stderr) == (1, True)
    monkeypatch.setenv("SMI_ADAPTER_PROFILE", "nonsense")
    done = smi("run", "--source", str(folder), "--state", str(state))
    assert (done.returncode, "profile" in done.stderr) == (2, True)


async def test_an_error_of_ours_hurts_only_the_object_that_led_to_it(
    folder: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_whole = Compiler.apply

    def fail(self: Compiler, changes: Any) -> Any:
        if any(raw is not None and ref.kind == "TrafficTarget" for ref, raw in changes.items()):
            raise RuntimeError("planted")
        return compile_whole(self, changes)

    monkeypatch.setattr(Compiler, "apply", fail)
    mesh = LocalMesh(folder, LocalOptions(Settings(), state, applications=False))
    async with mesh.running():
        async for batch in mesh.source:
            mesh._take(batch)
            break
        assert mesh.compiled is not None
        assert ("shop", "web") in mesh.compiled.snapshot.services
        assert not mesh.compiled.snapshot.targets
        assert "SMI0606" in {item.code for item in mesh.findings()}
