"""Leader election between real processes on a real API server: F12, F13, and what the audit log says about it.

A leader has as long to renew the Lease as in a real one, for it must not lose it to a busy machine; the pauses between
two tries are shorter.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from tests.apiserver.lease_candidate import LOST
from tests.cluster.control_plane import ADMINS, PORT, ControlPlane
from tests.cluster.fault_proxy import PASS, ByteProxy, Hang, Refuse

TIMING = "12/10/0.5"
LOOKS = 36  # at a Lease, one each half second: longer than it is good for
PATIENCE = 90.0


@dataclass
class Candidates:
    """The processes that compete for one Lease, each as a user of its own, so that the audit log tells them apart."""

    plane: ControlPlane
    namespace: str
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def start(self, *, server: str = "", skew: float = 0.0, timing: str = TIMING) -> str:
        name = f"{self.namespace}-{next(self.numbers)}"
        kubeconfig = self.plane.user(name, ADMINS, server)
        command = [sys.executable, "-m", "tests.apiserver.lease_candidate", str(kubeconfig), self.namespace, name]
        root = Path(__file__).parents[2]
        self.running[name] = subprocess.Popen([*command, timing, str(skew)], cwd=root)
        return name

    def holder(self) -> str:
        path = f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases"
        items = self.plane.get(path)["items"]
        return str(items[0]["spec"].get("holderIdentity", "")) if items else ""

    def signal(self, name: str, number: int) -> None:
        os.kill(self.running[name].pid, number)

    def is_led_by(self, name: str) -> bool:
        """Tell whether that candidate holds the Lease and has written."""
        path = f"/api/v1/namespaces/{self.namespace}/configmaps/written"
        return self.holder() == name and name in self.plane.get(path)["data"]

    def writers(self) -> list[str]:
        """Return who wrote the ConfigMap, in the order of the audit log, each run of one writer once."""
        found = [
            event["user"]["username"]
            for event in self.plane.audit_events(having=f"/{self.namespace}/configmaps/written")
            if event["stage"] == "ResponseComplete"
            and event["verb"] == "patch"
            and event["responseStatus"]["code"] == 200
        ]
        return [name for name, _ in itertools.groupby(found)]

    def has_looked_often(self, name: str) -> bool:
        """Tell whether that candidate has read the Lease for longer than it is good for."""
        events = self.plane.audit_events(name)
        looks = [event for event in events if event["verb"] == "get" and event["objectRef"]["resource"] == "leases"]
        return len(looks) >= LOOKS

    async def loses(self, name: str) -> None:
        """Wait until that candidate has ended, as it lost the Lease."""
        assert await asyncio.to_thread(self.running[name].wait, PATIENCE) == LOST

    def close(self) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()


@pytest.fixture
def candidates(api_server: ControlPlane, namespace: str) -> Iterator[Candidates]:
    body = {"metadata": {"name": "written", "namespace": namespace}, "data": {}}
    api_server.request("POST", f"/api/v1/namespaces/{namespace}/configmaps", body)
    made = Candidates(api_server, namespace)
    try:
        yield made
    finally:
        made.close()


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + PATIENCE
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.05)


async def one_leads(candidates: Candidates) -> str:
    await until(
        lambda: candidates.holder() in candidates.running and candidates.writers()[-1:] == [candidates.holder()]
    )
    return candidates.holder()


def other(candidates: Candidates, leader: str) -> str:
    return next(name for name, process in candidates.running.items() if name != leader and process.poll() is None)


def assert_no_overlap(candidates: Candidates) -> None:
    """Nobody wrote again after somebody else did."""
    writers = candidates.writers()
    assert len(writers) == len(set(writers)), writers


async def test_one_of_two_leads_and_a_release_hands_over_at_once(candidates: Candidates) -> None:
    candidates.start()
    candidates.start()
    leader = await one_leads(candidates)
    heir = other(candidates, leader)
    candidates.signal(leader, signal.SIGTERM)
    assert await asyncio.to_thread(candidates.running[leader].wait, PATIENCE) == 0
    assert candidates.holder() in {"", heir}, "it was not released"
    await one_leads(candidates)
    assert_no_overlap(candidates)


async def test_f12_a_killed_leader_is_followed(candidates: Candidates) -> None:
    candidates.start()
    candidates.start()
    for _ in range(2):
        leader = await one_leads(candidates)
        heir = other(candidates, leader)
        candidates.signal(leader, signal.SIGKILL)
        await until(partial(candidates.is_led_by, heir))
        candidates.start()
    assert_no_overlap(candidates)


async def test_f13_a_leader_that_was_frozen_writes_nothing_when_it_wakes_up(candidates: Candidates) -> None:
    candidates.start()
    candidates.start()
    for _ in range(2):
        leader = await one_leads(candidates)
        heir = other(candidates, leader)
        candidates.signal(leader, signal.SIGSTOP)
        await until(partial(candidates.is_led_by, heir))
        await one_leads(candidates)
        candidates.signal(leader, signal.SIGCONT)
        await candidates.loses(leader)
        candidates.start()
    assert_no_overlap(candidates)


@asynccontextmanager
async def proxied(candidates: Candidates) -> AsyncIterator[tuple[ByteProxy, str]]:
    """Give one candidate a network of its own, in which things go wrong."""
    async with ByteProxy(candidates.plane.host, PORT) as proxy:
        name = candidates.start(server=proxy.url)
        yield proxy, name


@pytest.mark.parametrize("fault", [Hang(), Refuse()])
async def test_f12_a_leader_whose_calls_hang_or_fail_stops_before_its_lease_ends(
    candidates: Candidates, fault: Hang | Refuse
) -> None:
    async with proxied(candidates) as (proxy, leader):
        assert await one_leads(candidates) == leader
        heir = candidates.start()
        await proxy.set(fault)
        if isinstance(fault, Refuse):
            proxy.reset()
        await candidates.loses(leader)
        await until(partial(candidates.is_led_by, heir))
        await proxy.set(PASS)
        await one_leads(candidates)
        assert_no_overlap(candidates)


async def test_f13_a_clock_that_is_a_minute_wrong_makes_no_second_leader(candidates: Candidates) -> None:
    leader = candidates.start()
    assert await one_leads(candidates) == leader
    for name in (candidates.start(skew=60.0), candidates.start(skew=-60.0)):
        await until(partial(candidates.has_looked_often, name))
    assert candidates.holder() == leader
    assert candidates.writers() == [leader]
    candidates.signal(leader, signal.SIGKILL)
    await until(lambda: candidates.holder() not in {"", leader})
    await one_leads(candidates)
    assert_no_overlap(candidates)


async def test_a_lease_that_somebody_deletes_or_takes_is_lost(candidates: Candidates) -> None:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{candidates.namespace}/leases/smi-adapter"
    leader = candidates.start()
    await one_leads(candidates)
    candidates.plane.request("DELETE", path)
    await candidates.loses(leader)
    leader = candidates.start()
    await one_leads(candidates)
    body = {"spec": {"holderIdentity": "somebody"}}
    candidates.plane.request("PATCH", path, body, "application/merge-patch+json")
    await candidates.loses(leader)
