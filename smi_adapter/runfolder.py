"""The private folder of one run: where it is, who holds it, and the socket on which the run says what it does.

Chosen by the real path of the served directory, so that `smi-adapter status --source DIR` finds it. Light to import.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

_SOCKET = "status.sock"
_LONGEST_SOCKET = 100  # the kernel takes 107 bytes on Linux, 103 on macOS
_PREFIX = "smi-adapter-"


class AlreadyRunningError(RuntimeError):
    """Another run serves this directory; the message names its process."""


class StateFolderError(RuntimeError):
    """The folder for a run's files cannot be used; the message says why and what to do."""


def state_folder(source: Path) -> Path:
    """Return where a run on that directory keeps its files: private, the same for each run on it, however spelled."""
    digest = hashlib.sha256(os.fsencode(source.resolve())).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"{_PREFIX}{os.getuid()}" / digest


def status_socket(state: Path) -> Path:
    """Return where the run that keeps its files there answers: in that folder, unless its path is too long for one."""
    path = state.absolute() / _SOCKET
    if len(os.fsencode(path)) <= _LONGEST_SOCKET:
        return path
    digest = hashlib.sha256(os.fsencode(state.absolute())).hexdigest()[:12]
    return Path("/tmp") / f"{_PREFIX}{os.getuid()}" / f"{digest}.sock"  # noqa: S108 - a private folder, see above


def read_status(state: Path) -> dict[str, Any]:
    """Ask the run that keeps its files in that folder; ConnectionError if there is none."""
    return asyncio.run(_ask(status_socket(state)))


async def _ask(socket: Path) -> dict[str, Any]:
    try:
        reader, writer = await asyncio.open_unix_connection(socket)
    except OSError as error:
        raise ConnectionError(f"nobody answers at {socket}") from error
    try:
        answer: dict[str, Any] = json.loads(await asyncio.wait_for(reader.read(), 5.0))
    finally:
        writer.close()
    return answer


def private_folder(folder: Path) -> None:
    """Make a folder that only we can enter; one of somebody else is refused."""
    ours = (folder.parent, folder) if folder.parent.name.startswith(_PREFIX) else (folder,)
    for place in ours:
        if place.exists() and not place.is_dir():
            raise StateFolderError(f"{place} is no folder; name another one with --state")
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise StateFolderError(f"{place} cannot be made: {why}; name another folder with --state") from error
        if place.stat().st_uid != os.getuid():
            raise StateFolderError(f"{place} belongs to somebody else; name another folder with --state")
        place.chmod(0o700)


def lock(folder: Path) -> Any:
    """Hold the folder for this run; the lock goes with the process, however it ends."""
    file = (folder / "lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise AlreadyRunningError(f"process {holder} serves this directory already; stop it first") from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file
