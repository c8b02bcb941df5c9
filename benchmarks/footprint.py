"""What the configuration costs the controller in memory: P6, measured in processes of its own (see `memory`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from benchmarks.bars import Bar, Part
from benchmarks.bench import Bench
from benchmarks.channel import Child


def run(bench: Bench) -> Iterator[Bar]:
    """Measure P6."""
    services = bench.plan.huge
    world, file = bench.world(services), str(bench.directory / "resources")
    bench.say(f"P6: compiling {services} Services")
    with Child("memory", {"world": asdict(world), "file": file}) as child:
        ours = child.ask("product")
    with Child("memory", {"file": file}) as child:
        theirs = child.ask("messages")
    config = ours["published"] - ours["mesh"]
    messages = theirs["published"] - theirs["start"]
    quick = " (the quick run; a full run has 5,000)" if bench.plan.quick else ""
    yield Bar(
        "P6",
        f"controller memory for the configuration of {services} Services",
        (
            Part(
                "share of the same as protobuf objects",
                config / messages,
                1 / 5,
                1.0,
                "x",
                f"{config / 1e6:.0f} MB against {messages / 1e6:.0f} MB; {ours['bytes'] / 1e6:.0f} MB of it are bodies",
            ),
        ),
        f"{ours['resources']} resources{quick}; whole process {ours['published'] / 1e6:.0f} MB, of it Snapshot and "
        f"Mesh {(ours['mesh'] - ours['start']) / 1e6:.0f} MB; compiled in {ours['seconds']:.1f} s",
    )
