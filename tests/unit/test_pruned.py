"""F21: an object that lost a field since it was applied is never read as wider than it was written."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smi_adapter import crds, decode
from smi_adapter.crds.merge import plan
from smi_adapter.findings import Severity
from smi_adapter.smi import pruned, schema, wire
from smi_adapter.snapshot import EMPTY
from tests import foreign_crds, strategies

SHOP = {"kind": "ServiceAccount", "name": "shop"}


def manifest(group: str, version: str, kind: str, **body: Any) -> dict[str, Any]:
    return {"apiVersion": f"{group}.smi-spec.io/{version}", "kind": kind, "metadata": {"name": "it"}, **body}


def stored(applied: Any, **body: Any) -> dict[str, Any]:
    """Return an object as the API server holds it, and beside it how kubectl says that it was applied."""
    text = applied if isinstance(applied, str) else json.dumps(applied)
    found = copy.deepcopy(applied) if isinstance(applied, dict) else manifest("split", "v1alpha4", "TrafficSplit")
    return {**found, "metadata": {"name": "it", "uid": "u", "annotations": {pruned.APPLIED: text}}, **body}


def target(**destination: Any) -> dict[str, Any]:
    spec = {
        "destination": {**SHOP, **destination},
        "rules": [{"kind": "HTTPRouteGroup", "name": "all", "matches": ["a"]}],
        "sources": [SHOP],
    }
    return manifest("access", "v1alpha3", "TrafficTarget", spec=spec)


def fields(raw: dict[str, Any]) -> list[str]:
    return [problem.field for problem in pruned.problems(raw)]


def test_a_target_that_lost_its_port_is_not_there() -> None:
    whole = target(port=80)
    obj, (told,) = wire.decode(stored(whole, spec=target()["spec"]))
    assert (obj, told.code, told.field) == (None, "SMI0509", "spec.destination.port")
    assert wire.decode(stored(whole))[0] is not None, "what was kept is no loss"


def test_a_match_that_lost_its_headers_goes_alone() -> None:
    matches = [{"name": "a", "pathRegex": "/a"}, {"name": "b", "headers": {"x": "y"}}]
    whole = manifest("specs", "v1alpha4", "HTTPRouteGroup", spec={"matches": matches})
    kept = [{"name": "b"}, {"name": "a", "pathRegex": "/a"}]
    obj, told = wire.decode(stored(whole, spec={"matches": kept}))
    assert [match.unusable for match in obj.matches] == [True, False]  # type: ignore[union-attr]
    assert "spec.matches[0].headers" in [each.field for each in told]


@pytest.mark.parametrize(
    ("applied", "there", "lost"),
    [
        ({"matches": {"ports": [1]}}, {"matches": {}}, ["spec.matches.ports"]),
        ({"matches": {"ports": []}}, {"matches": {}}, []),
        ({"port": None}, {}, []),
        ({"rules": [{"name": "a", "x": 1}]}, {"rules": []}, []),
        ({"rules": [{"name": "a", "x": 1}, {"name": "b"}]}, {"rules": [{"name": "a"}]}, ["spec.rules[0].x"]),
        ({"many": [{"x": 1}, {"x": 2}]}, {"many": [{"x": 1}, {}]}, ["spec.many[1].x"]),
        ({"many": [{"x": 1}, {"x": 2}]}, {"many": [{}]}, []),
        ({"group": "specs.smi-spec.io", "name": "a"}, {"name": "a"}, []),
        ({"group": "example.com", "name": "a"}, {"name": "a"}, ["spec.group"]),
        ({"group": ["x"]}, {}, ["spec.group"]),
        ({"group": ""}, {}, []),
        ({"pathRegex": ""}, {}, ["spec.pathRegex"]),
        ({"headers": {}, "methods": [], "matches": []}, {}, []),
        ({"matchLabels": {}}, {}, ["spec.matchLabels"]),
        ({"weight": 5}, {"weight": 7}, []),
        ({"headers": {"a": "b"}}, {"headers": [{"a": "b"}]}, []),
    ],
)
def test_what_is_gone_is_a_loss_and_what_was_changed_is_none(
    applied: dict[str, Any], there: dict[str, Any], lost: list[str]
) -> None:
    whole = manifest("specs", "v1alpha4", "TCPRoute", spec=applied)
    assert fields(stored(whole, spec=there)) == lost


@pytest.mark.parametrize("unusable", [{"pathRegex": ""}, {"mehtods": []}])
def test_a_match_that_lost_what_made_it_unusable_is_no_wider(unusable: dict[str, Any]) -> None:
    """As it was written it grants nothing, and so it does without what the CRD dropped."""
    whole = manifest("specs", "v1alpha4", "HTTPRouteGroup", spec={"matches": [{"name": "m", **unusable}]})
    for raw in (whole, stored(whole, spec={"matches": [{"name": "m"}]})):
        obj, _ = wire.decode(raw)
        assert [match.unusable for match in obj.matches] == [True]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("kind", "applied", "there"),
    [
        (
            "TrafficSplit",
            {"service": "a", "backends": [{"service": "b", "weight": 1, "x": 2}]},
            {"service": "a", "backends": [{"service": "b", "weight": 1}]},
        ),
        ("TCPRoute", {"matches": {"name": "m", "ports": [1]}}, {"matches": {"ports": [1]}}),
    ],
)
def test_what_restricts_nothing_is_told_and_costs_nothing(
    kind: str, applied: dict[str, Any], there: dict[str, Any]
) -> None:
    whole = manifest("split" if kind == "TrafficSplit" else "specs", "v1alpha4", kind, spec=applied)
    obj, (told,) = wire.decode(stored(whole, spec=there))
    assert obj is not None
    assert (told.code, told.severity) == ("SMI0509", Severity.WARNING)


def test_a_split_that_lost_its_matches_divides_nothing_anew() -> None:
    """It would divide every request; without it they all go to the root Service, or as before (S24)."""
    spec = {"service": "a", "backends": [{"service": "b", "weight": 1}]}
    matches = [{"kind": "HTTPRouteGroup", "name": "m"}]
    whole = manifest("split", "v1alpha4", "TrafficSplit", spec={**spec, "matches": matches})
    gone = stored(whole, spec=spec)
    obj, (told,) = wire.decode(gone)
    assert (obj, told.code, told.severity) == (None, "SMI0509", Severity.ERROR)
    ref = wire.ref_of(gone)
    before, _ = decode.apply(EMPTY, {ref: stored(whole)})
    after, _ = decode.apply(before, {ref: gone})
    assert before.splits == after.splits != {}
    assert not decode.apply(EMPTY, {ref: gone})[0].splits


def test_a_source_that_lost_its_namespace_is_another_one() -> None:
    whole = target()
    whole["spec"]["sources"] = [SHOP, {**SHOP, "name": "web", "namespace": "other"}]
    obj, (told,) = wire.decode(stored(whole, spec={**whole["spec"], "sources": [SHOP, {**SHOP, "name": "web"}]}))
    assert (obj, told.field) == (None, "spec.sources[1].namespace")
    assert fields(stored(whole, spec={**whole["spec"], "sources": [SHOP, {**SHOP, "name": "app"}]})) == []


class Counted(str):
    """A name that counts how often it is compared."""

    __slots__ = ()
    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return str.__eq__(self, other)


def test_each_item_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the time grows with the square of what anybody may apply."""
    monkeypatch.setattr(Counted, "compared", 0)
    names = [f"n{number}" for number in range(200)]
    whole = target()
    whole["spec"]["sources"] = [{"kind": "ServiceAccount", "name": name, "x": 1} for name in names]
    there = stored(whole)
    there["spec"]["sources"] = [{"kind": "ServiceAccount", "name": Counted(name)} for name in reversed(names)]
    assert len(fields(there)) == len(names)
    assert Counted.compared <= 3 * len(names)


def test_an_object_that_is_refused_anyhow_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = stored(target(port=80), spec={**target()["spec"], "sources": [SHOP] * 257})
    monkeypatch.setattr(pruned, "problems", lambda _: pytest.fail("it was compared"))
    obj, (told,) = wire.decode(raw)
    assert (obj, told.code) == (None, "SMI0206")


def test_an_annotation_longer_than_an_api_server_stores_is_not_read() -> None:
    text = json.dumps(target(port=80))
    there = target()["spec"]
    assert fields({**stored(text + " " * (2**18 - len(text))), "spec": there}) == ["spec.destination.port"]
    assert fields({**stored(text + " " * 2**18), "spec": there}) == []


def test_the_rules_of_a_target_have_two_names() -> None:
    whole = target()["spec"]
    flat = manifest("access", "v1alpha1", "TrafficTarget", specs=whole["rules"], destination=SHOP, sources=[SHOP])
    assert fields(stored(flat, spec=whole)) == []
    assert fields({**stored(target()), "spec": {"destination": SHOP, "sources": [SHOP]}}) == ["spec.rules"]


@pytest.mark.parametrize("text", ["", "null", "[]", "7", "{", "[" * 100_000, '{"x": ' + "9" * 5000 + "}"])
def test_an_annotation_that_says_nothing_takes_nothing_away(text: str) -> None:
    assert fields(stored(text)) == []


def test_whatever_has_no_name_is_told_by_its_place() -> None:
    whole = manifest("split", "v1alpha4", "TrafficSplit", spec={"backends": [{"name": 7, "x": 1}]})
    assert fields(stored(whole, spec={"backends": [{"name": 10**5000}]})) == ["spec.backends[0].x"]


def test_a_file_is_as_its_author_wrote_it() -> None:
    raw = stored(target(port=80), spec=target()["spec"])
    del raw["metadata"]["uid"]
    assert fields(raw) == []


@settings(deadline=None)
@given(strategies.objects, st.data())
def test_no_conversion_looks_like_a_loss(obj: Any, data: st.DataObject) -> None:
    versions = st.sampled_from(schema.served()[obj.ref.group, obj.ref.kind])
    applied, there = (wire.encode(obj, data.draw(versions))[0] for _ in range(2))
    there["metadata"] |= {"uid": "u"}
    there["metadata"]["annotations"] = {
        **there["metadata"].get("annotations", {}),
        pruned.APPLIED: json.dumps(applied),
    }
    assert "SMI0509" not in {each.code for each in wire.decode(json.loads(json.dumps(there)))[1]}


@pytest.mark.parametrize(("name", "path"), foreign_crds.LOSSY)
def test_a_crd_that_drops_a_field_says_so(name: str, path: str) -> None:
    ours = next(crd for crd in crds.definitions() if crds.name_of(crd) == name)
    (whole,) = (crd for crd in foreign_crds.crds("smi-sdk-go") if crds.name_of(crd) == name)
    (lossy,) = (crd for crd in foreign_crds.lossy("smi-sdk-go") if crds.name_of(crd) == name)
    assert not any("drops" in note for note in plan(ours, whole).notes)
    (note,) = (note for note in plan(ours, lossy).notes if "drops" in note)
    assert path.rpartition(".")[2] in note
