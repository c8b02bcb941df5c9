"""A read-only mapping with a few entries replaced, at the cost of those few.

Every stage answers a change with the last answer, edited. To copy a table of thousands of entries for one of them
costs more than all the rest of the change, and grows with the mesh (performance.md P1, P3). `edited` keeps the table
and lays the new values over it; what brings new keys copies, as rarely as that happens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeVar

K = TypeVar("K")
V = TypeVar("V")

GONE: Final[Any] = object()
"""In the place of a value: remove the key."""

_MOST = 64
"""Edits above which a copy is made, so that a chain of changes stays flat and memory bounded."""


class Overlay(Mapping[K, V]):
    """`base` with other values for some of its keys, or without them; the order is that of `base`."""

    __slots__ = ("_base", "_gone", "_values")

    def __init__(self, base: Mapping[K, V], values: dict[K, V]) -> None:
        self._base = base
        self._values = values
        self._gone = sum(value is GONE for value in values.values())

    def __getitem__(self, key: K) -> V:
        value = self._values[key] if key in self._values else self._base[key]
        if value is GONE:
            raise KeyError(key)
        return value

    def get(self, key: K, default: Any = None) -> Any:
        """Return the value, or the default."""
        value = self._values[key] if key in self._values else self._base.get(key, default)
        return default if value is GONE else value

    def __contains__(self, key: object) -> bool:
        return key in self._base and self._values.get(key) is not GONE  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[K]:
        if not self._gone:
            return iter(self._base)
        return (key for key in self._base if self._values.get(key) is not GONE)

    def __len__(self) -> int:
        return len(self._base) - self._gone

    def __repr__(self) -> str:
        return f"Overlay({self.copy()!r})"

    def copy(self) -> dict[K, V]:
        """Return a dict of its own."""
        return _merged(self._base, self._values)

    def edited(self, edits: Mapping[K, V]) -> Mapping[K, V]:
        """Return the mapping with more edits, flat again if they are many or bring keys that `base` lacks."""
        values = {**self._values, **edits}
        if len(values) <= _MOST and _within(self._base, edits):
            return Overlay(self._base, values)
        return MappingProxyType(_merged(self, edits))


def edited(base: Mapping[K, V], edits: Mapping[K, V]) -> Mapping[K, V]:
    """Return a read-only mapping with these entries set, or removed where the value is GONE."""
    if not edits:
        return base
    if isinstance(base, Overlay):
        return base.edited(edits)
    if len(edits) <= _MOST and _within(base, edits):
        return Overlay(base, dict(edits))
    return MappingProxyType(_merged(base, edits))


def _within(base: Mapping[K, V], edits: Mapping[K, V]) -> bool:
    return all(key in base for key in edits)


def _merged(base: Mapping[K, V], edits: Mapping[K, V]) -> dict[K, V]:
    merged = _copy(base)
    for key, value in edits.items():
        if value is GONE:
            merged.pop(key, None)
        else:
            merged[key] = value
    return merged


def _copy(base: Mapping[K, V]) -> dict[K, V]:
    """Return a copy; dict() of a read-only view would walk it key by key."""
    return base.copy() if isinstance(base, MappingProxyType | Overlay) else dict(base)
