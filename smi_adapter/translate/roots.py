"""Pass `roots`: which Service each TrafficSplit splits, and between whom.

Looks up names only (S18, S19) and adds up weights (S2, S9); which of several splits counts, and on which ports, is the
next pass's business.
"""

from __future__ import annotations

from math import gcd

from smi_adapter.findings import Finding, finding
from smi_adapter.smi.objects import Key, TrafficSplit
from smi_adapter.translate.incremental import Outcome
from smi_adapter.translate.names import may_be_host, service_name
from smi_adapter.translate.parts import ResolvedSplit
from smi_adapter.translate.view import View

INERT = ResolvedSplit(None)
_UNIT = 1000


def compute(view: View, key: Key) -> Outcome[ResolvedSplit]:
    """Resolve one split."""
    split = view.splits.get(key)
    if split is None:
        return INERT, ()
    notes: list[Finding] = []
    root = _root(view, split, notes)
    if not split.backends:
        notes.append(finding("SMI0104", split.ref, "spec.backends", "The split has no backends; it has no effect"))
        return INERT, tuple(notes)
    weights = _weights(view, split, root, notes)
    if not any(weights.values()):
        notes.append(finding("SMI0104", split.ref, "spec.backends", "No usable weight is above zero"))
    divisor = _divisor([backend.weight for backend in split.backends if backend.weight])
    backends = tuple(sorted((backend, weight // divisor) for backend, weight in weights.items()))
    return ResolvedSplit(root, backends), tuple(notes)


def _root(view: View, split: TrafficSplit, notes: list[Finding]) -> Key | None:
    """Find the root Service, in the split's own namespace only (S18, S19)."""
    namespace = split.meta.namespace
    named = service_name(split.service, namespace)
    if named is not None and named[0] == namespace:
        if view.services.get(named) is not None:
            return named
        words = f"There is no Service {namespace}/{named[1]}"
        notes.append(finding("SMI0101", split.ref, "spec.service", words))
        return None
    elsewhere = named is not None and (
        view.services.get(named) is not None or view.namespaces.get(named[0]) is not None
    )
    if elsewhere or not may_be_host(split.service):
        words = f"{split.service!r} is a Service of another namespace than {namespace}"
        notes.append(finding("SMI0111", split.ref, "spec.service", words))
        return None
    own = (namespace, split.meta.name)
    if view.services.get(own) is None:
        words = f"{split.service!r} is no Service of {namespace}, and there is no Service {namespace}/{own[1]} either"
        notes.append(finding("SMI0112", split.ref, "spec.service", words))
        return None
    return own


def _weights(view: View, split: TrafficSplit, root: Key | None, notes: list[Finding]) -> dict[Key, int]:
    """Add up the milli-units of each backend (S9); a foreign Service is left out (S19), a bad weight is 0 (S2)."""
    namespace = split.meta.namespace
    weights: dict[Key, int] = {}
    seen: set[Key] = set()
    for index, backend in enumerate(split.backends):
        field = f"spec.backends[{index}]"
        named = service_name(backend.service, namespace)
        if named is None or named[0] != namespace:
            words = f"{backend.service!r} is no Service of namespace {namespace}; it receives nothing"
            notes.append(finding("SMI0111", split.ref, f"{field}.service", words))
            continue
        if named in seen:
            words = f"Service {named[1]} stands more than once; its weights are added up"
            notes.append(finding("SMI0106", split.ref, f"{field}.service", words))
        else:
            notes.extend(_relations(view, split, root, named, field))
        seen.add(named)
        weights[named] = weights.get(named, 0) + max(backend.weight or 0, 0)
    return weights


def _relations(view: View, split: TrafficSplit, root: Key | None, backend: Key, field: str) -> list[Finding]:
    """Tell about a backend that is the root itself (S10) or the root of another split, which is not followed (S11)."""
    if backend == root:
        words = f"Its share goes to the own endpoints of Service {backend[1]}"
        return [finding("SMI0107", split.ref, f"{field}.service", words)]
    others = sorted(set(view.splits_of_root.get(backend) or ()) - {split.meta.key})
    if not others:
        return []
    words = f"Service {backend[1]} is the root of TrafficSplit {others[0][1]}, which is not followed from here"
    return [finding("SMI0108", split.ref, f"{field}.service", words)]


def _divisor(weights: list[int]) -> int:
    """Return what to divide milli-units by: 1000 where all are whole, so that they come out as written (S2)."""
    positive = [weight for weight in weights if weight > 0]
    if not positive:
        return 1
    return _UNIT if all(weight % _UNIT == 0 for weight in positive) else gcd(*positive)
