"""What is printed while cases are played."""

from __future__ import annotations

import io
import sys

import pytest

from smi_conformance.plugin import Progress
from smi_conformance.runner import Instance, Outcome, Verdict, instances


def outcome(instance: Instance, reason: str) -> Outcome:
    return Outcome(instance, (Verdict("must", "error", reason),))


def test_a_trouble_that_goes_on_is_told_in_full_once(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "__stdout__", out)
    progress = Progress(4)
    for instance, reason in zip(instances(), ("it is gone", "it is gone", "another", "another"), strict=False):
        progress.tell(outcome(instance, reason))
    lines = out.getvalue().splitlines()
    assert [line.split(maxsplit=2)[2] for line in lines[:4]] == ["it is gone", "(the same)", "another", "(the same)"]


def test_what_is_waited_for_is_told_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "__stdout__", out)
    Progress(4).say("waiting for pods")
    assert out.getvalue() == "waiting for pods\n"
