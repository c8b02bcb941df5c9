"""What a case works with: places with workloads, objects that go away by themselves, and the ways of asserting.

The rules of asserting are here and nowhere else. *Convergence* is k good answers in a row with every expected backend
seen and all checks inside of the loop (`eventually`), and then a fixed sample that is all good (`reaches`, `allowed`).
*Weights* are one sample against exact windows (`shares`). A
*denial* stands between two positive controls and is proved by the servers' ledgers, which have to know the second
control and what each server wrote last (`denied`, `received`); and the client who is denied is alive (`alive`). Nothing
is retried: what
fails here has failed. A provisional check can't fail; what was seen becomes a reading.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from smi_conformance import render
from smi_conformance.catalog import Claims, Use, pairs
from smi_conformance.model import Match, Obj, Routes, Rule, Service, Subject, Target, Versions
from smi_conformance.places import Place, Pool, together
from smi_conformance.protocol import ApiResult, App, Batch, Event, Harness, HarnessError, Pod, Receipt, Reply, Req
from smi_conformance.render import Manifest
from smi_conformance.statistics import ALPHA, EXPECTED, SLACK, SMALL, windows


class Failure(AssertionError):  # noqa: N818 - a verdict about the implementation, not an error of ours
    """The implementation did something else than the rule says."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The numbers of a run."""

    deadline: float = 30.0
    samples: int = 2000
    k: int = 20
    quiet: float = 1.0
    denials: int = 20
    denial_seconds: float = 2.0
    fixed: int = 100
    quick: bool = False

    def size(self, full: int) -> int:
        """Scale a number of requests that a case asks for."""
        return full if not self.quick else max(200, full // 4)


LEDGER = 10.0
"""Seconds within which a request that was answered, and a mark, have to be in the ledger."""

ROOM = 5.0
"""Seconds, besides the quiet time, that good answers which began before the deadline may take to be enough."""

NEAR = 200
"""So many requests tell a ratio from the one before it, if nothing else does."""

REFUSED = frozenset({401, 403})
"""What only somebody who knows the rules answers: a proxy that is dead or has no configuration says something else."""

QUICK = Rules(samples=500, quiet=0.3, denial_seconds=0.6, fixed=25, quick=True)


@dataclass(slots=True)
class Notes:
    """What a case saw; the report is made from it."""

    observed: dict[str, Any] = field(default_factory=dict)
    readings: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    converged: list[float] = field(default_factory=list)
    lacking: set[str] = field(default_factory=set)


_SERIAL = itertools.count(1)


class Trial:
    """One case under one version."""

    def __init__(self, harness: Harness, pool: Pool, rules: Rules, version: tuple[str, Versions]) -> None:
        self.harness = harness
        self.rules = rules
        self.version, self.versions = version
        self.claims = Claims()
        self.notes = Notes()
        self.serial = next(_SERIAL)
        self._pool = pool
        self._places: list[Place] = []
        self._objects: dict[tuple[str, str, str], Manifest] = {}
        self._extra: list[App] = []
        self._tokens = itertools.count(1)
        self._received: dict[str, list[Receipt]] = {}
        self._kept: dict[str, App] = {}
        self._t0 = time.monotonic()

    # ------------------------------------------------------------------------------------------- places and objects

    async def place(self, layout: Sequence[App], *, enforced: bool) -> Place:
        """Take a namespace with these workloads; nobody else has it meanwhile."""
        found = await self._pool.take(tuple(layout), enforced=enforced)
        self._places.append(found)
        with contextlib.suppress(HarnessError):  # what a ledger lost of earlier cases is no trouble of this one
            await self._read_on(found.apps.values())
        return found

    async def deploy(self, place: Place, app: App) -> tuple[App, tuple[Pod, ...]]:
        """Start one more workload in a place, for this case alone (or change its replicas)."""
        here = replace(app, namespace=place.namespace)
        self._extra = [other for other in self._extra if other.key != here.key] + [here]  # also if it does not start
        place.alive.discard(here.key)
        return here, await self.harness.deploy(here)

    async def pods(self, app: App) -> tuple[Pod, ...]:
        """Return the pods of a workload of a place."""
        return await self.harness.deploy(app)

    async def undeploy(self, app: App) -> None:
        """Stop a workload that this case started."""
        await self.harness.undeploy(app)
        self._extra = [other for other in self._extra if other.key != app.key]

    def name(self, base: str) -> str:
        """Return a name that no earlier case has used."""
        return f"{base}-{self.serial}"

    async def furnish(self, place: Place, standing: Mapping[str, Service], *own: Obj) -> dict[str, str]:
        """Write objects of this case, and Services that no case changes, unless the place has such; return their names.

        The latter stay with the place.
        """
        kinds = {called: replace(service, name="") for called, service in standing.items()}
        made = {kinds[called]: service for called, service in standing.items() if kinds[called] not in place.standing}
        if made or own:
            await self.apply(*own, *made.values())
        for kind, service in made.items():
            place.standing[kind] = self._objects.pop(_key(self.manifest(service)))
        return {called: str(place.standing[kind]["metadata"]["name"]) for called, kind in kinds.items()}

    def manifest(self, obj: Obj | Manifest) -> Manifest:
        """Return the manifest of an object under the versions of this trial."""
        if isinstance(obj, dict):
            return obj
        as_list = self.harness.environment.get("headersEncoding") == "list"
        return render.render(obj, self.versions, as_list)

    async def apply(self, *objs: Obj | Manifest) -> None:
        """Write objects; one that is refused fails the case. They are deleted when the case is over."""
        for result, obj in zip(await self.try_apply(*objs), objs, strict=True):
            if not result.accepted:
                manifest = self.manifest(obj)
                raise Failure(f"{manifest['kind']} was refused with {result.code}: {result.message}")

    async def try_apply(self, *objs: Obj | Manifest) -> list[ApiResult]:
        """Write objects and return what the API said."""
        manifests = [self.manifest(obj) for obj in objs]
        for manifest in manifests:
            self._objects[_key(manifest)] = manifest
        self._t0 = time.monotonic()
        return await self.harness.apply(manifests)

    async def delete(self, *objs: Obj | Manifest) -> None:
        """Delete objects."""
        manifests = [self.manifest(obj) for obj in objs]
        for manifest in manifests:
            self._objects.pop(_key(manifest), None)
        self._t0 = time.monotonic()
        await self.harness.delete(manifests)

    def namespaces(self) -> list[str]:
        """Return where the case is."""
        return [place.namespace for place in self._places]

    async def close(self, *, bad: bool = False, keep: bool = False) -> None:
        """Delete what the case made and give its places back; or keep both, for somebody who wants to look.

        The places of a `bad` case, which failed or had trouble, are removed.
        """
        for name, app in self._kept.items():
            await self.harness.close_connection(app, name)
        if keep:
            return
        clean = False
        try:
            if self._objects:
                await self.harness.delete(list(reversed(self._objects.values())))
            await together(*(self.harness.undeploy(app) for app in self._extra))
            clean = not bad
        finally:
            for place in self._places:
                await (self._pool.give_back(place) if clean else self._pool.give_up(place))

    # ------------------------------------------------------------------------------------------------------ traffic

    async def send(self, client: App, req: Req, batch: Batch) -> list[Reply]:
        """Send a batch."""
        token = f"{self.serial}x{next(self._tokens)}"
        if batch.kept:
            self._kept[batch.kept] = client
        return await self.harness.send(client, req, batch, token)

    async def eventually(  # noqa: PLR0913
        self, client: App, req: Req, good: Callable[[Reply], bool], what: str, *, see: Collection[str] = (), k: int = 0
    ) -> list[Reply]:
        """Wait until k answers in a row are good and every workload (or pod) in `see` has answered; return them.

        The first of them has to be sent before the deadline: what begins later is late, however soon it is seen.
        """
        k, rules = k or self.rules.k, self.rules
        quiet = rules.quiet if k >= rules.k else 0.0
        end = time.monotonic() + rules.deadline
        streak: list[Reply] = []
        began, size, wrong = 0.0, max(1, k // 2), ""
        pause = 0.02
        while True:
            sent = time.monotonic()
            if sent > (max(end, began + quiet + ROOM) if streak else end):
                raise Failure(f"{what}: not within {rules.deadline:g} s; last seen: {wrong}")
            replies = await self.send(client, req, Batch(n=size, concurrency=4, timeout=min(3.0, rules.deadline)))
            bad = next((reply for reply in replies if not good(reply)), None)
            if bad is None:
                began = began if streak else sent
                streak += replies
                missing = set(see) - {str(reply.backend.get(key)) for reply in streak for key in ("app", "pod")}
                if len(streak) >= k and not missing and time.monotonic() - began >= quiet:
                    self.notes.converged.append(began - self._t0)
                    return streak
                wrong = f"never answered: {', '.join(sorted(missing))}" if missing else wrong
                rest = max(1, k // 4) if quiet else max(1, k - len(streak))  # over the quiet time, or at once
                size = min(200, size * 2) if len(streak) >= k and missing else rest
                pause = quiet / 2
            else:
                streak, wrong, size, pause = [], str(bad), max(1, min(4, k // 2)), min(0.2, pause * 1.5)
            await asyncio.sleep(max(pause, 0.02))

    async def reaches(self, client: App, req: Req, *apps: str, k: int = 0) -> None:
        """Wait until requests reach exactly these workloads, all of them."""
        what = f"requests reach {' and '.join(apps)}"
        wanted = set(apps)
        await self._stays(client, req, lambda reply: reply.ok and reply.app in wanted, what, see=wanted, k=k)

    async def _stays(  # noqa: PLR0913
        self, client: App, req: Req, good: Callable[[Reply], bool], what: str, *, see: Collection[str] = (), k: int = 0
    ) -> None:
        """Wait for good answers, then take one fixed sample in which all are good.

        A few good answers in a row are seen sooner or later of a mesh that is wrong now and then, too. If few were
        enough for this caller, a bad sample may be that of a change which is still on its way: then the full number is
        waited for, and the sample after that is the last.
        """
        bad: list[Reply] = []
        for most in dict.fromkeys((k or self.rules.k, max(k, self.rules.k))):
            await self.eventually(client, req, good, what, see=see, k=most)
            bad = [reply for reply in await self.send(client, req, Batch(n=self.rules.fixed)) if not good(reply)]
            if not bad:
                return
        raise Failure(f"{what}: then {len(bad)} of {self.rules.fixed} were otherwise, the first: {bad[0]}")

    async def shares(
        self, client: App, req: Req, shares: Mapping[str, float], *, n: int = 0, note: str = ""
    ) -> dict[str, int]:
        """Check the shares of a sample: exact windows, and nothing at all for a share of zero."""
        wanted = {name for name, share in shares.items() if share > 0}
        see = {name for name, share in shares.items() if share >= 0.05}
        await self.eventually(
            client, req, lambda reply: reply.ok and reply.app in wanted, "only backends answer", see=see
        )
        n = self.rules.size(n) if n else self.rules.samples
        # The rarest backend has to be expected 20 times, or getting nothing would be within its window.
        full = max([n, *(math.ceil(EXPECTED / share) for share in shares.values() if 0 < share < SMALL)])
        # A quick sample is never larger, however small a share is; it is still proved that it is not zero.
        n = min(full, self.rules.samples) if self.rules.quick else full
        replies = await self.send(client, req, Batch(n=n, concurrency=8, connection="half"))
        bad = next((reply for reply in replies if not reply.ok), None)
        if bad is not None or len(replies) != n:
            raise Failure(f"{len(replies)} of {n} answered, one with: {bad}")
        counts = Counter(reply.app for reply in replies)
        accepted = windows(n, shares, ALPHA, SLACK)
        self.notes.observed[note or "counts"] = {
            name: {"count": counts[name], "accept": [accepted[name].low, accepted[name].high]} for name in shares
        }
        strays = {name: count for name, count in counts.items() if name not in shares}
        if strays:
            raise Failure(f"workloads that are no backend answered: {strays}")
        for name, room in accepted.items():
            if counts[name] not in room:
                share = shares[name]
                raise Failure(f"{name} got {counts[name]} of {n}, accepted for {share:.4g}: {room.low} to {room.high}")
        await self._seen_at_all(client, req, wanted - counts.keys(), full - n)
        return dict(counts)

    async def comes_near(self, client: App, req: Req, shares: Mapping[str, float]) -> None:
        """Wait until shares are nearly these, where the same workloads answer before a change and after it.

        What was there before has to be further off than this can be; the exact sample, which counts, is taken then.
        """
        near = windows(NEAR, shares, alpha=1e-3, slack=0.05)
        end = time.monotonic() + self.rules.deadline
        while True:
            late = time.monotonic() > end
            counts = await self.sample(client, req, NEAR)
            if all(counts[name] in room for name, room in near.items()):
                return
            if late:
                text = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
                raise Failure(f"{text}: not even nearly within {self.rules.deadline:g} s, but {dict(counts)}")

    async def _seen_at_all(self, client: App, req: Req, missing: set[str], most: int) -> None:
        """Go on until the rarest backends have answered too: a quick sample is too small to tell rare from never."""
        while missing and most > 0:
            replies = await self.send(
                client, req, Batch(n=min(most, self.rules.samples), concurrency=8, connection="half")
            )
            missing, most = missing - {reply.app for reply in replies}, most - len(replies)
        if missing:
            raise Failure(f"{', '.join(sorted(missing))} got nothing at all")

    async def sample(self, client: App, req: Req, n: int, **how: Any) -> Counter[str]:
        """Send n requests and count who answered; what was not answered counts under its outcome."""
        replies = await self.send(client, req, Batch(n=n, concurrency=8, **how))
        return Counter(reply.app if reply.ok else _seen(reply) for reply in replies)

    async def pause(self, seconds: float) -> None:
        """Let time pass, where a case is about time."""
        await asyncio.sleep(seconds)

    @contextlib.asynccontextmanager
    async def load(self, client: App, req: Req, rate: int = 50) -> AsyncIterator[list[Reply]]:
        """Send so many requests a second while the block runs; the list holds all replies when it has ended."""
        replies: list[Reply] = []
        over = asyncio.Event()

        async def go() -> None:
            while not over.is_set():
                replies.extend(await self.send(client, req, Batch(n=rate // 2, concurrency=4, interval=1 / rate)))

        task = asyncio.create_task(go())
        try:
            yield replies
        finally:
            over.set()
            await task

    async def allowed(self, client: App, req: Req, *, k: int = 5, what: str = "") -> None:
        """Wait until requests are answered by a workload."""
        await self._stays(client, req, lambda reply: reply.ok, what or f"{_say(client, req)} is allowed", k=k)

    async def closed(self, client: App, req: Req, *, k: int = 0, what: str = "is denied") -> None:
        """Wait until requests are no longer answered.

        A few bad answers are enough only for a caller that goes on to prove it, or to begin with.
        """
        last = ""

        def shut(reply: Reply) -> bool:
            nonlocal last
            last = reply.outcome
            return not reply.ok and last != "dns"

        try:
            await self.eventually(client, req, shut, f"{_say(client, req)} {what}", k=k)
        except Failure:
            if last == "dns":
                raise HarnessError(_unfound(client, req)) from None
            raise

    async def denied(self, client: App, req: Req, control: tuple[App, Req]) -> list[Reply]:
        """Prove a denial: control, then requests that no server receives, then control again."""
        await self.allowed(*control, k=3, what=f"the control ({_say(*control)}) works")
        await self.alive(client, control)
        await self.closed(client, req, k=5)
        return await self.not_received(client, req, control)

    async def alive(self, client: App, control: tuple[App, Req]) -> None:
        """See, once in a place, that a client can reach somebody: one that can't would prove any denial of it.

        It is answered, or refused by somebody who knows the rules, where the control gets in. Else it is let in there,
        at a path that nobody uses, for a moment. A client outside of the mesh, which has no identity, can't be.
        """
        known = next((place.alive for place in self._places if place.namespace == client.namespace), set())
        if client.key in known or not client.meshed:
            return
        reply = (await self.send(client, _plain(control[1]), Batch(n=1)))[0]
        if not reply.ok and reply.status not in REFUSED:
            await self._let_in(client, control)
        known.add(client.key)

    async def _let_in(self, client: App, control: tuple[App, Req]) -> None:
        """Open a path of the control's server to a client, see it answered there, and close it."""
        (reply,) = await self.send(*control, Batch(n=1))
        if not reply.ok:
            raise Failure(f"the control ({_say(*control)}) stopped working: {reply}")
        server = reply.backend
        name, namespace = self.name(f"alive-{client.name}"), str(server.get("ns", ""))
        routes = Routes(name, namespace, (Match("alive", f"/{name}$", ("*",)),))
        source, destination = Subject(client.account, client.namespace), Subject(str(server.get("sa", "")))
        target = Target(name, namespace, destination, (source,), (Rule(name),))
        await self.apply(routes, target)
        try:
            await self.allowed(client, _plain(control[1], f"/{name}"), k=1)
        except Failure as failure:
            raise HarnessError(f"a client that can reach nobody proves no denial of it: {failure}") from None
        await self.delete(target, routes)

    async def not_received(self, client: App, req: Req, control: tuple[App, Req]) -> list[Reply]:
        """Prove that requests arrive nowhere, whatever the client is told."""
        rules = self.rules
        timeout = 0.3 if req.kind == "udp" else 3.0
        interval = rules.denial_seconds / rules.denials
        batch = Batch(n=rules.denials, concurrency=4, interval=interval, timeout=timeout)
        replies = await self.send(client, req, batch)
        if any(reply.outcome == "dns" for reply in replies):
            raise HarnessError(_unfound(client, req))
        leaks = [reply for reply in replies if reply.ok]
        if leaks:
            raise Failure(f"{_say(client, req)}: {len(leaks)} of {len(replies)} were answered, by {leaks[0]}")
        received = await self.arrived(replies, control)
        if received:
            raise Failure(f"{_say(client, req)}: {len(received)} of {len(replies)} arrived at {received[0].pod}")
        return replies

    async def arrived(self, replies: Collection[Reply], control: tuple[App, Req]) -> list[Receipt]:
        """Return what servers received of requests that may have been denied.

        The control is sent after them, and has to be answered: what is dead receives nothing.
        """
        after = await self.send(*control, Batch(n=3, concurrency=1))
        if not all(reply.ok for reply in after):
            raise Failure(f"the control ({_say(*control)}) stopped working: {after[-1]}")
        tokens = {reply.token for reply in replies}
        return [item for item in await self.received([*replies, *after]) if item.token in tokens]

    async def received(self, replies: Collection[Reply]) -> list[Receipt]:
        """Return what the servers of our places received of these requests.

        What was answered is waited for: a server writes before it answers. Of what was not, a ledger that is late or
        mute would say the same as one that has it all; so each server makes a mark, which is waited for too.
        """
        apps = [*(app for place in self._places for app in place.apps.values()), *self._extra]
        servers = [app for app in apps if app.ports]
        if not all(reply.ok for reply in replies):
            await asyncio.sleep(0.05)  # for what is on its way while its client has been told already
        token = f"{self.serial}m{next(self._tokens)}"
        marks = await together(*(self.harness.mark(app, f"{token}-{app.namespace}-{app.name}") for app in servers))
        answered = {reply.token for reply in replies if reply.ok}
        await self._written_down(servers, answered, {mark for made in marks for mark in made})
        return [item for reply in replies for item in self._received.get(reply.token, ())]

    async def _written_down(self, servers: Collection[App], answered: set[str], marks: set[str]) -> None:
        """Wait until the ledgers have these tokens."""
        end = time.monotonic() + LEDGER
        while True:
            await self._read_on(servers)
            if not (missing := (answered | marks) - self._received.keys()):
                return
            if time.monotonic() > end:
                lost = f"{len(missing & answered)} of {len(answered)} requests that were answered"
                lost += f" and {len(missing & marks)} of {len(marks)} marks" if marks else ""
                raise HarnessError(f"after {LEDGER:g} s the ledgers lack {lost}: they prove nothing")
            await asyncio.sleep(0.05)

    async def _read_on(self, apps: Iterable[App]) -> None:
        for app in apps:
            if app.ports:
                for item in await self.harness.receipts(app):
                    self._received.setdefault(item.token, []).append(item)

    # ------------------------------------------------------------------------------------------------ other verdicts

    async def said(self, obj: Obj | Manifest, *words: str) -> Event:
        """Wait until something that holds all these words was said about an object.

        Without words it has to be a warning, if the harness tells: that all is well is said of any object.
        """
        manifest = self.manifest(obj)
        end = time.monotonic() + min(self.rules.deadline, 10.0)
        events: list[Event] = []
        while time.monotonic() < end:
            events = await self.harness.events(manifest)
            for event in events:
                if not words and event.type in {"", "Warning"}:
                    return event
                if words and all(word in f"{event.reason} {event.message}" for word in words):
                    return event
            await asyncio.sleep(0.05)
        told = "; ".join(f"{event.reason}: {event.message}" for event in events) or "nothing"
        wanted = f"names {' and '.join(words)}" if words else "is a warning"
        raise Failure(f"nothing about {manifest['kind']} {manifest['metadata']['name']} {wanted}; said: {told}")

    def reading(self, key: str, value: str) -> None:
        """Write down what was observed where the specification is silent; of several checks, each that differs."""
        before = self.notes.readings.get(key)
        if before is None:
            self.notes.readings[key] = value
        elif value not in before.split("; "):
            self.notes.readings[key] = f"{before}; {value}"

    @contextlib.asynccontextmanager
    async def provisional(self, key: str) -> AsyncIterator[None]:
        """Run a check whose failure is an observation."""
        try:
            yield
        except Failure as failure:
            self.reading(key, f"otherwise: {failure}")

    def check(self, fact: bool, message: str) -> None:  # noqa: FBT001
        """Fail unless a fact holds."""
        if not fact:
            raise Failure(message)

    @property
    def trust_domain(self) -> str:
        """Return the SPIFFE trust domain of the mesh."""
        return str(self.harness.environment.get("trustDomain", "cluster.local"))

    def may_enforce(self, *groups: str) -> bool:
        """Tell whether a case of splits may have a part in a place where access rules are enforced."""
        return "ACCESS" in self.claims.profiles and self.claims.both_modes and self.serves(*groups)

    def serves(self, *groups: str) -> bool:
        """Tell whether groups are served in the versions that a part of this case writes, the first in the case's own.

        A part of a case that is played without them would be an error.
        """
        served = pairs(self.harness.served)
        return Use(groups, (self.version,)).pairs(self.version, served) <= served

    def needs(self, capability: str, *, observed: bool = False) -> bool:
        """Tell whether the harness can do what a part of a case needs; without that part the case has not passed.

        A part that is `observed` only decides nothing, and may be missing.
        """
        found = capability in self.harness.capabilities
        if not found and not observed:
            self.notes.lacking.add(capability)
        return found


def _key(manifest: Manifest) -> tuple[str, str, str]:
    return manifest["kind"], manifest["metadata"].get("namespace", ""), manifest["metadata"]["name"]


def _seen(reply: Reply) -> str:
    return str(reply.status) if reply.status else reply.outcome


def _plain(req: Req, path: str = "/") -> Req:
    """Return the plainest request to the same server."""
    return Req(req.service, pod=req.pod, path=path)


def _unfound(client: App, req: Req) -> str:
    return f"{_say(client, req)} finds no address for it: a client that can reach nobody proves no denial"


def _say(client: App, req: Req) -> str:
    where = req.pod or req.service
    return f"{req.method} {req.path} on {where}:{req.port} ({req.kind}) by {client.key}"
