"""Envoy's protobuf messages, from one descriptor set in a pool of their own.

A leaf that the Envoy backend, the xDS server and their tests share. The generated Python package for these messages
(xds-protos) takes over files of other packages and costs four times as long to import; `envoy.desc`, made from it by
`tools/make_descriptors.py`, can collide with nothing. The pool is private and complete: Any, Duration and the wrappers
come from it too, so never mix its messages with those of `google.protobuf`.

The set is loaded when the first message is asked for, not on import.
"""

from __future__ import annotations

from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeAlias

from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message

MessageType: TypeAlias = type[Any]
"""A message class; its fields are known at run time only, so its instances are `Any` to a type checker."""

TYPE_URL_PREFIX = "type.googleapis.com/"

_VERSION_BYTES = 10


@cache
def pool() -> DescriptorPool:
    """Return the private pool that holds all of `envoy.desc`."""
    loaded = DescriptorPool()
    data = Path(__file__).with_name("envoy.desc").read_bytes()
    for file in descriptor_pb2.FileDescriptorSet.FromString(data).file:
        loaded.Add(file)
    return loaded


@cache
def message(full_name: str) -> MessageType:
    """Return the class of a message, such as `envoy.config.route.v3.RouteConfiguration`; KeyError if it is unknown.

    Build one with `message(name)(**fields)`: nested messages as dicts, wrappers as `{"value": 5}`, enums by name.
    """
    return message_factory.GetMessageClass(pool().FindMessageTypeByName(full_name))


def serialise(content: Message) -> bytes:
    """Return the deterministic bytes: equal messages give equal bytes, in any process."""
    return content.SerializeToString(deterministic=True)


def type_url(full_name: str) -> str:
    """Return the name of a message as `google.protobuf.Any` and xDS write it."""
    return TYPE_URL_PREFIX + full_name


def pack(content: Message) -> Any:
    """Return a `google.protobuf.Any` of this pool that holds the message's deterministic bytes."""
    return message("google.protobuf.Any")(type_url=type_url(content.DESCRIPTOR.full_name), value=serialise(content))


def version_of(body: bytes) -> str:
    """Return a short hash of the bytes, used as their version.

    It depends on nothing else, so that every replica and every restart gives the same (envoy.md, section 5).
    """
    return blake2b(body, digest_size=_VERSION_BYTES).hexdigest()
