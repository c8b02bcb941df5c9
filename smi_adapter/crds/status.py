"""The schema of `status`, the same for every kind and version.

It is no part of `schemas/`: nobody writes a status into a file. Conditions are a list-map by `type` and backends one by
`name`, so that under server-side apply two adapters with different backends can share an object. Fields that are not
named here are kept: a newer controller may run beside older CRDs for the time of an upgrade.
"""

from __future__ import annotations

from typing import Any


def status_schema() -> dict[str, Any]:
    """Return the structural schema of the status of any SMI object."""
    return {
        "description": "Written by the controller: what became of this object. Never set it by hand.",
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": True,
        "properties": {
            "observedGeneration": _generation("The metadata.generation that this status is about."),
            "conditions": _conditions("What holds for all backends: Accepted, ResolvedRefs, Programmed and others."),
            "backends": {
                "description": "What each backend that renders this object makes of it.",
                "type": "array",
                "maxItems": 16,
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
                "items": {
                    "description": "One backend.",
                    "type": "object",
                    "required": ["name"],
                    "properties": {
                        "name": {
                            "description": "Name of the backend.",
                            "type": "string",
                            "minLength": 1,
                            "maxLength": 63,
                        },
                        "conditions": _conditions("What holds for this backend: Programmed and PartiallyTranslated."),
                    },
                },
            },
        },
    }


def _generation(description: str) -> dict[str, Any]:
    return {"description": description, "type": "integer", "format": "int64", "minimum": 0}


def _conditions(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "type": "array",
        "maxItems": 32,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": _condition(),
    }


def _condition() -> dict[str, Any]:
    return {
        "description": "One statement about this object.",
        "type": "object",
        "required": ["type", "status", "lastTransitionTime", "reason", "message"],
        "properties": {
            "type": {
                "description": "What is stated.",
                "type": "string",
                "minLength": 1,
                "maxLength": 316,
            },
            "status": {
                "description": "Whether it holds.",
                "type": "string",
                "enum": ["True", "False", "Unknown"],
            },
            "observedGeneration": _generation("The metadata.generation that the statement is about."),
            "lastTransitionTime": {
                "description": "When `status` last changed.",
                "type": "string",
                "format": "date-time",
            },
            "reason": {
                "description": "Why, in one word.",
                "type": "string",
                "minLength": 1,
                "maxLength": 1024,
                "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
            },
            "message": {
                "description": "Why, in a sentence; it begins with the code of the finding if there is one.",
                "type": "string",
                "maxLength": 32768,
            },
        },
    }
