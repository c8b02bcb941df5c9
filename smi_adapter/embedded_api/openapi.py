"""OpenAPI v3 documents: what `kubectl explain` prints, and how kubectl learns that we check fields ourselves.

SMI kinds come from their CRDs; Kubernetes' own kinds from `kubernetes_forms`, where only what matters without a cluster
has a description. No document offers strategic merge patches: kubectl then uses
the merge keys that it has built in.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from smi_adapter.embedded_api import kubernetes_forms
from smi_adapter.embedded_api.kinds import Kind, crd_version, groups, kinds

_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
_QUERY = ("dryRun", "fieldManager", "fieldValidation", "force")

_INFO = {"title": "smi-adapter without a cluster", "version": "v1"}
V2 = {"swagger": "2.0", "info": _INFO, "paths": {}}
V2_PROTOBUF = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
"""How the answer is called; clients ask with an `@` before the version, which no media type may have."""


@cache
def index() -> dict[str, Any]:
    """Return which documents there are."""
    paths = {}
    for group, versions in groups().items():
        for version in versions:
            path = f"apis/{group}/{version}" if group else f"api/{version}"
            paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}"}
    return {"paths": paths}


@cache
def document(group: str, version: str) -> dict[str, Any] | None:
    """Return the document of one group and version, None if it is not served."""
    served = [kind for kind in kinds() if kind.group == group and version in kind.versions]
    if not served:
        return None
    schemas: dict[str, Any] = {_META: kubernetes_forms.OBJECT_META}
    paths: dict[str, Any] = {}
    for kind in served:
        schemas[_name(kind, version)] = _schema(kind, version)
        base = f"/apis/{group}/{version}" if group else f"/api/{version}"
        place = f"{base}/namespaces/{{namespace}}/{kind.plural}" if kind.namespaced else f"{base}/{kind.plural}"
        paths[place] = {method: _operation(kind, version, method) for method in ("get", "post")}
        paths[f"{place}/{{name}}"] = {
            method: _operation(kind, version, method) for method in ("get", "put", "patch", "delete")
        }
    return {
        "openapi": "3.0.0",
        "info": _INFO,
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _gvk(kind: Kind, version: str) -> dict[str, str]:
    return {"group": kind.group, "version": version, "kind": kind.name}


def _name(kind: Kind, version: str) -> str:
    reverse = ".".join(reversed(kind.group.split("."))) if kind.group else "io.k8s.api.core"
    return f"{reverse}.{version}.{kind.name}"


def _operation(kind: Kind, version: str, method: str) -> dict[str, Any]:
    action = {"get": "get", "post": "post", "put": "put", "patch": "patch", "delete": "delete"}[method]
    reference = {"schema": {"$ref": f"#/components/schemas/{_name(kind, version)}"}}
    operation: dict[str, Any] = {
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": _gvk(kind, version),
        "responses": {"200": {"description": "OK", "content": {"application/json": reference}}},
    }
    if method in {"post", "put", "patch"}:
        operation["parameters"] = [{"name": name, "in": "query", "schema": {"type": "string"}} for name in _QUERY]
        types = ("application/merge-patch+json", "application/apply-patch+yaml") if method == "patch" else ("*/*",)
        operation["requestBody"] = {"content": {one: reference if method != "patch" else {} for one in types}}
    return operation


def _schema(kind: Kind, version: str) -> dict[str, Any]:
    if kind.smi:
        found = dict(crd_version(kind, version)["schema"]["openAPIV3Schema"])
    else:
        found = dict(kubernetes_forms.schema_of(kind.name))
    properties = dict(found.get("properties", {}))
    properties["metadata"] = {
        "description": "Name, namespace, labels and annotations of the object.",
        "allOf": [{"$ref": f"#/components/schemas/{_META}"}],
        "default": {},
    }
    return {**found, "properties": properties, "x-kubernetes-group-version-kind": [_gvk(kind, version)]}
