"""Response bytes without protobuf messages: each resource is serialised once, by its backend, and only copied here.

A DeltaDiscoveryResponse is its encoded fields one after the other, in any order, so ready bodies can be spliced into
one for any number of proxies. A test compares the parsed result with what the protobuf library makes. Numbers of
fields are those of envoy/service/discovery/v3/discovery.proto.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from smi_adapter.backends import Resource

# Tags: the number of a field, shifted by three, and 2 for "a length follows".
_TYPE, _NONCE, _REMOVED = b"\x22", b"\x2a", b"\x32"

_ONE_BYTE = [bytes([value]) for value in range(0x80)]


def response(type_url: str, nonce: str, resources: Iterable[Resource], removed: Iterable[str] = ()) -> bytes:
    """Return the bytes of a DeltaDiscoveryResponse."""
    pieces: list[bytes] = []
    for resource in resources:
        pieces.append(_head(resource.type_url, resource.name, resource.version, len(resource.body)))
        pieces.append(resource.body)
    pieces.append(_type(type_url))
    pieces.append(_text(_NONCE, nonce))
    pieces += [_text(_REMOVED, name) for name in removed]
    return b"".join(pieces)


def size(resource: Resource) -> int:
    """Return how many bytes a resource adds to a response."""
    return len(_head(resource.type_url, resource.name, resource.version, len(resource.body))) + len(resource.body)


@lru_cache(maxsize=2048)
def _head(type_url: str, name: str, version: str, length: int) -> bytes:
    """Return all of an encoded resource but its body, which comes last: version, name, and the Any around the body."""
    any_head = _text(b"\x0a", type_url) + b"\x12" + _varint(length)
    outer = _text(b"\x0a", version) + _text(b"\x1a", name) + b"\x12" + _varint(len(any_head) + length) + any_head
    return b"\x12" + _varint(len(outer) + length) + outer


@lru_cache(maxsize=32)
def _type(type_url: str) -> bytes:
    return _text(_TYPE, type_url)


def _text(tag: bytes, value: str) -> bytes:
    data = value.encode()
    return tag + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    if value < 0x80:
        return _ONE_BYTE[value]
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
