"""The oracle, held to the semantics row by row: routes, TrafficTargets and IdentityBindings."""

from fractions import Fraction
from typing import Any

import pytest

from tests.oracle import build as b
from tests.oracle.asking import ANYTHING, THIEF, WEB, WORLD, ask, grant, opened

# ------------------------------------------------------------------------------------------------- routes


def allows(match: Any, path: str = "/", **request: Any) -> bool:
    """Say whether a target with this one match lets the request through."""
    return opened(b.route_group("g", match), grant(b.rule("g")), path=path, **request)


@pytest.mark.parametrize(
    ("path", "spec", "osm"),
    [("/metrics", True, True), ("/metrics/x", True, False), ("/metricsfoo", True, False), ("/x/metrics", False, False)],
)
def test_r1_a_path_is_anchored_at_its_start_only_and_whole_for_osm(path: str, spec: bool, osm: bool) -> None:
    match = b.match("m", "/metrics")
    assert allows(match, path) is spec
    assert allows(match, path, profile="osm") is osm


def test_r2_the_query_is_no_part_of_the_path() -> None:
    assert allows(b.match("m", "/a$"), "/a?x=1")
    assert not allows(b.match("m", r"/a\?x"), "/a?x=1")


@pytest.mark.parametrize(
    "path", ["/public/../admin", "/public/%2e%2e/admin", "/public/..;/admin", "/public\\..\\admin"]
)
def test_r2_paths_are_normalised_before_they_are_matched(path: str) -> None:
    assert not allows(b.match("m", "/public/.*"), path)
    assert allows(b.match("m", "/admin"), path)


@pytest.mark.parametrize("path", ["/public/..%2fadmin", "/public/..%5Cadmin", "/a%00", "/a#b", "/a\x80"])
def test_r2_escaped_slashes_and_bad_bytes_are_400(path: str) -> None:
    assert ask(WORLD, path) == {400: 1}


def test_r2_the_server_matches_what_two_proxies_made_of_the_path() -> None:
    assert not allows(b.match("m", "/public/.*"), "/public/%2e%2e;/admin")
    assert allows(b.match("m", "/admin"), "/public/%2e%2e;/admin")


def test_r2_repeated_slashes_are_merged() -> None:
    assert allows(b.match("m", "/public/a$"), "//public///a")


def test_r3_a_header_must_match_whole_and_is_searched_for_traefik_and_nsm() -> None:
    match = b.match("m", headers={"user-agent": "Firefox"})
    assert allows(match, headers=[("user-agent", "Firefox")])
    assert not allows(match, headers=[("user-agent", "Firefox/9")])
    assert not allows(match, headers=[("user-agent", "Firefox/9")], profile="osm")
    assert allows(match, headers=[("user-agent", "Firefox/9")], profile="traefik")
    assert allows(match, headers=[("user-agent", "Firefox/9")], profile="nsm")


@pytest.mark.parametrize(
    "regex", ["/(?!a)", "/x)|(?:/.*", "/a\\Qb", "", "a{1001}", "/" + "a" * 1024, "/|(abc){400}", 7]
)
def test_r4_an_invalid_regex_grants_nothing_and_its_neighbours_stand(regex: Any) -> None:
    group = b.route_group("g", b.match("bad", regex), b.match("good", "/good"))
    assert opened(group, grant(b.rule("g")), path="/good")
    assert not opened(group, grant(b.rule("g")), path="/aQb")
    bad_header = b.route_group("g", b.match("bad", headers={"x-a": regex}), b.match("good", "/good"))
    assert not opened(bad_header, grant(b.rule("g")), headers=[("x-a", "7")])


@pytest.mark.parametrize(
    ("methods", "get", "post"),
    [
        (None, True, True),
        ([], True, True),
        (["*"], True, True),
        (["POST", "*"], True, True),
        (["GET"], True, False),
        (["get"], False, False),
    ],
)
def test_r5_methods_are_exact_and_a_star_anywhere_is_any(methods: Any, get: bool, post: bool) -> None:
    assert allows(b.match("m", methods=methods), method="GET") is get
    assert allows(b.match("m", methods=methods), method="POST") is post


def test_r6_a_match_with_only_a_name_matches_everything() -> None:
    assert allows(b.match("m"), "/any", method="DELETE", headers=[("x-a", "1")])


@pytest.mark.parametrize("name", [":path", ":method", ":authority", "host", "Host", "bad name", ""])
def test_r7_reserved_and_impossible_header_names_are_refused(name: str) -> None:
    assert not allows(b.match("m", headers={name: ".*"}), headers=[("host", "web")])


def test_r7_header_names_ignore_case_and_an_absent_header_never_matches() -> None:
    assert allows(b.match("m", headers={"X-User": "tom"}), headers=[("x-uSER", "tom")])
    assert not allows(b.match("m", headers={"x-user": ".*"}))


def test_r7_any_one_of_repeated_headers_may_match() -> None:
    assert allows(b.match("m", headers={"x-a": "2"}), headers=[("x-a", "1"), ("x-a", "2")])


def test_r8_matches_are_or() -> None:
    group = b.route_group("g", b.match("a", headers={"x-a": "1"}), b.match("b", headers={"x-b": "1"}))
    assert opened(group, grant(b.rule("g")), headers=[("x-b", "1")])


@pytest.mark.parametrize("ports", [None, []])
def test_r9_no_ports_is_every_port_of_tcp(ports: Any) -> None:
    assert opened(b.route("r", ports), grant(b.rule("r", kind="TCPRoute")))


def test_r9_udp_never_opens_tcp() -> None:
    assert not opened(b.route("r", [], kind="UDPRoute"), grant(b.rule("r", kind="UDPRoute")))


def test_r10_a_number_is_a_service_port_and_means_its_target_port() -> None:
    raw = b.rule("r", kind="TCPRoute")
    assert opened(b.route("r", [80]), grant(raw))
    swapped = b.service("web-v1", {"track": "v1"}, b.port(8080, 9090, "http"), b.port(80, 8080, "http-b"))
    assert not opened(swapped, b.route("r", [8080]), grant(raw), port=80)
    assert opened(swapped, b.route("r", [8080]), grant(raw), port=8080)


def test_r10_without_such_a_service_port_it_is_the_container_port() -> None:
    assert opened(b.route("r", [8080]), grant(b.rule("r", kind="TCPRoute")))


def test_r10_the_number_is_looked_up_once_for_all_pods_of_the_destination() -> None:
    """pod-4 has web-v1's account but not its Service: 8080 is web-v1's port there too, hence opens nothing on pod-4."""
    web = b.service("web-v1", {"track": "v1"}, b.port(8080, 9090, "http"))
    other = [b.pod("pod-4", "web-v1", {"app": "other"}), b.service("other", {"app": "other"})]
    objects = [*WORLD, web, *other, b.route("r", [8080]), grant(b.rule("r", kind="TCPRoute"))]
    assert ask(objects, to="web-v1", port=8080) == {"pod-1": 1}
    assert ask(objects, to="other", port=80) == {403: 1}
    elsewhere = b.service("elsewhere", {"app": "other"}, b.port(90, 9090, "http"))
    assert ask([*objects, elsewhere], to="elsewhere", port=90) == {403: 1}


@pytest.mark.parametrize(("number", "opens"), [(80, False), (8080, True)])
def test_r10_for_traefik_a_number_is_a_container_port(number: int, opens: bool) -> None:
    objects = [b.route("r", [number]), grant(b.rule("r", kind="TCPRoute"))]
    assert opened(*objects, profile="traefik") is opens
    both = [ANYTHING, b.route("r", [number]), grant(b.rule("r", kind="TCPRoute"), b.rule("anything"))]
    assert opened(*both, profile="osm") is opens


def test_r11_an_impossible_port_opens_nothing_and_its_neighbours_stand() -> None:
    raw = b.rule("r", kind="TCPRoute")
    assert not opened(b.route("r", [65536 + 80]), grant(raw))
    assert not opened(b.route("r", ["80"]), grant(raw))
    assert opened(b.route("r", [0, 80]), grant(raw))


# ------------------------------------------------------------------------------------------------- access


def test_t1_without_a_target_everything_is_denied() -> None:
    assert ask(WORLD) == {403: 1}
    raw = b.service("raw", WEB, b.port(70, 7000, "tcp"))
    assert ask([*WORLD, raw], to="raw", port=70, protocol="tcp") == {"closed": 1}


@pytest.mark.parametrize(("mode", "served"), [("audit", True), ("permissive", True), ("enforce", False)])
def test_t1_modes_for_the_mesh_and_for_a_namespace(mode: Any, served: bool) -> None:
    assert ("pod-1" in ask(WORLD, mode=mode)) is served
    assert ("pod-1" in ask([*WORLD, b.namespace("shop", mode)])) is served


def test_t1_the_namespaces_mode_goes_before_the_meshs_and_an_unknown_one_enforces() -> None:
    assert ask([*WORLD, b.namespace("shop", "enforce")], mode="permissive") == {403: 1}
    assert ask([*WORLD, b.namespace("shop", "permissiv")], mode="permissive") == {403: 1}
    assert ask([*WORLD, b.namespace("other", "permissive")]) == {403: 1}


def test_t2_several_targets_are_a_union() -> None:
    groups = [b.route_group("one", b.match("m", "/one")), b.route_group("two", b.match("m", "/two"))]
    targets = [b.target(g, b.account("web-v1"), [b.rule(g)], [b.account("buyer")]) for g in ("one", "two")]
    assert opened(*groups, *targets, path="/one")
    assert opened(*groups, *targets, path="/two")
    assert not opened(*groups, *targets, path="/")


TWO_PORTS = b.service(
    "web-v1", {"track": "v1"}, b.port(80, 8080, "http"), b.port(90, 9090, "http-b"), b.port(70, 7000, "tcp")
)


def test_t3_port_and_match_within_a_target_never_across_targets() -> None:
    groups = [b.route_group("one", b.match("m", "/one")), b.route_group("two", b.match("m", "/two"))]
    routes = [b.route("p80", [80]), b.route("p90", [90])]
    targets = [
        b.target("a", b.account("web-v1"), [b.rule("p80", kind="TCPRoute"), b.rule("one")], [b.account("buyer")]),
        b.target("b", b.account("web-v1"), [b.rule("p90", kind="TCPRoute"), b.rule("two")], [b.account("buyer")]),
    ]
    allowed = {
        (number, path)
        for number in (80, 90)
        for path in ("/one", "/two")
        if opened(TWO_PORTS, *groups, *routes, *targets, port=number, path=path)
    }
    assert allowed == {(80, "/one"), (90, "/two")}


def test_t3_with_http_rules_a_tcproute_opens_no_raw_port() -> None:
    objects = [TWO_PORTS, ANYTHING, b.route("r", [70]), grant(b.rule("r", kind="TCPRoute"), b.rule("anything"))]
    assert not opened(*objects, port=70, protocol="tcp")


@pytest.mark.parametrize(("profile", "served"), [("spec", True), ("osm", False), ("traefik", True), ("nsm", True)])
def test_t4_tcproutes_alone_open_all_http_of_their_ports(profile: Any, served: bool) -> None:
    objects = [b.route("r"), grant(b.rule("r", kind="TCPRoute"))]
    assert opened(*objects, path="/any", method="PUT", profile=profile) is served
    assert opened(TWO_PORTS, *objects, port=70, protocol="tcp", profile=profile)


def test_t5_http_rules_never_open_a_tcp_port() -> None:
    assert not opened(TWO_PORTS, ANYTHING, grant(b.rule("anything")), port=70, protocol="tcp")
    assert opened(TWO_PORTS, ANYTHING, grant(b.rule("anything")), port=90)


TWO = b.route_group("g", b.match("one", "/one"), b.match("two", "/two"))


def test_t6_a_rule_without_matches_means_every_match() -> None:
    assert opened(TWO, grant(b.rule("g")), path="/two")
    assert not opened(TWO, grant(b.rule("g", "one")), path="/two")
    assert opened(TWO, grant(b.rule("g") | {"matches": []}), path="/two")


def test_t7_an_unknown_match_voids_its_rule_and_no_other() -> None:
    assert not opened(TWO, grant(b.rule("g", "one", "three")), path="/one")
    assert opened(TWO, grant(b.rule("g", "one", "three"), b.rule("g", "two")), path="/two")
    assert opened(TWO, grant(b.rule("gone"), b.rule("g", "two")), path="/two")


def test_t7_a_missing_group_beside_a_tcproute_leaves_no_l4_permission() -> None:
    assert not opened(b.route("r"), grant(b.rule("gone"), b.rule("r", kind="TCPRoute")))


def test_t8_a_missing_tcproute_beside_http_rules_voids_the_target() -> None:
    assert not opened(ANYTHING, grant(b.rule("gone", kind="TCPRoute"), b.rule("anything")))
    both = grant(b.rule("gone", kind="TCPRoute"), b.rule("r", kind="TCPRoute"), b.rule("anything"))
    assert not opened(ANYTHING, b.route("r", [80]), both)
    assert opened(b.route("r", [80]), grant(b.rule("gone", kind="TCPRoute"), b.rule("r", kind="TCPRoute")))


def test_t9_no_rules_or_no_sources_grant_nothing() -> None:
    assert not opened(grant())
    assert not opened(ANYTHING, b.target("t", b.account("web-v1"), [b.rule("anything")], []))


def test_t10_an_omitted_namespace_is_the_targets() -> None:
    same = b.account("buyer", "shop")
    assert opened(ANYTHING, grant(b.rule("anything"), to=b.account("web-v1", "shop"), source=same))
    assert not opened(ANYTHING, grant(b.rule("anything"), source=b.account("buyer", "other")))


def test_t11_a_target_outside_its_destinations_namespace_grants_nothing() -> None:
    foreign = b.target("t", b.account("web-v1", "shop"), [b.rule("anything")], [b.account("buyer", "shop")], ns="evil")
    assert not opened(b.route_group("anything", b.match("m"), ns="evil"), ANYTHING, foreign)


def test_t11_a_target_for_a_foreign_destination_does_not_open_its_own_namespace_instead() -> None:
    assert not opened(ANYTHING, grant(b.rule("anything"), to=b.account("web-v1", "other")))


def test_routes_are_looked_up_in_the_targets_namespace_only() -> None:
    assert not opened(b.route_group("anything", b.match("m"), ns="other"), grant(b.rule("anything")))


def test_t12_identity_is_namespace_and_account() -> None:
    assert not opened(ANYTHING, grant(b.rule("anything")), source=THIEF)
    assert not opened(ANYTHING, grant(b.rule("anything")), source=("other", "buyer", "pod-0"))
    forged = [("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/shop/sa/buyer")]
    assert not opened(ANYTHING, grant(b.rule("anything")), source=THIEF, headers=forged)


def test_t13_another_service_of_the_same_pods_opens_no_more() -> None:
    objects = [*WORLD, TWO, grant(b.rule("g", "one")), b.service("alias", {"track": "v1"}, b.port(8888, 8080, "http"))]
    assert ask(objects, "/one", to="alias", port=8888) == {"pod-1": 1}
    assert ask(objects, "/two", to="alias", port=8888) == {403: 1}


def test_t16_an_unknown_kind_grants_nothing() -> None:
    assert not opened(ANYTHING, grant(b.rule("anything"), source=b.account("buyer", kind="User")))
    assert not opened(ANYTHING, grant(b.rule("anything"), to=b.account("web-v1", kind="Deployment")))
    users = b.target("t", b.account("web-v1"), [b.rule("anything")], [b.account("x", kind="User"), b.account("buyer")])
    assert opened(ANYTHING, users)


# --------------------------------------------------------------------------------------- IdentityBindings


def bound_source(schemes: Any, **request: Any) -> bool:
    """Say whether a binding with these schemes lets the caller in."""
    return opened(ANYTHING, b.binding("who", schemes), grant(b.rule("anything"), source=b.bound("who")), **request)


def test_b1_schemes_are_or() -> None:
    schemes = {"serviceAccount": "buyer", "spiffeIdentities": ["cluster.local/ns/shop/sa/thief"]}
    assert bound_source(schemes)
    assert bound_source(schemes, source=THIEF)


def test_b1_account_and_selector_together_grant_nothing() -> None:
    assert not bound_source({"serviceAccount": "buyer", "podLabelSelector": {"matchLabels": {"app": "buyer"}}})


def test_b2_an_account_is_one_of_the_bindings_own_namespace() -> None:
    elsewhere = b.binding("who", {"serviceAccount": "buyer"}, ns="other")
    rules = [b.rule("anything")]
    assert not opened(ANYTHING, elsewhere, grant(*rules, source=b.bound("who", "other")))
    assert opened(ANYTHING, elsewhere, grant(*rules, source=b.bound("who", "other")), source=("other", "buyer", "p"))


SELECTOR = {"podLabelSelector": {"matchLabels": {"app": "buyer"}}}


def test_b3_a_selector_means_the_selected_pods_and_not_others_of_their_account() -> None:
    assert bound_source(SELECTOR)
    twin = b.pod("pod-5", "buyer", {"app": "else"})
    objects = [twin, ANYTHING, b.binding("who", SELECTOR), grant(b.rule("anything"), source=b.bound("who"))]
    assert not opened(*objects, source=("shop", "buyer", "pod-5"))


@pytest.mark.parametrize(
    ("operator", "values", "selects"),
    [
        ("In", ["buyer"], True), ("In", ["else"], False), ("NotIn", ["buyer"], False), ("NotIn", ["else"], True),
        ("Exists", None, True), ("DoesNotExist", None, False), ("Like", ["buyer"], False),
    ],
)  # fmt: skip
def test_b3_selectors_may_have_expressions(operator: str, values: Any, selects: bool) -> None:
    expression = {"key": "app", "operator": operator} | ({} if values is None else {"values": values})
    assert bound_source({"podLabelSelector": {"matchExpressions": [expression]}}) is selects


def test_b3_as_destination_a_selector_means_those_pods_only() -> None:
    twin = b.pod("pod-5", "web-v1", {"app": "web", "track": "v9"})
    binding = b.binding(
        "v1", {"podLabelSelector": {"matchExpressions": [{"key": "track", "operator": "In", "values": ["v1"]}]}}
    )
    objects = [*WORLD, twin, ANYTHING, binding, grant(b.rule("anything"), to=b.bound("v1"))]
    third = Fraction(1, 3)
    assert ask(objects) == {"pod-1": third, 403: 2 * third}


@pytest.mark.parametrize(
    ("identity", "known"),
    [
        ("cluster.local/ns/shop/sa/buyer", True),
        ("spiffe://cluster.local/ns/shop/sa/buyer", True),
        ("cluster.local/ns/other/sa/buyer", False),
        ("elsewhere.org/ns/shop/sa/buyer", False),
        ("cluster.local/ns/shop/sa", False),
        ("buyer", False),
    ],
)
def test_b4_spiffe_ids_are_those_of_the_bindings_namespace_in_our_trust_domain(identity: str, known: bool) -> None:
    assert bound_source({"spiffeIdentities": [identity]}) is known


def test_b4_an_id_of_another_namespace_does_not_open_it() -> None:
    assert not bound_source({"spiffeIdentities": ["cluster.local/ns/other/sa/buyer"]}, source=("other", "buyer", "p"))


@pytest.mark.parametrize("schemes", [{}, {"podLabelSelector": {}}, {"podLabelSelector": {"matchLabels": {}}}])
def test_b5_empty_schemes_and_empty_selectors_are_nobody(schemes: Any) -> None:
    assert not bound_source(schemes)
    empty = [ANYTHING, b.binding("v1", schemes), grant(b.rule("anything"), to=b.bound("v1"))]
    assert not opened(*empty)


def test_b5_a_missing_binding_and_another_group_are_nobody() -> None:
    who, rules = b.binding("who", {"serviceAccount": "buyer"}), [b.rule("anything")]
    assert not opened(ANYTHING, grant(*rules, source=b.bound("who")))
    assert not opened(ANYTHING, who, grant(*rules, source=b.bound("who", group="example.com")))
    assert opened(ANYTHING, who, grant(*rules, source=b.bound("who", group=None)))
