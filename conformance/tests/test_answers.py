"""A driver that answers something else than its protocol says is told so in its own terms, whatever it says."""

from __future__ import annotations

from typing import Any

import pytest

from smi_conformance.answers import checked
from smi_conformance.protocol import HarnessError

GOOD: dict[str, dict[str, Any]] = {
    "hello": {"capabilities": ["tcp"], "served": {"split.smi-spec.io": ["v1alpha4"]}},
    "apply": {"results": [{"code": 201}]},
    "get": {"object": None},
    "deploy": {"pods": [{"name": "a-0", "address": "127.0.0.1"}]},
    "address": {"addresses": [["127.0.0.1", 80]]},
    "events": {"events": [{"reason": "a", "message": "b"}]},
    "delete": {},
}


@pytest.mark.parametrize("op", GOOD)
def test_an_answer_of_the_protocol_is_taken(op: str) -> None:
    checked(op, GOOD[op], 1)


@pytest.mark.parametrize(
    ("op", "answer", "words"),
    [
        ("hello", {"served": {}}, "answer to hello has no capabilities"),
        ("hello", {**GOOD["hello"], "served": ["a"]}, "strange served"),
        ("hello", {**GOOD["hello"], "capabilities": "tcp"}, "strange capabilities: 'tcp' is not a list of texts"),
        ("apply", {}, "answer to apply has no results"),
        ("apply", {"results": [{"message": "fine"}]}, "strange results"),
        ("apply", {"results": []}, "0 results for 1 objects"),
        ("apply", {"results": [{"code": 503, "message": "later"}]}, "API has trouble: 503 later"),
        ("get", {"object": "text"}, "strange object"),
        ("deploy", {"pods": 5}, "strange pods"),
        ("deploy", {"pods": [{"name": "a-0"}]}, "strange pods"),
        ("address", {"addresses": "yes"}, "strange addresses"),
        ("address", {"addresses": [["127.0.0.1"]]}, "strange addresses"),
        ("events", {"events": [{"reason": "a"}]}, "strange events"),
        ("events", {"events": [{"reason": "a", "message": "b", "type": "Bad"}]}, "strange events"),
    ],
)
def test_an_answer_of_another_shape_is_trouble_with_the_driver(op: str, answer: dict[str, Any], words: str) -> None:
    with pytest.raises(HarnessError, match=words):
        checked(op, answer, 1)


def test_a_refusal_is_an_answer_and_no_trouble() -> None:
    checked("apply", {"results": [{"code": 422, "message": "spec.service is required"}]}, 1)


def test_an_event_may_have_a_type_that_kubernetes_knows() -> None:
    for kind in ("Normal", "Warning"):
        checked("events", {"events": [{"reason": "a", "message": "b", "type": kind}]})
