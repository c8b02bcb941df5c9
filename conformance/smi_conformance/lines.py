"""A program that answers JSON lines with JSON lines: how it is asked, and how it ends with all that it started.

Drivers are other people's programs. One that dies, keeps silent, writes what is no answer or leaves processes behind is
noticed by itself and told at once, and nothing of it stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import math
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from smi_conformance.protocol import HarnessError

_ONCE_MORE = 10.0
"""Seconds for the next request after one that was not answered."""
_GRACE = 1.0
_WORTHLESS = 10_000
_SHOWN = 200
_NAMED = 5
_LINE = 64 * 1024 * 1024


class Lines:
    """A process that answers JSON lines with JSON lines, matched by `id`, and all that it starts.

    It leads a group of processes, which ends with it: what a driver has started and lost sight of, too.
    """

    def __init__(self, what: str, *, cancels: bool = False) -> None:
        self._what = what
        self._cancels = cancels
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._log: Path | None = None
        self._rubbish = b""
        self._worthless = 0
        self._unanswered: list[str] = []
        self._silent = 0.0
        """When the first of them was given up."""
        self._asked: dict[int, tuple[float, float]] = {}
        """When each that is waited for was asked, and until when it may be answered."""
        self.answers = False
        """Whether it answered anything, and the last request too: otherwise it would not answer `stop`."""
        self.gone = ""

    async def start(self, command: Sequence[str], directory: Path | None = None, log: Path | None = None) -> None:
        """Start the process."""
        self._log = log
        errors: Any = log.open("ab") if log else None
        try:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                cwd=directory,
                limit=_LINE,
                start_new_session=True,  # ^C is for us; we end it in an orderly way
            )
        except OSError as error:
            raise HarnessError(f"{self._what} {command[0]!r} can't be started: {error}") from error
        finally:
            if errors:
                errors.close()
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        """Read answers until it ends, even if what it started holds its stdout open; then tell all who wait."""
        assert self._process is not None  # noqa: S101 - `start` ran
        reading = asyncio.create_task(self._answers())
        ending = asyncio.create_task(_ended(self._process, look=0.2))
        try:
            await asyncio.wait({reading, ending}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({reading, ending}, timeout=_GRACE)  # its last words; its exit code
        finally:
            reading.cancel()
            ending.cancel()
        code = self._process.returncode
        ended = "closed its stdout" if code is None else f"ended (exit code {code})"
        self.gone = self.gone or f"{self._what} {ended}{''.join(f': {line}' for line in self.said()[-1:])}"
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(HarnessError(self.gone))

    async def _answers(self) -> None:
        assert self._process is not None  # noqa: S101 - `start` ran
        assert self._process.stdout is not None  # noqa: S101
        try:
            while line := await self._process.stdout.readline():
                self._take(line)
                if self._worthless >= _WORTHLESS:
                    self.gone = f"{self._what} writes what is no answer{self._last()}"
                    return
        except ValueError:
            self.gone = f"{self._what} wrote a line of more than {_LINE >> 20} MiB"

    def _take(self, line: bytes) -> None:
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            answer = None
        number = answer.get("id") if isinstance(answer, dict) else None
        if not isinstance(answer, dict) or type(number) is not int:
            self._rubbish = line  # something printed to stdout; not ours
            self._worthless += 1
            return
        self._worthless, self.answers = 0, True
        self._unanswered.clear()
        future = self._waiting.pop(number, None)
        if future is not None and not future.done():
            future.set_result(answer)

    def _last(self) -> str:
        """Return the last line that was no answer, for a message: who answers with a mistake sees it there."""
        text = self._rubbish[:_SHOWN].decode(errors="replace").strip()
        return f"; a line of its stdout that is no answer: {text!r}" if self._rubbish else ""

    def said(self) -> list[str]:
        """Return what it wrote to stderr, the last lines."""
        try:
            return self._log.read_text(errors="replace").strip().splitlines()[-5:] if self._log else []
        except OSError:
            return []

    async def ask(self, message: Mapping[str, Any], patience: float) -> dict[str, Any]:
        """Send a message and return the answer."""
        if self.gone or self._process is None or self._process.stdin is None:
            raise HarnessError(self.gone or f"{self._what} is not running")
        number = next(self._ids)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        self._process.stdin.write(json.dumps({"id": number, **message}).encode() + b"\n")
        now = time.monotonic()
        if self._unanswered and "op" in message and not self._busy(now):
            patience = min(patience, _ONCE_MORE)
        self._asked[number] = now, now + patience
        try:
            async with asyncio.timeout(patience):
                answer = await future
        except TimeoutError:
            raise HarnessError(self._deaf(message, patience, now)) from None
        except asyncio.CancelledError:
            if self._cancels:
                self.tell({"cancel": number})
            raise
        finally:
            self._waiting.pop(number, None)
            self._asked.pop(number, None)
        if "error" in answer:
            raise HarnessError(f"{self._what}: {answer['error']}")
        return answer

    def tell(self, message: Mapping[str, Any]) -> None:
        """Send a message that has no answer."""
        if self._process is not None and self._process.stdin is not None and not self.gone:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")

    def _deaf(self, message: Mapping[str, Any], patience: float, asked: float) -> str:
        """Take down that a request was not answered. One that was asked after that is the last: nobody is there."""
        now = time.monotonic()
        self._silent = self._silent if self._unanswered else now
        self._unanswered.append(f"{message.get('op', 'a batch')} in {patience:.0f} s")
        words = f"{self._what} did not answer {', nor '.join(self._unanswered)}{self._last()}"
        self.answers = False
        if asked > self._silent and "op" in message and not self._busy(now):
            self.gone = self.gone or words
        return words

    def _busy(self, now: float) -> bool:
        """Tell whether it may still be at something else that it was asked before, such as a slow `deploy`."""
        return any(asked <= self._silent and until > now for asked, until in self._asked.values())

    @property
    def deaf(self) -> bool:
        """Tell whether it left the last request without an answer, or writes what is none."""
        return bool(self._unanswered or self._worthless >= _WORTHLESS)

    @property
    def alive(self) -> int:
        """Return the id of its process; 0: it does not run."""
        return self._process.pid if self._process is not None and self._process.returncode is None else 0

    async def stop(self, patience: float = 20.0) -> str:
        """Close its stdin, which tells it to end; end what did not end by itself, and return what that was."""
        process = self._process
        if process is None:
            return ""
        said = ""
        try:
            if process.stdin is not None:
                process.stdin.close()
            if not await _ended(process, patience):
                said = f"{self._what} did not end in {patience:.0f} s"
            else:
                await _until(lambda: not _members(process.pid), _GRACE)
        finally:
            ended = _kill(process)
        if said or ended:
            said = f"{said or f'{self._what} left processes behind'}; ended: {ended or process.pid}"
            await _until(lambda: not _members(process.pid), _GRACE)  # being killed takes a moment
        await _ended(process, _GRACE)
        if self._reader is not None:
            await asyncio.gather(self._reader, return_exceptions=True)
        process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001 - who left our group may hold its stdout
        await asyncio.sleep(0)
        return said


async def _until(done: Callable[[], bool], patience: float, look: float = 0.02) -> bool:
    deadline = time.monotonic() + patience
    while not done():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(look)
    return True


async def _ended(process: asyncio.subprocess.Process, patience: float = math.inf, look: float = 0.02) -> bool:
    """Wait until a process has ended: asyncio's own wait lasts until nobody holds its stdout open any more."""
    return await _until(lambda: process.returncode is not None, patience, look)


def _kill(process: asyncio.subprocess.Process) -> str:
    """Kill what is left of a process's group and return what that was; the id of an empty group may be another's."""
    found = [f"{name} ({number})" for number, name in _members(process.pid)]
    if found or process.returncode is None or not Path("/proc/self/stat").exists():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    return ", ".join(found[:_NAMED]) + (f" and {len(found) - _NAMED} more" if found[_NAMED:] else "")


def _members(group: int) -> list[tuple[int, str]]:
    """Return the processes of a group and their names, where there is a /proc; without those that have ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            number, _, rest = path.read_text(errors="replace").partition(" (")
            name, _, fields = rest.rpartition(") ")
            state, _, its = fields.split()[:3]
            if int(its) == group and state not in "ZX":
                found.append((int(number), name))
    return sorted(found)
