"""The schemas of every served version, and the words for what is wrong with an object.

`schemas/<group>/<version>/<kind>.json` is the wire truth: this module checks objects against it and CRDs are generated
from it. Every decode runs the check, so it is on the hot path of a change and in the start-up of the command line: a
schema is compiled once into closures, which takes microseconds an object where a general library takes a hundred and
costs 0.16 s to import. Only the keywords that our schemas use are known (another one fails to compile), and the tests
hold the verdicts equal to those of the `jsonschema` package.

Beyond standard JSON Schema: `title` is the words for what a value must be, `x-smi-code` the finding that a problem
with that very value becomes (SMI0505 unless given), and `format` names the checks of `_FORMATS`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from smi_adapter import regex
from smi_adapter.smi import quantity

Steps: TypeAlias = tuple[str | int, ...]
Schema: TypeAlias = Mapping[str, Any]
Check: TypeAlias = Callable[[Any, Steps, "list[Problem]"], None]
Trouble: TypeAlias = Callable[[Any], str]


MANY = 20
"""So many problems of one object are told one by one."""


class Problem(NamedTuple):
    """One thing wrong: where, in words, the code of the finding, and the schema keyword that refused it."""

    path: Steps
    message: str
    code: str
    keyword: str

    @property
    def field(self) -> str:
        """Return the path as people write it, such as `spec.backends[1].weight`."""
        return field_path(self.path)


def problems(raw: Any) -> tuple[tuple[str, str], ...]:
    """Return each (field, what is wrong with it) of an SMI object, read strictly under its own apiVersion."""
    if not _is_object(raw):
        return (("", f"must be an object, not {shown(raw)}"),)
    try:
        group, _, version = raw["apiVersion"].partition("/")
        key = (group, version, raw["kind"])
        known = key in _files()
    except (KeyError, AttributeError, TypeError):
        return (("apiVersion", "an object needs an apiVersion and a kind"),)
    if not known:
        return (("apiVersion", f"{shown(raw['kind'])} of {shown(raw['apiVersion'])} is not known"),)
    return tuple((problem.field, problem.message) for problem in check(key, raw))


def check(key: tuple[str, str, str], raw: Mapping[str, Any]) -> tuple[Problem, ...]:
    """Return what is wrong with an object of that (group, version, kind)."""
    found: list[Problem] = []
    _checker(key)(raw, (), found)
    return tuple(found)


@cache
def served() -> Mapping[tuple[str, str], tuple[str, ...]]:
    """Return the versions of each (group, kind), oldest first."""
    versions: dict[tuple[str, str], tuple[str, ...]] = {}
    for group, version, kind in sorted(_files()):
        versions[group, kind] = (*versions.get((group, kind), ()), version)
    return MappingProxyType(versions)


@cache
def document(key: tuple[str, str, str]) -> Schema:
    """Return the schema of a (group, version, kind); KeyError if there is none."""
    loaded: Schema = json.loads(_files()[key].read_text(encoding="utf-8"))
    return loaded


@cache
def _checker(key: tuple[str, str, str]) -> Check:
    return _compile(document(key))


_KINDS = ("HTTPRouteGroup", "IdentityBinding", "TCPRoute", "TrafficSplit", "TrafficTarget", "UDPRoute")


@cache
def _files() -> Mapping[tuple[str, str, str], Path]:
    """Find the schema files: below the package in a wheel, at the top of the repository in a checkout."""
    package = Path(__file__).parent.parent
    packed = package / "_schemas"
    directory = packed if packed.is_dir() else package.parent / "schemas"
    kinds = {kind.lower(): kind for kind in _KINDS}
    return MappingProxyType(
        {
            (path.parent.parent.name, path.parent.name, kinds[path.stem]): path
            for path in sorted(directory.glob("*/*/*.json"))
        }
    )


# ------------------------------------------------------------------------------------------------------- words
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_LONGEST = 60


def field_path(path: Steps) -> str:
    """Return the path as people write it; a key that is no plain name stands in brackets."""
    text = ""
    for step in path:
        if isinstance(step, str) and _PLAIN.fullmatch(step):
            text += f".{step}" if text else step
        else:
            text += f"[{step if isinstance(step, int) else _escaped(step)}]"
    return text


def shown(value: Any) -> str:
    """Return a value as one short line that is safe in a log: what it is, if it is no scalar or has no short form."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return f'"{_escaped(value)}"'
    if isinstance(value, int):
        return str(value) if abs(value) < 10**20 else "a huge number"
    if isinstance(value, float):
        return repr(value)
    if _is_object(value):
        return "an object" if value else "an empty object"
    if _is_array(value):
        return "a list" if value else "an empty list"
    return f"a {type(value).__name__}"


def _escaped(text: str) -> str:
    whole = json.dumps(text[:_LONGEST])[1:-1]
    return whole if len(text) <= _LONGEST else f"{whole}..."


# ------------------------------------------------------------------------------------------------------- types
def _is_object(value: Any) -> bool:
    return isinstance(value, dict | Mapping)


def _is_array(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _is_string(value: Any) -> bool:
    return isinstance(value, str)


def _is_integer(value: Any) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer())


def _is_null(value: Any) -> bool:
    return value is None


_TYPES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "object": (_is_object, "an object"),
    "array": (_is_array, "a list"),
    "string": (_is_string, "a string"),
    "integer": (_is_integer, "a whole number"),
    "null": (_is_null, "null"),
}


# --------------------------------------------------------------------------- keywords that judge one value alone
def _type(schema: Schema) -> Trouble:
    names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    tests = [_TYPES[name][0] for name in names]
    wanted = schema.get("title") or " or ".join(_TYPES[name][1] for name in names)
    if len(tests) == 1:
        test = tests[0]
        return lambda value: "" if test(value) else f"must be {wanted}, not {shown(value)}"
    return lambda value: "" if any(test(value) for test in tests) else f"must be {wanted}, not {shown(value)}"


def _const(schema: Schema) -> Trouble:
    const = schema["const"]
    return lambda value: "" if value == const else f"must be {const}, not {shown(value)}"


def _enum(schema: Schema) -> Trouble:
    allowed = schema["enum"]
    words = schema.get("title") or " or ".join(shown(one) for one in allowed)
    return lambda value: "" if value in allowed else f"must be {words}, not {shown(value)}"


def _pattern(schema: Schema) -> Trouble:
    pattern: str = schema["pattern"]
    if not (pattern.startswith("^") and pattern.endswith("$")):
        raise ValueError(f"a pattern must be anchored at both ends: {pattern}")
    # fullmatch: a `$` of Python also matches before a last line feed, that of Kubernetes does not.
    covers = re.compile(pattern[1:-1]).fullmatch
    return lambda value: (
        "" if not isinstance(value, str) or covers(value) else f"must be {schema['title']}, not {shown(value)}"
    )


def _length(schema: Schema) -> Trouble:
    least, most = schema.get("minLength", 0), schema.get("maxLength", 2**31)

    def trouble(value: Any) -> str:
        if not isinstance(value, str) or least <= len(value) <= most:
            return ""
        if len(value) > most:
            return f"is {len(value)} characters long, at most {most} are allowed"
        return f"must be {schema['title']}, not {shown(value)}"

    return trouble


def _bounds(schema: Schema) -> Trouble:
    least, most = schema["minimum"], schema["maximum"]

    def trouble(value: Any) -> str:
        if not _is_integer(value) or least <= value <= most:
            return ""
        more = f" and at most {most}" if value > most and str(most) not in schema["title"] else ""
        return f"must be {schema['title']}{more}, not {shown(value)}"

    return trouble


def _at_least(schema: Schema, keyword: str, is_kind: Callable[[Any], bool]) -> Trouble:
    least = schema[keyword]
    words = schema["title"] if "title" in schema else f"something with at least {least} {_entries(least)}"
    return lambda value: f"must be {words}, not {shown(value)}" if is_kind(value) and len(value) < least else ""


def _at_most(schema: Schema, keyword: str, is_kind: Callable[[Any], bool]) -> Trouble:
    most = schema[keyword]
    words = f"at most {most} {_entries(most)}"
    return lambda value: (
        f"holds {len(value)} entries; {words} can be held here" if is_kind(value) and len(value) > most else ""
    )


def _entries(number: int) -> str:
    return "entry" if number == 1 else "entries"


_RESERVED = frozenset({"host"})


def _header_trouble(name: str) -> str:
    """Refuse what cannot be filtered (R7): pseudo-headers and the host, which proxies turn into one."""
    return "it is reserved" if name.startswith(":") or name.lower() in _RESERVED else ""


_FORMATS: Mapping[str, Callable[[str], str]] = {
    "re2": regex.verdict,
    "header-name": _header_trouble,
    "quantity": quantity.trouble,
}


def _format(schema: Schema) -> Trouble:
    judge = _FORMATS[schema["format"]]

    def trouble(value: Any) -> str:
        why = judge(value) if isinstance(value, str) else ""
        return f"must be {schema['title']}, not {shown(value)}: {why}" if why else ""

    return trouble


# Keywords that judge alone, in the order in which they are asked; the first one that refuses a value ends its check.
_ALONE: Mapping[str, Callable[[Schema], Trouble]] = {
    "type": _type,
    "const": _const,
    "enum": _enum,
    "minLength": _length,
    "maxLength": _length,
    "pattern": _pattern,
    "format": _format,
    "minimum": _bounds,
    "maximum": _bounds,
    "minItems": lambda schema: _at_least(schema, "minItems", _is_array),
    "maxItems": lambda schema: _at_most(schema, "maxItems", _is_array),
    "minProperties": lambda schema: _at_least(schema, "minProperties", _is_object),
    "maxProperties": lambda schema: _at_most(schema, "maxProperties", _is_object),
}


# ------------------------------------------------------------------------------- keywords that look into a value
def _required(schema: Schema) -> Check:
    properties = schema.get("properties", {})
    codes = [(name, properties.get(name, {}).get("x-smi-code", "SMI0505")) for name in schema["required"]]

    def check_required(value: Any, path: Steps, found: list[Problem]) -> None:
        if _is_object(value):
            found.extend(
                Problem((*path, name), "is missing", code, "required") for name, code in codes if name not in value
            )

    return check_required


def _object(schema: Schema) -> Check:
    """Check the fields of an object: named ones, then all others by `additionalProperties`."""
    fields = {name: _compile(one) for name, one in schema.get("properties", {}).items()}
    rest = schema.get("additionalProperties")
    check_rest = _compile(rest) if rest else None
    check_name = _compile(schema["propertyNames"]) if "propertyNames" in schema else None

    def check_fields(value: Any, path: Steps, found: list[Problem]) -> None:
        if not _is_object(value):
            return
        for name, one in value.items():
            here = (*path, name if isinstance(name, str) else shown(name))
            if not isinstance(name, str):
                found.append(Problem(here, "the name of a field must be a string", "SMI0505", "type"))
                continue
            if check_name:
                check_name(name, here, found)
            if name in fields:
                fields[name](one, here, found)
            elif check_rest:
                check_rest(one, here, found)
            elif rest is False:
                near = get_close_matches(name, fields, 1) if len(name) < 64 and len(found) < MANY else None
                hint = f"; did you mean {near[0]}?" if near else ""
                found.append(Problem(here, f"is not a field of this object{hint}", "SMI0505", "additionalProperties"))

    return check_fields


def _items(schema: Schema) -> Check:
    check_item = _compile(schema["items"])

    def check_items(value: Any, path: Steps, found: list[Problem]) -> None:
        if _is_array(value):
            for index, one in enumerate(value):
                check_item(one, (*path, index), found)

    return check_items


def _any_of(schema: Schema) -> Check:
    """Try the branch of the value's own type, so that the words are about what was meant."""
    code, title = schema.get("x-smi-code", "SMI0505"), schema.get("title", "of another form")
    branches = [(_TYPES[one["type"]][0] if "type" in one else None, _compile(one)) for one in schema["anyOf"]]

    def check_any(value: Any, path: Steps, found: list[Problem]) -> None:
        for test, branch in branches:
            if test and test(value):
                branch(value, path, found)
                return
        if any(test is None and _passes(branch, value) for test, branch in branches):
            return
        found.append(Problem(path, f"must be {title}, not {shown(value)}", code, "anyOf"))

    return check_any


def _one_of(schema: Schema) -> Check:
    """Check that exactly one form was used; if none is whole, name what is missing from the one that was begun."""
    branches = [(tuple(one.get("required", ())), _compile(one)) for one in schema["oneOf"]]
    names = {name for required, _ in branches for name in required}
    missing = {required: _required({**schema, "required": required}) for required, _ in branches}

    def check_one(value: Any, path: Steps, found: list[Problem]) -> None:
        if sum(_passes(branch, value) for _, branch in branches) == 1 or not _is_object(value):
            return
        if "title" in schema:
            if not any(problem.path[: len(path)] == path for problem in found):  # else that says it better
                found.append(Problem(path, f"must be {schema['title']}", "SMI0505", "oneOf"))
            return
        begun = max((required for required, _ in branches), key=lambda one: sum(name in value for name in one))
        before = len(found)
        missing[begun](value, path, found)
        if len(found) == before:
            both = " and ".join(sorted(name for name in names if name in value))
            found.append(Problem(path, f"holds {both}: write it in one form only", "SMI0505", "oneOf"))

    return check_one


def _all_of(schema: Schema) -> Check:
    branches = [_compile(one) for one in schema["allOf"]]

    def check_all(value: Any, path: Steps, found: list[Problem]) -> None:
        for branch in branches:
            branch(value, path, found)

    return check_all


def _not(schema: Schema) -> Check:
    unwanted, code = _compile(schema["not"]), schema.get("x-smi-code", "SMI0505")

    def check_not(value: Any, path: Steps, found: list[Problem]) -> None:
        if _passes(unwanted, value):
            found.append(Problem(path, f"must hold {schema.get('title', 'something else')}", code, "not"))

    return check_not


def _passes(branch: Check, value: Any) -> bool:
    found: list[Problem] = []
    branch(value, (), found)
    return not found


_INSIDE: Mapping[str, Callable[[Schema], Check]] = {
    "required": _required,
    "properties": _object,
    "additionalProperties": _object,
    "propertyNames": _object,
    "items": _items,
    "anyOf": _any_of,
    "oneOf": _one_of,
    "allOf": _all_of,
    "not": _not,
}
_WORDS = frozenset({"$schema", "title", "description"})


def _compile(schema: Schema) -> Check:
    """Turn a schema into one function; a keyword that is not known here is an error, never ignored."""
    unknown = schema.keys() - _ALONE.keys() - _INSIDE.keys() - _WORDS
    if any(not word.startswith("x-") for word in unknown):
        raise ValueError(f"schema keywords that are not known here: {sorted(unknown)}")
    code = schema.get("x-smi-code", "SMI0505")
    too_large = [word for word in ("maxItems", "maxProperties") if schema.get(word, 0) > 1]
    alone = _distinct(_ALONE, schema)
    inside = [check for _, check in _distinct(_INSIDE, schema)]

    def check_value(value: Any, path: Steps, found: list[Problem]) -> None:
        for keyword, trouble in alone:
            if message := trouble(value):
                found.append(Problem(path, message, "SMI0206" if keyword in too_large else code, keyword))
                return
        for check_inside in inside:
            check_inside(value, path, found)

    return check_value


def _distinct(table: Mapping[str, Callable[[Schema], Any]], schema: Schema) -> Sequence[tuple[str, Any]]:
    """Make each check once, although several keywords may lead to it; the last such keyword names it."""
    made = {table[word]: word for word in table if word in schema}
    return [(word, make(schema)) for make, word in made.items()]
