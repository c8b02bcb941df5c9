"""What the API remembers from one run to the next."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from smi_adapter.decode import ref_of
from smi_adapter.embedded_api.fields import FILES, Manager, leaves
from smi_adapter.embedded_api.ledger import Ledger
from smi_adapter.embedded_api.store import Store
from tests.unit.embedded_api.world import split


def first_run(path: Path) -> Store:
    store = Store()
    raw = split()
    who = Manager("me", "Apply", raw["apiVersion"], store.now(), frozenset(leaves(raw, keyed=False)))
    book = store.new_book()
    with store.expecting(ref_of(raw), type(book)(book.uid, book.created, 3, (who,), "applied")):
        store.take({ref_of(raw): raw})
    Ledger(path).write(store)
    return store


def test_an_object_that_nobody_touched_is_the_same_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "books.json"
    before = first_run(path)
    after = Store(remembered=Ledger(path).read())
    after.take({ref_of(split()): split()})
    for name in (ref_of(split()), *(ref for ref in before.everything() if ref.kind == "Namespace")):
        assert after.everything()[name].book == before.everything()[name].book
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_one_that_was_edited_meanwhile_keeps_its_uid_and_belongs_to_the_files(tmp_path: Path) -> None:
    path = tmp_path / "books.json"
    before = first_run(path).everything()[ref_of(split())].book
    store = Store(remembered=Ledger(path).read())
    store.take({ref_of(split()): split(weight=7)})
    book = store.everything()[ref_of(split())].book
    assert (book.uid, book.created, book.last_applied, book.generation) == (before.uid, before.created, "applied", 4)
    assert [one.name for one in book.managers] == [FILES]


def test_one_that_comes_later_is_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "books.json"
    before = first_run(path).everything()[ref_of(split())].book
    store = Store(remembered=Ledger(path).read())
    store.take({})
    store.take({ref_of(split()): split()})
    assert store.everything()[ref_of(split())].book.uid != before.uid


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"format": 9}', '{"format": 1, "books": [{}]}', '{"format": 1}'])
def test_a_ledger_that_cannot_be_read_is_an_empty_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "books.json").write_text(text)
    assert Ledger(tmp_path / "books.json").read() == {}


def test_a_store_that_has_not_seen_the_files_does_not_overwrite_the_ledger(tmp_path: Path) -> None:
    path = tmp_path / "books.json"
    first_run(path)
    text = path.read_text()
    Ledger(path).write(Store())
    assert path.read_text() == text
