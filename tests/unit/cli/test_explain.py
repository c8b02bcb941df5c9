"""How `explain` answers: in which words, with which findings, and what it does not take for a request."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from smi_adapter.cli import execute, main

BOOKSTORE = Path(__file__).parents[3] / "examples" / "bookstore"


def explain(folder: Path, caller: str = "bookbuyer", *more: str) -> Result:
    words = ["explain", "-f", str(folder), "--from", f"bookstore/{caller}", "--to", "bookstore/bookstore:14001"]
    return CliRunner().invoke(main, [*words, "--path", "/buy", *more])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(BOOKSTORE, tmp_path / "files")


def test_no_column_is_empty_and_the_split_is_named() -> None:
    lines = explain(BOOKSTORE).stdout.splitlines()
    assert lines[1] == "routed by TrafficSplit bookstore/bookstore"
    assert lines[2].split() == ["SHARE", "SERVICE"]


def test_a_share_that_fails_has_a_status(folder: Path) -> None:
    file = folder / "bookstore.yaml"
    file.write_text(file.read_text().replace("selector: {app: bookstore, version: v2}", "selector: {app: nobody}"))
    lines = explain(folder).stdout.splitlines()
    assert lines[2].split() == ["SHARE", "SERVICE", "STATUS"]
    assert {line.split()[-1] for line in lines[3:5]} == {"503", "-"}


def test_a_denied_request_ends_with_the_next_step() -> None:
    assert explain(BOOKSTORE, "bookthief").stdout.splitlines()[-1].startswith(
        "-> add ServiceAccount bookstore/bookthief to spec.sources of TrafficTarget bookstore/bookstore"
    )  # fmt: skip


def test_allowed_is_said_once(folder: Path) -> None:
    """Where only some endpoints let the caller in, the shares are told apart."""
    file = folder / "try-me.yaml"
    file.write_text(file.read_text().replace("service: bookstore-v2, weight", "service: bookwarehouse, weight"))
    assert explain(folder).stdout.startswith("allowed for 50%: TrafficTarget bookstore/bookstore")


OTHERS = """
apiVersion: split.smi-spec.io/v1alpha4
kind: TrafficSplit
metadata: {name: other, namespace: bookstore}
spec: {service: bookwarehouse, backends: [{service: no-such-service, weight: 1}]}
---
apiVersion: access.smi-spec.io/v1alpha3
kind: TrafficTarget
metadata: {name: other, namespace: bookstore}
spec:
  destination: {kind: ServiceAccount, name: bookwarehouse}
  rules: [{kind: HTTPRouteGroup, name: no-such-group}]
  sources: [{kind: ServiceAccount, name: bookbuyer}]
"""


def test_findings_of_objects_that_have_nothing_to_do_with_the_request_are_left_out(folder: Path) -> None:
    (folder / "others.yaml").write_text(OTHERS)
    assert "SMI0102" in CliRunner().invoke(main, ["analyze", "-f", str(folder)]).stdout
    assert json.loads(explain(folder, "bookbuyer", "-o", "json").stdout)["findings"] == []


def test_findings_of_what_decides_or_cannot_be_read_are_told_with_their_places(folder: Path) -> None:
    (folder / "mine.yaml").write_text(OTHERS.replace("bookwarehouse", "bookstore"))
    (folder / "broken.yaml").write_text("kind: [\n")
    (folder / "unread.yaml").write_text(
        "apiVersion: access.smi-spec.io/v1alpha3\nkind: TrafficTarget\n"
        "metadata: {name: unread, namespace: bookstore}\nspec: {destination: 3}\n"
    )
    found = json.loads(explain(folder, "bookbuyer", "-o", "json").stdout)["findings"]
    assert {(item["kind"], item["object"]) for item in found} == {
        ("TrafficSplit", "other"), ("TrafficTarget", "other"), ("File", "broken.yaml"), ("TrafficTarget", "unread"),
    }  # fmt: skip
    assert all(item["line"] for item in found)


def test_a_path_without_a_slash_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["explain", "-f", str(BOOKSTORE), "--from", "a/b", "--to", "a/c", "--path", "buy"]) == 2
    assert "--path begins with a slash, as in /buy" in capsys.readouterr().err
