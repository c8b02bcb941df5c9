"""The rights that the chart grants are those that the controller uses: not one less, not one more.

The controller of this checkout runs with the ServiceAccount of an installed release and with the settings of its
Deployment, does everything that it ever does, and then the API server's audit log is held against the roles.
"""

import base64
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from smi_adapter import crds
from smi_adapter.backends.envoy.bootstrap import ControlPlane as XdsServers
from smi_adapter.smi import schema
from tests import foreign_crds
from tests.chart.rendering import CHART, helm
from tests.cluster.control_plane import MERGE, ControlPlane, RequestError
from tests.cluster.mesh import Mesh, Replica, until

pytestmark = pytest.mark.live

RELEASE = "smi-adapter"
HOME = "mesh"
WEBHOOKS = 9443
ACCOUNT = f"system:serviceaccount:{HOME}:{RELEASE}"

# Rights that this run has no occasion to use, and what they are for. An API server that streams its lists is asked to
# `watch` only; to `list` is for one that does not.
FOR_LATER = {
    ("events.k8s.io", "events", "patch"): "the second Event of a series, some minutes later",
    ("events.k8s.io", "events", "get"): "the second Event of a series, some minutes later",
    ("", "pods", "get"): "a proxy whose pod the cache does not know yet",
    (
        "gateway.networking.k8s.io",
        "httproutes",
        "create",
    ): "needed, but an object that apply creates is logged as `patch`",
    ("gateway.networking.k8s.io", "httproutes", "get"): "an object of that name that somebody else has made",
    ("gateway.networking.k8s.io", "tcproutes", "get"): "an object of that name that somebody else has made",
    ("gateway.networking.k8s.io", "tcproutes", "create"): "a split of a TCP port; the mesh of this test is HTTP",
    ("gateway.networking.k8s.io", "tcproutes", "delete"): "a split of a TCP port; the mesh of this test is HTTP",
    ("gateway.networking.k8s.io", "tcproutes", "patch"): "a split of a TCP port; the mesh of this test is HTTP",
}


class Right(NamedTuple):
    """One thing that may be done, with a name only where the role has names."""

    group: str
    resource: str
    verb: str
    namespace: str = ""
    name: str = ""


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    """Start an API server for this test alone: its audit log is all about this run."""
    folder = tmp_path / "plane"
    folder.mkdir()
    with ControlPlane(folder) as started:
        yield started


def _install(plane: ControlPlane, *values: str) -> None:
    arguments = ("--create-namespace", "--namespace", HOME, "--no-hooks", "--kubeconfig", str(plane.kubeconfig))
    done = helm("install", RELEASE, str(CHART), *arguments, *values)
    assert done.returncode == 0, done.stderr
    names = [f"crd/{crds.name_of(crd)}" for crd in crds.definitions()]
    plane.kubectl("wait", "--for=condition=Established", "--timeout=60s", *names)


def _login(plane: ControlPlane) -> Path:
    """Return a kubeconfig that is what the pod has: the account's token and its namespace."""
    path = plane.token_kubeconfig(plane.service_account_token(HOME, RELEASE))
    config = yaml.safe_load(path.read_text())
    config["contexts"][0]["context"]["namespace"] = HOME
    path.write_text(yaml.safe_dump(config))
    return path


class Deployed(Replica):
    """The controller with the environment that the release's Deployment gives it."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        super().__init__(plane, folder, kubeconfig=str(_login(plane)))
        deployment = plane.get(f"/apis/apps/v1/namespaces/{HOME}/deployments/{RELEASE}")
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        given = {entry["name"]: entry["value"] for entry in container["env"]}
        given["SMI_ADAPTER_WEBHOOK_ADDRESS"] = f"{self.host}:{WEBHOOKS}"
        self.process._environment = {**os.environ, **given}


def _granted(plane: ControlPlane) -> set[Right]:
    """Return what the roles of the account allow, one right each."""
    base = "/apis/rbac.authorization.k8s.io/v1"
    rights = set()
    for kind in ("clusterrole", "role"):
        for binding in plane.get(f"{base}/{kind}bindings")["items"]:
            if {"kind": "ServiceAccount", "name": RELEASE, "namespace": HOME} not in binding.get("subjects", []):
                continue
            namespace = binding["metadata"].get("namespace", "")
            where = f"namespaces/{namespace}/" if namespace else ""
            for rule in plane.get(f"{base}/{where}{kind}s/{binding['roleRef']['name']}")["rules"]:
                rights |= {
                    Right(group, resource, verb, namespace, name)
                    for group in rule["apiGroups"]
                    for resource in rule["resources"]
                    for verb in rule["verbs"]
                    for name in rule.get("resourceNames", [""])
                }
    return rights


def _allows(right: Right, event: Mapping[str, Any]) -> bool:
    reference = event["objectRef"]
    resource = "/".join(filter(None, [reference["resource"], reference.get("subresource", "")]))
    return (
        (right.group, right.resource, right.verb) == (reference.get("apiGroup", ""), resource, event["verb"])
        and right.namespace in {"", reference.get("namespace", "")}
        and right.name in {"", reference.get("name", "")}
    )


def _work(plane: ControlPlane, namespace: str, folder: Path) -> Mesh:
    """Fill a namespace with one object of every SMI kind, each with something to report, and with a proxy's pod."""
    made = Mesh(plane, namespace, folder)
    made.account("web")
    made.pod("web-1", "web", {"app": "web"})
    made.pod("shop-1", labels={"app": "shop"}, meshed=False)
    made.service("shop", "shop-1", selector={"app": "shop"})
    made.split("shop", {"shop": 1, "not-there": 1})
    routes: dict[str, Any] = {
        "HTTPRouteGroup": {"matches": [{"name": "all", "pathRegex": ".*"}]},
        "TCPRoute": {},
        "UDPRoute": {},
    }
    for kind, spec in routes.items():
        api = "specs.smi-spec.io/v1alpha4"
        made.apply({"apiVersion": api, "kind": kind, "metadata": {"name": "x"}, "spec": spec})
    binding = {"schemes": {"serviceAccount": "nobody"}}
    target = {
        "destination": {"kind": "ServiceAccount", "name": "nobody"},
        "sources": [{"kind": "ServiceAccount", "name": "web"}],
        "rules": [{"kind": "HTTPRouteGroup", "name": "not-there"}],
    }
    for kind, spec in (("IdentityBinding", binding), ("TrafficTarget", target)):
        api = "access.smi-spec.io/v1alpha4"
        made.apply({"apiVersion": api, "kind": kind, "metadata": {"name": "x"}, "spec": spec})
    return made


def _all_have_status(plane: ControlPlane, namespace: str) -> bool:
    paths = [
        f"/apis/{group}/v1alpha4/namespaces/{namespace}/{crds.plural(kind)}" for group, kind in sorted(schema.served())
    ]
    try:
        return all(item.get("status", {}).get("conditions") for path in paths for item in plane.get(path)["items"])
    except RequestError as error:
        if error.status not in {429, 500}:  # a CRD was patched, or its conversion webhook is not trusted yet
            raise
        return False


def _webhooks_lead_to(plane: ControlPlane, address: str) -> None:
    """Put the controller behind the Service of the webhooks, as the endpoint of a pod would be."""
    endpoints = {
        "metadata": {"name": "webhooks", "labels": {"kubernetes.io/service-name": f"{RELEASE}-webhooks"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
        "ports": [{"name": "https-webhooks", "port": WEBHOOKS, "protocol": "TCP"}],
    }
    plane.request("POST", f"/apis/discovery.k8s.io/v1/namespaces/{HOME}/endpointslices", endpoints)


def _bundles(plane: ControlPlane, *, conversion: bool) -> bool:
    """Tell whether the API server knows the authority of the webhooks everywhere, and the path of whole answers."""
    kind = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
    clients = [plane.get(f"{kind}/{HOME}-{RELEASE}")["webhooks"][0]["clientConfig"]]
    if not clients[0]["service"].get("path", "").startswith("/validate/"):
        return False
    if conversion:
        found = plane.get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions")["items"]
        clients += [item["spec"]["conversion"]["webhook"]["clientConfig"] for item in found]
    return all(client.get("caBundle") for client in clients)


@pytest.mark.parametrize(
    ("values", "conversion"),
    [((), False), (("watchNamespaces={shop}",), False), (("webhooks.conversion.enabled=true",), True)],
    ids=["everywhere", "one-namespace", "conversion"],
)
async def test_every_right_is_used_and_none_is_missing(
    plane: ControlPlane, tmp_path: Path, values: tuple[str, ...], conversion: bool
) -> None:
    plane.new_namespace("shop")
    _install(plane, *(argument for value in values for argument in ("--set", value)))
    mesh = _work(plane, "shop", tmp_path)
    events = f"/apis/events.k8s.io/v1/namespaces/{mesh.namespace}/events"
    with Deployed(plane, tmp_path) as running:
        _webhooks_lead_to(plane, running.host)
        await running.ready(120)
        await until(lambda: _bundles(plane, conversion=conversion), 90)
        secret = plane.get(f"/api/v1/namespaces/{HOME}/secrets/{RELEASE}-ca")
        bundle = base64.b64decode(secret["data"]["tls.crt"]).decode()
        name = f"{RELEASE}-xds.{HOME}.svc"
        with mesh.envoy("web-1", mesh.token("web", "web-1"), XdsServers(running.host, 18000, name, bundle)) as proxy:
            await proxy.envoy.ready()
            await until(lambda: _all_have_status(plane, mesh.namespace), 90)
            await until(lambda: plane.get(events)["items"], 90)
            await _is_asked(plane, conversion=conversion)
            # A certificate authority that somebody threw away is written again.
            plane.request("PATCH", f"/api/v1/namespaces/{HOME}/secrets/{RELEASE}-ca", {"data": None}, MERGE)
        running.process.stop()  # a watch is in the audit log when it has ended

    _compare(plane, running)


def _compare(plane: ControlPlane, running: Deployed, *unused: tuple[str, str, str]) -> None:
    """Hold the audit log against the roles."""
    log = plane.audit_events(ACCOUNT)
    refused = {
        (event["verb"], event["requestURI"].partition("?")[0])
        for event in log
        if event["responseStatus"]["code"] in {401, 403}
    }
    assert not refused, running.process.tail()
    used = [event for event in log if "objectRef" in event and event["responseStatus"]["code"] < 500]
    idle = {right for right in _granted(plane) if not any(_allows(right, event) for event in used)}
    idle = {right for right in idle if right.verb != "list" and right[:3] not in {*FOR_LATER, *unused}}
    assert not idle, "\n".join(str(tuple(right)) for right in sorted(idle))


async def test_a_backend_that_writes_objects_has_the_rights_for_its_own(plane: ControlPlane, tmp_path: Path) -> None:
    plane.new_namespace("shop")
    plane.apply(*foreign_crds.gateway_api())
    _install(plane, "--set", "settings.backend=gateway_api")
    mesh = _work(plane, "shop", tmp_path)
    routes = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes"
    with Deployed(plane, tmp_path) as running:
        _webhooks_lead_to(plane, running.host)
        await running.ready(120)
        await until(lambda: _bundles(plane, conversion=False), 90)
        await until(lambda: _all_have_status(plane, mesh.namespace), 90)
        await until(lambda: plane.get(routes)["items"], 90)
        plane.kubectl("delete", "ts", "shop", "-n", "shop")
        await until(lambda: not plane.get(routes)["items"], 90)
        running.process.stop()
    no_proxies = ("authentication.k8s.io", "tokenreviews", "create")  # the door is open, but nobody has a key
    _compare(plane, running, no_proxies)


async def _is_asked(plane: ControlPlane, *, conversion: bool) -> None:
    """See a webhook's own words in a refusal, and an object in another version's form."""
    group = {
        "apiVersion": "specs.smi-spec.io/v1alpha4",
        "kind": "HTTPRouteGroup",
        "metadata": {"name": "bad", "namespace": "shop"},
        "spec": {"matches": [{"name": "x", "headers": {"host": "x"}}]},
    }

    def refusal() -> bool:
        done = plane.kubectl("apply", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(group), check=False)
        return "SMI0203" in done.stderr

    await until(refusal, 60)
    older = plane.get("/apis/specs.smi-spec.io/v1alpha2/namespaces/shop/httproutegroups/x")
    assert ("matches" in older) == conversion
