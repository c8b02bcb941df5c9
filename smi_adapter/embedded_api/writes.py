"""What a client changes: create, replace, patch, apply and delete, through the files and back.

Each write works on the object as the client sees it, checks the result, turns it into what belongs in a file and hands
it to the shelf. It is answered when the source has read the file again, so what the client is told is what is in force.
Writes come one after the other; an edit of the file in between counts like another client's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from smi_adapter.decode import RawObject
from smi_adapter.decode.forms import APP_ADDRESS, DIAL
from smi_adapter.embedded_api import answers, checks, fields, patches, views
from smi_adapter.embedded_api.deletion import Deletion
from smi_adapter.embedded_api.kinds import Kind, by_ref
from smi_adapter.embedded_api.shelf import Shelf, ShelfConflictError, ShelfError, ShelfUnreadableError
from smi_adapter.embedded_api.store import LAST_APPLIED, Book, Entry, Store, differs
from smi_adapter.findings import Ref
from smi_adapter.smi import wire

PATIENCE = 10.0
"""Seconds within which a file that was written must have been read again."""

_MOMENT = 0.5
"""Seconds within which what the source makes of a file follows its being read."""

_SERVERS = frozenset(
    {"uid", "resourceVersion", "generation", "managedFields", "selfLink", "deletionTimestamp", "creationTimestamp"}
)
"""Metadata that the server sets and that no file holds."""
_AGED = "TrafficSplit"
"""The kind of which the oldest wins: when it was made goes into the file, or only a name would be left to decide."""
_COMPUTED = frozenset({LAST_APPLIED, APP_ADDRESS, DIAL})
_KUBECTL = "kubectl"
"""kubectl's manager for applies. What the same user applied from the client's side before is no conflict for it."""
_MADE = frozenset({"Pod", "EndpointSlice"})


@dataclass(frozen=True, slots=True)
class Target:
    """What a write is about; `who` is the field manager, `dry_run` changes nothing."""

    kind: Kind
    version: str
    namespace: str
    name: str = ""
    who: str = "unknown"
    validation: str = "Warn"
    dry_run: bool = False
    force: bool = False

    @property
    def ref(self) -> Ref:
        """Return the name of the object."""
        return self.kind.ref(self.namespace, self.name)


@dataclass(frozen=True, slots=True)
class Written:
    """The object after a write, whether it is new, and what the client is warned of."""

    value: dict[str, Any]
    created: bool
    warnings: tuple[str, ...] = ()


class Writer:
    """Carries out writes, one at a time."""

    def __init__(self, store: Store, shelf: Shelf, patience: float = PATIENCE) -> None:
        self._store = store
        self._shelf = shelf
        self._patience = patience
        self._lock = asyncio.Lock()

    # -------------------------------------------------------------------------------------------------- requests
    async def create(self, target: Target, body: Any) -> Written:
        """Make a new object."""
        body = checks.identity(body, target.kind, target.version, target.namespace, target.name)
        target = replace(target, name=body["metadata"]["name"])
        async with self._lock:
            if self._store.get(target.ref) is not None:
                raise answers.exists(target.kind, target.name)
            return await self._commit(target, None, body, self._owners(target, None, body))

    async def replace(self, target: Target, body: Any) -> Written:
        """Put another object into the place of one."""
        async with self._lock:
            entry = self._existing(target)
            body = checks.identity(body, target.kind, target.version, target.namespace, target.name)
            return await self._commit(target, entry, body, self._owners(target, entry, body))

    async def patch(self, target: Target, change: Callable[[Any], Any]) -> Written:
        """Change an object by a function of what the client sees."""
        async with self._lock:
            entry = self._existing(target)
            before = self._seen(target, entry)
            try:
                body = change(before)
            except patches.PatchError as error:
                raise answers.RefusedError(422, "Invalid", str(error)) from error
            body = checks.identity(body, target.kind, target.version, target.namespace, target.name)
            return await self._commit(target, entry, body, self._owners(target, entry, body))

    async def apply(self, target: Target, body: Any) -> Written:
        """Server-side apply: make or change the object so that it holds what this manager wants."""
        async with self._lock:
            entry = self._store.get(target.ref)
            if not isinstance(body, Mapping) or "apiVersion" not in body or "kind" not in body:
                raise answers.bad_request("an applied object needs its apiVersion and kind")
            wanted = checks.identity(body, target.kind, target.version, target.namespace, target.name)
            if wanted["metadata"].get("managedFields"):
                raise answers.bad_request("metadata.managedFields must be nil")
            known = checks.pruned(wanted, target.kind, target.version, target.validation)
            before = self._seen(target, entry) if entry else {}
            managers = entry.book.managers if entry else ()
            who = self._manager(target, "Apply")
            keyed = not target.kind.smi
            applied = fields.apply(before, known.value, managers, who, force=target.force, keyed=keyed)
            last = entry.book.last_applied if entry and target.who == _KUBECTL else ""
            if last and applied.conflicts and {path for _, path in applied.conflicts} <= _leaves_of(last, keyed=keyed):
                applied = fields.apply(before, known.value, managers, who, force=True, keyed=keyed)
            if applied.conflicts:
                raise answers.conflicts((str(owner), fields.shown(path)) for owner, path in applied.conflicts)
            value = _with_last_applied(applied.value, known.value) if last else applied.value
            written = await self._commit(target, entry, value, applied.managers)
            return replace(written, warnings=(*known.warnings, *written.warnings))

    async def delete(self, target: Target, how: Deletion) -> dict[str, Any]:
        """Delete an object; with a namespace goes all that is in it."""
        async with self._lock:
            entry = self._existing(target)
            if how.uid not in {"", entry.book.uid} or how.revision not in {"", str(entry.revision)}:
                raise answers.modified(target.kind, target.name)
            await self._remove(replace(target, dry_run=target.dry_run or how.dry_run), entry)
            return answers.deleted(target.kind, target.name, entry.book.uid)

    # ------------------------------------------------------------------------------------------------ the object
    def _existing(self, target: Target) -> Entry:
        entry = self._store.get(target.ref)
        if entry is None:
            raise answers.not_found(target.kind, target.name)
        return entry

    def _seen(self, target: Target, entry: Entry) -> dict[str, Any]:
        return views.shown(entry, target.kind, target.version, self._store)

    def _manager(self, target: Target, operation: str) -> fields.Manager:
        api = target.kind.api_version(target.version)
        return fields.Manager(target.who, operation, api, self._store.now(), frozenset())

    def _owners(self, target: Target, entry: Entry | None, body: Mapping[str, Any]) -> tuple[fields.Manager, ...]:
        """Return the owners after an update; a client that wrote `managedFields` itself is believed (kubectl does)."""
        before = self._seen(target, entry) if entry else {}
        managers = entry.book.managers if entry else ()
        sent = body["metadata"].get("managedFields")
        if sent is not None and sent != before.get("metadata", {}).get("managedFields"):
            try:
                managers = fields.from_wire(sent)
            except ValueError as error:
                raise answers.bad_request(str(error)) from error
        keyed = not target.kind.smi
        old, new = fields.leaves(before, keyed=keyed), fields.leaves(body, keyed=keyed)
        return fields.updated(managers, old, new, self._manager(target, "Update"))

    async def _commit(
        self, target: Target, entry: Entry | None, body: dict[str, Any], managers: tuple[fields.Manager, ...]
    ) -> Written:
        """Check an object as a whole, write it and wait until it is in force."""
        before = self._seen(target, entry) if entry else None
        self._check_precondition(target, entry, body)
        self._check_place(target, entry)
        body, warnings = checks.admitted(body, target.kind, target.version, target.validation, before)
        book = entry.book if entry else self._store.new_book()
        book = replace(
            book,
            managers=managers,
            last_applied=str((body["metadata"].get("annotations") or {}).get(LAST_APPLIED, "")),
            generation=book.generation + (1 if before is not None and differs(before, body) else 0),
        )
        written = self._shelf.written(target.ref)
        filed = self._filed(target, body, written, book.created)
        if target.dry_run:
            status = entry.status if entry else {}
            revision = entry.revision if entry else 0
            trial = Entry(target.ref, _as_source(filed, entry), book, revision, status)
            value = self._seen(target, trial)
            if entry is None:
                value["metadata"].pop("resourceVersion")
            return Written(value, entry is None, warnings)
        if entry is not None and filed == (written if written is not None else entry.raw):
            self._store.note(target.ref, book)
        else:
            await self._write(target, entry, filed, book)
        done = self._store.get(target.ref)
        if done is None:
            raise answers.not_found(target.kind, target.name)
        return Written(self._seen(target, done), entry is None, warnings)

    def _check_precondition(self, target: Target, entry: Entry | None, body: Mapping[str, Any]) -> None:
        metadata = body["metadata"]
        if entry is None:
            if metadata.get("resourceVersion"):
                raise answers.bad_request("resourceVersion should not be set on objects to be created")
            return
        sent = str(metadata.get("resourceVersion") or entry.revision)
        if sent != str(entry.revision) or metadata.get("uid", entry.book.uid) != entry.book.uid:
            raise answers.modified(target.kind, target.name)

    def _check_place(self, target: Target, entry: Entry | None) -> None:
        """Refuse what nobody can write: objects that we make from others, and a place in a missing namespace."""
        if not target.kind.writable:
            raise answers.not_allowed(f"{target.kind.resource} are written by smi-adapter alone")
        if entry is None:
            if target.kind.namespaced and target.namespace not in self._store.namespaces():
                namespaces = by_ref("", "Namespace")
                assert namespaces is not None  # noqa: S101 - it stands in the table
                raise answers.not_found(namespaces, target.namespace)
        elif target.kind.name in _MADE and self._shelf.written(target.ref) is None:
            raise answers.forbidden(target.kind, target.name, self._made_from(entry))

    def _made_from(self, entry: Entry) -> str:
        metadata = entry.raw.get("metadata") or {}
        for owner in metadata.get("ownerReferences") or ():
            return f"smi-adapter makes it from {owner.get('kind')} {owner.get('name')}; change that instead"
        return "smi-adapter makes it; it stands in no file"

    # --------------------------------------------------------------------------------------------------- the file
    def _filed(
        self, target: Target, body: Mapping[str, Any], written: RawObject | None, created: str
    ) -> dict[str, Any]:
        """Return what belongs in the file: in the file's own version, without what the server adds and nobody needs."""
        before = written or {}
        old = before.get("metadata")
        old = old if isinstance(old, Mapping) else {}
        metadata = {name: one for name, one in body["metadata"].items() if name not in _SERVERS}
        annotations = {
            name: one for name, one in (metadata.pop("annotations", None) or {}).items() if name not in _COMPUTED
        }
        if annotations:
            metadata["annotations"] = annotations
        if written is not None and "namespace" not in old:
            metadata.pop("namespace", None)
        if "creationTimestamp" in old:
            metadata["creationTimestamp"] = old["creationTimestamp"]
        elif written is None and target.kind.name == _AGED:
            metadata["creationTimestamp"] = created
        rest = {name: one for name, one in body.items() if name not in {"apiVersion", "kind", "metadata", "status"}}
        status = {"status": before["status"]} if "status" in before else {}
        filed = {"apiVersion": body["apiVersion"], "kind": body["kind"], "metadata": metadata, **rest, **status}
        return _in_version_of(before, filed, target) if written is not None and target.kind.smi else filed

    async def _write(self, target: Target, entry: Entry | None, filed: dict[str, Any], book: Book) -> None:
        raw = entry.raw if entry else None
        with self._store.expecting(target.ref, book):
            written = self._shelf.written(target.ref)
            with _said():
                self._shelf.put(target.ref, filed)
            await self._until(target.ref, raw, written)
        done = self._store.get(target.ref)
        if done is not None and done.raw is raw:
            self._store.note(target.ref, book)

    async def _remove(self, target: Target, entry: Entry) -> None:
        if not target.kind.writable:
            raise answers.not_allowed(f"{target.kind.resource} are written by smi-adapter alone")
        if target.kind.name == "Namespace":
            if target.name == "default":
                raise answers.forbidden(target.kind, target.name, "this namespace may not be deleted")
            doomed = [ref for ref in self._store.refs(target.name) if self._shelf.written(ref) is not None]
        elif self._shelf.written(target.ref) is None:
            raise answers.forbidden(target.kind, target.name, self._made_from(entry))
        else:
            doomed = []
        if self._shelf.written(target.ref) is not None:
            doomed.append(target.ref)
        with _said():
            for ref in doomed:
                self._shelf.check_removable(ref)
        if target.dry_run:
            return
        for ref in doomed:
            raw = found.raw if (found := self._store.get(ref)) else None
            written = self._shelf.written(ref)
            if written is None:  # its file was deleted while the others went
                continue
            with _said():
                self._shelf.remove(ref)
            await self._until(ref, raw, written)

    async def _until(self, ref: Ref, before: RawObject | None, filed: RawObject | None) -> None:
        """Wait until the source says something else about an object than before.

        An edit of what nothing is made of here (a cluster IP, say) is in force when the file has been read.
        """
        try:
            async with asyncio.timeout(self._patience):
                while (found.raw if (found := self._store.get(ref)) else None) is before:
                    try:
                        async with asyncio.timeout(_MOMENT):
                            await self._store.moved()
                    except TimeoutError:
                        if self._shelf.written(ref) is not filed:
                            return
        except TimeoutError:
            message = f"the file of {ref} was written, but not read again within {self._patience:.0f} s"
            raise answers.RefusedError(504, "Timeout", message) from None


@contextlib.contextmanager
def _said() -> Iterator[None]:
    """Say the errors of the shelf as the API does."""
    try:
        yield
    except ShelfConflictError as error:
        raise answers.RefusedError(409, "Conflict", str(error)) from error
    except ShelfUnreadableError as error:
        raise answers.RefusedError(403, "Forbidden", str(error)) from error
    except ShelfError as error:
        raise answers.RefusedError(500, "InternalError", str(error)) from error


def _leaves_of(last_applied: str, *, keyed: bool) -> frozenset[fields.Path]:
    """Return the fields that a client-side apply set last; none if that can't be read."""
    try:
        return frozenset(fields.leaves(json.loads(last_applied), keyed=keyed))
    except ValueError:
        return frozenset()


def _with_last_applied(value: dict[str, Any], applied: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object that remembers for client-side applies what was applied from the server's side."""
    metadata = value["metadata"]
    text = json.dumps(applied, separators=(",", ":")) + "\n"
    return {
        **value,
        "metadata": {**metadata, "annotations": {**(metadata.get("annotations") or {}), LAST_APPLIED: text}},
    }


def _as_source(filed: dict[str, Any], entry: Entry | None) -> dict[str, Any]:
    """Return what the source would make of a file, for a dry run: an address of a Pod and the like stay."""
    if entry is None or "status" not in entry.raw:
        return filed
    return {**filed, "status": entry.raw["status"]}


def _in_version_of(before: RawObject, filed: dict[str, Any], target: Target) -> dict[str, Any]:
    """Return an object in the version in which its file has it, unless that version can't say all of it."""
    version = str(before.get("apiVersion", "")).rpartition("/")[2]
    if version == target.version or version not in target.kind.versions:
        return filed
    kept = views.converted(filed, target.kind, version)
    if not views.says_all(kept) or wire.decode(kept)[0] is None:
        return filed
    old, new = wire.decode(before)[0], wire.decode(kept)[0]
    if old is not None and new is not None and replace(old, meta=new.meta) == new:
        return {**before, "metadata": kept["metadata"]}
    return kept
