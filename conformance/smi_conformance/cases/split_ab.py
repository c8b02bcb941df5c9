"""TrafficSplit with `matches`: only what matches is split (TS-40 to TS-48)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from smi_conformance.layouts import Shop, shop
from smi_conformance.model import Match, Routes, Split, Weight
from smi_conformance.protocol import Req
from smi_conformance.registry import case
from smi_conformance.trial import Trial

TESTER = (("x-user", "tester"),)
FLAG = Match("flagged", headers=(("x-user", "tester"),))


async def ab(t: Trial, weights: Mapping[str, Weight], *matches: Match) -> tuple[Shop, Split]:
    """Split what matches (a header, unless told) and wait until it is."""
    s = await shop(t)
    group = Routes(t.name("group"), s.ns, matches or (FLAG,))
    split = s.split(weights, (group.name,))
    await t.apply(group, split)
    return s, split


async def untouched(t: Trial, s: Shop, req: Req) -> None:
    """See that a request is none that the split takes."""
    await t.reaches(s.client, req, "base", k=10)


@case("TS-40")
async def what_matches_goes_by_the_weights(t: Trial) -> None:
    s, _ = await ab(t, {"v1": 0, "v2": 100})
    await t.shares(s.client, s.to(headers=TESTER), {"v2": 1.0, "v1": 0.0, "base": 0.0}, n=500)


@case("TS-41")
async def what_does_not_match_reaches_the_roots_own_pods(t: Trial) -> None:
    s = await shop(t)
    group = Routes(t.name("group"), s.ns, (FLAG,))
    await t.apply(group, s.split({"v2": 100}, (group.name,)))
    await t.reaches(s.client, s.to(headers=TESTER), "v2")
    alone = await t.sample(s.client, s.to(), t.rules.size(1000))  # the backend is none of the root's own pods
    t.notes.observed["backend elsewhere"] = dict(alone)
    t.check(set(alone) == {"base"}, f"unmatched requests were answered by {dict(alone)}, the root has base alone")
    await t.apply(replace(s.service("root"), selector=(("group", "shop"),)))
    await t.reaches(s.client, s.to(), "base", "v1", "v2")
    await t.reaches(s.client, s.to(headers=TESTER), "v2")
    counts = await t.sample(s.client, s.to(), t.rules.size(1000))
    t.notes.observed["unmatched"] = dict(counts)
    t.check(set(counts) == {"base", "v1", "v2"}, f"unmatched requests were answered by {dict(counts)}")
    other = await t.sample(s.client, s.to(headers=(("x-user", "other"),)), t.rules.size(400))
    t.check(set(other) == {"base", "v1", "v2"}, f"requests with another value were answered by {dict(other)}")


@case("TS-42")
async def weights_divide_what_matches(t: Trial) -> None:
    s, _ = await ab(t, {"v1": 50, "v2": 50})
    await t.shares(s.client, s.to(headers=TESTER), {"v1": 0.5, "v2": 0.5})
    await untouched(t, s, s.to())


@case("TS-43")
async def groups_add_up(t: Trial) -> None:
    s = await shop(t)
    one, two = Routes(t.name("one"), s.ns, (FLAG,)), Routes(t.name("two"), s.ns, (Match("path", "/beta", ("*",)),))
    await t.apply(one, two, s.split({"v2": 100}, (one.name, two.name)))
    await t.reaches(s.client, s.to(headers=TESTER), "v2")
    await t.reaches(s.client, s.to(path="/beta"), "v2")
    await untouched(t, s, s.to())


@case("TS-44")
async def headers_and_matches_or(t: Trial) -> None:
    both = (("x-user", "tester"), ("x-ring", "2"))
    s, _ = await ab(t, {"v2": 100}, Match("both", headers=both), Match("force", headers=(("x-force", "yes"),)))
    await t.reaches(s.client, s.to(headers=both), "v2")
    await t.reaches(s.client, s.to(headers=(("x-force", "yes"),)), "v2")
    await untouched(t, s, s.to(headers=both[:1]))
    await untouched(t, s, s.to(headers=both[1:]))


@case("TS-45")
async def path_method_and_header_together(t: Trial) -> None:
    s, _ = await ab(t, {"v2": 100}, Match("all", "/beta$", ("POST",), TESTER))
    await t.reaches(s.client, s.to(path="/beta", method="POST", headers=TESTER), "v2")
    await untouched(t, s, s.to(path="/beta", headers=TESTER))
    await untouched(t, s, s.to(path="/beta", method="POST"))
    await untouched(t, s, s.to(path="/gamma", method="POST", headers=TESTER))


@case("TS-46")
async def the_specs_version_that_the_document_names(t: Trial) -> None:
    s, _ = await ab(t, {"v2": 100}, Match("path", "/beta", ("GET",)))
    await t.reaches(s.client, s.to(path="/beta/x"), "v2")
    await untouched(t, s, s.to(path="/beta", method="POST"))


@case("TS-47")
async def an_edited_group_changes_the_split(t: Trial) -> None:
    s, _ = await ab(t, {"v2": 100})
    await t.reaches(s.client, s.to(headers=(("X-USER", "tester"),)), "v2")
    await t.apply(Routes(t.name("group"), s.ns, (Match("flagged", headers=(("X-User", "other"),)),)))
    await t.reaches(s.client, s.to(headers=(("x-user", "other"),)), "v2")
    await untouched(t, s, s.to(headers=TESTER))


@case("TS-48")
async def what_is_left_open_about_matches(t: Trial) -> None:
    s = await shop(t)
    group = Routes(t.name("group"), s.ns, (FLAG,))
    await t.apply(group)
    async with t.provisional("oneGroupMissing"):
        split = s.split({"v2": 100}, (group.name, t.name("absent")))
        await t.apply(split)
        await t.reaches(s.client, s.to(headers=TESTER), "v2")
        await untouched(t, s, s.to())
        await t.said(split, t.name("absent"))
        t.reading("oneGroupMissing", "contributes nothing and said")
    async with t.provisional("allGroupsMissing"):
        split = s.split({"v2": 100}, (t.name("absent"),))
        await t.apply(split)
        await untouched(t, s, s.to(headers=TESTER))
        await untouched(t, s, s.to())
        await t.said(split, t.name("absent"))
        t.reading("allGroupsMissing", "never matches and said")
    async with t.provisional("emptyMatches"):
        await t.apply(s.split({"v2": 100}, ()))
        await t.reaches(s.client, s.to(), "v2")
        t.reading("emptyMatches", "as absent")
    async with t.provisional("absentHeader"):
        await t.apply(
            Routes(t.name("group"), s.ns, (Match("any", headers=(("x-maybe", ".*"),)),)),
            s.split({"v2": 100}, (group.name,)),
        )
        await t.reaches(s.client, s.to(headers=(("x-maybe", "1"),)), "v2")
        counts = await t.sample(s.client, s.to(), 50)
        t.reading("absentHeader", "no match" if set(counts) == {"base"} else f"{dict(counts)}")
    await _disjoint(t, s)


async def _disjoint(t: Trial, s: Shop) -> None:
    async with t.provisional("disjoint"):
        await t.delete(s.split({"v2": 100}))
        one, two = Routes(t.name("one"), s.ns, (FLAG,)), Routes(t.name("two"), s.ns, (Match("path", "/beta", ("*",)),))
        first = s.split({"v1": 100}, (one.name,), name="first")
        await t.apply(one, two, first, s.split({"v2": 100}, (two.name,), name="second"))
        await t.reaches(s.client, s.to(headers=TESTER), "v1")
        await t.reaches(s.client, s.to(path="/beta"), "v2")
        await untouched(t, s, s.to())
        t.reading("disjoint", "both apply")
