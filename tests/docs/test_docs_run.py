"""What README and docs show has to work: commands are run, YAML is read, links lead somewhere.

A document is read as a user reads it: its commands run one after the other, in a copy of the checkout of its own, with
the virtual environment's programs first on PATH. Of a ```console block the lines that start with `$ ` are run, of a
```bash block all lines. A command has to end with status 0, or with N where the line ends in `# exits N`.

A block that can't be run here says why in the line above: `<!-- not run: it needs a cluster -->`.
The summary of the tests lists these as skipped.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

ROOT: Final = Path(__file__).parent.parent.parent
DOCUMENTS: Final = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
TIMEOUT_S: Final = 60

FENCE: Final = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<info>.*)$")
NOT_RUN: Final = re.compile(r"^<!-- not run: (?P<reason>\S.*\S) -->$")
EXITS: Final = re.compile(r"\s+# exits (\d+)$")

OUR_PROGRAMS: Final = {"smi-adapter", "kubectl-traffic"}
# What a document may use around them. Anything else is marked as not run, so that nobody thinks that it is tested.
AROUND: Final = {"cat", "cd", "cp", "echo", "export", "grep", "head", "ls", "mkdir", "rm", "sed", "sort", "tail"}

# Findings that are about one object alone, whatever world it is in: a document shows no such object.
ABOUT_FORM: Final = {
    "SMI0105", "SMI0201", "SMI0203", "SMI0205", "SMI0206", "SMI0305", "SMI0501", "SMI0505", "SMI0506", "SMI0507",
    "SMI0508",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: where it starts, its language, its text, and why it is not run ("" if it is)."""

    line: int
    language: str
    text: str
    not_run: str


def blocks(markdown: str) -> Iterator[Block]:
    """Yield the fenced blocks of a document, the marker in the last line that is not empty above each included."""
    lines = markdown.splitlines()
    above, number = "", 0
    while number < len(lines):
        opened = FENCE.match(lines[number])
        if not opened:
            above = lines[number].strip() or above
            number += 1
            continue
        start, body = number + 1, []
        number += 1
        while number < len(lines) and lines[number].strip() != opened["fence"]:
            body.append(lines[number].removeprefix(opened["indent"]))
            number += 1
        if number == len(lines):
            message = f"the block that opens in line {start} is never closed"
            raise ValueError(message)
        number += 1
        marker = NOT_RUN.match(above)
        language = (opened["info"].split() or [""])[0]
        yield Block(start, language, "\n".join(body) + "\n", marker["reason"] if marker else "")
        above = ""


def commands(block: Block) -> list[str]:
    """Return the commands of a console or bash block, lines that end in a backslash joined with the next."""
    text = block.text.replace("\\\n", " ")
    if block.language == "console":
        return [line[2:].strip() for line in text.splitlines() if line.startswith("$ ")]
    return [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def shown(document: Path, *languages: str) -> Iterator[Block]:
    """Yield the blocks to try."""
    for block in blocks(document.read_text()):
        if block.language in languages and not block.not_run:
            yield block


def make_targets() -> set[str]:
    return set(re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text()))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of what git knows of the checkout, for commands that write."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def run(command: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run one line in a shell, as a user would who has activated the virtual environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "NO_COLOR": "1", "COLUMNS": "120"}
    return subprocess.run(
        ["bash", "-c", command], cwd=directory, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S,
        check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_command_of_a_document_works(document: Path, copy: Path) -> None:
    before = ""  # `cd` and `export` of earlier lines hold for later ones
    for block in shown(document, "console", "bash"):
        for line in commands(block):
            where = f"{name_of(document)}:{block.line}: `{line}`"
            program = line.split()[0]
            if program == "make":
                targets = {word for word in shlex.split(line)[1:] if "=" not in word and not word.startswith("-")}
                assert targets <= make_targets(), f"{where}: no such target"
                continue
            assert program in OUR_PROGRAMS | AROUND, f"{where}: mark the block with <!-- not run: reason -->"
            expected = EXITS.search(line)
            command = EXITS.sub("", line)
            if program in {"cd", "export"}:
                before += f"{command} && "
                continue
            done = run(before + command, copy)
            assert done.returncode == (int(expected[1]) if expected else 0), f"{where}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_yaml_block_of_a_document_is_read_without_complaint(document: Path, tmp_path: Path) -> None:
    for block in shown(document, "yaml"):
        where = f"{name_of(document)}:{block.line}"
        documents: list[Any] = list(yaml.safe_load_all(block.text))
        if not any(isinstance(each, dict) and "apiVersion" in each and "kind" in each for each in documents):
            continue
        (tmp_path / "block.yaml").write_text(block.text)
        done = run("smi-adapter analyze -f block.yaml", tmp_path)
        found = set(re.findall(r"SMI\d{4}", done.stdout))
        assert done.returncode == 0 or (done.returncode == 1 and found), f"{where}\n{done.stdout}{done.stderr}"
        assert not found & ABOUT_FORM, f"{where}\n{done.stdout}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_link_inside_the_repository_leads_somewhere(document: Path) -> None:
    text = document.read_text()
    for block in blocks(text):
        text = text.replace(block.text, "")
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    assert not [link for link in links if "://" not in link and not (document.parent / link).exists()]


@pytest.mark.parametrize(
    "left_out",
    [
        f"{name_of(document)}:{block.line}: not run: {block.not_run}"
        for document in DOCUMENTS
        for block in blocks(document.read_text())
        if block.not_run
    ],
)
def test_a_block_is_left_out_for_a_reason(left_out: str) -> None:
    pytest.skip(left_out)


def test_a_marker_without_a_reason_is_no_marker() -> None:
    assert [block.not_run for block in blocks("<!-- not run: -->\n```bash\nx\n```\n")] == [""]
    assert [block.not_run for block in blocks("<!-- not run: no cluster -->\n\n```bash\nx\n```\n")] == ["no cluster"]


def test_a_marker_holds_for_one_block_only() -> None:
    text = "<!-- not run: no cluster -->\n```bash\nx\n```\n```bash\ny\n```\n"
    assert [block.not_run for block in blocks(text)] == ["no cluster", ""]


def test_commands_are_told_from_output_and_comments() -> None:
    console = Block(1, "console", "$ smi-adapter version \\\n    -o json\n{}\n$ ls\n", "")
    bash = Block(1, "bash", "# first\nsmi-adapter version\n\nls\n", "")
    assert commands(console) == ["smi-adapter version      -o json", "ls"]
    assert commands(bash) == ["smi-adapter version", "ls"]


def test_a_block_in_a_list_and_one_in_a_longer_fence_are_found() -> None:
    text = "- item\n  ```yaml\n  a: 1\n  ```\n````\n```yaml\nb: 1\n```\n````\n"
    assert [(block.language, block.text) for block in blocks(text)] == [
        ("yaml", "a: 1\n"),
        ("", "```yaml\nb: 1\n```\n"),
    ]
