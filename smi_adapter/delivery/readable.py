"""An XdsConfig in words: what `translate --to envoy` prints and what golden files hold.

Slow and readable; the bytes that proxies get come from `xds/chunks.py` alone. It stands beside that package because
who prints needs no server, and gRPC takes its time to start.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from google.protobuf import json_format

from smi_adapter import envoy_api
from smi_adapter.backends import Resource, XdsConfig


def message(resource: Resource) -> dict[str, Any]:
    """Return the resource's message as plain data, fields named as in Envoy's documentation."""
    content = envoy_api.message(resource.type_url.removeprefix(envoy_api.TYPE_URL_PREFIX)).FromString(resource.body)
    # By way of text: MessageToDict leaves OrderedDicts inside, which YAML does not know, and maps in any order.
    text = json_format.MessageToJson(
        content, preserving_proto_field_name=True, sort_keys=True, descriptor_pool=envoy_api.pool()
    )
    plain: dict[str, Any] = json.loads(text)
    return plain


def readable(config: XdsConfig) -> Iterator[dict[str, Any]]:
    """Yield one document for each part, sorted: who sees it, and its resources by type and name."""
    viewers: dict[tuple[str, str, str], list[str]] = {}
    for workload, parts in config.scopes.items():
        for part in parts:
            viewers.setdefault(part, []).append("/".join(workload))
    for part, resources in sorted(config.parts.items()):
        yield {
            "part": "/".join(filter(None, part)),
            "seen_by": sorted(viewers.get(part, ())),
            "resources": [
                {"type": resource.type_url.rpartition(".")[2], "name": resource.name, "message": message(resource)}
                for resource in sorted(resources, key=lambda item: (item.type_url, item.name))
            ],
        }
