"""Reporting in a cluster, put together: reports, the status writer and Events, in one task beside the hot path.

The composition root says `published` after each push and `changed` when a proxy answered; neither computes anything.
`look` walks over what may stand otherwise, a millisecond at a time and with a fifth of one processor at most, so that
a push never waits for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from smi_adapter.cluster.events import EventRecorder
from smi_adapter.cluster.pace import Api
from smi_adapter.cluster.status import StatusWriter
from smi_adapter.decode import RawObject
from smi_adapter.findings import Finding, Ref
from smi_adapter.report import EventBook, Report, Reporter, Subject, Tables, Tally
from smi_adapter.smi.objects import Key
from smi_adapter.snapshot import Snapshot
from smi_adapter.translate import Translation

Acknowledged: TypeAlias = Mapping[Key, tuple[int, ...]] | int

_SLICE: Final = 0.001
_SHARE: Final = 0.2
"""The part of a processor that walks may take."""
_LOOK_AGAIN: Final = 60.0


@dataclass(frozen=True, slots=True)
class Now:
    """What is true at the moment: findings (in tables as they are kept, and loose ones), acknowledged generations.

    `elsewhere`: the tallies of the other replicas.
    """

    findings: Iterable[Finding]
    acknowledged: Acknowledged
    elsewhere: tuple[Tally, ...] = ()
    tables: Tables = field(default_factory=dict)


@dataclass(slots=True)
class _Published:
    """What was published since the last look."""

    batch: dict[Ref, RawObject | None]
    snapshot: Snapshot
    translation: Translation
    generation: int
    services: set[Key]
    workloads: set[Key]


class Reporting:
    """Tells users, in the cluster, how their objects stand. `left`: see `Lease.left`; `instance`: the pod's name."""

    def __init__(  # noqa: PLR0913 - what there is to choose
        self,
        api: Api,
        backend: str,
        instance: str,
        left: Callable[[], float],
        *,
        namespaces: tuple[str, ...] = (),
        pause: float = 0.1,
    ) -> None:
        self.reporter = Reporter(backend)
        self.status = StatusWriter(api, left, namespaces=namespaces)
        self.events = EventRecorder(api, instance, left)
        self._book = EventBook()
        self._left = left
        self._pause = pause
        self._published: _Published | None = None
        self._changed = asyncio.Event()

    def published(
        self, batch: Mapping[Ref, RawObject | None], snapshot: Snapshot, translation: Translation, generation: int
    ) -> None:
        """Note what was published under a generation; call it with every translation. It computes nothing yet."""
        pending = self._published
        if pending is None:
            pending = _Published({}, snapshot, translation, generation, set(), set())
        pending.batch.update(batch)
        pending.services |= translation.services
        pending.workloads |= translation.workloads
        pending.snapshot, pending.translation, pending.generation = snapshot, translation, generation
        self._published = pending
        self._changed.set()

    def changed(self) -> None:
        """Say that an acknowledgement or a finding may differ."""
        self._changed.set()

    def findings(self) -> tuple[Finding, ...]:
        """Return what the writers have to say."""
        return self.status.findings()

    async def look(self, now: Callable[[], Now]) -> None:
        """Look at what may stand otherwise. Every replica does, for its tally; only a leader writes."""
        everything_at = 0.0
        while True:
            self._changed.clear()
            began = time.monotonic()
            everything = began >= everything_at or self._book.unsettled
            if everything:
                everything_at = began + _LOOK_AGAIN
                self._book.unsettled = False
            await self._walk(now(), everything=everything)
            took = time.monotonic() - began
            await asyncio.sleep(max(self._pause, took * (1 / _SHARE - 1)))
            try:
                async with asyncio.timeout(1.0 if self._book.unsettled else _LOOK_AGAIN):
                    await self._changed.wait()
            except TimeoutError:  # Events are told again before the API forgets them
                pass

    async def write(self) -> None:
        """Write status and Events until cancelled: for the leader."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.status.run())
            group.create_task(self.events.run())

    async def _walk(self, now: Now, *, everything: bool) -> None:
        """Bring the reporter up to date and tell its news, a slice at a time."""
        await _sliced(self._taking())
        await _sliced(self.reporter.absorb(now.tables, now.findings))
        await _sliced(self._telling(self.reporter.news(now.acknowledged, now.elsewhere, everything=everything)))

    def _taking(self) -> Iterator[None]:
        """Take what was published."""
        pending, self._published = self._published, None
        if pending is None:
            return
        gone = [subject for ref, raw in pending.batch.items() if raw is None and (subject := self._subject(ref))]
        for subject in gone:
            self.status.forget(subject.ref)
        self._book.forget(subject.uid for subject in gone)
        touched = (pending.services, pending.workloads)
        mesh = pending.translation.mesh
        yield from self.reporter.taking(pending.batch, pending.snapshot, mesh, pending.generation, touched)

    def _telling(self, reports: Iterable[Report]) -> Iterator[None]:
        for report in reports:
            self._tell(report)
            yield

    def _subject(self, ref: Ref) -> Subject | None:
        return self.reporter.subjects.get(ref)

    def _tell(self, report: Report) -> None:
        subject = report.subject
        self.status.offer(report)
        if self._left() <= 0:
            return  # who leads tells Events; a new leader begins anew, and meets those that are there by their names
        about = (subject.ref, subject.uid, subject.api_version)
        for notice in self._book.notices(*about, report.findings, time.monotonic()):
            self.events.offer(notice)


async def _sliced(steps: Iterator[None]) -> None:
    """Do the steps, and let others go first after each millisecond."""
    began = time.monotonic()
    for _ in steps:
        if time.monotonic() - began > _SLICE:
            await asyncio.sleep(0)
            began = time.monotonic()
