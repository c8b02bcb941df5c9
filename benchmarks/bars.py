"""Bars: what is measured, what counts as met, and the arithmetic in between. Pure, so that tests can check it."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeAlias

__all__ = ["Bar", "Part", "Seen", "delays", "median", "percentile", "ratio", "report"]

Seen: TypeAlias = tuple[int, str]
"""(time on the monotonic clock in ns, state): a state written, or a state that a probe began to see."""


@dataclass(frozen=True, slots=True)
class Part:
    """One number against one bar; `value`, `bar` and `control` are on one scale, smaller is better.

    `control` is what the control scores on that scale. It has to miss the bar, unless it is the `reference`: the
    floor that the value is a multiple of (1 by definition), which has no fault to show.
    """

    what: str
    value: float
    bar: float
    control: float
    unit: str
    note: str = ""
    reference: bool = False

    @property
    def fault_shown(self) -> bool:
        """Tell whether the control misses the bar as it should."""
        return self.reference or self.control > self.bar

    @property
    def met(self) -> bool:
        """Tell whether the bar is met and the control proves that it could have been missed."""
        return self.value <= self.bar and self.fault_shown

    def as_json(self) -> dict[str, Any]:
        """Return the part as JSON."""
        return {
            "what": self.what,
            "value": rounded(self.value),
            "bar": rounded(self.bar),
            "control": rounded(self.control),
            "unit": self.unit,
            "met": self.met,
            "note": self.note,
        }


@dataclass(frozen=True, slots=True)
class Bar:
    """A row of the table: met if every part is. The first part gives the row its numbers."""

    id: str
    what: str
    parts: tuple[Part, ...]
    detail: str = ""

    @property
    def met(self) -> bool:
        """Tell whether all parts are met."""
        return all(part.met for part in self.parts)

    def as_json(self) -> dict[str, Any]:
        """Return the bar as JSON: the first part's numbers, `met` for all parts, and `parts` in full."""
        head = self.parts[0].as_json()
        return {
            **head,
            "id": self.id,
            "what": self.what,
            "met": self.met,
            "detail": self.detail,
            "parts": [part.as_json() for part in self.parts],
        }


def report(bars: Iterable[Bar], **about: Any) -> dict[str, Any]:
    """Return the JSON object of a run: `about` tells of the machine and the plan."""
    return {**about, "bars": [bar.as_json() for bar in bars]}


def rounded(number: float) -> float | None:
    """Return the number with four significant digits; None, which JSON knows, for what never came to be."""
    if not math.isfinite(number):
        return None
    if number == 0:
        return 0
    return round(number, max(0, 3 - math.floor(math.log10(abs(number)))))


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile: the smallest value that at least that share of all does not exceed."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def ratio(product: Sequence[float], control: Sequence[float]) -> float:
    """Return the median over rounds of product / control: each round is compared with its own neighbour only."""
    if not product or len(product) != len(control):
        raise ValueError("product and control need the same number of rounds")
    return median(one / other if other else math.inf for one, other in zip(product, control, strict=True))


def delays(writes: Sequence[Seen], seen: Sequence[Seen]) -> list[float]:
    """Return for each write the milliseconds until its state was first seen; one never seen counts as infinite.

    Both are in order of time. Only what was seen before the next write counts, so that a write that had no effect
    cannot borrow the effect of a later one.
    """
    times = [time for time, _ in seen]
    found: list[float] = []
    for index, (written, state) in enumerate(writes):
        end = writes[index + 1][0] if index + 1 < len(writes) else math.inf
        position = bisect_left(times, written)
        while position < len(seen) and times[position] < end and seen[position][1] != state:
            position += 1
        effective = position < len(seen) and times[position] < end
        found.append((times[position] - written) / 1e6 if effective else math.inf)
    return found
