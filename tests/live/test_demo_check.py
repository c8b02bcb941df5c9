"""The demo as a new user's machine runs it: three experiments on real traffic, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.live, pytest.mark.slow]

MAIN = "from smi_adapter.cli import entry; entry()"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}


def processes_below(folder: Path) -> Iterator[str]:
    """Yield the command lines of processes that use files of a folder."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text()
        except OSError:
            continue
        if str(folder) in command:
            yield command


def test_the_demo_checks_itself(tmp_path: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, "-c", MAIN, "demo", "--check"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1] == "as it should be"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert list(processes_below(tmp_path)) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_shows_its_table_without_a_terminal_and_stops_cleanly(
    tmp_path: Path, environment: dict[str, str], number: signal.Signals
) -> None:
    command = [sys.executable, "-c", MAIN, "demo"]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True) as demo,
    ):
        assert demo.stdout is not None
        text = ""
        while "bookthief" not in text.partition("DENIED/s")[2]:
            line = demo.stdout.readline()
            assert line, text
            text += line
        assert "try-me.yaml" in text
        assert "demo --check" in text
        file = next(tmp_path.glob("smi-adapter-demo-*/try-me.yaml"))
        file.write_text(file.read_text().replace("service: bookstore-v1", "service: nowhere"))
        while "SMI0102" not in text:
            line = demo.stdout.readline()
            assert line, text
            text += line
        assert "try-me.yaml:13: warning SMI0102 BackendNotFound: TrafficSplit bookstore/bookstore spec.backends" in text
        demo.send_signal(number)
        rest = demo.stdout.read()
        assert "Stopping" in rest
        assert "the edits in it" in rest
        assert "smi-adapter run --source " in rest
        assert demo.wait() == 0
        errors.seek(0)
        assert "Traceback" not in errors.read()
    assert list(processes_below(tmp_path)) == []
