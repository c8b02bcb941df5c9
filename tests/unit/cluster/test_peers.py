"""Which replica steps back: one that is out of touch while another is not, and never all of them (faults.md F11)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest
from aiohttp import web

from smi_adapter.cluster.peers import PATH, SIGNATURE, Peers, signature
from smi_adapter.telemetry import Health, HealthServer, Metrics, Reading
from tests.unit.test_xds_server import until

KEY = b"k" * 32


@dataclass
class Replica:
    """One replica as far as this goes. `leader`: the address on the Lease that it knows."""

    peers: Peers
    in_touch: bool = True
    leader: str = ""


@asynccontextmanager
async def replicas(count: int, key: bytes = KEY) -> AsyncIterator[list[Replica]]:
    made: list[Replica] = []
    async with AsyncExitStack() as stack:
        for number in range(count):
            made.append(await _replica(stack, number, made, key))
        yield made


async def _replica(stack: AsyncExitStack, number: int, made: list[Replica], key: bytes) -> Replica:
    peers = Peers(f"replica-{number}", key, lambda: made[number].in_touch, look=0.02)

    async def answer(request: web.Request) -> web.Response:
        found = peers.answer(await request.read(), request.headers.get(SIGNATURE, ""))
        return web.Response(body=found[0], headers={SIGNATURE: found[1]}) if found else web.Response(status=403)

    server = HealthServer(lambda: Health(ready=True), Metrics(Reading, "0").registry, [web.post(PATH, answer)])
    peers.address = f"http://127.0.0.1:{await server.start('127.0.0.1', 0)}"
    stack.push_async_callback(server.stop)
    replica = Replica(peers)
    task = asyncio.create_task(peers.compare(lambda: replica.leader, patience=0.05))
    stack.callback(task.cancel)
    return replica


def step_back(found: Iterable[Replica]) -> list[bool]:
    """Tell of each whether it is not ready for the sake of another."""
    return [replica.peers.out_of_touch(0.05) and bool(replica.peers.better) for replica in found]


async def test_f11_one_that_is_out_of_touch_steps_back_while_the_leader_is_not() -> None:
    async with replicas(2) as (leader, other):
        other.leader = leader.peers.address
        await asyncio.sleep(0.2)  # ten looks
        other.in_touch = False
        await until(lambda: step_back([leader, other]) == [False, True])
        assert other.peers.better == leader.peers.address
        other.in_touch = True
        assert step_back([leader, other]) == [False, False], "at once, not with the next look"
        await until(lambda: not other.peers.better)


async def test_f11_a_leader_that_lost_touch_asks_whom_it_has_heard_of() -> None:
    async with replicas(2) as (leader, other):
        leader.peers.met(other.peers.address)  # as with a tally
        leader.in_touch = False
        await until(lambda: step_back([leader, other]) == [True, False])


async def test_f11_whoever_is_asked_passes_on_whom_it_knows() -> None:
    async with replicas(3) as (leader, second, third):
        second.leader = leader.peers.address
        leader.peers.met(third.peers.address)
        leader.in_touch = second.in_touch = False
        await until(lambda: step_back([leader, second, third]) == [True, True, False])
        assert second.peers.better == third.peers.address


async def test_f02_when_all_are_out_of_touch_none_steps_back() -> None:
    async with replicas(2) as (leader, other):
        other.leader = leader.peers.address
        leader.peers.met(other.peers.address)
        leader.in_touch = other.in_touch = False
        await until(lambda: all(each.peers.out_of_touch(0.05) for each in (leader, other)))
        for _ in range(20):
            assert step_back([leader, other]) == [False, False]
            await asyncio.sleep(0.02)
        leader.in_touch = True
        await until(lambda: step_back([leader, other]) == [False, True])


async def test_a_peer_that_is_gone_or_a_stranger_counts_for_nothing() -> None:
    async with replicas(1) as [one], replicas(1, b"x" * 32) as [stranger]:
        for address in ("http://127.0.0.1:1", "nonsense", stranger.peers.address):
            one.peers.met(address)
        one.in_touch = False
        await until(lambda: one.peers.out_of_touch(0.05))
        for _ in range(20):
            assert not one.peers.better
            await asyncio.sleep(0.02)


@asynccontextmanager
async def speaking(answer: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Answer every request with these bytes; gives the address, and the heads of what was asked."""
    asked: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


async def test_a_stranger_whose_signature_is_no_text_ends_nothing() -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{SIGNATURE}: ".encode()
    async with speaking(head + b"\xff\xfe\r\n\r\n{}") as (stranger, asked), replicas(2) as (one, better):
        one.peers.met(stranger)
        one.in_touch = False
        await until(lambda: len(asked) >= 2)
        one.peers.met(better.peers.address)
        await until(lambda: one.peers.better == better.peers.address)


async def test_a_question_goes_to_whom_it_was_meant_for_alone() -> None:
    async with speaking(b"") as (elsewhere, led):
        head = f"HTTP/1.1 307 Over there\r\nLocation: {elsewhere}/\r\nContent-Length: 0\r\n\r\n".encode()
        async with speaking(head) as (leading, asked), replicas(1) as [one]:
            one.peers.met(leading)
            one.in_touch = False
            await until(lambda: len(asked) >= 2)
            assert not led


def question(name: str = "two") -> bytes:
    return json.dumps({"name": name, "address": "http://two"}).encode()


def test_only_replicas_are_answered() -> None:
    one = Peers("one", KEY, lambda: True)
    body = question()
    found = one.answer(body, signature(KEY, body))
    assert found is not None
    assert json.loads(found[0]) == {"to": signature(KEY, body), "in_touch": True, "others": []}
    assert found[1] == signature(KEY, found[0])
    assert one.answer(body, signature(b"x" * 32, body)) is None
    assert one.answer(body, "ä") is None
    assert one.answer(body, "\udcff") is None, "a header that is not UTF-8"
    for wrong in (b"[]", b"{}", b"x", b'{"name": "two"}', question("one")):
        assert one.answer(wrong, signature(KEY, wrong)) is None, wrong


@pytest.mark.parametrize("count", [5, 500])
def test_peers_are_bounded(count: int) -> None:
    one = Peers("one", KEY, lambda: True)
    for number in range(count):
        one.met(f"http://{number}")
    body = question()
    found = one.answer(body, signature(KEY, body))
    assert found is not None
    others = json.loads(found[0])["others"]
    assert len(others) == min(count, 20)
    assert others[-1] == f"http://{count - 1}", "the newest"
