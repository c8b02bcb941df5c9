"""The pytest plugin: `pytest --pyargs smi_conformance -k TS-20`, and what `smi-conformance run` calls.

Each case under each version is a test. The plugin starts the run with what was selected, hands each outcome to its
test, prints progress and writes the reports, however the session ends. Plugins that run a failed test again are
refused: a verdict comes from one try.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from smi_conformance import report, tally
from smi_conformance.catalog import GUARDED
from smi_conformance.kubernetes import KubernetesHarness
from smi_conformance.local import LocalHarness
from smi_conformance.protocol import Harness
from smi_conformance.registry import cases
from smi_conformance.runner import Instance, Outcome, Run
from smi_conformance.selection import Selection, SelectionError, selection
from smi_conformance.target import Target, TargetError, load
from smi_conformance.trial import QUICK, Rules

RUN: pytest.StashKey[Run] = pytest.StashKey()
REPORT: pytest.StashKey[report.Report] = pytest.StashKey()
UNWRITTEN: pytest.StashKey[str] = pytest.StashKey()
TARGET: pytest.StashKey[Target] = pytest.StashKey()
CHOSEN: pytest.StashKey[Selection] = pytest.StashKey()
LEFT_OUT: pytest.StashKey[list[str]] = pytest.StashKey()
_ITEM = "smi_instance"
_TOLD = 5
UNCLAIMED = "(not claimed, for information)"


def deadline_of(text: str) -> float:
    """Read a number of seconds; ValueError unless it is more than none, and ends."""
    seconds = float(text)
    if not 0 < seconds < math.inf:  # what is no number compares with nothing
        raise ValueError(f"{text} is no number of seconds above 0")
    return seconds


def _seconds(text: str) -> float:
    try:
        return deadline_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number above 0")
    return int(text)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add our options."""
    group = parser.getgroup("smi-conformance")
    group.addoption("--smi-target", default="", help="target.yaml of the implementation under test")
    group.addoption("--smi-harness", default="local", choices=["local", "kubernetes"])
    group.addoption("--smi-context", default="", help="kubeconfig context (kubernetes harness)")
    group.addoption("--smi-profile", default="", help="profiles, separated by commas (default: those claimed)")
    group.addoption("--smi-versions", default="", help="only these versions, separated by commas")
    group.addoption("--smi-case", default="", help="only these ids, separated by commas")
    group.addoption("--smi-report", default="", help="write the report here")
    group.addoption("--smi-quick", action="store_true", help="fewer requests; the report is not submittable")
    group.addoption("--smi-deadline", type=_seconds, default=0.0, help="seconds to converge (default: the target's)")
    group.addoption("--smi-parallel", type=_count, default=0, help="cases at a time (default: 4, or as many as meshes)")
    group.addoption("--smi-cli", action="store_true", help="our own progress instead of pytest's output")
    group.addoption("--smi-keep", action="store_true", help="leave what was created")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Refuse plugins that would try again; for our own command line, keep pytest's output away."""
    if config.getoption("--smi-target") and config.pluginmanager.hasplugin("rerunfailures"):
        config.pluginmanager.unregister(name="rerunfailures")
    reporter = config.pluginmanager.getplugin("terminalreporter")
    if config.getoption("--smi-cli") and reporter is not None:
        config.pluginmanager.unregister(reporter)
    if path := str(config.getoption("--smi-target")):
        try:
            target = config.stash[TARGET] = load(Path(path))
            config.stash[CHOSEN] = _chosen(config, target)
        except (TargetError, SelectionError) as error:
            raise pytest.UsageError(str(error)) from error


def _names(config: pytest.Config, option: str) -> list[str]:
    return [name.strip() for name in str(config.getoption(option)).split(",") if name.strip()]


def _chosen(config: pytest.Config, target: Target) -> Selection:
    profiles = _names(config, "--smi-profile") or target.profiles
    return selection(profiles, _names(config, "--smi-versions"), _names(config, "--smi-case"))


def instance_of(item: pytest.Item) -> Instance | None:
    """Return the case that a test plays."""
    callspec = getattr(item, "callspec", None)
    found = callspec.params.get(_ITEM) if callspec is not None else None
    return found if isinstance(found, Instance) else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the cases that were asked for, of those that pytest's own options left."""
    ours = [item for item in items if instance_of(item) is not None]
    chosen = config.stash.get(CHOSEN, None)
    gone = [item for item in ours if chosen is None or not chosen.has(instance_of(item))]  # type: ignore[arg-type]
    if gone:
        config.hook.pytest_deselected(items=gone)
        dropped = {id(item) for item in gone}
        items[:] = [item for item in items if id(item) not in dropped]
    ids = {found.entry.id: None for item in gone if (found := instance_of(item)) is not None}
    if gone and (len(gone) == len(ours) or config.getoption("keyword")):
        config.stash[LEFT_OUT] = _left_out(chosen, tuple(ids))


def _left_out(chosen: Selection | None, ids: tuple[str, ...]) -> list[str]:
    """Return why cases were left out that somebody may have meant."""
    if chosen is None:
        return [f"{len(ids)} cases were left out: --smi-target says what they are played against"]
    lines = [
        f"not played: {line.replace('--profile', '--smi-profile')}" for line in replace(chosen, ids=ids).unplayed()
    ]
    more = [f"not played: {len(lines) - _TOLD} more"] if lines[_TOLD:] else []
    return lines[:_TOLD] + more


def harnesses_of(config: pytest.Config, target: Target) -> list[Harness]:
    """Return the harness that was asked for; of the local one as many meshes as the target allows and we can use."""
    if config.getoption("--smi-harness") == "kubernetes":
        return [KubernetesHarness(target, str(config.getoption("--smi-context")))]
    count = min(target.meshes, parallel_of(config, target))
    return [LocalHarness(target, clients=1 if count > 1 else 2) for _ in range(max(count, 1))]


def parallel_of(config: pytest.Config, target: Target) -> int:
    """Return how many cases are played at a time."""
    several = target.meshes if config.getoption("--smi-harness") == "local" else 0
    return int(config.getoption("--smi-parallel")) or max(several, 4)


def rules_of(config: pytest.Config, deadline: float) -> Rules:
    """Return the numbers of the run."""
    base = QUICK if config.getoption("--smi-quick") else Rules()
    chosen = float(config.getoption("--smi-deadline")) or deadline
    return replace(base, deadline=chosen)


def unswitchable(target: Target, profiles: Collection[str], selected: Collection[Instance]) -> str:
    """Return what a target has to say about switching access control off, if what was selected needs it both ways.

    A mesh that denies by default would otherwise fail every split, and no one could tell why.
    """
    both = {cases()[item.entry.id].enforced for item in selected} == {True, False}
    hooks = target.hooks.get("permissive") and target.hooks.get("enforce")
    if not both or target.permissive_by_namespace or hooks or not set(profiles) & GUARDED:
        return ""
    return (
        "cases with access control and cases without it were selected, and the target does not say how it is switched "
        "off: mesh.permissiveNamespaceLabels or mesh.permissiveNamespaceAnnotations, or else hooks.permissive and "
        "hooks.enforce (--profile can select one kind at a time)"
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Start to play everything that was selected."""
    config = session.config
    selected = [found for item in session.items if (found := instance_of(item)) is not None]
    if not selected or config.getoption("collectonly"):
        return
    target = config.stash[TARGET]
    profiles = tuple(_names(config, "--smi-profile")) or target.profiles
    if missing := unswitchable(target, profiles, selected):
        raise pytest.UsageError(missing)
    rules = rules_of(config, target.deadline)
    run = Run(target, harnesses_of(config, target), rules, parallel_of(config, target))
    run.profiles = profiles
    options = {"profiles": "--smi-profile", "versions": "--smi-versions", "cases": "--smi-case"}
    run.selection = {name: sorted(chosen) for name, option in options.items() if (chosen := _names(config, option))}
    config.stash[RUN] = run
    progress = Progress(len(selected))
    if int(config.getoption("verbose")) <= 0:
        run.tell = progress.tell  # when it is known: pytest asks in another order
    for harness in run.harnesses:
        if isinstance(harness, KubernetesHarness | LocalHarness):
            harness.tell = progress.say
    run.say = _complain
    run.start(selected, keep=bool(config.getoption("--smi-keep")))


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the run and write the report, also of a run that was interrupted."""
    run = session.config.stash.get(RUN, None)
    if run is None:
        return
    run.stop(_interrupted)
    for left in run.left:
        sys.stdout.write(f"left: {left}\n")
    made = session.config.stash[REPORT] = report.build(run)
    path = str(session.config.getoption("--smi-report"))
    if path:
        try:
            report.write(made, Path(path))
        except OSError as error:
            session.config.stash[UNWRITTEN] = f"the report could not be written: {path}: {error.strerror or error}"
            sys.stderr.write(session.config.stash[UNWRITTEN] + "\n")


def _complain(line: str) -> None:
    if sys.__stderr__ is not None:
        sys.__stderr__.write(f"{line}\n")
        sys.__stderr__.flush()


def _interrupted() -> None:
    sys.stdout.write("\ninterrupted: ending what runs and removing what was created (^C again: leave it)\n")
    sys.stdout.flush()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say at the end of pytest's own output what the run amounts to."""
    for line in config.stash.get(LEFT_OUT, ()):
        terminalreporter.write_line(line)
    made = config.stash.get(REPORT, None)
    if made is None:
        return
    for line in config.stash[RUN].target.unused:
        terminalreporter.write_line(line)
    path, unwritten = str(config.getoption("--smi-report")), config.stash.get(UNWRITTEN, "")
    for line in ending(made, config.stash[RUN], path, unwritten=unwritten):
        terminalreporter.write_line(line)
    if path and not unwritten and not config.stash[RUN].interrupted:
        terminalreporter.write_line(written(made, path))


def ending(made: report.Report, run: Run, path: str, *, unwritten: str = "") -> list[str]:
    """Return what there is to say at the end of every run: profiles, and of an interrupted one what is known."""
    lines = []
    for name, summary in ((profile["name"], profile["summary"]) for profile in made["profiles"]):
        lines.append(f"{name:10} {summary}" + ("" if tally.is_claimed(made, name) else f" {UNCLAIMED}"))
    if not run.interrupted:
        return lines
    known = Counter(outcome.worst for outcome in run.outcomes.values() if outcome.worst != "error")
    counts = ", ".join(f"{count} {name}" for name, count in sorted(known.items()))
    total = f"{sum(known.values())} of {len(run.outcomes)} verdicts are known"
    where = "they are in no report: " + ("it could not be written" if unwritten else "--report was not given")
    lines.append(f"interrupted: {total}" + (f" ({counts})" if counts else ""))
    lines.append(f"the report has them: {path}" if path and not unwritten else where)
    lines.append("what is left is listed above" if run.left else "everything that was created has been removed")
    return lines


def written(made: report.Report, where: str) -> str:
    """Return where the report of a run is that went to its end, and whether it can be handed in."""
    hindrances = tally.hindrances(tally.basis_of(made))
    return f"the report is in {where}: " + (
        f"not submittable: {'; '.join(hindrances)}" if hindrances else "submittable"
    )


class Progress:
    """Says on stdout how far the run is: a line that moves on a terminal, one line for each result elsewhere."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._counts: Counter[str] = Counter()
        self._started = time.monotonic()
        self._terminal = sys.__stdout__ is not None and sys.__stdout__.isatty()
        self._trouble = ""
        self._unserved: set[str] = set()

    def say(self, line: str) -> None:
        """Print something that is no outcome."""
        out: Any = sys.__stdout__
        out.write(f"\r\x1b[K{line}\n" if self._terminal else f"{line}\n")
        out.flush()

    def tell(self, outcome: Outcome) -> None:
        """Print one outcome."""
        self._counts[outcome.worst] += 1
        done = sum(self._counts.values())
        counts = ", ".join(f"{count} {name}" for name, count in sorted(self._counts.items()))
        seconds = time.monotonic() - self._started
        out: Any = sys.__stdout__
        bad = outcome.worst in {"failed", "error"}
        again = outcome.worst == "error" and outcome.reason == self._trouble
        self._trouble = outcome.reason if outcome.worst == "error" else self._trouble
        line = f"{outcome.worst:12} {outcome.instance.id:18} {'(the same)' if again else outcome.reason}".rstrip()
        if self._terminal:
            out.write("\r\x1b[K")
        if outcome.worst == "notServed":  # of a mesh with one version that is most of the catalogue
            told = outcome.reason in self._unserved
            line = "" if told else f"{outcome.worst:12} {outcome.reason}: counted, not listed"
            self._unserved.add(outcome.reason)
        if line and (bad or not self._terminal):
            out.write(line + "\n")
        if self._terminal:
            out.write(f"{done}/{self._total} {seconds:.0f} s: {counts}")
            out.write("\n" if done == self._total else "")
        elif done == self._total:
            out.write(f"{done}/{self._total} in {seconds:.0f} s: {counts}\n")
        out.flush()


def play(request: pytest.FixtureRequest, instance: Instance) -> None:
    """Wait for one outcome and turn it into what pytest knows: pass, fail, skip."""
    run = request.config.stash.get(RUN, None)
    if run is None:
        pytest.skip("no --smi-target")
    try:
        outcome = run.result(instance)
    except KeyboardInterrupt:
        pytest.exit("interrupted")
    if outcome.worst == "error":
        pytest.fail(f"error, no verdict: {outcome.reason}", pytrace=False)
    if outcome.worst == "failed":
        failed = "; ".join(f"{item.level}: {item.reason}" for item in outcome.verdicts if item.result == "failed")
        pytest.fail(failed, pytrace=False)
    if outcome.worst in {"skipped", "notServed", "notSupported"}:
        pytest.skip(outcome.reason)
