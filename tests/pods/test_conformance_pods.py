"""The conformance suite's Kubernetes harness against this adapter, where its Deployments really run.

Nothing of the adapter injects proxies, so a MutatingAdmissionPolicy made of docs/examples/sidecar does, and a thread of
the test brings each new namespace its configuration.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster import images
from tests.cluster.control_plane import RequestError
from tests.cluster.node import Node
from tests.pods.release import NAME, Release
from tests.pods.town import EXAMPLE, Town
from tests.tools import binary

LABEL = {"example.com/proxies": "on"}
TARGET = Path(__file__).parent.parent / "conformance" / "target.yaml"
CHOSEN = shlex.split(os.environ.get("SMI_PODS_CONFORMANCE", "--versions v1alpha4 --quick --parallel 3"))
"""Options of the run: one version, the newest; the older ones are played without a cluster."""
PATIENCE = float(os.environ.get("SMI_PODS_PATIENCE", "1800"))
NOT_HERE = {"WatchRecovery", "ApiConversion"}
"""Features that need what is not there: a way to break the controller's watch, and the conversion webhook (opt-in)."""


def _policy() -> list[dict[str, Any]]:
    """Return what gives pods of labelled namespaces their proxy."""
    deployment = next(each for each in yaml.safe_load_all(EXAMPLE.read_text()) if each["kind"] == "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    for container in pod["initContainers"]:
        container["image"] = images.ENVOY
    patches = [("add", "/spec/initContainers", pod["initContainers"])]
    patches += [("add", "/spec/volumes/-", each) for each in pod["volumes"]]
    always = ", ".join(_patch(*each) for each in patches)
    group, name = "admissionregistration.k8s.io/v1", {"name": "proxies"}
    rules = [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]
    spec = {
        "matchConstraints": {"resourceRules": rules, "namespaceSelector": {"matchLabels": LABEL}},
        "matchConditions": [
            {
                "name": "wanted",
                "expression": "object.metadata.?annotations[?'smi-adapter.io/inject'].orValue('') != 'false'",
            }
        ],
        "failurePolicy": "Fail",
        "reinvocationPolicy": "Never",
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": f"[{always}]"}}],
    }
    return [
        {"apiVersion": group, "kind": "MutatingAdmissionPolicy", "metadata": name, "spec": spec},
        {
            "apiVersion": group,
            "kind": "MutatingAdmissionPolicyBinding",
            "metadata": name,
            "spec": {"policyName": name["name"]},
        },
    ]


def _patch(operation: str, path: str, value: object) -> str:
    return f'JSONPatch{{op: "{operation}", path: "{path}", value: {_expression(value)}}}'


def _expression(value: object) -> str:
    """Return a value as CEL writes it; in its lists and maps all are of one type, unless that is dynamic."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(key)}: dyn({_expression(each)})' for key, each in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(f'dyn({_expression(each)})' for each in value)}]"
    return json.dumps(value)


@pytest.fixture
def proxies(cluster: Node, release: Release) -> Iterator[None]:
    """Give every pod of a labelled namespace its proxy, and every such namespace what that starts with."""
    del release
    cluster.plane.apply(*_policy())
    done, ended = set[str](), threading.Event()

    def bring() -> None:
        while not ended.wait(0.2):
            ((name, value),) = LABEL.items()
            found = cluster.plane.get(f"/api/v1/namespaces?labelSelector={name}%3D{value}")["items"]
            for namespace in {each["metadata"]["name"] for each in found} - done:
                with suppress(RequestError, AssertionError):  # it is going already
                    Town(cluster, namespace).bring_the_proxies_configuration()
                    done.add(namespace)

    thread = threading.Thread(target=bring)
    thread.start()
    yield
    ended.set()
    thread.join()
    for kind in ("mutatingadmissionpolicybinding", "mutatingadmissionpolicy"):
        cluster.plane.kubectl("delete", kind, "proxies")


def _hooks(kubectl: str, namespace: str) -> dict[str, list[str]]:
    """Return how the adapter is stopped and started again; its pods have to be gone, and ready."""
    deployment, pods = f"-n {namespace} deployment/{NAME}", f"-n {namespace} -l app.kubernetes.io/name={NAME}"
    gone = f"{kubectl} wait --for=delete pod {pods} --timeout=90s"
    ready = f"{kubectl} rollout status {deployment} --timeout=180s"
    return {
        "stop": ["sh", "-ec", f"{kubectl} scale --replicas=0 {deployment}; {gone}"],
        "start": ["sh", "-ec", f"{kubectl} scale --replicas=2 {deployment}; {ready}"],
    }


@pytest.mark.usefixtures("proxies")
def test_what_the_adapter_claims_is_so_on_real_pods(cluster: Node, release: Release, tmp_path: Path) -> None:
    target = yaml.safe_load(TARGET.read_text())
    del target["local"]
    target["claims"]["features"] = sorted({*target["claims"]["features"]} - NOT_HERE)
    target["mesh"] |= {"namespaceLabels": LABEL, "bypassUser": 1337}
    target["kubernetes"] = {"image": images.ENVOY}
    target["hooks"] = _hooks(str(binary("kubectl")), release.namespace)
    (tmp_path / "target.yaml").write_text(yaml.safe_dump(target))
    report, log = tmp_path / "report.yaml", tmp_path / "suite.log"
    command = [sys.executable, "-m", "smi_conformance", "run", "--target", str(tmp_path / "target.yaml")]
    with log.open("w") as said:
        done = subprocess.run(
            [*command, "--harness", "kubernetes", *CHOSEN, "--deadline", "120", "--report", str(report)],
            env={**cluster.plane.environment(), "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=said,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE,
            check=False,
        )
    assert done.returncode == 0, f"{log.read_text()}\n{cluster.state()}"
    results = Counter(each["result"] for each in yaml.safe_load(report.read_text())["cases"])
    assert results["passed"] > 0
    assert not results.keys() - {"passed", "observed", "notSupported"}, log.read_text()
