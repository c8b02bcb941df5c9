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


def test_a_version_that_is_not_served_is_told_once_and_its_cases_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "__stdout__", out)
    progress = Progress(4)
    for instance, version in zip(instances(), "1122", strict=False):
        why = f"split.smi-spec.io/v1alpha{version} is not served"
        progress.tell(Outcome(instance, (Verdict("must", "notServed", why),)))
    assert out.getvalue().splitlines() == [
        "notServed    split.smi-spec.io/v1alpha1 is not served: counted, not listed",
        "notServed    split.smi-spec.io/v1alpha2 is not served: counted, not listed",
        "4/4 in 0 s: 4 notServed",
    ]


def test_what_is_waited_for_is_told_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "__stdout__", out)
    Progress(4).say("waiting for pods")
    assert out.getvalue() == "waiting for pods\n"
