"""kubectl without a cluster, end to end: what kubectl changes is in the file and in the traffic, and the other way."""

from __future__ import annotations

import http.client
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from smi_adapter.runfolder import read_status
from tests.cluster.embedded import Kubectl, embedded_api

pytestmark = [pytest.mark.live, pytest.mark.slow]

SERVE = (
    "import http.server, os;"
    "H = type('H', (http.server.BaseHTTPRequestHandler,), {'do_GET': lambda s: (s.send_response(200),"
    " s.send_header('content-length', '2'), s.end_headers(), s.wfile.write(os.environ['VERSION'].encode())),"
    " 'log_message': lambda *a: None});"
    "http.server.ThreadingHTTPServer((os.environ['POD_IP'], 8080), H).serve_forever()"
)
SHOP = "\n".join(
    f"""\
---
apiVersion: v1
kind: Service
metadata: {{name: web-{version}, namespace: shop}}
spec: {{selector: {{app: web, version: {version}}}, ports: [{{port: 8080}}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web-{version}, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: web, version: {version}}}}}
  template:
    metadata: {{labels: {{app: web, version: {version}}}}}
    spec:
      serviceAccountName: web
      containers:
      - name: app
        command: [python3, -c, "{SERVE}"]
        env:
        - {{name: VERSION, value: {version}}}
        - {{name: POD_IP, valueFrom: {{fieldRef: {{fieldPath: status.podIP}}}}}}
        ports: [{{containerPort: 8080}}]
"""
    for version in ("v1", "v2")
)
REST = """\
apiVersion: v1
kind: Namespace
metadata: {name: shop, annotations: {smi-adapter.io/access-mode: permissive}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop}
spec: {serviceAccountName: client, containers: [{name: app}]}
"""
SPLIT = """\
# Who gets how much.
apiVersion: split.smi-spec.io/v1alpha4
kind: TrafficSplit
metadata: {name: web, namespace: shop}
spec:
  service: web # the root
  backends:
  - {service: web-v1, weight: 100} # the old one
  - {service: web-v2, weight: 0}
"""


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for name, text in (("shop.yaml", SHOP), ("rest.yaml", REST), ("split.yaml", SPLIT)):
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def kubectl(tmp_path: Path, source: Path) -> Iterator[Kubectl]:
    with embedded_api(source, tmp_path / "state") as kubeconfig:
        yield Kubectl(kubeconfig, tmp_path, "shop")


def ask(state: Path) -> str:
    """Ask `web` as the client's application would."""
    pods = [pod for pod in read_status(state)["pods"] if pod["pod"] == "shop/client"]
    connection = http.client.HTTPConnection(pods[0]["dials"]["shop/web"], 8080, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read().decode()
    except OSError:
        return ""
    finally:
        connection.close()


def test_kubectl_and_files_show_and_change_the_same_objects(kubectl: Kubectl, source: Path, tmp_path: Path) -> None:
    file, state = source / "split.yaml", tmp_path / "state"
    kubectl.out("wait", "ts/web", "--for=condition=Programmed", "--timeout=60s")
    kubectl.out("rollout", "status", "deploy/web-v1", "--timeout=60s")
    until(lambda: ask(state) == "v1")

    move = [{"op": "replace", "path": f"/spec/backends/{index}/weight", "value": index * 100} for index in (0, 1)]
    kubectl.out("patch", "ts", "web", "--type=json", "-p", json.dumps(move))
    assert file.read_text() == SPLIT.replace("weight: 100", "weight: zero").replace("weight: 0", "weight: 100").replace(
        "weight: zero", "weight: 0"
    )
    kubectl.out("wait", "ts/web", "--for=condition=Programmed", "--timeout=60s")
    until(lambda: ask(state) == "v2")
    assert {ask(state) for _ in range(20)} == {"v2"}

    watch = kubectl.command("get", "ts", "web", "--watch", "--no-headers")
    with subprocess.Popen(watch, env=kubectl.environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert '"weight":0},{"service":"web-v2","weight":100}' in process.stdout.readline()
        file.write_text(SPLIT)
        assert next(line for line in process.stdout if '"weight":100},{"service":"web-v2","weight":0}' in line)
        process.terminate()
    until(lambda: ask(state) == "v1")

    kubectl.out("delete", "ts", "web")
    assert not file.exists()
    until(lambda: {ask(state) for _ in range(10)} == {"v1", "v2"})


def test_what_is_wrong_is_said_in_status_events_and_columns(kubectl: Kubectl, source: Path) -> None:
    kubectl.out("wait", "ts/web", "--for=condition=Programmed", "--timeout=60s")
    (source / "split.yaml").write_text(SPLIT.replace("web-v1", "web-v3"))
    kubectl.out("wait", "ts/web", "--for=condition=ResolvedRefs=false", "--timeout=10s")
    until(lambda: "BackendNotFound" in kubectl.out("describe", "ts", "web").partition("Events:")[2])
    assert "SMI0102" in kubectl.out("events", "--for", "trafficsplit/web")
    assert kubectl.out("get", "ts", "--no-headers").split()[-3:-1] == ["True", "False"]


def test_the_commands_for_a_cluster_read_this_world_as_its_files_are_read(kubectl: Kubectl, source: Path) -> None:
    def ours(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "smi_adapter", *words]
        environment = {**os.environ, "KUBECONFIG": str(kubectl.kubeconfig)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)

    until(lambda: ours("check").returncode == 0)
    assert "there is nothing to install" in ours("check").stdout
    assert ours("analyze", "-A").stdout.count("SMI0703") == 0
    for command in (("crds", "status"), ("crds", "diff"), ("crds", "apply"), ("uninstall", "--dry-run")):
        done = ours(*command)
        assert (done.returncode, done.stdout) == (0, ""), command
        assert "there is nothing to install" in done.stderr, command
    assert json.loads(ours("crds", "status", "-o", "json").stdout) == {"crds": []}
    done = ours("bootstrap", "-n", "shop")
    assert (done.returncode, done.stdout) == (1, ""), "so that nothing is applied by mistake"
    assert "starts its Envoys itself" in done.stderr


def test_only_the_owner_of_the_kubeconfig_gets_in(kubectl: Kubectl) -> None:
    assert stat.S_IMODE(kubectl.kubeconfig.stat().st_mode) == 0o600
    text = json.loads(kubectl.kubeconfig.read_text())
    assert text["clusters"][0]["cluster"]["server"].startswith("https://127.0.0.1:")
    done = kubectl.run("get", "ts", "--token", "guessed")
    assert (done.returncode, "Unauthorized" in done.stderr or "logged in" in done.stderr) == (1, True)


def test_what_was_applied_is_known_after_a_restart(tmp_path: Path) -> None:
    source, state = tmp_path / "source", tmp_path / "state"
    source.mkdir()
    applied = SPLIT.replace("namespace: shop}", "namespace: default, labels: {a: b}}")
    for text, wanted in (
        (applied, "created"),
        (applied, "unchanged"),
        (applied.replace(", labels: {a: b}", ""), "configured"),
    ):
        with embedded_api(source, state) as kubeconfig:
            done = Kubectl(kubeconfig, tmp_path).run("apply", "-f", "-", stdin=text)
            assert (done.returncode, done.stderr, done.stdout.split()[-1]) == (0, "", wanted)
    assert "labels" not in (source / "default" / "trafficsplit-web.yaml").read_text()
