"""What a change of the mesh means, a sentence for each Service and workload: who is routed otherwise, who is let in."""

from __future__ import annotations

from collections.abc import Iterator

from smi_adapter.mesh import Key, Mesh, Service, Workload


def of_service(key: Key, before: Mesh, after: Mesh) -> str:
    """Say what becomes of a Service."""
    name = f"Service {'/'.join(key)}"
    match before.services.get(key), after.services.get(key):
        case None, _:
            return f"{name} is new"
        case _, None:
            return f"{name} is gone"
        case Service() as old, Service() as new:
            return f"{name} {' and '.join(_of_service(old, new)) or 'is described otherwise'}"
    raise AssertionError(key)


def _of_service(old: Service, new: Service) -> Iterator[str]:
    if {port.number for port in old.ports} != {port.number for port in new.ports}:
        yield "has other ports"
    elif [port.routes for port in old.ports] != [port.routes for port in new.ports]:
        yield "routes otherwise"
    elif [port.endpoints for port in old.ports] != [port.endpoints for port in new.ports]:
        yield "has other endpoints"
    if old.callers != new.callers:
        yield "is known to other callers"


def of_workload(key: Key, before: Mesh, after: Mesh) -> str:
    """Say what becomes of a workload."""
    name = f"Workload {'/'.join(key)}"
    match before.workloads.get(key), after.workloads.get(key):
        case None, _:
            return f"{name} is new"
        case _, None:
            return f"{name} is gone"
        case Workload() as old, Workload() as new:
            return f"{name} {', '.join(_of_workload(old, new)) or 'is described otherwise'}"
    raise AssertionError(key)


def _of_workload(old: Workload, new: Workload) -> Iterator[str]:
    if old.mode != new.mode:
        yield f"changes from {old.mode.value} to {new.mode.value}"
    were, are = _admitted(old), _admitted(new)
    if more := are - were:
        yield f"lets in {_listed(more)}"
    if less := were - are:
        yield f"no longer lets in {_listed(less)}"
    if were == are and [port.rules for port in old.ports] != [port.rules for port in new.ports]:
        yield "lets in the same callers by other rules"


def _admitted(workload: Workload) -> frozenset[str]:
    """Return who is named in any rule, of any port."""
    return frozenset(one.identity for port in workload.ports for rule in port.rules for one in rule.principals)


def _listed(identities: frozenset[str]) -> str:
    names = sorted(identities)
    return f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
