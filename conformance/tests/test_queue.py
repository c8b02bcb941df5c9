"""In which order cases are played."""

from __future__ import annotations

from smi_conformance import catalog
from smi_conformance.runner import Instance, Queue


def queue(*names: str) -> Queue:
    return Queue(Instance(catalog.entries()[name], version) for name in names for version in ("v1alpha3", "v1alpha4"))


def taken(items: Queue, last: Instance | None, *, enforced: bool) -> Instance:
    found = items.take(last, enforced=enforced)
    assert found is not None
    return found


def test_a_worker_plays_all_versions_of_its_case_first() -> None:
    items = queue("TS-02", "TS-05")
    first = taken(items, None, enforced=False)
    second = taken(items, first, enforced=False)
    assert (first.id, second.id) == ("TS-02[v1alpha3]", "TS-02[v1alpha4]")
    assert taken(items, second, enforced=False).entry.id == "TS-05"


def test_a_worker_stays_with_the_mode_of_its_places() -> None:
    items = queue("TS-02", "TT-01")
    assert taken(items, None, enforced=True).entry.id == "TT-01"
    assert taken(items, None, enforced=True).entry.id == "TS-02"


def test_what_takes_long_begins_first() -> None:
    assert taken(queue("TS-02", "TS-05", "TS-30"), None, enforced=False).entry.id == "TS-30"


def test_a_worker_without_a_case_of_its_own_takes_versions_from_another() -> None:
    items = queue("TS-02")
    first = taken(items, None, enforced=False)
    other = taken(items, None, enforced=True)
    assert {first.version, other.version} == {"v1alpha3", "v1alpha4"}
    assert items.take(first, enforced=False) is None


def test_each_instance_is_played_once() -> None:
    items = queue("TS-02", "TS-30", "TT-01", "CV-01")
    played: list[str] = []
    last: list[Instance | None] = [None, None, None]
    while any(last := [items.take(item, enforced=bool(at % 2)) for at, item in enumerate(last)]):
        played += [item.id for item in last if item is not None]
    assert sorted(played) == sorted(set(played))
    assert len(played) == 8
