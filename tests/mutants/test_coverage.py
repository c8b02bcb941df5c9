"""What the mutants prove of the suite: every case that can fail does, for a reason that is named."""

from __future__ import annotations

import re
from collections import Counter

from smi_conformance import catalog
from smi_conformance.registry import cases
from tests.mutants.variants import MUTANTS, UNPROVED

MOST = 6
"""So many cases were unproved when this was written; who proves one takes one off here, too."""


FEW = 10
"""So many mutants at least are played at each version."""

_LATE = "requests reach base: not within 8 s; last seen: dns"
"""What a case says that did not get beyond its beginning."""


def test_every_case_that_can_fail_does_for_a_mutant_or_is_listed_with_a_reason() -> None:
    entries = catalog.entries()
    failing = {name: first for name in cases() if (first := entries[name].checks[0].level) != "provisional"}
    found = ((name, mutant.version) for mutant in MUTANTS.values() for name in mutant.fails)
    proved = {name for name, version in found if entries[name].has(failing[name], version)}
    assert set(failing) - proved == set(UNPROVED)


def test_every_reading_of_the_designs_table_has_a_mutant_that_changes_it() -> None:
    changed = {name for mutant in MUTANTS.values() for name in mutant.readings}
    assert changed >= {"HR-05", "HR-17", "TS-35", "TS-36", "TS-37", "TR-06", "TR-07"}


def test_mutants_are_found_at_every_version() -> None:
    count = Counter(mutant.version for mutant in MUTANTS.values())
    assert all(count[version] >= FEW for version in ("v1alpha1", "v1alpha2", "v1alpha3", "v1alpha4")), count


def test_the_list_of_what_is_not_proved_does_not_grow() -> None:
    assert len(UNPROVED) <= MOST
    assert all(UNPROVED.values())


def test_every_failure_is_expected_for_a_reason_that_says_something() -> None:
    for mutant in MUTANTS.values():
        for name, reason in mutant.fails.items():
            assert not any(re.search(reason, text) for text in ("", _LATE)), f"{mutant.name}: {name}"


def test_every_mutant_is_held_against_two_near_cases_that_pass() -> None:
    near = {mutant.name: len(mutant.passes) for mutant in MUTANTS.values()}
    assert {name for name, count in near.items() if count < 2} == {"late", "api-refuses-and-lacks"}


def test_a_mutant_that_nothing_finds_is_one_that_breaks_no_rule() -> None:
    harmless = {mutant.name for mutant in MUTANTS.values() if not mutant.fails and not mutant.readings}
    assert harmless == {"late-but-in-time"}
