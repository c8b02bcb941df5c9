"""The generated pages say what the code says."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from smi_adapter.cli import offline
from smi_adapter.findings import CODES

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def make_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "tools" / "make_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_up_to_date(make_docs: ModuleType) -> None:
    old = [str(path.relative_to(ROOT)) for path, text in make_docs.pages().items() if path.read_text() != text]
    assert not old, "run: python tools/make_docs.py"


def test_every_code_has_a_section_of_its_own(make_docs: ModuleType) -> None:
    page: str = make_docs.findings_page()
    for row in CODES.values():
        assert page.count(f"\n### {row.code} {row.name}\n") == 1
        assert f"(#{row.code.lower()}-{row.name.lower()})" in page


def test_every_example_belongs_to_a_code() -> None:
    stray = [path.name for path in (ROOT / "docs" / "examples" / "findings").iterdir() if path.stem not in CODES]
    assert not stray


def test_the_command_says_of_a_backend_what_the_page_says(make_docs: ModuleType) -> None:
    """`no` would not tell whether what a backend lacks is closed, or nobody's job."""
    done = CliRunner().invoke(offline.backends, [])
    page = (ROOT / "docs" / "backends.md").read_text()
    header, *rows = (re.split(r"\s{2,}", line) for line in done.stdout.splitlines())
    places = [header.index(name.upper()) for name in make_docs.BUILT_IN]
    for row in rows:
        assert f"| {row[0]} | {' | '.join(row[place] for place in places)} |" in page
    assert "not its job: the backend renders routes only" in done.stderr
