"""Random worlds and their histories, for property tests: few names, so that objects meet; some of it is wrong.

Drawn from `random.Random(seed)` rather than from hypothesis' strategies: a dense world of thirty objects in a
millisecond, so that a test sees thousands of changes. A seed reproduces its world.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any, TypeAlias, TypeVar

from smi_adapter.findings import Ref
from smi_adapter.smi.objects import (
    HTTPMatch,
    HTTPRouteGroup,
    IdentityBinding,
    IdentitySubject,
    LabelRequirement,
    LabelSelector,
    Meta,
    SplitBackend,
    TCPRoute,
    TrafficSplit,
    TrafficTarget,
    TrafficTargetRule,
    UDPRoute,
)
from smi_adapter.snapshot import (
    MODE_ANNOTATION,
    ContainerPort,
    EndpointSlice,
    Namespace,
    Pod,
    Service,
    ServicePort,
    SliceEndpoint,
    SlicePort,
    Snapshot,
)
from smi_adapter.translate.relations import TABLES

Change: TypeAlias = Mapping[Ref, Any]
"""What to put in place of each object; None: it is deleted."""

T = TypeVar("T")

NAMES = ("a", "b", "c")
SPACES = ("one", "one", "one", "one", "one", "two")


class Dice:
    """Random objects."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)

    def one(self, *choices: T) -> T:
        return self.random.choice(choices)

    def some(self, make: Callable[[], T], least: int = 1, most: int = 2) -> tuple[T, ...]:
        return tuple(make() for _ in range(self.random.randint(least, most)))

    def rarely(self, odd: T, usual: T, one_in: int = 6) -> T:
        return odd if self.random.randrange(one_in) == 0 else usual

    def name(self) -> str:
        return self.one(*NAMES)

    def labels(self) -> dict[str, str]:
        return {key: self.one("x", "x", "y") for key in self.one(("app",), ("app",), ("app", "tier"), ("tier",), ())}

    def meta(self) -> Meta:
        return Meta(self.one(*SPACES), self.name(), self.one("", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"))

    def namespace(self) -> Namespace:
        mode = self.one(None, "enforce", "audit", "permissive", "?")
        return Namespace(self.one("one", "two"), annotations={MODE_ANNOTATION: mode} if mode else {})

    def service_port(self) -> ServicePort:
        name = self.one("", "web", "web", "mysql")
        transport = self.rarely(self.one("UDP", "SCTP"), "TCP")
        target: int | str = self.random.choice((0, 8080, 8080, 9090, "web"))
        return ServicePort(self.one(80, 80, 90, 8080), name, transport, self.rarely("tcp", ""), target)

    def service(self) -> Service:
        return Service(
            self.meta(), self.some(self.service_port), self.labels(), type=self.rarely("ExternalName", "ClusterIP", 12)
        )

    def endpoint(self) -> SliceEndpoint:
        return SliceEndpoint(
            self.one("10.0.0.1", "10.0.0.2", "127.0.0.1"), self.one(True, True, False), self.one("", *NAMES)
        )

    def endpoint_slice(self) -> EndpointSlice:
        ports = self.some(lambda: SlicePort(self.one("", "web", "mysql"), self.one(8080, 9090)))
        return EndpointSlice(self.meta(), self.name(), ports, self.some(self.endpoint, 0, 3))

    def pod(self) -> Pod:
        ports = self.some(
            lambda: ContainerPort(self.one(8080, 9090, 7000), self.one("", "web", "tcp-y"), self.rarely("UDP", "TCP")),
            0,
        )
        return Pod(
            replace(self.meta(), labels=self.labels()),
            self.one("w", "w", "v"),
            self.one("a", "b"),
            self.one("", "10.0.0.1", "10.0.0.2", "127.0.0.1"),
            self.one(True, False),
            ports,
            self.rarely(False, True),
            self.rarely("127.0.0.9", ""),
            {("one", "a"): "127.0.1.1"},
        )

    def backend(self) -> SplitBackend:
        service = self.rarely(self.one("a.one", "a.two.svc", "example.com"), self.name())
        return SplitBackend(service, self.one(0, 1000, 500, 3000, 10**15, None))

    def split(self) -> TrafficSplit:
        root = self.rarely(self.one("a.one", "b.two.svc", "example.com", "x.example.com"), self.name())
        matches = self.some(self.name, 0, 1)
        return TrafficSplit(self.meta(), root, self.some(self.backend, 0, 3), matches, self.rarely(("odd",), ()))

    def http_match(self) -> HTTPMatch:
        return HTTPMatch(
            self.name(),
            self.one(None, "/a", "/a/.*", ".*", "(", "/b$"),
            self.some(lambda: self.one("GET", "POST", "*"), 0),
            self.some(lambda: (self.rarely("host", "x-a"), self.one("1", "(", ".*")), 0, 1),
            self.rarely(True, False),
        )

    def group(self) -> HTTPRouteGroup:
        return HTTPRouteGroup(self.meta(), self.some(self.http_match, 0, 3))

    def tcp_route(self) -> TCPRoute:
        return TCPRoute(self.meta(), self.some(lambda: self.one(80, 90, 8080, 0), 0))

    def udp_route(self) -> UDPRoute:
        return UDPRoute(self.meta(), self.some(lambda: self.one(80, 90), 0))

    def subject(self) -> IdentitySubject:
        kind = self.one(
            "ServiceAccount",
            "ServiceAccount",
            "IdentityBinding",
            "IdentityBinding",
            self.rarely("Group", "ServiceAccount"),
        )
        name = self.one("a", "b") if kind == "ServiceAccount" else self.name()
        return IdentitySubject(kind, name, self.one("", "", "one", self.rarely("two", "")))

    def rule(self) -> TrafficTargetRule:
        kind = self.one(
            "HTTPRouteGroup", "HTTPRouteGroup", "TCPRoute", self.rarely(self.one("UDPRoute", "Odd"), "TCPRoute")
        )
        return TrafficTargetRule(kind, self.name(), self.some(self.name, 0, 1))

    def target(self) -> TrafficTarget:
        port = self.rarely(self.one(80, 8080, 0), None)
        return TrafficTarget(self.meta(), self.subject(), self.some(self.rule, 0), self.some(self.subject, 0), port)

    def selector(self) -> LabelSelector:
        wanted = LabelRequirement(self.one("app", "tier"), self.one("In", "Exists"), ("x",))
        return LabelSelector(tuple(sorted(self.labels().items())), self.one((), (wanted,)))

    def binding(self) -> IdentityBinding:
        account, selector = self.one(
            (None, self.selector()), (None, self.selector()), ("a", None), ("b", None), ("a", self.selector())
        )
        ids = ("cluster.local/ns/one/sa/a", "cluster.local/ns/two/sa/b", "far.example/x", "?")
        return IdentityBinding(self.meta(), account, selector, self.some(lambda: self.one(*ids), 0, 1))

    def item(self) -> tuple[Ref, Any]:
        """Return an object of any kind with its name."""
        kind, make = self.one(*KINDS.items())
        if kind == "ServiceAccount":
            return Ref(kind, self.one(*SPACES), self.one("a", "b")), True
        made = make(self)
        return Ref(kind, "", made.name) if isinstance(made, Namespace) else Ref(kind, *made.meta.key), made

    def change(self, *, deletions: bool = True) -> Change:
        """Return one to three objects to put in place or to delete."""
        found = dict(self.item() for _ in range(self.one(1, 1, 2, 3)))
        return {ref: None if deletions and self.random.randrange(4) == 0 else made for ref, made in found.items()}

    def world(self, objects: int = 45) -> Snapshot:
        """Return a Snapshot of about half as many objects; later ones took the place of earlier ones."""
        snapshot = Snapshot()
        for _ in range(objects):
            snapshot = applied(snapshot, dict((self.item(),)))
        return snapshot

    def history(self, world: Snapshot, length: int) -> Iterator[tuple[Change, Snapshot]]:
        """Yield changes and the worlds that they lead to."""
        for _ in range(length):
            change = self.change()
            world = applied(world, change)
            yield change, world


KINDS: Mapping[str, Callable[[Dice], Any]] = {
    "Service": Dice.service,
    "EndpointSlice": Dice.endpoint_slice,
    "Pod": Dice.pod,
    "TrafficSplit": Dice.split,
    "HTTPRouteGroup": Dice.group,
    "TCPRoute": Dice.tcp_route,
    "UDPRoute": Dice.udp_route,
    "TrafficTarget": Dice.target,
    "IdentityBinding": Dice.binding,
    "Namespace": Dice.namespace,
    "ServiceAccount": Dice.item,
}


def applied(snapshot: Snapshot, change: Change) -> Snapshot:
    """Return the snapshot after a change; every other value is shared."""
    tables: dict[str, Any] = {}
    for ref, item in change.items():
        table = TABLES[ref.kind]
        if table == "service_accounts":
            members = tables.get(table, snapshot.service_accounts)
            key = (ref.namespace, ref.name)
            tables[table] = members | {key} if item else members - {key}
            continue
        entries = tables.setdefault(table, dict(getattr(snapshot, table)))
        key_or_name = ref.name if ref.kind == "Namespace" else (ref.namespace, ref.name)
        entries.pop(key_or_name, None)
        if item is not None:
            entries[key_or_name] = item
    return replace(snapshot, **tables)


def shuffled(snapshot: Snapshot, order: Random) -> Snapshot:
    """Return an equal snapshot whose tables are in another order."""
    tables: dict[str, Any] = {}
    for table in TABLES.values():
        if table != "service_accounts":
            entries: Sequence[Any] = list(getattr(snapshot, table).items())
            order.shuffle(entries)  # type: ignore[arg-type]
            tables[table] = dict(entries)
    return replace(snapshot, **tables)
