"""The catalogue, the cases and the rules of the suite hold together, in both directions."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

import smi_conformance
from smi_conformance import catalog
from smi_conformance.cli import main
from smi_conformance.explain import explained
from smi_conformance.registry import cases, pending
from smi_conformance.runner import instances

PACKAGE = Path(smi_conformance.__file__).parent
PENDING: tuple[str, ...] = ()
"""Ids without a case. Whoever adds one to the catalogue and not to the cases has to say so here."""


def test_catalogue_has_168_ids_of_which_the_metrics_come_later() -> None:
    entries = catalog.entries()
    assert len(entries) == 168
    assert [name for name, entry in entries.items() if entry.later] == [f"TM-{number:02}" for number in range(1, 27)]


def test_every_id_has_a_case_or_is_listed_as_pending() -> None:
    assert pending() == PENDING
    assert set(cases()) == {name for name, entry in catalog.entries().items() if not entry.later} - set(PENDING)


def test_numbers_of_each_area_are_complete() -> None:
    areas = Counter(name.partition("-")[0] for name in catalog.entries())
    for area, count in areas.items():
        assert [f"{area}-{number:02}" in catalog.entries() for number in range(1, count + 1)] == [True] * count


def test_every_check_has_a_document_and_lines_or_is_silent() -> None:
    for entry in catalog.entries().values():
        assert entry.checks, entry.id
        for check in entry.checks:
            assert check.level in catalog.LEVELS
            assert (check.document == "silent") == (not check.lines), f"{entry.id} {check.level}"


def test_provisional_checks_say_what_is_read_and_others_do_not() -> None:
    for entry in catalog.entries().values():
        for check in entry.checks:
            assert bool(check.readings) == (check.level == "provisional"), f"{entry.id} {check.level}"


def test_under_every_version_a_case_has_a_level() -> None:
    for entry in catalog.entries().values():
        assert all(entry.checks_of(version) for version in entry.versions), entry.id


def test_levels_differ_by_version_where_the_rule_does() -> None:
    spans = {
        entry.id: {check.level: only for check in entry.checks if (only := entry.only(check))}
        for entry in catalog.entries().values()
    }
    assert {name: found for name, found in spans.items() if found} == {
        "API-02": {"provisional": "v1alpha3-4"},
        "TT-17": {"must": "v1alpha3-4", "provisional": "v1alpha1-2"},
    }


def test_a_level_of_versions_that_its_case_has_not_is_refused() -> None:
    raw = {"group": "access", "v": "2-4", "profile": "ACCESS", "rule": "A rule."}
    for span in ("1-3", "2-4"):
        with pytest.raises(ValueError, match="some of the case's versions"):
            catalog._entry("TT-99", {**raw, "must": {"v": span, "at": "TA4 L16"}})


def test_a_case_of_several_profiles_says_what_it_writes_for_each() -> None:
    raw = {"group": "split", "v": "1-4", "profile": ["SPLIT", "ACCESS"], "rule": "A rule.", "must": "TS4 L1"}
    with pytest.raises(ValueError, match="TS-99: needs `uses`"):
        catalog._entry("TS-99", raw)
    entry = catalog._entry("TS-99", {**raw, "uses": ["split", "access+specs 3-4"]})
    assert [use.groups for use in entry.used("v1alpha2", ["SPLIT", "ACCESS"])] == [("split",)]
    assert [use.groups for use in entry.used("v1alpha3", ["ACCESS"])] == [("access", "specs")]


def test_every_rule_is_a_sentence() -> None:
    for entry in catalog.entries().values():
        assert entry.rule.endswith("."), entry.id
        assert len(entry.rule) > 20, entry.id


DECISIONS = {"S": 24, "R": 11, "T": 17, "B": 5, "U": 1}
"""The rows of the decisions that the catalogue's `rows` refer to."""


@pytest.mark.parametrize("row", DECISIONS)
def test_every_decision_is_cited_by_a_check(row: str) -> None:
    last = DECISIONS[row]
    cited = {item for entry in catalog.entries().values() for item in entry.rows}
    assert {f"{row}{number}" for number in range(1, last + 1)} <= cited


def test_every_feature_has_a_case() -> None:
    known = cases()
    for feature, ids in catalog.FEATURES.items():
        later = [name for name in ids if catalog.entries()[name].later]
        assert later or all(name in known for name in ids), feature


def test_every_case_runs_under_each_of_its_versions() -> None:
    found = Counter(instance.entry.id for instance in instances())
    assert found == Counter({name: len(catalog.entries()[name].versions) for name in cases()})


@pytest.mark.parametrize("name", sorted(cases()))
def test_a_case_can_be_explained(name: str) -> None:
    entry = catalog.entries()[name]
    for version in {entry.versions[0], entry.versions[-1]}:
        text = explained(name, version)
        assert entry.rule in text
        assert "Asserted" in text


def test_suite_never_imports_the_adapter() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [item.name for item in node.names] if isinstance(node, ast.Import) else []
            assert not [name for name in names if name.startswith("smi_adapter")], path


def test_echo_needs_the_standard_library_alone() -> None:
    allowed = {
        "__future__",
        "json",
        "os",
        "selectors",
        "socket",
        "struct",
        "sys",
        "threading",
        "time",
        "collections",
        "collections.abc",
        "queue",
        "typing",
    }
    tree = ast.parse((PACKAGE / "echo.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.module in allowed
        if isinstance(node, ast.Import):
            assert {item.name for item in node.names} <= allowed


def test_an_explanation_says_where_the_rule_can_be_read_and_nothing_that_one_mesh_alone_knows() -> None:
    text = explained("TS-20")
    entry = catalog.entries()["TS-20"]
    assert entry.checks[0].url in text
    assert re.fullmatch(
        r"https://\S+/apis/traffic-split/v1alpha4/traffic-split.md\?plain=1#L\d+(-L\d+)?", entry.checks[0].url
    )
    assert entry.rows
    assert not any(re.search(rf"\b{row}\b", text) for row in entry.rows)


@pytest.mark.parametrize("command", [[], ["run"], ["explain"], ["diff"]])
def test_help_has_a_short_name_too(command: list[str]) -> None:
    done = CliRunner().invoke(main, [*command, "-h"])
    assert (done.exit_code, "Usage:" in done.output) == (0, True), done.output
