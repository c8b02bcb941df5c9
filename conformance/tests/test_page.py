"""The page that is made of a report: what somebody sees who has nothing else."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from click.testing import CliRunner

from conformance.tests.test_report import made, ran, target
from smi_conformance import report
from smi_conformance.cli import main
from smi_conformance.page import page
from smi_conformance.target import Target

__all__ = ["target"]
COMMITTED = Path(__file__).parents[1] / "reports" / "smi-adapter" / "report.yaml"


def card(text: str, profile: str) -> str:
    found = re.search(rf"<div class=card><b>{profile}</b>.*?</div>", text)
    assert found
    return found[0]


def test_what_failed_of_a_profile_that_nobody_claims_is_told_and_is_no_failure_of_the_whole(target: Target) -> None:
    run = ran(target, ("TS-20", "v1alpha4", "failed"), ("UR-01", "v1alpha4", "failed"))
    run.profiles = ("SPLIT", "ACCESS-L4")
    text = page(report.build(run))
    assert "<span class=failed>failure</span>" in card(text, "SPLIT")
    assert "<span class=unclaimed>failure</span> · not claimed, for information" in card(text, "ACCESS-L4")
    assert "failed: <a href='#UR-01'>UR-01[v1alpha4]</a>" in card(text, "ACCESS-L4")
    (split,) = re.findall(r"<tr id=TS-20>.*?<span class=(\w+)", text)
    (udp,) = re.findall(r"<tr id=UR-01>.*?<span class=(\w+)", text)
    assert (split, udp) == ("failed", "unclaimed")


def test_the_page_says_why_a_report_cannot_be_handed_in(target: Target) -> None:
    text = page(made(target, ("TS-20", "v1alpha4", "passed")))
    assert "<b>Not submittable</b>: the run was quick; " in text
    assert "of these profiles did not run" in text
    assert "<b>Submittable</b>: complete" in page(report.read(COMMITTED))


def test_a_report_of_another_catalogue_is_shown_without_being_worked_out_again(target: Target) -> None:
    found = made(target, ("TS-20", "v1alpha4", "passed"))
    found["suite"]["catalogDigest"] = "sha256:" + "0" * 64
    assert "<b>Not submittable</b>: made with another catalogue." in page(found)


def test_settings_are_text(target: Target) -> None:
    run = ran(replace(target, profiles=("SPLIT",)), ("TS-20", "v1alpha4", "passed"))
    run.selection = {"cases": ["TS-20"], "versions": ["v1alpha4"]}
    text = page(report.build(run)).partition("<h2>Settings</h2>")[2]
    assert "<dt>selection<dd>cases: TS-20; versions: v1alpha4" in text
    assert "<dt>quick<dd>yes" in text
    assert not set("{}[]") & set(text)


def test_a_page_can_be_made_of_a_report_again(target: Target, tmp_path: Path) -> None:
    found = made(target, ("TS-20", "v1alpha4", "passed"))
    report.write(found, tmp_path / "report.yaml")
    done = CliRunner().invoke(main, ["page", str(tmp_path / "report.yaml"), str(tmp_path / "report.html")])
    assert (done.exit_code, (tmp_path / "report.html").read_text()) == (0, page(found)), done.output


def test_the_committed_page_is_that_of_the_committed_report() -> None:
    assert COMMITTED.with_suffix(".html").read_text(encoding="utf-8") == page(report.read(COMMITTED))
