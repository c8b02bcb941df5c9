"""The CRDs in the chart are those of the schemas, and say what Kubernetes' own rules for CRDs demand."""

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from smi_adapter import crds
from smi_adapter.crds import cel
from smi_adapter.crds.structural import structural_form
from smi_adapter.findings import CODES
from smi_adapter.smi import schema

ROOT = Path(__file__).parent.parent.parent.parent

CRDS = {crds.name_of(crd): crd for crd in crds.definitions()}
VERSIONS = [(name, version) for name, crd in CRDS.items() for version in crd["spec"]["versions"]]
IDS = [f"{name}/{version['name']}" for name, version in VERSIONS]


@pytest.fixture(scope="module")
def make_crds() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_crds", ROOT / "tools" / "make_crds.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _nodes(node: Any, path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Walk every schema of a version with the path of the value that it is about."""
    yield path, node
    for name, one in node.get("properties", {}).items():
        yield from _nodes(one, f"{path}.{name}")
    if "items" in node:
        yield from _nodes(node["items"], f"{path}[]")
    if "additionalProperties" in node:
        yield from _nodes(node["additionalProperties"], f"{path}{{}}")


def _root(version: Mapping[str, Any]) -> Mapping[str, Any]:
    root: Mapping[str, Any] = version["schema"]["openAPIV3Schema"]
    return root


def test_the_files_of_the_chart_are_up_to_date(make_crds: ModuleType) -> None:
    wanted = make_crds.pages()
    old = [path.name for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    stray = [path.name for path in make_crds.FOLDER.glob("*.yaml") if path not in wanted]
    assert not old + stray, "run: python tools/make_crds.py"


def test_there_is_a_crd_for_every_kind_with_all_its_versions() -> None:
    found = {
        (crd["spec"]["group"], crd["spec"]["names"]["kind"]): tuple(v["name"] for v in crd["spec"]["versions"])
        for crd in CRDS.values()
    }
    assert found == dict(schema.served())


def test_every_version_is_served_and_exactly_one_is_stored() -> None:
    for crd in CRDS.values():
        versions = crd["spec"]["versions"]
        assert all(version["served"] for version in versions)
        assert [version["name"] for version in versions if version["storage"]] == [crds.STORED]


def test_the_files_of_the_chart_hold_what_the_code_makes() -> None:
    folder = ROOT / "charts" / "smi-adapter" / "files" / "crds"
    assert {path.stem: yaml.safe_load(path.read_text()) for path in folder.glob("*.yaml")} == CRDS


@pytest.mark.parametrize("kind", sorted(crd["spec"]["names"]["kind"] for crd in CRDS.values()))
def test_every_version_of_a_kind_has_every_field_of_all(kind: str) -> None:
    """A field that one version lacks would be pruned on a write through it (kubernetes.md 4).

    One that has another type there would stop server-side apply for good (ADR 19).
    """
    (crd,) = (crd for crd in CRDS.values() if crd["spec"]["names"]["kind"] == kind)
    forms = [
        {path: (node.get("type"), node.get("x-kubernetes-int-or-string")) for path, node in _nodes(_root(version))}
        for version in crd["spec"]["versions"]
    ]
    assert all(one == forms[0] for one in forms)


@pytest.mark.parametrize(("name", "version"), VERSIONS, ids=IDS)
def test_every_value_has_one_type(name: str, version: Mapping[str, Any]) -> None:
    for path, node in _nodes(_root(version)):
        forms = [
            "type" in node,
            node.get("x-kubernetes-int-or-string", False),
            node.get("x-kubernetes-preserve-unknown-fields", False) and "type" not in node,
        ]
        assert sum(forms) == 1, path


@pytest.mark.parametrize(("name", "version"), VERSIONS, ids=IDS)
def test_everything_that_a_rule_is_charged_for_has_a_bound(name: str, version: Mapping[str, Any]) -> None:
    for path, node in _nodes(_root(version)):
        if path.startswith((".metadata", ".apiVersion", ".kind")):
            continue
        if node.get("type") == "array":
            assert node["maxItems"] <= 256, path
        if "additionalProperties" in node:
            assert node["maxProperties"] <= 256, path
        if any("matches" in rule["rule"] for rule in node.get("x-kubernetes-validations", ())) and "maxLength" in node:
            assert node["maxLength"] <= 1024, path


@pytest.mark.parametrize(("name", "version"), VERSIONS, ids=IDS)
def test_every_rule_begins_with_a_code_and_says_what_is_wanted(name: str, version: Mapping[str, Any]) -> None:
    rules = [rule for _, node in _nodes(_root(version)) for rule in node.get("x-kubernetes-validations", ())]
    for rule in rules:
        code, colon, words = rule["message"].partition(": ")
        assert code in CODES
        assert colon
        assert words


@pytest.mark.parametrize(("name", "version"), VERSIONS, ids=IDS)
def test_every_field_is_explained(name: str, version: Mapping[str, Any]) -> None:
    """`kubectl explain` shows the descriptions."""
    silent = [path for path, node in _nodes(_root(version)) if not node.get("description") and path != ".metadata"]
    assert not silent


def test_status_is_a_subresource_with_one_entry_for_each_type_of_condition() -> None:
    for _, version in VERSIONS:
        assert version["subresources"] == {"status": {}}
        conditions = _root(version)["properties"]["status"]["properties"]["conditions"]
        assert conditions["x-kubernetes-list-type"] == "map"
        assert conditions["x-kubernetes-list-map-keys"] == ["type"]


@pytest.mark.parametrize(
    ("kind", "short", "columns"),
    [
        ("TrafficSplit", ["ts"], ["Service", "Backends", "Accepted", "Programmed", "Age"]),
        ("TrafficTarget", ["tt"], ["Destination", "Sources", "Accepted", "Programmed", "Age"]),
        ("HTTPRouteGroup", ["htr"], ["Accepted", "Programmed", "Age"]),
    ],
)
def test_people_find_the_kinds_by_short_names(kind: str, short: list[str], columns: list[str]) -> None:
    (crd,) = (crd for crd in CRDS.values() if crd["spec"]["names"]["kind"] == kind)
    assert crd["spec"]["names"]["shortNames"] == short
    assert crd["spec"]["names"]["categories"] == ["smi"]
    for version in crd["spec"]["versions"]:
        assert [column["name"] for column in version["additionalPrinterColumns"]] == columns


def test_a_keyword_that_has_no_place_in_a_crd_is_an_error() -> None:
    with pytest.raises(ValueError, match="uniqueItems"):
        structural_form({"type": "array", "items": {"type": "string"}, "uniqueItems": True})
    with pytest.raises(ValueError, match="multipleOf"):
        cel.condition({"multipleOf": 2})


@pytest.mark.parametrize(
    ("document", "expression"),
    [
        ({"required": ["a", "b"]}, "has(self.a) && has(self.b)"),
        ({"not": {"required": ["a"]}}, "!(has(self.a))"),
        ({"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, "(has(self.a) || has(self.b))"),
        ({"properties": {"a": {"enum": ["x", "y"]}}}, "(!has(self.a) || self.a in ['x', 'y'])"),
        ({"required": ["a"], "properties": {"a": {"minItems": 1}}}, "has(self.a) && size(self.a) >= 1"),
        ({"pattern": "^[a'\"\\\\]$"}, 'self.matches("^[a\'\\"\\\\\\\\]$")'),
        ({"pattern": '^["]$'}, "self.matches('^[\"]$')"),
        ({}, "true"),
    ],
)
def test_conditions_on_fields_become_expressions(document: Mapping[str, Any], expression: str) -> None:
    assert cel.condition(document) == expression
