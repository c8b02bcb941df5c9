"""An oracle that imports what it judges proves nothing."""

import ast
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize("file", sorted(HERE.glob("*.py")), ids=lambda file: file.name)
def test_nothing_here_imports_the_product(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not [name for name in names if name.split(".")[0] == "smi_adapter"]


@pytest.mark.parametrize("name", ["evaluator", "inventory", "paths"])
def test_the_reading_itself_needs_the_standard_library_and_re2_only(name: str) -> None:
    tree = ast.parse((HERE / f"{name}.py").read_text())
    modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    foreign = {module for module in modules if not module.startswith(("tests.oracle", "collections"))}
    assert foreign <= {"dataclasses", "datetime", "fractions", "math", "re", "re2", "typing"}
