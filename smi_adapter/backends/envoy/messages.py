"""The door to Envoy's messages: nested dicts in, deterministic bytes and their hash out.

All other modules of this backend only make snake_case dicts (wrappers are `{"value": n}`, durations
`{"seconds": n}`); this one turns them into messages, so what Envoy's descriptors do not know fails here, by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from smi_adapter.backends import Resource
from smi_adapter.backends.envoy.names import EXTENSION, type_url
from smi_adapter.envoy_api import message, serialise, version_of
from smi_adapter.findings import Ref

Fields: TypeAlias = Mapping[str, Any]
"""The fields of a message, as its constructor takes them."""

V3: Final = "V3"

ADS: Final[Fields] = {"ads": {}, "resource_api_version": V3}
"""Where every resource comes from: the one stream that the bootstrap opens."""


def typed(message_name: str, fields: Fields | None = None) -> Fields:
    """Return a message packed as a google.protobuf.Any."""
    return {"type_url": type_url(message_name), "value": serialise(message(message_name)(**(fields or {})))}


def extension(name: str, message_name: str, fields: Fields | None = None) -> Fields:
    """Return a named extension (a filter, a transport socket, ...) with its configuration."""
    return {"name": name, "typed_config": typed(message_name, fields)}


def seconds(number: int) -> Fields:
    """Return a google.protobuf.Duration."""
    return {"seconds": number}


def value(number: int | bool) -> Fields:  # noqa: FBT001 - a protobuf wrapper of either
    """Return a protobuf wrapper, whose presence counts even where the number is 0."""
    return {"value": number}


def struct(content: Mapping[str, bool | str]) -> Any:
    """Return a google.protobuf.Struct: as a dict it would be read in one way as a field and in another in a map."""
    made = message("google.protobuf.Struct")()
    made.update(content)
    return made


def socket_address(address: str, port: int, *, udp: bool = False) -> Fields:
    """Return a core.v3.Address."""
    return {
        "socket_address": {"address": address, "port_value": port, "protocol": "UDP" if udp else "TCP"},
    }


def encode(message_name: str, fields: Fields) -> bytes:
    """Return the deterministic bytes of a message."""
    return serialise(message(message_name)(**fields))


def resource(
    message_name: str, fields: Fields, origins: tuple[Ref, ...] = (), closed: Fields | None = None
) -> Resource:
    """Return one xDS resource; its name is the message's own (a CLA calls it `cluster_name`)."""
    body = encode(message_name, fields)
    return Resource(
        type_url=type_url(message_name),
        name=fields.get("name") or fields["cluster_name"],
        body=body,
        version=version_of(body),
        origins=origins,
        closed=None if closed is None else encode(message_name, closed),
    )


def extension_resource(
    name: str, message_name: str, fields: Fields, origins: tuple[Ref, ...] = (), closed: Fields | None = None
) -> Resource:
    """Return one resource of the extension config discovery service (ECDS)."""
    return resource(
        EXTENSION,
        extension(name, message_name, fields),
        origins,
        None if closed is None else extension(name, message_name, closed),
    )


def discovered(name: str, message_name: str) -> Fields:
    """Return a network filter whose configuration comes by ECDS, so that its change closes no connection.

    There is no default: until it has come the connection is closed (fail closed).
    """
    return {"name": name, "config_discovery": {"config_source": ADS, "type_urls": [type_url(message_name)]}}
