"""The generated pages say what the code says."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

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
