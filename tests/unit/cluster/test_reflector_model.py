"""The reflector against a model of the API server: whatever happens, once it is quiet the two hold the same."""

from __future__ import annotations

import asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from smi_adapter.cluster.client import ApiError
from smi_adapter.cluster.reach import Reach
from smi_adapter.cluster.reflector import Reflector
from smi_adapter.cluster.store import Changes
from tests.unit.cluster.fake_api import SERVICES, FakeApi, Key

NAMES = st.sampled_from(["a", "b", "c", "d"])
NAMESPACES = st.sampled_from(["one", "two"])
PATIENCE = 600
"""Turns of the event loop in which everything has to come to rest."""


class Machine(RuleBasedStateMachine):
    """Changes, faults, and now and then quiet."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.seen: dict[Key, int] = {}
        self.sleeps: list[float] = []

    @initialize(streaming=st.sampled_from(["refused", "ignored", "offered"]), page=st.sampled_from([None, 1, 2, 3]))
    def begin(self, streaming: str, page: int | None) -> None:
        self.api = FakeApi(page=page, streaming=streaming)
        self.loop.run_until_complete(self._begin())

    async def _begin(self) -> None:
        self.reach = Reach(self.api, self._sleep)
        self.reflector = Reflector(self.api, SERVICES, self.reach, self._changed, sleep=self._sleep)
        self.task = asyncio.create_task(self.reflector.run())

    async def _sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        await asyncio.sleep(0)

    def _changed(self, _: Reflector, changes: Changes) -> None:
        for key, value in changes.items():
            if value is None:
                assert key in self.seen, "a deletion of something unknown, or a second time"
                del self.seen[key]
            else:
                port = self.reflector.projection.raw(value)["spec"]["ports"][0]["port"]
                assert self.seen.get(key) != port, "a change that changes nothing"
                self.seen[key] = port

    async def _turns(self, number: int) -> None:
        for _ in range(number):
            await asyncio.sleep(0)

    # ------------------------------------------------------------------------------------------------ what happens
    @rule(namespace=NAMESPACES, name=NAMES, port=st.integers(1, 5))
    def put(self, namespace: str, name: str, port: int) -> None:
        self.api.put(namespace, name, port)

    @precondition(lambda self: self.api.objects)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        self.api.delete(*data.draw(st.sampled_from(sorted(self.api.objects))))

    @rule()
    def bookmark(self) -> None:
        self.api.bookmark()

    @rule(turns=st.integers(1, 12))
    def time_passes(self, turns: int) -> None:
        self.loop.run_until_complete(self._turns(turns))

    # ------------------------------------------------------------------------------------------------------- faults
    @rule(shape=st.sampled_from(["http", "event", "bare"]))
    def compaction(self, shape: str) -> None:
        self.api.gone_shape = shape
        self.api.compact()
        self.api.finish_streams("reset")

    @rule(how=st.sampled_from(["eof", "reset"]))
    def streams_end(self, how: str) -> None:
        self.api.finish_streams(how)

    @rule()
    def stall(self) -> None:
        for stream in self.api.streams:
            stream.stalled = True

    @rule()
    def duplicate(self) -> None:
        self.api.twice = True

    @rule(name=NAMES, other=NAMES, ports=st.tuples(st.integers(1, 5), st.integers(1, 5)), gone=st.booleans())
    def reorder(self, name: str, other: str, ports: tuple[int, int], gone: bool) -> None:
        self.api.put("one", name, ports[0])
        self.loop.run_until_complete(self._turns(6))
        self.api.swap = True
        self.api.put("one", other, ports[1])
        if gone:
            self.api.delete("one", other)
        else:
            self.api.put("two", name, ports[1])

    @rule()
    def expire(self) -> None:
        self.api.expire_next_page = True

    @rule(status=st.sampled_from([429, 500, 503]))
    def failure(self, status: int) -> None:
        self.api.errors.append(ApiError(status, "", "", 1.0))

    @rule(down=st.booleans())
    def outage(self, down: bool) -> None:
        self.api.down = down
        if down:
            self.api.finish_streams("reset")

    # -------------------------------------------------------------------------------------------------------- quiet
    @rule()
    def quiet(self) -> None:
        self.api.down = False
        for stream in self.api.streams:
            if stream.stalled:
                stream.finish("silent")  # what 75 s of silence end in
        self.loop.run_until_complete(self._rest())

    async def _rest(self) -> None:
        wanted = {key: item["metadata"]["resourceVersion"] for key, item in self.api.objects.items()}
        for _ in range(PATIENCE):
            await asyncio.sleep(0)
            assert not self.task.done(), self.task
            if self.reflector.synced.is_set() and self.reflector.store.versions() == wanted:
                break
        assert self.reflector.store.versions() == wanted
        assert self.seen == {key: item["spec"]["ports"][0]["port"] for key, item in self.api.objects.items()}

    def teardown(self) -> None:
        if hasattr(self, "api"):
            self.quiet()
            assert min(self.sleeps, default=1.0) >= 0
            self.loop.run_until_complete(self._end())
        self.loop.close()

    async def _end(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, self.reach.close(), return_exceptions=True)
        await self.loop.shutdown_asyncgens()


TestReflectorAgainstModel = Machine.TestCase
TestReflectorAgainstModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
