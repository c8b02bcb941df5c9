"""Each broken variant of the adapter fails the cases named for it, and no other one."""

from __future__ import annotations

import re
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.conformance.test_product import ROOT, conformance
from tests.mutants.mutant import Mutant
from tests.mutants.variants import MUTANTS

PROFILES = "SPLIT,SPLIT-AB,ACCESS,ACCESS-L4,IDENTITY,CONSUMER"


def _used() -> float:
    """Return the CPU seconds of all processes that have ended under this one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.live
@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=lambda mutant: mutant.name)
def test_mutant_is_found(mutant: Mutant, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    before, ids = _used(), (*mutant.fails, *mutant.passes, *mutant.readings)
    report = conformance(
        tmp_path / "report.yaml",
        *(() if mutant.full else ("--quick",)),
        # One case after the other: they share their pods, and those are most of what a mutant costs.
        *("--parallel", "1", "--deadline", f"{mutant.deadline:g}"),
        *("--profile", PROFILES, "--versions", mutant.version, "-k", ",".join(ids)),
        target="tests/mutants/target.yaml",
        SMI_MUTANT=mutant.name,
    )
    record_property("cpu", _used() - before)
    rows = report["cases"]
    errors = [(row["id"], row["reason"]) for row in rows if row["result"] == "error"]
    assert errors == []
    assert {row["id"] for row in rows} == set(ids), "a case was not run at all"
    failed = {row["id"]: row["reason"] for row in rows if row["result"] == "failed"}
    record_property("failed", failed)
    assert failed.keys() == mutant.fails.keys(), failed
    otherwise = {name: reason for name, reason in failed.items() if not re.search(mutant.fails[name], reason)}
    assert otherwise == {}, "failed, but not for what the mutant breaks"
    expected = yaml.safe_load((ROOT / "tests/conformance/readings-spec.yaml").read_text(encoding="utf-8"))
    observed = {row["id"]: row["readings"] for row in rows if row.get("readings")}
    different = {
        name
        for name, found in observed.items()
        if any(found.get(key) != str(want) for key, want in expected[name].items())
    }
    assert different == set(mutant.readings)
