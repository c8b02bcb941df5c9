"""The pods and ServiceAccounts of the cluster, as far as it decides who may stream (security.md, X4 and X7).

The Snapshot knows what a pod means for routing; this knows what makes it this pod and no other: its UID, addresses,
node and account. Both are fed the same batches, so that they never disagree for longer than one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from smi_adapter.decode import RawObject
from smi_adapter.findings import Ref
from smi_adapter.mesh import Key, Mesh

_OVER = frozenset({"Succeeded", "Failed"})


class Resident(NamedTuple):
    """One pod. `over`: its containers have ended for good, and its addresses may be somebody else's by now."""

    uid: str
    service_account: str
    addresses: tuple[str, ...]
    node: str
    over: bool

    @classmethod
    def of(cls, raw: RawObject) -> Resident:
        """Read what counts of a Pod; what is missing is "", and fits nothing."""
        metadata, spec, status = (_part(raw, name) for name in ("metadata", "spec", "status"))
        addresses = [_part(item).get("ip") for item in _items(status.get("podIPs"))]
        return cls(
            _text(metadata.get("uid")),
            _text(spec.get("serviceAccountName")) or _text(spec.get("serviceAccount")) or "default",
            tuple(dict.fromkeys(item for item in (status.get("podIP"), *addresses) if isinstance(item, str) and item)),
            _text(spec.get("nodeName")),
            status.get("phase") in _OVER,
        )


class Residents:
    """All pods by name, the workload that each is in, and the UIDs of all ServiceAccounts."""

    def __init__(self) -> None:
        self.pods: dict[Key, Resident] = {}
        self.accounts: dict[Key, str] = {}
        self._workload_of: dict[Key, Key] = {}
        self._pods_of: dict[Key, tuple[Key, ...]] = {}

    def follow(self, batch: Mapping[Ref, RawObject | None]) -> None:
        """Take a batch of changed objects (None: deleted); other kinds are passed over."""
        for ref in batch:
            if ref.group or ref.kind not in {"Pod", "ServiceAccount"}:
                continue
            key, raw = (ref.namespace, ref.name), batch[ref]
            if ref.kind == "Pod":
                if raw is None:
                    self.pods.pop(key, None)
                else:
                    self.pods[key] = Resident.of(raw)
            elif ref.kind == "ServiceAccount":
                if raw is None:
                    self.accounts.pop(key, None)
                else:
                    self.accounts[key] = _text(_part(raw, "metadata").get("uid"))

    def settle(self, mesh: Mesh, workloads: Iterable[Key]) -> None:
        """Follow the mesh in which of these workloads each pod is; one that is not in the mesh any more is emptied."""
        changed = tuple(workloads)
        for workload in changed:
            for pod in self._pods_of.pop(workload, ()):
                if self._workload_of.get(pod) == workload:
                    del self._workload_of[pod]
        for workload in changed:
            found = mesh.workloads.get(workload)
            if found is not None:
                pods = tuple((workload[0], instance.name) for instance in found.instances)
                self._pods_of[workload] = pods
                self._workload_of.update(dict.fromkeys(pods, workload))

    def workload_of(self, pod: Key) -> Key | None:
        """Return the workload that a pod is in."""
        return self._workload_of.get(pod)


def _part(raw: object, name: str = "") -> Mapping[str, Any]:
    found = raw.get(name) if name and isinstance(raw, Mapping) else raw
    return found if isinstance(found, Mapping) else {}


def _items(found: object) -> Iterable[Any]:
    return found if isinstance(found, list | tuple) else ()


def _text(found: object) -> str:
    return found if isinstance(found, str) else ""
