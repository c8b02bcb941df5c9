"""What the Envoy backend says, read back from the bytes; and that a change says the same as starting again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from smi_adapter.backends import Change, Part, Resource
from smi_adapter.backends.envoy import BACKEND, EnvoyConfig, names, routes
from smi_adapter.backends.envoy.lint import lint
from smi_adapter.backends.envoy.listeners import Dialer
from smi_adapter.envoy_api import message
from smi_adapter.mesh import (
    AccessMode,
    Anchor,
    Endpoint,
    InboundPort,
    Instance,
    Key,
    Route,
    Service,
    WeightedTarget,
    Workload,
)
from tests.meshes import HTTP, TCP, UDP, key, match, mesh, rule, service, shares, spiffe, split, workload
from tests.rendered import found, parse

ROOTS = b"-----BEGIN CERTIFICATE-----"


def render(services: Iterable[Service] = (), workloads: Iterable[Workload] = ()) -> EnvoyConfig:
    config = BACKEND.render(mesh(services, workloads, ROOTS))
    assert not lint(config), "\n".join(lint(config))
    return config


# ----------------------------------------------------------------------------------------------------- resources


def test_each_service_port_has_its_own_routes_cluster_and_endpoints() -> None:
    config = render([service("web", [Endpoint("10.0.0.1", 8080, spiffe("web"))])])
    assert [item.name for item in config.parts[("routes", "shop", "web")]] == ["out/shop/web/80"]
    assert [item.name for item in config.parts[("endpoints", "shop", "web")]] == ["shop/web/80"] * 2


def test_routes_with_matches_come_first_and_in_order() -> None:
    rest = Route((WeightedTarget(key("web"), 80, 1),))
    chosen = split({"v1": 1, "v2": 3}, [match("/a", label="a"), match("/b", "GET", label="b")])
    config = render([service("web", routes=(chosen, rest))])
    rules = found(config, ("routes", "shop", "web"), names.ROUTES, "out/shop/web/80").virtual_hosts[0].routes
    assert [rule.match.safe_regex.regex for rule in rules] == ["(?:/a)(?s:.*)", "(?:/b)(?s:.*)", ""]
    weighted = rules[0].route.weighted_clusters.clusters
    assert [(item.name, item.weight.value) for item in weighted] == [("shop/v1/80", 1), ("shop/v2/80", 3)]
    assert rules[2].route.cluster == "shop/web/80"


@pytest.mark.parametrize(
    ("anchor", "regex"),
    [(Anchor.START, "(?:/a|/b)(?s:.*)"), (Anchor.WHOLE, "/a|/b"), (Anchor.SEARCH, "(?s:.*)(?:/a|/b)(?s:.*)")],
)
def test_a_pattern_is_wrapped_as_its_anchor_says(anchor: Anchor, regex: str) -> None:
    config = render([service("web", routes=(split({"v1": 1}, [match("/a|/b", anchor=anchor)]),))])
    routed = found(config, ("routes", "shop", "web"), names.ROUTES, "out/shop/web/80").virtual_hosts[0].routes
    assert routed[0].match.safe_regex.regex == regex


def test_a_service_may_offer_one_number_over_tcp_and_udp() -> None:
    tcp, udp = service("dns", port=53, protocol=TCP), service("dns", port=53, protocol=UDP)
    config = render([replace(tcp, ports=(*tcp.ports, *udp.ports))])
    names_of_clusters = {item.name for item in config.parts[("endpoints", "shop", "dns")]}
    assert names_of_clusters == {"shop/dns/53", "shop/dns/53/udp"}


def test_a_server_must_be_one_of_the_identities_behind_the_service() -> None:
    config = render([service("web", [Endpoint("10.0.0.1", 80, spiffe("a"))], identities=[spiffe("a"), spiffe("b")])])
    cluster = found(config, ("endpoints", "shop", "web"), names.CLUSTER, "shop/web/80")
    tls = message(names.UPSTREAM_TLS).FromString(cluster.transport_socket.typed_config.value)
    context = tls.common_tls_context.combined_validation_context.default_validation_context
    assert [item.matcher.exact for item in context.match_typed_subject_alt_names] == [spiffe("a"), spiffe("b")]
    assert not cluster.transport_socket_matches


def test_without_identities_no_certificate_is_good_enough() -> None:
    config = render([service("web")])
    cluster = found(config, ("endpoints", "shop", "web"), names.CLUSTER, "shop/web/80")
    tls = message(names.UPSTREAM_TLS).FromString(cluster.transport_socket.typed_config.value)
    context = tls.common_tls_context.combined_validation_context.default_validation_context
    assert [item.matcher.exact for item in context.match_typed_subject_alt_names] == [names.NOBODY]


def test_readiness_changes_the_endpoints_and_not_the_cluster() -> None:
    ready = service("web", [Endpoint("10.0.0.1", 80, spiffe("a"))], identities=[spiffe("a")])
    waiting = service("web", [], identities=[spiffe("a")])
    first, second = (render([item]).parts[("endpoints", "shop", "web")] for item in (ready, waiting))
    assert first[0] == second[0]
    assert first[1] != second[1]


def test_udp_shares_are_endpoint_weights() -> None:
    leaves = [
        service("a", [Endpoint("10.0.0.1", 53)], port=53, protocol=UDP),
        service("b", [Endpoint("10.0.0.2", 53), Endpoint("10.0.0.3", 53)], port=53, protocol=UDP),
    ]
    root = service("dns", port=53, protocol=UDP, routes=(Route(shares({"a": 3, "b": 1}, 53)),))
    config = render([root, *leaves])
    assigned = found(config, ("endpoints", "shop", "dns"), names.ENDPOINTS, "shop/dns/53/udp")
    weights = [item.load_balancing_weight.value for item in assigned.endpoints[0].lb_endpoints]
    assert weights == [6, 1, 1]


def test_huge_udp_weights_still_fit() -> None:
    leaves = [
        service(name, [Endpoint(f"10.0.{number}.{last}", 53) for last in range(count)], port=53, protocol=UDP)
        for number, (name, count) in enumerate({"a": 7, "b": 11, "c": 13}.items())
    ]
    weights = Route(shares({"a": 2**31, "b": 2**30, "c": 1}, 53))
    config = render([service("dns", port=53, protocol=UDP, routes=(weights,)), *leaves])
    assigned = found(config, ("endpoints", "shop", "dns"), names.ENDPOINTS, "shop/dns/53/udp")
    rendered = [item.load_balancing_weight.value for item in assigned.endpoints[0].lb_endpoints]
    assert sum(rendered) < 2**32
    assert min(rendered) >= 1
    assert sum(rendered[:7]) / sum(rendered[7:18]) == pytest.approx(2, rel=1e-6)


def test_an_empty_udp_backend_is_told_because_its_share_goes_elsewhere() -> None:
    leaves = [
        service("a", [Endpoint("10.0.0.1", 53)], port=53, protocol=UDP),
        service("b", port=53, protocol=UDP),
    ]
    root = service("dns", port=53, protocol=UDP, routes=(split({"a": 1, "b": 1}, port=53),))
    assert [item.code for item in render([root, *leaves]).findings] == ["SMI0602"]


def test_in_a_cluster_udp_splits_are_unsupported_and_have_no_listener() -> None:
    root = service("dns", port=53, protocol=UDP, routes=(split({"a": 1}, port=53),), addresses=("10.96.0.10",))
    config = render([root])
    assert [(item.code, item.subject.kind) for item in config.findings] == [("SMI0601", "TrafficSplit")]
    assert config.parts[("vip", "shop", "dns")] == ()


def test_the_access_rules_of_an_http_port_are_in_its_routes_and_not_in_the_listener() -> None:
    port = InboundPort(80, HTTP, (rule([spiffe("a")], [match("/x", "GET", "PUT", headers={"h": "v"})], name="t"),))
    open_, shut = render([], [workload("w", [port])]), render([], [workload("w", [InboundPort(80, HTTP)])])
    part: Part = ("inbound", "shop", "w")
    listeners = [[item for item in config.parts[part] if item.name == "in/shop/w"] for config in (open_, shut)]
    assert listeners[0] == listeners[1]
    host = found(open_, part, names.ROUTES, "in/shop/w/80").virtual_hosts[0]
    override = host.typed_per_filter_config[names.RBAC_FILTER]
    policies = message(names.HTTP_RBAC_PER_ROUTE).FromString(override.value).rbac.rules.policies
    assert list(policies) == ["TrafficTarget shop/t rules[0]"]
    permission = policies["TrafficTarget shop/t rules[0]"].permissions[0].and_rules.rules
    assert permission[0].url_path.path.safe_regex.regex == "(?:/x)(?s:.*)"
    assert [item.header.string_match.exact for item in permission[1].or_rules.rules] == ["GET", "PUT"]
    assert permission[2].header.name == "h"


def test_two_rules_of_one_name_are_two_policies() -> None:
    twice = rule([spiffe("a")], [match("/x")]), rule([spiffe("b")], [match("/y")])
    config = render([], [workload("w", [InboundPort(80, HTTP, twice)])])
    host = found(config, ("inbound", "shop", "w"), names.ROUTES, "in/shop/w/80").virtual_hosts[0]
    override = message(names.HTTP_RBAC_PER_ROUTE).FromString(host.typed_per_filter_config[names.RBAC_FILTER].value)
    assert sorted(override.rbac.rules.policies) == [
        "TrafficTarget shop/target rules[0]",
        "TrafficTarget shop/target rules[0] #2",
    ]


def test_what_decides_about_access_comes_with_a_closed_form_unless_all_is_allowed() -> None:
    ports = [InboundPort(80, HTTP, (rule([spiffe("a")]),)), InboundPort(90, TCP, (rule([spiffe("a")]),))]
    for mode in AccessMode:
        config = render([], [workload("w", ports, mode=mode)])
        closable = {item.name for item in config.parts[("inbound", "shop", "w")] if item.closed is not None}
        assert {name.rpartition("/")[0] for name in closable} == (
            {"in/shop/w", "tcp/shop/w/90"} if mode is AccessMode.ENFORCE else set()
        )


def test_replicas_have_the_same_bytes() -> None:
    one = workload("w", [InboundPort(80, HTTP)], instance=Instance("pod-1", "10.0.0.1", ""))
    two = workload("w", [InboundPort(80, HTTP)], instance=Instance("pod-2", "10.0.0.2", ""))
    assert render([], [one]).parts == render([], [two]).parts


def test_without_roots_nobody_is_verified_so_nobody_gets_in() -> None:
    config = BACKEND.render(mesh([], [workload("w", [InboundPort(90, TCP, (rule([spiffe("a")]),))])]))
    assert config.parts[("trust", "", "")] == ()
    secrets = [item for item in config.parts[("inbound", "shop", "w")] if item.type_url.endswith("Secret")]
    assert secrets == []


def test_origins_name_the_users_objects() -> None:
    config = render([service("web", routes=(split({"v1": 1}, [match("/x")]), Route(())))])
    origins = config.parts[("routes", "shop", "web")][0].origins
    assert [origin.kind for origin in origins] == ["TrafficSplit", "HTTPRouteGroup", "Service"]


# -------------------------------------------------------------------------------------------------------- scopes


def test_a_proxy_sees_its_own_side_and_what_it_may_call_with_the_backends_behind_it() -> None:
    services = [
        service("web", callers=[spiffe("client")], routes=(split({"v1": 1}),)),
        service("v1", callers=[]),
        service("secret", callers=[spiffe("other")]),
        service("open", callers=None),
    ]
    config = render(services, [workload("client"), workload("other")])
    assert config.scopes[key("client")] == {
        ("trust", "", ""),
        ("inbound", "shop", "client"),
        ("routes", "shop", "web"),
        ("endpoints", "shop", "web"),
        ("endpoints", "shop", "v1"),
        ("routes", "shop", "open"),
        ("endpoints", "shop", "open"),
    }
    assert config.identities[key("other")] == spiffe("other")


def test_a_dialling_workload_gets_a_listener_for_each_port_denied_or_not() -> None:
    services = [
        service("web", callers=[spiffe("client")]),
        service("s", callers=[]),
        service("t", callers=[], protocol=TCP),
        service("u", callers=[], protocol=UDP),
    ]
    dial = {item.key[1]: f"127.1.0.{number}" for number, item in enumerate(services, start=1)}
    config = render(services, [workload("client", dial=dial)])
    listeners = config.parts[("dial", "shop", "client")]
    assert {item.name for item in listeners} == {"out/shop/web/80", "out/shop/s/80", "out/shop/t/80"}


def test_many_denied_ports_share_two_listeners_that_stand_first() -> None:
    services = [
        service("web", callers=[spiffe("client")]),
        *[service(f"s{number}", callers=[]) for number in range(40)],
        *[service(f"t{number}", callers=[], protocol=TCP) for number in range(40)],
        service("u", callers=[], protocol=UDP),
    ]
    dial = {item.key[1]: f"127.1.0.{number}" for number, item in enumerate(services, start=1)}
    config = render(services, [workload("client", dial=dial)])
    listeners = config.parts[("dial", "shop", "client")]
    assert [item.name for item in listeners] == ["denied/http", "denied/tcp", "out/shop/web/80"]
    denied = parse(listeners[0])
    assert len(denied.additional_addresses) == 39


def test_in_a_cluster_services_share_unbound_listeners_and_one_catches() -> None:
    services = [
        service("web", addresses=("10.96.0.1", "fd00::1")),
        service("db", addresses=("10.96.0.2",), protocol=TCP, port=3306),
    ]
    config = render(services, [workload("client")])
    listener = found(config, ("vip", "shop", "web"), names.LISTENER, "out/shop/web/80")
    assert not listener.bind_to_port.value
    assert len(listener.additional_addresses) == 1
    catcher = found(config, ("catch", "", ""), names.LISTENER, "out/any")
    assert [chain.name for chain in catcher.filter_chains] == ["denied/http/80", "denied/tcp/3306"]
    assert {("catch", "", ""), ("vip", "shop", "web")} <= config.scopes[key("client")]


# ------------------------------------------------------------------------------------------- one bad, others good


def unrenderable(name: str) -> Service:
    """Return a Service with a weight that no message takes."""
    return service(name, routes=(Route((WeightedTarget(key("v1"), 80, 1), WeightedTarget(key("v2"), 80, -1))),))


def test_a_failure_in_one_service_keeps_its_last_good_routes_and_leaves_others_alone() -> None:
    before = mesh([service("web", routes=(split({"v1": 1}),)), service("other")])
    first = BACKEND.render(before)
    broken = unrenderable("web")
    changed = service("other", routes=(split({"v1": 1}),))
    after = mesh([broken, changed])
    second = BACKEND.render(after, Change(before, first, frozenset(after.services), frozenset()))
    assert second.parts[("routes", "shop", "web")] is first.parts[("routes", "shop", "web")]
    assert second.parts[("routes", "shop", "other")] != first.parts[("routes", "shop", "other")]
    assert [(item.code, item.subject.name) for item in second.findings] == [("SMI0606", "web")]


def test_a_service_that_never_rendered_falls_back_to_its_own_endpoints() -> None:
    good = service("web", [Endpoint("10.0.0.1", 80, spiffe("a"))])
    broken = replace(good, ports=(replace(good.ports[0], routes=unrenderable("web").ports[0].routes),))
    assert BACKEND.render(mesh([broken])).parts[("routes", "shop", "web")] == routes.outbound(good)


def test_a_failure_in_one_ports_rules_denies_that_port_and_no_other() -> None:
    good = InboundPort(80, HTTP, (rule([spiffe("a")]),))
    bad = InboundPort(81, HTTP, (replace(rule([spiffe("a")]), principals=(None,)),))  # type: ignore[arg-type]
    config = BACKEND.render(mesh([], [workload("w", [good, bad])], ROOTS))
    part: Part = ("inbound", "shop", "w")
    for number, policies in ((80, 1), (81, 0)):
        host = found(config, part, names.ROUTES, f"in/shop/w/{number}").virtual_hosts[0]
        override = message(names.HTTP_RBAC_PER_ROUTE).FromString(host.typed_per_filter_config[names.RBAC_FILTER].value)
        assert len(override.rbac.rules.policies) == policies
        assert override.rbac.HasField("rules")
    assert [item.code for item in config.findings] == ["SMI0606"]
    assert not lint(config)


def test_a_listener_that_cannot_be_rendered_stays_with_all_its_doors_shut() -> None:
    ports = (InboundPort(80, HTTP, (rule([spiffe("a")]),)), InboundPort(90, TCP, (rule([spiffe("a")]),)))
    good, broken = workload("w", ports), workload("w", (*ports, InboundPort(-1, HTTP)))
    before, after = mesh([], [good], ROOTS), mesh([], [broken], ROOTS)
    first = BACKEND.render(before)
    second = BACKEND.render(after, Change(before, first, frozenset(), frozenset({key("w")})))
    part: Part = ("inbound", "shop", "w")
    old, new = ({(item.type_url, item.name): item for item in config.parts[part]} for config in (first, second))
    for place, resource in old.items():
        assert new[place].body == (resource.body if resource.closed is None else resource.closed), place
    assert {item.code for item in second.findings} == {"SMI0606"}
    third = BACKEND.render(before, Change(after, second, frozenset(), frozenset({key("w")})))
    assert dict(third.parts) == dict(first.parts)


def test_a_new_service_leaves_the_denials_of_the_others_as_they_are() -> None:
    services = [service("web", callers=[]), service("db", callers=[])]
    one, two = {"web": "127.1.0.1"}, {"web": "127.1.0.1", "db": "127.1.0.2"}
    before, after = (mesh(services, [workload("w", dial=dial)]) for dial in (one, two))
    first = BACKEND.render(before)
    second = BACKEND.render(after, Change(before, first, frozenset(), frozenset({key("w")})))
    part: Part = ("dial", "shop", "w")
    old, new = ({(item.type_url, item.name): item for item in config.parts[part]} for config in (first, second))
    assert len(old) == 2
    assert len(new) == 4
    assert all(new[place] is old[place] for place in old)
    assert dict(second.parts) == dict(BACKEND.render(after).parts)


def test_a_failure_in_one_workloads_denials_keeps_its_doors_and_leaves_others_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    genuine = Dialer.denied

    def denied(self: Dialer, workload: Workload, *more: Any) -> tuple[Resource, ...]:
        if workload.key == key("bad"):
            raise ValueError("no such door")
        return genuine(self, workload, *more)

    services = [service("web", callers=[]), service("db", callers=[])]
    one, two = {"web": "127.1.0.1"}, {"web": "127.1.0.1", "db": "127.1.0.2"}
    before, after = (mesh(services, [workload(name, dial=dial) for name in ("bad", "good")]) for dial in (one, two))
    both = frozenset({key("bad"), key("good")})
    first = BACKEND.render(before)
    with monkeypatch.context() as patch:
        patch.setattr(Dialer, "denied", denied)
        second = BACKEND.render(after, Change(before, first, frozenset(), both))
        assert [item.code for item in BACKEND.render(after).findings] == ["SMI0606"]
    assert second.parts["dial", "shop", "bad"] is first.parts["dial", "shop", "bad"]
    assert second.parts["dial", "shop", "good"] != first.parts["dial", "shop", "good"]
    assert [(item.code, item.subject.name) for item in second.findings] == [("SMI0606", "bad")]
    third = BACKEND.render(after, Change(after, second, frozenset(), both))
    assert dict(third.parts) == dict(BACKEND.render(after).parts)
    assert not third.findings


def test_a_failure_in_what_catches_keeps_it_and_leaves_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def catching(_self: Dialer, _services: Mapping[Key, Service]) -> tuple[Resource, ...]:
        raise ValueError("no catch")

    web, db = service("web", addresses=("10.96.0.1",)), service("db", addresses=("10.96.0.2",))
    before, after = mesh([web], [workload("client")]), mesh([web, db], [workload("client")])
    first = BACKEND.render(before)
    with monkeypatch.context() as patch:
        patch.setattr(Dialer, "catching", catching)
        second = BACKEND.render(after, Change(before, first, frozenset({key("db")}), frozenset()))
        assert [item.code for item in BACKEND.render(after).findings] == ["SMI0606"]
    assert second.parts["catch", "", ""] is first.parts["catch", "", ""]
    assert ("vip", "shop", "db") in second.parts
    assert [(item.code, item.subject.name) for item in second.findings] == [("SMI0606", "db")]
    third = BACKEND.render(after, Change(after, second, frozenset(), frozenset()))
    assert dict(third.parts) == dict(BACKEND.render(after).parts)
    assert not third.findings


def test_a_finding_goes_when_its_cause_has_gone() -> None:
    good = service("web")
    broken = unrenderable("web")
    before, after = mesh([broken]), mesh([good])
    first = BACKEND.render(before)
    second = BACKEND.render(after, Change(before, first, frozenset({key("web")}), frozenset()))
    assert first.findings
    assert second.findings == ()
