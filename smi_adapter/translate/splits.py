"""Pass `routed`: the routes of each Service, port by port, from the splits that name it as their root.

Without a split a Service routes to itself. With splits: those with `matches` come first, in the order of S14, then the
oldest one without, else the Service's own endpoints (S15). A route whose targets all fell away answers 503 and never
opens another way (S4, S5).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from smi_adapter.findings import Finding, Severity, finding
from smi_adapter.mesh import Match, Protocol, Route, Service, ServicePort, WeightedTarget
from smi_adapter.smi.objects import Key, TrafficSplit
from smi_adapter.translate.incremental import Outcome
from smi_adapter.translate.parts import ResolvedSplit
from smi_adapter.translate.view import View

MAX_SUM = 2**32 - 1


@dataclass(frozen=True, slots=True)
class _Applied:
    """A split that has an effect: `matches` None means every request."""

    split: TrafficSplit
    resolved: ResolvedSplit
    matches: tuple[Match, ...] | None


def compute(view: View, key: Key) -> Outcome[Service | None]:
    """Return the Service with its routes; None for a Service that is not routed at all."""
    leaf = view.leaves.get(key)
    if leaf is None:
        return None, ()
    notes: list[Finding] = []
    applied = _applied(view, key, notes)
    if not applied:
        return leaf.service, tuple(notes)
    ports = tuple(_routed_port(view, port, applied, notes) for port in leaf.service.ports)
    return replace(leaf.service, ports=ports), tuple(dict.fromkeys(notes))


def _applied(view: View, root: Key, notes: list[Finding]) -> list[_Applied]:
    """Return the splits of a root in their order, without those that never get a request (S14)."""
    found: list[tuple[TrafficSplit, ResolvedSplit]] = []
    for name in sorted(view.splits_of_root.get(root) or ()):
        split, resolved = view.splits.get(name), view.roots.get(name)
        if split is not None and resolved is not None and resolved.root == root:
            found.append((split, resolved))
    found.sort(key=lambda pair: (not _has_matches(pair[0]), _age(pair[0]), pair[0].meta.name))
    applied: list[_Applied] = []
    for split, resolved in found:
        matches = _matches(view, split, notes) if _has_matches(split) else None
        earlier = next((other for other in applied if _covers(other.matches, matches)), None)
        if earlier is None:
            applied.append(_Applied(split, resolved, matches))
        else:
            words = f"TrafficSplit {earlier.split.meta.name} comes first on Service {root[1]}; this one has no effect"
            notes.append(finding("SMI0109", split.ref, "spec.service", words))
    return applied


def _age(split: TrafficSplit) -> tuple[bool, str]:
    """Return what sorts the oldest first; one that was never stored counts as the youngest."""
    return (not split.meta.created, split.meta.created)


def _has_matches(split: TrafficSplit) -> bool:
    """Tell whether the split names groups at all; `matches: []` is as if absent (S17)."""
    return bool(split.matches or split.unknown_matches)


def _matches(view: View, split: TrafficSplit, notes: list[Finding]) -> tuple[Match, ...]:
    """Merge the groups of a split: OR over groups and matches (S15); what is missing contributes nothing (S16)."""
    merged: dict[Match, None] = {}
    for name in (*split.matches, *split.unknown_matches):
        group = view.matches.get((split.meta.namespace, name)) if name in split.matches else None
        usable = [named.match for named in group or () if named.match is not None]
        if not usable:
            why = "does not exist" if group is None else "has no usable match"
            words = f"HTTPRouteGroup {split.meta.namespace}/{name} {why}; it matches nothing"
            notes.append(finding("SMI0110", split.ref, "spec.matches", words))
        merged.update(dict.fromkeys(usable))
    return tuple(merged)


def _covers(first: tuple[Match, ...] | None, then: tuple[Match, ...] | None) -> bool:
    """Tell whether nothing is left for `then` after `first`; only what is certain counts, as regexes may overlap."""
    if first is None:
        return then is None
    return bool(then) and all(any(_includes(wide, narrow) for wide in first) for narrow in then or ())


def _includes(wide: Match, narrow: Match) -> bool:
    return (
        (wide.path is None or wide.path == narrow.path)
        and (not wide.methods or (bool(narrow.methods) and set(narrow.methods) <= set(wide.methods)))
        and set(wide.headers) <= set(narrow.headers)
    )


def _routed_port(view: View, port: ServicePort, applied: Iterable[_Applied], notes: list[Finding]) -> ServicePort:
    """Put the routes of all splits before the port's own one."""
    routes: list[Route] = []
    for item in applied:
        if item.matches is not None and port.protocol is not Protocol.HTTP:
            words = f"Port {port.number} is not HTTP: matches cannot apply, the root's own endpoints receive all of it"
            notes.append(finding("SMI0602", item.split.ref, "spec.matches", words))
        elif item.matches is None or item.matches:
            routes.append(Route(_targets(view, item, port, notes), item.matches, item.split.ref))
    if not routes or routes[-1].matches is not None:
        routes.extend(port.routes)
    return replace(port, routes=tuple(routes))


def _targets(view: View, item: _Applied, port: ServicePort, notes: list[Finding]) -> tuple[WeightedTarget, ...]:
    """Return the backends that have this port, with weights (S5, S6, S7)."""
    weights: dict[Key, int] = {}
    for backend, weight in item.resolved.backends:
        leaf = view.leaves.get(backend)
        code, words = "", ""
        if leaf is None:
            code, words = "SMI0102", f"There is no Service {backend[0]}/{backend[1]} to route to"
        else:
            own = next((own for own in leaf.service.ports if _same_port(own, port)), None)
            if own is None:
                code, words = "SMI0103", f"Service {backend[0]}/{backend[1]} has no port {port.number}"
            elif weight:
                weights[backend] = weight
                if not own.endpoints:
                    words = f"Service {backend[0]}/{backend[1]} has no ready endpoint on port {port.number}"
                    notes.append(finding("SMI0113", item.split.ref, "spec.backends", words))
        if code:
            severity = None if weight else Severity.INFO
            notes.append(finding(code, item.split.ref, "spec.backends", words, severity=severity))
    return tuple(WeightedTarget(key, port.number, weight) for key, weight in scaled(weights).items())


def _same_port(one: ServicePort, other: ServicePort) -> bool:
    """Compare by number; UDP never stands for TCP (S7)."""
    return one.number == other.number and (one.protocol is Protocol.UDP) == (other.protocol is Protocol.UDP)


def scaled(weights: dict[Key, int]) -> dict[Key, int]:
    """Return the weights as they are, or with the same ratios and a sum that fits into 32 bits (S2).

    Largest remainder; none that is above zero becomes zero.
    """
    total = sum(weights.values())
    if total <= MAX_SUM:
        return weights
    # One unit each is set aside, so that the smallest ones survive without the sum growing over the limit.
    spare = MAX_SUM - len(weights)
    result = {key: 1 + weight * spare // total for key, weight in weights.items()}
    by_remainder = sorted(weights, key=lambda key: (-(weights[key] * spare % total), key))
    for key in by_remainder[: MAX_SUM - sum(result.values())]:
        result[key] += 1
    return result
