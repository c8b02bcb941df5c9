"""Status and Events as kubectl shows them, on a real API server."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from smi_adapter import crds
from smi_adapter.decode import ref_of
from smi_adapter.smi import schema
from smi_adapter.snapshot import Mode
from tests import told
from tests.apiserver.told_cluster import Cluster, bare, cluster, until
from tests.cluster.control_plane import ControlPlane

CALLERS = ("v1", "v2", "buyer")


@pytest.fixture(scope="module")
def plane(api_server: ControlPlane) -> ControlPlane:
    api_server.apply(*crds.definitions())
    return api_server


@pytest.fixture
def shop(plane: ControlPlane) -> str:
    return plane.new_namespace()


def world(namespace: str) -> list[dict[str, Any]]:
    """Return the Services and pods of the shop, which only the pipeline sees: no kubelet runs here."""
    return [
        json.loads(json.dumps(item).replace('"namespace": "shop"', f'"namespace": "{namespace}"'))
        for item in told.shop()
    ]


def canary(namespace: str, version: str = "v1alpha4", *weights: object) -> dict[str, Any]:
    chosen = weights or (1, 1)
    backends = [{"service": f"v{number}", "weight": weight} for number, weight in enumerate(chosen, 1)]
    return bare(told.split(version=version, backends=backends), namespace)


def accepted(running: Cluster, item: dict[str, Any]) -> bool:
    return running.status(item).get("Accepted") == ("True", "Accepted")


def resolved(running: Cluster, item: dict[str, Any]) -> bool:
    return running.status(item).get("ResolvedRefs") == ("True", "ResolvedRefs")


def has_sent(running: Cluster, more_than: int) -> bool:
    return running.reporting.events.sent > more_than


async def reported(running: Cluster, *objects: dict[str, Any]) -> None:
    """Apply objects with kubectl, and let the pipeline see them."""
    running.kubectl_apply(*objects)
    running.reread(*objects)


async def test_kubectl_wait_for_programmed_ends_when_every_proxy_has_acknowledged(
    plane: ControlPlane, shop: str
) -> None:
    async with cluster(plane, shop, mode=Mode.PERMISSIVE) as running:
        running.seen(*world(shop))
        split = canary(shop)
        await reported(running, split)
        running.acknowledge(*CALLERS[:2])
        running.acknowledged[shop, "buyer"] = (0,)
        await until(lambda: running.status(split).get("Programmed") == ("False", "WaitingForProxies"))
        waiting = plane.kubectl(
            "wait", "--for=condition=Programmed", "ts/canary", "-n", shop, "--timeout=1s", check=False
        )
        assert waiting.returncode == 1
        running.acknowledge("buyer")
        await until(lambda: running.status(split).get("Programmed") == ("True", "Programmed"))
        plane.kubectl("wait", "--for=condition=Programmed", "ts/canary", "-n", shop, "--timeout=5s")
        shown = plane.kubectl("get", "ts", "canary", "-n", shop)
        assert "True" in shown.stdout
        backends = plane.get(f"/apis/split.smi-spec.io/v1alpha4/namespaces/{shop}/trafficsplits/canary")["status"][
            "backends"
        ]
        assert [item["name"] for item in backends] == ["envoy"]


@pytest.mark.parametrize(
    ("version", "weights"),
    [("v1alpha4", (1, 1)), ("v1alpha3", (1, 1)), ("v1alpha2", (1, 1)), ("v1alpha1", ("500m", "1"))],
)
async def test_a_status_is_written_whatever_version_the_object_was_written_in(
    plane: ControlPlane, shop: str, version: str, weights: tuple[object, ...]
) -> None:
    async with cluster(plane, shop, mode=Mode.PERMISSIVE) as running:
        running.seen(*world(shop))
        split = canary(shop, version, *weights)
        running.kubectl_apply(split)
        newest = {**split, "apiVersion": "split.smi-spec.io/v1alpha4"}
        running.reread(newest)
        running.acknowledge(*CALLERS)
        await until(lambda: running.status(split).get("Programmed") == ("True", "Programmed"))
        for other in schema.served()["split.smi-spec.io", "TrafficSplit"]:
            as_that = {**split, "apiVersion": f"split.smi-spec.io/{other}"}
            assert running.status(as_that)["Accepted"] == ("True", "Accepted")
        spec = plane.get(f"/apis/split.smi-spec.io/v1alpha1/namespaces/{shop}/trafficsplits/canary")["spec"]
        assert [item["weight"] for item in spec["backends"]] == list(weights)


async def test_every_kind_gets_its_status(plane: ControlPlane, shop: str) -> None:
    objects = [
        canary(shop),
        bare(told.group(), shop),
        bare(told.raw("specs.smi-spec.io/v1alpha4", "TCPRoute", "tcp", spec={"matches": {"ports": [80]}}), shop),
        bare(told.raw("specs.smi-spec.io/v1alpha4", "UDPRoute", "udp", spec={"matches": {"ports": [53]}}), shop),
        json.loads(json.dumps(bare(told.target(), shop)).replace('"shop"', f'"{shop}"')),
        bare(
            told.raw(
                "access.smi-spec.io/v1alpha4", "IdentityBinding", "who", spec={"schemes": {"serviceAccount": "buyer"}}
            ),
            shop,
        ),
    ]
    async with cluster(plane, shop) as running:
        running.seen(*world(shop))
        await reported(running, *objects)
        running.acknowledge(*CALLERS)
        for item in objects:
            await until(partial(accepted, running, item))
            assert set(running.status(item)) == {
                "Accepted", "ResolvedRefs", "Programmed", "PartiallyTranslated", "Conflicted"
            }  # fmt: skip


async def test_a_port_mismatch_is_an_event_that_kubectl_shows_once(plane: ControlPlane, shop: str) -> None:
    async with cluster(plane, shop, mode=Mode.PERMISSIVE) as running:
        running.seen(*world(shop))
        other = told.service("v2", port=81)
        other = {**other, "metadata": {**other["metadata"], "namespace": shop}}
        running.seen(other)
        split = canary(shop)
        await reported(running, split)
        await until(lambda: "PortMismatch" in plane.kubectl("get", "events", "-n", shop).stdout)
        await until(lambda: running.status(split).get("ResolvedRefs") == ("False", "PortMismatch"))
        (event,) = [item for item in running.events() if item["reason"] == "PortMismatch"]
        assert event["note"].startswith("SMI0103: ")
        assert event["regarding"]["name"] == "canary"
        assert event["type"] == "Warning"
        described = plane.kubectl("describe", "ts/canary", "-n", shop).stdout
        assert "SMI0103" in described
        for _ in range(3):
            running.seen(other)
            running.reporting.changed()
        again = canary(shop, "v1alpha4", 1, 2)
        await reported(running, again)
        await until(
            lambda: (
                plane.get(f"/apis/split.smi-spec.io/v1alpha4/namespaces/{shop}/trafficsplits/canary")["status"][
                    "observedGeneration"
                ]
                == 2
            )
        )
        assert len([item for item in running.events() if item["reason"] == "PortMismatch"]) == 1
    async with cluster(plane, shop, mode=Mode.PERMISSIVE) as running:  # the next run meets the Event that is there
        running.seen(*world(shop))
        running.seen(other)
        running.reread(split)
        await until(lambda: running.reporting.events.sent > 0)
        assert len([item for item in running.events() if item["reason"] == "PortMismatch"]) == 1


async def test_a_finding_that_comes_back_counts_on_in_its_series(plane: ControlPlane, shop: str) -> None:
    async with cluster(plane, shop, mode=Mode.PERMISSIVE) as running:
        wrong = told.service("v2", port=81)
        wrong = {**wrong, "metadata": {**wrong["metadata"], "namespace": shop}}
        running.seen(*world(shop))
        await reported(running, canary(shop))
        for _ in range(2):
            sent = running.reporting.events.sent
            running.seen(wrong)
            await until(partial(has_sent, running, sent))
            running.seen(*world(shop))
            await until(partial(resolved, running, canary(shop)))
        (event,) = [item for item in running.events() if item["reason"] == "PortMismatch"]
        assert event["series"]["count"] == 2


async def test_nothing_is_written_that_lies_there_already(plane: ControlPlane, shop: str) -> None:
    split = canary(shop)
    path = f"/apis/split.smi-spec.io/v1alpha4/namespaces/{shop}/trafficsplits/canary"
    async with cluster(plane, shop, mode=Mode.PERMISSIVE) as running:
        running.seen(*world(shop))
        await reported(running, split)
        running.acknowledge(*CALLERS)
        await until(lambda: running.status(split).get("Programmed") == ("True", "Programmed"))
        before = plane.get(path)["metadata"]["resourceVersion"]
        running.reread(split)
        for _ in range(3):
            running.acknowledge(*CALLERS)
    async with cluster(plane, shop, mode=Mode.PERMISSIVE) as running:
        running.seen(*world(shop))
        running.reread(split)
        running.acknowledge(*CALLERS)
        await until(lambda: running.reporting.status.counts.unchanged > 0)
        assert running.reporting.status.counts.written == 0
    assert plane.get(path)["metadata"]["resourceVersion"] == before


async def test_an_edit_between_our_read_and_our_write_is_a_conflict_and_then_right(
    plane: ControlPlane, shop: str
) -> None:
    split = canary(shop)
    async with cluster(plane, shop, mode=Mode.PERMISSIVE) as running:
        running.seen(*world(shop))
        await reported(running, split)
        running.acknowledge(*CALLERS)
        await until(lambda: running.status(split).get("Programmed") == ("True", "Programmed"))
        plane.kubectl("annotate", "ts/canary", "-n", shop, "team=blue")  # the writer knows an older resourceVersion
        running.seen(gone=[ref_of(item) for item in world(shop) if item["metadata"]["name"] == "v2"])
        await until(lambda: running.status(split).get("ResolvedRefs") == ("False", "BackendNotFound"))
        assert running.reporting.status.counts.conflicts >= 1
        assert plane.get(f"/apis/split.smi-spec.io/v1alpha4/namespaces/{shop}/trafficsplits/canary")["metadata"][
            "annotations"
        ] == {"team": "blue"}


async def test_what_others_wrote_into_a_status_stays(plane: ControlPlane, shop: str) -> None:
    split = canary(shop)
    path = f"/apis/split.smi-spec.io/v1alpha4/namespaces/{shop}/trafficsplits/canary"
    plane.apply(split)
    theirs = {
        "type": "Theirs",
        "status": "True",
        "reason": "Theirs",
        "message": "Theirs.",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    body = {
        "apiVersion": split["apiVersion"],
        "kind": split["kind"],
        "status": {"conditions": [theirs], "backends": [{"name": "other"}]},
    }
    plane.request("PATCH", f"{path}/status?fieldManager=other", body, "application/apply-patch+yaml")
    async with cluster(plane, shop, mode=Mode.PERMISSIVE) as running:
        running.seen(*world(shop))
        running.reread(split)
        running.acknowledge(*CALLERS)
        await until(lambda: "Programmed" in running.status(split))
    status = plane.get(path)["status"]
    assert theirs in status["conditions"]
    assert [item["name"] for item in status["backends"]] == ["other", "envoy"]


async def test_an_object_of_a_foreign_crd_gets_events_only(own_api_server: ControlPlane) -> None:
    foreign = [json.loads(json.dumps(item)) for item in crds.definitions()]
    for crd in foreign:
        for version in crd["spec"]["versions"]:
            version.pop("subresources", None)
    own_api_server.apply(*foreign)
    shop = own_api_server.new_namespace()
    async with cluster(own_api_server, shop, mode=Mode.PERMISSIVE) as running:
        await reported(running, canary(shop))
        await until(lambda: any(item["reason"] == "RootNotFound" for item in running.events()))
        (told_of,) = running.reporting.findings()
        assert (told_of.code, told_of.subject.name) == ("SMI0502", "trafficsplits.split.smi-spec.io")
        assert "status" not in own_api_server.get(
            f"/apis/split.smi-spec.io/v1alpha4/namespaces/{shop}/trafficsplits/canary"
        )


def with_statuses(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Return our CRDs, with another schema for every status: those of somebody else."""
    foreign: list[dict[str, Any]] = json.loads(json.dumps(crds.definitions()))
    for crd in foreign:
        for version in crd["spec"]["versions"]:
            version["schema"]["openAPIV3Schema"]["properties"]["status"] = schema
    return foreign


@pytest.mark.parametrize(
    "nonsense",
    ["nonsense", {"conditions": [{"type": {}}, {"type": "Accepted", "lastTransitionTime": 7}], "backends": 1}],
)
async def test_nonsense_in_the_status_of_one_object_keeps_no_other_from_its_own(
    own_api_server: ControlPlane, nonsense: object
) -> None:
    own_api_server.apply(*with_statuses({"x-kubernetes-preserve-unknown-fields": True}))
    shop = own_api_server.new_namespace()
    odd = canary(shop)
    other = {**canary(shop), "metadata": {**odd["metadata"], "name": "other"}}
    own_api_server.apply(odd, other)
    path = f"/apis/split.smi-spec.io/v1alpha4/namespaces/{shop}/trafficsplits/canary/status"
    own_api_server.request("PATCH", path, {"status": nonsense}, "application/merge-patch+json")
    async with cluster(own_api_server, shop, mode=Mode.PERMISSIVE) as running:
        running.seen(*world(shop))
        running.reread(odd)
        running.reread(other)
        running.acknowledge(*CALLERS)
        await until(lambda: "Programmed" in running.status(other))
        await until(lambda: "Programmed" in running.status(odd))
        assert running.reporting.status.counts.failed == 0


LESS = {"type": "object", "properties": {"conditions": {"type": "array", "items": {"type": "object"}}}}


@pytest.mark.parametrize("schema", [LESS, {"type": "string"}], ids=["without some of our fields", "no object"])
async def test_a_status_that_no_schema_took_is_written_when_the_schema_is_mended(
    own_api_server: ControlPlane, schema: dict[str, Any]
) -> None:
    own_api_server.apply(*with_statuses(schema))
    shop = own_api_server.new_namespace()
    async with cluster(own_api_server, shop, mode=Mode.PERMISSIVE) as running:
        writer = running.reporting.status
        writer._refusal = 1.0  # as if a quarter of an hour went by sooner
        running.seen(*world(shop))
        split = canary(shop)
        await reported(running, split)
        await until(lambda: writer.counts.refused)
        own_api_server.apply(*crds.definitions())
        running.acknowledge(*CALLERS)  # each look offers it again
        await until(lambda: "Accepted" in running.status(split), 120)
