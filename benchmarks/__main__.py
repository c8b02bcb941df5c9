"""The command: `python -m benchmarks [--quick] [--json] [--only P1,P9] [--out FILE] [--strict] [--write-docs]`.

The table goes to stdout, progress to stderr. It exits with 0 if everything could be measured, whether or not bars are
met (`--strict`: 1 if one is missed), and with 2 if not.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks import convergence, failures, fanout, footprint, mesh_size, pod_list, report, revocation
from benchmarks.bars import Bar
from benchmarks.bars import report as as_json
from benchmarks.bench import Bench, Plan

ALL = ("P1", "P2", "P3", "P4", "P5", "P6", "P8", "P9", "P10", "P11", "P12", "P13", "P14", "K1", "K2", "K3")


def main() -> int:
    """Run; return the exit status."""
    options = _parser().parse_args()
    wanted = frozenset(options.only or ALL)
    plan = Plan.of(quick=options.quick)
    began = time.monotonic()
    machine = report.machine()
    if float(machine["load"]) > 0.5 * float(machine["cores"]):
        print(f"the machine is busy (load {machine['load']}): expect tails, not a steady picture", file=sys.stderr)
    bars, failed = measure(plan, wanted)
    about = {
        **machine,
        "quick": plan.quick,
        "seconds": round(time.monotonic() - began),
        "failed": failed,
    }
    text = json.dumps(as_json(bars, **about), indent=2, allow_nan=False, default=str)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    if options.write_docs:
        report.write(report.markdown(bars, _about(plan, about)))
    print(text if options.json else report.table(bars))
    for name, problem in failed.items():
        print(f"{name} could not be measured: {problem}", file=sys.stderr)
    missed = [bar.id for bar in bars if not bar.met]
    print(f"{len(bars) - len(missed)} of {len(bars)} bars met; missed: {', '.join(missed) or 'none'}", file=sys.stderr)
    return 2 if failed else int(options.strict and bool(missed))


def measure(plan: Plan, wanted: frozenset[str]) -> tuple[list[Bar], dict[str, str]]:
    """Measure the wanted bars; what fails to be measured does not keep the others from it."""
    bars: list[Bar] = []
    failed: dict[str, str] = {}
    with Bench(plan) as bench:
        for names, run in (
            ({"P1", "P12", "P9"}, _one_envoy),
            ({"P2"}, _many_envoys),
            ({"P3", "P5", "P13", "P14", "P11"}, mesh_size.run),
            ({"P4"}, lambda bench, _: fanout.run(bench)),
            ({"P6"}, lambda bench, _: footprint.run(bench)),
            ({"P8"}, lambda bench, _: pod_list.run(bench)),
            ({"P10"}, lambda bench, _: revocation.run(bench)),
            ({"K1", "K2", "K3"}, _cluster),
        ):
            asked = wanted & names
            if not asked:
                continue
            try:
                for bar in run(bench, asked):
                    head = report.figure(bar.parts[0].value, bar.parts[0].unit)
                    bench.say(f"{bar.id}: {head}, {'met' if bar.met else 'MISSED'}")
                    bars.append(bar)
            except Exception as problem:  # noqa: BLE001 - the other bars are still worth measuring
                traceback.print_exc()
                first = (str(problem).splitlines() or [""])[0]
                failed |= {name: f"{type(problem).__name__}: {first}" for name in asked - {bar.id for bar in bars}}
    return sorted(bars, key=lambda bar: ALL.index(bar.id)), failed


def _one_envoy(bench: Bench, wanted: frozenset[str]) -> Iterator[Bar]:
    bench.say("starting one Envoy")
    with convergence.stage(bench, 1) as on:
        if "P1" in wanted:
            yield from convergence.one_envoy(on)
        if "P12" in wanted:
            yield from convergence.coalescing(on)
        if "P9" in wanted:
            yield from failures.route_changes(on)


def _many_envoys(bench: Bench, _wanted: frozenset[str]) -> Iterator[Bar]:
    bench.say(f"P2: starting {bench.plan.envoys} Envoys")
    with convergence.stage(bench, bench.plan.envoys) as on:
        yield from convergence.many_envoys(on)


def _cluster(bench: Bench, wanted: frozenset[str]) -> Iterator[Bar]:
    from benchmarks import cluster  # noqa: PLC0415 - the programs of a cluster need not be built for the others

    yield from cluster.run(bench, wanted)


def _about(plan: Plan, about: Mapping[str, object]) -> str:
    kind = "quick" if plan.quick else "full"
    return (
        f"A {kind} run of {about['seconds']} s: {about['python']}, {about['system']}, {about['cores']} cores "
        f"(load {about['load']} before it)."
    )


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip().upper() for name in text.split(",") if name.strip())
    unknown = [name for name in names if name not in ALL]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(ALL)}")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure, each bar beside its control.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and Envoys: under 4 minutes on 2 cores")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--only", type=_names, metavar="P1,P9", help="measure these bars only")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the JSON object to a file")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a bar is missed")
    parser.add_argument("--write-docs", action="store_true", help="write what was measured into docs/performance.md")
    return parser


if __name__ == "__main__":
    sys.exit(main())
