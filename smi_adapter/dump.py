"""Any frozen value of ours as plain data that reads well as YAML: `translate --to mesh`, golden files.

Driven by the types of dataclass fields, so a new field of the Mesh appears by itself. What is at its default is left
out; a (namespace, name) key is `namespace/name`, a reference to an object is its text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from functools import lru_cache
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from smi_adapter.findings import Ref

_KEY = tuple[str, str]


def plain(value: object, hint: Any = None) -> Any:
    """Return the value as dicts, lists, strings and numbers; `hint` is its declared type, which tells a key."""
    hint = _without_none(hint)
    if is_dataclass(value) and not isinstance(value, type):
        return str(value) if isinstance(value, Ref) else _object(value)
    if isinstance(value, Mapping):
        key_hint, item_hint = get_args(hint) or (None, None)
        return {str(plain(key, key_hint or _guess(key))): plain(item, item_hint) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return _sequence(tuple(value), hint)
    if isinstance(value, frozenset | set):
        return sorted((plain(item, (get_args(hint) or (None,))[0]) for item in value), key=str)
    if isinstance(value, Enum):
        return value.value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _sequence(value: tuple[Any, ...], hint: Any) -> Any:
    if hint == _KEY:
        return "/".join(value)
    arguments = get_args(hint)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return [plain(item, arguments[0]) for item in value]
    hints = arguments if len(arguments) == len(value) else (None,) * len(value)
    return [plain(item, item_hint) for item, item_hint in zip(value, hints, strict=True)]


def _object(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    kind: Any = type(value)
    for part, hint, default in _parts(kind):
        item = getattr(value, part)
        if default is MISSING or item != default:
            found[part] = plain(item, hint)
    return found


@lru_cache(maxsize=256)
def _parts(kind: Any) -> tuple[tuple[str, Any, Any], ...]:
    hints = get_type_hints(kind)
    return tuple((part.name, hints[part.name], _default(part)) for part in fields(kind))


def _default(part: Field[Any]) -> Any:
    return part.default if part.default_factory is MISSING else part.default_factory()


def _without_none(hint: Any) -> Any:
    """Return X of `X | None`."""
    if get_origin(hint) is UnionType:
        rest = [item for item in get_args(hint) if item is not type(None)]
        return rest[0] if len(rest) == 1 else None
    return hint


def _guess(key: object) -> Any:
    """Take a pair of strings for a key where no type says so."""
    return _KEY if isinstance(key, tuple) and len(key) == 2 and all(isinstance(item, str) for item in key) else None
