"""Neutral objects in the shape of each version."""

from __future__ import annotations

import pytest

from smi_conformance.model import Match, Routes, Rule, Split, Subject, Target, TcpRoute, UdpRoute, versions_for
from smi_conformance.render import UnsayableError, render

NS = "shop"


def test_weights_are_quantities_in_v1alpha1_and_numbers_after() -> None:
    split = Split("s", NS, "web", (("a", 90), ("b", 10)))
    old = render(split, versions_for("split", "v1alpha1"))["spec"]["backends"]
    new = render(split, versions_for("split", "v1alpha2"))["spec"]["backends"]
    assert [item["weight"] for item in old] == ["90", "10"]
    assert [item["weight"] for item in new] == [90, 10]


@pytest.mark.parametrize(
    ("version", "nested"), [("v1alpha1", False), ("v1alpha2", False), ("v1alpha3", True), ("v1alpha4", True)]
)
def test_matches_of_a_group_move_under_spec(version: str, nested: bool) -> None:  # noqa: FBT001
    manifest = render(Routes("r", NS, (Match("m", "/x", ("GET",)),)), versions_for("specs", version))
    body = manifest["spec"] if nested else manifest
    assert body["matches"] == [{"name": "m", "pathRegex": "/x", "methods": ["GET"]}]


@pytest.mark.parametrize(
    ("version", "specs"), [("v1alpha1", "v1alpha1"), ("v1alpha2", "v1alpha3"), ("v1alpha4", "v1alpha4")]
)
def test_groups_pair_as_their_documents_say(version: str, specs: str) -> None:
    assert versions_for("access", version).specs == specs


def test_rules_are_called_specs_in_v1alpha1() -> None:
    target = Target("t", NS, Subject("api"), (Subject("web"),), (Rule("r"),), 8080)
    old, new = (render(target, versions_for("access", version)) for version in ("v1alpha1", "v1alpha2"))
    assert old["specs"] == new["spec"]["rules"] == [{"kind": "HTTPRouteGroup", "name": "r"}]
    assert old["destination"]["port"] == new["spec"]["destination"]["port"] == 8080


def test_what_a_version_cannot_say_is_refused() -> None:
    headers = Routes("r", NS, (Match("m", headers=(("a", "b"),)),))
    for obj, group, version in (
        (headers, "specs", "v1alpha1"),
        (Split("s", NS, "web", (), ("r",)), "split", "v1alpha2"),
        (Split("s", NS, "web", (("a", "500m"),)), "split", "v1alpha4"),
        (Target("t", NS, Subject("a"), (), (), 80), "access", "v1alpha3"),
        (TcpRoute("t", NS, (80,)), "specs", "v1alpha3"),
        (UdpRoute("t", NS, (80,)), "specs", "v1alpha3"),
    ):
        with pytest.raises(UnsayableError):
            render(obj, versions_for(group, version))


def test_headers_are_written_in_the_encoding_that_is_served() -> None:
    routes = Routes("r", NS, (Match("m", headers=(("a", "1"), ("b", "2"))),))
    versions = versions_for("specs", "v1alpha4")
    assert render(routes, versions)["spec"]["matches"][0]["headers"] == {"a": "1", "b": "2"}
    assert render(routes, versions, headers_as_list=True)["spec"]["matches"][0]["headers"] == [{"a": "1"}, {"b": "2"}]
