"""Each broken variant of the adapter fails the cases named for it, and no other one."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.conformance.test_product import ROOT, conformance
from tests.mutants.variants import MUTANTS, Mutant

PROFILES = "SPLIT,SPLIT-AB,ACCESS,ACCESS-L4,IDENTITY,CONSUMER"


@pytest.mark.live
@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=lambda mutant: mutant.name)
def test_mutant_is_found(mutant: Mutant, tmp_path: Path) -> None:
    ids = (*mutant.fails, *mutant.passes, *mutant.readings)
    report = conformance(
        tmp_path / "report.yaml",
        *(
            "--quick",
            "--parallel",
            "2",
            "--deadline",
            "8",
            "--profile",
            PROFILES,
            "--versions",
            mutant.version,
            "-k",
            ",".join(ids),
        ),
        target="tests/mutants/target.yaml",
        SMI_MUTANT=mutant.name,
    )
    rows = report["cases"]
    errors = [(row["id"], row["reason"]) for row in rows if row["result"] == "error"]
    assert errors == []
    assert {row["id"] for row in rows} == set(ids), "a case was not run at all"
    failed = {row["id"]: row["reason"] for row in rows if row["result"] == "failed"}
    assert failed.keys() == set(mutant.fails), failed
    expected = yaml.safe_load((ROOT / "tests/conformance/readings-spec.yaml").read_text(encoding="utf-8"))
    observed = {row["id"]: row["readings"] for row in rows if row.get("readings")}
    different = {
        name
        for name, found in observed.items()
        if any(found.get(key) != str(want) for key, want in expected[name].items())
    }
    assert different == set(mutant.readings)
