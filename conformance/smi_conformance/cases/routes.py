"""HTTPRouteGroup: what a match matches, seen through a TrafficTarget (HR-01 to HR-20)."""

from __future__ import annotations

import posixpath
from urllib.parse import unquote

from smi_conformance.layouts import House, house
from smi_conformance.model import Match, Rule
from smi_conformance.protocol import Batch, Reply, Req
from smi_conformance.registry import case
from smi_conformance.trial import Trial

ANY = ("*",)


async def opened(t: Trial, *matches: Match) -> House:
    """Let alice in on these matches; `/ok` is always among them, as the control of every denial."""
    h = await house(t)
    await t.apply(h.routes(Match("ok", "/ok$", ANY), *matches), h.target())
    await t.allowed(h.who("alice"), h.to("/ok"))
    return h


async def verdicts(t: Trial, h: House, allowed: tuple[Req, ...], denied: tuple[Req, ...]) -> None:
    """See the allowed requests answered, and the others received by nobody."""
    alice = h.who("alice")
    for req in allowed:
        await t.allowed(alice, req)
    for req in denied:
        await t.denied(alice, req, (alice, h.to("/ok")))


async def answer(t: Trial, h: House, req: Req) -> bool:
    """Return whether a request is answered now; for readings, after what is certain has converged."""
    counts = await t.sample(h.who("alice"), req, 10)
    return set(counts) == {"api"}


@case("HR-01")
async def a_listed_path_is_open(t: Trial) -> None:
    h = await opened(t, Match("one", "/metrics", ("GET",)))
    await verdicts(t, h, (h.to("/metrics"),), (h.to("/other"), h.to("/")))


@case("HR-02")
async def a_path_is_a_regular_expression(t: Trial) -> None:
    h = await opened(t, Match("one", "/api/v[0-9]+$", ANY))
    await verdicts(t, h, (h.to("/api/v1"), h.to("/api/v23")), (h.to("/api/vx"), h.to("/api/v1/x")))


@case("HR-03")
async def it_begins_where_the_path_begins(t: Trial) -> None:
    h = await opened(t, Match("one", "/metrics", ANY))
    await verdicts(t, h, (h.to("/metrics"),), (h.to("/x/metrics"),))


@case("HR-04")
async def it_may_end_before_the_path_ends(t: Trial) -> None:
    h = await opened(t, Match("one", "/metrics", ANY))
    await verdicts(t, h, (h.to("/metrics"), h.to("/metrics/sub"), h.to("/metricsfoo")), (h.to("/metric"),))


@case("HR-05")
async def the_query(t: Trial) -> None:
    h = await opened(t, Match("one", "/list$", ANY), Match("two", "/only\\?x=1", ANY))
    async with t.provisional("query"):
        await t.allowed(h.who("alice"), h.to("/list"))
        with_query, by_query = await answer(t, h, h.to("/list?x=1")), await answer(t, h, h.to("/only?x=1"))
        reading = {(True, False): "not part", (False, True): "part"}
        t.reading("query", reading.get((with_query, by_query), f"mixed: {with_query}, {by_query}"))


@case("HR-06")
async def only_listed_methods_are_open(t: Trial) -> None:
    h = await opened(t, Match("one", "/get$", ("GET",)), Match("two", "/both$", ("GET", "HEAD")))
    allowed = (h.to("/get"), h.to("/both"))
    await verdicts(t, h, allowed, (h.to("/get", method="POST"), h.to("/both", method="PUT")))
    await _head(t, h, "/both")


async def _head(t: Trial, h: House, path: str) -> None:
    replies = await t.eventually(
        h.who("alice"), h.to(path, method="HEAD"), lambda reply: reply.status == 200, "HEAD is allowed", k=3
    )
    received = {item.token: item.method for item in await t.received(replies)}
    t.check(received == {reply.token: "HEAD" for reply in replies}, "a HEAD request did not arrive as one")


@case("HR-07")
async def a_star_is_every_method(t: Trial) -> None:
    h = await opened(t, Match("one", "/any$", ANY), Match("two", "/get$", ("GET",)))
    methods = ("GET", "PUT", "POST", "DELETE", "OPTIONS", "PATCH")
    await verdicts(t, h, tuple(h.to("/any", method=method) for method in methods), (h.to("/get", method="PUT"),))
    await _head(t, h, "/any")
    for method in ("CONNECT", "TRACE"):  # which proxies treat in ways of their own
        replies = await t.send(h.who("alice"), h.to("/any", method=method), Batch(n=2, concurrency=1, timeout=1.0))
        t.notes.observed[method] = str(replies[-1])
    await t.apply(h.routes(Match("ok", "/ok$", ANY), Match("one", ".*", ANY)))
    for req in (h.to("/get", method="PUT"), h.to("/other/path?x=1", method="DELETE")):
        await t.allowed(h.who("alice"), req)


@case("HR-08")
async def of_several_matches_one_is_enough(t: Trial) -> None:
    h = await opened(t, Match("one", "/a$", ("GET",)), Match("two", "/b$", ("POST",)))
    denied = (h.to("/a", method="POST"), h.to("/b"))
    await verdicts(t, h, (h.to("/a"), h.to("/b", method="POST")), denied)


@case("HR-09")
async def a_rule_that_names_a_match_opens_that_one(t: Trial) -> None:
    h = await house(t)
    routes = h.routes(Match("ok", "/ok$", ANY), Match("secret", "/secret$", ANY))
    await t.apply(routes, h.target(rules=(Rule(routes.name, matches=("ok",)),)))
    await verdicts(t, h, (h.to("/ok"),), (h.to("/secret"),))


@case("HR-10")
async def headers_of_one_match_must_all_be_there(t: Trial) -> None:
    h = await opened(t, Match("one", "/h$", ANY, (("x-a", "1"), ("x-b", "2"))))
    both = (("x-a", "1"), ("x-b", "2"))
    denied = (h.to("/h", headers=both[:1]), h.to("/h", headers=both[1:]), h.to("/h"))
    await verdicts(t, h, (h.to("/h", headers=both),), denied)


@case("HR-11")
async def headers_of_different_matches_are_alternatives(t: Trial) -> None:
    h = await opened(t, Match("one", "/h$", ANY, (("x-a", "1"),)), Match("two", "/h$", ANY, (("x-b", "2"),)))
    allowed = (h.to("/h", headers=(("x-a", "1"),)), h.to("/h", headers=(("x-b", "2"),)))
    await verdicts(t, h, allowed, (h.to("/h", headers=(("x-a", "2"),)),))


@case("HR-12")
async def a_header_expression_picks_a_cookie(t: Trial) -> None:
    pattern = "^(.*?;)?(type=insider)(;.*)?$"
    h = await opened(t, Match("one", "/h$", ANY, (("cookie", pattern),)))
    allowed = tuple(h.to("/h", headers=(("cookie", value),)) for value in ("a=1;type=insider", "type=insider"))
    denied = (h.to("/h", headers=(("cookie", "type=insiderx"),)), h.to("/h"))
    await verdicts(t, h, allowed, denied)


@case("HR-13")
async def path_methods_and_headers_must_all_fit(t: Trial) -> None:
    h = await opened(t, Match("one", "/h$", ("GET",), (("x-a", "1"),)))
    good = (("x-a", "1"),)
    denied = (h.to("/h"), h.to("/h", method="POST", headers=good), h.to("/other", headers=good))
    await verdicts(t, h, (h.to("/h", headers=good),), denied)


@case("HR-14")
async def headers_alone_fit_any_path_and_method(t: Trial) -> None:
    h = await opened(t, Match("one", headers=(("x-a", "1"),)))
    good = (("x-a", "1"),)
    allowed = (h.to("/any", headers=good), h.to("/other", method="DELETE", headers=good))
    await verdicts(t, h, allowed, (h.to("/any"),))


@case("HR-15")
async def a_path_alone_and_methods_alone(t: Trial) -> None:
    h = await opened(t, Match("one", "/p$"), Match("two", None, ("PATCH",)))
    async with t.provisional("pathOnly"):
        await t.allowed(h.who("alice"), h.to("/p", method="DELETE"))
        t.reading("pathOnly", "any method")
    async with t.provisional("methodsOnly"):
        await t.allowed(h.who("alice"), h.to("/whatever", method="PATCH"))
        t.reading("methodsOnly", "any path")


@case("HR-16")
async def headers_where_there_are_none_never_widen(t: Trial) -> None:
    h = await house(t)
    plain = h.routes(Match("one", "/h$", ANY), name="narrow")
    narrow = h.target(rules=(Rule(plain.name),), name="narrow")
    await t.apply(h.routes(Match("ok", "/ok$", ANY)), h.target(), plain, narrow)
    alice = h.who("alice")
    await t.allowed(alice, h.to("/h"))  # it has arrived, and without the headers it is open
    manifest = t.manifest(plain)
    manifest["matches"][0]["headers"] = {"x-a": "1"}
    accepted = (await t.try_apply(manifest))[0].accepted
    if not accepted:
        await t.delete(narrow)
    await t.denied(alice, h.to("/h"), (alice, h.to("/ok")))
    honoured = await answer(t, h, h.to("/h", headers=(("x-a", "1"),)))
    t.notes.observed["headers"] = "rejected" if not accepted else "honoured" if honoured else "granting nothing"


@case("HR-17")
async def header_expressions_and_forbidden_headers(t: Trial) -> None:
    h = await opened(t, Match("one", "/h$", ANY, (("x-a", "t|True"),)))
    async with t.provisional("wholeValue"):
        await t.allowed(h.who("alice"), h.to("/h", headers=(("x-a", "t"),)))
        searched = await answer(t, h, h.to("/h", headers=(("x-a", "true"),)))
        t.reading("wholeValue", "no" if searched else "yes")
    for key, header in (("hostFilter", "host"), ("pseudoFilter", ":path")):
        async with t.provisional(key):
            group = h.routes(Match("one", f"/{key}$", ANY, ((header, ".*"),)), name=key.lower())
            accepted = (await t.try_apply(group))[0].accepted
            if accepted:
                await t.apply(h.target(rules=(Rule(group.name),), name=key.lower()))
                await h.settle("carol")
            works = accepted and await answer(t, h, h.to(f"/{key}"))
            t.reading(key, "works" if works else "refused")


@case("HR-18")
async def http2_and_grpc_are_matched_the_same(t: Trial) -> None:
    h = await opened(t, Match("one", "/shop.Shop/Get$", ANY), Match("two", "/two$", ANY))
    grpc = h.to("/shop.Shop/Get", kind="grpc")
    allowed = (h.to("/two", kind="h2c"), grpc)
    await verdicts(t, h, allowed, (h.to("/shop.Shop/Put", kind="grpc"), h.to("/three", kind="h2c")))


@case("HR-19")
async def editing_a_group_is_enough_and_a_bad_expression_opens_nothing(t: Trial) -> None:
    h = await opened(t, Match("one", "/old$", ANY))
    alice, control = h.who("alice"), (h.who("alice"), h.to("/ok"))
    await t.allowed(alice, h.to("/old"))
    await t.apply(h.routes(Match("ok", "/ok$", ANY), Match("one", "/new$", ANY)))
    await t.allowed(alice, h.to("/new"))
    await t.denied(alice, h.to("/old"), control)
    broken = h.routes(Match("ok", "/ok$", ANY), Match("one", "/new(", ANY))
    if (await t.try_apply(broken))[0].accepted:
        await t.denied(alice, h.to("/new"), control)
        await t.not_received(alice, h.to("/new("), control)
        await t.said(broken, "pathRegex")
    else:
        t.notes.observed["bad expression"] = "rejected"


@case("HR-20")
async def a_closed_path_stays_closed_however_it_is_spelt(t: Trial) -> None:
    h = await opened(t, Match("one", "/public", ANY))
    alice, control = h.who("alice"), (h.who("alice"), h.to("/ok"))
    await t.allowed(alice, h.to("/public/x"))
    await t.denied(alice, h.to("/secret"), control)
    sent: dict[str, str] = {}
    replies: list[Reply] = []
    for path in ("//secret", "/public/../secret", "/public/%2e%2e/secret", "/public%2F..%2Fsecret", "/./secret"):
        some = await t.send(alice, h.to(path), _few())
        sent |= {reply.token: path for reply in some}
        replies += some
        t.notes.observed[path] = str(some[0])
    arrived = await t.arrived(replies, control)
    spelt = [item for item in arrived if posixpath.normpath(unquote(item.path)).lstrip("/") == "secret"]
    t.check(not spelt, "".join(f"{sent[item.token]} arrived as {item.path}" for item in spelt[:1]))


def _few() -> Batch:
    return Batch(n=5, concurrency=1)
