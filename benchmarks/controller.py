"""The process whose CPU time and bytes are measured: one world, and an arm that is open at a time.

It makes the changes itself, so the moment of a write is taken where the write happens, and answers with what it knows:
when each change was written, when the last proxy had acknowledged it, CPU time (all threads) and bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import arms, meter
from benchmarks.channel import Message, arguments, serve
from benchmarks.layouts import LISTENER, ROUTES
from benchmarks.worlds import NAMESPACE, World

_LONGEST_WAIT = 30.0
_LONGEST_SYNC = 120.0
_NODE = f"{NAMESPACE}/prober-0"

KINDS: dict[str, Callable[[arms.Setting], Any]] = {
    "product": arms.Product,
    "directory": arms.Directory,
    "guarding": arms.Guarding,
    "ready": arms.Ready,
    "immediate": arms.Immediate,
    "timer": arms.Timer,
    "one-table": lambda setting: arms.OneTableArm(setting, _NODE),
    "wrong-order": arms.WrongOrder,
    "rules-inside": arms.RulesInside,
    "whole": lambda setting: arms.Whole(setting, _NODE),
}


class _Notices(asyncio.DatagramProtocol):
    """What a probe tells: each state when it begins."""

    def __init__(self) -> None:
        self._port = 0
        self._states: set[str] = set()
        self._came = asyncio.Event()

    async def listen(self) -> int:
        """Listen, if not yet done; return the port."""
        if not self._port:
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_datagram_endpoint(lambda: self, ("127.0.0.1", 0))
            self._port = transport.get_extra_info("sockname")[1]
        return self._port

    def datagram_received(self, data: bytes, _address: object) -> None:
        """Note a state."""
        self._states.add(data.decode())
        self._came.set()

    def clear(self) -> None:
        """Forget what was seen before the next change."""
        self._states.clear()

    async def saw(self, state: str) -> None:
        """Wait until a state was seen since the last `clear`, but not for ever: then its delay counts as infinite."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LONGEST_WAIT):
                while state not in self._states:
                    self._came.clear()
                    await self._came.wait()


class Controller:
    """Answers the benchmark's requests."""

    def __init__(self, given: Message) -> None:
        began = time.perf_counter()
        self._world = World(**given["world"])
        self._setting = arms.Setting.of(self._world, Path(given["certificates"]))
        self._seconds = time.perf_counter() - began
        self._random = random.Random(given.get("seed", 1))
        self._meter = meter.Meter()
        meter.install(self._meter)
        self._arms: dict[str, Any] = {}
        self._arm: Any = None
        self._new = 0
        self._notices = _Notices()
        gc.collect()
        gc.freeze()

    async def about(self) -> Message:
        """Return how long the world took to compile, and how much of it the first prober sees."""
        config = self._setting.config
        visible = self._setting.visible(_NODE)
        return {
            "notices": await self._notices.listen(),
            "seconds": self._seconds,
            "parts": len(config.parts),
            "resources": len(visible),
            "bytes": sum(len(item.body) for item in visible),
            "findings": sorted({item.code for item in config.findings}),
        }

    async def open(self, kind: str, port: int = 0) -> Message:
        """Open an arm; a kind is made once."""
        if kind not in self._arms:
            self._arms[kind] = KINDS[kind](self._setting)
        self._arm = self._arms[kind]
        self._meter.reset()
        return {"port": await self._arm.open(port)}

    async def close(self) -> Message:
        """Close the arm that is open."""
        await self._arm.close()
        deadline = time.monotonic() + 5
        while self._meter.streams and time.monotonic() < deadline:  # noqa: ASYNC110 - the meter stays simple
            await asyncio.sleep(0.01)
        self._meter.streams = 0
        return {}

    async def settled(self, streams: int, quiet: float = 0.3) -> Message:
        """Wait until so many streams are open, all answers are in and it is quiet for a while; return what it took."""
        deadline = time.monotonic() + _LONGEST_SYNC
        while True:
            silence = (time.monotonic_ns() - self._meter.last_message) / 1e9
            answered = 0 < self._meter.sent_messages <= self._meter.answered
            if self._meter.streams >= streams and answered and silence > quiet:
                break
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self._meter.streams} of {streams} streams; NACKs: {self._meter.nacks[:3]}")
            await asyncio.sleep(0.02)
        gc.collect()
        gc.freeze()  # as the product does after its first sync
        return self._counted()

    async def flips(self, count: int, gap: float, streams: int = 1, *, probed: bool = False) -> Message:
        """Make changes, `b` first; return when each was written and how many ms later the last proxy had it.

        The next one is made after the gap, and not before all proxies have acknowledged the last one and, if there is
        a probe at work, before that has seen it.
        """
        self._meter.reset()
        writes: list[tuple[int, str]] = []
        last_acks: list[float] = []
        cpu = time.process_time()
        for index in range(count):
            state = "a" if index % 2 else "b"
            self._meter.answers.clear()
            writes.append((time.monotonic_ns(), state))
            self._notices.clear()
            self._arm.write(state)
            await asyncio.sleep(gap * self._random.uniform(0.8, 1.2))
            last_acks.append((await self._acknowledged(streams, ROUTES) - writes[-1][0]) / 1e6)
            if probed:
                await self._notices.saw(state)
        cpu = time.process_time() - cpu
        return {"writes": writes, "last_acks": last_acks, "cpu": cpu, **self._counted()}

    async def write(self, state: str) -> Message:
        """Make one change; return when."""
        now = time.monotonic_ns()
        self._arm.write(state)
        return {"written": now}

    async def revocations(self, count: int, gap: float) -> Message:
        """Revoke and grant in turn; return when each was written."""
        writes: list[tuple[int, str]] = []
        for index in range(2 * count):
            state = arms.ALLOWED if index % 2 else arms.DENIED
            self._notices.clear()
            writes.append((time.monotonic_ns(), state))
            self._arm.write(state)
            await asyncio.sleep(gap * self._random.uniform(0.8, 1.2))
            await self._notices.saw(state)
        return {"writes": writes}

    async def shifts(self, count: int, gap: float, port: int) -> Message:
        """Make a Service and send everything there, send everything back and delete it; again and again."""
        for _ in range(count):
            self._new += 1
            name = f"new-{self._new}"
            if isinstance(self._arm, arms.WrongOrder):
                self._arm.shift(name, port)
            else:
                self._arm.change(arms.shifted(self._world, name, port))
            await asyncio.sleep(gap)
            if isinstance(self._arm, arms.WrongOrder):
                self._arm.shift_back(name)
            else:
                self._arm.change(arms.shifted_back(self._world, name))
            await asyncio.sleep(gap)
        return self._counted()

    async def burst(self, count: int, seconds: float) -> Message:
        """Make many changes in a short time, each to a new weight; return what went over the port."""
        self._meter.reset()
        began = time.perf_counter()
        for index in range(count):
            weights = {"a": 1 + index, "b": count - index}
            self._arm.change(arms.changes_of(self._world.probed_split(weights)))
            await asyncio.sleep(max(0.0, began + (index + 1) * seconds / count - time.perf_counter()))
        told = {"took": time.perf_counter() - began, **self._counted()}
        self._arm.change(self._setting.flip("a"))
        await asyncio.sleep(0.5)
        return told

    async def _acknowledged(self, streams: int, type_url: str) -> int:
        """Wait until so many answers of a type have come since the last reset; return when the last came."""
        deadline = time.monotonic() + _LONGEST_WAIT
        while True:
            times = [when for when, kind in self._meter.answers if kind in {type_url, LISTENER}]
            if len(times) >= streams:
                return times[-1]
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(times)} of {streams} answers; NACKs: {self._meter.nacks[:3]}")
            await asyncio.sleep(0.002)

    def _counted(self) -> Message:
        if self._meter.nacks:
            raise RuntimeError(f"a proxy refused: {self._meter.nacks[0]}")
        return {"bytes": self._meter.sent_bytes, "messages": self._meter.sent_messages, "streams": self._meter.streams}


async def main() -> None:
    """Compile the world and answer until the parent ends."""
    controller = Controller(arguments())
    handlers = ("about", "open", "close", "settled", "flips", "write", "revocations", "shifts", "burst")
    await serve({name: getattr(controller, name) for name in handlers})


if __name__ == "__main__":
    asyncio.run(main())
