"""Rules of the reflector that are about time and counts; what it knows in the end is tested against a model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from smi_adapter.cluster.client import ApiError, LineTooLong, Unreachable
from smi_adapter.cluster.reach import PAUSE, PROBE_LONGEST, Backoff, Reach
from smi_adapter.cluster.reflector import BIG_PAGE, Reflector
from smi_adapter.cluster.source import ClusterSource
from tests.unit.cluster.fake_api import SERVICES, FakeApi


@asynccontextmanager
async def following(api: FakeApi) -> AsyncIterator[SimpleNamespace]:
    """Run a reflector whose sleeps are counted instead of slept."""
    sleeps: list[float] = []

    async def sleep(seconds: float) -> None:
        sleeps.append(seconds)
        await asyncio.sleep(0)

    reach = Reach(api, sleep)
    changes: list[object] = []
    reflector = Reflector(api, SERVICES, reach, lambda _, change: changes.append(change), sleep=sleep)
    task = asyncio.create_task(reflector.run())
    try:
        yield SimpleNamespace(reflector=reflector, sleeps=sleeps, task=task, reach=reach, changes=changes)
    finally:
        task.cancel()
        await asyncio.gather(task, reach.close(), return_exceptions=True)


async def until(condition: Callable[[], object], turns: int = 2000) -> None:
    for _ in range(turns):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to that")


def api(**options: object) -> FakeApi:
    made = FakeApi(**options)  # type: ignore[arg-type]
    for number in range(5):
        made.put("shop", f"s{number}", number + 1)
    return made


async def test_a_streaming_list_is_used_where_it_is_offered() -> None:
    server = api(streaming="offered")
    async with following(server) as run:
        await until(run.reflector.synced.is_set)
        assert len(run.reflector.store) == 5
        assert [query.get("sendInitialEvents") for query in server.watches] == ["true"]
        assert not [path for path, _ in server.requests if path != "/readyz"]


@pytest.mark.parametrize("streaming", ["refused", "ignored"])
async def test_a_refused_streaming_list_falls_back_to_pages_for_good(streaming: str) -> None:
    server = api(streaming=streaming, page=2)
    async with following(server) as run:
        await until(run.reflector.synced.is_set)
        server.compact()
        server.put("shop", "s9", 9)
        server.compact()
        server.finish_streams("reset")
        await until(lambda: run.reflector.lists == 2)
        assert len(run.reflector.store) == 6
        assert sum("sendInitialEvents" in query for query in server.watches) == 1
        assert [query["limit"] for _, query in server.requests] == ["500"] * 6


async def test_a_streaming_list_that_halts_is_made_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smi_adapter.cluster.reflector.HALT", 0.1)
    server = api(streaming="halting")
    async with following(server) as run:
        async with asyncio.timeout(10):
            await run.reflector.synced.wait()
        assert len(run.reflector.store) == 5
        assert [query.get("limit") for path, query in server.requests if path != "/readyz"] == ["500"]


async def test_the_first_list_names_no_resource_version() -> None:
    server = api(page=2)
    async with following(server) as run:
        await until(run.reflector.synced.is_set)
    assert not [query for _, query in server.requests if "resourceVersion" in query]


async def test_retry_after_is_the_least_pause() -> None:
    server = api()
    server.errors = [ApiError(429, "TooManyRequests", "", 7.0)]
    async with following(server) as run:
        await until(run.reflector.synced.is_set)
        assert max(run.sleeps) == 7.0


async def test_there_is_a_pause_before_each_attempt() -> None:
    server = api()
    async with following(server) as run:
        await until(run.reflector.synced.is_set)
        for _ in range(20):
            await until(lambda: server.streams)
            server.finish_streams("eof")
            await until(lambda: not server.streams)
        attempts = len(server.watches) + len([path for path, _ in server.requests if path != "/readyz"])
        assert len([seconds for seconds in run.sleeps if seconds >= PAUSE]) >= len(server.watches) - 1
        assert attempts <= 2 * len(run.sleeps)


async def test_failures_of_one_kind_grow_up_to_thirty_seconds() -> None:
    server = api()
    server.errors = [ApiError(500, "InternalError")] * 12
    async with following(server) as run:
        await until(run.reflector.synced.is_set)
        waits = [seconds for seconds in run.sleeps if seconds > PAUSE]
        assert 15.0 <= max(waits) <= 30.0
        assert waits[0] <= 1.0


async def test_an_api_that_is_down_is_asked_by_one_probe() -> None:
    server = api()
    server.down = True
    async with following(server) as run:
        await until(lambda: run.reach.probes > 20)
        assert len(server.watches) + len([path for path, _ in server.requests if path != "/readyz"]) <= 2
        assert max(run.sleeps) <= 4.0
        assert not run.reach.up
        server.down = False
        await until(run.reflector.synced.is_set)


async def test_f42_a_mistake_in_the_probe_ends_whoever_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    server = api()
    async with following(server) as run:
        await until(run.reflector.synced.is_set)

        async def broken(*_: object, **__: object) -> bytes:
            raise ZeroDivisionError

        monkeypatch.setattr(server, "request", broken)
        with pytest.raises(ZeroDivisionError):
            await run.reach.lost()
        other = asyncio.create_task(run.reach.wait())
        await asyncio.wait([other], timeout=10)
        assert other.done(), "nobody waits for a probe that is dead"


async def test_outages_of_the_api_are_no_failures_of_a_kind() -> None:
    server = api()
    async with following(server) as run:
        for _ in range(20):
            await until(lambda: server.streams)
            server.requests.clear()
            server.down = True
            server.finish_streams("reset")
            await until(lambda: server.requests)  # the probe's
            server.down = False
            await until(lambda: server.streams)
        assert max(run.sleeps) <= PROBE_LONGEST


async def test_a_stream_that_breaks_goes_on_where_it_was() -> None:
    server = api()
    async with following(server) as run:
        await until(lambda: server.streams)
        server.finish_streams("reset")
        await until(lambda: len(server.watches) == 3)  # the refused streaming list is the first
        assert server.watches[-1]["resourceVersion"] == server.watches[-2]["resourceVersion"]
        assert run.reflector.lists == 1


@pytest.mark.parametrize(("how", "times"), [("eof", 1), ("reset", 2)])
async def test_a_server_that_ends_streams_without_a_word_is_asked_for_a_list(how: str, times: int) -> None:
    """Not to be able to go on is what it may mean by that (kubernetes/kubernetes#104171)."""
    server = api()
    async with following(server) as run:
        for _ in range(times):
            assert run.reflector.lists <= 1
            await until(lambda: server.streams)
            server.finish_streams(how)
            await until(lambda: not server.streams)
        await until(lambda: run.reflector.lists == 2)


async def test_a_kind_that_is_not_there_ends_the_stream() -> None:
    server = api()
    server.errors = [ApiError(404, "NotFound")]
    async with following(server) as run:
        await until(run.task.done)
        assert not run.reflector.synced.is_set()


async def test_a_list_that_expires_again_and_again_is_made_in_one_page() -> None:
    server = api(page=2)
    async with following(server) as run:
        for _ in range(200):
            server.expire_next_page = True
            if run.reflector.synced.is_set():
                break
            await asyncio.sleep(0)
        assert run.reflector.synced.is_set()
        assert "limit" not in server.requests[-1][1]


async def test_a_line_that_is_too_long_lists_anew() -> None:
    server = api()
    async with following(server) as run:
        await until(lambda: server.streams)
        served, server.watch = server.watch, too_long  # type: ignore[method-assign, assignment]
        server.finish_streams("eof")
        await until(lambda: not server.streams)
        await until(lambda: run.reflector.trouble)
        server.watch = served  # type: ignore[method-assign]
        await until(lambda: run.reflector.lists == 2)


async def too_long(*_: object) -> AsyncIterator[bytes]:
    raise LineTooLong("a watch event is longer than that", streaming=True)
    yield b""


async def test_huge_pages_make_the_next_ones_smaller() -> None:
    server = api(page=1)
    server.objects["shop", "s0"]["metadata"]["annotations"] = {"x": "y" * (BIG_PAGE + 1)}
    async with following(server) as run:
        await until(run.reflector.synced.is_set, 20_000)
        assert server.requests[-1][1]["limit"] == "250"


async def test_the_age_is_zero_while_a_stream_is_open_and_grows_without_one() -> None:
    server = api()
    async with following(server) as run:
        await until(lambda: server.streams)
        assert run.reflector.age() == 0.0
        server.down = True
        server.finish_streams("reset")
        await until(lambda: run.reflector.trouble)
        assert run.reflector.age() > 0.0


def test_backoff_is_jittered_and_begins_anew_after_success() -> None:
    backoff = Backoff(pick=lambda low, _: low)
    assert [backoff.failed() for _ in range(4)] == [0.25, 0.5, 1.0, 2.0]
    backoff.succeeded()
    assert backoff.failed() == 0.25


def test_unreachable_tells_whether_a_stream_had_begun() -> None:
    assert not Unreachable("refused").streaming


async def test_a_bookmark_is_a_sign_of_life_of_its_kind() -> None:
    server = api()
    async with following(server) as run:
        await until(run.reflector.synced.is_set)
        source = ClusterSource(server)
        source._streams["", "Service", ""] = run.reflector
        run.reflector.seen -= 50.0
        assert source.event_ages()["Service"] >= 50.0
        server.bookmark()
        await until(lambda: source.event_ages()["Service"] < 50.0)
