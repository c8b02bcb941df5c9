"""Generated objects on a real API server: applied, restored, pruned, and left alone where that is right.

The CRDs of Gateway API are not downloaded for this: stand-ins of the same names take any spec.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from smi_adapter import app, crds
from smi_adapter.backends import Manifests, load
from smi_adapter.cluster.apply import Applier, Timing
from smi_adapter.cluster.client import Client
from smi_adapter.decode import ref_of
from smi_adapter.delivery.manifests import ManifestDelivery
from smi_adapter.findings import Ref
from smi_adapter.snapshot import Options
from tests import told
from tests.apiserver.told_cluster import always, bare, plural_path, until
from tests.cluster.control_plane import ControlPlane, RequestError

GROUP = "gateway.networking.k8s.io"
MERGE = "application/merge-patch+json"
SOON = Timing(look=0.2, correct=3.0)


def stand_in(kind: str, plural: str, version: str) -> dict[str, Any]:
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema = {"openAPIV3Schema": {"type": "object", "properties": {"spec": anything, "status": anything}}}
    served = {"name": version, "served": True, "storage": True, "schema": schema, "subresources": {"status": {}}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{plural}.{GROUP}",
            "annotations": {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/gateway-api/pull/1538"},
        },
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural},
            "versions": [served],
        },
    }


ROUTES = stand_in("HTTPRoute", "httproutes", "v1")
TCP_ROUTES = stand_in("TCPRoute", "tcproutes", "v1alpha2")


@pytest.fixture(scope="module")
def plane(api_server: ControlPlane) -> ControlPlane:
    api_server.apply(*crds.definitions(), ROUTES, TCP_ROUTES)
    return api_server


@pytest.fixture
def shop(plane: ControlPlane) -> str:
    return plane.new_namespace()


class Crash(BaseException):
    """The process ends here."""


@dataclass
class CrashAfter:
    """Ends the process after so many writes."""

    last: int
    writes: int = 0

    def __call__(self, _path: str) -> None:
        self.writes += 1
        if self.writes == self.last:
            raise Crash

    def has_seen(self, writes: int) -> bool:
        return self.writes >= writes


@dataclass
class Shop:
    """A namespace with splits, whose routes are kept by an applier."""

    plane: ControlPlane
    namespace: str
    applier: Applier
    delivery: ManifestDelivery = field(init=False)
    compiler: app.Compiler = field(default_factory=lambda: app.Compiler(load("gateway_api"), Options()))

    def __post_init__(self) -> None:
        self.delivery = ManifestDelivery(self.applier)

    def see(self, *objects: dict[str, Any], gone: tuple[Ref, ...] = ()) -> int:
        """Publish Services and the splits as they lie in the API."""
        services = [service(self.namespace, name) for name in ("web", "other", "v1", "v2")]
        raws = [*services, *(self.plane.get(plural_path(item)) for item in objects)]
        batch = {ref_of(item): item for item in raws} | dict.fromkeys(gone)
        compiled = self.compiler.apply(batch)
        assert isinstance(compiled.rendered, Manifests)
        return self.delivery.publish(compiled.rendered, batch)

    async def settled(self, *objects: dict[str, Any], gone: tuple[Ref, ...] = ()) -> None:
        generation = self.see(*objects, gone=gone)
        await until(lambda: self.delivery.acknowledged() == generation)

    def routes(self) -> dict[str, dict[str, Any]]:
        try:
            found = self.plane.get(f"/apis/{GROUP}/v1/namespaces/{self.namespace}/httproutes")["items"]
        except RequestError as error:
            if error.status != 429:  # the CRD is new, and its storage not ready
                raise
            return {}
        return {item["metadata"]["name"]: item for item in found}

    def weights(self, name: str = "smi.web.80") -> list[int]:
        rules = self.routes().get(name, {}).get("spec", {}).get("rules", ())
        return [ref["weight"] for rule in rules for ref in rule["backendRefs"]]


def service(namespace: str, name: str) -> dict[str, Any]:
    made = told.service(name)
    return {**made, "metadata": {**made["metadata"], "namespace": namespace}}


def split(namespace: str, name: str = "canary", root: str = "web", weights: tuple[int, int] = (9, 1)) -> dict[str, Any]:
    backends = [{"service": f"v{number}", "weight": weight} for number, weight in enumerate(weights, 1)]
    made = bare(told.split(service=root, backends=backends), namespace)
    return {**made, "metadata": {**made["metadata"], "name": name}}


def path_of(namespace: str, name: str = "smi.web.80") -> str:
    return f"/apis/{GROUP}/v1/namespaces/{namespace}/httproutes/{name}"


@asynccontextmanager
async def applying(
    plane: ControlPlane,
    namespace: str,
    timing: Timing = SOON,
    after_write: Callable[[str], None] = lambda _path: None,
    installation: str = "mesh.smi-adapter",
    kubeconfig: Path | None = None,
) -> AsyncIterator[Shop]:
    client = await Client.connect(str(kubeconfig or plane.kubeconfig))
    applier = Applier(client, always, installation, namespaces=(namespace,), timing=timing, after_write=after_write)
    task = asyncio.create_task(applier.run())
    try:
        yield Shop(plane, namespace, applier)
        assert not task.done() or isinstance(task.exception(), Crash), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await client.close()


async def test_routes_are_applied_with_label_manager_and_owner(plane: ControlPlane, shop: str) -> None:
    async with applying(plane, shop) as running:
        one = split(shop)
        plane.apply(one)
        await running.settled(one)
        (route,) = running.routes().values()
        meta = route["metadata"]
        assert meta["labels"]["app.kubernetes.io/managed-by"] == "smi-adapter"
        assert [(owner["kind"], owner["name"]) for owner in meta["ownerReferences"]] == [("TrafficSplit", "canary")]
        assert {item["manager"] for item in meta["managedFields"]} == {"smi-adapter"}
        assert running.weights() == [9, 1]
        plane.apply(split(shop, weights=(5, 5)))
        await running.settled(one)
        assert running.weights() == [5, 5]
        writes = running.applier.writes
        await running.settled(one)
        assert running.applier.writes == writes, "equal manifests are not written again"


async def test_what_is_not_generated_any_more_is_pruned_and_what_is_not_ours_is_not(
    plane: ControlPlane, shop: str
) -> None:
    theirs = {"apiVersion": f"{GROUP}/v1", "kind": "HTTPRoute", "metadata": {"name": "theirs", "namespace": shop}}
    one, two = split(shop), split(shop, "second", "other")
    plane.apply(one, two, {**theirs, "spec": {}})
    async with applying(plane, shop) as running:
        await running.settled(one, two)
        assert set(running.routes()) == {"smi.web.80", "smi.other.80", "theirs"}
        await running.settled(one, gone=(ref_of(two),))
        assert set(running.routes()) == {"smi.web.80", "theirs"}
    async with applying(plane, shop) as running:  # another run, in which the split is gone already
        await running.settled()
        assert set(running.routes()) == {"theirs"}


async def test_an_object_of_that_name_that_is_not_ours_is_never_touched(plane: ControlPlane, shop: str) -> None:
    theirs = {"apiVersion": f"{GROUP}/v1", "kind": "HTTPRoute", "metadata": {"name": "smi.web.80", "namespace": shop}}
    one = split(shop)
    plane.apply(one, {**theirs, "spec": {"theirs": True}})
    async with applying(plane, shop) as running:
        await running.settled(one)
        (told_of,) = running.delivery.findings()
        assert (told_of.code, told_of.subject) == ("SMI0605", ref_of(one))
        assert running.routes()["smi.web.80"]["spec"] == {"theirs": True}
        plane.request("DELETE", path_of(shop))
        await until(lambda: running.weights() == [9, 1])
        await until(lambda: running.delivery.findings() == ())


async def test_f41_what_was_edited_or_deleted_by_hand_is_restored(plane: ControlPlane, shop: str) -> None:
    one, two = split(shop), split(shop, "second", "other")
    plane.apply(one, two)
    async with applying(plane, shop) as running:
        await running.settled(one, two)
        plane.kubectl("patch", "httproute", "smi.web.80", "-n", shop, "--type=merge", "-p", '{"spec":{"rules":[]}}')
        await until(lambda: running.weights() == [9, 1])
        plane.kubectl("delete", "httproute", "smi.other.80", "-n", shop)
        await until(lambda: running.weights("smi.other.80") == [9, 1])
        assert running.delivery.findings() == ()


async def test_what_somebody_made_anew_in_place_of_ours_is_never_touched(plane: ControlPlane, shop: str) -> None:
    """That we applied an object once makes that very object ours, also without its labels, and no other one."""
    theirs = {"apiVersion": f"{GROUP}/v1", "kind": "HTTPRoute", "metadata": {"name": "smi.web.80", "namespace": shop}}
    one = split(shop)
    plane.apply(one)
    async with applying(plane, shop, Timing(look=0.2, correct=0.1)) as running:
        await running.settled(one)
        plane.request("PATCH", path_of(shop), {"metadata": {"labels": None}, "spec": {"rules": []}}, MERGE)
        await until(lambda: running.weights() == [9, 1])
        assert running.routes()["smi.web.80"]["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "smi-adapter"
        await running.settled(one)

        plane.request("DELETE", path_of(shop))  # nothing is awaited in between, so that the applier cannot be first
        plane.apply({**theirs, "spec": {"theirs": True}})
        await until(lambda: any("not ours" in item.message for item in running.delivery.findings()))
        plane.apply(split(shop, weights=(5, 5)))
        await running.settled(one)
        assert running.routes()["smi.web.80"]["spec"] == {"theirs": True}
        plane.request("DELETE", path_of(shop))
        await until(lambda: running.weights() == [5, 5])


async def test_a_kind_that_may_not_be_listed_stops_nothing_where_none_of_it_is_wanted(
    plane: ControlPlane, shop: str, caplog: pytest.LogCaptureFixture
) -> None:
    plane.kubectl("create", "role", "http", "-n", shop, "--verb=*", f"--resource=httproutes.{GROUP}")
    plane.kubectl("create", "rolebinding", "http", "-n", shop, "--role=http", "--user=http")
    one = split(shop)
    plane.apply(one)
    async with applying(plane, shop, kubeconfig=plane.user("http")) as running:
        await running.settled(one)
        assert running.weights() == [9, 1]
        await running.settled(gone=(ref_of(one),))
        assert running.routes() == {}
    said = [item.getMessage() for item in caplog.records if f"TCPRoute in {shop} stays" in item.getMessage()]
    assert len(said) == 1, caplog.text


async def test_f41_another_owner_is_told_about_and_not_fought(plane: ControlPlane, shop: str) -> None:
    one = split(shop)
    plane.apply(one)
    async with applying(plane, shop, Timing(look=0.1, correct=1000.0)) as running:
        await running.settled(one)
        first = running.applier.writes
        for number in range(5):
            body = {"spec": {"rules": [], "round": number}}
            plane.request("PATCH", f"{path_of(shop)}?fieldManager=rival", body, MERGE)
            looked = asyncio.get_running_loop().time() + 0.3
            await until(partial(_past, looked))
        assert running.applier.writes == first + 1
        (told_of,) = running.delivery.findings()
        assert (told_of.code, told_of.subject) == ("SMI0605", ref_of(one))
    async with applying(plane, shop) as running:  # the minute is over, and so is the other's interest
        running.see(one)
        await until(lambda: running.weights() == [9, 1])


def _past(moment: float) -> bool:
    import time  # noqa: PLC0415

    return time.monotonic() > moment


async def test_a_status_that_a_gateway_writes_is_no_edit(plane: ControlPlane, shop: str) -> None:
    one = split(shop)
    plane.apply(one)
    async with applying(plane, shop) as running:
        await running.settled(one)
        writes = running.applier.writes
        plane.patch_status(path_of(shop), {"parents": [{"controllerName": "a"}]})
        await running.settled(one)
        assert running.applier.writes == writes
        plane.apply(split(shop, weights=(1, 1)))
        await running.settled(one)  # and the resourceVersion that it moved is no obstacle
        assert running.weights() == [1, 1]
        assert running.routes()["smi.web.80"]["status"] == {"parents": [{"controllerName": "a"}]}


async def test_nothing_of_a_paused_object_is_touched(plane: ControlPlane, shop: str) -> None:
    one = split(shop)
    plane.apply(one)
    async with applying(plane, shop) as running:
        await running.settled(one)
        plane.kubectl("annotate", "ts/canary", "-n", shop, "smi-adapter.io/paused=true")
        plane.apply(split(shop, weights=(1, 1)))
        plane.request("PATCH", path_of(shop), {"spec": {"by": "hand"}}, MERGE)
        await running.settled(one)
        assert running.weights() == [9, 1]
        plane.request("PATCH", plural_path(one), {"spec": {"service": "nowhere"}}, MERGE)
        await running.settled(one)
        assert set(running.routes()) == {"smi.web.80"}, "not even pruned"
        plane.kubectl("annotate", "ts/canary", "-n", shop, "smi-adapter.io/paused-")
        plane.apply(split(shop, weights=(1, 1)))
        plane.request("PATCH", plural_path(one), {"spec": {"service": "web"}}, MERGE)
        await running.settled(one)
        assert running.weights() == [1, 1]


async def test_f10_a_crash_after_any_write_leaves_nothing_doubled_or_orphaned(plane: ControlPlane, shop: str) -> None:
    one, two = split(shop), split(shop, "second", "other")
    plane.apply(one, two)
    for crash_after in range(1, 6):
        async with applying(plane, shop) as running:  # where every round begins: two routes that are to go
            await running.settled(one, gone=(ref_of(two),))
            await running.settled(gone=(ref_of(one),))
            extra = split(shop, "old", "v1"), split(shop, "older", "v2")
            plane.apply(*extra)
            await running.settled(*extra)
        plane.kubectl("delete", "ts/old", "ts/older", "-n", shop)
        crash = CrashAfter(crash_after)
        async with applying(plane, shop, after_write=crash) as running:
            running.see(one, two)
            await until(partial(crash.has_seen, min(crash_after, 4)))
        async with applying(plane, shop) as running:
            await running.settled(one, two)
            assert set(running.routes()) == {"smi.web.80", "smi.other.80"}
            again = running.applier.writes
            await running.settled(one, two)
            assert running.applier.writes == again


async def test_a_kind_that_the_cluster_does_not_serve_is_told_and_found_when_it_comes(
    own_api_server: ControlPlane,
) -> None:
    own_api_server.apply(*crds.definitions())
    shop = own_api_server.new_namespace()
    one = split(shop)
    own_api_server.apply(one)
    async with applying(own_api_server, shop) as running:
        await running.settled(one)
        (told_of,) = running.delivery.findings()
        assert (told_of.code, told_of.subject) == ("SMI0601", ref_of(one))
        own_api_server.apply(ROUTES)
        await until(lambda: running.weights() == [9, 1], 60)


async def test_kubernetes_takes_a_route_away_with_its_split_while_no_controller_runs(
    api_server_with_controllers: ControlPlane,
) -> None:
    plane = api_server_with_controllers
    plane.apply(*crds.definitions(), ROUTES)
    shop = plane.new_namespace("collected")
    one = split(shop)
    plane.apply(one)
    async with applying(plane, shop) as running:
        await running.settled(one)
    plane.kubectl("delete", "ts/canary", "-n", shop)
    await until(partial(_gone, plane, path_of(shop)), 60)


def _gone(plane: ControlPlane, path: str) -> bool:
    try:
        plane.get(path)
    except RequestError as error:
        return error.status == 404
    return False
