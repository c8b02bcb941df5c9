"""SMI objects through the one door: what an invalid edit costs (S24, T17), and which versions there are."""

from __future__ import annotations

from typing import Any

import pytest

from smi_adapter.decode import RawObject, apply, decode, ref_of
from smi_adapter.snapshot import EMPTY, Snapshot


def smi(group: str, version: str, kind: str, **body: Any) -> RawObject:
    return {
        "apiVersion": f"{group}.smi-spec.io/{version}",
        "kind": kind,
        "metadata": {"name": "it", "namespace": "shop"},
        **body,
    }


def split(version: str = "v1alpha4", **spec: Any) -> RawObject:
    return smi("split", version, "TrafficSplit", spec={"service": "web", **spec})


def target(**spec: Any) -> RawObject:
    return smi("access", "v1alpha3", "TrafficTarget", spec=spec)


GOOD_SPLIT = split(backends=[{"service": "v1", "weight": 1}])
GOOD_TARGET = target(
    destination={"kind": "ServiceAccount", "name": "web"},
    rules=[{"kind": "HTTPRouteGroup", "name": "all"}],
    sources=[{"kind": "ServiceAccount", "name": "buyer"}],
)


def codes(snapshot: Snapshot) -> list[str]:
    return [item.code for items in snapshot.problems.values() for item in items]


def edited(good: RawObject, bad: RawObject) -> tuple[Snapshot, Snapshot]:
    first, _ = apply(EMPTY, {ref_of(good): good})
    assert first.problems == {}
    second, changed = apply(first, {ref_of(bad): bad})
    assert changed == {ref_of(good)}
    return first, second


@pytest.mark.parametrize("bad", [split(), split(backends={"v1": 1}), split(version="v9"), {**GOOD_SPLIT, "spec": 3}])
def test_f17_a_split_that_an_edit_makes_invalid_keeps_its_last_good_weights(bad: RawObject) -> None:
    first, second = edited(GOOD_SPLIT, bad)
    assert second.splits == first.splits
    assert "SMI0114" in codes(second)
    assert decode([bad]).splits == {}
    assert "SMI0114" not in codes(decode([bad]))
    third, _ = apply(second, {ref_of(bad): bad})
    assert third is second
    gone, _ = apply(second, {ref_of(bad): None})
    assert (gone.splits, gone.problems) == ({}, {})
    again, _ = apply(gone, {ref_of(bad): bad})
    assert again.splits == {}


@pytest.mark.parametrize(
    "bad", [target(), {**GOOD_TARGET, "spec": 3}, {**GOOD_TARGET, "apiVersion": "access.smi-spec.io/v9"}]
)
def test_f17_a_target_that_an_edit_makes_invalid_grants_nothing(bad: RawObject) -> None:
    _, second = edited(GOOD_TARGET, bad)
    assert all(not (item.rules and item.sources) for item in second.targets.values())
    assert codes(second) or second.targets


@pytest.mark.parametrize("weight", [-1, 0.5, "10", 10**400, float("inf"), None, [], True])
def test_f23_an_impossible_weight_is_named_and_never_rounded(weight: Any) -> None:
    raw = split(backends=[{"service": "v1", "weight": 1}, {"service": "v2", "weight": weight}])
    snapshot = decode([raw])
    assert "SMI0105" in codes(snapshot)
    for found in snapshot.splits.values():
        assert {backend.service: backend.weight for backend in found.backends}.get("v2") is None


@pytest.mark.parametrize("kind", ["TrafficSplit", "TrafficMetrics", "trafficsplit"])
def test_a_version_or_kind_that_smi_does_not_have_is_named(kind: str) -> None:
    assert set(codes(decode([smi("split", "v1beta1", kind, spec={})]))) <= {"SMI0501", "SMI0506"}
    assert codes(decode([smi("split", "v1beta1", kind, spec={})]))


def test_a_namespace_that_is_left_out_is_the_default_one() -> None:
    raw = {**GOOD_SPLIT, "metadata": {"name": "it"}}
    assert set(decode([raw]).splits) == {("default", "it")}


def test_f17_a_third_of_bad_objects_changes_nothing_about_the_others() -> None:
    bad = [split(), {**GOOD_TARGET, "spec": 3}, {"kind": "Pod", "spec": 3}, smi("split", "v9", "TrafficSplit")]

    def named(raw: RawObject, number: int) -> RawObject:
        return {**raw, "metadata": {"namespace": "shop", "name": f"n{number}"}}

    good = [{**GOOD_SPLIT, "metadata": {"namespace": "shop", "name": f"good-{number}"}} for number in range(700)]
    everything = [*good, *(named(bad[number % len(bad)], number) for number in range(300))]
    snapshot, alone = decode(everything), decode(good)
    assert {key: value for key, value in snapshot.splits.items() if key in alone.splits} == alone.splits
    assert {ref_of(raw) for raw in everything if raw not in good} == snapshot.problems.keys()


def test_f24_names_of_two_namespaces_never_meet() -> None:
    def named(namespace: str, name: str) -> RawObject:
        return {**GOOD_SPLIT, "metadata": {"namespace": namespace, "name": name}}

    snapshot = decode([named("a-b", "c"), named("a", "b-c"), named("a", "c")])
    assert set(snapshot.splits) == {("a-b", "c"), ("a", "b-c"), ("a", "c")}


@pytest.mark.parametrize("text", ["a\nb", "é", "a\x00", '"', "\u202e", "\ud800", "x" * 300])
def test_f25_a_hostile_name_is_refused_and_harmless_in_words(text: str) -> None:
    raw = {**GOOD_SPLIT, "metadata": {"namespace": "shop", "name": text}}
    snapshot = decode([raw])
    assert snapshot.splits == {}
    (items,) = snapshot.problems.values()
    assert all(item.message.isprintable() for item in items)
