"""One directory for each rule, named after what it shows.

`in.yaml` is what `kubectl apply` takes, `edit.yaml` (if any) what is applied after it, `options.yaml` the options of
the mesh if they are not the default ones. The other files are what the code made of it: `mesh.yaml`, `findings.yaml`,
and one file for each built-in backend. `pytest tests/golden --update-golden` writes them all and removes those that are
no longer made; then read the diff. `requests.yaml` is written by hand: what happens to requests, in SMI's words; an
entry with `when: before` is asked before the edit.

A backend's file leaves out what looks the same in every case but for names (Envoy's Listeners, Clusters and access logs
have tests of their own): what remains is what the case is about.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from smi_adapter import app, decode
from smi_adapter.backends import Manifests, XdsConfig, load
from smi_adapter.delivery.readable import readable
from smi_adapter.dump import plain
from smi_adapter.evaluate import Request, as_data, evaluate
from smi_adapter.findings import Finding, Ref, by_severity_then_object
from smi_adapter.sources.controllers import Memory, reconcile
from tests.golden.cases import BY_HAND, CASES, HERE, PROFILES, ROWS, Asked, asked, options_of, shows, stages

BACKENDS = ("envoy", "gateway_api")
ALIKE = frozenset({"Cluster", "ClusterLoadAssignment", "Listener"})
"""Types of Envoy resources that say nothing about a case which mesh.yaml does not say better; the parts below `dial`
hold nothing else but what a caller out of scope gets, which `seen_by` tells."""

NEARLY = Fraction(1, 2**30)
"""How far a share may be off where weights were scaled to 32 bits (S2)."""


@cache
def compiled(
    case: Path, backend: str = BACKENDS[0], *, before: bool = False
) -> tuple[app.Compiled, tuple[Finding, ...]]:
    """Compile a case as a process would, and return what the files themselves had wrong beside it."""
    compiler, memory = app.Compiler(load(backend), options_of(case)), Memory()
    objects: dict[Ref, decode.RawObject] = {}
    said: tuple[Finding, ...] = ()
    for tree in stages(case)[: 1 if before else 2]:
        objects |= tree.objects
        world = reconcile(objects, memory)
        memory, said = world.memory, (*said, *tree.findings(), *world.findings)
        compiler.apply(world.objects)
    assert compiler.current is not None
    return compiler.current, said


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
        prune(case, made.keys())
    found = {path.name: path.read_text() for path in case.iterdir() if path.name not in BY_HAND}
    differences = "".join(difference(f"{case.name}/{name}", found, made) for name in sorted({*found, *made}))
    if differences:
        pytest.fail(f"pytest tests/golden --update-golden, then read the diff\n{differences}", pytrace=False)


def prune(case: Path, kept: Iterable[str]) -> None:
    """Remove the files of a case that are no longer made."""
    for path in case.iterdir():
        if path.name not in {*BY_HAND, *kept}:
            path.unlink()


def difference(path: str, found: Mapping[str, str], made: Mapping[str, str]) -> str:
    """Return the unified diff of a file, "" if there is none."""
    name = path.rpartition("/")[2]
    before, after = (files.get(name, "").splitlines(keepends=True) for files in (found, made))
    sides = (path if name in found else "/dev/null", path if name in made else "/dev/null")
    return "".join(difflib.unified_diff(before, after, *sides))


@pytest.mark.parametrize("entry", [entry for case in CASES for entry in asked(case)], ids=str)
def test_what_happens_to_a_request_is_what_the_case_says(entry: Asked) -> None:
    state, _ = compiled(entry.case, before=entry.before)
    (namespace, account), (service, port) = entry.source, entry.dialled
    pods = {
        name: pod for (where, name), pod in sorted(state.snapshot.pods.items()) if where == namespace
        and pod.service_account == account
    }  # fmt: skip
    caller = pods[entry.request.get("pod", next(iter(pods)))]
    verdict = evaluate(
        state.translation.mesh,
        Request(
            source=f"spiffe://cluster.local/ns/{namespace}/sa/{account}",
            service=service,
            port=port,
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


def test_every_directory_is_a_case(request: pytest.FixtureRequest) -> None:
    orphans = {path for path in HERE.iterdir() if path.is_dir() and path.name != "__pycache__"} - set(CASES)
    if request.config.getoption("--update-golden"):
        for path in orphans:
            prune(path, ())
            if not any(path.iterdir()):  # what somebody wrote by hand stays, and is told of below
                path.rmdir()
    assert {path for path in orphans if path.exists()} == set(), "a directory without in.yaml"


@pytest.mark.parametrize("row", sorted(ROWS | PROFILES))
def test_every_row_of_the_semantics_has_a_case(row: str) -> None:
    assert any(row in shows(case) for case in CASES), f"no in.yaml begins with a comment that names {row}"


def test_every_case_shows_a_row_that_there_is() -> None:
    unknown = {case.name: shows(case) - ROWS - PROFILES for case in CASES if shows(case) - ROWS - PROFILES}
    assert unknown == {}


def test_a_difference_is_told_as_a_diff() -> None:
    told = difference("case/mesh.yaml", {"mesh.yaml": "a: 1\n"}, {"mesh.yaml": "a: 2\n"})
    assert "-a: 1\n+a: 2\n" in told
    assert not difference("case/mesh.yaml", {"mesh.yaml": "a: 1\n"}, {"mesh.yaml": "a: 1\n"})
    assert "+a: 2\n" in difference("case/mesh.yaml", {}, {"mesh.yaml": "a: 2\n"})
