"""TrafficTarget: rows T1 to T17 of the semantics, each as who may call what."""

from __future__ import annotations

from dataclasses import replace

import pytest

from smi_adapter.findings import Severity
from smi_adapter.mesh import AccessMode
from smi_adapter.smi.objects import HTTPMatch, IdentitySubject, TrafficTargetRule
from smi_adapter.snapshot import ContainerPort, Mode, Profile, ServicePort
from tests.worlds import NS, World, bookstore


def shop() -> World:
    """Return a shop with two HTTP ports and a MySQL port, callers, and groups to grant; no target yet."""
    world = World().namespace(NS).app("shop", 8080).app("buyer").app("thief")
    world.service(
        "shop",
        ServicePort(80, "http", target=8080),
        ServicePort(90, "http-admin", target=9090),
        ServicePort(33, "mysql", target=3306),
    )
    world.group("paths", HTTPMatch("a", "/a"), HTTPMatch("b", "/b", ("POST",)))
    world.group("other", HTTPMatch("c", "/c"))
    return world.tcp("web", 80).tcp("admin", 90).tcp("sql", 33).tcp("all")


def access(world: World, to: str = "shop", path: str = "/a", source: str = "buyer", **other: object) -> str:
    return world.ask(source, to, str(other.pop("method", "GET")), path, **other).access


def test_what_no_target_selects_is_denied_for_http_and_tcp() -> None:  # T1
    world = shop()
    assert access(world) == access(world, "shop:33") == "denied"
    assert "no TrafficTarget grants anything" in world.ask("buyer", "shop").why


def test_audit_mode_lets_pass_and_says_what_would_be_denied() -> None:  # T1
    world = shop().namespace(NS, "audit").target("t", "shop", ("http:paths",), ("buyer",))
    assert access(world) == "allowed"
    verdict = world.ask("thief", "shop", "GET", "/a")
    assert (verdict.access, verdict.by) == ("audited", ())
    assert "not among the sources" in verdict.why


def test_permissive_mode_lets_everything_pass() -> None:  # T1
    assert access(shop(), options={"mode": Mode.PERMISSIVE}) == "allowed"


def test_mode_of_a_namespace_precedes_that_of_the_mesh_for_its_own_workloads_only() -> None:  # T1
    world = shop().app("shop", 8080, ns="open").service("shop", ns="open").namespace("open", "permissive")
    assert access(world, "open/shop") == "allowed"
    assert access(world) == "denied"
    assert access(shop().namespace(NS, "enforce"), options={"mode": Mode.PERMISSIVE}) == "denied"


def test_every_mode_but_enforce_is_told_and_a_misspelt_one_closes() -> None:  # T1, D6
    assert not shop().findings("SMI0310")
    assert [item.subject.name for item in shop().namespace(NS, "audit").findings("SMI0310")] == [NS]
    assert shop().findings("SMI0310", mode=Mode.AUDIT)
    world = shop().namespace(NS, "permisive")
    assert access(world, options={"mode": Mode.PERMISSIVE}) == "denied"
    assert world.findings("SMI0310")[0].severity is Severity.WARNING


def test_several_targets_are_a_union() -> None:  # T2
    world = (
        shop().target("one", "shop", ("http:paths/a",), ("buyer",)).target("two", "shop", ("http:other",), ("buyer",))
    )
    assert [access(world, path=path) for path in ("/a", "/c", "/d")] == ["allowed", "allowed", "denied"]
    del world.targets[NS, "one"]
    assert [access(world, path=path) for path in ("/a", "/c")] == ["denied", "allowed"]


def test_port_and_http_match_of_one_target_must_both_hold() -> None:  # T3
    world = shop().target("t", "shop", ("tcp:web", "http:paths/a"), ("buyer",))
    assert access(world, "shop:80") == "allowed"
    assert access(world, "shop:90") == "denied"
    assert "does not open port 9090" in world.ask("buyer", "shop:90", "GET", "/a").why


def test_targets_are_never_crossed() -> None:  # T3
    world = shop().target("one", "shop", ("tcp:web", "http:paths/a"), ("buyer",))
    world.target("two", "shop", ("tcp:admin", "http:other"), ("buyer",))
    assert access(world, "shop:80", "/a") == access(world, "shop:90", "/c") == "allowed"
    assert access(world, "shop:80", "/c") == access(world, "shop:90", "/a") == "denied"


def test_several_port_rules_of_a_target_are_a_union() -> None:  # T3
    world = shop().target("t", "shop", ("tcp:web", "tcp:admin", "http:paths"), ("buyer",))
    assert access(world, "shop:80") == access(world, "shop:90") == "allowed"


def test_sources_of_one_target_do_not_get_the_rules_of_another() -> None:  # T3
    world = (
        shop().target("one", "shop", ("http:paths/a",), ("buyer",)).target("two", "shop", ("http:other",), ("thief",))
    )
    assert access(world, path="/c") == "denied"
    assert access(world, path="/c", source="thief") == "allowed"


def test_destination_port_of_older_versions_restricts_the_whole_target() -> None:
    world = shop().target("t", "shop", ("http:paths",), ("buyer",), port=90)
    assert access(world, "shop:90") == "allowed"
    assert access(world, "shop:80") == "denied"
    world.target("t", "shop", ("tcp:web", "http:paths"), ("buyer",), port=90)
    assert access(world, "shop:80") == access(world, "shop:90") == "denied"


def test_only_tcp_rules_open_every_request_on_an_http_port() -> None:  # T4
    world = shop().target("t", "shop", ("tcp:web",), ("buyer",))
    assert access(world, path="/anything", method="DELETE") == "allowed"
    assert access(world, "shop:90") == "denied"
    assert [item.severity for item in world.findings("SMI0306")] == [Severity.WARNING]


def test_only_tcp_rules_do_not_open_an_http_port_in_profile_osm() -> None:  # T4
    world = shop().tcp("web", 8080, 3306).target("t", "shop", ("tcp:web",), ("buyer",))
    assert access(world, options={"profile": Profile.OSM}) == "denied"
    assert access(world, "shop:33", options={"profile": Profile.OSM}) == "allowed"
    assert world.findings("SMI0303", profile=Profile.OSM)
    assert not world.findings("SMI0306", profile=Profile.OSM)


def test_http_rules_never_open_a_port_that_is_not_http() -> None:  # T5
    world = shop().target("t", "shop", ("http:paths",), ("buyer",))
    assert access(world, "shop:33") == "denied"
    assert not world.findings("SMI0307")
    world.target("t", "shop", ("tcp:sql", "http:paths"), ("buyer",))
    assert access(world, "shop:33") == access(world, "shop:80") == "denied"
    assert world.findings("SMI0307")


def test_http_rules_for_a_workload_without_an_http_port_are_pointed_out() -> None:  # T5
    world = shop().app("db").service("db", ServicePort(33, "mysql", target=3306))
    assert world.target("t", "db", ("http:paths",), ("buyer",)).findings("SMI0307")


def test_rule_without_matches_means_every_match_of_the_group() -> None:  # T6
    world = shop().target("t", "shop", ("http:paths",), ("buyer",))
    assert access(world, path="/a") == access(world, path="/b", method="POST") == "allowed"


def test_rule_that_names_a_match_grants_that_one_only() -> None:  # T6
    world = shop().target("t", "shop", ("http:paths/b",), ("buyer",))
    assert access(world, path="/a") == access(world, path="/b") == "denied"
    assert access(world, path="/b", method="POST") == "allowed"


@pytest.mark.parametrize("bad", ["http:gone", "http:paths/nothing", "http:gone/a"])
def test_rule_that_does_not_resolve_grants_nothing_and_others_stand(bad: str) -> None:  # T7
    world = shop().target("t", "shop", (bad, "http:other"), ("buyer",))
    assert access(world, path="/c") == "allowed"
    assert access(world, path="/a") == "denied"
    assert world.findings("SMI0301")
    assert access(shop().target("t", "shop", (bad,), ("buyer",)), path="/a") == "denied"


def test_one_unknown_match_makes_the_whole_rule_grant_nothing() -> None:  # T7
    world = shop().target("t", "shop", ("http:paths/nothing,a", "http:paths/b"), ("buyer",))
    assert access(world, path="/a") == "denied"
    assert access(world, path="/b", method="POST") == "allowed"


def test_one_unusable_match_does_not_touch_the_others_of_its_rule() -> None:  # R4
    world = shop().group("paths", HTTPMatch("a", "/a"), HTTPMatch("b", "("))
    world.target("t", "shop", ("http:paths/a,b",), ("buyer",))
    assert access(world, path="/a") == "allowed"
    assert access(world, path="/b") == "denied"


def test_unresolved_http_rule_leaves_no_wider_tcp_grant_behind() -> None:  # T7, T3
    for bad in ("http:gone", "http:paths/nothing", "nonsense:web"):
        world = shop().target("t", "shop", ("tcp:all", bad), ("buyer",))
        assert access(world) == access(world, "shop:33") == "denied"


def test_missing_tcp_route_beside_http_rules_grants_nothing() -> None:  # T8
    world = shop().target("t", "shop", ("tcp:gone", "http:paths"), ("buyer",))
    assert access(world) == "denied"
    assert world.findings("SMI0302")


def test_missing_tcp_route_beside_http_rules_voids_another_one_that_exists() -> None:  # T8
    assert access(shop().target("t", "shop", ("tcp:gone", "tcp:web", "http:paths"), ("buyer",))) == "denied"


def test_missing_tcp_route_alone_grants_nothing_and_beside_another_only_that() -> None:  # T8
    assert access(shop().target("t", "shop", ("tcp:gone",), ("buyer",))) == "denied"
    world = shop().target("t", "shop", ("tcp:gone", "tcp:web"), ("buyer",))
    assert access(world) == "allowed"
    assert access(world, "shop:90") == "denied"


def test_no_rules_and_no_sources_grant_nothing() -> None:  # T9
    for world in (shop().target("t", "shop", (), ("buyer",)), shop().target("t", "shop", ("http:paths",), ())):
        assert access(world) == "denied"
        assert [item.severity for item in world.findings("SMI0303")] == [Severity.ERROR]


def test_omitted_namespace_is_the_targets_own() -> None:  # T10
    world = World().app("shop", 8080, ns="one").service("shop", ns="one").app("buyer", ns="one").app("buyer", ns="two")
    world.group("g", HTTPMatch("m"), ns="one").target("t", "shop", ("http:g",), ("buyer",), ns="one")
    assert access(world, "one/shop", source="one/buyer") == "allowed"
    assert access(world, "one/shop", source="two/buyer") == "denied"
    world.target("t", "one/shop", ("http:g",), ("two/buyer",), ns="one")
    assert access(world, "one/shop", source="two/buyer") == "allowed"
    assert access(world, "one/shop", source="one/buyer") == "denied"


def test_target_outside_its_destinations_namespace_grants_nothing() -> None:  # T11
    world = shop().app("buyer", ns="other").group("g", HTTPMatch("m"), ns="other")
    world.target("t", "default/shop", ("http:g",), ("buyer",), ns="other")
    assert access(world, source="other/buyer") == "denied"
    assert [item.severity for item in world.findings("SMI0304")] == [Severity.ERROR]


def test_routes_are_looked_up_in_the_targets_namespace_only() -> None:  # TN2
    world = shop().group("elsewhere", HTTPMatch("m"), ns="other").tcp("elsewhere", 80, ns="other")
    assert access(world.target("t", "shop", ("http:elsewhere",), ("buyer",))) == "denied"
    assert access(world.target("t", "shop", ("tcp:elsewhere",), ("buyer",))) == "denied"


def test_identity_is_the_spiffe_id_of_the_service_account() -> None:  # T12
    world = shop().target("t", "shop", ("http:paths",), ("other/buyer",))
    (rule,) = world.mesh(trust_domain="corp").workloads[NS, "shop"].ports[1].rules
    assert [principal.identity for principal in rule.principals] == ["spiffe://corp/ns/other/sa/buyer"]
    assert world.mesh(trust_domain="corp").workloads[NS, "shop"].identity == "spiffe://corp/ns/default/sa/shop"


def test_a_caller_without_identity_gets_nothing() -> None:  # T12
    world = shop().target("t", "shop", ("http:paths",), ("buyer",))
    assert access(world, source="") == "denied"


def test_access_through_another_service_of_the_same_pods_is_the_same() -> None:  # T13
    world = shop().service("alias", ServicePort(1080, target=8080), selector={"app": "shop"})
    world.target("t", "shop", ("tcp:web", "http:paths"), ("buyer",))
    assert access(world, "alias:1080") == "allowed"
    assert access(world, "alias:1080", path="/x") == access(world, "alias:1080", source="thief") == "denied"


def test_destination_is_every_pod_of_the_service_account() -> None:  # T13
    world = shop().app("second", 8080, sa="shop").service("second").app("third", 8080).service("third")
    world.target("t", "shop", ("http:paths",), ("buyer",))
    assert access(world, "second") == "allowed"
    assert access(world, "third") == "denied"


def test_a_service_over_two_accounts_is_open_only_where_its_pods_are() -> None:  # T13
    world = World().app("one", 8080, labels={"app": "x"}).app("two", 8080, labels={"app": "x"}).app("buyer")
    world.service("x").group("g", HTTPMatch("m")).target("t", "one", ("http:g",), ("buyer",))
    verdict = world.ask("buyer", "x")
    assert verdict.access == "allowed"
    assert {(arm.access, float(arm.share)) for arm in verdict.arms} == {("allowed", 0.5), ("denied", 0.5)}


@pytest.mark.parametrize("kind", ["Group", "serviceaccount", ""])
def test_unknown_kind_of_source_or_destination_grants_nothing(kind: str) -> None:  # T16
    someone, somewhere = IdentitySubject(kind, "buyer"), IdentitySubject(kind, "shop")
    world = shop().target("t", "shop", ("http:paths",), (someone,))
    assert access(world) == "denied"
    assert [item.severity for item in world.findings("SMI0305")] == [Severity.ERROR]
    world = shop().target("t", somewhere, ("http:paths",), ("buyer",))
    assert access(world) == "denied"
    assert world.findings("SMI0305")
    assert access(shop().target("t", "shop", ("http:paths",), (someone, "buyer"))) == "allowed"


def test_unknown_kind_of_rule_grants_nothing_and_others_stand() -> None:  # T16
    world = shop().target("t", "shop", (TrafficTargetRule("GRPCRoute", "x"), "http:paths"), ("buyer",))
    assert access(world) == "allowed"
    assert world.findings("SMI0305")


def test_unknown_service_account_is_told_but_counts_when_it_comes() -> None:  # T7
    world = shop().target("t", "shop", ("http:paths",), ("stranger",))
    assert [item.field for item in world.findings("SMI0308")] == ["spec.sources[0].name"]
    assert access(world, source="stranger") == "allowed"
    world.target("t", "nobody", ("http:paths",), ("buyer",))
    assert [item.field for item in world.findings("SMI0308")] == ["spec.destination.name"]


def test_pods_without_a_proxy_are_pointed_out_where_a_target_selects_them() -> None:
    world = shop().target("t", "shop", ("http:paths",), ("buyer",))
    world.pods[NS, "shop-0"] = replace(world.pods[NS, "shop-0"], meshed=False)
    assert [item.subject.name for item in world.findings("SMI0701")] == ["t"]
    assert access(world, source="thief") == "allowed"
    assert (NS, "shop") not in world.mesh().workloads


def test_no_rule_in_the_mesh_is_ever_empty() -> None:  # D2
    world = shop().group("bad", HTTPMatch("bad", "(")).binding("nobody").binding("none", pods={"app": "none"})
    world.target("a", "shop", ("http:bad",), ("buyer",)).target("b", "shop", ("http:paths",), ("binding:nobody",))
    world.target("c", "shop", ("http:paths",), ("binding:none", "buyer")).target("d", "shop", ("tcp:gone",), ("buyer",))
    rules = [rule for item in world.mesh().workloads.values() for port in item.ports for rule in port.rules]
    assert rules
    for rule in rules:
        assert rule.principals
        assert rule.matches is None or rule.matches
        assert all(principal.addresses is None or principal.addresses for principal in rule.principals)


def test_undeclared_port_is_closed_in_every_mode() -> None:  # T1
    world = bookstore()
    world.services[NS, "bookstore"] = replace(
        world.services[NS, "bookstore"], ports=(ServicePort(80, target="no-such-name"),)
    )
    verdict = world.ask("buyer", "bookstore", options={"mode": Mode.PERMISSIVE})
    assert [arm.status for arm in verdict.arms] == [503]


def test_workload_has_the_mode_of_its_namespace() -> None:  # T1
    assert bookstore().namespace(NS, "audit").mesh().workloads[NS, "buyer"].mode is AccessMode.AUDIT


def test_tcp_rules_open_a_tcp_port_only_by_connection() -> None:  # T4
    world = shop().target("t", "shop", ("tcp:sql",), ("buyer",))
    assert access(world, "shop:33") == "allowed"
    assert access(world, "shop:33", source="thief") == "denied"
    assert not world.findings("SMI0306")
    assert world.ask("buyer", "shop:33").by[0].match == ""


def test_container_port_names_decide_where_no_service_leads() -> None:
    world = shop().app("bare", ContainerPort(5000), ContainerPort(5001, "tcp-raw"), ContainerPort(5002, "x", "UDP"))
    assert [(port.number, port.protocol.value) for port in world.mesh().workloads[NS, "bare"].ports] == [
        (5000, "http"),
        (5001, "tcp"),
        (5002, "udp"),
    ]
