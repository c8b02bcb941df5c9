"""What does not grow with the mesh: P3, P5, P13, P14, and P11 on the same Envoy.

A large and a small world, each with its controller and its Envoy, take turns; so do the same two with one
RouteConfiguration for everything, which is the layout that this design avoids.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from benchmarks import failures
from benchmarks.bars import Bar, Part, percentile, ratio
from benchmarks.bench import Bench, measured, until_answering
from benchmarks.channel import Child
from benchmarks.convergence import Flips, Stage
from benchmarks.worlds import World
from tests.live.envoys import EnvoyProcess

ONE_TABLE_FLIPS = 20
ONE_TABLE_GAP = 0.2


@dataclass(frozen=True, slots=True)
class _Arm:
    """A world, its controller, one Envoy and its probe."""

    stage: Stage
    envoy: EnvoyProcess
    cold_bytes: float


@contextmanager
def _arm(bench: Bench, world: World, kind: str) -> Iterator[_Arm]:
    with bench.controller(world) as controller:
        port = int(controller.ask("open", kind=kind)["port"])
        with (
            bench.envoys(world, port, 1) as envoys,
            bench.probe(world.dial_address(0, 0), world.port, controller) as probe,
        ):
            cold = float(controller.ask("settled", streams=1, quiet=1.0)["bytes"])
            until_answering(probe, "a")
            yield _Arm(Stage(bench, world, controller, probe, port, 1), envoys[0], cold)


def run(bench: Bench, wanted: frozenset[str]) -> Iterator[Bar]:
    """Measure what is wanted of P3, P5, P11, P13 and P14."""
    plan = bench.plan
    with ExitStack() as stack:
        bench.say(f"starting a world of {plan.large} Services")
        large = stack.enter_context(_arm(bench, bench.world(plan.large, probers=2, scoped=1), "product"))
        if "P3" in wanted:
            yield from _locality(bench, large)
        if "P5" in wanted:
            yield _bytes(large)
        if "P13" in wanted:
            yield _statistics(bench, large)
        if "P14" in wanted:
            yield _scope(bench, large)
        if "P11" in wanted:
            yield from failures.restart(bench, large.stage, large.cold_bytes)


def _locality(bench: Bench, large: _Arm) -> Iterator[Bar]:
    plan = bench.plan
    with ExitStack() as stack:
        bench.say("P3: starting the other worlds")
        small = stack.enter_context(_arm(bench, bench.world(plan.small), "product"))
        one_large = stack.enter_context(_arm(bench, bench.world(plan.large), "one-table"))
        one_small = stack.enter_context(_arm(bench, bench.world(plan.small), "one-table"))
        arms = {"large": large, "small": small, "one large": one_large, "one small": one_small}
        blocks: dict[str, list[Flips]] = {name: [] for name in arms}
        for number in range(plan.rounds):
            bench.say(f"P3 round {number + 1} of {plan.rounds}")
            for name, arm in arms.items():
                one = name.startswith("one")
                count, gap = (ONE_TABLE_FLIPS // 2, ONE_TABLE_GAP) if one else (plan.flips, plan.gap)
                blocks[name].append(arm.stage.flips(count, gap))

    def part(what: str, unit: str, values: dict[str, list[float]]) -> Part:
        grown = ratio(values["large"], values["small"])
        table = ratio(values["one large"], values["one small"])
        middle = {name: percentile(found, 0.5) for name, found in values.items()}
        note = (
            f"{middle['large']:.4g} {unit} against {middle['small']:.4g}; "
            f"one table {middle['one large']:.4g} against {middle['one small']:.4g}"
        )
        return Part(f"{what} (control: one table)", grown, 1.3, table, "x", note)

    yield Bar(
        "P3",
        f"one weight change at {plan.large} Services, multiple of {plan.small}",
        (
            part("in effect, p50", "ms", {name: [b.p50 for b in found] for name, found in blocks.items()}),
            part("server CPU", "ms", {name: [b.cpu for b in found] for name, found in blocks.items()}),
            part("bytes", "B", {name: [b.bytes for b in found] for name, found in blocks.items()}),
        ),
    )


def _bytes(large: _Arm) -> Bar:
    block = large.stage.flips(20, large.stage.bench.plan.gap)
    full = large.cold_bytes
    return Bar(
        "P5",
        "bytes to a proxy for one weight change",
        (
            Part("bytes (control: full state)", block.bytes, 600, full, "B"),
            Part("share of full state", block.bytes / full, 1 / 300, 1.0, "x", f"1/{full / block.bytes:.0f}"),
        ),
        f"{large.stage.world.services} Services",
    )


def _statistics(bench: Bench, large: _Arm) -> Bar:
    """Compare two Envoys of one controller; while one is measured the other is frozen."""
    plan, world = bench.plan, large.stage.world
    rounds = plan.rounds
    count = -(-plan.tails // rounds)
    name, account, number = world.pods()[1]
    found: dict[str, list[float]] = {"shipped": [], "default": []}
    bench.say("P13: starting an Envoy with default statistics")
    with (
        bench.envoy(account, name, large.stage.port, default_statistics=True) as other,
        bench.probe(world.dial_address(number, 0), world.port, large.stage.controller) as probe,
    ):
        large.stage.controller.ask("settled", streams=2, quiet=1.0)
        until_answering(probe, "a")
        for turn in range(rounds):
            bench.say(f"P13 round {turn + 1} of {rounds}")
            for kind, watched, frozen in (
                ("shipped", large.stage.probe, other),
                ("default", probe, large.envoy),
            ):
                frozen.freeze()
                found[kind].extend(_delays(watched, large.stage.controller, count + count % 2, plan.gap))
                frozen.thaw()
                large.stage.controller.ask("settled", streams=2)
    middle = {kind: percentile(values, 0.5) for kind, values in found.items()}
    tail = {kind: percentile(values, 0.99) for kind, values in found.items()}  # of all rounds: a flush is 1 % of time
    spread = {kind: tail[kind] / middle[kind] for kind in found}
    note = "; ".join(f"{kind}: p50 {middle[kind]:.1f} ms, p99 {tail[kind]:.1f}" for kind in found)
    return Bar(
        "P13",
        f"p99 / p50 of in effect at {world.services} Services",
        (Part("spread (control: default statistics)", spread["shipped"], 5, spread["default"], "x", note),),
        f"{len(found['shipped'])} changes each",
    )


def _delays(probe: Child, controller: Child, count: int, gap: float) -> tuple[float, ...]:
    told, saw = measured(probe, controller, "flips", count=count, gap=gap, probed=True)
    return Flips.of(told, saw, 1).in_effect


def _scope(bench: Bench, large: _Arm) -> Bar:
    world = large.stage.world
    name, account, _ = world.pods()[world.probers]
    bench.say("P14: starting a scoped Envoy")
    with bench.envoy(account, name, large.stage.port) as scoped:
        large.stage.controller.ask("settled", streams=2, quiet=1.0)
        small, whole = scoped.memory(), large.envoy.memory()
    return Bar(
        "P14",
        f"Envoy memory, scoped to {world.scoped_services} of {world.services} Services",
        (
            Part(
                "share of an unscoped proxy",
                small / whole,
                1 / 8,
                1.0,
                "x",
                f"{small / 1e6:.1f} MB against {whole / 1e6:.1f} MB allocated",
            ),
        ),
    )
