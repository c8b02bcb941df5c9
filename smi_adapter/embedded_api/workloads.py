"""The status of workloads: how many of their Pods there are and are ready, as the Kubernetes controllers would say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smi_adapter.embedded_api.kinds import kinds
from smi_adapter.embedded_api.store import Entry, Store
from smi_adapter.findings import Ref


def statuses(store: Store) -> dict[Ref, Mapping[str, Any]]:
    """Return the status of every workload in the store."""
    of_owner: dict[tuple[str, str, str], list[Entry]] = {}
    served = {kind.name: kind for kind in kinds() if kind.group == "apps"}
    pods = next(kind for kind in kinds() if kind.name == "Pod")
    for entry in store.entries(pods):
        metadata = entry.raw.get("metadata") or {}
        for owner in metadata.get("ownerReferences") or ():
            if isinstance(owner, Mapping):
                of_owner.setdefault((entry.ref.namespace, str(owner.get("kind")), str(owner.get("name"))), []).append(
                    entry
                )
    return {
        entry.ref: _status(entry, of_owner.get((entry.ref.namespace, kind.name, entry.ref.name), []))
        for kind in served.values()
        for entry in store.entries(kind)
    }


def _status(entry: Entry, pods: list[Entry]) -> Mapping[str, Any]:
    wanted, ready = len(pods), sum(_ready(pod) for pod in pods)
    observed = {"observedGeneration": entry.book.generation}
    if entry.ref.kind == "DaemonSet":
        return {
            **observed,
            "currentNumberScheduled": wanted,
            "desiredNumberScheduled": wanted,
            "numberMisscheduled": 0,
            "numberReady": ready,
            "numberAvailable": ready,
            "updatedNumberScheduled": wanted,
        }
    counts = {"replicas": wanted, "readyReplicas": ready, "availableReplicas": ready}
    if entry.ref.kind == "ReplicaSet":
        return {**observed, **counts, "fullyLabeledReplicas": wanted}
    if entry.ref.kind == "StatefulSet":
        return {**observed, **counts, "currentReplicas": wanted, "updatedReplicas": wanted}
    available = _condition("Available", ready >= wanted, "MinimumReplicasAvailable", "MinimumReplicasUnavailable")
    progressing = _condition("Progressing", True, "NewReplicaSetAvailable", "")
    return {**observed, **counts, "updatedReplicas": wanted, "conditions": [available, progressing]}


def _condition(name: str, holds: bool, reason: str, otherwise: str) -> dict[str, Any]:  # noqa: FBT001
    return {"type": name, "status": "True" if holds else "False", "reason": reason if holds else otherwise}


def _ready(pod: Entry) -> bool:
    status = pod.raw.get("status") or {}
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in status.get("conditions") or ())
