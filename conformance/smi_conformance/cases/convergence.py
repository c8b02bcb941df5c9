"""How changes arrive: in time, once, in any order, and whatever else goes wrong (CV-01 to CV-09)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import replace

from smi_conformance.cases.split_more import failed
from smi_conformance.layouts import HTTP, Shop, house, server, shop
from smi_conformance.model import Match, Obj, Rule, Service, Split
from smi_conformance.protocol import Batch, Reply, Req
from smi_conformance.registry import case
from smi_conformance.render import Manifest
from smi_conformance.trial import Failure, Trial


def _note(t: Trial, what: str) -> None:
    """Write down how long the last change took."""
    t.notes.observed[what] = f"{t.notes.converged[-1] * 1000:.0f} ms"


@case("CV-01", alone="machine")
async def a_split_takes_effect_in_time(t: Trial) -> None:
    s = await shop(t)
    split = s.split({"v1": 100, "v2": 0})
    await t.apply(split)
    await t.reaches(s.client, s.to(), "v1")
    _note(t, "created")
    await t.apply(replace(split, backends=((s.names["v1"], 0), (s.names["v2"], 100))))
    await t.reaches(s.client, s.to(), "v2")
    _note(t, "updated")
    await t.delete(split)
    await t.reaches(s.client, s.to(), "base")
    _note(t, "deleted")


@case("CV-02", alone="machine")
async def a_grant_and_its_revocation_take_effect_in_time(t: Trial) -> None:
    h = await house(t)
    target = h.target()
    await t.apply(h.everything(), target)
    await t.allowed(h.who("alice"), h.to(), k=t.rules.k)
    _note(t, "granted")
    await t.apply(h.target(("bob",)))
    await t.closed(h.who("alice"), h.to())
    _note(t, "revoked")
    await t.not_received(h.who("alice"), h.to(), (h.who("bob"), h.to()))


@case("CV-03", alone="mesh")
async def the_old_state_does_not_come_back(t: Trial) -> None:
    s = await shop(t)
    split = s.split({"v1": 100})
    await t.apply(split)
    await t.reaches(s.client, s.to(), "v1")
    await t.apply(replace(split, backends=((s.names["v2"], 100),)))
    await t.reaches(s.client, s.to(), "v2")
    await t.reaches(s.place["base"], s.to(), "v2")
    seconds = 2 if t.rules.quick else 10
    batches = [t.send(who, s.to(), Batch(n=seconds * 25, interval=0.04)) for who in (s.client, s.place["base"])]
    replies = list(itertools.chain.from_iterable(await asyncio.gather(*batches)))
    old = [reply for reply in replies if reply.app != "v2"]
    t.check(
        not old, f"{len(old)} of {len(replies)} answers after convergence were old, such as: {old[0] if old else ''}"
    )


@case("CV-04", alone="mesh")
async def changing_weights_under_load_fails_nothing(t: Trial) -> None:
    s = await shop(t)
    split = s.split({"v1": 50, "v2": 50})
    await t.apply(split)
    await t.reaches(s.client, s.to(), "v1", "v2")
    steps = 8 if t.rules.quick else 24
    async with t.load(s.client, s.to()) as replies:
        for step in range(steps):
            weights = (10 + step * 3, 90 - step * 3)
            await t.apply(replace(split, backends=((s.names["v1"], weights[0]), (s.names["v2"], weights[1]))))
            await t.pause(0.2)
    if failure := failed(replies):
        raise failure


@case("CV-05", alone="mesh")
async def many_updates_and_many_splits(t: Trial) -> None:
    s = await shop(t)
    split = s.split({"v1": 1})
    for step in range(50):
        backends = ((s.names["v1"], step % 2), (s.names["v2"], 1 - step % 2))
        await t.apply(replace(split, backends=backends))
        await t.pause(0.03)
    await t.apply(replace(split, backends=((s.names["v2"], 1),)))
    await t.reaches(s.client, s.to(), "v2")
    count = 20 if t.rules.quick else 100
    roots = [t.name(f"many{number}") for number in range(count)]
    await t.apply(*(Service(name, s.ns, (("app", "base"),), HTTP) for name in roots))
    await t.apply(*(Split(f"{name}-s", s.ns, name, ((s.names["v1"], 1),)) for name in roots))
    for name in roots:

        def split_too(reply: Reply) -> bool:
            return reply.app == "v1"

        await t.eventually(s.client, Req(f"{s.ns}/{name}"), split_too, f"{name} is split, too", k=1)


@case("CV-06", alone="mesh")
async def traffic_flows_while_the_controller_is_away(t: Trial) -> None:
    s = await shop(t)
    split = s.split({"v1": 100})
    await t.apply(split)
    await t.reaches(s.client, s.to(), "v1")
    await t.harness.hook("stop")
    try:
        await t.shares(s.client, s.to(), {"v1": 1.0, "v2": 0.0, "base": 0.0}, n=500)
        await t.apply(replace(split, backends=((s.names["v2"], 100),)))
    finally:
        await t.harness.hook("start")
    await t.reaches(s.client, s.to(), "v2")
    await t.harness.hook("restart")
    await t.shares(s.client, s.to(), {"v2": 1.0, "v1": 0.0, "base": 0.0}, n=500, note="restarted")


@case("CV-07")
async def the_order_of_creation_does_not_matter(t: Trial) -> None:
    s = await shop(t)
    orders = list(itertools.permutations(("services", "pods", "split")))
    # The same pods serve all: each order is written as far as its pods, then they come, and then the rest is written.
    await _in_turn(t, s, [order[: order.index("pods")] for order in orders])
    await t.deploy(s.place, LATE)
    await _in_turn(t, s, [order[order.index("pods") + 1 :] for order in orders])

    def late(reply: Reply) -> bool:
        return reply.app == LATE.name

    for number, order in enumerate(orders):
        req = Req(f"{s.ns}/{t.name(f'root{number}')}")
        await t.eventually(s.client, req, late, f"{', '.join(order)}, in this order, reach the pods", k=5)
    if t.may_enforce("access", "specs"):
        await _route_and_target(t)


LATE = server("late")


async def _in_turn(t: Trial, s: Shop, orders: Sequence[Sequence[str]]) -> None:
    """Write what comes first in each order, then what comes second."""
    for names in itertools.zip_longest(*orders):
        await t.apply(*(obj for number, name in enumerate(names) for obj in _part(t, s, number, name)))
        await t.pause(0.05)


def _part(t: Trial, s: Shop, number: int, name: str | None) -> tuple[Obj, ...]:
    root, leaf = t.name(f"root{number}"), t.name(f"leaf{number}")
    if name == "split":
        return (Split(t.name(f"split{number}"), s.ns, root, ((leaf, 1),)),)
    if name == "services":
        selected = ((root, "base"), (leaf, LATE.name))
        found = tuple(Service(service, s.ns, (("app", app),), HTTP) for service, app in selected)
        return found if number % 2 else found[::-1]
    return ()


async def _route_and_target(t: Trial) -> None:
    h = await house(t)
    one, two = (h.routes(Match(name, f"/{name}$", ("*",)), name=name) for name in ("one", "two"))
    first, second = (h.target(rules=(Rule(routes.name),), name=f"to-{routes.name}") for routes in (one, two))
    for obj in (one, second, first, two):
        await t.apply(obj)
        await t.pause(0.05)
    for path in ("/one", "/two"):
        await t.allowed(h.who("alice"), h.to(path))


@case("CV-08")
async def an_invalid_object_holds_nothing_up(t: Trial) -> None:
    s = await shop(t)
    broken = t.manifest(s.split({"v1": 1}, name="broken"))
    broken["spec"] = {"service": s.names["v2"], "backends": "none"}
    await t.try_apply(broken)
    split = s.split({"v1": 100})
    await t.apply(split)
    await t.reaches(s.client, s.to(), "v1")
    await t.apply(replace(split, backends=((s.names["v2"], 100),)))
    await t.reaches(s.client, s.to(), "v2")
    async with t.provisional("invalidSplit"):
        bad = t.manifest(split)
        bad["spec"]["backends"] = "none"
        accepted = (await t.try_apply(bad))[0].accepted
        if accepted:
            await _looked_at(t, s, bad)
        counts = await t.sample(s.client, s.to(), 100)
        kept = "last good weights" if accepted else "refused, last good weights"
        t.reading("invalidSplit", kept if set(counts) == {"v2"} else f"{dict(counts)}")
    if t.may_enforce("split", "access", "specs"):
        await _target_edited_to_invalid(t)


async def _looked_at(t: Trial, s: Shop, bad: Manifest) -> None:
    """Wait until an object that is to change nothing was read: until something is said about it, if ever it is."""
    if t.needs("events", observed=True):
        with contextlib.suppress(Failure):
            await t.said(bad)
    else:
        await s.settle()


async def _target_edited_to_invalid(t: Trial) -> None:
    async with t.provisional("invalidTarget"):
        h = await house(t)
        target = h.target()
        await t.apply(h.routes(Match("all", ".*", ("*",))), target, h.target(("bob",), name="control"))
        await t.allowed(h.who("alice"), h.to())
        bad = t.manifest(target)
        body = bad.get("spec", bad)
        body["sources"] = "everybody"
        accepted = (await t.try_apply(bad))[0].accepted
        if not accepted:
            t.reading("invalidTarget", "refused")
            return
        try:
            await t.denied(h.who("alice"), h.to(), (h.who("bob"), h.to()))
            t.reading("invalidTarget", "closed")
        except Failure:
            t.reading("invalidTarget", "stays open")


@case("CV-09", alone="mesh", first=True)
async def a_lost_watch_is_found_again(t: Trial) -> None:
    s = await shop(t)
    split = s.split({"v1": 100})
    await t.apply(split)
    await t.reaches(s.client, s.to(), "v1")
    await t.harness.hook("breakWatch")
    await t.apply(replace(split, backends=((s.names["v2"], 100),)))
    await t.reaches(s.client, s.to(), "v2")
