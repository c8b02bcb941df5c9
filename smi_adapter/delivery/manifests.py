"""Delivery of `Manifests`: what a backend rendered, with owners, to the applier that keeps it in the API.

A generated object belongs to the SMI objects that it was made from: Kubernetes takes it away with the last of them,
even while no controller runs. An owner has to be in the same namespace, so others are named by annotation only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from smi_adapter.backends import Manifests
from smi_adapter.cluster.apply import Applier, Wanted
from smi_adapter.cluster.ownership import ORIGIN
from smi_adapter.decode import RawObject
from smi_adapter.findings import Finding, Ref
from smi_adapter.report import SMI_GROUPS, Subject, subject_of


class ManifestDelivery:
    """Publishes manifests as `AdsServer` does configurations: each has a generation, and one asks how far it got.

    `left`: kinds of which nothing is rendered any more, since another backend is selected now.
    """

    def __init__(self, applier: Applier, left: Collection[tuple[str, str]] = ()) -> None:
        self._applier = applier
        self._left = left
        self._generation = 0
        self._subjects: dict[Ref, Subject] = {}

    def publish(self, manifests: Manifests, batch: Mapping[Ref, RawObject | None]) -> int:
        """Have the manifests applied; return their generation. `batch`: the objects that changed, as in the API."""
        for ref, raw in batch.items():
            if raw is None:
                self._subjects.pop(ref, None)
            elif ref.group in SMI_GROUPS:
                self._subjects[ref] = subject_of(ref, raw)
        self._generation += 1
        paused = [ref for ref, subject in self._subjects.items() if subject.paused]
        by_name = {str(ref): subject for ref, subject in self._subjects.items()}
        kinds = (*manifests.kinds, *self._left)
        self._applier.want(wanted(manifests, by_name), self._generation, kinds, paused, by_name.keys())
        return self._generation

    def retire(self, batch: Mapping[Ref, RawObject | None]) -> None:
        """Have nothing applied, and what an earlier backend left pruned."""
        if self._left:
            self.publish(Manifests(()), batch)

    def acknowledged(self) -> int:
        """Return the last generation that is applied."""
        return self._applier.applied

    def findings(self) -> tuple[Finding, ...]:
        """Return what stands in the way of single objects."""
        return self._applier.findings()


def wanted(manifests: Manifests, by_name: Mapping[str, Subject]) -> Iterable[Wanted]:
    """Yield each object with its owners, as far as these lie in its namespace and are known."""
    for manifest in manifests.objects:
        metadata: Mapping[str, Any] = manifest["metadata"]
        names = str((metadata.get("annotations") or {}).get(ORIGIN, "")).split(", ")
        origins = tuple(by_name[name] for name in names if name in by_name)
        owners = [
            {"apiVersion": subject.api_version, "kind": subject.ref.kind, "name": subject.ref.name, "uid": subject.uid}
            for subject in origins
            if subject.ref.namespace == metadata["namespace"] and subject.uid and subject.api_version
        ]
        made = {**metadata, "ownerReferences": owners} if owners else metadata
        yield Wanted(
            {**manifest, "metadata": made},
            tuple(subject.ref for subject in origins),
            any(subject.paused for subject in origins),
        )
