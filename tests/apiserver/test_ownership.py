"""Whose generated objects are: two installations in one cluster, and what an earlier release has written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from smi_adapter import crds
from smi_adapter.cluster.ownership import INSTALLATION
from smi_adapter.decode import ref_of
from tests.apiserver.test_apply import GROUP, MERGE, ROUTES, TCP_ROUTES, applying, path_of, split
from tests.apiserver.told_cluster import until
from tests.cluster.control_plane import ControlPlane
from tests.cluster.mesh import Mesh, controller, settings

BLUE, GREEN = "blue.smi-adapter", "green.smi-adapter"


@pytest.fixture(scope="module")
def plane(api_server: ControlPlane) -> ControlPlane:
    api_server.apply(*crds.definitions(), ROUTES, TCP_ROUTES)
    return api_server


@pytest.fixture
def shop(plane: ControlPlane) -> str:
    return plane.new_namespace()


def _before_installations_had_names(plane: ControlPlane, shop: str, name: str) -> None:
    plane.request("PATCH", path_of(shop, name), {"metadata": {"labels": {INSTALLATION: None}}}, MERGE)


async def test_two_installations_do_not_prune_each_other(plane: ControlPlane, shop: str) -> None:
    """Both list what lies in the namespace, as they do with rights for all; each sees a split of its own."""
    mine, theirs = split(shop), split(shop, "second", "other")
    plane.apply(mine, theirs)
    async with applying(plane, shop, installation=BLUE) as blue:
        await blue.settled(mine)
        async with applying(plane, shop, installation=GREEN) as green:
            await green.settled(theirs)
            await blue.settled(mine)
            assert set(blue.routes()) == {"smi.web.80", "smi.other.80"}
            await green.settled(gone=(ref_of(theirs),))
            assert set(blue.routes()) == {"smi.web.80"}


async def test_what_another_installation_has_generated_is_told_and_left_until_it_goes(
    plane: ControlPlane, shop: str
) -> None:
    one = split(shop)
    plane.apply(one)
    async with applying(plane, shop, installation=BLUE) as blue:
        await blue.settled(one)
        version = blue.routes()["smi.web.80"]["metadata"]["resourceVersion"]
        async with applying(plane, shop, installation=GREEN) as green:
            await green.settled(one)
            (told_of,) = green.delivery.findings()
            assert (told_of.code, told_of.subject) == ("SMI0605", ref_of(one))
            assert BLUE in told_of.message
            assert green.routes()["smi.web.80"]["metadata"]["resourceVersion"] == version
            await blue.settled(gone=(ref_of(one),))
            await until(lambda: _owner(green.routes()) == GREEN)
            await until(lambda: green.delivery.findings() == ())


def _owner(routes: dict[str, dict[str, Any]], name: str = "smi.web.80") -> str:
    return str(routes.get(name, {}).get("metadata", {}).get("labels", {}).get(INSTALLATION, ""))


async def test_what_an_earlier_release_has_written_is_taken_over_or_pruned_by_who_sees_its_split(
    plane: ControlPlane, shop: str
) -> None:
    one, moved, foreign = split(shop), split(shop, "second", "other"), split(shop, "third", "v1")
    plane.apply(one, moved, foreign)
    async with applying(plane, shop) as before:
        await before.settled(one, moved, foreign)
    for name in ("smi.web.80", "smi.other.80", "smi.v1.80"):
        _before_installations_had_names(plane, shop, name)
    plane.apply(split(shop, "second", "v2"))
    async with applying(plane, shop, installation=BLUE) as blue:
        await blue.settled(one, moved)  # the third split is another installation's, which is not upgraded yet
        assert set(blue.routes()) == {"smi.web.80", "smi.v2.80", "smi.v1.80"}
        assert _owner(blue.routes()) == _owner(blue.routes(), "smi.v2.80") == BLUE
        assert not _owner(blue.routes(), "smi.v1.80")


async def test_what_a_former_backend_has_written_goes_when_another_is_selected(
    plane: ControlPlane, shop: str, tmp_path: Path
) -> None:
    mesh = Mesh(plane, shop, tmp_path)
    mesh.service("web")
    mesh.split("web", {"web": 1})
    path = f"/apis/{GROUP}/v1/namespaces/{shop}/httproutes"
    theirs = {"apiVersion": f"{GROUP}/v1", "kind": "HTTPRoute", "metadata": {"name": "theirs", "namespace": shop}}
    plane.apply({**theirs, "spec": {}})
    own = {"namespaces": shop, "lease": shop, "authority_secret": shop}
    async with controller(plane, settings(plane, backend="gateway_api", **own)):
        await until(lambda: len(plane.get(path)["items"]) == 2)
    assert _owner({item["metadata"]["name"]: item for item in plane.get(path)["items"]}) == f"default.{shop}"
    async with controller(plane, settings(plane, backend="envoy", former_backends="gateway_api", **own)):
        await until(lambda: [item["metadata"]["name"] for item in plane.get(path)["items"]] == ["theirs"])
