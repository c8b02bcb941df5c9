"""`python -m smi_conformance` is `smi-conformance`."""

from __future__ import annotations

import sys


def entry() -> None:
    """Run the command line; ^C counts from the first moment on, while there is nothing yet to be removed."""
    try:
        from smi_conformance import cli  # noqa: PLC0415 - takes long enough for a ^C

        cli.entry()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    entry()
