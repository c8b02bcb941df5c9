"""How soon a right that is taken away is gone on a connection that lives: P10.

The probe is a client with a certificate of its own that speaks to the guarded server's Envoy directly, over one kept
connection. The control has the same rules inside the Listener; there a revocation reaches a live connection only when
Envoy drains it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from benchmarks.bars import Bar, Part, Seen, delays, median, percentile
from benchmarks.bench import Bench, measured, until_answering
from benchmarks.channel import Child
from benchmarks.worlds import GUARDED, PROBER

SERVICES = 10
REVOCATIONS = 100
CONTROL_WAIT = 30.0


def run(bench: Bench) -> Iterator[Bar]:
    """Measure P10."""
    plan = bench.plan
    world = bench.world(SERVICES)
    guarded = world.guarded_pod
    bench.echo.ask("listen", name="a", address=world.app_address(guarded), port=world.port)
    bench.say("P10: starting the guarded server's Envoy")
    rounds: list[list[float]] = []
    inside: list[float] = []
    reconnects = 0
    with bench.controller(world) as controller:
        port = int(controller.ask("open", kind="guarding")["port"])
        with (
            bench.envoy(GUARDED, GUARDED, port) as _,
            bench.probe(world.proxy_address(guarded), world.port, controller, account=PROBER) as probe,
        ):
            controller.ask("settled", streams=1)
            until_answering(probe, "a")
            for number in range(plan.rounds):
                bench.say(f"P10 round {number + 1} of {plan.rounds}")
                before = probe.ask("opened")["connections"]
                found, connections = _live(probe, controller, -(-REVOCATIONS // plan.rounds), plan.gap)
                rounds.append(found)
                reconnects += connections - before
                _switch(controller, probe, port, "rules-inside")
                inside.append(_inside(probe, controller))
                _switch(controller, probe, port, "guarding")
    live = [delay for block in rounds for delay in block]
    ours, theirs = median(percentile(block, 0.99) for block in rounds), median(inside)
    yield Bar(
        "P10",
        "revoked TrafficTarget on a live keep-alive connection, p99",
        (
            Part(
                "time to the first 403 (control: rules inside the Listener)",
                ours,
                50,
                theirs,
                "ms",
                f"p50 {percentile(live, 0.5):.1f} ms, max {max(live):.1f}, {len(live)} revocations, "
                f"{reconnects} reconnects; control {', '.join(f'{value:.0f}' for value in inside)} ms",
            ),
            Part("share of the control", ours / theirs, 1 / 20, 1.0, "x"),
        ),
    )


def _live(probe: Child, controller: Child, count: int, gap: float) -> tuple[list[float], int]:
    told, saw = measured(probe, controller, "revocations", count=count, gap=gap)
    writes: list[Seen] = [(int(when), str(state)) for when, state in told["writes"]]
    seen: list[Seen] = [(int(when), str(state)) for when, state in saw["seen"]]
    found = delays(writes, seen)
    return [delay for delay, (_, state) in zip(found, writes, strict=True) if state == "403"], int(saw["connections"])


def _inside(probe: Child, controller: Child) -> float:
    """Revoke once, and wait until the live connection feels it."""
    written = int(controller.ask("write", state="403")["written"])
    seen = probe.ask("until", state="403", seconds=CONTROL_WAIT)["seen"]
    controller.ask("write", state="a")
    probe.ask("reconnect")
    return math.inf if seen is None else (int(seen) - written) / 1e6


def _switch(controller: Child, probe: Child, port: int, kind: str) -> None:
    controller.ask("close")
    controller.ask("open", kind=kind, port=port)
    controller.ask("settled", streams=1)
    probe.ask("reconnect")
    until_answering(probe, "a")
