"""What the webhook asks the compiler leaves no trace in it, however the world goes on."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from smi_adapter import app
from smi_adapter.backends import load
from smi_adapter.findings import Ref
from smi_adapter.snapshot import Options
from smi_adapter.sources.controllers import Memory, reconcile
from smi_adapter.sources.files import read_tree

WORLD: dict[Ref, Any] = dict(
    reconcile(read_tree(Path(__file__).parents[3] / "examples/bookstore").objects, Memory()).objects
)
REFS = sorted(WORLD)


def changed(luck: Random) -> dict[Ref, Any]:
    """Return a change of one to three objects: taken away, put back, or with other numbers and names in it."""
    found: dict[Ref, Any] = {}
    for ref in luck.sample(REFS, luck.randint(1, 3)):
        text = json.dumps(WORLD[ref])
        for old, new in (
            (": 50", ": 7"),
            ("bookstore-v2", "bookstore-v1"),
            ('"GET"', '"POST"'),
            ("bookbuyer", "bookthief"),
        ):
            text = text.replace(old, new) if luck.random() < 0.3 else text
        made = json.loads(text)
        made["metadata"] = WORLD[ref]["metadata"]
        found[ref] = luck.choice([None, WORLD[ref], made])
    return found


@settings(max_examples=30)
@given(st.integers(0, 2**32))
def test_a_question_changes_nothing_and_its_answer_comes_true(seed: int) -> None:
    luck = Random(seed)
    asked, silent = (app.Compiler(load("envoy"), Options()) for _ in range(2))
    asked.apply(WORLD)
    silent.apply(WORLD)
    for _ in range(8):
        change = changed(luck)
        asked.would(changed(luck))
        foreseen = asked.would(change)
        asked.would(changed(luck))
        came, wanted = asked.apply(change), silent.apply(change)
        assert came.rendered == wanted.rendered == foreseen.rendered
        assert came.findings() == wanted.findings() == foreseen.findings()
        assert came.translation.mesh == wanted.translation.mesh
