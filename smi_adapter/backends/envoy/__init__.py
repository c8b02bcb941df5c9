"""The Envoy backend: a Mesh as delta-xDS resources for a fleet of Envoys.

`render` makes the parts (`routes`, `clusters`, `listeners`, `inbound`), `access` alone makes what permits, `lint`
looks for the ways in which Envoy would quietly allow everything, `bootstrap` is what an Envoy starts with. All of it
is pure; delivery is the core's. Facts about Envoy are in docs and ADRs 11 to 16.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from smi_adapter.backends import Change
from smi_adapter.backends.envoy.accesslog import AccessLog
from smi_adapter.backends.envoy.render import EnvoyConfig, render
from smi_adapter.mesh import Feature, Mesh

__all__ = ["BACKEND", "AccessLog", "EnvoyBackend", "EnvoyConfig"]


@dataclass(frozen=True, slots=True)
class EnvoyBackend:
    """The backend's contract (`smi_adapter.backends.Backend`) and its one choice: where proxies write access logs."""

    name: str = "envoy"
    features: frozenset[Feature] = frozenset(Feature)
    access_log: AccessLog = field(default_factory=AccessLog)

    def render(self, mesh: Mesh, change: Change | None = None) -> EnvoyConfig:
        """Return the config of the whole Mesh; with `change` its cost is that of what changed."""
        return render(mesh, change, self.access_log)


BACKEND = EnvoyBackend()
