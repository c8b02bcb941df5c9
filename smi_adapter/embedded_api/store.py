"""The objects as the API serves them: their revisions, their bookkeeping, and the history that watches follow.

The source's batches come in at `take`, statuses at `report`; both end as changes with a resource version, which counts
up from the time of the start, so that a number of an earlier run is always too old rather than wrongly current.
What an object has in Kubernetes but not in its file is its `Book`: uid, creation time, generation, owners of fields,
the annotation of kubectl's. A client's write says beforehand what the book will be when the file has been read back.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from smi_adapter.decode import RawObject
from smi_adapter.embedded_api.fields import FILES, Manager, leaves, updated
from smi_adapter.embedded_api.kinds import Kind, by_ref
from smi_adapter.findings import Ref

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
"""The annotation in which `kubectl apply` remembers what it sent; it never goes into a file."""
WINDOW = 4096
"""So many changes can be watched from; who asks for older ones is told to list again."""


def _nothing() -> Mapping[str, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Book:
    """What is known of an object beside its file."""

    uid: str
    created: str
    generation: int = 1
    managers: tuple[Manager, ...] = ()
    last_applied: str = ""


@dataclass(frozen=True, slots=True)
class Remembered:
    """A book of an earlier run, and the digest of the object that it was about."""

    book: Book
    digest: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One object at one revision; `raw` is what the source says, never changed."""

    ref: Ref
    raw: RawObject
    book: Book
    revision: int
    status: Mapping[str, Any] = field(default_factory=_nothing)


@dataclass(frozen=True, slots=True)
class Change:
    """One step of the history: an object came (no `before`), changed, or went (no `after`)."""

    revision: int
    before: Entry | None
    after: Entry | None


class ExpiredError(LookupError):
    """The history does not reach back to that revision."""

    def __init__(self, asked: int, oldest: int) -> None:
        super().__init__(f"{asked} is older than {oldest}")
        self.asked = asked
        self.oldest = oldest


class Store:
    """All objects of one run; everything happens on one event loop."""

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        window: int = WINDOW,
        remembered: Mapping[Ref, Remembered] = MappingProxyType({}),
    ) -> None:
        self._clock = clock
        self._remembered = remembered
        self.revision = int(clock() * 1000)
        self._entries: dict[Ref, Entry] = {}
        self._history: deque[Change] = deque(maxlen=window)
        self._forgotten = self.revision
        self._expected: dict[Ref, Book] = {}
        self._implied: set[Ref] = set()
        self._moved = asyncio.Event()
        self.synced = False

    # ------------------------------------------------------------------------------------------------- reading
    def get(self, ref: Ref) -> Entry | None:
        """Return an object, None if there is none."""
        return self._entries.get(ref)

    def entries(self, kind: Kind, namespace: str = "") -> list[Entry]:
        """Return the objects of a kind, in a namespace or in all, by name."""
        found = (
            entry
            for ref, entry in self._entries.items()
            if kind.holds(ref) and (not namespace or ref.namespace == namespace)
        )
        return sorted(found, key=lambda entry: entry.ref)

    def refs(self, namespace: str) -> list[Ref]:
        """Return the names of all that is in a namespace."""
        return sorted(ref for ref in self._entries if ref.namespace == namespace)

    def namespaces(self) -> frozenset[str]:
        """Return every namespace that there is: declared, used, or `default`."""
        declared = {ref.name for ref in self._entries if (ref.group, ref.kind) == ("", "Namespace")}
        return self._used() | declared

    def _used(self) -> frozenset[str]:
        return frozenset(
            {"default", *(ref.namespace for ref in self._entries if ref.namespace and ref.kind != "Event")}
        )

    def since(self, revision: int) -> list[Change]:
        """Return what happened after a revision; ExpiredError if that is not known any more."""
        if revision < self._forgotten or revision > self.revision:
            raise ExpiredError(revision, self._forgotten)
        return [change for change in self._history if change.revision > revision]

    async def moved(self) -> None:
        """Wait for the next change."""
        await self._moved.wait()

    def everything(self) -> Mapping[Ref, Entry]:
        """Return all objects."""
        return MappingProxyType(self._entries)

    # ------------------------------------------------------------------------------------------------- writing
    def now(self) -> str:
        """Return the time as objects write it."""
        return datetime.fromtimestamp(self._clock(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def take(self, batch: Mapping[Ref, RawObject | None]) -> None:
        """Take over what the source says; kinds that are not served are left out."""
        for ref, raw in batch.items():
            if by_ref(ref.group, ref.kind) is None:
                continue
            before = self._entries.get(ref)
            self._implied.discard(ref)
            if raw is None:
                if before is not None:
                    self._step(before, None)
            elif before is None or before.raw is not raw:
                self._step(before, self._entry(ref, raw, before))
        self._imply_namespaces()
        self._remembered = MappingProxyType({})  # what was not there at once is not the same any more
        self.synced = True

    def _imply_namespaces(self) -> None:
        """Have a Namespace for each one that is used or `default`: files need not declare them."""
        for name in self.namespaces():
            ref = Ref("Namespace", "", name)
            if ref not in self._entries:
                raw = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
                self._step(None, self._entry(ref, raw, None))
                self._implied.add(ref)
        used = self._used()
        for ref in [ref for ref in self._implied if ref.name not in used]:
            self._implied.discard(ref)
            for entry in [one for one in self._entries.values() if one.ref.namespace == ref.name]:
                self._step(entry, None)  # Events
            self._step(self._entries[ref], None)

    def report(self, statuses: Mapping[Ref, Mapping[str, Any]]) -> None:
        """Take over the statuses of objects; what is as it was makes no noise."""
        for ref, status in statuses.items():
            before = self._entries.get(ref)
            if before is not None and before.status != status:
                self._step(before, replace(before, status=status))

    def post(self, ref: Ref, raw: RawObject | None) -> None:
        """Put an Event into the store, or take it out again."""
        before = self._entries.get(ref)
        if raw is not None:
            self._step(before, Entry(ref, raw, before.book if before else self.new_book(), 0))
        elif before is not None:
            self._step(before, None)

    def note(self, ref: Ref, book: Book) -> None:
        """Change the bookkeeping of an object alone."""
        before = self._entries[ref]
        if before.book != book:
            self._step(before, replace(before, book=book))

    @contextlib.contextmanager
    def expecting(self, ref: Ref, book: Book) -> Iterator[None]:
        """While a client's write is on its way through the files, what is read back gets this book."""
        self._expected[ref] = book
        try:
            yield
        finally:
            self._expected.pop(ref, None)

    def new_book(self) -> Book:
        """Return the book of an object that begins now."""
        return Book(str(uuid.uuid4()), self.now())

    def _entry(self, ref: Ref, raw: RawObject, before: Entry | None) -> Entry:
        book = self._expected.pop(ref, None)
        if book is None:
            book = self._edited(ref, raw, before)
        return Entry(ref, raw, book, 0, before.status if before else _nothing())

    def _edited(self, ref: Ref, raw: RawObject, before: Entry | None) -> Book:
        """Return the book of an object that somebody edited in its file."""
        known = self._remembered.get(ref)
        if before is None and known is not None:
            if known.digest == digest(raw):
                return known.book
            book = replace(known.book, managers=(), generation=known.book.generation + 1)
        else:
            book = before.book if before else self.new_book()
        who = Manager(FILES, "Update", str(raw.get("apiVersion", "")), self.now(), frozenset())
        was = before.raw if before else {}
        same = {name for name, one in raw.items() if was.get(name) is one} if before else set()
        old, new = (
            leaves({name: one for name, one in value.items() if name not in same}, keyed=True) for value in (was, raw)
        )
        managers = updated(book.managers, old, new, who, {f"f:{name}" for name in same})
        generation = book.generation + (1 if before and differs(before.raw, raw) else 0)
        return replace(book, managers=managers, generation=generation)

    def _step(self, before: Entry | None, after: Entry | None) -> None:
        self.revision += 1
        if len(self._history) == self._history.maxlen:
            self._forgotten = self._history[0].revision
        if after is None:
            assert before is not None  # noqa: S101 - one of them is there
            del self._entries[before.ref]
            before = replace(before, revision=self.revision)  # a DELETED event bears the revision of the deletion
        else:
            after = replace(after, revision=self.revision)
            self._entries[after.ref] = after
        self._history.append(Change(self.revision, before, after))
        self._moved.set()
        self._moved = asyncio.Event()


def differs(old: RawObject, new: RawObject) -> bool:
    """Tell whether an object means something else: anything but metadata and status (that is a new generation)."""
    beside = {"metadata", "status", "apiVersion"}
    return {name: one for name, one in old.items() if name not in beside} != {
        name: one for name, one in new.items() if name not in beside
    }


def digest(raw: RawObject) -> str:
    """Return what tells one form of an object from another."""
    return hashlib.sha256(json.dumps(raw, sort_keys=True).encode()).hexdigest()
