"""The demo itself: the bookstore's files in a folder of their own, the mesh that serves them, and what to show.

`play` is for people: a live table, the file to edit, what each edit led to. `check` is for machines: it performs the
three experiments itself on real traffic, prints what it measured, and says whether everything was as it should be.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from smi_adapter.app import until_stopped
from smi_adapter.demo.experiments import EXPERIMENTS, START, Experiment, nothing_fails
from smi_adapter.demo.table import lines, rows, table
from smi_adapter.demo.traffic import SOLD, Traffic, Window
from smi_adapter.findings import Finding, Severity
from smi_adapter.local import LocalMesh, LocalOptions
from smi_adapter.runfolder import state_folder
from smi_adapter.settings import Settings
from smi_adapter.sources import Location

FILE = "try-me.yaml"
START_SECONDS = 10.0
"""The promise: traffic flows within this time."""
PATIENCE = 60.0
EFFECT_SECONDS = 10.0
MOMENT = 0.25
SETTLE = 0.5
"""Seconds between the effect of an edit and the measurement: what was on its way arrives and is reported."""
MEASURE = 3.0
REFRESH = 0.5
WINDOW = 2.0
"""Seconds of traffic that the table shows."""


Told: TypeAlias = Callable[[Finding, Location | None], str]
"""How a finding is put into words; the command line's, so that the demo tells it as `analyze` does."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A running bookstore."""

    folder: Path
    mesh: LocalMesh
    traffic: Traffic
    told: Told

    @property
    def file(self) -> Path:
        """Return the file to play with."""
        return self.folder / FILE

    def wrong(self) -> tuple[Finding, ...]:
        """Return what is wrong at present."""
        return tuple(item for item in self.mesh.findings() if item.severity is not Severity.INFO)

    def text(self, item: Finding) -> str:
        """Return a finding as `analyze` prints it, with file, line and field."""
        return self.told(item, self.mesh.source.location(item.subject, item.field))


def example() -> Path:
    """Return where the bookstore's files are: in the package, or in a checkout."""
    packaged = Path(__file__).with_name("_bookstore")
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "examples" / "bookstore"


@contextlib.asynccontextmanager
async def staged(settings: Settings, told: Told) -> AsyncIterator[Stage]:
    """Set the stage in a folder of its own, which goes with it; every process has ended when this ends."""
    with tempfile.TemporaryDirectory(prefix="smi-adapter-demo-") as name:
        folder = Path(name)
        for path in sorted(example().glob("*.yaml")):
            shutil.copy(path, folder / path.name)
        traffic = Traffic()
        await traffic.start()
        state = state_folder(folder)
        environment = {"SMI_DEMO_STATS": traffic.address}
        options = LocalOptions(
            settings, state, environment=environment, api=("127.0.0.1", 0), api_namespace="bookstore"
        )
        try:
            async with LocalMesh(folder, options).running() as mesh:
                yield Stage(folder, mesh, traffic, told)
        finally:
            traffic.stop()
            shutil.rmtree(state, ignore_errors=True)


# ------------------------------------------------------------------------------------------------------- people


async def play(settings: Settings, told: Told) -> bool:
    """Show the live table until ^C (plain lines where there is no terminal)."""
    console = Console(highlight=False)
    console.print("Starting the bookstore: 5 applications, each with an Envoy of its own ...")
    async with staged(settings, told) as stage:
        stop = asyncio.create_task(until_stopped())
        shown = asyncio.create_task(_show(stage, console))
        await asyncio.wait([stop, shown], return_when=asyncio.FIRST_COMPLETED)
        for task in (stop, shown):
            task.cancel()
        results = await asyncio.gather(stop, shown, return_exceptions=True)
        console.print("Stopping ...")
    console.print(_farewell(stage), soft_wrap=True)
    for result in results:
        if isinstance(result, Exception):
            raise result
    return True


async def _show(stage: Stage, console: Console) -> None:
    if not console.is_terminal:
        return await _show_lines(stage)
    marks = [stage.traffic.mark()]
    with Live(console=console, auto_refresh=False, screen=False) as live:
        while True:
            await asyncio.sleep(REFRESH)
            window = stage.traffic.since(marks[0])
            marks = [*marks, stage.traffic.mark()][-int(WINDOW / REFRESH) :]
            live.update(Group(table(rows(window)), *_words(stage)), refresh=True)


async def _show_lines(stage: Stage) -> None:
    """Write the table again and again, and each finding once when it appears and once when it is gone."""
    _write([text.plain for text in _words(stage)])
    _write(["There is no terminal: nothing is redrawn. `smi-adapter demo --check` performs the experiments itself."])
    said: tuple[Finding, ...] = ()
    while True:
        mark = stage.traffic.mark()
        await asyncio.sleep(WINDOW)
        found, now = rows(stage.traffic.since(mark)), stage.wrong()
        _write(["", *(lines(found) if found else ["waiting for traffic ..."]), *news(stage.text, said, now)])
        said = now


def news(text: Callable[[Finding], str], before: Collection[Finding], now: Collection[Finding]) -> Iterator[str]:
    """Yield the findings that are new, and the names of those that are gone."""
    yield from (text(item) for item in now if item not in before)
    yield from (f"resolved: {item.code} {item.subject} {item.field}".rstrip() for item in before if item not in now)


def _write(text: Iterable[str]) -> None:
    sys.stdout.write("\n".join(text) + "\n")
    sys.stdout.flush()


def _words(stage: Stage) -> list[Text]:
    invited = [experiment.invite for experiment in EXPERIMENTS if experiment.invite]
    return [
        Text(),
        Text.assemble("Edit ", (str(stage.file), "bold"), " and save it; it is in effect at once:"),
        *(Text(f"  {number}. {words}") for number, words in enumerate(invited, 1)),
        Text("Or in another terminal, if you have kubectl:"),
        Text(f"  {stage.mesh.export}", style="bold"),
        Text("  kubectl get ts -w    kubectl edit ts bookstore    kubectl describe tt bookstore"),
        *(Text.from_ansi(stage.text(item)) for item in stage.wrong()),
        Text("^C stops everything; the folder goes, with your edits.", style="dim"),
    ]


def _farewell(stage: Stage) -> str:
    """Say what is gone, and what somebody does next who liked it."""
    files = example()
    with contextlib.suppress(ValueError):
        files = files.relative_to(Path.cwd())
    return "\n".join(
        [
            f"{stage.folder} is gone, and so are the edits in it. Next, with files that stay:",
            f"  smi-adapter run --source {files}    # the same, edited where it is; better a copy of your own",
            f"  smi-adapter explain -f {files} --from bookstore/bookthief --to bookstore/bookstore:14001 --path /buy",
            "docs/no-cluster.md tells more, docs/routing.md and docs/access.md how to write your own.",
        ]
    )


# ----------------------------------------------------------------------------------------------------- machines


async def check(settings: Settings, told: Told) -> bool:
    """Perform the experiments on real traffic; print what was measured and tell whether all was as it should be."""
    clock = asyncio.get_running_loop().time
    begun = clock()
    async with staged(settings, told) as stage:
        problems = await _started(stage, begun)
        if not problems:
            problems += await _perform(stage, START)
            for experiment in EXPERIMENTS:
                problems += await _perform(stage, experiment)
    print("as it should be" if not problems else f"{len(problems)} things are not as they should be")
    return not problems


async def _started(stage: Stage, begun: float) -> list[str]:
    """Wait until both versions sell books to bookbuyer."""
    clock = asyncio.get_running_loop().time
    mark = stage.traffic.mark()
    while clock() - begun < PATIENCE:
        window = stage.traffic.since(mark)
        if all(window.count(source="bookbuyer", version=version, status=SOLD) for version in ("v1", "v2")):
            seconds = clock() - begun
            print(f"start: traffic after {seconds:.1f} s")
            await asyncio.sleep(SETTLE)
            return [] if seconds <= START_SECONDS else _say([f"that took longer than {START_SECONDS:.0f} s"])
        await asyncio.sleep(0.02)
    said = [stage.text(item) for item in stage.mesh.findings()]
    return _say([f"no traffic after {PATIENCE:.0f} s", *said])


async def _perform(stage: Stage, experiment: Experiment) -> list[str]:
    """Edit the file, wait until that is in effect, measure, compare."""
    problems = await _edit(stage, experiment)
    await asyncio.sleep(SETTLE)
    mark = stage.traffic.mark()
    await asyncio.sleep(MEASURE)
    window = stage.traffic.since(mark)
    print(_measured(window))
    return _say([*problems, *experiment.expect(window)])


async def _edit(stage: Stage, experiment: Experiment) -> list[str]:
    clock = asyncio.get_running_loop().time
    before, text = stage.mesh.compiled, stage.file.read_text()
    edited = experiment.edit(text)
    if edited == text:
        print(f"{experiment.name}:")
        return []
    begun = clock()
    stage.file.write_text(edited)
    while stage.mesh.compiled is before or not all(proxy.in_sync for proxy in stage.mesh.server.proxies()):
        if clock() - begun > EFFECT_SECONDS:
            return [f"{experiment.name}: not acknowledged by every proxy within {EFFECT_SECONDS:.0f} s"]
        await asyncio.sleep(0.001)
    acknowledged = clock() - begun
    window = Window(Counter(), 0.0)
    while not experiment.effect(window):
        if clock() - begun > EFFECT_SECONDS:
            return [f"{experiment.name}: not in effect within {EFFECT_SECONDS:.0f} s"]
        mark = stage.traffic.mark()
        await asyncio.sleep(MOMENT)
        window = stage.traffic.since(mark)
    problems = nothing_fails(window)
    words = f"every proxy has it after {acknowledged * 1000:.0f} ms, seen in the traffic within {clock() - begun:.1f} s"
    print(f"{experiment.name}: {words}")
    return problems


def _measured(window: Window) -> str:
    return "\n".join(f"    {line}" for line in lines(rows(window)))


def _say(problems: list[str]) -> list[str]:
    for problem in problems:
        print(f"  NOT AS IT SHOULD BE: {problem}")
    return problems
