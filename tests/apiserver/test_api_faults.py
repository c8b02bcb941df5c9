"""F1-F6 and F8 at the source, on the real API server behind the fault proxies: what is known, and what would be pushed.

The controller's part of these rows (readiness, xDS, status writes) is tested with the controller.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from smi_adapter import crds
from smi_adapter.cluster.reflector import Reflector
from tests.cluster.control_plane import PORT, ControlPlane
from tests.cluster.fault_proxy import (
    GONE_AS_HTTP,
    PASS,
    Answer,
    ByteProxy,
    Events,
    Hang,
    HttpProxy,
    Lines,
    Refuse,
    Stop,
    end_of_stream,
    gone_as_event,
    lists,
    watches,
)
from tests.cluster.follower import Follower
from tests.cluster.mesh import Mesh
from tests.cluster.shop import API, ASKED, policies, target, workloads

TARGET = ("shop", "web-to-api")
RESTARTS = 20


@pytest.fixture
def mesh(own_api_server: ControlPlane, tmp_path: Path) -> Mesh:
    made = workloads(own_api_server, tmp_path)
    own_api_server.apply(*crds.definitions())
    policies(made)
    return made


@pytest.fixture(scope="module")
def plane_to_keep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with ControlPlane(tmp_path_factory.mktemp("api-faults")) as plane:
        plane.apply(*crds.definitions())
        yield workloads(plane, tmp_path_factory.mktemp("shop"))


@pytest.fixture
def unbroken(plane_to_keep: Mesh) -> Mesh:
    """Return a mesh whose API server is not to be stopped: the faults are in the proxies."""
    policies(plane_to_keep)
    return plane_to_keep


@asynccontextmanager
async def through_bytes(plane: ControlPlane, **options: Any) -> AsyncIterator[tuple[ByteProxy, Follower]]:
    """Follow the API server through a proxy of bytes."""
    async with ByteProxy(plane.host, PORT) as proxy:
        kubeconfig = plane.user("bytes", ["system:masters"], server=proxy.url)
        async with Follower(kubeconfig, **options) as world:
            await world.synced()
            yield proxy, world


@asynccontextmanager
async def through_http(plane: ControlPlane, **options: Any) -> AsyncIterator[tuple[HttpProxy, Follower]]:
    """Follow the API server through a proxy that reads requests."""
    async with HttpProxy(plane.url, plane.tls(), plane.tls("admin", ["system:masters"])) as proxy:
        kubeconfig = plane.user("http", ["system:masters"], server=proxy.url, ca=proxy.authority.pem)
        async with Follower(kubeconfig, **options) as world:
            yield proxy, world


def delete_target(plane: ControlPlane) -> None:
    plane.kubectl("delete", "traffictarget", "web-to-api", "-n", "shop")


def deletions(world: Follower) -> list[object]:
    return [ref for batch in world.batches for ref, raw in batch.items() if raw is None]


def reflector(world: Follower, kind: str) -> Reflector:
    [stream] = [stream for stream in world.source._streams.values() if stream.resource.kind == kind]
    assert isinstance(stream, Reflector)
    return stream


async def test_f01_api_down_at_start(mesh: Mesh) -> None:
    plane = mesh.plane
    plane.stop()
    async with (
        ByteProxy(plane.host, PORT) as proxy,
        Follower(plane.user("f1", ["system:masters"], server=proxy.url)) as world,
    ):
        await world.until(lambda: world.source._reach.probes >= 3)
        assert not world.batches
        assert not world.source.synced
        assert not world.source.reachable
        assert proxy.accepted <= 1 + world.source._reach.probes, "somebody else asks than the one probe"
        await asyncio.to_thread(plane.start)
        await world.synced()
        assert world.source.synced
        assert world.verdict(ASKED).access == "allowed"


async def test_f02_api_down_while_running(mesh: Mesh) -> None:
    plane = mesh.plane
    async with Follower(plane.user("f2", ["system:masters"])) as world:
        await world.synced()
        assert world.source.cache_age() == 0.0
        pushes = world.pushes
        plane.stop(kill=True)
        await world.until(lambda: world.source.cache_age() > 3.0)
        assert not world.source.reachable
        assert world.source.synced
        assert world.verdict(ASKED).access == "allowed"
        await asyncio.to_thread(plane.start)
        await world.until(lambda: world.source.cache_age() == 0.0)
        assert (world.pushes, deletions(world)) == (pushes, [])
        await asyncio.to_thread(delete_target, plane)
        await world.until(lambda: world.verdict(ASKED).access == "denied")


@pytest.mark.slow
async def test_f03_api_restarts_twenty_times(mesh: Mesh) -> None:
    plane = mesh.plane
    async with through_bytes(plane) as (proxy, world):
        pushes, batches = world.pushes, len(world.batches)
        streams = len(world.source._streams)
        for number in range(1, RESTARTS + 1):
            await asyncio.to_thread(plane.stop, kill=True)
            await asyncio.to_thread(plane.start)
            await world.until(lambda: world.source.cache_age() == 0.0 and world.source.reachable)
            for stream in world.source._streams.values():
                assert stream.lists <= 1 + number, stream
        assert (world.pushes, len(world.batches), deletions(world)) == (pushes, batches, [])
        assert len(world.source._streams) == streams
        await world.until(lambda: proxy.open_connections <= streams + 3)


@pytest.mark.parametrize("shape", ["http", "event", "bare end"])
async def test_f04_each_shape_of_gone_lists_anew_and_delivers_deletions(unbroken: Mesh, shape: str) -> None:
    mesh = unbroken
    outcomes: dict[str, Answer | Events] = {"http": GONE_AS_HTTP, "event": gone_as_event(), "bare end": end_of_stream()}
    async with through_http(mesh.plane) as (proxy, world):
        blind = proxy.rule(watches("traffictargets"), Events(without_deletions))
        await world.synced()
        gone = proxy.rule(watches("traffictargets"), outcomes[shape], times=1)
        proxy.rules.reverse()  # this one first
        stream = reflector(world, "TrafficTarget")
        listed = stream.lists
        await asyncio.to_thread(delete_target, mesh.plane)
        await asyncio.to_thread(mesh.apply, target("later"))
        await world.until(lambda: ("shop", "later") in world.snapshot.targets)
        assert TARGET in world.snapshot.targets, "the deletion was lost on the way"
        await asyncio.to_thread(mesh.apply, target("cut"))
        await world.until(lambda: TARGET not in world.snapshot.targets)
        assert blind.used
        assert gone.used == 1
        assert stream.lists == listed + 1
        assert len(deletions(world)) == 1
        for name in ("cut", "later"):
            await asyncio.to_thread(mesh.plane.kubectl, "delete", "traffictarget", name, "-n", "shop")


async def test_f04_etcd_compacted_and_the_api_restarted(mesh: Mesh) -> None:
    plane = mesh.plane
    async with through_bytes(plane) as (proxy, world):
        await proxy.set(Refuse())
        proxy.reset()
        await asyncio.to_thread(delete_target, plane)
        await asyncio.to_thread(plane.forget_history)
        assert world.verdict(ASKED).access == "allowed"
        await proxy.set(PASS)
        await world.until(lambda: world.verdict(ASKED).access == "denied")
        assert len(deletions(world)) == 1


async def test_f05_a_watch_that_stalls(unbroken: Mesh) -> None:
    plane = unbroken.plane
    async with through_bytes(plane, silence=4.0) as (proxy, world):
        await proxy.set(Stop("to_client"))
        await asyncio.to_thread(delete_target, plane)
        stream = reflector(world, "TrafficTarget")
        await world.until(lambda: stream.trouble is not None)
        assert world.verdict(ASKED).access == "allowed"
        assert world.source.cache_age() > 3.0
        healed = time.monotonic()
        await proxy.set(PASS)
        await world.until(lambda: world.verdict(ASKED).access == "denied")
        age = world.source.last_event_age("TrafficTarget")
        assert age is not None
        assert age <= time.monotonic() - healed


async def test_f06_objects_deleted_while_disconnected_leave_no_ghost(mesh: Mesh) -> None:
    plane = mesh.plane
    rounds = 20
    async with through_bytes(plane) as (proxy, world):
        for number in range(rounds):
            await proxy.set(Hang() if number % 2 else Refuse())
            proxy.reset()
            await asyncio.to_thread(delete_target, plane)
            if number == rounds // 2:
                await asyncio.to_thread(plane.forget_history)
            await proxy.set(PASS)
            proxy.reset()
            await world.until(lambda: world.verdict(ASKED).access == "denied")
            await asyncio.to_thread(policies, mesh)
            await world.until(lambda: world.verdict(ASKED).access == "allowed")
        assert len(deletions(world)) == rounds


async def test_f08_retry_after_is_honoured_and_errors_are_outlived(unbroken: Mesh) -> None:
    async with through_http(unbroken.plane) as (proxy, world):
        throttled = [
            proxy.rule(watches("pods"), Answer(429, "TooManyRequests", retry_after=3), times=1),
            proxy.rule(watches("services"), Answer(500, "InternalError"), times=2),
            proxy.rule(lists("services"), Answer(503, "ServiceUnavailable"), times=1),
            proxy.rule(watches("endpointslices"), Answer(422, "Invalid"), times=1),
        ]
        began = time.monotonic()
        await world.synced()
        assert time.monotonic() - began >= 3.0
        assert all(rule.used for rule in throttled[:2] + throttled[3:])
        assert world.verdict(ASKED).access == "allowed"
        assert API in world.snapshot.services


async def test_f08_an_answer_that_does_not_come_delays_only_its_own_kind(unbroken: Mesh) -> None:
    async with through_http(unbroken.plane) as (proxy, world):
        proxy.rule(watches("serviceaccounts"), Events(without_deletions))
        await world.synced()
        never = Answer(500, "InternalError", delay=3600.0)
        slow = [proxy.rule(asked("serviceaccounts"), never) for asked in (lists, watches)]
        proxy.rules.reverse()  # these first
        await asyncio.to_thread(unbroken.account, "cut")
        await world.until(lambda: any(rule.used for rule in slow))
        await asyncio.to_thread(delete_target, unbroken.plane)
        await world.until(lambda: world.verdict(ASKED).access == "denied")
        await asyncio.to_thread(unbroken.plane.kubectl, "delete", "serviceaccount", "cut", "-n", "shop")


async def without_deletions(lines: Lines) -> Lines:
    """Lose deletions, until an object named `cut` comes: there the stream ends."""
    async for line in lines:
        if b'"name":"cut"' in line:
            return
        if b'"type":"DELETED"' not in line:
            yield line
