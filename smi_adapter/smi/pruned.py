"""What the API server left out of an object because the CRD in the cluster does not list it.

Such a CRD is another mesh's, or an old one, and one that is installed later prunes what was stored before. A field
that restricts is then gone without a word, and what is left would be read as more than was written: a TrafficTarget
without its `destination.port` opens every port. `kubectl apply` leaves the whole of what was applied in an annotation,
so of such an object we know; of one that was written otherwise `smi-adapter check` can only tell what a CRD drops.

Nothing is put back from the annotation, as it may be old: a part that lost something is not used until somebody
applies it anew. So is one that lost it on purpose by a writer that leaves the annotation alone (`kubectl edit` and
`kubectl patch`, any program); docs/versions.md says which do. What widens nothing by its absence is told, no more.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

from smi_adapter.smi.objects import ACCESS_GROUP, SPECS_GROUP
from smi_adapter.smi.schema import Problem, Steps

APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"

Raw: TypeAlias = Mapping[str, Any]

_CODE: Final = "SMI0509"
_WORDS: Final = "was applied but is not stored, so what it restricts would be open"
_IDLE_WORDS: Final = "was applied but is not stored; what is left means the same without it"
IDLE: Final = "idle"
"""The keyword of a problem that costs nothing."""
_LONGEST: Final = 1 << 18
"""Characters of an annotation. An API server stores no more of all annotations of an object together."""
_HEAD: Final = frozenset({"apiVersion", "kind", "metadata", "status"})
_DEEPEST: Final = 10
"""Levels of a spec; what lies deeper is no field of ours."""
SAID_BY_KIND: Final = frozenset({"group", "apiGroup"})
"""Fields that name the group of a kind which has one name in all groups that we know."""
_EMPTY_IS_ABSENT: Final = frozenset({"matches", "methods", "headers", "ports", "values"})
"""Fields that may be empty, and then mean what their absence means; an empty other one is an error."""


def problems(raw: Raw) -> Iterator[Problem]:
    """Yield a problem for each field that a stored object was applied with and has no more."""
    metadata = raw["metadata"] if isinstance(raw.get("metadata"), Mapping) else {}
    notes = metadata.get("annotations")
    if not (
        metadata.get("uid") and isinstance(notes, Mapping) and APPLIED in notes
    ):  # a file is as its author wrote it
        return
    text = notes[APPLIED]
    if not isinstance(text, str) or len(text) > _LONGEST:
        return
    try:
        applied = json.loads(text)
    except (ValueError, RecursionError):
        return
    if isinstance(applied, Mapping):
        there, path = _body(raw)
        for gone in _missing(_named_as(_body(applied)[0], flat=not path), there, path):
            idle = _is_idle(raw.get("kind"), gone)
            yield Problem(gone, _IDLE_WORDS if idle else _WORDS, _CODE, IDLE if idle else "pruned")


def _is_idle(kind: Any, gone: Steps) -> bool:
    """Tell whether an object means no more without a field than with it.

    Traffic stays open: of a backend only the weight counts, and that is missed in its own right. A name of ports only
    tells them apart. All else may restrict, and so may a field at the top of a split: it may be a misspelt `matches`.
    """
    if kind == "TrafficSplit":
        return len(gone) > 2 and gone[:2] == ("spec", "backends")
    return kind in {"TCPRoute", "UDPRoute"} and gone == ("spec", "matches", "name")


def _body(raw: Raw) -> tuple[Raw, Steps]:
    """Return what an object says, and where: below `spec`, or beside its head as in the first versions."""
    spec = raw.get("spec")
    if isinstance(spec, Mapping):
        return spec, ("spec",)
    return {key: value for key, value in raw.items() if key not in _HEAD}, ()


def _named_as(body: Raw, *, flat: bool) -> Raw:
    """Call the rules of a target as the stored form does: they have another name in the first version."""
    names = {"rules": "specs"} if flat else {"specs": "rules"}
    return {names.get(key, key): value for key, value in body.items()}


def _missing(applied: Any, there: Any, path: Steps) -> Iterator[Steps]:
    if len(path) > _DEEPEST:
        return
    if isinstance(applied, Mapping) and isinstance(there, Mapping):
        for key, value in applied.items():
            if key in there:
                yield from _missing(value, there[key], (*path, key))
            elif _says_something(key, value):
                yield *path, key
    elif isinstance(applied, list | tuple) and isinstance(there, list | tuple):
        for index, before in _pairs(applied, there):
            yield from _missing(before, there[index], (*path, index))


def _says_something(key: str, value: Any) -> bool:
    """Tell whether a field means more than its absence; what would be unusable as it was written does."""
    if key in SAID_BY_KIND:
        return value not in (None, "", ACCESS_GROUP, SPECS_GROUP)
    return value is not None and not (key in _EMPTY_IS_ABSENT and value in ([], {}))


def _pairs(applied: Sequence[Any], there: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """Yield the place of each item and how it was applied: by its name; if names don't tell, by its place.

    What tells items apart may be lost as well: a source without its namespace is another one.
    """
    before = {_name(item): item for item in applied}
    if None not in before and len(before) == len(applied):
        for index, item in enumerate(there):
            if (name := _name(item)) in before:
                yield index, before[name]
            elif index < len(applied) and _is_rest(item, applied[index]):
                yield index, applied[index]
    elif len(applied) == len(there):
        yield from enumerate(applied)


_NAMES: Final = ("kind", "namespace", "name", "service", "key")


def _name(item: Any) -> tuple[str, ...] | None:
    """Return what tells an item from others; only things with a name can be told."""
    if not isinstance(item, Mapping):
        return None
    names = (item.get(key) for key in _NAMES)
    return tuple(name for name in names if isinstance(name, str)) or None


def _is_rest(item: Any, whole: Mapping[str, Any]) -> bool:
    """Tell whether an item has no other names than one that was applied, but fewer."""
    return isinstance(item, Mapping) and all(item[key] == whole.get(key) for key in _NAMES if key in item)
