"""YAML text to plain values, safely: the only place that parses YAML.

PyYAML's C parser composes nodes; this module turns nodes into values itself, because that is where the dangers are:
aliases that multiply (a billion laughs), nesting that overflows the stack, integers of 10,000 digits, keys that stand
twice (the last one would silently win), types that Kubernetes does not have (dates, sexagesimal numbers, sets). A
text is cut into documents first, so that a broken one is one finding and its neighbours live.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

MAX_DEPTH = 64
MAX_ALIASED = 10_000
"""How many values aliases and merge keys may stand for in one document, counted as if they were written out."""
MAX_DIGITS = 300

_MARKER = re.compile(r"^---(?=[ \t\r\n]|$)", re.MULTILINE)
_DIRECTIVES = re.compile(r"(?:[ \t]*(?:#[^\n]*)?\r?\n)*%[^\n]*\n(?:[ \t]*(?:[%#][^\n]*)?\r?\n)*")
_CONTROL = re.compile(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_TAG = "tag:yaml.org,2002:"
_TRUE = frozenset({"y", "yes", "true", "on"})


class YamlError(Exception):
    """The text is no YAML that we take; `line` counts from 1 within the text."""

    def __init__(self, reason: str, line: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.line = line


@dataclass(frozen=True, slots=True)
class Parsed:
    """One value with the line (from 1, within its text) where it starts; `items` are those of a `List`."""

    value: Any
    line: int
    item_lines: tuple[int, ...] = ()


def decode_bytes(data: bytes) -> str:
    """Return the text of a file: UTF-8, or UTF-16 with a byte order mark, as the YAML standard says."""
    encoding = "utf-16" if data[:2] in {b"\xff\xfe", b"\xfe\xff"} else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise YamlError(f"it is not {encoding.removesuffix('-sig').upper()}", line) from None
    found = _CONTROL.search(text)
    if found:
        line = text.count("\n", 0, found.start()) + 1
        raise YamlError(f"it holds the character U+{ord(found[0]):04X}, which YAML does not allow", line)
    return text


def split(text: str) -> list[tuple[int, str]]:
    """Cut a text at its `---` lines into (line of its start, from 1; text). No value can hold such a line."""
    parts: list[tuple[int, str]] = []
    line, start = 1, 0
    for end in [*(found.start() for found in _MARKER.finditer(text) if found.start() > 0), len(text)]:
        if end < len(text) and _DIRECTIVES.fullmatch(text, start, end):
            continue  # `%YAML` lines belong to the document that follows them
        parts.append((line, text[start:end]))
        line += text.count("\n", start, end)
        start = end
    return parts


def parse(text: str) -> tuple[Parsed, ...]:
    """Return the values of a text (usually one; empty documents are left out), or raise YamlError."""
    if text.lstrip()[:1] == "{":
        try:
            return (Parsed(_json(text), 1),)
        except (ValueError, RecursionError):
            pass  # YAML's flow style, or JSON with an error that the YAML parser gives the line of
    return tuple(
        Parsed(value, node.start_mark.line + 1, _item_lines(node))
        for node in _compose(text)
        if (value := _Builder().build(node, 0)) is not None
    )


def line_of(text: str, field: str, item: int | None = None) -> int:
    """Return the line (from 1, within the text) of a field such as `spec.backends[0].weight`, or of its nearest parent.

    `item` chooses one of a `List`.
    """
    try:
        node = next(_compose(text), None)
    except YamlError:
        return 1
    if item is not None:
        node = _step(_step(node, "items") or node, item)
    line = node.start_mark.line + 1 if node is not None else 1
    for name, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", field):
        following = _step(node, int(index) if index else name)
        if following is None:
            break
        node = following
        line = node.start_mark.line + 1
    return line


def _json(text: str) -> Any:
    """Parse JSON under the same caps; JSON may hold escapes (surrogate pairs) that YAML parsers refuse.

    Half of such a pair is refused here too: it is no text that anybody could write down again.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) != len(pairs):
            raise ValueError
        return found

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    def whole(digits: str) -> int:
        if len(digits) > MAX_DIGITS:
            raise ValueError
        return int(digits)

    value = json.loads(text, object_pairs_hook=unique, parse_constant=refuse, parse_int=whole)
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError
        level = [child for item in level if isinstance(item, (dict, list)) for child in _children(item)]
    if "\\u" in text:
        json.dumps(value, ensure_ascii=False).encode()  # UnicodeEncodeError is a ValueError
    return value


def _children(item: dict[str, Any] | list[Any]) -> list[Any]:
    return list(item.values()) if isinstance(item, dict) else item


def _compose(text: str) -> Iterator[yaml.Node]:
    try:
        loader = yaml.CSafeLoader(text)
        try:
            while loader.check_node():
                if (node := loader.get_node()) is not None:
                    yield node
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = ": ".join(part for part in (error.context, error.problem) if part)
        last = text.rstrip().count("\n")  # what is missing at the end is missed on the line after it
        raise YamlError(reason or "it is no YAML", min(mark.line, last) + 1 if mark else 1) from None
    except (yaml.YAMLError, UnicodeError) as error:
        raise YamlError(str(error).partition("\n")[0][:200], 1) from None
    except RecursionError:
        raise YamlError("it is nested too deeply", 1) from None


def _step(node: yaml.Node | None, key: str | int) -> yaml.Node | None:
    if isinstance(key, int):
        items = node.value if isinstance(node, yaml.SequenceNode) else []
        return items[key] if key < len(items) else None
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return next((value for name, value in pairs if name.value == key), None)


def _item_lines(node: yaml.Node) -> tuple[int, ...]:
    items = _step(node, "items")
    return tuple(item.start_mark.line + 1 for item in items.value) if isinstance(items, yaml.SequenceNode) else ()


class _Builder:
    """Builds the value of one document and counts what aliases multiply."""

    def __init__(self) -> None:
        self._done: dict[yaml.Node, tuple[Any, int]] = {}  # value and how many values it is, written out
        self._open: set[yaml.Node] = set()
        self._scalars: set[yaml.Node] = set()
        self._aliased = 0
        self._count = 0

    def build(self, node: yaml.Node, depth: int) -> Any:
        """Return the value of a node; one that was built before is an alias and shares its value."""
        if isinstance(node, yaml.ScalarNode):
            if node in self._scalars:
                self._spend(len(node.value) // 16, node)
            self._scalars.add(node)
            self._count += 1
            return _scalar(node)
        if node in self._done:
            value, size = self._done[node]
            self._spend(size, node)
            return value
        if node in self._open:
            raise _error(node, "an alias stands within its own anchor")
        if depth >= MAX_DEPTH:
            raise _error(node, f"it is nested more than {MAX_DEPTH} levels deep")
        self._open.add(node)
        before = self._count
        value = self._mapping(node, depth) if isinstance(node, yaml.MappingNode) else self._sequence(node, depth)
        self._count += 1
        self._open.discard(node)
        self._done[node] = (value, self._count - before)
        return value

    def _spend(self, size: int, node: yaml.Node) -> None:
        self._aliased += size
        self._count += size
        if self._aliased > MAX_ALIASED:
            raise _error(node, f"its aliases stand for more than {MAX_ALIASED} values")

    def _sequence(self, node: yaml.Node, depth: int) -> list[Any]:
        if node.tag != f"{_TAG}seq":
            raise _error(node, f"the tag {_shown(node.tag)} is not allowed")
        return [self.build(item, depth + 1) for item in node.value]

    def _mapping(self, node: yaml.Node, depth: int) -> dict[str, Any]:
        if node.tag != f"{_TAG}map":
            raise _error(node, f"the tag {_shown(node.tag)} is not allowed")
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for name, item in node.value:
            if not isinstance(name, yaml.ScalarNode):
                raise _error(name, "a key is not a text")
            value = self.build(item, depth + 1)
            if name.tag == f"{_TAG}merge":
                for source in value if isinstance(value, list) else [value]:
                    if not isinstance(source, dict):
                        raise _error(name, "'<<' merges something that is no mapping")
                    self._spend(len(source), name)
                    merged = {**source, **merged}
                continue
            if name.value in own:
                raise _error(name, f"the key {_shown(name.value)} stands twice in one mapping")
            own[name.value] = value
        return {**merged, **own}


def _scalar(node: yaml.Node) -> Any:
    """Return a plain value as Kubernetes tools read it: dates and sexagesimal numbers are texts there."""
    kind, text = node.tag.removeprefix(_TAG), node.value
    match kind:
        case "str" | "timestamp" | "value" | "merge":
            return text
        case "null":
            return None
        case "bool":
            return text.lower() in _TRUE
        case "int" | "float" if ":" in text:
            return text
        case "int" | "float":
            return _number(node, kind)
        case _:
            raise _error(node, f"the tag {_shown(node.tag)} is not allowed")


def _number(node: yaml.Node, kind: str) -> int | float:
    text = node.value.replace("_", "")
    if len(text) > MAX_DIGITS:
        raise _error(node, f"a number has more than {MAX_DIGITS} digits")
    sign, digits = (-1, text[1:]) if text[:1] == "-" else (1, text.removeprefix("+"))
    try:
        if kind == "float":
            return sign * float(digits.lower().replace(".inf", "inf").replace(".nan", "nan"))
        if digits[:2].lower() in {"0x", "0b", "0o"}:
            return sign * int(digits, 0)
        return sign * int(digits, 8 if len(digits) > 1 and digits[0] == "0" else 10)
    except ValueError:
        raise _error(node, f"{_shown(node.value)} is no number") from None


def _error(node: yaml.Node, reason: str) -> YamlError:
    return YamlError(reason, node.start_mark.line + 1)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}...")
