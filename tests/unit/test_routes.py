"""HTTPRouteGroup, TCPRoute and UDPRoute: rows R1 to R11 of the semantics."""

from __future__ import annotations

import pytest

from smi_adapter.smi.objects import HTTPMatch
from smi_adapter.snapshot import ContainerPort, Profile, ServicePort
from tests.worlds import NS, World, bookstore, shares


def guarded(*matches: HTTPMatch) -> World:
    """Return a bookstore that grants exactly these matches to the buyer."""
    return bookstore().group("everything", *matches)


def allows(world: World, path: str = "/", method: str = "GET", **other: object) -> bool:
    return world.ask("buyer", "bookstore", method, path, **other).access == "allowed"


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("/metrics", "/metrics", True),
        ("/metrics", "/metrics/x", True),
        ("/metrics", "/metricsfoo", True),
        ("/metrics", "/x/metrics", False),
        ("/metrics$", "/metrics/x", False),
        ("/api/v[0-9]+$", "/api/v12", True),
        ("/api/v[0-9]+$", "/api/vx", False),
        ("/a|/b", "/b/c", True),
        ("/a|/b", "/c/b", False),
        (".*", "/anything", True),
    ],
)
def test_path_regex_is_anchored_at_the_start_only(pattern: str, path: str, expected: bool) -> None:  # R1
    assert allows(guarded(HTTPMatch("m", pattern)), path) is expected


def test_profile_osm_anchors_the_whole_path() -> None:  # R1
    world = guarded(HTTPMatch("m", "/metrics"))
    assert allows(world, "/metrics", options={"profile": Profile.OSM})
    assert not allows(world, "/metrics/x", options={"profile": Profile.OSM})


@pytest.mark.parametrize("pattern", ["/metrics", "/a/", r"/a\$", r"/a\.*", "/(a|b)", r"/x\\\$"])
def test_open_ended_path_in_an_access_rule_is_pointed_out(pattern: str) -> None:  # R1
    (found,) = guarded(HTTPMatch("m", pattern)).findings("SMI0202")
    assert (found.subject.kind, found.field) == ("HTTPRouteGroup", "spec.matches[0].pathRegex")


@pytest.mark.parametrize("pattern", ["/metrics$", ".*", "/a/.+", r"/a\z", r"/a\\$", "/a(/.*)?$", None])
def test_path_that_says_how_it_ends_is_not_pointed_out(pattern: str | None) -> None:  # R1
    assert not guarded(HTTPMatch("m", pattern)).findings("SMI0202")


def test_open_ended_path_in_a_split_or_in_profile_osm_is_not_pointed_out() -> None:  # R1
    world = (
        bookstore().group("m", HTTPMatch("m", "/metrics")).split("s", "bookstore", {"bookstore-v1": 1}, matches=("m",))
    )
    assert not world.findings("SMI0202")
    assert not guarded(HTTPMatch("m", "/metrics")).findings("SMI0202", profile=Profile.OSM)


def test_query_is_no_part_of_the_path() -> None:  # R2
    world = guarded(HTTPMatch("m", "/a$"))
    assert allows(world, "/a?x=1")
    assert not allows(world, "/b?/a")


@pytest.mark.parametrize(
    "path", ["/public/../admin", "/public/%2e%2e/admin", "//admin", "/public/..;x/admin", "/./admin"]
)
def test_a_denied_path_stays_denied_however_it_is_written(path: str) -> None:  # R2
    assert not allows(guarded(HTTPMatch("m", "/public/.*")), path)


@pytest.mark.parametrize("path", ["/public/..%2fadmin", "/public%5Cadmin", "/public/%00", "/public/a#b", "/public/é"])
def test_a_path_that_can_be_read_in_two_ways_gets_400(path: str) -> None:  # R2
    verdict = guarded(HTTPMatch("m", "/public/.*")).ask("buyer", "bookstore", "GET", path)
    assert verdict.access == "denied"
    assert shares(verdict) == {400: 1}


def test_header_regex_covers_the_whole_value() -> None:  # R3
    world = guarded(HTTPMatch("m", headers=(("user-agent", "Firefox"),)))
    assert allows(world, headers={"user-agent": "Firefox"})
    assert not allows(world, headers={"user-agent": "Mozilla Firefox 9"})


@pytest.mark.parametrize("profile", [Profile.TRAEFIK, Profile.NSM])
def test_profiles_traefik_and_nsm_search_in_headers(profile: Profile) -> None:  # R3
    world = guarded(HTTPMatch("m", headers=(("user-agent", "Firefox"),)))
    assert allows(world, headers={"user-agent": "Mozilla Firefox 9"}, options={"profile": profile})


@pytest.mark.parametrize("bad", ["(?!x)", "(", "", "x" * 1025, r"a)|(.*", r"/a\Qb", "(a{1000}){1000}"])
def test_invalid_regex_matches_nothing_and_its_neighbours_stand(bad: str) -> None:  # R4
    world = guarded(HTTPMatch("bad", bad), HTTPMatch("good", "/good"), HTTPMatch("worse", "/x", headers=(("a", bad),)))
    assert allows(world, "/good")
    assert not allows(world, "/x")
    assert not allows(world, "/bad")
    assert [item.field for item in world.findings("SMI0201")] == [
        "spec.matches[0].pathRegex",
        "spec.matches[2].headers.a",
    ]


def test_group_with_nothing_but_invalid_matches_grants_nothing() -> None:  # R4
    world = guarded(HTTPMatch("bad", "("))
    assert not allows(world)
    assert all(not port.rules for workload in world.mesh().workloads.values() for port in workload.ports)


def test_methods_are_compared_exactly_and_a_star_means_any() -> None:  # R5
    world = guarded(HTTPMatch("m", methods=("GET", "HEAD")))
    assert [allows(world, method=method) for method in ("GET", "HEAD", "PUT", "get")] == [True, True, False, False]
    for methods in ((), ("*",), ("GET", "*")):
        assert allows(guarded(HTTPMatch("m", methods=methods)), method="PATCH")


def test_match_with_only_a_name_matches_everything() -> None:  # R6
    assert allows(guarded(HTTPMatch("m")), "/x", "DELETE")


def test_header_names_ignore_case_and_an_absent_header_is_no_match() -> None:  # R7
    world = guarded(HTTPMatch("m", headers=(("X-Role", ".*"),)))
    assert allows(world, headers={"x-ROLE": "any"})
    assert allows(world, headers={"x-role": ""})
    assert not allows(world)


@pytest.mark.parametrize("name", [":path", ":method", ":authority", "host", "Host", "bad name", "", "x\ny"])
def test_reserved_and_impossible_header_names_are_refused(name: str) -> None:  # R7
    world = guarded(HTTPMatch("m", headers=((name, ".*"),)))
    assert world.findings("SMI0203")
    assert not allows(world, headers={name: "x", "host": "x"})


def test_headers_of_one_match_are_and_matches_are_or() -> None:  # R8
    world = guarded(HTTPMatch("both", headers=(("a", "1"), ("b", "2"))), HTTPMatch("c", headers=(("c", "3"),)))
    assert allows(world, headers={"a": "1", "b": "2"})
    assert not allows(world, headers={"a": "1"})
    assert allows(world, headers={"c": "3"})


def test_one_of_repeated_headers_has_to_match() -> None:  # R8, D9
    world = guarded(HTTPMatch("m", headers=(("a", "1"), ("a", "2"))))
    assert not allows(world, headers={"a": "1"})
    assert allows(world, headers={"a": "1", "A": "2"})


def ported() -> World:
    """Return a shop with HTTP 80 -> 8080 and 90 -> 9090, TCP 33 -> 3306 and an undeclared-by-Service 7000."""
    world = World().app("shop", 8080, ContainerPort(7000, "extra")).app("buyer")
    ports = (ServicePort(80, "http", target=8080), ServicePort(90, "more", target=9090))
    world.service("shop", *ports, ServicePort(33, "mysql", target=3306), ServicePort(53, "dns", "UDP", target=5353))
    return world.group("all", HTTPMatch("all"))


def open_ports(world: World, **options: object) -> list[int]:
    (workload,) = [item for key, item in world.mesh(**options).workloads.items() if key[1] == "shop"]
    return [port.number for port in workload.ports if port.rules]


def test_no_ports_means_every_tcp_port() -> None:  # R9
    world = ported().tcp("t").target("t", "shop", ("tcp:t",), ("buyer",))
    assert open_ports(world) == [3306, 7000, 8080, 9090]


def test_tcp_never_opens_udp_nor_the_reverse() -> None:  # R9
    assert open_ports(ported().udp("u").target("t", "shop", ("udp:u",), ("buyer",))) == []
    world = ported().tcp("t", 53).target("t", "shop", ("tcp:t",), ("buyer",))
    assert open_ports(world) == []


def test_numbers_are_service_ports_and_mean_their_target_port() -> None:  # R10
    world = ported().tcp("t", 80, 33).target("t", "shop", ("tcp:t",), ("buyer",))
    assert open_ports(world) == [3306, 8080]
    assert not world.findings("SMI0204")


def test_a_number_that_is_no_service_port_is_the_container_port() -> None:  # R10
    world = ported().tcp("t", 7000).target("t", "shop", ("tcp:t",), ("buyer",))
    assert open_ports(world) == [7000]
    (found,) = world.findings("SMI0204")
    assert "7000" in found.message


def test_a_container_port_that_is_also_a_service_port_number_means_the_service() -> None:  # R10
    world = World().app("shop", 80, 8080).service("shop").app("buyer")
    world.tcp("t", 80).target("t", "shop", ("tcp:t",), ("buyer",))
    assert open_ports(world) == [8080]


def test_named_target_ports_are_resolved_in_the_pod() -> None:  # R10
    world = World().app("shop", ContainerPort(8123, "web")).service("shop", ServicePort(80, target="web")).app("buyer")
    world.tcp("t", 80).target("t", "shop", ("tcp:t",), ("buyer",))
    assert open_ports(world) == [8123]
    assert world.ask("buyer", "shop").access == "allowed"


def test_a_service_port_of_some_pods_is_no_container_port_of_the_others() -> None:  # R10
    world = World().app("one", 8080, sa="shop").app("two", 80, sa="shop").service("one").app("buyer")
    world.service("two", ServicePort(81, target=80)).tcp("t", 80).target("t", "shop", ("tcp:t",), ("buyer",))
    assert world.ask("buyer", "one").access == "allowed"
    assert world.ask("buyer", "two:81").access == "denied"


@pytest.mark.parametrize("profile", [Profile.OSM, Profile.TRAEFIK])
def test_profiles_osm_and_traefik_read_container_ports(profile: Profile) -> None:  # R10
    world = ported().tcp("t", 80, 3306).target("t", "shop", ("tcp:t",), ("buyer",))
    assert open_ports(world, profile=profile) == [3306]
    assert not world.findings("SMI0204", profile=profile)


@pytest.mark.parametrize("number", [0, -1, 65536, 65616, 2**40])
def test_port_out_of_range_is_never_wrapped_and_never_means_all(number: int) -> None:  # R11
    world = ported().tcp("t", number).target("t", "shop", ("tcp:t", "http:all"), ("buyer",))
    assert open_ports(world) == []
    assert world.findings("SMI0205") or world.tcp_routes[NS, "t"].closed  # told where it was decoded
    world = ported().target("t", "shop", ("http:all",), ("buyer",), port=number)
    assert open_ports(world) == []
    assert world.findings("SMI0205")


def test_udp_access_is_told_to_be_unsupported() -> None:  # U1
    world = ported().udp("u", 53).target("t", "shop", ("udp:u", "http:all"), ("buyer",))
    assert [item.subject.name for item in world.findings("SMI0601")] == ["t"]
    assert open_ports(world) == [7000, 8080, 9090]


def test_port_that_a_service_calls_tcp_stays_tcp_whatever_else_it_is() -> None:
    world = ported().service("same", ServicePort(34, "http", target=3306), selector={"app": "shop"})
    protocols = {port.number: port.protocol.value for port in world.mesh().workloads[NS, "shop"].ports}
    assert protocols == {3306: "tcp", 5353: "udp", 7000: "http", 8080: "http", 9090: "http"}
