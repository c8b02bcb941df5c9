"""A namespace whose pods have the proxy of docs/examples/sidecar, and in them a server that says its name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from tests.cluster import images
from tests.cluster.node import Node
from tests.cluster.program import ProgramError
from tests.pods.release import NAMESPACE

EXAMPLE: Final = Path(__file__).parent.parent.parent / "docs" / "examples" / "sidecar" / "web.yaml"
_SERVER: Final = """
import http.server, sys
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        said = sys.argv[1].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Answer).serve_forever()
"""
# Each request on a connection of its own; prints how often which answer came.
_CLIENT: Final = """
import collections, sys, urllib.error, urllib.request
seen = collections.Counter()
for _ in range(int(sys.argv[2])):
    try:
        with urllib.request.urlopen(sys.argv[1], timeout=10) as answer:
            seen[answer.read().decode()] += 1
    except urllib.error.HTTPError as refused:
        seen[str(refused.code)] += 1
    except OSError as broken:
        seen["broken"] += 1
import json; print(json.dumps(seen))
"""
_ALIVE: Final = "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/', timeout=2)"


@dataclass
class Town:
    """One namespace with workloads, each with its own ServiceAccount."""

    cluster: Node
    namespace: str

    def bring_the_proxies_configuration(self) -> None:
        """Apply what `smi-adapter bootstrap` prints, as an admin of the cluster runs it."""
        command = [sys.executable, "-c", "from smi_adapter.cli import entry; entry()", "bootstrap"]
        done = subprocess.run(
            [*command, "-n", self.namespace, "--controller-namespace", NAMESPACE],
            env={**self.cluster.plane.environment(), "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise ProgramError(f"bootstrap: {done.stdout}{done.stderr}")
        self.cluster.plane.kubectl("apply", "-f", "-", stdin=done.stdout)

    def run(self, *names: str, account: str = "", meshed: bool = True) -> None:
        """Start workloads, with a ServiceAccount of their own name each unless one is named."""
        for name in names:
            self.cluster.plane.apply(*self._workload(name, account or name, meshed))
        for name in names:
            self.cluster.wait_for(
                lambda name=name: self.cluster.is_rolled_out(self.namespace, name),  # type: ignore[misc]
                f"the pods of {name}",
            )

    def service(self, name: str, app: str) -> None:
        """Create a Service of port 80 over a workload."""
        ports = [{"name": "http", "port": 80, "targetPort": 8080}]
        self.apply("v1", "Service", name, {"selector": {"app": app}, "ports": ports})

    def split(self, root: str, weights: Mapping[str, int]) -> None:
        """Apply the TrafficSplit of a root."""
        backends = [{"service": service, "weight": weight} for service, weight in weights.items()]
        self.apply("split.smi-spec.io/v1alpha4", "TrafficSplit", root, {"service": root, "backends": backends})

    def grant(self, name: str, destination: str, *sources: str) -> None:
        """Apply a TrafficTarget that lets ServiceAccounts send every request to another."""
        matches = [{"name": "all", "pathRegex": ".*", "methods": ["*"]}]
        self.apply("specs.smi-spec.io/v1alpha4", "HTTPRouteGroup", "everything", {"matches": matches})
        spec = {
            "destination": {"kind": "ServiceAccount", "name": destination},
            "sources": [{"kind": "ServiceAccount", "name": each} for each in sources],
            "rules": [{"kind": "HTTPRouteGroup", "name": "everything", "matches": ["all"]}],
        }
        self.apply("access.smi-spec.io/v1alpha4", "TrafficTarget", name, spec)

    def revoke(self, name: str) -> None:
        """Delete a TrafficTarget."""
        self.cluster.plane.kubectl("delete", "traffictarget", name, "-n", self.namespace)

    def apply(self, version: str, kind: str, name: str, spec: Mapping[str, Any]) -> None:
        """Apply an object to the namespace."""
        metadata = {"name": name, "namespace": self.namespace}
        self.cluster.plane.apply({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": dict(spec)})

    def ask(self, client: str, url: str, times: int = 1) -> Counter[str]:
        """Send requests from a pod of a workload; return how often which answer came: a name, a status, `broken`."""
        command = ("python3", "-c", _CLIENT, url, str(times))
        done = self.cluster.plane.kubectl(
            "exec", "-n", self.namespace, f"deployment/{client}", "-c", "app", "--", *command
        )
        return Counter(json.loads(done.stdout))

    def until(self, client: str, url: str, *answers: str) -> None:
        """Wait until twenty requests get these answers, each at least once, and no other."""
        last: Counter[str] = Counter()

        def arrived() -> bool:
            nonlocal last
            last = self.ask(client, url, 20)
            return last.keys() == set(answers)

        try:
            self.cluster.wait_for(arrived, f"{client} to get {answers} from {url}", 60)
        except ProgramError as vain:
            raise ProgramError(f"last seen: {dict(last)}\n{vain}") from None

    def address(self, app: str) -> str:
        """Return the address of a pod of a workload."""
        path = f"/api/v1/namespaces/{self.namespace}/pods?labelSelector=app%3D{app}"
        return str(self.cluster.plane.get(path)["items"][0]["status"]["podIP"])

    def _workload(self, name: str, account: str, meshed: bool) -> list[dict[str, Any]]:
        made: list[dict[str, Any]] = [
            deepcopy(each) for each in yaml.safe_load_all(EXAMPLE.read_text()) if each["kind"] != "Service"
        ]
        for item in made:
            item["metadata"] = {"name": account if item["kind"] == "ServiceAccount" else name}
            item["metadata"]["namespace"] = self.namespace
        deployment = next(each for each in made if each["kind"] == "Deployment")
        deployment["spec"]["selector"]["matchLabels"] = {"app": name}
        template = deployment["spec"]["template"]
        template["metadata"]["labels"] = {"app": name}
        pod = template["spec"]
        pod["serviceAccountName"] = account
        pod["terminationGracePeriodSeconds"] = 2
        pod["containers"] = [
            {
                "name": "app",
                "image": images.ENVOY,
                "command": ["python3", "-u", "-c", _SERVER, name],
                "ports": [{"name": "http", "containerPort": 8080}],
                # Asked until it runs and never again: on a busy machine a slow answer would take its endpoint away.
                "startupProbe": {
                    "exec": {"command": ["python3", "-c", _ALIVE]},
                    "periodSeconds": 1,
                    "timeoutSeconds": 10,
                    "failureThreshold": 100,
                },
            }
        ]
        for container in pod["initContainers"]:
            container["image"] = images.ENVOY
        if not meshed:
            template["metadata"]["annotations"] = {"smi-adapter.io/inject": "false"}
            del pod["initContainers"], pod["volumes"]
        return made
