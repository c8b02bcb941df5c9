"""How `explain` shows an answer, and which findings belong to it.

A cluster holds much that has nothing to do with the request that is asked about. What may have: the Services, the
accounts and the workloads that it touches, the TrafficSplits of the Service, the TrafficTargets of those who serve it,
and what those name. An object that could not be read may be any of them, so it is not left out in their namespaces.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from smi_adapter.cli import output
from smi_adapter.findings import Finding, printable
from smi_adapter.mesh import Key
from smi_adapter.snapshot import Snapshot

if TYPE_CHECKING:
    from smi_adapter.evaluate import Verdict

_THINGS = frozenset({"Service", "EndpointSlice", "Pod", "Deployment", "ReplicaSet", "StatefulSet", "DaemonSet",
                     "ServiceAccount"})  # fmt: skip


def lines(verdict: Verdict) -> Iterator[str]:
    """Yield the answer: allowed or not and why, by which split, where it goes, and what would let it in."""
    access, why = verdict.access, printable(verdict.why)
    shown = output.paint(access, {"allowed": "green", "denied": "red"}.get(access, "yellow"))
    yield f"{shown}{why.removeprefix(access)}" if why.startswith(access) else f"{shown}: {why}"
    if verdict.split is not None:
        yield printable(f"routed by {verdict.split}{f' ({verdict.match})' if verdict.match else ''}")
    elif verdict.arms:
        yield "routed by no TrafficSplit: the Service as it is"
    failing = any(arm.status is not None for arm in verdict.arms)
    rows = [
        (
            f"{float(arm.share):.1%}",
            arm.service or "-",
            *((str(arm.status) if arm.status is not None else "-",) if failing else ()),
        )
        for arm in verdict.arms
    ]
    if rows:
        header = "WOULD GO TO" if access == "denied" else "SERVICE"
        yield output.table(("SHARE", header, *(("STATUS",) if failing else ())), rows)
    yield from (printable(f"-> {step}") for step in verdict.steps)


def concerns(snapshot: Snapshot, caller: Key, dialled: Key, verdict: Verdict) -> Callable[[Finding], bool]:
    """Return what tells whether a finding may have to do with an answer."""
    splits = [one for one in snapshot.splits.values() if (one.meta.namespace, one.service) == dialled]
    services = {dialled, *(_key(arm.service) for arm in verdict.arms if arm.service)}
    services |= {(one.meta.namespace, backend.service) for one in splits for backend in one.backends}
    slices = [one for one in snapshot.slices.values() if (one.meta.namespace, one.service) in services]
    pods = [
        pod
        for key in {(one.meta.namespace, endpoint.pod) for one in slices for endpoint in one.endpoints}
        if (pod := snapshot.pods.get(key)) is not None
    ]
    accounts = {(pod.meta.namespace, pod.service_account) for pod in pods}
    named = {("TrafficSplit", *one.meta.key) for one in splits}
    named |= {("HTTPRouteGroup", one.meta.namespace, name) for one in splits for name in one.matches}
    for target in snapshot.targets.values():
        namespace = target.meta.namespace
        if (target.destination.namespace or namespace, target.destination.name) in accounts:
            named |= {
                ("TrafficTarget", *target.meta.key),
                *((rule.kind, namespace, rule.name) for rule in target.rules),
            }
    for binding in snapshot.bindings.values():
        if binding.meta.namespace == caller[0] and binding.service_account in {None, caller[1]}:
            named.add(("IdentityBinding", *binding.meta.key))
    things = {caller, *services, *accounts, *(one.meta.key for one in slices), *(pod.meta.key for pod in pods)}
    things |= {(pod.meta.namespace, pod.workload) for pod in pods}
    namespaces = {caller[0], *(namespace for namespace, _ in services)}
    readable = _tables(snapshot)

    def concerned(item: Finding) -> bool:
        ref, key = item.subject, (item.subject.namespace, item.subject.name)
        if not ref.namespace:
            return ref.kind != "Namespace" or ref.name in namespaces
        if ref.namespace not in namespaces:
            return False
        if ref.kind in readable:
            return key not in readable[ref.kind] or (ref.kind, *key) in named
        return ref.kind not in _THINGS or key in things

    return concerned


def _tables(snapshot: Snapshot) -> Mapping[str, Collection[Key]]:
    """Return the SMI objects that could be read, by kind."""
    return {
        "TrafficSplit": snapshot.splits.keys(),
        "TrafficTarget": snapshot.targets.keys(),
        "HTTPRouteGroup": snapshot.route_groups.keys(),
        "TCPRoute": snapshot.tcp_routes.keys(),
        "UDPRoute": snapshot.udp_routes.keys(),
        "IdentityBinding": snapshot.bindings.keys(),
    }


def _key(text: str) -> Key:
    namespace, _, name = text.partition("/")
    return namespace, name
