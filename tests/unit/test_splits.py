"""TrafficSplit: rows S1 to S23 of the semantics, each as what happens to requests."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest

from smi_adapter.findings import Severity
from smi_adapter.mesh import Mesh, Protocol
from smi_adapter.smi.objects import HTTPMatch
from smi_adapter.snapshot import ServicePort
from tests.worlds import NS, World, bookstore, shares

V1, V2 = "bookstore-v1", "bookstore-v2"
Weights = dict[str, int | float | None]


def routed(world: World, path: str = "/", port: int = 80, **other: object) -> dict[str | int, Fraction]:
    return shares(world.ask("buyer", f"bookstore:{port}", "GET", path, **other))


def weights(mesh: Mesh, service: str = "bookstore", port: int = 80) -> list[tuple[str, int]]:
    """Return the weights of the last route, as a proxy gets them."""
    found = next(item for item in mesh.services[NS, service].ports if item.number == port)
    return [(target.service[1], target.weight) for target in found.routes[-1].targets]


def test_without_a_split_a_service_reaches_all_its_own_pods() -> None:  # S1
    world = bookstore()
    assert routed(world) == {"bookstore": 1}
    assert world.ask("buyer", "bookstore").arms[0].workloads == ("default/bookstore-v1", "default/bookstore-v2")


def test_a_deleted_split_restores_the_root_service() -> None:  # S1
    world = bookstore().split("s", "bookstore", {V1: 1})
    del world.splits[NS, "s"]
    assert routed(world) == {"bookstore": 1}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({V1: 90, V2: 10}, {V1: Fraction(9, 10), V2: Fraction(1, 10)}),
        ({V1: 1000, V2: 500}, {V1: Fraction(2, 3), V2: Fraction(1, 3)}),
        ({V1: 1, V2: 0.5}, {V1: Fraction(2, 3), V2: Fraction(1, 3)}),
        ({V1: 7}, {V1: 1}),
    ],
)
def test_shares_are_weight_over_sum(given: Weights, expected: dict[str, Fraction]) -> None:  # S2
    assert routed(bookstore().split("s", "bookstore", given)) == expected


def test_whole_weights_stay_as_written_and_milli_units_lose_their_common_divisor() -> None:  # S2
    assert weights(bookstore().split("s", "bookstore", {V1: 1000, V2: 500}).mesh()) == [(V1, 1000), (V2, 500)]
    assert weights(bookstore().split("s", "bookstore", {V1: 1, V2: 0.5}).mesh()) == [(V1, 2), (V2, 1)]
    assert weights(bookstore().split("s", "bookstore", {V1: 0.01, V2: 1.5}).mesh()) == [(V1, 1), (V2, 150)]


def test_weights_are_scaled_only_above_32_bits() -> None:  # S2
    limit = 2**32 - 1
    assert weights(bookstore().split("s", "bookstore", {V1: limit - 1, V2: 1}).mesh()) == [(V1, limit - 1), (V2, 1)]
    scaled = dict(weights(bookstore().split("s", "bookstore", {V1: 10**18, V2: 1}).mesh()))
    assert sum(scaled.values()) == limit
    assert scaled[V2] >= 1
    assert weights(bookstore().split("s", "bookstore", {V1: 2**33, V2: 2**33}).mesh()) == [(V1, 2**31), (V2, 2**31 - 1)]


def test_zero_weight_backend_receives_nothing_and_need_not_exist() -> None:  # S3
    world = bookstore().split("s", "bookstore", {V1: 1, V2: 0, "not-yet": 0})
    assert routed(world) == {V1: 1}
    found = world.findings("SMI0102")
    assert [item.severity for item in found] == [Severity.INFO]
    assert "not-yet" in found[0].message


def test_all_weights_zero_is_503_for_that_root_alone() -> None:  # S4
    world = bookstore().split("s", "bookstore", {V1: 0, V2: 0})
    assert routed(world) == {503: 1}
    assert world.ask("buyer", "bookstore").access == "allowed"
    assert world.ask("thief", "bookstore").access == "denied"
    assert shares(world.ask("buyer", V1)) == {V1: 1}
    assert world.findings("SMI0104")


def test_a_split_without_backends_has_no_effect() -> None:
    world = bookstore().split("s", "bookstore", {})
    assert routed(world) == {"bookstore": 1}
    assert world.findings("SMI0104")


def test_missing_backend_is_excluded_and_the_rest_renormalised() -> None:  # S5
    world = bookstore().split("s", "bookstore", {V1: 1, V2: 1, "gone": 2})
    assert routed(world) == {V1: Fraction(1, 2), V2: Fraction(1, 2)}
    assert [item.severity for item in world.findings("SMI0102")] == [Severity.WARNING]


def test_no_backend_left_is_503() -> None:  # S5
    assert routed(bookstore().split("s", "bookstore", {"gone": 2})) == {503: 1}


def test_unusable_weight_excludes_that_backend() -> None:  # S2
    assert routed(bookstore().split("s", "bookstore", {V1: 1, V2: None})) == {V1: 1}
    assert routed(bookstore().split("s", "bookstore", {V1: None, V2: None})) == {503: 1}


def test_backend_without_ready_endpoints_keeps_its_share_which_gets_503() -> None:  # S6
    world = bookstore().split("s", "bookstore", {V1: 3, V2: 1})
    world.pods[NS, "bookstore-v2-0"] = replace(world.pods[NS, "bookstore-v2-0"], ready=False)
    verdict = world.ask("buyer", "bookstore")
    assert shares(verdict) == {V1: Fraction(3, 4), 503: Fraction(1, 4)}
    assert verdict.access == "allowed"
    assert "25% of the requests get 503" in verdict.why
    assert [item.severity for item in world.findings("SMI0113")] == [Severity.WARNING]


def two_ports() -> World:
    world = World().app("v1", 8080, 9090, sa="shop").app("v2", 8081, 9090, sa="shop").app("buyer")
    both = (ServicePort(80, "http", target=8080), ServicePort(90, "admin", target=9090))
    world.service("bookstore", *both, selector={"app": "v1"})
    world.service("v1", *both)
    world.service("v2", ServicePort(80, "renamed", target=8081))
    world.group("all", HTTPMatch("all"))
    return world.target("t", "shop", ("http:all",), ("buyer",))


def test_ports_meet_by_number_and_target_ports_may_differ() -> None:  # S7
    world = two_ports().split("s", "bookstore", {"v1": 1, "v2": 1})
    assert routed(world) == {"v1": Fraction(1, 2), "v2": Fraction(1, 2)}
    assert world.ask("buyer", "bookstore").access == "allowed"


def test_backend_without_the_ports_number_is_left_out_for_that_port() -> None:  # S7, S8
    world = two_ports().split("s", "bookstore", {"v1": 1, "v2": 1})
    assert routed(world, port=90) == {"v1": 1}
    (found,) = world.findings("SMI0103")
    assert "v2" in found.message
    assert "90" in found.message
    assert found.subject.name == "s"


def test_no_backend_with_the_port_is_503() -> None:  # S7
    assert routed(two_ports().split("s", "bookstore", {"v2": 1}), port=90) == {503: 1}


def test_a_udp_port_never_stands_for_a_tcp_port_of_the_same_number() -> None:  # S7
    world = two_ports().service("v2", ServicePort(80, protocol="UDP", target=8081))
    assert routed(world.split("s", "bookstore", {"v1": 1, "v2": 1})) == {"v1": 1}


def test_every_port_of_the_root_is_split() -> None:  # S8
    world = two_ports().split("s", "bookstore", {"v1": 1})
    assert routed(world) == {"v1": 1}
    assert routed(world, port=90) == {"v1": 1}


def test_duplicate_backends_are_summed() -> None:  # S9
    world = bookstore().split("s", "bookstore", ((V1, 1), (V2, 2), (V1, 1)))
    assert weights(world.mesh()) == [(V1, 2), (V2, 2)]
    assert world.findings("SMI0106")


def test_root_as_backend_means_its_own_endpoints() -> None:  # S10
    world = bookstore().split("s", "bookstore", {"bookstore": 3, V2: 1})
    assert routed(world) == {"bookstore": Fraction(3, 4), V2: Fraction(1, 4)}
    assert [item.severity for item in world.findings("SMI0107")] == [Severity.INFO]
    assert not world.findings("SMI0108")


def test_split_of_a_backend_is_not_followed() -> None:  # S11
    world = bookstore().split("s", "bookstore", {V1: 1}).split("t", V1, {V2: 1})
    assert routed(world) == {V1: 1}
    assert [item.subject.name for item in world.findings("SMI0108")] == ["s"]


def test_splits_in_a_circle_neither_loop_nor_follow_each_other() -> None:  # S11
    world = bookstore().split("a", V1, {V2: 1}).split("b", V2, {V1: 1})
    assert shares(world.ask("buyer", V1)) == {V2: 1}
    assert shares(world.ask("buyer", V2)) == {V1: 1}


def test_a_leaf_called_directly_is_not_split() -> None:  # S12
    assert shares(bookstore().split("s", "bookstore", {V1: 1}).ask("buyer", V2)) == {V2: 1}


def test_only_backends_endpoints_receive_whatever_the_root_selects() -> None:  # S13
    world = bookstore().split("s", "bookstore", {V1: 100, V2: 0})
    world.service("bookstore", selector={})
    assert routed(world) == {V1: 1}
    assert world.ask("buyer", "bookstore").access == "allowed"


def test_oldest_split_wins_and_then_the_first_name() -> None:  # S14
    world = bookstore()
    world.split("a", "bookstore", {V2: 1}, created="2026-01-02T00:00:00Z")
    world.split("b", "bookstore", {V1: 1}, created="2026-01-01T00:00:00Z")
    assert routed(world) == {V1: 1}
    assert [item.subject.name for item in world.findings("SMI0109")] == ["a"]
    world.split("a", "bookstore", {V2: 1}, created="2026-01-01T00:00:00Z")
    assert routed(world) == {V2: 1}


def matching() -> World:
    world = bookstore()
    world.group("books", HTTPMatch("books", "/books"))
    world.group("beta", HTTPMatch("beta", headers=(("X-Beta", "yes|sure"),)))
    return world


def test_splits_with_matches_come_before_those_without() -> None:  # S14
    world = matching().split("old", "bookstore", {V1: 1}, created="2026-01-01T00:00:00Z")
    world.split("young", "bookstore", {V2: 1}, matches=("books",), created="2026-02-01T00:00:00Z")
    assert routed(world, "/books/1") == {V2: 1}
    assert routed(world, "/") == {V1: 1}
    assert not world.findings("SMI0109")


def test_splits_with_disjoint_matches_all_apply() -> None:  # S14
    world = matching().split("a", "bookstore", {V1: 1}, matches=("books",))
    world.split("b", "bookstore", {V2: 1}, matches=("beta",))
    assert routed(world, "/books") == {V1: 1}
    assert routed(world, "/", headers={"x-beta": "yes"}) == {V2: 1}
    assert routed(world, "/books", headers={"x-beta": "yes"}) == {V1: 1}
    assert routed(world, "/") == {"bookstore": 1}


def test_a_split_that_gets_nothing_after_an_earlier_one_is_told_so() -> None:  # S14
    world = matching().group("narrow", HTTPMatch("narrow", "/books", ("GET",), (("x-beta", "yes"),)))
    world.split("a", "bookstore", {V1: 1}, matches=("books",))
    world.split("b", "bookstore", {V2: 1}, matches=("narrow",))
    assert [item.subject.name for item in world.findings("SMI0109")] == ["b"]
    assert routed(world, "/books", headers={"x-beta": "yes"}) == {V1: 1}


def test_unmatched_requests_go_to_the_roots_own_endpoints() -> None:  # S15
    world = matching().split("s", "bookstore", {V2: 1}, matches=("books",))
    assert routed(world, "/books") == {V2: 1}
    assert routed(world, "/") == {"bookstore": 1}


def test_groups_of_a_split_are_merged_by_or() -> None:  # S15
    world = matching().split("s", "bookstore", {V2: 1}, matches=("books", "beta"))
    assert routed(world, "/books") == {V2: 1}
    assert routed(world, "/x", headers={"x-beta": "sure"}) == {V2: 1}


def test_path_method_and_headers_of_a_match_all_count() -> None:  # S15
    world = matching().group("all", HTTPMatch("all", "/a", ("GET",), (("x-beta", "yes"),)))
    world.split("s", "bookstore", {V2: 1}, matches=("all",))
    assert routed(world, "/a", headers={"x-beta": "yes"}) == {V2: 1}
    assert routed(world, "/b", headers={"x-beta": "yes"}) == {"bookstore": 1}
    assert routed(world, "/a") == {"bookstore": 1}
    verdict = world.ask("buyer", "bookstore", "PUT", "/a", headers={"x-beta": "yes"})
    assert shares(verdict) == {"bookstore": 1}


def test_weights_apply_inside_the_matched_segment_and_zero_there_is_503() -> None:  # S15, S4
    world = matching().split("s", "bookstore", {V1: 1, V2: 1}, matches=("books",))
    assert routed(world, "/books") == {V1: Fraction(1, 2), V2: Fraction(1, 2)}
    world.split("s", "bookstore", {V1: 0}, matches=("books",))
    assert routed(world, "/books") == {503: 1}
    assert routed(world, "/") == {"bookstore": 1}


def test_missing_group_contributes_nothing_and_never_everything() -> None:  # S16
    world = matching().split("s", "bookstore", {V2: 1}, matches=("gone", "books"))
    assert routed(world, "/books") == {V2: 1}
    assert routed(world, "/") == {"bookstore": 1}
    assert world.findings("SMI0110")
    world.split("s", "bookstore", {V2: 1}, matches=("gone",))
    assert routed(world, "/books") == {"bookstore": 1}
    world.split("s", "bookstore", {V2: 1}, unknown=("something",))
    assert routed(world, "/books") == {"bookstore": 1}
    assert world.findings("SMI0110")


def test_group_with_nothing_but_bad_matches_never_matches() -> None:  # S16, R4
    world = matching().group("bad", HTTPMatch("bad", "(?!x)")).split("s", "bookstore", {V2: 1}, matches=("bad",))
    assert routed(world, "/x") == {"bookstore": 1}
    assert world.findings("SMI0110")


def test_groups_are_those_of_the_splits_namespace() -> None:  # S15
    world = bookstore().group("books", HTTPMatch("books"), ns="other")
    world.split("s", "bookstore", {V2: 1}, matches=("books",))
    assert routed(world) == {"bookstore": 1}


def test_empty_matches_are_as_if_absent() -> None:  # S17
    assert routed(bookstore().split("s", "bookstore", {V2: 1}, matches=())) == {V2: 1}


def test_matches_leave_a_tcp_port_to_the_roots_own_endpoints() -> None:  # S15
    world = matching()
    world.service("bookstore", ServicePort(80, "tcp", target=8080))
    world.split("s", "bookstore", {V2: 1}, matches=("books",))
    assert routed(world) == {"bookstore": 1}
    assert world.findings("SMI0602")


@pytest.mark.parametrize(
    "written",
    ["bookstore", "bookstore.default", "bookstore.default.svc", "bookstore.default.svc.cluster.local"],
)
def test_root_may_be_written_in_any_form_of_its_dns_name(written: str) -> None:  # S18
    world = bookstore().split("s", written, {f"{V1}.default.svc": 1})
    assert routed(world) == {V1: 1}
    assert world.codes() == []


@pytest.mark.parametrize("host", ["app.example.com", "example.com", "*.example.com", "api.shop.prod.example.com"])
def test_another_host_is_an_extra_name_of_the_service_named_like_the_split(host: str) -> None:  # S18
    assert routed(bookstore().split("bookstore", host, {V1: 1})) == {V1: 1}


def test_a_host_without_a_service_named_like_the_split_is_not_accepted() -> None:  # S18
    world = bookstore().split("s", "app.example.com", {V1: 1})
    assert routed(world) == {"bookstore": 1}
    assert world.findings("SMI0112")


def test_missing_root_is_told() -> None:  # S18
    assert bookstore().split("s", "gone", {V1: 1}).findings("SMI0101")


@pytest.mark.parametrize("written", ["shop.other", "shop.other.svc", "shop.other.svc.cluster.local"])
def test_root_of_another_namespace_is_refused(written: str) -> None:  # S19
    world = bookstore().namespace("other").service("shop", ns="other").app("shop", 8080, ns="other")
    world.service("shop").split("shop", written, {V1: 1})
    assert shares(world.ask("buyer", "shop")) == {503: 1}
    assert [arm.service for arm in world.ask("buyer", "shop").arms] == ["default/shop"]
    assert shares(world.ask("buyer", "other/shop")) == {"other/shop": 1}
    assert world.findings("SMI0111")


def test_backend_of_another_namespace_is_refused() -> None:  # S19
    world = bookstore().service("shop", ns="other").app("shop", 8080, ns="other")
    world.split("s", "bookstore", {V1: 1, "shop.other": 1, "shop.other.svc.cluster.local": 1, "example.com": 1})
    assert routed(world) == {V1: 1}
    assert len(world.findings("SMI0111")) == 3


def test_same_names_in_another_namespace_are_untouched() -> None:  # S19
    world = bookstore().split("s", "bookstore", {V1: 1})
    world.service("bookstore", ns="other").app("bookstore", 8080, ns="other")
    assert shares(world.ask("buyer", "other/bookstore")) == {"other/bookstore": 1}


def test_tcp_is_split_too() -> None:  # S21
    world = bookstore()
    for name in ("bookstore", V1, V2):
        world.services[NS, name] = replace(world.services[NS, name], ports=(ServicePort(80, "mysql", target=8080),))
    world.split("s", "bookstore", {V1: 1, V2: 3})
    assert routed(world) == {V1: Fraction(1, 4), V2: Fraction(3, 4)}
    assert world.mesh().services[NS, "bookstore"].ports[0].protocol is Protocol.TCP


def test_udp_ports_keep_their_split_for_a_backend_that_can() -> None:  # U1
    world = bookstore()
    for name in ("bookstore", V1, V2):
        world.services[NS, name] = replace(world.services[NS, name], ports=(ServicePort(53, "dns", "UDP", target=53),))
    world.split("s", "bookstore", {V1: 1, V2: 3})
    assert weights(world.mesh(), port=53) == [(V1, 1), (V2, 3)]
    assert world.ask("buyer", "bookstore:53").access == "allowed"


def test_clients_of_every_namespace_get_the_split() -> None:  # S22
    world = bookstore().app("buyer", ns="elsewhere").split("s", "bookstore", {V1: 1})
    world.target("more", "bookstore", ("http:everything",), ("elsewhere/buyer",))
    assert shares(world.ask("elsewhere/buyer", "bookstore")) == {V1: 1}
    assert world.ask("elsewhere/buyer", "bookstore").access == "allowed"


def test_a_client_without_proxy_gets_the_plain_service() -> None:  # S22
    world = bookstore().split("s", "bookstore", {V1: 1})
    assert shares(world.ask("", "bookstore", options={"mode": world_mode("permissive")})) == {"bookstore": 1}


def world_mode(word: str) -> object:
    from smi_adapter.snapshot import Mode  # noqa: PLC0415

    return Mode(word)


def test_access_is_enforced_where_the_request_is_served() -> None:  # S23
    world = bookstore().split("s", "bookstore", {V1: 3, V2: 1})
    world.pods[NS, "bookstore-v2-0"] = replace(world.pods[NS, "bookstore-v2-0"], service_account="bookstore-v2")
    verdict = world.ask("buyer", "bookstore")
    assert shares(verdict) == {V1: Fraction(3, 4), V2: Fraction(1, 4)}
    assert verdict.access == "allowed"
    assert [arm.access for arm in verdict.arms] == ["allowed", "denied"]
    (found,) = world.findings("SMI0115")
    assert V2 in found.message
    assert "buyer" in found.message


def test_a_split_whose_backends_let_the_same_callers_in_needs_no_warning() -> None:  # S23
    assert not bookstore().split("s", "bookstore", {V1: 1, V2: 1}).findings("SMI0115")


def test_a_service_of_type_external_name_is_not_routed() -> None:
    world = bookstore().service("out", type="ExternalName").split("s", "bookstore", {V1: 1, "out": 1})
    assert routed(world) == {V1: 1}
    assert (NS, "out") not in world.mesh().services
    assert world.findings("SMI0702")
