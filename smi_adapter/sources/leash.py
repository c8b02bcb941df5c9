"""Start a program that dies with whoever started it: `python -I -S leash.py PARENT PROGRAM ARGUMENTS...`.

Runs as a program of its own between the runtime and each child, then becomes the child. So nothing happens between
fork and exec in our own process, which has threads (gRPC's) that a fork would tear. The standard library only, and
few modules of it: this runs once for each process.
"""

from __future__ import annotations

import os
import signal
import sys

PR_SET_PDEATHSIG = 1
CANNOT_RUN = 127


def tie_to_parent(parent: int) -> None:
    """Ask the kernel to kill us when the parent dies (Linux); elsewhere the runtime's own stop has to do."""
    if sys.platform != "linux":
        return
    import ctypes  # noqa: PLC0415 - costs 4 ms, and only Linux needs it

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked
        os.kill(os.getpid(), signal.SIGKILL)


def main(arguments: list[str]) -> None:
    """Become the program, or say why not."""
    tie_to_parent(int(arguments[0]))
    program = arguments[1:]
    try:
        os.execvp(program[0], program)  # noqa: S606 - no shell is meant to be here
    except OSError as error:
        sys.stderr.write(f"{program[0]}: {error.strerror}\n")
        sys.exit(CANNOT_RUN)


if __name__ == "__main__":
    main(sys.argv[1:])
