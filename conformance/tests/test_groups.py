"""What a case writes is what the catalogue says that it uses: a mesh that serves no more must not see an error."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import replace

import pytest

from conformance.tests.test_report import target
from smi_conformance import catalog
from smi_conformance.catalog import GROUPS, Claims, Pairs
from smi_conformance.explain import Recorder
from smi_conformance.model import versions_for
from smi_conformance.narrator import Narrator
from smi_conformance.places import Pool
from smi_conformance.registry import cases
from smi_conformance.runner import Instance, Run, instances
from smi_conformance.selection import selection
from smi_conformance.target import Target
from smi_conformance.trial import QUICK

__all__ = ["target"]
VERSIONS = ("v1alpha1", "v1alpha2", "v1alpha3", "v1alpha4")


def serving(there: Pairs) -> Recorder:
    harness, served = Recorder(), defaultdict(list)
    for group, version in sorted(there):
        served[group].append(version)
    harness.served = {group: tuple(versions) for group, versions in served.items()}
    return harness


def written(item: Instance, there: Pairs, claims: Claims, harness: Recorder | None = None) -> Pairs:
    """Return the groups and versions of SMI's that a case writes where no others are served."""
    harness = harness or serving(there)
    trial = Narrator(harness, Pool(harness), QUICK, (item.version, versions_for(item.entry.group, item.version, there)))
    trial.begin()
    trial.claims, harness.narrator = claims, trial

    async def go() -> None:
        async with asyncio.timeout(5):
            await cases()[item.entry.id].play(trial)

    asyncio.run(go())
    found = (manifest["apiVersion"].partition("/") for manifest in harness.manifests)
    return frozenset((group, version) for group, _, version in found if group in GROUPS.values())


@pytest.mark.parametrize("name", sorted(cases()))
def test_a_case_writes_no_group_that_the_catalogue_does_not_name_for_it(name: str) -> None:
    for item in (found for found in instances() if found.entry.id == name):
        for use in item.entry.used(item.version, item.entry.profiles):
            there = use.pairs(item.version, frozenset())
            claims = Claims(catalog.PROFILES, frozenset(item.entry.features), there)
            assert written(item, there, claims) <= there, (item.id, use.groups)


def test_where_access_rules_are_switched_for_the_mesh_no_case_of_the_other_phase_wants_them(target: Target) -> None:
    hooks = {"permissive": ("true",), "enforce": ("true",)}
    run = Run(replace(target, mesh={}, hooks=hooks), [serving(pairs(*GROUPS))], QUICK)
    run.profiles = catalog.PROFILES
    (name, open_), _ = run._phases(instances())
    assert name == "permissive"
    for item in open_:
        harness = run.harness
        assert isinstance(harness, Recorder)
        wanted = []

        async def namespace(name: str, *, enforced: bool, wanted: list[str] = wanted) -> None:
            wanted += [name] if enforced else []

        harness.namespace = namespace  # type: ignore[method-assign]
        written(item, pairs(*GROUPS), replace(run._claims, features=frozenset(item.entry.features)), harness)
        assert not wanted, item.id


def run_on(target: Target, there: Pairs, *profiles: str) -> Run:
    run = Run(target, [serving(there)], QUICK)
    run.profiles = profiles
    return run


def pairs(*groups: str, versions: tuple[str, ...] = VERSIONS) -> Pairs:
    return frozenset((GROUPS[group], version) for group in groups for version in versions)


def before(run: Run, name: str, version: str) -> str:
    return next((item.result for item in run._before(Instance(catalog.entries()[name], version))), "played")


def test_a_mesh_that_serves_splits_alone_is_asked_for_nothing_else(target: Target) -> None:
    run = run_on(target, pairs("split"), "SPLIT", "SPLIT-AB", "ACCESS")
    results = {name: before(run, name, "v1alpha4") for name in ("API-01", "API-02", "API-08", "CV-08", "TS-01")}
    assert set(results.values()) == {"played"}
    assert {before(run, name, "v1alpha4") for name in ("XR-01", "TS-40", "TT-01", "HR-01")} == {"notServed"}


def test_a_mesh_that_serves_access_alone_is_asked_for_its_api_too(target: Target) -> None:
    run = run_on(target, pairs("access", "specs"), "ACCESS")
    assert {before(run, name, "v1alpha3") for name in ("API-01", "API-02", "TT-01", "HR-01")} == {"played"}
    assert before(run, "API-08", "v1alpha3") == "played"
    assert not selection(["ACCESS"], [], []).has(Instance(catalog.entries()["API-08"], "v1alpha2"))


def test_a_case_needs_the_versions_that_go_with_its_own(target: Target) -> None:
    mixed = pairs("access", versions=("v1alpha2",)) | pairs("specs", versions=("v1alpha4",))
    run = run_on(target, mixed, "ACCESS", "ACCESS-L4")
    (verdict,) = run._before(Instance(catalog.entries()["TT-01"], "v1alpha2"))
    assert (verdict.result, verdict.reason) == ("notServed", "specs.smi-spec.io/v1alpha3 is not served")
    assert before(run, "HR-01", "v1alpha4") == "notServed"
    assert before(run, "API-07", "v1alpha4") == "played"


def test_of_two_versions_that_go_with_one_the_served_one_is_used(target: Target) -> None:
    """v1alpha3 and v1alpha4 of access both refer to v1alpha4 of specs."""
    there = pairs("access", versions=("v1alpha3",)) | pairs("specs", versions=("v1alpha4",))
    assert before(run_on(target, there, "ACCESS"), "HR-01", "v1alpha4") == "played"
    assert versions_for("specs", "v1alpha4", there).access == "v1alpha3"
    assert versions_for("specs", "v1alpha4").access == "v1alpha4"


def test_a_case_of_two_profiles_together_counts_where_both_are_played() -> None:
    entry = catalog.entries()["XR-01"]
    assert [entry.among(item) for item in (["SPLIT"], ["ACCESS"], ["SPLIT", "IDENTITY"])] == [(), (), ()]
    assert entry.among(["SPLIT", "ACCESS", "CONSUMER"]) == ("SPLIT", "ACCESS")
    (line,) = selection(["SPLIT"], [], ["XR-01", "TS-01"]).unplayed()
    assert line.endswith("(--profile SPLIT,ACCESS plays it)")


@pytest.mark.parametrize("version", VERSIONS)
def test_every_group_version_and_kind_is_looked_at(version: str) -> None:
    """Of the API: each in its own version, and not in one that goes with another group's."""
    for name in ("API-01", "API-02"):
        item = Instance(catalog.entries()[name], version)
        everything = pairs("split", "access", "specs")
        assert written(item, everything, Claims()) == pairs("split", "access", "specs", versions=(version,)), name


def test_a_group_that_is_claimed_and_not_served_fails_where_another_one_is(target: Target) -> None:
    item = Instance(catalog.entries()["API-01"], "v1alpha3")
    harness = serving(pairs("split"))
    run = replace(target, profiles=("SPLIT", "ACCESS"), claimed_versions={GROUPS["access"]: ("v1alpha3",)})
    outcome = asyncio.run(Run(run, [harness], QUICK)._play(Pool(harness), item))
    (verdict,) = outcome.verdicts
    assert (verdict.result, verdict.reason) == ("failed", "access.smi-spec.io/v1alpha3 is not served")


def test_a_claimed_feature_is_verified_by_the_parts_of_cases_that_are_about_it() -> None:
    assert catalog.FEATURES["ApiConversion"] == ("API-03", "API-04", "CC-02")
    assert catalog.FEATURES["ApiMultiVersion"] == ("API-03",)


def test_a_run_without_access_control_never_switches_it_on(target: Target) -> None:
    """API-01 belongs to ACCESS too; where splits alone are played, nobody has to be let in."""
    switched = replace(target, hooks={"permissive": ("true",), "enforce": ("true",)})
    items = [Instance(catalog.entries()[name], "v1alpha4") for name in ("API-01", "TS-01")]
    for profiles, phases in ((("SPLIT",), ["permissive"]), (("SPLIT", "ACCESS"), ["permissive", "enforce"])):
        run = Run(switched, [serving(pairs("split"))], QUICK)
        run.profiles = profiles
        assert [hook for hook, _ in run._phases(items)] == phases
