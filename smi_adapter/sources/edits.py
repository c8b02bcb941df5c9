"""Objects back into files: an object is changed in the document where it stands, a new one gets a file of its own.

The file is read again for each edit, and nothing is written over what somebody else has changed since we last looked.
A file is replaced in one step with its mode kept, so that no reader (we among them) ever sees half of it.
"""

from __future__ import annotations

import codecs
import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from smi_adapter.decode import RawObject
from smi_adapter.decode.forms import name_problem
from smi_adapter.findings import Ref
from smi_adapter.sources import files
from smi_adapter.sources.yaml_edit import content_end, dumped, edited
from smi_adapter.sources.yaml_text import YamlError, decode_bytes, parse, split

_TEMPORARY = ".new"


class EditError(RuntimeError):
    """A file could not be edited; the message names it and says why."""


class ChangedError(EditError):
    """The file was changed by somebody else at the same time."""


class UnreadableError(EditError):
    """The file holds something that can't be read, so that an edit of it would not be in force."""


def is_temporary(path: Path) -> bool:
    """Tell whether a path is one that a new content has before it replaces the old, and is there no more."""
    return path.name.startswith(".") and path.name.endswith(_TEMPORARY) and not path.is_symlink() and not path.exists()


def put(root: Path, tree: files.Tree, ref: Ref, raw: RawObject) -> Path:
    """Write an object where it stands, or into a new file below the root; return the file."""
    found = tree.definitions(ref)
    try:
        if found:
            path, definition = found[0]
            _rewrite(root, path, tree, definition, lambda text, value, item: _with(text, value, item, raw))
            return path
        if problem := name_problem(ref):
            raise EditError(problem.message)
        return _append(root, raw) if root.is_file() else _new(root, ref, raw)
    except UnicodeEncodeError as error:  # half of a surrogate pair, which JSON may name and no file can hold
        raise EditError(f"{ref}: {error.object[error.start]!a} is no character; write another one") from None


def check_removable(root: Path, tree: files.Tree, ref: Ref) -> None:
    """Raise EditError if an object can't be removed from its files as they are now.

    While something in a file can't be read, an object that goes from it is believed to be what stands there (`files`).
    """
    found = tree.definitions(ref)
    if not found:
        raise EditError(f"{ref} is in no file")
    for path in {path for path, _ in found if path.exists()}:
        for problem in files.read(path, root, tree.states[path]).problems():
            raise UnreadableError(
                f"{problem.message}; correct that first: until then nothing can be removed from this file"
            )


def remove(root: Path, tree: files.Tree, ref: Ref) -> tuple[Path, ...]:
    """Remove every definition of an object, and the files that hold nothing then; return the files."""
    check_removable(root, tree, ref)
    found = tree.definitions(ref)
    for path, definition in reversed(found):
        if not path.exists():  # somebody was faster, and nobody has looked since
            continue
        _rewrite(root, path, tree, definition, _without)
        if ref.namespace and path.parent == root / ref.namespace and not path.exists():
            with contextlib.suppress(OSError):  # the folder that we made for it, unless something else is in it
                path.parent.rmdir()
    return tuple(path for path, _ in found)


# ---------------------------------------------------------------------------------------------------- documents
def _with(text: str, value: Any, item: int | None, raw: RawObject) -> str:
    if item is None:
        return edited(text, value, raw)
    items = list(value["items"])
    items[item] = raw
    return edited(text, value, {**value, "items": items})


def _without(text: str, value: Any, item: int | None) -> str:
    """Return what is left of a document: comments behind it that an empty line sets apart."""
    if item is not None and len(value["items"]) > 1:
        return edited(text, value, {**value, "items": [one for at, one in enumerate(value["items"]) if at != item]})
    if "#" not in text:
        return ""
    rest = text[content_end(text) :]
    _, gap, comments = rest.partition("\n\n")
    return f"\n{comments}" if gap and "#" in comments else ""


def _rewrite(
    root: Path, path: Path, tree: files.Tree, known: files.Found, change: Callable[[str, Any, int | None], str]
) -> None:
    """Change the text of the document that defines an object as we know it."""
    ref = known.ref
    before = files.signature(path)
    data = _bytes(path)
    try:
        text = decode_bytes(data)
    except YamlError as error:
        raise EditError(f"{path} can't be read: {error.reason}") from None
    parts = split(text)
    for number, (_, part) in enumerate(parts):
        try:
            parsed = parse(part)
        except YamlError:
            continue
        for one in parsed:
            for found in files.objects(one, 1):
                if found.ref == ref and found.raw == known.raw:
                    if len(parsed) > 1:
                        raise EditError(f"{path}: the document of {ref} holds more than one; write --- between them")
                    texts = [text for _, text in parts]
                    texts[number] = change(part, one.value, found.item)
                    _finish(root, path, before, data, texts)
                    return
    if before != tree.states[path].signature:
        raise ChangedError(f"{path} was changed at the same time")
    for problem in files.read(path, root, tree.states[path]).problems():
        raise UnreadableError(f"{problem.message}; correct that first: until then {ref} can't be changed")
    raise EditError(f"{path}: the document of {ref} is not there any more")


def _finish(root: Path, path: Path, before: files.Signature | None, data: bytes, parts: list[str]) -> None:
    """Replace the file, or delete it if no document has anything in it: a source that is one file is left empty."""
    if files.signature(path) != before:
        raise ChangedError(f"{path} was changed at the same time")
    if path != root and not any(_says_something(part) for part in parts):
        try:
            path.unlink()
        except OSError as error:
            raise EditError(f"{path} can't be deleted: {error.strerror}") from None
        return
    text = ""
    for part in parts:
        gap = "\n" if text and part and not text.endswith("\n") else ""
        text += f"{gap}{part}"
    if "\r\n" in decode_bytes(data):
        text = text.replace("\r\n", "\n").replace("\n", "\r\n")
    _replace(path, _encoded(text, data))


def _says_something(part: str) -> bool:
    try:
        return bool(parse(part))
    except YamlError:
        return True


def _encoded(text: str, like: bytes) -> bytes:
    if like.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return text.encode("utf-16")
    return text.encode("utf-8-sig" if like.startswith(codecs.BOM_UTF8) else "utf-8")


# -------------------------------------------------------------------------------------------------------- files
def _append(path: Path, raw: RawObject) -> Path:
    data = _bytes(path)
    text = decode_bytes(data)
    gap = "" if not text or text.endswith("\n") else "\n"
    _replace(path, _encoded(f"{text}{gap}---\n{dumped(dict(raw))}", data))
    return path


def _new(root: Path, ref: Ref, raw: RawObject) -> Path:
    data = dumped(dict(raw)).encode()
    folder = root / ref.namespace if ref.namespace else root
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise EditError(f"the folder {folder} can't be made: {error.strerror}") from None
    stem = f"{ref.kind.lower()}-{ref.name}"
    for name in (stem, f"{stem}.{ref.group}", *(f"{stem}-{number}" for number in range(2, 100))):
        path = folder / f"{name}.yaml"
        if not path.exists():
            _replace(path, data)
            return path
    raise EditError(f"{folder} holds too many files of the name {stem}")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EditError(f"{path} can't be read: {error.strerror}") from None


def _replace(path: Path, data: bytes) -> None:
    """Put new content into a file's place in one step; a link stays a link."""
    if len(data) > files.MAX_BYTES:
        raise EditError(f"{path} would be larger than {files.MAX_BYTES} bytes")
    path = path.resolve()
    fresh = path.with_name(f".{path.name}{_TEMPORARY}")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                with contextlib.suppress(OSError):
                    was = path.stat()
                    os.fchmod(descriptor, was.st_mode & 0o7777)
                    os.fchown(descriptor, was.st_uid, was.st_gid)
            fresh.replace(path)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise EditError(f"{path} can't be written: {error.strerror}") from None
