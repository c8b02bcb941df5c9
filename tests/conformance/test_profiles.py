"""The semantics profiles other than `spec`: they differ in the rows that are marked so, and in nothing near them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from tests.conformance.test_product import ROOT, conformance

CASES = "HR-03,HR-04,HR-17,TR-06,TR-07"
_CONTAINERS = {"TR-07.servicePort": "no", "TR-07.containerPort": "works", "TR-07.samePort": "the container's"}
# What differs from readings-spec.yaml, and what fails: `osm` matches whole paths, so it can't claim conformance.
PROFILES: Mapping[str, tuple[set[str], Mapping[str, str]]] = {
    "osm": ({"HR-04"}, {"TR-06.tcpRuleHttpPort": "otherwise", **_CONTAINERS}),
    "traefik": (set(), {"HR-17.wholeValue": "no", **_CONTAINERS}),
    "nsm": (set(), {"HR-17.wholeValue": "no"}),
}


@pytest.mark.live
@pytest.mark.slow
@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_reads_what_its_mesh_reads(profile: str, tmp_path: Path) -> None:
    report = conformance(
        tmp_path / "report.yaml",
        *("--quick", "--parallel", "2", "--deadline", "8", "--versions", "v1alpha4"),
        *("--profile", "ACCESS,ACCESS-L4", "-k", CASES),
        SMI_ADAPTER_PROFILE=profile,
    )
    failures, differences = PROFILES[profile]
    results = {row["id"]: row["result"] for row in report["cases"]}
    assert {name for name, result in results.items() if result == "failed"} == failures
    assert "error" not in results.values()
    spec = yaml.safe_load((ROOT / "tests/conformance/readings-spec.yaml").read_text(encoding="utf-8"))
    found = {
        f"{row['id']}.{key}": value.partition(":")[0]
        for row in report["cases"]
        for key, value in row.get("readings", {}).items()
        if value != str(spec[row["id"]][key])
    }
    assert found == differences
