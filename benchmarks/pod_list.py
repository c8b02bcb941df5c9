"""The list of all Pods, read by us and by the typed client: P8, measured in processes of its own (see `pods`)."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import pods
from benchmarks.bars import Bar, Part
from benchmarks.bench import Bench
from benchmarks.channel import Child


def run(bench: Bench) -> Iterator[Bar]:
    """Measure P8."""
    number = 2_000 if bench.plan.quick else 10_000
    folder = bench.directory / "pods"
    folder.mkdir()
    size = pods.write(folder, number)
    bench.say(f"P8: reading {number} Pods of {size // number} bytes")
    with Child("pods", {"folder": str(folder)}) as child:
        ours = child.ask("product")
    with Child("pods", {"folder": str(folder)}) as child:
        theirs = child.ask("typed")
    quick = " (the quick run; a full run has 10,000)" if bench.plan.quick else ""
    yield Bar(
        "P8",
        f"a list of {number} Pods: read and kept",
        (
            Part(
                "share of the typed client's CPU time",
                ours["seconds"] / theirs["seconds"],
                1 / 20,
                1.0,
                "x",
                f"{ours['seconds']:.2f} s against {theirs['seconds']:.1f} s",
            ),
            Part(
                "share of the memory that it keeps",
                ours["kept"] / theirs["kept"],
                1 / 10,
                1.0,
                "x",
                f"{ours['kept'] / 1e6:.1f} MB against {theirs['kept'] / 1e6:.0f} MB",
            ),
        ),
        f"{ours['objects']} Pods of {size / number / 1000:.1f} kB in pages of {pods.PAGE}{quick}",
    )
