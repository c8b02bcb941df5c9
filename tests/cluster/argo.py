"""A replay of what Argo Rollouts asks of the API server when it drives a TrafficSplit; it is not Argo itself.

Written from the observable contract (get, create with a controller reference, merge patch of what differs in `spec`),
for the three versions of the split API that it can be told to use. It reads back no more than the fields it wrote.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
GROUP = "split.smi-spec.io"


class Api(Protocol):
    """What can be asked, such as a `ControlPlane`. A refusal is an exception with a `status`."""

    def request(self, method: str, path: str, body: object = None, content_type: str = JSON) -> Any:
        """Return the decoded answer."""


class NotOwnedError(Exception):
    """The split has another controller: Argo leaves it alone and reports an error."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """The parts of a Rollout that its SMI routing reads."""

    namespace: str
    name: str
    uid: str
    canary: str
    stable: str
    root: str = ""
    split: str = ""


class ArgoRollouts:
    """Sets weights as the controller does, in one version of the split API."""

    def __init__(self, api: Api, version: str = "v1alpha1") -> None:
        self._api = api
        self._version = version

    def set_weight(self, rollout: Rollout, weight: int, experiments: Mapping[str, int] | None = None) -> str:
        """Create or patch the split and say which: `created`, `patched` or `unmodified`."""
        wanted = self._spec(rollout, weight, experiments or {})
        name = rollout.split or rollout.name
        path = f"/apis/{GROUP}/{self._version}/namespaces/{rollout.namespace}/trafficsplits"
        try:
            existing = self._api.request("GET", f"{path}/{name}")
        except Exception as refusal:
            if getattr(refusal, "status", 0) != 404:
                raise
            self._api.request("POST", path, self._new(rollout, name, wanted))
            return "created"
        owners = existing["metadata"].get("ownerReferences", [])
        if not any(each.get("controller") and each["uid"] == rollout.uid for each in owners):
            raise NotOwnedError(name)
        known = _as_its_types_read(existing["spec"])
        patch = {field: value for field, value in wanted.items() if known.get(field) != value}
        if not patch:
            return "unmodified"
        self._api.request("PATCH", f"{path}/{name}", {"spec": patch}, MERGE_PATCH)
        return "patched"

    def _spec(self, rollout: Rollout, weight: int, experiments: Mapping[str, int]) -> dict[str, Any]:
        weights = {rollout.canary: weight, **experiments}
        weights[rollout.stable] = 100 - sum(weights.values())
        quantity = str if self._version == "v1alpha1" else int
        return {
            "service": rollout.root or rollout.stable,
            "backends": [{"service": name, "weight": quantity(share)} for name, share in weights.items()],
        }

    def _new(self, rollout: Rollout, name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
        owner = {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Rollout",
            "name": rollout.name,
            "uid": rollout.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }
        meta = {"name": name, "namespace": rollout.namespace, "creationTimestamp": None, "ownerReferences": [owner]}
        return {"apiVersion": f"{GROUP}/{self._version}", "kind": "TrafficSplit", "metadata": meta, "spec": dict(spec)}


def _as_its_types_read(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a typed client keeps of a spec: unknown fields are lost, also those of a backend."""
    backends = [{"service": each["service"], "weight": each.get("weight")} for each in spec.get("backends", [])]
    return {"service": spec.get("service"), "backends": backends}
