"""The product against the oracle, on real Envoys: every request of random worlds meets what the oracle says.

`--oracle-decisions N` sets how many (2,000 by default); tests/oracle/README.md says how to look at a failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.live.oracle_fleet import IDENTITIES, OracleFleet, whole
from tests.oracle import build
from tests.oracle.budget import worlds_for
from tests.oracle.compare import Observe, compare, reduced, told
from tests.oracle.evaluator import Options
from tests.oracle.worlds import World, worlds

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as running:
        yield running


@pytest.fixture(scope="module")
def envoys(runner: asyncio.Runner) -> Iterator[OracleFleet]:
    stack = contextlib.AsyncExitStack()
    network = IPv4Network(f"127.{100 + os.getpid() % 100}.0.0/16")
    yield runner.run(OracleFleet.open(stack, network))
    runner.run(stack.aclose())


def test_real_envoys_do_what_the_oracle_says(
    runner: asyncio.Runner, envoys: OracleFleet, request: pytest.FixtureRequest
) -> None:
    decisions, wanted = 0, int(request.config.getoption("--oracle-decisions"))

    def prepare(objects: Sequence[build.Object], options: Options) -> Observe:
        runner.run(envoys.put(objects, options))
        return lambda asked: runner.run(envoys.see(asked))

    @settings(
        max_examples=2 * worlds_for(request.config),  # an upper bound: `check` stops asking when there are enough
        phases=[Phase.explicit, Phase.reuse, Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(worlds(IDENTITIES))
    def check(world: World) -> None:
        nonlocal decisions
        if decisions >= wanted:
            return
        objects = whole(world.objects)
        wrong = compare(prepare(objects, world.options), objects, world.requests, world.options)
        if wrong:
            least = reduced(lambda fewer: prepare(fewer, world.options), wrong[0])
            pytest.fail(f"{world}\n{told([least, *wrong[1:]])}")
        decisions += len(world.requests)

    check()
    assert decisions >= wanted, f"only {decisions} of {wanted} decisions were made"
    print(f"{decisions} decisions, 0 disagreements")  # noqa: T201 - shown by `pytest -s` and in the report of CI
