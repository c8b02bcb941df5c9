"""The store: what one stream of the API last said, object by object.

It answers two questions: what is there now, and what of it changed. A list replaces everything at once and yields the
deletions that nobody told us of; until then the old content serves, and it is never emptied first. An event changes
one object. Both report only what matters to `decode`: a new resource version alone is no change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from smi_adapter.cluster.projection import Item, Kept
from smi_adapter.smi.objects import Key

Changes: TypeAlias = dict[Key, Kept | None]
"""What changed, by (namespace, name); None: deleted."""


@dataclass(slots=True)
class Entry:
    """One object: the version in which we know it, its identity, and what is kept of it."""

    version: str
    uid: str
    value: Kept
    status: bytes | None = None


class Store:
    """The objects of one kind (and, in namespaced mode, of one namespace)."""

    def __init__(self, *, identified: bool = True) -> None:
        self._entries: dict[Key, Entry] = {}
        self._identified = identified

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._entries)

    def get(self, key: Key) -> Entry | None:
        """Return an object, or None."""
        return self._entries.get(key)

    def versions(self) -> Mapping[Key, str]:
        """Return the version in which each object is known."""
        return {key: entry.version for key, entry in self._entries.items()}

    def put(self, item: Item) -> Changes:
        """Take an object as it is now; return it if that changed anything that matters."""
        key = (item.namespace, item.name)
        old = self._entries.get(key)
        value = old.value if old is not None and old.value == item.value else item.value
        self._entries[key] = Entry(item.version, item.uid if self._identified else "", value, item.status)
        return {} if old is not None and value is old.value else {key: value}

    def remove(self, key: Key) -> Changes:
        """Forget an object; return its deletion if it was there."""
        return {key: None} if self._entries.pop(key, None) is not None else {}

    def replace(self, items: Iterable[Item]) -> Changes:
        """Take a whole list; return every difference, the deletions (each once) first."""
        added = {(item.namespace, item.name): item for item in items}
        changes: Changes = {key: None for key in self._entries if key not in added}
        for key in changes:
            del self._entries[key]
        for item in added.values():
            changes |= self.put(item)
        return changes
