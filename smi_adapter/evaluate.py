"""What the Mesh does with one request, in words: which backend with which odds, allowed or denied, and why.

A pure reading of the Mesh, beside the backends and not above them: `smi-adapter explain` prints it, tests hold it
against real proxies. Like those it decides twice: where the caller's proxy sends a request (routes), and whether the
proxy at the other end lets it in (access rules), which may differ from one backend to the next.

`access` is `denied` only if every share of the requests that reaches a workload is denied there; if some are, each arm
says so and `why` names them. Where a share gets an error instead (no endpoint: 503), the arm has a `status`, and access
has no say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from smi_adapter import paths, regex
from smi_adapter.findings import Ref
from smi_adapter.mesh import (
    AccessMode,
    AccessRule,
    Endpoint,
    InboundPort,
    Key,
    Match,
    Mesh,
    Pattern,
    Principal,
    Protocol,
    Route,
    Service,
    ServicePort,
    WeightedTarget,
    Workload,
)

ALLOWED, DENIED, AUDITED = "allowed", "denied", "audited"

_ONE = Fraction(1)


@dataclass(frozen=True, slots=True)
class Request:
    """One request, or for a TCP port one connection.

    `source` is the caller's SPIFFE id; "" is a caller without a proxy: it has no identity and its request is not
    split. `source_address` matters where an IdentityBinding selects pods (B3); "" is then an address that is not one.
    """

    source: str
    service: Key
    port: int
    method: str = "GET"
    path: str = "/"
    headers: tuple[tuple[str, str], ...] = ()
    source_address: str = ""


@dataclass(frozen=True, slots=True, order=True)
class Grounds:
    """What allows a request: the TrafficTarget, its rule and the name of the match in it ("" for an L4 permission)."""

    origin: Ref
    rule: str = ""
    match: str = ""


@dataclass(frozen=True, slots=True)
class Arm:
    """A share of the requests: it goes to `service` (`ns/name`), or gets `status` instead of being served.

    `access` is what the workloads there say, "" with a status.
    """

    service: str | None
    share: Fraction
    status: int | None = None
    access: str = ""
    workloads: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer; the shares of all arms add up to 1.

    `split` is the TrafficSplit that decides where the request goes, and `match` the match of an HTTPRouteGroup by which
    it does ("" where it has none); without a split the Service is taken as it is. `steps` say what would let the
    request in, where it is not.
    """

    access: str
    by: tuple[Grounds, ...]
    why: str
    arms: tuple[Arm, ...]
    split: Ref | None = None
    match: str = ""
    steps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Judgement:
    access: str
    words: str
    by: tuple[Grounds, ...] = ()
    step: str = ""


@dataclass(frozen=True, slots=True)
class _Share:
    """The part of the requests that a route sends to a port of a Service."""

    service: str
    share: Fraction
    port: ServicePort | None


@dataclass(slots=True)
class _Answer:
    """Arms and words, collected while the shares of a route are followed."""

    arms: list[Arm] = field(default_factory=list)
    judged: list[tuple[Arm, _Judgement]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def error(self, service: str | None, share: Fraction, status: int, words: str) -> None:
        self.arms.append(Arm(service, share, status))
        self.errors.append(f"{_percent(share)} of the requests get {status}: {words}")

    def judge(self, service: str, share: Fraction, judgement: _Judgement, workload: Workload | None) -> None:
        names = (_text(workload.key),) if workload is not None else ()
        arm = Arm(service, share, None, judgement.access, names)
        self.arms.append(arm)
        self.judged.append((arm, judgement))


def evaluate(mesh: Mesh, request: Request) -> Verdict:
    """Tell what happens to a request."""
    service = mesh.services.get(request.service)
    if service is None:
        return _refused(503, f"there is no Service {_text(request.service)} in the mesh")
    port = next((port for port in service.ports if port.number == request.port), None)
    if port is None:
        return _refused(503, f"Service {_text(service.key)} has no port {request.port}")
    if port.protocol is Protocol.HTTP and (problem := _malformed(request)):
        return _refused(400, problem)
    route = _route(service, port, request)
    answer = _Answer()
    if not route.targets:
        because = str(route.origin) if route.origin is not None else f"Service {_text(service.key)}"
        answer.error(None, _ONE, 503, f"{because} leaves no backend to route to")
    total = sum(target.weight for target in route.targets)
    for target in route.targets:
        share = Fraction(target.weight, total)
        leaf = mesh.services.get(target.service)
        _follow(mesh, request, _Share(_text(target.service), share, _port(leaf, target.port, port.protocol)), answer)
    if service.callers is not None and request.source and request.source not in service.callers:
        _out_of_scope(answer)
    return replace(_verdict(answer), split=route.origin, match=_caught(route, request, port.protocol))


def _caught(route: Route, request: Request, protocol: Protocol) -> str:
    """Name the match by which a request came to a split's route, as `HTTPRouteGroup ns/name, match name`."""
    path = paths.normalised(request.path) if protocol is Protocol.HTTP else ""
    found = next((match for match in route.matches or () if not _lacks(match, request, path)), None)
    if route.origin is None or found is None or found.origin is None:
        return ""
    return f"{found.origin}, match {found.label}" if found.label else str(found.origin)


def _malformed(request: Request) -> str:
    """Say why a proxy answers 400 before anything else, or "": a path or a header name that could be read two ways."""
    odd = next((name for name, _ in request.headers if "_" in name), None)
    return paths.refusal(request.path) or ("" if odd is None else f"the name of header {odd!a} holds an underscore")


def _out_of_scope(answer: _Answer) -> None:
    """Deny every share: the caller's proxy is not told of a Service where nothing would let it in."""
    answer.arms = [Arm(arm.service, arm.share, None, DENIED, arm.workloads) for arm in answer.arms]
    answer.errors = []
    if not answer.judged:
        answer.judged = [
            (arm, _Judgement(DENIED, "nothing behind the Service grants the caller anything")) for arm in answer.arms
        ]


def _refused(status: int, words: str) -> Verdict:
    return Verdict(DENIED, (), f"denied: {words}", (Arm(None, _ONE, status),))


def _route(service: Service, port: ServicePort, request: Request) -> Route:
    """Return the first route that matches; a caller without a proxy gets the Service as it is (S22)."""
    if not request.source:
        return next((route for route in port.routes if route.origin is None), _itself(service, port))
    path = paths.normalised(request.path) if port.protocol is Protocol.HTTP else ""
    for route in port.routes:
        if route.matches is None or any(not _lacks(match, request, path) for match in route.matches):
            return route
    return _itself(service, port)


def _itself(service: Service, port: ServicePort) -> Route:
    """Return what a Service does without any split."""
    return Route((WeightedTarget(service.key, port.number, 1),))


def _port(leaf: Service | None, number: int, protocol: Protocol) -> ServicePort | None:
    """Return a Service's port; UDP never stands for TCP."""
    for port in leaf.ports if leaf is not None else ():
        if port.number == number and (port.protocol is Protocol.UDP) == (protocol is Protocol.UDP):
            return port
    return None


def _follow(mesh: Mesh, request: Request, part: _Share, answer: _Answer) -> None:
    """Follow one share to the workloads of its Service, in proportion to their endpoints."""
    endpoints = part.port.endpoints if part.port is not None else ()
    if not endpoints:
        answer.error(part.service, part.share, 503, f"Service {part.service} has no ready endpoint")
        return
    namespace = part.service.partition("/")[0]
    places = Counter((_workload(mesh, namespace, item), item.port, bool(item.identity)) for item in endpoints)
    for (key, number, meshed), count in sorted(places.items(), key=lambda item: (item[0][0] or ("", ""), item[0][1])):
        workload = mesh.workloads[key] if key is not None else None
        if not meshed:
            words = f"endpoints of Service {part.service} have no proxy and enforce nothing"
            judgement = _Judgement(ALLOWED, words)
        elif part.port is not None and part.port.protocol is Protocol.UDP:
            judgement = _datagrams(workload)
        else:
            judgement = _judge(workload, number, request)
        answer.judge(part.service, part.share * Fraction(count, len(endpoints)), judgement, workload)


def _workload(mesh: Mesh, namespace: str, endpoint: Endpoint) -> Key | None:
    for key, workload in mesh.workloads.items():
        if key[0] == namespace and any(instance.name == endpoint.pod for instance in workload.instances):
            return key
    return None


def _datagrams(workload: Workload | None) -> _Judgement:
    """Decide about UDP, which no rule can open: closed where a proxy stands in the way and enforces (U1, ADR 16)."""
    if workload is not None and workload.direct and workload.mode is AccessMode.ENFORCE:
        return _Judgement(DENIED, f"{_text(workload.key)} enforces access, and nothing can grant access by UDP")
    return _Judgement(ALLOWED, "access by UDP is not enforced")


def _judge(workload: Workload | None, number: int, request: Request) -> _Judgement:
    """Decide at the workload (S23, T13)."""
    if workload is None:
        return _Judgement(DENIED, "its proxy is not configured")
    if not request.source:
        words = f"the caller has no identity, and {_text(workload.key)} admits only callers with a certificate"
        return _Judgement(DENIED, f"{words}, in every mode")
    port = next((port for port in workload.ports if port.number == number and port.protocol is not Protocol.UDP), None)
    if port is None:
        return _Judgement(DENIED, f"{_text(workload.key)} has no port {number} that a Service or a container declares")
    path = paths.normalised(paths.normalised(request.path)) if port.protocol is Protocol.HTTP else ""
    by = tuple(sorted({grounds for rule in port.rules for grounds in _grounds(rule, request, path)}))
    if by:
        return _Judgement(ALLOWED, " and ".join(_by(grounds) for grounds in by), by)
    if workload.mode is AccessMode.PERMISSIVE:
        return _Judgement(ALLOWED, f"{_text(workload.key)} is in permissive mode; nothing grants it")
    words, step = _missing(workload, port, request, path)
    if workload.mode is AccessMode.AUDIT:
        words = f"{_text(workload.key)} is in audit mode; enforce mode would deny it: {words}"
        return _Judgement(AUDITED, words, step=step)
    return _Judgement(DENIED, words, step=step)


def _grounds(rule: AccessRule, request: Request, path: str) -> Iterable[Grounds]:
    if not any(_is(principal, request) for principal in rule.principals):
        return
    if rule.matches is None:
        yield Grounds(rule.origin, rule.rule)
    for match in rule.matches or ():
        if not _lacks(match, request, path):
            yield Grounds(rule.origin, rule.rule, match.label)


def _is(principal: Principal, request: Request) -> bool:
    """Tell whether the caller is this principal: by certificate and, if it is bound to pods, by address (T12, B3)."""
    return (
        bool(request.source)
        and principal.identity == request.source
        and (principal.addresses is None or request.source_address in principal.addresses)
    )


def _lacks(match: Match, request: Request, path: str) -> str:
    """Say which part of a match the request lacks; "" if it has them all (R1-R8)."""
    if match.path is not None and not _fits(match.path, path):
        return f"path {match.path.text}"
    if match.methods and request.method not in match.methods:
        return f"method {' or '.join(match.methods)}"
    for header in match.headers:
        values = [value.strip(" \t") for name, value in request.headers if name.lower() == header.name]
        if not any(_fits(header.pattern, value) for value in values):
            return f"header {header.name}: {header.pattern.text}"
    return ""


def _fits(pattern: Pattern, value: str) -> bool:
    return regex.matches(pattern.text, pattern.anchor.value, value)


def _missing(workload: Workload, port: InboundPort, request: Request, path: str) -> tuple[str, str]:
    """Say what a denied request lacks at a workload, and what would let it in."""
    where, caller = _text(workload.key), _account(request.source)
    what = f"{request.method} {path}" if port.protocol is Protocol.HTTP else f"port {port.number}"
    write = f"write a TrafficTarget with destination {workload.origin}, source {caller} and a rule that matches {what}"
    if not any(inbound.rules for inbound in workload.ports):
        return f"no TrafficTarget grants anything on {where}", write
    here = [rule for rule in port.rules if any(principal.identity == request.source for principal in rule.principals)]
    if any(_is(principal, request) for rule in here for principal in rule.principals):
        wanted = what if port.protocol is Protocol.HTTP else "it"
        lacking = {
            f"match {match.label!r} wants {_lacks(match, request, path)}"
            for rule in here
            for match in rule.matches or ()
        }
        words = f"{_targets(here)} lists the caller, but none of its rules matches {wanted}{_list(lacking)}"
        groups = {str(match.origin) for rule in here for match in rule.matches or () if match.origin is not None}
        place = (
            f"{' or '.join(sorted(groups))}, or a rule to {_targets(here)}" if groups else f"a rule of {_targets(here)}"
        )
        return words, f"add a match for {what} to {place}"
    if here:
        words = f"{_targets(here)} lists the caller's identity, but only from the addresses of selected pods"
        return words, f"call from a pod that the IdentityBinding of {caller} selects, or have it select more of them"
    elsewhere = [
        rule
        for inbound in workload.ports
        for rule in inbound.rules
        if any(principal.identity == request.source for principal in rule.principals)
    ]
    if elsewhere:
        words = f"{_targets(elsewhere)} lists the caller, but does not open port {port.number} of {where}"
        return words, f"have a rule of {_targets(elsewhere)} open port {port.number}, or {write}"
    if port.rules:
        words = f"the caller is not among the sources of {_targets(port.rules)}"
        return words, f"add {caller} to spec.sources of {_targets(port.rules, ' or ')}, or write one of its own"
    return f"no TrafficTarget opens port {port.number} of {where}", write


def _account(identity: str) -> str:
    """Return the ServiceAccount of a SPIFFE id, or the id of somebody else."""
    match identity.removeprefix("spiffe://").split("/"):
        case [_, "ns", namespace, "sa", name]:
            return f"ServiceAccount {namespace}/{name}"
    return identity


def _targets(rules: Iterable[AccessRule], word: str = " and ") -> str:
    return word.join(str(origin) for origin in sorted({rule.origin for rule in rules}))


def _list(items: Iterable[str]) -> str:
    found = sorted(items)
    return f" ({'; '.join(found)})" if found else ""


def _by(grounds: Grounds) -> str:
    match = f", match {grounds.match}" if grounds.match else ""
    return f"{grounds.origin} ({grounds.rule}{match})"


def _verdict(answer: _Answer) -> Verdict:
    """Put the shares together: one arm for what can't be told apart."""
    shares: dict[tuple[str | None, int | None, str], list[Arm]] = {}
    for arm in answer.arms:
        shares.setdefault((arm.service, arm.status, arm.access), []).append(arm)
    arms = tuple(
        Arm(service, sum((arm.share for arm in same), Fraction(0)), status, access, _workloads(same))
        for (service, status, access), same in shares.items()
    )
    found = {arm.access for arm in arms if arm.status is None}
    access = ALLOWED
    if found:
        access = next(word for word in (ALLOWED, AUDITED, DENIED) if word in found)
    by = (
        tuple(sorted({grounds for _, judgement in answer.judged for grounds in judgement.by}))
        if access == ALLOWED
        else ()
    )
    steps = tuple(dict.fromkeys(judgement.step for _, judgement in answer.judged if judgement.step))
    return Verdict(access, by, _why(answer, access, mixed=len(found) > 1), arms, steps=steps)


def _workloads(arms: Iterable[Arm]) -> tuple[str, ...]:
    return tuple(sorted({name for arm in arms for name in arm.workloads}))


def _why(answer: _Answer, access: str, *, mixed: bool) -> str:
    said: dict[tuple[str, str], Fraction] = {}
    for arm, judgement in answer.judged:
        said[judgement.access, judgement.words] = said.get((judgement.access, judgement.words), Fraction(0)) + arm.share
    if not said:
        return f"{access}, but {'; '.join(answer.errors)}"
    parts = [f"{word} for {_percent(share)}: {words}" if mixed else words for (word, words), share in said.items()]
    text = "; ".join(parts) if mixed else f"{access}: {'; '.join(parts)}"
    return "; ".join([text, *answer.errors])


def _percent(share: Fraction) -> str:
    return f"{float(share * 100):.4g}%"


def _text(key: Key) -> str:
    return f"{key[0]}/{key[1]}"


def as_data(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as plain data, as `explain -o json` prints it; an arm has `access` only where arms differ."""
    mixed = len({arm.access for arm in verdict.arms if arm.status is None}) > 1
    return {
        "access": verdict.access,
        "by": [_grounds_data(grounds) for grounds in verdict.by],
        "why": verdict.why,
        "split": _split_data(verdict),
        "steps": list(verdict.steps),
        "arms": [_arm_data(arm, mixed=mixed) for arm in verdict.arms],
    }


def _split_data(verdict: Verdict) -> dict[str, str] | None:
    if (split := verdict.split) is None:
        return None
    data = {"kind": split.kind, "namespace": split.namespace, "name": split.name}
    return {**data, "match": verdict.match} if verdict.match else data


def _grounds_data(grounds: Grounds) -> dict[str, str]:
    origin = grounds.origin
    data = {"kind": origin.kind, "namespace": origin.namespace, "name": origin.name, "rule": grounds.rule}
    return {**data, "match": grounds.match} if grounds.match else data


def _arm_data(arm: Arm, *, mixed: bool) -> dict[str, Any]:
    data: dict[str, Any] = {"service": arm.service, "share": float(arm.share)}
    if arm.status is not None:
        data["status"] = arm.status
    elif mixed:
        data["access"] = arm.access
    return data
