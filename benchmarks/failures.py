"""Requests that are lost while routes change: P9, and P11 while the adapter is away."""

from __future__ import annotations

import time
from collections.abc import Iterator

from benchmarks.bars import Bar, Part, median
from benchmarks.bench import Bench, until_answering
from benchmarks.channel import Message
from benchmarks.convergence import Stage

FLIPS = 200
SHIFTS = 60
SHIFT_GAP = 0.1
AWAY = 1.0


def route_changes(on: Stage) -> Iterator[Bar]:
    """Measure P9."""
    plan = on.bench.plan
    product: list[Message] = []
    control: list[Message] = []
    target = on.bench.echo_port("n")
    with on.bench.load(on.world.dial_address(0, 0), on.world.port) as load:
        for number in range(plan.few):
            on.bench.say(f"P9 round {number + 1} of {plan.few}")
            on.switch("product")
            load.ask("start")
            share = -(-FLIPS // plan.few)
            on.controller.ask("flips", count=share + share % 2, gap=plan.gap)
            on.controller.ask("shifts", count=-(-SHIFTS // plan.few), gap=SHIFT_GAP, port=target)
            product.append(load.ask("stop"))
            on.switch("wrong-order")
            load.ask("start")
            on.controller.ask("shifts", count=-(-SHIFTS // plan.few) // 2, gap=SHIFT_GAP, port=target)
            control.append(load.ask("stop"))
    lost, total = (sum(int(block[name]) for block in product) for name in ("failed", "total"))
    wrong, wrong_total = (sum(int(block[name]) for block in control) for name in ("failed", "total"))
    yield Bar(
        "P9",
        f"failed requests in {FLIPS} flips and {SHIFTS} add/shift/remove",
        (
            Part(
                "requests without a 200 (control: wrong order)",
                lost,
                0,
                wrong,
                "requests",
                f"{lost} of {total} against {wrong} of {wrong_total} in {SHIFTS // 2} add/shift/remove",
            ),
        ),
        f"{_rate(product):.0f} requests/s over 8 kept connections; what else came: {_others(product) or 'nothing'}",
    )


def restart(bench: Bench, on: Stage, cold_bytes: float) -> Iterator[Bar]:
    """Measure P11; ends the stage's controller."""
    rounds = 1 if bench.plan.quick else bench.plan.few
    resent: list[float] = []
    lost = total = 0
    seconds: list[float] = []
    on.controller.kill()
    with bench.load(on.world.dial_address(0, 0), on.world.port) as load:
        for number in range(rounds):
            bench.say(f"P11 round {number + 1} of {rounds}")
            load.ask("start")
            time.sleep(AWAY)
            with bench.controller(on.world) as controller:
                began = time.monotonic()
                controller.ask("open", kind="product", port=on.port)
                resent.append(float(controller.ask("settled", streams=on.envoys)["bytes"]))
                seconds.append(time.monotonic() - began)
                until_answering(on.probe, "a")
            counts = load.ask("stop")
            lost, total = lost + int(counts["failed"]), total + int(counts["total"])
    yield Bar(
        "P11",
        "restart with the same input",
        (
            Part(
                "bytes sent again, share of a cold start",
                median(resent) / cold_bytes,
                0.01,
                1.0,
                "x",
                f"{median(resent):.0f} of {cold_bytes:.0f} bytes",
            ),
            Part(
                "failed requests meanwhile (no control: nothing to lose)",
                lost,
                0,
                0,
                "requests",
                f"{lost} of {total}",
                reference=True,
            ),
        ),
        f"{on.world.services} Services, {on.envoys} Envoy, connected again after {median(seconds):.1f} s",
    )


def _rate(blocks: list[Message]) -> float:
    return sum(float(block["total"]) for block in blocks) / sum(float(block["seconds"]) for block in blocks)


def _others(blocks: list[Message]) -> str:
    found: dict[str, int] = {}
    for block in blocks:
        for status, count in block["counts"].items():
            if status != "200":
                found[status] = found.get(status, 0) + int(count)
    return ", ".join(f"{count} x {status}" for status, count in sorted(found.items()))
