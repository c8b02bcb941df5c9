"""Pass `grants`: what each TrafficTarget grants, and to whom, before it meets the ports of a workload.

Everything that does not resolve grants nothing, and never less than that: an empty list here is no permission, not
"any". Where HTTP rules and TCP rules stand together a request must satisfy one of each (T3), so an HTTP rule that
resolves to nothing does not leave the TCP rule behind as a wider grant.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from smi_adapter.findings import Finding, finding
from smi_adapter.mesh import AccessRule, Match, Principal
from smi_adapter.smi.objects import IdentitySubject, Key, TrafficTarget, TrafficTargetRule
from smi_adapter.snapshot import Profile
from smi_adapter.translate.identities import united
from smi_adapter.translate.incremental import Outcome
from smi_adapter.translate.names import spiffe_id
from smi_adapter.translate.parts import NOTHING, Grant, GrantRule, NamedMatch
from smi_adapter.translate.view import View

_L4 = frozenset({"TCPRoute", "UDPRoute"})


@dataclass(frozen=True, slots=True)
class _Rule:
    """A rule that resolves: `matches` None is an L4 permission (T4), `ports` None every port (R9)."""

    text: str
    matches: tuple[Match, ...] | None
    ports: frozenset[int] | None = None


@dataclass(slots=True)
class _Draft:
    """What is known of one target while its rules are read."""

    http: list[_Rule] = field(default_factory=list)
    tcp: list[_Rule] = field(default_factory=list)
    only_l4: bool = True
    restricted: bool = False
    unresolved: bool = False
    fields: list[tuple[int, str]] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)


def compute(view: View, key: Key) -> Outcome[Grant]:
    """Resolve one target."""
    target = view.targets.get(key)
    if target is None:
        return NOTHING, ()
    draft = _Draft()
    principals = _sources(view, target, draft.notes)
    for index, rule in enumerate(target.rules):
        _rule(view, target, index, rule, draft)
    limit = _limit(target, draft)
    if not target.rules:
        draft.notes.append(finding("SMI0303", target.ref, "spec.rules", "It has no rules; it grants nothing"))
    if not target.sources:
        draft.notes.append(finding("SMI0303", target.ref, "spec.sources", "It has no sources; it grants nothing"))
    reaches = _has_destination(view, target, draft.notes)
    rules, ports = _combined(draft)
    notes = tuple(dict.fromkeys(draft.notes))
    if not (reaches and rules and principals):
        return NOTHING, notes
    made = tuple(
        GrantRule(AccessRule(principals, rule.matches, target.ref, rule.text), ports if rule.matches else rule.ports)
        for rule in rules
    )
    known = _service_ports(view, target) if draft.fields else None
    if known is not None:
        for number, where in draft.fields:
            if number not in known:
                words = f"Port {number} is no port of a Service that selects the destination; it is a container port"
                notes = (*notes, finding("SMI0204", target.ref, where, words))
    return Grant(made, limit, not draft.only_l4, tuple(draft.fields), known or frozenset()), notes


def _combined(draft: _Draft) -> tuple[tuple[_Rule, ...], frozenset[int] | None]:
    """Put port rules and HTTP rules together: each HTTP rule on the union of the ports (T3).

    A TCPRoute that is not there was a restriction that we don't know: nothing is left (T8).
    """
    if draft.only_l4:
        return tuple(draft.tcp), None
    if draft.unresolved:
        return (), None
    sets = [rule.ports for rule in draft.tcp]
    if not draft.restricted or None in sets:
        return tuple(draft.http), None
    ports = frozenset().union(*(part for part in sets if part is not None))
    return (tuple(draft.http) if ports else ()), ports


def _service_ports(view: View, target: TrafficTarget) -> frozenset[int] | None:
    """Return the numbers that mean a Service's port at this destination (R10); None: no pod is there."""
    if view.options.profile in {Profile.OSM, Profile.TRAEFIK}:
        return None
    key = (target.meta.namespace, target.destination.name)
    return (view.account_ports if target.destination.kind == "ServiceAccount" else view.binding_ports).get(key)


def _has_destination(view: View, target: TrafficTarget, notes: list[Finding]) -> bool:
    """Tell whether the destination is one that this target may open (T10, T11, T16)."""
    destination, namespace = target.destination, target.meta.namespace
    where = "spec.destination"
    if destination.namespace not in ("", namespace):
        words = f"The destination is in namespace {destination.namespace}, the target in {namespace}"
        notes.append(finding("SMI0304", target.ref, f"{where}.namespace", words))
        return False
    key = (namespace, destination.name)
    match destination.kind:
        case "ServiceAccount":
            _account(view, target, key, f"{where}.name", notes)
            return True
        case "IdentityBinding":
            if view.bindings.get(key) is None:
                words = f"There is no IdentityBinding {key[0]}/{key[1]}; the target grants nothing"
                notes.append(finding("SMI0401", target.ref, f"{where}.name", words))
                return False
            return True
        case kind:
            notes.append(finding("SMI0305", target.ref, f"{where}.kind", f"Kind {kind[:80]!r} is no identity"))
            return False


def _account(view: View, target: TrafficTarget, account: Key, where: str, notes: list[Finding]) -> None:
    """Tell if nothing is known of a ServiceAccount; it counts all the same, as it may come later."""
    if view.service_accounts.get(account) is None and not view.pods_of_account.get(account):
        words = f"There is no ServiceAccount {account[0]}/{account[1]}"
        notes.append(finding("SMI0308", target.ref, where, words))


def _sources(view: View, target: TrafficTarget, notes: list[Finding]) -> tuple[Principal, ...]:
    """Return everybody whom the sources name (T10, T16, B1-B5)."""
    principals: list[Principal] = []
    for index, source in enumerate(target.sources):
        principals.extend(_source(view, target, source, f"spec.sources[{index}]", notes))
    return united(principals)


def _source(
    view: View, target: TrafficTarget, source: IdentitySubject, where: str, notes: list[Finding]
) -> tuple[Principal, ...]:
    key = (source.namespace or target.meta.namespace, source.name)
    match source.kind:
        case "ServiceAccount":
            _account(view, target, key, f"{where}.name", notes)
            return (Principal(spiffe_id(view.options.trust_domain, key)),)
        case "IdentityBinding":
            bound = view.bound.get(key)
            if bound is None:
                words = f"There is no IdentityBinding {key[0]}/{key[1]}; this source is nobody"
                notes.append(finding("SMI0401", target.ref, f"{where}.name", words))
                return ()
            if key[0] != target.meta.namespace:
                words = f"Who IdentityBinding {key[0]}/{key[1]} is, is decided in namespace {key[0]}"
                notes.append(finding("SMI0404", target.ref, where, words))
            return bound.principals
        case kind:
            notes.append(finding("SMI0305", target.ref, f"{where}.kind", f"Kind {kind[:80]!r} is no identity"))
            return ()


def _rule(view: View, target: TrafficTarget, index: int, rule: TrafficTargetRule, draft: _Draft) -> None:
    """Read one rule into the draft."""
    where = f"spec.rules[{index}]"
    text = f"rules[{index}] {rule.kind} {rule.name}"
    key = (target.meta.namespace, rule.name)
    draft.only_l4 = draft.only_l4 and rule.kind in _L4
    match rule.kind:
        case "HTTPRouteGroup":
            matches = _http(view, target, rule, where, draft.notes)
            if matches:
                draft.http.append(_Rule(text, matches))
        case "TCPRoute":
            draft.restricted = True
            route = view.tcp_routes.get(key)
            if route is None:
                draft.unresolved = True
                words = f"There is no TCPRoute {key[0]}/{key[1]}"
                draft.notes.append(finding("SMI0302", target.ref, f"{where}.name", words))
                return
            written = () if route.closed else route.ports
            ports = _ports(target, written, f"{where} (TCPRoute {rule.name})", draft)
            if ports or not route.ports:
                draft.tcp.append(_Rule(text, None, ports if route.ports else None))
        case "UDPRoute":
            known = view.udp_routes.get(key) is not None
            code = "SMI0601" if known else "SMI0301"
            words = "Access to UDP ports is not enforced" if known else f"There is no UDPRoute {key[0]}/{key[1]}"
            draft.notes.append(finding(code, target.ref, where, words))
        case kind:
            draft.notes.append(finding("SMI0305", target.ref, f"{where}.kind", f"Kind {kind[:80]!r} is no rule"))


def _ports(target: TrafficTarget, written: tuple[int, ...], where: str, draft: _Draft) -> frozenset[int]:
    """Return the usable port numbers; one that is out of range is never wrapped, nor does it mean all (R11)."""
    good: set[int] = set()
    for port in written:
        if 1 <= port <= 65535:
            good.add(port)
            draft.fields.append((port, where))
        else:
            draft.notes.append(finding("SMI0205", target.ref, where, f"{port} is no port"))
    return frozenset(good)


def _limit(target: TrafficTarget, draft: _Draft) -> frozenset[int] | None:
    """Return the restriction by `destination.port` of older versions (semantics, "Versions")."""
    if target.port is None:
        return None
    return _ports(target, (target.port,), "spec.destination.port", draft)


def _http(
    view: View, target: TrafficTarget, rule: TrafficTargetRule, where: str, notes: list[Finding]
) -> tuple[Match, ...]:
    """Return what an HTTPRouteGroup rule matches: all of the group, or what it names (T6).

    A name that the group does not have makes the whole rule grant nothing (T7); one that is unusable only itself (R4).
    """
    namespace = target.meta.namespace
    group = view.matches.get((namespace, rule.name))
    if group is None:
        words = f"There is no HTTPRouteGroup {namespace}/{rule.name}; the rule grants nothing"
        notes.append(finding("SMI0301", target.ref, f"{where}.name", words))
        return ()
    unknown = [name for name in rule.matches if all(named.name != name for named in group)]
    for name in unknown:
        words = f"HTTPRouteGroup {namespace}/{rule.name} has no match {name[:80]!r}; the rule grants nothing"
        notes.append(finding("SMI0301", target.ref, f"{where}.matches", words))
    if unknown:
        return ()
    chosen = [named for named in group if not rule.matches or named.name in rule.matches]
    notes.extend(_lint(named) for named in chosen if named.open_ended)
    return tuple(dict.fromkeys(named.match for named in chosen if named.match is not None))


def _lint(named: NamedMatch) -> Finding:
    """Point out a path in an access rule that also grants longer paths (R1)."""
    if named.match is None or named.match.origin is None or named.match.path is None:  # open_ended says otherwise
        raise ValueError(named)
    text = named.match.path.text
    words = f"pathRegex {text[:80]!a} of match {named.name[:80]!r} also grants every path that goes on after it"
    return finding("SMI0202", named.match.origin, f"{named.field}.pathRegex", words)
