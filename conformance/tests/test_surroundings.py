"""Where a user stands has no part in a run: other people's `conftest.py`, settings and plugins of pytest."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.tests.test_bad_input import Place, place

__all__ = ["place"]

HOSTILE = {
    "conftest.py": "raise RuntimeError('another project')\n",
    "pytest.ini": "[pytest]\naddopts = --no-such-option\n",
    "pyproject.toml": "[tool.pytest.ini_options]\naddopts = '--no-such-option'\n",
    "tox.ini": "[pytest]\naddopts = --no-such-option\n",
}


def hostile(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in HOSTILE.items():
        (folder / name).write_text(text)


@pytest.mark.parametrize("beside", [True, False], ids=["beside the target", "elsewhere"])
def test_a_run_imports_nothing_of_the_project_it_is_started_in(
    place: Place, *, beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile(place.folder)
    place.stands = place.folder if beside else place.folder / "elsewhere"
    hostile(place.stands)
    monkeypatch.setenv("PYTEST_ADDOPTS", "--no-such-option")
    monkeypatch.setenv("PYTEST_PLUGINS", "no_such_plugin")
    code, said = place.run("-k", "TS-01", "--quick")
    assert (code, place.rows()["TS-01"]["result"]) == (0, "passed"), said
