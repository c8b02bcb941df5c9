"""The place that a node stands in: what is changed there is not seen outside, and goes with it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.program import ProgramError
from tests.cluster.sandbox import CGROUPS, Sandbox, SandboxError

ROOT = Path(__file__).parent.parent.parent


def _links() -> str:
    return subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True, check=True).stdout


def test_nothing_is_left(tmp_path: Path) -> None:
    mounts, links = Path("/proc/mounts").read_text(), _links()
    panic = Path("/proc/sys/kernel/panic").read_text()
    with Sandbox(tmp_path) as sandbox:
        sandbox.run("mount", "-t", "tmpfs", "tmpfs", "/mnt")
        sandbox.run("ip", "link", "add", "cni0", "type", "bridge")
        sandbox.run("sh", "-c", "echo 7 >/proc/sys/kernel/panic")
        for each in CGROUPS.glob(f"**/{sandbox.name}"):
            (each / "pod").mkdir()
        sandbox.run("sh", "-c", "sleep 1000 >/dev/null 2>&1 &")
        assert Path("/proc/mounts").read_text() == mounts
        name = sandbox.name
    assert (Path("/proc/mounts").read_text(), _links()) == (mounts, links)
    assert Path("/proc/sys/kernel/panic").read_text() == panic
    assert not list(CGROUPS.glob(f"**/{name}"))


def test_everything_in_it_dies_with_its_first_process(tmp_path: Path) -> None:
    with Sandbox(tmp_path) as sandbox:
        first = int(sandbox.inside[1].removeprefix("--target="))
        held = subprocess.Popen([*sandbox.inside, "sleep", "1000"])
        os.kill(first, signal.SIGKILL)
        assert held.wait(30) != 0
        with pytest.raises(ProgramError):
            sandbox.run("true")


def test_without_root_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(SandboxError, match="a node needs root"), Sandbox(tmp_path):
        pass


def test_the_command_tells_in_one_line_why_no_node_can_be_here() -> None:
    """Without any program of Debian in its path; what makes a node is asked for before anything is built."""
    command = [sys.executable, "-m", "tests.cluster.node"]
    environment = {**os.environ, "PATH": "/nowhere"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: a node needs the Debian packages buildah conntrack containerd")
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0
