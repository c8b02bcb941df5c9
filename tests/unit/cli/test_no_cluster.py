"""What commands say where there is no cluster: which one was meant, by whom, and what to do without."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smi_adapter.cli import execute

EXPLAIN = ("explain", "--from", "a/b", "--to", "a/c")


@pytest.mark.parametrize(
    "command",
    [("analyze",), EXPLAIN, ("get", "splits"), ("check",), ("bug-report",), ("crds", "status"), ("run",)],
    ids=lambda words: words[0],
)
def test_without_a_kubeconfig_the_way_out_is_named(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", "nowhere")
    assert execute(command) == 3, "as docs/command-line.md says"
    said = capsys.readouterr()
    text = " ".join((said.out + said.err).split())
    assert "there is no kubeconfig nowhere" in text
    assert "the login failed" not in text
    for way in ("--kubeconfig", "-f DIR", "smi-adapter run --source DIR --api"):
        assert way in text


@pytest.mark.parametrize("command", [("analyze",), ("check",)], ids=lambda words: words[0])
def test_a_server_that_is_away_is_named_with_the_file_that_names_it(
    command: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config"
    context = {"name": "mine", "context": {"cluster": "it", "user": "it"}}
    cluster = {"name": "it", "cluster": {"server": "https://127.0.0.1:1"}}
    parts = {"clusters": [cluster], "contexts": [context], "users": [{"name": "it", "user": {}}]}
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "mine", **parts}))
    assert execute([*command, "--kubeconfig", str(file)]) == 3
    said = capsys.readouterr()
    wanted = f"no API server answers at https://127.0.0.1:1 (from kubeconfig {file}, context mine): connection refused"
    assert wanted in said.out + said.err
    assert "Connect call failed" not in said.out + said.err
