"""What replicas believe each other."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from smi_adapter.cluster.peers import SIGNATURE, signature
from smi_adapter.cluster.replicas import PATH, Replicas
from smi_adapter.findings import Ref
from smi_adapter.report import Tally
from smi_adapter.telemetry import Health, HealthServer, Metrics, Reading
from tests.told import SPLIT

KEY = b"k" * 32
TALLY = Tally({("shop", "web"): 2}, {SPLIT: 3, Ref("TCPRoute", "a", "b", "specs.smi-spec.io"): 1}, {SPLIT: 1})


def message(name: str, tally: Tally, *, key: bytes = KEY, sent: float | None = None) -> tuple[bytes, str]:
    body = json.dumps({"name": name, "sent": time.time() if sent is None else sent, "tally": tally.data()}).encode()
    return body, signature(key, body)


def test_a_tally_arrives_as_it_was_and_the_newest_counts() -> None:
    told: list[int] = []
    leader = Replicas("one", KEY, lambda: told.append(1))
    assert leader.hear(*message("two", Tally()))
    assert leader.hear(*message("two", TALLY))
    assert leader.hear(*message("three", TALLY))
    assert leader.tallies() == (TALLY, TALLY)
    assert len(told) == 3


def test_who_has_not_the_key_is_not_heard_nor_is_a_replay_or_nonsense() -> None:
    leader = Replicas("one", KEY)
    assert not leader.hear(*message("two", TALLY, key=b"x" * 32))
    body, signed = message("two", TALLY)
    assert not leader.hear(body + b" ", signed)
    assert not leader.hear(body, "")
    assert not leader.hear(body, "ä")
    assert not leader.hear(body, "\udcff"), "a header that is not UTF-8"
    assert leader.hear(body, signed)
    assert not leader.hear(body, signed), "heard already"
    assert not leader.hear(*message("two", TALLY, sent=time.time() - 3600))
    assert not leader.hear(*message("one", TALLY)), "that is us"
    for nonsense in (b"", b"[]", b"{}", b'{"name": 1, "sent": "x", "tally": {}}'):
        assert not leader.hear(nonsense, signature(KEY, nonsense))


def test_replicas_are_bounded() -> None:
    leader = Replicas("one", KEY)
    heard = [leader.hear(*message(f"r{number}", TALLY)) for number in range(100)]
    assert sum(heard) == 20


@asynccontextmanager
async def listening(leader: Replicas) -> AsyncIterator[str]:
    async def hear(request: web.Request) -> web.Response:
        return web.Response(status=204 if leader.hear(await request.read(), request.headers[SIGNATURE]) else 403)

    metrics = Metrics(Reading, "0")
    server = HealthServer(lambda: Health(ready=True), metrics.registry, [web.post(PATH, hear)])
    port = await server.start("127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await server.stop()


async def test_a_follower_tells_the_leader_and_a_new_leader_too() -> None:
    one, other, follower = Replicas("one", KEY), Replicas("other", KEY), Replicas("two", KEY)
    where = ""
    async with listening(one) as first, listening(other) as second:
        task = asyncio.create_task(follower.tell(lambda: where, lambda: TALLY))
        for leader, address in ((one, first), (other, second)):
            where = address
            deadline = time.monotonic() + 10
            while leader.tallies() != (TALLY,):
                assert time.monotonic() < deadline
                assert not task.done(), task
                await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_leader_that_is_not_reached_is_tried_again() -> None:
    follower = Replicas("two", KEY)
    task = asyncio.create_task(follower.tell(lambda: "http://127.0.0.1:1", lambda: TALLY))
    await asyncio.sleep(0.6)
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
