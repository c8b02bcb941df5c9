"""What a list of Pods costs to read and to keep, in processes of its own (P8).

`write` makes the pages as an API server would send them. `product` reads them as the reflector does and keeps what its
store keeps; `typed` makes the typed objects of kubernetes_asyncio of the same bytes and keeps those.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.channel import answer, arguments, requests
from benchmarks.memory import resident
from smi_adapter.cluster.client import Resource
from smi_adapter.cluster.projection import Projection
from smi_adapter.cluster.store import Store

PAGE = 500
PODS = Resource("", "v1", "pods", "Pod")


def pod(number: int) -> dict[str, Any]:
    """Return a Pod of the usual size: two containers, probes, volumes, tolerations, five conditions, managedFields."""
    name = f"shop-{number // 4:05d}-6d4cf56db6-{number:05d}"
    labels = {
        "app.kubernetes.io/name": f"shop-{number // 4:05d}",
        "app.kubernetes.io/instance": "shop",
        "pod-template-hash": "6d4cf56db6",
    }
    stamp = "2026-11-24T16:00:00Z"
    containers = [_container("app", 8080, number), _container("proxy", 15001, number)]
    status = [
        {
            "name": container["name"],
            "state": {"running": {"startedAt": stamp}},
            "lastState": {},
            "ready": True,
            "restartCount": 0,
            "image": container["image"],
            "imageID": f"registry.example/{container['name']}@sha256:{number:064x}",
            "containerID": f"containerd://{number:064x}",
            "started": True,
        }
        for container in containers
    ]
    conditions = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"]
    return {
        "metadata": {
            "name": name,
            "generateName": name[:-5],
            "namespace": f"team-{number % 50}",
            "uid": f"{number:08x}-0000-4000-8000-000000000000",
            "resourceVersion": str(1000 + number),
            "creationTimestamp": stamp,
            "labels": labels,
            "annotations": {"prometheus.io/scrape": "true", "kubectl.kubernetes.io/restartedAt": stamp},
            "ownerReferences": [
                {
                    "apiVersion": "apps/v1",
                    "kind": "ReplicaSet",
                    "name": name[:-6],
                    "uid": f"{number // 4:08x}-0000-4000-8000-000000000001",
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
            "managedFields": [_managed("kube-controller-manager", labels), _managed("kubelet", conditions)],
        },
        "spec": {
            "serviceAccountName": f"shop-{number // 4:05d}",
            "serviceAccount": f"shop-{number // 4:05d}",
            "nodeName": f"node-{number % 100}",
            "containers": containers,
            "volumes": [
                {"name": "kube-api-access", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}
            ],
            "restartPolicy": "Always",
            "dnsPolicy": "ClusterFirst",
            "schedulerName": "default-scheduler",
            "tolerations": [
                {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute"}
                for key in ("not-ready", "unreachable")
            ],
        },
        "status": {
            "phase": "Running",
            "conditions": [{"type": item, "status": "True", "lastTransitionTime": stamp} for item in conditions],
            "hostIP": f"10.0.0.{number % 250}",
            "podIP": f"10.{number // 65536}.{number // 256 % 256}.{number % 256}",
            "podIPs": [{"ip": f"10.{number // 65536}.{number // 256 % 256}.{number % 256}"}],
            "startTime": stamp,
            "containerStatuses": status,
            "qosClass": "Burstable",
        },
    }


def _container(name: str, port: int, number: int) -> dict[str, Any]:
    probe = {"httpGet": {"path": "/healthz", "port": port, "scheme": "HTTP"}, "periodSeconds": 10}
    return {
        "name": name,
        "image": f"registry.example/{name}:v{number % 7}",
        "ports": [{"name": "http", "containerPort": port, "protocol": "TCP"}],
        "env": [{"name": f"SETTING_{index}", "value": f"value-{index}-of-{number}"} for index in range(6)],
        "resources": {"limits": {"cpu": "1", "memory": "256Mi"}, "requests": {"cpu": "100m", "memory": "128Mi"}},
        "volumeMounts": [{"name": "kube-api-access", "readOnly": True, "mountPath": "/var/run/secrets"}],
        "livenessProbe": probe,
        "readinessProbe": probe,
        "imagePullPolicy": "IfNotPresent",
    }


def _managed(manager: str, names: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        f"f:{name}": {".": {}, "f:lastTransitionTime": {}, "f:status": {}, "f:type": {}} for name in names
    }
    return {
        "manager": manager,
        "operation": "Update",
        "apiVersion": "v1",
        "time": "2026-11-24T16:00:00Z",
        "fieldsType": "FieldsV1",
        "fieldsV1": {"f:metadata": {"f:labels": fields}, "f:status": {"f:conditions": fields}},
    }


def write(folder: Path, number: int) -> int:
    """Write the pages; return their bytes."""
    size = 0
    for first in range(0, number, PAGE):
        items = [pod(index) for index in range(first, min(first + PAGE, number))]
        page = {"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items}
        size += (folder / f"{first:08d}.json").write_bytes(json.dumps(page, separators=(",", ":")).encode())
    return size


def pages(folder: Path) -> Iterator[bytes]:
    """Return the pages, one after the other."""
    return (path.read_bytes() for path in sorted(folder.glob("*.json")))


def product(folder: Path) -> dict[str, Any]:
    """Read the pages as the reflector does."""
    projection, store = Projection(PODS), Store(identified=False)
    before, began = resident(), time.process_time()
    store.replace(item for page in pages(folder) for item in projection.page(page).items)
    seconds = time.process_time() - began
    return {"seconds": seconds, "kept": resident() - before, "objects": len(store)}


class _Answer:
    """What the typed client takes its text from."""

    def __init__(self, content: bytes) -> None:
        self.data = content.decode()


def typed(folder: Path) -> dict[str, Any]:
    """Read the pages with the typed client."""
    from kubernetes_asyncio.client import ApiClient, Configuration  # noqa: PLC0415 - the control alone needs it

    read = ApiClient.deserialize
    client = ApiClient.__new__(ApiClient)
    client.configuration = Configuration()
    kept: list[Any] = []
    before, began = resident(), time.process_time()
    for page in pages(folder):
        kept += read(client, _Answer(page), "V1PodList").items  # type: ignore[arg-type] # it reads `data` alone
    seconds = time.process_time() - began
    return {"seconds": seconds, "kept": resident() - before, "objects": len(kept)}


def main() -> None:
    """Answer `product` and `typed`, each in a process of its own."""
    folder = Path(arguments()["folder"])
    for request in requests():
        answer(**(product(folder) if request["do"] == "product" else typed(folder)))


if __name__ == "__main__":
    main()
