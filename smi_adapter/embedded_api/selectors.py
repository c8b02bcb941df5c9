"""Label and field selectors of list and watch requests."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from smi_adapter.embedded_api.answers import bad_request

Test: TypeAlias = Callable[[Mapping[str, Any]], bool]

_SET = re.compile(r"^\s*(?P<key>[^\s!=,()]+)\s+(?P<how>in|notin)\s*\((?P<values>[^)]*)\)\s*$")
_EQUAL = re.compile(r"^\s*(?P<key>[^\s!=,()]+)\s*(?P<how>==?|!=)\s*(?P<value>[^\s,()]*)\s*$")
_EXISTS = re.compile(r"^\s*(?P<not>!?)\s*(?P<key>[^\s!=,()]+)\s*$")
_COMMA = re.compile(r",(?![^(]*\))")


def selected(labels: str, wanted: str) -> Test:
    """Return the test of whether an object is asked for; BadRequest if a selector makes no sense."""
    tests = [*(_label(part) for part in _parts(labels)), *(_field(part) for part in _parts(wanted))]
    return lambda item: all(test(item) for test in tests)


def _parts(text: str) -> list[str]:
    return [part for part in _COMMA.split(text) if part.strip()]


def _label(part: str) -> Test:
    if found := _SET.match(part):
        key, inside = found["key"], found["how"] == "in"
        values = {value.strip() for value in found["values"].split(",")}
        return lambda item: (_labels(item).get(key) in values) == inside
    if found := _EQUAL.match(part):
        key, value, equal = found["key"], found["value"], found["how"] != "!="
        return lambda item: (_labels(item).get(key) == value) == equal
    if found := _EXISTS.match(part):
        key, there = found["key"], not found["not"]
        return lambda item: (key in _labels(item)) == there
    raise bad_request(f"unable to parse the label selector {part!r}")


def _labels(item: Mapping[str, Any]) -> Mapping[str, Any]:
    return item["metadata"].get("labels") or {}


def _field(part: str) -> Test:
    found = _EQUAL.match(part)
    if not found:
        raise bad_request(f"unable to parse the field selector {part!r}")
    path, value, equal = found["key"].split("."), found["value"], found["how"] != "!="

    def test(item: Mapping[str, Any]) -> bool:
        here: Any = item
        for step in path:
            here = here.get(step) if isinstance(here, Mapping) else None
        return (("" if here is None else str(here)) == value) == equal

    return test
