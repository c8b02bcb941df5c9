"""TCPRoute and UDPRoute: access to what is not HTTP (TR-01 to TR-07, UR-01 to UR-03)."""

from __future__ import annotations

from dataclasses import replace

from smi_conformance.layouts import CLOSED, House, house
from smi_conformance.model import Match, Rule, ServicePort, UdpRoute
from smi_conformance.protocol import App, Port, Req
from smi_conformance.registry import case
from smi_conformance.trial import Failure, Trial

RAW = (
    ServicePort(8080),
    ServicePort(9000, protocol="tcp"),
    ServicePort(9001, protocol="tcp"),
    ServicePort(9002, protocol="tcp"),
)
UDP = (ServicePort(8080), ServicePort(9003, protocol="udp"), ServicePort(9004, protocol="udp"))


def raw(h: House, port: int, kind: str = "tcp", service: str = "api") -> Req:
    """Return a request to a TCP or UDP port."""
    return h.to(port=port, kind=kind, service=service)


async def l4_house(t: Trial, ports: tuple[ServicePort, ...] = RAW) -> House:
    """Set the house up; bob always gets in over HTTP and TCP on `web`, as the control."""
    h = await house(t, ports=ports)
    anything = h.tcp("anything")
    await t.apply(h.everything(), anything, h.target(("bob",), destination="web", name="control"))
    await t.apply(h.target(("bob",), (Rule(anything.name, "TCPRoute"),), destination="web", name="control-tcp"))
    await t.closed(h.who("alice"), raw(h, 9000) if ports is RAW else h.to(), k=5, what=CLOSED)
    return h


async def opened(t: Trial, ports: tuple[int, ...] | None, *, sources: tuple[str, ...] = ("alice",)) -> House:
    """Let alice in by a TCPRoute."""
    h = await l4_house(t)
    route = h.tcp("route", ports)
    await t.apply(route, h.target(sources, (Rule(route.name, "TCPRoute"),)))
    return h


@case("TR-01")
async def a_tcp_route_opens_raw_tcp_to_its_source(t: Trial) -> None:
    h = await opened(t, None)
    await t.reaches(h.who("alice"), raw(h, 9000), "api", k=10)
    await t.denied(h.who("bob"), raw(h, 9000), (h.who("alice"), raw(h, 9000)))


@case("TR-02")
async def listed_ports_are_open(t: Trial) -> None:
    h = await opened(t, (9000,))
    alice = h.who("alice")
    control = (alice, raw(h, 9000))
    await t.reaches(*control, "api", k=10)
    await t.denied(alice, raw(h, 9001), control)
    async with t.provisional("badPort"):
        wrapped = h.tcp("wrapped", (9001 + 65536,))
        accepted = (await t.try_apply(wrapped))[0].accepted
        if accepted:
            await t.apply(h.target(rules=(Rule(wrapped.name, "TCPRoute"),), name="wrapped"))
            await h.settle("carol")
        await t.denied(alice, raw(h, 9001), control)
        t.reading("badPort", "invalid")


@case("TR-03")
async def no_ports_are_all_tcp_ports(t: Trial) -> None:
    h = await opened(t, ())
    alice = h.who("alice")
    for port in (9000, 9001):
        await t.reaches(alice, raw(h, port), "api", k=10)
    await t.apply(h.tcp("route", None))
    for port in (9000, 9001):
        await t.allowed(alice, raw(h, port))
    await t.denied(h.who("carol"), raw(h, 9000), (alice, raw(h, 9000)))


@case("TR-04")
async def the_documents_tcp_scenario(t: Trial) -> None:
    h = await opened(t, (9000, 9001, 9002))
    alice = h.who("alice")
    for port, kind in ((9000, "tcp"), (9001, "tcp"), (9002, "tcp-first")):
        await t.reaches(alice, raw(h, port, kind), "api", k=10)
    await t.denied(h.who("carol"), raw(h, 9001), (alice, raw(h, 9000)))


@case("TR-05")
async def the_server_may_speak_first(t: Trial) -> None:
    h = await opened(t, None)
    await t.reaches(h.who("alice"), raw(h, 9002, "tcp-first"), "api", k=10)
    await t.denied(h.who("carol"), raw(h, 9002, "tcp-first"), (h.who("alice"), raw(h, 9002, "tcp-first")))


@case("TR-06")
async def rules_of_one_layer_on_ports_of_another(t: Trial) -> None:
    h = await opened(t, None)
    alice = h.who("alice")
    await t.allowed(alice, raw(h, 9000))
    async with t.provisional("tcpRuleHttpPort"):
        await t.allowed(alice, h.to("/any", method="DELETE"))
        t.reading("tcpRuleHttpPort", "every request")
    narrow = h.routes(Match("ok", "/ok$", ("GET",)), name="narrow")
    await t.apply(narrow, h.target(("carol",), (Rule(narrow.name),), name="http"))
    carol = h.who("carol")
    async with t.provisional("httpRuleHttpPort"):
        await t.allowed(carol, h.to("/ok"))
        await t.denied(carol, h.to("/other"), (carol, h.to("/ok")))
        t.reading("httpRuleHttpPort", "its matches")
    async with t.provisional("httpRuleTcpPort"):
        await t.denied(carol, raw(h, 9000), (alice, raw(h, 9000)))
        t.reading("httpRuleTcpPort", "denied")


@case("TR-07")
async def whose_port_is_meant(t: Trial) -> None:
    """Service port 7000 stands for container port 9000; the container's 9001 has no Service port of its number."""
    ports = (ServicePort(8080), ServicePort(7000, 9000, protocol="tcp"), ServicePort(7001, 9001, protocol="tcp"))
    h = await house(t, ports=ports)
    alice, req = h.who("alice"), raw(h, 7000)
    await t.closed(alice, req, k=5, what=CLOSED)
    for key, number, target_port in (("servicePort", 7000, 7000), ("targetPort", 9000, 7000)):
        async with t.provisional(key):
            route = h.tcp(key.lower(), (number,))
            target = h.target(rules=(Rule(route.name, "TCPRoute"),), name=key.lower())
            await t.apply(route, target)
            counts = await _settled(t, h, raw(h, target_port))
            t.reading(key, "works" if counts else "no")
            await t.delete(target, route)
            await t.closed(alice, raw(h, target_port))
    async with t.provisional("containerPort"):
        await t.deploy(h.place, App("bare", "", "bare", (("app", "bare"),), (Port(8080), Port(9000, "tcp"))))
        await t.apply(replace(h.service("other", "bare"), ports=(ServicePort(7000, 9000, protocol="tcp"),)))
        route = h.tcp("container", (9000,))
        target = h.target(rules=(Rule(route.name, "TCPRoute"),), name="container", destination="bare")
        await t.apply(route, target)
        works = await _settled(t, h, raw(h, 7000, service="other"))
        t.reading("containerPort", "works" if works else "no")


async def _settled(t: Trial, h: House, req: Req) -> bool:
    """Return whether alice gets in within a moment."""
    try:
        await t.allowed(h.who("alice"), req)
    except Failure:
        return False
    return True


async def udp_house(t: Trial, ports: tuple[int, ...] | None) -> House:
    """Let alice in by a UDPRoute."""
    h = await l4_house(t, UDP)
    route = UdpRoute(t.name("udp"), h.ns, ports)
    await t.apply(route, h.target(("alice",), (Rule(route.name, "UDPRoute"),)))
    return h


@case("UR-01", first=True)
async def the_documents_udp_scenario(t: Trial) -> None:
    h = await udp_house(t, (9003,))
    alice = h.who("alice")
    await t.reaches(alice, raw(h, 9003, "udp"), "api", k=10)
    await t.denied(alice, raw(h, 9004, "udp"), (alice, raw(h, 9003, "udp")))


@case("UR-02", first=True)
async def no_ports_are_all_udp_ports(t: Trial) -> None:
    h = await udp_house(t, ())
    for port in (9003, 9004):
        await t.reaches(h.who("alice"), raw(h, port, "udp"), "api", k=10)
    await t.denied(h.who("carol"), raw(h, 9003, "udp"), (h.who("alice"), raw(h, 9003, "udp")))


@case("UR-03", first=True)
async def tcp_and_udp_are_opened_each_by_their_own(t: Trial) -> None:
    h = await l4_house(t, (*UDP, ServicePort(9000, protocol="tcp")))
    route = h.tcp("route", None)
    await t.apply(route, h.target(rules=(Rule(route.name, "TCPRoute"),)))
    alice = h.who("alice")
    await t.allowed(alice, raw(h, 9000))
    await t.denied(alice, raw(h, 9003, "udp"), (alice, raw(h, 9000)))
    udp = UdpRoute(t.name("udp"), h.ns, None)
    await t.apply(udp, h.target(("carol",), (Rule(udp.name, "UDPRoute"),), name="udp"))
    await t.reaches(h.who("carol"), raw(h, 9003, "udp"), "api", k=10)
    await t.denied(h.who("carol"), raw(h, 9000), (alice, raw(h, 9000)))
