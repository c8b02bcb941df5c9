"""How many of N requests a backend may get: exact binomial windows, so that the odds of a false verdict are known.

For a share p tested with N requests, the window holds every count that is not too unlikely: at most alpha over both
tails, after a slack for implementations that round to whole percent. One sample, never several tries. The terms come
from `math.lgamma`; nothing else is needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

ALPHA = 1e-6
SLACK = 0.01
SMALL = 0.02
"""Shares below this get no slack: with a point of it, a backend that gets nothing would pass."""

EXPECTED = 20
"""So many requests the rarest backend has to be expected to get."""


@dataclass(frozen=True, slots=True)
class Window:
    """The accepted counts, both ends included."""

    low: int
    high: int

    def __contains__(self, count: object) -> bool:
        return isinstance(count, int) and self.low <= count <= self.high


def pmf(n: int, p: float, k: int) -> float:
    """Return the probability of exactly k of n."""
    if p <= 0.0:
        return 1.0 if k == 0 else 0.0
    if p >= 1.0:
        return 1.0 if k == n else 0.0
    ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(ways + k * math.log(p) + (n - k) * math.log1p(-p))


def window(n: int, p: float, alpha: float = ALPHA, slack: float = SLACK) -> Window:
    """Return the window of a share; a share of exactly 0 or 1 has no room at all."""
    if p <= 0.0:
        return Window(0, 0)
    if p >= 1.0:
        return Window(n, n)
    low_p, high_p = max(0.0, p - slack), min(1.0, p + slack)
    low, tail = 0, pmf(n, low_p, 0)
    while tail <= alpha / 2 and low < n:
        low += 1
        tail += pmf(n, low_p, low)
    high, tail = n, pmf(n, high_p, n)
    while tail <= alpha / 2 and high > 0:
        high -= 1
        tail += pmf(n, high_p, high)
    return Window(low, high)


def outside(n: int, p: float, accepted: Window) -> float:
    """Return how likely a true share of p falls outside a window."""
    return 1.0 - sum(pmf(n, p, k) for k in range(accepted.low, accepted.high + 1))


def windows(n: int, shares: Mapping[str, float], alpha: float = ALPHA, slack: float = SLACK) -> dict[str, Window]:
    """Return a window for each backend; alpha is divided among those that are really tested."""
    tested = max(1, sum(1 for share in shares.values() if 0.0 < share < 1.0))
    return {
        name: window(n, share, alpha / tested, 0.0 if share < SMALL or share > 1 - SMALL else slack)
        for name, share in shares.items()
    }
