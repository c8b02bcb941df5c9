"""How soon a change is in effect: P1 with one Envoy, P2 with many, P12 with and without coalescing.

Product and controls are arms of one controller process that take turns on one port, so the same Envoys get their
configuration now from one, now from the other.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.bars import Bar, Part, delays, median, percentile, ratio
from benchmarks.bench import Bench, measured, until_answering
from benchmarks.channel import Child, Message
from benchmarks.worlds import World

GUARD_MS = 10.0
BURST = 1000
BURST_SECONDS = 1.0
TIMER_GAP = 0.25


@dataclass(frozen=True, slots=True)
class Stage:
    """A controller with Envoys and a probe on the first of them."""

    bench: Bench
    world: World
    controller: Child
    probe: Child
    port: int
    envoys: int

    def switch(self, kind: str) -> None:
        """Let another arm serve the same Envoys, and wait until all of them follow it."""
        self.controller.ask("close")
        self.controller.ask("open", kind=kind, port=self.port)
        self.controller.ask("settled", streams=self.envoys)
        until_answering(self.probe, "a")

    def flips(self, count: int, gap: float) -> Flips:
        """Move the probed split to and fro."""
        even = 2 * max(1, count // 2)
        told, saw = measured(
            self.probe, self.controller, "flips", count=even, gap=gap, streams=self.envoys, probed=True
        )
        return Flips.of(told, saw, self.envoys)


@dataclass(frozen=True, slots=True)
class Flips:
    """What one block of changes showed; times in ms, CPU and bytes for each change (bytes: and each proxy)."""

    in_effect: tuple[float, ...]
    last_acks: tuple[float, ...]
    cpu: float
    bytes: float

    @classmethod
    def of(cls, told: Message, saw: Message, proxies: int) -> Flips:
        """Put together what the controller and the probe say."""
        writes = [(int(when), str(state)) for when, state in told["writes"]]
        seen = [(int(when), str(state)) for when, state in saw["seen"]]
        count = len(writes)
        return cls(
            tuple(delays(writes, seen)),
            tuple(told["last_acks"]),
            1e3 * told["cpu"] / count,
            told["bytes"] / count / proxies,
        )

    @property
    def p50(self) -> float:
        """Return the median time until in effect."""
        return percentile(self.in_effect, 0.5)

    @property
    def last_ack_p50(self) -> float:
        """Return the median time until the last proxy has acknowledged."""
        return percentile(self.last_acks, 0.5)


@contextmanager
def stage(bench: Bench, envoys: int) -> Iterator[Stage]:
    """Start a world of the small size with so many Envoys, served by the product."""
    world = bench.world(bench.plan.small, probers=envoys)
    with bench.controller(world) as controller:
        port = int(controller.ask("open", kind="product")["port"])
        with bench.envoys(world, port, envoys), bench.probe(world.dial_address(0, 0), world.port, controller) as probe:
            controller.ask("settled", streams=envoys)
            until_answering(probe, "a")
            yield Stage(bench, world, controller, probe, port, envoys)


def one_envoy(on: Stage) -> Iterator[Bar]:
    """Measure P1."""
    plan = on.bench.plan
    product: list[Flips] = []
    control: list[Flips] = []
    for number in range(plan.rounds):
        on.bench.say(f"P1 round {number + 1} of {plan.rounds}")
        for kind, found in (("product", product), ("ready", control)):
            on.switch(kind)
            found.append(on.flips(plan.flips, plan.gap))
    on.switch("directory")
    saved = on.flips(plan.flips, plan.gap).p50
    ours, floor = median(block.p50 for block in product), median(block.p50 for block in control)
    everything = [delay for block in product for delay in block.in_effect]
    note = f"p50 {ours:.2f} ms (p99 {percentile(everything, 0.99):.1f}) against {floor:.2f} ms"
    times = ratio([block.p50 for block in product], [block.p50 for block in control])
    yield Bar(
        "P1",
        "write on the fake API to in effect, 1 Envoy, p50",
        (
            Part("multiple of the bare loop", times, 2.0, 1.0, "x", note, reference=True),
            Part("guard", ours, GUARD_MS, floor, "ms", "absolute", reference=True),
        ),
        f"{plan.small} Services, both arms serve the same Envoy; from saving a file, for information: {saved:.2f} ms",
    )


def many_envoys(on: Stage) -> Iterator[Bar]:
    """Measure P2."""
    plan = on.bench.plan
    product: list[Flips] = []
    control: list[Flips] = []
    count = max(20, plan.flips // 2)
    for number in range(plan.rounds):
        on.bench.say(f"P2 round {number + 1} of {plan.rounds}")
        for kind, found in (("product", product), ("ready", control)):
            on.switch(kind)
            found.append(on.flips(count, plan.gap))
    ours, floor = median(b.last_ack_p50 for b in product), median(b.last_ack_p50 for b in control)
    effect, floor_effect = median(b.p50 for b in product), median(b.p50 for b in control)
    times = ratio([b.last_ack_p50 for b in product], [b.last_ack_p50 for b in control])
    note = f"last ACK p50 {ours:.1f} ms against {floor:.1f}; in effect {effect:.1f} ms against {floor_effect:.1f}"
    yield Bar(
        "P2",
        f"the same with {on.envoys} Envoys, last ACK, p50",
        (Part("multiple of the bare loop", times, 1.5, 1.0, "x", note, reference=True),),
        f"{on.envoys} real Envoys" + (" (the quick run; a full run has 40)" if plan.quick else ""),
    )


def coalescing(on: Stage) -> Iterator[Bar]:
    """Measure P12."""
    plan = on.bench.plan
    product: list[Flips] = []
    off: list[Flips] = []
    ours: list[float] = []
    for number in range(plan.few):
        on.bench.say(f"P12 round {number + 1} of {plan.few}")
        for kind, found in (("product", product), ("immediate", off)):
            on.switch(kind)
            found.append(on.flips(plan.flips, plan.gap))
            if kind == "product":
                ours.append(_burst(on))
    theirs = _burst(on)
    on.switch("timer")
    timer = on.flips(10, TIMER_GAP)
    times = ratio([block.p50 for block in product], [block.p50 for block in off])
    isolated, without = median(block.p50 for block in product), median(block.p50 for block in off)
    yield Bar(
        "P12",
        "cost of coalescing",
        (
            Part(
                "isolated change, multiple of coalescing off (control: 100 ms timer)",
                times,
                1.2,
                timer.p50 / without,
                "x",
                f"p50 {isolated:.2f} ms against {without:.2f}; timer {timer.p50:.0f}",
            ),
            Part(
                f"pushes to a proxy for {BURST} changes in {BURST_SECONDS:.0f} s (control: coalescing off)",
                median(ours),
                50,
                theirs,
                "pushes",
            ),
        ),
    )


def _burst(on: Stage) -> float:
    """Return the pushes to each proxy for a burst of changes; for a second of it, if the machine needs longer."""
    told = on.controller.ask("burst", count=BURST, seconds=BURST_SECONDS)
    until_answering(on.probe, "a")
    time.sleep(0.2)
    pushes = float(told["messages"]) / on.envoys
    return pushes / max(1.0, float(told["took"]) / BURST_SECONDS)
