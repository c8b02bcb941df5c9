"""One directory for each rule, named after what it shows.

`in.yaml` is what `kubectl apply` takes, `options.yaml` the mesh's options if they are not the default ones. The other
files are what the code made of it: `mesh.yaml`, `findings.yaml`, and one file for each built-in backend. `pytest
tests/golden --update-golden` writes them all and removes those that are no longer made; then read the diff.
`requests.yaml` is written by hand: what happens to requests, in SMI's words.

A backend's file leaves out what looks the same in every case but for names (Envoy's Listeners, Clusters and access logs
have tests of their own): what remains is what the case is about.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from smi_adapter import app
from smi_adapter.backends import Manifests, XdsConfig, load
from smi_adapter.delivery.xds.dump import readable
from smi_adapter.dump import plain
from smi_adapter.evaluate import Request, as_data, evaluate
from smi_adapter.findings import Finding, by_severity_then_object
from smi_adapter.snapshot import Mode, Options, Profile
from smi_adapter.sources.controllers import Memory, reconcile
from smi_adapter.sources.files import read_tree

HERE = Path(__file__).parent
CASES = sorted(path.parent for path in HERE.glob("*/in.yaml"))
BACKENDS = ("envoy", "gateway_api")
BY_HAND = frozenset({"in.yaml", "options.yaml", "requests.yaml"})
ALIKE = frozenset({"Cluster", "ClusterLoadAssignment", "Listener"})
"""Types of Envoy resources that say nothing about a case which mesh.yaml does not say better; the parts below `dial`
hold nothing else but what a caller out of scope gets, which `seen_by` tells."""

NEARLY = Fraction(1, 2**30)
"""How far a share may be off where weights were scaled to 32 bits (S2)."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One entry of a requests.yaml."""

    case: Path
    request: Mapping[str, Any]
    expected: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.case.name}: {self.request}"


def asked() -> Iterator[Asked]:
    for case in CASES:
        path = case / "requests.yaml"
        for entry in yaml.safe_load(path.read_text()) if path.exists() else ():
            yield Asked(case, entry["request"], entry["expect"])


def options_of(case: Path) -> Options:
    path = case / "options.yaml"
    found: dict[str, Any] = yaml.safe_load(path.read_text()) if path.exists() else {}
    return Options(
        profile=Profile(found.get("profile", "spec")),
        mode=Mode(found.get("mode", "enforce")),
        federated_domains=frozenset(found.get("federated_domains", ())),
    )


@cache
def compiled(case: Path, backend: str = BACKENDS[0]) -> tuple[app.Compiled, tuple[Finding, ...]]:
    """Compile a case as the command line would, and return what the files themselves had wrong beside it."""
    tree = read_tree(case / "in.yaml")
    world = reconcile(tree.objects, Memory())
    state = app.Compiler(load(backend), options_of(case)).apply(world.objects)
    return state, (*tree.findings(), *world.findings)


def outputs(case: Path) -> dict[str, str]:
    """Return every file that is made of a case."""
    state, problems = compiled(case)
    told = {*problems, *state.translation.findings}
    told.update(item for items in state.snapshot.problems.values() for item in items)
    files = {
        "mesh.yaml": as_yaml([plain(state.translation.mesh)]),
        "findings.yaml": as_yaml([findings_data(told)]),
    }
    for backend in BACKENDS:
        state, _ = compiled(case, backend)
        own = {*state.supported.findings, *state.rendered.findings} - told
        files[f"{backend}.yaml"] = as_yaml([{"findings": findings_data(own)}, *rendered(state)])
    return files


def findings_data(found: set[Finding]) -> list[dict[str, str]]:
    return [
        {
            "code": f"{item.code} {item.name}",
            "severity": item.severity.value,
            "object": str(item.subject),
            "field": item.field,
            "message": item.message,
        }
        for item in sorted(found, key=by_severity_then_object)
    ]


def rendered(state: app.Compiled) -> Iterator[Any]:
    match state.rendered:
        case Manifests(objects=objects):
            yield from (dict(item) for item in objects)
        case XdsConfig() as config:
            for part in readable(config):
                resources = [without_logs(item) for item in part["resources"] if item["type"] not in ALIKE]
                if resources and not part["part"].startswith("dial/"):
                    yield {**part, "resources": resources}


def without_logs(item: Any) -> Any:
    if isinstance(item, dict):
        return {name: without_logs(value) for name, value in item.items() if name != "access_log"}
    return [without_logs(value) for value in item] if isinstance(item, list) else item


def as_yaml(documents: list[Any]) -> str:
    """Write YAML in which what is small stands on one line, so that a case can be read."""
    text: str = yaml.safe_dump_all(
        documents, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None, explicit_start=True
    )
    return text


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_made_of_a_case_is_what_it_was(case: Path, request: pytest.FixtureRequest) -> None:
    made = outputs(case)
    if request.config.getoption("--update-golden"):
        for name, text in made.items():
            (case / name).write_text(text)
        for path in case.iterdir():
            if path.name not in BY_HAND | made.keys():
                path.unlink()
    found = {path.name: path.read_text() for path in case.iterdir() if path.name not in BY_HAND}
    assert found.keys() == made.keys(), "a file is missing or left over: pytest tests/golden --update-golden"
    for name, text in made.items():
        assert found[name] == text, (
            f"{case.name}/{name} differs: pytest tests/golden --update-golden, then read the diff"
        )


@pytest.mark.parametrize("entry", list(asked()), ids=str)
def test_what_happens_to_a_request_is_what_the_case_says(entry: Asked) -> None:
    state, _ = compiled(entry.case)
    namespace, account = entry.request["from"].split("/")
    service, _, port = entry.request["to"].partition(":")
    pods = {
        name: pod for (where, name), pod in sorted(state.snapshot.pods.items()) if where == namespace
        and pod.service_account == account
    }  # fmt: skip
    caller = pods[entry.request.get("pod", next(iter(pods)))]
    verdict = evaluate(
        state.translation.mesh,
        Request(
            source=f"spiffe://cluster.local/ns/{namespace}/sa/{account}",
            service=tuple(service.split("/")),
            port=int(port),
            method=entry.request.get("method", "GET"),
            path=entry.request.get("path", "/"),
            headers=tuple(entry.request.get("headers", {}).items()),
            source_address=caller.address,
        ),
    )
    data = as_data(verdict)
    assert data["access"] == entry.expected["access"], verdict.why
    assert len(verdict.arms) == len(entry.expected["arms"]), verdict
    for arm, found, expected in zip(verdict.arms, data["arms"], entry.expected["arms"], strict=True):
        assert abs(arm.share - Fraction(str(expected["share"]))) < NEARLY
        assert {**found, "share": 0} == {**expected, "share": 0}, verdict.why


def test_every_directory_is_a_case() -> None:
    directories = {path for path in HERE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert directories == set(CASES)
