"""Rows "Versions and wire forms", R3-R11, T9 and B1 of semantics.md, on the wire."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smi_adapter.findings import Finding, Severity
from smi_adapter.smi import lost, schema, wire
from smi_adapter.smi.objects import (
    NO_PORT,
    HTTPMatch,
    HTTPRouteGroup,
    IdentityBinding,
    IdentitySubject,
    LabelSelector,
    SmiObject,
    SplitBackend,
    TCPRoute,
    TrafficSplit,
    TrafficTarget,
    TrafficTargetRule,
    UDPRoute,
)
from tests import strategies

V = ("v1alpha1", "v1alpha2", "v1alpha3", "v1alpha4")
HUGE = pytest.param(10**5000, id="huge")
calm = settings(deadline=None, suppress_health_check=list(HealthCheck))


def manifest(kind: str, version: str, **body: Any) -> dict[str, Any]:
    group = {"TrafficSplit": "split", "TrafficTarget": "access", "IdentityBinding": "access"}.get(kind, "specs")
    metadata = {"name": "it", "namespace": "shop"}
    return {"apiVersion": f"{group}.smi-spec.io/{version}", "kind": kind, "metadata": metadata, **body}


def read(raw: Any) -> tuple[Any, list[str]]:
    obj, findings = wire.decode(raw)
    return obj, [finding.code for finding in findings]


def versions_of(obj: SmiObject) -> tuple[str, ...]:
    return schema.served()[obj.ref.group, obj.ref.kind]


# ------------------------------------------------------------------------------------------------- round trips
@calm
@given(strategies.objects)
def test_every_object_survives_every_version_of_its_kind(obj: SmiObject) -> None:
    for version in versions_of(obj):
        raw, _ = wire.encode(obj, version)
        assert wire.decode(json.loads(json.dumps(raw)))[0] == obj


@calm
@given(strategies.objects, st.lists(st.sampled_from(V), min_size=1, max_size=4))
def test_every_object_survives_every_chain_of_versions(obj: SmiObject, chain: list[str]) -> None:
    now: SmiObject | None = obj
    for version in chain:
        assert now is not None
        if version in versions_of(now):
            now, _ = wire.decode(wire.encode(now, version)[0])
    assert now == obj


@calm
@given(strategies.objects, st.sampled_from(V))
def test_an_object_read_under_another_version_than_stored_means_the_same(obj: SmiObject, other: str) -> None:
    """Conversion strategy None: only the apiVersion changes between what is stored and what is read."""
    for version in versions_of(obj):
        raw, _ = wire.encode(obj, version)
        raw["metadata"]["uid"] = "1d2c"
        raw["apiVersion"] = f"{obj.ref.group}/{other if other in versions_of(obj) else version}"
        assert wire.decode(raw)[0] == obj


@calm
@given(strategies.objects, st.data())
def test_what_a_version_loses_is_told_and_kept(obj: SmiObject, data: st.DataObject) -> None:
    version = data.draw(st.sampled_from(versions_of(obj)))
    raw, findings = wire.encode(obj, version)
    kept = f"{lost.PREFIX}{version}" in raw["metadata"].get("annotations", {})
    assert {finding.code for finding in findings} <= {"SMI0504"}
    assert not kept or findings


@calm
@given(strategies.objects)
def test_what_is_encoded_satisfies_its_schema_wherever_the_object_is_sound(obj: SmiObject) -> None:
    verdicts = {}
    for version in versions_of(obj):
        raw, _ = wire.encode(obj, version)
        verdicts[version] = schema.problems(raw)
    newest = versions_of(obj)[-1]
    sound = not verdicts[newest] and not (isinstance(obj, TCPRoute | UDPRoute) and obj.closed)
    everything_lost = isinstance(obj, HTTPRouteGroup) and all(match.headers for match in obj.matches)
    if sound and not everything_lost:
        assert not any(verdicts.values())


def test_a_version_that_a_kind_does_not_have_is_refused_in_words() -> None:
    route, _ = wire.decode(manifest("UDPRoute", "v1alpha4"))
    assert route is not None
    with pytest.raises(wire.UnservedVersionError, match="UDPRoute has no version v1alpha3"):
        wire.encode(route, "v1alpha3")


# ------------------------------------------------------------------------------------------------ never raises
@calm
@given(strategies.hostile)
def test_decode_never_raises_on_any_json(raw: Any) -> None:
    obj, findings = wire.decode(raw)
    assert obj is None
    assert findings


@calm
@given(strategies.hostile_manifests())
def test_decode_never_raises_on_hostile_fields(raw: Any) -> None:
    obj, findings = wire.decode(raw)
    assert obj is not None or findings
    for finding in findings:
        assert_fit_for_a_log(finding)


@calm
@given(st.data())
def test_decode_never_raises_on_a_damaged_manifest_and_says_what_the_schema_says(data: st.DataObject) -> None:
    obj = data.draw(strategies.objects)
    version = data.draw(st.sampled_from(versions_of(obj)))
    raw = data.draw(strategies.damaged(wire.encode(obj, version)[0]))
    damaged, findings = wire.decode(raw)
    errors = [one for one in findings if one.code != "SMI0504"]
    if damaged is None:
        assert [one for one in errors if one.severity is Severity.ERROR]
    if errors and f"{lost.PREFIX}{version}" not in json.dumps(raw, default=str):
        assert schema.problems(raw)
    for finding in findings:
        assert_fit_for_a_log(finding)


def assert_fit_for_a_log(finding: Finding) -> None:
    line = f"{finding.field} {finding.message}"
    assert line.isascii() or line.isprintable()
    assert "\n" not in line
    assert len(line) < 4000


def test_nesting_and_size_do_no_harm() -> None:
    deep: Any = "x"
    for _ in range(sys.getrecursionlimit() * 10):
        deep = {"spec": [deep]}
    for version in V:
        assert wire.decode(manifest("TrafficSplit", version, spec=deep))[0] is None
        assert wire.decode(manifest("TrafficTarget", version, spec={"destination": deep}))[0] is None
    many = manifest("HTTPRouteGroup", "v1alpha4", spec={f"field{number}": 1 for number in range(50_000)})
    obj, findings = wire.decode(many)
    assert obj is None
    assert len(findings) == schema.MANY + 1


# ------------------------------------------------------------------------------------------------ TrafficSplit
def split(version: str, *weights: Any, **spec: Any) -> dict[str, Any]:
    backends = [{"service": f"v{number}", "weight": weight} for number, weight in enumerate(weights, 1)]
    return manifest("TrafficSplit", version, spec={"service": "web", "backends": backends, **spec})


@pytest.mark.parametrize(
    ("written", "milli"),
    [
        (1, 1000),
        ("1", 1000),
        ("500m", 500),
        ("0m", 0),
        (0, 0),
        ("1.5", 1500),
        (".5", 500),
        ("+2", 2000),
        ("1k", 1_000_000),
        ("1Ki", 1_024_000),
        ("1e3", 1_000_000),
        ("1E-3", 1),
        ("2E0", 2000),
        ("100m", 100),
    ],
)
def test_a_v1alpha1_weight_is_a_quantity(written: int | str, milli: int) -> None:
    obj, codes = read(split("v1alpha1", written))
    assert obj.backends == (SplitBackend("v1", milli),)
    assert codes == []


@pytest.mark.parametrize("written", ["0.5m", "1u", "1n", "1 ", "1x", "-1", "", "ten", "1e9999", "9" * 33, "1e16"])
def test_a_quantity_that_is_no_weight_excludes_its_backend_and_is_never_rounded(written: str) -> None:
    obj, codes = read(split("v1alpha1", written, 1))
    assert obj.backends == (SplitBackend("v1", None), SplitBackend("v2", 1000))
    assert codes == ["SMI0105"]


@pytest.mark.parametrize("version", V[1:])
@pytest.mark.parametrize("written", [-1, 1.5, "10", "500m", None, True, [], 10**30, float("nan"), HUGE])
def test_a_weight_that_is_no_whole_number_excludes_that_backend_only(version: str, written: object) -> None:
    obj, codes = read(split(version, written, 10))
    assert obj.backends == (SplitBackend("v1", None), SplitBackend("v2", 10_000))
    assert codes == ["SMI0105"]


def test_a_bad_weight_is_told_in_words() -> None:
    (finding,) = wire.decode(split("v1alpha4", 1, -1))[1]
    assert finding.field == "spec.backends[1].weight"
    assert finding.message == "must be a whole number of at least 0, not -1"


def test_a_missing_weight_excludes_the_backend() -> None:
    raw = split("v1alpha4", 1)
    del raw["spec"]["backends"][0]["weight"]
    obj, findings = wire.decode(raw)
    assert isinstance(obj, TrafficSplit)
    assert obj.backends[0].weight is None
    assert [(one.code, one.field, one.message) for one in findings] == [
        ("SMI0105", "spec.backends[0].weight", "is missing")
    ]


@pytest.mark.parametrize("version", V[1:])
def test_a_quantity_in_a_stored_object_was_written_as_v1alpha1(version: str) -> None:
    raw = split(version, 1, "500m")
    raw["metadata"]["uid"] = "4d1f"
    obj, codes = read(raw)
    assert [backend.weight for backend in obj.backends] == [1000, 500]
    assert codes == []


def test_whole_weights_come_back_as_plain_integers_because_flagger_reads_nothing_else() -> None:
    obj, _ = wire.decode(split("v1alpha1", 100, "500m", "3000m"))
    assert obj is not None
    backends = wire.encode(obj, "v1alpha1")[0]["spec"]["backends"]
    assert [backend["weight"] for backend in backends] == [100, "500m", 3]


def test_the_order_of_backends_is_kept() -> None:
    spec = {"service": "web", "backends": [{"service": name, "weight": 1} for name in ("canary", "primary", "a")]}
    obj, _ = wire.decode(manifest("TrafficSplit", "v1alpha3", spec=spec))
    assert obj is not None
    for version in V:
        raw, _ = wire.encode(obj, version)
        assert raw["spec"] == spec


@pytest.mark.parametrize("version", V[1:])
def test_fractions_become_whole_numbers_of_the_same_proportion(version: str) -> None:
    obj, _ = wire.decode(split("v1alpha1", 1, "500m", 0))
    assert obj is not None
    raw, findings = wire.encode(obj, version)
    assert [backend["weight"] for backend in raw["spec"]["backends"]] == [2, 1, 0]
    assert [finding.code for finding in findings] == ["SMI0504"]
    assert wire.decode(raw)[0] == obj


def test_weights_that_were_edited_meanwhile_count_more_than_the_annotation() -> None:
    obj, _ = wire.decode(split("v1alpha1", 1, "500m"))
    assert obj is not None
    raw, _ = wire.encode(obj, "v1alpha2")
    raw["spec"]["backends"][0]["weight"] = 5
    again, findings = wire.decode(raw)
    assert isinstance(again, TrafficSplit)
    assert [backend.weight for backend in again.backends] == [5000, 1000]
    assert [(one.code, one.severity) for one in findings] == [("SMI0504", Severity.INFO)]


@pytest.mark.parametrize("version", V[:2])
def test_matches_of_a_split_survive_the_versions_without_them(version: str) -> None:
    obj, _ = wire.decode(split("v1alpha4", 1, matches=[{"kind": "HTTPRouteGroup", "name": "ab"}]))
    assert obj is not None
    raw, findings = wire.encode(obj, version)
    assert "matches" not in raw["spec"]
    assert [finding.field for finding in findings] == ["spec.matches"]
    assert wire.decode(raw) == (obj, ())


@pytest.mark.parametrize("version", V)
def test_matches_of_a_split_are_read_in_every_version(version: str) -> None:
    match = {"apiGroup": None, "kind": "HTTPRouteGroup", "name": "ab"}  # as typed Go clients write it
    assert read(split(version, 1, matches=[match]))[0].matches == ("ab",)


@pytest.mark.parametrize(
    ("match", "kept"),
    [
        ({"kind": "TCPRoute", "name": "db"}, "TCPRoute/db"),
        ({"kind": "HTTPRouteGroup", "apiGroup": "example.org", "name": "x"}, "HTTPRouteGroup.example.org/x"),
    ],
)
def test_a_match_of_another_kind_is_kept_as_unknown_and_never_dropped(match: dict[str, str], kept: str) -> None:
    obj, codes = read(split("v1alpha4", 1, matches=[match]))
    assert (obj.matches, obj.unknown_matches) == ((), (kept,))
    assert codes == []  # the translator tells (S16)


@pytest.mark.parametrize(
    "spec",
    [
        {"service": "web", "backends": [{"service": "v1", "weight": 1}], "matches": [{"kind": 5, "name": "x"}]},
        {"service": "web", "backends": [{"service": "v1", "weight": 1}], "matches": ["x"]},
        {"backends": [{"service": "v1", "weight": 1}]},
        {"service": "web"},
        {"service": "web", "backends": []},
        {"service": "web", "backends": [{"weight": 1}]},
        {"service": "web", "backends": [{"service": "v1", "weight": 1}], "match": []},
        {"service": "web", "backends": [{"service": "v1", "weight": 1}], "matches": None},
        {"service": "Web!", "backends": [{"service": "v1", "weight": 1}]},
        {"service": "web", "backends": {"service": "v1", "weight": 1}},
    ],
)
@pytest.mark.parametrize("version", V)
def test_a_split_without_a_root_or_backends_or_with_an_unknown_field_is_left_out(
    version: str, spec: dict[str, Any]
) -> None:
    obj, codes = read(manifest("TrafficSplit", version, spec=spec))
    assert obj is None
    assert codes == ["SMI0505"]


# ------------------------------------------------------------------------------------------------------- specs
HEADER_FORMS = (
    {"user-agent": ".*Android.*", "Cookie": "a=b"},
    [{"user-agent": ".*Android.*"}, {"Cookie": "a=b"}],
)


def group(version: str, *matches: Any, flat: bool = False) -> dict[str, Any]:
    return manifest(
        "HTTPRouteGroup", version, **({"matches": list(matches)} if flat else {"spec": {"matches": list(matches)}})
    )


@pytest.mark.parametrize("version", V)
@pytest.mark.parametrize("flat", [False, True])
def test_matches_are_read_by_shape_in_every_version(version: str, *, flat: bool) -> None:
    obj, codes = read(group(version, {"name": "m", "pathRegex": "/m", "methods": ["GET"]}, flat=flat))
    assert obj.matches == (HTTPMatch("m", "/m", ("GET",)),)
    assert codes == []


@pytest.mark.parametrize("version", V)
@pytest.mark.parametrize("headers", HEADER_FORMS)
def test_headers_are_a_map_or_a_list_and_mean_the_same(version: str, headers: Any) -> None:
    """In v1alpha1 too: a pruned or ignored header would grant the rest of the match."""
    obj, codes = read(group(version, {"name": "m", "headers": headers}))
    assert obj.matches == (HTTPMatch("m", headers=(("user-agent", ".*Android.*"), ("Cookie", "a=b"))),)
    assert codes == []


def test_a_header_that_is_written_twice_comes_back_twice() -> None:
    headers = [{"x": "a.*"}, {"x": ".*b"}]
    obj, _ = wire.decode(group("v1alpha4", {"name": "m", "headers": headers}))
    assert obj is not None
    assert wire.encode(obj, "v1alpha3")[0]["spec"]["matches"][0]["headers"] == headers


def test_a_match_with_headers_leaves_a_v1alpha1_manifest_as_a_whole() -> None:
    """Without its headers it would grant more to whoever reads that version."""
    matches = [{"name": "a"}, {"name": "b", "headers": {"x": "y"}}, {"name": "c"}]
    obj, _ = wire.decode(group("v1alpha4", *matches))
    assert obj is not None
    raw, findings = wire.encode(obj, "v1alpha1")
    assert raw["matches"] == [{"name": "a"}, {"name": "c"}]
    assert [finding.field for finding in findings] == ["matches[1]"]
    assert wire.decode(raw) == (obj, ())


@pytest.mark.parametrize(
    ("match", "field", "code"),
    [
        ({"name": "b", "pathRegex": "("}, "spec.matches[1].pathRegex", "SMI0201"),
        ({"name": "b", "pathRegex": "(?!x)"}, "spec.matches[1].pathRegex", "SMI0201"),
        ({"name": "b", "pathRegex": ""}, "spec.matches[1].pathRegex", "SMI0201"),
        ({"name": "b", "pathRegex": "/x)|(?:/.*"}, "spec.matches[1].pathRegex", "SMI0201"),
        ({"name": "b", "pathRegex": "é" * 600}, "spec.matches[1].pathRegex", "SMI0201"),
        ({"name": "b", "pathRegex": None}, "spec.matches[1].pathRegex", "SMI0201"),
        ({"name": "b", "headers": {"x": "*"}}, "spec.matches[1].headers.x", "SMI0201"),
        ({"name": "b", "headers": [{"x": "*"}]}, "spec.matches[1].headers[0].x", "SMI0201"),
        ({"name": "b", "headers": {":path": "/"}}, "spec.matches[1].headers[:path]", "SMI0203"),
        ({"name": "b", "headers": {":authority": "x"}}, "spec.matches[1].headers[:authority]", "SMI0203"),
        ({"name": "b", "headers": [{"HOST": "x"}]}, "spec.matches[1].headers[0].HOST", "SMI0203"),
        ({"name": "b", "headers": {"a b": "x"}}, "spec.matches[1].headers[a b]", "SMI0203"),
        ({"name": "b", "headers": [{"x": "a", "y": "b"}]}, "spec.matches[1].headers[0]", "SMI0505"),
        ({"name": "b", "headers": [{}]}, "spec.matches[1].headers[0]", "SMI0505"),
        ({"name": "b", "headers": "x: y"}, "spec.matches[1].headers", "SMI0505"),
        ({"name": "b", "methods": "GET"}, "spec.matches[1].methods", "SMI0505"),
        ({"name": "b", "methods": ["get"]}, "spec.matches[1].methods[0]", "SMI0505"),
        ({"name": "b", "pathregex": "/x"}, "spec.matches[1].pathregex", "SMI0505"),
        ({"pathRegex": "/x"}, "spec.matches[1].name", "SMI0505"),
        ("b", "spec.matches[1]", "SMI0505"),
        (None, "spec.matches[1]", "SMI0505"),
    ],
)
@pytest.mark.parametrize("version", V)
def test_a_bad_match_is_unusable_alone_and_keeps_its_name(version: str, match: Any, field: str, code: str) -> None:
    obj, findings = wire.decode(group(version, {"name": "a"}, match, {"name": "c"}))
    assert isinstance(obj, HTTPRouteGroup)
    assert [(one.name, one.unusable) for one in obj.matches][::2] == [("a", False), ("c", False)]
    name = match.get("name") if isinstance(match, dict) else None
    assert obj.matches[1] == HTTPMatch(name if isinstance(name, str) else "", unusable=True)
    assert [(one.code, one.field) for one in findings] == [(code, field)]


def test_a_misspelt_field_is_named_with_the_right_one() -> None:
    (finding,) = wire.decode(group("v1alpha4", {"name": "b", "pathregex": "/x"}))[1]
    assert finding.message == "is not a field of this object; did you mean pathRegex?"


def test_a_group_in_both_shapes_is_left_out() -> None:
    obj, findings = wire.decode({**group("v1alpha4", {"name": "a"}), "matches": [{"name": "b"}]})
    assert obj is None
    assert [one.message for one in findings] == ["holds matches and spec: write it in one form only"]


@pytest.mark.parametrize("count", [256, 257])
def test_a_group_over_the_cap_is_left_out(count: int) -> None:
    obj, codes = read(group("v1alpha4", *({"name": f"m{number}"} for number in range(count))))
    assert (obj is None, codes) == ((True, ["SMI0206"]) if count > 256 else (False, []))


def test_an_empty_group_is_known_and_holds_nothing() -> None:
    obj, codes = read(group("v1alpha4"))
    assert obj.matches == ()
    assert codes == ["SMI0505"]


ROUTES = [("TCPRoute", version) for version in V] + [("UDPRoute", "v1alpha4")]


@pytest.mark.parametrize(("kind", "version"), ROUTES)
@pytest.mark.parametrize("body", [{}, {"spec": {}}, {"spec": {"matches": {}}}, {"spec": {"matches": {"ports": []}}}])
def test_no_ports_written_means_every_port(kind: str, version: str, body: dict[str, Any]) -> None:
    obj, codes = read(manifest(kind, version, **body))
    assert (obj.ports, obj.closed, codes) == ((), False, [])


@pytest.mark.parametrize(("kind", "version"), ROUTES)
def test_ports_are_read_in_every_version(kind: str, version: str) -> None:
    obj, codes = read(manifest(kind, version, spec={"matches": {"name": "db", "ports": [3306, 6446]}}))
    assert (obj.ports, obj.match_name, obj.closed, codes) == ((3306, 6446), "db", False, [])


@pytest.mark.parametrize("port", [0, -1, 65536, 65616, "80", 80.5, None, True, HUGE])
@pytest.mark.parametrize(("kind", "version"), ROUTES)
def test_a_port_out_of_range_is_dropped_and_never_wrapped(kind: str, version: str, port: object) -> None:
    obj, codes = read(manifest(kind, version, spec={"matches": {"ports": [80, port]}}))
    assert (obj.ports, obj.closed, codes) == ((80,), False, ["SMI0205"])


@pytest.mark.parametrize(("kind", "version"), ROUTES)
def test_a_route_that_loses_all_its_ports_means_no_port_and_never_every_port(kind: str, version: str) -> None:
    obj, codes = read(manifest(kind, version, spec={"matches": {"ports": [0, 65616]}}))
    assert (obj.ports, obj.closed, codes) == (NO_PORT, True, ["SMI0205", "SMI0205"])
    assert not any(1 <= port <= 65535 for port in obj.ports)
    raw, _ = wire.encode(obj, "v1alpha4")
    assert raw["spec"]["matches"]["ports"] == [0]
    assert wire.decode(raw)[0] == obj


@pytest.mark.parametrize(
    "body", [{"spec": {"ports": [80]}}, {"matches": {"ports": [80]}}, {"spec": {"matches": {"port": [80]}}},
    {"spec": {"matches": {"ports": 80}}}, {"spec": {"matches": {"ports": None}}}, {"spec": None},
    {"spec": {"matches": [{"ports": [80]}]}}],
)  # fmt: skip
def test_a_route_with_its_ports_in_the_wrong_place_is_left_out(body: dict[str, Any]) -> None:
    assert read(manifest("TCPRoute", "v1alpha4", **body)) == (None, ["SMI0505"])


@pytest.mark.parametrize("version", V[:3])
def test_ports_survive_the_versions_of_a_tcp_route_without_them(version: str) -> None:
    obj, _ = wire.decode(manifest("TCPRoute", "v1alpha4", spec={"matches": {"ports": [80]}}))
    assert obj is not None
    raw, findings = wire.encode(obj, version)
    assert "ports" not in json.dumps(raw.get("spec", {}))
    assert [finding.code for finding in findings] == ["SMI0504"]
    assert wire.decode(raw) == (obj, ())


# ------------------------------------------------------------------------------------------------------ access
SA = {"kind": "ServiceAccount", "name": "web"}
RULE = {"kind": "HTTPRouteGroup", "name": "routes", "matches": ["metrics"]}


def target(version: str, *, flat: bool = False, **changes: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"destination": SA, "specs" if flat else "rules": [RULE], "sources": [SA]}
    body = {key: value for key, value in {**body, **changes}.items() if value is not ...}
    return manifest("TrafficTarget", version, **(body if flat else {"spec": body}))


@pytest.mark.parametrize("version", V)
@pytest.mark.parametrize("flat", [False, True])
def test_a_target_is_read_by_shape_in_every_version(version: str, *, flat: bool) -> None:
    obj, codes = read(target(version, flat=flat, destination={**SA, "port": 8080}))
    who = IdentitySubject("ServiceAccount", "web")
    assert codes == []
    assert (obj.destination, obj.sources, obj.port) == (who, (who,), 8080)
    assert obj.rules == (TrafficTargetRule("HTTPRouteGroup", "routes", ("metrics",)),)


@pytest.mark.parametrize("version", V)
def test_the_shape_that_a_version_has_is_written(version: str) -> None:
    """v1alpha2 has `spec` in the specification and in smi-sdk-go, so Traefik Mesh reads that."""
    obj, _ = wire.decode(target("v1alpha4"))
    assert obj is not None
    raw, _ = wire.encode(obj, version)
    assert ("spec" in raw, "specs" in raw) == ((False, True) if version == "v1alpha1" else (True, False))


@pytest.mark.parametrize("version", V[2:])
def test_the_destination_port_survives_the_versions_without_it(version: str) -> None:
    obj, _ = wire.decode(target("v1alpha1", flat=True, destination={**SA, "port": 8080}))
    assert obj is not None
    raw, findings = wire.encode(obj, version)
    assert "port" not in raw["spec"]["destination"]
    assert [finding.field for finding in findings] == ["spec.destination.port"]
    assert wire.decode(raw) == (obj, ())


@pytest.mark.parametrize("text", ["", "8080", "[", '{"port": 0}', '{"port": null}', '{"gate": 1}', '{"port": 1', "[]"])
def test_an_annotation_that_cannot_be_read_closes_the_target(text: str) -> None:
    """It may have held a restriction."""
    raw = target("v1alpha4")
    raw["metadata"]["annotations"] = {"smi-adapter.io/lost-in-v1alpha4": text}
    obj, codes = read(raw)
    assert obj is None
    assert codes


@pytest.mark.parametrize("port", [0, 65536, 65616, -1, "8080", None, 80.5])
@pytest.mark.parametrize("version", V)
def test_a_bad_destination_port_closes_the_target(version: str, port: object) -> None:
    assert read(target(version, destination={**SA, "port": port})) == (None, ["SMI0205"])


@pytest.mark.parametrize("version", V)
@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("empty", [[], ...])
def test_a_target_without_rules_or_sources_is_kept_without_them(version: str, empty: Any, *, flat: bool) -> None:
    rules = "specs" if flat else "rules"
    raw = target(version, flat=flat, **{rules: empty, "sources": empty})
    obj, codes = read(raw)
    assert isinstance(obj, TrafficTarget)
    assert (obj.rules, obj.sources, codes) == ((), (), [])  # the translator tells (T9)
    prefix = "" if flat else "spec."
    assert {field for field, _ in schema.problems(raw)} == {f"{prefix}{rules}", f"{prefix}sources"}


def test_a_target_without_a_destination_is_left_out() -> None:
    assert read(target("v1alpha4", destination=...)) == (None, ["SMI0303"])


@pytest.mark.parametrize(
    "changes",
    [
        {"rules": [RULE, {"kind": "TCPRoute"}]},
        {"rules": [{**RULE, "matches": "metrics"}]},
        {"rules": [{**RULE, "matches": [5]}]},
        {"rules": [{**RULE, "matches": None}]},
        {"rules": [{**RULE, "match": ["metrics"]}]},
        {"rules": [RULE, "TCPRoute"]},
        {"rules": [{**RULE, "kind": "TCPRoute\n"}]},
        {"sources": [SA, {"kind": "ServiceAccount"}]},
        {"sources": [{**SA, "namespace": None}]},
        {"sources": [{**SA, "port": 80}]},
        {"sources": None},
        {"destination": [SA]},
        {"destination": {**SA, "ports": [80]}},
    ],
)
def test_damage_to_any_part_closes_the_whole_target(changes: dict[str, Any]) -> None:
    """A rule that is left out may have been a restriction, and a name that is left out widens its rule."""
    obj, codes = read(target("v1alpha4", **changes))
    assert obj is None
    assert len(codes) == 1


@pytest.mark.parametrize("count", [256, 257])
def test_a_target_over_the_cap_is_left_out(count: int) -> None:
    obj, codes = read(target("v1alpha4", sources=[SA] * count))
    assert (obj is None, codes) == ((True, ["SMI0206"]) if count > 256 else (False, []))


def test_kinds_that_are_not_known_are_kept_for_the_translator() -> None:
    raw = target("v1alpha4", sources=[{"kind": "User", "name": "x"}], rules=[{"kind": "GRPCRoute", "name": "y"}])
    obj, codes = read(raw)
    assert (obj.sources[0].kind, obj.rules[0].kind, codes) == ("User", "GRPCRoute", [])
    assert {field for field, _ in schema.problems(raw)} == {"spec.sources[0].kind", "spec.rules[0].kind"}


@pytest.mark.parametrize(
    ("subject", "kind"),
    [
        ({"kind": "IdentityBinding", "name": "x"}, "IdentityBinding"),
        ({"kind": "IdentityBinding", "name": "x", "group": ""}, "IdentityBinding"),
        ({"kind": "IdentityBinding", "name": "x", "group": "access.smi-spec.io"}, "IdentityBinding"),
        ({"kind": "IdentityBinding", "name": "x", "group": "example.org"}, "IdentityBinding.example.org"),
        ({"kind": "ServiceAccount", "name": "x", "group": "access.smi-spec.io"}, "ServiceAccount.access.smi-spec.io"),
    ],
)
def test_a_subject_of_another_group_is_of_a_kind_that_is_not_known(subject: dict[str, str], kind: str) -> None:
    obj, codes = read(target("v1alpha4", sources=[subject]))
    assert (obj.sources[0].kind, codes) == (kind, [])


@pytest.mark.parametrize("version", V[:3])
def test_an_identity_binding_in_an_older_version_is_written_and_told(version: str) -> None:
    subject = {"kind": "IdentityBinding", "group": "access.smi-spec.io", "name": "x"}
    obj, _ = wire.decode(target("v1alpha4", sources=[subject]))
    assert obj is not None
    raw, findings = wire.encode(obj, version)
    assert [finding.code for finding in findings] == ["SMI0504"]
    assert wire.decode(raw)[0] == obj


@pytest.mark.parametrize(
    ("kind", "lost_text", "spec", "restored"),
    [
        ("TrafficTarget", '{"port": 80}', {"destination": {**SA, "port": 9}, "rules": [RULE], "sources": [SA]}, 9),
        ("TCPRoute", '{"matches": {"ports": [80]}}', {"matches": {"ports": [9]}}, (9,)),
        (
            "TrafficSplit",
            '{"matches": [{"kind": "HTTPRouteGroup", "name": "old"}]}',
            {
                "service": "web",
                "backends": [{"service": "a", "weight": 1}],
                "matches": [{"kind": "HTTPRouteGroup", "name": "new"}],
            },
            ("new",),
        ),
    ],
)
def test_what_was_written_anew_counts_more_than_the_annotation(
    kind: str, lost_text: str, spec: dict[str, Any], restored: object
) -> None:
    raw = manifest(kind, "v1alpha4", spec=spec)
    raw["metadata"]["annotations"] = {"smi-adapter.io/lost-in-v1alpha3": lost_text}
    obj, findings = wire.decode(raw)
    assert obj is not None
    assert restored in {getattr(obj, name, None) for name in ("port", "ports", "matches")}
    assert [(one.code, one.severity) for one in findings] == [("SMI0504", Severity.INFO)]
    assert not obj.meta.annotations


@pytest.mark.parametrize("name", ["web\n", "Web", "web.", "-web", "w_b", "", "a" * 254, "web\u0000", "wéb", 5, None])
def test_a_name_that_kubernetes_would_not_take_is_refused(name: object) -> None:
    raw = target("v1alpha4", sources=[{**SA, "name": name}])
    assert read(raw) == (None, ["SMI0505"])


def binding(**schemes: Any) -> dict[str, Any]:
    return manifest("IdentityBinding", "v1alpha4", spec={"schemes": schemes})


def test_a_binding_is_read() -> None:
    obj, codes = read(binding(serviceAccount="web", spiffeIdentities=["cluster.local/ns/shop/sa/web"]))
    assert (obj.service_account, obj.spiffe_identities, codes) == ("web", ("cluster.local/ns/shop/sa/web",), [])


def test_a_binding_with_a_selector_and_an_account_is_kept_with_both() -> None:
    obj, codes = read(binding(serviceAccount="web", podLabelSelector={"matchLabels": {"app": "web"}}))
    assert isinstance(obj, IdentityBinding)
    assert (obj.service_account, obj.pod_label_selector) == ("web", LabelSelector((("app", "web"),)))
    assert codes == []  # the translator tells (B1)


@pytest.mark.parametrize("schemes", [{}, {"podLabelSelector": {}}, {"spiffeIdentities": []}])
def test_a_binding_that_names_nobody_is_known(schemes: dict[str, Any]) -> None:
    obj, codes = read(binding(**schemes))
    assert isinstance(obj, IdentityBinding)
    assert codes == []  # the translator tells (B5)


@pytest.mark.parametrize(
    "expression",
    [
        {"key": "app", "operator": "in", "values": ["a"]},
        {"key": "app", "operator": "In"},
        {"key": "app", "operator": "NotIn", "values": []},
        {"key": "app", "operator": "Exists", "values": ["a"]},
        {"operator": "Exists"},
        {"key": "app", "operator": "In", "values": [1]},
    ],
)
def test_a_selector_that_could_select_too_many_takes_the_binding_with_it(expression: dict[str, Any]) -> None:
    obj, codes = read(binding(podLabelSelector={"matchExpressions": [expression]}))
    assert obj is None
    assert set(codes) == {"SMI0505"}


# --------------------------------------------------------------------------------------------------- what it is
@pytest.mark.parametrize(
    ("api", "kind", "code", "words"),
    [
        ("split.smi-spec.io/v1beta1", "TrafficSplit", "SMI0501", "v1alpha1, v1alpha2, v1alpha3, v1alpha4"),
        ("split.smi-spec.io/v1alpha4", "TrafficSplat", "SMI0501", "known: TrafficSplit"),
        ("specs.smi-spec.io/v1alpha3", "UDPRoute", "SMI0501", "known: v1alpha4"),
        ("v1alpha1", "HTTPRouteGroup", "SMI0501", "specs.smi-spec.io"),
        ("gateway.networking.k8s.io/v1alpha2", "TCPRoute", "SMI0506", "is not read"),
        ("v1", "ConfigMap", "SMI0506", "is not read"),
    ],
)
def test_what_is_not_served_is_told(api: str, kind: str, code: str, words: str) -> None:
    obj, findings = wire.decode({"apiVersion": api, "kind": kind, "metadata": {"name": "x"}})
    assert obj is None
    assert [finding.code for finding in findings] == [code]
    assert words in findings[0].message


def test_the_table_and_the_schemas_serve_the_same() -> None:
    served = {(group, version, kind) for (group, kind), versions in schema.served().items() for version in versions}
    assert served == set(wire.FORMS)


def test_a_time_stamp_that_yaml_understood_is_the_string_again() -> None:
    import yaml  # noqa: PLC0415 - only here

    raw = yaml.safe_load(json.dumps(split("v1alpha4", 1)))
    raw["metadata"]["creationTimestamp"] = yaml.safe_load("2024-05-06T07:08:09Z")
    obj, _ = wire.decode(raw)
    assert obj is not None
    assert obj.meta.created == "2024-05-06T07:08:09Z"
