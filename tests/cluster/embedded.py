"""The embedded API as a process, and kubectl for either kind of server, so that one script can be run on both."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.tools import binary

MAIN = "from smi_adapter.cli import entry; entry()"
ROOT = Path(__file__).parents[2]


@contextmanager
def embedded_api(source: Path, state: Path, *arguments: str) -> Iterator[Path]:
    """Run `smi-adapter run --api` on a directory and yield the kubeconfig that it names."""
    command = [sys.executable, "-c", MAIN, "run", "--source", str(source), "--state", str(state), "--api", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    log = state.with_name(f"{state.name}.log")
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("export KUBECONFIG="), log.read_text()
            yield Path(line.strip().partition("=")[2])
            assert process.poll() is None, log.read_text()
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


@dataclass(frozen=True, slots=True)
class Kubectl:
    """The real kubectl with a kubeconfig and a namespace."""

    kubeconfig: Path
    home: Path
    namespace: str = "default"

    @property
    def environment(self) -> dict[str, str]:
        """Return what it runs with; its cache is this test's own."""
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig), "HOME": str(self.home), "KUBECTL_EXTERNAL_DIFF": ""}

    def command(self, *arguments: str) -> list[str]:
        """Return the command line."""
        return [str(binary("kubectl")), "--namespace", self.namespace, *arguments]

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return subprocess.run(
            self.command(*arguments),
            input=stdin,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def out(self, *arguments: str, stdin: str = "") -> str:
        """Run it, demand success and return what it printed."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def told(self, *arguments: str, stdin: str = "") -> str:
        """Run it and return all that it says with its exit code, without what differs from run to run."""
        done = self.run(*arguments, stdin=stdin)
        return plain(f"$ kubectl {' '.join(arguments)}\n{done.stdout}{done.stderr}[{done.returncode}]\n")


_CHANGING: Sequence[tuple[str, str]] = (
    (r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "UID"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z| \+0000( UTC)?)", "TIME"),
    (r'(resourceVersion"?: ?)"\d+"', r'\1"REVISION"'),
    (r"/\S*/(LIVE|MERGED)-\d+/", r"\1/"),
    (r"(?m)[ \t]+(<unknown>|\d+[smhd](\d+[smh])?)$", " AGE"),
)


def plain(text: str) -> str:
    """Return a text with names in place of times, uids, revisions and the like."""
    for pattern, name in _CHANGING:
        text = re.sub(pattern, name, text)
    return text
