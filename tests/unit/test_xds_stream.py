"""The rules of one delta ADS stream, seen by a client in the same process."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smi_adapter.backends import Resource
from smi_adapter.delivery.xds.stream import OverLimitError, Pace
from smi_adapter.delivery.xds.types import CLUSTER, ENDPOINTS, LISTENER, ROUTES, SECRET
from smi_adapter.envoy_api import version_of
from tests.unit.xds_client import (
    ME,
    PART,
    Client,
    Controller,
    cluster,
    config,
    endpoints,
    listener,
    names,
    one_part,
    resource,
    routes,
    said,
)

NOTHING = config({})


def connected(controller: Controller, pace: Pace | None = None) -> Client:
    """Return a client that has asked for everything that an Envoy with one service asks for, and taken it."""
    client = controller.connect(pace=pace)
    client.ask(CLUSTER)
    client.take_all()
    client.ask(ENDPOINTS, "a")
    client.take_all()
    client.ask(LISTENER)
    client.take_all()
    client.ask(ROUTES, "r")
    client.take_all()
    return client


def service(*, c: object = 1, e: object = 1, ls: object = 1, r: object = 1) -> list[Resource]:
    return [cluster("a", c), endpoints("a", e), listener("l", ls), routes("r", r)]


# ------------------------------------------------------------------------------------------------- first requests


@pytest.mark.parametrize("type_url", [CLUSTER, LISTENER])
def test_the_first_wildcard_request_is_answered_even_with_nothing(type_url: str) -> None:
    client = Controller(NOTHING).connect()
    client.ask(type_url)
    response = client.take()
    assert (response.type_url, names(response)) == (type_url, [])
    assert client.receive() is None


def test_a_star_is_a_wildcard_too() -> None:
    client = Controller(one_part(cluster("a"), cluster("b"))).connect()
    client.ask(CLUSTER, "*")
    assert said(client.take_all()) == [("CDS", ["a", "b"], [])]


@pytest.mark.parametrize("type_url", [ROUTES, ENDPOINTS, SECRET])
def test_no_other_type_has_a_wildcard(type_url: str) -> None:
    client = Controller(one_part(*service(), resource(SECRET, "s"))).connect()
    client.ask(type_url)
    assert client.take_all() == []
    client.ask(type_url, "*")
    (response,) = client.take_all()
    assert (names(response), list(response.removed_resources)) == ([], ["*"])


def test_a_later_empty_request_is_no_wildcard() -> None:
    client = Controller(one_part(cluster("a"), cluster("b"))).connect()
    client.ask(CLUSTER, "a")
    client.take_all()
    client.ask(CLUSTER)
    assert client.take_all() == []


def test_only_named_resources_are_sent_and_updated() -> None:
    controller = Controller(one_part(routes("r1"), routes("r2")))
    client = controller.connect()
    client.ask(ROUTES, "r1")
    assert said(client.take_all()) == [("RDS", ["r1"], [])]
    controller.publish(one_part(routes("r1"), routes("r2", 2)))
    assert client.take_all() == []
    controller.publish(one_part(routes("r1", 2), routes("r2", 2)))
    assert said(client.take_all()) == [("RDS", ["r1"], [])]


def test_a_name_that_does_not_exist_is_removed_at_once_and_sent_when_it_appears() -> None:
    controller = Controller(NOTHING)
    client = controller.connect()
    client.ask(ROUTES, "r")
    assert said(client.take_all()) == [("RDS", [], ["r"])]
    controller.publish(one_part(routes("r")))
    assert said(client.take_all()) == [("RDS", ["r"], [])]


def test_a_name_subscribed_again_is_sent_again() -> None:
    client = Controller(one_part(routes("r"))).connect()
    client.ask(ROUTES, "r")
    client.take_all()
    client.ask(ROUTES, "r")
    assert said(client.take_all()) == [("RDS", ["r"], [])]


def test_a_name_subscribed_again_before_its_ack_is_sent_again_after_it() -> None:
    client = Controller(one_part(endpoints("a"))).connect()
    client.ask(ENDPOINTS, "a")
    first = client.receive()
    client.ask(ENDPOINTS, drop=["a"])
    client.ask(ENDPOINTS, "a")
    assert client.receive() is None
    client.ack(first)
    assert said(client.take_all()) == [("EDS", ["a"], [])]


def test_an_unsubscribed_name_is_not_sent_any_more() -> None:
    controller = Controller(one_part(routes("r")))
    client = controller.connect()
    client.ask(ROUTES, "r")
    client.take_all()
    client.ask(ROUTES, drop=["r"])
    controller.publish(one_part(routes("r", 2)))
    assert client.take_all() == []


def test_a_subscription_counts_whatever_the_nonce_says() -> None:
    client = Controller(one_part(routes("r1"), routes("r2"))).connect()
    client.ask(ROUTES, "r1")
    client.take_all()
    client.ask(ROUTES, "r2", nonce="stale")
    assert said(client.take_all()) == [("RDS", ["r2"], [])]


def test_a_stale_or_foreign_nonce_acknowledges_nothing() -> None:
    client = Controller(one_part(routes("r"))).connect()
    client.ask(ROUTES, "r")
    response = client.receive()
    client.ask(ROUTES, nonce="77")
    assert not client.answers
    client.ack(response)
    client.ack(response)
    assert len(client.answers) == 1


# ------------------------------------------------------------------------------------------------------- reconnect


def test_after_a_reconnect_equal_versions_are_skipped_and_others_sent() -> None:
    client = Controller(one_part(cluster("a"), cluster("b", 2))).connect()
    client.ask(CLUSTER, holds={"a": version_of(b"1"), "b": version_of(b"1")})
    assert said(client.take_all()) == [("CDS", ["b"], [])]


def test_after_a_reconnect_without_change_wildcards_are_answered_with_nothing_and_names_not_at_all() -> None:
    client = Controller(one_part(*service())).connect()
    held = version_of(b"1")
    client.ask(CLUSTER, holds={"a": held})
    client.ask(ENDPOINTS, "a", holds={"a": held})
    client.ask(LISTENER, holds={"l": held})
    client.ask(ROUTES, "r", holds={"r": held})
    assert said(client.take_all()) == [("CDS", [], []), ("LDS", [], [])]
    assert client.stream.in_sync


def test_after_a_reconnect_what_exists_no_more_is_removed_but_clusters_only_after_what_used_them() -> None:
    client = Controller(one_part(listener("l2"))).connect(pace=Pace(grace=5))
    client.ask(LISTENER, holds={"l": "x"})
    client.ask(CLUSTER, holds={"a": "x"})
    assert said(client.take_all()) == [("CDS", [], []), ("LDS", ["l2"], ["l"])]
    client.wait(5)
    assert said(client.take_all()) == [("CDS", [], ["a"])]


def test_a_cluster_that_changed_while_away_gets_its_endpoints_again_though_the_proxy_has_them() -> None:
    client = Controller(one_part(cluster("a", 2), endpoints("a"))).connect()
    client.ask(CLUSTER, holds={"a": version_of(b"1")})
    changed = client.receive()
    assert names(changed) == ["a"]
    client.ask(ENDPOINTS, "a", holds={"a": version_of(b"1")})
    assert said(client.take_all()) == [("EDS", ["a"], [])]


# -------------------------------------------------------------------------------------------- one message, no queue


def test_what_changes_during_a_push_is_merged_and_leaves_on_the_ack() -> None:
    controller = Controller(one_part(*service()))
    client = connected(controller)
    controller.publish(one_part(*service(r=10)))
    first = client.receive()
    for content in range(11, 70):
        controller.publish(one_part(*service(r=content)))
        assert client.receive() is None
    client.ack(first)
    last = client.take()
    assert last.resources[0].version == version_of(b"69")
    assert client.take() is None


def test_a_version_that_the_proxy_has_is_not_sent() -> None:
    controller = Controller(one_part(*service()))
    client = connected(controller)
    controller.publish(one_part(*service(r=2)))
    response = client.receive()
    controller.publish(one_part(*service(r=3)))
    controller.publish(one_part(*service(r=2)))
    client.ack(response)
    assert client.take() is None


def test_a_stopped_proxy_costs_the_same_however_much_changes() -> None:
    controller = Controller(one_part(*service()))
    client = connected(controller)
    for content in range(1000):
        controller.publish(one_part(*service(c=content, e=content, ls=content, r=content)))
        client.receive()
    subscriptions = client.stream.subscriptions.values()
    assert sum(len(sub.pending) for sub in subscriptions) <= 4
    assert sum(len(sub.names) for sub in subscriptions) == 4


def test_a_flood_of_changes_goes_at_the_pace_and_an_isolated_one_at_once() -> None:
    controller = Controller(one_part(*service()))
    client = connected(controller, Pace(burst=10, per_second=30))
    client.wait(1)
    pushes = 0
    for content in range(1000):
        controller.publish(one_part(*service(r=1000 + content)))
        pushes += len(client.take_all())
        client.wait(0.001)
    assert 30 <= pushes <= 50
    client.wait(0.4)
    assert client.take_all()[-1].resources[0].version == version_of(b"1999")
    client.wait(1)
    controller.publish(one_part(*service(r=5)))
    assert said(client.take_all()) == [("RDS", ["r"], [])]


def test_a_big_first_answer_is_cut_below_the_limit() -> None:
    big = [cluster(f"c{number:03}", "x" * 10_000) for number in range(100)]
    client = Controller(one_part(*big)).connect(pace=Pace(response_bytes=300_000))
    client.ask(CLUSTER)
    responses = client.take_all()
    assert all(response.ByteSize() <= 300_000 + 200 for response in responses)
    assert sorted(name for response in responses for name in names(response)) == [item.name for item in big]


# -------------------------------------------------------------------------------------------- order (make and break)


def test_routes_wait_until_clusters_and_endpoints_are_acknowledged() -> None:
    controller = Controller(one_part(*service()))
    client = connected(controller)
    controller.publish(one_part(*service(r=2), cluster("b"), endpoints("b")))
    added = client.receive()
    assert said([added]) == [("CDS", ["b"], [])]
    client.ask(ENDPOINTS, "b")
    filled = client.receive()
    assert said([filled]) == [("EDS", ["b"], [])]
    assert client.receive() is None
    client.ack(added)
    assert client.receive() is None
    client.ack(filled)
    assert said([client.receive()]) == [("RDS", ["r"], [])]


def test_routes_wait_only_for_what_came_with_them_or_before() -> None:
    """Endless endpoint churn must not hold a route back for ever."""
    controller = Controller(one_part(*service()))
    client = connected(controller, Pace(burst=1000))
    controller.publish(one_part(*service(e=2)))
    churn = client.receive()
    controller.publish(one_part(*service(e=2, r=2)))
    controller.publish(one_part(*service(e=3, r=2)))
    assert client.receive() is None
    client.ack(churn)
    assert said([client.receive(), client.receive()]) == [("EDS", ["a"], []), ("RDS", ["r"], [])]


def test_an_access_rule_in_force_never_waits_for_other_peoples_clusters() -> None:
    inbound = routes("in/shop/web/80", closed=b"deny")
    controller = Controller(one_part(*service(), inbound))
    client = connected(controller)
    client.ask(ROUTES, "in/shop/web/80")
    client.take_all()
    tighter = routes("in/shop/web/80", 2, closed=b"deny")
    controller.publish(one_part(*service(r=2), tighter, cluster("b")))
    assert said([client.receive(), client.receive()]) == [("CDS", ["b"], []), ("RDS", ["in/shop/web/80"], [])]


def test_secrets_do_not_wait_for_clusters_because_clusters_wait_for_them() -> None:
    controller = Controller(one_part(cluster("a"), resource(SECRET, "s")))
    client = controller.connect()
    client.ask(CLUSTER)
    client.receive()
    client.ask(SECRET, "s")
    assert said([client.receive()]) == [("SDS", ["s"], [])]


def test_endpoints_follow_a_changed_cluster_even_unchanged() -> None:
    controller = Controller(one_part(*service()))
    client = connected(controller)
    controller.publish(one_part(*service(c=2)))
    assert said(client.take_all()) == [("CDS", ["a"], []), ("EDS", ["a"], [])]


def test_a_cluster_is_removed_only_a_grace_after_the_routes_that_left_it_are_acknowledged() -> None:
    controller = Controller(one_part(*service(), cluster("b"), endpoints("b")))
    client = connected(controller, Pace(grace=5))
    client.ask(ENDPOINTS, "b")
    client.take_all()
    controller.publish(one_part(*service(r=2)))
    route = client.receive()
    assert said([route]) == [("RDS", ["r"], [])]
    client.wait(60)
    assert client.receive() is None
    client.ack(route)
    assert client.receive() is None
    client.wait(4.9)
    assert client.receive() is None
    client.wait(0.1)
    assert said(client.take_all()) == [("CDS", [], ["b"])]
    client.ask(ENDPOINTS, drop=["b"])  # as Envoy does when the cluster is gone
    client.wait(60)
    assert client.take_all() == []


@pytest.mark.parametrize("slot", [0.0, 0.25, 63 / 64])
def test_what_leaves_within_a_second_goes_in_one_message_in_the_slot_of_its_stream(slot: float) -> None:
    controller = Controller(one_part(*(cluster(name) for name in "abc")))
    client = controller.connect(pace=Pace(grace=5), slot=slot)
    client.ask(CLUSTER)
    client.take_all()
    client.now += slot
    for left, later in (("bc", 0.1), ("c", 0.7), ("", 0.1)):
        client.wait(later)
        controller.publish(one_part(*(cluster(name) for name in left)))
        assert client.take_all() == []
    client.now += 5 - 0.01  # later than the grace of the first two, sooner than that of the last
    assert client.take_all() == []
    assert client.stream.wake_at % 1 == slot
    client.now = client.stream.wake_at
    assert said(client.take_all()) == [("CDS", [], ["a", "b", "c"])]


@given(st.floats(0, 1e7), st.integers(0, 63))
def test_nothing_is_removed_before_its_grace_is_over_whatever_the_slot(now: float, slot: int) -> None:
    controller = Controller(one_part(cluster("a")))
    client = controller.connect(pace=Pace(grace=5), slot=slot / 64)
    client.now = now
    client.ask(CLUSTER)
    client.take_all()
    controller.publish(one_part())
    assert client.take_all() == []
    assert now + 5 <= client.stream.wake_at <= now + 6


def test_a_cluster_that_comes_back_within_the_grace_is_never_removed() -> None:
    with_b = one_part(*service(), cluster("b"))
    controller = Controller(with_b)
    client = connected(controller)
    controller.publish(one_part(*service()))
    client.take_all()
    controller.publish(with_b)
    client.wait(60)
    assert client.take_all() == []


def test_a_listener_leaves_at_once_and_in_the_message_that_brings_its_successor() -> None:
    controller = Controller(one_part(*service()))
    client = connected(controller)
    controller.publish(one_part(listener("m")))
    assert said([client.take()]) == [("LDS", ["m"], ["l"])]


def test_a_removed_name_that_is_still_asked_for_is_said_to_be_gone_after_twice_the_grace() -> None:
    controller = Controller(one_part(*service()))
    client = connected(controller, Pace(grace=5))
    controller.publish(one_part(*service()[:3]))
    client.take_all()
    client.wait(10)
    assert said(client.take_all()) == [("RDS", [], ["r"])]
    controller.publish(one_part(*service()))
    assert said(client.take_all()) == [("RDS", ["r"], [])]


# ------------------------------------------------------------------------------------------------------------ NACKs


def test_access_bearing_resources_travel_alone() -> None:
    inbound = [routes(f"in/shop/web/{port}", closed=b"deny") for port in (80, 81)]
    client = Controller(one_part(routes("out/1"), routes("out/2"), *inbound)).connect()
    client.ask(ROUTES, "out/1", "in/shop/web/80", "out/2", "in/shop/web/81")
    assert sorted(said(client.take_all())) == [
        ("RDS", ["in/shop/web/80"], []),
        ("RDS", ["in/shop/web/81"], []),
        ("RDS", ["out/1", "out/2"], []),
    ]


def test_an_access_rule_that_changes_all_the_time_does_not_hold_back_other_routes() -> None:
    def world(access: int, r: int) -> list[Resource]:
        return [routes("in/shop/web/80", access, closed=b"deny"), routes("out", r)]

    controller = Controller(one_part(*world(0, 0)))
    client = controller.connect(pace=Pace(burst=100))
    client.ask(ROUTES, "in/shop/web/80", "out")
    client.take_all()
    told = []
    for number in range(1, 6):
        controller.publish(one_part(*world(number, 1)))
        told += said([response := client.receive()])
        controller.publish(one_part(*world(number + 100, 1)))
        client.ack(response)
    assert ("RDS", ["out"], []) in told


def test_rejected_bytes_are_never_sent_again_and_the_next_version_is() -> None:
    controller = Controller(one_part(*service()))
    client = connected(controller)
    controller.publish(one_part(*service(r=2)))
    client.nack(client.receive())
    assert client.receive() is None
    assert not client.stream.in_sync
    client.ask(ROUTES, "r")
    assert client.receive() is None
    controller.publish(one_part(*service(r=3)))
    assert said(client.take_all()) == [("RDS", ["r"], [])]
    assert client.stream.in_sync
    controller.publish(one_part(*service(r=2)))
    assert client.take_all() == []
    assert not client.stream.in_sync


def test_going_back_to_the_version_in_force_ends_a_refusal() -> None:
    controller = Controller(one_part(*service()))
    client = connected(controller)
    controller.publish(one_part(*service(r=2)))
    client.nack(client.receive(), "no such thing")
    assert client.receive() is None
    ((key, refusal),) = client.stream.refusals.items()
    assert (key, refusal.error) == ((ROUTES, "r"), "no such thing")
    controller.publish(one_part(*service()))
    assert client.take_all() == []
    assert client.stream.in_sync


def test_of_a_refused_message_each_resource_is_sent_alone_and_the_culprit_named() -> None:
    good, bad = [routes(f"g{number}") for number in range(5)], routes("bad")
    client = Controller(one_part(*good, bad)).connect()
    client.ask(ROUTES, "g0", "g1", "bad", "g2", "g3", "g4")
    client.nack(client.receive())
    alone = []
    while (response := client.receive()) is not None:
        alone += names(response)
        assert len(response.resources) == 1
        client.nack(response, "culprit") if names(response) == ["bad"] else client.ack(response)
    assert sorted(alone) == ["bad", "g0", "g1", "g2", "g3", "g4"]
    assert [key[1] for key in client.stream.refusals] == ["bad"]


def test_a_refused_access_rule_is_closed_at_once() -> None:
    open_rule = routes("in/shop/web/80", 1, closed=b"deny")
    controller = Controller(one_part(open_rule))
    client = controller.connect()
    client.ask(ROUTES, "in/shop/web/80")
    client.take_all()
    controller.publish(one_part(routes("in/shop/web/80", 2, closed=b"deny")))
    client.nack(client.receive())
    closing = client.take()
    assert closing.resources[0].resource.value == b"deny"
    assert closing.resources[0].version == version_of(b"deny")
    assert not client.stream.in_sync
    assert client.take() is None
    controller.publish(one_part(open_rule))
    assert client.take().resources[0].resource.value == open_rule.body
    assert client.stream.refusals == {}


def test_a_refused_closed_form_is_not_sent_again() -> None:
    client = Controller(one_part(routes("in/shop/web/80", 1, closed=b"deny"))).connect()
    client.ask(ROUTES, "in/shop/web/80")
    client.nack(client.receive())
    client.nack(client.receive())
    assert client.receive() is None


def test_a_refused_cluster_does_not_hold_back_the_others_or_the_routes() -> None:
    controller = Controller(one_part(*service()))
    client = connected(controller)
    controller.publish(one_part(*service(r=2), cluster("bad"), cluster("good")))
    client.nack(client.receive())
    told = []
    while (response := client.receive()) is not None:
        told += said([response])
        client.nack(response) if names(response) == ["bad"] else client.ack(response)
    assert told == [("CDS", ["bad"], []), ("CDS", ["good"], []), ("RDS", ["r"], [])]


def test_what_was_refused_is_not_sent_on_the_next_stream_either() -> None:
    controller = Controller(one_part(routes("in/shop/web/80", 1, closed=b"deny"), routes("o")))
    client = controller.connect()
    client.ask(ROUTES, "in/shop/web/80")
    client.nack(client.receive())
    client.take_all()
    again = controller.connect()
    again.stream.inherit(client.stream.refusals.values())
    again.ask(ROUTES, "in/shop/web/80", holds={"in/shop/web/80": version_of(b"deny")})
    assert again.take_all() == []
    assert not client.stream.in_sync


# ----------------------------------------------------------------------------------------------------------- limits


def test_names_that_do_not_exist_are_capped_and_own_names_are_not() -> None:
    many = [f"n{number}" for number in range(50)]
    client = Controller(one_part(*map(routes, many))).connect(pace=Pace(strangers=10))
    client.ask(ROUTES, *many)
    client.take_all()
    with pytest.raises(OverLimitError):
        client.ask(ROUTES, *(f"x{number}" for number in range(11)))


def test_dropping_strange_names_makes_room() -> None:
    client = Controller(NOTHING).connect(pace=Pace(strangers=10))
    for start in range(0, 100, 10):
        asked = [f"x{number}" for number in range(start, start + 10)]
        client.ask(ROUTES, *asked)
        client.take_all()
        client.ask(ROUTES, drop=asked)


def test_types_are_capped() -> None:
    client = Controller(NOTHING).connect()
    for number in range(16):
        client.ask(f"type.googleapis.com/x{number}", "a")
    with pytest.raises(OverLimitError):
        client.ask("type.googleapis.com/y", "a")


def test_an_unknown_type_is_answered_like_an_unknown_name() -> None:
    client = Controller(NOTHING).connect()
    client.ask("type.googleapis.com/x", "a")
    assert list(client.take().removed_resources) == ["a"]


# ------------------------------------------------------------------------------------------------------------ scope


def test_a_name_out_of_scope_is_answered_exactly_like_one_that_does_not_exist() -> None:
    other = ("all", "bank", "vault")
    controller = Controller(config({PART: [], other: [routes("secret")]}, {ME: [PART], ("bank", "vault"): [other]}))
    told = []
    for name in ("secret", "nobody"):
        client = controller.connect()
        client.ask(ROUTES, name)
        told.append(client.take().SerializeToString().replace(name.encode(), b"?"))
        client.ask(ROUTES, drop=[name])
        client.ask(ROUTES, name, holds={name: version_of(b"1")})
        told.append(client.take().SerializeToString().replace(name.encode(), b"?"))
    assert told[:2] == told[2:]


def test_a_wider_scope_brings_things_and_a_narrower_one_takes_them_away() -> None:
    far = ("all", "shop", "far")
    parts = {PART: service(), far: [cluster("f"), listener("lf")]}
    controller = Controller(config(parts, {ME: [PART]}))
    client = connected(controller, Pace(grace=5))
    controller.publish(config(parts, {ME: [PART, far]}))
    assert said(client.take_all()) == [("CDS", ["f"], []), ("LDS", ["lf"], [])]
    controller.publish(config(parts, {ME: [PART]}))
    assert said(client.take_all()) == [("LDS", [], ["lf"])]
    client.wait(5)
    assert said(client.take_all()) == [("CDS", [], ["f"])]


def test_a_resource_that_moves_to_another_part_in_scope_stays() -> None:
    far = ("all", "shop", "far")
    controller = Controller(config({PART: service(), far: []}))
    client = connected(controller)
    controller.publish(config({PART: [], far: service()}))
    client.wait(60)
    assert client.take_all() == []


def test_a_part_that_leaves_sight_and_changes_at_once_is_not_seen_in_its_new_form() -> None:
    """The oracle found it: routes that had gone out of scope were sent instead of those that deny."""
    far = ("all", "shop", "far")
    controller = Controller(config({PART: [], far: [routes("out", "old")]}, {ME: [PART, far]}))
    client = controller.connect()
    client.ask(ROUTES, "out")
    client.take_all()
    denied = {PART: [routes("out", "denied")], far: [routes("out", "secret")]}
    controller.publish(config(denied, {ME: [PART], ("bank", "vault"): [far]}))
    (answer,) = client.take_all()
    assert [item.resource.value for item in answer.resources] == [b'"denied"']


def test_secrets_are_those_of_the_identity_and_change_with_it() -> None:
    controller = Controller(NOTHING)
    client = controller.connect(secrets=[resource(SECRET, "default"), resource(SECRET, "ROOTCA")])
    client.ask(SECRET, "default", "ROOTCA", "default-of-somebody-else")
    assert said(client.take_all()) == [("SDS", ["default", "ROOTCA"], ["default-of-somebody-else"])]
    changes = client.view.replace_secrets([resource(SECRET, "default", 2), resource(SECRET, "ROOTCA")])
    client.stream.on_change(changes, 1)
    assert said(client.take_all()) == [("SDS", ["default"], [])]


def test_a_name_subscribed_again_is_sent_again_even_if_it_changed_and_changed_back_meanwhile() -> None:
    controller = Controller(one_part(endpoints("a")))
    client = controller.connect()
    client.ask(ENDPOINTS, "a")
    first = client.receive()
    client.ask(ENDPOINTS, drop=["a"])
    client.ask(ENDPOINTS, "a")
    controller.publish(one_part(endpoints("a", 2)))
    controller.publish(one_part(endpoints("a")))
    client.ack(first)
    assert said(client.take_all()) == [("EDS", ["a"], [])]


def test_after_a_refused_message_nothing_is_believed_to_be_in_force() -> None:
    """An Envoy applies an arbitrary part of it, so going back needs a push."""
    controller = Controller(one_part(routes("r1"), routes("r2")))
    client = controller.connect()
    client.ask(ROUTES, "r1", "r2")
    client.take_all()
    controller.publish(one_part(routes("r1", 2), routes("r2", 2)))
    both = client.receive()
    controller.publish(one_part(routes("r1"), routes("r2")))
    client.nack(both)
    assert said(client.take_all()) == [("RDS", ["r1"], []), ("RDS", ["r2"], [])]


def test_a_proxy_has_acknowledged_the_generations_before_what_is_left_to_say_or_unanswered() -> None:
    controller = Controller(one_part(*service()))
    client = controller.connect()
    assert client.stream.acknowledged(1) == 0
    client = connected(controller)
    assert client.stream.acknowledged(1) == 1
    controller.publish(one_part(*service(r=2)))
    assert client.stream.acknowledged(2) == 1
    response = client.receive()
    assert client.stream.acknowledged(2) == 1
    client.ack(response)
    assert client.stream.acknowledged(2) == 2
    controller.publish(one_part(*service(c=2, e=2, r=3)))
    client.ack(client.receive())  # the cluster; its endpoints and the routes are still to come
    assert client.stream.acknowledged(3) == 2
    client.take_all()
    assert client.stream.acknowledged(3) == 3


def test_a_generation_that_changes_nothing_for_a_proxy_needs_no_answer() -> None:
    controller = Controller(one_part(*service()))
    client = connected(controller)
    controller.publish(one_part(*service()))
    assert client.stream.acknowledged(2) == 2
