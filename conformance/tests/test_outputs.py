"""Where a run writes: a device or a pipe stays what it is, nothing is written over, what can't be is told at first."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from conformance.tests.test_bad_input import HERE, TARGET, Place, full, place
from smi_conformance import report

__all__ = ["full", "place"]
SHORT = ("-k", "API-07", "--profile", "ACCESS-L4")


def suite(folder: Path, *words: str) -> tuple[int, str]:
    """Run another command than `run`."""
    done = subprocess.run(
        [sys.executable, "-m", "smi_conformance", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_full_device_stays_one_and_that_nothing_was_written_is_told(place: Place, full: Path) -> None:
    place.report = full
    code, said = place.run(*SHORT)
    assert code == 5, said
    assert f"the report could not be written: {full}: No space left on device" in said
    assert stat.S_ISCHR(full.stat().st_mode)


def test_what_is_written_into_a_pipe_is_the_report_and_the_pipe_stays(place: Place) -> None:
    """Twice, as what is known after each of several runs goes into a file, and into a pipe only the last."""
    place.report = place.folder / "pipe"
    os.mkfifo(place.report)
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(place.report.read_text()), daemon=True)
    reader.start()
    code, said = place.run(*SHORT, "--repeat", "2")
    reader.join(10)
    assert code == 0, said
    assert stat.S_ISFIFO(place.report.stat().st_mode)
    assert got[0].count("kind: ConformanceReport") == 1


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_one_and_its_file_is_written(place: Place, there: bool) -> None:  # noqa: FBT001
    place.report = place.folder / "link.yaml"
    file = place.folder / "elsewhere.yaml"
    place.report.symlink_to(file.name)
    if there:
        file.write_text("old")
        file.chmod(0o640)
    code, said = place.run(*SHORT)
    assert code == 0, said
    assert place.report.is_symlink()
    assert report.read(file)["kind"] == "ConformanceReport"
    assert not there or stat.S_IMODE(file.stat().st_mode) == 0o640


def test_a_report_to_stdout_comes_after_what_was_printed_and_does_not_take_its_place(place: Place) -> None:
    place.report = Path("/dev/stdout")
    code, said = place.run(*SHORT)
    assert code == 0, said
    assert "passed       API-07[v1alpha4]" in said.partition("kind: ConformanceReport")[0]
    assert "the report is in /dev/stdout" in said.partition("kind: ConformanceReport")[2]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--report", "target.yaml"), "--report: target.yaml is the file of --target, too"),
        (("--report", "a", "--junit", "./a"), "--junit: ./a is the file of --report, too"),
        (("--report", "a", "--html", "a"), "--html: a is the file of --report, too"),
        (("--html", "a", "--junit", "link"), "--junit: link is the file of --html, too"),
        (("--expect-failures", "known.yaml", "--html", "known.yaml"), "is the file of --expect-failures, too"),
        (("--report", "scratch"), "--report: scratch is a folder"),
        (("--report", "target.yaml/report.yaml"), "target.yaml"),
    ],
)
def test_nothing_is_written_over_what_was_read_or_written(place: Place, options: tuple[str, ...], words: str) -> None:
    (place.folder / "known.yaml").write_text("[]\n")
    (place.folder / "link").symlink_to("a")
    before = (place.folder / "target.yaml").read_text()
    code, said = place.run(*SHORT, *options)
    assert code == 2, said
    assert words in said
    assert "Traceback" not in said
    assert (place.folder / "target.yaml").read_text() == before


def test_a_page_does_not_take_the_place_of_its_report(place: Place) -> None:
    place.run(*SHORT)
    before = place.report.read_text()
    code, said = suite(place.folder, "page", "report.yaml", "./report.yaml")
    assert (code, place.report.read_text()) == (2, before), said


def test_a_folder_that_is_missing_is_made_and_told_by_run_and_page_alike(place: Place) -> None:
    place.report = place.folder / "new" / "one" / "report.yaml"
    code, said = place.run(*SHORT)
    assert code == 0, said
    assert said.startswith(f"the folder {place.report.parent} was not there and has been made\n")
    code, said = suite(place.folder, "page", str(place.report), "other/page.html")
    assert code == 0, said
    assert said.startswith(f"the folder {place.folder / 'other'} was not there and has been made\n")


def test_a_page_is_one_whatever_it_is_called(place: Place) -> None:
    code, said = place.run(*SHORT, "--html", "page")
    assert code == 0, said
    assert (place.folder / "page").read_text().startswith("<!doctype html>")


def test_the_junit_file_of_a_repeated_run_has_the_worst_of_its_runs(place: Place) -> None:
    """Let the first run fail and the second one pass: the driver counts its starts."""
    place.target({**TARGET, "local": {"driver": ["sh", str(place.folder / "driver")]}})
    (place.folder / "driver").write_text(
        f"[ -e {place.folder}/again ] || export SMI_PLAIN=closed; touch {place.folder}/again\n"
        f"exec {sys.executable} {HERE / 'plain_driver.py'}\n"
    )
    code, said = place.run("-k", "TS-01,TS-33", "--quick", "--deadline", "1", "--repeat", "2", "--junit", "junit.xml")
    assert code == 1, said
    (found,) = ET.parse(place.folder / "junit.xml").getroot()  # noqa: S314 - our own
    assert (found.get("tests"), found.get("failures"), found.get("skipped")) == ("2", "1", "1")
    cases = {case.get("name"): case for case in found}
    assert "refused" in str(cases["TS-01[v1alpha4]"][0].get("message"))
    assert cases["TS-33[v1alpha4]"][0].tag == "skipped"


def test_a_case_without_a_verdict_is_an_error_for_junit_too(place: Place) -> None:
    place.run("-k", "TS-01", "--junit", "junit.xml", mode="dies")
    (found,) = ET.parse(place.folder / "junit.xml").getroot()  # noqa: S314 - our own
    assert (found.get("errors"), found.get("failures")) == ("1", "0")


@pytest.mark.parametrize("option", ["-k", "--profile", "--versions"])
@pytest.mark.parametrize("value", ["", " ,"])
def test_an_empty_selection_does_not_play_everything(place: Place, option: str, value: str) -> None:
    code, said = place.run(option, value)
    assert code == 2, said
    assert f"{option} is empty" in said


def test_blanks_between_names_do_not_matter(place: Place) -> None:
    code, said = place.run("-k", "API-07, TS-33", "--profile", "ACCESS-L4 , SPLIT", "--quick")
    assert code == 0, said
    assert set(place.rows()) == {"API-07", "TS-33"}


def test_a_case_can_be_named_as_it_is_printed(place: Place) -> None:
    code, said = place.run("-k", "API-07[v1alpha4]", "--profile", "ACCESS-L4")
    assert code == 0, said
    assert report.read(place.report)["settings"]["selection"]["versions"] == ["v1alpha4"]
    code, said = suite(place.folder, "explain", "TS-20[v1alpha2]")
    assert code == 0, said
    assert "Manifests under v1alpha2" in said
    code, said = place.run("-k", "TS-01[v1alpha3],TS-02")
    assert code == 2
    assert "TS-01[v1alpha3] is an id with a version: TS-01, and --versions v1alpha3" in said


def printing(place: Place, ending: str, *words: str) -> tuple[int, str]:
    """Run a command whose stdout goes somewhere else; return its exit code and its stderr."""
    line = " ".join((sys.executable, "-m", "smi_conformance", *words, ending))
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "TMPDIR": str(place.scratch)}
    shell = ["bash", "-o", "pipefail", "-c", line]
    done = subprocess.run(
        shell, cwd=place.folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stderr


RUN = ("run", "--target", "target.yaml", "--versions", "v1alpha4", *SHORT, "--report", "report.yaml")


def test_a_run_whose_output_nobody_reads_goes_to_its_end(place: Place) -> None:
    code, said = printing(place, "| true", *RUN)
    assert (code, said) == (5, "")
    assert place.rows()["API-07"]["result"] == "passed"


def test_a_full_or_closed_stdout_is_told_and_takes_no_verdict_away(place: Place, full: Path) -> None:
    code, said = printing(place, f"> {full}", *RUN)
    assert (code, said) == (5, "not all could be printed: No space left on device\n")
    assert place.rows()["API-07"]["result"] == "passed"
    code, said = printing(place, ">&-", *RUN)
    assert (code, said) == (5, "not all could be printed: Bad file descriptor\n")


def test_a_list_that_is_cut_short_is_no_traceback(place: Place) -> None:
    assert printing(place, "| head -1", "list") in {(5, ""), (0, "")}
    assert printing(place, "", "explain", "TS-99")[0] == 2


@pytest.mark.parametrize("after", [0.02, 0.1, 0.2, 0.3, 0.45])
def test_an_interruption_is_none_of_ours_however_early_it_comes(place: Place, after: float) -> None:
    process = place.start("-k", "TS-06", "--deadline", "30")
    threading.Event().wait(after)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=30)
    # Until Python has come to us it ends in its own ways: by the signal, or with a traceback that is all its own.
    assert process.returncode in {130, -signal.SIGINT} or "KeyboardInterrupt" in said, said
    assert not re.search(r'File "[^"]*smi_conformance[^"]*\.py"', said), said
    assert place.left() == []
