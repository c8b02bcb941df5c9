"""Every golden case on real Envoys: its configuration is accepted, and its requests meet what `requests.yaml` says.

Weights are sampled: each answer has to come from an arm of the case, and each arm with a fair share has to be seen. A
backend of weight 0 is in no arm. Connections that were used before an edit are used again after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path
from typing import Self

import pytest

from smi_adapter import decode
from smi_adapter.findings import Ref
from smi_adapter.mesh import Protocol
from smi_adapter.snapshot import Pod
from tests.golden.cases import CASES, Asked, asked, options_of, stages
from tests.live.golden_fleet import GoldenFleet, Scene
from tests.live.golden_traffic import CLOSED, PATIENCE, Connection, Outcome, datagram, expected, wire

pytestmark = pytest.mark.live

SAMPLES = 40
MANY_SAMPLES = 400
FAIR = 0.2
"""An arm with this share or more has to be seen; the odds to miss it in MANY_SAMPLES requests are below 10**-38."""


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as running:
        yield running


@pytest.fixture(scope="module")
def envoys(runner: asyncio.Runner) -> Iterator[GoldenFleet]:
    stack = contextlib.AsyncExitStack()
    try:
        yield runner.run(GoldenFleet.open(stack, IPv4Network(f"127.{100 + os.getpid() % 100}.0.0/16")))
    finally:
        runner.run(stack.aclose())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_real_envoys_do_what_a_golden_case_says(case: Path, runner: asyncio.Runner, envoys: GoldenFleet) -> None:
    runner.run(_play(case, envoys))


async def _play(case: Path, envoys: GoldenFleet) -> None:
    objects: dict[Ref, decode.RawObject] = {}
    trees = stages(case)
    scene = Scene.of(objects)
    async with _Kept() as kept:
        for number, tree in enumerate(trees):
            objects |= tree.objects
            scene = Scene.of(objects)
            await envoys.put(scene, options_of(case, envoys.roots) if number == 0 else None)
            last = number == len(trees) - 1
            for entry in asked(case):
                if entry.before != last:
                    await _Question(entry, scene, envoys).check(kept)
    if await envoys.show_everything():
        async with _Kept() as kept:
            for entry in asked(case):
                if not entry.before:
                    await _Question(entry, scene, envoys).check(kept)


class _Kept(dict[str, Connection]):
    """Connections that are used more than once, by question."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self.values():
            await connection.close()


class _Question:
    """One entry of a requests.yaml, put to the fleet."""

    def __init__(self, entry: Asked, scene: Scene, envoys: GoldenFleet) -> None:
        assert envoys.state is not None
        self._entry = entry
        service, self._port = entry.dialled
        ports = envoys.state.translation.mesh.services[service].ports
        self._protocol = next(port.protocol for port in ports if port.number == self._port)
        self._arms = expected(entry, scene, self._protocol)
        self._weighted = (
            any(ref.kind == "TrafficSplit" for ref in scene.objects) and entry.expected["access"] != "denied"
        )
        self._address = self._caller(scene, envoys).dial[service]
        self._message = wire(entry.request, self._protocol)

    def _caller(self, scene: Scene, envoys: GoldenFleet) -> Pod:
        namespace, account = self._entry.source
        mine = {
            role: pod
            for (where, role), name in sorted(scene.roles.items())
            if where == namespace and (pod := envoys.pod(where, name)).service_account == account
        }
        return mine[self._entry.request.get("pod", next(iter(mine)))]

    async def check(self, kept: _Kept) -> None:
        """Ask as often as the weights need; the first time on the connection from before the edit, if there is one."""
        allowed = frozenset[Outcome]().union(*(outcomes for outcomes, _ in self._arms))
        seen: set[Outcome] = set()
        if self._protocol is not Protocol.UDP:
            seen.add(await self._on_a_kept_connection(kept))
        few = SAMPLES if self._weighted and self._protocol is not Protocol.UDP else 2
        for number in range(MANY_SAMPLES):
            if number >= few and not self._unseen(seen):
                break
            seen.add(await self._once())
            assert seen <= allowed, (
                f"{self._entry}: {sorted(map(str, seen - allowed))}, not {sorted(map(str, allowed))}"
            )
        assert not self._unseen(seen), f"{self._entry}: never seen: {self._unseen(seen)}"

    def _unseen(self, seen: set[Outcome]) -> list[frozenset[Outcome]]:
        return [outcomes for outcomes, share in self._arms if share >= FAIR and not outcomes & seen]

    async def _on_a_kept_connection(self, kept: _Kept) -> Outcome:
        """Use the connection that the same question had before the edit, or open the one to be kept (T15)."""
        name = str(sorted((key, str(value)) for key, value in self._entry.request.items()))
        connection = kept.get(name)
        if connection is None:
            opened = await Connection.open(self._address, self._port)
            if opened is None:
                return CLOSED
            kept[name] = opened
            return await opened.ask(self._message)
        outcome = await connection.ask(self._message)
        if self._protocol is Protocol.TCP and self._arms[0][0] == {CLOSED}:
            deadline = time.monotonic() + PATIENCE  # a proxy drains the connections of a filter chain that changed
            while outcome != CLOSED and time.monotonic() < deadline:
                await asyncio.sleep(0.02)
                outcome = await connection.ask(self._message)
        return outcome

    async def _once(self) -> Outcome:
        if self._protocol is Protocol.UDP:
            return await datagram(self._address, self._port)
        connection = await Connection.open(self._address, self._port)
        if connection is None:
            return CLOSED
        try:
            return await connection.ask(self._message)
        finally:
            await connection.close()
