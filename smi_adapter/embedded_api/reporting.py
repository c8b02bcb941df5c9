"""Statuses and Events of the objects of this run: the same words as in a cluster, put into the store.

`report` decides what is to be said; in a cluster `cluster` writes it through the API, here it is simply there. A status
is new when a batch was published, when a proxy has acknowledged one, or when a finding came or went; Events are sent
a moment later than statuses, as what goes by itself meanwhile is not worth one, and are forgotten after an hour.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from smi_adapter.decode import RawObject
from smi_adapter.embedded_api import views, workloads
from smi_adapter.embedded_api.kinds import EVENTS_GROUP, by_ref
from smi_adapter.embedded_api.store import Entry, Store
from smi_adapter.findings import Finding, Ref
from smi_adapter.mesh import Mesh
from smi_adapter.report import EventBook, Notice, ObjectStatus, Report, Reporter
from smi_adapter.smi.objects import Key
from smi_adapter.snapshot import Snapshot

CONTROLLER = "smi-adapter.io/controller"
EVENT_LIFE = 3600.0
LOOK_AGAIN = 60.0
"""Seconds after which Events are looked at anyway: one that lasts is told again, one that had to wait is told then."""

Acknowledged = Mapping[Key, tuple[int, ...]]


class Reporting:
    """Keeps the statuses and Events of a store up to date."""

    def __init__(self, store: Store, backend: str, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._reporter = Reporter(backend)
        self._book = EventBook()
        self._clock = clock
        self._events: dict[Ref, float] = {}
        self._known: tuple[object, ...] = ()
        self._statuses: dict[Ref, ObjectStatus] = {}
        self._said: dict[Ref, tuple[Finding, ...]] = {}
        self._unsettled: set[Ref] = set()
        self._looked = 0.0

    def take(self, batch: Mapping[Ref, RawObject | None], snapshot: Snapshot, mesh: Mesh, generation: int) -> None:
        """Note what was published; the store has the batch already."""
        seen: dict[Ref, RawObject | None] = {}
        for ref in batch:
            kind = by_ref(ref.group, ref.kind)
            if kind is not None and kind.smi:
                entry = self._store.get(ref)
                seen[ref] = views.shown(entry, kind, _version(entry), self._store) if entry else None
        gone = [ref for ref, raw in seen.items() if raw is None and ref in self._reporter.subjects]
        self._book.forget(self._reporter.subjects[ref].uid for ref in gone)
        for ref in gone:
            self._said.pop(ref, None)
            self._unsettled.discard(ref)
        self._reporter.take(seen, snapshot, mesh, generation)
        self._known = ()

    def tell(self, findings: tuple[Finding, ...], acknowledged: Acknowledged) -> None:
        """Bring statuses and Events up to date; cheap if nothing is new."""
        now = self._clock()
        self._forget(now)
        known = (findings, acknowledged, self._store.revision)
        if known == self._known and not self._unsettled and now - self._looked < LOOK_AGAIN:
            return
        self._store.report(workloads.statuses(self._store))
        reports = list(self._reporter.reports(findings, acknowledged))
        fresh = [report for report in reports if self._statuses.get(report.subject.ref) != report.status]
        self._store.report({report.subject.ref: self._status(report, now) for report in fresh})
        self._statuses = {report.subject.ref: report.status for report in reports}
        again = now - self._looked >= LOOK_AGAIN
        if again:
            self._looked = now
        for report in reports:
            if again or report.subject.ref in self._unsettled or self._said.get(report.subject.ref) != report.findings:
                self._notify(report, now)
        self._known = (findings, acknowledged, self._store.revision)

    def _notify(self, report: Report, now: float) -> None:
        """Send the Events that an object is worth now; `_unsettled`: it has findings that are too new for one."""
        subject, self._book.unsettled = report.subject, False
        self._said[subject.ref] = report.findings
        for notice in self._book.notices(subject.ref, subject.uid, subject.api_version, report.findings, now):
            self._post(notice, now)
        (self._unsettled.add if self._book.unsettled else self._unsettled.discard)(subject.ref)

    def _status(self, report: Report, now: float) -> Mapping[str, Any]:
        entry = self._store.get(report.subject.ref)
        return report.status.data(entry.status if entry else {}, now)

    def _post(self, notice: Notice, now: float) -> None:
        ref = Ref("Event", notice.ref.namespace, notice.name)
        moment = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        before = self._store.get(ref)
        if before is not None:
            raw = {**before.raw, "series": {"count": max(notice.count, 2), "lastObservedTime": moment}}
        else:
            raw = _event(notice, moment)
        self._events[ref] = now
        self._store.post(ref, raw)

    def _forget(self, now: float) -> None:
        for ref in [ref for ref, at in self._events.items() if now - at > EVENT_LIFE]:
            del self._events[ref]
            self._store.post(ref, None)


def _version(entry: Entry) -> str:
    return str(entry.raw.get("apiVersion", "")).rpartition("/")[2]


def _event(notice: Notice, moment: str) -> dict[str, Any]:
    ref = notice.ref
    return {
        "apiVersion": f"{EVENTS_GROUP}/v1",
        "kind": "Event",
        "metadata": {"name": notice.name, "namespace": ref.namespace},
        "eventTime": moment,
        "reportingController": CONTROLLER,
        "reportingInstance": "smi-adapter",
        "action": "Translate",
        "reason": notice.reason,
        "note": notice.note,
        "type": "Warning",
        "regarding": {
            "apiVersion": notice.api_version,
            "kind": ref.kind,
            "namespace": ref.namespace,
            "name": ref.name,
            "uid": notice.uid,
        },
    }
