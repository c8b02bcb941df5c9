"""The overlay is a mapping like any other, whatever was edited."""

from __future__ import annotations

from types import MappingProxyType

from hypothesis import given
from hypothesis import strategies as st

from smi_adapter.overlay import GONE, Overlay, edited

KEYS = st.integers(0, 20)
EDITS = st.dictionaries(KEYS, st.one_of(st.integers(), st.just(GONE)), max_size=8)


@given(base=st.dictionaries(KEYS, st.integers()), history=st.lists(EDITS, max_size=20))
def test_any_history_of_edits_gives_what_a_dict_would_hold(base: dict[int, int], history: list[dict[int, int]]) -> None:
    expected, mapping = dict(base), MappingProxyType(base)
    for edits in history:
        mapping = edited(mapping, edits)  # type: ignore[assignment]
        for key, value in edits.items():
            expected.pop(key, None) if value is GONE else expected.__setitem__(key, value)
        assert dict(mapping) == expected
        assert mapping == expected
        assert len(mapping) == len(expected)
        assert list(mapping) == [key for key, _ in mapping.items()]
        assert all(mapping.get(key) == expected.get(key) and (key in mapping) == (key in expected) for key in range(21))


def test_what_was_edited_stays_as_it_was() -> None:
    first = edited(MappingProxyType({"a": 1, "b": 2}), {"a": 3})
    second = edited(first, {"b": 4})
    assert (dict(first), dict(second)) == ({"a": 3, "b": 2}, {"a": 3, "b": 4})


def test_replaced_values_keep_their_place() -> None:
    assert list(edited({"b": 1, "a": 2}, {"b": 3}).items()) == [("b", 3), ("a", 2)]


def test_a_long_history_does_not_pile_up() -> None:
    mapping = edited(dict.fromkeys(range(1000), 0), {0: 1})
    kinds = set()
    for key in range(1000):
        mapping = edited(mapping, {key: key})
        kinds.add(type(mapping))
        assert not isinstance(mapping, Overlay) or len(mapping._values) <= 64
    assert kinds == {Overlay, MappingProxyType}
    assert dict(mapping) == {key: key for key in range(1000)}
