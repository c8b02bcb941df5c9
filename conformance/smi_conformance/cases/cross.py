"""Splits and access rules together (XR-01, XR-02)."""

from __future__ import annotations

from smi_conformance.layouts import HTTP, client, server
from smi_conformance.model import Match, Routes, Rule, Service, Split, Subject, Target
from smi_conformance.places import Place
from smi_conformance.protocol import App, Batch, Reply, Req
from smi_conformance.registry import case
from smi_conformance.statistics import window
from smi_conformance.trial import Trial

LAYOUT = (client("client"), client("other"), server("base", "one"), server("v1", "one"), server("v2", "two"))
ANY = ("*",)


async def _shop(t: Trial) -> tuple[Place, App, Req, Split]:
    """Set up root, v1 and v2 of two accounts; nothing is open yet."""
    place = await t.place(LAYOUT, enforced=True)
    ns = place.namespace
    names = {name: t.name(name) for name in ("root", "v1", "v2")}
    apps = {"root": "base", "v1": "v1", "v2": "v2"}
    await t.apply(*(Service(names[name], ns, (("app", app),), HTTP) for name, app in apps.items()))
    split = Split(t.name("split"), ns, names["root"], ((names["v1"], 50), (names["v2"], 50)))
    return place, place["client"], Req(f"{ns}/{names['root']}"), split


def _grant(t: Trial, place: Place, account: str, routes: Routes) -> Target:
    rules = (Rule(routes.name),)
    return Target(t.name(f"to-{account}"), place.namespace, Subject(account), (Subject("client"),), rules)


@case("XR-01", first=True)
async def a_split_opens_nothing(t: Trial) -> None:
    place, client_, root, split = await _shop(t)
    everything = Routes(t.name("all"), place.namespace, (Match("all", ".*", ANY),))
    await t.apply(everything, _grant(t, place, "one", everything))
    await t.reaches(client_, root, "base", k=5)
    await t.apply(split)

    def backend(reply: Reply) -> bool:
        return reply.app == "v1" or not reply.ok

    await t.eventually(client_, root, backend, "the open share works", see=("v1",))
    n = t.rules.size(1000)
    replies = await t.send(client_, root, Batch(n=n, concurrency=8))
    received = await t.received(replies)
    apps = {item.app for item in received}
    t.check(apps == {"v1"}, f"requests arrived at {sorted(apps)}")
    worked = sum(reply.ok for reply in replies)
    t.notes.observed["worked"] = f"{worked} of {n}"
    room = window(n, 0.5)
    t.check(worked in room, f"{worked} of {n} worked, accepted for a half: {room.low} to {room.high}")
    await _one_account(t, place, split)


async def _one_account(t: Trial, place: Place, split: Split) -> None:
    """Split another root, which is closed itself, over two backends of the open account."""
    ns, root, leaf = place.namespace, t.name("second"), t.name("leaf")
    await t.apply(Service(root, ns, (("app", "v2"),), HTTP), Service(leaf, ns, (("app", "base"),), HTTP))
    await t.closed(place["client"], Req(f"{ns}/{root}"), k=5)
    await t.apply(Split(t.name("same"), ns, root, (split.backends[0], (leaf, 50))))
    await t.shares(place["client"], Req(f"{ns}/{root}"), {"v1": 0.5, "base": 0.5, "v2": 0.0}, note="one account")


@case("XR-02", first=True)
async def matches_of_both(t: Trial) -> None:
    place, client_, root, split = await _shop(t)
    ns = place.namespace
    beta = Routes(t.name("beta"), ns, (Match("beta", "/beta", ANY),))
    everything = Routes(t.name("all"), ns, (Match("all", ".*", ANY),))
    backends = (split.backends[1],)
    narrowed = Split(split.name, ns, split.service, backends, (beta.name,))
    to_beta = Req(root.service, path="/beta")
    await t.apply(beta, everything, _grant(t, place, "one", everything), narrowed)
    async with t.provisional("splitAndAccess"):
        await t.allowed(client_, root)
        await t.denied(client_, to_beta, (client_, root))
        t.reading("splitAndAccess", "access decides")
    async with t.provisional("sharedGroup"):
        await t.apply(_grant(t, place, "two", beta))
        await t.reaches(client_, to_beta, "v2")
        await t.reaches(client_, root, "base")
        t.reading("sharedGroup", "both")
