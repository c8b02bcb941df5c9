"""The few bodies that kubectl sends as protobuf whatever a server prefers: `kubectl create namespace|serviceaccount`.

Only names, labels and annotations are read; for everything else the client is asked to send JSON, as `apply -f` does.
The numbers of fields are those of Kubernetes' published messages.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

MAGIC = b"k8s\x00"
_KINDS = frozenset({("v1", "Namespace"), ("v1", "ServiceAccount")})
_META = {1: "name", 2: "generateName", 3: "namespace"}
_MAPS = {11: "labels", 12: "annotations"}


class ProtobufError(ValueError):
    """The body is not one of those that are understood."""


def decoded(data: bytes) -> dict[str, Any]:
    """Return the object of a body; ProtobufError if it is none that can be read here."""
    try:
        if not data.startswith(MAGIC):
            raise ProtobufError("it does not begin as Kubernetes' protobuf does")
        envelope = dict(_fields(data[len(MAGIC) :]))
        names = dict(_fields(envelope[1]))
        api_version, kind = names[1].decode(), names[2].decode()
        if (api_version, kind) not in _KINDS:
            raise ProtobufError(f"a {kind} is read as JSON only; add `--dry-run=client -o yaml | kubectl apply -f -`")
        metadata = _metadata(dict(_fields(envelope[2]))[1])
    except (KeyError, IndexError, UnicodeDecodeError) as error:
        raise ProtobufError("it can't be read") from error
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata}


def _metadata(data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for number, value in _fields(data):
        if number in _META and value:
            found[_META[number]] = value.decode()
        elif number in _MAPS:
            pair = dict(_fields(value))
            found.setdefault(_MAPS[number], {})[pair.get(1, b"").decode()] = pair.get(2, b"").decode()
    return found


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the fields of a message that hold bytes; numbers are skipped."""
    at = 0
    while at < len(data):
        tag, at = _number(data, at)
        match tag & 7:
            case 0:
                _, at = _number(data, at)
            case 1:
                at += 8
            case 2:
                size, at = _number(data, at)
                if at + size > len(data):
                    raise IndexError
                yield tag >> 3, data[at : at + size]
                at += size
            case 5:
                at += 4
            case _:
                raise IndexError


def _number(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise IndexError
