"""Where an object stands with the proxies: which of them it concerns, and whether they have acknowledged it.

Pure look-ups over one Mesh and one set of acknowledgements. A generation is the number under which a configuration
was published; what an object's last change led to went out with some generation, its *mark*, and is in force when
every proxy concerned has acknowledged everything up to it. Concerned are

- for the root of a split: the proxies of whoever may call the Service (`mesh.Service.callers`; None: all);
- for a target: the proxies of its destination, and those of its sources, which have to learn of the Service.

A proxy that is not connected has acknowledged nothing. Whether a pod has a proxy at all cannot be seen in the Mesh
of a cluster, so a missing one counts where it must be there (a destination: without a proxy it enforces nothing), and
elsewhere where its workload has had one since this process began.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from smi_adapter.findings import Ref
from smi_adapter.mesh import Mesh
from smi_adapter.smi.objects import Key
from smi_adapter.snapshot import Snapshot


def _none() -> Mapping[Any, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Tally:
    """What another replica's proxies have acknowledged, in words that do not depend on its own generations.

    `connected`: proxies by workload. `observed`: the generation of each object that this replica has published.
    `waiting`: how many of its proxies have not acknowledged what an object led to; an object that is left out: none.
    """

    connected: Mapping[Key, int] = field(default_factory=_none)
    observed: Mapping[Ref, int] = field(default_factory=_none)
    waiting: Mapping[Ref, int] = field(default_factory=_none)

    def data(self) -> dict[str, Any]:
        """Return the tally as plain data, for the wire."""
        return {
            "connected": [[*key, count] for key, count in self.connected.items()],
            "observed": [[*_names(ref), number] for ref, number in self.observed.items()],
            "waiting": [[*_names(ref), number] for ref, number in self.waiting.items()],
        }

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Tally:
        """Return the tally that `data` made; ValueError, KeyError or TypeError for anything else."""
        return cls(
            {(str(namespace), str(name)): int(count) for namespace, name, count in data["connected"]},
            {Ref(*map(str, names)): int(number) for *names, number in data["observed"]},
            {Ref(*map(str, names)): int(number) for *names, number in data["waiting"]},
        )


def _names(ref: Ref) -> tuple[str, str, str, str]:
    return (ref.kind, ref.namespace, ref.name, ref.group)


@dataclass(frozen=True, slots=True)
class Standing:
    """How many proxies an object concerns, how many of these have not acknowledged it, and one of those."""

    proxies: int = 0
    waiting: int = 0
    missing: int = 0
    example: str = ""

    def __add__(self, other: Standing) -> Standing:
        """Put two sets of proxies together."""
        return Standing(
            self.proxies + other.proxies,
            self.waiting + other.waiting,
            self.missing + other.missing,
            self.example or other.example,
        )


class Fleet:
    """All workloads and their proxies at one moment."""

    def __init__(
        self,
        mesh: Mesh,
        snapshot: Snapshot,
        acknowledged: Mapping[Key, tuple[int, ...]],
        elsewhere: Iterable[Tally] = (),
        had_proxies: Collection[Key] = (),
    ) -> None:
        self._acknowledged = acknowledged
        self._others: dict[Key, int] = {}
        for tally in elsewhere:
            for key, count in tally.connected.items():
                self._others[key] = self._others.get(key, 0) + count
        self._had = had_proxies
        self._mesh, self._snapshot = mesh, snapshot
        self._ready: dict[Key, int] = {}
        self._of_identity: dict[str, list[Key]] = {}
        for key, workload in mesh.workloads.items():
            self._of_identity.setdefault(workload.identity, []).append(key)
        self._all = tuple(mesh.workloads)
        self._known: dict[tuple[frozenset[str] | None, int], Standing] = {}

    def callers(self, identities: frozenset[str] | None, mark: int) -> Standing:
        """Return the standing of those who may call; None: everybody. Equal questions are counted once."""
        question = (identities, mark)
        known = self._known.get(question)
        if known is None:
            keys = self._all if identities is None else self.of(identities)
            known = self._known[question] = self.workloads(keys, mark)
        return known

    def of(self, identities: Iterable[str]) -> list[Key]:
        """Return the workloads that have one of these identities."""
        return [key for identity in sorted(identities) for key in self._of_identity.get(identity, ())]

    def workloads(self, keys: Iterable[Key], mark: int, *, required: bool = False) -> Standing:
        """Return the standing of workloads; `required`: each of their ready pods must have a proxy."""
        proxies = waiting = missing = 0
        example = ""
        for key in keys:
            reached = self._acknowledged.get(key, ())
            connected = len(reached) + self._others.get(key, 0)
            late = sum(1 for generation in reached if generation < mark)
            gone = max(0, self._ready_pods(key) - connected) if required or connected or key in self._had else 0
            proxies += connected + gone
            waiting += late
            missing += gone
            if (late or gone) and not example:
                example = "/".join(key)
        return Standing(proxies, waiting, missing, example)

    def _ready_pods(self, key: Key) -> int:
        known = self._ready.get(key)
        if known is None:
            workload = self._mesh.workloads.get(key)
            pods = self._snapshot.pods
            names = [instance.name for instance in workload.instances] if workload is not None else []
            found = (pods.get((key[0], name)) for name in names)
            known = self._ready[key] = sum(1 for pod in found if pod is not None and pod.ready)
        return known
