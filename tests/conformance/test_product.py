"""The conformance suite on this adapter, in short: the whole of it is `make conformance`."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT / 'conformance'}{os.pathsep}{ROOT}"}


def conformance(
    report: Path, *options: str, target: str = "tests/conformance/target.yaml", **more: str
) -> dict[str, Any]:
    """Run the suite with these options and return its report."""
    command = [sys.executable, "-m", "smi_conformance", "run", "--target", target, "--report", str(report), *options]
    done = subprocess.run(command, cwd=ROOT, env={**ENVIRONMENT, **more}, capture_output=True, text=True, check=False)
    assert report.exists(), f"{done.stdout}\n{done.stderr}"
    found: dict[str, Any] = yaml.safe_load(report.read_text(encoding="utf-8"))
    return found


@pytest.mark.live
@pytest.mark.slow
def test_one_case_of_each_area_passes(tmp_path: Path) -> None:
    ids = (
        "API-04",
        "TS-18",
        "TS-29",
        "TS-39",
        "TS-44",
        "HR-10",
        "TT-06",
        "TT-15",
        "TR-02",
        "IB-02",
        "XR-01",
        "CV-01",
        "CC-01",
    )
    profiles = "SPLIT,SPLIT-AB,ACCESS,ACCESS-L4,IDENTITY,CONSUMER"
    report = conformance(tmp_path / "report.yaml", "--quick", "--profile", profiles, "-k", ",".join(ids))
    wrong = [
        (row["id"], row["apiVersion"], row["reason"]) for row in report["cases"] if row["result"] in {"failed", "error"}
    ]
    assert wrong == []
    assert {row["id"] for row in report["cases"]} == set(ids)


def _with_driver(folder: Path, *driver: str) -> str:
    """Write our target with another driver and return its path."""
    raw = yaml.safe_load((ROOT / "tests/conformance/target.yaml").read_text(encoding="utf-8"))
    raw["local"] = {"driver": [sys.executable, *driver], "directory": str(ROOT)}
    path = folder / "target.yaml"
    path.write_text(yaml.safe_dump(raw))
    return str(path)


@pytest.mark.live
@pytest.mark.slow
def test_canary_controllers_find_what_they_wrote_at_every_version(tmp_path: Path) -> None:
    report = conformance(tmp_path / "report.yaml", "--quick", "-k", "API-04,CC-01,CC-02,CC-03")
    assert {row["result"] for row in report["cases"]} == {"passed"}
    assert len(report["cases"]) == 9, "API-04 has two levels"
    (consumer,) = [profile for profile in report["profiles"] if profile["name"] == "CONSUMER"]
    assert consumer["verifiedFeatures"] == ["ApiConversion", "ConsumerArgo", "ConsumerFlagger"]


_LACKS = """
from smi_adapter.embedded_api import discovery
from tests.conformance import driver_api
resources = discovery.resources
discovery.resources = lambda group, wanted: None if (group, wanted) == {lost!r} else resources(group, wanted)
driver_api.main(driver_api.ApiDriver)
"""


@pytest.mark.live
@pytest.mark.slow
def test_what_is_served_is_what_the_api_says_and_not_what_there_are_schemas_for(tmp_path: Path) -> None:
    """Nothing is played: the version of the case is the one that the API does not serve."""
    lost = ("split.smi-spec.io", "v1alpha1")
    target = _with_driver(tmp_path, "-c", _LACKS.format(lost=lost))
    report = conformance(tmp_path / "report.yaml", "-k", "TS-03", target=target)
    (row,) = report["cases"]
    assert (row["apiVersion"], row["result"]) == ("v1alpha1", "notServed")
    environment = report["environment"]
    assert environment["servedVersions"]["split.smi-spec.io"] == ["v1alpha2", "v1alpha3", "v1alpha4"]
    assert environment["servedVersions"]["access.smi-spec.io"][0] == "v1alpha1"
    assert environment["objects"] == "the mesh's Kubernetes API"


_SPLITS_ALONE = """
from smi_adapter.embedded_api import discovery
from tests.conformance import driver_api
resources = discovery.resources
discovery.resources = lambda group, wanted: None if group[:6] in {"access", "specs."} else resources(group, wanted)
class Splits(driver_api.ApiDriver):
    async def do_apply(self, request):
        strange = {raw["apiVersion"] for raw in request["objects"]} & driver_api.STRANGE
        if strange:
            raise RuntimeError(f"404 {strange}")
        return await super().do_apply(request)
driver_api.STRANGE = {f"{group}.smi-spec.io/v1alpha{number}" for group in ("access", "specs") for number in range(5)}
driver_api.main(Splits)
"""


@pytest.mark.live
@pytest.mark.slow
def test_a_mesh_of_splits_alone_is_asked_for_nothing_else(tmp_path: Path) -> None:
    """Any write of another group is trouble, as it is where a cluster lacks the CRDs."""
    path = Path(_with_driver(tmp_path, "-c", _SPLITS_ALONE))
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    versions = {"split.smi-spec.io": raw["claims"]["versions"]["split.smi-spec.io"]}
    raw["claims"] = {"profiles": ["SPLIT"], "features": ["ApiMultiVersion"], "versions": versions}
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    ids = "API-01,API-02,API-03,API-08,CV-08,XR-01"
    report = conformance(
        tmp_path / "report.yaml", "--quick", "-k", ids, "--versions", "v1alpha4,v1alpha2", target=str(path)
    )
    assert {row["id"] for row in report["cases"]} == set(ids.split(",")) - {"XR-01"}
    assert {row["result"] for row in report["cases"]} == {"passed", "observed"}
    assert list(report["environment"]["servedVersions"]) == ["split.smi-spec.io"]


_SORTS = """
from tests.conformance import driver_api
class Sorting(driver_api.Api):
    async def apply(self, raw, kind, **more):
        spec = raw.get("spec", {})
        if "backends" in spec:
            raw = {**raw, "spec": {**spec, "backends": spec["backends"][::-1]}}
        return await super().apply(raw, kind, **more)
driver_api.Api = Sorting
driver_api.main(driver_api.ApiDriver)
"""


@pytest.mark.live
@pytest.mark.slow
def test_an_api_that_changes_an_object_fails_a_case_though_its_traffic_is_right(tmp_path: Path) -> None:
    """See what an admission webhook might do: it turns the backends of a split round."""
    target = _with_driver(tmp_path, "-c", _SORTS)
    report = conformance(tmp_path / "report.yaml", "--quick", "-k", "CC-01", "--versions", "v1alpha2", target=target)
    (row,) = report["cases"]
    assert row["result"] == "failed"
    assert row["reason"].startswith("the object was changed")


_TURNS = """
from tests.conformance import driver_api
class Turning(driver_api.Api):
    async def get(self, raw, kind, version=""):
        found = await super().get(raw, kind, version)
        if version and "backends" in (found or {}).get("spec", {}):
            found["spec"]["backends"].reverse()
        return found
driver_api.Api = Turning
driver_api.main(driver_api.ApiDriver)
"""
_DISOWNS = """
from tests.conformance import driver_api
class Disowning(driver_api.Api):
    async def patch(self, raw, kind, change):
        return await super().patch(raw, kind, {**change, "metadata": {"ownerReferences": None}})
driver_api.Api = Disowning
driver_api.main(driver_api.ApiDriver)
"""


@pytest.mark.live
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "driver", "words"),
    [("API-03", _TURNS, "written there it would be"), ("CC-03", _DISOWNS, "the owner was lost")],
)
def test_an_api_that_is_wrong_under_another_version_or_after_a_patch_fails(
    tmp_path: Path, name: str, driver: str, words: str
) -> None:
    target = _with_driver(tmp_path, "-c", driver)
    report = conformance(tmp_path / "report.yaml", "--quick", "-k", name, "--versions", "v1alpha3", target=target)
    (row,) = report["cases"]
    assert (row["result"], words in row["reason"]) == ("failed", True), row


@pytest.mark.live
@pytest.mark.slow
def test_what_the_api_refuses_does_no_harm_where_a_file_holds_it(tmp_path: Path) -> None:
    """Play the cases of bad objects without the API too: a directory refuses nothing, so the adapter has to."""
    target = _with_driver(tmp_path, "-m", "tests.conformance.driver")
    options = ("--quick", "-k", "API-08,API-09,API-10,CV-08", "--versions", "v1alpha4")
    report = conformance(tmp_path / "report.yaml", *options, target=target)
    assert {row["result"] for row in report["cases"]} == {"passed", "observed"}
    assert report["environment"]["objects"] == "files in a directory"
    readings = {key: value for row in report["cases"] for key, value in row.get("readings", {}).items()}
    assert readings == {
        "selectorAndAccount": "grants nothing",
        "invalidSplit": "last good weights",
        "invalidTarget": "closed",
    }


@pytest.mark.live
@pytest.mark.slow
def test_a_driver_that_dies_is_an_error_and_the_report_is_written(tmp_path: Path) -> None:
    target = _with_driver(tmp_path, "-c", "print('not a driver')")
    report = conformance(tmp_path / "report.yaml", "-k", "TS-01", target=target)
    assert {row["result"] for row in report["cases"]} == {"error"}
    assert all("driver" in row["reason"] for row in report["cases"])
    assert report["submittable"] is False


def _still_running(scratch: Path) -> list[str]:
    """Return the commands of processes whose temporary files are in our folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"TMPDIR={scratch}\0".encode() in path.read_bytes():
                found.append((path.parent / "cmdline").read_text())
    return [command for command in found if command]


@pytest.mark.live
@pytest.mark.slow
def test_an_interrupted_run_tells_what_it_knows_and_leaves_no_envoy(tmp_path: Path) -> None:
    scratch, report = tmp_path / "t", tmp_path / "report.yaml"
    scratch.mkdir()
    command = [sys.executable, "-m", "smi_conformance", "run", "--target", "tests/conformance/target.yaml"]
    process = subprocess.Popen(
        [*command, "-k", "TS-01,TS-02,TS-05,TS-25", "--parallel", "1", "--report", str(report)],
        cwd=ROOT,
        env={**ENVIRONMENT, "TMPDIR": str(scratch)},
        text=True,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    assert first.startswith("passed"), first
    assert any("envoy" in command for command in _still_running(scratch))
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=90)
    assert process.returncode == 130, said
    assert "interrupted" in said
    rows = yaml.safe_load(report.read_text(encoding="utf-8"))["cases"]
    assert "passed" in {row["result"] for row in rows}
    assert "error" in {row["result"] for row in rows}
    assert [*_still_running(scratch), *scratch.iterdir()] == []
