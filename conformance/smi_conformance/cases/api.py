"""The API itself: what is served, accepted, refused, and means the same in every version (API-01 to API-10)."""

from __future__ import annotations

from dataclasses import replace

from smi_conformance import catalog, model
from smi_conformance.catalog import GROUPS
from smi_conformance.layouts import house, shop
from smi_conformance.model import Binding, Match, Routes, Rule, Split, Subject, Target, TcpRoute, UdpRoute, versions_for
from smi_conformance.registry import case
from smi_conformance.render import Manifest, render
from smi_conformance.trial import Failure, Trial

ANY = ("*",)


def shapes(t: Trial, namespace: str) -> list[Manifest]:
    """Return one object of each kind and shape that the documents of these versions show."""
    old = t.versions.specs == "v1alpha1"
    matches = [Match("metrics", "/metrics", ("GET",)), Match("health", "/ping", ANY)]
    if not old:
        matches.append(Match("agent", None, None, (("user-agent", ".*Browser.*"),)))
        matches.append(Match("both", ".*", ANY, (("x-one", "1"), ("x-two", "2"))))
    sources = (Subject("service-b"), Subject("service-c"))
    rules = (Rule("the-routes", matches=("metrics",)),)
    objects: list[model.Obj] = [
        Routes("the-routes", namespace, tuple(matches)),
        TcpRoute("tcp-route", namespace, (8080,) if t.versions.specs == "v1alpha4" else None),
        Target("path-specific", namespace, Subject("service-a"), sources, rules),
        Target(
            "everything", namespace, Subject("service-a"), sources, (Rule("the-routes"), Rule("tcp-route", "TCPRoute"))
        ),
    ]
    weights: tuple[tuple[str, model.Weight], ...] = (("website-v1", 80), ("website-v2", 20))
    if t.versions.split == "v1alpha1":
        weights = (("website-v1", "1"), ("website-v2", "500m"))
    objects.append(Split("canary", namespace, "website", weights))
    if t.versions.split in {"v1alpha3", "v1alpha4"}:
        objects.append(Split("ab", namespace, "website", weights, ("the-routes",)))
    if t.versions.access in {"v1alpha1", "v1alpha2"}:
        objects.append(Target("with-port", namespace, Subject("service-a"), sources, rules, 8080))
    if t.versions.specs == "v1alpha4":
        objects.append(UdpRoute("udp-route", namespace, (989, 990)))
        objects.append(Binding("service-a", namespace, service_account="service-a"))
        objects.append(Binding("labels", namespace, selector=(("app", "service-a"),)))
        objects.append(Binding("ids", namespace, spiffe=(f"cluster.local/ns/{namespace}/sa/service-a",)))
    return [t.manifest(obj) for obj in objects]


@case("API-01")
async def what_is_claimed_is_served(t: Trial) -> None:
    place = await t.place((), enforced=False)
    for group, name in GROUPS.items():
        version = getattr(t.versions, group, "")
        if version:
            t.check(version in t.harness.served.get(name, ()), f"{name}/{version} is not served")
    for manifest in shapes(t, place.namespace):
        result = (await t.try_apply(manifest))[0]
        t.check(result.accepted, f"{manifest['kind']} {manifest['metadata']['name']}: {result.code} {result.message}")
        if t.needs("api", observed=True):
            found = await t.harness.get(manifest)
            t.check(found is not None, f"{manifest['kind']} could not be read back in its namespace")


@case("API-02")
async def the_documents_shapes_are_accepted(t: Trial) -> None:
    place = await t.place((), enforced=False)
    for manifest in shapes(t, place.namespace):
        result = (await t.harness.apply([manifest], dry_run=True))[0]
        name = f"{manifest['apiVersion']} {manifest['kind']} {manifest['metadata']['name']}"
        t.check(result.accepted, f"{name}: {result.code} {result.message}")
    if not catalog.entries()["API-02"].has("provisional", t.version):
        return  # the top level is where they stand there
    async with t.provisional("topLevelMatches"):
        group = t.manifest(Routes("old-shape", place.namespace, (Match("metrics", "/metrics", ("GET",)),)))
        group["matches"] = group.pop("spec")["matches"]
        result = (await t.harness.apply([group], dry_run=True))[0]
        t.reading("topLevelMatches", "accepted" if result.accepted else f"refused: {result.message}")


@case("API-03")
async def an_update_under_another_version_means_the_same(t: Trial) -> None:
    s = await shop(t)
    split = s.split({"v1": 2, "v2": 1})
    await t.apply(split)
    await t.shares(s.client, s.to(), {"v1": 2 / 3, "v2": 1 / 3}, n=1000, note=t.version)
    for number, version in enumerate(t.harness.served.get(GROUPS["split"], ())):
        weights = (
            ((s.names["v1"], 1), (s.names["v2"], 3)) if number % 2 == 0 else ((s.names["v1"], 3), (s.names["v2"], 1))
        )
        other = render(replace(split, backends=weights), versions_for("split", version))
        await t.apply(other)
        shares = {"v1": 0.25, "v2": 0.75} if number % 2 == 0 else {"v1": 0.75, "v2": 0.25}
        await t.comes_near(s.client, s.to(), shares)
        await t.shares(s.client, s.to(), shares, n=1000, note=f"then {version}")


@case("API-04")
async def quantities_keep_their_ratio(t: Trial) -> None:
    s = await shop(t)
    for number, (one, two) in enumerate((("1", "500m"), ("500m", "1"), ("1000m", "0.5"))):
        await t.apply(s.split({"v1": one, "v2": two}))
        more = {"v1": 2 / 3, "v2": 1 / 3} if number != 1 else {"v1": 1 / 3, "v2": 2 / 3}
        await t.comes_near(s.client, s.to(), more)
        await t.shares(s.client, s.to(), more, n=1000, note=f"{one} and {two}")
    if t.needs("api"):
        split = t.manifest(s.split({"v1": "1", "v2": "100"}))
        await t.apply(split)
        found = await t.harness.get(split)
        weights = [str(item["weight"]) for item in (found or {}).get("spec", {}).get("backends", ())]
        t.check(weights == ["1", "100"], f"whole numbers came back as {weights}")


@case("API-05")
async def headers_as_a_map_and_as_a_list(t: Trial) -> None:
    h = await house(t)
    alice, both = h.who("alice"), (("x-a", "1"), ("x-b", "2"))
    for key, as_list in (("map", False), ("list", True)):
        async with t.provisional(key):
            group = replace(h.routes(Match("one", f"/{key}$", ANY, both), name=key), headers_as_list=as_list)
            if not (await t.try_apply(group))[0].accepted:
                t.reading(key, "refused")
                continue
            await t.apply(h.target(rules=(Rule(group.name),), name=key))
            await t.allowed(alice, h.to(f"/{key}", headers=both))
            await t.denied(alice, h.to(f"/{key}", headers=both[:1]), (alice, h.to(f"/{key}", headers=both)))
            t.reading(key, "and")


@case("API-06")
async def a_target_without_port_is_accepted(t: Trial) -> None:
    h = await house(t)
    await t.apply(h.everything(), h.target(port=None))
    await t.allowed(h.who("alice"), h.to())


@case("API-07")
async def routes_without_ports_are_accepted(t: Trial) -> None:
    place = await t.place((), enforced=False)
    for kind in (TcpRoute, UdpRoute):
        for ports in ((), None):
            manifest = t.manifest(kind(t.name("route"), place.namespace, ports))
            result = (await t.harness.apply([manifest], dry_run=True))[0]
            t.check(result.accepted, f"{manifest['kind']} with {manifest['spec']}: {result.message}")


@case("API-08")
async def an_incomplete_split_is_refused_or_inert(t: Trial) -> None:
    s = await shop(t)
    whole = t.manifest(s.split({"v1": 100}))
    for missing in ("service", "backends"):
        manifest = {**whole, "spec": {key: value for key, value in whole["spec"].items() if key != missing}}
        if (await t.try_apply(manifest))[0].accepted:
            await t.said(manifest)
            await t.shares(s.client, s.to(), {"base": 1.0, "v1": 0.0}, n=300, note=f"without {missing}")
        else:
            t.notes.observed[f"without {missing}"] = "refused"


@case("API-09")
async def a_weight_is_never_rounded(t: Trial) -> None:
    s = await shop(t)
    for weight in (1.5, -1, "10"):
        split = s.split({"v1": weight, "v2": 1}, name="odd")
        manifest = t.manifest(split)
        manifest["spec"]["backends"][0]["weight"] = weight
        if not (await t.try_apply(manifest))[0].accepted:
            t.notes.observed[str(weight)] = "refused"
            continue
        await t.said(manifest)
        counts = await t.sample(s.client, s.to(), 200)
        t.check("v1" not in counts, f"weight {weight!r}: its backend got {counts['v1']} of 200")
        t.notes.observed[str(weight)] = dict(counts)
        await t.delete(manifest)
        await t.reaches(s.client, s.to(), "base", k=5)


@case("API-10")
async def a_binding_of_two_exclusive_schemes(t: Trial) -> None:
    h = await house(t)
    both = Binding(t.name("both"), h.ns, service_account="alice", selector=(("app", "alice"),))
    async with t.provisional("selectorAndAccount"):
        accepted = (await t.try_apply(both))[0].accepted
        source = Subject(both.name, "", "IdentityBinding", "access.smi-spec.io")
        target = replace(h.target(), sources=(source, Subject("bob")))
        await t.apply(h.everything(), target)
        await t.allowed(h.who("bob"), h.to())
        counts = await t.sample(h.who("alice"), h.to(), 20)
        if "api" in counts:
            raise Failure("it grants")
        if accepted:
            await t.said(both)
        t.reading("selectorAndAccount", "grants nothing" if accepted else "rejected")
