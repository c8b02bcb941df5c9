"""A many-to-many relation that is edited a little at a time: the index that makes a small change cheap.

The rendered config keeps relations such as "which Services name this identity as a caller" as read-only mappings to
frozen sets. An `EditedRelation` copies only the sets that a change touches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Generic, TypeVar

from smi_adapter.overlay import GONE, edited

L = TypeVar("L")
R = TypeVar("R")


class EditedRelation(Generic[L, R]):
    """The relation `before`, with additions and removals on top."""

    def __init__(self, before: Mapping[L, frozenset[R]]) -> None:
        self._before = before
        self._edited: dict[L, set[R]] = {}

    def of(self, left: L) -> AbstractSet[R]:
        """Return all that `left` is related to."""
        edited = self._edited.get(left)
        return self._before.get(left, frozenset()) if edited is None else edited

    def replace(self, right: R, before: Iterable[L], after: Iterable[L]) -> None:
        """Relate `right` to all of `after` instead of all of `before`."""
        old, new = frozenset(before), frozenset(after)
        for left in old - new:
            self._thawed(left).discard(right)
        for left in new - old:
            self._thawed(left).add(right)

    def finish(self) -> Mapping[L, frozenset[R]]:
        """Return the edited relation, or `before` itself if nothing was edited."""
        edits = {left: frozenset(rights) if rights else GONE for left, rights in self._edited.items()}
        return edited(self._before, edits)

    def _thawed(self, left: L) -> set[R]:
        if left not in self._edited:
            self._edited[left] = set(self._before.get(left, frozenset()))
        return self._edited[left]
