"""Explanations: what `explain` says in words, and as data."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smi_adapter.evaluate import Request, Verdict, as_data, evaluate
from smi_adapter.findings import Ref
from smi_adapter.mesh import Mesh
from smi_adapter.smi.objects import HTTPMatch, Meta, SplitBackend, TrafficSplit
from smi_adapter.snapshot import ContainerPort, Mode, ServicePort, Snapshot
from smi_adapter.translate import translate
from tests.histories import Dice, applied
from tests.worlds import NS, World, bookstore

V1, V2 = "bookstore-v1", "bookstore-v2"


def strict() -> World:
    return bookstore().group("everything", HTTPMatch("books", "/books", ("GET",)))


def test_allowed_names_the_target_the_rule_and_the_match() -> None:
    verdict = strict().ask("buyer", "bookstore", "GET", "/books/1")
    (grounds,) = verdict.by
    assert (grounds.origin.name, grounds.rule, grounds.match) == (
        "bookstore",
        "rules[0] HTTPRouteGroup everything",
        "books",
    )
    assert verdict.why == "allowed: TrafficTarget default/bookstore (rules[0] HTTPRouteGroup everything, match books)"


def why(world: World, source: str = "buyer", method: str = "GET", path: str = "/books") -> str:
    verdict = world.ask(source, "bookstore", method, path)
    assert verdict.access == "denied"
    assert verdict.by == ()
    return verdict.why


def test_denied_says_what_is_missing() -> None:
    target = "TrafficTarget default/bookstore"
    assert why(strict(), path="/x") == (
        f"denied: {target} lists the caller, but none of its rules matches GET /x (match 'books' wants path /books)"
    )
    assert "none of its rules matches POST /books (match 'books' wants method GET)" in why(strict(), method="POST")
    assert why(strict(), "thief") == f"denied: the caller is not among the sources of {target}"
    assert "has no identity" in why(strict(), "")
    world = strict()
    world.targets.clear()
    assert why(world) == (
        "denied: no TrafficTarget grants anything on default/bookstore-v1; "
        "no TrafficTarget grants anything on default/bookstore-v2"
    )


def test_mixed_arms_are_told_apart() -> None:
    world = strict().split("s", "bookstore", {V1: 9, V2: 1})
    world.pods[NS, f"{V2}-0"] = replace(world.pods[NS, f"{V2}-0"], service_account="other")
    verdict = world.ask("buyer", "bookstore", "GET", "/books")
    assert verdict.access == "allowed"
    assert "allowed for 90%" in verdict.why
    assert "denied for 10%: no TrafficTarget grants anything on default/bookstore-v2" in verdict.why
    assert as_data(verdict)["arms"] == [
        {"service": "default/bookstore-v1", "share": 0.9, "access": "allowed"},
        {"service": "default/bookstore-v2", "share": 0.1, "access": "denied"},
    ]


def test_data_is_short_where_nothing_is_odd() -> None:
    data = as_data(strict().split("s", "bookstore", {V1: 3, V2: 1}).ask("buyer", "bookstore", "GET", "/books"))
    assert data["arms"] == [
        {"service": "default/bookstore-v1", "share": 0.75},
        {"service": "default/bookstore-v2", "share": 0.25},
    ]
    assert data["by"] == [
        {
            "kind": "TrafficTarget",
            "namespace": "default",
            "name": "bookstore",
            "rule": "rules[0] HTTPRouteGroup everything",
            "match": "books",
        }
    ]
    assert sorted(data) == ["access", "arms", "by", "split", "steps", "why"]
    assert data["split"] == {"kind": "TrafficSplit", "namespace": "default", "name": "s"}
    assert data["steps"] == []


def test_an_error_is_an_arm_with_a_status() -> None:
    data = as_data(strict().split("s", "bookstore", {V1: 0}).ask("buyer", "bookstore", "GET", "/books"))
    assert data["arms"] == [{"service": None, "share": 1.0, "status": 503}]
    assert data["access"] == "allowed"
    assert "100% of the requests get 503" in data["why"]


def test_what_is_not_there_is_told() -> None:
    assert "there is no Service default/gone" in strict().ask("buyer", "gone").why
    assert "has no port 81" in strict().ask("buyer", "bookstore:81").why


@pytest.mark.parametrize("mode", list(Mode))
def test_caller_without_a_certificate_is_denied_in_every_mode(mode: Mode) -> None:
    verdict = strict().namespace(NS, mode.value).ask("", "bookstore", "GET", "/books")
    assert (verdict.access, verdict.by) == ("denied", ())
    assert "the caller has no identity" in verdict.why
    assert "in every mode" in verdict.why


def test_header_with_an_underscore_gets_400() -> None:
    verdict = strict().ask("buyer", "bookstore", "GET", "/books", headers={"x_y": "1"})
    assert [arm.status for arm in verdict.arms] == [400]


def test_udp_is_closed_where_a_proxy_stands_in_the_way_and_enforces() -> None:  # U1
    world = World().service("dns", ServicePort(53, "dns", "UDP", target=53), ServicePort(54, "tcp", target=53))
    world.app("dns", ContainerPort(53, "dns", "UDP"), app_address="127.0.0.9").app("buyer").tcp("all")
    world.target("t", "dns", ("tcp:all",), ("buyer",))
    assert world.ask("buyer", "dns:53").access == "denied"
    assert "UDP" in world.ask("buyer", "dns:53").why
    assert world.ask("buyer", "dns:54").access == "allowed"
    world.namespace(NS, "audit")
    assert world.ask("buyer", "dns:53").access == "allowed"


# ---------------------------------------------------------------------------------------------- properties

SEEDS = st.integers(0, 2**32)
PORTS = (80, 90, 8080)


def verdicts(mesh: Mesh, dice: Dice) -> dict[Request, Verdict]:
    """Ask for everything that may be asked in a random world."""
    found: dict[Request, Verdict] = {}
    for service in mesh.services.values():
        for port in service.ports:
            for account in ("one/sa/a", "one/sa/b", "two/sa/a"):
                identity, address = f"spiffe://cluster.local/ns/{account}", dice.one("10.0.0.1", "10.0.0.2")
                headers = dice.one((), (("x-a", "1"),))
                method, path = dice.one("GET", "POST"), dice.one("/a", "/a/b", "/b", "/%2e%2e;/a")
                asked = Request(identity, service.key, port.number, method, path, headers, address)
                found[asked] = evaluate(mesh, asked)
    return found


@given(SEEDS)
def test_evaluation_never_raises_and_shares_add_up_to_one(seed: int) -> None:
    dice = Dice(seed)
    for verdict in verdicts(translate(dice.world()).mesh, dice).values():
        assert sum((arm.share for arm in verdict.arms), Fraction(0)) == 1
        assert verdict.why
        assert bool(verdict.by) <= (verdict.access == "allowed")


def passed(verdict: Verdict) -> dict[tuple[str | None, tuple[str, ...]], Fraction]:
    return {(arm.service, arm.workloads): arm.share for arm in verdict.arms if arm.access in {"allowed", "audited"}}


def looser(tight: Snapshot, loose: Snapshot, dice: Dice) -> None:
    """Assert that whatever passes in one world passes in the other, on the same arms at least."""
    mesh = translate(loose).mesh
    for asked, verdict in verdicts(translate(tight).mesh, dice).items():
        before = sum(passed(verdict).values(), Fraction(0))
        after = sum(passed(evaluate(mesh, asked)).values(), Fraction(0))
        assert after >= before


@given(SEEDS)
def test_adding_a_target_never_removes_an_allow_and_removing_one_never_adds_one(seed: int) -> None:
    dice = Dice(seed)
    world = dice.world()
    target = dice.target()
    ref = Ref("TrafficTarget", *target.meta.key)
    looser(applied(world, {ref: None}), applied(world, {ref: target}), dice)


@given(SEEDS)
def test_an_object_of_another_namespace_never_opens_anything(seed: int) -> None:
    dice = Dice(seed)
    world = dice.world()
    without = replace(world, targets={key: item for key, item in world.targets.items() if key[0] != "two"})
    one, other = translate(world).mesh, translate(without).mesh
    for key, workload in one.workloads.items():
        if key[0] == "one":
            assert other.workloads[key].ports == workload.ports


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=6), st.integers(0, 2**32))
def test_weights_keep_their_ratio(weights: list[int], seed: int) -> None:
    world = World().app("buyer")
    names = [f"v{index}" for index in range(len(weights))]
    for name in names:
        world.service(name).app(name, 8080, sa="shop")
    world.service("root", selector={})
    backends = [SplitBackend(name, weight * 1000) for name, weight in zip(names, weights, strict=True)]
    Random(seed).shuffle(backends)
    world.splits[NS, "s"] = TrafficSplit(Meta(NS, "s"), "root", tuple(backends))
    (route,) = world.mesh().services[NS, "root"].ports[0].routes
    got = {target.service[1]: target.weight for target in route.targets}
    assert got.keys() == {name for name, weight in zip(names, weights, strict=True) if weight}
    total, made = sum(weights), sum(got.values())
    assert made <= 2**32 - 1
    for name, weight in zip(names, weights, strict=True):
        if total <= 2**32 - 1:
            assert got.get(name, 0) == weight
        else:
            assert abs(Fraction(got.get(name, 0), made) - Fraction(weight, total)) < Fraction(1, 10**8)


def test_the_split_that_routes_is_named_with_the_match_by_which_it_does() -> None:
    world = strict().split("all", "bookstore", {V1: 1}).split("some", "bookstore", {V2: 1}, matches=("everything",))
    found = world.ask("buyer", "bookstore", "GET", "/books")
    assert (str(found.split), found.match) == (
        "TrafficSplit default/some",
        "HTTPRouteGroup default/everything, match books",
    )
    others = world.ask("buyer", "bookstore", "GET", "/x")
    assert (str(others.split), others.match) == ("TrafficSplit default/all", "")
    assert strict().ask("buyer", "bookstore-v1", "GET", "/books").split is None


def test_a_denied_request_gets_a_next_step() -> None:
    def steps(world: World, source: str = "buyer", path: str = "/books") -> str:
        return "; ".join(world.ask(source, "bookstore-v1", "GET", path).steps)

    assert steps(strict()) == ""
    assert steps(strict(), "thief") == (
        "add ServiceAccount default/thief to spec.sources of TrafficTarget default/bookstore, or write one of its own"
    )
    assert steps(strict(), path="/x") == (
        "add a match for GET /x to HTTPRouteGroup default/everything, or a rule to TrafficTarget default/bookstore"
    )
    world = strict()
    world.targets.clear()
    assert steps(world).startswith("write a TrafficTarget with destination ServiceAccount default/bookstore")
    assert steps(world).endswith("source ServiceAccount default/buyer and a rule that matches GET /books")
