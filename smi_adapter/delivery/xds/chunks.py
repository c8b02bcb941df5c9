"""Response bytes without protobuf messages: each resource is serialised once, by its backend, and only copied here.

A DeltaDiscoveryResponse is its encoded fields one after the other, in any order, so ready bodies can be spliced into
one for any number of proxies. A test compares the parsed result with what the protobuf library makes. Numbers of
fields are those of envoy/service/discovery/v3/discovery.proto.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from smi_adapter.backends import Resource

_LENGTH_DELIMITED = 2


def response(type_url: str, nonce: str, resources: Iterable[Resource], removed: Iterable[str] = ()) -> bytes:
    """Return the bytes of a DeltaDiscoveryResponse."""
    pieces: list[bytes] = []
    for resource in resources:
        pieces.append(_head(resource.type_url, resource.name, resource.version, len(resource.body)))
        pieces.append(resource.body)
    pieces.append(_text(4, type_url))
    pieces.append(_text(5, nonce))
    pieces += [_text(6, name) for name in removed]
    return b"".join(pieces)


def size(resource: Resource) -> int:
    """Return how many bytes a resource adds to a response."""
    return len(_head(resource.type_url, resource.name, resource.version, len(resource.body))) + len(resource.body)


@lru_cache(maxsize=2048)
def _head(type_url: str, name: str, version: str, length: int) -> bytes:
    """Return all of an encoded resource but its body, which comes last: name, version, and the Any around the body."""
    any_head = _text(1, type_url) + _tag(2) + _varint(length)
    outer = _text(1, version) + _text(3, name) + _tag(2) + _varint(len(any_head) + length) + any_head
    return _tag(2) + _varint(len(outer) + length) + outer


def _tag(field: int) -> bytes:
    return _varint(field << 3 | _LENGTH_DELIMITED)


def _text(field: int, value: str) -> bytes:
    data = value.encode()
    return _tag(field) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
