"""Edits of YAML text: the value is exactly the wanted one, and comments stay where the edit did not touch them."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from smi_adapter.sources.yaml_edit import dumped, edited
from smi_adapter.sources.yaml_text import parse

SPLIT = """\
# A head.
---
apiVersion: split.smi-spec.io/v1alpha4
kind: TrafficSplit
metadata: {name: shop, namespace: default} # who it is
spec:
  service: shop # the root
  # Who shares it.
  backends:
  - {service: one, weight: 50} # old
  # the new one
  - service: two
    weight: 50 # half

# A tail.
"""


def value_of(text: str) -> Any:
    (parsed,) = parse(text)
    return parsed.value


def changed(text: str, change: Any) -> str:
    old = value_of(text)
    new = copy.deepcopy(old)
    change(new)
    result = edited(text, old, new)
    assert json.dumps(value_of(result), sort_keys=True) == json.dumps(new, sort_keys=True)
    return result


def lines(before: str, after: str) -> tuple[list[str], list[str]]:
    """Return the lines that went and those that came."""
    old, new = before.splitlines(), after.splitlines()
    return [line for line in old if line not in new], [line for line in new if line not in old]


def test_a_scalar_is_replaced_in_its_place() -> None:
    after = changed(SPLIT, lambda new: new["spec"]["backends"][1].update(weight=10))
    assert lines(SPLIT, after) == (["    weight: 50 # half"], ["    weight: 10 # half"])


def test_a_scalar_in_braces_is_replaced_in_its_place() -> None:
    after = changed(SPLIT, lambda new: new["spec"]["backends"][0].update(weight=0))
    assert lines(SPLIT, after) == (["  - {service: one, weight: 50} # old"], ["  - {service: one, weight: 0} # old"])


def test_a_field_is_added_at_the_end_of_its_mapping() -> None:
    after = changed(SPLIT, lambda new: new["spec"].update(matches=[{"kind": "HTTPRouteGroup", "name": "x"}]))
    gone, come = lines(SPLIT, after)
    assert (gone, come) == ([], ["  matches:", "  - {kind: HTTPRouteGroup, name: x}"])
    assert after.endswith("\n\n# A tail.\n")


def test_a_field_in_braces_is_added() -> None:
    after = changed(SPLIT, lambda new: new["metadata"].update(labels={"a": "b"}))
    assert "metadata: {name: shop, namespace: default, labels: {a: b}} # who it is" in after


def test_an_item_is_added_in_the_style_of_its_neighbour() -> None:
    after = changed(SPLIT, lambda new: new["spec"]["backends"].append({"service": "three", "weight": 1}))
    assert lines(SPLIT, after) == ([], ["  - service: three", "    weight: 1"])
    after = changed(SPLIT, lambda new: new["spec"]["backends"].insert(0, {"service": "three", "weight": 1}))
    assert lines(SPLIT, after) == ([], ["  - {service: three, weight: 1}"])


def test_lists_of_plain_values_grow_and_shrink() -> None:
    text = "args:\n- one # first\n- two\n"
    assert changed(text, lambda new: new["args"].append("three")) == text + "- three\n"
    assert changed(text, lambda new: new["args"].insert(1, "half")) == "args:\n- one # first\n- half\n- two\n"
    assert changed(text, lambda new: new["args"].pop()) == "args:\n- one # first\n"


def test_an_item_is_removed_with_its_line_alone() -> None:
    after = changed(SPLIT, lambda new: new["spec"]["backends"].pop(0))
    assert lines(SPLIT, after) == (["  - {service: one, weight: 50} # old"], [])


def test_a_field_is_removed_with_its_lines_alone() -> None:
    text = SPLIT.replace("  service: shop # the root\n", "  service: shop # the root\n  extra:\n    a: 1\n")
    assert changed(text, lambda new: new["spec"].pop("extra")) == SPLIT


def test_the_first_field_of_an_item_can_go() -> None:
    text = "list:\n- a: 1\n  b: 2 # two\n- c: 3\n"
    assert changed(text, lambda new: new["list"][0].pop("a")) == "list:\n- b: 2 # two\n- c: 3\n"


def test_quotes_stay_quotes_and_texts_that_look_like_something_else_get_them() -> None:
    text = "a: \"one\"\nb: 'two'\nc: three\n"
    assert changed(text, lambda new: new.update(a="1", b="2")) == "a: \"1\"\nb: '2'\nc: three\n"
    assert changed(text, lambda new: new.update(c="yes")) == "a: \"one\"\nb: 'two'\nc: 'yes'\n"


def test_an_empty_value_and_a_last_line_without_an_end_are_edited() -> None:
    assert changed("a:\nb: 1", lambda new: new.update(a=2)) == "a: 2\nb: 1"
    assert changed("a: 1", lambda new: new.update(b=2)) == "a: 1\nb: 2"
    assert changed("a:\n  b: 1 # c", lambda new: new["a"].clear()) == "a:\n  {} # c"


def test_block_scalars_stay_and_can_have_a_neighbour() -> None:
    text = "a: |\n  one\n  two\nb: 1 # c\n"
    assert changed(text, lambda new: new.update(b=2)) == "a: |\n  one\n  two\nb: 2 # c\n"
    text = "b: 1 # c\na: |\n  one\n"
    assert changed(text, lambda new: new.update(c=3)) == "b: 1 # c\na: |\n  one\nc: 3\n"


def test_what_shares_an_anchor_is_written_anew_rather_than_changed_in_two_places() -> None:
    text = "# head\na: &x {n: 1}\nb: *x\n"
    after = changed(text, lambda new: new.__setitem__("b", {"n": 2}))
    assert after.startswith("# head\n")


def test_json_stays_json() -> None:
    text = json.dumps({"a": {"b": [1, 2]}}, indent=4) + "\n"
    after = changed(text, lambda new: new["a"]["b"].append("yes"))
    assert json.loads(after) == {"a": {"b": [1, 2, "yes"]}}
    assert after.count("\n") == 9


TEXTS = st.text(
    st.characters(
        codec="utf-8", exclude_categories=["Cs", "Cc", "Cn", "Co"], exclude_characters="\ufeff\u2028\u2029\x85"
    ),
    max_size=8,
)
KEYS = st.one_of(st.sampled_from(["a", "b", "c", "name", "yes", "1"]), TEXTS.filter(lambda text: text != "<<"))
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 300), TEXTS, st.sampled_from(["1", "no", "a: b", "# x", "{"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=8,
)
DOCUMENTS = st.dictionaries(KEYS, VALUES, min_size=1, max_size=4)


@given(DOCUMENTS, DOCUMENTS, st.sampled_from([True, False, None]))
@settings(max_examples=60, deadline=None)
def test_whatever_is_wanted_is_what_the_text_says_then(old: Any, new: Any, style: bool | None) -> None:
    text = yaml.safe_dump(old, default_flow_style=style, sort_keys=False, allow_unicode=True)
    if [one.value for one in parse(text)] != [old]:
        return  # the dumper and our stricter parser do not agree about it
    merged = {**old, **new}
    for wanted in (new, merged):
        result = edited(text, old, wanted)
        assert [one.value for one in parse(result)] == [wanted]


@pytest.mark.parametrize("value", [{"a": "x" * 300}, {"a": ["y" * 200] * 3}, {"a": "line\nbreak"}])
def test_long_and_broken_lines_are_written_such_that_they_are_read_again(value: Any) -> None:
    assert value_of(dumped(value)) == value
    assert value_of(edited("a: 1\n", {"a": 1}, value)) == value
