"""Webhooks on a real API server: refusals and warnings that kubectl shows, and certificates that nobody notices."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import yaml

from smi_adapter import crds
from smi_adapter.cluster.client import Client
from smi_adapter.controller import Controller, cluster_source
from smi_adapter.settings import Settings
from smi_adapter.smi import wire
from smi_adapter.webhooks import certificates, configuration
from smi_adapter.webhooks.certificates import Lives
from smi_adapter.webhooks.keeper import Places, SecretKeeper
from tests.apiserver.webhook_world import (
    BAD,
    CONFIGURATION,
    MERGE,
    SECRET,
    VALIDATING,
    Replica,
    World,
    group,
    split,
    trusted,
    until,
)
from tests.cluster.control_plane import ControlPlane

QUICK = Lives(settling=0.0)


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Start an API server of our own: webhooks and conversion are for the whole cluster."""
    with ControlPlane(tmp_path_factory.mktemp("webhooks")) as started:
        started.apply(*crds.definitions())
        yield started


@pytest.fixture
async def client(plane: ControlPlane) -> AsyncIterator[Client]:
    connected = await Client.connect(str(plane.kubeconfig))
    yield connected
    await connected.close()


@pytest.fixture
async def world(plane: ControlPlane, client: Client) -> AsyncIterator[World]:
    made = World(plane, client)
    yield made
    await made.close()


@pytest.fixture
async def replica(world: World) -> Replica:
    """One replica that is configured, has a certificate and is trusted."""
    made = await world.replica()
    world.configure(made.port)
    await made.keeper.look()
    await trusted(made)
    return made


# -------------------------------------------------------------------------------------------------- admission
async def test_kubectl_shows_why_an_object_is_refused(replica: Replica, world: World) -> None:
    done = await replica.apply(group(BAD, namespace=world.namespace))
    assert done.returncode == 1
    assert "spec.matches[0].headers.x-beta" in done.stderr
    assert "SMI0201" in done.stderr
    assert "RE2" in done.stderr
    assert replica.ends["validate", "refused"] >= 2


async def test_kubectl_shows_the_findings_of_analyze_as_warnings(replica: Replica, world: World) -> None:
    web = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": world.namespace},
        "spec": {"ports": [{"port": 80}]},
    }
    world.compiler.apply({wire.ref_of(web): web})
    done = await replica.apply(split(world.namespace, "gone"))
    assert done.returncode == 0
    assert "Warning: SMI0102 BackendNotFound: spec.backends: There is no Service" in done.stderr
    assert "Create the Service" in done.stderr
    for item in world.judge(split(world.namespace, "gone")):
        assert f"Warning: {item.code} {item.name}" in done.stderr


@pytest.mark.parametrize("version", ["v1alpha3", "v1alpha4"])
async def test_every_version_is_checked(replica: Replica, version: str) -> None:
    done = await replica.apply(group(BAD, version=version))
    assert done.returncode == 1


async def test_server_side_apply_and_patches_are_checked(replica: Replica, world: World) -> None:
    assert (await replica.apply(group("yes", "patched", world.namespace), "--server-side")).returncode == 0
    patch = json.dumps({"spec": {"matches": [{"name": "m", "headers": {"x-beta": BAD}}]}})
    done = await replica.kubectl("patch", "htr", "patched", "-n", world.namespace, "--type=merge", "-p", patch)
    assert done.returncode == 1
    assert "SMI0201" in done.stderr


# ----------------------------------------------------------------------------------------------------- faults
async def test_f22_a_dead_webhook_stops_no_write(replica: Replica, world: World) -> None:
    await replica.server.stop(0.0)
    done = await replica.apply(group(BAD, "while-dead", world.namespace))
    assert done.returncode == 0
    await asyncio.to_thread(world.plane.kubectl, "delete", "namespace", world.namespace, "--wait=false")


async def test_f22_a_webhook_that_hangs_stops_no_write(world: World, replica: Replica) -> None:
    taken: list[asyncio.StreamWriter] = []
    hanging = await asyncio.start_server(lambda _, writer: taken.append(writer), "127.0.0.1", 0)
    world.configure(hanging.sockets[0].getsockname()[1], timeoutSeconds=2)
    await until(replica, lambda done: done.returncode == 0)
    assert taken
    for one in taken:
        one.close()
    hanging.close()


async def test_an_untrusted_webhook_stops_no_write(world: World) -> None:
    one = await world.replica()
    world.configure(one.port)
    assert (await one.apply(group(BAD, "untrusted", world.namespace))).returncode == 0


# ------------------------------------------------------------------------------------------------ certificates
async def test_a_renewal_of_everything_is_not_noticed_by_running_requests(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `failurePolicy: Fail` every handshake that fails is a refused write; two authorities come and go."""
    monkeypatch.setattr(certificates, "due", lambda _: 0.0)
    one = await world.replica(lives=QUICK)
    world.configure(one.port, failurePolicy="Fail")
    await one.keeper.look()
    await until(one, lambda done: "SMI0201" in done.stderr)
    stop = asyncio.Event()
    path = f"/apis/specs.smi-spec.io/v1alpha4/namespaces/{world.namespace}/httproutegroups"

    async def write() -> int:
        number = 0
        while not stop.is_set():
            number += 1
            raw = group("yes", f"n{number}", world.namespace)
            await world.client.request("POST", path, query={"dryRun": "All"}, body=raw)
        return number

    writers = [asyncio.create_task(write()) for _ in range(2)]
    authorities: set[bytes] = set()
    certificate: set[bytes] = set()
    while len(authorities) < 3:
        await one.keeper.look()
        held = one.keeper.held
        assert held is not None
        assert one.bundle() == held.bundle
        authorities.add(held.authority.bundle)
        certificate.add(held.serving.certificate)
        await asyncio.sleep(0.4)  # the API server reads the configuration from its watch
        assert not any(writer.done() for writer in writers), [writer.exception() for writer in writers]
    stop.set()
    assert sum(await asyncio.gather(*writers)) > 20
    assert len(certificate) >= 3


async def test_a_restarted_controller_goes_on_with_what_is_stored(replica: Replica, world: World) -> None:
    before = replica.keeper.held
    secret = world.plane.get(f"/api/v1/namespaces/{world.namespace}/secrets/{SECRET}")
    await replica.server.stop(0.0)
    again = await world.replica()
    await again.keeper.look()
    assert before is not None
    assert again.keeper.held is not None
    assert again.keeper.held.serving.certificate == before.serving.certificate
    assert world.plane.get(f"/api/v1/namespaces/{world.namespace}/secrets/{SECRET}") == secret


async def test_only_the_leader_writes_and_the_others_show_the_same(world: World) -> None:
    follower = await world.replica(leads=False)
    world.configure(follower.port)
    await follower.keeper.look()
    assert follower.keeper.held is None
    leader = await world.replica()
    await leader.keeper.look()
    await follower.keeper.look()
    assert leader.keeper.held is not None
    assert follower.keeper.held is not None
    assert follower.keeper.held.serving.certificate == leader.keeper.held.serving.certificate
    await trusted(follower)


async def test_f37_a_deleted_secret_is_written_again_from_memory(replica: Replica, world: World) -> None:
    held = replica.keeper.held
    assert held is not None
    await replica.kubectl("delete", "secret", SECRET, "-n", world.namespace)
    await replica.keeper.look()
    assert replica.keeper.held is held
    assert replica.keeper.problems == ()
    stored = world.plane.get(f"/api/v1/namespaces/{world.namespace}/secrets/{SECRET}")["data"]
    assert {name: base64.b64decode(value) for name, value in stored.items()} == certificates.to_data(held)
    await trusted(replica)


async def test_f37_a_secret_that_may_not_be_created_is_told_and_memory_goes_on(replica: Replica, world: World) -> None:
    """The chart lets the controller patch its one Secret, not create any: that cannot be limited by name."""
    name, namespace = "controller", world.namespace
    world.plane.kubectl(
        "create", "role", name, "--verb=get,patch", "--resource=secrets", f"--resource-name={SECRET}", "-n", namespace
    )
    world.plane.kubectl("create", "rolebinding", name, f"--role={name}", f"--user={name}", "-n", namespace)
    limited = await Client.connect(str(world.plane.user(name)))
    limited.namespace = namespace
    one = await world.replica()
    keeper = SecretKeeper(limited, Places(SECRET, "smi-adapter-webhooks", ("localhost",)), one.server, lambda: 10.0)
    await keeper.look()
    held = keeper.held
    assert held is not None
    await one.kubectl("delete", "secret", SECRET, "-n", namespace)
    await keeper.look()
    await limited.close()
    assert keeper.held is held
    [problem] = keeper.problems
    assert (problem.code, problem.subject.name) == ("SMI0906", SECRET)
    assert "may not be written (403 Forbidden); what is in memory is used" in problem.message


async def test_f37_garbage_in_our_secret_is_replaced_from_memory(replica: Replica, world: World) -> None:
    held = replica.keeper.held
    assert held is not None
    path = f"/api/v1/namespaces/{world.namespace}/secrets/{SECRET}"
    garbage = base64.b64encode(b"garbage").decode()
    world.plane.request("PATCH", path, {"data": {"authority.pem": garbage, "tls.key": garbage}}, MERGE)
    follower = await world.replica(leads=False)
    await follower.keeper.look()
    assert [item.code for item in follower.keeper.problems] == ["SMI0906"]
    await replica.keeper.look()
    stored = world.plane.get(path)["data"]
    assert {name: base64.b64decode(value) for name, value in stored.items()} == certificates.to_data(held)


async def test_f37_a_secret_of_somebody_else_is_left_alone(world: World) -> None:
    body = {"metadata": {"name": SECRET}, "stringData": {"tls.crt": "theirs", "tls.key": "theirs"}}
    path = f"/api/v1/namespaces/{world.namespace}/secrets"
    world.plane.request("POST", path, body)
    one = await world.replica()
    world.configure(one.port)
    await one.keeper.look()
    assert [item.code for item in one.keeper.problems] == ["SMI0906"]
    assert base64.b64decode(world.plane.get(f"{path}/{SECRET}")["data"]["tls.crt"]) == b"theirs"


async def test_the_empty_secret_of_the_chart_is_filled(world: World) -> None:
    path = f"/api/v1/namespaces/{world.namespace}/secrets"
    world.plane.request("POST", path, {"metadata": {"name": SECRET, "labels": {"helm": "yes"}}})
    one = await world.replica()
    world.configure(one.port)
    await one.keeper.look()
    found = world.plane.get(f"{path}/{SECRET}")
    assert found["metadata"]["labels"] == {"helm": "yes"}
    assert found["data"]
    await trusted(one)


async def test_a_bundle_that_somebody_takes_away_comes_back(replica: Replica, world: World) -> None:
    world.configure(replica.port)
    path, patch = VALIDATING, [{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]
    world.plane.request("PATCH", path, patch, "application/json-patch+json")
    assert replica.bundle() == b""
    await replica.keeper.look()
    assert replica.keeper.held is not None
    assert replica.bundle() == replica.keeper.held.bundle


async def test_a_webhook_of_somebody_else_gets_no_bundle_of_ours(world: World) -> None:
    one = await world.replica()
    made = configuration.validating(CONFIGURATION, {"url": f"https://localhost:{one.port}/validate"})
    other = {"service": {"namespace": "elsewhere", "name": "smi-adapter-webhooks"}}
    made["webhooks"].append({**made["webhooks"][0], "name": "other.example.org", "clientConfig": other})
    world.plane.apply(made)
    await one.keeper.look()
    webhooks = {each["name"]: each["clientConfig"] for each in world.plane.get(VALIDATING)["webhooks"]}
    assert "caBundle" in webhooks[configuration.WEBHOOK]
    assert "caBundle" not in webhooks["other.example.org"]


async def test_a_missing_configuration_is_told(world: World) -> None:
    one = await world.replica()
    await one.keeper.look()
    assert [item.code for item in one.keeper.problems] == ["SMI0907"]


# ---------------------------------------------------------------------------------------------- the controller
async def test_the_controller_serves_its_webhook_and_goes_on_with_its_certificate_after_a_restart(
    plane: ControlPlane, client: Client, world: World
) -> None:
    chosen = Settings(
        xds_address="127.0.0.1:0",
        health_address="127.0.0.1:0",
        webhook_address="127.0.0.1:0",
        webhook_secret=SECRET,
        webhook_configuration=CONFIGURATION,
        webhook_names=("localhost",),
    )
    shown = set()
    for place in range(2):
        controller = Controller(chosen, client, cluster_source(chosen, client))
        async with controller.running() as ports:
            world.configure(ports.webhooks)
            await _shows(plane, group(BAD, f"probe-{place}", world.namespace), "SMI0201")
            raw = split(world.namespace)
            await _shows(
                plane, raw, f"Warning: SMI0101 RootNotFound: spec.service: There is no Service {world.namespace}/web"
            )
            secret = await asyncio.to_thread(plane.get, f"/api/v1/namespaces/{world.namespace}/secrets/{SECRET}")
            shown.add(secret["data"]["tls.crt"])
            labels = {"webhook": "validate", "result": "allowed"}
            counted = controller.metrics.registry.get_sample_value("smi_adapter_webhook_requests_total", labels)
            assert counted is not None
            assert counted >= 1
    assert len(shown) == 1


def _apply(plane: ControlPlane, raw: dict[str, Any], *arguments: str) -> Any:
    return plane.kubectl("apply", "-f", "-", *arguments, stdin=yaml.safe_dump(raw), check=False)


async def _shows(plane: ControlPlane, raw: dict[str, Any], words: str) -> None:
    """Wait until kubectl shows it: the controller has to lead, to have a certificate and to be trusted."""
    deadline = time.monotonic() + 60
    while words not in (done := await asyncio.to_thread(_apply, plane, raw, "--dry-run=server")).stderr:
        assert time.monotonic() < deadline, done
        await asyncio.sleep(0.2)
