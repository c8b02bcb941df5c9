"""The local harness with the plain driver: what it takes from a driver and what it makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from smi_conformance.local import LocalHarness
from smi_conformance.protocol import App, HarnessError, Port
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
