"""The local harness with the plain driver: what it takes from a driver and what it makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from smi_conformance import local
from smi_conformance.local import LocalHarness
from smi_conformance.protocol import App, Batch, HarnessError, Port, Req
from smi_conformance.target import load

HERE = Path(__file__).parent


def play(story: Callable[[LocalHarness], Awaitable[None]]) -> None:
    target = load(HERE / "plain_target.yaml")

    async def go() -> None:
        harness = LocalHarness(target)
        await harness.start()
        try:
            await harness.namespace("cf-1", enforced=True)
            await story(harness)
        finally:
            await harness.stop()

    asyncio.run(asyncio.wait_for(go(), 60))


def test_a_server_without_a_ledger_is_trouble_and_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMI_PLAIN", "unwritten")

    async def story(harness: LocalHarness) -> None:
        app = App("api", "cf-1", ports=(Port(8080),))
        await harness.deploy(app)
        with pytest.raises(HarnessError, match="cf-1/api has no ledger"):
            await harness.receipts(app)

    play(story)


def test_what_goes_round_a_proxy_comes_from_its_clients_own_address() -> None:
    seen: list[str] = []

    def meet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("peername")[0])
        writer.close()

    async def story(harness: LocalHarness) -> None:
        server = await asyncio.start_server(meet, "127.0.0.1", 0)
        port = int(server.sockets[0].getsockname()[1])
        alice, bob, outside = App("alice", "cf-1"), App("bob", "cf-1"), App("outside", "cf-1", meshed=False)
        pods = {app.name: await harness.deploy(app) for app in (alice, bob, outside)}
        harness._found["", "cf-1/api", port] = [["127.0.0.1", port]]
        by_pod, by_service = Req(pod="127.0.0.1", port=port), Req("cf-1/api", port, bypass=True)
        for req in (by_pod, by_service):
            for app in (alice, bob, outside):
                await harness.send(app, req, Batch(connection="new"), "x")
        server.close()
        assert seen == [pods["alice"][0].address, pods["bob"][0].address, "127.0.0.1"] * 2

    play(story)


@pytest.mark.parametrize(("address", "ours"), [("127.3.4.5", True), ("192.0.2.1", False), ("nowhere", False)])
def test_an_address_that_is_none_of_this_machine_is_no_source(address: str, *, ours: bool) -> None:
    assert local._is_ours(address) == ours
