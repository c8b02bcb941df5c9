"""What a change costs the server with many proxies: P4.

The proxies are fake (see `fleet`): 40 real Envoys with 1,000 Services each would need both cores for themselves, and
only the server's CPU is measured.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.bars import Bar, Part, median, ratio
from benchmarks.bench import Bench
from benchmarks.channel import Child
from benchmarks.worlds import NAMESPACE, PROBER

WHOLE_FLIPS = 6
WHOLE_GAP = 0.3


def run(bench: Bench) -> Iterator[Bar]:
    """Measure P4."""
    plan = bench.plan
    count = plan.fake_proxies
    world = bench.world(plan.large)
    given = {"certificates": str(bench.directory), "account": PROBER}
    ours: list[float] = []
    theirs: list[float] = []
    bench.say(f"P4: {count} fake proxies, {plan.large} Services")
    with bench.controller(world) as controller, Child("fleet", given) as fleet:
        for number in range(plan.few):
            bench.say(f"P4 round {number + 1} of {plan.few}")
            for kind, protocol, flips, gap, found in (
                ("product", "delta", max(20, plan.flips // 2), plan.gap, ours),
                ("whole", "whole", WHOLE_FLIPS, WHOLE_GAP, theirs),
            ):
                port = controller.ask("open", kind=kind)["port"]
                fleet.ask("open", protocol=protocol, port=port, count=count, node=f"{NAMESPACE}/{PROBER}-0")
                controller.ask("settled", streams=count, quiet=1.0)
                told = controller.ask("flips", count=flips, gap=gap, streams=count)
                found.append(1e3 * told["cpu"] / flips)
                fleet.ask("received")
                fleet.ask("close")
                controller.ask("close")
    note = f"{median(ours):.1f} ms of CPU for each change against {median(theirs):.0f}"
    yield Bar(
        "P4",
        f"server CPU for each change, {count} proxies, {plan.large} Services",
        (Part("share of full state of the world, built for each stream", ratio(ours, theirs), 0.1, 1.0, "x", note),),
        f"{count} fake delta clients in a process of their own stand in for Envoys",
    )
