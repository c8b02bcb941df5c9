"""What a change of the mesh means, a sentence for each Service and workload: who is routed otherwise, who is let in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from smi_adapter.mesh import Key, Mesh, Service, Workload

_T = TypeVar("_T")


def of_service(key: Key, before: Mesh, after: Mesh) -> str:
    """Say what becomes of a Service."""
    return _said(f"Service {'/'.join(key)}", before.services.get(key), after.services.get(key), _of_service)


def of_workload(key: Key, before: Mesh, after: Mesh) -> str:
    """Say what becomes of a workload."""
    return _said(f"Workload {'/'.join(key)}", before.workloads.get(key), after.workloads.get(key), _of_workload)


def _said(name: str, old: _T | None, new: _T | None, parts: Callable[[_T, _T], Iterator[str]]) -> str:
    if old is None:
        return f"{name} is new"
    if new is None:
        return f"{name} is gone"
    return f"{name} {' and '.join(parts(old, new)) or 'is described otherwise'}"


def _of_service(old: Service, new: Service) -> Iterator[str]:
    if {port.number for port in old.ports} != {port.number for port in new.ports}:
        yield "has other ports"
    elif [port.routes for port in old.ports] != [port.routes for port in new.ports]:
        yield "routes otherwise"
    elif [port.endpoints for port in old.ports] != [port.endpoints for port in new.ports]:
        yield "has other endpoints"
    if old.callers != new.callers:
        yield "is known to other callers"


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
