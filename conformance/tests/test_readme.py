"""What the README shows works: its commands are run one after the other in a copy of this folder, its target is read.

A command ends with status 0, or with N where its line ends in `# exits N`. A block that can't be run here says why in
the line above it: `<!-- not run: it needs a cluster -->`.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from smi_conformance.target import load

FOLDER = Path(__file__).parents[1]
PAGES = (FOLDER / "README.md", FOLDER / "docs" / "driver.md", FOLDER / "docs" / "cases.md")
PROGRAMS = {"smi-conformance": ("-m", "smi_conformance"), "pytest": ("-m", "pytest")}
BLOCK = re.compile(r"^(?P<above>[^\n]*)\n```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
EXITS = re.compile(r"\s+# exits (\d+)$")
NOT_RUN = re.compile(r"<!-- not run: \S.* -->")


def blocks(page: Path, language: str) -> list[str]:
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [item["text"] for item in found if item["language"] == language and not NOT_RUN.fullmatch(item["above"])]


def commands(page: Path) -> list[str]:
    lines = "".join(blocks(page, "console")).replace("\\\n", " ").splitlines()
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def test_every_command_of_the_readme_works(tmp_path: Path) -> None:
    copy = tmp_path / "conformance"
    shutil.copytree(FOLDER, copy, ignore=shutil.ignore_patterns("__pycache__"))
    shown = commands(PAGES[0])
    assert {"list", "explain", "run", "validate", "diff"} <= {line.split()[1] for line in shown}
    for line in shown:
        program, *arguments = shlex.split(line, comments=True)
        wanted = EXITS.search(line)
        done = subprocess.run(
            [sys.executable, *PROGRAMS[program], *arguments],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": str(copy)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == (int(wanted[1]) if wanted else 0), f"{line}\n{done.stdout}{done.stderr}"


def test_the_targets_that_the_readme_shows_are_read_and_all_of_them_counts(tmp_path: Path) -> None:
    shown = [text for text in blocks(PAGES[0], "yaml") if "implementation:" in text]
    assert shown
    for text in shown:
        (tmp_path / "target.yaml").write_text(text)
        assert load(tmp_path / "target.yaml").unused == ()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_inside_the_distribution_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []
