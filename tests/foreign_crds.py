"""CRDs as other meshes leave them in a cluster: their names and versions, with small schemas of our own.

Which versions each serves and stores is from their releases; everything else is reduced to what matters when ours are
put beside them: no status subresource, few checks, one or two versions, perhaps a conversion webhook.
"""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

SPLIT = ("split.smi-spec.io", "TrafficSplit", "trafficsplits", "ts")
TARGET = ("access.smi-spec.io", "TrafficTarget", "traffictargets", "tt")
GROUP = ("specs.smi-spec.io", "HTTPRouteGroup", "httproutegroups", "htr")
TCP = ("specs.smi-spec.io", "TCPRoute", "tcproutes", "tr")

# mesh -> kind -> (served, not served, stored)
MESHES: Mapping[str, Mapping[tuple[str, str, str, str], tuple[tuple[str, ...], tuple[str, ...], str]]] = (
    MappingProxyType(
        {
            "osm": {
                SPLIT: (("v1alpha2",), ("v1alpha1", "v1alpha3", "v1alpha4"), "v1alpha2"),
                TARGET: (("v1alpha3",), ("v1alpha1", "v1alpha2"), "v1alpha3"),
                GROUP: (("v1alpha4",), ("v1alpha1", "v1alpha2", "v1alpha3"), "v1alpha4"),
                TCP: (("v1alpha4",), ("v1alpha1", "v1alpha2", "v1alpha3"), "v1alpha4"),
            },
            "traefik-mesh": {
                SPLIT: (("v1alpha3",), (), "v1alpha3"),
                TARGET: (("v1alpha2",), (), "v1alpha2"),
                GROUP: (("v1alpha3",), (), "v1alpha3"),
                TCP: (("v1alpha3",), (), "v1alpha3"),
            },
            "linkerd-smi": {SPLIT: (("v1alpha1", "v1alpha2"), (), "v1alpha1")},
            "nginx": {
                SPLIT: (("v1alpha3",), (), "v1alpha3"),
                TARGET: (("v1alpha2",), (), "v1alpha2"),
                GROUP: (("v1alpha3",), (), "v1alpha3"),
                TCP: (("v1alpha3",), (), "v1alpha3"),
            },
            "smi-sdk-go": {
                SPLIT: (("v1alpha4",), ("v1alpha1", "v1alpha2", "v1alpha3"), "v1alpha4"),
                TARGET: (("v1alpha3",), ("v1alpha1", "v1alpha2"), "v1alpha3"),
                GROUP: (("v1alpha4",), ("v1alpha1", "v1alpha2", "v1alpha3"), "v1alpha4"),
                TCP: (("v1alpha4",), ("v1alpha1", "v1alpha2", "v1alpha3"), "v1alpha4"),
            },
        }
    )
)


def crds(mesh: str) -> list[dict[str, Any]]:
    """Return the CRDs of a mesh."""
    return [_crd(mesh, kind, *versions) for kind, versions in MESHES[mesh].items()]


LOSSY = (
    ("traffictargets.access.smi-spec.io", "spec.destination.port"),
    ("traffictargets.access.smi-spec.io", "spec.rules.matches"),
    ("httproutegroups.specs.smi-spec.io", "spec.matches.headers"),
    ("tcproutes.specs.smi-spec.io", "spec.matches.ports"),
    ("trafficsplits.split.smi-spec.io", "spec.matches"),
)
"""Fields that restrict, each listed in some version of its kind and not in another: a CRD may lack any of them."""


def lossy(mesh: str) -> list[dict[str, Any]]:
    """Return the CRDs of a mesh without the fields of `LOSSY`: what is applied with them loses them in silence."""
    found: list[dict[str, Any]] = json.loads(json.dumps(crds(mesh)))
    for crd in found:
        for name, path in LOSSY:
            if name == crd["metadata"]["name"]:
                for version in crd["spec"]["versions"]:
                    _without(version["schema"]["openAPIV3Schema"], path.split("."))
    return found


def _without(schema: dict[str, Any], path: list[str]) -> None:
    for step in path[:-1]:
        schema = schema.get("items", schema)["properties"][step]
    del schema.get("items", schema)["properties"][path[-1]]


def gateway_api() -> list[dict[str, Any]]:
    """Return stand-ins for the kinds of the Gateway API that our backend writes."""
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema = {"openAPIV3Schema": _object(spec=anything, status=anything)}
    group, why = "gateway.networking.k8s.io", "api-approved.kubernetes.io"
    return [
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"{plural}.{group}", "annotations": {why: "unapproved, a stand-in for tests"}},
            "spec": {
                "group": group,
                "scope": "Namespaced",
                "names": {"kind": kind, "plural": plural},
                "versions": [{"name": version, "served": True, "storage": True, "schema": schema}],
            },
        }
        for kind, plural, version in (("HTTPRoute", "httproutes", "v1"), ("TCPRoute", "tcproutes", "v1alpha2"))
    ]


def _crd(
    mesh: str, kind: tuple[str, str, str, str], served: tuple[str, ...], unserved: tuple[str, ...], stored: str
) -> dict[str, Any]:
    group, name, plural, short = kind
    versions = [
        {
            "name": version,
            "served": version in served,
            "storage": version == stored,
            "schema": {"openAPIV3Schema": _SCHEMAS[name]},
        }
        for version in sorted({*served, *unserved})
    ]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}", "labels": {"app.kubernetes.io/name": mesh}},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {
                "kind": name,
                "listKind": f"{name}List",
                "plural": plural,
                "singular": name.lower(),
                "shortNames": [short],
            },
            "versions": versions,
        },
    }


_TEXT = {"type": "string"}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def _list(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item}


_IDENTITY = _object(kind=_TEXT, name=_TEXT, namespace=_TEXT, port={"type": "number"})
_SCHEMAS: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        "TrafficSplit": _object(
            spec=_object(
                service=_TEXT,
                backends=_list(_object(service=_TEXT, weight={"x-kubernetes-int-or-string": True})),
                matches=_list(_object(kind=_TEXT, name=_TEXT)),
            )
        ),
        "TrafficTarget": _object(
            spec=_object(
                destination=_IDENTITY,
                sources=_list(_IDENTITY),
                rules=_list(_object(kind=_TEXT, name=_TEXT, matches=_list(_TEXT))),
            )
        ),
        "HTTPRouteGroup": _object(
            spec=_object(
                matches=_list(
                    _object(
                        name=_TEXT,
                        pathRegex=_TEXT,
                        methods=_list(_TEXT),
                        headers=_list({"type": "object", "additionalProperties": _TEXT}),
                    )
                )
            )
        ),
        "TCPRoute": _object(spec=_object(matches=_object(name=_TEXT, ports=_list({"type": "integer"})))),
    }
)
