"""The controller on a real API server, with real Envoys that show ServiceAccount tokens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from smi_adapter.backends.envoy.accesslog import LOG_FROM
from smi_adapter.cli import bootstrap, main
from smi_adapter.cluster.authority import AuthoritySecret, AuthoritySecretError
from smi_adapter.cluster.client import ApiError, Client, Unreachable
from tests.cluster.control_plane import ControlPlane, RequestError
from tests.cluster.mesh import (
    SERVER_NAME,
    Mesh,
    ProjectedToken,
    controller,
    install_crds,
    ready,
    servers,
    settings,
    until,
)
from tests.live.apps import http_app
from tests.live.envoys import EnvoyProcess

pytestmark = pytest.mark.live


@pytest.fixture
def mesh(api_server: ControlPlane, namespace: str, tmp_path: Path) -> Mesh:
    """Return a namespace with a proxied client and two plain versions of one Service."""
    install_crds(api_server)
    made = Mesh(api_server, namespace, tmp_path)
    made.account("web")
    made.pod("web-1", "web", {"app": "web"})
    for version in ("v1", "v2"):
        made.pod(f"shop-{version}", "default", {"app": "shop", "version": version}, meshed=False)
        made.service(f"shop-{version}", f"shop-{version}", selector={"app": "shop", "version": version})
    made.service("shop", "shop-v1", "shop-v2", selector={"app": "shop"})
    return made


@pytest.fixture
async def apps(mesh: Mesh) -> AsyncIterator[None]:
    """Serve the two versions."""
    async with http_app("v1", mesh.addresses["shop-v1"], 8080), http_app("v2", mesh.addresses["shop-v2"], 8080):
        yield


async def test_a_patched_weight_shows_in_the_traffic_of_a_proxy_with_a_token(mesh: Mesh, apps: None) -> None:
    chosen = settings(mesh.plane)
    mesh.split("shop", {"shop-v1": 100, "shop-v2": 0})
    async with controller(mesh.plane, chosen) as (running, _):
        await ready(running)
        where = servers(running.bundle, chosen.xds_address.rpartition(":")[0])
        with mesh.envoy("web-1", mesh.token("web", "web-1"), where, "shop") as proxy:
            await proxy.envoy.ready()
            await proxy.until("shop", "v1")
            await mesh.patch_split("shop", {"shop-v1": 0, "shop-v2": 1})
            await proxy.until("shop", "v2")
            wait = ("wait", "--for=condition=Programmed", "--timeout=20s", "trafficsplit/shop", "-n", mesh.namespace)
            await asyncio.to_thread(mesh.plane.kubectl, *wait)
            [status] = running.server.proxies()
            assert status.workload == (mesh.namespace, "web-1")
            assert status.identity == f"spiffe://cluster.local/ns/{mesh.namespace}/sa/web"


@pytest.mark.parametrize(
    "name",
    ["follow", "rotate", "say", "report", "lead", "tell-leader", "compare", "keep-authority", "keep-signing-keys",
     "sweep-proxies"],
)  # fmt: skip
async def test_f42_a_core_task_that_ends_ends_the_process(mesh: Mesh, name: str) -> None:
    with pytest.raises(ExceptionGroup) as ended:  # noqa: PT012 - the error comes out of the block
        async with controller(mesh.plane, settings(mesh.plane)) as (running, _):
            await ready(running)
            [task] = [task for task in asyncio.all_tasks() if task.get_name() == name]
            task.cancel()
            await asyncio.sleep(30)
    assert [str(error) for error in ended.value.exceptions] == [f"the task {name} has ended"]


async def test_f42_a_sweeper_of_proxies_that_ends_ends_the_process(mesh: Mesh) -> None:
    with pytest.raises(ExceptionGroup) as ended:  # noqa: PT012 - the error comes out of the block
        async with controller(mesh.plane, settings(mesh.plane)) as (running, _):
            await ready(running)
            [task] = [task for task in asyncio.all_tasks() if task.get_name() == "xds-sweeper"]
            task.cancel()
            await asyncio.sleep(30)
    assert [str(error) for error in ended.value.exceptions] == ["the task sweep-proxies has ended"]


async def test_f42_an_error_of_the_source_ends_the_process(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ExceptionGroup) as ended:  # noqa: PT012 - the error comes out of the block
        async with controller(mesh.plane, settings(mesh.plane)) as (running, _):
            await ready(running)

            async def broken(_batch: object) -> None:
                raise ZeroDivisionError

            monkeypatch.setattr(running, "_take", broken)
            mesh.account("one-more")
            await asyncio.sleep(30)
    assert ended.group_contains(ZeroDivisionError)


async def test_f37_a_deleted_authority_is_written_again_and_garbage_stops_nobody(mesh: Mesh) -> None:
    path = "/api/v1/namespaces/default/secrets/smi-adapter-ca"
    client = await Client.connect(str(mesh.plane.kubeconfig))
    try:
        secret = AuthoritySecret(client, "smi-adapter-ca", "cluster.local")
        made = await secret.load()
        assert (await AuthoritySecret(client, "smi-adapter-ca", "cluster.local").load()).bundle == made.bundle
        assert await secret.check(made) == ""
        mesh.plane.request("DELETE", path)
        assert await secret.check(made) == ""
        assert (await secret.load()).bundle == made.bundle
        mesh.plane.request("PATCH", path, {"data": {"tls.key": "AAAA"}}, "application/merge-patch+json")
        with pytest.raises(AuthoritySecretError, match="does not hold a key"):
            await AuthoritySecret(client, "smi-adapter-ca", "cluster.local").load()
        assert await secret.check(made) == ""
        assert (await secret.load()).bundle == made.bundle
        mesh.plane.request("PATCH", path, {"data": None}, "application/merge-patch+json")
        assert await secret.check(made) == "", "a chart that is applied again empties it"
        assert (await secret.load()).bundle == made.bundle
    finally:
        await client.close()


async def test_replicas_that_start_together_share_one_authority(mesh: Mesh) -> None:
    client = await Client.connect(str(mesh.plane.kubeconfig))
    try:
        secrets = [AuthoritySecret(client, "shared-ca", "cluster.local") for _ in range(5)]
        bundles = {made.bundle for made in await asyncio.gather(*(secret.load() for secret in secrets))}
        assert len(bundles) == 1
    finally:
        await client.close()


async def test_in_a_pod_the_client_needs_three_files_and_two_variables(
    api_server: ControlPlane, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(api_server.service_account_token(namespace, "default"))
    (tmp_path / "ca.crt").write_bytes(api_server.ca.read_bytes())
    (tmp_path / "namespace").write_text(namespace)
    monkeypatch.setattr("smi_adapter.cluster.client.SERVICE_ACCOUNT", tmp_path)
    with pytest.raises(Unreachable, match="KUBERNETES_SERVICE_HOST"):
        await Client.connect()
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", api_server.host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    client = await Client.connect()
    try:
        assert (client.namespace, client.account) == (namespace, "default")
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        answer = await client.request("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", body=review)
        assert f"system:serviceaccount:{namespace}:default".encode() in answer
        with pytest.raises(ApiError) as refused:
            await client.get("/api/v1/pods", limit="1", labelSelector="a=b,c in (d)")
        assert refused.value.status == 403
    finally:
        await client.close()


def _who_reads_the_bundle(plane: ControlPlane) -> Path:
    """Return the login of somebody who may read one ConfigMap, and neither the CA's Secret nor anything else."""
    what = ("--verb=get", "--resource=configmaps", "--resource-name=smi-adapter-ca")
    plane.kubectl("create", "role", "sidecars", "-n", "default", *what)
    plane.kubectl("create", "rolebinding", "sidecars", "-n", "default", "--role=sidecars", "--user=sidecars")
    return plane.user("sidecars")


def _published(plane: ControlPlane) -> str:
    try:
        return str(plane.get("/api/v1/namespaces/default/configmaps/smi-adapter-ca")["data"]["ca.crt"])
    except RequestError as error:
        return str(error.status)


async def test_bootstrap_says_where_it_has_looked(mesh: Mesh) -> None:
    flags = ["-n", mesh.namespace, "--release", "nobody", "--kubeconfig", str(mesh.plane.kubeconfig)]
    done = await asyncio.to_thread(CliRunner().invoke, main, ["bootstrap", *flags])
    assert done.exit_code == 1
    assert "ConfigMap smi-system/nobody-ca holds no root certificates" in done.output


async def test_a_sidecar_starts_from_the_printed_config_map(mesh: Mesh, apps: None, tmp_path: Path) -> None:
    chosen = settings(mesh.plane)
    async with controller(mesh.plane, chosen) as (running, _):
        await ready(running)
        login = _who_reads_the_bundle(mesh.plane)
        flags = ["-n", mesh.namespace, "--controller-namespace", "default", "--kubeconfig", str(login)]
        flags.append("--log-requests")
        await until(lambda: _published(mesh.plane) == running.bundle.decode())
        done = await asyncio.to_thread(CliRunner().invoke, main, ["bootstrap", *flags])
        assert done.exit_code == 0, done.output
        printed = yaml.safe_load(done.output)
        assert "PRIVATE KEY" not in done.output
        await asyncio.to_thread(mesh.plane.kubectl, "apply", "-f", "-", stdin=done.output)
        # As in a pod, but for the places: no mounts here, no DNS, and the pod's address has to be bound.
        token = ProjectedToken(tmp_path / "token")
        token.write(mesh.token("web", "web-1"))
        for name, text in printed["data"].items():
            moved = text.replace("/etc/smi-adapter", str(tmp_path)).replace(bootstrap.TOKEN, str(token.folder))
            (tmp_path / name).write_text(moved.replace(bootstrap.ADMIN, str(tmp_path / "admin.sock")))
        config = json.loads((tmp_path / "envoy.json").read_text())
        assert config["layered_runtime"]["layers"][0]["static_layer"][LOG_FROM] == 0
        xds = config["static_resources"]["clusters"][0]
        address = xds["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
        assert address["address"] == SERVER_NAME
        address["address"] = chosen.xds_address.rpartition(":")[0]
        config["cluster_manager"] = {
            "upstream_bind_config": {"source_address": {"address": mesh.addresses["web-1"], "port_value": 0}}
        }
        config["static_resources"]["listeners"] = []
        who = ("--service-node", f"{mesh.namespace}/web-1", "--service-cluster", mesh.namespace)
        with EnvoyProcess.start(config, tmp_path / "envoy", flags=who) as envoy:
            await envoy.ready()
            await until(lambda: [proxy.in_sync for proxy in running.server.proxies()] == [True])
