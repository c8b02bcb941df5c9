"""Webhooks on a real API server: refusals and warnings that kubectl shows, and certificates that nobody notices.

The API server calls the webhooks by URL, because nothing routes Service addresses here; everything else is as in a
cluster. The webhook server is in this process, so kubectl runs on a thread.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import yaml

from smi_adapter import app, crds
from smi_adapter.backends import load
from smi_adapter.cluster.client import Client
from smi_adapter.smi import schema, wire
from smi_adapter.snapshot import Options
from smi_adapter.webhooks import certificates, configuration, convert
from smi_adapter.webhooks.certificates import Lives
from smi_adapter.webhooks.keeper import Places, SecretKeeper
from smi_adapter.webhooks.server import WebhookServer
from tests.cluster.control_plane import ControlPlane, RequestError

CONFIGURATION = "smi-adapter"
SECRET = "smi-adapter-webhooks"
VALIDATING = f"/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/{CONFIGURATION}"
MERGE = "application/merge-patch+json"
QUICK = Lives(settling=0.0)


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Start an API server of our own: webhooks and conversion are for the whole cluster."""
    with ControlPlane(tmp_path_factory.mktemp("webhooks")) as started:
        started.apply(*crds.definitions())
        yield started


@dataclass
class Replica:
    """One controller's part in this: a server, the keeper of its certificates, and whether it leads."""

    plane: ControlPlane
    client: Client
    server: WebhookServer
    port: int
    places: Places
    lives: Lives = field(default_factory=Lives)
    leads: bool = True

    def __post_init__(self) -> None:
        self.keeper = SecretKeeper(
            self.client,
            self.places,
            self.server,
            lambda: self.leads,
            lives=self.lives,
        )

    async def kubectl(self, *arguments: str, stdin: str | None = None) -> Any:
        return await asyncio.to_thread(self.plane.kubectl, *arguments, stdin=stdin, check=False)

    async def apply(self, raw: dict[str, Any], *arguments: str) -> Any:
        return await self.kubectl("apply", "-f", "-", *arguments, stdin=yaml.safe_dump(raw))

    def bundle(self) -> bytes:
        (webhook,) = self.plane.get(VALIDATING)["webhooks"]
        return base64.b64decode(webhook["clientConfig"].get("caBundle", ""))


@pytest.fixture
async def client(plane: ControlPlane) -> AsyncIterator[Client]:
    connected = await Client.connect(str(plane.kubeconfig))
    yield connected
    await connected.close()


class World:
    """Makes replicas, and takes away what they wrote."""

    def __init__(self, plane: ControlPlane, client: Client) -> None:
        self.plane, self.client = plane, client
        self.namespace = plane.new_namespace()
        client.namespace = self.namespace
        self.replicas: list[Replica] = []
        self.compiler = app.Compiler(load("envoy"), Options(), cluster=True)
        self.compiler.apply({})

    def judge(self, raw: Any) -> Any:
        found = self.compiler.would({wire.ref_of(raw): raw}).findings()
        return tuple(item for item in found if item.subject == wire.ref_of(raw))

    async def replica(self, *, converts: bool = False, lives: Lives | None = None, leads: bool = True) -> Replica:
        server = WebhookServer(self.judge, converts=converts)
        port = await server.start("127.0.0.1", 0)
        names = tuple(crds.name_of(one) for one in crds.definitions()) if converts else ()
        places = Places(SECRET, "smi-adapter-webhooks", ("localhost",), (CONFIGURATION,), names)
        made = Replica(self.plane, self.client, server, port, places, lives or Lives(), leads)
        self.replicas.append(made)
        return made

    def configure(self, port: int, **changes: Any) -> None:
        made = configuration.validating(CONFIGURATION, {"url": f"https://localhost:{port}/validate"})
        made["webhooks"][0].update(changes)
        self.plane.apply(made)

    async def close(self) -> None:
        for one in self.replicas:
            await one.server.stop(0.5)
        await asyncio.to_thread(self.plane.kubectl, "delete", "--ignore-not-found", VALIDATING_NAME, CONFIGURATION)


VALIDATING_NAME = "validatingwebhookconfiguration"


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
    await _trusted(made)
    return made


async def _trusted(replica: Replica) -> None:
    """Wait until the API server has read the configuration: from then on a bad object is refused."""
    await _until(replica, lambda done: done.returncode == 1 and "SMI0201" in done.stderr)


async def _until(replica: Replica, holds: Any) -> None:
    deadline = time.monotonic() + 20
    while not holds(done := await replica.apply(group(BAD, name="probe"), "--dry-run=server")):
        assert time.monotonic() < deadline, done
        await asyncio.sleep(0.1)


BAD = "("
"""A header's expression that RE2 does not take. The CRD cannot check headers, so only the webhook sees it."""


def group(header: str, name: str = "it", namespace: str = "", version: str = "v1alpha4") -> dict[str, Any]:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {
        "apiVersion": f"specs.smi-spec.io/{version}",
        "kind": "HTTPRouteGroup",
        "metadata": metadata,
        "spec": {"matches": [{"name": "m", "headers": {"x-beta": header}, "methods": ["GET"]}]},
    }


def split(namespace: str, backend: str = "web-v1") -> dict[str, Any]:
    return {
        "apiVersion": "split.smi-spec.io/v1alpha4",
        "kind": "TrafficSplit",
        "metadata": {"name": "it", "namespace": namespace},
        "spec": {"service": "web", "backends": [{"service": backend, "weight": 1}]},
    }


# -------------------------------------------------------------------------------------------------- admission
async def test_kubectl_shows_why_an_object_is_refused(replica: Replica, world: World) -> None:
    done = await replica.apply(group(BAD, namespace=world.namespace))
    assert done.returncode == 1
    assert "spec.matches[0].headers.x-beta" in done.stderr
    assert "SMI0201" in done.stderr
    assert "RE2" in done.stderr
    assert replica.server.answered["validate refused"] >= 2


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
    began = time.monotonic()
    done = await replica.apply(group(BAD, "while-dead", world.namespace))
    assert done.returncode == 0
    assert time.monotonic() - began < 20
    await asyncio.to_thread(world.plane.kubectl, "delete", "namespace", world.namespace, "--wait=false")


async def test_f22_a_webhook_that_hangs_stops_no_write(world: World, replica: Replica) -> None:
    taken: list[asyncio.StreamWriter] = []
    hanging = await asyncio.start_server(lambda _, writer: taken.append(writer), "127.0.0.1", 0)
    world.configure(hanging.sockets[0].getsockname()[1])
    await _until(replica, lambda done: done.returncode == 0)
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
    await _until(one, lambda done: "SMI0201" in done.stderr)
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
    await _trusted(follower)


async def test_f37_a_deleted_secret_is_written_again_from_memory(replica: Replica, world: World) -> None:
    held = replica.keeper.held
    assert held is not None
    await replica.kubectl("delete", "secret", SECRET, "-n", world.namespace)
    await replica.keeper.look()
    assert replica.keeper.held is held
    assert replica.keeper.problems == ()
    stored = world.plane.get(f"/api/v1/namespaces/{world.namespace}/secrets/{SECRET}")["data"]
    assert {name: base64.b64decode(value) for name, value in stored.items()} == certificates.to_data(held)
    await _trusted(replica)


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
    await _trusted(one)


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


# -------------------------------------------------------------------------------------------------- conversion
@pytest.fixture
async def converting(world: World) -> AsyncIterator[Replica]:
    one = await world.replica(converts=True)
    world.configure(one.port)
    stanza = configuration.conversion({"url": f"https://localhost:{one.port}/convert"})
    paths = [f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}" for name in one.places.conversions]
    for path in paths:
        world.plane.request("PATCH", path, {"spec": {"conversion": stanza}}, MERGE)
    await one.keeper.look()
    assert one.keeper.problems == ()
    yield one
    for path in paths:  # as an uninstall must: left behind, it would block reads and the deletion of namespaces
        world.plane.request("PATCH", path, {"spec": {"conversion": {"strategy": "None", "webhook": None}}}, MERGE)


async def read(replica: Replica, path: str) -> Any:
    """GET without stopping the event loop, in which the webhook answers."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return await asyncio.to_thread(replica.plane.get, path)
        except RequestError as error:
            if not ("conversion webhook" in error.body or error.status == 429) or time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.2)  # the API server has not taken the CRD's new conversion in yet


SAMPLES: tuple[dict[str, Any], ...] = (
    {
        "apiVersion": "split.smi-spec.io/v1alpha1",
        "kind": "TrafficSplit",
        "spec": {"service": "web", "backends": [{"service": "b", "weight": 2}, {"service": "a", "weight": 1}]},
    },
    {
        "apiVersion": "split.smi-spec.io/v1alpha4",
        "kind": "TrafficSplit",
        "spec": {
            "service": "web",
            "backends": [{"service": "b", "weight": 2}, {"service": "a", "weight": 1}],
            "matches": [{"apiGroup": "specs.smi-spec.io", "kind": "HTTPRouteGroup", "name": "g"}],
        },
    },
    {
        "apiVersion": "specs.smi-spec.io/v1alpha1",
        "kind": "HTTPRouteGroup",
        "matches": [{"name": "z", "pathRegex": "/z", "methods": ["GET"]}, {"name": "a", "methods": ["*"]}],
    },
    {
        "apiVersion": "specs.smi-spec.io/v1alpha4",
        "kind": "HTTPRouteGroup",
        "spec": {"matches": [{"name": "z", "headers": {"x-b": "1", "x-a": "2"}}, {"name": "a", "pathRegex": "/a"}]},
    },
    {"apiVersion": "specs.smi-spec.io/v1alpha4", "kind": "TCPRoute", "spec": {"matches": {"ports": [8080, 80]}}},
    {
        "apiVersion": "access.smi-spec.io/v1alpha1",
        "kind": "TrafficTarget",
        "destination": {"kind": "ServiceAccount", "name": "web", "namespace": "shop", "port": 8080},
        "specs": [{"kind": "HTTPRouteGroup", "name": "g", "matches": ["z", "a"]}],
        "sources": [{"kind": "ServiceAccount", "name": "b", "namespace": "shop"}],
    },
    {
        "apiVersion": "access.smi-spec.io/v1alpha4",
        "kind": "TrafficTarget",
        "spec": {
            "destination": {"kind": "ServiceAccount", "name": "web", "namespace": "shop"},
            "rules": [{"kind": "TCPRoute", "name": "t"}],
            "sources": [{"kind": "ServiceAccount", "name": "b", "namespace": "shop"}],
        },
    },
)


def body_of(raw: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in raw.items() if key not in {"apiVersion", "kind", "metadata", "status"}}


async def test_f21_every_object_is_read_in_each_version_s_own_form_and_comes_back_whole(
    converting: Replica, world: World
) -> None:
    for place, sample in enumerate(SAMPLES):
        raw = {**sample, "metadata": {"name": f"n{place}", "namespace": world.namespace}}
        group_name, written = raw["apiVersion"].split("/")
        where = f"namespaces/{world.namespace}/{crds.plural(raw['kind'])}"
        url = f"/apis/{group_name}/{{}}/{where}"
        await read(converting, url.format("v1alpha1"))
        await asyncio.to_thread(world.plane.request, "POST", url.format(written), raw)
        for version in schema.served()[group_name, raw["kind"]]:
            seen = await read(converting, f"{url.format(version)}/n{place}")
            wanted = convert.convert(raw, f"{group_name}/{version}")
            assert seen["apiVersion"] == f"{group_name}/{version}"
            assert json.dumps(body_of(seen), sort_keys=True) == json.dumps(body_of(wanted), sort_keys=True)
            if version == written:
                assert body_of(seen) == body_of(raw)
                assert not seen["metadata"].get("annotations")


async def test_a_write_through_another_version_loses_nothing(converting: Replica, world: World) -> None:
    raw = {**SAMPLES[1], "metadata": {"name": "edited", "namespace": world.namespace}}
    url = f"/apis/split.smi-spec.io/{{}}/namespaces/{world.namespace}/trafficsplits"
    await read(converting, url.format("v1alpha2"))
    await asyncio.to_thread(world.plane.request, "POST", url.format("v1alpha4"), raw)
    old = await read(converting, f"{url.format('v1alpha2')}/edited")
    assert "matches" not in old["spec"]
    old["spec"]["backends"][0]["weight"] = 9
    await asyncio.to_thread(world.plane.request, "PUT", f"{url.format('v1alpha2')}/edited", old)
    new = await read(converting, f"{url.format('v1alpha4')}/edited")
    assert new["spec"]["backends"][0]["weight"] == 9
    assert new["spec"]["matches"][0]["name"] == "g"


async def test_a_list_keeps_its_order(converting: Replica, world: World) -> None:
    url = f"/apis/specs.smi-spec.io/{{}}/namespaces/{world.namespace}/httproutegroups"
    await read(converting, url.format("v1alpha1"))
    for place in range(12):
        raw = group("yes", f"n{place:02}", world.namespace)
        await asyncio.to_thread(world.plane.request, "POST", url.format("v1alpha4"), raw)
    seen = await read(converting, url.format("v1alpha1"))
    assert [item["metadata"]["name"] for item in seen["items"]] == [f"n{place:02}" for place in range(12)]
    assert all("spec" not in item for item in seen["items"])


async def test_f22_a_dead_conversion_hurts_only_reads_in_other_versions_and_ends_with_strategy_none(
    converting: Replica, world: World
) -> None:
    url = f"/apis/specs.smi-spec.io/{{}}/namespaces/{world.namespace}/httproutegroups"
    await read(converting, url.format("v1alpha1"))
    await asyncio.to_thread(world.plane.request, "POST", url.format("v1alpha4"), group("yes", "it", world.namespace))
    await converting.server.stop(0.0)
    assert (await read(converting, f"{url.format('v1alpha4')}/it"))["spec"]
    with pytest.raises(RequestError, match="conversion webhook"):
        await asyncio.to_thread(world.plane.get, f"{url.format('v1alpha1')}/it")
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/httproutegroups.specs.smi-spec.io"
    world.plane.request("PATCH", path, {"spec": {"conversion": {"strategy": "None", "webhook": None}}}, MERGE)
    assert (await read(converting, f"{url.format('v1alpha1')}/it"))["spec"]
    world.plane.kubectl("delete", "namespace", world.namespace, "--wait=false")
