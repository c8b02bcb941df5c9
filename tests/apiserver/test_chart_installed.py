"""The Helm chart on a real API server, with Helm 3 and Helm 4: install, use, upgrade, roll back, uninstall.

No pod runs here, so releases are made without waiting and without hooks.
"""

import base64
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
import yaml

from smi_adapter import crds
from smi_adapter.smi import schema
from tests.chart.rendering import CHART, HELM, VALUES
from tests.cluster.control_plane import MERGE, ControlPlane, RequestError
from tests.tools import ToolError, binary

RELEASE = "smi-adapter"
ACCOUNT = f"system:serviceaccount:mesh:{RELEASE}"
WEBHOOK = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/mesh-smi-adapter"
SECRET = f"/api/v1/namespaces/mesh/secrets/{RELEASE}-ca"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
# Everything that the chart may make, to look for what is left.
COLLECTIONS = (
    "/api/v1/namespaces/mesh/serviceaccounts",
    "/api/v1/namespaces/mesh/secrets",
    "/api/v1/namespaces/mesh/services",
    "/apis/apps/v1/namespaces/mesh/deployments",
    "/apis/batch/v1/namespaces/mesh/jobs",
    "/apis/policy/v1/namespaces/mesh/poddisruptionbudgets",
    "/apis/networking.k8s.io/v1/namespaces/mesh/networkpolicies",
    "/apis/rbac.authorization.k8s.io/v1/roles",
    "/apis/rbac.authorization.k8s.io/v1/rolebindings",
    "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
)


class Helm(Protocol):
    def __call__(self, *arguments: str, check: bool = True) -> str: ...


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Start a control plane for this module alone, with controllers: roles are aggregated by one of them."""
    with ControlPlane(tmp_path_factory.mktemp("chart"), controller_manager=True) as started:
        yield started


def _helm(major: int) -> Path:
    if major == 3:
        return HELM
    try:
        return binary("helm", "helm4")
    except ToolError as missing:
        pytest.skip(str(missing))


@pytest.fixture(params=[3, 4], ids=["helm3", "helm4"])
def command(request: pytest.FixtureRequest) -> Path:
    """Return either Helm."""
    return _helm(request.param)


def _helm_on(plane: ControlPlane, command: Path) -> Helm:
    def run(*arguments: str, check: bool = True) -> str:
        environment = {**plane.environment(), "HELM_NAMESPACE": "mesh"}
        done = subprocess.run(
            [str(command), *arguments], env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        if check:
            assert done.returncode == 0, done.stderr
        else:
            assert done.returncode != 0, done.stdout
        return done.stdout + done.stderr

    return run


@pytest.fixture
def helm(plane: ControlPlane, command: Path) -> Iterator[Helm]:
    """Run either Helm as admin; what is left of a release afterwards is removed."""
    run = _helm_on(plane, command)
    yield run
    if RELEASE in run("list", "--short"):
        run("uninstall", RELEASE, "--no-hooks")
    plane.delete_crds()


def _install(helm: Helm, *arguments: str, check: bool = True) -> str:
    return helm("install", RELEASE, str(CHART), "--create-namespace", "--no-hooks", *arguments, check=check)


def _ours(plane: ControlPlane) -> list[str]:
    """Return the path of everything that carries the release's label."""
    selector = f"labelSelector=app.kubernetes.io/instance={RELEASE}"
    return [
        f"{path}/{item['metadata']['name']}"
        for path in COLLECTIONS
        for item in plane.get(f"{path}?{selector}")["items"]
        if not item["metadata"].get("deletionTimestamp")
    ]


def _exists(plane: ControlPlane, path: str) -> bool:
    try:
        plane.get(path)
    except RequestError as error:
        if error.status != 404:
            raise
        return False
    return True


def _split(plane: ControlPlane) -> str:
    item = {
        "apiVersion": "split.smi-spec.io/v1alpha4",
        "kind": "TrafficSplit",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"service": "web", "backends": [{"service": "web-v1", "weight": 1}]},
    }
    plane.wait_for(lambda: _established(plane))
    plane.apply(item)
    return "/apis/split.smi-spec.io/v1alpha4/namespaces/default/trafficsplits/web"


def _established(plane: ControlPlane) -> bool:
    items = plane.get(DEFINITIONS)["items"]
    return len(items) == len(crds.definitions()) and all(
        {"type": "Established", "status": "True"}.items() <= one.items()
        for item in items
        for one in item.get("status", {}).get("conditions", ())
        if one["type"] == "Established"
    )


def test_from_install_to_uninstall(plane: ControlPlane, helm: Helm) -> None:
    said = _install(helm)
    lines = said.rstrip().splitlines()
    assert "kubectl --namespace mesh rollout status deployment/smi-adapter" in lines
    assert lines[-1] == "smi-adapter check"
    split = _split(plane)

    # What the controller puts into what the chart made outlives an upgrade and a rollback.
    key = {"tls.key": base64.b64encode(b"secret").decode()}
    plane.request("PATCH", SECRET, {"data": key}, MERGE)
    bundle = base64.b64encode(plane.ca.read_bytes()).decode()
    patch = [{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": bundle}]
    plane.request("PATCH", WEBHOOK, patch, "application/json-patch+json")

    def kept() -> bool:
        (webhook,) = plane.get(WEBHOOK)["webhooks"]
        return bool(plane.get(SECRET)["data"] == key and webhook["clientConfig"].get("caBundle") == bundle)

    def replicas() -> int:
        return int(plane.get(f"/apis/apps/v1/namespaces/mesh/deployments/{RELEASE}")["spec"]["replicas"])

    helm("upgrade", RELEASE, str(CHART), "--no-hooks", "--set", "replicas=3", "--set", "networkPolicy.enabled=true")
    assert (replicas(), kept()) == (3, True)
    helm("rollback", RELEASE, "1", "--no-hooks")
    assert (replicas(), kept()) == (2, True)
    assert not _exists(plane, f"/apis/networking.k8s.io/v1/namespaces/mesh/networkpolicies/{RELEASE}")

    helm("uninstall", RELEASE, "--no-hooks")
    plane.wait_for(lambda: not _ours(plane))
    assert _exists(plane, split), "users' policies outlive the release"
    assert len(plane.get(DEFINITIONS)["items"]) == len(crds.definitions())


def test_installed_again_it_takes_the_crds_that_it_left(plane: ControlPlane, helm: Helm) -> None:
    _install(helm)
    split = _split(plane)
    helm("uninstall", RELEASE, "--no-hooks")
    _install(helm)
    assert _exists(plane, split)


def test_crds_that_are_not_kept_go_with_the_release(plane: ControlPlane, helm: Helm) -> None:
    _install(helm, "--set", "crds.keep=false")
    helm("uninstall", RELEASE, "--no-hooks")
    plane.wait_for(lambda: all(item["metadata"].get("deletionTimestamp") for item in plane.get(DEFINITIONS)["items"]))


def test_crds_of_somebody_else_stop_it_unless_they_are_left_alone_or_taken_over(
    plane: ControlPlane, helm: Helm
) -> None:
    plane.apply(*crds.definitions())
    assert "invalid ownership metadata" in _install(helm, check=False)
    _install(helm, "--set", "crds.install=false")
    helm("uninstall", RELEASE, "--no-hooks")
    _install(helm, "--take-ownership")


@pytest.mark.parametrize("name", [name for name in VALUES if name not in {"everything", "cert-manager"}])
def test_a_variant_installs(plane: ControlPlane, helm: Helm, name: str) -> None:
    for namespace in ("shop", "bank"):
        if not _exists(plane, f"/api/v1/namespaces/{namespace}"):
            plane.new_namespace(namespace)
    _install(helm, "--values", str(VALUES[name]))
    assert _ours(plane)
    helm("uninstall", RELEASE, "--no-hooks")
    plane.wait_for(lambda: not _ours(plane))


def test_its_pods_pass_pod_security_restricted(plane: ControlPlane, helm: Helm) -> None:
    _install(helm, "--values", str(VALUES["default"]))
    label = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    plane.request("PATCH", "/api/v1/namespaces/mesh", label, MERGE)
    template = plane.get(f"/apis/apps/v1/namespaces/mesh/deployments/{RELEASE}")["spec"]["template"]
    pod = {"metadata": {"name": "x", "labels": template["metadata"]["labels"]}, "spec": template["spec"]}
    plane.request("POST", "/api/v1/namespaces/mesh/pods?dryRun=All&fieldValidation=Strict", pod)
    pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    with pytest.raises(RequestError, match="restricted"):
        plane.request("POST", "/api/v1/namespaces/mesh/pods?dryRun=All", pod)


def test_who_may_do_what(plane: ControlPlane, helm: Helm) -> None:
    _install(helm)
    plane.wait_for(lambda: _established(plane))

    def may(who: str, verb: str, what: str, *where: str, groups: tuple[str, ...] = ()) -> bool:
        people = ("--as", who, *(f"--as-group={group}" for group in groups))
        done = plane.kubectl("auth", "can-i", verb, what, *where, *people, check=False)
        return done.stdout.strip() == "yes"

    assert may(ACCOUNT, "list", "pods", "-A")
    assert may(ACCOUNT, "watch", "trafficsplits.split.smi-spec.io", "-A")
    assert may(ACCOUNT, "patch", "trafficsplits.split.smi-spec.io", "--subresource=status", "-A")
    assert may(ACCOUNT, "get", f"secrets/{RELEASE}-ca", "-n", "mesh")
    assert may(ACCOUNT, "update", f"leases.coordination.k8s.io/{RELEASE}", "-n", "mesh")
    assert may(ACCOUNT, "patch", "validatingwebhookconfigurations/mesh-smi-adapter")
    for verb, what, *where in (
        ("get", "secrets", "-n", "mesh"),
        ("get", "secrets/other", "-n", "mesh"),
        ("get", f"secrets/{RELEASE}-ca", "-n", "default"),
        ("patch", "trafficsplits.split.smi-spec.io", "-A"),
        ("create", "pods", "--subresource=exec", "-n", "mesh"),
        ("patch", "validatingwebhookconfigurations/other"),
        ("patch", "customresourcedefinitions"),
        ("update", "leases.coordination.k8s.io/other", "-n", "mesh"),
    ):
        assert not may(ACCOUNT, verb, what, *where), (verb, what, where)

    for role in ("view", "edit", "admin"):
        plane.apply(
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "RoleBinding",
                "metadata": {"name": role, "namespace": "default"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
                "subjects": [{"kind": "User", "name": role}],
            }
        )
    plane.wait_for(lambda: may("admin", "create", "traffictargets.access.smi-spec.io", "-n", "default"))
    plane.wait_for(lambda: may("view", "list", "traffictargets.access.smi-spec.io", "-n", "default"))
    for group, kind in schema.served():
        what = f"{crds.plural(kind)}.{group}"
        writers = {"admin"} if group == "access.smi-spec.io" else {"edit", "admin"}
        for who in ("view", "edit", "admin"):
            assert may(who, "list", what, "-n", "default"), (who, what)
            assert may(who, "patch", what, "-n", "default") == (who in writers), (who, what)
        assert not may("admin", "patch", what, "--subresource=status", "-n", "default")


def test_the_job_before_the_release_goes_leaves_no_conversion_webhook_behind(
    own_api_server: ControlPlane, command: Path
) -> None:
    """The Job's command runs here as a process, with the Job's ServiceAccount; there is no pod for it."""
    plane, helm = own_api_server, _helm_on(own_api_server, command)
    _install(helm, "--set", "webhooks.conversion.enabled=true")
    plane.wait_for(lambda: _established(plane))
    conversions = [item["spec"]["conversion"]["strategy"] for item in plane.get(DEFINITIONS)["items"]]
    assert set(conversions) == {"Webhook"}

    hooks = [item for item in yaml.safe_load_all(helm("get", "hooks", RELEASE)) if item]
    (job,) = (item for item in hooks if item["kind"] == "Job")
    plane.apply(*(item for item in hooks if item["kind"] not in {"Job", "Pod"}))
    spec = job["spec"]["template"]["spec"]
    token = plane.service_account_token("mesh", spec["serviceAccountName"])
    program = [sys.executable, "-c", "from smi_adapter.cli import entry; entry()", *spec["containers"][0]["args"]]
    environment = plane.environment(plane.token_kubeconfig(token))
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

    for item in plane.get(DEFINITIONS)["items"]:
        assert item["spec"]["conversion"] == {"strategy": "None"}
    _split(plane)
    for version in ("v1alpha1", "v1alpha2", "v1alpha3", "v1alpha4"):
        assert plane.get(f"/apis/split.smi-spec.io/{version}/trafficsplits")["items"]
    plane.delete_crds()


def test_a_release_can_be_planned_on_the_server(helm: Helm) -> None:
    assert "MANIFEST" in _install(helm, "--dry-run=server")
