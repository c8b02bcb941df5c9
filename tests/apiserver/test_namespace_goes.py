"""F7: a namespace is deleted with all that is in it while no controller runs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from smi_adapter.evaluate import Request
from tests.cluster.control_plane import RequestError, StartControlPlane
from tests.cluster.mesh import Mesh, controller, install_crds, ready, settings
from tests.cluster.shop import API, ASKED, policies, workloads
from tests.cluster.stand import content, shop, stand

pytestmark = pytest.mark.live


async def test_f07_a_namespace_that_went_while_nobody_looked_leaves_nothing(
    start_control_plane: StartControlPlane, tmp_path: Path
) -> None:
    plane = await asyncio.to_thread(lambda: start_control_plane(controller_manager=True))
    install_crds(plane)
    going = workloads(plane, tmp_path)
    policies(going)
    chosen = settings(plane)
    async with controller(plane, chosen) as (running, _):
        await ready(running, 60.0)
        assert running.compiled is not None
        assert API in running.compiled.supported.mesh.services
        assert any(part[1] == "shop" for part in content(running.compiled.rendered))

    for resource in ("trafficsplits", "traffictargets", "httproutegroups.specs.smi-spec.io", "pods", "services"):
        shown = plane.kubectl("get", resource, "-n", "shop", "-o", "jsonpath={.items[*].metadata.finalizers}")
        assert not shown.stdout, f"{resource} would wait for us"
    await asyncio.to_thread(plane.kubectl, "delete", "namespace", "shop", "--timeout=100s")
    with pytest.raises(RequestError, match="404"):
        plane.get("/api/v1/namespaces/shop")

    staying = Mesh(plane, plane.new_namespace(), tmp_path)
    shop(staying)
    async with stand(staying) as made:
        assert made.running.compiled is not None
        snapshot = made.running.compiled.snapshot
        for table in (snapshot.splits, snapshot.targets, snapshot.route_groups, snapshot.services, snapshot.pods):
            assert not [key for key in table if key[0] == "shop"]
        assert not [part for part in content(made.running.compiled.rendered) if part[1] == "shop"]
        verdict = made.verdict(Request(ASKED.source, API, 80))
        assert verdict.access != "allowed"
        await made.still_obeys()
        await made.holds()
