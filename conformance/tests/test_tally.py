"""What follows from the cases of a report is worked out again: nobody has to believe what it says of itself."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from conformance.tests.test_report import ran, target
from smi_conformance import report, tally
from smi_conformance.cli import main
from smi_conformance.runner import Instance, instances
from smi_conformance.target import Target
from smi_conformance.trial import Rules

__all__ = ["target"]


@pytest.fixture
def whole(target: Target) -> report.Report:
    """Return a report of a run of the whole profile in which one case failed."""
    cases = [item for item in instances() if item.entry.among(["SPLIT"])]
    results = [
        (item.entry.id, item.version, "failed" if item.id == "TS-05[v1alpha4]" else _result(item, target))
        for item in cases
    ]
    return report.build(ran(target, *results, rules=Rules()))


def validate(found: report.Report, folder: Path) -> tuple[int, str]:
    report.write(found, folder / "report.yaml")
    done = CliRunner().invoke(main, ["validate", str(folder / "report.yaml")])
    return done.exit_code, done.output


def test_a_report_that_nobody_touched_says_what_follows_from_its_cases(whole: report.Report, tmp_path: Path) -> None:
    assert tally.differences(whole) == []
    assert whole["submittable"] is True
    code, said = validate(whole, tmp_path)
    assert (code, said.endswith("is valid and submittable\n")) == (0, True), said


def _row(found: report.Report, name: str, version: str) -> dict[str, Any]:
    return next(row for row in found["cases"] if (row["id"], row["apiVersion"]) == (name, version))


Edit = Callable[[report.Report], object]
EDITS: dict[str, tuple[Edit, str]] = {
    "submittable of a quick run": (lambda r: r["settings"].update(quick=True), "submittable: says true, but the run"),
    "submittable of a part": (
        lambda r: r["cases"].remove(_row(r, "TS-06", "v1alpha4")),
        "TS-06[v1alpha4] of these profiles did not run",
    ),
    "submittable with an error": (
        lambda r: _row(r, "TS-06", "v1alpha4").update(result="error"),
        "TS-06[v1alpha4] ended with an error",
    ),
    "not submittable, for no reason": (lambda r: r.update(submittable=False), "submittable: says false, but nothing"),
    "a failure that is not counted": (
        lambda r: _row(r, "TS-06", "v1alpha4").update(result="failed"),
        "profiles.SPLIT.core.failedCases: lacks TS-06[v1alpha4]",
    ),
    "a pass where its failure is counted": (
        lambda r: _row(r, "TS-05", "v1alpha4").update(result="passed"),
        "profiles.SPLIT.core.result: says 'failure', its cases amount to 'success'",
    ),
    "a statistic": (
        lambda r: r["profiles"][0]["core"]["statistics"].update(passed=999),
        "profiles.SPLIT.core.statistics.passed: says 999",
    ),
    "a summary": (lambda r: r["profiles"][0].update(summary="All is well."), "profiles.SPLIT.summary: says 'All is"),
    "a feature that was not verified": (
        lambda r: r["profiles"][0]["verifiedFeatures"].append("SplitGRPC"),
        "profiles.SPLIT.verifiedFeatures: names SplitGRPC",
    ),
    "a feature whose case did not pass": (
        lambda r: _row(r, "TS-29", "v1alpha4").update(result="skipped"),
        "profiles.SPLIT.claimedUnverified: lacks SplitTCP",
    ),
    "an extension that is left out": (
        lambda r: r["profiles"][0].pop("extended"),
        "SPLIT.extended: is missing",
    ),
    "a profile that is left out": (
        lambda r: r["profiles"].clear() or r["profiles"].append(_OTHER),
        "SPLIT: is missing",
    ),
    "a level that is left out": (
        lambda r: r["cases"].remove(_row(r, "API-02", "v1alpha4")),
        "cases: API-02[v1alpha4] has the levels provisional; it consists of must, provisional",
    ),
    "an observation that does not exist under that version": (
        lambda r: _row(r, "API-02", "v1alpha2").update(level="provisional", result="observed"),
        "cases: API-02[v1alpha2] has the levels provisional; it consists of must",
    ),
    "a served version that is told as not served": (
        lambda r: _row(r, "TS-06", "v1alpha4").update(result="notServed"),
        "TS-06[v1alpha4] says notServed, but servedVersions has that version",
    ),
    "a profile that is listed twice": (
        lambda r: r["profiles"].append({**r["profiles"][0], "summary": "All is well."}),
        "profiles.SPLIT: is listed 2 times",
    ),
    "a verdict that is told as an observation": (
        lambda r: _row(r, "TS-06", "v1alpha4").update(result="observed"),
        "TS-06[v1alpha4] must says observed, but that level has a verdict",
    ),
    "a verdict where there is only an observation": (
        lambda r: _row(r, "TS-36", "v1alpha4").update(result="passed"),
        "TS-36[v1alpha4] provisional says passed, but of what is provisional there is no verdict",
    ),
    "a failure of a claimed feature that is told as not supported": (
        lambda r: _row(r, "TS-29", "v1alpha4").update(result="notSupported"),
        "says notSupported, but SplitTCP is claimed",
    ),
    "a failure of what is no feature that is told as not supported": (
        lambda r: _row(r, "TS-05", "v1alpha4").update(result="notSupported"),
        "TS-05[v1alpha4] must says notSupported, but the case is about no feature",
    ),
    "a claimed feature of no profile that was run": (
        lambda r: r["claims"]["features"].append("ConsumerArgo"),
        "submittable: says true, but claimed, but not verified: ConsumerArgo",
    ),
}
_OTHER = {"name": "CONSUMER", "core": {"result": "notRun", "statistics": {"passed": 0, "failed": 0, "skipped": 0}}}


@pytest.mark.parametrize("edit", EDITS)
def test_whatever_is_changed_by_hand_is_told(edit: str, whole: report.Report) -> None:
    change, words = EDITS[edit]
    found = copy.deepcopy(whole)
    change(found)
    assert report.problems(found) == []
    assert any(words in line for line in tally.differences(found)), tally.differences(found)


def test_a_claimed_profile_that_is_left_out_as_a_whole_is_told(target: Target) -> None:
    """CONSUMER has no case in its core: complete, it is fine as it is."""
    both = replace(target, profiles=("SPLIT", "CONSUMER"), features=target.features | {"ConsumerArgo"})
    cases = [item for item in instances() if item.entry.among(both.profiles)]
    found = report.build(
        ran(both, *((item.entry.id, item.version, _result(item, both)) for item in cases), rules=Rules())
    )
    assert (found["submittable"], tally.differences(found)) == (True, [])
    assert [profile["core"]["result"] for profile in found["profiles"]] == ["success", "notRun"]
    found["cases"] = [row for row in found["cases"] if not row["id"].startswith("CC-")]
    found["profiles"] = [profile for profile in found["profiles"] if profile["name"] == "SPLIT"]
    (said,) = tally.differences(found)
    for words in ("nothing of CONSUMER was run", "of these profiles did not run", "not verified: ConsumerArgo"):
        assert words in said


def _result(item: Instance, target: Target) -> str:
    return "notSupported" if item.entry.feature and item.entry.feature not in target.features else "passed"


def test_validate_refuses_a_report_that_says_more_than_its_cases(whole: report.Report, tmp_path: Path) -> None:
    whole["settings"]["quick"] = True
    code, said = validate(whole, tmp_path)
    assert (code, "submittable: says true, but the run was quick" in said) == (1, True), said


def test_a_claimed_version_that_is_not_served_is_a_failure_also_of_a_report_from_elsewhere(
    target: Target,
) -> None:
    """The target claims v1alpha2; a report from before claims were written down is judged by what it lists."""
    rows = (("TS-02", "v1alpha2", "notServed"), ("TS-02", "v1alpha4", "passed"))
    found = report.build(ran(target, *rows, served=("v1alpha4",)))
    assert tally.differences(found) == []
    older = {key: value for key, value in found.items() if key != "claims"}
    assert tally.differences(older) == []
    found["profiles"][0]["core"]["failedCases"] = []
    assert any("lacks TS-02[v1alpha2]" in line for line in tally.differences(found))


def test_a_report_of_another_catalogue_is_not_worked_out_again(whole: report.Report, tmp_path: Path) -> None:
    whole["suite"]["catalogDigest"] = "sha256:" + "0" * 64
    whole["submittable"] = False
    code, said = validate(whole, tmp_path)
    assert (code, "made with another catalogue" in said) == (0, True), said
