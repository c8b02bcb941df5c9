"""How the benchmark talks to its processes: one JSON object a line, a request on stdin, its answer on stdout.

Whatever is measured has a process of its own, so that its CPU time and memory are its own too. `time.monotonic_ns`
is the machine's clock: times of different processes may be compared. A child ends with its parent, however that ends.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self, TypeAlias

Message: TypeAlias = dict[str, Any]

_PR_SET_PDEATHSIG = 1


class ChildError(RuntimeError):
    """A child process failed; the message ends with what it wrote to stderr."""


class Child:
    """A process running one of this package's modules. `ask` = `tell` + `answer`; start it from the main thread."""

    def __init__(self, module: str, arguments: Mapping[str, Any] | None = None) -> None:
        self._module = module
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - closed in `close`
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{module}", json.dumps(arguments or {})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self._process.pid

    def tell(self, command: str, **fields: Any) -> None:
        """Send a request and return at once; its answer must be taken with `answer` before the next request."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": command, **fields}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None

    def answer(self) -> Message:
        """Wait for the answer."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._failure()
        answered: Message = json.loads(line)
        if "error" in answered:
            raise ChildError(f"{self._module}: {answered['error']}\n{self._log()}")
        return answered

    def ask(self, command: str, **fields: Any) -> Message:
        """Send a request and wait for its answer."""
        self.tell(command, **fields)
        return self.answer()

    def kill(self) -> None:
        """End the process at once, as a crash would."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End the process."""
        self.kill()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            try:
                stream.close()
            except BrokenPipeError:
                continue
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _log(self) -> str:
        self._errors.seek(0)
        return self._errors.read()[-3000:]

    def _failure(self) -> ChildError:
        self._process.wait(5)
        return ChildError(f"{self._module} ended with {self._process.returncode}\n{self._log()}")


def arguments() -> Message:
    """Return, in a child, what it was started with; from here on it ends with its parent."""
    _die_with_parent()
    given: Message = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    return given


def requests() -> Iterator[Message]:
    """Yield, in a child, each request until the parent closes the channel."""
    for line in sys.stdin:
        yield json.loads(line)


def answer(**fields: Any) -> None:
    """Answer, in a child, the last request."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


async def serve(handlers: Mapping[str, Callable[..., Awaitable[Message]]]) -> None:
    """Answer, in a child with an event loop, each request with the handler of that name."""
    import asyncio  # noqa: PLC0415 - the probe, which starts often, does without

    while line := await asyncio.to_thread(sys.stdin.readline):
        request = json.loads(line)
        try:
            fields = await handlers[request.pop("do")](**request)
        except Exception as error:  # noqa: BLE001 - told to the parent, which raises it
            import traceback  # noqa: PLC0415

            traceback.print_exc()
            fields = {"error": f"{type(error).__name__}: {error}"}
        answer(**fields)


def _die_with_parent() -> None:
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)
