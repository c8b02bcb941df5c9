"""What the API remembers of objects from one run to the next: the books, beside the files and never in them.

Without it `kubectl apply` would not know after a restart what it had applied, and would leave fields that it should
remove. It lies in the run's private folder. An object that was edited while nobody served it keeps its uid and what was
applied, but its fields are owned by the files then. A ledger that can't be read is an empty one.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smi_adapter.decode import RawObject
from smi_adapter.embedded_api.access import write_private
from smi_adapter.embedded_api.fields import from_wire, to_wire
from smi_adapter.embedded_api.store import Book, Entry, Remembered, Store, digest
from smi_adapter.findings import Ref

_log = logging.getLogger(__name__)

_FORMAT = 1


class Ledger:
    """The file of the books of one run's store."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = 0
        self._at = 0.0
        self._lines: dict[Ref, tuple[RawObject, Book, str]] = {}

    def read(self) -> dict[Ref, Remembered]:
        """Return what an earlier run has left."""
        try:
            data = json.loads(self._path.read_text())
            if data["format"] != _FORMAT:
                return {}
            return {Ref(*map(str, one["ref"])): Remembered(_book(one), str(one["digest"])) for one in data["books"]}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            _log.warning("%s can't be read, so what was applied before is not known: %s", self._path, error)
            return {}

    def write(self, store: Store, *, every: float = 0.0) -> None:
        """Write the books if there is anything new, at most once in so many seconds."""
        now = time.monotonic()
        if not store.synced or store.revision == self._written or now - self._at < every:
            return
        self._at = now
        entries = {ref: entry for ref, entry in store.everything().items() if ref.kind != "Event"}
        self._lines = {ref: self._line(ref, entry) for ref, entry in sorted(entries.items())}
        books = ", ".join(text for _, _, text in self._lines.values())
        try:
            write_private(self._path, f'{{"format": {_FORMAT}, "books": [{books}]}}')
            self._written = store.revision
        except OSError as error:
            _log.warning("%s can't be written: %s", self._path, error)

    def _line(self, ref: Ref, entry: Entry) -> tuple[RawObject, Book, str]:
        """Return an object and its book as they are written: as the last time, if they are those of the last time."""
        known, book = self._lines.get(ref), entry.book
        if known is not None and known[0] is entry.raw and known[1] is book:
            return known
        line = {
            "ref": [ref.kind, ref.namespace, ref.name, ref.group],
            "digest": digest(entry.raw),
            "uid": book.uid,
            "created": book.created,
            "generation": book.generation,
            "managers": to_wire(book.managers),
            "last_applied": book.last_applied,
        }
        return entry.raw, book, json.dumps(line)


def _book(one: Mapping[str, Any]) -> Book:
    return Book(
        str(one["uid"]),
        str(one["created"]),
        int(one["generation"]),
        from_wire(one["managers"]),
        str(one["last_applied"]),
    )
