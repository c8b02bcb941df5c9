"""TrafficSplit: weights, who is split, ports, and the life of a split (TS-01 to TS-26)."""

from __future__ import annotations

from dataclasses import replace

from smi_conformance.layouts import HTTP, PLAIN, SHOP, VISITORS, server, shop
from smi_conformance.model import Service, ServicePort, Split
from smi_conformance.protocol import App, Batch, Reply, Req
from smi_conformance.registry import case
from smi_conformance.trial import Trial

BOTH = (ServicePort(8080), ServicePort(8081))


@case("TS-01")
async def a_root_without_split_is_served_by_its_own_pods(t: Trial) -> None:
    place = await t.place(SHOP, enforced=False)
    name = t.name("root")
    await t.apply(Service(name, place.namespace, (("group", "shop"),), HTTP))
    await t.reaches(place["client"], _to(place.namespace, name), "base", "v1", "v2")


def _to(namespace: str, name: str, port: int = 8080) -> Req:
    return Req(f"{namespace}/{name}", port)


@case("TS-02")
async def weights_divide_nine_to_one(t: Trial) -> None:
    s = await shop(t)
    await t.apply(s.split({"v1": 90, "v2": 10}))
    await t.shares(s.client, s.to(), {"v1": 0.9, "v2": 0.1})


@case("TS-03")
async def quantities_of_thousandths(t: Trial) -> None:
    s = await shop(t)
    # All three servers are backends: the root's own pods are none, so that whatever leaks to them fails.
    await t.apply(s.service("v3", "base"), replace(s.service("root"), selector=(("app", "nobody"),)))
    await t.eventually(s.client, s.to(), lambda reply: not reply.ok, "a root without pods answers nothing", k=5)
    await t.apply(s.split({"v1": "10m", "v2": "100m", "v3": "1500m"}))
    total = 1610
    await t.shares(s.client, s.to(), {"v1": 10 / total, "v2": 100 / total, "base": 1500 / total}, n=4000)


@case("TS-04")
async def a_half_is_half_of_one(t: Trial) -> None:
    s = await shop(t)
    await t.apply(s.split({"v1": "1", "v2": "500m"}))
    await t.shares(s.client, s.to(), {"v1": 2 / 3, "v2": 1 / 3})


@case("TS-05")
async def weights_need_not_add_up_to_a_hundred(t: Trial) -> None:
    s = await shop(t)
    await t.apply(s.split({"v1": 1000, "v2": 500}))
    await t.shares(s.client, s.to(), {"v1": 2 / 3, "v2": 1 / 3})


@case("TS-06")
async def a_single_backend_gets_everything(t: Trial) -> None:
    s = await shop(t)
    await t.apply(s.split({"v1": 1}))
    await t.shares(s.client, s.to(), {"v1": 1.0, "base": 0.0, "v2": 0.0})


@case("TS-07")
async def weight_zero_gets_nothing(t: Trial) -> None:
    s = await shop(t)
    await t.apply(s.split({"v1": 1, "v2": "0m" if t.version == "v1alpha1" else 0}))
    await t.shares(s.client, s.to(), {"v1": 1.0, "v2": 0.0, "base": 0.0})


@case("TS-08")
async def weight_zero_may_name_what_does_not_exist(t: Trial) -> None:
    s = await shop(t)
    await t.apply(s.split({"v1": 100, "v3": 0}))
    await t.shares(s.client, s.to(), {"v1": 1.0, "base": 0.0}, n=500, note="before")
    await t.apply(s.service("v3", "v2"))
    await t.reaches(s.client, s.to("v3"), "v2", k=5)
    await t.shares(s.client, s.to(), {"v1": 1.0, "v2": 0.0, "base": 0.0}, note="after")


@case("TS-09")
async def pods_of_a_backend_may_match_the_roots_selector(t: Trial) -> None:
    s = await shop(t)
    await t.apply(replace(s.service("root"), selector=(("group", "shop"),)))
    await t.reaches(s.client, s.to(), "base", "v1", "v2")
    await t.apply(s.split({"v1": 100, "v2": 0}))
    await t.shares(s.client, s.to(), {"v1": 1.0, "v2": 0.0, "base": 0.0})


@case("TS-10", first=True)
async def weight_belongs_to_the_service(t: Trial) -> None:
    replicas = 3 if t.rules.quick else 9
    layout = (SHOP[0], server("base"), server("v1"), server("many", replicas=replicas))
    place = await t.place(layout, enforced=False)
    ns, root, one, many = place.namespace, t.name("root"), t.name("one"), t.name("many")
    await t.apply(
        Service(root, ns, (("app", "base"),), HTTP),
        Service(one, ns, (("app", "v1"),), HTTP),
        Service(many, ns, (("app", "many"),), HTTP),
    )
    await t.reaches(place["client"], _to(ns, root), "base", k=5)
    await t.apply(Split(t.name("split"), ns, root, ((one, 50), (many, 50))))
    await t.shares(place["client"], _to(ns, root), {"v1": 0.5, "many": 0.5})
    pods = [pod.name for pod in await t.pods(place["many"])]
    what = f"all {replicas} pods of the larger backend answer"
    await t.eventually(place["client"], _to(ns, root), lambda reply: reply.ok, what, see=pods)


@case("TS-11")
async def the_ratio_holds_for_each_client(t: Trial) -> None:
    s = await shop(t)
    await t.apply(s.split({"v1": 75, "v2": 25}))
    await t.shares(s.client, s.to(), {"v1": 0.75, "v2": 0.25}, note="client")
    await t.shares(s.place["base"], s.to(), {"v1": 0.75, "v2": 0.25}, note="another")


@case("TS-12")
async def a_leaf_called_directly_is_not_split(t: Trial) -> None:
    s = await shop(t)
    await t.apply(s.split({"v1": 50, "v2": 50}))
    await t.reaches(s.client, s.to(), "v1", "v2")
    await t.shares(s.client, s.to("v1"), {"v1": 1.0, "v2": 0.0}, n=500, note="v1")
    await t.shares(s.client, s.to("v2"), {"v2": 1.0, "v1": 0.0}, n=500, note="v2")


@case("TS-13")
async def a_client_outside_finds_the_plain_service(t: Trial) -> None:
    place = await t.place(PLAIN, enforced=False)
    ns, root, leaf = place.namespace, t.name("root"), t.name("leaf")
    await t.apply(Service(root, ns, (("app", "base"),), HTTP), Service(leaf, ns, (("app", "v1"),), HTTP))
    outside, _ = await t.deploy(place, App("outside", meshed=False))
    await t.reaches(place["client"], _to(ns, root), "base", k=5)
    await t.apply(Split(t.name("split"), ns, root, ((leaf, 100),)))
    await t.reaches(place["client"], _to(ns, root), "v1")
    await t.shares(outside, _to(ns, root), {"base": 1.0, "v1": 0.0}, n=500)


@case("TS-14")
async def the_full_name_is_split(t: Trial) -> None:
    s = await shop(t)
    await t.apply(s.split({"v1": 100}))
    full = f"{s.names['root']}.{s.ns}.svc.cluster.local"
    await t.reaches(s.client, s.to(host=full), "v1")
    await t.reaches(s.client, s.to(host=f"{full}:8080"), "v1")


@case("TS-15")
async def short_names_are_split_and_a_foreign_host_is_not_followed(t: Trial) -> None:
    s = await shop(t)
    other = t.name("second")
    await t.apply(
        Service(other, s.ns, (("app", "base"),), HTTP),
        s.split({"v1": 100}),
        Split(t.name("other"), s.ns, other, ((s.names["v2"], 100),)),
    )
    root = s.names["root"]
    for host in (root, f"{root}.{s.ns}", f"{root}.{s.ns}.svc"):
        await t.reaches(s.client, s.to(host=host), "v1", k=5)
    await t.reaches(s.client, Req(f"{s.ns}/{other}"), "v2", k=5)
    counts = await t.sample(s.client, s.to(host=f"{other}.{s.ns}"), t.rules.size(400))
    t.check(set(counts) == {"v1"}, f"with another root's Host header: {dict(counts)}")


@case("TS-16")
async def clients_of_another_namespace_get_the_split(t: Trial) -> None:
    s = await shop(t)
    elsewhere = await t.place(VISITORS, enforced=False)
    await t.reaches(elsewhere["client"], s.to(), "base", k=5)
    await t.apply(s.split({"v1": 90, "v2": 10}))
    await t.shares(elsewhere["client"], s.to(), {"v1": 0.9, "v2": 0.1})


@case("TS-17")
async def same_names_elsewhere_are_others(t: Trial) -> None:
    s = await shop(t)
    elsewhere = await t.place(SHOP, enforced=False)
    ns = elsewhere.namespace
    backend = s.service("v3", "v1")
    await t.apply(backend, *(replace(item, namespace=ns) for item in (s.service("root", "base"), backend)))
    await t.reaches(s.client, _to(ns, s.names["root"]), "base", k=5)
    split = s.split({"v3": 100})
    await t.apply(split)

    def here(reply: Reply) -> bool:
        return reply.ok and reply.app == "v1" and reply.backend["ns"] == s.ns

    await t.eventually(s.client, s.to(), here, "the split reaches its own namespace only")
    counts = await t.sample(s.client, _to(ns, s.names["root"]), t.rules.size(400))
    t.check(set(counts) == {"base"}, f"the other namespace's root: {dict(counts)}")
    await t.delete(split)
    await t.reaches(s.client, s.to(), "base", k=5)
    async with t.provisional("crossNamespaceBackend"):
        far = Split(t.name("far"), s.ns, s.names["root"], ((f"{s.names['v3']}.{ns}", 100),))
        refused = not (await t.try_apply(far))[0].accepted
        await s.settle()
        counts = await t.sample(s.client, s.to(), 100)
        crossed = any(name == "v1" for name in counts)
        if not refused and not crossed and t.needs("events", observed=True):
            await t.said(far)
        t.reading("crossNamespaceBackend", "followed" if crossed else "refused")
        await t.delete(far)
    async with t.provisional("crossNamespaceRoot"):
        far = Split(t.name("far"), s.ns, f"{s.names['root']}.{ns}", ((s.names["v3"], 100),))
        refused = not (await t.try_apply(far))[0].accepted
        await s.settle()
        counts = await t.sample(s.client, _to(ns, s.names["root"]), 100)
        if not refused and set(counts) == {"base"} and t.needs("events", observed=True):
            await t.said(far)
        t.reading("crossNamespaceRoot", "refused" if set(counts) == {"base"} else "followed")


@case("TS-18")
async def every_port_of_the_root_is_split(t: Trial) -> None:
    s = await shop(t, ports=BOTH)
    await t.apply(s.split({"v1": 75, "v2": 25}))
    for port in (8080, 8081):
        await t.shares(s.client, s.to(port=port), {"v1": 0.75, "v2": 0.25}, note=f"port {port}")


@case("TS-19")
async def backends_have_target_ports_of_their_own(t: Trial) -> None:
    s = await shop(t, backends={"v2": (ServicePort(8080, 8081),)})
    await t.apply(s.split({"v1": 50, "v2": 50}))
    await t.shares(s.client, s.to(), {"v1": 0.5, "v2": 0.5})
    replies = await t.send(s.client, s.to(), Batch(n=100))
    ports = {(reply.app, reply.backend["port"]) for reply in replies if reply.ok}
    t.check(ports == {("v1", 8080), ("v2", 8081)}, f"the requests came in at {sorted(ports)}")


@case("TS-20")
async def a_backend_without_the_port_number_is_left_out(t: Trial) -> None:
    root = (ServicePort(8080, name="http-web"), ServicePort(8081, name="http-more"))
    s = await shop(t, ports=root, backends={"v2": (ServicePort(8081, 8081, "http-web"),)})
    await t.apply(s.split({"v1": 50, "v2": 50}))
    await t.shares(s.client, s.to(port=8081), {"v1": 0.5, "v2": 0.5}, note="port 8081")
    await t.shares(s.client, s.to(port=8080), {"v1": 1.0, "v2": 0.0, "base": 0.0}, note="port 8080")


@case("TS-21")
async def a_backend_left_out_is_reported(t: Trial) -> None:
    s = await shop(t, ports=BOTH, backends={"v2": (ServicePort(8081),)})
    split = s.split({"v1": 50, "v2": 50})
    await t.apply(split)
    await t.said(split, "8080", s.names["v2"])


@case("TS-22")
async def ports_by_number_or_by_name(t: Trial) -> None:
    s = await shop(t, backends={"v2": (ServicePort(8080, name="http-other"),)})
    async with t.provisional("otherPortName"):
        await t.apply(s.split({"v1": 50, "v2": 50}))
        await t.reaches(s.client, s.to(), "v1", "v2")
        t.reading("otherPortName", "included")
    async with t.provisional("noBackendHasPort"):
        lonely = t.name("lonely")
        split = Split(t.name("none"), s.ns, lonely, ((s.names["v1"], 100),))
        await t.apply(Service(lonely, s.ns, (("app", "base"),), (ServicePort(8081),)))
        await t.reaches(s.client, Req(f"{s.ns}/{lonely}", 8081), "base", k=5)
        await t.apply(split)
        what = "the root's port fails"
        bad = await t.eventually(s.client, Req(f"{s.ns}/{lonely}", 8081), lambda reply: not reply.ok, what)
        await t.said(split, "8081")
        t.reading("noBackendHasPort", f"{bad[-1].status or bad[-1].outcome} and said")


@case("TS-23")
async def a_backends_own_split_is_not_followed(t: Trial) -> None:
    s = await shop(t)
    await t.apply(s.split({"v1": 100}), s.split({"v2": 100}, name="second", root="v1"))
    await t.reaches(s.client, s.to("v1"), "v2")
    await t.shares(s.client, s.to(), {"v1": 1.0, "v2": 0.0, "base": 0.0})


@case("TS-24")
async def a_root_as_backend_and_a_cycle(t: Trial) -> None:
    s = await shop(t)
    split = s.split({"root": 50, "v1": 50})
    async with t.provisional("rootAsBackend"):
        await t.apply(split)
        await t.shares(s.client, s.to(), {"base": 0.5, "v1": 0.5})
        t.reading("rootAsBackend", "own endpoints")
    await t.delete(split)
    async with t.provisional("cycle"):
        first, second = s.split({"v2": 100}, name="first", root="v1"), s.split({"v1": 100}, name="second", root="v2")
        await t.apply(first, second)
        await t.reaches(s.client, s.to("v1"), "v2")
        await t.reaches(s.client, s.to("v2"), "v1")
        await t.said(first, s.names["v2"])
        t.reading("cycle", "not followed and said")


@case("TS-25")
async def an_update_moves_all_traffic(t: Trial) -> None:
    s = await shop(t)
    split = s.split({"v1": 100, "v2": 0})
    await t.apply(split)
    await t.shares(s.client, s.to(), {"v1": 1.0, "v2": 0.0, "base": 0.0}, n=500, note="first")
    await t.apply(replace(split, backends=((s.names["v1"], 0), (s.names["v2"], 100))))
    await t.shares(s.client, s.to(), {"v2": 1.0, "v1": 0.0, "base": 0.0}, n=500, note="moved")
    await t.apply(replace(split, backends=((s.names["v1"], 1), (s.names["v2"], 1))))
    await t.reaches(s.client, s.to(), "v1", "v2")
    await t.apply(replace(split, backends=((s.names["v1"], 1),)))
    await t.shares(s.client, s.to(), {"v1": 1.0, "v2": 0.0, "base": 0.0}, n=500, note="taken off")


@case("TS-26")
async def a_deleted_split_gives_the_root_back(t: Trial) -> None:
    s = await shop(t)
    split = s.split({"v1": 100})
    await t.apply(split)
    await t.reaches(s.client, s.to(), "v1")
    await t.delete(split)
    await t.shares(s.client, s.to(), {"base": 1.0, "v1": 0.0, "v2": 0.0}, n=500)
