"""ConversionReview in, response out: each client sees its own version's form (opt-in; ADR 5).

The work is that of `smi.wire`: decode, encode, and what a version cannot say in an annotation (`smi.lost`). Three rules
make it lossless to the letter. Where two versions have the same form, only the apiVersion changes. Where they do not,
and the way back would not give the very same text (`apiGroup` in a match, a weight written "1000m"), what was written
goes along in an annotation and is put back as long as it still means the same. An object that is damaged is not
reshaped at all, so that it stays as its author wrote it and one bad object never makes a list unreadable.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from smi_adapter.findings import Severity, printable
from smi_adapter.smi import lost, schema, wire
from smi_adapter.smi.objects import Meta, SmiObject
from smi_adapter.webhooks import envelope

KIND: Final = "ConversionReview"
WRITTEN: Final = "smi-adapter.io/written-in-"
"""Annotation, followed by a version: the parts of a manifest exactly as they were written in that version."""

_LARGEST_NOTE: Final = 64 * 1024
"""Bytes of such an annotation; all annotations together may have 256 KiB. Beyond it only the meaning is kept."""

_LOG = logging.getLogger(__name__)
_OUTSIDE: Final = frozenset({"apiVersion", "kind", "metadata", "status"})


def review(body: bytes) -> tuple[bool, bytes]:
    """Return whether a ConversionReview could be met, and the answer; MalformedError: there is nothing to answer."""
    request = envelope.request_of(body, KIND, envelope.MAX_CONVERSION)
    response = respond(request)
    return "convertedObjects" in response, envelope.answer(KIND, response)


def respond(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the response to one conversion request: the objects in their order, or why there are none."""
    wanted, objects = request.get("desiredAPIVersion"), request.get("objects")
    if not isinstance(wanted, str) or not isinstance(objects, list):
        return _failed(request["uid"], "desiredAPIVersion and objects are needed")
    try:
        converted = [convert(raw, wanted) for raw in objects]
    except ValueError as error:
        return _failed(request["uid"], str(error))
    return {"uid": request["uid"], "convertedObjects": converted, "result": {"status": "Success"}}


def _failed(uid: str, message: str) -> dict[str, Any]:
    return {"uid": uid, "result": {"status": "Failure", "message": printable(message)}}


def convert(raw: Any, wanted: str) -> dict[str, Any]:
    """Return an object in another version; ValueError if the kind has no such version.

    Of the metadata only annotations change: the API server refuses anything else.
    """
    if not isinstance(raw, Mapping):
        raise ValueError("an object to convert must be an object")  # noqa: TRY004 - one error for a bad request
    subject = wire.ref_of(raw)
    group, _, version = wanted.rpartition("/")
    if group != subject.group or version not in schema.served().get((group, subject.kind), ()):
        raise ValueError(f"{subject.kind} of {subject.group} cannot be converted to {wanted}")
    if raw.get("apiVersion") == wanted:
        return dict(raw)
    try:
        obj = _sound(raw)
        if obj is not None:
            return _again(raw, obj, wanted) or _as_it_is(raw, obj, wanted) or _written_anew(raw, obj, wanted)
    except Exception as error:  # noqa: BLE001 - our own failure on one object must not make a list unreadable
        _LOG.warning("conversion: %s is left in its form: %s", printable(str(subject)), type(error).__name__)
    return {**raw, "apiVersion": wanted}


def _sound(raw: Mapping[str, Any]) -> SmiObject | None:
    """Return the object if nothing of it is damaged; its metadata is left out, for comparing."""
    obj, findings = wire.decode(raw)
    if obj is None or any(item.severity is Severity.ERROR for item in findings):
        return None
    return replace(obj, meta=Meta(obj.meta.namespace, obj.meta.name))


def _body(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in raw.items() if key not in _OUTSIDE}


def _frame(raw: Mapping[str, Any], wanted: str, body: Mapping[str, Any], notes: Mapping[str, str]) -> dict[str, Any]:
    """Return the manifest around a body: our annotations replaced by `notes`, everything else as it was."""
    had = raw["metadata"].get("annotations") or {}
    kept = {key: value for key, value in had.items() if not key.startswith(lost.PREFIX)}
    ends = {"status": raw["status"]} if "status" in raw else {}
    metadata = _annotated(raw["metadata"], {**kept, **notes})
    return {"apiVersion": wanted, "kind": raw["kind"], "metadata": metadata, **body, **ends}


def _annotated(metadata: Mapping[str, Any], annotations: Mapping[str, str]) -> dict[str, Any]:
    rest = {key: value for key, value in metadata.items() if key != "annotations"}
    return {**rest, "annotations": dict(annotations)} if annotations else rest


def _again(raw: Mapping[str, Any], obj: SmiObject, wanted: str) -> dict[str, Any] | None:
    """Return what was once written in that version (or one of the same form), if it still means the same."""
    annotations = raw["metadata"].get("annotations") or {}
    for name in sorted(key for key in annotations if key.startswith(WRITTEN)):
        written = f"{obj.ref.group}/{name.removeprefix(WRITTEN)}"
        try:
            note = json.loads(annotations[name])
            notes = {str(key): str(value) for key, value in note["notes"].items()}
            back = _without(_frame(raw, written, _body(note["body"]), notes), name)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            continue
        if _sound(back) == obj:
            found = back if written == wanted else _as_it_is(back, obj, wanted)
            if found is not None:
                return found
    return None


def _without(manifest: dict[str, Any], annotation: str) -> dict[str, Any]:
    metadata = manifest["metadata"]
    annotations = {key: value for key, value in metadata.get("annotations", {}).items() if key != annotation}
    return {**manifest, "metadata": _annotated(metadata, annotations)}


def _as_it_is(raw: Mapping[str, Any], obj: SmiObject, wanted: str) -> dict[str, Any] | None:
    """Return the object under another apiVersion, if both versions have the same form for it; else None."""
    there = wanted.rpartition("/")[2]
    before, after = wire.encode(obj, _version(raw))[0], wire.encode(obj, there)[0]
    if _body(before) != _body(after):
        return None
    kept = {**raw, "apiVersion": wanted}
    if _ours(before) == _ours(raw):
        kept = _frame(raw, wanted, _body(raw), _ours(after))
    kept = _without(kept, WRITTEN + there)
    wrong = schema.check((obj.ref.group, there, obj.ref.kind), {**kept, "metadata": after["metadata"]})
    return kept if not wrong and _sound(kept) == obj else None


def _written_anew(raw: Mapping[str, Any], obj: SmiObject, wanted: str) -> dict[str, Any]:
    """Encode an object in another version, with a note of how it was written if the way back would not say it."""
    here, there = _version(raw), wanted.rpartition("/")[2]
    before, after = wire.encode(obj, here)[0], wire.encode(obj, there)[0]
    made = _without(_frame(raw, wanted, _body(after), _ours(after)), WRITTEN + there)
    if (_body(before), _ours(before)) == (_body(raw), _ours(raw)):
        return made
    note = json.dumps({"body": _body(raw), "notes": _ours(raw)}, separators=(",", ":"))
    if len(note) > _LARGEST_NOTE:
        return made
    annotations = {**made["metadata"].get("annotations", {}), WRITTEN + here: note}
    return {**made, "metadata": _annotated(made["metadata"], annotations)}


def _version(raw: Mapping[str, Any]) -> str:
    return str(raw["apiVersion"]).rpartition("/")[2]


def _ours(raw: Mapping[str, Any]) -> dict[str, str]:
    """Return the annotations that say what a version could not."""
    annotations = raw["metadata"].get("annotations") or {}
    return {key: value for key, value in annotations.items() if key.startswith(lost.PREFIX)}
