"""Plays cases: several at a time, those that measure time first, in a loop of its own beside pytest.

pytest asks for one result after another and waits; here the cases run concurrently in the places of a pool. What the
harness can't do is decided before a case starts; what breaks in between is an error, never a verdict; and when the
run is interrupted, what was learned so far stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from smi_conformance import catalog
from smi_conformance.catalog import GUARDED, Check, Claims, Entry, pairs
from smi_conformance.model import versions_for
from smi_conformance.places import Pool, together
from smi_conformance.protocol import Harness, HarnessError
from smi_conformance.registry import cases
from smi_conformance.render import UnsayableError
from smi_conformance.target import Target
from smi_conformance.trial import Failure, Notes, Rules, Trial

KEPT = 6
"""So many pods may stay between cases in each mesh: each that stays is told of every later change, each that goes may
have to be started again."""

RANKED = ("error", "failed", "skipped", "notServed", "passed", "notSupported", "observed")
"""The results of a case, that which says most first: of a feature that is not claimed only a part may be left out."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One case under one version."""

    entry: Entry
    version: str

    @property
    def id(self) -> str:
        """Return the name under which it runs and is reported."""
        return f"{self.entry.id}[{self.version}]"

    @property
    def checks(self) -> tuple[Check, ...]:
        """Return what it consists of: the same case may have other levels under another version."""
        return self.entry.checks_of(self.version)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of one level of one instance."""

    level: str
    result: str  # passed, failed, skipped, notSupported, notServed, observed, error
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything about one instance."""

    instance: Instance
    verdicts: tuple[Verdict, ...]
    notes: Notes = field(default_factory=Notes)
    milliseconds: float = 0.0

    @property
    def worst(self) -> str:
        """Return the result that says most: error, failed, skipped, passed, ..."""
        return min((verdict.result for verdict in self.verdicts), key=RANKED.index, default="observed")

    @property
    def reason(self) -> str:
        """Return why, in one line."""
        return next((verdict.reason for verdict in self.verdicts if verdict.result == self.worst), "")


def instances() -> tuple[Instance, ...]:
    """Return every case under every version that has it."""
    entries = catalog.entries()
    return tuple(Instance(entries[name], version) for name in cases() for version in entries[name].versions)


class Queue:
    """Hands out what is to be played, so that few workloads are started and all workers end together.

    A worker goes on with the versions of its case, then with a case of the same mode, for which its mesh has the
    workloads. What takes long begins first, and so does what needs workloads that no other case has. At the end workers
    take versions from each other.
    """

    def __init__(self, batch: Iterable[Instance]) -> None:
        self._fresh: dict[str, deque[Instance]] = {}
        self._begun: dict[str, deque[Instance]] = {}
        for instance in sorted(batch, key=lambda item: not cases()[item.entry.id].first):
            self._fresh.setdefault(instance.entry.id, deque()).append(instance)

    def take(self, last: Instance | None, *, enforced: bool) -> Instance | None:
        """Return what a worker plays after `last`; None: nothing is left."""
        if last is not None and self._begun.get(last.entry.id):
            return self._begun[last.entry.id].popleft()
        if self._fresh:
            name = next((name for name in self._fresh if cases()[name].enforced == enforced), next(iter(self._fresh)))
            self._begun[name] = self._fresh.pop(name)
        else:
            left = {name: queue for name, queue in self._begun.items() if queue}
            if not left:
                return None
            name = max(left, key=lambda item: (cases()[item].enforced == enforced, len(left[item])))
        return self._begun[name].popleft()


def _same(instance: Instance, result: str, reason: str) -> tuple[Verdict, ...]:
    return tuple(Verdict(check.level, result, reason) for check in instance.checks)


class Run:
    """One run against one harness, or several of a kind: each is a mesh of its own, which some cases share."""

    def __init__(self, target: Target, harnesses: Sequence[Harness], rules: Rules, parallel: int = 4) -> None:
        self.target = target
        self.harnesses = tuple(harnesses)
        self.harness = self.harnesses[0]
        self.rules = rules
        self.parallel = parallel
        self.profiles: tuple[str, ...] = target.profiles
        self.selection: dict[str, list[str]] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.tell: Callable[[Outcome], None] = lambda _: None
        self.say: Callable[[str], None] = lambda _: None
        self.broken = self.told = ""
        self.left: tuple[str, ...] = ()
        self._selected: tuple[Instance, ...] = ()
        self._futures: dict[str, Future[Outcome]] = {}
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._keep = False
        self.kept: list[str] = []
        self.interrupted = False
        self._pools: list[Pool] = []

    # ------------------------------------------------------------------------------------------ seen from pytest

    def start(self, selected: Sequence[Instance], *, keep: bool = False) -> None:
        """Begin to play; results come in with `result`."""
        self._keep = keep
        self._selected = tuple(selected)
        self._futures = {instance.id: Future() for instance in selected}
        self._thread = threading.Thread(target=self._main, args=(tuple(selected),), name="conformance", daemon=True)
        self._thread.start()

    def result(self, instance: Instance) -> Outcome:
        """Wait for the outcome of one instance."""
        while True:
            try:
                return self._futures[instance.id].result(timeout=0.5)  # short, so that ^C is noticed
            except TimeoutError:
                if self._thread is None or not self._thread.is_alive():
                    raise HarnessError(self.broken or "the run ended early") from None

    @property
    def finished(self) -> bool:
        """Tell whether every case has its outcome."""
        return all(future.done() for future in self._futures.values())

    def stop(self, tell: Callable[[], None], patience: float = 60.0) -> None:
        """End the run, finished or not, and remove everything that it created; say what could not be removed.

        Of a run that is not finished `tell` is told: from then on another interruption means that somebody can't wait.
        """
        if self._thread is None or self._loop is None:
            return
        try:
            if self._thread.is_alive() and not self.finished:
                self.interrupted = True
                self._loop.call_soon_threadsafe(self._cancel)
                tell()
            self._thread.join(patience)
        except KeyboardInterrupt:  # whether the thread still lives is not known after an interrupted join
            self.left += self._remains()
        else:
            if self._thread.is_alive():
                self.left += self._remains()
        self._fill()

    def _remains(self) -> tuple[str, ...]:
        return tuple(line for pool in self._pools for line in pool.harness.remains(pool.namespaces()))

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    # ---------------------------------------------------------------------------------------------- seen from inside

    def _main(self, selected: tuple[Instance, ...]) -> None:
        with asyncio.Runner() as runner:
            self._loop = runner.get_loop()
            try:
                runner.run(self._everything(selected))
            except (asyncio.CancelledError, KeyboardInterrupt):
                self.broken = self.broken or "interrupted"
            except BaseException as error:  # noqa: BLE001 - told by whoever waits for a result
                while isinstance(error, BaseExceptionGroup):
                    error = error.exceptions[0]
                self.broken = f"{type(error).__name__}: {error}"
        self._fill()

    async def _everything(self, selected: tuple[Instance, ...]) -> None:
        self._task = asyncio.current_task()
        run = secrets.token_hex(2) if self.harness.name == "kubernetes" else ""
        most = KEPT if len(self.harnesses) > 1 else KEPT * self.parallel
        pools = self._pools = [Pool(harness, run, keep=most) for harness in self.harnesses]
        try:
            await together(*(harness.start() for harness in self.harnesses))
            for hook, batch in self._phases(selected):
                if hook:
                    await self.harness.hook(hook)
                for group, width in self._waves(batch):
                    await self._play_all(pools, group, width)
        except HarnessError as error:
            self.broken = str(error)
            self.told = self.broken
            with contextlib.suppress(OSError):
                self.say(f"the harness does not work: {error}")  # before the ending, which may take its time
        finally:
            self._task = None  # from here on nothing is cancelled: who can't wait is told what is left
            if self._keep:
                await asyncio.gather(*(pool.harness.leave() for pool in pools))
                self.left = (*self._remains(), *sorted(self.kept))
            else:
                await asyncio.gather(*(self._clean(pool) for pool in pools))

    async def _clean(self, pool: Pool) -> None:
        """Remove what was created; a local driver takes everything with it, and a namespace that stays is named."""
        if pool.harness.name != "local":
            self.left += tuple(await pool.close())
        await pool.harness.stop()

    def _phases(self, selected: Iterable[Instance]) -> list[tuple[str, list[Instance]]]:
        """Return what may run together: one mode of access control for the whole mesh, or one for each namespace."""
        selected = list(selected)
        if self._claims.both_modes:
            return [("", selected)]
        table = cases()
        # Without a profile of access control there is none to be played: splits alone are tested then.
        names = {item.entry.id for item in selected if table[item.entry.id].enforced and GUARDED & set(self.profiles)}
        phases = [
            ("permissive", [item for item in selected if item.entry.id not in names]),
            ("enforce", [item for item in selected if item.entry.id in names]),
        ]
        return [phase for phase in phases if phase[1]]

    def _waves(self, batch: Sequence[Instance]) -> list[tuple[list[Instance], int]]:
        """Return what is played one after the other, and how many cases at a time.

        Cases that measure time are played before all others, when every mesh has only what they need. They wait far
        more than they work, so that one in each mesh disturbs the others as little as their own proxies do.
        """
        found: dict[str, list[Instance]] = {"machine": [], "": [], "mesh": []}
        for item in batch:
            found[cases()[item.entry.id].alone].append(item)
        if len(self.harnesses) >= self.parallel:  # every case has a mesh for itself
            found[""] += found.pop("mesh")
        each = min(len(self.harnesses), self.parallel)
        return [(group, self.parallel if name == "" else each) for name, group in found.items() if group]

    async def _play_all(self, pools: Sequence[Pool], batch: list[Instance], width: int) -> None:
        queue = Queue(batch)

        async def worker(pool: Pool, *, enforced: bool) -> None:
            last: Instance | None = None
            while (last := queue.take(last, enforced=pool.mode if pool.mode is not None else enforced)) is not None:
                self._finish(await self._play(pool, last))

        async with asyncio.TaskGroup() as group:
            for number in range(min(width, len(batch))):
                # Half of the meshes begin with either mode: what they start then lasts longest.
                group.create_task(worker(pools[number % len(pools)], enforced=len(pools) > 1 and bool(number % 2)))

    def _finish(self, outcome: Outcome, *, tell: bool = True) -> None:
        self.outcomes[outcome.instance.id] = outcome
        with contextlib.suppress(OSError):  # nobody reads what is printed any more: the report is written all the same
            if tell:
                self.tell(outcome)
        future = self._futures[outcome.instance.id]
        if not future.done():
            future.set_result(outcome)

    def _fill(self) -> None:
        """Give the cases that have no outcome one that says so.

        Nobody wants to see them all of a run that was interrupted, or that did not even begin: its end says why.
        """
        begun = bool(self.outcomes)
        reason = "no verdict: the run was interrupted" if self.interrupted else self.broken or "the run ended early"
        for instance in self._selected:
            if not self._futures[instance.id].done():
                self._finish(Outcome(instance, _same(instance, "error", reason)), tell=begun and not self.interrupted)

    def _before(self, instance: Instance) -> tuple[Verdict, ...]:
        """Return the verdicts of an instance that can't be played, and why."""
        entry, version, served = instance.entry, instance.version, pairs(self.harness.served)
        if not entry.playable(version, served, self.profiles):
            used = (use.pairs(version, served) for use in entry.used(version, self.profiles))
            lacking = [f"{group}/{which}" for group, which in sorted(frozenset().union(*used) - served)]
            return _same(instance, "notServed", f"{' and '.join(lacking)} {'are' if lacking[1:] else 'is'} not served")
        if entry.feature and entry.feature not in self.target.features:
            return _same(instance, "notSupported", f"the feature {entry.feature} is not claimed")
        missing = [need for need in entry.needs if need not in self.harness.capabilities]
        if missing:
            return _same(instance, "skipped", f"the {self.harness.name} harness lacks: {', '.join(missing)}")
        return ()

    async def _play(self, pool: Pool, instance: Instance) -> Outcome:
        if known := self._before(instance):
            return Outcome(instance, known)
        if self.broken:
            return Outcome(instance, _same(instance, "error", self.broken))
        registered = cases()[instance.entry.id]
        versions = versions_for(instance.entry.group, instance.version, pairs(pool.harness.served))
        trial = Trial(pool.harness, pool, self.rules, (instance.version, versions))
        trial.claims = self._claims
        started = time.monotonic()
        error = ""
        try:
            await registered.play(trial)
        except Failure as failure:
            first = instance.checks[0].level
            trial.notes.failures.setdefault(first, str(failure))
        except HarnessError as trouble:
            error = str(trouble)
        except UnsayableError as trouble:
            error = f"the suite asks {instance.version} for what it can't say: {trouble}"
        except Exception as trouble:  # noqa: BLE001 - a broken case is an error of ours and must not end the run
            error = f"{type(trouble).__name__}: {trouble}"
        finally:
            bad = bool(error or trial.notes.failures)
            if bad and self._keep:
                kept = "ledgers of namespace" if self.harness.name == "local" else "namespace"
                self.kept += [f"{instance.id}: {kept} {name}" for name in trial.namespaces()]
            try:
                await trial.close(bad=bad, keep=bad and self._keep)
            except Exception as trouble:  # noqa: BLE001 - a harness whose processes were killed must not end the run
                error = error or f"cleaning up: {type(trouble).__name__}: {trouble}"
        took = (time.monotonic() - started) * 1000
        if error:
            return Outcome(instance, _same(instance, "error", error), trial.notes, took)
        return Outcome(instance, verdicts(instance.checks, trial.notes, self._claims), trial.notes, took)

    @property
    def _claims(self) -> Claims:
        both_modes = self.target.permissive_by_namespace or not self.target.hooks.get("permissive")
        return Claims(self.profiles, self.target.features, pairs(self.target.claimed_versions), both_modes)


def verdicts(checks: Sequence[Check], notes: Notes, claims: Claims) -> tuple[Verdict, ...]:
    """Return a verdict for each level of a case; a provisional one only says that something was observed."""
    found: list[Verdict] = []
    lacking = ", ".join(sorted(notes.lacking))
    for number, check in enumerate(checks):
        failure = notes.failures.get(check.level, "")
        if check.feature and check.feature not in claims.features:
            found.append(Verdict(check.level, "notSupported", f"the feature {check.feature} is not claimed"))
        elif check.level == "provisional":
            found.append(Verdict(check.level, "observed", failure))
        elif number == 0 and lacking and not failure:
            found.append(Verdict(check.level, "skipped", f"in part, as the harness lacks: {lacking}"))
        else:
            found.append(Verdict(check.level, "failed" if failure else "passed", failure))
    return tuple(found)
