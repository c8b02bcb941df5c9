"""Who owns which field of an object: `metadata.managedFields`, and server-side apply, which is decided by it.

A manager owns paths. A step of a path is written as in `fieldsV1`: `f:name` for a field, `k:{"name":"x"}` for an item
of a list with keys; every other list is one value, as in SMI's CRDs. Owners live in memory and beside the files, never
in them; what an edit of a file changes is owned by the manager `files` from then on.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from smi_adapter.embedded_api.patches import key_of

Path: TypeAlias = tuple[str, ...]
Leaves: TypeAlias = Mapping[Path, Any]

FILES = "files"
"""The manager of whatever was written into a file by hand."""

_UNOWNED = frozenset({"apiVersion", "kind", "status", "metadata"})
_METADATA = frozenset({"labels", "annotations", "ownerReferences", "finalizers"})


@dataclass(frozen=True, slots=True)
class Manager:
    """One entry of `managedFields`."""

    name: str
    operation: str
    api_version: str
    time: str
    paths: frozenset[Path]

    def __str__(self) -> str:
        """Return how messages call it."""
        using = f" using {self.api_version}" if self.operation == "Update" else ""
        return f"{json.dumps(self.name)}{using}"

    @property
    def key(self) -> tuple[str, str]:
        """Return what tells it from the others; one manager may apply and update."""
        return self.name, self.operation


def leaves(value: Any, *, keyed: bool) -> dict[Path, Any]:
    """Return every value of an object that can have an owner, by path; `keyed`: lists by key are taken apart."""
    found: dict[Path, Any] = {}
    for name, one in value.items() if isinstance(value, Mapping) else ():
        if name == "metadata" and isinstance(one, Mapping):
            kept = {part: some for part, some in one.items() if part in _METADATA}
            if kept:
                _collect(kept, ("f:metadata",), name, found, keyed=keyed)
        elif name not in _UNOWNED:
            _collect(one, (f"f:{name}",), name, found, keyed=keyed)
    return found


def _collect(value: Any, path: Path, field: str, found: dict[Path, Any], *, keyed: bool) -> None:
    if isinstance(value, Mapping) and value:
        for name, one in value.items():
            _collect(one, (*path, f"f:{name}"), name, found, keyed=keyed)
    elif keyed and isinstance(value, list) and (key := key_of(field, value)):
        for item in value:
            here = (*path, _item(key, item))
            found[here] = None  # that the item is there
            _collect(item, here, "", found, keyed=keyed)
    elif value is not None:
        found[path] = value


def _item(key: str, item: Mapping[str, Any]) -> str:
    return "k:" + json.dumps({key: item[key]}, separators=(",", ":"))


# -------------------------------------------------------------------------------------------------------- owners
def updated(
    managers: Collection[Manager], old: Leaves, new: Leaves, who: Manager, same: Collection[str] = ()
) -> tuple[Manager, ...]:
    """Return the owners after somebody changed an object without applying: what it set is its own alone.

    `same` are first steps below which nothing has changed; leaves below them need not be given.
    """
    touched = frozenset(path for path, value in new.items() if path not in old or old[path] != value)
    kept = frozenset(new) - touched
    if same:
        kept |= {path for one in managers for path in one.paths if path[0] in same}
    others = [replace(one, paths=one.paths & kept) for one in managers if one.key != who.key]
    own = next((one for one in managers if one.key == who.key), None)
    mine = ((own.paths & kept) if own else frozenset()) | touched
    changed = replace(who, time=own.time) if own and own.paths == mine else who
    return _living([*others, replace(changed, paths=mine)])


@dataclass(frozen=True, slots=True)
class Applied:
    """What an apply led to; with conflicts, as (owner, path), nothing is to be done."""

    value: dict[str, Any]
    managers: tuple[Manager, ...]
    conflicts: frozenset[tuple[Manager, Path]] = frozenset()


def apply(  # noqa: PLR0913 - this is what an apply is about
    live: Mapping[str, Any],
    wanted: Mapping[str, Any],
    managers: tuple[Manager, ...],
    who: Manager,
    *,
    force: bool,
    keyed: bool,
) -> Applied:
    """Return the object with all that `wanted` holds, and without what its manager applied before and nobody owns."""
    before, now = leaves(live, keyed=keyed), leaves(wanted, keyed=keyed)
    others = [one for one in managers if one.key != who.key]
    taken = {
        (one, path)
        for one in others
        for path, value in now.items()
        if any(_overlap(path, owned) for owned in one.paths) and before.get(path) != value
    }
    if taken and not force:
        return Applied(dict(live), managers, frozenset(taken))
    value = _merged(live, wanted, "", keyed=keyed)
    lost = {path for _, path in taken}
    others = [
        replace(one, paths=frozenset(p for p in one.paths if not any(_overlap(p, path) for path in lost)))
        for one in others
    ]
    own = next((one for one in managers if one.key == who.key), None)
    # Items before what is in them: an item is found by its key, which is one of its fields.
    for path in sorted(own.paths - now.keys() if own else (), key=len):
        if not any(_overlap(path, owned) for one in others for owned in one.paths):
            _drop(value, path)
    mine = replace(who, paths=frozenset(now))
    if own and own.paths == mine.paths and value == live:
        mine = replace(mine, time=own.time)
    return Applied(value, _living([*others, mine]))


def _living(managers: Iterable[Manager]) -> tuple[Manager, ...]:
    return tuple(one for one in managers if one.paths)


def _overlap(path: Path, owned: Path) -> bool:
    """Tell whether two paths speak of one value: the same, or one within the other (a list that was one value)."""
    shorter = min(len(path), len(owned))
    if path[:shorter] != owned[:shorter]:
        return False
    return len(path) == len(owned) or not (path if len(path) < len(owned) else owned)[-1].startswith("k:")


def _merged(live: Any, wanted: Any, field: str, *, keyed: bool) -> Any:
    if isinstance(live, Mapping) and isinstance(wanted, Mapping):
        merged = dict(live)
        for name, one in wanted.items():
            if one is not None:
                merged[name] = _merged(live.get(name), one, name, keyed=keyed)
        return merged
    if keyed and isinstance(live, list) and isinstance(wanted, list) and (key := key_of(field, [*live, *wanted])):
        by_key = {item[key]: item for item in wanted}
        kept = [_merged(item, by_key.pop(item[key], item), "", keyed=keyed) for item in live]
        return [*kept, *(copy.deepcopy(item) for item in by_key.values())]
    return copy.deepcopy(wanted)


def _drop(value: dict[str, Any], path: Path) -> None:
    """Remove what a path names, and what is empty then; top-level fields stay."""
    chain: list[tuple[Any, Any]] = []
    here: Any = value
    for step in path:
        place = _place(here, step)
        if place is None:
            return
        if isinstance(here, dict):
            here[place] = copy.copy(here[place])  # nothing that came in is changed
        chain.append((here, place))
        here = here[place]
    for depth, (container, place) in reversed(list(enumerate(chain))):
        if depth < len(chain) - 1 and (container[place] or depth == 0):
            return
        del container[place]


def _place(here: Any, step: str) -> Any:
    if step.startswith("f:") and isinstance(here, dict) and step[2:] in here:
        return step[2:]
    if step.startswith("k:") and isinstance(here, list):
        wanted = json.loads(step[2:])
        for index, item in enumerate(here):
            if isinstance(item, Mapping) and wanted.items() <= item.items():
                here[index] = dict(item)
                return index
    return None


def shown(path: Path) -> str:
    """Return a path as kubectl prints it, such as `.spec.ports[port=80].targetPort`."""
    text = ""
    for step in path:
        if step.startswith("f:"):
            text += f".{step[2:]}"
        else:
            text += "[" + ",".join(f"{name}={json.dumps(one)}" for name, one in json.loads(step[2:]).items()) + "]"
    return text


# --------------------------------------------------------------------------------------------------- on the wire
def to_wire(managers: Iterable[Manager]) -> list[dict[str, Any]]:
    """Return `managedFields`."""
    return [
        {
            "manager": one.name,
            "operation": one.operation,
            "apiVersion": one.api_version,
            "time": one.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": _tree(one.paths),
        }
        for one in sorted(managers, key=lambda one: (one.operation, one.time, one.name))
    ]


def _tree(paths: Iterable[Path]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path in sorted(paths):
        node = tree
        for step in path:
            node = node.setdefault(step, {})
        if path[-1].startswith("k:"):
            node["."] = {}
    return tree


def from_wire(entries: Any) -> tuple[Manager, ...]:
    """Return the managers that a client wrote back; ValueError if that is no `managedFields`."""
    try:
        return _living(
            Manager(
                str(one.get("manager", "")),
                one["operation"],
                str(one.get("apiVersion", "")),
                str(one.get("time", "")),
                frozenset(_paths(one.get("fieldsV1") or {}, ())),
            )
            for one in entries or ()
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError("this is no managedFields") from error


def _paths(tree: Mapping[str, Any], path: Path) -> Iterable[Path]:
    if not tree and path:
        yield path
    for step, below in tree.items():
        if step == ".":
            yield path
        elif step[:2] in {"f:", "k:"}:
            yield from _paths(below, (*path, step))
