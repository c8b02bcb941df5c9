"""TrafficTarget: who gets in, and who never does (TT-01 to TT-28)."""

from __future__ import annotations

import contextlib
import itertools
import time
from dataclasses import replace

from smi_conformance import catalog
from smi_conformance.layouts import HTTP, PORTS, TWIN, VISITORS, House, house
from smi_conformance.model import Match, Routes, Rule, ServicePort, Subject, Target, TcpRoute
from smi_conformance.protocol import App, Batch, Reply, Req
from smi_conformance.registry import case
from smi_conformance.trial import Trial

ANY = ("*",)
BOTH = (ServicePort(8080), ServicePort(8081))
TCP = (ServicePort(8080), ServicePort(9000, protocol="tcp"), ServicePort(9001, protocol="tcp"))


async def granted(t: Trial, *sources: str, ports: tuple[ServicePort, ...] = HTTP, more: tuple[App, ...] = ()) -> House:
    """Let these sources (alice, unless told) in everywhere."""
    h = await house(t, ports=ports, more=more)
    await t.apply(h.everything(), h.target(sources or ("alice",)))
    return h


@case("TT-01")
async def without_a_target_nobody_gets_in(t: Trial) -> None:
    h = await house(t)
    await t.apply(h.everything(), h.target(destination="web"))
    control = (h.who("alice"), h.to(service="web"))
    await t.denied(h.who("alice"), h.to(), control)
    await t.denied(h.who("bob"), h.to(), control)


@case("TT-02")
async def a_listed_source_gets_in(t: Trial) -> None:
    h = await granted(t)
    await t.reaches(h.who("alice"), h.to(), "api")


@case("TT-03")
async def another_source_does_not(t: Trial) -> None:
    h = await granted(t)
    await t.denied(h.who("bob"), h.to(), (h.who("alice"), h.to()))


@case("TT-04")
async def another_route_is_closed(t: Trial) -> None:
    h = await house(t)
    await t.apply(h.routes(Match("one", "/open$", ANY)), h.target())
    await t.denied(h.who("alice"), h.to("/closed"), (h.who("alice"), h.to("/open")))


@case("TT-05")
async def several_sources(t: Trial) -> None:
    h = await granted(t, "alice", "bob")
    await t.allowed(h.who("alice"), h.to())
    await t.allowed(h.who("bob"), h.to())
    await t.denied(h.who("carol"), h.to(), (h.who("bob"), h.to()))


@case("TT-06")
async def several_targets_add_up_exactly(t: Trial) -> None:
    h = await house(t, ports=BOTH)
    first, second = h.routes(Match("x", "/x$", ANY), name="first"), h.routes(Match("y", "/y$", ANY), name="second")
    one = h.target(("alice",), (Rule(first.name),), name="one")
    two = h.target(("alice", "bob"), (Rule(second.name),), name="two")
    await t.apply(first, second, one, two)
    alice, bob = h.who("alice"), h.who("bob")
    await t.allowed(alice, h.to("/x"))
    await t.allowed(alice, h.to("/y"))
    await t.denied(bob, h.to("/x"), (bob, h.to("/y")))
    await t.delete(one)
    await t.denied(alice, h.to("/x"), (alice, h.to("/y")))
    if t.versions.specs == "v1alpha4":
        await _no_cross_product(t, h, one, two)


async def _no_cross_product(t: Trial, h: House, one: Target, two: Target) -> None:
    """Port 8080 with /x and port 8081 with /y never open /y on port 8080."""
    left, right = h.tcp("left", (8080,)), h.tcp("right", (8081,))
    alice = h.who("alice")
    await t.apply(
        left,
        right,
        replace(one, rules=(*(one.rules or ()), Rule(left.name, "TCPRoute"))),
        replace(two, rules=(*(two.rules or ()), Rule(right.name, "TCPRoute"))),
    )
    await t.allowed(alice, h.to("/x"))
    await t.allowed(alice, h.to("/y", port=8081))
    await t.denied(alice, h.to("/y"), (alice, h.to("/x")))
    await t.denied(alice, h.to("/x", port=8081), (alice, h.to("/y", port=8081)))


@case("TT-07")
async def a_deleted_target_closes_and_a_dropped_source_is_out(t: Trial) -> None:
    h = await granted(t, "alice", "bob")
    await t.apply(h.target(("carol",), destination="web", name="other"))
    await t.allowed(h.who("alice"), h.to())
    await t.allowed(h.who("bob"), h.to())
    await t.apply(h.target(("alice",)))
    await t.denied(h.who("bob"), h.to(), (h.who("alice"), h.to()))
    await t.delete(h.target(("alice",)))
    await t.denied(h.who("alice"), h.to(), (h.who("carol"), h.to(service="web")))


@case("TT-08")
async def a_destination_is_every_pod_of_the_account(t: Trial) -> None:
    h = await granted(t, more=(TWIN,))
    await t.apply(h.service("other", "twin"))
    await t.reaches(h.who("alice"), h.to(), "api")
    await t.reaches(h.who("alice"), h.to(service="other"), "twin")
    await t.denied(h.who("bob"), h.to(service="other"), (h.who("alice"), h.to(service="other")))


@case("TT-09")
async def other_pods_behind_the_same_service_stay_closed(t: Trial) -> None:
    h = await granted(t)
    await t.apply(h.service("both", labels=(("group", "house"),)))
    alice, req = h.who("alice"), h.to(service="both")
    await t.allowed(alice, h.to())
    await t.eventually(alice, req, lambda reply: reply.app != "web", "only the open pods answer", see=("api",))
    replies = await t.send(alice, req, Batch(n=t.rules.size(400), concurrency=8))
    received = await t.received(replies)
    apps = {item.app for item in received}
    t.check(apps == {"api"}, f"requests arrived at {sorted(apps)}")
    failed = sum(not reply.ok for reply in replies)
    t.notes.observed["failed"] = f"{failed} of {len(replies)}"


@case("TT-10")
async def the_same_account_elsewhere_is_somebody_else(t: Trial) -> None:
    h = await granted(t)
    elsewhere = await t.place(VISITORS, enforced=True)
    await t.denied(elsewhere["alice"], h.to(), (h.who("alice"), h.to()))
    target = h.target()
    named = replace(target, sources=(Subject("alice"), Subject("alice", elsewhere.namespace)))
    await t.apply(named)
    await t.allowed(elsewhere["alice"], h.to())
    await t.denied(elsewhere["client"], h.to(), (elsewhere["alice"], h.to()))


@case("TT-11")
async def a_rule_without_matches_opens_the_group(t: Trial) -> None:
    h = await house(t)
    await t.apply(h.routes(Match("a", "/a$", ANY), Match("b", "/b$", ANY)), h.target())
    alice = h.who("alice")
    await t.allowed(alice, h.to("/a"))
    await t.allowed(alice, h.to("/b"))
    await t.denied(alice, h.to("/c"), (alice, h.to("/a")))


@case("TT-12")
async def a_port_restricts_the_target(t: Trial) -> None:
    h = await house(t, ports=BOTH)
    await t.apply(h.everything(), h.target(port=8080))
    alice = h.who("alice")
    await t.denied(alice, h.to(port=8081), (alice, h.to(port=8080)))


@case("TT-13")
async def a_target_without_port_opens_all(t: Trial) -> None:
    h = await granted(t, ports=BOTH)
    await t.allowed(h.who("alice"), h.to(port=8080))
    await t.allowed(h.who("alice"), h.to(port=8081))


@case("TT-14")
async def the_documents_shop_scenario(t: Trial) -> None:
    """Serve /api to the website and /metrics to the monitor, who may only GET; nobody else gets anything."""
    h = await house(t, ports=BOTH)
    routes = h.routes(Match("metrics", "/metrics", ("GET",)), Match("api", "/api", ("GET", "POST")))
    extra = []
    narrow: tuple[Rule, ...] = ()
    if t.versions.specs == "v1alpha4":
        extra, narrow = [h.tcp("port", (8080,))], (Rule(t.name("port"), "TCPRoute"),)
    by_port = 8080 if t.versions.access in {"v1alpha1", "v1alpha2"} else None
    monitor = h.target(("alice",), (Rule(routes.name, matches=("metrics",)), *narrow), name="monitor", port=by_port)
    website = h.target(("bob",), (Rule(routes.name, matches=("api",)), *narrow), name="website", port=by_port)
    await t.apply(routes, *extra, monitor, website)
    control = (h.who("bob"), h.to("/api"))
    await t.allowed(h.who("alice"), h.to("/metrics"))
    await t.allowed(*control)
    open_to = {("alice", "/metrics", "GET"), ("bob", "/api", "GET"), ("bob", "/api", "POST")}
    clients, paths, methods = ("alice", "bob", "carol"), ("/metrics", "/api"), ("GET", "POST", "PUT", "DELETE")
    cells = {
        (who, path, method): await t.send(h.who(who), h.to(path, method=method), Batch(n=5, concurrency=2))
        for who, path, method in itertools.product(clients, paths, methods)
    }
    arrived = {item.token for item in await t.arrived(list(itertools.chain(*cells.values())), control)}
    for (who, path, method), replies in cells.items():
        expected, came = (who, path, method) in open_to, sum(reply.token in arrived for reply in replies)
        right = all(reply.ok == expected for reply in replies)
        t.check(right and bool(came) == expected, f"{who} {method} {path}: {replies[0]}, {came} arrived")
    await t.denied(h.who("bob"), h.to("/api", port=8081), control)
    await t.denied(h.who("carol"), h.to("/api"), control)


@case("TT-15")
async def enforcement_is_the_servers(t: Trial) -> None:
    h = await granted(t)
    control = (h.who("alice"), h.to())
    await t.allowed(*control)
    outside, _ = await t.deploy(h.place, App("outside", meshed=False))
    await t.denied(outside, h.to(), control)
    if t.needs("bypass"):
        await t.denied(h.who("bob"), h.to(bypass=True), control)
        await t.denied(h.who("alice"), h.to(bypass=True), control)


@case("TT-16")
async def every_way_to_a_pod_is_guarded(t: Trial) -> None:
    h = await granted(t, more=(TWIN,))
    control = (h.who("alice"), h.to())
    await t.apply(h.service("both", "api"), h.service("other", "twin"))
    await t.allowed(*control)
    for service, name in (("both", "api"), ("other", "twin")):
        await t.allowed(h.who("alice"), h.to(service=service))  # or nobody would get in by that way
        await t.denied(h.who("bob"), h.to(service=service), control)
        (pod,) = await t.pods(h.who(name))
        there = Req(pod=pod.address, port=8080)
        # Not every mesh lets its own clients in by that way; where one does, they are the control.
        works = all(reply.ok for reply in await t.send(h.who("alice"), there, Batch(n=3, timeout=2.0)))
        await t.denied(h.who("bob"), there, (h.who("alice"), there) if works else control)
        t.notes.observed[f"{name} by its address"] = "works for alice" if works else "denied to alice, too"


@case("TT-17")
async def an_empty_target_opens_nothing(t: Trial) -> None:
    h = await granted(t, "carol")
    control = (h.who("carol"), h.to())
    bob = h.who("bob")
    provisional = catalog.entries()["TT-17"].has("provisional", t.version)
    for key, target in (
        ("emptySources", replace(h.target(), name=t.name("empty"), sources=())),
        ("emptySources", replace(h.target(), name=t.name("absent"), sources=None)),
        ("emptyRules", replace(h.target(), name=t.name("none"), rules=())),
        ("emptyRules", replace(h.target(), name=t.name("norules"), rules=None)),
    ):
        # That it has arrived is seen by what it opened before.
        await t.apply(replace(h.target(("bob",)), name=target.name))
        await t.allowed(bob, h.to())
        accepted = (await t.try_apply(target))[0].accepted
        async with t.provisional(key) if provisional else contextlib.nullcontext():
            if accepted:
                await t.closed(bob, h.to())
                await t.denied(h.who("alice"), h.to(), control)
            if provisional:
                t.reading(key, "nothing")
        await t.delete(target)
        await t.closed(bob, h.to(), k=5)  # or the next one, which lets bob in first, could be this one


@case("TT-18")
async def a_missing_reference_opens_nothing(t: Trial) -> None:
    h = await house(t)
    routes = h.routes(Match("ok", "/ok$", ANY), Match("two", "/two$", ANY))
    rules = (Rule(routes.name, matches=("ok",)), Rule(t.name("absent")), Rule(routes.name, matches=("absent",)))
    await t.apply(routes, h.target(rules=rules))
    alice = h.who("alice")
    control = (alice, h.to("/ok"))
    await t.denied(alice, h.to("/two"), control)
    await t.not_received(alice, h.to("/other"), control)
    async with t.provisional("missingTcpRoute"):
        both = h.target(("bob",), (Rule(routes.name),), name="both")
        await t.apply(both)
        await t.allowed(h.who("bob"), h.to("/ok"))
        await t.apply(replace(both, rules=(Rule(routes.name), Rule(t.name("gone"), "TCPRoute"))))
        await t.denied(h.who("bob"), h.to("/ok"), control)
        t.reading("missingTcpRoute", "nothing")


@case("TT-19")
async def a_target_waits_for_what_it_refers_to(t: Trial) -> None:
    h = await house(t)
    late = App("late", "", "late", (("app", "late"),), PORTS)
    await t.apply(h.target(), replace(h.target(name="early"), destination=Subject("late")))
    await t.closed(h.who("alice"), h.to())
    await t.apply(h.everything())
    await t.allowed(h.who("alice"), h.to())
    await t.deploy(h.place, late)
    await t.apply(h.service("other", "late"))
    await t.reaches(h.who("alice"), h.to(service="other"), "late", k=5)


@case("TT-20")
async def a_namespace_left_out(t: Trial) -> None:
    h = await house(t)
    target = h.target()
    await t.apply(h.everything())
    async with t.provisional("source"):
        await t.apply(replace(target, sources=(Subject("alice", None),)))
        await t.allowed(h.who("alice"), h.to())
        t.reading("source", "the target's")
    await t.delete(target)
    await t.closed(h.who("alice"), h.to())
    async with t.provisional("destination"):
        await t.apply(replace(target, destination=Subject("api", None)))
        await t.allowed(h.who("alice"), h.to())
        t.reading("destination", "the target's")


@case("TT-21")
async def routes_are_those_of_the_targets_namespace(t: Trial) -> None:
    h = await house(t)
    elsewhere = await t.place(VISITORS, enforced=True)
    far = replace(h.routes(Match("far", "/far$", ANY)), namespace=elsewhere.namespace)
    await t.apply(far, h.routes(Match("ok", "/ok$", ANY)), h.target())
    await t.denied(h.who("alice"), h.to("/far"), (h.who("alice"), h.to("/ok")))


@case("TT-22")
async def accounts_remain_valid_beside_bindings(t: Trial) -> None:
    h = await granted(t)
    control = (h.who("alice"), h.to())
    await t.allowed(*control)
    async with t.provisional("unknownKind"):
        known = h.target(("bob",), name="strange")
        await t.apply(known)
        await t.allowed(h.who("bob"), h.to())
        target = replace(known, sources=(Subject("bob", kind="Group"),))
        if (await t.try_apply(target))[0].accepted:
            await t.denied(h.who("bob"), h.to(), control)
            if t.needs("events", observed=True):
                await t.said(target, "Group")
        t.reading("unknownKind", "grants nothing")


@case("TT-23")
async def no_header_makes_a_client_somebody_else(t: Trial) -> None:
    h = await granted(t)
    control = (h.who("alice"), h.to())
    await t.allowed(*control)
    await t.alive(h.who("bob"), control)
    identity = f"spiffe://{t.trust_domain}/ns/{h.ns}/sa/alice"
    for name, value in (
        ("x-forwarded-client-cert", f"By={identity};Hash=0;URI={identity}"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-spiffe-id", identity),
        ("l5d-client-id", f"alice.{h.ns}.serviceaccount.identity.linkerd.cluster.local"),
    ):
        await t.not_received(h.who("bob"), h.to(headers=((name, value),)), control)


@case("TT-24")
async def a_target_elsewhere_opens_nothing(t: Trial) -> None:
    h = await house(t)
    elsewhere = await t.place(VISITORS, enforced=True)
    ns = elsewhere.namespace
    await t.apply(  # first, so that it has had its time when the control works
        Routes(t.name("routes"), ns, (Match("all", ".*", ANY),)),
        Target(t.name("far"), ns, Subject("api", h.ns), (Subject("alice"),), (Rule(t.name("routes")),)),
    )
    await t.apply(h.everything(), h.target(("bob",)))
    await t.denied(elsewhere["alice"], h.to(), (h.who("bob"), h.to()))


@case("TT-25")
async def pods_come_and_change_their_identity(t: Trial) -> None:
    h = await granted(t)
    alice = h.who("alice")
    await t.allowed(alice, h.to())
    twin = TWIN
    await t.deploy(h.place, twin)
    await t.apply(h.service("other", "twin"))
    await t.allowed(alice, h.to(service="other"))
    _, pods = await t.deploy(h.place, replace(twin, replicas=2))

    def second(reply: Reply) -> bool:
        return reply.ok

    replies = await t.eventually(alice, h.to(service="other"), second, "both pods answer", k=40)
    names = {str(reply.backend["pod"]) for reply in replies}
    t.check(names == {pod.name for pod in pods}, f"only {sorted(names)} answered")
    here, _ = await t.deploy(h.place, replace(twin, account="web"))
    await t.denied(alice, h.to(service="other"), (alice, h.to()))
    await t.undeploy(here)


@case("TT-26")
async def egress_and_probes(t: Trial) -> None:
    """Needs a kubelet and a host outside: while all is denied, a pod becomes and stays ready, and the outside answers.

    The kubelet asks that pod over HTTP each second, and finds it unready after three bad answers.
    """
    h = await house(t)
    probed, _ = await t.deploy(h.place, App("probed", "", "api", (("app", "probed"),), PORTS, probed=True))
    end = time.monotonic() + t.rules.deadline
    while not await t.harness.ready(probed):
        t.check(time.monotonic() < end, f"a pod with an HTTP probe was not ready within {t.rules.deadline:g} s")
        await t.pause(0.5)
    for _ in range(10):
        await t.pause(0.5)
        t.check(await t.harness.ready(probed), "a pod with an HTTP probe did not stay ready")
    host, _, port = str(t.harness.environment.get("egress", "example.org:80")).rpartition(":")

    def answered(reply: Reply) -> bool:  # by somebody who is none of our workloads
        return reply.outcome == "ok"

    outside = Req(pod=host, port=int(port), host=host)
    await t.eventually(h.who("alice"), outside, answered, f"the host outside ({host}:{port}) answers")


@case("TT-27")
async def what_a_denied_client_sees(t: Trial) -> None:
    h = await house(t, ports=TCP)
    routes = h.tcp()
    await t.apply(h.everything(), routes, h.target(("bob",), name="http"))
    await t.apply(h.target(("bob",), (Rule(routes.name, "TCPRoute"),), name="tcp"))
    async with t.provisional("http"):
        replies = await t.denied(h.who("alice"), h.to(), (h.who("bob"), h.to()))
        t.reading("http", str(replies[-1].status or replies[-1].outcome))
    if t.needs("tcp", observed=True):
        async with t.provisional("tcp"):
            control = (h.who("bob"), h.to(port=9000, kind="tcp"))
            replies = await t.denied(h.who("alice"), h.to(port=9000, kind="tcp"), control)
            seen = replies[-1].outcome
            t.reading("tcp", "closed" if seen in {"reset", "refused"} else seen)


@case("TT-28", first=True)
async def open_connections_at_revocation(t: Trial) -> None:
    h = await house(t, ports=TCP)
    tcp = TcpRoute(t.name("tcp"), h.ns)
    one, two = h.target(("alice",)), h.target(("alice",), (Rule(tcp.name, "TCPRoute"),), name="tcp")
    await t.apply(h.everything(), tcp, one, two, h.target(("bob",), name="bob"))
    alice = h.who("alice")
    await t.allowed(alice, h.to())
    raw = h.to(port=9000, kind="tcp")
    kept, held = f"keep-{t.serial}", f"tcp-{t.serial}"
    await t.send(alice, h.to(), Batch(n=2, kept=kept))
    if t.needs("tcp", observed=True):
        await t.allowed(alice, raw)
        await t.send(alice, raw, Batch(n=2, kept=held))
    await t.delete(one, two)
    await t.closed(alice, h.to())
    async with t.provisional("keepAlive"):
        reply = (await t.send(alice, h.to(), Batch(n=1, kept=kept)))[0]
        t.reading("keepAlive", "denied at the next request" if not reply.ok and reply.reused else f"{reply}")
    if t.needs("tcp", observed=True):
        async with t.provisional("tcp"):
            replies = await t.send(alice, raw, Batch(n=10, interval=1.0, kept=held, timeout=2.0))
            reused = [reply for reply in replies if reply.ok]
            t.reading("tcp", "closed" if len(reused) < len(replies) else "stays open")
