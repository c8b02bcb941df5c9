"""Passes `account_ports` and `binding_ports`: which port numbers mean a Service's port at a destination (R10).

They are looked up for a destination as a whole: a number that is a Service port for some of its pods is not taken for
a container port of the others, which would open more than was meant.
"""

from __future__ import annotations

from collections.abc import Iterable

from smi_adapter.smi.objects import Key
from smi_adapter.snapshot import Pod
from smi_adapter.translate.incremental import Outcome
from smi_adapter.translate.ports import selects
from smi_adapter.translate.view import View


def every_number(_view: View, _key: Key, _last: object) -> frozenset[int]:
    """Return what to take for Service ports where we failed to find out: no number opens a container port then (D4)."""
    return frozenset(range(1, 65536))  # 4 MB, so made where it is needed


def account_ports(view: View, key: Key) -> Outcome[frozenset[int]]:
    """Return the TCP port numbers of all Services that select a pod of a ServiceAccount."""
    return _numbers(view, view.pods_of_account.get(key) or ()), ()


def binding_ports(view: View, key: Key) -> Outcome[frozenset[int] | None]:
    """Return the same for all pods that an IdentityBinding names; None if it names none."""
    bound = view.bound.get(key)
    if bound is None:
        return None, ()
    known = [view.account_ports.get((key[0], account)) for account in sorted(bound.accounts)]
    found = [numbers for numbers in known if numbers is not None]
    if bound.pods:
        found.append(_numbers(view, bound.pods))
    return (frozenset().union(*found) if found else None), ()


def _numbers(view: View, pods: Iterable[Key]) -> frozenset[int]:
    found = (pod for name in sorted(pods) if (pod := view.pods.get(name)) is not None)
    names = sorted({name for pod in found for name in services_of(view, pod)})
    services = (service for name in names if (service := view.services.get(name)) is not None)
    return frozenset(port.number for service in services for port in service.ports if port.protocol == "TCP")


def services_of(view: View, pod: Pod) -> tuple[Key, ...]:
    """Return the Services of the pod's namespace that select it, by name; ExternalName ones select nobody."""
    namespace = pod.meta.namespace
    names: set[Key] = set()
    for label in pod.meta.labels.items():
        names.update(view.services_with_label.get((namespace, *label)) or ())
    return tuple(sorted(name for name in names if _selects(view, name, pod)))


def _selects(view: View, name: Key, pod: Pod) -> bool:
    service = view.services.get(name)
    return service is not None and service.type != "ExternalName" and selects(service, pod.meta.labels)
