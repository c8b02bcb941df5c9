"""The CRDs of the SMI kinds, generated from `schemas/`.

A schema says what a manifest of one version may hold; this package turns it into what an API server wants to know:
one CustomResourceDefinition a kind with all its versions served at once. Each version lists the fields of all (ADR 5),
so that what was written under one name comes back whole under another. Only what no schema says stands here: plurals,
short names, columns, and which version is stored (ADR 19). `tools/make_crds.py` writes the result into the Helm chart,
`smi-adapter crds` compares and applies it; no input or output here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

from smi_adapter.crds.status import status_schema
from smi_adapter.crds.structural import structural_form
from smi_adapter.smi import schema

Crd: TypeAlias = dict[str, Any]

STORED = "v1alpha4"
"""The version that new CRDs store (ADR 19)."""

PART_OF = ("app.kubernetes.io/part-of", "smi-adapter")
"""The label of a CRD that is ours, or that ours were merged into."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of `kubectl get`."""

    name: str
    path: str
    type: str = "string"
    priority: int = 0

    def as_data(self) -> dict[str, Any]:
        """Return the column as a CRD holds it; priority 1 is shown with `-o wide` only."""
        data: dict[str, Any] = {"name": self.name, "type": self.type, "jsonPath": self.path}
        return data | ({"priority": self.priority} if self.priority else {})


def _condition(kind: str) -> Column:
    return Column(kind, f'.status.conditions[?(@.type=="{kind}")].status')


_AGE = Column("Age", ".metadata.creationTimestamp", "date")
_VERDICT = (_condition("Accepted"), _condition("Programmed"), _AGE)


@dataclass(frozen=True, slots=True)
class _Names:
    """How people call a kind, and what they see of it in a list."""

    plural: str
    short: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()


# Of several results the API server prints the first only, so a list is shown as a whole rather than by the names in it.
# `..` looks at any depth: the same column finds `spec.destination` and the `destination` of v1alpha1, whichever of the
# two an object was written with.
_NAMES: Mapping[str, _Names] = MappingProxyType(
    {
        "HTTPRouteGroup": _Names("httproutegroups", ("htr",)),
        "IdentityBinding": _Names("identitybindings"),
        "TCPRoute": _Names("tcproutes", (), (Column("Ports", ".spec.matches.ports"),)),
        "TrafficSplit": _Names(
            "trafficsplits",
            ("ts",),
            (Column("Service", ".spec.service"), Column("Backends", ".spec.backends")),
        ),
        "TrafficTarget": _Names(
            "traffictargets",
            ("tt",),
            (Column("Destination", "..destination.name"), Column("Sources", "..sources")),
        ),
        "UDPRoute": _Names("udproutes", (), (Column("Ports", ".spec.matches.ports"),)),
    }
)


def definitions() -> tuple[Crd, ...]:
    """Return the CRDs of all kinds, by name. The caller may change them: nothing in them is shared."""
    made = sorted((_definition(group, kind) for group, kind in schema.served()), key=name_of)
    return tuple(json.loads(json.dumps(made)))


def name_of(crd: Mapping[str, Any]) -> str:
    """Return a CRD's name, such as trafficsplits.split.smi-spec.io."""
    name: str = crd["metadata"]["name"]
    return name


def plural(kind: str) -> str:
    """Return the plural that the API server's paths use; KeyError for a kind that is not SMI's."""
    return _NAMES[kind].plural


def _definition(group: str, kind: str) -> Crd:
    names = _NAMES[kind]
    label, value = PART_OF
    spoken: dict[str, Any] = {
        "kind": kind,
        "listKind": f"{kind}List",
        "plural": names.plural,
        "singular": kind.lower(),
        "categories": ["smi"],
    }
    if names.short:
        spoken["shortNames"] = list(names.short)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names.plural}.{group}", "labels": {label: value}},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": spoken,
            "conversion": {"strategy": "None"},
            "versions": [_version(group, kind, version) for version in schema.served()[group, kind]],
        },
    }


def _version(group: str, kind: str, version: str) -> dict[str, Any]:
    return {
        "name": version,
        "served": True,
        "storage": version == STORED,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [column.as_data() for column in (*_NAMES[kind].columns, *_VERDICT)],
        "schema": {"openAPIV3Schema": _root(schema.document((group, version, kind)))},
    }


def _root(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a whole object: the API server itself knows apiVersion, kind and metadata."""
    properties: dict[str, Any] = {
        "apiVersion": {"type": "string", "description": document["properties"]["apiVersion"]["description"]},
        "kind": {"type": "string", "description": document["properties"]["kind"]["description"]},
        "metadata": {"type": "object"},
    }
    body = {name: one for name, one in document["properties"].items() if name not in {*properties, "status"}}
    required = [name for name in document["required"] if name in body]
    root = structural_form({**document, "properties": body, "required": required})
    if not required:
        del root["required"]
    root["properties"] = properties | root["properties"] | {"status": status_schema()}
    return root
