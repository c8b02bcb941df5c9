"""Every row of faults that the cluster mode promises to survive has its named test on the real API server.

A row is bound to its tests by their names: `test_f07_...` is a test of F7. This is the one list of rows: one without
a test fails, and so does a test of a row that is not here.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent
NAME: Final = re.compile(r"test_f(\d+)_")

ON_THE_API_SERVER: Final = {
    1: "the API server is down at the start",
    2: "the API server is down while we run",
    3: "the API server restarts twenty times",
    4: "etcd was compacted: 410 in its three shapes",
    5: "a watch stalls silently",
    6: "an object is deleted while we are disconnected",
    7: "a namespace is deleted while no controller runs",
    8: "429, 500, and answers that take ten seconds",
    10: "a crash between two writes",
    11: "of two replicas one is stale",
    12: "the leader loses the API server, or a call hangs",
    13: "two think that they lead",
    17: "ten thousand objects of which 30 % are invalid",
    18: "patterns that RE2 refuses, or that are too big",
    19: "huge and deep objects",
    20: "CRDs that are missing, come, go, and change their versions",
    21: "objects that are stored under another version",
    22: "a webhook is down",
    24: "names that look alike, and two splits on one root",
    25: "hostile text in every field",
    41: "a generated object is edited or deleted by hand",
    42: "a task dies inside the controller",
}
"""What issue 5 names, by the numbers of the table of faults; each needs a test in `tests/apiserver`."""

ELSEWHERE: Final = {
    14: "a replica is frozen",
    23: "impossible weights",
    37: "the Secret of the authority is deleted or garbage",
    38: "out of memory, disk or file descriptors",
    39: "SIGTERM under load",
}
"""Rows that have tests already, wherever they are."""


def found() -> dict[int, list[str]]:
    tests: defaultdict[int, list[str]] = defaultdict(list)
    for path in sorted(ROOT.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (match := NAME.match(node.name)):
                tests[int(match[1])].append(f"{path.relative_to(ROOT)}::{node.name}")
    return tests


def test_every_row_has_a_test_on_the_real_api_server() -> None:
    tests = found()
    bare = [
        f"F{number}: {title}"
        for number, title in ON_THE_API_SERVER.items()
        if not any(name.startswith("apiserver/") for name in tests[number])
    ]
    assert not bare


def test_every_test_of_a_row_names_one_that_is_known() -> None:
    assert not {number: names for number, names in found().items() if number not in ON_THE_API_SERVER | ELSEWHERE}
