"""The suite as a pytest plugin: what was asked for wrongly, or is not played, is told in words."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PLAIN = str(HERE / "plain_target.yaml")


def run(folder: Path, *options: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "pytest", "-p", "smi_conformance.plugin", "--pyargs", "smi_conformance"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", "-W", "ignore", "-c", "/dev/null", "--noconftest", *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(HERE.parent), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--smi-target", "bad.yaml"), "ERROR: bad.yaml: implementation.organization is missing"),
        (("--smi-target", "none.yaml"), "ERROR: none.yaml: "),
        (("--smi-target", PLAIN, "--smi-case", "TS-99"), "ERROR: unknown id TS-99"),
        (("--smi-target", PLAIN, "--smi-profile", "SPLITS"), "ERROR: unknown profile SPLITS"),
    ],
)
def test_a_mistake_is_a_usage_error_and_no_trouble_of_pytest(
    tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    (tmp_path / "bad.yaml").write_text("claims: {}\n")
    code, said = run(tmp_path, *options)
    assert code == pytest.ExitCode.USAGE_ERROR, said
    assert words in said
    assert "INTERNALERROR" not in said


def test_without_a_target_it_is_said_that_one_is_needed(tmp_path: Path) -> None:
    code, said = run(tmp_path, "-k", "TS-01 or TS-02")
    assert code == pytest.ExitCode.NO_TESTS_COLLECTED
    assert "2 cases were left out: --smi-target says" in said


def test_a_case_that_is_not_claimed_is_told_with_what_would_play_it(tmp_path: Path) -> None:
    code, said = run(tmp_path, "--smi-target", PLAIN, "-k", "TT-01")
    assert code == pytest.ExitCode.NO_TESTS_COLLECTED
    assert "not played: TT-01: it belongs to ACCESS, which is not claimed or not chosen (--smi-profile ACCESS" in said


def test_what_nobody_asked_for_is_not_told(tmp_path: Path) -> None:
    _, said = run(tmp_path, "--smi-target", PLAIN, "--collect-only", "-q")
    assert "not played" not in said
