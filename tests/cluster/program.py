"""Processes that a test starts: an API server, a controller, a Flagger. Always stopped by pid."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from smi_adapter.sources import leash

# The kernel ties a child to the thread that started it, so that has to be one that lives as long as the process.
_SPAWNER: Final = ThreadPoolExecutor(1, "spawner")


class ProgramError(AssertionError):
    """A program did not start, answer or do what was waited for; the message ends with the tail of its log."""


class Program:
    """One process with its log; it dies with the test process."""

    def __init__(
        self, name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.command = list(command)
        self.log_path = folder / f"{name}.log"
        self._environment = None if environment is None else dict(environment)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, tied to this process, whichever thread asks for it."""
        if not self.is_running():
            self._process = _SPAWNER.submit(self._spawn).result()

    def _spawn(self) -> subprocess.Popen[bytes]:
        tied = [sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), *self.command]
        with self.log_path.open("ab") as log:
            return subprocess.Popen(tied, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment)

    def stop(self, kill: bool = False, patience: float = 60.0) -> int:  # noqa: FBT002
        """Stop it by its pid and return how it ended, negative if it was killed, as who does not obey in time is."""
        if self._process is None:
            return 0
        self._process.send_signal(signal.SIGCONT)  # a frozen one can't obey
        if kill:
            self._process.kill()
        else:
            self._process.terminate()
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        status = self._process.returncode
        self._process = None
        return status

    def freeze(self) -> None:
        """Stop it where it is: connections stay open and nothing answers."""
        self._running().send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._running().send_signal(signal.SIGCONT)

    @property
    def pid(self) -> int:
        """Return its process id."""
        return self._running().pid

    def is_running(self) -> bool:
        """Tell whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        """Return what it has written."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def check(self) -> None:
        """Fail if it has ended by itself."""
        if not self.is_running():
            raise ProgramError(f"{self.name} has ended\n{self.tail()}")

    def tail(self) -> str:
        """Return the last lines of its log."""
        return "\n".join(self.log().splitlines()[-30:])

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ProgramError(f"{self.name} is not running")
        return self._process
