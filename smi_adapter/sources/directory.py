"""The directory source: YAML files on disk are the API, and saving one is `kubectl apply`.

Flow: a change is noticed (watchfiles), the files that changed are read (`files`), the controllers' part is worked out
again if it may differ (`controllers`), and what really changed leaves as one batch. There is no debounce: an edit is
in effect milliseconds later. What makes that safe is that a file which somebody is still writing is not read at all,
and that a file which vanished is believed gone only after a moment, because editors replace files in two steps.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
import stat
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from ipaddress import IPv4Network
from pathlib import Path

from watchfiles import Change, awatch
from watchfiles._rust_notify import WatchfilesRustInternalError  # the package exports it from nowhere else

from smi_adapter.decode import RawObject
from smi_adapter.findings import Finding, Ref
from smi_adapter.smi.objects import Key
from smi_adapter.sources import Batch, Location, controllers, edits, files
from smi_adapter.sources.controllers import DEFAULT_NETWORK, Addresses, Memory, World
from smi_adapter.sources.files import FileState, NotSettledError, Tree

_log = logging.getLogger(__name__)

GONE_AFTER = 0.1
"""Seconds for which a file must be away before its objects go."""
WRITTEN_FOR_AT_MOST = 1.0
"""Seconds for which we wait for a writer to close a file whose content no longer changes."""
BLIND = 0.2
"""Seconds between two looks where nothing tells of changes: the system's watches are used up, say."""
RESCAN = 5.0
"""Seconds after which everything is looked at anyway: no notification system is perfect."""
_STEP = 5
"""Milliseconds between two looks of the watching thread at what the system has told it, of which a change waits for one
and a half on average: it is told when a second look finds nothing more. Each takes the interpreter's lock, and they are
most of what an idle run costs (1 to 2 % of a core with one look a millisecond)."""
_POLL = 0.002
_INLINE = 64 * 1024
_CLAIM_PORT = 61337


class DirectorySource:
    """Watches a directory (or one file) and yields batches of changed objects."""

    def __init__(self, path: Path, network: IPv4Network = DEFAULT_NETWORK) -> None:
        self.path = path.absolute()
        self._tree = Tree()
        self._world = World({}, (), Memory(Addresses(network)), {})
        self._ready: Mapping[Key, bool] | None = None
        self._stale = True
        self._blind = False
        self._listed = -math.inf
        self._folder = self.path
        self._watched: tuple[int, int] | None = None
        self._turned = asyncio.Event()
        self._wake = asyncio.Event()
        self._hints: set[Path] = set()
        self._gone: dict[Path, float] = {}
        self._writing: dict[Path, tuple[files.Signature | None, float]] = {}

    def findings(self) -> tuple[Finding, ...]:
        """Return what is to be said about files, duplicates and workloads at present."""
        return (*self._tree.findings(), *self._world.findings)

    def location(self, ref: Ref, field: str = "") -> Location | None:
        """Return where an object was written; one that the controllers added stands where its owner does."""
        owner = self._world.owners.get(ref)
        return self._tree.location(owner or ref, "" if owner else field)

    def written(self, ref: Ref) -> RawObject | None:
        """Return an object as its file holds it; None: it is in no file."""
        return self._tree.objects.get(ref)

    def put(self, ref: Ref, raw: RawObject) -> None:
        """Write an object into its file (a new one gets a file of its own); a batch follows. EditError if it fails."""
        self._look(edits.put(self.path, self._tree, ref, raw))

    def check_removable(self, ref: Ref) -> None:
        """Raise EditError if an object can't be removed from its files as they are now."""
        edits.check_removable(self.path, self._tree, ref)

    def remove(self, ref: Ref) -> None:
        """Remove an object from its files; a batch follows. EditError if it fails."""
        self._look(*edits.remove(self.path, self._tree, ref))

    def _look(self, *paths: Path) -> None:
        """Look at files at once, without waiting for the system to tell of them; one that we deleted is gone."""
        for path in paths:
            if path.exists():
                self._hints.add(path)
            elif path in self._tree.states:
                self._gone[path] = -GONE_AFTER
        self._wake.set()

    def set_ready(self, ready: Mapping[Key, bool]) -> None:
        """Take over which Pods are ready, as the process runtime saw it; a batch follows if that changes anything."""
        if ready != self._ready:
            self._ready = dict(ready)
            self._stale = True
            self._wake.set()

    async def __aiter__(self) -> AsyncIterator[Batch]:
        """Yield the full sync, then every change for ever; a path that does not exist is an error at once."""
        if not self.path.exists():
            raise FileNotFoundError(f"there is no file or directory {self.path}")
        watcher = asyncio.create_task(self._watch())
        try:
            await self._refresh(set())
            while self._writing:
                await asyncio.sleep(_POLL)
                await self._refresh(set())
            batch, said = self._next_batch(set()), self.findings()
            yield batch
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._patience()):  # wait_for could swallow a cancellation (3.11)
                        await self._wake.wait()
                self._wake.clear()
                hints, self._hints = self._hints, set()
                batch = self._next_batch(await self._refresh(hints))
                if batch or said != self.findings():
                    said = self.findings()
                    yield batch
                if watcher.done():
                    watcher.result()
                    raise RuntimeError("the watcher of the directory ended")
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)

    async def _watch(self) -> None:
        """Wake the source at every change below the path, whatever it is: what really changed is found by looking.

        A folder that another one was put in place of, or a link to it that turned, is watched anew.
        """
        self._folder = self.path if self.path.is_dir() else self.path.parent
        try:
            while True:
                self._turned.clear()
                self._watched = _identity(self._folder)
                # Once the watch stands all is looked at: nobody tells of what happened before.
                self._listed = -math.inf
                asyncio.get_running_loop().call_soon(self._wake.set)
                async for changes in awatch(
                    self._folder, watch_filter=None, debounce=1, step=_STEP, stop_event=self._turned
                ):
                    self._hints |= {Path(path) for _, path in changes}
                    if (Change.deleted, str(self._folder)) in changes:
                        self._watched = None  # made again it may have the same inode
                    self._wake.set()
                if not self._turned.is_set():
                    return
        except (OSError, WatchfilesRustInternalError) as error:
            _log.warning("changes of files are looked for %.0f times a second only: %s", 1 / BLIND, error)
            self._blind = True
            await asyncio.Event().wait()
        finally:
            self._turned.set()
            self._wake.set()

    def _renew_watch(self) -> None:
        """Let the watch begin anew if it is that of a folder which is no longer there."""
        now = _identity(self._folder)
        if now is None:
            self._watched = None
        elif now != self._watched and not self._blind:
            self._turned.set()

    def _patience(self) -> float:
        """Return in how many seconds to look again if nothing wakes us before."""
        patience = BLIND if self._blind else RESCAN
        return min([patience, *([_POLL] if self._writing else []), *([GONE_AFTER / 4] if self._gone else [])])

    async def _refresh(self, hints: set[Path]) -> set[Ref]:
        """Read the files that changed; return the names of the objects that changed with them."""
        known = self._tree.states
        hints = {path for path in hints if not edits.is_temporary(path)}
        listing = None if self._near(hints) else files.listing(self.path)
        if listing is None:
            looked = hints | self._gone.keys() | self._writing.keys()
            found = [path for path in looked if files.signature(path)]
            present = (known.keys() - looked).union(found)
        else:
            self._listed = time.monotonic()
            self._renew_watch()
            self._tree.set_closed(listing.closed, self.path)
            found = listing.paths
            present = {path for path in known if listing.hides(path)}.union(found)
        changed = [path for path in found if path in hints or self._changed(path)]
        size = sum(now[1] for path in changed if (now := files.signature(path)))
        states = self._read(changed) if size <= _INLINE else await asyncio.to_thread(self._read, changed)
        touched: set[Ref] = set()
        for path, state in states.items():
            touched |= self._tree.put(path, state)
        return touched | self._forget(present)

    def _near(self, hints: set[Path]) -> bool:
        """Tell whether looking at the files that the hints name is enough.

        All is looked at when a hint may mean a folder or a link, and now and then: what happened before the watch
        stood, or was not told, is found that way.
        """
        if time.monotonic() - self._listed > 0.9 * (BLIND if self._blind else RESCAN):
            return False
        return all(self._can_follow(path) for path in hints | self._gone.keys())

    def _can_follow(self, path: Path) -> bool:
        """Tell whether a path is that of one file, new in a folder that we know, changed or gone, and of nothing more.

        What we may not look at is not gone.
        """
        known = self._tree.states
        try:
            plain = stat.S_ISREG(path.stat().st_mode)
        except FileNotFoundError:
            return path in known and path != self.path and not path.is_symlink()
        except OSError:
            return False
        if path in known or not plain:
            return plain
        near = path.parent == self.path or self._tree.reads_in(path.parent)
        return near and self.path in path.parents and files.wanted(path, self.path)

    def _changed(self, path: Path) -> bool:
        state = self._tree.states.get(path)
        return state is None or path in self._writing or files.signature(path) != state.signature

    def _read(self, changed: Iterable[Path]) -> dict[Path, FileState]:
        """Read files; one that is being written is left as it was until its writer is done."""
        states: dict[Path, FileState] = {}
        for path in changed:
            try:
                before = self._tree.states.get(path)
                states[path] = files.read(path, self.path, before, settled=self._settled(path))
                self._writing.pop(path, None)
            except NotSettledError:
                now = files.signature(path)
                if self._writing.get(path, (None, 0.0))[0] != now:
                    self._writing[path] = (now, time.monotonic())
        return states

    def _settled(self, path: Path) -> bool:
        """Tell whether to insist that nobody writes the file: not for ever, some programs never close theirs."""
        seen, since = self._writing.get(path, (None, 0.0))
        return seen != files.signature(path) or time.monotonic() - since < WRITTEN_FOR_AT_MOST

    def _forget(self, present: set[Path]) -> set[Ref]:
        """Drop files that are gone for good; return the names of the objects that went with them."""
        now = time.monotonic()
        self._gone = {path: self._gone.get(path, now) for path in self._tree.states if path not in present}
        self._writing = {path: seen for path, seen in self._writing.items() if path in present}
        touched: set[Ref] = set()
        for path in [path for path, since in self._gone.items() if now - since >= GONE_AFTER]:
            del self._gone[path]
            touched |= self._tree.put(path, None)
        return touched

    def _next_batch(self, touched: set[Ref]) -> dict[Ref, RawObject | None]:
        """Return what changed since the last batch; the controllers work only if what they read has changed."""
        if self._stale or any(controllers.concerns(ref) for ref in touched):
            old = self._world.objects
            self._world = controllers.reconcile(self._tree.objects, self._world.memory, self._ready)
            self._stale = False
            return _difference(old, self._world.objects)
        batch = {ref: self._tree.objects.get(ref) for ref in touched}
        objects = self._world.objects  # ours alone: `reconcile` made it, and nobody else holds it
        for ref, raw in batch.items():
            if raw is None:
                objects.pop(ref, None)
            else:
                objects[ref] = raw
        return batch


def _identity(folder: Path) -> tuple[int, int] | None:
    """Return what tells a folder from another one of the same path; None: there is none."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _difference(old: Mapping[Ref, RawObject], new: Mapping[Ref, RawObject]) -> dict[Ref, RawObject | None]:
    changes: dict[Ref, RawObject | None] = {
        ref: raw for ref, raw in new.items() if (was := old.get(ref)) is not raw and was != raw
    }
    changes.update((ref, None) for ref in old if ref not in new)
    return changes


def claim_network(first: int = 42) -> tuple[IPv4Network, socket.socket]:
    """Choose 127.x.0.0/16 for this run and hold it until the returned socket is closed (or the process ends).

    x is 42 unless another run holds it, so that a restart finds the same addresses again.
    """
    for second in [*range(first, 255), *range(1, first)]:
        network = IPv4Network(f"127.{second}.0.0/16")
        claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            claim.bind((str(network.broadcast_address - 1), _CLAIM_PORT))
        except OSError:
            claim.close()
        else:
            return network, claim
    raise OSError("every network 127.x.0.0/16 is in use by another run")
