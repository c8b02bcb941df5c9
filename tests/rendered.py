"""Reads back what the Envoy backend rendered."""

from __future__ import annotations

from typing import Any

from smi_adapter.backends import Part, Resource
from smi_adapter.backends.envoy import EnvoyConfig, names
from smi_adapter.envoy_api import TYPE_URL_PREFIX, message


def parse(resource: Resource) -> Any:
    return message(resource.type_url.removeprefix(TYPE_URL_PREFIX)).FromString(resource.body)


def found(config: EnvoyConfig, part: Part, message_name: str, name: str) -> Any:
    """Return one rendered message; KeyError if there is none."""
    for resource in config.parts[part]:
        if (resource.type_url, resource.name) == (names.type_url(message_name), name):
            return parse(resource)
    raise KeyError(name)
