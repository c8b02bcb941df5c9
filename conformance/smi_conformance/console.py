"""The console as a run sees it: what can't be printed is lost and noted, and the run goes on.

Whoever reads our output may go away (`| head`), its disk may be full: neither says anything about a mesh, and the
report counts whether or not somebody listens.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any, TextIO


class _Raw(io.FileIO):
    """A file descriptor on which writing always works."""

    def __init__(self, number: int) -> None:
        super().__init__(number, "w", closefd=False)
        self.trouble: OSError | None = None

    def write(self, data: Any) -> int:
        """Write; take down why it did not work."""
        try:
            return super().write(data)
        except OSError as error:
            self.trouble = error
            return len(data)


class Console:
    """Takes the place of stdout and stderr."""

    def __init__(self) -> None:
        for number in (1, 2):  # closed: whatever was opened next would get the number, and what is printed
            try:
                os.fstat(number)
            except OSError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)
        self._out, self._err = _Raw(1), _Raw(2)
        if sys.stdout is None:
            self._out.trouble = OSError(errno.EBADF, os.strerror(errno.EBADF))
        sys.stdout = sys.__stdout__ = _text(self._out, sys.stdout)  # type: ignore[assignment,misc]
        sys.stderr = sys.__stderr__ = _text(self._err, sys.stderr)  # type: ignore[assignment,misc]

    def trouble(self) -> str:
        """Return why something could not be printed on stdout; "": all of it was."""
        sys.stdout.flush()
        sys.stderr.flush()
        return (self._out.trouble.strerror or str(self._out.trouble)) if self._out.trouble else ""

    @property
    def left(self) -> bool:
        """Tell whether nobody reads any more, which needs no word."""
        return self._out.trouble is not None and self._out.trouble.errno == errno.EPIPE


def _text(raw: _Raw, old: TextIO | None) -> TextIO:
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=old.encoding if old else "utf-8",
        errors="backslashreplace",
        line_buffering=raw.isatty() or raw.fileno() == 2,
    )
