"""Statuses as they lie in the API: read leniently, and compared with what is to be said.

A status may have been written by anybody, by whatever rules the CRD has; what is no status at all is as good as none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from smi_adapter.cluster.projection import status_of
from smi_adapter.report import Report


@dataclass(frozen=True, slots=True)
class Known:
    """What lies in the API as far as we know; the status as JSON text, of which a big cluster has thousands."""

    uid: str
    resource_version: str
    text: bytes

    @property
    def status(self) -> Mapping[str, Any]:
        """Return the status; empty if there is none, or what is there is none."""
        found = status_of(self.text)
        return found if isinstance(found, dict) else {}

    def says(self, report: Report) -> bool:
        """Tell whether this status is the report's already, whatever its times."""
        status = self.status
        return self.uid == report.subject.uid and _timeless(report.status.data(status, 0.0)) == _timeless(
            status, report.status.backend
        )

    def observed(self) -> object:
        """Return the generation that the status speaks of."""
        return self.status.get("observedGeneration")


class _Meta(msgspec.Struct):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resourceVersion: str = ""  # noqa: N815 - Kubernetes' name


class StoredObject(msgspec.Struct):
    """An object, of which only the status is of interest."""

    metadata: _Meta
    status: msgspec.Raw = msgspec.Raw(b"null")

    def known(self) -> Known:
        """Return what this tells."""
        return Known(self.metadata.uid, self.metadata.resourceVersion, bytes(self.status))


class _ListMeta(msgspec.Struct):
    continue_: str = msgspec.field(name="continue", default="")


class StoredList(msgspec.Struct):
    """One page of a list."""

    metadata: _ListMeta
    items: list[StoredObject] | None = None


def _timeless(status: Mapping[str, Any], backend: str | None = None) -> object:
    """Return what a status says, without its times; with `backend`, without what others wrote beside us."""
    entries = status.get("backends")
    backends = [item for item in entries if isinstance(item, Mapping)] if isinstance(entries, list) else []
    if backend is not None:
        backends = [item for item in backends if item.get("name") == backend]
    ours = {"Accepted", "ResolvedRefs", "Programmed", "PartiallyTranslated", "Conflicted"}
    return (
        status.get("observedGeneration"),
        _plain(status.get("conditions"), ours),
        [(item.get("name"), _plain(item.get("conditions"), ours)) for item in backends],
    )


def _plain(conditions: object, kinds: set[str]) -> list[dict[str, Any]]:
    found = [item for item in conditions if isinstance(item, dict)] if isinstance(conditions, list) else []
    chosen = [item for item in found if str(item.get("type")) in kinds]  # of a foreign CRD it may be anything
    chosen.sort(key=lambda item: str(item.get("type")))
    return [{key: value for key, value in item.items() if key != "lastTransitionTime"} for item in chosen]
