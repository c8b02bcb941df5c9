"""Leadership lost in four ways, many times and with the real times: the audit log shows one writer after the other."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from contextlib import AsyncExitStack
from functools import partial

import pytest

from tests.apiserver.lease_candidate import LOST
from tests.apiserver.test_lease import TIMING, Candidates, assert_no_overlap, candidates, one_leads
from tests.apiserver.test_lease import until as eventually
from tests.cluster.control_plane import PORT
from tests.cluster.fault_proxy import ByteProxy, Hang

__all__ = ["candidates"]

REAL = "15/10/2"
LOSSES = int(os.environ.get("SMI_LEASE_LOSSES", "8"))
"""Fifty is the bar; each takes as long as a Lease."""
MINUTE = 60.0


async def start(made: Candidates, stack: AsyncExitStack, timing: str, skew: float = 0.0) -> tuple[str, ByteProxy]:
    """Start a candidate whose connection can be made to hang."""
    proxy = await stack.enter_async_context(ByteProxy(made.plane.host, PORT))
    return made.start(server=proxy.url, timing=timing, skew=skew), proxy


@pytest.mark.slow
@pytest.mark.parametrize(("timing", "losses"), [(TIMING, LOSSES), (REAL, 4)], ids=["many", "real times"])
async def test_f13_leadership_lost_in_four_ways_never_has_two_writers(
    candidates: Candidates, timing: str, losses: int
) -> None:
    """Kill, freeze and hang end the leader; the heir of every fourth has a clock that is a minute ahead."""
    took = []
    async with AsyncExitStack() as stack:
        proxies = dict([await start(candidates, stack, timing)])
        for number, way in zip(range(losses), itertools.cycle(("kill", "freeze", "hang", "skew")), strict=False):
            leader = await one_leads(candidates)
            name, proxy = await start(candidates, stack, timing, MINUTE if way == "skew" else 0.0)
            proxies[name] = proxy
            process, began = candidates.running[leader], time.monotonic()
            if way == "freeze":
                candidates.signal(leader, signal.SIGSTOP)
            elif way == "hang":
                await proxies[leader].set(Hang())
            else:
                candidates.signal(leader, signal.SIGKILL)
            await eventually(partial(candidates.is_led_by, name))
            took.append(time.monotonic() - began)
            if way == "freeze":
                candidates.signal(leader, signal.SIGCONT)
            ended = await asyncio.to_thread(process.wait, 60)
            assert ended == (LOST if way in {"freeze", "hang"} else -signal.SIGKILL), (number, way)
        assert_no_overlap(candidates)
        assert len(candidates.writers()) == losses + 1
    print(f"{losses} losses with {timing} s: the next one led {max(took):.1f} s later at the latest")  # noqa: T201
