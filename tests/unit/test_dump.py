"""Frozen values as plain data."""

from __future__ import annotations

import json

from smi_adapter.dump import plain
from smi_adapter.findings import Ref
from smi_adapter.mesh import AccessMode, Anchor, Instance, Match, Mesh, Pattern, Service, WeightedTarget, Workload
from smi_adapter.translate import translate
from tests.histories import Dice


def test_keys_and_references_are_text_and_defaults_are_left_out() -> None:
    assert plain(WeightedTarget(("ns", "a"), 80, 1)) == {"service": "ns/a", "port": 80, "weight": 1}
    assert plain(Match(Pattern("/a", Anchor.START), ("GET", "PUT"), origin=Ref("HTTPRouteGroup", "ns", "g", "x"))) == {
        "path": {"text": "/a", "anchor": "start"},
        "methods": ["GET", "PUT"],
        "origin": "HTTPRouteGroup ns/g",
    }


def test_sets_are_sorted_and_mappings_keyed_by_text() -> None:
    made = Mesh(services={("ns", "a"): Service(("ns", "a"), (), callers=frozenset({"y", "x"}))})
    assert plain(made) == {"services": {"ns/a": {"key": "ns/a", "ports": [], "callers": ["x", "y"]}}}
    assert plain(Service(("ns", "a"), (), callers=frozenset())) == {"key": "ns/a", "ports": [], "callers": []}


def test_pairs_inside_a_tuple_keep_their_form() -> None:
    made = Workload(("ns", "w"), "id", AccessMode.AUDIT, (Instance("w", "1", "2"),), dial=((("ns", "a"), "127.1"),))
    assert plain(made)["dial"] == [["ns/a", "127.1"]]


def test_any_mesh_becomes_json() -> None:
    assert json.loads(json.dumps(plain(translate(Dice(3).world()).mesh)))["workloads"]
