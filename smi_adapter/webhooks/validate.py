"""AdmissionReview in, response out: what `smi-adapter analyze` would say, said by `kubectl apply`.

What does not fit its schema, or cannot be decoded, is refused with code and field; everything else that there is to
tell about the object comes back as warnings. It is a courtesy: the webhook fails open, and the translator judges every
object again (kubernetes.md, section 3). So whatever goes wrong in here lets the object through, with a warning.

An object that was bad before may be edited: what was wrong with it already only warns, else nobody could take a label
off it or see it deleted once the rules have become stricter.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from smi_adapter.findings import Finding, Severity, by_severity_then_object, finding, printable
from smi_adapter.smi import schema, wire
from smi_adapter.webhooks import envelope

Judge: TypeAlias = Callable[[Mapping[str, Any]], tuple[Finding, ...]]
"""What there is to tell about an object in the world as it is now; given by whoever has a world. May be slow."""

KIND: Final = "AdmissionReview"
_LONGEST_WARNING: Final = 256
"""The API server shortens longer ones, and drops all beyond 4096 characters."""

_MOST_WARNINGS: Final = 14
_LOG = logging.getLogger(__name__)


def review(body: bytes, judge: Judge | None = None) -> bytes:
    """Return the answer to an AdmissionReview; MalformedError if there is no request to answer.

    Without a judge (the controller has not seen the cluster yet) the object is judged by itself alone.
    """
    request = envelope.request_of(body, KIND, envelope.MAX_ADMISSION)
    return envelope.answer(KIND, answered(request, judge))


def answered(request: Mapping[str, Any], judge: Judge | None = None) -> dict[str, Any]:
    """Return the response to one admission request; our own failure lets the object through, and says so."""
    try:
        return respond(request, judge)
    except Exception as error:  # noqa: BLE001 - fails open, whatever our own mistake
        _LOG.warning("admission: an object could not be checked: %s", type(error).__name__)
        return passed(request["uid"], "smi-adapter could not check this object: an internal error")


def passed(uid: str, *warnings: str) -> dict[str, Any]:
    """Return the response that lets an object through."""
    return {"uid": uid, "allowed": True, **({"warnings": list(warnings)} if warnings else {})}


def respond(request: Mapping[str, Any], judge: Judge | None = None) -> dict[str, Any]:
    """Return the response to one admission request."""
    uid, raw, old = request["uid"], request.get("object"), request.get("oldObject")
    if request.get("operation") not in {"CREATE", "UPDATE"} or not isinstance(raw, Mapping) or _leaving(raw):
        return passed(uid)
    whole = _in_namespace(raw, request)
    refused = errors(whole)
    if isinstance(old, Mapping):
        known = {(item.code, item.field, item.message) for item in errors(_in_namespace(old, request))}
        refused = tuple(item for item in refused if (item.code, item.field, item.message) not in known)
    told = [item for item in _judged(whole, judge) if item not in refused]
    warnings = [warning(item) for item in sorted(told, key=by_severity_then_object)]
    if len(warnings) > _MOST_WARNINGS:
        more = len(warnings) - _MOST_WARNINGS
        warnings = [*warnings[:_MOST_WARNINGS], f"{more} more findings: `smi-adapter analyze` shows all of them"]
    if not refused:
        return passed(uid, *warnings)
    return {**passed(uid, *warnings), "allowed": False, "status": _refusal(whole, refused)}


def errors(raw: Mapping[str, Any]) -> tuple[Finding, ...]:
    """Return what is wrong with an object as it is written, under its own apiVersion, each thing once.

    A version or kind that we do not know may be somebody else's, so that is nothing to refuse.
    """
    subject = wire.ref_of(raw)
    key = (subject.group, str(raw.get("apiVersion")).rpartition("/")[2], subject.kind)
    if key not in wire.FORMS:
        return ()
    decoded = [item for item in wire.decode(raw)[1] if item.severity is Severity.ERROR]
    found = {(item.field, item.message): item for item in decoded}
    for problem in schema.check(key, raw)[: schema.MANY]:
        item = finding(problem.code, subject, problem.field, problem.message, severity=Severity.ERROR)
        found.setdefault((item.field, item.message), item)
    return tuple(found.values())


def _judged(raw: Mapping[str, Any], judge: Judge | None) -> tuple[Finding, ...]:
    """Return what the judge says; if it fails, what decoding alone says."""
    if judge is not None:
        try:
            return judge(raw)
        except Exception as error:  # noqa: BLE001 - a warning less is no reason to hold an object up
            _LOG.warning("admission: findings of an object are missing: %s", type(error).__name__)
    return wire.decode(raw)[1]


def _leaving(raw: Mapping[str, Any]) -> bool:
    """Tell whether an object is being deleted: then its finalizers must be able to go, whatever it says."""
    metadata = raw.get("metadata")
    return isinstance(metadata, Mapping) and metadata.get("deletionTimestamp") is not None


def _in_namespace(raw: Mapping[str, Any], request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give an object the namespace and (for generateName) the name under which it will be stored."""
    metadata = raw.get("metadata")
    if not isinstance(metadata, Mapping):
        return raw
    given = {
        key: value
        for key, value in (("namespace", request.get("namespace")), ("name", request.get("name")))
        if isinstance(value, str) and value and not metadata.get(key)
    }
    if not (given.get("name") or metadata.get("name")) and isinstance(metadata.get("generateName"), str):
        given["name"] = f"{metadata['generateName']}x"
    return {**raw, "metadata": {**metadata, **given}} if given else raw


def warning(item: Finding) -> str:
    """Return a finding as one warning, as kubectl prints it after `Warning: `; the next step goes first if it is long.

    Only printable characters: a warning travels in an HTTP header.
    """
    where = f"{item.field}: " if item.field else ""
    text = printable(f"{item.code} {item.name}: {where}{item.message}")
    whole = f"{text} -> {printable(item.hint)}"
    if len(whole) <= _LONGEST_WARNING:
        return whole
    return text if len(text) <= _LONGEST_WARNING else f"{text[: _LONGEST_WARNING - 3]}..."


def _refusal(raw: Mapping[str, Any], refused: tuple[Finding, ...]) -> dict[str, Any]:
    """Return the Status of a refusal: one cause for each finding, as a schema error of the API server has."""
    subject = wire.ref_of(raw)
    causes = [
        {"reason": "FieldValueInvalid", "field": item.field, "message": printable(f"{item.code} {item.message}")}
        for item in refused
    ]
    lines = "; ".join(
        printable(f"{item.code} {item.name}: {item.field} {item.message} -> {item.hint}") for item in refused
    )
    details = {"group": subject.group, "kind": subject.kind, "name": subject.name, "causes": causes}
    return {"status": "Failure", "code": 422, "reason": "Invalid", "message": lines, "details": details}
