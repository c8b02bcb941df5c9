"""The API itself: what is served, accepted, refused, and means the same in every version (API-01 to API-10).

API-01, API-02, API-03 and API-08 are about several groups, of which an implementation may serve one alone: each part is
played for the groups that are there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from smi_conformance import catalog, model
from smi_conformance.catalog import GROUPS, GUARDED, Use, pairs
from smi_conformance.layouts import HTTP, House, house, shop
from smi_conformance.model import (
    Binding,
    Match,
    Routes,
    Rule,
    Service,
    Split,
    Subject,
    Target,
    TcpRoute,
    UdpRoute,
    Versions,
    versions_for,
)
from smi_conformance.protocol import App, Req
from smi_conformance.registry import case
from smi_conformance.render import Manifest, render
from smi_conformance.trial import Trial

ANY = ("*",)
VERSIONS = ("v1alpha1", "v1alpha2", "v1alpha3", "v1alpha4")
CONVERSION = "ApiConversion"
_KEPT = ("name", "namespace", "annotations")
"""What is written back of an object's metadata as it was read."""


def _splits(version: str, namespace: str) -> list[model.Obj]:
    weights: tuple[tuple[str, model.Weight], ...] = (("website-v1", 80), ("website-v2", 20))
    if version == "v1alpha1":
        weights = (("website-v1", "1"), ("website-v2", "500m"))
    found: list[model.Obj] = [Split("canary", namespace, "website", weights)]
    if version in {"v1alpha3", "v1alpha4"}:
        found.append(Split("ab", namespace, "website", weights, ("the-routes",)))
    return found


def _targets(version: str, namespace: str) -> list[model.Obj]:
    sources = (Subject("service-b"), Subject("service-c"))
    rules = (Rule("the-routes", matches=("metrics",)),)
    both = (Rule("the-routes"), Rule("tcp-route", "TCPRoute"))
    found: list[model.Obj] = [
        Target("path-specific", namespace, Subject("service-a"), sources, rules),
        Target("everything", namespace, Subject("service-a"), sources, both),
    ]
    if version in {"v1alpha1", "v1alpha2"}:
        found.append(Target("with-port", namespace, Subject("service-a"), sources, rules, 8080))
    if version == "v1alpha4":
        found.append(Binding("service-a", namespace, service_account="service-a"))
        found.append(Binding("labels", namespace, selector=(("app", "service-a"),)))
        found.append(Binding("ids", namespace, spiffe=(f"cluster.local/ns/{namespace}/sa/service-a",)))
    return found


def _routes(version: str, namespace: str) -> list[model.Obj]:
    matches = [Match("metrics", "/metrics", ("GET",)), Match("health", "/ping", ANY)]
    if version != "v1alpha1":
        matches.append(Match("agent", None, None, (("user-agent", ".*Browser.*"),)))
        matches.append(Match("both", ".*", ANY, (("x-one", "1"), ("x-two", "2"))))
    found: list[model.Obj] = [
        Routes("the-routes", namespace, tuple(matches)),
        TcpRoute("tcp-route", namespace, (8080,) if version == "v1alpha4" else None),
    ]
    if version == "v1alpha4":
        found.append(UdpRoute("udp-route", namespace, (989, 990)))
    return found


_SHAPES = {"split": _splits, "access": _targets, "specs": _routes}


def shapes(t: Trial, group: str, namespace: str) -> list[Manifest]:
    """Return one object of each kind and shape that the document of a group shows in this version."""
    as_list = t.harness.environment.get("headersEncoding") == "list"
    versions = versions_for(group, t.version)
    return [render(obj, versions, as_list) for obj in _SHAPES[group](t.version, namespace)]


def _there(t: Trial) -> Iterator[str]:
    """Return the groups that are served in this version; one that is claimed alone fails the case."""
    for group in _SHAPES:
        name = GROUPS[group]
        if t.serves(group):
            yield group
        else:
            t.check((name, t.version) not in t.claims.versions, f"{name}/{t.version} is not served")


@case("API-01")
async def what_is_claimed_is_served(t: Trial) -> None:
    place = await t.place((), enforced=False)
    for manifest in [item for group in list(_there(t)) for item in shapes(t, group, place.namespace)]:
        result = (await t.try_apply(manifest))[0]
        t.check(result.accepted, f"{manifest['kind']} {manifest['metadata']['name']}: {result.code} {result.message}")
        if t.needs("api", observed=True):
            found = await t.harness.get(manifest)
            t.check(found is not None, f"{manifest['kind']} could not be read back in its namespace")


@case("API-02")
async def the_documents_shapes_are_accepted(t: Trial) -> None:
    place = await t.place((), enforced=False)
    for manifest in [item for group in _SHAPES if t.serves(group) for item in shapes(t, group, place.namespace)]:
        result = (await t.harness.apply([manifest], dry_run=True))[0]
        name = f"{manifest['apiVersion']} {manifest['kind']} {manifest['metadata']['name']}"
        t.check(result.accepted, f"{name}: {result.code} {result.message}")
    if not catalog.entries()["API-02"].has("provisional", t.version) or not t.serves("specs"):
        return  # the top level is where they stand there
    async with t.provisional("topLevelMatches"):
        old = Routes("old-shape", place.namespace, (Match("metrics", "/metrics", ("GET",)),))
        group = render(old, versions_for("specs", t.version))
        group["matches"] = group.pop("spec")["matches"]
        result = (await t.harness.apply([group], dry_run=True))[0]
        t.reading("topLevelMatches", "accepted" if result.accepted else f"refused: {result.message}")


# ------------------------------------------------------------------------------------- an object and another version


@dataclass(frozen=True, slots=True)
class _Divided:
    """A root, the workload behind it, and two Services that a split may name, with the workloads behind those."""

    trial: Trial
    client: App
    root: Req
    own: str
    backends: tuple[str, str]
    apps: tuple[str, str]

    def split(self, *weights: int) -> Split:
        """Return a split of the root."""
        namespace, _, root = self.root.service.partition("/")
        return Split(self.trial.name("split"), namespace, root, tuple(zip(self.backends, weights, strict=False)))


async def _divided(t: Trial) -> _Divided:
    """Set up what a split divides: in a house with its doors open where access control is played too.

    Then it may be on for the whole mesh. What answers for the second backend also stands behind that root, so a test
    begins with the first.
    """
    served = pairs(t.harness.served)
    use, known = Use(("access", "specs"), VERSIONS), [t.version, *reversed(VERSIONS)]
    version = next((item for item in known if use.pairs(item, served) <= served), "")
    if not version or not GUARDED & set(t.claims.profiles):
        s = await shop(t)
        return _Divided(t, s.client, s.to(), "base", (s.names["v1"], s.names["v2"]), ("v1", "v2"))
    h = await house(t)
    root, open_ = t.name("root"), versions_for("access", version, served)
    doors = (h.target(name=f"to-{server}", destination=server) for server in ("api", "web"))
    grants = [render(item, open_) for item in (h.everything(), *doors)]
    await t.apply(Service(root, h.ns, (("app", "api"),), HTTP), *grants)
    found = Req(f"{h.ns}/{root}")
    await t.reaches(h.who("alice"), found, "api", k=5)
    await t.allowed(h.who("alice"), h.to(service="web"))
    return _Divided(t, h.who("alice"), found, "api", (h.names["web"], h.names["api"]), ("web", "api"))


def _others(t: Trial, group: str, own: str) -> list[str]:
    """Return the other versions of a group that are served."""
    return [version for version in t.harness.served.get(GROUPS[group], ()) if version != own and version in VERSIONS]


async def _read(t: Trial, obj: model.Obj, own: Versions, other: Versions) -> Manifest:
    """Read an object that was written under a version under another one, as it would be written back."""
    manifest, wanted = render(obj, own), render(obj, other)
    group, _, version = wanted["apiVersion"].partition("/")
    found = await t.harness.get(manifest, version)
    where = f"{manifest['kind']} of {manifest['apiVersion']} read under {version}"
    t.check(found is not None, f"{where}: it is not found")
    found = found or manifest
    t.check(found.get("apiVersion") == f"{group}/{version}", f"{where} says that it is {found.get('apiVersion')}")
    if CONVERSION in t.claims.features:
        body = _body(found)
        t.check(_holds(body, _body(wanted)), f"{where} is {body}, written there it would be {_body(wanted)}")
    metadata = {key: value for key, value in found["metadata"].items() if key in _KEPT}
    return {"apiVersion": found["apiVersion"], "kind": found["kind"], "metadata": metadata, **_body(found)}


def _body(manifest: Manifest) -> Manifest:
    return {key: value for key, value in manifest.items() if key not in {"apiVersion", "kind", "metadata", "status"}}


def _holds(found: Any, wanted: Any) -> bool:
    """Tell whether something is all there: fields may be more, lists are the same, a quantity may be a number."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(key in found and _holds(found[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        same = isinstance(found, list) and len(found) == len(wanted)
        return same and all(_holds(one, two) for one, two in zip(found, wanted, strict=True))
    return bool(str(found) == wanted if isinstance(wanted, str) else found == wanted)


@case("API-03", first=True)
async def every_version_means_the_same(t: Trial) -> None:
    others = 0
    if "SPLIT" in t.claims.profiles and t.serves("split"):
        others += len(_others(t, "split", t.version))
        await _split_under_others(t)
    if "ACCESS" in t.claims.profiles and t.serves("access", "specs"):
        others += len(_others(t, "access", t.version))
        await _grant_under_others(t)
    t.check(bool(others), f"{t.version} is the only version that is served")


async def _split_under_others(t: Trial) -> None:
    """Read a split under another version, write it back with its weights exchanged, then write it there anew."""
    d, own = await _divided(t), versions_for("split", t.version)
    for version in _others(t, "split", t.version):
        other, split = versions_for("split", version), d.split(1, 0)
        await t.apply(render(split, own))
        await t.reaches(d.client, d.root, d.apps[0])
        await t.apply(_exchanged(t, await _read(t, split, own, other)))
        await t.reaches(d.client, d.root, d.apps[1])
        await t.apply(render(d.split(1, 3), other))
        shares = {d.apps[0]: 0.25, d.apps[1]: 0.75}
        await t.shares(d.client, d.root, shares, n=1000, note=f"written under {version}")
    await t.delete(render(d.split(1), own))


def _exchanged(t: Trial, split: Manifest) -> Manifest:
    """Exchange the weights of two backends as they stand there, in whatever form."""
    backends, weights = split.get("spec", {}).get("backends", []), _weights(split)
    t.check(len(weights) == 2, f"{split['apiVersion']}: two backends with weights are {backends}")
    weights.reverse()
    changed = [{**item, "weight": weight} for item, weight in zip(backends, weights, strict=True)]
    return {**split, "spec": {**split["spec"], "backends": changed}}


def _weights(split: Manifest) -> list[Any]:
    """Return the weights of an object that an API made of a split; it may have lost them."""
    backends = split.get("spec", {}).get("backends", [])
    return [item["weight"] for item in backends if "weight" in item]


async def _grant_under_others(t: Trial) -> None:
    """Read a target under another version, write it back with another source; write its routes there anew.

    Whoever is let in then gets in nowhere but where these routes say.
    """
    served = pairs(t.harness.served)
    t.versions = own = versions_for("access", t.version, served)
    h = await house(t)
    guests, target = ["alice", "bob"], h.target(("alice",), (Rule(t.name("door")),), name="guest")
    door = h.routes(Match("door", "/first$", ANY), name="door")
    await t.apply(door, target)
    await t.allowed(h.who("alice"), h.to("/first"))
    targets, routes = _others(t, "access", own.access), _others(t, "specs", own.specs)
    for number in range(max(len(targets), len(routes))):
        before, path = door.matches[0].path or "", f"/door{number}"
        for version in routes[number : number + 1]:
            other = versions_for("specs", version)
            await _read(t, door, own, other)
            door = h.routes(Match("door", f"{path}$", ANY), name="door")
            await t.apply(render(door, other))
        for version in targets[number : number + 1]:
            found = await _read(t, target, own, versions_for("access", version))
            body = found.get("spec", found)
            t.check(len(body.get("sources", ())) == 1, f"a target of one source is {found} under {version}")
            guests.reverse()
            body["sources"] = [{**body["sources"][0], "name": guests[0]}]
            target = h.target((guests[0],), (Rule(door.name),), name="guest")
            await t.apply(found)
        inside = (door.matches[0].path or "").rstrip("$")
        await t.allowed(h.who(guests[0]), h.to(inside))
        await t.closed(h.who(guests[1]), h.to(inside), k=5)
        if inside != before.rstrip("$"):
            await t.closed(h.who(guests[0]), h.to(before.rstrip("$")), k=5)
    if "ACCESS-L4" in t.claims.profiles:
        await _tcp_route_under_others(t, h, own, routes)


async def _tcp_route_under_others(t: Trial, h: House, own: Versions, others: list[str]) -> None:
    """Read a TCP route under another version; the versions that have no ports in it are told no ports."""
    route = h.tcp("read")
    await t.apply(route)
    for version in others:
        await _read(t, route, own, versions_for("specs", version))


@case("API-04")
async def quantities_keep_their_ratio(t: Trial) -> None:
    s = await shop(t)
    for number, (one, two) in enumerate((("1", "500m"), ("500m", "1"), ("1000m", "0.5"))):
        await t.apply(s.split({"v1": one, "v2": two}))
        more = {"v1": 2 / 3, "v2": 1 / 3} if number != 1 else {"v1": 1 / 3, "v2": 2 / 3}
        await t.comes_near(s.client, s.to(), more)
        await t.shares(s.client, s.to(), more, n=1000, note=f"{one} and {two}")
    if not t.needs("api"):
        return
    stored = t.manifest(s.split({"v1": "1", "v2": "500m"}))
    await t.apply(stored)
    ratio = (2, 1)
    for version in _others(t, "split", t.version):
        found = await t.harness.get(stored, version)
        t.check(found is not None, f"the split can't be read under {version}")
        if wrong := _no_whole_numbers(t, found or stored, version, ratio):
            t.notes.failures["extended"] = wrong
        metadata = {key: value for key, value in (found or stored)["metadata"].items() if key in _KEPT}
        back = _exchanged(t, {**(found or stored), "metadata": metadata})
        if not (await t.try_apply(back))[0].accepted:  # what can't be written there keeps the ratio that it has
            t.notes.observed[f"written back under {version}"] = "refused"
            continue
        ratio = (ratio[1], ratio[0])
        shares = {"v1": ratio[0] / 3, "v2": ratio[1] / 3}
        await t.comes_near(s.client, s.to(), shares)
        await t.shares(s.client, s.to(), shares, n=1000, note=f"exchanged under {version}")
    split = t.manifest(s.split({"v1": "1", "v2": "100"}))
    await t.apply(split)
    found = await t.harness.get(split)
    weights = [str(item["weight"]) for item in (found or {}).get("spec", {}).get("backends", ())]
    t.check(weights == ["1", "100"], f"whole numbers came back as {weights}")


def _no_whole_numbers(t: Trial, split: Manifest, version: str, ratio: tuple[int, int]) -> str:
    """Return what is wrong with weights where whole numbers are written, which is a feature."""
    if CONVERSION not in t.claims.features or version == "v1alpha1":
        return ""
    weights = _weights(split)
    fine = [type(item) for item in weights] == [int, int] and min(weights) > 0
    if fine and weights[0] * ratio[1] == weights[1] * ratio[0]:
        return ""
    return f"{ratio[0]} to {ratio[1]} is {weights} under {version}"


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
async def what_is_incomplete_is_refused_or_inert(t: Trial) -> None:
    if "SPLIT" in t.claims.profiles and t.serves("split"):
        await _incomplete_splits(t)
    if "ACCESS" in t.claims.profiles and t.version in {"v1alpha3", "v1alpha4"} and t.serves("access", "specs"):
        t.versions = versions_for("access", t.version, pairs(t.harness.served))
        await _incomplete_targets(t)


async def _incomplete_splits(t: Trial) -> None:
    d = await _divided(t)
    whole = render(d.split(1), versions_for("split", t.version))
    for missing in ("service", "backends"):
        manifest = {**whole, "spec": {key: value for key, value in whole["spec"].items() if key != missing}}
        if not (await t.try_apply(manifest))[0].accepted:
            t.notes.observed[f"split without {missing}"] = "refused"
            continue
        await t.said(manifest, missing)
        await t.shares(d.client, d.root, {d.own: 1.0, d.apps[0]: 0.0}, n=300, note=f"split without {missing}")
        await t.apply(whole)  # the same object: nothing but what it lacked has kept it from counting
        await t.reaches(d.client, d.root, d.apps[0])
        await t.delete(whole)
        await t.reaches(d.client, d.root, d.own, k=5)


async def _incomplete_targets(t: Trial) -> None:
    """Take from a target that lets somebody in what it needs: that it has arrived is seen by what it opened before."""
    h = await house(t)
    bob, alice = h.who("bob"), h.who("alice")
    await t.apply(h.everything(), h.target(("bob",), name="control"))
    await t.allowed(bob, h.to())
    whole = t.manifest(h.target(name="part"))
    for missing in ("destination", "rules", "sources"):
        await t.apply(whole)
        await t.allowed(alice, h.to())
        manifest = {**whole, "spec": {key: value for key, value in whole["spec"].items() if key != missing}}
        if not (await t.try_apply(manifest))[0].accepted:
            await t.allowed(alice, h.to())
            t.notes.observed[f"target without {missing}"] = "refused"
            continue
        await t.said(manifest, missing)
        await t.closed(alice, h.to())
        await t.denied(alice, h.to(), (bob, h.to()))
        t.notes.observed[f"target without {missing}"] = "inert"


@case("API-09")
async def a_weight_is_never_rounded(t: Trial) -> None:
    """Edit a weight of zero: its backend got nothing before, and may get nothing after, whatever becomes of the rest.

    An implementation may keep the last good weights, or follow none. That the edit was read is seen by what is said
    about it; what it does may come after that, so the sample is spread over the quiet time.
    """
    s = await shop(t)
    for number, weight in enumerate((1.5, -1, "10")):
        split = s.split({"v1": 0, "v2": 1}, name=f"odd{number}")
        await t.apply(split)
        await t.reaches(s.client, s.to(), "v2", k=5)
        manifest = t.manifest(split)
        manifest["spec"]["backends"][0]["weight"] = weight
        if (await t.try_apply(manifest))[0].accepted:
            await t.said(manifest, "weight")
            counts = await t.sample(s.client, s.to(), 200, interval=t.rules.quiet / 200)
            t.check("v1" not in counts, f"weight {weight!r}: its backend got {counts['v1']} of 200")
            t.notes.observed[str(weight)] = dict(counts)
        else:
            await t.reaches(s.client, s.to(), "v2", k=5)
            t.notes.observed[str(weight)] = "refused"
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
        t.check("api" not in counts, "it grants")
        if accepted:
            await t.said(both, "serviceAccount")
        t.reading("selectorAndAccount", "grants nothing" if accepted else "rejected")
