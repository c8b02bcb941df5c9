"""Which pods are one workload, what they serve, and what a Service knows of the pods behind it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from smi_adapter.findings import Ref
from smi_adapter.mesh import Endpoint, Instance, Protocol
from smi_adapter.smi.objects import HTTPMatch, Key
from smi_adapter.snapshot import (
    API_SERVER,
    ContainerPort,
    EndpointSlice,
    Options,
    ServicePort,
    SliceEndpoint,
    SlicePort,
)
from smi_adapter.translate import Translation, translate
from smi_adapter.translate.ports import protocol_of
from tests.worlds import NS, World, bookstore, meta

IDENTITY = "spiffe://cluster.local/ns/default/sa/{}"


def names(world: World, prefix: str) -> list[str]:
    return sorted(name for _, name in world.mesh().workloads if name.startswith(prefix))


def test_alike_pods_of_an_owner_are_one_workload_named_like_it() -> None:
    (workload,) = World().app("shop", 8080, replicas=3).mesh().workloads.values()
    assert workload.key == (NS, "shop")
    assert workload.instances == tuple(Instance(f"shop-{n}", f"10.0.0.{n + 2}", "") for n in range(3))
    assert workload.identity == IDENTITY.format("shop")
    assert not workload.direct


@pytest.mark.parametrize("change", ["service_account", "ports", "labels"])
def test_pods_of_an_owner_that_differ_are_several_workloads(change: str) -> None:
    world = World().app("shop", 8080, replicas=2).service("gold", selector={"tier": "gold"})
    pod = world.pods[NS, "shop-1"]
    changes = {
        "service_account": replace(pod, service_account="other"),
        "ports": replace(pod, ports=(ContainerPort(1),)),
        "labels": replace(pod, meta=replace(pod.meta, labels={"app": "shop", "tier": "gold"})),
    }
    world.pods[NS, "shop-1"] = changes[change]
    found = names(world, "shop")
    assert len(found) == 2
    assert all(name.startswith("shop~") for name in found)
    assert names(world, "shop") == found  # stable


def test_without_a_cluster_each_pod_is_its_own_workload_and_knows_where_it_dials() -> None:
    world = World().app(
        "shop", 8080, replicas=2, app_address="127.0.0.5", dial={(NS, "b"): "127.1", (NS, "a"): "127.2"}
    )
    assert names(world, "shop") == ["shop-0", "shop-1"]
    workload = world.mesh().workloads[NS, "shop-0"]
    assert workload.direct
    assert workload.dial == (((NS, "a"), "127.2"), ((NS, "b"), "127.1"))


def test_pods_without_proxy_are_no_workload_and_are_reached_in_plain_text() -> None:
    world = World().app("shop", 8080, meshed=False).service("shop").app("buyer")
    mesh = world.mesh()
    assert (NS, "shop") not in mesh.workloads
    (port,) = mesh.services[NS, "shop"].ports
    assert port.endpoints == (Endpoint("10.0.0.2", 8080, "", "shop-0"),)
    assert port.identities == ()
    assert mesh.services[NS, "shop"].callers is None


def test_only_ready_addresses_are_endpoints_but_all_identities_are_known() -> None:
    world = World().app("a", 8080, labels={"app": "shop"}).app("b", 8080, labels={"app": "shop"}).service("shop")
    world.pods[NS, "b-0"] = replace(world.pods[NS, "b-0"], ready=False)
    (port,) = world.mesh().services[NS, "shop"].ports
    assert [endpoint.pod for endpoint in port.endpoints] == ["a-0"]
    assert port.identities == (IDENTITY.format("a"), IDENTITY.format("b"))


def slice_with(*addresses: str, pod: str = "") -> EndpointSlice:
    endpoints = tuple(SliceEndpoint(address, pod=pod) for address in addresses)
    return EndpointSlice(meta("shop-x"), "shop", (SlicePort("", 8080),), endpoints)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "::1",
        "169.254.169.254",
        "fe80::1",
        "0.0.0.0",
        "224.0.0.1",
        "a.example",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:0.0.0.0",
    ],
)
def test_hand_made_endpoints_that_may_not_be_routed_to_are_refused(address: str) -> None:  # TN7
    world = World().service("shop", selector={})
    world.slices[NS, "shop-x"] = slice_with(address, "10.9.9.9")
    (port,) = world.mesh().services[NS, "shop"].ports
    assert [endpoint.address for endpoint in port.endpoints] == ["10.9.9.9"]
    (found,) = world.findings("SMI0703")
    assert found.subject.kind == "EndpointSlice"


HOME = ("mesh", "smi-adapter-xds")
GUARDING = Options(guarded=frozenset({API_SERVER, HOME}))


def guarded_world(*addresses: str) -> World:
    """Return a world with an API server, a controller, and a Service whose endpoints somebody has made by hand."""
    world = World().service("shop", selector={})
    world.service(API_SERVER[1], 443, ns=API_SERVER[0], selector={}, addresses=("10.96.0.1",))
    for (namespace, name), address in ((API_SERVER, "10.0.0.7"), (HOME, "10.0.0.8")):
        endpoints = (SliceEndpoint(address),)
        world.slices[namespace, name] = EndpointSlice(meta(name, namespace), name, (SlicePort("", 443),), endpoints)
    world.slices[NS, "shop-x"] = slice_with(*addresses)
    return world


def addresses_of(translation: Translation, key: Key) -> list[str]:
    (port,) = translation.mesh.services[key].ports
    return [endpoint.address for endpoint in port.endpoints]


@pytest.mark.parametrize(
    ("address", "whose"),
    [
        ("10.96.0.1", "default/kubernetes"),
        ("10.0.0.7", "default/kubernetes"),
        ("::ffff:10.0.0.7", "default/kubernetes"),
        ("10.0.0.8", "mesh/smi-adapter-xds"),
    ],
)
def test_hand_made_endpoints_do_not_lead_to_the_api_server_or_the_controller(address: str, whose: str) -> None:  # TN7
    made = translate(guarded_world(address, "10.9.9.9").snapshot(), GUARDING)
    assert addresses_of(made, (NS, "shop")) == ["10.9.9.9"]
    (found,) = (item for item in made.findings if item.code == "SMI0703")
    assert (found.subject.namespace, found.subject.name) == (NS, "shop-x")
    assert found.message.endswith(f"is an address of {whose}")
    assert addresses_of(made, API_SERVER) == ["10.0.0.7"]


def test_an_api_server_that_moves_is_guarded_where_it_is() -> None:  # TN7
    world = guarded_world("10.0.0.9")
    before = translate(world.snapshot(), GUARDING)
    assert addresses_of(before, (NS, "shop")) == ["10.0.0.9"]
    world.slices[API_SERVER] = replace(world.slices[API_SERVER], endpoints=(SliceEndpoint("10.0.0.9"),))
    changed = frozenset({Ref("EndpointSlice", *API_SERVER, "discovery.k8s.io")})
    after = translate(world.snapshot(), GUARDING, before, changed)
    assert addresses_of(after, (NS, "shop")) == []
    assert (NS, "shop") in after.services


def test_a_pods_own_loopback_address_is_routed_to_without_a_cluster() -> None:
    world = World().app("shop", 8080, address="127.42.0.1", app_address="127.42.0.2").service("shop")
    assert [endpoint.address for endpoint in world.mesh().services[NS, "shop"].ports[0].endpoints] == ["127.42.0.1"]
    assert not world.findings("SMI0703")


def test_a_hand_made_endpoint_has_no_identity_and_anybody_may_call_it() -> None:
    world = World().service("shop", selector={})
    world.slices[NS, "shop-x"] = slice_with("10.9.9.9")
    service = world.mesh().services[NS, "shop"]
    assert service.ports[0].endpoints == (Endpoint("10.9.9.9", 8080),)
    assert service.callers is None
    assert world.ask("buyer", "shop").access == "allowed"


def test_sctp_is_not_carried_and_that_is_told() -> None:
    world = World().service("shop", 80, ServicePort(99, "x", "SCTP"))
    assert [port.number for port in world.mesh().services[NS, "shop"].ports] == [80]
    assert world.findings("SMI0601")


@pytest.mark.parametrize(
    ("name", "transport", "app_protocol", "expected"),
    [
        ("", "TCP", "", Protocol.HTTP),
        ("web", "TCP", "", Protocol.HTTP),
        ("http-x", "TCP", "", Protocol.HTTP),
        ("grpc", "TCP", "", Protocol.HTTP),
        ("tcp", "TCP", "", Protocol.TCP),
        ("tcp-x", "TCP", "", Protocol.TCP),
        ("TCP-x", "TCP", "", Protocol.TCP),
        ("tcpx", "TCP", "", Protocol.HTTP),
        ("mysql", "TCP", "", Protocol.TCP),
        ("https", "TCP", "", Protocol.TCP),
        ("mysql", "TCP", "http", Protocol.HTTP),
        ("http", "TCP", "tcp", Protocol.TCP),
        ("", "TCP", "kubernetes.io/h2c", Protocol.HTTP),
        ("", "TCP", "kubernetes.io/ws", Protocol.HTTP),
        ("", "TCP", "kubernetes.io/wss", Protocol.TCP),
        ("", "TCP", "corp.example/own", Protocol.TCP),
        ("http", "UDP", "http", Protocol.UDP),
        ("http", "SCTP", "", None),
    ],
)
def test_protocol_of_a_port(name: str, transport: str, app_protocol: str, expected: Protocol | None) -> None:  # ADR 8
    assert protocol_of(name, transport, app_protocol) is expected


def test_callers_are_those_whom_something_behind_the_service_lets_in() -> None:
    world = bookstore()
    assert world.mesh().services[NS, "bookstore"].callers == frozenset({IDENTITY.format("buyer")})
    world.target("more", "bookstore", ("http:everything",), ("other/spy",))
    found = world.mesh().services[NS, "bookstore"].callers
    assert found == frozenset({IDENTITY.format("buyer"), "spiffe://cluster.local/ns/other/sa/spy"})


def test_nobody_is_a_caller_where_nothing_is_granted() -> None:
    world = bookstore()
    world.targets.clear()
    assert world.mesh().services[NS, "bookstore"].callers == frozenset()


def test_anybody_is_a_caller_where_nothing_is_behind_or_nothing_enforces() -> None:
    assert World().service("shop").mesh().services[NS, "shop"].callers is None
    assert bookstore().namespace(NS, "audit").mesh().services[NS, "bookstore"].callers is None


def test_callers_of_a_root_include_those_of_all_backends_whatever_their_weight() -> None:
    world = bookstore().app("next", 8080).service("next").split("s", "bookstore", {"bookstore-v1": 1, "next": 0})
    world.target("next", "next", ("http:everything",), ("thief",))
    assert world.mesh().services[NS, "bookstore"].callers == frozenset(
        {IDENTITY.format("buyer"), IDENTITY.format("thief")}
    )
    assert world.ask("thief", "bookstore").access == "denied"
    assert world.mesh().services[NS, "next"].callers == frozenset({IDENTITY.format("thief")})


def test_a_target_without_any_usable_match_adds_no_caller() -> None:
    world = bookstore().group("bad", HTTPMatch("bad", "(")).target("bad", "bookstore", ("http:bad",), ("thief",))
    assert world.mesh().services[NS, "bookstore"].callers == frozenset({IDENTITY.format("buyer")})
