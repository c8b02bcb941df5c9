"""Owners of fields and server-side apply."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smi_adapter.embedded_api.fields import Manager, apply, from_wire, leaves, shown, to_wire, updated


def manager(name: str, operation: str = "Apply") -> Manager:
    return Manager(name, operation, "v1", "2026-01-01T00:00:00Z", frozenset())


def applied(live: Any, wanted: Any, managers: tuple[Manager, ...], name: str, *, force: bool = False) -> Any:
    return apply(live, wanted, managers, manager(name), force=force, keyed=True)


def test_what_an_applier_leaves_out_goes_unless_another_owns_it() -> None:
    one = applied({}, {"spec": {"a": 1, "b": 2, "c": 3}}, (), "one")
    two = applied(one.value, {"spec": {"b": 2}}, one.managers, "two")
    less = applied(two.value, {"spec": {"a": 1}}, two.managers, "one")
    assert less.value == {"spec": {"a": 1, "b": 2}}
    assert {item.name: len(item.paths) for item in less.managers} == {"two": 1, "one": 1}


def test_a_field_of_another_is_a_conflict_unless_it_is_the_same_or_forced() -> None:
    one = applied({}, {"spec": {"a": 1}}, (), "one")
    same = applied(one.value, {"spec": {"a": 1}}, one.managers, "two")
    assert not same.conflicts
    other = applied(same.value, {"spec": {"a": 2}}, same.managers, "two")
    assert [(str(owner), shown(path)) for owner, path in other.conflicts] == [('"one"', ".spec.a")]
    assert other.value == {"spec": {"a": 1}}
    forced = applied(same.value, {"spec": {"a": 2}}, same.managers, "two", force=True)
    assert forced.value == {"spec": {"a": 2}}
    assert [item.name for item in forced.managers] == ["two"]


def test_lists_with_keys_are_merged_and_others_are_one_value() -> None:
    live = {"spec": {"ports": [{"port": 1, "name": "a"}, {"port": 2}], "plain": [1, 2]}}
    after = applied(live, {"spec": {"ports": [{"port": 2, "name": "b"}, {"port": 3}], "plain": [3]}}, (), "one")
    assert after.value["spec"] == {
        "ports": [{"port": 1, "name": "a"}, {"port": 2, "name": "b"}, {"port": 3}],
        "plain": [3],
    }
    less = applied(after.value, {"spec": {"ports": [{"port": 3}]}}, after.managers, "one")
    assert less.value["spec"] == {"ports": [{"port": 1, "name": "a"}, {"port": 3}]}


def test_an_empty_parent_goes_with_its_last_field() -> None:
    one = applied({}, {"metadata": {"labels": {"a": "b"}}, "spec": {"x": 1}}, (), "one")
    assert applied(one.value, {"spec": {"x": 1}}, one.managers, "one").value["metadata"] == {}


def test_an_update_takes_what_it_changes_and_drops_what_is_gone() -> None:
    one = applied({}, {"spec": {"a": 1, "b": 2, "c": 3}}, (), "one")
    old, new = leaves(one.value, keyed=True), leaves({"spec": {"a": 1, "b": 3}}, keyed=True)
    owners = updated(one.managers, old, new, manager("hand", "Update"))
    assert {item.name: sorted(shown(path) for path in item.paths) for item in owners} == {
        "one": [".spec.a"],
        "hand": [".spec.b"],
    }


def test_owners_below_what_has_not_changed_stay_though_nobody_looks_there() -> None:
    old = {"spec": {"a": 1, "b": 2}, "data": {"x": 1, "y": 2}}
    new = {**old, "data": {"x": 1, "y": 3, "z": 4}}
    owners = applied({}, {"spec": {"a": 1}, "data": {"x": 1, "y": 2}}, (), "one").managers
    owners = updated(owners, {}, leaves({"spec": {"b": 2}}, keyed=True), manager("two", "Update"), {"f:data", "f:spec"})
    whole = updated(owners, leaves(old, keyed=True), leaves(new, keyed=True), manager("files", "Update"))
    was, now = leaves({"data": old["data"]}, keyed=True), leaves({"data": new["data"]}, keyed=True)
    assert updated(owners, was, now, manager("files", "Update"), {"f:spec"}) == whole
    assert {one.name: sorted(map(shown, one.paths)) for one in whole} == {
        "one": [".data.x", ".spec.a"],
        "two": [".spec.b"],
        "files": [".data.y", ".data.z"],
    }


def test_names_versions_and_status_have_no_owner() -> None:
    value = {"apiVersion": "v1", "kind": "X", "metadata": {"name": "x", "labels": {"a": "b"}}, "status": {"ok": True}}
    assert [shown(path) for path in leaves(value, keyed=True)] == [".metadata.labels.a"]


VALUES = st.recursive(
    st.one_of(st.integers(), st.text(max_size=3)),
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from(["a", "b", "ports", "x.y/z"]), inner, max_size=3),
        st.lists(
            st.fixed_dictionaries({"port": st.integers(1, 3), "v": inner}),
            max_size=2,
            unique_by=lambda one: one["port"],
        ),
    ),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.sampled_from(["spec", "data"]), VALUES, max_size=2)


@given(OBJECTS, OBJECTS)
@settings(max_examples=100, deadline=None)
def test_what_is_applied_is_there_and_owners_survive_the_wire(first: Any, second: Any) -> None:
    one = applied({}, first, (), "one")
    assert from_wire(to_wire(one.managers)) == one.managers
    two = applied(one.value, second, one.managers, "two", force=True)
    there = leaves(two.value, keyed=True)
    for path, value in leaves(second, keyed=True).items():
        assert value in ({}, []) or there[path] == value  # an empty one may hold what another has put there


@pytest.mark.parametrize("entries", [[1], [{"operation": "Apply", "fieldsV1": 7}], [{}]])
def test_what_is_no_managed_fields_is_refused(entries: Any) -> None:
    with pytest.raises(ValueError, match="managedFields"):
        from_wire(entries)
