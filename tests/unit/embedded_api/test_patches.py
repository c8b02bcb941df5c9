"""Patches: what each kind of patch makes of a value."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from smi_adapter.embedded_api.patches import PatchError, json_patch, merge, strategic

SPLIT: dict[str, Any] = {"spec": {"service": "web", "backends": [{"service": "v1", "weight": 1}]}}
POD: dict[str, Any] = {
    "containers": [
        {"name": "app", "image": "a", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]},
        {"name": "side", "image": "b"},
    ],
    "finalizers": ["x", "y"],
}


def test_a_merge_patch_replaces_lists_and_removes_by_null() -> None:
    before = copy.deepcopy(SPLIT)
    after = merge(SPLIT, {"spec": {"backends": [], "service": None, "matches": [1]}})
    assert after == {"spec": {"backends": [], "matches": [1]}}
    assert before == SPLIT


@pytest.mark.parametrize(
    ("operations", "wanted"),
    [
        ([{"op": "add", "path": "/b", "value": 1}], {"a": [1, 2], "b": 1}),
        ([{"op": "add", "path": "/a/-", "value": 3}], {"a": [1, 2, 3]}),
        ([{"op": "add", "path": "/a/0", "value": 3}], {"a": [3, 1, 2]}),
        ([{"op": "replace", "path": "/a/1", "value": 3}], {"a": [1, 3]}),
        ([{"op": "remove", "path": "/a/0"}], {"a": [2]}),
        ([{"op": "move", "from": "/a/0", "path": "/b"}], {"a": [2], "b": 1}),
        ([{"op": "copy", "from": "/a", "path": "/x~1y"}], {"a": [1, 2], "x/y": [1, 2]}),
        ([{"op": "test", "path": "/a/0", "value": 1}], {"a": [1, 2]}),
        ([{"op": "replace", "path": "", "value": {}}], {}),
    ],
)
def test_a_json_patch_does_what_it_says(operations: Any, wanted: Any) -> None:
    assert json_patch({"a": [1, 2]}, operations) == wanted


@pytest.mark.parametrize(
    "operations",
    [
        {},
        [1],
        [{"op": "test", "path": "/a/0", "value": 2}],
        [{"op": "remove", "path": "/b"}],
        [{"op": "replace", "path": "/b", "value": 1}],
        [{"op": "add", "path": "/a/7", "value": 1}],
        [{"op": "add", "path": "/a/-1", "value": 1}],
        [{"op": "add", "path": "b", "value": 1}],
        [{"op": "add", "path": "/a/0/b", "value": 1}],
        [{"op": "jump", "path": "/a"}],
        [{"op": "add", "path": "/a"}],
    ],
)
def test_a_json_patch_that_does_not_fit_is_refused_whole(operations: Any) -> None:
    value = {"a": [1, 2]}
    with pytest.raises(PatchError):
        json_patch(value, operations)
    assert value == {"a": [1, 2]}


def test_a_strategic_patch_merges_lists_by_key() -> None:
    patch = {
        "$setElementOrder/containers": [{"name": "app"}, {"name": "side"}],
        "containers": [{"name": "app", "env": [{"name": "A", "$patch": "delete"}, {"name": "C", "value": "3"}]}],
    }
    after = strategic(POD, patch)
    assert after["containers"][0]["env"] == [{"name": "B", "value": "2"}, {"name": "C", "value": "3"}]
    assert after["containers"][1] == POD["containers"][1]


def test_a_strategic_patch_orders_replaces_and_removes() -> None:
    assert [
        one["name"] for one in strategic(POD, {"$setElementOrder/containers": [{"name": "side"}]})["containers"]
    ] == [
        "side",
        "app",
    ]
    replaced = strategic(POD, {"containers": [{"$patch": "replace"}, {"name": "new"}]})
    assert replaced["containers"] == [{"name": "new"}]
    assert strategic(POD, {"$deleteFromPrimitiveList/finalizers": ["x"]})["finalizers"] == ["y"]
    assert strategic({"a": {"b": 1, "c": 2}}, {"a": {"$retainKeys": ["c"], "c": 3}}) == {"a": {"c": 3}}
    assert strategic({"a": {"b": 1}}, {"a": {"$patch": "replace", "c": 3}}) == {"a": {"c": 3}}
