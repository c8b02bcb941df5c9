"""The conversion webhook on a real API server: each version's own form, and nothing lost."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from smi_adapter import crds
from smi_adapter.cluster import listing
from smi_adapter.cluster.client import Client
from smi_adapter.findings import Ref
from smi_adapter.smi import schema
from smi_adapter.webhooks import configuration, convert
from tests.apiserver.webhook_world import MERGE, Replica, World, group
from tests.cluster.control_plane import ControlPlane, RequestError, StartControlPlane


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
    deadline = time.monotonic() + 60
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
    seen = await listing.everything(world.client)  # as the controller: in the stored version, so it needs no webhook
    assert Ref("HTTPRouteGroup", world.namespace, "it", "specs.smi-spec.io") in seen.objects
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/httproutegroups.specs.smi-spec.io"
    world.plane.request("PATCH", path, {"spec": {"conversion": {"strategy": "None", "webhook": None}}}, MERGE)
    assert (await read(converting, f"{url.format('v1alpha1')}/it"))["spec"]
    world.plane.kubectl("delete", "namespace", world.namespace, "--wait=false")


def test_f22_a_namespace_is_deleted_while_every_webhook_is_dead(start_control_plane: StartControlPlane) -> None:
    own = start_control_plane(controller_manager=True)
    own.apply(*crds.definitions())
    own.kubectl("create", "namespace", "doomed")
    for raw in (group("yes", "it", "doomed"), {**SAMPLES[1], "metadata": {"name": "it", "namespace": "doomed"}}):
        own.apply(raw)
    nowhere = {"url": "https://localhost:1/"}
    own.apply(configuration.validating("dead", nowhere))
    for one in crds.definitions():
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{crds.name_of(one)}"
        own.request("PATCH", path, {"spec": {"conversion": configuration.conversion(nowhere)}}, MERGE)
    own.kubectl("delete", "namespace", "doomed", "--timeout=60s")
