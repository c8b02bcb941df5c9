"""What `check` advises, and that the page says more about it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from smi_adapter.cli import check
from smi_adapter.cli.advice import ADVICE
from smi_adapter.cluster import checks
from smi_adapter.cluster.checks import Check, Grade

ROOT = Path(__file__).parents[3]


def test_every_failure_has_one_line_of_advice_and_a_section_of_the_page() -> None:
    page = (ROOT / "docs" / "check.md").read_text()
    assert ADVICE.keys() == set(re.findall(r"(?m)^## (.+)$", page))
    anchors = set(re.findall(r'"([a-z]+-[a-z-]+)"\)', Path(checks.__file__).read_text()))
    assert anchors >= {"crd-missing", "not-installed"}
    assert anchors <= ADVICE.keys()


def test_a_failure_is_told_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    found = [Check("smi-crds", "it is there", Grade.ERROR, "it is missing", "crd-missing")]
    check._print(found, short=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("    -> run `smi-adapter crds apply`")
    assert lines[3].endswith("docs/check.md#crd-missing")
