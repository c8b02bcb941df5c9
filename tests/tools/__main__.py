# ruff: noqa: T201 - a command line
"""Build sets of tools and print their folders: `python -m tests.tools [--list | --have SET | SET ...]`."""

from __future__ import annotations

import argparse
import sys

from tests.tools import SETS, ToolError, build, is_there


def _say(line: str) -> None:
    if sys.stderr.isatty():
        end = "\r" if " packages, " in line else "\n"
        print(f"\x1b[K{line}", end=end, file=sys.stderr, flush=True)
    else:
        print(line, file=sys.stderr, flush=True)


def main() -> int:
    """Build what is missing; 0 if everything asked for is there."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools", description="Build the programs that tests run.")
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"of {', '.join(SETS)} (default: kubernetes)")
    parser.add_argument("--list", action="store_true", help="say what there is and whether it is built")
    parser.add_argument("--have", metavar="SET", help="build nothing; exit 0 if the set is built, 1 if not")
    wanted = parser.parse_args()
    if unknown := {*wanted.sets, *([wanted.have] if wanted.have else [])} - SETS.keys():
        parser.error(f"no such set: {', '.join(sorted(unknown))}; there are: {', '.join(SETS)}")
    if wanted.have:
        return 0 if is_there(wanted.have) else 1
    try:
        if wanted.list:
            for name, toolset in SETS.items():
                state = "built" if is_there(name) else "not built"
                print(f"{name:12} {toolset.version:10} {state:10} {toolset.purpose}")
            return 0
        for name in wanted.sets or ["kubernetes"]:
            print(f"{name}: {build(name, _say)}")
    except ToolError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
