"""One local process that is kept running: started on a leash, logged, started again when it ends, never left behind.

`processes` decides what should run; this module only makes it so and says, in words, why something is not running.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

LEASH = Path(__file__).with_name("leash.py")
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 10.0
STEADY = 10.0
"""Seconds of life after which a process counts as steady: the next pause is the first one again."""
PROVEN = 1.0
"""Seconds of life after which a process that ended before counts as running again."""
STOP_SECONDS = 5.0
MAX_LOG = 16 << 20
_TAIL = 16384
_PREFIX = re.compile(r"^(\[[^\]]*\] ?)+")  # time, thread, level and source file of an Envoy's line


@dataclass(frozen=True, slots=True)
class Command:
    """What to run. `binds` are the TCP addresses that must be free for it."""

    name: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    directory: Path
    log: Path
    binds: tuple[tuple[str, int], ...] = ()


class Child:
    """Keeps one process running from `start` to `stop`.

    `down` says why it does not run, from its end until it has lived for a moment again: no news at each new attempt.
    """

    def __init__(self, command: Command, changed: Callable[[], None]) -> None:
        self.command = command
        self.down = ""
        self.pid = 0
        self._changed = changed
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        """Tell whether it runs and did not end a moment ago."""
        return self.pid != 0 and not self.down

    def start(self) -> None:
        """Start the process and go on starting it until `stop`."""
        self._task = asyncio.create_task(self._keep())

    async def stop(self, grace: float = STOP_SECONDS) -> None:
        """Ask the process to end (SIGTERM), insist after the grace (SIGKILL), and wait until it is gone."""
        self._stopping.set()
        self._signal(signal.SIGTERM)
        if self._task is not None:
            done, _ = await asyncio.wait([self._task], timeout=grace)
            if not done:
                self._signal(signal.SIGKILL)
            await self._task

    async def _keep(self) -> None:
        pause = FIRST_PAUSE
        clock = asyncio.get_running_loop().time
        while not self._stopping.is_set():
            begun = clock()
            reason = self._taken() or await self._run_once()
            pause = FIRST_PAUSE if clock() - begun > STEADY else pause
            self._say(reason)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _run_once(self) -> str:
        """Run the process once; return why it is not running any more."""
        command = self.command
        try:
            with _Log(command.log) as log:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-I", "-S", str(LEASH), str(os.getpid()), *command.arguments),
                    env=dict(command.environment),
                    cwd=command.directory,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        except (OSError, ValueError) as error:
            return f"it could not be started: {error}"
        self.pid = process.pid
        if self._stopping.is_set():
            self._signal(signal.SIGTERM)
        if self.down:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PROVEN):
                    await process.wait()
        if process.returncode is None:
            self._say("")
        status = await process.wait()
        self._signal(signal.SIGKILL)  # what it started itself must not keep its ports
        self.pid = 0
        return f"it ended {_words(status)}{_last_words(command.log)}"

    def _taken(self) -> str:
        for address, port in self.command.binds:
            if reason := why_not_free(address, port):
                return reason
        return ""

    def _say(self, reason: str) -> None:
        if reason != self.down:
            self.down = reason
            self._changed()

    def _signal(self, number: signal.Signals) -> None:
        if self.pid:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)


class _Log:
    """A log file for a child: appended to, begun anew when it has grown too big, readable by its owner only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def __enter__(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        if self._path.exists() and self._path.stat().st_size > MAX_LOG:
            flags |= os.O_TRUNC
        self._descriptor = os.open(self._path, flags, 0o600)
        return self._descriptor

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def _words(status: int) -> str:
    if status >= 0:
        return f"with status {status}"
    try:
        return f"by {signal.Signals(-status).name}"
    except ValueError:
        return f"by signal {-status}"


def _last_words(path: Path) -> str:
    """Return the last line of a log that says something, made harmless; an Envoy's assertion rather than its trace."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    telling = [line for line in lines if "assert failure" in line] or lines
    words = next((text for line in reversed(telling) if (text := _PREFIX.sub("", line).strip())), "")
    shown = "".join(character if character.isprintable() else "?" for character in words)[:300]
    return f", its last words: {shown}" if shown else ""


# ------------------------------------------------------------------------------------------------------- ports


def why_not_free(address: str, port: int) -> str:
    """Say why a TCP port can't be bound, and who should free it; "" if it can."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return f"port {port} of {address} is taken by {holder(port)}: stop that, or choose another port"
            if error.errno in {errno.EACCES, errno.EPERM}:
                return f"port {port} of {address} needs more rights than this user has: choose a port above 1023"
            if error.errno == errno.EADDRNOTAVAIL:
                return f"this machine has no address {address}: only Linux has all of 127.0.0.0/8"
            return f"port {port} of {address} can't be used: {error.strerror}"
    return ""


def holder(port: int) -> str:
    """Return in words which process listens on a TCP port, as far as this user may know (Linux)."""
    inodes = {inode for table in ("tcp", "tcp6") for inode in _listeners(Path("/proc/net", table), port)}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(_inode(descriptor) in inodes for descriptor in (process / "fd").iterdir()):
                name = (process / "comm").read_text(errors="replace").strip()
                return f"process {process.name} ({''.join(c for c in name if c.isprintable())})"
        except OSError:
            continue
    return "another process"


def _listeners(table: Path, port: int) -> set[str]:
    try:
        rows = [line.split() for line in table.read_text().splitlines()[1:]]
    except OSError:
        return set()
    return {row[9] for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port}


def _inode(descriptor: Path) -> str:
    try:
        return str(descriptor.readlink()).removeprefix("socket:[").removesuffix("]")
    except OSError:
        return ""
