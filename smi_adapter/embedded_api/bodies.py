"""Bodies of requests as plain values, whatever a client puts into them."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml
from aiohttp import web

from smi_adapter.embedded_api import answers, protobuf
from smi_adapter.embedded_api.answers import RefusedError

_HALF = re.compile(r"\\u[dD][89a-fA-F]|\\U0000[dD][89a-fA-F]")
"""What may be half of a surrogate pair: JSON and YAML can name it, but it is no character and no file can hold it."""


async def body(request: web.Request) -> Any:
    """Return the body of a request: JSON, or YAML where clients may send that."""
    if "protobuf" in request.content_type:
        try:
            return protobuf.decoded(await request.read())
        except protobuf.ProtobufError as error:
            raise RefusedError(415, "UnsupportedMediaType", f"{request.content_type}: {error}") from None
    if "cbor" in request.content_type:
        raise RefusedError(415, "UnsupportedMediaType", f"{request.content_type} is not understood here: send JSON")
    try:
        text = (await request.read()).decode()
    except UnicodeDecodeError:
        raise answers.bad_request("the body is not UTF-8") from None
    value = _parsed(text, is_yaml="yaml" in request.content_type)
    if _HALF.search(text):
        try:
            json.dumps(value, ensure_ascii=False, default=str, skipkeys=True).encode()
        except (UnicodeEncodeError, RecursionError):
            raise answers.bad_request("the body names half of a surrogate pair, which is no character") from None
    return value


def _parsed(text: str, *, is_yaml: bool) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        if not is_yaml:
            raise answers.bad_request("the body is no JSON") from None
    try:
        return yaml.load(text, _PlainLoader)  # noqa: S506 - a safe loader
    except (yaml.YAMLError, RecursionError, ValueError):
        raise answers.bad_request("the body is no YAML") from None


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases: written out, a few lines of them would fill the memory."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not read here")
        return super().compose_node(parent, index)


def _refuse(constant: str) -> None:
    raise ValueError(constant)  # NaN and the infinities are Python's idea of JSON
