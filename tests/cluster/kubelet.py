"""A fake in the place of scheduler and kubelet: says of pods that they run and are ready.

With kube-controller-manager beside it, Deployments, ReplicaSets and EndpointSlices are those of a real cluster. There
is one node, since an EndpointSlice takes no pod without one.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any, Final

from tests.cluster.control_plane import ControlPlane, RequestError

NODE: Final = "node-1"
Start = Callable[[Mapping[str, Any], str], None]


class Kubelet:
    """Gives each new pod an address of the control plane's, lets `start` run something there, and calls it ready."""

    def __init__(self, plane: ControlPlane, start: Start | None = None) -> None:
        self._plane = plane
        self._start = start
        with contextlib.suppress(RequestError):  # there from another test
            plane.request("POST", "/api/v1/nodes", {"metadata": {"name": NODE}})

    def settle(self, namespace: str) -> None:
        """Wait until every Deployment of the namespace has the pods that it wants, all ready."""
        self._plane.wait_for(lambda: self.is_settled(namespace))

    def is_settled(self, namespace: str) -> bool:
        """Run new pods and let go of deleted ones, then tell whether the Deployments know."""
        for pod in self._plane.get(f"/api/v1/namespaces/{namespace}/pods")["items"]:
            try:
                if pod["metadata"].get("deletionTimestamp"):
                    self._plane.request("DELETE", _path(pod), {"gracePeriodSeconds": 0})
                elif not pod["status"].get("podIP"):
                    self._run(pod)
            except RequestError as refusal:
                if refusal.status not in {404, 409}:  # a controller was faster
                    raise
        found = self._plane.get(f"/apis/apps/v1/namespaces/{namespace}/deployments")["items"]
        return all(_is_complete(deployment) for deployment in found)

    def _run(self, pod: dict[str, Any]) -> None:
        address = self._plane.addresses.next()
        if self._start:
            self._start(pod, address)
        if not pod["spec"].get("nodeName"):
            binding = {"metadata": {"name": pod["metadata"]["name"]}, "target": {"kind": "Node", "name": NODE}}
            self._plane.request("POST", f"{_path(pod)}/binding", binding)
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
        self._plane.patch_status(_path(pod), status)


def _path(pod: Mapping[str, Any]) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def _is_complete(deployment: dict[str, Any]) -> bool:
    wanted, status = deployment["spec"]["replicas"], deployment.get("status", {})
    counts = [status.get(each, 0) for each in ("replicas", "updatedReplicas", "availableReplicas")]
    return bool(status.get("observedGeneration") == deployment["metadata"]["generation"] and counts == [wanted] * 3)
