"""The ways of asserting, against a harness whose mesh and ledger do what a test wants."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from smi_conformance import trial as trials
from smi_conformance.explain import Recorder
from smi_conformance.layouts import House, house
from smi_conformance.model import Split, versions_for
from smi_conformance.places import Pool
from smi_conformance.protocol import App, Batch, Event, HarnessError, Port, Receipt, Reply, Req
from smi_conformance.registry import cases
from smi_conformance.render import Manifest
from smi_conformance.trial import Failure, Rules, Trial

ALICE, BOB = App("alice"), App("bob")
SERVER = App("api", ports=(Port(8080),))
RULES = Rules(deadline=1.0, samples=200, quiet=0.05, denials=5, denial_seconds=0.05)


class Mesh(Recorder):
    """Lets through what `answer` says, and writes down what the ledger is allowed to hold."""

    def __init__(self, answer: Callable[[App, int], bool], *, mute: bool = False, leaks: bool = False) -> None:
        super().__init__()
        self._answer = answer
        self._mute = mute
        self._leaks = leaks
        self._ledger: list[Receipt] = []
        self.count = 0

    async def send(self, client: App, req: Req, batch: Batch, token: str) -> list[Reply]:
        del req
        replies = []
        for number in range(batch.n):
            name, self.count = f"{token}-{number}", self.count + 1
            fine = self._answer(client, self.count)
            backend = {"app": "api", "ns": client.namespace, "pod": "api-6c5b9f7d8c-x2x4k", "sa": "api"} if fine else {}
            replies.append(Reply("ok", 200, name, backend=backend) if fine else Reply("http_error", 403, name))
            if not self._mute and (fine or self._leaks):
                self._ledger.append(Receipt("api", "api-6c5b9f7d8c-x2x4k", name, 8080, "http"))
        return replies

    async def receipts(self, app: App) -> list[Receipt]:
        del app
        found, self._ledger = self._ledger, []
        return found


def play(mesh: Mesh, story: Callable[[Trial, Req], Coroutine[Any, Any, Any]], rules: Rules = RULES) -> None:
    async def go() -> None:
        found = Trial(mesh, Pool(mesh), rules, ("v1alpha4", versions_for("access", "v1alpha4")))
        place = await found.place((SERVER, ALICE, BOB), enforced=True)
        await story(found, Req(f"{place.namespace}/api"))

    asyncio.run(go())


async def denial(t: Trial, req: Req) -> None:
    await t.denied(BOB, req, (ALICE, req))


def only_alice(client: App, count: int) -> bool:
    del count
    return client.name == "alice"


def test_a_denial_is_proved_by_a_ledger_that_knows_the_control() -> None:
    play(Mesh(only_alice), denial)


def test_a_mute_ledger_proves_no_denial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "LEDGER", 0.2)
    with pytest.raises(HarnessError, match="lack 3 of 3 requests that were answered: they prove nothing"):
        play(Mesh(only_alice, mute=True), denial)


def test_a_request_that_arrives_and_is_answered_with_403_was_not_denied() -> None:
    with pytest.raises(Failure, match="5 of 5 arrived at api-6c5b9f7d8c-x2x4k"):
        play(Mesh(only_alice, leaks=True), denial)


class Closing(Mesh):
    """Denies by closing the connection; lets in whom a target names that was written, unless that one is `dead`."""

    def __init__(self, outcome: str = "reset", *, dead: str = "") -> None:
        super().__init__(only_alice)
        self._outcome, self._dead = outcome, dead
        self.asked: list[tuple[str, str]] = []

    async def send(self, client: App, req: Req, batch: Batch, token: str) -> list[Reply]:
        self.asked.append((client.name, req.path))
        rights = {item["spec"]["sources"][0]["name"] for item in self.manifests if item["kind"] == "TrafficTarget"}
        fine = client.name == "alice" or ("alive" in req.path and client.account in rights)
        self._answer = lambda _, __: fine and client.name != self._dead
        replies = await super().send(client, req, batch, token)
        return [replace(reply, status=200 if reply.ok else 0, outcome="ok" if reply.ok else self._outcome)
                for reply in replies]  # fmt: skip


def test_a_client_that_is_denied_has_to_reach_somebody_once_in_a_place() -> None:
    bob = App("bob", account="bob")

    async def story(t: Trial, req: Req) -> None:
        client = replace(bob, namespace=req.service.partition("/")[0])
        await t.denied(client, req, (ALICE, req))
        first = len(mesh.manifests)
        assert [item["kind"] for item in mesh.manifests] == ["HTTPRouteGroup", "TrafficTarget"]
        await t.denied(client, req, (ALICE, req))
        assert len(mesh.manifests) == first

    mesh = Closing()
    play(mesh, story)


def test_who_is_refused_in_words_is_alive_and_needs_not_be_let_in() -> None:
    mesh = Mesh(only_alice)
    play(mesh, denial)
    assert mesh.manifests == []


def test_a_client_that_gets_in_nowhere_proves_no_denial() -> None:
    with pytest.raises(HarnessError, match="a client that can reach nobody proves no denial of it"):
        play(Closing(dead="bob"), denial)


def test_a_client_that_finds_no_address_proves_no_denial() -> None:
    async def story(t: Trial, req: Req) -> None:
        await t.closed(BOB, req)

    with pytest.raises(HarnessError, match="bob finds no address for it"):
        play(Closing("dns"), story)
    with pytest.raises(HarnessError, match="bob finds no address for it"):
        play(Closing("dns"), denial)


def test_a_ledger_that_lost_what_came_before_a_case_proves_what_comes_in_it() -> None:
    mesh = Mesh(only_alice)
    whole, lost = mesh.receipts, [HarnessError("the log was rotated")]

    async def rotated(app: App) -> list[Receipt]:
        if lost:
            raise lost.pop()
        return await whole(app)

    mesh.receipts = rotated  # type: ignore[method-assign]
    play(mesh, denial)
    assert not lost


class Late(Mesh):
    """Shows what a server wrote only when it is read so many times again, as logs of pods that take their way."""

    def __init__(self, answer: Callable[[App, int], bool], *, leaks_to: str = "", marks: bool = True) -> None:
        super().__init__(answer)
        self.wait = {"api": 2, "web": 6}
        self._leaks_to = leaks_to
        self._marks = marks
        self._logs: dict[str, list[tuple[int, Receipt]]] = {"api": [], "web": []}

    def _write(self, name: str, token: str) -> None:
        self._logs[name].append((self.wait[name], Receipt(name, f"{name}-6c5b9f7d8c-x2x4k", token, 8080, "http")))

    async def send(self, client: App, req: Req, batch: Batch, token: str) -> list[Reply]:
        replies = await super().send(client, req, batch, token)
        for reply in replies:
            if reply.ok or self._leaks_to:
                self._write("api" if reply.ok else self._leaks_to, reply.token)
        return replies

    async def mark(self, app: App, token: str) -> set[str]:
        if self._marks:
            self._write(app.name, token)
        return {token}

    async def receipts(self, app: App) -> list[Receipt]:
        log = [(wait - 1, item) for wait, item in self._logs[app.name]]
        self._logs[app.name] = [(wait, item) for wait, item in log if wait > 0]
        return [item for wait, item in log if wait <= 0]


def test_each_server_of_a_case_makes_a_mark_of_its_own() -> None:
    """Two places of one layout: what the one has written down says nothing of the other."""
    made: list[str] = []

    class Marked(Mesh):
        async def mark(self, app: App, token: str) -> set[str]:
            made.append(token)
            self._ledger.append(Receipt(app.name, "api-6c5b9f7d8c-x2x4k", token, 8080, "http"))
            return {token}

    async def twice(t: Trial, req: Req) -> None:
        await t.place((SERVER, ALICE, BOB), enforced=True)
        await t.received(await t.send(ALICE, req, Batch(n=1)))

    play(Marked(only_alice), twice)
    assert len(set(made)) == len(made) == 2


WEB = App("web", ports=(Port(8080),))


def play_late(mesh: Late, story: Callable[[Trial, Req], Coroutine[Any, Any, Any]]) -> None:
    async def go(t: Trial, req: Req) -> None:
        await t.place((WEB,), enforced=True)
        await story(t, req)

    play(mesh, go)


async def arrivals(t: Trial, req: Req) -> None:
    replies = await t.send(ALICE, req, Batch(n=4))
    assert {item.token for item in await t.received(replies)} == {reply.token for reply in replies}


def test_what_was_answered_is_waited_for_in_a_ledger_that_is_late() -> None:
    play_late(Late(only_alice), arrivals)


def test_a_denial_waits_for_the_ledger_of_every_server_and_not_only_for_that_of_the_control() -> None:
    play_late(Late(only_alice), denial)
    with pytest.raises(Failure, match="5 of 5 arrived at web-"):
        play_late(Late(only_alice, leaks_to="web"), denial)


def test_a_server_whose_ledger_lacks_its_own_mark_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "LEDGER", 0.5)
    with pytest.raises(HarnessError, match="lack 0 of 3 requests that were answered and 2 of 2 marks"):
        play_late(Late(only_alice, marks=False), denial)


def test_a_control_that_stops_working_proves_no_absence() -> None:
    async def story(t: Trial, req: Req) -> None:
        replies = await t.send(BOB, req, Batch(n=2))
        assert await t.arrived(replies, (ALICE, req)) == []
        with pytest.raises(Failure, match=r"the control .* stopped working"):
            await t.arrived(replies, (BOB, req))

    play(Mesh(only_alice), story)


class Shared(Mesh):
    """Lets anybody in at `api` once there is a target; of a Service over two workloads half of what comes is denied."""

    def __init__(self, *, leaks: bool) -> None:
        super().__init__(only_alice, leaks=leaks)

    async def send(self, client: App, req: Req, batch: Batch, token: str) -> list[Reply]:
        del client
        opened, replies = any(item["kind"] == "TrafficTarget" for item in self.manifests), []
        for number in range(batch.n):
            app, name = ("web" if "/both" in req.service and number % 2 else "api"), f"{token}-{number}"
            fine = opened and app == "api"
            backend = {"app": app, "ns": "here", "pod": f"{app}-6c5b9f7d8c-x2x4k"} if fine else {}
            replies.append(Reply("ok", 200, name, backend=backend) if fine else Reply("http_error", 403, name))
            if fine or (opened and self._leaks):
                self._ledger.append(Receipt(app, f"{app}-6c5b9f7d8c-x2x4k", name, 8080, "http"))
        return replies


@pytest.mark.parametrize("leaks", [False, True])
def test_a_workload_is_told_by_its_name_whatever_kubernetes_calls_its_pods(*, leaks: bool) -> None:
    async def story(t: Trial, req: Req) -> None:
        del req
        await cases()["TT-09"].play(t)

    with pytest.raises(Failure, match=r"arrived at \['api', 'web'\]") if leaks else contextlib.nullcontext():
        play(Shared(leaks=leaks), story)


class Probed(Recorder):
    """A kubelet finds the pods ready as a test says."""

    def __init__(self, *seen: bool) -> None:
        super().__init__()
        self._seen = [*seen]

    async def ready(self, app: App) -> bool:
        assert app.probed
        return self._seen.pop(0) if len(self._seen) > 1 else self._seen[0]


@pytest.mark.parametrize(
    ("seen", "words"),
    [((False,), "was not ready within 1 s"), ((False, True, True, False), "did not stay ready"), ((True,), "")],
)
def test_pods_whose_probes_fail_are_a_failure_and_no_trouble(
    monkeypatch: pytest.MonkeyPatch, seen: tuple[bool, ...], words: str
) -> None:
    async def pause(_: Trial, seconds: float) -> None:
        await asyncio.sleep(seconds / 10)

    monkeypatch.setattr(Trial, "pause", pause)
    mesh = Probed(*seen)

    async def story() -> None:
        await cases()["TT-26"].play(Trial(mesh, Pool(mesh), RULES, ("v1alpha4", versions_for("access", "v1alpha4"))))

    with pytest.raises(Failure, match=words) if words else contextlib.nullcontext():
        asyncio.run(story())


class Clock:
    """A clock that a mesh moves on: how long its answers take is not left to this machine."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._ahead = 0.0
        self.start()
        monkeypatch.setattr(trials, "time", self)

    def monotonic(self) -> float:
        return time.monotonic() + self._ahead

    def start(self) -> None:
        """Begin now."""
        self._began = time.monotonic()

    def reach(self, seconds: float) -> None:
        """Move on to so many seconds after the beginning."""
        self._ahead = max(self._ahead, self._began + seconds - time.monotonic())


PATIENT = replace(RULES, deadline=1000.0)
"""Nothing of this ends by itself while a test runs: its clock is moved."""


def test_what_is_right_only_after_the_deadline_is_late_even_if_one_answer_is_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)

    def answer(_: App, count: int) -> bool:
        clock.reach(1000 - 0.01)  # the pause before the next one is longer
        return count > 1

    async def story(t: Trial, req: Req) -> None:
        clock.start()
        await t.eventually(ALICE, req, lambda reply: reply.ok, "it answers", k=1)

    mesh = Mesh(answer)
    with pytest.raises(Failure, match="it answers: not within 1000 s"):
        play(mesh, story, PATIENT)
    assert mesh.count == 1, "nothing that is sent after the deadline counts"


def test_what_began_in_time_may_be_proved_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def answer(_: App, count: int) -> bool:
        clock.reach(999 if count <= 14 else 1001)  # four good ones before, the others after
        return count > 10

    async def story(t: Trial, req: Req) -> None:
        replies = await t.eventually(ALICE, req, lambda reply: reply.ok, "it answers")
        assert len(replies) >= RULES.k

    play(Mesh(answer), story, PATIENT)


@pytest.mark.parametrize("breaks", [True, False])
def test_after_the_deadline_there_is_no_second_chance_and_no_endless_one(
    monkeypatch: pytest.MonkeyPatch, *, breaks: bool
) -> None:
    """One mesh is wrong once more; of the other a backend that has to be seen never answers."""
    clock = Clock(monkeypatch)

    def answer(_: App, count: int) -> bool:
        if count > 15:
            clock.reach(1001)
        if count > 60:
            clock.reach(1100)
        return not breaks or count != 16

    async def story(t: Trial, req: Req) -> None:
        await t.eventually(ALICE, req, lambda reply: reply.ok, "they answer", see=() if breaks else ("other",))

    with pytest.raises(Failure, match="they answer: not within 1000 s"):
        play(Mesh(answer), story, PATIENT)


def test_a_house_that_is_open_from_the_start_is_told_in_other_words_than_a_denial(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)

    def answer(_: App, count: int) -> bool:
        clock.reach(count * 1000)
        return True

    async def begins(t: Trial, req: Req) -> None:
        del req
        await house(t)

    async def ends(t: Trial, req: Req) -> None:
        await t.closed(ALICE, req)

    with pytest.raises(Failure, match="alice begins denied: not within 1000 s; last seen: ok"):
        play(Mesh(answer), begins, PATIENT)
    with pytest.raises(Failure, match="alice is denied: not within 1000 s; last seen: ok"):
        play(Mesh(answer), ends, PATIENT)


async def let_in(t: Trial, req: Req) -> None:
    await t.allowed(ALICE, req, k=5)


def test_a_mesh_that_is_wrong_once_in_twenty_does_not_pass_by_a_few_good_answers() -> None:
    mesh = Mesh(lambda _, count: count % 20 != 0)
    with pytest.raises(Failure):
        play(mesh, let_in)


def test_a_change_that_arrives_after_a_few_good_answers_is_waited_for() -> None:
    mesh = Mesh(lambda _, count: count <= 5 or count > 60)
    play(mesh, let_in)
    assert mesh.count > 60 + RULES.k + RULES.fixed


def test_one_bad_answer_after_full_convergence_is_a_failure() -> None:
    async def story(t: Trial, req: Req) -> None:
        await t.reaches(ALICE, req, "api")

    with pytest.raises(Failure, match="then 1 of 100 were otherwise"):
        play(Mesh(lambda _, count: count != 90), story)


def test_a_revoked_grant_is_not_proved_by_a_few_answers_of_a_proxy_that_was_told_first() -> None:
    async def story(t: Trial, req: Req) -> None:
        await t.closed(ALICE, req)

    mesh = Mesh(lambda _, count: 10 < count <= 16)
    play(mesh, story, replace(RULES, deadline=30.0))
    assert mesh.count >= 16 + RULES.k


def test_a_reading_of_several_checks_holds_whatever_was_seen() -> None:
    async def story(t: Trial, req: Req) -> None:
        del req
        for value in ("accepted", "", "accepted"):
            async with t.provisional("fqdn"):
                t.check(bool(value), "not reached")
                t.reading("fqdn", value)
        assert t.notes.readings == {"fqdn": "accepted; otherwise: not reached"}

    play(Mesh(only_alice), story)


class Telling(Mesh):
    """Has something to say about every object."""

    def __init__(self, *events: Event) -> None:
        super().__init__(only_alice)
        self._events = list(events)

    async def events(self, manifest: Manifest) -> list[Event]:
        del manifest
        return self._events


SYNCED = Event("Synced", "the split is in sync", "Normal")


@pytest.mark.parametrize(
    ("events", "words", "said"),
    [
        ((SYNCED,), (), False),
        ((SYNCED, Event("Bad", "no", "Warning")), (), True),
        ((Event("SMI0104", "no weight is above zero"),), (), True),
        ((SYNCED,), ("weight",), False),
        ((Event("SMI0104", "no weight is above zero"),), ("weight",), True),
        ((Event("SMI0104", "no weight is above zero"),), ("weight", "v1"), False),
    ],
)
def test_that_all_is_well_is_no_warning(events: tuple[Event, ...], words: tuple[str, ...], *, said: bool) -> None:
    async def story(t: Trial, req: Req) -> None:
        del req
        about = Split("split", "ns", "root", (("v1", 0),))
        if said:
            assert await t.said(about, *words) == events[-1]
        else:
            with pytest.raises(Failure, match="nothing about TrafficSplit split"):
                await t.said(about, *words)

    play(Telling(*events), story, replace(RULES, deadline=0.2))


class Ratio(Mesh):
    """Sends so many of ten requests to one workload, and others from a certain one on."""

    def __init__(self, before: int, after: int, change: int) -> None:
        super().__init__(lambda *_: True)
        self._shares = (before, after, change)

    async def send(self, client: App, req: Req, batch: Batch, token: str) -> list[Reply]:
        replies = []
        for reply in await super().send(client, req, batch, token):
            before, after, change = self._shares
            share = before if self.count < change else after
            name = "v1" if len(replies) % 10 < share else "v2"
            replies.append(replace(reply, backend={**reply.backend, "app": name}))
        return replies


def test_a_changed_ratio_is_waited_for_before_the_sample_that_counts() -> None:
    async def story(t: Trial, req: Req) -> None:
        await t.comes_near(ALICE, req, {"v1": 0.4, "v2": 0.6})

    mesh = Ratio(7, 4, 1000)
    play(mesh, story)
    assert 1000 <= mesh.count <= 1000 + trials.NEAR
    with pytest.raises(Failure, match="v1 40%, v2 60%: not even nearly within"):
        play(Ratio(7, 7, 0), story, replace(RULES, deadline=0.2))


def test_pods_can_be_waited_for_as_workloads_can() -> None:
    class Many(Mesh):
        """Has ninety pods that answer in turn."""

        async def send(self, client: App, req: Req, batch: Batch, token: str) -> list[Reply]:
            first, replies = self.count, await super().send(client, req, batch, token)
            pods = [f"api-{(first + number) % 90}" for number in range(len(replies))]
            return [
                replace(reply, backend={**reply.backend, "pod": pod}) for reply, pod in zip(replies, pods, strict=True)
            ]

    async def story(t: Trial, req: Req) -> None:
        pods = [f"api-{number}" for number in range(90)]
        replies = await t.eventually(ALICE, req, lambda reply: reply.ok, "all answer", see=pods)
        assert {reply.backend["pod"] for reply in replies} == set(pods)

    play(Many(lambda *_: True), story)


def test_settling_ends_when_a_change_that_was_made_later_is_seen() -> None:
    class Slow(Mesh):
        """Takes eight requests to notice a target."""

        seen = 0

        def opened(self, client: App, count: int) -> bool:
            if any(item["kind"] == "TrafficTarget" for item in self.manifests):
                self.seen = self.seen or count
            return client.name == "alice" and bool(self.seen) and count > self.seen + 8

    mesh = Slow(lambda _client, _count: False)
    mesh._answer = mesh.opened

    async def story(t: Trial, req: Req) -> None:
        place = await t.place((SERVER, ALICE), enforced=True)
        h = House(t, place, {"api": req.service.partition("/")[2]})
        await h.settle("alice")
        assert mesh.count > mesh.seen + 8
        assert [item["kind"] for item in mesh.manifests] == ["HTTPRouteGroup", "TrafficTarget"]

    play(mesh, story)
