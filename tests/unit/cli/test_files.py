"""What commands that look at files say of where they looked: from where the user is, and never silently nowhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from smi_adapter.cli import execute, main

BOOKSTORE = Path(__file__).parents[3] / "examples" / "bookstore"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand beside a folder `mesh`, of which one file refers to a Service that there is not."""
    shutil.copytree(BOOKSTORE, tmp_path / "mesh")
    file = tmp_path / "mesh" / "try-me.yaml"
    file.write_text(file.read_text().replace("service: bookstore-v1", "service: nowhere"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "place"),
    [
        (("translate", "-f", "mesh", "--to", "mesh"), "mesh/try-me.yaml:13: warning SMI0102"),
        (("analyze", "-f", "mesh"), "mesh/try-me.yaml:13: warning SMI0102"),
        (("analyze", "-f", "mesh/try-me.yaml"), "mesh/try-me.yaml:11: error SMI0101"),
        (("analyze", "-f", "."), "mesh/try-me.yaml:13: warning SMI0102"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else "",
)
def test_a_place_is_named_from_where_the_user_is(here: Path, command: tuple[str, ...], place: str) -> None:
    assert place in [line[: len(place)] for line in CliRunner().invoke(main, command).output.splitlines()]


def test_json_names_files_that_can_be_opened(here: Path) -> None:
    (here / "mesh" / "broken.yaml").write_text("kind: A\nmetadata: {name: [\n")
    found = json.loads(CliRunner().invoke(main, ["analyze", "-f", "mesh", "-o", "json"]).stdout)["findings"]
    assert {item["file"] for item in found} >= {"mesh/try-me.yaml", "mesh/broken.yaml"}
    assert all(Path(item["file"]).is_file() for item in found)
    text = CliRunner().invoke(main, ["analyze", "-f", "mesh"]).stdout
    assert "\nmesh/broken.yaml:2: error SMI0507" in f"\n{text}"


@pytest.mark.parametrize("command", ["analyze", "translate --to mesh", "explain --from a/b --to a/c"])
def test_where_there_is_nothing_to_read_nothing_passes(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pipeline that looks at a wrong folder must not be told that all is well."""
    (tmp_path / "values.txt").write_text("kind: Service\n")
    (tmp_path / "comments").mkdir()
    (tmp_path / "comments" / "a.yaml").write_text("# nothing yet\n")
    words = command.split()
    assert execute([*words, "-f", str(tmp_path / "comments")]) == 2
    assert "1 file read" in " ".join(capsys.readouterr().err.split())
    (tmp_path / "comments" / "a.yaml").unlink()
    assert execute([*words, "-f", str(tmp_path)]) == 2
    assert "no file there ends in .yaml, .yml, .json" in " ".join(capsys.readouterr().err.split())


def test_what_cannot_be_read_is_told_rather_than_called_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("kind: [\n")
    done = CliRunner().invoke(main, ["analyze", "-f", str(tmp_path)])
    assert "SMI0507" in done.stdout
    assert "0 objects in 1 file, 1 finding\n" in done.stderr


def test_the_help_of_completion_shows_a_line_for_each_shell(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["completion", "--help"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "bash:  source <(smi-adapter completion bash)" in lines
    assert not [line for line in lines if "\\b" in line]
