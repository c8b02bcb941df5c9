"""Rules about the tree itself, so that nobody has to remember them."""

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import smi_adapter

ROOT: Final = Path(__file__).parent.parent
MODULE_LINES: Final = 500

# Modules that may be longer, with the reason. An entry that is no longer needed fails too.
LONG_MODULES: Final = {
    "smi_adapter/backends/envoy/render.py": "one incremental pass over parts and their index",
    "smi_adapter/findings.py": "the one table of codes, each with its cause and mend",
    "smi_adapter/smi/wire.py": "reader and writer of each form side by side, in the one table that knows versions",
    "tests/unit/test_wire.py": "that table, row by row",
    "tests/unit/test_xds_stream.py": "the rules of one state machine",
}

VAGUE_NAMES: Final = {"utils", "util", "helpers", "helper", "manager", "managers", "common", "misc", "stuff"}

# In pieces, so that this file does not hold what it looks for.
REGISTRY_HOSTS: Final = (
    "pypi" + ".org", "python" + "hosted.", "npmjs" + ".", "crates" + ".io", "proxy.go" + "lang.", "maven" + ".org",
    "deb.deb" + "ian.",
)  # fmt: skip
INDEX_OPTIONS: Final = ("--index" + "-url", "--extra-index" + "-url", "--find" + "-links", "GOPROXY" + "=http")
HOME_OF_SOMEONE: Final = re.compile(r"(?<![\w.~-])/(?:home|Users)/\w+/|(?<![\w.~-])/(?:root|work|opt/wheels)/(?=[\w.])")


@cache
def tracked() -> tuple[Path, ...]:
    """Return every file that git knows or would add; skip the test where there is no git (an unpacked sdist)."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = (ROOT / name for name in listed.split("\0") if name)
    return tuple(sorted(path for path in paths if path.is_file()))


def modules(*tops: str) -> list[Path]:
    return [path for path in tracked() if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in tops]


def texts() -> Iterable[tuple[str, str]]:
    for path in tracked():
        try:
            yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # binary: the descriptor set


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def locked(name: str) -> dict[str, Version]:
    text = (ROOT / "requirements" / name).read_text()
    return {
        canonicalize_name(found[1]): Version(found[2]) for found in re.finditer(r"(?m)^([\w.-]+)==([^\s;\\]+)", text)
    }


def test_no_file_names_a_package_registry_or_an_index() -> None:
    found = [(name, word) for name, text in texts() for word in (*REGISTRY_HOSTS, *INDEX_OPTIONS) if word in text]
    assert not found


def test_no_file_names_a_path_of_the_machine_it_was_written_on() -> None:
    found = [(name, match[0]) for name, text in texts() for match in HOME_OF_SOMEONE.finditer(text)]
    if len(ROOT.parts) > 2:  # a checkout in a folder of the root directory is too short a name to look for
        found += [(name, str(ROOT)) for name, text in texts() if str(ROOT) in text]
    assert not found


def test_no_module_is_longer_than_can_be_read_in_one_go() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for path in modules("smi_adapter", "tests", "benchmarks", "tools")
    }
    long = {name: lines for name, lines in lengths.items() if lines > MODULE_LINES}
    assert long.keys() == LONG_MODULES.keys(), f"over {MODULE_LINES} lines: {long}; listed: {list(LONG_MODULES)}"


def test_no_module_has_a_name_that_says_nothing() -> None:
    named = [path for path in tracked() if VAGUE_NAMES & {path.stem, path.parent.name}]
    assert not [str(path.relative_to(ROOT)) for path in named]


def test_every_module_says_why_it_is_there() -> None:
    bare = [
        path
        for path in modules("smi_adapter", "benchmarks", "tools")
        if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not [str(path.relative_to(ROOT)) for path in bare]


def test_the_version_is_the_same_everywhere() -> None:
    newest = re.search(r"(?m)^## (\S+)", (ROOT / "CHANGELOG.md").read_text())
    assert newest
    assert newest[1] == pyproject()["project"]["version"] == smi_adapter.__version__


def test_lock_files_satisfy_pyproject() -> None:
    project = pyproject()["project"]
    runtime = project["dependencies"]
    everything = [*runtime, *(line for extra in project["optional-dependencies"].values() for line in extra)]
    for name, lines in (("runtime.lock", runtime), ("dev.lock", everything)):
        pins = locked(name)
        for requirement in map(Requirement, lines):
            pin = pins.get(canonicalize_name(requirement.name))
            assert pin, f"{name} lacks {requirement}: run `make lock`"
            assert pin in requirement.specifier, (
                f"{name} has {requirement.name} {pin}, not {requirement}: run `make lock`"
            )


def test_the_runtime_lock_holds_what_the_tests_run_with() -> None:
    assert locked("runtime.lock").items() <= locked("dev.lock").items()


@pytest.mark.parametrize("name", ["runtime.lock", "dev.lock"])
def test_every_locked_package_has_hashes_and_no_address(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text()
    blocks = re.split(r"(?m)^(?=[\w.-]+==)", text)[1:]
    assert len(blocks) == len(locked(name)) > 10
    assert not [block for block in blocks if "--hash=sha256:" not in block]
    assert "://" not in text


def test_every_dependency_has_its_reason() -> None:
    project = pyproject()["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    reasons = (ROOT / "docs/adr/0010-dependencies.md").read_text().lower()
    names = {canonicalize_name(Requirement(line).name) for line in lines}
    assert not [name for name in names if name not in reasons and not name.startswith("types-")]


def test_every_decision_is_in_the_index_and_has_its_parts() -> None:
    pages = sorted((ROOT / "docs/adr").glob("[0-9]*.md"))
    index = (ROOT / "docs/adr/README.md").read_text()
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        text = page.read_text()
        title = text.splitlines()[0].partition(". ")[2]
        assert f"[{int(page.name[:4])}]({page.name}) | {title} |" in index
        headings = re.findall(r"(?m)^## (.+)$", text)
        assert headings == ["Context", "Decision", "Alternatives", "Consequences"], page.name
        assert re.search(r"(?m)^(Accepted|Replaced by .*), \d{4}-\d{2}", text), page.name


def test_every_script_can_be_executed_and_parsed() -> None:
    for path in tracked():
        if path.read_bytes()[:2] != b"#!":
            continue
        assert path.stat().st_mode & 0o111, f"{path} is not executable"
        interpreter = path.read_text().splitlines()[0].split("/")[-1].split()[-1]
        if interpreter in {"sh", "bash"}:
            subprocess.run([interpreter, "-n", path], check=True)
