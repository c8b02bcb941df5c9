"""Projection: exactly what decode reads, and no object that hides the others of its page."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from benchmarks.pods import pod
from smi_adapter import decode
from smi_adapter.cluster.client import Resource
from smi_adapter.cluster.pace import read
from smi_adapter.cluster.projection import NotJSONError, Projection, status_of
from smi_adapter.cluster.store import Store
from smi_adapter.decode import ref_of
from smi_adapter.snapshot import EMPTY
from tests.unit.cluster.fake_api import SERVICES, service

PODS = Resource("", "v1", "pods", "Pod")
SLICES = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount")
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
GROUPS = Resource("specs.smi-spec.io", "v1alpha4", "httproutegroups", "HTTPRouteGroup")

META = {"namespace": "shop", "name": "api", "resourceVersion": "7", "uid": "u-1", "generation": 3}
SLICE = {
    "metadata": {
        **META,
        "labels": {"kubernetes.io/service-name": "api", "other": "x"},
        "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-11-24T16:00:00Z"},
    },
    "addressType": "IPv4",
    "endpoints": [
        {
            "addresses": ["10.0.0.1"],
            "conditions": {"ready": True, "serving": True},
            "targetRef": {"kind": "Pod", "name": "api-1", "namespace": "shop", "uid": "u-2"},
            "nodeName": "n",
        }
    ],
    "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
}
NAMESPACE = {
    "metadata": {"name": "shop", "annotations": {"smi-adapter.io/access-mode": "audit", "a": "b"}, "labels": {"x": "y"}}
}
GROUP = {"metadata": META, "spec": {"matches": [{"name": "all", "pathRegex": ".*", "methods": ["*"]}]}}


def page(*items: Any) -> bytes:
    return json.dumps({"metadata": {"resourceVersion": "9", "continue": "next"}, "items": items}).encode()


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


def raw_page(*items: bytes) -> bytes:
    return b'{"kind":"List","metadata":{"resourceVersion":"9"},"items":[' + b",".join(items) + b"]}"


@pytest.mark.parametrize(
    ("resource", "whole"),
    [
        (PODS, pod(4711)),
        (SERVICES, service("shop", "api", 80, 7)),
        (SLICES, SLICE),
        (ACCOUNTS, {"metadata": META, "secrets": [{"name": "s"}]}),
        (NAMESPACES, NAMESPACE),
        (GROUPS, GROUP),
    ],
    ids=lambda value: value.kind if isinstance(value, Resource) else "",
)
def test_what_is_kept_decodes_to_the_same_as_the_whole_object(resource: Resource, whole: dict[str, Any]) -> None:
    typed = {**whole, "apiVersion": resource.api_version, "kind": resource.kind}
    [item] = Projection(resource).page(page(whole)).items
    kept = Projection(resource).raw(item.value)
    assert ref_of(kept) == ref_of(typed)
    expected, _ = decode.apply(EMPTY, {ref_of(typed): typed}, cluster=True)
    found, _ = decode.apply(EMPTY, {ref_of(typed): kept}, cluster=True)
    assert found == expected
    assert found != EMPTY


def test_what_decode_does_not_read_is_no_change() -> None:
    store, read = Store(), Projection(PODS)
    first = pod(1)
    assert store.replace(read.page(page(first)).items)
    other = {**first, "spec": {**first["spec"], "schedulerName": "another"}}
    other["metadata"] = {**first["metadata"], "resourceVersion": "9999", "managedFields": []}
    other["status"] = {**first["status"], "conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": []}
    assert not store.put(read.page(page(other)).items[0])
    assert store.versions() == {("team-1", first["metadata"]["name"]): "9999"}


def test_the_status_of_an_smi_object_is_kept_apart() -> None:
    read = Projection(GROUPS)
    with_status = {**GROUP, "status": {"conditions": []}}
    [item] = read.page(page(with_status)).items
    assert "status" not in read.raw(item.value)
    assert item.status is not None
    assert json.loads(item.status) == {"conditions": []}
    assert (item.uid, item.version) == ("u-1", "7")


@pytest.mark.parametrize("resource", [SERVICES, GROUPS], ids=lambda resource: resource.kind)
def test_an_object_nested_too_deeply_is_a_finding_and_hides_no_other(resource: Resource) -> None:
    good = json.dumps({"metadata": {**META, "name": "good"}, "spec": {}}).encode()
    deep = b'{"metadata":{"name":"deep","namespace":"shop","resourceVersion":"8"},"spec":' + nested(20_000) + b"}"
    found = Projection(resource).page(raw_page(good, deep, good.replace(b"good", b"better")))
    assert [(item.namespace, item.name) for item in found.items] == [
        ("shop", name) for name in ("good", "deep", "better")
    ]
    assert found.version == "9"
    kept = Projection(resource).raw(found.items[1].value)
    snapshot, _ = decode.apply(EMPTY, {ref_of(kept): kept}, cluster=True)
    [problems] = snapshot.problems.values()
    assert [(item.code, item.subject.name) for item in problems] == [("SMI0505", "deep")]
    assert "nested too deeply" in problems[0].message


def test_an_event_of_an_object_nested_too_deeply_names_it() -> None:
    deep = b'{"metadata":{"name":"deep","namespace":"shop","resourceVersion":"8"},"spec":' + nested(20_000) + b"}"
    event = Projection(GROUPS).event(b'{"type":"MODIFIED","object":' + deep + b"}")
    assert (event.type, event.version) == ("MODIFIED", "8")
    assert event.item is not None
    assert (event.item.namespace, event.item.name) == ("shop", "deep")


@pytest.mark.parametrize("number", [b"9" * 5000, b"1e400", b"-" + b"1" * 400])
def test_numbers_beyond_all_bounds_are_a_finding_on_their_object(number: bytes) -> None:
    bad = b'{"metadata":{"name":"bad","namespace":"shop"},"spec":{"ports":[{"port":' + number + b"}]}}"
    good = json.dumps(service("shop", "good", 80, 7)).encode()
    items = Projection(SERVICES).page(raw_page(bad, good)).items
    assert [item.name for item in items] == ["bad", "good"]
    kept = [Projection(SERVICES).raw(item.value) for item in items]
    snapshot, _ = decode.apply(EMPTY, {ref_of(raw): raw for raw in kept}, cluster=True)
    assert list(snapshot.services) == [("shop", "good")]
    assert [(ref.name, item.code) for ref, found in snapshot.problems.items() for item in found] == [("bad", "SMI0505")]


def test_an_object_of_the_wrong_shape_is_handed_on_for_decode_to_say_what_is_wrong() -> None:
    wrong = {**service("shop", "wrong", 80, 7), "spec": {"ports": "none"}}
    items = Projection(SERVICES).page(page(wrong, service("shop", "good", 80, 8))).items
    snapshot, _ = decode.apply(EMPTY, {ref_of(raw): raw for raw in (Projection(SERVICES).raw(i.value) for i in items)})
    [[problem]] = snapshot.problems.values()
    assert problem.field == "spec.ports"


def test_an_unreadable_namespace_enforces() -> None:
    [item] = (
        Projection(NAMESPACES).page(raw_page(b'{"metadata":{"name":"shop","labels":' + nested(20_000) + b"}}")).items
    )
    raw = Projection(NAMESPACES).raw(item.value)
    snapshot, _ = decode.apply(EMPTY, {ref_of(raw): raw}, cluster=True)
    assert snapshot.namespaces["shop"].annotations == {"smi-adapter.io/access-mode": "enforce"}


@pytest.mark.parametrize("content", [b"", b"<html>", b'{"items":[{"metadata"', b'{"items": 3}', b"null"])
def test_an_answer_that_is_no_list_is_an_error(content: bytes) -> None:
    with pytest.raises(NotJSONError):
        Projection(SERVICES).page(content)


@pytest.mark.parametrize("line", [b"", b"garbage", b'{"type":"ADDED","object":{"metadata":', b'{"object":{}}'])
def test_a_line_that_is_no_event_is_an_error(line: bytes) -> None:
    with pytest.raises(NotJSONError):
        Projection(SERVICES).event(line)


def test_brackets_in_strings_are_no_nesting() -> None:
    odd = json.dumps({"metadata": {**META, "name": 'q"]}[{\\'}, "spec": {}}).encode()
    deep = b'{"metadata":{"name":"deep"},"spec":' + nested(20_000) + b"}"
    assert [item.name for item in Projection(GROUPS).page(raw_page(odd, deep)).items] == ['q"]}[{\\', "deep"]


def test_what_was_kept_and_is_too_deep_for_a_later_reader_is_told_and_raises_nothing() -> None:
    deep = '{"metadata": {"name": "web", "namespace": "shop"}, "spec": ' + '{"a": ' * 5000 + "1" + "}" * 5001
    raw = Projection(GROUPS).raw(deep.encode())
    assert (raw["kind"], raw["metadata"]["name"]) == ("HTTPRouteGroup", "web")
    [[problem]] = decode.apply(EMPTY, {ref_of(raw): raw})[0].problems.values()
    assert "nested too deeply" in problem.message


class Whole(msgspec.Struct):
    status: dict[str, Any]


def test_what_a_writer_reads_of_an_object_of_any_depth_is_there() -> None:
    deep = '{"a": ' * 5000 + "1" + "}" * 5000
    text = f'{{"metadata": {{"name": "web"}}, "spec": {deep}, "status": {{"conditions": [{{"type": "Accepted"}}]}}}}'
    found = read(text.encode(), Whole)
    assert found.status == {"conditions": [{"type": "Accepted"}]}
    assert status_of(deep.encode()) is None
