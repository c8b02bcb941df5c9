"""The end of an installation whose backend writes objects, while its controller still runs; and of one of two.

As in a cluster, the command runs with the rights of the chart's hook, and a controller that ends is started again.
"""

from __future__ import annotations

import asyncio
import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from smi_adapter import crds
from smi_adapter.cluster import removal
from smi_adapter.cluster.ownership import INSTALLATION
from tests import foreign_crds
from tests.apiserver.test_chart_rights import ACCOUNT, HOME, RELEASE, Deployed, _install
from tests.apiserver.test_cli import Cli, installed
from tests.chart.rendering import helm
from tests.cluster.control_plane import ControlPlane, RequestError
from tests.cluster.mesh import Mesh, until

pytestmark = pytest.mark.live

GROUP = "gateway.networking.k8s.io"
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{HOME}/leases/{RELEASE}"


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    """Start an API server for this test alone: its audit log is all about this run."""
    folder = tmp_path / "plane"
    folder.mkdir()
    with ControlPlane(folder) as started:
        yield started


def _routes(plane: ControlPlane) -> list[str]:
    try:
        found = plane.get(f"/apis/{GROUP}/v1/httproutes")["items"]
    except RequestError as error:
        if error.status != 429:  # the CRD is new, and its storage not ready
            raise
        return []
    return [item["metadata"]["name"] for item in found]


def _run_hook(plane: ControlPlane, folder: Path) -> str:
    """Do what Helm does before it deletes the release: make the hook's rights, and run the Job's command."""
    done = helm("get", "hooks", RELEASE, "--namespace", HOME, "--kubeconfig", str(plane.kubeconfig))
    hooks = [item for item in yaml.safe_load_all(done.stdout) if item]
    (job,) = (item for item in hooks if item["kind"] == "Job")
    plane.apply(*(item for item in hooks if item["kind"] not in {"Job", "Pod"}))
    spec = job["spec"]["template"]["spec"]
    login = folder / "hook.kubeconfig"
    login.write_text(plane.token_kubeconfig(plane.service_account_token(HOME, spec["serviceAccountName"])).read_text())
    program = [sys.executable, "-c", "from smi_adapter.cli import entry; entry()", *spec["containers"][0]["args"]]
    ran = subprocess.run(
        program, env=plane.environment(login), capture_output=True, text=True, timeout=240, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def _account(plane: ControlPlane, verb: str, resource: str) -> list[dict[str, Any]]:
    return [
        event
        for event in plane.audit_events(ACCOUNT)
        if event["verb"] == verb and event.get("objectRef", {}).get("resource") == resource
    ]


@pytest.mark.parametrize("values", [(), ("watchNamespaces={shop,bank}",)], ids=["everywhere", "two-namespaces"])
async def test_a_controller_that_still_runs_does_not_write_again_what_an_uninstall_deletes(
    plane: ControlPlane, tmp_path: Path, values: tuple[str, ...]
) -> None:
    plane.new_namespace("shop")
    plane.new_namespace("bank")
    plane.apply(*foreign_crds.gateway_api())
    more = (argument for value in values for argument in ("--set", value))
    _install(plane, "--set", "settings.backend=gateway_api", *more)
    shop, bank = (Mesh(plane, namespace, tmp_path) for namespace in ("shop", "bank"))
    for mesh in (shop, bank):
        mesh.service("web")
        mesh.split("web", {"web": 1})
    with Deployed(plane, tmp_path) as leader, Deployed(plane, tmp_path) as other:
        await leader.ready(120)
        await other.ready(120)
        await until(lambda: _routes(plane) == ["smi.web.80"] * 2, 90)

        said = await asyncio.to_thread(_run_hook, plane, tmp_path)
        assert "took the Lease" in said
        assert _routes(plane) == []
        assert plane.get(LEASE)["spec"]["holderIdentity"] == removal.HOLDER
        written = len(_account(plane, "patch", "httproutes"))
        (ended,) = (one for one in (leader, other) if not one.process.is_running())
        ended.process.start()
        await ended.ready(120)
        shop.split("web", {"web": 2})
        looked = len(_account(plane, "get", "leases"))
        await until(lambda: len(_account(plane, "get", "leases")) >= looked + 6, 90)
        assert len(_account(plane, "patch", "httproutes")) == written
        assert _routes(plane) == []

    gone = helm("uninstall", RELEASE, "--namespace", HOME, "--no-hooks", "--kubeconfig", str(plane.kubeconfig))
    assert gone.returncode == 0, gone.stderr
    with pytest.raises(RequestError, match="404"):
        plane.get(LEASE)  # a release that is installed now need not wait for it


def test_an_uninstall_takes_away_what_its_own_installation_has_generated(plane: ControlPlane) -> None:
    plane.apply(*foreign_crds.gateway_api())
    shop = plane.new_namespace()
    for name, labels in (
        ("mine", {INSTALLATION: "mesh.smi-adapter"}),
        ("theirs", {INSTALLATION: "other.smi-adapter"}),
        ("old", {}),
    ):
        managed = {"app.kubernetes.io/managed-by": "smi-adapter", **labels}
        metadata = {"name": name, "namespace": shop, "labels": managed}
        plane.apply({"apiVersion": f"{GROUP}/v1", "kind": "HTTPRoute", "metadata": metadata, "spec": {}})
    labels = {"app.kubernetes.io/managed-by": "smi-adapter", INSTALLATION: "mesh.smi-adapter"}
    metadata = {"name": "tcp", "namespace": shop, "labels": labels}
    plane.apply({"apiVersion": f"{GROUP}/v1alpha2", "kind": "TCPRoute", "metadata": metadata, "spec": {}})
    cli = Cli(plane)
    whose = ("--controller-namespace=mesh", "--release=smi-adapter")
    dry = cli("uninstall", "--dry-run", *whose).stdout
    assert f"would delete httproutes.{GROUP} {shop}/mine" in dry
    assert "stays: generated objects of other.smi-adapter: 1" in dry
    assert "stays: generated objects of a release that named no installation: 1" in dry
    assert cli("uninstall", "--yes", *whose).returncode == 0
    assert sorted(_routes(plane)) == ["old", "theirs"]
    assert plane.get(f"/apis/{GROUP}/v1alpha2/tcproutes")["items"] == [], "which the preferred version does not have"


def test_an_uninstall_says_what_it_may_not_see_and_counts_what_it_cannot_read(plane: ControlPlane) -> None:
    (ours,) = (one for one in crds.definitions() if crds.name_of(one) == "httproutegroups.specs.smi-spec.io")
    theirs = copy.deepcopy(dict(ours))
    for version in theirs["spec"]["versions"]:
        anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        version["schema"] = {"openAPIV3Schema": anything}
    plane.apply(*foreign_crds.gateway_api(), theirs)
    shop = plane.new_namespace()
    place = f"/apis/specs.smi-spec.io/v1alpha4/namespaces/{shop}/httproutegroups"
    body = {"apiVersion": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup", "metadata": {"name": "deep"}}
    text = json.dumps({**body, "spec": "DEEP"}).replace('"DEEP"', '{"a":' * 3000 + "{}" + "}" * 3000)
    plane.raw("POST", place, text.encode())
    plane.kubectl("create", "clusterrole", "reader", "--verb=list", "--resource=httproutegroups.specs.smi-spec.io")
    plane.kubectl("create", "clusterrolebinding", "reader", "--clusterrole=reader", "--user=reader")
    whose = ("--controller-namespace=mesh", "--release=smi-adapter")
    done = Cli(plane)("uninstall", "--dry-run", *whose, kubeconfig=plane.user("reader"))
    assert done.returncode == 0, done.stderr
    assert "stays: crd/httproutegroups.specs.smi-spec.io with 1 objects" in done.stdout
    assert "if there are any, of httproutes, tcproutes, which you may not list" in done.stdout


def test_of_several_installations_one_has_to_be_named(plane: ControlPlane) -> None:
    cli = Cli(plane)
    installed(plane, plane.new_namespace("blue"), "smi-adapter", {}, ready=2)
    assert cli("uninstall", "--dry-run").returncode == 0
    installed(plane, plane.new_namespace("green"), "smi-adapter", {}, ready=2)
    done = cli("uninstall", "--dry-run")
    assert done.returncode == 2
    assert "several installations (blue/smi-adapter, green/smi-adapter)" in done.stderr
    assert cli("uninstall", "--dry-run", "--controller-namespace=green").returncode == 0


def test_an_uninstall_that_may_not_silence_the_controller_deletes_nothing_that_it_would_write(
    plane: ControlPlane,
) -> None:
    plane.apply(*foreign_crds.gateway_api())
    shop = plane.new_namespace()
    labels = {"app.kubernetes.io/managed-by": "smi-adapter", INSTALLATION: "mesh.smi-adapter"}
    metadata = {"name": "mine", "namespace": shop, "labels": labels}
    plane.apply({"apiVersion": f"{GROUP}/v1", "kind": "HTTPRoute", "metadata": metadata, "spec": {}})
    plane.kubectl("create", "clusterrole", "router", "--verb=list,delete", f"--resource=httproutes.{GROUP}")
    plane.kubectl("create", "clusterrolebinding", "router", "--clusterrole=router", "--user=router")
    whose = ("--controller-namespace=mesh", "--release=smi-adapter")
    done = Cli(plane)("uninstall", "--yes", *whose, kubeconfig=plane.user("router"))
    assert done.returncode == 1
    assert "the Lease mesh/smi-adapter cannot be taken" in done.stderr
    assert _routes(plane) == ["mine"]
