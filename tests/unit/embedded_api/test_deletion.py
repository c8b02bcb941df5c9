"""Deletions through the embedded API: they are done as they were asked for, or not at all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from smi_adapter.embedded_api.deletion import GRACE
from smi_adapter.sources.child import STOP_SECONDS
from tests.unit.embedded_api.world import SPLITS, Client, served, split

STORED = f"{SPLITS}/web"
DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web", "namespace": "shop"},
    "spec": {},
}


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with served(tmp_path) as found:
        yield found


@pytest.mark.parametrize(
    "path",
    [
        STORED,
        SPLITS,
        "/apis/apps/v1/namespaces/shop/deployments/web",
        "/apis/apps/v1/namespaces/shop/deployments",
        "/api/v1/namespaces/shop",
    ],
)
@pytest.mark.parametrize("body", [None, {"kind": "DeleteOptions", "apiVersion": "v1", "dryRun": ["All"]}])
async def test_a_trial_of_a_deletion_deletes_nothing_wherever_it_is_asked_for(
    client: Client, path: str, body: Any
) -> None:
    client.shelf.edit(split(), DEPLOYMENT)
    before = dict(client.shelf.objects)
    answer = await client.ask("DELETE", path if body else f"{path}?dryRun=All", body)
    assert (answer.status, client.shelf.objects) == (200, before)
    assert (await client.ask("DELETE", path, {})).status == 200
    assert client.shelf.objects != before


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"dryRun": ["Some"]}, 400),
        ({"dryRun": "none"}, 400),
        ({"dryRun": [1]}, 400),
        ({"dryRun": {}}, 400),
        ({"dryRunn": ["All"]}, 422),
        ({"gracePeriodSeconds": -1}, 422),
        ({"gracePeriodSeconds": "soon"}, 422),
        ({"propagationPolicy": "Orphan"}, 422),
        ({"propagationPolicy": "Whatever"}, 422),
        ({"orphanDependents": True}, 422),
        ({"orphanDependents": "no"}, 422),
        ({"ignoreStoreReadErrorWithClusterBreakingPotential": True}, 422),
        ({"preconditions": {"name": "x"}}, 422),
        ({"preconditions": ["x"]}, 422),
        ({"preconditions": {"uid": "another"}}, 409),
        ({"preconditions": {"resourceVersion": "1"}}, 409),
        ({"kind": "Deployment"}, 400),
        (["All"], 400),
    ],
)
async def test_a_deletion_that_cannot_be_done_as_asked_is_not_done(client: Client, options: Any, status: int) -> None:
    client.shelf.edit(DEPLOYMENT)
    before = dict(client.shelf.objects)
    path = "/apis/apps/v1/namespaces/shop/deployments/web"
    assert (await client.ask("DELETE", path, options)).status == status
    assert client.shelf.objects == before


@pytest.mark.parametrize(
    "query", ["dryRun=Some", "propagationPolicy=Orphan", "orphanDependents=true", "gracePeriodSeconds=x"]
)
async def test_options_of_a_deletion_in_the_query_count_as_well(client: Client, query: str) -> None:
    client.shelf.edit(DEPLOYMENT)
    answer = await client.ask("DELETE", f"/apis/apps/v1/namespaces/shop/deployments/web?{query}")
    assert answer.status in {400, 422}
    assert len(client.shelf.objects) == 2


async def test_what_kubectl_asks_for_with_now_and_force_and_cascade_is_done(client: Client) -> None:
    pod = {**DEPLOYMENT, "apiVersion": "v1", "kind": "Pod"}
    for options in (
        {"propagationPolicy": "Background"},
        {"propagationPolicy": "Foreground", "gracePeriodSeconds": 1},
        {"gracePeriodSeconds": 0, "propagationPolicy": "Background"},
    ):
        client.shelf.edit(pod)
        assert (await client.ask("DELETE", "/api/v1/namespaces/shop/pods/web", options)).status == 200
    client.shelf.edit(pod, split())
    assert (await client.ask("DELETE", "/api/v1/namespaces/shop/pods/web", {"gracePeriodSeconds": 600})).status == 422
    assert (await client.ask("DELETE", STORED, {"propagationPolicy": "Orphan"})).status == 200  # nothing is made of it


async def test_objects_are_deleted_together_in_one_namespace_only_and_never_some_of_them(client: Client) -> None:
    client.shelf.edit(split())
    assert (await client.ask("DELETE", "/apis/split.smi-spec.io/v1alpha4/trafficsplits")).status == 405
    assert (await client.ask("DELETE", "/api/v1/namespaces")).status == 405
    assert (await client.ask("DELETE", f"{SPLITS}?limit=1")).status == 400
    assert (await client.ask("DELETE", SPLITS, {"preconditions": {"uid": "x"}})).status == 400
    assert len(client.shelf.objects) == 2


def test_the_time_that_a_process_has_to_end_is_the_one_we_say() -> None:
    assert GRACE == STOP_SECONDS
