"""The subresource `scale` of workloads, so that `kubectl scale` works: how many Pods there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smi_adapter.embedded_api.patches import PatchError


def scale_of(workload: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scale of a workload as it is served."""
    metadata = {
        name: one
        for name, one in workload["metadata"].items()
        if name in {"name", "namespace", "uid", "resourceVersion", "creationTimestamp"}
    }
    spec, status = workload.get("spec") or {}, workload.get("status") or {}
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": {"replicas": spec.get("replicas", 1)},
        "status": {"replicas": status.get("replicas", 0)},
    }


def scaled(workload: Mapping[str, Any], body: Any) -> dict[str, Any]:
    """Return a workload with the replicas of a scale that a client sent, whole or as a merge patch."""
    spec = body.get("spec") if isinstance(body, Mapping) else None
    replicas = spec.get("replicas") if isinstance(spec, Mapping) else None
    if not isinstance(replicas, int) or isinstance(replicas, bool) or replicas < 0:
        raise PatchError("spec.replicas must be a whole number of at least 0")
    metadata = dict(workload["metadata"])
    if revision := (body.get("metadata") or {}).get("resourceVersion"):
        metadata["resourceVersion"] = revision
    return {**workload, "metadata": metadata, "spec": {**workload["spec"], "replicas": replicas}}
