"""A small mesh on a real API server: web may call api, and a split sends api's traffic to its second version."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

from smi_adapter.evaluate import Request
from tests.cluster.control_plane import ControlPlane
from tests.cluster.mesh import Mesh

ASKED = Request("spiffe://cluster.local/ns/shop/sa/web", ("shop", "api"), 80)
"""A request from web to api."""
API = ("shop", "api")
ROUTES = MappingProxyType(
    {
        "apiVersion": "specs.smi-spec.io/v1alpha4",
        "kind": "HTTPRouteGroup",
        "metadata": {"name": "all"},
        "spec": {"matches": [{"name": "all", "pathRegex": ".*", "methods": ["*"]}]},
    }
)


def target(name: str = "web-to-api") -> dict[str, Any]:
    """Return the TrafficTarget by which web may call api."""
    account = {"kind": "ServiceAccount", "namespace": "shop"}
    return {
        "apiVersion": "access.smi-spec.io/v1alpha4",
        "kind": "TrafficTarget",
        "metadata": {"name": name},
        "spec": {
            "destination": {**account, "name": "api"},
            "rules": [{"kind": "HTTPRouteGroup", "name": "all", "matches": ["all"]}],
            "sources": [{**account, "name": "web"}],
        },
    }


def workloads(plane: ControlPlane, folder: Path) -> Mesh:
    """Create the namespace `shop` with its accounts, Pods and Services, and no policy."""
    plane.new_namespace("shop")
    made = Mesh(plane, "shop", folder)
    for account in ("web", "api"):
        made.account(account)
    made.pod("web-1", "web", {"app": "web"})
    made.pod("api-1", "api", {"app": "api"})
    made.pod("api-2", "api", {"app": "api"})
    made.service("api", "api-1", selector={"app": "api"})
    made.service("api-v2", "api-2", selector={"app": "api"})
    return made


def policies(mesh: Mesh) -> None:
    """Apply the target, its routes and the split; the CRDs have to be there."""
    mesh.apply(dict(ROUTES), target())
    mesh.split("api", {"api-v2": 1})
