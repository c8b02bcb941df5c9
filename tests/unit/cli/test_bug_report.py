"""`bug-report` where there is no cluster, and where its archive cannot be written."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from smi_adapter.cli import execute

BOOKSTORE = str(Path(__file__).parents[3] / "examples" / "bookstore")


def test_a_directory_is_reported_without_a_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, state = tmp_path / "report.zip", tmp_path / "state"
    (state / "pods" / "a").mkdir(parents=True)
    (state / "pods" / "a" / "envoy.log").write_text("password: hunter2, then it went on\n")
    (state / "pods" / "a" / "app.log").write_text("what the application says is its own\n")
    assert execute(["bug-report", "--source", BOOKSTORE, "--state", str(state), "-o", str(file)]) == 0
    assert capsys.readouterr().out.strip() == str(file)
    assert file.stat().st_mode & 0o077 == 0
    with zipfile.ZipFile(file) as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist()}
    assert texts.keys() == {
        "about.json", "counts.json", "findings.json", "objects.json", "run.json", "logs/pods/a/envoy.log",
    }  # fmt: skip
    assert {raw["kind"] for raw in json.loads(texts["objects.json"])} >= {"TrafficSplit", "TrafficTarget"}
    assert "Deployment" not in texts["objects.json"], "SMI objects only, as of a cluster"
    assert "nobody answers" in texts["run.json"]
    assert "hunter2" not in "".join(texts.values())
    assert "then it went on" in texts["logs/pods/a/envoy.log"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("there.zip", "exists, and nothing is overwritten; remove it or name another file"),
        ("gone/report.zip", "there is no folder"),
        (".", "is a folder; name a file in it"),
        ("there.zip/report.zip", "there is no folder"),
        ("dangling.zip", "exists"),
    ],
)
def test_where_no_archive_can_be_written_nobody_is_asked(
    name: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there.zip").write_text("mine")
    (tmp_path / "dangling.zip").symlink_to(tmp_path / "nowhere")
    assert execute(["bug-report", "--kubeconfig", "no-such-file", "-o", str(tmp_path / name)]) == 2
    assert said in capsys.readouterr().err.replace("\n", " ")
    assert (tmp_path / "there.zip").read_text() == "mine"


def test_a_folder_that_takes_no_file_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    """As root every folder seems writable; what the kernel makes itself takes no file all the same."""
    assert execute(["bug-report", "--source", BOOKSTORE, "-o", "/proc/report.zip"]) == 2
    err = capsys.readouterr().err
    assert "-o" in err
    assert "Traceback" not in err


def test_a_state_folder_that_cannot_be_made_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert execute(["run", "--source", BOOKSTORE, "--state", str(tmp_path / "file" / "state")]) == 1
    assert "name another folder with --state" in capsys.readouterr().err
