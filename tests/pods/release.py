"""The chart as a user installs it, with the Helm of the Python environment, where Pod Security demands `restricted`."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import Any, Final

from tests.chart.rendering import CHART, HELM
from tests.cluster.node import Node
from tests.cluster.program import ProgramError

NAME: Final = "smi-adapter"
NAMESPACE: Final = "smi-system"
RESTRICTED: Final = {f"pod-security.kubernetes.io/{each}": "restricted" for each in ("enforce", "warn")}
TIMEOUT: Final = 300


@dataclass(frozen=True)
class Release:
    """One release; `arguments` are for Helm."""

    cluster: Node
    namespace: str = NAMESPACE

    def install(self, *arguments: str) -> str:
        """Install it into a new namespace and wait until its pods are ready."""
        self.cluster.plane.new_namespace(self.namespace, RESTRICTED)
        return self.helm("install", NAME, str(CHART), "--wait", "--timeout", f"{TIMEOUT}s", *arguments)

    def upgrade(self, *arguments: str) -> str:
        """Upgrade it and wait."""
        return self.helm("upgrade", NAME, str(CHART), "--wait", "--timeout", f"{TIMEOUT}s", *arguments)

    def remove(self) -> None:
        """Uninstall it and wait until its namespace is gone; CRDs and SMI objects stay."""
        self.helm("uninstall", NAME, "--wait", "--timeout", f"{TIMEOUT}s")
        self.cluster.plane.kubectl("delete", "namespace", self.namespace, "--wait=false")
        self.cluster.wait_for(lambda: not self.is_there(), f"the end of namespace {self.namespace}")

    def is_there(self) -> bool:
        """Tell whether its namespace exists."""
        items = self.cluster.plane.get("/api/v1/namespaces")["items"]
        return self.namespace in {each["metadata"]["name"] for each in items}

    def helm(self, *arguments: str) -> str:
        """Run Helm as admin and return what it says; a failure shows the state of the cluster."""
        environment = {**self.cluster.plane.environment(), "HELM_NAMESPACE": self.namespace}
        done = subprocess.run(
            [str(HELM), *arguments], env=environment, capture_output=True, text=True, timeout=TIMEOUT + 60, check=False
        )
        if done.returncode:
            raise ProgramError(
                f"helm {arguments[0]}: {done.stdout}{done.stderr}\n{self.logs()}\n{self.cluster.state()}"
            )
        return done.stdout + done.stderr

    def pods(self) -> list[dict[str, Any]]:
        """Return the controller's pods that are not on their way out."""
        path = f"/api/v1/namespaces/{self.namespace}/pods?labelSelector=app.kubernetes.io/name%3D{NAME}"
        return [each for each in self.cluster.plane.get(path)["items"] if not each["metadata"].get("deletionTimestamp")]

    def logs(self) -> str:
        """Return what the controller's pods wrote last."""
        selector = ("-l", f"app.kubernetes.io/name={NAME}", "--tail=60", "--prefix")
        return self.cluster.plane.kubectl("logs", "-n", self.namespace, *selector, check=False).stdout

    def leader(self) -> str:
        """Return who holds the Lease, or nothing."""
        path = f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases"
        held = [each["spec"].get("holderIdentity", "") for each in self.cluster.plane.get(path)["items"]]
        return next(filter(None, held), "")


def conditions(item: dict[str, Any]) -> dict[str, str]:
    """Return the conditions of an object."""
    return {each["type"]: each["status"] for each in item.get("status", {}).get("conditions", ())}
