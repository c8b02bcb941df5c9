"""The page that is made of a report: what somebody sees who has nothing else."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from click.testing import CliRunner

from conformance.tests.test_report import made, ran, target
from smi_conformance import catalog, report
from smi_conformance.cli import main
from smi_conformance.page import _STYLE, page
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


def _luminance(color: str) -> float:
    digits = color if len(color) == 6 else "".join(digit * 2 for digit in color)
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_every_color_of_text_can_be_read_on_white_and_in_the_dark() -> None:
    """A contrast of 4.5 to 1, as the guidelines for accessibility ask for."""
    light, dark = re.findall(r":root\{([^}]*)\}", _STYLE)
    for colors, ground in ((light, "ffffff"), (dark, "121212")):
        names = dict(re.findall(r"--(\w+):#([0-9a-f]+)", colors))
        assert set(names) == {"good", "bad", "dim", "seen", "link"}
        for name, color in names.items():
            less, more = sorted((_luminance(color), _luminance(ground)))
            assert (more + 0.05) / (less + 0.05) >= 4.5, (name, ground)
    outside = re.sub(r":root\{[^}]*\}|background:#121212;color:#eee", "", _STYLE)
    assert re.findall(r"color:#\w+", outside) == [], "no other color of text"


def test_each_document_and_each_range_of_lines_has_a_link_of_its_own(target: Target) -> None:
    text = page(made(target, ("TS-20", "v1alpha4", "passed"), ("API-08", "v1alpha4", "passed")))
    (row,) = re.findall(r"<tr id=TS-20>.*", text)
    document = "apis/traffic-split/v1alpha4/traffic-split.md?plain=1"
    assert f"{document}#L108-L110'>traffic-split/v1alpha4 L108-110</a>, <a href=" in row
    assert f"{document}#L209-L212'>L209-212</a>" in row
    for entry in catalog.entries().values():
        for check in entry.checks:
            cited = len(check.lines.replace(";", "").split())
            assert len(check.links) == cited, entry.id


def test_why_a_case_failed_is_text_that_nobody_has_to_unfold(target: Target) -> None:
    run = ran(target, ("TS-20", "v1alpha4", "failed"), ("TS-21", "v1alpha4", "passed"))
    outcome = run.outcomes["TS-20[v1alpha4]"]
    verdicts = tuple(replace(verdict, reason="503 from <a> & b") for verdict in outcome.verdicts)
    run.outcomes["TS-20[v1alpha4]"] = replace(outcome, verdicts=verdicts)
    text = page(report.build(run))
    assert (
        "<details open><summary><small>observed</small></summary><pre>v1alpha4 must: 503 from &lt;a&gt; &amp; b" in text
    )
    assert text.count("<details open>") == 1


def test_the_committed_page_is_that_of_the_committed_report() -> None:
    assert COMMITTED.with_suffix(".html").read_text(encoding="utf-8") == page(report.read(COMMITTED))
