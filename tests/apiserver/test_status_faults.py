"""Status writing while the API is slow, failing or flooded: F8 and F17 on a real API server with the fault proxy."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from smi_adapter import app, crds
from smi_adapter.backends import XdsConfig, load
from smi_adapter.delivery.xds import AdsServer
from smi_adapter.delivery.xds.types import CLUSTER, ENDPOINTS, LISTENER, ROUTES
from smi_adapter.snapshot import Mode, Options
from tests import told
from tests.apiserver.told_cluster import Cluster, bare, cluster, plural_path, until
from tests.cluster.control_plane import ADMINS, ControlPlane
from tests.cluster.fault_proxy import INTERNAL, TOO_MANY, Answer, HttpProxy
from tests.unit.test_xds_server import Running, WireClient, pair_of, serving

SLOW = Answer(500, "InternalError", delay=10.0)
SPLITS = 40
PUSHES = 20


@pytest.fixture(scope="module")
def plane(api_server: ControlPlane) -> ControlPlane:
    api_server.apply(*crds.definitions())
    return api_server


@pytest.fixture
def shop(plane: ControlPlane) -> str:
    return plane.new_namespace()


@asynccontextmanager
async def faulty(plane: ControlPlane) -> AsyncIterator[tuple[HttpProxy, str]]:
    """Put a proxy before the API server, and return it with the kubeconfig that leads there."""
    async with HttpProxy(plane.url, plane.tls(), plane.tls("admin", ADMINS)) as proxy:
        yield proxy, str(plane.user("status", ADMINS, server=proxy.url, ca=proxy.authority.pem))


def world(namespace: str) -> list[dict[str, Any]]:
    text = json.dumps(told.shop()).replace('"namespace": "shop"', f'"namespace": "{namespace}"')
    found: list[dict[str, Any]] = json.loads(text)
    return found


def split(namespace: str, number: int, weight: int = 1) -> dict[str, Any]:
    backends = [{"service": "v1", "weight": weight}, {"service": "v2", "weight": 1}]
    made = bare(told.split(service="web", backends=backends), namespace)
    return {**made, "metadata": {**made["metadata"], "name": f"s{number:05}"}}


async def pushed(ads: Running, client: WireClient, config: XdsConfig) -> None:
    """Publish a config and take the routes that it changed, as a proxy does."""
    ads.ads.publish(config)
    response = await client.take()
    assert response.type_url == ROUTES


async def connected(client: WireClient, namespace: str) -> None:
    for type_url, names in (
        (CLUSTER, ()),
        (ENDPOINTS, (f"{namespace}/v1/80", f"{namespace}/v2/80", f"{namespace}/web/80")),
        (LISTENER, ()),
        (ROUTES, (f"out/{namespace}/web/80",)),
    ):
        await client.ask(type_url, *names)
        await client.take()


@pytest.mark.parametrize("fault", [TOO_MANY, INTERNAL, SLOW], ids=["429", "500", "10 s"])
async def test_f8_a_status_storm_never_delays_a_push(plane: ControlPlane, shop: str, fault: Answer) -> None:
    objects = [split(shop, number) for number in range(SPLITS)]
    plane.apply(*objects)
    async with (
        faulty(plane) as (proxy, kubeconfig),
        cluster(plane, shop, kubeconfig=kubeconfig, mode=Mode.PERMISSIVE) as running,
        serving() as ads,
        ads.client(pair_of(f"spiffe://cluster.local/ns/{shop}/sa/buyer"), f"{shop}/buyer") as client,
    ):
        rule = proxy.rule(lambda request: request.path.endswith("/status"), fault)
        running.seen(*world(shop))
        running.reread(*objects)
        publish(ads.ads, running)
        await connected(client, shop)
        await until(lambda: rule.used)
        served = rule.used
        for number in range(PUSHES):
            changed = {**plane.get(plural_path(objects[0])), "spec": split(shop, 0, number + 2)["spec"]}
            running.seen(changed)
            await pushed(ads, client, current(running))
        assert running.reporting.status.counts.written == 0, "every push was over before a status got through"
        assert running.reporting.status.backlog == SPLITS
        if fault is not TOO_MANY:
            return
        assert rule.used - served < SPLITS, "Retry-After was not honoured: a request a second is enough"
        proxy.rules.remove(rule)
        running.reread(objects[0])
        await until(lambda: running.reporting.status.backlog == 0, 60)
        assert running.status(objects[-1])["Conflicted"] == ("True", "Conflicted")
        assert running.reporting.status.counts.written == SPLITS, "the newest of each object, and nothing older"


def current(running: Cluster) -> XdsConfig:
    compiled = running.compiler.current
    assert compiled is not None
    assert isinstance(compiled.rendered, XdsConfig)
    return compiled.rendered


def publish(ads: AdsServer, running: Cluster) -> None:
    ads.publish(current(running))


# ---------------------------------------------------------------------------------------------------------------- F17


def permissive() -> list[dict[str, Any]]:
    """Return our CRDs without their validation, as others ship them: they take whatever is an object."""
    made: list[dict[str, Any]] = json.loads(json.dumps(crds.definitions()))
    for version in (version for crd in made for version in crd["spec"]["versions"]):
        status = version["schema"]["openAPIV3Schema"]["properties"]["status"]
        anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        version["schema"] = {"openAPIV3Schema": {**anything, "properties": {"status": status}}}
        del version["additionalPrinterColumns"]
    return made


def bad(namespace: str, number: int) -> dict[str, Any]:
    """Return an object that cannot be used, one of three kinds."""
    name = {"name": f"bad{number:05}", "namespace": namespace}
    if number % 3 == 0:
        matches = [{"name": "it", "pathRegex": "/(unclosed", "methods": ["*"]}]
        return {**bare(told.group(), namespace), "metadata": name, "spec": {"matches": matches}}
    if number % 3 == 1:
        made = bare(told.target(), namespace)
        return {**made, "metadata": name, "spec": {**made["spec"], "sources": "everybody"}}
    backends = [{"service": "v1", "weight": 1}, {"service": "v2", "weight": -5}]
    return {**bare(told.split(service="nowhere", backends=backends), namespace), "metadata": name}


FIELDS = ("spec.matches[0].pathRegex", "spec.sources", "spec.backends[1].weight")
REASONS = ("InvalidRegex", "GrantsNothing", "InvalidWeight")


def good(namespace: str, number: int) -> dict[str, Any]:
    if number % 2:
        return {**split(namespace, number), "metadata": {"name": f"good{number:05}", "namespace": namespace}}
    return {**bare(told.group(), namespace), "metadata": {"name": f"good{number:05}", "namespace": namespace}}


def create(plane: ControlPlane, objects: Iterator[dict[str, Any]]) -> None:
    for chunk in iter(lambda: list(itertools.islice(objects, 250)), []):
        plane.apply(*chunk)


async def test_f17_of_many_objects_of_which_a_third_is_bad_each_bad_one_is_told_its_field_and_reason(
    own_api_server: ControlPlane,
) -> None:
    plane = own_api_server
    plane.apply(*permissive())
    shop = plane.new_namespace()
    number = int(os.environ.get("SMI_F17_OBJECTS", "300"))
    bads = [bad(shop, index) for index in range(number * 3 // 10)]
    goods = [good(shop, index) for index in range(number - len(bads))]
    await asyncio.to_thread(create, plane, iter([*bads, *goods]))
    groups = ("split.smi-spec.io/v1alpha4/{}/trafficsplits", "specs.smi-spec.io/v1alpha4/{}/httproutegroups")
    paths = [f"/apis/{group.format(f'namespaces/{shop}')}" for group in groups]
    paths.append(f"/apis/access.smi-spec.io/v1alpha3/namespaces/{shop}/traffictargets")
    async with cluster(plane, shop) as running:
        stored = [found for path in paths for found in _items(plane, path)]
        began = asyncio.get_running_loop().time()
        running.seen(*world(shop), *stored)
        written = running.reporting.status.counts
        await until(lambda: written.written >= len(bads), 120)
        told_after = asyncio.get_running_loop().time() - began
        await until(lambda: written.written >= number, 300)
        all_after = asyncio.get_running_loop().time() - began
        print(f"{number} objects: all bad ones told after {told_after:.1f} s, all after {all_after:.1f} s")  # noqa: T201
    for path in paths:
        for item in _items(plane, path):
            accepted = next(one for one in item["status"]["conditions"] if one["type"] == "Accepted")
            name = item["metadata"]["name"]
            assert accepted["status"] == ("False" if name.startswith("bad") else "True"), item
            if name.startswith("bad"):
                kind = int(name.removeprefix("bad")) % 3
                assert (accepted["reason"], FIELDS[kind] in accepted["message"]) == (REASONS[kind], True), accepted
    assert rendered(*world(shop), *stored) == rendered(*world(shop), *(item for item in stored if is_good(item)))


def is_good(item: dict[str, Any]) -> bool:
    return bool(item["metadata"]["name"].startswith("good"))


def rendered(*objects: dict[str, Any]) -> dict[Any, tuple[tuple[str, bytes], ...]]:
    """Return the bytes of the whole configuration that objects lead to."""
    made = app.compiled(objects, load("envoy"), Options()).rendered
    assert isinstance(made, XdsConfig)
    return {part: tuple((item.name, item.body) for item in found) for part, found in made.parts.items()}


def _items(plane: ControlPlane, path: str) -> list[dict[str, Any]]:
    """Return all objects of a kind, as single objects are."""
    found = plane.get(path)
    kind = found["kind"].removesuffix("List")
    return [{"apiVersion": found["apiVersion"], "kind": kind, **item} for item in found["items"]]
