"""The tutorial backend: what its routes say, and that Gateway API's own schemas would accept them.

`violations` states the limits that the schemas of HTTPRoute v1 and TCPRoute v1alpha2/v1 set. With
`SMI_GATEWAY_API_CRDS=DIR` (a directory that holds the upstream CRD files) the same objects are also checked against
the real OpenAPI schemas; no foreign file is kept here.
"""

import os
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from smi_adapter import regex
from smi_adapter.backends import Manifests
from smi_adapter.backends.capabilities import supported
from smi_adapter.backends.gateway_api import BACKEND, GatewayAPI
from smi_adapter.findings import Severity
from smi_adapter.mesh import Anchor, HeaderMatch, Match, Mesh, Pattern, Protocol, Route
from tests.unit.meshes import GROUP, OTHER_SPLIT, mesh, meshes, service, split, start, to, whole

Object = Mapping[str, Any]


def render(value: Mesh) -> Manifests:
    return BACKEND.render(supported(value, BACKEND).mesh)


def only(value: Mesh) -> Object:
    (made,) = render(value).objects
    return made


def rules(*routes: Route, protocol: Protocol = Protocol.HTTP) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = only(mesh(service("web", *routes, protocol=protocol)))["spec"]["rules"]
    return found


def said(*routes: Route) -> list[tuple[str, str, str]]:
    """Return (code, field, severity) of each finding about a root `web` with these routes."""
    findings = render(mesh(service("web", *routes))).findings
    return [(item.code, item.field, item.severity.value) for item in findings]


def paths(*matches: Match) -> list[tuple[str, str]]:
    """Return the paths of all rules, the last rule's included."""
    made = rules(split(to(web_v2=1), *matches))
    return [(match["path"]["type"], match["path"]["value"]) for rule in made for match in rule["matches"]]


# ------------------------------------------------------------------------------------------------- splits by weight


def test_a_service_without_a_split_needs_no_route() -> None:
    assert render(mesh(service("web"))).objects == ()


def test_a_split_is_a_route_of_the_root_service_and_its_port() -> None:
    assert only(mesh(service("web", split(to(web_v1=90, web_v2=10))))) == {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {
            "name": "smi.web.80",
            "namespace": "shop",
            "labels": {"app.kubernetes.io/managed-by": "smi-adapter"},
            "annotations": {"smi-adapter.io/origin": "TrafficSplit shop/canary"},
        },
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "web", "port": 80}],
            "rules": [
                {
                    "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                    "backendRefs": [
                        {"kind": "Service", "name": "web-v1", "port": 80, "weight": 90},
                        {"kind": "Service", "name": "web-v2", "port": 80, "weight": 10},
                    ],
                }
            ],
        },
    }


def test_a_tcp_split_is_a_tcproute_with_one_rule() -> None:
    made = only(mesh(service("db", split(to(db_v1=3, db_v2=1)), protocol=Protocol.TCP)))
    assert (made["apiVersion"], made["kind"]) == ("gateway.networking.k8s.io/v1alpha2", "TCPRoute")
    assert [ref["weight"] for ref in made["spec"]["rules"][0]["backendRefs"]] == [3, 1]


def test_the_version_of_tcproute_can_be_chosen() -> None:
    value = mesh(service("db", split(to(db_v1=1)), protocol=Protocol.TCP))
    (made,) = GatewayAPI(tcp_version="v1").render(value).objects
    assert made["apiVersion"] == "gateway.networking.k8s.io/v1"


def test_a_udp_split_is_reported_and_not_rendered() -> None:
    value = mesh(service("dns", split(to(dns_v1=1)), protocol=Protocol.UDP))
    assert render(value).objects == ()
    assert [item.code for item in supported(value, BACKEND).findings] == ["SMI0601"]


@given(st.lists(st.integers(1, 2**32 // 16 - 1), min_size=1, max_size=16))
@settings(deadline=None)
def test_weights_keep_their_ratio_or_say_that_they_do_not(weights: list[int]) -> None:
    targets = to(**{f"web_v{number}": weight for number, weight in enumerate(weights)})
    rendered = render(mesh(service("web", split(targets))))
    made = [ref["weight"] for ref in rendered.objects[0]["spec"]["rules"][0]["backendRefs"]]
    assert all(1 <= weight <= 1_000_000 for weight in made)
    exact = all(Fraction(new, sum(made)) == Fraction(old, sum(weights)) for new, old in zip(made, weights, strict=True))
    assert exact == (rendered.findings == ())
    assert all(
        abs(Fraction(new, sum(made)) - Fraction(old, sum(weights))) < Fraction(1, 50_000)
        for new, old in zip(made, weights, strict=True)
    )


def test_huge_weights_of_a_simple_ratio_stay_exact() -> None:
    (rule,) = rules(split(to(web_v1=3_000_000_000, web_v2=1_000_000_000)))
    assert [ref["weight"] for ref in rule["backendRefs"]] == [3, 1]


def test_no_share_at_all_is_a_rule_without_backends_and_the_status_differs() -> None:
    (rule,) = rules(split(()))
    assert "backendRefs" not in rule
    assert said(split(())) == [("SMI0602", "spec.backends", "warning")]


def test_no_share_at_all_on_tcp_is_the_root_at_weight_zero() -> None:
    (rule,) = rules(split(()), protocol=Protocol.TCP)
    assert rule["backendRefs"] == [{"kind": "Service", "name": "web", "port": 80, "weight": 0}]


def test_more_backends_than_a_route_may_have_go_to_the_root_and_are_reported() -> None:
    many = split(to(**{f"web_v{number}": 1 for number in range(17)}))
    assert render(mesh(service("web", many))).objects == ()
    assert said(many) == [("SMI0601", "spec.backends", "warning")]


# ------------------------------------------------------------------------------------------------------------ matches


def test_what_does_not_match_goes_to_the_root() -> None:
    made = rules(split(to(web_v2=1), Match(whole("/order"))))
    assert made[-1] == {
        "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
        "backendRefs": [{"kind": "Service", "name": "web", "port": 80, "weight": 1}],
    }


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        (whole("/order"), ("Exact", "/order")),
        (start("/order$"), ("Exact", "/order")),
        (start("^/order$"), ("Exact", "/order")),
        (start(r"/v1\.2$"), ("Exact", "/v1.2")),
        (whole("/user(/.*)?"), ("PathPrefix", "/user")),
        (start("/user(/.*)?$"), ("PathPrefix", "/user")),
        (start(".*"), ("PathPrefix", "/")),
        (start("/.*"), ("PathPrefix", "/")),
        (start("/"), ("PathPrefix", "/")),
    ],
)
def test_a_path_that_needs_no_regular_expression_gets_none(pattern: Pattern, path: tuple[str, str]) -> None:
    assert paths(Match(pattern)) == [path, ("PathPrefix", "/")]
    assert said(split(to(web_v2=1), Match(pattern))) == []


@pytest.mark.parametrize(
    ("pattern", "expression"),
    [
        (start("/user"), "^(?:/user).*$"),  # also /users: no prefix of whole segments
        (start("/user/"), "^(?:/user/).*$"),
        (whole("/user/"), "^(?:/user/)$"),
        (start("/a|/b$"), "^(?:/a|/b$).*$"),
        (whole("/a.b"), "^(?:/a.b)$"),
        (whole(r"/\.\."), r"^(?:/\.\.)$"),
        (Pattern("user", Anchor.SEARCH), "^.*(?:user).*$"),
        (Pattern("/user$", Anchor.SEARCH), "^.*(?:/user$).*$"),
    ],
)
def test_a_path_that_needs_one_is_wrapped_so_that_its_anchoring_holds(pattern: Pattern, expression: str) -> None:
    assert paths(Match(pattern))[0] == ("RegularExpression", expression)
    assert ("SMI0602", "spec.matches", "info") in said(split(to(web_v2=1), Match(pattern)))


@given(
    st.sampled_from(["/user", "/user$", "/u(/.*)?$", "^/u$", r"/a\.b$", "/.*", ".*", "/a|/b$"]),
    st.sampled_from(Anchor),
    st.sampled_from(["/user", "/users", "/u", "/u/", "/u/x", "/x/u", "/a.b", "/axb", "/", "/b", "/bb"]),
)
def test_the_rendered_path_matches_what_the_pattern_does(text: str, anchor: Anchor, path: str) -> None:
    wrapped = {Anchor.START: f"(?:{text}).*", Anchor.WHOLE: text, Anchor.SEARCH: f".*(?:{text}).*"}[anchor]
    kind, value = paths(Match(Pattern(text, anchor)))[0]
    matched = {
        "Exact": path == value,
        "PathPrefix": path == value or path.startswith(value.removesuffix("/") + "/"),
        "RegularExpression": regex.whole(value, path),
    }[kind]
    assert matched == regex.whole(wrapped, path)


def test_as_soon_as_one_path_is_a_regular_expression_all_of_the_port_are() -> None:
    by_header = Match(headers=(HeaderMatch("x-beta", whole("yes")),))
    assert paths(Match(start("/user")), Match(whole("/order")), by_header) == [
        ("RegularExpression", "^(?:/user).*$"),
        ("RegularExpression", "^(?:/order)$"),
        ("RegularExpression", ".*"),
        ("RegularExpression", ".*"),
    ]


def test_a_literal_header_is_exact_and_another_one_a_regular_expression() -> None:
    match = Match(headers=(HeaderMatch("x-beta", whole("yes")), HeaderMatch("user-agent", whole(".*Firefox.*"))))
    made = rules(split(to(web_v2=1), match))[0]["matches"][0]
    assert made["headers"] == [
        {"type": "RegularExpression", "name": "user-agent", "value": "^(?:.*Firefox.*)$"},
        {"type": "Exact", "name": "x-beta", "value": "yes"},
    ]


def test_several_methods_become_several_matches() -> None:
    made = rules(split(to(web_v2=1), Match(whole("/order"), ("GET", "POST"))))[0]["matches"]
    assert [match["method"] for match in made] == ["GET", "POST"]


@pytest.mark.parametrize(
    "match",
    [
        Match(methods=("PURGE",)),
        Match(start("/" + "a" * 1020)),
        Match(headers=(HeaderMatch("x", whole("a")), HeaderMatch("x", whole("b")))),
        Match(headers=tuple(HeaderMatch(f"x-{number}", whole("a")) for number in range(17))),
        Match(headers=(HeaderMatch("x", whole("é")),)),
    ],
    ids=["method", "long path", "repeated header", "many headers", "not ASCII"],
)
def test_a_match_that_cannot_be_said_is_left_out_and_the_others_stay(match: Match) -> None:
    value = split(to(web_v2=1), match, Match(whole("/order")))
    assert len(rules(value)[0]["matches"]) == 1
    assert ("SMI0601", "spec.matches", "warning") in said(value)
    assert render(mesh(service("web", split(to(web_v2=1), match)))).objects == ()


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        (Match(whole("/user")), Match(whole("/order")), False),
        (Match(start("/user(/.*)?$")), Match(start("/users(/.*)?$")), False),
        (Match(start("/user(/.*)?$")), Match(start("/user/7$")), True),
        (Match(start("/user/7$")), Match(start("/user(/.*)?$")), True),
        (Match(start("/user")), Match(whole("/order")), True),
        (Match(whole("/user")), Match(headers=(HeaderMatch("x-beta", whole("yes")),)), True),
    ],
)
def test_of_two_splits_that_may_match_the_same_the_second_is_told(first: Match, second: Match, told: bool) -> None:
    routes = (split(to(web_v1=1), first), split(to(web_v2=1), second, origin=OTHER_SPLIT))
    findings = render(mesh(service("web", *routes))).findings
    warned = [(item.code, item.subject) for item in findings if item.severity is Severity.WARNING]
    assert warned == ([("SMI0602", OTHER_SPLIT)] if told else [])


def test_more_matches_than_one_route_holds_are_spread_over_several() -> None:
    many = tuple(Match(whole(f"/p{number}"), ("GET", "POST"), origin=GROUP) for number in range(256))
    made = render(mesh(service("web", split(to(web_v2=1), *many)))).objects
    assert [item["metadata"]["name"] for item in made] == [
        "smi.web.80",
        "smi.web.80.01",
        "smi.web.80.02",
        "smi.web.80.03",
        "smi.web.80.04",
    ]
    assert sum(len(rule["matches"]) for item in made for rule in item["spec"]["rules"]) == 513
    assert made[-1]["spec"]["rules"][-1]["backendRefs"][0]["name"] == "web"
    assert not [text for item in made for text in violations(item)]
    assert "&id" not in yaml.safe_dump_all(made), "printed as YAML, nothing refers to anything else"


# ---------------------------------------------------------------------------------------- Gateway API would accept it

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")


def violations(made: Object) -> Iterator[str]:
    """Yield each way in which an object breaks the upstream schema or its validation rules."""
    made_rules = made["spec"]["rules"]
    http = made["kind"] == "HTTPRoute"
    if not 1 <= len(made_rules) <= (16 if http else 1):
        yield f"{len(made_rules)} rules"
    if sum(len(rule.get("matches", "1")) for rule in made_rules) > 128:
        yield "more than 128 matches"
    for rule in made_rules:
        refs = rule.get("backendRefs", [])
        if len(refs) > 16 or not (refs or http):
            yield f"{len(refs)} backendRefs"
        for ref in refs:
            if ref["kind"] != "Service" or not 1 <= ref["port"] <= 65535 or not 0 <= ref["weight"] <= 1_000_000:
                yield f"backendRef {ref}"
        if http and not 1 <= len(rule["matches"]) <= 64:
            yield f"{len(rule['matches'])} matches"
        for match in rule.get("matches", []):
            yield from _match_violations(match)


def _match_violations(match: Object) -> Iterator[str]:
    path, headers = match["path"], match.get("headers", [])
    if len(path["value"]) > 1024:
        yield "a long path"
    if path["type"] != "RegularExpression" and (
        not regex.whole(r"(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|%[0-9a-fA-F]{2})+", path["value"])
        or not path["value"].startswith("/")
        or any(part in path["value"] + "/" for part in ("//", "/./", "/../") if path["value"] != "/")
    ):
        yield f"path {path}"
    if match.get("method", "GET") not in METHODS:
        yield f"method {match['method']}"
    if len(headers) > 16 or len({header["name"] for header in headers}) < len(headers):
        yield "headers"
    if any(not 1 <= len(header["value"]) <= 4096 for header in headers):
        yield "a header's value"


@given(meshes())
@settings(max_examples=100, deadline=None)
def test_every_object_is_within_the_limits_of_gateway_api(value: Mesh) -> None:
    made = render(value).objects
    assert not [text for item in made for text in violations(item)]
    names = [(item["kind"], item["metadata"]["namespace"], item["metadata"]["name"]) for item in made]
    assert len(set(names)) == len(names)


CRDS = os.environ.get("SMI_GATEWAY_API_CRDS", "")


def _schemas() -> dict[tuple[str, str], dict[str, Any]]:
    """Return the OpenAPI schema of each (apiVersion, kind) in the directory, as it stands there."""
    found = {}
    for path in sorted(Path(CRDS).rglob("*_*routes.yaml")):
        crd = yaml.safe_load(path.read_text())
        for version in crd["spec"]["versions"]:
            name = (f"{crd['spec']['group']}/{version['name']}", crd["spec"]["names"]["kind"])
            found[name] = version["schema"]["openAPIV3Schema"]
    return found


@pytest.mark.skipif(not CRDS, reason="SMI_GATEWAY_API_CRDS does not name a directory with the upstream CRDs")
def test_every_object_fits_the_real_schemas() -> None:
    schemas = _schemas()

    @given(meshes())
    @settings(max_examples=100, deadline=None)
    def check(value: Mesh) -> None:
        for made in render(value).objects:
            jsonschema.validate(made, schemas[made["apiVersion"], made["kind"]])

    check()
