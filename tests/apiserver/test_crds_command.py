"""`smi-adapter crds` on a real API server: alone, and beside the CRDs of other meshes."""

import copy
import json
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pytest
import yaml

from smi_adapter import crds
from smi_adapter.cli import entry
from tests import foreign_crds
from tests.cluster.control_plane import ControlPlane

NAMES = [crds.name_of(crd) for crd in crds.definitions()]
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


class Outcome(NamedTuple):
    """How a command ended, and what it said."""

    code: int
    stdout: str
    stderr: str


class Run(Protocol):
    def __call__(self, *arguments: str, kubeconfig: Path | None = None) -> Outcome: ...


@pytest.fixture
def empty(own_api_server: ControlPlane) -> ControlPlane:
    """Return an API server without any CRD. A new one: to delete a CRD with its objects may take half a minute."""
    return own_api_server


def _installed(plane: ControlPlane) -> dict[str, Any]:
    return {crds.name_of(item): item for item in plane.get(DEFINITIONS)["items"]}


@pytest.fixture
def run(empty: ControlPlane, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run `smi-adapter crds ...` as the installed command does."""

    def run(*arguments: str, kubeconfig: Path | None = None) -> Outcome:
        monkeypatch.setattr(
            "sys.argv", ["smi-adapter", "crds", *arguments, "--kubeconfig", str(kubeconfig or empty.kubeconfig)]
        )
        with pytest.raises(SystemExit) as ended:
            entry()
        captured = capfd.readouterr()
        code = ended.value.code
        return Outcome(code if isinstance(code, int) else 0, captured.out, captured.err)

    return run


def _states(outcome: Outcome) -> dict[str, str]:
    return {item["name"]: item["state"] for item in json.loads(outcome.stdout)["crds"]}


def test_an_empty_cluster_gets_them_all(empty: ControlPlane, run: Run) -> None:
    before = run("status", "-o", "json")
    assert (before.code, set(_states(before).values())) == (1, {"missing"})
    assert run("diff").code == 1
    dry = run("apply", "--dry-run")
    assert (dry.code, dry.stdout.count("created (dry run)")) == (0, len(NAMES))
    assert not _installed(empty), "neither a diff nor a dry run changes anything"
    applied = run("apply")
    assert applied.code == 0
    assert applied.stdout.splitlines() == [f"customresourcedefinition/{name} created" for name in NAMES]
    after = run("status", "-o", "json")
    assert (after.code, set(_states(after).values())) == (0, {"current"})
    assert (run("diff").code, run("diff").stdout) == (0, "")
    assert all(" unchanged" in line for line in run("apply").stdout.splitlines())


@pytest.mark.parametrize("mesh", foreign_crds.MESHES)
def test_beside_another_mesh_nothing_served_or_stored_is_dropped(empty: ControlPlane, run: Run, mesh: str) -> None:
    theirs = foreign_crds.crds(mesh)
    empty.apply(*theirs)
    split = _split(_storage(theirs[0]))
    empty.apply(split)
    before = _installed(empty)
    states = _states(run("status", "-o", "json"))
    assert {name for name, state in states.items() if state == "foreign"} == before.keys()

    diff = run("diff")
    assert diff.code == 1
    assert _installed(empty) == before, "a diff changes nothing"
    assert run("apply").code == 0

    after = _installed(empty)
    for name, live in before.items():
        assert _served(live) <= _served(after[name])
        assert set(live["status"]["storedVersions"]) <= set(after[name]["status"]["storedVersions"])
        assert _storage(after[name]) == _storage(live)
        assert after[name]["metadata"]["labels"]["app.kubernetes.io/name"] == mesh
    assert set(_states(run("status", "-o", "json")).values()) == {"current"}
    assert run("diff").code == 0
    for version in ("v1alpha1", "v1alpha2", "v1alpha3", "v1alpha4"):
        path = f"/apis/split.smi-spec.io/{version}/namespaces/default/trafficsplits/web"
        assert empty.get(path)["spec"] == split["spec"]
        empty.patch_status(path, {"observedGeneration": 1})
        assert empty.get(path)["status"] == {"observedGeneration": 1}


def test_the_other_mesh_can_still_apply_its_own_crds(empty: ControlPlane, run: Run) -> None:
    """Our versions are never made the stored ones in a foreign CRD, so that its owner is not locked out."""
    (theirs,) = foreign_crds.crds("linkerd-smi")
    empty.apply(theirs)
    run("apply")
    empty.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=yaml.safe_dump(theirs))
    assert _served(_installed(empty)[crds.name_of(theirs)]) == {"v1alpha1", "v1alpha2"}
    assert run("diff").code == 1


def test_a_conversion_webhook_is_kept_and_mentioned(empty: ControlPlane, run: Run) -> None:
    theirs = foreign_crds.crds("smi-sdk-go")[0]
    theirs["spec"]["conversion"] = {
        "strategy": "Webhook",
        "webhook": {"clientConfig": {"url": "https://127.0.0.1:9/convert"}, "conversionReviewVersions": ["v1"]},
    }
    empty.apply(theirs)
    outcome = run("apply")
    assert outcome.code == 0
    assert "conversion webhook stays" in outcome.stderr
    assert _installed(empty)[crds.name_of(theirs)]["spec"]["conversion"]["strategy"] == "Webhook"


def test_a_version_of_others_keeps_its_schema(empty: ControlPlane, run: Run) -> None:
    theirs = copy.deepcopy(foreign_crds.crds("linkerd-smi")[0])
    theirs["spec"]["versions"][0]["name"] = "v1beta1"
    empty.apply(theirs)
    assert run("apply").code == 0
    versions = {one["name"]: one for one in _installed(empty)[crds.name_of(theirs)]["spec"]["versions"]}
    assert set(versions) == {"v1alpha1", "v1alpha2", "v1alpha3", "v1alpha4", "v1beta1"}
    assert versions["v1beta1"]["schema"] == theirs["spec"]["versions"][0]["schema"]
    assert versions["v1beta1"]["storage"]


def test_reading_needs_no_right_to_write(empty: ControlPlane, run: Run) -> None:
    rules = [{"apiGroups": ["apiextensions.k8s.io"], "resources": ["customresourcedefinitions"], "verbs": ["get"]}]
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "crd-reader"}}
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "crd-reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "crd-reader"},
        "subjects": [{"kind": "User", "name": "reader"}],
    }
    empty.apply({**role, "rules": rules}, binding, *foreign_crds.crds("osm"))
    reader = empty.user("reader")
    empty.wait_for(lambda: run("status", kubeconfig=reader).stdout != "")  # until the authorizer has seen the role

    outcome = run("status", kubeconfig=reader)
    assert outcome.code == 1
    (row,) = (line.split() for line in outcome.stdout.splitlines() if line.startswith("trafficsplits"))
    assert row == ["trafficsplits.split.smi-spec.io", "foreign", "v1alpha2", "v1alpha2", "no", "osm"]
    assert "smi-adapter crds apply" in outcome.stderr

    refused = run("apply", kubeconfig=reader)
    assert refused.code == 1
    assert "cannot patch resource" in refused.stderr


def test_an_unreachable_cluster_is_exit_code_3(empty: ControlPlane, run: Run) -> None:
    nobody = empty.user("nobody", server="https://127.0.0.1:9")
    for command in ("status", "diff", "apply"):
        assert run(command, kubeconfig=nobody).code == 3
        assert run(command, kubeconfig=Path("does-not-exist")).code == 3


def _split(version: str) -> dict[str, Any]:
    return {
        "apiVersion": f"split.smi-spec.io/{version}",
        "kind": "TrafficSplit",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"service": "web", "backends": [{"service": "a", "weight": 1}, {"service": "b", "weight": 2}]},
    }


def _served(crd: dict[str, Any]) -> set[str]:
    return {one["name"] for one in crd["spec"]["versions"] if one["served"]}


def _storage(crd: dict[str, Any]) -> str:
    (name,) = (one["name"] for one in crd["spec"]["versions"] if one["storage"])
    return str(name)
