"""Reports: what is counted, what is valid, and that two runs can be compared."""

from __future__ import annotations

import asyncio
import copy
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from smi_conformance import catalog, report, tally
from smi_conformance.catalog import Claims
from smi_conformance.cli import _verdict, main
from smi_conformance.explain import VERSIONS, Recorder
from smi_conformance.local import run_hook
from smi_conformance.model import versions_for
from smi_conformance.page import page
from smi_conformance.places import Pool
from smi_conformance.plugin import ending, written
from smi_conformance.runner import Instance, Outcome, Run, Verdict, instances, verdicts
from smi_conformance.selection import SelectionError, known_id, selection
from smi_conformance.target import Target, TargetError, load
from smi_conformance.trial import QUICK, Notes, Rules, Trial

TARGET = """
implementation: {organization: acme, project: acme-mesh, url: "https://acme.example", version: v1, contact: ["@acme"]}
claims: {profiles: [SPLIT], features: [SplitTCP], versions: {split.smi-spec.io: [v1alpha2]}}
"""


@pytest.fixture
def target(tmp_path: Path) -> Target:
    path = tmp_path / "target.yaml"
    path.write_text(TARGET)
    return load(path)


def made(target: Target, *results: tuple[str, str, str], served: tuple[str, ...] = VERSIONS) -> dict[str, Any]:
    return report.build(ran(target, *results, served=served))


def ran(
    target: Target, *results: tuple[str, str, str], served: tuple[str, ...] = VERSIONS, rules: Rules = QUICK
) -> Run:
    harness = Recorder()
    harness.served = dict.fromkeys(catalog.GROUPS.values(), served)
    run = Run(target, [harness], rules)
    for name, version, result in results:
        instance = Instance(catalog.entries()[name], version)
        found = tuple(
            Verdict(check.level, result if check.level != "provisional" else "observed") for check in instance.checks
        )
        readings = {key: value for check in instance.checks for key, value in check.readings.items()}
        outcome = Outcome(instance, found, Notes({"v1": 90}, readings, {}, [0.4]), 12.0)
        run.outcomes[outcome.instance.id] = outcome
    return run


def with_the_rest(target: Target, *results: tuple[str, str, str]) -> tuple[tuple[str, str, str], ...]:
    """Let all other cases of what the target claims pass: of a part there is no success."""
    told = {result[:2] for result in results}
    every = [(item.entry.id, item.version) for item in instances() if item.entry.among(target.profiles)]
    return (*results, *((*name, "passed") for name in every if name not in told))


def levels(found: Mapping[str, Any], name: str = "SPLIT") -> tuple[str, dict[str, int]]:
    profile = next(item for item in found["profiles"] if item["name"] == name)
    return profile["core"]["result"], profile["core"]["statistics"]


def test_a_report_is_valid_and_comes_back_as_it_was_written(target: Target, tmp_path: Path) -> None:
    found = made(target, ("TS-02", "v1alpha4", "passed"), ("TS-36", "v1alpha4", "observed"))
    path = tmp_path / "report.yaml"
    report.write(found, path)
    assert report.read(path) == found
    assert report.problems(found) == []


def test_a_capitalised_key_is_refused(target: Target) -> None:
    found = made(target, ("TS-02", "v1alpha4", "passed"))
    found["profiles"][0]["core"]["statistics"]["Failed"] = 0
    assert any("Failed" in problem for problem in report.problems(found))


def test_an_id_that_is_not_in_the_catalogue_is_refused(target: Target) -> None:
    found = made(target, ("TS-02", "v1alpha4", "passed"))
    found["cases"][0]["id"] = "TS-99"
    assert report.problems(found) == ["cases: TS-99 is not in the catalogue"]


@pytest.mark.parametrize(
    ("result", "level", "counts"),
    [
        ("passed", "success", (1, 0, 0)),
        ("failed", "failure", (0, 1, 0)),
        ("error", "partial", (0, 0, 1)),
        ("skipped", "partial", (0, 0, 1)),
        ("notSupported", "success", (0, 0, 0)),
    ],
)
def test_counting(target: Target, result: str, level: str, counts: tuple[int, int, int]) -> None:
    found, statistics = levels(made(target, *with_the_rest(target, ("TS-05", "v1alpha4", result))))
    _, all_ = levels(made(target, *with_the_rest(target)))
    more = {"passed": all_["passed"] - 1, "failed": 0, "skipped": 0}
    expected = dict(zip(("passed", "failed", "skipped"), counts, strict=True))
    assert (found, statistics) == (level, {name: more[name] + count for name, count in expected.items()})


def test_a_part_of_a_profile_is_told_as_one_wherever_the_report_is_read(target: Target) -> None:
    found = made(target, ("TS-20", "v1alpha4", "passed"))
    every = len(with_the_rest(target))
    said = f"In part (1 of {every} cases): Core passed in part; Extended not run."
    assert (levels(found)[0], found["profiles"][0]["summary"]) == ("partial", said)
    assert said in page(found)
    assert "did not run" in page(found)
    assert made(target, *with_the_rest(target))["profiles"][0]["summary"] == "Core passed; Extended passed."


def test_a_case_with_trouble_is_not_told_as_a_skipped_one(target: Target) -> None:
    others = [("TS-05", "v1alpha4", "error"), ("TS-06", "v1alpha4", "error"), ("TS-07", "v1alpha4", "skipped")]
    found = made(target, *with_the_rest(target, *others))
    assert found["profiles"][0]["summary"] == "Core passed in part (1 skipped, 2 without a verdict); Extended passed."
    assert tally.differences(found) == []


def test_a_profile_without_core_cases_is_not_told_as_one_that_was_left_out(target: Target) -> None:
    found = made(replace(target, profiles=("CONSUMER",)), *with_the_rest(replace(target, profiles=("CONSUMER",))))
    assert found["profiles"][0]["summary"] == "Core has no cases; Extended passed."
    assert "<span class=passed>extended success</span>" in page(found)


def test_the_end_of_a_run_says_what_was_a_part_what_is_not_claimed_and_where_the_report_is(target: Target) -> None:
    run = ran(target, ("TS-20", "v1alpha4", "passed"), ("UR-01", "v1alpha4", "failed"))
    run.profiles = ("SPLIT", "ACCESS-L4")
    split, l4 = ending(report.build(run), run, "report.yaml")
    assert split.startswith("SPLIT      In part (1 of ")
    assert (l4.startswith("ACCESS-L4  In part (1 of "), l4.endswith(" (not claimed, for information)")) == (True, True)
    assert written(report.build(run), "report.yaml").startswith("the report is in report.yaml: not submittable: ")


def test_what_a_version_leaves_open_counts_as_nothing_there_and_as_a_must_where_it_is_said(target: Target) -> None:
    """TT-17: what a target without sources opens is said from v1alpha3 on."""
    guarded = replace(target, profiles=("ACCESS",))
    found = made(guarded, ("TT-17", "v1alpha2", "failed"), ("TT-17", "v1alpha3", "passed"))
    rows = [(row["apiVersion"], row["level"], row["result"], "readings" in row) for row in found["cases"]]
    assert rows == [("v1alpha2", "provisional", "observed", True), ("v1alpha3", "must", "passed", False)]
    assert levels(found, "ACCESS") == ("partial", {"passed": 1, "failed": 0, "skipped": 0})
    whole = made(guarded, *with_the_rest(guarded, ("TT-17", "v1alpha2", "failed")))
    assert levels(whole, "ACCESS")[0] == "success"
    assert report.problems(found) == []
    assert "must (v1alpha3-4)" in page(found)


def test_a_failure_under_a_version_that_leaves_it_open_is_an_observation() -> None:
    entry = catalog.entries()["TT-17"]
    (old,) = verdicts(entry.checks_of("v1alpha2"), Notes(failures={"provisional": "it opened"}), Claims())
    (new,) = verdicts(entry.checks_of("v1alpha3"), Notes(failures={"must": "it opened"}), Claims())
    assert [(old.level, old.result), (new.level, new.result)] == [("provisional", "observed"), ("must", "failed")]


def test_a_level_that_is_about_a_feature_has_a_verdict_only_where_that_is_claimed() -> None:
    checks = catalog.entries()["API-04"].checks
    notes = Notes(failures={"extended": "2 to 1 is [1, 500] under v1alpha2"})
    for features, result in ((frozenset(), "notSupported"), (frozenset({"ApiConversion"}), "failed")):
        must, extended = verdicts(checks, notes, Claims(features=features))
        assert [(must.level, must.result), (extended.level, extended.result)] == [
            ("must", "passed"),
            ("extended", result),
        ]


def test_a_case_of_which_a_feature_is_not_claimed_is_told_by_the_rest(target: Target) -> None:
    instance = Instance(catalog.entries()["API-04"], "v1alpha1")
    outcome = Outcome(instance, verdicts(instance.checks, Notes(), Claims()))
    assert outcome.worst == "passed"
    run = ran(target)
    run.outcomes[instance.id] = outcome
    found = report.build(run)
    assert [profile["name"] for profile in found["profiles"]] == ["SPLIT"]
    assert not [line for line in tally.differences(found) if "API-04" in line]
    found["claims"]["features"].append("ApiConversion")
    assert any("API-04[v1alpha1] extended says notSupported" in line for line in tally.differences(found))


def test_a_version_that_is_not_served_fails_only_where_it_was_claimed(target: Target) -> None:
    claimed = made(target, ("TS-02", "v1alpha2", "notServed"), served=("v1alpha3", "v1alpha4"))
    other = made(target, *with_the_rest(target, ("TS-02", "v1alpha3", "notServed")), served=("v1alpha2", "v1alpha4"))
    assert levels(claimed)[0] == "failure"
    assert levels(other)[0] == "success"


def test_a_claimed_version_that_is_not_served_fails_the_run(target: Target) -> None:
    options = {"expect_failures": None, "expect_readings": None}
    for version, code in (("v1alpha2", 1), ("v1alpha3", 0)):
        assert _verdict(made(target, ("TS-02", version, "notServed"), served=("v1alpha4",)), options) == code


def test_a_known_failure_that_passes_is_told_and_fails_the_run(
    target: Target, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("TS-02[v1alpha4]", "TS-05[v1alpha4]")
    known = {"expect_failures": dict.fromkeys(names, re.compile("")), "expect_readings": None}
    assert _verdict(made(target, ("TS-02", "v1alpha4", "failed")), known) == 0
    assert _verdict(made(target, ("TS-02", "v1alpha4", "passed")), known) == 1
    assert "passes now, to be taken off the list: TS-02[v1alpha4]" in capsys.readouterr().out


def test_a_known_failure_that_fails_otherwise_is_a_new_one(target: Target, capsys: pytest.CaptureFixture[str]) -> None:
    found = made(target, ("TS-02", "v1alpha4", "failed"))
    found["cases"][0]["reason"] = "requests reach v1: not within 5 s"
    for pattern, code in (("^requests reach v1: ", 0), ("^requests reach v2: ", 1)):
        known = {"expect_failures": {"TS-02[v1alpha4]": re.compile(pattern)}, "expect_readings": None}
        assert _verdict(found, known) == code
    assert "not as it is known to (^requests reach v2: ): TS-02[v1alpha4]: requests" in capsys.readouterr().out


def test_the_committed_report_is_valid_and_of_this_catalogue() -> None:
    path = Path(__file__).parents[1] / "reports" / "smi-adapter" / "report.yaml"
    assert report.read(path)["suite"]["catalogDigest"] == catalog.digest()


def test_a_restart_without_a_command_is_a_stop_and_a_start(tmp_path: Path) -> None:
    path, said = tmp_path / "target.yaml", tmp_path / "said"
    hooks = {name: ["sh", "-c", f"echo {name} >> {said}"] for name in ("stop", "start")}
    path.write_text(TARGET + yaml.safe_dump({"hooks": hooks}))
    asyncio.run(run_hook(load(path), "restart"))
    assert said.read_text().split() == ["stop", "start"]


def test_only_features_whose_cases_all_passed_are_verified(target: Target) -> None:
    passed = [("TS-29", version, "passed") for version in VERSIONS]
    good = made(target, *passed)["profiles"][0]
    bad = made(target, *passed[:2], ("TS-29", "v1alpha3", "skipped"), passed[3])["profiles"][0]
    part = made(target, *passed[:3])["profiles"][0]
    other = made(target, ("TS-02", "v1alpha4", "passed"))["profiles"][0]
    assert (good["verifiedFeatures"], good["claimedUnverified"]) == (["SplitTCP"], [])
    for found in (bad, part, other):
        assert (found["verifiedFeatures"], found["claimedUnverified"]) == ([], ["SplitTCP"])


def test_a_version_that_nobody_claimed_does_not_keep_a_feature_from_being_verified(target: Target) -> None:
    """The target claims v1alpha2 of splits alone."""
    rest = [("TS-29", version, "notServed") for version in ("v1alpha1", "v1alpha3", "v1alpha4")]
    good = made(target, ("TS-29", "v1alpha2", "passed"), *rest, served=("v1alpha2",))["profiles"][0]
    nothing = made(target, *rest, served=())["profiles"][0]
    lacking = (("TS-29", "v1alpha2", "notServed"), ("TS-29", "v1alpha4", "passed"))
    missing = made(target, *lacking, served=("v1alpha4",))["profiles"][0]
    assert (good["verifiedFeatures"], good["claimedUnverified"]) == (["SplitTCP"], [])
    assert nothing["claimedUnverified"] == missing["claimedUnverified"] == ["SplitTCP"]


def test_only_a_whole_profile_is_submittable_and_a_selection_is_recorded(target: Target) -> None:
    everything = [(item.entry.id, item.version, "passed") for item in instances() if item.entry.among(["SPLIT"])]
    whole, part = (ran(target, *found, rules=Rules()) for found in (everything, everything[:-1]))
    part.selection = {"cases": ["TS-01"]}
    one, two = report.build(whole), report.build(part)
    assert [one["submittable"], two["submittable"]] == [True, False]
    assert "selection" not in one["settings"]
    assert two["settings"]["selection"] == {"cases": ["TS-01"]}
    assert report.problems(two) == []


def test_a_profile_that_was_not_asked_for_is_not_listed(target: Target) -> None:
    """API-01 belongs to five profiles; the target claims one."""
    found = made(target, ("API-01", "v1alpha4", "passed"))
    assert [profile["name"] for profile in found["profiles"]] == ["SPLIT"]


def test_of_two_runs_the_worse_verdict_counts(target: Target) -> None:
    results = ("passed", "failed", "error", "skipped")
    seen = [ran(target, ("TS-02", "v1alpha4", result)).outcomes["TS-02[v1alpha4]"] for result in results]
    assert [report.worse(seen[0], other).worst for other in seen] == list(results)
    assert [report.worse(other, seen[0]).worst for other in seen] == list(results)
    assert report.worse(seen[2], seen[1]).worst == "failed"


def test_a_case_of_which_a_part_could_not_be_played_has_not_passed() -> None:
    checks = catalog.entries()["TT-22"].checks
    found = {verdict.level: verdict for verdict in verdicts(checks, Notes(lacking={"api", "events"}), Claims())}
    assert (found["must"].result, found["provisional"].result) == ("skipped", "observed")
    assert found["must"].reason == "in part, as the harness lacks: api, events"
    (failed, _) = verdicts(checks, Notes(failures={"must": "no"}, lacking={"api"}), Claims())
    assert failed.result == "failed"


@pytest.mark.parametrize(("observed", "lacking"), [(False, {"api"}), (True, set())])
def test_a_case_writes_down_what_the_harness_lacks(*, observed: bool, lacking: set[str]) -> None:
    harness = Recorder()
    harness.capabilities -= {"api"}
    trial = Trial(harness, Pool(harness), QUICK, ("v1alpha4", versions_for("split", "v1alpha4")))
    assert trial.needs("events")
    assert not trial.needs("api", observed=observed)
    assert trial.notes.lacking == lacking


def test_quick_runs_and_errors_are_not_submittable(target: Target) -> None:
    assert made(target, ("TS-02", "v1alpha4", "passed"))["submittable"] is False


def test_counts_and_times_are_no_difference_but_results_and_readings_are(target: Target) -> None:
    one = made(target, ("TS-02", "v1alpha4", "passed"), ("TS-36", "v1alpha4", "observed"))
    two = copy.deepcopy(one)
    two["cases"][0] |= {"durationMs": 99, "observed": {"v1": 91}}
    assert report.diff(one, two) == []
    two["cases"][0]["result"] = "failed"
    two["cases"][1]["readings"]["missing"] = "kept"
    assert len(report.diff(one, two)) == 2


def test_unexpected_readings_are_told(target: Target) -> None:
    found = made(target, ("TS-36", "v1alpha4", "observed"))
    same = {"TS-36": dict(found["cases"][0]["readings"])}
    assert report.unexpected(found, same) == []
    assert report.unexpected(found, {"TS-36": {**same["TS-36"], "missing": "kept"}})
    assert report.unexpected(found, {})


def test_page_is_one_file_with_every_case(target: Target) -> None:
    text = page(made(target, ("TS-02", "v1alpha4", "failed"), ("TS-36", "v1alpha4", "observed")))
    assert "TS-02" in text
    assert "TS-36" in text
    assert "<script" not in text
    assert "<link" not in text
    assert "<img" not in text


def test_without_claims_every_profile_is_claimed_whose_cases_exist(tmp_path: Path) -> None:
    path = tmp_path / "target.yaml"
    path.write_text("\n".join(line for line in TARGET.splitlines() if not line.startswith("claims")))
    found = load(path).profiles
    assert set(catalog.PROFILES) - set(found) == {"METRICS"}
    assert found == tuple(name for name in catalog.PROFILES if any(item.entry.among([name]) for item in instances()))


def test_an_unknown_field_of_a_target_is_named(tmp_path: Path) -> None:
    path = tmp_path / "target.yaml"
    for text, words in (
        (TARGET + "meshes: {}\n", "unknown field meshes"),
        (TARGET + "mesh: {hostTemplat: x}\n", "unknown field mesh.hostTemplat"),
        (TARGET.replace("SplitTCP", "SplitTPC"), "SplitTPC"),
        (TARGET.replace("[SPLIT]", "[SPLITS]"), "SPLITS"),
        (TARGET.replace("organization: acme, ", ""), "implementation.organization is missing"),
        (TARGET + "settings: {maxTimeToConsistency: soon}\n", "soon"),
        (TARGET + "settings: {egress: outside}\n", "settings.egress: 'outside' is no host:port"),
        (TARGET + "settings: {maxTimeToConsistency: 0s}\n", "leaves no time at all"),
        (TARGET + "settings: {headers: maps}\n", "settings.headers: 'maps' is neither map, list nor both"),
        (TARGET + "hooks: {stop: kubectl}\n", "hooks.stop: 'kubectl' is no list"),
        (TARGET + "local: {driver: python x}\n", "local.driver: 'python x' is no list"),
        (TARGET + "mesh: {namespaceLabels: {mesh: yes}}\n", "quote it"),
        (TARGET + 'mesh: {hostTemplate: "{service}"}\n', "it knows svc and ns"),
        (TARGET.replace('["@acme"]', '"@acme"'), "implementation.contact: '@acme' is no list"),
        (TARGET.replace("https://acme.example", "acme"), "implementation.url: 'acme' is no address"),
        (TARGET.replace("[v1alpha2]", "[v1alpha9]"), "claims.versions.split.smi-spec.io: unknown 'v1alpha9'"),
        (TARGET.replace("[v1alpha2]", "v1alpha2"), "claims.versions.split.smi-spec.io is no list"),
        (TARGET.replace("{split.smi-spec.io: [v1alpha2]}", "[v1alpha2]"), "claims.versions is no mapping"),
        ("- a\n", "is no mapping"),
        ("a: [", "target.yaml"),
    ):
        path.write_text(text)
        with pytest.raises(TargetError, match=words):
            load(path)


@pytest.mark.parametrize(
    ("written", "meant"),
    [("TS-20", "TS-20"), ("ts-20", "TS-20"), ("ts20", "TS-20"), ("TS-2O", "TS-20"), ("cc1", "CC-01")],
)
def test_an_id_may_be_written_a_little_otherwise(written: str, meant: str) -> None:
    assert known_id(written) == meant


@pytest.mark.parametrize(
    ("written", "words"),
    [("TS-99", "TS goes from TS-01 to TS-48"), ("TS", "TS goes from"), ("X-1", "ids begin with API")],
)
def test_an_id_that_does_not_exist_is_answered_with_those_that_do(written: str, words: str) -> None:
    with pytest.raises(SelectionError, match=words):
        known_id(written)


@pytest.mark.parametrize(
    ("versions", "ids", "words"),
    [
        ((), ("TM-01",), "TM-01: it comes with a later version"),
        ((), ("TR-05",), "TR-05: it belongs to ACCESS-L4, which is not claimed or not chosen"),
        (("v1alpha4",), ("TS-04",), "TS-04: it is about v1alpha1, not v1alpha4"),
        (("v1alpha4",), ("TS-01",), ""),
    ],
)
def test_a_selection_of_nothing_says_why(versions: tuple[str, ...], ids: tuple[str, ...], words: str) -> None:
    chosen = selection(["SPLIT", "METRICS"], versions, ids)
    assert words in chosen.nothing()
    assert bool(chosen.nothing()) == bool(words)
    assert [line for line in chosen.unplayed() if words in line] == chosen.unplayed()


def test_what_a_selection_leaves_out_is_told_by_name() -> None:
    chosen = selection(["SPLIT"], [], ["TS-01", "TR-05"])
    assert chosen.nothing() == ""
    (line,) = chosen.unplayed()
    assert line.startswith("TR-05: ")
    with pytest.raises(SelectionError, match="unknown version v9"):
        selection(["SPLIT"], ["v9"], [])


def test_command_line_lists_explains_and_validates(target: Target, tmp_path: Path) -> None:
    runner = CliRunner()
    assert "TS-20" in runner.invoke(main, ["list"]).output
    assert len(yaml.safe_load(runner.invoke(main, ["list", "-o", "json"]).output)) == 168
    assert "must(3-4)+provisional(1-2)" in runner.invoke(main, ["list", "--profile", "ACCESS"]).output
    assert "port number" in runner.invoke(main, ["explain", "TS-20"]).output
    assert "traffic-access/v1alpha3 L39 (v1alpha3-4 only)" in runner.invoke(main, ["explain", "TT-17"]).output
    assert runner.invoke(main, ["explain", "TS-99"]).exit_code == 2
    assert "not v1alpha9" in runner.invoke(main, ["explain", "TS-20", "--version", "v1alpha9"]).output
    path, other = tmp_path / "one.yaml", tmp_path / "two.yaml"
    report.write(made(target, ("TS-02", "v1alpha4", "passed")), path)
    report.write(made(target, ("TS-02", "v1alpha4", "failed")), other)
    assert runner.invoke(main, ["validate", str(path)]).exit_code == 0
    assert runner.invoke(main, ["diff", str(path), str(path)]).exit_code == 0
    assert runner.invoke(main, ["diff", str(path), str(other)]).exit_code == 1
    other.write_text("kind: Other\n")
    assert runner.invoke(main, ["validate", str(other)]).exit_code == 1
