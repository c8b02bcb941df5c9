"""Reporting in a cluster, put together: reports, the status writer and Events, in one task beside the hot path.

The composition root says `published` after each push and `changed` when a proxy answered; neither computes anything
that grows with the mesh. `run` walks over all objects when something may differ, at most a few times a second and a
millisecond or two at a time, so that a push never waits for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from smi_adapter.cluster.events import EventRecorder
from smi_adapter.cluster.pace import Api
from smi_adapter.cluster.status import StatusWriter
from smi_adapter.decode import RawObject
from smi_adapter.findings import Finding, Ref
from smi_adapter.report import EventBook, Report, Reporter, Tally
from smi_adapter.smi.objects import Key
from smi_adapter.snapshot import Snapshot
from smi_adapter.translate import Translation

Acknowledged: TypeAlias = Mapping[Key, tuple[int, ...]] | int

_SLICE: Final = 0.001
_LOOK_AGAIN: Final = 60.0


@dataclass(frozen=True, slots=True)
class Now:
    """What is true at the moment: all findings in any order, acknowledged generations, the other replicas' tallies."""

    findings: Iterable[Finding]
    acknowledged: Acknowledged
    elsewhere: tuple[Tally, ...] = ()


class Reporting:
    """Tells users, in the cluster, how their objects stand. `left`: see `Lease.left`; `instance`: the pod's name."""

    def __init__(self, api: Api, backend: str, instance: str, left: Callable[[], float], pause: float = 0.1) -> None:
        self.reporter = Reporter(backend)
        self.status = StatusWriter(api, left)
        self.events = EventRecorder(api, instance, left)
        self._book = EventBook()
        self._left = left
        self._pause = pause
        self._changed = asyncio.Event()

    def published(
        self, batch: Mapping[Ref, RawObject | None], snapshot: Snapshot, translation: Translation, generation: int
    ) -> None:
        """Note what was published under a generation; call it with every published batch, after the push."""
        gone = [subject for ref in batch if batch[ref] is None and (subject := self.reporter.subjects.get(ref))]
        for subject in gone:
            self.status.forget(subject.ref)
        self._book.forget(subject.uid for subject in gone)
        touched = (translation.services, translation.workloads)
        self.reporter.take(batch, snapshot, translation.mesh, generation, touched)
        self._changed.set()

    def changed(self) -> None:
        """Say that an acknowledgement or a finding may differ."""
        self._changed.set()

    def findings(self) -> tuple[Finding, ...]:
        """Return what the writers have to say."""
        return self.status.findings()

    async def look(self, now: Callable[[], Now]) -> None:
        """Look at all objects whenever something changed. Every replica does, for its tally; only a leader writes."""
        while True:
            self._changed.clear()
            self._book.unsettled = False
            state = now()
            began = time.monotonic()
            for report in self.reporter.reports(state.findings, state.acknowledged, state.elsewhere):
                self._tell(report)
                if time.monotonic() - began > _SLICE:
                    await asyncio.sleep(0)
                    began = time.monotonic()
            await asyncio.sleep(self._pause)
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

    def _tell(self, report: Report) -> None:
        subject = report.subject
        self.status.offer(report)
        if self._left() <= 0:
            return  # who leads tells Events; a new leader begins anew, and meets those that are there by their names
        about = (subject.ref, subject.uid, subject.api_version)
        for notice in self._book.notices(*about, report.findings, time.monotonic()):
            self.events.offer(notice)
