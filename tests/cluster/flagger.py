"""The real Flagger against a test's control plane, advanced step by step.

Flagger looks at a canary every `analysis.interval`, 10 s at least; but a change of that interval makes it look at once.
So the interval here is far longer than any test, and `tick` changes it a little: each tick is one look.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from tests.cluster.control_plane import ADMINS, MERGE, ControlPlane
from tests.cluster.program import Program, ProgramError
from tests.tools import binary, module_folder

GROUP = "/apis/flagger.app/v1beta1"


class Flagger:
    """A running Flagger. Its provider is that of each Canary (`spec.provider`)."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self.plane = plane
        self._intervals = itertools.cycle(("100000s", "100001s"))
        self._program = Program(
            "flagger",
            [
                str(binary("flagger", "flagger")),
                f"-kubeconfig={plane.user('flagger', ADMINS)}",
                "-control-loop-interval=50ms",
                "-enable-config-tracking=false",
                "-metrics-server=http://127.0.0.1:1",  # nobody: the analyses here have no metrics
                "-port=0",
            ],
            folder,
        )

    def __enter__(self) -> Self:
        crds = module_folder("github.com/fluxcd/flagger", "flagger") / "artifacts" / "flagger" / "crd.yaml"
        self.plane.apply(*(each for each in yaml.safe_load_all(crds.read_text()) if each))
        self._program.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._program.stop()

    def log(self) -> str:
        """Return what it has written."""
        return self._program.log()

    def status(self, namespace: str, name: str) -> dict[str, Any]:
        """Return the status of a Canary: `phase`, `canaryWeight`, `failedChecks` and more."""
        found: dict[str, Any] = self.plane.get(f"{GROUP}/namespaces/{namespace}/canaries/{name}").get("status", {})
        return found

    def tick(self, namespace: str, name: str) -> None:
        """Make it look at a Canary once, soon."""
        analysis = {"spec": {"analysis": {"interval": next(self._intervals)}}}
        self.plane.request("PATCH", f"{GROUP}/namespaces/{namespace}/canaries/{name}", analysis, MERGE)

    def advance(self, namespace: str, name: str, goal: Mapping[str, object], meanwhile: Callable[[], None]) -> None:
        """Tick until the Canary's status holds the goal. A tick that finds something unfinished changes nothing."""
        deadline = time.monotonic() + 120
        while not goal.items() <= self.status(namespace, name).items():
            self._program.check()
            if time.monotonic() > deadline:
                raise ProgramError(
                    f"the canary does not come to {dict(goal)}: {self.status(namespace, name)}\n{self._program.tail()}"
                )
            meanwhile()
            before = self.status(namespace, name)
            self.tick(namespace, name)
            patience = time.monotonic() + 1
            while time.monotonic() < patience and self.status(namespace, name) == before:
                time.sleep(0.05)


def canary(name: str, provider: str, port: int, target_port: int) -> dict[str, Any]:
    """Return a Canary for the Deployment of the same name: half, then all, then promoted; no metrics."""
    return {
        "apiVersion": "flagger.app/v1beta1",
        "kind": "Canary",
        "metadata": {"name": name},
        "spec": {
            "provider": provider,
            "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "service": {"port": port, "targetPort": target_port},
            "analysis": {"interval": "100000s", "threshold": 3, "maxWeight": 100, "stepWeight": 50},
        },
    }
