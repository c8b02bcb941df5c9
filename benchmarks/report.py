"""How a run is shown: a table for people, JSON for machines, and the measured part of docs/performance.md."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.bars import Bar, Part

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
BEGIN = "<!-- measured: written by `make bench ARGS=--write-docs`, do not edit -->"
END = "<!-- end of measured -->"


def figure(number: float, unit: str = "") -> str:
    """Return a number as people read it."""
    if math.isinf(number):
        text = "never"
    elif number == int(number) and abs(number) < 1e6:
        text = f"{int(number)}"
    else:
        text = f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"
    return f"{text} {unit}".rstrip()


def table(bars: Iterable[Bar]) -> str:
    """Return the aligned table: a line for each part, the bar's name on the first."""
    rows = [("id", "what", "value", "bar", "control", "met", "measured")]
    for bar in bars:
        rows.append((bar.id, bar.what, "", "", "", "yes" if bar.met else "NO", bar.detail))
        rows += [("", f"  {part.what}", *_cells(part)) for part in bar.parts]
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[6]]).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines[:1])), *lines[1:]])


def markdown(bars: Sequence[Bar], about: str) -> str:
    """Return the measured part of the document."""
    lines = [
        BEGIN,
        "",
        about,
        "",
        "| # | What | Value | Bar | Control | Met | Measured |",
        "|---|---|---|---|---|---|---|",
    ]
    for bar in bars:
        for index, part in enumerate(bar.parts):
            value, limit, control, met, note = _cells(part)
            what = f"{bar.what}: {part.what}" if index == 0 else part.what
            notes = "; ".join(text for text in (note, bar.detail if index == 0 else "") if text)
            lines.append(
                f"| {bar.id if index == 0 else ''} | {what} | {value} | {limit} | {control} | {met} | {notes} |"
            )
    return "\n".join([*lines, "", END])


def _cells(part: Part) -> tuple[str, str, str, str, str]:
    control = figure(part.control, part.unit) + ("" if part.fault_shown else " (no fault shown)")
    limit = ("≤ " if part.bar else "") + figure(part.bar, part.unit)
    return figure(part.value, part.unit), limit, control, "yes" if part.met else "NO", part.note


def machine() -> dict[str, str | float]:
    """Return what the numbers depend on, without naming the machine."""
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count() or 1,
        "load": round(os.getloadavg()[0], 1),
    }


def write(measured: str, document: Path = DOCUMENT) -> None:
    """Replace the measured part of the document."""
    text = document.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    document.write_text(head + measured + tail, encoding="utf-8")
