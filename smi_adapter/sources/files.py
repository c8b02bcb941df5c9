"""Files of YAML or JSON to raw objects: reading that cannot be hurt by what it reads.

A file that is huge, broken, half-written or no file at all changes nothing: what it held before stays, and a finding
names the line. Within a file each document stands for itself: only texts that changed are parsed again, and while one
document can't be read the objects that this file lost stay too, since one of them is probably it. `analyze` uses
`read_tree` alone; `directory` adds the watching.
"""

from __future__ import annotations

import os
import signal
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from smi_adapter.decode import RawObject, ref_of
from smi_adapter.findings import Finding, Ref, finding
from smi_adapter.sources import Location
from smi_adapter.sources.yaml_text import Parsed, YamlError, decode_bytes, line_of, parse, split

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    HAVE_LEASES = False
else:
    HAVE_LEASES = hasattr(fcntl, "F_SETLEASE")

MAX_BYTES = 1 << 20
SUFFIXES = (".yaml", ".yml", ".json")

Signature: TypeAlias = tuple[int, int, int]
"""Inode, size and time of change: another one means that the file must be read again."""


class Found(NamedTuple):
    """One object of a file: `line` is where it starts, `item` its number in a `List`."""

    ref: Ref
    raw: RawObject
    line: int
    item: int | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """One document: its text, what was found in it, and what is wrong with it."""

    line: int
    text: str
    found: tuple[Found, ...] = ()
    problems: tuple[Finding, ...] = ()
    broken: bool = False


@dataclass(frozen=True, slots=True)
class FileState:
    """What a file holds at present; `kept` are objects of an earlier state that a broken document may stand for."""

    path: Path
    name: str
    signature: Signature | None = None
    documents: tuple[Document, ...] = ()
    kept: tuple[Found, ...] = ()
    problem: Finding | None = None

    def found(self) -> Iterator[Found]:
        """Yield every object in force, in the order of the file."""
        for document in self.documents:
            yield from document.found
        yield from self.kept

    def problems(self) -> Iterator[Finding]:
        """Yield what is to be said about the file."""
        if self.problem is not None:
            yield self.problem
        for document in self.documents:
            yield from document.problems


class Tree:
    """The objects of all files; of two with one name the first by file name and position counts (SMI0508).

    Replacing one file costs what that file holds, however many others there are.
    """

    def __init__(self) -> None:
        self.objects: dict[Ref, RawObject] = {}
        self._states: dict[Path, FileState] = {}
        self._folders: Counter[Path] = Counter()
        self._held: dict[Path, dict[Ref, list[Found]]] = {}
        self._holders: dict[Ref, set[Path]] = {}
        self._origins: dict[Ref, tuple[Path, Found]] = {}
        self._problems: dict[Path, tuple[Finding, ...]] = {}
        self._duplicates: dict[Ref, tuple[Finding, ...]] = {}
        self._closed: tuple[Finding, ...] = ()

    @property
    def states(self) -> Mapping[Path, FileState]:
        """Return what every file holds."""
        return self._states

    def reads_in(self, folder: Path) -> bool:
        """Tell whether a file that we hold is in that very folder."""
        return folder in self._folders

    def put(self, path: Path, state: FileState | None) -> set[Ref]:
        """Replace what a file holds (None: it is gone); return the names of the objects that this changed."""
        held: dict[Ref, list[Found]] = {}
        for found in state.found() if state else ():
            held.setdefault(found.ref, []).append(found)
        before = self._held.pop(path, {})
        self._problems.pop(path, None)
        if self._states.pop(path, None) is not None:
            self._folders[path.parent] -= 1
            if not self._folders[path.parent]:
                del self._folders[path.parent]
        if state is not None:
            self._folders[path.parent] += 1
            self._held[path], self._states[path] = held, state
            if problems := tuple(state.problems()):
                self._problems[path] = problems
        differing = {ref for ref in before.keys() | held.keys() if not _same(before.get(ref), held.get(ref))}
        for ref in differing:
            holders = self._holders.setdefault(ref, set())
            (holders.add if ref in held else holders.discard)(path)
        return {ref for ref in differing if self._elect(ref)}

    def set_closed(self, closed: Mapping[Path, str], root: Path) -> None:
        """Say into which folders we can't look; the caller keeps what their files held."""
        named = sorted((_name(folder, root), reason) for folder, reason in closed.items())
        stays = "what the files in it held stays in force"
        self._closed = tuple(
            finding("SMI0507", _subject(name), "", f"{name}: the folder can't be read: {reason}; {stays}")
            for name, reason in named
        )

    def _elect(self, ref: Ref) -> bool:
        """Choose which definition of an object counts; tell whether the object is another one now."""
        holders = sorted(self._holders[ref], key=lambda path: self._states[path].name)
        self._duplicates.pop(ref, None)
        if not holders:
            del self._holders[ref], self._origins[ref]
            return self.objects.pop(ref, None) is not None
        everywhere = [(path, found) for path in holders for found in self._held[path][ref]]
        first = everywhere[0]
        if len(everywhere) > 1:
            places = [f"{self._states[path].name}:{found.line}" for path, found in everywhere]
            self._duplicates[ref] = tuple(
                finding("SMI0508", ref, "", f"{place} defines it again; {places[0]} counts") for place in places[1:]
            )
        self._origins[ref] = first
        raw, old = first[1].raw, self.objects.get(ref)
        if raw is old or raw == old:
            return False  # the old object stays, so that "did it change" is an identity test
        self.objects[ref] = raw
        return True

    def findings(self) -> tuple[Finding, ...]:
        """Return what is to be said about the files: unreadable ones, documents that are no objects, duplicates."""
        groups = (self._problems, self._duplicates)
        return (*self._closed, *(item for group in groups for part in group.values() for item in part))

    def definitions(self, ref: Ref) -> tuple[tuple[Path, Found], ...]:
        """Return every place where an object is written, the one that counts first."""
        holders = sorted(self._holders.get(ref, ()), key=lambda path: self._states[path].name)
        return tuple((path, found) for path in holders for found in self._held[path][ref])

    def location(self, ref: Ref, field: str = "") -> Location | None:
        """Return where an object, and as near as can be said a field of it, was written."""
        if ref.kind == "File":
            return Location(ref.name, 1)
        if ref not in self._origins:
            return None
        path, found = self._origins[ref]
        state = self._states[path]
        for document in state.documents if field else ():
            if any(item is found for item in document.found):
                return Location(state.name, document.line - 1 + line_of(document.text, field, found.item))
        return Location(state.name, found.line)


class NotSettledError(Exception):
    """Somebody has the file open for writing."""


def wanted(path: Path, root: Path) -> bool:
    """Tell whether a file below the root is ours to read: its suffix says so, and nothing on the way is hidden."""
    parts = path.relative_to(root).parts
    return path.suffix in SUFFIXES and not any(part.startswith(".") for part in parts)


class Listing(NamedTuple):
    """The files to read, sorted, and the folders into which we can't look, each with the reason."""

    paths: list[Path]
    closed: dict[Path, str]

    def hides(self, path: Path) -> bool:
        """Tell whether a file may well be there, in a folder into which we can't look."""
        return bool(self.closed) and any(folder in self.closed for folder in path.parents)


def listing(root: Path) -> Listing:
    """Look for files; a root that is a file is read whatever its name."""
    found: list[Path] = []
    closed: dict[Path, str] = {}

    def failed(error: OSError) -> None:
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):  # those are gone, which is no fault
            closed[Path(error.filename or root)] = error.strerror or type(error).__name__

    try:
        if not root.is_dir():
            return Listing([root], closed)
    except OSError as error:  # a folder above it was closed
        return Listing([], {root: error.strerror or type(error).__name__})
    for folder, folders, names in os.walk(root, onerror=failed):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [path for name in names if wanted(path := Path(folder, name), root)]
    return Listing(sorted(found), closed)


def signature(path: Path) -> Signature | None:
    """Return what tells one state of a file from another; None: there is no such file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def read(path: Path, root: Path, before: FileState | None = None, *, settled: bool = False) -> FileState:
    """Read a file; whatever happens, the answer is a state that can be used.

    `settled`: raise NotSettledError rather than take the text while somebody is still writing it.
    """
    name = _name(path, root)
    before = FileState(path, name) if before is None else before
    now = signature(path)
    try:
        text = decode_bytes(_bytes(path, settled=settled))
    except OSError as error:
        return _unread(before, now, 1, error.strerror or type(error).__name__)
    except _Unusable as error:
        return _unread(before, now, 1, str(error), code=error.code)
    except YamlError as error:
        return _unread(before, now, error.line, error.reason)
    known = {document.text: document for document in before.documents}
    subject = _subject(name)
    documents = tuple(_document(line, part, subject, known.get(part)) for line, part in split(text))
    kept: tuple[Found, ...] = ()
    if any(document.broken for document in documents):
        present = {found.ref for document in documents for found in document.found}
        kept = tuple(found for found in before.found() if found.ref not in present)
    return FileState(path, name, now, documents, kept)


def read_tree(root: Path) -> Tree:
    """Read everything below a directory, or one file, once."""
    tree = Tree()
    found = listing(root)
    for path in found.paths:
        tree.put(path, read(path, root))
    tree.set_closed(found.closed, root)
    return tree


class _Unusable(Exception):  # noqa: N818 - not an error to be seen outside
    def __init__(self, reason: str, code: str = "SMI0507") -> None:
        super().__init__(reason)
        self.code = code


def _bytes(path: Path, *, settled: bool) -> bytes:
    """Read a regular file of at most MAX_BYTES; never block on a pipe or a device that bears a file's name."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _Unusable("it is not a regular file")
        if settled and _being_written(descriptor):
            raise NotSettledError
        data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise _Unusable(f"it is larger than {MAX_BYTES} bytes", "SMI0206")
        if settled and _being_written(descriptor):
            raise NotSettledError
    return data


def _being_written(descriptor: int) -> bool:
    """Tell whether a process has the file open for writing, where the system can say so.

    Linux grants a read lease only on a file that nobody writes. It is given back at once; in between a writer's open()
    waits a few microseconds and we get a signal, for which SIGURG is chosen because it is ignored by default.
    """
    if not HAVE_LEASES:
        return False
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except OSError:  # somebody else's file, or a file system without leases
        return False
    return False


def _name(path: Path, root: Path) -> str:
    """Return how messages call a file or a folder."""
    written = path.name if path == root else path.relative_to(root).as_posix()
    return "".join(character if character.isprintable() else "?" for character in written)


def _subject(name: str) -> Ref:
    return Ref("File", "", name)


def _unread(before: FileState, now: Signature | None, line: int, reason: str, code: str = "SMI0507") -> FileState:
    held = sum(1 for _ in before.found())
    stays = f"; the {held} objects that it held stay in force" if held else ""
    problem = finding(code, _subject(before.name), "", f"{before.name}:{line}: {reason}{stays}")
    return replace(before, signature=now, problem=problem)


def _document(line: int, text: str, subject: Ref, known: Document | None) -> Document:
    """Parse one document, unless the same text was parsed before."""
    if known is not None and known.line == line:
        return known
    if known is not None and not known.problems:
        moved = line - known.line
        return replace(known, line=line, found=tuple(item._replace(line=item.line + moved) for item in known.found))
    try:
        found = tuple(item for parsed in parse(text) for item in objects(parsed, line))
    except YamlError as error:
        at = line - 1 + error.line
        problem = finding("SMI0507", subject, "", f"{subject.name}:{at}: {error.reason}")
        return Document(line, text, (), (problem,), broken=True)
    good = tuple(item for item in found if item.ref.kind and item.ref.name)
    problems = tuple(
        finding("SMI0507", subject, "", f"{subject.name}:{item.line}: {_missing(item)}")
        for item in found
        if not (item.ref.kind and item.ref.name)
    )
    return Document(line, text, good, problems, broken=bool(problems))


def objects(parsed: Parsed, line: int) -> Iterator[Found]:
    """Yield the objects of one value: itself, or the items of a `List`."""
    value: Any = parsed.value
    at = line - 1 + parsed.line
    kind = value.get("kind") if isinstance(value, dict) else None
    if not isinstance(value, dict):
        yield Found(Ref("", "", ""), {}, at)
    elif isinstance(kind, str) and kind.endswith("List") and isinstance(value.get("items"), list):
        implied = {"kind": kind.removesuffix("List"), "apiVersion": value.get("apiVersion")} if kind != "List" else {}
        for number, item in enumerate(value["items"]):
            item_line = line - 1 + parsed.item_lines[number] if number < len(parsed.item_lines) else at
            raw = {**implied, **item} if isinstance(item, dict) else {}
            yield Found(ref_of(raw), raw, item_line, number)
    else:
        yield Found(ref_of(value), value, at)


def _missing(item: Found) -> str:
    what = "kind" if not item.ref.kind else "metadata.name"
    return f"this is no Kubernetes object: it has no {what}"


def _same(old: list[Found] | None, new: list[Found] | None) -> bool:
    """Tell whether these are the very same findings of an object, so that nothing about it has changed."""
    if old is None or new is None or len(old) != len(new):
        return False
    return all(one is other for one, other in zip(old, new, strict=True))
