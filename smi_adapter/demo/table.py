"""The demo's table: requests per second for each edge, path and version, allowed and denied.

`rows` makes plain data of a window; `table` draws it for a terminal, `lines` for everything else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from smi_adapter.demo.traffic import DENIED, SOLD, Window

HEADINGS = ("FROM", "TO", "PATH", "ALLOWED/s", "by v1", "by v2", "DENIED/s", "FAILED/s")


class Row(NamedTuple):
    """One line of the table: rates are requests per second, as the sender saw them."""

    source: str
    service: str
    path: str
    allowed: float
    first: float
    second: float
    denied: float
    failed: float


def rows(window: Window) -> list[Row]:
    """Return a row for each (sender, service, path) of a window, sorted."""
    edges = sorted({(seen.source, seen.service, seen.path) for seen in window.counts if seen.side == "sent"})
    return [_row(window, *edge) for edge in edges]


def _row(window: Window, source: str, service: str, path: str) -> Row:
    def rate(**wanted: str | int) -> float:
        count = window.count(source=source, service=service, path=path, **wanted)
        return count / max(window.seconds, 1e-9)

    allowed, denied = rate(status=SOLD), rate(status=DENIED)
    first, second = (rate(status=SOLD, version=version) for version in ("v1", "v2"))
    return Row(source, service, path, allowed, first, second, denied, rate() - allowed - denied)


_SHOWN = 0.05


def _number(rate: float) -> str:
    return f"{rate:.1f}" if rate >= _SHOWN else ""


def table(found: Iterable[Row]) -> Table:
    """Draw rows for a terminal."""
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for heading in HEADINGS:
        drawn.add_column(heading, justify="left" if heading.isalpha() else "right", no_wrap=True)
    for row in found:
        drawn.add_row(
            row.source,
            row.service,
            row.path,
            Text(_number(row.allowed), style="green"),
            _number(row.first),
            _number(row.second),
            Text(_number(row.denied), style="yellow"),
            Text(_number(row.failed), style="bold red"),
        )
    return drawn


def lines(found: Iterable[Row]) -> Iterator[str]:
    """Write rows as text."""
    form = "{:13} {:14} {:15} {:>9} {:>7} {:>7} {:>9} {:>9}"
    yield form.format(*HEADINGS)
    for row in found:
        yield form.format(*row[:3], *(_number(rate) for rate in row[3:])).rstrip()
