"""The schema of `status`, the same for every kind and version.

It is no part of `schemas/`: nobody writes a status into a file. Conditions are a list-map by `type`, so that two
writers own one condition each under server-side apply. Fields that are not named here are kept, because a foreign
controller may have a status of its own on the same object.
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
            "observedGeneration": {
                "description": "The metadata.generation that this status is about.",
                "type": "integer",
                "format": "int64",
                "minimum": 0,
            },
            "conditions": {
                "description": "Accepted, ResolvedRefs, Programmed, PartiallyTranslated, Conflicted: an entry each.",
                "type": "array",
                "maxItems": 32,
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
                "items": _condition(),
            },
        },
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
            "observedGeneration": {
                "description": "The metadata.generation that the statement is about.",
                "type": "integer",
                "format": "int64",
                "minimum": 0,
            },
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
