"""A JSON Schema of `schemas/` as the API server takes it.

A structural schema gives each value one type, prunes fields that it does not name (so `additionalProperties: false` is
neither needed nor allowed) and knows no alternatives of fields: those become rules, see `cel`. Nothing is left out in
silence: a keyword that has no place in either form raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from smi_adapter.crds import cel
from smi_adapter.smi import quantity

Schema: TypeAlias = Mapping[str, Any]

_SAME = (
    "description",
    "type",
    "enum",
    "required",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
)
_ELSEWHERE = frozenset({"$schema", "title", "x-smi-code", "format", "oneOf", "allOf", "propertyNames"})
"""Words for people, and what `cel` or only the decoder checks."""


def structural_form(schema: Schema) -> dict[str, Any]:
    """Return the structural form of a schema of one value, its rules included."""
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return _untyped(schema)
    if schema.get("x-kubernetes-int-or-string"):
        return _int_or_string(schema)
    form = {keyword: schema[keyword] for keyword in _SAME if keyword in schema}
    if isinstance(form.get("type"), list):
        (form["type"],) = (name for name in form["type"] if name != "null")
        form["nullable"] = True
        form.pop("enum", None)  # the API server holds a null against every enum, even one that lists it
    if "properties" in schema:
        form["properties"] = {name: structural_form(one) for name, one in schema["properties"].items()}
    if "items" in schema:
        form["items"] = structural_form(schema["items"])
    if schema.get("additionalProperties"):
        form["additionalProperties"] = structural_form(schema["additionalProperties"])
    if rules := cel.rules(schema):
        form["x-kubernetes-validations"] = rules
    _nothing_lost(schema, {*form, "properties", "additionalProperties", "enum"})
    return form


def _untyped(schema: Schema) -> dict[str, Any]:
    """Keep a value whose type differs as it is: no structural schema and no rule can look into it."""
    return {"description": schema["description"], "x-kubernetes-preserve-unknown-fields": True}


def _int_or_string(schema: Schema) -> dict[str, Any]:
    """Let both types through, and join their bounds: each of them judges the values of its own type only.

    A schema that knows the extension but allows integers alone is that of a later version. Its type may not say so:
    server-side apply breaks with an error 500, for any writer and through any version, as soon as a stored value does
    not have the type of a version that somebody ever applied. So the type is that of all versions, and a rule refuses
    what is new; the API server asks rules about changed values only.
    """
    form: dict[str, Any] = {"description": schema["description"], "x-kubernetes-int-or-string": True}
    form["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    for branch in schema.get("anyOf", [schema]):
        form |= {keyword: branch[keyword] for keyword in _SAME if keyword in branch and keyword != "type"}
        _nothing_lost(branch, {*form, "type"})
    if "anyOf" not in schema:
        form |= {"maxLength": quantity.MAX_LENGTH, "x-kubernetes-validations": [cel.whole_number(schema)]}
    return form


def _nothing_lost(schema: Schema, kept: set[str]) -> None:
    if lost := schema.keys() - kept - _ELSEWHERE:
        raise ValueError(f"schema keywords that a CRD cannot hold: {sorted(lost)}")
