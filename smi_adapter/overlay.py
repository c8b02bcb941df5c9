"""A read-only mapping with a few entries replaced, at the cost of those few.

Every stage answers a change with the last answer, edited. To copy a table of thousands of entries for one of them
costs more than all the rest of the change, and grows with the mesh (performance.md P1, P3). `edited` keeps the table
and lays the new values over it; what adds or removes keys copies, as rarely as that happens.
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
    """`base` with other values for some of its keys; keys and their order are those of `base`."""

    __slots__ = ("_base", "_values")

    def __init__(self, base: Mapping[K, V], values: dict[K, V]) -> None:
        self._base = base
        self._values = values

    def __getitem__(self, key: K) -> V:
        return self._values[key] if key in self._values else self._base[key]

    def get(self, key: K, default: Any = None) -> Any:
        """Return the value, or the default."""
        return self._values[key] if key in self._values else self._base.get(key, default)

    def __contains__(self, key: object) -> bool:
        return key in self._base

    def __iter__(self) -> Iterator[K]:
        return iter(self._base)

    def __len__(self) -> int:
        return len(self._base)

    def __repr__(self) -> str:
        return f"Overlay({self.copy()!r})"

    def copy(self) -> dict[K, V]:
        """Return a dict of its own."""
        copied = _copy(self._base)
        copied.update(self._values)
        return copied

    def replaced(self, edits: Mapping[K, V]) -> Mapping[K, V]:
        """Return the mapping with more values replaced."""
        values = {**self._values, **edits}
        return Overlay(self._base, values) if len(values) <= _MOST else MappingProxyType(_merged(self, edits))


def edited(base: Mapping[K, V], edits: Mapping[K, V]) -> Mapping[K, V]:
    """Return a read-only mapping with these entries set, or removed where the value is GONE; new keys come last."""
    if not edits:
        return base
    if len(edits) > _MOST or not all(key in base and value is not GONE for key, value in edits.items()):
        return MappingProxyType(_merged(base, edits))
    return base.replaced(edits) if isinstance(base, Overlay) else Overlay(base, dict(edits))


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
