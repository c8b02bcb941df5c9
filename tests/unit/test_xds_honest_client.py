"""Whatever happens in whatever order, an honest client ends with exactly what it should have, and sees no more."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from smi_adapter.backends import Part, Resource, XdsConfig
from smi_adapter.delivery.xds.stream import Pace
from smi_adapter.delivery.xds.types import CLUSTER, ENDPOINTS, LISTENER, ROUTES, bears_access
from smi_adapter.envoy_api import version_of
from tests.unit.xds_client import ID, ME, Client, Controller, resource

OTHER = ("bank", "vault")
NAMES = ("a", "b", "in/c")
BAD = "bad"  # content that the client refuses
CLOSED = b'"closed"'

contents = st.sampled_from([1, 2, 3, BAD])
parts = st.fixed_dictionaries({}, optional={name: st.tuples(contents, contents, contents, contents) for name in NAMES})


def part_of(owner: str, name: str) -> Part:
    return ("service", owner, name)


def resources(prefix: str, name: str, made: tuple[object, object, object, object]) -> tuple[Resource, ...]:
    """Return the resources of one service: cluster, endpoints, listener and routes of one name."""
    full = f"{name}/{prefix}"
    closed = CLOSED if name.startswith("in/") else None
    kinds = (CLUSTER, ENDPOINTS, LISTENER)
    plain = [resource(kind, full, content) for kind, content in zip(kinds, made, strict=False)]
    return (*plain, resource(ROUTES, full, made[3], closed=closed))


class HonestClient(RuleBasedStateMachine):
    """One client that behaves like an Envoy, and a tenant whose things it must never see."""

    @initialize(first=parts)
    def connect(self, first: dict[str, Any]) -> None:
        self.mine = first
        self.theirs: dict[str, Any] = {}
        self.hidden: frozenset[str] = frozenset()
        self.controller = Controller(self.config())
        self.held: dict[str, dict[str, Resource]] = {kind: {} for kind in (CLUSTER, ENDPOINTS, LISTENER, ROUTES)}
        self.refused: dict[tuple[str, str], str] = {}
        self.outstanding: list[Any] = []
        self.asked: dict[str, set[str]] = {}
        self.open_stream()

    def config(self) -> XdsConfig:
        made = {part_of("shop", name): resources("mine", name, some) for name, some in self.mine.items()}
        made |= {part_of("bank", name): resources("canary", name, some) for name, some in self.theirs.items()}
        shop = frozenset(part for part in made if part[1] == "shop" and part[2] not in self.hidden)
        bank = frozenset(part for part in made if part[1] == "bank")
        return XdsConfig(made, {ME: shop, OTHER: bank}, {ME: ID, OTHER: ID + "2"})

    def open_stream(self) -> None:
        self.asked = {}
        self.outstanding = []
        self.controller.clients.clear()
        self.client: Client = self.controller.connect(pace=Pace(grace=1, response_bytes=150, strangers=10_000))
        self.subscribe(CLUSTER)

    def subscribe(self, type_url: str, names: Iterable[str] = (), drop: Iterable[str] = ()) -> None:
        first = type_url not in self.asked
        known = self.asked.setdefault(type_url, set())
        add, gone = set(names) - known, set(drop) & known
        if first or add or gone:
            held = {name: item.version for name, item in self.held[type_url].items()} if first else {}
            self.client.ask(type_url, *sorted(add), drop=sorted(gone), holds=held)
        known |= add
        known -= gone

    @rule(name=st.sampled_from(NAMES), content=st.tuples(contents, contents, contents, contents))
    def change_mine(self, name: str, content: Any) -> None:
        self.mine = self.mine | {name: content}
        self.controller.publish(self.config())

    @rule(name=st.sampled_from(NAMES))
    def remove_mine(self, name: str) -> None:
        self.mine = {key: value for key, value in self.mine.items() if key != name}
        self.controller.publish(self.config())

    @rule(hidden=st.frozensets(st.sampled_from(NAMES)))
    def change_my_scope(self, hidden: frozenset[str]) -> None:
        self.hidden = hidden
        self.controller.publish(self.config())

    @rule(theirs=parts)
    def change_theirs(self, theirs: dict[str, Any]) -> None:
        self.theirs = theirs
        self.controller.publish(self.config())

    @rule(name=st.sampled_from(NAMES), type_url=st.sampled_from([ENDPOINTS, ROUTES]))
    def pry(self, name: str, type_url: str) -> None:
        self.subscribe(type_url, [f"{name}/canary"])
        self.subscribe(type_url, drop=[f"{name}/canary"])

    @rule(name=st.sampled_from(NAMES))
    def ask_for_endpoints_again(self, name: str) -> None:
        self.subscribe(ENDPOINTS, drop=[f"{name}/mine"])
        self.subscribe(ENDPOINTS, [f"{name}/mine"])

    @rule()
    def receive(self) -> None:
        response = self.client.receive()
        if response is not None:
            assert all(response.type_url != other.type_url for other in self.outstanding), "one message a type"
            assert not any(b"canary" in item.SerializeToString() for item in response.resources)
            assert not {"canary"} & {name.rpartition("/")[2] for name in self.held[response.type_url]}
            access = [
                item for item in response.resources if item.name.startswith("in/") and response.type_url == ROUTES
            ]
            assert not access or len(response.resources) == 1, "access-bearing resources travel alone"
            self.outstanding.append(response)

    @precondition(lambda self: self.outstanding)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.outstanding) - 1))
        some = data.draw(st.booleans(), label="applies the good ones of a refused response")
        self.answer_to(self.outstanding.pop(index), apply_good=some)

    def answer_to(self, response: Any, *, apply_good: bool) -> None:
        kind = response.type_url
        bodies = {item.name: item.resource.value for item in response.resources}
        wrong = {name for name, body in bodies.items() if body == b'"bad"'}
        alone = len(bodies) == 1
        for name in wrong:
            assert not alone or self.refused.get((kind, name)) != "alone", "rejected bytes came again"
            if alone:
                self.refused[(kind, name)] = "alone"
        for name, body in bodies.items():
            if name not in wrong and (apply_good or not wrong):
                self.held[kind][name] = Resource(kind, name, body, version_of(body))
                self.refused.pop((kind, name), None)
        for name in () if wrong else response.removed_resources:
            self.held[kind].pop(name, None)
        self.follow()
        if wrong:
            self.client.nack(response)
        else:
            self.client.ack(response)

    def follow(self) -> None:
        """Ask for what the held resources refer to, as Envoy does before its ACK."""
        for kind, referred in ((CLUSTER, ENDPOINTS), (LISTENER, ROUTES)):
            wanted = set(self.held[kind])
            gone = self.asked.get(referred, set()) - wanted
            if wanted or gone:
                self.subscribe(referred, wanted, gone)
            for name in gone:
                self.held[referred].pop(name, None)
        if CLUSTER in self.asked:
            self.subscribe(LISTENER)

    @rule(seconds=st.sampled_from([0.01, 0.5, 3.0]))
    def wait(self, seconds: float) -> None:
        self.client.wait(seconds)

    @rule()
    def reconnect(self) -> None:
        before = self.client
        self.open_stream()
        self.client.now = before.now
        self.client.stream.inherit(before.stream.refusals.values())
        self.refused.clear()  # what was refused and is not in force any more may be tried again

    @invariant()
    def memory_is_bounded(self) -> None:
        for sub in self.client.stream.subscriptions.values():
            assert len(sub.pending) <= 2 * len(NAMES) + 1

    def teardown(self) -> None:
        for _ in range(200):
            self.receive()
            while self.outstanding:
                self.answer_to(self.outstanding.pop(), apply_good=True)
            self.follow()
            self.client.wait(0.2)
        self.check()

    def check(self) -> None:
        visible = {name: made for name, made in self.mine.items() if name not in self.hidden}
        expected = {kind: {} for kind in self.held}  # type: dict[str, dict[str, Resource]]
        for name, made in visible.items():
            for item in resources("mine", name, made):
                expected[item.type_url][item.name] = item
        for kind, held in self.held.items():
            for name, wanted in expected[kind].items():
                if kind in (ENDPOINTS, ROUTES) and name not in self.asked.get(kind, ()):
                    continue
                if wanted.body == b'"bad"':
                    if bears_access(wanted):
                        assert held[name].body == CLOSED
                elif kind in self.asked:
                    assert held[name].version == wanted.version
            if kind in (CLUSTER, LISTENER):
                assert set(held) <= set(expected[kind])


TestHonestClient = HonestClient.TestCase
TestHonestClient.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
