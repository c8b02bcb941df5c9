"""The ways in which a client says what to change: JSON patch, merge patch, strategic merge patch.

Pure functions on plain values; nothing that is passed in is changed. Only kubectl's own uses of strategic merge are
understood (lists of objects by key, deletions, orders); SMI kinds do without it, as custom resources do everywhere.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

_KEYS: Mapping[str, tuple[str, ...]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "ephemeralContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "ports": ("containerPort", "port"),
    "imagePullSecrets": ("name",),
    "secrets": ("name",),
    "conditions": ("type",),
    "ownerReferences": ("uid",),
    "hostAliases": ("ip",),
}
"""The fields of Kubernetes' own kinds that hold objects by key; of several keys the first that an item has."""


class PatchError(ValueError):
    """A patch can't be applied; the message says why."""


def key_of(field: str, items: Sequence[Any]) -> str:
    """Return the key of the objects in a list, "" if the list is taken as one value."""
    for key in _KEYS.get(field, ()):
        if items and all(isinstance(item, Mapping) and isinstance(item.get(key), str | int) for item in items):
            return key
    return ""


# --------------------------------------------------------------------------------------------------- merge patch
def merge(value: Any, patch: Any) -> Any:
    """Return a value with a merge patch applied (RFC 7396): null removes a field, a list is replaced."""
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    merged = dict(value) if isinstance(value, Mapping) else {}
    for name, part in patch.items():
        if part is None:
            merged.pop(name, None)
        else:
            merged[name] = merge(merged.get(name), part)
    return merged


# ---------------------------------------------------------------------------------------------------- JSON patch
def json_patch(value: Any, operations: Any) -> Any:
    """Return a value with a JSON patch applied (RFC 6902)."""
    if not isinstance(operations, list):
        raise PatchError("a JSON patch is a list of operations")
    document = [copy.deepcopy(value)]
    for operation in operations:
        try:
            _operate(document, operation)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, PatchError):
                raise
            raise PatchError(f"the JSON patch operation {operation!r} can't be applied") from error
    if not document:
        raise PatchError("the JSON patch removes the whole object")
    return document[0]


def _operate(document: list[Any], operation: Mapping[str, Any]) -> None:
    name, path = operation["op"], _pointer(operation["path"])
    if name == "test":
        if (found := _get(document, path)) != operation["value"]:
            raise PatchError(f"the test of {operation['path']} failed: it is {found!r}")
    elif name == "remove":
        _remove(document, path)
    elif name == "replace":
        _get(document, path)
        _remove(document, path)
        _add(document, path, copy.deepcopy(operation["value"]))
    elif name == "add":
        _add(document, path, copy.deepcopy(operation["value"]))
    elif name in {"move", "copy"}:
        source = _pointer(operation["from"])
        found = copy.deepcopy(_get(document, source))
        if name == "move":
            _remove(document, source)
        _add(document, path, found)
    else:
        raise PatchError(f"{name!r} is no operation of a JSON patch")


def _pointer(text: str) -> list[str]:
    if text and not text.startswith("/"):
        raise PatchError(f"{text!r} is no JSON pointer")
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def _parent(document: list[Any], path: list[str]) -> tuple[Any, str | int]:
    """Return the container of a path and the step into it; the whole document stands in a list of one."""
    container: Any = document
    for step in ["0", *path][:-1]:
        container = container[_index(step)] if isinstance(container, list) else container[step]
    last = ["0", *path][-1]
    return container, (last if not isinstance(container, list) or last == "-" else _index(last))


def _index(step: str) -> int:
    if not step.isdecimal():
        raise PatchError(f"{step!r} is no position in a list")
    return int(step)


def _get(document: list[Any], path: list[str]) -> Any:
    container, step = _parent(document, path)
    return container[step]


def _remove(document: list[Any], path: list[str]) -> None:
    container, step = _parent(document, path)
    del container[step]


def _add(document: list[Any], path: list[str], value: Any) -> None:
    container, step = _parent(document, path)
    if container is document:
        document[:] = [value]
    elif isinstance(container, list):
        position = len(container) if step == "-" else int(step)
        if position > len(container):
            raise PatchError(f"position {position} is past the end of the list")
        container.insert(position, value)
    elif isinstance(container, dict):
        container[step] = value
    else:
        raise PatchError(f"there is nothing to add to at /{'/'.join(path)}")


# ----------------------------------------------------------------------------------------------- strategic merge
_ORDER = "$setElementOrder/"
_PRIMITIVE = "$deleteFromPrimitiveList/"


def strategic(value: Any, patch: Any) -> Any:
    """Return a value with a strategic merge patch applied."""
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    if patch.get("$patch") == "replace":
        return {name: copy.deepcopy(part) for name, part in patch.items() if name != "$patch"}
    merged = dict(value) if isinstance(value, Mapping) else {}
    if "$retainKeys" in patch:
        merged = {name: part for name, part in merged.items() if name in patch["$retainKeys"]}
    for name, part in patch.items():
        if name.startswith(_PRIMITIVE):
            field = name.removeprefix(_PRIMITIVE)
            merged[field] = [item for item in merged.get(field) or () if item not in part]
        elif part is None:
            merged.pop(name, None)
        elif not name.startswith("$"):
            merged[name] = (
                _list(name, merged.get(name) or [], part)
                if isinstance(part, list)
                else strategic(merged.get(name), part)
            )
    for name, order in patch.items():
        if name.startswith(_ORDER) and isinstance(merged.get(field := name.removeprefix(_ORDER)), list):
            merged[field] = _ordered(field, merged[field], order)
    return merged


def _list(field: str, old: list[Any], patch: list[Any]) -> list[Any]:
    if {"$patch": "replace"} in patch:
        return [copy.deepcopy(item) for item in patch if item != {"$patch": "replace"}]
    key = key_of(field, [*old, *patch])
    if not key:
        return copy.deepcopy(patch)
    merged = list(old)
    for item in patch:
        place = next((index for index, one in enumerate(merged) if one[key] == item[key]), None)
        if item.get("$patch") == "delete":
            merged = [one for one in merged if one[key] != item[key]]
        elif place is None:
            merged.append(strategic({}, item))
        else:
            merged[place] = strategic(merged[place], item)
    return merged


def _ordered(field: str, items: list[Any], order: list[Any]) -> list[Any]:
    key = key_of(field, order)
    wanted = [one[key] if key else one for one in order]

    def rank(item: Any) -> int:
        name = item[key] if key else item
        return wanted.index(name) if name in wanted else len(wanted)

    return sorted(items, key=rank)
