"""The standing workloads of cases, and the objects that most cases begin with.

Two layouts serve nearly all: a shop with three versions of a server for splits, and a guarded house with clients of
different identities for access. Every server listens on the same ports, so that a place fits any case.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from smi_conformance.model import Match, Routes, Rule, Service, ServicePort, Split, Subject, Target, TcpRoute, Weight
from smi_conformance.places import Place, together
from smi_conformance.protocol import App, Port, Req
from smi_conformance.trial import Trial

PORTS = (
    Port(8080),
    Port(8081),
    Port(9000, "tcp"),
    Port(9001, "tcp"),
    Port(9002, "tcp-first"),
    Port(9003, "udp"),
    Port(9004, "udp"),
    Port(9005, "udp"),
)
HTTP = (ServicePort(8080),)


def server(name: str, account: str = "server", group: str = "shop", replicas: int = 1) -> App:
    """Return a server workload; `group` is a label that several share."""
    return App(name, "", account, (("app", name), ("group", group)), PORTS, replicas)


def client(name: str, account: str = "") -> App:
    """Return a client workload."""
    return App(name, "", account or name, (("app", name),))


TWIN = App("twin", "", "api", (("app", "twin"),), PORTS)
SHOP = (client("client"), server("base"), server("v1"), server("v2"))
GUARD = (client("alice"), client("bob"), client("carol"), server("api", "api", "house"), server("web", "web", "house"))
VISITORS = (client("client"), client("alice"))
# Servers outside of the mesh: what a client outside of the mesh can reach of any implementation.
PLAIN = (client("client"), replace(server("base"), meshed=False), replace(server("v1"), meshed=False))


@dataclass(frozen=True, slots=True)
class Shop:
    """A root Service over `base`, and a Service over each of `v1` and `v2`."""

    trial: Trial
    place: Place
    names: Mapping[str, str]
    flips: list[int] = field(default_factory=list)

    @property
    def ns(self) -> str:
        """Return the namespace."""
        return self.place.namespace

    @property
    def client(self) -> App:
        """Return the client."""
        return self.place["client"]

    def to(self, service: str = "root", port: int = 8080, **more: object) -> Req:
        """Return a request to one of the Services."""
        return Req(f"{self.ns}/{self.names.get(service, service)}", port, **more)  # type: ignore[arg-type]

    def service(self, name: str, app: str = "", ports: tuple[ServicePort, ...] = HTTP, **more: str) -> Service:
        """Return a Service over one workload (the one of its own name, unless told)."""
        selector = (("app", app or name),)
        return Service(self.names.get(name, name), self.ns, selector, ports, **more)

    def split(
        self,
        weights: Mapping[str, Weight],
        matches: tuple[str, ...] | None = None,
        name: str = "split",
        root: str = "root",
    ) -> Split:
        """Return a split of the root; backends are named as in `names`."""
        backends = tuple((self.names.get(service, service), weight) for service, weight in weights.items())
        return Split(self.trial.name(name), self.ns, self.names.get(root, root), backends, matches)

    async def settle(self) -> None:
        """Wait until what was applied before has probably arrived, where nothing may show that it has: for readings.

        A second split, written afterwards, moves all its traffic from one workload to the other. Nobody promises that
        objects take effect in the order in which they are written, so no verdict may hang on it: that needs a change of
        the same object that shows, or what is said about it.
        """
        self.flips.append(len(self.flips))
        root, app = self.trial.name("mark"), ("v1", "v2")[len(self.flips) % 2]
        split = Split(self.trial.name("flip"), self.ns, root, ((self.names[app], 1),))
        await self.trial.apply(Service(root, self.ns, (("app", "base"),), HTTP), split)
        await self.trial.reaches(self.client, Req(f"{self.ns}/{root}"), app)


async def shop(
    trial: Trial,
    *,
    ports: tuple[ServicePort, ...] = HTTP,
    backends: Mapping[str, tuple[ServicePort, ...]] | None = None,
    start: str = "base",
    enforced: bool = False,
) -> Shop:
    """Set the shop up and wait until the root is served by its own pods: what a split changes is seen against that."""
    place = await trial.place(SHOP, enforced=enforced)
    found = Shop(trial, place, {name: trial.name(name) for name in ("root", "v1", "v2", "v3", "leaf")})
    root = found.service("root", start, ports)
    offered = backends or {}
    versions = {name: found.service(name, name, offered.get(name, ports)) for name in ("v1", "v2")}
    found = replace(found, names={**found.names, **await trial.furnish(place, versions, root)})
    if not enforced:
        kind = {"tcp": "tcp", "udp": "udp"}.get(ports[0].protocol, "http")
        await trial.reaches(found.client, found.to("root", ports[0].port, kind=kind), start, k=5)
    return found


CLOSED = "begins denied"
"""What a house that nobody was let into yet has to be, in other words than a denial that a case asserts."""


@dataclass(frozen=True, slots=True)
class House:
    """Servers `api` and `web` with a Service each, and clients who may be let in."""

    trial: Trial
    place: Place
    names: Mapping[str, str]
    marks: list[int] = field(default_factory=list)

    @property
    def ns(self) -> str:
        """Return the namespace."""
        return self.place.namespace

    async def settle(self, name: str) -> None:
        """Wait until what was applied before has probably arrived, though it may open nothing: for readings.

        A second target, written afterwards, opens a path of the same server that nobody uses to a client that is closed
        out of it. Nobody promises that objects take effect in the order in which they are written, so a verdict needs a
        change of the same object that shows: what opens something first, and is edited then.
        """
        self.marks.append(len(self.marks))
        mark = f"mark{len(self.marks)}"
        routes = self.routes(Match("mark", f"/{mark}$", ("*",)), name=mark)
        await self.trial.closed(self.who(name), self.to(f"/{mark}"), k=5)
        await self.trial.apply(routes, self.target((name,), (Rule(routes.name),), name=mark))
        await self.trial.allowed(self.who(name), self.to(f"/{mark}"))

    def who(self, name: str) -> App:
        """Return a client (or a server)."""
        return self.place[name]

    def to(self, path: str = "/", service: str = "api", port: int = 8080, **more: object) -> Req:
        """Return a request."""
        return Req(f"{self.ns}/{self.names.get(service, service)}", port, path=path, **more)  # type: ignore[arg-type]

    def service(
        self, name: str, app: str = "", ports: tuple[ServicePort, ...] = HTTP, labels: tuple[tuple[str, str], ...] = ()
    ) -> Service:
        """Return a Service."""
        return Service(self.names.get(name, name), self.ns, labels or (("app", app or name),), ports)

    def routes(self, *matches: Match, name: str = "routes") -> Routes:
        """Return a route group."""
        return Routes(self.trial.name(name), self.ns, matches)

    def target(
        self,
        sources: tuple[str, ...] = ("alice",),
        rules: tuple[Rule, ...] | None = None,
        *,
        name: str = "target",
        destination: str = "api",
        port: int | None = None,
    ) -> Target:
        """Return a target from clients of this house to an account of it; all of group `routes` unless told."""
        return Target(
            self.trial.name(name),
            self.ns,
            Subject(destination),
            tuple(Subject(source) for source in sources),
            (Rule(self.trial.name("routes")),) if rules is None else rules,
            port,
        )

    def everything(self, name: str = "routes") -> Routes:
        """Return a route group that matches every request."""
        return self.routes(Match("all", ".*", ("*",)), name=name)

    def tcp(self, name: str = "tcp", ports: tuple[int, ...] | None = None) -> TcpRoute:
        """Return a TCP route."""
        return TcpRoute(self.trial.name(name), self.ns, ports)


async def house(trial: Trial, *, ports: tuple[ServicePort, ...] = HTTP, more: tuple[App, ...] = ()) -> House:
    """Set the house up, with more workloads if a case needs them; it begins closed, which is seen before any grant."""
    place = await trial.place(GUARD, enforced=True)
    # Beside the house, which then stands ready for the next case.
    extra = await together(*(trial.deploy(place, app) for app in more))
    place = replace(place, apps={**place.apps, **{app.name: app for app, _ in extra}})
    found = House(trial, place, {name: trial.name(name) for name in ("api", "web", "both", "other")})
    servers = {name: found.service(name, ports=ports) for name in ("api", "web")}
    found = replace(found, names={**found.names, **await trial.furnish(place, servers)})
    if ports[0].protocol == "http":
        await trial.closed(found.who("alice"), found.to(port=ports[0].port), k=5, what=CLOSED)
    return found
