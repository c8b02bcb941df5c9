"""What JSON Schema says about several fields at once, as rules in CEL.

The API server accepts only a part of JSON Schema (a "structural" schema): alternatives that name fields, names of map
entries and formats of ours are not in it. Each becomes a rule of `x-kubernetes-validations` here, so that the schemas
stay the one place of the fact and a user reads our code and our words instead of "must validate one and only one
schema". The API server charges for each rule by the longest input that the bounds of the schema allow; a rule that
could cost too much is refused together with its CRD, which the tests on a real API server show.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

Schema: TypeAlias = Mapping[str, Any]
Rule: TypeAlias = dict[str, str]

_CODE = "SMI0505"


def rules(schema: Schema) -> list[Rule]:
    """Return the rules of one value for what `structural` has to leave out."""
    return list(_rules(schema))


def whole_number(schema: Schema) -> Rule:
    """Return the rule for a value of two possible types that has to be an integer."""
    return _rule("type(self) == int", schema["x-smi-code"], f"must be {schema['title']}")


def _rules(schema: Schema) -> Iterator[Rule]:
    if "oneOf" in schema:
        branches = [condition(branch) for branch in schema["oneOf"]]
        words = f"must be {schema['title']}" if "title" in schema else _one_form(schema["oneOf"])
        # Two alternatives exclude each other exactly when they differ.
        yield _rule(" != ".join(f"({branch})" for branch in _two(branches)), _CODE, words)
    for branch in schema.get("allOf", ()):
        yield _rule(condition(branch), branch.get("x-smi-code", _CODE), f"must hold {branch['title']}")
    if "propertyNames" in schema:
        names = schema["propertyNames"]
        yield _rule(
            f"self.all(key, {condition(names, 'key')})",
            names.get("x-smi-code", _CODE),
            f"each key must be {names['title']}",
        )
    if "enum" in schema and None in schema["enum"]:
        some = {"enum": [one for one in schema["enum"] if one is not None]}  # rules are not asked about a null
        yield _rule(condition(some), schema.get("x-smi-code", _CODE), f"must be {schema['title']}")
    if schema.get("format") == "re2":
        # Nothing is compared: an expression that cannot be compiled makes the rule itself fail, and `in` looks at the
        # outcome because an `||` would swallow the error.
        yield _rule("''.matches(self) in [true, false]", schema["x-smi-code"], f"must be {schema['title']}")


def _rule(expression: str, code: str, words: str) -> Rule:
    return {"rule": expression, "message": f"{code}: {words}"}


def _two(branches: Sequence[str]) -> Sequence[str]:
    if len(branches) != 2:
        raise ValueError(f"oneOf is known for two alternatives, not for {len(branches)}")
    return branches


def _one_form(branches: Sequence[Schema]) -> str:
    """Name the forms by the fields that each needs."""
    forms = []
    for branch in branches:
        first, *others = branch["required"]
        forms.append(f"{first} with {' and '.join(others)}" if others else first)
    return f"write either {' or '.join(forms)}, in one form only"


def condition(schema: Schema, value: str = "self") -> str:
    """Return the CEL expression that is true for a value that the schema accepts; the types are known already."""
    parts = list(_conditions(schema, value))
    return " && ".join(parts) if parts else "true"


def _conditions(schema: Schema, value: str) -> Iterator[str]:
    unknown = schema.keys() - _KNOWN - _WORDS
    if unknown:
        raise ValueError(f"schema keywords that have no CEL form: {sorted(unknown)}")
    required = schema.get("required", ())
    yield from (f"has({value}.{name})" for name in required)
    for name, one in schema.get("properties", {}).items():
        inner = condition(one, f"{value}.{name}")
        yield inner if name in required else f"(!has({value}.{name}) || {inner})"
    if "enum" in schema:
        yield f"{value} in [{', '.join(_text(one) for one in schema['enum'])}]"
    if schema.get("minItems", schema.get("minLength", 0)):
        yield f"size({value}) >= {schema.get('minItems', schema.get('minLength'))}"
    for keyword in ("maxItems", "maxLength"):
        if keyword in schema:
            yield f"size({value}) <= {schema[keyword]}"
    if "pattern" in schema:
        yield f"{value}.matches({_text(schema['pattern'])})"
    if "not" in schema:
        yield f"!({condition(schema['not'], value)})"
    if "anyOf" in schema:
        yield f"({' || '.join(condition(branch, value) for branch in schema['anyOf'])})"


_KNOWN = frozenset(
    {"required", "properties", "enum", "minItems", "maxItems", "minLength", "maxLength", "pattern", "not", "anyOf"}
)
_WORDS = frozenset({"title", "description", "type", "x-smi-code"})


def _text(value: str) -> str:
    """Return a string literal of CEL; its escapes are those of JSON, in either kind of quotes."""
    if "'" in value:
        return json.dumps(value)
    inner = json.dumps(value)[1:-1].replace('\\"', '"')
    return f"'{inner}'"
