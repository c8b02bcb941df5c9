"""The validating webhook: what it refuses, what it warns of, and that no bytes hurt it."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from smi_adapter import app
from smi_adapter.backends import load
from smi_adapter.findings import Finding
from smi_adapter.smi import schema, wire
from smi_adapter.snapshot import Options
from smi_adapter.webhooks import envelope, validate
from tests import strategies

ROOT = Path(__file__).parents[3]
UID = "705ab4f5-6393-11e8-b7cc-42010a800002"


def examples(verdict: str) -> list[Any]:
    return [
        pytest.param(path, id="-".join((path.parts[-4], path.stem)))
        for path in sorted((ROOT / "schemas").glob(f"*/*/examples/{verdict}/*.yaml"))
    ]


def request(raw: Any, operation: str = "CREATE", old: Any = None) -> dict[str, Any]:
    asked = {"uid": UID, "operation": operation, "namespace": "shop", "object": raw, "oldObject": old}
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": asked}


def ask(review: Any, judge: validate.Judge | None = None) -> Any:
    answer = json.loads(validate.review(json.dumps(review).encode(), judge))
    assert answer["apiVersion"] == "admission.k8s.io/v1"
    assert answer["response"]["uid"] == UID
    return answer["response"]


def split(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "split.smi-spec.io/v1alpha4",
        "kind": "TrafficSplit",
        "metadata": {"name": "it", "namespace": "shop"},
        "spec": {"service": "web", "backends": [{"service": "web-v1", "weight": 1}], **spec},
    }


# ---------------------------------------------------------------------------------------------------- verdicts
@pytest.mark.parametrize("path", examples("valid"))
def test_a_valid_example_is_let_through_without_a_word(path: Path) -> None:
    assert ask(request(yaml.safe_load(path.read_text(encoding="utf-8")))) == {"uid": UID, "allowed": True}


@pytest.mark.parametrize("path", examples("invalid"))
def test_an_invalid_example_is_refused_with_its_code_and_field(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    wanted = dict(re.findall(r"^# (field|says): (.*)$", text, re.MULTILINE))
    raw = json.loads(json.dumps(yaml.safe_load(text)))
    answer = ask(request(raw))
    assert answer["allowed"] is False
    status = answer["status"]
    assert status["code"] == 422
    causes = {cause["field"]: cause["message"] for cause in status["details"]["causes"]}
    field = wanted["field"].strip('"')
    assert wanted["says"] in causes[field]
    group, _, version = raw["apiVersion"].partition("/")
    ((_, message, code, _),) = schema.check((group, version, raw["kind"]), raw)
    assert causes[field] == f"{code} {message}"
    assert code in status["message"]


def compiler_with(*objects: dict[str, Any]) -> app.Compiler:
    made = app.Compiler(load("envoy"), Options())
    made.apply({wire.ref_of(raw): raw for raw in objects})
    return made


def analyze(compiled: app.Compiled, raw: Any) -> tuple[Finding, ...]:
    return tuple(item for item in compiled.findings() if item.subject == wire.ref_of(raw))


def test_the_warnings_are_the_findings_of_analyze() -> None:
    bad = split(backends=[{"service": "gone", "weight": 1}, {"service": "web", "weight": 1}], service="web")
    web = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"ports": [{"port": 80}]},
    }
    before = compiler_with(web)
    state = before.current
    answer = ask(request(bad), lambda raw: analyze(before.would({wire.ref_of(raw): raw}), raw))
    wanted = analyze(compiler_with(web, bad).current, bad)  # type: ignore[arg-type]
    assert answer["allowed"] is True
    assert answer["warnings"] == [validate.warning(item) for item in wanted]
    assert any("SMI0102 BackendNotFound" in text and "gone" in text for text in answer["warnings"])
    assert before.current is state


def test_what_was_wrong_already_does_not_keep_an_object_from_being_edited() -> None:
    bad = split(backends=[{"service": "web-v1", "weight": -1}])
    edited = {**bad, "metadata": {**bad["metadata"], "labels": {"a": "b"}}}
    answer = ask(request(edited, "UPDATE", bad))
    assert answer["allowed"] is True
    assert "SMI0105" in answer["warnings"][0]
    worse = split(backends=[{"service": "web-v1", "weight": -1}, {"service": "web-v2", "weight": -2}])
    answer = ask(request(worse, "UPDATE", bad))
    assert [cause["field"] for cause in answer["status"]["details"]["causes"]] == ["spec.backends[1].weight"]


def test_an_object_that_is_being_deleted_is_let_through() -> None:
    leaving = split(backends=[])
    leaving["metadata"]["deletionTimestamp"] = "2026-11-24T00:00:00Z"
    assert ask(request(leaving, "UPDATE", split()))["allowed"] is True
    assert ask(request(None, "DELETE", split()))["allowed"] is True


def test_a_version_that_only_somebody_else_knows_is_let_through_with_a_warning() -> None:
    answer = ask(request({**split(), "apiVersion": "split.smi-spec.io/v1beta7"}))
    assert answer["allowed"] is True
    assert "SMI0501" in answer["warnings"][0]


def test_an_object_whose_name_is_generated_is_judged_like_any_other() -> None:
    raw = split()
    raw["metadata"] = {"generateName": "canary-"}
    assert ask(request(raw)) == {"uid": UID, "allowed": True}


def test_our_own_failure_lets_the_object_through() -> None:
    def broken(_: Any) -> tuple[Finding, ...]:
        raise RuntimeError

    assert ask(request(split()), broken) == {"uid": UID, "allowed": True}


def test_warnings_are_short_printable_and_few() -> None:
    backends = [{"service": f"b{place}", "weight": 1} for place in range(40)]
    judge = compiler_with()
    long = split(backends=backends, service="x" * 63 + "\n")
    answer = ask(request(split(backends=backends)), lambda raw: analyze(judge.would({wire.ref_of(raw): raw}), raw))
    assert len(answer.get("warnings", [])) <= 15
    answer = ask(request(long))
    text = json.dumps(answer["status"]["message"])
    assert "\\n" not in text.replace("\\\\n", "")


# ------------------------------------------------------------------------------------------------ hostile bytes
def survives(body: bytes) -> None:
    with suppress(envelope.MalformedError):
        json.loads(validate.review(body))


@given(st.binary(max_size=400))
def test_no_bytes_do_anything_but_being_refused(body: bytes) -> None:
    with pytest.raises(envelope.MalformedError):
        validate.review(body)


@settings(max_examples=200)
@given(strategies.hostile_manifests() | strategies.hostile, st.sampled_from(["CREATE", "UPDATE"]))
def test_hostile_objects_are_answered(raw: Any, operation: str) -> None:
    survives(json.dumps(request(raw, operation, raw), skipkeys=True).encode(errors="surrogatepass"))


@given(st.recursive(st.none() | st.text(max_size=3), lambda inner: st.dictionaries(st.sampled_from(
    ["apiVersion", "kind", "request", "uid", "object", "namespace", "operation", "metadata"]), inner)))  # fmt: skip
def test_hostile_reviews_are_refused_or_answered(review: Any) -> None:
    base = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}
    survives(json.dumps(review).encode())
    survives(json.dumps({**base, "request": review}).encode())
    survives(json.dumps({**base, "request": {"uid": "1", "operation": "CREATE", "object": review}}).encode())


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 3_000_000,
        b"[" * 65 + b"]" * 65,
        b'{"a":' * 500_000,
        b'{"' + b"\\" * 3_000_000,
        b'"' * 3_000_000,
        b"1" * 100_000,
        b"(a+)+" * 1000,
        b"\xff\xfe" * 1000,
        b" " * (envelope.MAX_ADMISSION + 1),
    ],
    ids=["open", "deep", "objects", "escapes", "quotes", "digits", "words", "utf-16", "large"],
)
def test_hostile_sizes_and_depths_are_refused_before_parsing(body: bytes) -> None:
    with pytest.raises(envelope.MalformedError):
        validate.review(body)


@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_nesting_is_measured_as_a_parser_would(value: Any) -> None:
    def depth(one: Any) -> int:
        inner = one.values() if isinstance(one, dict) else one if isinstance(one, list) else None
        return 0 if inner is None else 1 + max(map(depth, inner), default=0)

    padded: Any = value
    for _ in range(envelope.MAX_DEPTH - 2):
        padded = [padded]
    body = json.dumps(padded, ensure_ascii=False).encode(errors="surrogatepass")
    assert envelope.is_deep(body) == (depth(padded) > envelope.MAX_DEPTH)
