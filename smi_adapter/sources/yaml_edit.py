"""Edits of YAML text that change what they must and nothing else: comments, order and style of the rest stay.

`edited` compares the value that a text holds with the value that it shall hold and replaces, removes or inserts just
the pieces that differ, by the positions that the parser gives. What comes out is parsed again: if it is not exactly
the value that was wanted (aliases, odd styles, whatever), the text is written anew as a whole. So an edit may lose a
comment, never a field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

from smi_adapter.sources.yaml_text import YamlError, parse

_WIDE = 1 << 20


class _TooOddError(Exception):
    """The text can't be edited in pieces."""


def dumped(value: Any) -> str:
    """Return a value as the text of a new document: innermost collections on one line, all others in block style."""
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    style = None if any(isinstance(one, Mapping | list) for one in inner) else False
    text: str = yaml.dump(
        value, Dumper=yaml.CSafeDumper, sort_keys=False, default_flow_style=style, width=110, allow_unicode=True
    )
    return text


def edited(text: str, old: Any, new: Any) -> str:
    """Return the text of one document with its value made `new`; `old` is the value that it has."""
    if text.lstrip()[:1] == "{" and (written := _json(text, new)) is not None:
        return written
    try:
        result = _in_pieces(text, old, new)
        return result if _holds(result, new) else _anew(text, new)
    except (_TooOddError, yaml.YAMLError, YamlError, RecursionError):
        return _anew(text, new)


def _in_pieces(text: str, old: Any, new: Any) -> str:
    node = yaml.compose(text, yaml.SafeLoader)
    if node is None:
        raise _TooOddError
    edits: list[tuple[int, int, str]] = []
    _Edit(text, edits).change(node, old, new)
    return _applied(text, edits)


def content_end(text: str) -> int:
    """Return where the value of a document ends and only comments follow."""
    try:
        node = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError:
        return len(text)
    return len(text) if node is None else _end(node)


def _json(text: str, new: Any) -> str | None:
    """Return a JSON document in the indentation that it had; None: the text is no JSON."""
    try:
        json.loads(text)
    except ValueError:
        return None
    found = re.search(r"\n( +)\S", text)
    return json.dumps(new, indent=len(found[1]) if found else None, ensure_ascii=False) + text[len(text.rstrip()) :]


def _anew(text: str, new: Any) -> str:
    """Return the document written anew, below the marker and the comments that it began with."""
    head = re.match(r"(?:[ \t]*(?:#[^\n]*|---[ \t]*(?:#[^\n]*)?)?\r?\n)*", text)
    return (head[0] if head else "") + dumped(new)


def _holds(text: str, wanted: Any) -> bool:
    found = parse(text)
    return len(found) == 1 and _exact(found[0].value) == _exact(wanted)


def _exact(value: Any) -> str:
    return json.dumps(value, sort_keys=True)  # as Python compares, 1 is True


def _applied(text: str, edits: list[tuple[int, int, str]]) -> str:
    result, reached = [], 0
    for start, end, piece in sorted(edits, key=lambda edit: edit[:2]):
        if start < reached:
            raise _TooOddError
        result += [text[reached:start], piece]
        reached = end
    return "".join([*result, text[reached:]])


def _end(node: yaml.Node) -> int:
    """Return where a value ends; the parser's mark of a block stands behind the comments that follow it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style:
        last = node.value[-1]
        return _end(last[1] if isinstance(node, yaml.MappingNode) else last)
    end: int = node.end_mark.index
    return end


class _Edit:
    """Collects the pieces to replace, as (start, end, text)."""

    def __init__(self, text: str, edits: list[tuple[int, int, str]]) -> None:
        self._text = text
        self._edits = edits

    def change(self, node: yaml.Node, old: Any, new: Any) -> None:
        """Make the value of a node `new`."""
        if _exact(old) == _exact(new):
            return
        if isinstance(node, yaml.MappingNode) and isinstance(old, Mapping) and isinstance(new, Mapping) and new:
            self._mapping(node, old, new)
        elif isinstance(node, yaml.SequenceNode) and isinstance(old, list) and isinstance(new, list) and new:
            self._sequence(node, old, new)
        else:
            self._replace(node, new)

    def _replace(self, node: yaml.Node, new: Any) -> None:
        if isinstance(node, yaml.ScalarNode):
            if node.style in {"|", ">"}:
                raise _TooOddError
            if node.start_mark.index == node.end_mark.index:  # nothing stands there: `key:`
                self._edits.append((node.start_mark.index, node.end_mark.index, f" {_flow(new)}"))
                return
            quoted = node.style if isinstance(new, str) and node.style in {"'", '"'} else None
            self._edits.append((node.start_mark.index, node.end_mark.index, _flow(new, quoted)))
            return
        self._edits.append((node.start_mark.index, _end(node), _flow(new)))

    def _mapping(self, node: yaml.MappingNode, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        keys = [key.value for key, _ in node.value]
        if set(keys) != set(old):  # merge keys
            raise _TooOddError
        added = [name for name in new if name not in old]
        kept = [index for index, name in enumerate(keys) if name in new]
        if node.flow_style and (added or len(kept) < len(keys)):
            self._edits.append((node.start_mark.index, node.end_mark.index, _flow(new)))
            return
        if not kept:
            raise _TooOddError
        for index, (key, value) in enumerate(node.value):
            if key.value in new:
                self.change(value, old[key.value], new[key.value])
            else:
                self._cut(key.start_mark.index, _end(value), self._following(node, index))
        if added:
            column = node.value[0][0].start_mark.column
            self._insert(_end(node.value[kept[-1]][1]), "".join(_block(name, new[name], column) for name in added))

    def _following(self, node: yaml.MappingNode, index: int) -> int:
        return node.value[index + 1][0].start_mark.index if index + 1 < len(node.value) else -1

    def _sequence(self, node: yaml.SequenceNode, old: list[Any], new: list[Any]) -> None:
        if node.flow_style and len(old) != len(new):
            self._edits.append((node.start_mark.index, node.end_mark.index, _flow(new)))
            return
        if len(node.value) != len(old):
            raise _TooOddError
        pairs, gone, come = _aligned(old, new)
        if not pairs:
            raise _TooOddError
        for one, other in pairs:
            self.change(node.value[one], old[one], new[other])
        for index in gone:
            item = node.value[index]
            self._cut(self._dash(item.start_mark.index), _end(item), -1)
        column = node.start_mark.column
        for after, index in come:
            like = node.value[max(after, 0)]
            flow = not (isinstance(like, yaml.CollectionNode) and like.flow_style is False)
            piece = _item(new[index], column, flow=flow)
            if after < 0:
                start = self._text.rfind("\n", 0, self._dash(like.start_mark.index)) + 1
                self._edits.append((start, start, piece.removeprefix("\n") + "\n"))
            else:
                self._insert(_end(like), piece)

    def _dash(self, start: int) -> int:
        dash = self._text.rfind("-", 0, start)
        if self._text[dash + 1 : start].strip():
            raise _TooOddError
        return dash

    def _cut(self, start: int, end: int, following: int) -> None:
        """Remove a whole entry with its line; one that shares its line with a dash goes up to the following one."""
        line = self._text.rfind("\n", 0, start) + 1
        if not self._text[line:start].strip():
            self._edits.append((line, self._line_end(end, after=True), ""))
        elif following > 0:
            self._edits.append((start, following, ""))
        else:
            raise _TooOddError

    def _insert(self, after: int, piece: str) -> None:
        at = self._line_end(after)
        self._edits.append((at, at, piece))

    def _line_end(self, start: int, *, after: bool = False) -> int:
        if start and self._text[start - 1] == "\n":  # a block scalar ends behind its last line
            return start if after else start - 1
        found = self._text.find("\n", start)
        if found < 0:
            return len(self._text)
        return found + 1 if after else found


def _aligned(old: list[Any], new: list[Any]) -> tuple[list[tuple[int, int]], list[int], list[tuple[int, int]]]:
    """Return which items become which, which go, and which come after which old one (-1: before all).

    Items at the start and at the end that are equal stay; of what is between, those of one place change.
    """
    head = 0
    while head < min(len(old), len(new)) and _exact(old[head]) == _exact(new[head]):
        head += 1
    tail = 0
    while tail < min(len(old), len(new)) - head and _exact(old[-1 - tail]) == _exact(new[-1 - tail]):
        tail += 1
    both = min(len(old), len(new)) - head - tail
    pairs = [(index, index) for index in range(head + both)]
    pairs += [(len(old) - tail + index, len(new) - tail + index) for index in range(tail)]
    gone = list(range(head + both, len(old) - tail))
    come = [(head + both - 1, index) for index in range(head + both, len(new) - tail)]
    return pairs, gone, come


def _flow(value: Any, style: str | None = None) -> str:
    """Return a value on one line, such that it can stand within brackets too."""
    text: str = yaml.safe_dump(
        [value], sort_keys=False, default_flow_style=True, default_style=style, width=_WIDE, allow_unicode=True
    )
    return text.strip()[1:-1]


def _block(name: str, value: Any, column: int) -> str:
    """Return a new entry of a block mapping, from the end of the line before it."""
    lines = dumped({name: value}).rstrip("\n").split("\n")
    return "".join(f"\n{' ' * column}{line}" for line in lines)


def _item(value: Any, column: int, *, flow: bool) -> str:
    """Return a new item of a block sequence, from the end of the line before it."""
    if flow:
        return f"\n{' ' * column}- {_flow(value)}"
    text = yaml.safe_dump([value], sort_keys=False, default_flow_style=False, width=_WIDE, allow_unicode=True)
    return "".join(f"\n{' ' * column}{line}" for line in text.rstrip("\n").split("\n"))
