"""What a driver may answer (docs/driver.md); another answer is told as the driver's fault and is no crash of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from smi_conformance.protocol import HarnessError

_Test = Callable[[Any], bool]
_TYPES = ("", "Normal", "Warning")


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _objects(*required: str) -> _Test:
    def fits(value: Any) -> bool:
        return isinstance(value, list) and all(isinstance(item, dict) and item.keys() >= {*required} for item in value)

    return fits


def _results(value: Any) -> bool:
    return _objects("code")(value) and all(isinstance(item["code"], int) for item in value)


def _addresses(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, list) and len(item) == 2 and isinstance(item[0], str) and isinstance(item[1], int)
        for item in value
    )


def _events(value: Any) -> bool:
    return _objects("reason", "message")(value) and all(item.get("type", "") in _TYPES for item in value)


def _served(value: Any) -> bool:
    return isinstance(value, dict) and all(_texts(versions) for versions in value.values())


_FIELDS: Mapping[str, Mapping[str, tuple[_Test, str]]] = {
    "hello": {
        "capabilities": (_texts, "a list of texts"),
        "served": (_served, "lists of versions by group"),
        "environment": (lambda value: isinstance(value, dict), "a mapping"),
    },
    "apply": {"results": (_results, "a list with a code for each object")},
    "patch": {"code": (lambda value: type(value) is int, "a number")},
    "get": {"object": (lambda value: value is None or isinstance(value, dict), "an object or null")},
    "deploy": {"pods": (_objects("name", "address"), "a list of name and address")},
    "address": {"addresses": (_addresses, "a list of [host, port]")},
    "events": {"events": (_events, "a list of reason and message, with or without a type: Normal or Warning")},
}
_OPTIONAL = frozenset({("hello", "environment"), ("get", "object")})


def checked(op: str, answer: Mapping[str, Any], objects: int | None = None) -> None:
    """Raise a HarnessError unless an answer has the fields of its kind; `objects` says how many results there are."""
    for name, (fits, words) in _FIELDS.get(op, {}).items():
        if name not in answer:
            if (op, name) not in _OPTIONAL:
                raise HarnessError(f"the driver's answer to {op} has no {name}: {words} is wanted")
        elif not fits(answer[name]):
            seen = f"{str(answer[name])[:100]!r} is not {words}"
            raise HarnessError(f"the driver's answer to {op} has a strange {name}: {seen}")
    for result in {"apply": answer.get("results", ()), "patch": (answer,)}.get(op, ()):
        if result["code"] >= 500:
            raise HarnessError(f"the driver's API has trouble: {result['code']} {result.get('message', '')}".rstrip())
    if op == "apply" and objects is not None and len(answer["results"]) != objects:
        raise HarnessError(f"the driver's answer to apply has {len(answer['results'])} results for {objects} objects")
