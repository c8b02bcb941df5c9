"""OpenAPI v3 documents: what `kubectl explain` prints, and how kubectl learns that we check fields ourselves.

SMI kinds come from `schemas/`, reduced to what OpenAPI can say; Kubernetes' own kinds from `kubernetes_forms`, where
only what matters without a cluster has a description. No document offers strategic merge patches: kubectl then uses
the merge keys that it has built in.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from smi_adapter.embedded_api import kubernetes_forms
from smi_adapter.embedded_api.kinds import Kind, groups, kinds
from smi_adapter.smi import schema

_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
_KEPT = frozenset(
    {"description", "type", "enum", "required", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems",
     "pattern", "x-kubernetes-preserve-unknown-fields"}
)  # fmt: skip
_QUERY = ("dryRun", "fieldManager", "fieldValidation", "force")


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
        "info": {"title": "smi-adapter without a cluster", "version": "v1"},
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
        found = _reduced(schema.document((kind.group, version, kind.name)))
    else:
        found = dict(kubernetes_forms.schema_of(kind.name))
    properties = dict(found.get("properties", {}))
    properties["metadata"] = {
        "description": "Name, namespace, labels and annotations of the object.",
        "allOf": [{"$ref": f"#/components/schemas/{_META}"}],
        "default": {},
    }
    return {**found, "properties": properties, "x-kubernetes-group-version-kind": [_gvk(kind, version)]}


def _reduced(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON schema in the words of OpenAPI; what it can't say is left to the server's own check."""
    kept = {name: one for name, one in found.items() if name in _KEPT}
    if isinstance(found.get("type"), list):
        kept["type"] = next(one for one in found["type"] if one != "null")
        kept["nullable"] = "null" in found["type"]
    if "enum" in kept:
        kept["enum"] = [one for one in kept["enum"] if one is not None]
    if "const" in found:
        kept["enum"] = [found["const"]]
    if "type" not in kept:
        kept["x-kubernetes-preserve-unknown-fields"] = True
    if "properties" in found:
        kept["properties"] = {name: _reduced(one) for name, one in found["properties"].items()}
    if "items" in found:
        kept["items"] = _reduced(found["items"])
    if isinstance(found.get("additionalProperties"), Mapping):
        kept["additionalProperties"] = _reduced(found["additionalProperties"])
    return kept
