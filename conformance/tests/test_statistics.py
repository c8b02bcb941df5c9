"""The arithmetic of the windows: the odds of a false verdict are what the suite says they are."""

from __future__ import annotations

import math

import pytest

from smi_conformance.statistics import Window, outside, pmf, window, windows

TABLE = [
    (1 / 2, 2000, 0.01, 871, 1129, 4.7e-7),
    (2 / 3, 2000, 0.01, 1208, 1454, 4.7e-7),
    (3 / 4, 2000, 0.01, 1382, 1611, 4.9e-7),
    (9 / 10, 2000, 0.01, 1709, 1879, 4.7e-7),
    (9 / 10, 4000, 0.01, 3460, 3725, 4.8e-7),
    (10 / 1610, 4000, 0.0, 5, 53, 1e-6),
    (1 / 1000, 20000, 0.0, 3, 45, 1e-6),
]


@pytest.mark.parametrize(("share", "n", "slack", "low", "high", "odds"), TABLE)
def test_window_is_that_of_the_design(share: float, n: int, slack: float, low: int, high: int, odds: float) -> None:
    found = window(n, share, slack=slack)
    assert found == Window(low, high)
    for true in (share - slack, share + slack):
        assert outside(n, max(0.0, true), found) <= odds


def test_probabilities_are_exact() -> None:
    for k in range(21):
        assert math.isclose(pmf(20, 0.3, k), math.comb(20, k) * 0.3**k * 0.7 ** (20 - k), rel_tol=1e-12)
    assert math.isclose(sum(pmf(2000, 0.37, k) for k in range(2001)), 1.0, rel_tol=1e-9)


def test_zero_and_all_leave_no_room() -> None:
    assert window(2000, 0.0) == Window(0, 0)
    assert window(2000, 1.0) == Window(2000, 2000)


def test_a_lost_small_share_is_found() -> None:
    assert windows(20000, {"a": 0.001, "b": 0.999})["a"].low > 0
    assert windows(4000, {"a": 10 / 1610, "b": 1600 / 1610})["a"].low > 0


def test_odds_are_divided_among_the_backends_tested() -> None:
    three = windows(2000, {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3, "d": 0.0})
    alone = window(2000, 1 / 3)
    assert three["a"].low <= alone.low
    assert three["a"].high >= alone.high
    assert three["d"] == Window(0, 0)


def test_ten_points_off_are_found() -> None:
    accepted = window(2000, 0.5)
    assert outside(2000, 0.6, accepted) > 0.999
    assert outside(2000, 0.4, accepted) > 0.999


@pytest.mark.parametrize("n", [500, 2000])
def test_a_whole_run_fails_falsely_at_most_once_in_two_thousand(n: int) -> None:
    """So many weights are checked if all profiles run under all versions; the worst share is taken for each."""
    checks = 400
    worst = max(
        outside(n, share + off, window(n, share))
        for share in (0.5, 2 / 3, 0.75, 0.9, 0.1)
        for off in (-0.01, 0.0, 0.01)
    )
    assert worst <= 1e-6
    assert checks * worst <= 1 / 2000


def test_twenty_in_a_row_are_hardly_ever_half_old() -> None:
    """If half of the proxies hold the old state, k answers are all new by chance with 2 to the power of -k."""
    assert 0.5**3 > 0.1
    assert 0.5**20 < 1e-6


@pytest.mark.parametrize("share", [0.65, 0.85])
def test_a_window_of_1200_connections_finds_ten_points_that_a_plain_margin_of_ten_let_through(share: float) -> None:
    accepted = windows(1200, {"v1": 0.75, "v2": 0.25})["v1"]
    assert round(1200 * share) not in accepted
    assert accepted.low > 1200 * 0.67
    assert accepted.high < 1200 * 0.83
