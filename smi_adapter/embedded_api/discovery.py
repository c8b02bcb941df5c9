"""The answers by which a client finds out what is served: versions, groups, resources."""

from __future__ import annotations

from typing import Any

from smi_adapter.decode.forms import NO_CLUSTER
from smi_adapter.embedded_api.kinds import Kind, groups, kinds

_MINOR = 36
VERSION = f"v1.{_MINOR}.0+smi-adapter"
"""The Kubernetes version that we say we are: clients look only at major and minor, and warn of one that is far away."""

_READ = ["get", "list", "watch"]
_WRITE = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]


def core_versions(address: str) -> dict[str, Any]:
    """Return the answer to /api."""
    servers = [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": servers}


def answer(parts: list[str]) -> dict[str, Any] | None:
    """Return the answers to /version, /apis and /apis/GROUP; None: there is no such path."""
    match parts:
        case ["version"]:
            return {"major": "1", "minor": str(_MINOR), "gitVersion": VERSION, "platform": NO_CLUSTER}
        case ["apis"]:
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(name) for name in groups() if name]}
        case ["apis", name] if name in groups():
            return {"kind": "APIGroup", "apiVersion": "v1", **_group(name)}
    return None


def _group(name: str) -> dict[str, Any]:
    versions = [{"groupVersion": f"{name}/{one}", "version": one} for one in groups()[name]]
    return {"name": name, "versions": versions, "preferredVersion": versions[0]}


def resources(group_name: str, wanted: str) -> dict[str, Any] | None:
    """Return the answer to /apis/GROUP/VERSION; None: it is not served."""
    if wanted not in groups().get(group_name, ()):
        return None
    served = [kind for kind in kinds() if kind.group == group_name and wanted in kind.versions]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group_name}/{wanted}" if group_name else wanted,
        "resources": [one for kind in served for one in _resources(kind)],
    }


def _resources(kind: Kind) -> list[dict[str, Any]]:
    common = {"singularName": "", "namespaced": kind.namespaced, "kind": kind.name}
    verbs = _WRITE if kind.writable else _READ
    found: list[dict[str, Any]] = [
        {
            **common,
            "name": kind.plural,
            "singularName": kind.name.lower(),
            "verbs": [verb for verb in verbs if kind.namespaced or verb != "deletecollection"],
            **({"shortNames": list(kind.short)} if kind.short else {}),
            **({"categories": list(kind.categories)} if kind.categories else {}),
        }
    ]
    if kind.smi:
        found.append({**common, "name": f"{kind.plural}/status", "verbs": ["get"]})
    if kind.scale:
        scale = {"group": "autoscaling", "version": "v1", "kind": "Scale"}
        found.append({**common, **scale, "name": f"{kind.plural}/scale", "verbs": ["get", "patch", "update"]})
    return found
