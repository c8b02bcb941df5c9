"""IdentityBinding: who is meant by a name, labels or SPIFFE identities (IB-01 to IB-12)."""

from __future__ import annotations

from dataclasses import replace

from smi_conformance.layouts import PORTS, VISITORS, House, house
from smi_conformance.model import Binding, Match, Rule, Subject, Target
from smi_conformance.protocol import App, Req
from smi_conformance.registry import case
from smi_conformance.trial import Trial

GROUP = "access.smi-spec.io"
GOOD = (("ring", "gold"),)


def bound(name: str, namespace: str | None = "") -> Subject:
    """Return a reference to a binding."""
    return Subject(name, namespace, "IdentityBinding", GROUP)


async def bindings_house(t: Trial, *more: App) -> House:
    """Set the house up; bob always gets in, as the control."""
    h = await house(t, more=more)
    await t.apply(h.everything(), h.target(("bob",), name="control"))
    await t.allowed(h.who("bob"), h.to())
    return h


def target(h: House, *sources: Subject, destination: Subject | None = None) -> Target:
    """Return a target from bindings to the API."""
    return replace(h.target(name="bound"), sources=sources, destination=destination or Subject("api"))


async def control(h: House) -> tuple[App, Req]:
    """Return what always works."""
    return h.who("bob"), h.to()


@case("IB-01")
async def a_binding_stands_for_its_account(t: Trial) -> None:
    h = await bindings_house(t)
    source = Binding(t.name("source"), h.ns, service_account="alice")
    destination = Binding(t.name("api"), h.ns, service_account="api")
    await t.apply(source, destination, target(h, bound(source.name), destination=bound(destination.name)))
    await t.allowed(h.who("alice"), h.to())
    await t.denied(h.who("carol"), h.to(), await control(h))


# Two clients of one account, of which the first has a label.
PAIR = (App("gold", "", "twin", (("app", "gold"), *GOOD)), App("plain", "", "twin", (("app", "plain"),)))


@case("IB-02")
async def labelled_pods_get_in_and_others_of_the_account_do_not(t: Trial) -> None:
    h = await bindings_house(t, *PAIR)
    gold, plain = h.who("gold"), h.who("plain")
    source = Binding(t.name("source"), h.ns, selector=GOOD)
    await t.apply(source, target(h, bound(source.name)))
    await t.allowed(gold, h.to())
    await t.denied(plain, h.to(), await control(h))


@case("IB-03")
async def as_destination_labels_open_those_pods_only(t: Trial) -> None:
    h = await bindings_house(t)
    gold = App("goldapi", "", "twin", (("app", "goldapi"), ("group", "twin"), *GOOD), PORTS)
    plain = App("plainapi", "", "twin", (("app", "plainapi"), ("group", "twin")), PORTS)
    await t.deploy(h.place, gold)
    await t.deploy(h.place, plain)
    await t.apply(h.service("both", "goldapi"), h.service("other", "plainapi"))
    destination = Binding(t.name("dest"), h.ns, selector=GOOD)
    await t.apply(destination, target(h, Subject("alice"), destination=bound(destination.name)))
    await t.reaches(h.who("alice"), h.to(service="both"), "goldapi", k=10)
    await t.denied(h.who("alice"), h.to(service="other"), (h.who("alice"), h.to(service="both")))


@case("IB-04")
async def spiffe_identities(t: Trial) -> None:
    h = await bindings_house(t)
    path = f"{t.trust_domain}/ns/{h.ns}/sa/"
    source = Binding(t.name("source"), h.ns, spiffe=(f"{path}alice",))
    await t.apply(source, target(h, bound(source.name)))
    await t.allowed(h.who("alice"), h.to())
    await t.denied(h.who("carol"), h.to(), await control(h))
    async with t.provisional("withScheme"):
        await t.apply(replace(source, spiffe=(f"spiffe://{path}carol",)))
        await t.allowed(h.who("carol"), h.to())
        t.reading("withScheme", "works")
    async with t.provisional("otherNamespace"):
        elsewhere = await t.place(VISITORS, enforced=True)
        far = replace(source, spiffe=(f"{t.trust_domain}/ns/{elsewhere.namespace}/sa/alice",))
        accepted = (await t.try_apply(far))[0].accepted
        await t.closed(h.who("carol"), h.to())
        counts = await t.sample(elsewhere["alice"], h.to(), 20)
        if accepted and t.needs("events", observed=True) and "api" not in counts:
            await t.said(far)
        t.reading("otherNamespace", "works" if "api" in counts else "refused")


@case("IB-05")
async def a_federated_identity_is_not_the_local_one(t: Trial) -> None:
    h = await bindings_house(t)
    own = f"{t.trust_domain}/ns/{h.ns}/sa/carol"
    source = Binding(t.name("source"), h.ns, spiffe=(f"federated.example/ns/{h.ns}/sa/alice", own))
    await t.apply(source, target(h, bound(source.name)))
    await t.allowed(h.who("carol"), h.to())  # it has arrived
    await t.denied(h.who("alice"), h.to(), await control(h))
    t.needs(
        "spiffe"
    )  # that the federated one gets in is the other half: without a certificate of it nothing is verified


@case("IB-06")
async def schemes_are_alternatives(t: Trial) -> None:
    h = await bindings_house(t, *PAIR)
    source = Binding(t.name("source"), h.ns, service_account="alice", spiffe=(f"{t.trust_domain}/ns/{h.ns}/sa/carol",))
    await t.apply(source, target(h, bound(source.name)))
    await t.allowed(h.who("alice"), h.to())
    await t.allowed(h.who("carol"), h.to())
    gold, plain = h.who("gold"), h.who("plain")
    await t.denied(plain, h.to(), await control(h))
    labels = replace(source, service_account=None, selector=GOOD)
    await t.apply(labels)
    await t.allowed(gold, h.to())
    await t.allowed(h.who("carol"), h.to())
    await t.denied(h.who("alice"), h.to(), await control(h))


@case("IB-07")
async def an_account_is_the_one_of_the_bindings_namespace(t: Trial) -> None:
    h = await bindings_house(t)
    elsewhere = await t.place(VISITORS, enforced=True)
    source = Binding(t.name("source"), h.ns, service_account="alice")
    await t.apply(source, target(h, bound(source.name)))
    await t.allowed(h.who("alice"), h.to())
    await t.denied(elsewhere["alice"], h.to(), await control(h))


@case("IB-08")
async def bindings_of_two_namespaces(t: Trial) -> None:
    h = await bindings_house(t)
    elsewhere = await t.place(VISITORS, enforced=True)
    name = t.name("source")
    here, there = (Binding(name, ns, service_account="alice") for ns in (h.ns, elsewhere.namespace))
    await t.apply(here, there, target(h, bound(name), bound(name, elsewhere.namespace)))
    await t.allowed(h.who("alice"), h.to())
    await t.allowed(elsewhere["alice"], h.to())
    await t.denied(elsewhere["client"], h.to(), await control(h))


@case("IB-09")
async def a_binding_never_reaches_another_namespace(t: Trial) -> None:
    h = await bindings_house(t)
    elsewhere = await t.place(VISITORS, enforced=True)
    gold, _ = await t.deploy(h.place, App("gold", "", "twin", (("app", "gold"), *GOOD)))
    thief, _ = await t.deploy(elsewhere, App("gold", "", "twin", (("app", "gold"), *GOOD)))
    name = t.name("source")
    await t.apply(Binding(name, h.ns, selector=GOOD), target(h, bound(name)))
    await t.allowed(gold, h.to())
    await t.denied(thief, h.to(), await control(h))
    # That the other one has arrived is seen at a path where it is meant.
    theirs = h.routes(Match("theirs", "/theirs$", ("*",)), name="theirs")
    other = replace(h.target(rules=(Rule(theirs.name),), name="theirs"), sources=(bound(name, elsewhere.namespace),))
    await t.apply(Binding(name, elsewhere.namespace, service_account="alice"), theirs, other)
    await t.allowed(elsewhere["alice"], h.to("/theirs"))
    await t.denied(elsewhere["alice"], h.to(), await control(h))
    await t.allowed(gold, h.to())


@case("IB-10")
async def missing_or_empty_is_nobody(t: Trial) -> None:
    h = await bindings_house(t)
    empty, selector = Binding(t.name("empty"), h.ns), Binding(t.name("selector"), h.ns, selector=())
    await t.try_apply(empty, selector)
    sources = (bound(t.name("missing")), bound(empty.name), bound(selector.name))
    await t.apply(target(h, Subject("carol"), *sources))
    await t.allowed(h.who("carol"), h.to())
    await t.denied(h.who("alice"), h.to(), await control(h))


@case("IB-11")
async def access_follows_bindings_and_labels(t: Trial) -> None:
    h = await bindings_house(t)
    source = Binding(t.name("source"), h.ns, service_account="alice")
    await t.apply(source, target(h, bound(source.name)))
    await t.allowed(h.who("alice"), h.to())
    await t.apply(replace(source, service_account="carol"))
    await t.allowed(h.who("carol"), h.to())
    await t.denied(h.who("alice"), h.to(), await control(h))
    gold, _ = await t.deploy(h.place, App("gold", "", "twin", (("app", "gold"), *GOOD)))
    await t.apply(replace(source, service_account=None, selector=GOOD))
    await t.allowed(gold, h.to())
    await t.deploy(h.place, App("gold", "", "twin", (("app", "gold"),)))
    await t.denied(gold, h.to(), await control(h))
    await t.apply(replace(source, service_account="carol"))
    await t.allowed(h.who("carol"), h.to())
    await t.delete(source)
    await t.denied(h.who("carol"), h.to(), await control(h))


@case("IB-12")
async def another_group_is_no_binding(t: Trial) -> None:
    h = await bindings_house(t)
    source = Binding(t.name("source"), h.ns, service_account="alice")
    stranger = Subject(source.name, "", "IdentityBinding", "other.example.com")
    known = target(h, bound(source.name))
    await t.apply(source, known)
    await t.allowed(h.who("alice"), h.to())  # it has arrived, and resolves if its group is right
    if (await t.try_apply(target(h, stranger)))[0].accepted:
        await t.denied(h.who("alice"), h.to(), await control(h))
    else:
        t.notes.observed["another group"] = "refused"
