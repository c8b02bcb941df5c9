"""Passes `admission`, `callers` and `checks`: who can get anything from a Service, and so needs to see it.

A proxy is told only about Services that would let it in somewhere (performance rule 7, security section 4). The same
sets show a split that sends a caller to a backend that refuses it (SMI0115).
"""

from __future__ import annotations

from collections.abc import Iterable

from smi_adapter.findings import Finding, finding
from smi_adapter.mesh import AccessMode, InboundPort, Workload
from smi_adapter.smi.objects import Key
from smi_adapter.translate.incremental import Outcome
from smi_adapter.translate.parts import Admission
from smi_adapter.translate.ports import target_number
from smi_adapter.translate.view import View

ANYBODY = Admission(None)
_EXAMPLES = 3


def admission(view: View, key: Key) -> Outcome[Admission]:
    """Return who may call something on the pods behind a Service; None: anybody, as nothing enforces there."""
    leaf, service = view.leaves.get(key), view.services.get(key)
    if leaf is None or service is None or not leaf.pods:
        return ANYBODY, ()
    open_to_all = any(not endpoint.identity for port in leaf.service.ports for endpoint in port.endpoints)
    everybody: set[str] = set()
    ports = [port for port in service.ports if port.protocol == "TCP"]
    by_port: dict[int, set[str]] = {port.number: set() for port in ports}
    for name in leaf.pods:
        pod = view.pods.get(name)
        group = view.groups.get((name[0], pod.workload)) if pod is not None else None
        workload = group.of_pod.get(name) if group is not None else None
        if pod is None or workload is None or workload.mode is not AccessMode.ENFORCE:
            return ANYBODY, ()
        everybody |= _identities(workload.ports)
        for port in ports:
            by_port[port.number] |= _identities(_at(workload, target_number(port, pod)))
    admitted = tuple((number, frozenset(found)) for number, found in sorted(by_port.items()))
    return Admission(None if open_to_all else frozenset(everybody), admitted), ()


def _at(workload: Workload, number: int | None) -> Iterable[InboundPort]:
    return (port for port in workload.ports if port.number == number)


def _identities(ports: Iterable[InboundPort]) -> set[str]:
    return {principal.identity for port in ports for rule in port.rules for principal in rule.principals}


def callers(view: View, key: Key) -> Outcome[frozenset[str] | None]:
    """Return who may call something behind any leaf of a Service; where a route answers 503, anybody gets that."""
    routed = view.routed.get(key)
    if routed is None:
        return None, ()
    routes = [route for port in routed.ports for route in port.routes]
    leaves = {target.service for route in routes for target in route.targets}
    if not leaves or any(not route.targets for route in routes):
        return None, ()
    found: set[str] = set()
    for leaf in sorted(leaves):
        admitted = view.admission.get(leaf)
        if admitted is None or admitted.anywhere is None:
            return None, ()
        found |= admitted.anywhere
    return frozenset(found), ()


def checks(view: View, key: Key) -> Outcome[None]:
    """Tell where a split sends a caller to a backend that denies it, though another backend lets it in (S23)."""
    split, resolved = view.splits.get(key), view.roots.get(key)
    if split is None or resolved is None or resolved.root is None:
        return None, ()
    routed = view.routed.get(resolved.root)
    notes: list[Finding] = []
    for port in routed.ports if routed is not None else ():
        for route in port.routes:
            if route.origin != split.ref:
                continue
            admitted = {target.service: _admitted(view, target.service, port.number) for target in route.targets}
            known = {leaf: found for leaf, found in admitted.items() if found is not None}
            somewhere = frozenset().union(*known.values())
            for leaf, found in known.items():
                denied = sorted(somewhere - found)
                if denied:
                    words = f"Backend {leaf[1]}, port {port.number}, denies callers that another backend lets in: "
                    words += ", ".join(denied[:_EXAMPLES]) + (", ..." if len(denied) > _EXAMPLES else "")
                    notes.append(finding("SMI0115", split.ref, "spec.backends", words))
    return None, tuple(dict.fromkeys(notes))


def _admitted(view: View, leaf: Key, port: int) -> frozenset[str] | None:
    """Return who may use a leaf's port; None where no workload decides."""
    admitted = view.admission.get(leaf)
    return dict(admitted.by_port).get(port) if admitted is not None else None
