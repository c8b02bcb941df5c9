"""F20 on the real API server: SMI kinds that are not there, appear, change their versions, and go."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from smi_adapter import crds
from smi_adapter.findings import Finding
from tests.cluster.control_plane import MERGE, ControlPlane
from tests.cluster.follower import Follower
from tests.cluster.mesh import Mesh
from tests.cluster.shop import API, ASKED, policies, workloads

SPLIT, TARGET = ("split.smi-spec.io", "TrafficSplit"), ("access.smi-spec.io", "TrafficTarget")


@pytest.fixture
def mesh(own_api_server: ControlPlane, tmp_path: Path) -> Mesh:
    return workloads(own_api_server, tmp_path)


def name(kind: tuple[str, str]) -> str:
    return f"{kind[1].lower()}s.{kind[0]}"


def serving(kind: tuple[str, str], *versions: str) -> dict[str, Any]:
    """Return our CRD of a kind with these versions served, and no other."""
    [crd] = [crd for crd in crds.definitions() if crds.name_of(crd) == name(kind)]
    for version in crd["spec"]["versions"]:
        version["served"] = version["name"] in versions
    return dict(crd)


async def test_f20_kinds_appear_and_go(mesh: Mesh) -> None:
    plane = mesh.plane
    user = plane.user("f20", ["system:masters"])
    async with Follower(user, grace=3600.0) as world, Follower(user, grace=0.1) as hasty:
        await world.synced()
        await hasty.synced()
        assert not world.source.served
        assert API in world.snapshot.services
        assert world.verdict(ASKED).access == "denied"

        await asyncio.to_thread(plane.apply, *crds.definitions())
        await world.until(lambda: len(world.source.served) == len(crds.definitions()))
        await asyncio.to_thread(policies, mesh)
        await world.until(lambda: world.verdict(ASKED).access == "allowed")
        await world.until(lambda: [arm.service for arm in world.verdict(ASKED).arms] == ["shop/api-v2"])

        await hasty.until(lambda: API in hasty.snapshot.splits)

        await asyncio.to_thread(plane.kubectl, "delete", "crd", name(TARGET), "--wait=false")
        await world.until(lambda: world.verdict(ASKED).access == "denied")
        await asyncio.to_thread(plane.delete_crds, name(SPLIT))
        await hasty.until(lambda: API not in hasty.snapshot.splits)
        await world.until(lambda: SPLIT not in world.source.served)
        assert API in world.snapshot.splits, "the grace is not over"
        assert world.verdict(ASKED).access == hasty.verdict(ASKED).access == "denied"


async def test_f20_a_version_that_goes_takes_nothing_with_it(mesh: Mesh) -> None:
    plane = mesh.plane
    await asyncio.to_thread(plane.apply, *crds.definitions())
    await asyncio.to_thread(policies, mesh)
    async with Follower(plane.user("f20", ["system:masters"])) as world:
        await world.synced()
        read = world.source.served[SPLIT].resource.version
        rest = [version for version in world.source.served[SPLIT].versions if version != read]
        pushes = world.pushes
        await asyncio.to_thread(plane.apply, serving(SPLIT, *rest))
        await world.until(lambda: world.source.served[SPLIT].resource.version != read)
        path = world.source.served[SPLIT].resource.path("shop", "api")
        change = {"spec": {"backends": [{"service": "api", "weight": 1}]}}
        await asyncio.to_thread(plane.request, "PATCH", path, change, MERGE)  # kubectl remembers the old version
        await world.until(lambda: [arm.service for arm in world.verdict(ASKED).arms] == ["shop/api"])
        assert not [ref for batch in world.batches for ref, raw in batch.items() if raw is None]
        assert world.pushes == pushes + 1


async def test_f20_a_kind_in_no_version_that_we_know_is_a_finding(mesh: Mesh) -> None:
    plane = mesh.plane
    crd = serving(SPLIT, "v1alpha4")
    [version] = [version for version in crd["spec"]["versions"] if version["name"] == "v1alpha4"]
    crd["spec"]["versions"] = [{**version, "name": "v2"}]
    await asyncio.to_thread(plane.apply, crd)
    async with Follower(plane.user("f20", ["system:masters"])) as world:
        await world.synced()
        [told] = await seen(world, "SMI0501")
        assert "v2" in told.message
        await asyncio.to_thread(plane.delete_crds, name(SPLIT))
        await asyncio.to_thread(plane.apply, *crds.definitions())
        await world.until(lambda: SPLIT in world.source.served)
        assert not await asyncio.to_thread(world.source.findings)


async def test_f20_a_split_that_somebody_deletes_goes_at_once(mesh: Mesh) -> None:
    plane = mesh.plane
    await asyncio.to_thread(plane.apply, *crds.definitions())
    await asyncio.to_thread(policies, mesh)
    async with Follower(plane.user("f20", ["system:masters"])) as world:
        await world.synced()
        await asyncio.to_thread(plane.kubectl, "delete", "trafficsplit", "api", "-n", "shop")
        await world.until(lambda: API not in world.snapshot.splits)


async def seen(world: Follower, code: str) -> list[Finding]:
    def found() -> list[Finding]:
        return [item for item in world.source.findings() if item.code == code]

    await world.until(found)
    return found()
