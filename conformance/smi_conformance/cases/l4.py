"""TCPRoute and UDPRoute: access to what is not HTTP (TR-01 to TR-07, UR-01 to UR-03)."""

from __future__ import annotations

from dataclasses import replace

from smi_conformance.layouts import CLOSED, PORTS, House, house
from smi_conformance.model import Match, Rule, ServicePort, Target, TcpRoute, UdpRoute
from smi_conformance.protocol import App, Req
from smi_conformance.registry import case
from smi_conformance.trial import Failure, Trial

RAW = (
    ServicePort(8080),
    ServicePort(9000, protocol="tcp"),
    ServicePort(9001, protocol="tcp"),
    ServicePort(9002, protocol="tcp"),
)
UDP = (
    ServicePort(8080),
    ServicePort(9003, protocol="udp"),
    ServicePort(9004, protocol="udp"),
    ServicePort(9005, protocol="udp"),
)
MIXED = (*RAW, UDP[1])
BARE = App("bare", "", "bare", (("app", "bare"),), PORTS)


def raw(h: House, port: int, kind: str = "tcp", service: str = "api") -> Req:
    """Return a request to a TCP or UDP port."""
    return h.to(port=port, kind=kind, service=service)


async def l4_house(t: Trial, ports: tuple[ServicePort, ...] = RAW) -> House:
    """Set the house up, closed for TCP too."""
    h = await house(t, ports=ports)
    if any(port.port == 9000 for port in ports):
        await t.closed(h.who("alice"), raw(h, 9000), k=5, what=CLOSED)
    return h


async def opened(t: Trial, ports: tuple[int, ...] | None, *, offered: tuple[ServicePort, ...] = RAW) -> House:
    """Let alice in by a TCPRoute."""
    h = await l4_house(t, offered)
    route = h.tcp("route", ports)
    await t.apply(route, h.target(rules=(Rule(route.name, "TCPRoute"),)))
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
    udp_too = t.needs("udp")
    h = await opened(t, (), offered=MIXED if udp_too else RAW)
    alice = h.who("alice")
    control = (alice, raw(h, 9000))
    for port in (9000, 9001):
        await t.reaches(alice, raw(h, port), "api", k=10)
    if udp_too:
        await t.not_received(alice, raw(h, 9003, "udp"), control)
    await t.apply(h.tcp("route", None))
    for port in (9000, 9001):
        await t.allowed(alice, raw(h, port))
    await t.denied(h.who("carol"), raw(h, 9000), control)


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
    """Service port 7000 is container port 9000; 9001 is another port as the Service's number and as the container's."""
    ports = (
        ServicePort(8080),
        ServicePort(7000, 9000, protocol="tcp"),
        ServicePort(9001, 9002, protocol="tcp"),
        ServicePort(7001, 9001, protocol="tcp"),
    )
    # A workload of its own: over the others there stand Services of other cases, with ports of other numbers.
    h = await house(t, more=(BARE,))
    alice = h.who("alice")
    await t.apply(replace(h.service("other", "bare"), ports=ports))
    await t.closed(alice, raw(h, 7000, service="other"), k=5, what=CLOSED)
    async with t.provisional("servicePort"):
        route, target = await _port_opened(t, h, 7000)
        t.reading("servicePort", "works" if await _gets_in(t, h, raw(h, 7000, service="other")) else "no")
        await t.delete(target, route)
        await t.closed(alice, raw(h, 7000, service="other"))
    async with t.provisional("containerPort"):  # no Service port has this number
        _, target = await _port_opened(t, h, 9000)
        works = "works" if await _gets_in(t, h, raw(h, 7000, service="other")) else "no"
        t.reading("containerPort", f"{works} and said" if await _is_told(t, target, "9000") else works)
    async with t.provisional("samePort"):
        await _port_opened(t, h, 9001)
        services = await _gets_in(t, h, raw(h, 9001, "tcp-first", service="other"))
        containers = "bare" in await t.sample(alice, raw(h, 7001, service="other"), 10)
        meant = {(True, False): "the Service's", (False, True): "the container's"}
        t.reading("samePort", meant.get((services, containers), f"{services=}, {containers=}"))


async def _port_opened(t: Trial, h: House, number: int) -> tuple[TcpRoute, Target]:
    """Let alice in by one number."""
    route = h.tcp(f"port{number}", (number,))
    target = h.target(rules=(Rule(route.name, "TCPRoute"),), name=f"port{number}", destination="bare")
    await t.apply(route, target)
    return route, target


async def _gets_in(t: Trial, h: House, req: Req) -> bool:
    """Return whether alice gets in within a moment."""
    try:
        await t.allowed(h.who("alice"), req)
    except Failure:
        return False
    return True


async def _is_told(t: Trial, target: Target, word: str) -> bool:
    """Return whether something was said about a target, if that can be known."""
    try:
        return t.needs("events", observed=True) and bool(await t.said(target, word))
    except Failure:
        return False


async def udp_house(t: Trial, ports: tuple[int, ...] | None) -> House:
    """Let alice in by a UDPRoute."""
    h = await l4_house(t, UDP)
    route = UdpRoute(t.name("udp"), h.ns, ports)
    await t.apply(route, h.target(("alice",), (Rule(route.name, "UDPRoute"),)))
    return h


@case("UR-01", first=True)
async def the_documents_udp_scenario(t: Trial) -> None:
    h = await udp_house(t, (9003, 9004))
    alice = h.who("alice")
    for port in (9003, 9004):
        await t.reaches(alice, raw(h, port, "udp"), "api", k=10)
    await t.denied(alice, raw(h, 9005, "udp"), (alice, raw(h, 9003, "udp")))


@case("UR-02", first=True)
async def no_ports_are_all_udp_ports(t: Trial) -> None:
    h = await udp_house(t, ())
    for port in (9003, 9004, 9005):
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
