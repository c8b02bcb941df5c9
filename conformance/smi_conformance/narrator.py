"""A trial that tells what it would do, sentence by sentence, and what has to be seen.

Every way of asserting writes its sentence. What a case checks by itself is a Python expression; `FACTS` says it in
words, and a test holds the two together: an expression without words, or words whose expression is gone, fails.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import math
import re
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from smi_conformance import model
from smi_conformance.layouts import CLOSED, HTTP
from smi_conformance.model import Obj
from smi_conformance.places import Place
from smi_conformance.protocol import ApiResult, App, Batch, Event, Pod, Receipt, Reply, Req
from smi_conformance.render import Manifest
from smi_conformance.statistics import ALPHA, EXPECTED, SLACK, SMALL, Window, windows
from smi_conformance.trial import Trial

# What a case checks by itself, in words. `{it}` is what was sent or written last; `|` divides what several sentences
# in a row have in common from what each adds. The other names are those that the case knows where it checks.
FACTS: Mapping[str, str] = {
    "(name, t.version) not in t.claims.versions": "{name}/{t.version} is served, or not claimed",
    "result.accepted": "the API accepts |{it}",
    "found is not None": "there is |{it}",
    "weights == ['1', '100']": "{it}: the weights come back as written, 1 and 100",
    "'v1' not in counts": "of {it}, v1, whose weight is {weight!r}, answers none",
    "'api' not in counts": "of {it}, none is answered by api",
    "found is not None and found['spec'] == wanted['spec']": "{it}: its spec is as it was written",
    "kept == 'rollout'": "{it}: its annotation is still there",
    "apps == {'api'}": "of {it}, the servers' ledgers have some, and only those of api",
    "right and bool(came) == expected": (
        "of 5 each, answered and in the server's ledger ({expected}): |{it:.0}{who} {method} {path}"
    ),
    "names == {pod.name for pod in pods}": "among the answers are those of every pod",
    "time.monotonic() < end": "the pod becomes ready within {t.rules.deadline:g} s, though nobody may call it",
    "await t.harness.ready(probed)": "a pod that is probed over HTTP stays ready, though nobody may call it",
    "bool(others)": "another version is served, too",
    "found.get('apiVersion') == f'{group}/{version}'": "{it}: it says that it is of {group}/{version}",
    "_holds(body, _body(wanted))": "{it}: it has all that it would have, had it been written there",
    "len(weights) == 2": "{it}: both backends have a weight",
    "len(body.get('sources', ())) == 1": "{it}: it has one source",
    "weights == [0, 100]": "{it}: the weights are 0 and 100",
    "owner in owners": "{it}: its owner is still there",
    "not old": "of {it}, every one is answered by v2",
    "apps == {'v1'}": "of {it}, the servers' ledgers have some, and only those of v1",
    "worked in room": "of {it}, {room.low} to {room.high} are answered: the share of v1",
    "received == {reply.token: 'HEAD' for reply in replies}": "the server's ledger has each of them as a HEAD request",
    "not spelt": "of {it}, none is in a server's ledger under a path that stands for /secret",
    "set(counts) == {'v1'}": "of {it}, every one is answered by v1",
    "set(counts) == {'base'}": "of {it}, every one is answered by base",
    "ports == {('v1', 8080), ('v2', 8081)}": "of {it}, v1 gets its share on port 8080 and v2 on port 8081",
    "set(alone) == {'base'}": "of {it}, every one is answered by base",
    "set(counts) == {'base', 'v1', 'v2'}": "of {it}, base, v1 and v2 all answer some, and nobody else",
    "set(other) == {'base', 'v1', 'v2'}": "of {it}, base, v1 and v2 all answer some, and nobody else",
    "reused >= 190": "of {it}, at least 190 use the connection again",
    "set(counts) == {'v1', 'v2'} and min(counts.values()) >= 40": "of {it}, v1 and v2 answer at least 40 each",
    "counts[name] in room": "of {it}, none of which may fail, {name} answers {room.low} to {room.high}",
    "len({reply.app for reply in held}) == 1": "of {it}, all are answered by the same backend",
    "{str(reply.backend['pod']) for reply in replies} == names": "among the answers are those of every pod",
}

_SEND = "send "
SETTLED = "wait until that has had its time: what is written after it has taken effect"

LET_IN = 5
"""So many answers in a row are enough for `allowed`, unless told."""

_WORDS = {
    " reaches ": "reaches: within {deadline:g} s, {k} answers in a row, or as many as the line says, are from these "
    "workloads and from each of them; then {fixed} of {fixed} are.{again}",
    " is allowed": "is allowed: within {deadline:g} s, {let_in} requests in a row, or as many as the line says, are "
    "answered by a workload; then {fixed} of {fixed} are.{again}",
    " is denied, ": "denied: the control is answered, the client (unless it is outside of the mesh) is one that "
    "reaches somebody, and {let_in} requests in a row are not answered; then {denials} more over {seconds:g} s, of "
    "which none is answered and none is in the ledger of any server; then the control is answered again.",
    " arrives nowhere ": "arrives nowhere: of these requests, over {seconds:g} s, none is answered, and none is in the "
    "ledger of any server. Nothing is sent or waited for before them, and the control is answered after them only.",
    " nobody else any": "these answer: only backends answer, {k} in a row; then one sample, half of it on new "
    "connections. The numbers are exact windows: who divides rightly is outside of them once in a million samples.",
}
_AGAIN = " If not, and fewer than {k} were enough before, {k} in a row and {fixed} more decide."


@dataclass(slots=True)
class Step:
    """One sentence: what it says, what several sentences in a row say it of, and under which reading it stands."""

    text: str
    items: list[str] = field(default_factory=list)
    reading: str = ""

    def __str__(self) -> str:
        return self.text + ", ".join(self.items)


class Narrator(Trial):
    """A trial whose assertions write themselves down."""

    def begin(self) -> None:
        """Begin to tell."""
        self.serial = 1  # as if it were the only case of its process
        self.steps: list[Step] = []
        self._reading = ""
        self._it = ""  # what was sent or written last, which the next check is about
        self._untold = ""  # the sentence about it, if no check has taken it up yet
        self._known: dict[tuple[str, Req], tuple[str, ...]] = {}  # who answered what was waited for

    # -------------------------------------------------------------------------------------------------------- telling

    def _tell(self, text: str, item: str = "") -> None:
        self.finish()
        self._add(*((SETTLED, "") if _within("settle") else (text, item)))

    def _add(self, text: str, item: str = "") -> None:
        last = self.steps[-1] if self.steps else Step("")
        for step in reversed(self.steps):  # beside others that collect, as the rows of a table do
            if not item or not step.items:
                break
            if (step.text, step.reading) == (text, self._reading):
                step.items += [item] if item not in step.items else []
                return
        if item or (last.text, last.reading, last.items) != (text, self._reading, []):
            self.steps.append(Step(text, [item] if item else [], self._reading))

    def tell_of(self, it: str, sentence: str = "") -> None:
        """Take what a check that follows is about; the sentence is told unless one does."""
        self.finish()
        self._it, self._untold = it, sentence

    def finish(self) -> None:
        """Tell what is left to be told."""
        if self._untold:
            untold, self._untold = self._untold, ""
            self._add(untold)

    def tell(self, text: str) -> None:
        """Tell what is done."""
        self._tell(text)

    def check(self, fact: bool, message: str) -> None:  # noqa: FBT001
        """Say in words what is checked."""
        del fact
        here = inspect.currentframe()
        frame = here.f_back if here is not None else None
        if frame is None:
            return
        source = _source(frame)
        words = FACTS.get(source, f"{{it}}: {_escaped(source)}, or it fails with: {_escaped(message)}")
        self._untold = "" if "{it" in words else self._untold
        known = {**frame.f_locals, "it": self._it}
        if isinstance(known.get("expected"), bool):
            known["expected"] = "yes" if known["expected"] else "no"
        text, divided, item = words.partition("|")
        self._tell(text.format(**known), item.format(**known) if divided else "")

    # ------------------------------------------------------------------------------------------- places and objects

    async def place(self, layout: Sequence[App], *, enforced: bool) -> Place:
        """Say which workloads there are."""
        found = await super().place(layout, enforced=enforced)
        if layout:
            rules = "access rules are enforced" if enforced else "access is open"
            self._tell(f"in {found.namespace}, where {rules}: {_workloads(layout, accounts=enforced)}")
        return found

    async def deploy(self, place: Place, app: App) -> tuple[App, tuple[Pod, ...]]:
        """Say what is started."""
        here, pods = await super().deploy(place, app)
        where = "" if place.namespace == self._here else f" in {place.namespace}"
        many = f"{app.replicas} pods of " if app.replicas != 1 else ""
        self._tell(f"run {many}{_workloads((app,))}{where}")
        return here, pods

    async def undeploy(self, app: App) -> None:
        """Say what is stopped."""
        await super().undeploy(app)
        self._tell(f"stop {app.name}")

    async def apply(self, *objs: Obj | Manifest) -> None:
        """Say what is written."""
        await super().try_apply(*objs)
        if objs:
            self._tell(f"apply {self._objects_said(objs)}")

    async def try_apply(self, *objs: Obj | Manifest) -> list[ApiResult]:
        """Say what is written that may be refused."""
        results = await super().try_apply(*objs)
        named = ", ".join(f"{item['kind']} {item['metadata']['name']}" for item in map(self.manifest, objs))
        self.tell_of(named, f"write, and if it is accepted: {self._objects_said(objs)}")
        return results

    async def delete(self, *objs: Obj | Manifest) -> None:
        """Say what is deleted."""
        await super().delete(*objs)
        named = (f"{item['kind']} {item['metadata']['name']}" for item in map(self.manifest, objs))
        self._tell(f"delete {', '.join(named)}")

    def _objects_said(self, objs: Sequence[Obj | Manifest]) -> str:
        said: defaultdict[str, list[str]] = defaultdict(list)
        for obj in objs:
            manifest = self.manifest(obj)
            where = manifest["metadata"].get("namespace", self._here)
            elsewhere = "" if where == self._here else f" in {where}"
            more = f" ({summary})" if (summary := _summary(obj, self._here)) else ""
            said[manifest["kind"]].append(f"{manifest['metadata']['name']}{elsewhere}{more}")
        few = {
            kind: [*items[:3], f"and {len(items) - 3} more"] if len(items) > 6 else items
            for kind, items in said.items()
        }
        return "; ".join(f"{kind} {', '.join(items)}" for kind, items in few.items())

    @property
    def _here(self) -> str:
        return self._places[0].namespace if self._places else ""

    # ------------------------------------------------------------------------------------------------------ traffic

    def _say(self, client: App, req: Req) -> str:
        """Say who sends what, and where to."""
        here = f"{self._here}/"
        where = req.service.removeprefix(here)
        if req.pod:
            where = f"the pod itself at {req.pod}" if req.pod[:1].isdigit() else req.pod
        what = {
            "tcp": "TCP",
            "tcp-first": "TCP, the server speaking first,",
            "udp": "UDP",
            "grpc": f"gRPC {req.path}",
            "h2c": f"{req.method} {req.path} over HTTP/2",
        }.get(req.kind, f"{req.method} {req.path}")
        headers = ", ".join(f"{name}: {value}" for name, value in req.headers)
        return (
            f"{what} to {where}:{req.port} from {client.key.removeprefix(here)}"
            + (" past its own proxy" if req.bypass else "")
            + (f" with Host {req.host}" if req.host else "")
            + (f" with {headers}" if headers else "")
        )

    async def send(self, client: App, req: Req, batch: Batch) -> list[Reply]:
        """Say what is sent; it is answered by whom it was last seen to reach."""
        how = " on one connection" if batch.kept else {"new": " on a new connection each"}.get(batch.connection, "")
        pace = f" over {batch.n * batch.interval:g} s" if batch.interval else ""
        what = f"{_times_said(batch.n)} {self._say(client, req)}{how}{pace}"
        if self._untold.startswith(_SEND):  # both at once, and the next check is about both
            what, self._untold = f"{self._it} and {what}", ""
        self.tell_of(what, f"{_SEND}{what}")
        return self._replies(client, req, batch.n)

    async def sample(self, client: App, req: Req, n: int, **how: Any) -> Counter[str]:
        """Say that it is counted who answers."""
        counts = await super().sample(client, req, n, **how)
        self._untold = f"see who answers {self._it}"
        return counts

    def _replies(self, client: App, req: Req, n: int, apps: Sequence[str] = ()) -> list[Reply]:
        apps = apps or self._known.get((client.key, req), ())
        if not apps:
            return [Reply("http_error", 403, f"token-{number}") for number in range(n)]
        return [
            Reply("ok", 200, f"token-{number}", 0.0, True, _backend(client, apps[number % len(apps)], req))
            for number in range(n)
        ]

    async def eventually(  # noqa: PLR0913
        self, client: App, req: Req, good: Callable[[Reply], bool], what: str, *, see: Collection[str] = (), k: int = 0
    ) -> list[Reply]:
        """Say what is waited for."""
        del good
        row = f" ({k} in a row)" if k > self.rules.k else ""
        seen = f", among them {' and '.join(sorted(see))}" if see else ""
        self._tell(f"wait until {what}: {self._say(client, req)}{seen}{row}")
        return self._waited(client, req, sorted(see), k)

    def _waited(self, client: App, req: Req, apps: Sequence[str], k: int) -> list[Reply]:
        self.notes.converged.append(0.0)
        self._known[client.key, req] = tuple(apps)
        return self._replies(client, req, k or self.rules.k, apps or ("?",))

    async def reaches(self, client: App, req: Req, *apps: str, k: int = 0) -> None:
        """Say who has to answer."""
        row = f" ({k} in a row)" if k not in {0, self.rules.k} else ""
        self._tell(f"{self._say(client, req)} reaches {' and '.join(apps)}{row}")
        self._waited(client, req, apps, k)

    async def allowed(self, client: App, req: Req, *, k: int = LET_IN, what: str = "") -> None:
        """Say who has to be let in."""
        del what
        row = f" ({k} in a row)" if k != LET_IN else ""
        self._tell(f"{self._say(client, req)} is allowed{row}")
        self._waited(client, req, ("api",), k)

    async def closed(self, client: App, req: Req, *, k: int = 0, what: str = "") -> None:
        """Say who is no longer let in."""
        self._known.pop((client.key, req), None)
        self.notes.converged.append(0.0)
        few = k if 0 < k < self.rules.k else self.rules.k
        before = "to begin with, " if what == CLOSED else ""
        self._tell(f"{before}{self._say(client, req)} is not answered ({few} in a row)")

    async def denied(self, client: App, req: Req, control: tuple[App, Req]) -> list[Reply]:
        """Say who is denied."""
        self._tell(f"{self._say(client, req)} is denied, while {self._say(*control)} works")
        return self._unanswered(client, req)

    async def not_received(self, client: App, req: Req, control: tuple[App, Req]) -> list[Reply]:
        """Say what must arrive nowhere: unlike a denial, that needs no control before it."""
        count = self.rules.denials
        what = f"{self._say(client, req)} arrives nowhere ({count} requests)"
        self._tell(f"{what}, then {self._say(*control)} is answered")
        return self._unanswered(client, req)

    def _unanswered(self, client: App, req: Req) -> list[Reply]:
        self._known.pop((client.key, req), None)
        return self._replies(client, req, self.rules.denials)

    async def shares(
        self, client: App, req: Req, shares: Mapping[str, float], *, n: int = 0, note: str = ""
    ) -> dict[str, int]:
        """Say who has to answer how many."""
        del note
        rarest = min((share for share in shares.values() if 0 < share < SMALL), default=1.0)
        n = max(self.rules.size(n) if n else self.rules.samples, round(EXPECTED / rarest))
        rooms = windows(n, shares, ALPHA, SLACK)
        said = ", ".join(
            f"{name} {_range(room)} ({100 * shares[name]:.3g} %)" for name, room in rooms.items() if room.high
        )
        none = [name for name, room in rooms.items() if not room.high]
        rest = f", {' and '.join(none)} none" if none else ""
        self._tell(f"of {n} times {self._say(client, req)} these answer: {said}{rest}, nobody else any; none fails")
        self._waited(client, req, [name for name, share in shares.items() if share], 0)
        return {name: round(n * share) for name, share in shares.items()}

    async def comes_near(self, client: App, req: Req, shares: Mapping[str, float]) -> None:
        """Say that changed weights have to be seen before they are counted."""
        said = ", ".join(f"{name} {100 * share:.3g} %" for name, share in shares.items())
        self._tell(f"wait until these answer, nearly: {said}: {self._say(client, req)}")

    async def alive(self, client: App, control: tuple[App, Req]) -> None:
        """Say nothing: it belongs to every denial."""
        del client, control

    async def pause(self, seconds: float) -> None:
        """Go on at once."""
        if seconds >= 1:
            self._tell(f"wait {seconds:g} s")

    @contextlib.asynccontextmanager
    async def load(self, client: App, req: Req, rate: int = 50) -> AsyncIterator[list[Reply]]:
        """Say that requests are sent all the while."""
        self._tell(f"from here on {rate} requests a second, of which none may fail: {self._say(client, req)}")
        yield []
        self._tell("end these requests: none has failed")

    async def received(self, replies: Collection[Reply]) -> list[Receipt]:
        """Return nothing."""
        del replies
        return []

    async def arrived(self, replies: Collection[Reply], control: tuple[App, Req]) -> list[Receipt]:
        """Return nothing."""
        del replies, control
        return []

    async def said(self, obj: Obj | Manifest, *words: str) -> Event:
        """Say what has to be told about an object."""
        manifest = self.manifest(obj)
        about = f"{manifest['kind']} {manifest['metadata']['name']}"
        named = f" that names {' and '.join(words)}" if words else ", a warning"
        self._tell(f"there is an Event about {about}{named}")
        return Event("", "")

    @contextlib.asynccontextmanager
    async def provisional(self, key: str) -> AsyncIterator[None]:
        """Say what is observed only."""
        self.finish()
        outer, self._reading = self._reading, key
        try:
            yield
        finally:
            self.finish()
            self._reading = outer

    def words(self) -> list[str]:
        """Return what the words mean that were used."""
        rules, said = self.rules, "\n".join(map(str, self.steps))
        numbers = {"k": rules.k, "deadline": rules.deadline, "fixed": rules.fixed, "let_in": LET_IN}
        numbers |= {"denials": rules.denials, "seconds": rules.denial_seconds}
        again = _AGAIN.format(**numbers)
        return [meaning.format(again=again, **numbers) for word, meaning in _WORDS.items() if word in said]


def _times_said(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _range(room: Window) -> str:
    return f"{room.low} to {room.high}" if room.low != room.high else f"{room.low}"


def _backend(client: App, app: str, req: Req) -> Mapping[str, Any]:
    return defaultdict(str, app=app, ns=client.namespace, pod=f"{app}-0", port=req.port)


def _workloads(apps: Sequence[App], *, accounts: bool = True) -> str:
    said = {True: [], False: []}  # type: dict[bool, list[str]]
    for app in apps:
        more = [f"account {app.account}"] if accounts and app.account != app.name else []
        more += [f"{name}={value}" for name, value in app.labels if name not in {"app", "group"}]
        more += [] if app.meshed else ["outside of the mesh"]
        said[bool(app.ports)].append(f"{app.name} ({', '.join(more)})" if more else app.name)
    kinds = ((False, "client"), (True, "server"))
    return "; ".join(
        f"{word}{'s' if len(said[ports]) > 1 else ''} {', '.join(said[ports])}" for ports, word in kinds if said[ports]
    )


def _summary(obj: Obj | Manifest, here: str) -> str:
    match obj:
        case dict():  # written as no model says it: in another version, or wrong
            body = obj.get("spec") or {name: obj[name] for name in obj if name not in _HEAD}
            version = obj["apiVersion"].rpartition("/")[2]
            return f"{version} {yaml.safe_dump(body, default_flow_style=True, sort_keys=False, width=math.inf).strip()}"
        case model.Service():
            pods = " ".join(value for _, value in obj.selector)
            ports = [f"{port.port}→{port.target}" if port.target else f"{port.port}" for port in obj.ports]
            kind = f"{obj.kind} over " if obj.kind != "ClusterIP" else ""
            return f"{kind}{pods}" + (f", ports {' '.join(ports)}" if obj.ports != HTTP else "")
        case model.Split():
            where = "" if obj.matches is None else f" where {' or '.join(obj.matches) or 'nothing named'} matches"
            weights = ", ".join(f"{name} {weight}" for name, weight in obj.backends)
            return f"{obj.service}: {weights}{where}"
        case model.Routes():
            return "; ".join(_match(item) for item in obj.matches)
        case model.TcpRoute() | model.UdpRoute():
            return "no ports" if not obj.ports else f"ports {' '.join(map(str, obj.ports))}"
        case model.Target():
            sources = ", ".join(_subject(item, here) for item in obj.sources or ()) or "nobody"
            rules = ", ".join(
                rule.name + (f"[{' '.join(rule.matches)}]" if rule.matches else "") for rule in obj.rules or ()
            )
            to = _subject(obj.destination, here) if obj.destination else "nobody"
            return f"{sources} to {to}{f':{obj.port}' if obj.port else ''} by {rules or 'no rule'}"
        case model.Binding():
            account = [f"account {obj.service_account}"] if obj.service_account else []
            labels = [] if obj.selector is None else [f"labels {', '.join(map('='.join, obj.selector)) or 'none'}"]
            return " and ".join([*account, *labels, *(obj.spiffe or ())]) or "no scheme"
    return ""


_HEAD = {"apiVersion", "kind", "metadata"}


def _subject(subject: model.Subject, here: str) -> str:
    name = subject.name if subject.kind == "ServiceAccount" else f"{subject.kind} {subject.name}"
    if subject.group not in {"", "access.smi-spec.io"}:
        name = f"{name} of group {subject.group}"
    if subject.namespace is None:
        return f"{name} without a namespace"
    return f"{name} of {subject.namespace}" if subject.namespace not in {None, "", here} else name


def _match(match: model.Match) -> str:
    headers = [f"{name}: {value}" for name, value in match.headers]
    return " ".join([*(match.methods or ()), *([match.path] if match.path is not None else []), *headers])


def _within(name: str) -> bool:
    """Tell whether somebody with that name waits for what is told now."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_name != name:
        frame = frame.f_back
    return frame is not None


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}").replace("|", "/")


def _source(frame: FrameType) -> str:
    """Return the fact that is checked, as it is written in the case."""
    checks = _checks(frame.f_code.co_filename)
    return next((fact for first, last, fact in checks if first <= frame.f_lineno <= last), "")


@functools.cache
def _checks(path: str) -> tuple[tuple[int, int, str], ...]:
    return tuple(_found(ast.parse(Path(path).read_text(encoding="utf-8"))))


def _found(tree: ast.AST) -> Iterator[tuple[int, int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "check":
            yield node.lineno, node.end_lineno or node.lineno, ast.unparse(node.args[0])


def facts(path: Path) -> set[str]:
    """Return all that a module of cases checks by itself."""
    return {fact for _, _, fact in _checks(str(path))}


def folded(steps: Sequence[Step]) -> list[str]:
    """Return the sentences, the first and the last of many that differ in their numbers only."""
    shapes = [re.sub(r"\d+", "0", str(step)) for step in steps]
    out: list[Step | str] = []
    at = 0
    while at < len(steps):
        size, times = next(((size, times) for size in (1, 2, 3) if (times := _times(shapes, at, size)) > MANY), (1, 1))
        block = steps[at : at + size]
        out += block
        if times > 1:
            last = at + size * (times - 1)
            out += [f"… {times - 2} times more, with other numbers, and at last:", *steps[last : last + size]]
        at += size * times
    return _headed(out)


MANY = 5
"""So many steps that differ in their numbers only are told one by one."""


def _times(shapes: Sequence[str], at: int, size: int) -> int:
    times = 1
    while shapes[at + size * times : at + size * (times + 1)] == list(shapes[at : at + size]):
        times += 1
    return times


def _headed(steps: Sequence[Step | str]) -> list[str]:
    lines: list[str] = []
    reading = ""
    for step in steps:
        if isinstance(step, Step) and step.reading != reading:
            reading = step.reading
            lines += [f"- observed only, as the reading {reading}:"] if reading else []
        lines.append(f"{'  ' if reading else ''}- {step}")
    return lines
