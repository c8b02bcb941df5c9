"""The calls of Argo Rollouts and of Flagger against the API without a cluster."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.drivers import ArgoRollouts, Canary, FlaggerRouter, NotOwnedError, Rollout
from tests.unit.embedded_api.world import Client, served

VERSIONS = ["v1alpha1", "v1alpha2", "v1alpha3"]
CANARY = Canary("shop", "web", "uid-of-the-canary")


class RefusedError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Blocking:
    """The client for a driver that runs in another thread."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._loop = asyncio.get_running_loop()

    def request(self, method: str, path: str, body: object = None, content_type: str = "application/json") -> Any:
        asked = self._client.ask(method, path, body, content_type)
        answer = asyncio.run_coroutine_threadsafe(asked, self._loop).result(20)
        if answer.status >= 400:
            raise RefusedError(answer.status)
        return answer.body


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Blocking]:
    async with served(tmp_path) as client:
        yield Blocking(client)


def rollout(uid: str) -> Rollout:
    return Rollout("shop", "web", uid, "web-canary", "web-stable", "web")


@pytest.mark.parametrize("version", VERSIONS)
async def test_argo_sets_weights_and_leaves_the_split_of_another_alone(api: Blocking, version: str) -> None:
    argo = ArgoRollouts(api, version)
    told = [await asyncio.to_thread(argo.set_weight, rollout("one"), weight) for weight in (0, 10, 10, 100)]
    assert told == ["created", "patched", "unmodified", "patched"]
    with pytest.raises(NotOwnedError):
        await asyncio.to_thread(argo.set_weight, rollout("another"), 5)


@pytest.mark.parametrize("version", VERSIONS)
async def test_flagger_keeps_its_split_through_a_canary(api: Blocking, version: str) -> None:
    flagger = FlaggerRouter(api, version)
    assert await asyncio.to_thread(flagger.reconcile, CANARY) == "created"
    for weight in (50, 100, 0):
        await asyncio.to_thread(flagger.set_routes, CANARY, weight)
        assert await asyncio.to_thread(flagger.reconcile, CANARY) == "kept"
        assert await asyncio.to_thread(flagger.routes, CANARY) == (100 - weight, weight)


async def test_the_replay_of_flagger_resets_what_somebody_reordered(api: Blocking) -> None:
    flagger = FlaggerRouter(api)
    await asyncio.to_thread(flagger.reconcile, CANARY)
    await asyncio.to_thread(flagger.set_routes, CANARY, 50)
    path = "/apis/split.smi-spec.io/v1alpha2/namespaces/shop/trafficsplits/web"
    split = json.loads(json.dumps(await asyncio.to_thread(api.request, "GET", path)))
    split["spec"]["backends"].reverse()
    await asyncio.to_thread(api.request, "PUT", path, split)
    assert await asyncio.to_thread(flagger.reconcile, CANARY) == "reset"
    assert await asyncio.to_thread(flagger.routes, CANARY) == (100, 0)
