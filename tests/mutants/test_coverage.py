"""What the mutants prove of the suite: every case that follows from a sentence of the specification can fail."""

from __future__ import annotations

import re

from smi_conformance import catalog
from smi_conformance.registry import cases
from tests.mutants.variants import MUTANTS, UNPROVED

MOST = 4
"""So many cases were unproved when this was written; who proves one takes one off here, too."""


_LATE = "requests reach base: not within 8 s; last seen: dns"
"""What a case says that did not get beyond its beginning."""


def test_every_must_case_fails_for_a_mutant_or_is_listed_with_a_reason() -> None:
    entries = catalog.entries()
    musts = {name for name in cases() if entries[name].has("must")}
    proved = {name for item in MUTANTS.values() for name in item.fails if entries[name].has("must", item.version)}
    assert musts - proved == set(UNPROVED)


def test_the_list_of_what_is_not_proved_does_not_grow() -> None:
    assert len(UNPROVED) <= MOST
    assert all(UNPROVED.values())


def test_every_failure_is_expected_for_a_reason_that_says_something() -> None:
    for mutant in MUTANTS.values():
        for name, reason in mutant.fails.items():
            assert not any(re.search(reason, text) for text in ("", _LATE)), f"{mutant.name}: {name}"


def test_every_mutant_is_held_against_cases_that_pass() -> None:
    assert [mutant.name for mutant in MUTANTS.values() if not mutant.passes] == []


def test_a_mutant_that_nothing_finds_is_one_that_breaks_no_rule() -> None:
    harmless = {mutant.name for mutant in MUTANTS.values() if not mutant.fails and not mutant.readings}
    assert harmless == {"late-but-in-time"}
