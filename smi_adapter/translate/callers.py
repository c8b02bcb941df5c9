"""Passes `admission`, `callers` and `checks`: who can get anything from a Service, and so needs to see it.

A proxy is told only about Services that would let it in somewhere (performance rule 7, security section 4). The same
sets show a split that sends a caller to a backend that refuses it (SMI0115).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

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
    """Return who may call something on the pods behind a Service itself."""
    leaf, service = view.leaves.get(key), view.services.get(key)
    if leaf is None or service is None:
        return ANYBODY, ()
    if any(not endpoint.identity for port in leaf.service.ports for endpoint in port.endpoints):
        return ANYBODY, ()
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
    return Admission(frozenset(everybody), admitted, empty=not leaf.pods), ()


def _at(workload: Workload, number: int | None) -> Iterable[InboundPort]:
    return (port for port in workload.ports if port.number == number)


def _identities(ports: Iterable[InboundPort]) -> set[str]:
    return {principal.identity for port in ports for rule in port.rules for principal in rule.principals}


def callers(view: View, key: Key) -> Outcome[frozenset[str] | None]:
    """Return who may call something behind a Service or behind any backend of its splits; None: anybody.

    Backends of weight 0 count, so that who sees a Service does not change with every step of a canary. Anybody: where
    something behind it enforces nothing, or where nothing is behind it at all (its callers are to get an honest 503).
    """
    found: set[str] = set()
    empty = True
    for leaf in sorted({key, *_backends(view, key)}):
        admitted = view.admission.get(leaf)
        if admitted is None:
            continue
        if admitted.anywhere is None:
            return None, ()
        found |= admitted.anywhere
        empty = empty and admitted.empty
    return (None if empty else frozenset(found)), ()


def _backends(view: View, root: Key) -> Iterator[Key]:
    """Yield the backends of all splits of a root, also of those that lost against another (S14)."""
    for name in view.splits_of_root.get(root) or ():
        resolved = view.roots.get(name)
        if resolved is not None and resolved.root == root:
            yield from (backend for backend, _ in resolved.backends if view.leaves.get(backend) is not None)


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
    if admitted is None or admitted.anywhere is None or admitted.empty:
        return None
    return dict(admitted.by_port).get(port)
