"""What a client may write: fields that are not known, values that are not allowed, and what is left of an object.

SMI kinds are judged by their schemas, as the CRDs generated from these would judge them: unknown fields are pruned
(or refused, if the client asks for strictness as kubectl does), and everything else is named field by field.
Kubernetes' own kinds are judged by the forms that the rest of the program reads them with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from smi_adapter.decode import forms
from smi_adapter.embedded_api import answers
from smi_adapter.embedded_api.kinds import Kind
from smi_adapter.findings import Finding
from smi_adapter.smi import schema

_FORMS: Mapping[str, type[forms.Form]] = {
    "Namespace": forms.NamespaceForm,
    "Service": forms.ServiceForm,
    "Pod": forms.PodForm,
    "EndpointSlice": forms.EndpointSliceForm,
    "Deployment": forms.WorkloadForm,
    "StatefulSet": forms.WorkloadForm,
    "DaemonSet": forms.WorkloadForm,
    "ReplicaSet": forms.WorkloadForm,
}
_UNKNOWN = "additionalProperties"
_REASONS: Mapping[str, str] = {
    "required": "FieldValueRequired",
    "enum": "FieldValueNotSupported",
    "maxItems": "FieldValueTooMany",
    "maxLength": "FieldValueTooLong",
}
"""The cause's reason of the real API server for a schema keyword; FieldValueInvalid for all others."""


def identity(raw: Any, kind: Kind, version: str, namespace: str, name: str) -> dict[str, Any]:
    """Return a client's object with its names completed; BadRequest if it belongs under another path."""
    if not isinstance(raw, Mapping):
        raise answers.bad_request("the body is no object")
    api = kind.api_version(version)
    if raw.get("apiVersion", api) != api or raw.get("kind", kind.name) != kind.name:
        sent = f"{raw.get('apiVersion')} {raw.get('kind')}"
        raise answers.bad_request(f"the body is {sent}, which does not belong here: this is {api} {kind.name}")
    metadata = raw.get("metadata") or {}
    if not isinstance(metadata, Mapping):
        raise answers.bad_request("metadata is no object")
    metadata = dict(metadata)
    if metadata.get("generateName") and not metadata.get("name"):
        raise answers.bad_request("metadata.generateName is not supported here: give the object a name")
    if kind.namespaced:
        if metadata.get("namespace", namespace) != namespace:
            raise answers.bad_request(
                f"the namespace of the provided object does not match the namespace sent on the request: "
                f"{metadata.get('namespace')} is not {namespace}"
            )
        metadata["namespace"] = namespace
    if name and metadata.get("name", name) != name:
        raise answers.bad_request(f"the name of the object ({metadata.get('name')}) does not match the path ({name})")
    if name:
        metadata["name"] = name
    if not isinstance(metadata.get("name"), str) or not metadata["name"]:
        raise answers.invalid(kind, "", [("FieldValueRequired", "metadata.name", "a name is required")])
    return {**raw, "apiVersion": api, "kind": kind.name, "metadata": metadata}


class Pruned(NamedTuple):
    """An object without the fields that nobody knows, and a warning for each."""

    value: dict[str, Any]
    warnings: tuple[str, ...] = ()


def pruned(
    raw: dict[str, Any], kind: Kind, version: str, validation: str, old: Mapping[str, Any] | None = None
) -> Pruned:
    """Drop the fields of an SMI object that its schema does not know; raise if the client wants none such.

    What an author wrote into a file stays there, known or not: the client did not send it.
    """
    if not kind.smi:
        return Pruned(raw)
    before = _known_problems(old, kind, version)
    found = schema.check((kind.group, version, kind.name), raw)
    unknown = [one for one in found if one.keyword == _UNKNOWN and (one.path, one.message) not in before]
    if not unknown:
        return Pruned(raw)
    told = tuple(f'unknown field "{problem.field}"' for problem in unknown)
    if validation == "Strict":
        raise answers.bad_request(
            f'{kind.name} in version "{version}" cannot be handled as a {kind.name}: '
            f"strict decoding error: {', '.join(told)}"
        )
    return Pruned(_without(raw, [problem.path for problem in unknown]), told if validation != "Ignore" else ())


def admitted(raw: dict[str, Any], kind: Kind, version: str, validation: str, old: Mapping[str, Any] | None) -> Pruned:
    """Return what is left of an object after pruning, and warnings; raise if it may not be written.

    What was wrong before with the same words does not hinder a change of something else (as ratcheting does).
    """
    if not kind.smi:
        _check_form(raw, kind)
        return Pruned(raw)
    found = pruned(raw, kind, version, validation, old)
    before = _known_problems(old, kind, version)
    problems = [
        (_REASONS.get(problem.keyword, "FieldValueInvalid"), problem.field, f"{_kind_of(problem)}{problem.message}")
        for problem in schema.check((kind.group, version, kind.name), found.value)
        if (problem.path, problem.message) not in before
    ]
    if problems:
        raise answers.invalid(kind, raw["metadata"]["name"], problems)
    return found


def _known_problems(old: Mapping[str, Any] | None, kind: Kind, version: str) -> set[tuple[schema.Steps, str]]:
    if old is None:
        return set()
    return {(problem.path, problem.message) for problem in schema.check((kind.group, version, kind.name), old)}


def _kind_of(problem: schema.Problem) -> str:
    return "Required value: " if problem.keyword == "required" else "Invalid value: "


def _check_form(raw: dict[str, Any], kind: Kind) -> None:
    metadata = raw["metadata"]
    ref = kind.ref(str(metadata.get("namespace", "")), metadata["name"])
    found = forms.name_problem(ref)
    form = _FORMS.get(kind.name)
    if found is None and form is not None:
        converted = forms.convert(raw, form, ref)
        found = converted if isinstance(converted, Finding) else None
    if found is not None:
        raise answers.invalid(
            kind, metadata["name"], [("FieldValueInvalid", found.field, f"Invalid value: {found.message}")]
        )


def _without(value: Any, paths: Iterable[schema.Steps]) -> Any:
    """Return a copy of a value without what the paths name."""
    below: dict[Any, list[schema.Steps]] = {}
    for path in paths:
        below.setdefault(path[0], []).append(path[1:])
    if isinstance(value, Mapping):
        return {
            name: _without(one, below[name]) if name in below else one
            for name, one in value.items()
            if () not in below.get(name, ())
        }
    return [_without(one, below[index]) if index in below else one for index, one in enumerate(value)]
