"""IdentityBinding: rows B1 to B5 of the semantics."""

from __future__ import annotations

from dataclasses import replace

import pytest

from smi_adapter.findings import Severity
from smi_adapter.smi.objects import HTTPMatch, LabelRequirement, LabelSelector
from tests.worlds import NS, World, shares


def shop() -> World:
    """Return a shop, three callers that share one ServiceAccount, and a group that matches everything."""
    world = World().app("shop", 8080, replicas=2).service("shop").group("g", HTTPMatch("m"))
    for name in ("one", "two", "three"):
        world.app(name, sa="clients", labels={"app": name, "team": "x"})
    return world.app("buyer")


def granted(world: World, *sources: str) -> World:
    return world.target("t", "shop", ("http:g",), sources or ("binding:who",))


def access(world: World, source: str = "buyer", address: str = "") -> str:
    return world.ask(source, "shop", source_address=address).access


def test_schemes_are_or() -> None:  # B1
    world = granted(shop().binding("who", sa="clients", spiffe=("cluster.local/ns/default/sa/buyer",)))
    assert access(world, "clients") == access(world, "buyer") == "allowed"
    assert access(world, "thief") == "denied"


def test_service_account_and_selector_together_name_nobody() -> None:  # B1
    world = granted(
        shop().binding("who", sa="buyer", pods={"app": "one"}, spiffe=("cluster.local/ns/default/sa/buyer",))
    )
    assert access(world, "buyer") == "denied"
    assert access(world, "clients", world.pods[NS, "one-0"].address) == "denied"
    assert [item.severity for item in world.findings("SMI0402")] == [Severity.ERROR]


def test_service_account_is_that_of_the_bindings_namespace() -> None:  # B2
    world = shop().app("buyer", ns="other").binding("who", ns="other", sa="buyer")
    granted(world, "binding:other/who")
    assert access(world, "other/buyer") == "allowed"
    assert access(world, "buyer") == "denied"
    assert [item.severity for item in world.findings("SMI0404")] == [Severity.INFO]


def test_selected_pods_are_their_identity_at_their_own_address() -> None:  # B3
    world = granted(shop().binding("who", pods={"app": "one"}))
    assert access(world, "clients", world.pods[NS, "one-0"].address) == "allowed"
    assert access(world, "clients", world.pods[NS, "two-0"].address) == "denied"
    assert access(world, "buyer", world.pods[NS, "one-0"].address) == "denied"
    assert "only from the addresses" in world.ask("clients", "shop").why


def test_selector_with_expressions_only() -> None:  # B3
    selector = LabelSelector(match_expressions=(LabelRequirement("app", "In", ("one", "two")),))
    world = granted(shop().binding("who", pods=selector))
    allowed = [
        name
        for name in ("one", "two", "three")
        if access(world, "clients", world.pods[NS, f"{name}-0"].address) == "allowed"
    ]
    assert allowed == ["one", "two"]


def test_pods_of_other_namespaces_are_never_selected() -> None:  # B3
    world = granted(
        shop().app("spy", ns="other", sa="clients", labels={"app": "one"}).binding("who", pods={"app": "one"})
    )
    assert access(world, "other/clients", world.pods["other", "spy-0"].address) == "denied"


def test_identity_with_all_addresses_includes_the_narrower_one() -> None:  # B3
    world = granted(shop().binding("who", pods={"app": "one"}), "binding:who", "clients")
    (principal,) = world.mesh().workloads[NS, "shop"].ports[0].rules[0].principals
    assert principal.addresses is None


def test_selector_that_selects_nobody_grants_nothing() -> None:  # B5
    world = granted(shop().binding("who", pods={"app": "none"}))
    assert access(world, "clients") == "denied"
    assert world.findings("SMI0401")
    world.pods[NS, "one-0"] = replace(world.pods[NS, "one-0"], address="")
    assert access(granted(world.binding("who", pods={"app": "one"})), "clients") == "denied"


def test_destination_selector_opens_those_pods_only() -> None:  # B3
    world = World().app("a", 8080, sa="shop", labels={"app": "shop", "tier": "gold"}, replicas=2)
    world.app("b", 8080, sa="shop", labels={"app": "shop"}).app("buyer").service("shop").group("g", HTTPMatch("m"))
    world.binding("gold", pods={"tier": "gold"}).target("t", "binding:gold", ("http:g",), ("buyer",))
    verdict = world.ask("buyer", "shop")
    assert {(arm.workloads, arm.access, float(arm.share)) for arm in verdict.arms} == {
        (("default/a",), "allowed", 2 / 3),
        (("default/b",), "denied", 1 / 3),
    }


def test_destination_selector_divides_the_pods_of_one_owner() -> None:  # B3
    world = World().app("shop", 8080, replicas=2).app("buyer").service("shop").group("g", HTTPMatch("m"))
    world.pods[NS, "shop-1"] = replace(
        world.pods[NS, "shop-1"], meta=replace(world.pods[NS, "shop-1"].meta, labels={"app": "shop", "tier": "gold"})
    )
    plain = world.mesh().workloads.keys()
    world.binding("gold", pods={"tier": "gold"})
    assert world.mesh().workloads.keys() == plain == {(NS, "shop"), (NS, "buyer")}
    world.target("t", "binding:gold", ("http:g",), ("buyer",))
    names = sorted(name for _, name in world.mesh().workloads if name.startswith("shop"))
    assert len(names) == 2
    assert all(name.startswith("shop~") for name in names)
    assert {(arm.access, float(arm.share)) for arm in world.ask("buyer", "shop").arms} == {
        ("allowed", 0.5),
        ("denied", 0.5),
    }


def test_destination_binding_may_name_a_service_account_or_its_spiffe_id() -> None:  # B2, B4
    for world in (
        shop().binding("dest", sa="shop"),
        shop().binding("dest", spiffe=("spiffe://cluster.local/ns/default/sa/shop",)),
    ):
        world.target("t", "binding:dest", ("http:g",), ("buyer",))
        assert access(world) == "allowed"
        assert shares(world.ask("buyer", "shop")) == {"shop": 1}


@pytest.mark.parametrize("written", ["cluster.local/ns/default/sa/buyer", "spiffe://cluster.local/ns/default/sa/buyer"])
def test_spiffe_ids_are_read_with_and_without_their_scheme(written: str) -> None:  # B4
    assert access(granted(shop().binding("who", spiffe=(written,)))) == "allowed"


@pytest.mark.parametrize(
    "written",
    [
        "cluster.local/ns/other/sa/buyer",
        "cluster.local/ns/default/sa/buyer/more",
        "cluster.local/anything",
        "cluster.local",
        "partner.example/ns/default/sa/buyer",
        "spiffe://cluster.local/ns/default/../other/sa/buyer",
        "spiffe://spiffe://cluster.local/ns/default/sa/buyer",
        "",
        "*",
    ],
)
def test_foreign_and_unreadable_spiffe_ids_are_refused(written: str) -> None:  # B4
    world = granted(shop().binding("who", spiffe=(written,)))
    assert world.findings("SMI0403")
    assert not any(port.rules for item in world.mesh().workloads.values() for port in item.ports)


def test_ids_of_a_federated_domain_are_accepted() -> None:  # B4
    world = granted(shop().binding("who", spiffe=("partner.example/boundary/x/service/y",)))
    mesh = world.mesh(federated_domains=frozenset({"partner.example"}))
    (principal,) = mesh.workloads[NS, "shop"].ports[0].rules[0].principals
    assert principal.identity == "spiffe://partner.example/boundary/x/service/y"
    assert mesh.trust.federated == ("partner.example",)


def test_missing_and_empty_bindings_are_nobody() -> None:  # B5
    for world in (
        granted(shop()),
        granted(shop().binding("who")),
        granted(shop().binding("who", pods=LabelSelector())),
    ):
        assert access(world, "buyer") == access(world, "clients") == "denied"
        assert world.findings("SMI0401")
    assert access(shop().target("t", "binding:gone", ("http:g",), ("buyer",))) == "denied"
    assert shop().target("t", "binding:gone", ("http:g",), ("buyer",)).findings("SMI0401")
