"""Events: each finding once, a series when it comes back, never too many, and always fit for the API."""

from __future__ import annotations

from smi_adapter.findings import Finding, Severity, finding
from smi_adapter.report import EventBook, Notice
from smi_adapter.report.events import NOTE_BYTES
from tests.told import SPLIT, Told, service, shop, split

MISMATCH = finding("SMI0103", SPLIT, "spec.backends", "Service shop/v2 has no port 80")


def told(book: EventBook, now: float, *found: Finding) -> tuple[Notice, ...]:
    return book.notices(SPLIT, "uid-1", "split.smi-spec.io/v1alpha4", found, now)


def test_a_port_mismatch_is_an_event_as_the_specification_asks() -> None:
    pipeline = Told(*shop(), split(), service("v2", port=81))
    report = pipeline.reports()[SPLIT]
    (notice, *rest) = [item for item in told(EventBook(0), 0, *report.findings) if item.reason == "PortMismatch"]
    assert rest == []
    assert notice.note.startswith("SMI0103: spec.backends: Service shop/v2 has no port 80.")


def test_a_finding_is_told_once_while_it_stays() -> None:
    book = EventBook(0)
    assert len(told(book, 0, MISMATCH)) == 1
    assert told(book, 10, MISMATCH) == ()
    assert told(book, 1000, MISMATCH, MISMATCH) == ()


def test_a_finding_that_comes_back_goes_on_with_its_series() -> None:
    book = EventBook(0)
    (first,) = told(book, 0, MISMATCH)
    assert told(book, 10) == ()
    (second,) = told(book, 20, MISMATCH)
    assert (first.count, second.count) == (1, 2)
    assert first.name == second.name


def test_a_finding_that_stays_is_told_again_before_the_api_forgets_it() -> None:
    book = EventBook(0)
    told(book, 0, MISMATCH)
    (again,) = told(book, 1801, MISMATCH)
    assert again.count == 2


def test_findings_of_one_code_are_one_event() -> None:
    other = finding("SMI0103", SPLIT, "spec.backends", "Service shop/v3 has no port 80")
    (notice,) = told(EventBook(0), 0, MISMATCH, other)
    assert "(1 more like this.)" in notice.note


def test_one_object_cannot_flood() -> None:
    book = EventBook(0)
    sent = 0
    for second in range(600):
        found = finding("SMI0103", SPLIT, "spec.backends", f"Service shop/v{second} has no port 80")
        sent += len(told(book, second, found))
    assert sent == 10 + 9
    other = book.notices(SPLIT, "uid-2", "split.smi-spec.io/v1alpha4", [MISMATCH], 600)
    assert len(other) == 1


def test_what_could_not_be_told_is_told_later() -> None:
    book = EventBook(0)
    for number in range(10):
        told(book, 0, finding("SMI0103", SPLIT, "", str(number)))
    assert told(book, 1, MISMATCH) == ()
    assert len(told(book, 61, MISMATCH)) == 1


def test_information_is_no_event() -> None:
    assert told(EventBook(0), 0, finding("SMI0102", SPLIT, "", "gone", severity=Severity.INFO)) == ()


def test_a_note_begins_with_the_code_is_printable_and_fits() -> None:
    evil = finding("SMI0505", SPLIT, "spec", "ä\n\x1b[31m" * 2000)
    (notice,) = told(EventBook(0), 0, evil)
    assert notice.note.startswith("SMI0505: ")
    assert len(notice.note.encode()) <= NOTE_BYTES
    assert notice.note.isprintable()


def test_an_event_is_named_alike_by_every_replica_and_run() -> None:
    assert told(EventBook(0), 0, MISMATCH)[0].name == told(EventBook(0), 5, MISMATCH)[0].name
    other = EventBook(0).notices(SPLIT, "uid-2", "split.smi-spec.io/v1alpha4", [MISMATCH], 0)
    assert other[0].name != told(EventBook(0), 0, MISMATCH)[0].name


def test_objects_that_are_gone_are_forgotten() -> None:
    book = EventBook(0)
    told(book, 0, MISMATCH)
    book.forget(["uid-1"])
    assert len(told(book, 1, MISMATCH)) == 1


def test_what_goes_by_itself_is_no_event() -> None:
    book = EventBook(settle=1)
    assert told(book, 0, MISMATCH) == ()
    assert book.unsettled
    assert told(book, 0.5) == ()
    assert told(book, 2, MISMATCH) == ()
    assert told(book, 2.9, MISMATCH) == ()
    assert len(told(book, 3.1, MISMATCH)) == 1
