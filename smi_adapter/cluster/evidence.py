"""What a bug report needs to know of an installation: its objects and its logs, never a Secret."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from smi_adapter.cluster.client import ApiError, Client

_PART_OF: Final = "app.kubernetes.io/part-of=smi-adapter"
_LINES: Final = "2000"
_KINDS: Final = {
    "deployments": "/apis/apps/v1/deployments",
    "pods": "/api/v1/pods",
    "services": "/api/v1/services",
    "leases": "/apis/coordination.k8s.io/v1/leases",
    "webhooks": "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
}


async def installation(client: Client) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the objects of the installation by kind, and the ends of its logs by pod; or why one is missing."""
    objects: dict[str, Any] = {}
    for name, path in _KINDS.items():
        try:
            objects[name] = (await client.get(path, labelSelector=_PART_OF)).get("items") or []
        except ApiError as error:
            objects[name] = f"{error.status} {error.reason}"
    logs: dict[str, str] = {}
    for pod in objects["pods"] if isinstance(objects["pods"], list) else ():
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        logs[f"{namespace}_{name}"] = await _log(client, f"/api/v1/namespaces/{namespace}/pods/{name}/log")
    return objects, logs


async def _log(client: Client, path: str) -> str:
    try:
        return (await client.request("GET", path, query={"tailLines": _LINES})).decode("utf-8", "replace")
    except ApiError as error:
        return f"{error.status} {error.reason}: {error.message}"


async def events(client: Client, namespace: str = "") -> list[Mapping[str, Any]] | str:
    """Return the Events about SMI objects, or why there are none."""
    where = f"namespaces/{namespace}/" if namespace else ""
    try:
        found = (await client.get(f"/api/v1/{where}events", limit="500")).get("items") or []
    except ApiError as error:
        return f"{error.status} {error.reason}"
    return [one for one in found if "smi-spec.io" in str((one.get("involvedObject") or {}).get("apiVersion", ""))]
