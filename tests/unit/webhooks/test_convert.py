"""The conversion webhook: nothing is lost on any way between versions, and order is kept."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from smi_adapter.findings import Severity
from smi_adapter.smi import lost, schema, wire
from smi_adapter.smi.objects import SmiObject
from smi_adapter.webhooks import convert, envelope
from tests import strategies

ROOT = Path(__file__).parents[3]
VALID = [
    pytest.param(path, id="-".join((path.parts[-4], path.stem)))
    for path in sorted((ROOT / "schemas").glob("*/*/examples/valid/*.yaml"))
]
INVALID = [
    pytest.param(path, id="-".join((path.parts[-4], path.stem)))
    for path in sorted((ROOT / "schemas").glob("*/*/examples/invalid/*.yaml"))
]
META = {"uid": "1d2c", "resourceVersion": "7", "managedFields": [{"manager": "kubectl"}], "generation": 3}


def stored(path: Path) -> dict[str, Any]:
    """Return an example as the API server holds it."""
    raw = json.loads(json.dumps(yaml.safe_load(path.read_text(encoding="utf-8")), default=str))
    return {**raw, "metadata": {**raw["metadata"], **META}, "status": {"conditions": [{"type": "Accepted"}]}}


def versions_of(raw: dict[str, Any]) -> list[str]:
    group = raw["apiVersion"].partition("/")[0]
    return [f"{group}/{version}" for version in schema.served()[group, raw["kind"]]]


def review(objects: list[Any], wanted: str) -> Any:
    asked = {"uid": "u", "desiredAPIVersion": wanted, "objects": objects}
    body = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "request": asked}
    _, text = convert.review(json.dumps(body).encode())
    answer = json.loads(text)
    assert answer["kind"] == "ConversionReview"
    assert answer["response"]["uid"] == "u"
    return answer["response"]


def to(raw: dict[str, Any], wanted: str) -> dict[str, Any]:
    answer = review([raw], wanted)
    assert answer["result"] == {"status": "Success"}
    (converted,) = answer["convertedObjects"]
    assert converted["apiVersion"] == wanted
    assert without_annotations(converted) == without_annotations(raw)
    assert converted.get("status") == raw.get("status")
    return dict(converted)


def without_annotations(raw: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in raw["metadata"].items() if key != "annotations"}


def meaning(raw: dict[str, Any]) -> Any:
    obj, _ = wire.decode(raw)
    assert obj is not None
    body, _ = wire.encode(obj, raw["apiVersion"].rpartition("/")[2])
    return {key: value for key, value in body.items() if key != "metadata"}


# ------------------------------------------------------------------------------------------------- round trips
@pytest.mark.parametrize("path", VALID)
def test_every_valid_example_comes_back_to_the_letter_from_every_other_version(path: Path) -> None:
    raw = stored(path)
    for other in versions_of(raw):
        there = to(raw, other)
        assert to(there, raw["apiVersion"]) == raw
        if not lost_of(there):
            assert schema.problems({key: value for key, value in there.items() if key != "status"}) == ()


def lost_of(raw: dict[str, Any]) -> list[str]:
    return [key for key in raw["metadata"].get("annotations", {}) if key.startswith(lost.PREFIX)]


@pytest.mark.parametrize("path", VALID)
def test_every_valid_example_comes_back_to_the_letter_over_every_pair_of_versions(path: Path) -> None:
    raw = stored(path)
    for first in versions_of(raw):
        for second in versions_of(raw):
            assert to(to(to(raw, first), second), raw["apiVersion"]) == raw


@pytest.mark.parametrize("path", INVALID)
def test_a_damaged_object_is_not_reshaped(path: Path) -> None:
    raw = stored(path)
    if wire.ref_of(raw).kind not in {kind for _, _, kind in wire.FORMS} or wire.decode(raw)[1] == ():
        return
    for other in versions_of(raw):
        assert to(to(raw, other), raw["apiVersion"]) == raw


@settings(max_examples=150)
@given(strategies.objects, st.data())
def test_every_object_keeps_its_meaning_over_any_chain(obj: SmiObject, data: st.DataObject) -> None:
    versions: list[str] = [f"{obj.ref.group}/{version}" for version in schema.served()[obj.ref.group, obj.ref.kind]]
    raw, _ = wire.encode(obj, data.draw(st.sampled_from(versions)).rpartition("/")[2])
    now = json.loads(json.dumps(raw))
    chain: list[str] = data.draw(st.lists(st.sampled_from(versions), min_size=1, max_size=4))
    for wanted in chain:
        now = to(now, wanted)
    meant, problems = wire.decode(raw)
    damaged = any(item.severity is Severity.ERROR for item in problems)  # these are not reshaped, see above
    assert damaged or wire.decode(now)[0] == meant
    assert to(now, str(raw["apiVersion"])) == json.loads(json.dumps(raw))


@given(st.lists(strategies.splits, max_size=6), st.sampled_from(schema.served()["split.smi-spec.io", "TrafficSplit"]))
def test_objects_come_back_in_their_order(objects: list[Any], version: str) -> None:
    raws = [wire.encode(obj, "v1alpha4")[0] for obj in objects]
    for place, raw in enumerate(raws):
        raw["metadata"]["name"] = f"n{place}"
    answer = review(raws, f"split.smi-spec.io/{version}")
    names = [raw["metadata"]["name"] for raw in answer["convertedObjects"]]
    assert names == [raw["metadata"]["name"] for raw in raws]


# ------------------------------------------------------------------------------------------------ what it means
def split(version: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": f"split.smi-spec.io/{version}",
        "kind": "TrafficSplit",
        "metadata": {"name": "it", "namespace": "shop"},
        "spec": {"service": "web", **spec},
    }


def test_a_client_of_v1alpha2_sees_whole_numbers() -> None:
    raw = split("v1alpha1", backends=[{"service": "a", "weight": "500m"}, {"service": "b", "weight": "1500m"}])
    seen = to(raw, "split.smi-spec.io/v1alpha2")
    assert [backend["weight"] for backend in seen["spec"]["backends"]] == [1, 3]


def test_a_weight_that_is_changed_in_another_version_counts() -> None:
    raw = split("v1alpha1", backends=[{"service": "a", "weight": "1000m"}, {"service": "b", "weight": "2k"}])
    seen = to(raw, "split.smi-spec.io/v1alpha4")
    assert to(seen, raw["apiVersion"]) == raw
    seen["spec"]["backends"][0]["weight"] = 5
    back = to(seen, raw["apiVersion"])
    assert [backend["weight"] for backend in back["spec"]["backends"]] == [5, 2000]


def test_a_route_group_is_flat_for_old_clients() -> None:
    raw = {
        "apiVersion": "specs.smi-spec.io/v1alpha4",
        "kind": "HTTPRouteGroup",
        "metadata": {"name": "it", "namespace": "shop"},
        "spec": {"matches": [{"name": "m", "pathRegex": "/x", "methods": []}]},
    }
    seen = to(raw, "specs.smi-spec.io/v1alpha2")
    assert "spec" not in seen
    assert seen["matches"] == [{"name": "m", "pathRegex": "/x"}]
    assert to(seen, "specs.smi-spec.io/v1alpha4") == raw


def test_a_version_or_group_that_is_not_there_is_a_failure_in_words() -> None:
    for wanted in ("split.smi-spec.io/v9", "specs.smi-spec.io/v1alpha4", "v1", ""):
        answer = review([split("v1alpha4", backends=[])], wanted)
        assert answer["result"]["status"] == "Failure"
        assert "cannot be converted" in answer["result"]["message"]


@given(st.binary(max_size=200))
def test_no_bytes_do_anything_but_being_refused(body: bytes) -> None:
    with pytest.raises(envelope.MalformedError):
        convert.review(body)


@settings(max_examples=150)
@given(strategies.hostile_manifests() | strategies.hostile, st.sampled_from(strategies.KINDS))
def test_hostile_objects_are_answered(raw: Any, key: tuple[str, str, str]) -> None:
    asked = {"uid": "u", "desiredAPIVersion": f"{key[0]}/{key[1]}", "objects": [raw]}
    body = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "request": asked}
    with suppress(envelope.MalformedError):
        convert.review(json.dumps(body, skipkeys=True).encode(errors="surrogatepass"))
