"""A fake in the place of scheduler and kubelet: says of pods that they run and are ready. Nothing runs.

With kube-controller-manager beside it, Deployments, ReplicaSets and EndpointSlices are those of a real cluster. Pods
are never bound to a node, so the API server removes a deleted one at once.
"""

from __future__ import annotations

import datetime as dt
import itertools
from typing import Any

from tests.cluster.control_plane import MERGE, ControlPlane, RequestError


class Kubelet:
    """Gives each pod an address of 10.77/16 that nobody has, and calls it ready."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._numbers = itertools.count(1)

    def address(self) -> str:
        """Return the address for the next pod."""
        number = next(self._numbers)
        return f"10.77.{number // 250}.{number % 250 + 1}"

    def settle(self, namespace: str) -> None:
        """Wait until every Deployment of the namespace has the pods that it wants, all ready."""
        self._plane.wait_for(lambda: self.is_settled(namespace))

    def is_settled(self, namespace: str) -> bool:
        """Make new pods ready, then tell whether the Deployments know."""
        for pod in self._plane.get(f"/api/v1/namespaces/{namespace}/pods")["items"]:
            if not pod["status"].get("podIP"):
                self._make_ready(pod)
        found = self._plane.get(f"/apis/apps/v1/namespaces/{namespace}/deployments")["items"]
        return all(_is_complete(deployment) for deployment in found)

    def _make_ready(self, pod: dict[str, Any]) -> None:
        meta, address = pod["metadata"], self.address()
        now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        conditions = [
            {"type": each, "status": "True", "lastTransitionTime": now}
            for each in ("PodScheduled", "Initialized", "ContainersReady", "Ready")
        ]
        status = {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "startTime": now,
            "conditions": conditions,
        }
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/status"
        try:
            self._plane.request("PATCH", path, {"status": status}, MERGE)
        except RequestError as refusal:
            if refusal.status not in {404, 409}:  # a controller was faster
                raise


def _is_complete(deployment: dict[str, Any]) -> bool:
    wanted, status = deployment["spec"]["replicas"], deployment.get("status", {})
    counts = [status.get(each, 0) for each in ("replicas", "updatedReplicas", "availableReplicas")]
    return bool(status.get("observedGeneration") == deployment["metadata"]["generation"] and counts == [wanted] * 3)
