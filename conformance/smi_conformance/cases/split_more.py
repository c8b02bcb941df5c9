"""TrafficSplit: protocols, extremes, and what the specification leaves open (TS-27 to TS-39)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from smi_conformance.echo import PASS_ON
from smi_conformance.layouts import HTTP, Shop, server, shop
from smi_conformance.model import Match, Routes, Service, ServicePort, Split
from smi_conformance.protocol import Batch, Reply, Req
from smi_conformance.registry import case
from smi_conformance.statistics import windows
from smi_conformance.trial import Failure, Trial

TCP = (ServicePort(8080), ServicePort(9000, protocol="tcp"))


def failed(replies: Sequence[Reply]) -> Failure | None:
    """Return what to say about requests that failed, if any did."""
    bad = [reply for reply in replies if not reply.ok]
    return Failure(f"{len(bad)} of {len(replies)} requests failed, the first with: {bad[0]}") if bad else None


@case("TS-27")
async def a_whole_release_fails_no_request(t: Trial) -> None:
    s = await shop(t)
    split = s.split({"v1": 100, "v2": 0})
    one, two = s.names["v1"], s.names["v2"]
    async with t.load(s.client, s.to()) as replies:
        await t.apply(split)
        await t.reaches(s.client, s.to(), "v1", k=5)
        for backends, seen in (
            (((one, 2), (two, 1)), ("v1", "v2")),
            (((one, 0), (two, 1)), ("v2",)),
            (((two, 1),), ("v2",)),
        ):
            await t.apply(replace(split, backends=backends))
            await t.reaches(s.client, s.to(), *seen, k=10)
        await t.delete(split)
        await t.reaches(s.client, s.to(), "base", k=5)
    t.notes.observed["answered"] = dict(Counter(reply.app for reply in replies))
    if failure := failed(replies):
        raise failure


@case("TS-28")
async def requests_of_one_connection_are_divided(t: Trial) -> None:
    s = await shop(t)
    await t.apply(s.split({"v1": 50, "v2": 50}))
    await t.reaches(s.client, s.to(), "v1", "v2")
    for kind in ("http", "h2c"):
        replies = await t.send(s.client, s.to(kind=kind), Batch(n=200, kept=f"{kind}-{t.serial}"))
        counts = Counter(reply.app for reply in replies)
        t.notes.observed[kind] = dict(counts)
        reused = sum(reply.reused for reply in replies)
        t.check(reused >= 190, f"{kind}: the connection did not last ({reused} of 200 used it again)")
        t.check(
            set(counts) == {"v1", "v2"} and min(counts.values()) >= 40, f"{kind}: one connection got {dict(counts)}"
        )


@case("TS-29")
async def tcp_is_divided_by_connection(t: Trial) -> None:
    s = await shop(t, ports=TCP)
    raw = s.to(port=9000, kind="tcp")
    await t.reaches(s.client, raw, "base", k=5)
    await t.apply(s.split({"v1": 75, "v2": 25}))

    def backend(reply: Reply) -> bool:
        return reply.ok and reply.app in {"v1", "v2"}

    await t.eventually(s.client, raw, backend, "connections reach the backends", see=("v1", "v2"))
    n = t.rules.size(1200)
    replies = await t.send(s.client, raw, Batch(n=n, connection="new"))
    if failure := failed(replies):
        raise failure
    counts = Counter(reply.app for reply in replies)
    t.notes.observed["counts"] = dict(counts)
    for name, room in windows(n, {"v1": 0.75, "v2": 0.25}).items():
        t.check(counts[name] in room, f"{name} got {counts[name]} of {n}, accepted: {room.low} to {room.high}")
    held = await t.send(s.client, raw, Batch(n=20, kept=f"raw-{t.serial}"))
    t.check(len({reply.app for reply in held}) == 1, "one connection was answered by several backends")


@case("TS-30", first=True)
async def one_in_a_thousand_and_five_times_a_billion(t: Trial) -> None:
    s = await shop(t)
    split = s.split({"v1": 1, "v2": 999})
    await t.apply(split)
    await t.shares(s.client, s.to(), {"v1": 0.001, "v2": 0.999}, n=20000, note="1 of 1000")
    more = [t.name(f"b{number}") for number in range(5)]
    apps = ("v1", "v2", "v1", "v2", "v1")
    await t.delete(split)
    await t.apply(*(Service(name, s.ns, (("app", app),), HTTP) for name, app in zip(more, apps, strict=True)))
    await t.reaches(s.client, s.to(), "base", k=5)
    billion = 10**9
    await t.apply(replace(split, backends=tuple((name, billion) for name in more)))
    await t.shares(s.client, s.to(), {"v1": 0.6, "v2": 0.4, "base": 0.0}, note="five even ones")


@case("TS-31")
async def backends_of_other_types(t: Trial) -> None:
    s = await shop(t)
    for kind in ("NodePort", "LoadBalancer", "Headless"):
        name = t.name(kind.lower())
        await t.apply(
            Service(name, s.ns, (("app", "v2"),), HTTP, kind),
            Split(t.name("split"), s.ns, s.names["root"], ((name, 100),)),
        )
        await t.reaches(s.client, s.to(), "v2")
        await t.apply(Split(t.name("split"), s.ns, s.names["root"], ((s.names["v1"], 100),)))
        await t.reaches(s.client, s.to(), "v1")


@case("TS-32", first=True)
async def the_ratio_holds_while_pods_come_and_go(t: Trial) -> None:
    s = await shop(t)
    third = server("v3")
    await t.deploy(s.place, third)
    await t.apply(s.service("v3", "v3"), s.split({"v1": 50, "v3": 50, "v2": 0}))
    expected = {"v1": 0.5, "v3": 0.5, "v2": 0.0}
    await t.shares(s.client, s.to(), expected, n=1000, note="one pod")
    _, pods = await t.deploy(s.place, replace(third, replicas=3))
    names = {pod.name for pod in pods}

    def everyone(reply: Reply) -> bool:
        return reply.ok

    replies = await t.eventually(s.client, s.to("v3"), everyone, "all pods answer", k=60)
    t.check({str(reply.backend["pod"]) for reply in replies} == names, "not every pod answers after scaling up")
    await t.shares(s.client, s.to(), expected, n=1000, note="three pods")
    here, _ = await t.deploy(s.place, third)
    await t.shares(s.client, s.to(), expected, n=1000, note="one again")
    await t.undeploy(here)
    await t.deploy(s.place, third)
    await t.shares(s.client, s.to(), expected, n=1000, note="replaced")


@case("TS-33")
async def grpc_is_divided_by_call(t: Trial) -> None:
    s = await shop(t)
    call = s.to(kind="grpc", path="/shop.Shop/Get")
    await t.reaches(s.client, call, "base", k=5)
    await t.apply(s.split({"v1": 90, "v2": 10}))
    await t.shares(s.client, call, {"v1": 0.9, "v2": 0.1})


@case("TS-34")
async def an_ingress_controller_is_a_client(t: Trial) -> None:
    """Let a workload of the mesh pass requests on to the root, as an ingress controller inside of the mesh does.

    No real controller is asked: how it is told to call the root differs from one to the other, and is no part of SMI.
    """
    s = await shop(t)
    ingress, _ = await t.deploy(s.place, server("ingress"))
    name = t.name("ingress")
    await t.apply(Service(name, s.ns, (("app", "ingress"),), HTTP))
    await t.reaches(s.client, Req(f"{s.ns}/{name}"), "ingress", k=5)
    host, port = await t.harness.address(ingress, f"{s.ns}/{s.names['root']}", 8080)
    through = Req(f"{s.ns}/{name}", headers=((PASS_ON, f"{host}:{port}"),))
    await t.reaches(s.client, through, "base", k=5)
    await t.apply(s.split({"v1": 90, "v2": 10}))
    await t.shares(s.client, through, {"v1": 0.9, "v2": 0.1})


@case("TS-35")
async def all_zero_and_listed_twice(t: Trial) -> None:
    s = await shop(t)
    split = s.split({"v1": 0, "v2": 0})
    async with t.provisional("allZero"):
        await t.apply(split)
        bad = await t.eventually(s.client, s.to(), lambda reply: not reply.ok, "the root fails")
        await t.said(split, "weight")
        t.reading("allZero", f"{bad[-1].status or bad[-1].outcome} and said")
    async with t.provisional("duplicates"):
        backends = ((s.names["v1"], 25), (s.names["v2"], 50), (s.names["v1"], 25))
        await t.apply(replace(split, backends=backends))
        await t.shares(s.client, s.to(), {"v1": 0.5, "v2": 0.5})
        await t.said(split, s.names["v1"])
        t.reading("duplicates", "summed and said")


async def _missing_only(t: Trial, s: Shop, split: Split) -> None:
    async with t.provisional("onlyMissing"):
        await t.apply(replace(split, backends=((s.names["v3"], 100),)))
        bad = await t.eventually(s.client, s.to(), lambda reply: not reply.ok, "the root fails")
        t.reading("onlyMissing", str(bad[-1].status or bad[-1].outcome))


@case("TS-36")
async def a_missing_backend_and_one_without_pods(t: Trial) -> None:
    s = await shop(t)
    split = s.split({"v1": 50, "v3": 50})
    async with t.provisional("missing"):
        await t.apply(split)
        await t.shares(s.client, s.to(), {"v1": 1.0, "base": 0.0}, n=500)
        await t.said(split, s.names["v3"])
        t.reading("missing", "excluded and said")
    await _missing_only(t, s, split)
    async with t.provisional("noEndpoints"):
        # First with a pod: that it lost that one is seen, whatever becomes of its share.
        await t.apply(s.service("v3", "v2"), replace(split, backends=((s.names["v1"], 50), (s.names["v3"], 50))))
        await t.reaches(s.client, s.to(), "v1", "v2")
        await t.apply(replace(s.service("v3"), selector=(("app", "nobody"),)))

        def either(reply: Reply) -> bool:
            return reply.app == "v1" or not reply.ok

        await t.eventually(s.client, s.to(), either, "only v1 answers", see=("v1",))
        counts = await t.sample(s.client, s.to(), t.rules.samples)
        t.notes.observed["noEndpoints"] = dict(counts)
        lost = {name: count for name, count in counts.items() if name != "v1"}
        share = sum(lost.values()) / t.rules.samples
        even = 0.4 < share < 0.6
        t.reading("noEndpoints", f"its share gets {next(iter(lost))}" if even else f"{share:.0%} fail: {lost}")


@case("TS-37")
async def two_splits_of_one_root(t: Trial) -> None:
    s = await shop(t)
    first, second = s.split({"v1": 100}, name="z-first"), s.split({"v2": 100}, name="a-second")
    async with t.provisional("age"):
        await t.apply(first)
        await t.reaches(s.client, s.to(), "v1")
        await t.pause(2.1)  # creationTimestamp has whole seconds
        await t.apply(second)
        await t.said(second, first.name)
        counts = await t.sample(s.client, s.to(), 200)
        t.reading("age", "oldest, loser told" if set(counts) == {"v1"} else f"{dict(counts)}")
    await t.delete(first, second)
    await t.reaches(s.client, s.to(), "base", k=5)
    async with t.provisional("name"):
        await t.pause(1.0 - time.time() % 1.0)  # both in one second
        one, two = s.split({"v1": 100}, name="a-name"), s.split({"v2": 100}, name="b-name")
        await t.apply(two, one)  # or what comes first by name would be what was written first
        await t.eventually(s.client, s.to(), lambda reply: reply.ok and reply.app != "base", "one of them counts")
        await t.said(two, one.name)
        counts = await t.sample(s.client, s.to(), 200)
        t.reading("name", "first name, loser told" if set(counts) == {"v1"} else f"{dict(counts)}")
    if t.versions.split in {"v1alpha3", "v1alpha4"} and t.serves("specs"):
        await t.delete(one, two)
        await t.reaches(s.client, s.to(), "base", k=5)
        await _matches_first(t, s)


async def _matches_first(t: Trial, s: Shop) -> None:
    """Write the one with `matches` last: it is the younger one and the later one by name."""
    async with t.provisional("matches"):
        group = Routes(t.name("group"), s.ns, (Match("flagged", headers=(("x-user", "tester"),)),))
        await t.apply(group, s.split({"v1": 100}, name="a-plain"))
        await t.reaches(s.client, s.to(), "v1")
        await t.apply(s.split({"v2": 100}, (group.name,), name="z-matching"))
        await t.reaches(s.client, s.to(headers=(("x-user", "tester"),)), "v2")
        await t.reaches(s.client, s.to(), "v1", k=5)
        t.reading("matches", "before those without")


@case("TS-38")
async def a_service_that_is_no_plain_name(t: Trial) -> None:
    s = await shop(t)
    root = s.names["root"]
    for number, form in enumerate((f"{root}.{s.ns}", f"{root}.{s.ns}.svc", f"{root}.{s.ns}.svc.cluster.local")):
        async with t.provisional("fqdn"):
            split = Split(t.name(f"fqdn{number}"), s.ns, form, ((s.names["v1"], 100),))
            await t.apply(split)
            await t.reaches(s.client, s.to(), "v1", k=5)
            t.reading("fqdn", "accepted")
            await t.delete(split)
            await t.reaches(s.client, s.to(), "base", k=5)
    async with t.provisional("host"):
        split = Split(root, s.ns, "shop.example.com", ((s.names["v1"], 100),))
        await t.apply(split)
        await t.reaches(s.client, s.to(host="shop.example.com"), "v1", k=5)
        t.reading("host", "extra domain")
        t.notes.observed["the root itself"] = dict(await t.sample(s.client, s.to(), 50))
        await t.delete(split)
        for req in (s.to(), s.to(host="shop.example.com")):  # or what comes next would see the end of this one
            await t.eventually(s.client, req, lambda reply: reply.app != "v1", "the extra domain is gone", k=5)
    async with t.provisional("unknownHost"):
        split = Split(t.name("unknown"), s.ns, "other.example.com", ((s.names["v1"], 100),))
        accepted = (await t.try_apply(split))[0].accepted
        if accepted:
            await t.said(split, "other.example.com")
        counts = await t.sample(s.client, s.to(host="other.example.com"), 50)
        t.reading("unknownHost", f"{dict(counts)}" if "v1" in counts else "not accepted and said")
        await t.delete(split)
    await _other_roots(t, s)


async def _other_roots(t: Trial, s: Shop) -> None:
    async with t.provisional("absentRoot"):
        root = t.name("absent")
        split = Split(t.name("early"), s.ns, root, ((s.names["v1"], 100),))
        if not (await t.try_apply(split))[0].accepted:
            t.reading("absentRoot", "refused")
        else:
            await t.apply(Service(root, s.ns, (("app", "base"),), HTTP))
            await t.reaches(s.client, _to(s, root), "v1", k=5)
            t.reading("absentRoot", "split once it exists")
    async with t.provisional("headlessRoot"):
        root = t.name("headless")
        await t.apply(Service(root, s.ns, (("app", "base"),), HTTP, "Headless"))
        await t.reaches(s.client, _to(s, root), "base", k=5)
        split = Split(t.name("headless"), s.ns, root, ((s.names["v1"], 100),))
        if not (await t.try_apply(split))[0].accepted:
            t.reading("headlessRoot", "refused")
        else:
            await t.reaches(s.client, _to(s, root), "v1", k=5)
            t.reading("headlessRoot", "split")


def _to(s: Shop, root: str) -> Req:
    return Req(f"{s.ns}/{root}")


@case("TS-39")
async def udp(t: Trial) -> None:
    s = await shop(t)
    root, leaf, ports = t.name("uroot"), t.name("uleaf"), (ServicePort(9003, protocol="udp"),)
    req = Req(f"{s.ns}/{root}", 9003, "udp")
    split = Split(t.name("split"), s.ns, root, ((leaf, 100),))
    await t.apply(Service(root, s.ns, (("app", "base"),), ports), Service(leaf, s.ns, (("app", "v2"),), ports))
    async with t.provisional("udp"):
        await t.reaches(s.client, req, "base", k=5)
        await t.apply(split)
        try:
            await t.reaches(s.client, req, "v2", k=5)
            t.reading("udp", "split")
        except Failure:
            await t.said(split)
            t.reading("udp", "not split and said")
