"""How answers look: aligned tables, colour on a terminal only, JSON that is data and nothing else."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click

from smi_adapter.findings import Finding, Severity, printable

_COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.INFO: "cyan"}


def coloured() -> bool:
    """Tell whether stdout is a terminal that wants colour (https://no-color.org)."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def paint(text: str, colour: str) -> str:
    """Return the text in a colour, or as it is where colour is not wanted."""
    return click.style(text, fg=colour) if coloured() else text


def severity(value: Severity) -> str:
    """Return a severity in its colour."""
    return paint(value.value, _COLOURS[value])


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return rows in columns two spaces apart, as kubectl prints them; the last column is not padded."""
    lines = [list(header), *[list(row) for row in rows]]
    widths = [max(len(click.unstyle(line[column])) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell if column == len(line) - 1 else cell + " " * (widths[column] - len(click.unstyle(cell)))
            for column, cell in enumerate(line)
        ).rstrip()
        for line in lines
    )


def as_json(value: Any) -> str:
    """Return a value as indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def counted(number: int, word: str) -> str:
    """Return `1 file`, `2 files`."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def finding_data(item: Finding, location: tuple[str, int] | None = None) -> dict[str, Any]:
    """Return a finding as plain data; `file` and `line` only where the object came from a file."""
    data: dict[str, Any] = {
        "code": item.code,
        "name": item.name,
        "severity": item.severity.value,
        "kind": item.subject.kind,
        "namespace": item.subject.namespace,
        "object": item.subject.name,
        "field": item.field,
        "message": item.message,
        "hint": item.hint,
    }
    if location is not None:
        data |= {"file": location[0], "line": location[1]}
    return data


def finding_text(item: Finding, location: tuple[str, int] | None = None) -> str:
    """Return a finding in three short lines: where and what, then the next step."""
    place = f"{location[0]}:{location[1]}" if location else ""
    subject, message = str(item.subject), item.message
    if item.subject.kind == "File" and (found := _PLACE.match(message)) and found[1] == item.subject.name:
        file = location[0] if location else found[1]
        place, message = file + (found[2] or ""), found[3]  # of a file the message alone knows the line
        subject = ""
    what = printable(f"{subject} {item.field}".strip())
    head = f"{severity(item.severity)} {item.code} {item.name}{': ' if what else ''}{what}"
    head = f"{printable(place)}: {head}" if place else head
    return f"{head}\n  {printable(message)}\n  -> {printable(item.hint)}"


_PLACE = re.compile(r"(.+?)(:\d+)?: (.*)", re.DOTALL)
_STEP = re.compile(r"\.([A-Za-z0-9_\-]+)|\['([^']*)'\]|\[(\d+|\*)\]")


def jsonpath(template: str) -> Callable[[Any], str]:
    """Return what fills in a jsonpath template as kubectl's: `{.a.b}`, `[0]`, `[*]`, `['a.b']` and `{"text"}`.

    UsageError for anything else of that language.
    """
    parts: list[Callable[[Any], str]] = []
    for text, inside in re.findall(r"([^{}]+)|\{([^{}]*)\}", template):
        if text:
            parts.append(_words(text))
        elif inside.startswith('"') and inside.endswith('"'):
            parts.append(_words(inside[1:-1].replace("\\n", "\n").replace("\\t", "\t")))
        else:
            parts.append(_path(inside))
    return lambda value: "".join(part(value) for part in parts)


def _words(text: str) -> Callable[[Any], str]:
    return lambda _: text


def _path(inside: str) -> Callable[[Any], str]:
    steps = _STEP.findall(inside.removeprefix("$"))
    if "".join(match.group() for match in _STEP.finditer(inside)) != inside.removeprefix("$") or not steps:
        raise click.UsageError(f"jsonpath: only fields, [number] and [*] are understood, not {{{inside}}}")

    def found(value: Any) -> str:
        values = [value]
        for name, quoted, index in steps:
            if index == "*":
                values = [item for one in values for item in (one.values() if isinstance(one, dict) else one or ())]
            elif index:
                values = [one[int(index)] for one in values if isinstance(one, list) and int(index) < len(one)]
            else:
                values = [one[name or quoted] for one in values if isinstance(one, dict) and (name or quoted) in one]
        return " ".join(one if isinstance(one, str) else json.dumps(one) for one in values)

    return found
