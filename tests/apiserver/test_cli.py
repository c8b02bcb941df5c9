"""The command line against a real API server, run as people run it; kubectl finds the plugin by itself."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from smi_adapter import __version__, crds
from smi_adapter.cli import execute
from smi_adapter.cluster.client import Client
from smi_adapter.controller import Controller, cluster_source
from smi_adapter.settings import Settings
from smi_adapter.webhooks import configuration
from tests.cluster.control_plane import ControlPlane
from tests.tools import binary

ROOT = Path(__file__).parents[2]
ENTRY = "from smi_adapter.cli import entry; entry()"
MERGE = "application/merge-patch+json"
DEPLOYMENTS = "/apis/apps/v1/namespaces/{}/deployments"
WHOSE = ("--controller-namespace=smi-system", "--release=smi-adapter")


@dataclass(frozen=True)
class Done:
    """What a command did."""

    returncode: int
    stdout: str
    stderr: str


class Cli:
    """Runs the command line with a kubeconfig: in this process, as starting another one is most of the time."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane

    def __call__(self, *arguments: str, stdin: str | None = None, kubeconfig: Path | None = None) -> Done:
        with CliRunner().isolation(stdin, env=self.plane.environment(kubeconfig)) as (out, err, _):
            code = execute(arguments)
            return Done(code, out.getvalue().decode(), err.getvalue().decode())

    def program(self, *arguments: str) -> subprocess.Popen[str]:
        """Start it as a program of its own."""
        environment = {**self.plane.environment(), "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-c", ENTRY, *arguments]
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def json(self, *arguments: str, **options: Any) -> Any:
        done = self(*arguments, "-o", "json", **options)
        assert done.stdout, done.stderr
        return json.loads(done.stdout)


def service(name: str, port: int = 80) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": [{"port": port}]}}


def split(*backends: str, version: str = "v1alpha4", weights: tuple[Any, ...] = (90, 10)) -> dict[str, Any]:
    pairs = [{"service": name, "weight": weight} for name, weight in zip(backends, weights, strict=False)]
    return {
        "apiVersion": f"split.smi-spec.io/{version}",
        "kind": "TrafficSplit",
        "metadata": {"name": "canary", "labels": {"app": "web"}},
        "spec": {"service": "web", "backends": pairs},
    }


GROUP = {
    "apiVersion": "specs.smi-spec.io/v1alpha4",
    "kind": "HTTPRouteGroup",
    "metadata": {"name": "pages", "annotations": {"note": "token=hunter2"}},
    "spec": {"matches": [{"name": "shop", "pathRegex": "/shop/.*", "headers": {"authorization": "Bearer hunter2"}}]},
}
TARGET = {
    "apiVersion": "access.smi-spec.io/v1alpha4",
    "kind": "TrafficTarget",
    "metadata": {"name": "shoppers"},
    "spec": {
        "destination": {"kind": "ServiceAccount", "name": "web"},
        "rules": [{"kind": "HTTPRouteGroup", "name": "pages", "matches": ["shop"]}],
        "sources": [{"kind": "ServiceAccount", "name": "browser"}],
    },
}


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Start an API server of our own: checks look at all of it."""
    with ControlPlane(tmp_path_factory.mktemp("cli")) as started:
        yield started


@pytest.fixture(scope="module")
def cli(plane: ControlPlane) -> Cli:
    return Cli(plane)


@pytest.fixture(scope="module")
def with_crds(plane: ControlPlane) -> ControlPlane:
    plane.apply(*crds.definitions())
    return plane


@pytest.fixture(scope="module")
def shop(with_crds: ControlPlane) -> str:
    """Make a namespace with a canary one of whose backends is not there, a route group and a target."""
    name = with_crds.new_namespace("shop")
    for raw in (service("web"), service("web-v1"), split("web-v1", "web-v2"), GROUP, TARGET):
        apply(with_crds, name, raw)
    return name


def apply(plane: ControlPlane, namespace: str, raw: dict[str, Any]) -> None:
    plane.kubectl("apply", "-n", namespace, "-f", "-", stdin=yaml.safe_dump(raw))


# ------------------------------------------------------------------------------------------------ before CRDs
def test_check_pre_says_that_everything_may_be_installed(plane: ControlPlane, cli: Cli) -> None:
    done = cli("check", "--pre")
    assert done.returncode == 0, done.stdout
    assert "√ the API server answers" in done.stdout
    assert "√ you may create customresourcedefinitions" in done.stdout
    assert "Status check results are √" in done.stdout


def test_check_pre_names_the_rights_that_are_missing(plane: ControlPlane, cli: Cli) -> None:
    nobody = plane.user("nobody")
    done = cli("check", "--pre", "-o", "short", kubeconfig=nobody)
    assert done.returncode == 1
    assert "the API server refused" in done.stdout or "refuse it" in done.stdout or "403" in done.stdout
    assert "docs/check.md#" in done.stdout


def test_get_without_crds_says_what_to_do(plane: ControlPlane, cli: Cli) -> None:
    done = cli("get", "splits", "-A")
    assert done.returncode == 1
    assert "smi-adapter crds apply" in done.stderr


def test_before_an_installation_nothing_is_said_to_be_in_force(plane: ControlPlane, cli: Cli) -> None:
    text = cli("check").stdout
    assert "- every SMI object is accepted\n    there can be none yet" in text
    assert "- every SMI object is programmed\n    there can be none yet" in text
    assert "-> run `smi-adapter crds apply`" in text


# ----------------------------------------------------------------------------------------------------- looking
def test_get_shows_splits_as_kubectl_would(shop: str, cli: Cli) -> None:
    done = cli("get", "splits", "-n", shop)
    header, row = done.stdout.splitlines()
    assert header.split() == ["NAME", "SERVICE", "BACKENDS", "ACCEPTED", "PROGRAMMED", "AGE"]
    assert row.split()[:3] == ["canary", "web", "web-v1=90,web-v2=10"]
    everywhere = cli("get", "ts", "-A", "--no-headers").stdout.split()
    assert everywhere[:2] == [shop, "canary"]
    assert cli("get", "splits", "-n", shop, "-o", "wide").stdout.splitlines()[1].split()[-1].startswith("v1alpha")


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (("targets",), "shoppers"),
        (("routes", "-o", "wide"), "/shop/.*"),
        (("split/canary", "-o", "name"), "trafficsplit.split.smi-spec.io/canary"),
        (("split", "canary", "-o", "jsonpath={.spec.backends[*].service}"), "web-v1 web-v2"),
        (("splits", "-l", "app=web", "-o", "name"), "canary"),
        (("split", "canary", "-o", "yaml"), "weight: 90"),
    ],
)
def test_get_in_every_form(shop: str, cli: Cli, arguments: tuple[str, ...], shown: str) -> None:
    done = cli("get", *arguments, "-n", shop)
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout


def test_get_says_what_is_not_there(shop: str, cli: Cli) -> None:
    assert cli("get", "split", "other", "-n", shop).returncode == 1
    done = cli("get", "splits", "-n", shop, "-l", "app=other")
    assert (done.returncode, done.stdout) == (0, "")
    assert cli("get", "pods").returncode == 2
    assert cli("get", "splits", "-o", "other").returncode == 2


def test_get_watch_shows_changes(shop: str, with_crds: ControlPlane) -> None:
    name = with_crds.new_namespace("watched")
    with Cli(with_crds).program("get", "splits", "-n", name, "-w", "--no-headers") as running:
        assert running.stderr
        assert running.stdout
        assert "No splits found" in running.stderr.readline()
        apply(with_crds, name, split("a", "b"))
        assert running.stdout.readline().split()[:3] == ["canary", "web", "a=90,b=10"]
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 130


def test_describe_shows_findings_and_conditions(shop: str, cli: Cli) -> None:
    done = cli("describe", "split", "canary", "-n", shop)
    assert done.returncode == 0, done.stderr
    assert f"TrafficSplit {shop}/canary" in done.stdout
    assert "SMI0102 BackendNotFound" in done.stdout
    assert "Conditions: none" in done.stdout
    assert "Events: none" in done.stdout
    assert cli("describe", "split", "other", "-n", shop).returncode == 1


def test_analyze_of_the_cluster_is_analyze_of_the_same_files(shop: str, cli: Cli, tmp_path: Path) -> None:
    live = cli.json("analyze", "-n", shop)
    objects = [service("web"), service("web-v1"), split("web-v1", "web-v2"), GROUP, TARGET]
    for each in objects:
        raw = {**each, "metadata": {**each["metadata"], "namespace": shop}}
        (tmp_path / f"{raw['kind']}-{raw['metadata']['name']}.yaml").write_text(yaml.safe_dump(raw))
    files = cli.json("analyze", "-f", str(tmp_path))

    def told(answer: Any) -> set[tuple[str, str]]:
        of_smi = [item for item in answer["findings"] if item["kind"] != "Service"]
        return {(item["code"], item["object"]) for item in of_smi}

    assert ("SMI0102", "canary") in told(live)
    assert told(live) == told(files)
    assert cli("analyze", "-n", shop).returncode == 1
    assert cli("analyze", "-n", shop, "--fail-on", "never").returncode == 0


def test_analyze_of_files_over_the_cluster_tells_what_they_bring(shop: str, cli: Cli) -> None:
    mended = {**service("web-v2"), "metadata": {"name": "web-v2", "namespace": shop}}
    answer = cli.json("analyze", "-f", "-", "--use-kube", "-n", shop, stdin=yaml.safe_dump(mended))
    assert "SMI0102" not in {item["code"] for item in answer["findings"]}
    broken = {**TARGET, "metadata": {"name": "more", "namespace": shop}}
    broken["spec"] = {**TARGET["spec"], "rules": [{"kind": "HTTPRouteGroup", "name": "gone"}]}  # type: ignore[dict-item]
    answer = cli.json("analyze", "-f", "-", "--use-kube", stdin=yaml.safe_dump(broken))
    assert {item["object"] for item in answer["findings"]} == {"more"}


def test_explain_in_the_cluster(shop: str, cli: Cli) -> None:
    answer = cli.json("explain", "--from", f"{shop}/browser", "--to", f"{shop}/web:80", "--path", "/shop/1")
    assert {arm["service"] for arm in answer["arms"]} == {f"{shop}/web-v1"}


def test_diff_shows_what_a_split_would_change(shop: str, cli: Cli) -> None:
    same = {**split("web-v1", "web-v2")}
    same["metadata"] = {**same["metadata"], "namespace": shop}
    done = cli("diff", "-f", "-", stdin=yaml.safe_dump(same))
    assert (done.returncode, done.stdout) == (0, "")
    other = {**same, "spec": split("web-v1", "web", weights=(50, 50))["spec"]}
    done = cli("diff", "-f", "-", stdin=yaml.safe_dump(other))
    assert done.returncode == 1
    assert done.stdout.startswith(f"Service {shop}/web routes otherwise")
    assert f"live/Service {shop}/web" in done.stdout
    assert "resolved warning SMI0102" in done.stdout


def test_who_may_see_one_namespace_only_is_told_so(shop: str, with_crds: ControlPlane, cli: Cli) -> None:
    with_crds.kubectl("create", "rolebinding", "viewer", "--clusterrole=cluster-admin", "--user=viewer", "-n", shop)
    viewer = with_crds.user("viewer")
    done = cli("analyze", "-n", shop, kubeconfig=viewer)
    assert "SMI0904" in done.stdout
    assert "SMI0102" in done.stdout
    done = cli("get", "splits", "-n", shop, kubeconfig=viewer)
    assert "canary" in done.stdout


# ------------------------------------------------------------------------------------------------------- check
def test_check_names_what_is_wrong_with_a_hint(shop: str, with_crds: ControlPlane, cli: Cli) -> None:
    answer = cli.json("check")
    found = {one["description"]: one for part in answer["categories"] for one in part["checks"]}
    assert found["trafficsplits.split.smi-spec.io is installed and ours"]["result"] == "success"
    missing = found["a controller is installed"]
    assert missing["result"] == "error"
    assert missing["hint"] == "docs/check.md#not-installed"
    assert answer["success"] is False
    assert cli("check").returncode == 1


def test_check_looks_at_the_controller_its_lease_and_its_webhook(shop: str, with_crds: ControlPlane, cli: Cli) -> None:
    name = with_crds.new_namespace("smi-system")
    labels = {"app.kubernetes.io/part-of": "smi-adapter"}
    installed(with_crds, name, "smi-adapter", {"app.kubernetes.io/version": "0.0.1"}, ready=1)
    hook = configuration.validating("smi-adapter", {"url": "https://localhost:1/validate"})
    hook["metadata"]["labels"] = labels
    with_crds.apply(hook)
    text = cli("check").stdout
    assert "‼ all replicas of smi-system/smi-adapter are ready\n    1 of 2 are" in text
    assert f"has the version of this program, {__version__}\n    it is 0.0.1" in text
    assert "there is no Lease" in text
    assert "has not given it a certificate authority yet" in text
    assert "a broken object was accepted" in text
    assert "nothing has been said of" in text
    text = cli("uninstall", "--dry-run").stdout
    assert "belongs to an installation: Deployment smi-system/smi-adapter" in text
    assert "belongs to an installation: ValidatingWebhookConfiguration smi-adapter" in text
    with_crds.kubectl("delete", "validatingwebhookconfiguration", "smi-adapter")


async def test_with_a_running_controller_the_installation_is_fine(with_crds: ControlPlane, cli: Cli) -> None:
    name = with_crds.new_namespace("live")
    for raw in (service("web"), service("web-v1"), service("web-v2"), split("web-v1", "web-v2")):
        apply(with_crds, name, raw)
    hook = configuration.validating("live", {"url": "https://localhost:1/validate"})
    hook["metadata"]["labels"] = {"app.kubernetes.io/part-of": "smi-adapter"}
    client = await Client.connect(str(with_crds.kubeconfig))
    client.namespace = name
    chosen = Settings(
        xds_address="127.0.0.1:0",
        health_address="127.0.0.1:0",
        webhook_address="127.0.0.1:0",
        webhook_configuration="live",
        webhook_names=("localhost",),
        lease="live",
    )
    installed(with_crds, name, "live", {"app.kubernetes.io/version": __version__}, ready=2)
    controller = Controller(chosen, client, cluster_source(chosen, client))
    async with controller.running() as ports:
        hook["webhooks"][0]["clientConfig"]["url"] = f"https://localhost:{ports.webhooks}/validate"
        with_crds.apply(hook)
        deadline = time.monotonic() + 60
        while "√ the validating webhook answers" not in (text := (await asyncio.to_thread(cli, "check")).stdout):
            assert time.monotonic() < deadline, text
            await asyncio.sleep(0.3)
        while "nothing has been said of" in text:
            assert time.monotonic() < deadline, text
            text = (await asyncio.to_thread(cli, "check")).stdout
        for line in ("all replicas of live/live are ready", "a replica of live/live leads",
                     f"live/live has the version of this program, {__version__}",
                     "the API server trusts the webhooks of live"):  # fmt: skip
            assert f"√ {line}" in text
        row = (await asyncio.to_thread(cli, "get", "splits", "-n", name, "--no-headers")).stdout.split()
        assert row[3] == "True"
        shown = (await asyncio.to_thread(cli, "describe", "split", "canary", "-n", name)).stdout
        assert "Accepted" in shown
        assert "Backend envoy:" in shown
    with_crds.kubectl("delete", "validatingwebhookconfiguration", "live")
    await client.close()


def installed(plane: ControlPlane, namespace: str, name: str, labels: dict[str, str], ready: int) -> None:
    """Make a Deployment as the chart would, and say how many of its two replicas are ready."""
    pod = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    deployment = {
        "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "smi-adapter", **labels}},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "template": pod},
    }
    plane.request("POST", DEPLOYMENTS.format(namespace), deployment)
    plane.patch_status(f"{DEPLOYMENTS.format(namespace)}/{name}", {"replicas": 2, "readyReplicas": ready})


def test_nobody_is_at_the_other_end(with_crds: ControlPlane, cli: Cli, tmp_path: Path) -> None:
    nowhere = with_crds.user("nowhere", server="https://127.0.0.1:9")
    for command in (
        ("get", "splits"),
        ("analyze",),
        ("check",),
        ("describe", "split", "x"),
        ("uninstall", "--dry-run"),
    ):
        done = cli(*command, kubeconfig=nowhere)
        assert done.returncode == 3, (command, done.stdout, done.stderr)
        assert "cannot be reached" in done.stdout + done.stderr
    assert cli("get", "splits", "--kubeconfig", str(tmp_path / "none")).returncode == 3


def test_an_api_server_that_hangs_is_a_time_out(start_control_plane: Any, tmp_path: Path) -> None:
    own: ControlPlane = start_control_plane()
    own.api.freeze()
    try:
        done = Cli(own)("get", "splits", "--request-timeout", "2s")
        assert done.returncode == 4
        assert "did not answer within 2 s" in done.stderr
    finally:
        own.api.thaw()


# --------------------------------------------------------------------------------------- uninstall, bug-report
def test_uninstall_sets_our_conversion_back_and_leaves_everything_else(
    shop: str, with_crds: ControlPlane, cli: Cli
) -> None:
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/udproutes.specs.smi-spec.io"
    client = {"service": {"namespace": "smi-system", "name": "gone", "path": "/convert"}}
    with_crds.request("PATCH", path, {"spec": {"conversion": configuration.conversion(client)}}, MERGE)
    done = cli("uninstall", "--dry-run", *WHOSE)
    assert done.returncode == 0, done.stderr
    assert "would set the conversion of crd/udproutes.specs.smi-spec.io to None" in done.stdout
    assert "stays: crd/trafficsplits.split.smi-spec.io with " in done.stdout
    assert with_crds.get(path)["spec"]["conversion"]["strategy"] == "Webhook"
    assert cli("uninstall", "--yes", *WHOSE).returncode == 0
    assert with_crds.get(path)["spec"]["conversion"]["strategy"] == "None"
    assert cli("get", "splits", "-n", shop, "-o", "name").stdout


def test_uninstall_needs_no_more_rights_than_a_hook_has(shop: str, with_crds: ControlPlane, cli: Cli) -> None:
    """Reading and patching the CRDs by name; whatever else it would like to tell, it does without."""
    names = [f"--resource-name={crds.name_of(one)}" for one in crds.definitions()]
    what = "--resource=customresourcedefinitions.apiextensions.k8s.io"
    with_crds.kubectl("create", "clusterrole", "hook", "--verb=get,patch", what, *names)
    with_crds.kubectl("create", "clusterrolebinding", "hook", "--clusterrole=hook", "--user=hook")
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/tcproutes.specs.smi-spec.io"
    client = {"service": {"namespace": "default", "name": "smi-adapter-webhooks", "path": "/convert"}}
    with_crds.request("PATCH", path, {"spec": {"conversion": configuration.conversion(client)}}, MERGE)
    done = cli("uninstall", "--yes", "--controller-namespace=default", kubeconfig=with_crds.user("hook"))
    assert done.returncode == 0, done.stderr
    assert with_crds.get(path)["spec"]["conversion"]["strategy"] == "None"


def test_uninstall_leaves_the_conversion_of_others_alone(shop: str, with_crds: ControlPlane, cli: Cli) -> None:
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/tcproutes.specs.smi-spec.io"
    theirs = {"service": {"namespace": "elsewhere", "name": "gone", "path": "/their-own"}}
    with_crds.request("PATCH", path, {"spec": {"conversion": configuration.conversion(theirs)}}, MERGE)
    does, _, stays = cli("uninstall", "--dry-run", *WHOSE).stdout.partition("stays: ")
    assert "tcproutes" not in does
    assert "the conversion of crd/tcproutes.specs.smi-spec.io by elsewhere/gone" in stays
    with_crds.request("PATCH", path, {"spec": {"conversion": {"strategy": "None", "webhook": None}}}, MERGE)


def test_a_bug_report_has_everything_but_secrets(shop: str, with_crds: ControlPlane, cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "report.zip"
    done = cli("bug-report", "-o", str(file))
    assert done.returncode == 0, done.stderr
    assert file.stat().st_mode & 0o077 == 0
    with zipfile.ZipFile(file) as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist()}
    assert {"about.json", "objects.json", "findings.json", "check.json", "installation.json"} <= texts.keys()
    assert "hunter2" not in "".join(texts.values())
    assert "SMI0102" in texts["findings.json"]
    group = next(raw for raw in json.loads(texts["objects.json"]) if raw["kind"] == "HTTPRouteGroup")
    assert group["spec"]["matches"][0] == {"name": "shop", "pathRegex": "/shop/.*",
                                           "headers": {"authorization": "<redacted>"}}  # fmt: skip


# ------------------------------------------------------------------------------------------------------ plugin
@pytest.fixture(scope="module")
def kubectl_with_plugin(with_crds: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Put the two programs on PATH as an installation does, and return a runner of kubectl."""
    folder = tmp_path_factory.mktemp("plugin")
    calls = {"kubectl-traffic": "entry()", "kubectl_complete-traffic": "kubectl_complete()"}
    for name, call in calls.items():
        where = "smi_adapter.cli" if name == "kubectl-traffic" else "smi_adapter.cli.completion"
        script = f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        (folder / name).write_text(f"{script}from {where} import {call[:-2]}\n{call}\n")
        (folder / name).chmod(0o755)
    environment = with_crds.environment()
    environment["PATH"] = f"{folder}{os.pathsep}{environment['PATH']}"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(binary("kubectl")), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def test_kubectl_traffic_is_the_same_program(shop: str, kubectl_with_plugin: Any) -> None:
    done = kubectl_with_plugin("traffic", "get", "splits", "-n", shop)
    assert "web-v1=90,web-v2=10" in done.stdout
    assert "Usage: kubectl traffic" in kubectl_with_plugin("traffic", "--help").stdout
    done = kubectl_with_plugin("traffic", "get")
    assert done.returncode == 2


def test_kubectl_completes_the_plugin(shop: str, kubectl_with_plugin: Any) -> None:
    done = kubectl_with_plugin("__complete", "traffic", "an")
    assert "analyze" in done.stdout
    done = kubectl_with_plugin("__complete", "traffic", "get", "splits", "--all")
    assert "--all-namespaces" in done.stdout
