"""The oracle, held to the semantics row by row: wire forms, TrafficSplit, and this product's own conventions.

An oracle that is wrong would call a right product wrong.
"""

from fractions import Fraction
from typing import Any

import pytest

from tests.oracle import build as b
from tests.oracle.asking import ANYTHING, HALF, WEB, WORLD, ask, grant, opened, routed

# --------------------------------------------------------------------------------------------- wire forms


@pytest.mark.parametrize("version", ["v1alpha2", "v1alpha3", "v1alpha4"])
def test_weights_are_whole_numbers_from_v1alpha2_on(version: Any) -> None:
    weights = {"web-v1": 3, "web-v2": 1}
    assert routed(b.split("s", "web", weights, version=version)) == {"pod-1": Fraction(3, 4), "pod-2": Fraction(1, 4)}


@pytest.mark.parametrize(
    ("one", "other"), [(1, "500m"), ("2", 1), ("0.5", "250m"), ("1k", 500), ("1e1", "5"), ("2Ki", "1Ki")]
)
def test_v1alpha1_weights_are_quantities(one: Any, other: Any) -> None:
    weights = {"web-v1": one, "web-v2": other}
    shares = {"pod-1": Fraction(2, 3), "pod-2": Fraction(1, 3)}
    assert routed(b.split("s", "web", weights, version="v1alpha1")) == shares


@pytest.mark.parametrize("weight", [-1, 1.5, "10", "500m", True, None])
def test_a_weight_that_is_no_whole_number_excludes_its_backend(weight: Any) -> None:
    assert routed(b.split("s", "web", {"web-v1": weight, "web-v2": 1})) == {"pod-2": 1}


@pytest.mark.parametrize("weight", ["-1", "many", "1 k", "", None, True])
def test_a_v1alpha1_weight_that_is_no_quantity_excludes_its_backend(weight: Any) -> None:
    assert routed(b.split("s", "web", {"web-v1": weight, "web-v2": 1}, version="v1alpha1")) == {"pod-2": 1}


@pytest.mark.parametrize("version", ["v1alpha1", "v1alpha2", "v1alpha3", "v1alpha4"])
@pytest.mark.parametrize("position", ["top", "spec"])
def test_matches_of_a_group_are_found_by_shape_under_every_version(version: Any, position: Any) -> None:
    group = b.route_group("g", b.match("a", "/a"), version=version, position=position)
    assert opened(group, grant(b.rule("g")), path="/a")
    assert not opened(group, grant(b.rule("g")), path="/b")


@pytest.mark.parametrize("version", ["v1alpha1", "v1alpha2", "v1alpha3", "v1alpha4"])
@pytest.mark.parametrize("position", ["top", "spec"])
def test_a_target_is_read_by_shape_under_every_version(version: Any, position: Any) -> None:
    assert opened(ANYTHING, grant(b.rule("anything"), version=version, position=position))


@pytest.mark.parametrize("version", ["v1alpha1", "v1alpha4"])
def test_destination_port_restricts_the_whole_target_under_every_version(version: Any) -> None:
    web = b.service("web-v1", {"track": "v1"}, b.port(80, 8080, "http"), b.port(90, 9090, "http-admin"))
    objects = [ANYTHING, web, grant(b.rule("anything"), to=b.account("web-v1", port=90), version=version)]
    assert not opened(*objects, port=80)
    assert opened(*objects, port=90)


def test_an_impossible_destination_port_opens_nothing() -> None:
    assert not opened(ANYTHING, grant(b.rule("anything"), to=b.account("web-v1", port=65536 + 80), version="v1alpha2"))


@pytest.mark.parametrize("form", ["map", "list"])
def test_both_forms_of_headers_mean_and(form: Any) -> None:
    group = b.route_group("g", b.match("a", headers={"x-a": "1", "x-b": "2"}, form=form), version="v1alpha3")
    assert opened(group, grant(b.rule("g")), headers=[("x-a", "1"), ("x-b", "2")])
    assert not opened(group, grant(b.rule("g")), headers=[("x-a", "1")])


def test_an_object_of_an_unknown_version_is_no_part_of_the_world() -> None:
    unknown = b.split("s", "web", {"web-v1": 1}) | {"apiVersion": "split.smi-spec.io/v1beta1"}
    assert routed(unknown) == {"pod-1": HALF, "pod-2": HALF}


def test_a_tcproute_of_another_group_is_no_smi_route() -> None:
    foreign = b.route("t") | {"apiVersion": "gateway.networking.k8s.io/v1alpha2"}
    assert not opened(foreign, grant(b.rule("t", kind="TCPRoute")))


# ------------------------------------------------------------------------------------------- TrafficSplit


def test_s1_without_a_split_the_service_is_plain() -> None:
    assert routed() == {"pod-1": HALF, "pod-2": HALF}


def test_s2_shares_are_weight_over_sum_however_large() -> None:
    assert routed(b.split("s", "web", {"web-v1": 3 * 2**40, "web-v2": 2**40})) == {
        "pod-1": Fraction(3, 4),
        "pod-2": Fraction(1, 4),
    }


def test_s2_a_share_belongs_to_the_service_not_to_its_pods() -> None:
    third = b.pod("pod-4", "web-v2", {"app": "web", "track": "v2"})
    shares = {"pod-1": HALF, "pod-2": Fraction(1, 4), "pod-4": Fraction(1, 4)}
    assert routed(third, b.split("s", "web", {"web-v1": 5, "web-v2": 5})) == shares


@pytest.mark.parametrize("idle", ["web-v2", "not-there-yet"])
def test_s3_zero_weight_receives_nothing_whether_it_exists_or_not(idle: str) -> None:
    assert routed(b.split("s", "web", {"web-v1": 1, idle: 0})) == {"pod-1": 1}


def test_s4_all_weights_zero_is_503() -> None:
    assert routed(b.split("s", "web", {"web-v1": 0, "web-v2": 0})) == {503: 1}


def test_s5_a_missing_backend_is_excluded_and_the_rest_renormalised() -> None:
    assert routed(b.split("s", "web", {"web-v1": 1, "web-v2": 1, "gone": 2})) == {"pod-1": HALF, "pod-2": HALF}


def test_s5_no_backend_left_is_503() -> None:
    assert routed(b.split("s", "web", {"gone": 2, "web-v2": 0})) == {503: 1}


@pytest.mark.parametrize("unready", [True, False])
def test_s6_a_backend_without_ready_endpoints_keeps_its_share_as_503(unready: bool) -> None:
    canary = [b.service("canary", {"track": "canary"})]
    pods = [b.pod("pod-4", "web-v2", {"track": "canary"}, ready=False)] if unready else []
    assert routed(*canary, *pods, b.split("s", "web", {"web-v1": 1, "canary": 3})) == {
        "pod-1": Fraction(1, 4),
        503: Fraction(3, 4),
    }


def test_s7_a_backend_without_the_port_number_is_left_out_for_that_port() -> None:
    other = b.service("web-v2", {"track": "v2"}, b.port(81, 8080, "http"))
    assert routed(other, b.split("s", "web", {"web-v1": 1, "web-v2": 1})) == {"pod-1": 1}
    assert routed(other, b.split("s", "web", {"web-v2": 1})) == {503: 1}


def test_s7_target_ports_may_differ_and_may_be_names() -> None:
    group = [
        b.route("r", [80]),
        b.target("t", b.account("web-v2"), [b.rule("r", kind="TCPRoute")], [b.account("buyer")]),
    ]
    other = b.service("web-v2", {"track": "v2"}, b.port(80, "admin", "http"))
    objects = [*WORLD, *group, other, b.split("s", "web", {"web-v1": 1, "web-v2": 1})]
    assert ask(objects) == {"pod-2": HALF, 403: HALF}


def test_s7_a_pod_without_the_named_port_is_no_endpoint() -> None:
    assert routed(b.service("web-v2", {"track": "v2"}, b.port(80, "nowhere", "http")), to="web-v2") == {503: 1}


def test_s8_every_port_of_the_root_is_split() -> None:
    ports = [b.port(80, 8080, "http"), b.port(90, 9090, "http-admin"), b.port(70, 7000, "tcp-raw")]
    services = [
        b.service(name, labels, *ports)
        for name, labels in [("web", WEB), ("web-v1", {"track": "v1"}), ("web-v2", {"track": "v2"})]
    ]
    for number, protocol in [(80, "http"), (90, "http"), (70, "tcp")]:
        shares = routed(*services, b.split("s", "web", {"web-v2": 1}), port=number, protocol=protocol)
        assert shares == {"pod-2": 1}


def test_s9_duplicate_names_are_summed() -> None:
    twice = b.split("s", "web", [("web-v1", 1), ("web-v2", 2), ("web-v1", 1)])
    assert routed(twice) == {"pod-1": HALF, "pod-2": HALF}


def test_s10_the_root_as_backend_means_its_own_endpoints() -> None:
    assert routed(b.split("s", "web", {"web": 1, "web-v2": 1})) == {"pod-1": Fraction(1, 4), "pod-2": Fraction(3, 4)}


def test_s11_the_split_of_a_backend_is_not_followed() -> None:
    splits = [b.split("a", "web", {"web-v1": 1}), b.split("b", "web-v1", {"web-v2": 1})]
    assert routed(*splits) == {"pod-1": 1}
    assert routed(*splits, b.split("c", "web-v2", {"web": 1}), to="web-v2") == {"pod-1": HALF, "pod-2": HALF}


def test_s12_a_leaf_called_directly_is_not_split() -> None:
    assert routed(b.split("s", "web", {"web-v1": 1}), to="web-v2") == {"pod-2": 1}


def test_s13_a_backend_need_not_be_among_the_roots_pods() -> None:
    other = [b.pod("pod-4", "api", {"app": "api"}), b.service("api", {"app": "api"})]
    assert routed(*other, b.split("s", "web", {"api": 1})) == {"pod-4": 1}


STEER = b.route_group("beta", b.match("m", "/beta", ["GET"], {"x-user": "t.*"}))


def test_s14_a_split_with_matches_goes_before_an_older_one_without() -> None:
    splits = [
        b.split("a", "web", {"web-v1": 1}, created="2024-01-01T00:00:00Z"),
        b.split("b", "web", {"web-v2": 1}, matches=["beta"], created="2025-01-01T00:00:00Z"),
    ]
    assert routed(STEER, *splits, path="/beta", headers=[("x-user", "tom")]) == {"pod-2": 1}
    assert routed(STEER, *splits, path="/") == {"pod-1": 1}


def test_s14_the_oldest_split_wins_then_the_first_name() -> None:
    old = b.split("z", "web", {"web-v1": 1}, created="2024-01-01T00:00:00Z")
    assert routed(old, b.split("a", "web", {"web-v2": 1}, created="2024-01-01T00:00:01Z")) == {"pod-1": 1}
    assert routed(old, b.split("a", "web", {"web-v2": 1}, created="2024-01-01T00:00:00Z")) == {"pod-2": 1}


def test_s14_disjoint_matches_all_apply() -> None:
    groups = [b.route_group("one", b.match("m", "/one")), b.route_group("two", b.match("m", "/two"))]
    splits = [b.split("a", "web", {"web-v1": 1}, matches=["one"]), b.split("b", "web", {"web-v2": 1}, matches=["two"])]
    assert routed(*groups, *splits, path="/one") == {"pod-1": 1}
    assert routed(*groups, *splits, path="/two") == {"pod-2": 1}
    assert routed(*groups, *splits, path="/") == {"pod-1": HALF, "pod-2": HALF}


def test_s15_path_method_and_header_all_count_and_the_rest_goes_to_the_root() -> None:
    canary = b.split("s", "web", {"web-v2": 1}, matches=["beta"])
    headers = [("x-user", "tom")]
    assert routed(STEER, canary, path="/beta", headers=headers) == {"pod-2": 1}
    root = {"pod-1": HALF, "pod-2": HALF}
    assert routed(STEER, canary, path="/", headers=headers) == root
    assert routed(STEER, canary, path="/beta", headers=headers, method="POST") == root
    assert routed(STEER, canary, path="/beta") == root


def test_s15_several_groups_are_one_union() -> None:
    groups = [b.route_group("one", b.match("m", "/one")), b.route_group("two", b.match("m", "/two"))]
    canary = b.split("s", "web", {"web-v2": 1}, matches=["one", "two"])
    assert routed(*groups, canary, path="/one") == routed(*groups, canary, path="/two") == {"pod-2": 1}


def test_s15_groups_are_those_of_the_splits_namespace() -> None:
    foreign = b.route_group("beta", b.match("m"), ns="other")
    assert routed(foreign, b.split("s", "web", {"web-v2": 1}, matches=["beta"])) == {"pod-1": HALF, "pod-2": HALF}


def test_s15_matches_never_match_a_tcp_connection() -> None:
    ports = [b.port(70, 7000, "tcp")]
    services = [b.service("web", WEB, *ports), b.service("web-v2", {"track": "v2"}, *ports)]
    canary = b.split("s", "web", {"web-v2": 1}, matches=["all"])
    everything = b.route_group("all", b.match("m"))
    assert routed(*services, everything, canary, port=70, protocol="tcp") == {"pod-1": HALF, "pod-2": HALF}


def test_s16_missing_groups_contribute_nothing_and_never_match_all() -> None:
    assert routed(b.split("s", "web", {"web-v2": 1}, matches=["gone"])) == {"pod-1": HALF, "pod-2": HALF}
    both = b.split("s", "web", {"web-v2": 1}, matches=["gone", "one"])
    assert routed(b.route_group("one", b.match("m", "/one")), both, path="/one") == {"pod-2": 1}


def test_s17_empty_matches_are_as_none() -> None:
    assert routed(b.split("s", "web", {"web-v2": 1}, matches=[])) == {"pod-2": 1}


@pytest.mark.parametrize("root", ["web", "web.shop", "web.shop.svc", "web.shop.svc.cluster.local"])
def test_s18_the_root_may_be_named_in_full(root: str) -> None:
    assert routed(b.split("s", root, {"web-v2": 1})) == {"pod-2": 1}


def test_s18_a_foreign_host_belongs_to_the_service_named_like_the_split() -> None:
    assert routed(b.split("web", "www.example.com", {"web-v2": 1})) == {"pod-2": 1}
    assert routed(b.split("unlike", "www.example.com", {"web-v2": 1})) == {"pod-1": HALF, "pod-2": HALF}


@pytest.mark.parametrize("root", ["web.other", "web.other.svc", "web.other.svc.cluster.local"])
def test_s19_a_root_in_another_namespace_is_refused(root: str) -> None:
    assert routed(b.namespace("other"), b.split("web", root, {"web-v2": 1})) == {"pod-1": HALF, "pod-2": HALF}
    elsewhere = b.split("s", "web.shop", {"web-v2": 1}, ns="other")
    assert routed(b.namespace("other"), elsewhere) == {"pod-1": HALF, "pod-2": HALF}


def test_s19_a_backend_in_another_namespace_is_excluded() -> None:
    assert routed(b.namespace("other"), b.split("s", "web", {"web-v1.other": 1, "web-v2": 1})) == {"pod-2": 1}


def test_s20_a_foreign_host_header_moves_nothing() -> None:
    assert routed(b.split("s", "web", {"web-v2": 1}), headers=[("host", "web-v1.shop")]) == {"pod-2": 1}


def test_s22_the_split_holds_for_clients_of_every_namespace() -> None:
    foreign = b.pod("pod-5", "client", ns="other")
    assert routed(foreign, b.split("s", "web", {"web-v2": 1}), source=("other", "client", "pod-5")) == {"pod-2": 1}


def test_s23_access_is_enforced_where_the_request_is_served() -> None:
    objects = [*WORLD, ANYTHING, grant(b.rule("anything")), b.split("s", "web", {"web-v1": 1, "web-v2": 3})]
    assert ask(objects) == {"pod-1": Fraction(1, 4), 403: Fraction(3, 4)}


def test_a_split_without_backends_is_none() -> None:
    assert routed(b.split("s", "web", {})) == {"pod-1": HALF, "pod-2": HALF}


# ------------------------------------------------------------------------- this product's own conventions


@pytest.mark.parametrize(
    ("name", "protocol", "http"),
    [
        (None, None, True),
        ("web", None, True),
        ("tcp", None, False),
        ("tcp-web", None, False),
        ("tcpweb", None, True),
        ("mysql", None, False),
        ("https", None, False),
        ("tcp-web", "http", True),
        ("web", "tcp", False),
        ("web", "kubernetes.io/h2c", True),
        ("web", "kubernetes.io/wss", False),
        ("grpc-api", None, True),
    ],
)
def test_a_port_is_http_unless_it_says_otherwise(name: Any, protocol: Any, http: bool) -> None:
    web = b.service("web", WEB, b.port(80, 8080, name, protocol))
    assert ask([*WORLD, web]) == ({403: 1} if http else {"closed": 1})


def test_a_caller_without_any_right_behind_the_root_sees_403_even_where_nobody_is_left() -> None:
    dead = b.split("s", "web", {"gone": 1, "web-v1": 0})
    assert ask([*WORLD, dead]) == {403: 1}
    assert ask([*WORLD, dead, ANYTHING, grant(b.rule("anything"))]) == {503: 1}
    assert ask([*WORLD, dead], mode="audit") == {503: 1}


def test_a_service_or_port_that_does_not_exist_cannot_be_dialled() -> None:
    assert routed(to="nobody") == {"closed": 1}
    assert routed(port=81) == {"closed": 1}


def test_header_names_with_underscores_are_400() -> None:
    assert routed(headers=[("x_a", "1")]) == {400: 1}


def test_hand_written_endpoints_go_before_the_selector() -> None:
    part = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "e", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "endpoints": [
            {"targetRef": {"kind": "Pod", "name": "pod-2"}, "conditions": {"ready": True}},
            {"targetRef": {"kind": "Pod", "name": "pod-1"}, "conditions": {"ready": False}},
        ],
    }
    assert routed(part) == {"pod-2": 1}
