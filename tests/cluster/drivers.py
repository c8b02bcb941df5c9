"""Replays of what Argo Rollouts and Flagger ask of the API server when they drive a TrafficSplit; not the real ones.

Written from their observable contract: which calls they make, what they compare, and that a typed client loses each
field that its types do not have. They need no tools, so they run in the default tests, against the API without a
cluster too; the real Flagger is in `flagger.py`.
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
        return _spec(self._version, rollout.root or rollout.stable, weights)

    def _new(self, rollout: Rollout, name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
        owner = _controller("argoproj.io/v1alpha1", "Rollout", rollout.name, rollout.uid)
        meta = {"name": name, "namespace": rollout.namespace, "creationTimestamp": None, "ownerReferences": [owner]}
        return {"apiVersion": f"{GROUP}/{self._version}", "kind": "TrafficSplit", "metadata": meta, "spec": dict(spec)}


def _as_its_types_read(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a typed client keeps of a spec: unknown fields are lost, also those of a backend."""
    backends = [{"service": each["service"], "weight": each.get("weight")} for each in spec.get("backends", [])]
    return {"service": spec.get("service"), "backends": backends}


class NoRoutesError(Exception):
    """Both weights read as 0: Flagger stops there."""


@dataclass(frozen=True, slots=True)
class Canary:
    """The parts of a Canary that Flagger's SMI routing reads."""

    namespace: str
    name: str
    uid: str


class FlaggerRouter:
    """Keeps a split as Flagger's router does, in one version of the split API."""

    def __init__(self, api: Api, version: str = "v1alpha2") -> None:
        self._api = api
        self._version = version

    def reconcile(self, canary: Canary) -> str:
        """Do what each of its loops begins with: `created`, `kept`, or `reset` to 0/100 where anything else differs."""
        wanted = self._wanted(canary, 0)
        try:
            existing = self._api.request("GET", self._path(canary, canary.name))
        except Exception as refusal:
            if getattr(refusal, "status", 0) != 404:
                raise
            owner = _controller("flagger.app/v1beta1", "Canary", canary.name, canary.uid)
            named = {"name": canary.name, "namespace": canary.namespace}
            meta = {**named, "creationTimestamp": None, "ownerReferences": [owner]}
            self._api.request("POST", self._path(canary), self._typed(meta, wanted))
            return "created"
        if _without_weights(existing["spec"]) == _without_weights(wanted):
            return "kept"
        self._api.request("PUT", self._path(canary, canary.name), self._typed(existing["metadata"], wanted))
        return "reset"

    def set_routes(self, canary: Canary, weight: int) -> None:
        """Give the canary this weight and the primary the rest."""
        existing = self._api.request("GET", self._path(canary, canary.name))
        spec = _as_its_types_read(existing["spec"]) | {"backends": self._wanted(canary, weight)["backends"]}
        self._api.request("PUT", self._path(canary, canary.name), self._typed(existing["metadata"], spec))

    def routes(self, canary: Canary) -> tuple[int, int]:
        """Return the weights of primary and canary; a quantity that is no whole number in digits reads as 0."""
        split = self._api.request("GET", self._path(canary, canary.name))
        weights = {each["service"]: _as_int64(each.get("weight")) for each in split["spec"]["backends"]}
        found = weights.get(f"{canary.name}-primary", 0), weights.get(f"{canary.name}-canary", 0)
        if found == (0, 0):
            raise NoRoutesError(canary.name)
        return found

    def _wanted(self, canary: Canary, weight: int) -> dict[str, Any]:
        weights = {f"{canary.name}-canary": weight, f"{canary.name}-primary": 100 - weight}
        return _spec(self._version, canary.name, weights)

    def _path(self, canary: Canary, name: str = "") -> str:
        path = f"/apis/{GROUP}/{self._version}/namespaces/{canary.namespace}/trafficsplits"
        return f"{path}/{name}" if name else path

    def _typed(self, metadata: Mapping[str, Any], spec: Mapping[str, Any]) -> dict[str, Any]:
        """Return the object as its types write it: no status, and nothing of `spec` that they do not know."""
        version = f"{GROUP}/{self._version}"
        return {"apiVersion": version, "kind": "TrafficSplit", "metadata": dict(metadata), "spec": dict(spec)}


def _spec(version: str, root: str, weights: Mapping[str, int]) -> dict[str, Any]:
    quantity = str if version == "v1alpha1" else int
    backends = [{"service": name, "weight": quantity(weight)} for name, weight in weights.items()]
    return {"service": root, "backends": backends}


def _controller(version: str, kind: str, name: str, uid: str) -> dict[str, Any]:
    owner = {"apiVersion": version, "kind": kind, "name": name, "uid": uid}
    return owner | {"controller": True, "blockOwnerDeletion": True}


def _without_weights(spec: Mapping[str, Any]) -> dict[str, Any]:
    backends = [each["service"] for each in spec.get("backends", [])]
    return {"service": spec.get("service"), "backends": backends, "matches": spec.get("matches") or []}


def _as_int64(weight: object) -> int:
    return int(weight) if isinstance(weight, int) or (isinstance(weight, str) and weight.isdigit()) else 0
