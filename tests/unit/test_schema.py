"""The schemas: their examples, their words, and that our check gives the verdict of a standard validator."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smi_adapter.smi import schema, wire
from tests import strategies

SCHEMAS = Path(__file__).parents[2] / "schemas"
KEYS = strategies.KINDS
calm = settings(deadline=None, suppress_health_check=list(HealthCheck))


def examples(verdict: str) -> list[Any]:
    return [
        pytest.param(path, id="-".join((path.parts[-4], path.stem)))
        for path in sorted(SCHEMAS.glob(f"*/*/examples/{verdict}/*.yaml"))
    ]


@pytest.mark.parametrize("path", examples("valid"))
def test_a_valid_example_is_accepted_without_a_word(path: Path) -> None:
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert schema.problems(raw) == ()
    assert standard_accepts(key_of(raw), raw)
    obj, findings = wire.decode(raw)
    assert obj is not None
    assert findings == ()


@pytest.mark.parametrize("path", examples("invalid"))
def test_an_invalid_example_is_refused_with_its_field_and_words(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    wanted = dict(re.findall(r"^# (field|says): (.*)$", text, re.MULTILINE))
    raw = yaml.safe_load(text)
    ((field, message),) = schema.problems(raw)
    assert field == wanted["field"].strip('"')
    assert wanted["says"] in message
    assert not standard_accepts(key_of(raw), raw)


def test_every_schema_has_examples_of_both_kinds() -> None:
    for group, version, kind in KEYS:
        for verdict in ("valid", "invalid"):
            assert list(SCHEMAS.glob(f"{group}/{version}/examples/{verdict}/{kind.lower()}-*.yaml"))


def test_every_example_stands_beside_the_schema_that_it_is_for() -> None:
    for path in SCHEMAS.glob("*/*/examples/*/*.yaml"):
        group, version, kind = key_of(yaml.safe_load(path.read_text(encoding="utf-8")))
        assert path.parts[-5:-3] == (group, version)
        assert path.name.startswith(f"{kind.lower()}-")


# ------------------------------------------------------------------------------------------- the standard's view
def key_of(raw: Any) -> tuple[str, str, str]:
    group, _, version = raw["apiVersion"].partition("/")
    return group, version, raw["kind"]


def anchored(_: Any, pattern: str, value: Any, __: Any) -> Any:
    """Read `$` as the end of the text, as Kubernetes does and Python does not."""
    if isinstance(value, str) and not re.search(pattern[:-1] + r"\Z", value):
        yield jsonschema.ValidationError("pattern")


FORMATS = jsonschema.FormatChecker(formats=())
for name, trouble in schema._FORMATS.items():
    FORMATS.checks(name)(lambda value, trouble=trouble: not (isinstance(value, str) and trouble(value)))
Standard = jsonschema.validators.extend(  # type: ignore[no-untyped-call]
    jsonschema.Draft202012Validator, {"pattern": anchored}
)
STANDARDS = {key: Standard(schema.document(key), format_checker=FORMATS) for key in KEYS}


def standard_accepts(key: tuple[str, str, str], raw: Any) -> bool:
    return bool(STANDARDS[key].is_valid(raw))


@pytest.mark.parametrize("key", KEYS, ids=map("-".join, KEYS))
def test_each_schema_is_a_json_schema(key: tuple[str, str, str]) -> None:
    jsonschema.Draft202012Validator.check_schema(schema.document(key))


@calm
@given(strategies.objects, st.data())
def test_our_verdict_is_that_of_a_standard_validator(obj: Any, data: st.DataObject) -> None:
    version = data.draw(st.sampled_from(schema.served()[obj.ref.group, obj.ref.kind]))
    raw = wire.encode(obj, version)[0]
    for _ in range(data.draw(st.integers(0, 2))):
        raw = data.draw(strategies.damaged(raw))
    if not has_only_string_keys(raw):
        return  # not JSON
    key = (obj.ref.group, version, obj.ref.kind)
    assert (schema.check(key, raw) == ()) == standard_accepts(key, raw)


def has_only_string_keys(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and has_only_string_keys(one) for key, one in value.items())
    return not isinstance(value, list) or all(map(has_only_string_keys, value))


# ------------------------------------------------------------------------------------------------ the files
@pytest.mark.parametrize("key", KEYS, ids=map("-".join, KEYS))
def test_every_field_is_described_and_every_list_and_text_is_bounded(key: tuple[str, str, str]) -> None:
    for path, node in walk(schema.document(key)):
        here = "/".join(path)
        if len(path) >= 2 and path[-2] == "properties" and not {"oneOf", "anyOf"} & set(path):
            assert node.get("description"), here
        if node.get("type") == "array":
            assert "maxItems" in node, here
        if node.get("type") == "string" and not {"metadata"} & set(path):
            assert {"maxLength", "enum", "const", "pattern"} & node.keys(), here
        if node.get("type") == "integer":
            assert {"minimum", "maximum"} <= node.keys(), here
        if node.get("type") == "object" and path[-1:] != ("metadata",):
            assert {"additionalProperties", "x-kubernetes-preserve-unknown-fields"} & node.keys(), here


def walk(node: Any, path: tuple[str, ...] = ()) -> Any:
    if isinstance(node, dict):
        yield path, node
        for key, value in node.items():
            yield from walk(value, (*path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from walk(value, (*path, str(index)))


# What may differ between the schemas of one kind; anything else would be pruned under conversion strategy None.
DIFFERENCES = {
    "TrafficSplit": {"/properties/apiVersion", "/properties/spec/properties/backends/items/properties/weight"},
    "HTTPRouteGroup": {"/properties/apiVersion", "/oneOf"},
    "TCPRoute": {"/properties/apiVersion"},
    "TrafficTarget": {"/properties/apiVersion", "/oneOf"},
}


def test_every_version_of_a_kind_lists_the_fields_of_all() -> None:
    for (group, kind), versions in schema.served().items():
        flat = [leaves(schema.document((group, version, kind))) for version in versions]
        for other in flat[1:]:
            differing = {path for path in flat[0].keys() | other.keys() if flat[0].get(path) != other.get(path)}
            allowed = tuple(DIFFERENCES.get(kind, ()))
            assert {path for path in differing if not path.startswith(allowed)} == set()


def leaves(node: Any, path: str = "") -> dict[str, Any]:
    if isinstance(node, dict) and node:
        return {leaf: one for key, value in node.items() for leaf, one in leaves(value, f"{path}/{key}").items()}
    return {path: json.dumps(node)}


def test_all_served_versions_are_there_oldest_first() -> None:
    four = ("v1alpha1", "v1alpha2", "v1alpha3", "v1alpha4")
    assert dict(schema.served()) == {
        ("split.smi-spec.io", "TrafficSplit"): four,
        ("specs.smi-spec.io", "HTTPRouteGroup"): four,
        ("specs.smi-spec.io", "TCPRoute"): four,
        ("specs.smi-spec.io", "UDPRoute"): ("v1alpha4",),
        ("access.smi-spec.io", "TrafficTarget"): four,
        ("access.smi-spec.io", "IdentityBinding"): ("v1alpha4",),
    }


def test_a_keyword_that_the_check_does_not_know_is_an_error() -> None:
    with pytest.raises(ValueError, match="multipleOf"):
        schema._compile({"type": "integer", "multipleOf": 2})


@pytest.mark.parametrize(
    ("raw", "field", "words"),
    [
        ([], "", "must be an object, not an empty list"),
        (None, "", "must be an object, not null"),
        ({}, "apiVersion", "an object needs an apiVersion and a kind"),
        ({"apiVersion": 1, "kind": "TrafficSplit"}, "apiVersion", "an object needs an apiVersion and a kind"),
        ({"apiVersion": "split.smi-spec.io/v1", "kind": "TrafficSplit"}, "apiVersion", '"split.smi-spec.io/v1"'),
        ({"apiVersion": "split.smi-spec.io/v1alpha1", "kind": []}, "apiVersion", "needs an apiVersion"),
    ],
)
def test_what_is_no_smi_object_is_told_in_words(raw: Any, field: str, words: str) -> None:
    ((where, message),) = schema.problems(raw)
    assert where == field
    assert words in message


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"), (True, "true"), (1.5, "1.5"), ({"a": 1}, "an object"), ({}, "an empty object"),
        ("a\nb\x1b[31m", '"a\\nb\\u001b[31m"'), ("x" * 90, f'"{"x" * 60}..."'), (10**25, "a huge number"),
        ("\ud800", '"\\ud800"'), ({1}, "a set"), (b"x", "a bytes"),
    ],
)  # fmt: skip
def test_a_value_is_shown_short_and_safe(value: Any, text: str) -> None:
    assert schema.shown(value) == text


def test_importing_the_schemas_loads_nothing_heavy() -> None:
    code = (
        "import sys; from smi_adapter.smi import schema, wire;"
        "print(sorted({'jsonschema', 'yaml', 'asyncio', 'grpc'} & set(sys.modules)));"
        "print(schema.document.cache_info().currsize)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=SCHEMAS.parent)
    assert done.stdout.split() == ["[]", "0"]


def test_in_a_wheel_the_schemas_are_found_inside_the_package(tmp_path: Path) -> None:
    package = SCHEMAS.parent / "smi_adapter"
    copied = tmp_path / "smi_adapter"
    shutil.copytree(package / "smi", copied / "smi")
    for module in ("__init__.py", "findings.py", "regex.py"):
        shutil.copy(package / module, copied)
    shutil.copytree(SCHEMAS, copied / "_schemas")
    code = "from smi_adapter.smi import schema; print(schema.__file__, sum(map(len, schema.served().values())))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split() == [str(copied / "smi" / "schema.py"), str(len(KEYS))]
