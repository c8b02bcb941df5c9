"""An entry of the store as a client sees it: in the version that it asked for, with metadata and status.

SMI objects are converted by `smi.wire`, which loses nothing: what a version cannot say is in an annotation. One that
can't be decoded as a whole is shown as it was written under the other version's name, as with conversion strategy
None; so nobody edits away what we did not understand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smi_adapter.decode import RawObject
from smi_adapter.embedded_api.fields import to_wire
from smi_adapter.embedded_api.kinds import Kind
from smi_adapter.embedded_api.store import LAST_APPLIED, Entry, Store
from smi_adapter.findings import Ref, Severity
from smi_adapter.smi import lost, wire


def shown(entry: Entry, kind: Kind, version: str, store: Store) -> dict[str, Any]:
    """Return an object as it is served under a version."""
    raw = converted(entry.raw, kind, version)
    written = raw.get("metadata")
    written = written if isinstance(written, Mapping) else {}
    annotations = dict(_mapping(written.get("annotations")))
    if entry.book.last_applied:
        annotations[LAST_APPLIED] = entry.book.last_applied
    metadata: dict[str, Any] = {
        **{name: one for name, one in written.items() if name not in {"annotations", "managedFields"}},
        "name": entry.ref.name,
        **({"namespace": entry.ref.namespace} if kind.namespaced else {}),
        "uid": entry.book.uid,
        "resourceVersion": str(entry.revision),
        "generation": entry.book.generation,
        "creationTimestamp": str(written.get("creationTimestamp") or entry.book.created),
        **({"annotations": annotations} if annotations else {}),
        **({"managedFields": to_wire(entry.book.managers)} if entry.book.managers else {}),
    }
    owners = _owners(written.get("ownerReferences"), entry.ref.namespace, store)
    if owners:
        metadata["ownerReferences"] = owners
    body = {name: one for name, one in raw.items() if name not in {"apiVersion", "kind", "metadata", "status"}}
    own = {"phase": "Active"} if kind.name == "Namespace" else _mapping(raw.get("status")) if not kind.smi else {}
    status = {**own, **entry.status}
    return {
        "apiVersion": kind.api_version(version),
        "kind": kind.name,
        "metadata": metadata,
        **body,
        **({"status": status} if status else {}),
    }


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _owners(references: Any, namespace: str, store: Store) -> list[dict[str, Any]]:
    """Return the owners of an object with the uids that they have here."""
    found = []
    for one in references if isinstance(references, list) else ():
        if not isinstance(one, Mapping):
            continue
        group = str(one.get("apiVersion", "")).rpartition("/")[0]
        owner = store.get(Ref(str(one.get("kind")), namespace, str(one.get("name")), group))
        found.append({**one, **({"uid": owner.book.uid} if owner else {})})
    return found


def converted(raw: RawObject, kind: Kind, version: str) -> dict[str, Any]:
    """Return an object as it is written in a version of its kind."""
    wanted = kind.api_version(version)
    if kind.name == "Event":
        return dict(raw) if kind.group else _core_event(raw)
    if raw.get("apiVersion") == wanted or not kind.smi:
        return dict(raw)
    renamed = {**raw, "apiVersion": wanted}
    decoded, found = wire.decode(raw)
    if decoded is None or any(item.severity is Severity.ERROR for item in found):
        return renamed
    body, _ = wire.encode(decoded, version)
    metadata = dict(_mapping(raw.get("metadata")))
    annotations = {
        name: one for name, one in _mapping(metadata.get("annotations")).items() if not name.startswith(lost.PREFIX)
    } | {name: one for name, one in body["metadata"].get("annotations", {}).items() if name.startswith(lost.PREFIX)}
    metadata.pop("annotations", None)
    if annotations:
        metadata["annotations"] = annotations
    status = {"status": raw["status"]} if "status" in raw else {}
    return {**body, "metadata": metadata, **status}


def _core_event(raw: RawObject) -> dict[str, Any]:
    """Return an Event in the older of its two forms, which `kubectl describe` reads."""
    series = raw.get("series")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": raw["metadata"],
        "involvedObject": raw.get("regarding"),
        "reason": raw.get("reason"),
        "message": raw.get("note"),
        "source": {},
        "firstTimestamp": None,
        "lastTimestamp": None,
        "type": raw.get("type"),
        "eventTime": raw.get("eventTime"),
        **({"series": series} if series else {}),
        "action": raw.get("action"),
        "reportingComponent": raw.get("reportingController"),
        "reportingInstance": raw.get("reportingInstance"),
    }


def says_all(raw: RawObject) -> bool:
    """Tell whether a manifest holds everything in its own fields: nothing stands in an annotation instead."""
    return not any(name.startswith(lost.PREFIX) for name in _mapping(_mapping(raw.get("metadata")).get("annotations")))
