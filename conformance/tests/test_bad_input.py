"""What users and implementations do wrong: a clear message, what was learned, nothing left behind, the exit code."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from smi_conformance import kubernetes, report
from smi_conformance.protocol import HarnessError
from smi_conformance.target import load

HERE = Path(__file__).parent
TARGET: dict[str, Any] = {
    "implementation": {
        "organization": "acme",
        "project": "plain",
        "url": "https://acme.example",
        "version": "v1",
        "contact": ["@acme"],
    },
    "claims": {"profiles": ["SPLIT", "ACCESS"]},
    "mesh": {"permissiveNamespaceLabels": {"open": "yes"}},
    "local": {"driver": ["python", str(HERE / "plain_driver.py")]},
}


class Place:
    """A folder with a target file, in which the command line is run unless it `stands` elsewhere.

    The suite's temporary files are in `scratch`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = self.stands = folder
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        self.report = folder / "report.yaml"
        self.target(TARGET)

    def target(self, raw: Any) -> None:
        (self.folder / "target.yaml").write_text(raw if isinstance(raw, str) else yaml.safe_dump(raw))

    def start(self, *options: str, mode: str = "", most: int = 0) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "smi_conformance", "run", "--target", str(self.folder / "target.yaml")]
        environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "SMI_PLAIN": mode, "TMPDIR": str(self.scratch)}

        def limit() -> None:
            if most:
                resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

        return subprocess.Popen(
            [*command, "--versions", "v1alpha4", "--report", str(self.report), *options],
            cwd=self.stands,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=limit,
        )

    def run(self, *options: str, mode: str = "", most: int = 0) -> tuple[int, str]:
        process = self.start(*options, mode=mode, most=most)
        said, _ = process.communicate(timeout=90)
        return process.returncode, said

    def rows(self) -> dict[str, dict[str, Any]]:
        return {row["id"]: row for row in report.read(self.report)["cases"]}

    def processes(self) -> list[str]:
        """Return the commands of processes that still know our scratch folder."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if f"TMPDIR={self.scratch}\0".encode() in path.read_bytes():
                    found.append((path.parent / "cmdline").read_text())
            except OSError:
                continue
        return [command for command in found if command]

    def left(self) -> list[str]:
        """Return the files and processes that are left."""
        return [str(path) for path in self.scratch.iterdir()] + self.processes()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """Return a device that is always full, and that only this test can lose: root could replace the machine's own."""
    path = tmp_path / "full"
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 7))
        path.open("w").close()
    except PermissionError:  # an ordinary user, who can't harm that of the machine either
        if not os.geteuid():
            pytest.skip("no device can be made here")
        path = Path("/dev/full")
    return path


def test_an_implementation_without_a_mesh_passes_what_needs_none(place: Place) -> None:
    code, said = place.run("-k", "TS-01", "--quick")
    assert (code, place.rows()["TS-01"]["result"]) == (0, "passed"), said
    assert "SPLIT      In part (1 of " in said
    assert f"the report is in {place.report}: not submittable: nothing of ACCESS was run; the run was quick; " in said
    assert place.left() == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"implementaton": {}}, "unknown field implementaton"),
        ({"claims": {"profiles": ["SPLITS"]}}, "unknown 'SPLITS'"),
        ({"claims": {"feature": ["SplitTCP"]}}, "unknown field claims.feature"),
        ({"local": {"meshes": 0}}, "local.meshes: 0"),
        ({"settings": {"maxTimeToConsistency": "soon"}}, "no duration"),
    ],
)
def test_a_target_that_says_something_unknown_is_refused_by_name(
    place: Place, change: dict[str, Any], words: str
) -> None:
    place.target({**TARGET, **change})
    code, said = place.run("-k", "TS-01")
    assert code == 2
    assert words in said
    assert not place.report.exists()


def test_a_setting_is_in_the_report_or_it_is_told_that_it_changes_nothing(place: Place) -> None:
    used = {"headers": "list", "trustDomain": "acme.example"}
    unused = {"metricsVia": "apiservice", "metricsWarmup": "60s"}
    local = {**TARGET["local"], "api": "apiserver"}
    place.target({**TARGET, "settings": {**used, **unused}, "local": local})
    code, said = place.run("-k", "TS-33")  # of a feature that is not claimed, so nothing is played
    assert code == 0, said
    for name in ("settings.metricsVia", "settings.metricsWarmup", "local.api"):
        assert f"{name} changes nothing yet: " in said
    assert said.count("changes nothing yet") == 3
    environment = report.read(place.report)["environment"]
    assert (environment["headersEncoding"], environment["trustDomain"]) == ("list", "acme.example")


def test_a_target_that_is_no_yaml_is_refused(place: Place) -> None:
    place.target("implementation: [")
    code, said = place.run("-k", "TS-01")
    assert code == 2
    assert 'in "target.yaml", line 1' in said
    assert "unicode string" not in said
    assert "Traceback" not in said


def test_a_target_that_cannot_switch_access_control_off_is_told_what_it_lacks(place: Place) -> None:
    place.target({**TARGET, "mesh": {}, "hooks": {"permissive": ["true"]}})
    code, said = place.run("-k", "TS-01,TT-01", "--quick")
    assert code == 2, said
    assert "hooks.permissive and hooks.enforce" in said
    assert not place.report.exists()
    code, said = place.run("-k", "TS-01", "--quick")
    assert code == 0, said


def test_an_unknown_id_is_refused(place: Place) -> None:
    code, said = place.run("-k", "TS-99")
    assert (code, "unknown id TS-99: TS goes from TS-01 to TS-48" in said) == (2, True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--expect-failures", "nope.yaml"), "nope.yaml"),
        (("--expect-readings", "list.yaml"), "list.yaml: is no mapping"),
        (("--expect-readings", "typo.yaml"), "typo.yaml: there is no 'TS-2'"),
        (("--expect-readings", "key.yaml"), "key.yaml: TS-35: unknown 'allzero'; known: allZero, duplicates"),
        (("--expect-readings", "flat.yaml"), "flat.yaml: TS-35: 'foo' is no mapping"),
        (("--expect-readings", "bare.yaml"), "bare.yaml: HR-17: wholeValue: True is no text"),
        (("--expect-failures", "nested.yaml"), "nested.yaml: {'TS-01[v1alpha4]': {'a': 'b'}} is neither a name"),
        (("--expect-failures", "list.yaml"), "list.yaml: there is no 'TS-01'; a name is an id with a version"),
        (("--expect-failures", "pattern.yaml"), "pattern.yaml: TS-01[v1alpha4]: '(' is no regular expression"),
        (("--deadline", "nan"), "nan is no number of seconds above 0"),
        (("--deadline", "inf"), "inf is no number of seconds above 0"),
        (("--deadline", "-1"), "-1 is no number of seconds above 0"),
        (("--deadline", "0"), "0 is no number of seconds above 0"),
        (("--repeat", "0"), "--repeat"),
        (("--parallel", "0"), "--parallel"),
    ],
)
def test_a_mistake_in_an_option_is_told_before_anything_is_run(
    place: Place, options: tuple[str, ...], words: str
) -> None:
    for name, text in {
        "list.yaml": "- TS-01",
        "typo.yaml": "TS-2: {allZero: no}",
        "key.yaml": "TS-35: {allzero: x}",
        "flat.yaml": "TS-35: foo",
        "bare.yaml": "HR-17: {wholeValue: yes}",
        "nested.yaml": '- "TS-01[v1alpha4]": {a: b}',
        "pattern.yaml": '- "TS-01[v1alpha4]": "("',
    }.items():
        (place.folder / name).write_text(text)
    code, said = place.run("-k", "TS-01", "--quick", *options)
    assert code == 2, said
    assert words in said
    assert "Traceback" not in said
    assert not place.report.exists()


def test_a_junit_file_that_cannot_be_written_is_told_and_the_verdicts_too(place: Place, full: Path) -> None:
    page, twice = place.folder / "page.html", ("--repeat", "2")
    where = ("--junit", str(full), "--html", str(page))
    code, said = place.run("-k", "API-07", "--profile", "ACCESS-L4", *where, *twice)
    assert code == 5, said
    assert "the report could not be written" not in said
    assert "API-07" in page.read_text()
    assert "the JUnit file could not be written" in said
    assert "Traceback" not in said
    assert place.rows()["API-07"]["result"] == "passed"
    assert place.left() == []


def test_a_cluster_that_does_not_answer_is_told_and_is_no_failure(place: Place) -> None:
    pytest.importorskip("aiohttp")
    config = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}],
        "users": [{"name": "u", "user": {}}],
    }
    path = place.folder / "config"
    path.write_text(yaml.safe_dump(config))
    os.environ["KUBECONFIG"] = str(path)
    try:
        code, said = place.run("-k", "TS-01", "--harness", "kubernetes")
    finally:
        del os.environ["KUBECONFIG"]
    assert code == 3
    assert "http://127.0.0.1:9 does not answer" in said
    assert place.rows()["TS-01"]["result"] == "error"


def test_an_api_server_that_accepts_and_never_answers_is_told_as_that(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(kubernetes, "_PATIENCE", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        config = {
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{silent.getsockname()[1]}"}}],
            "users": [{"name": "u", "user": {}}],
        }
        (place.folder / "config").write_text(yaml.safe_dump(config))
        monkeypatch.setenv("KUBECONFIG", str(place.folder / "config"))

        async def story() -> None:
            harness = kubernetes.KubernetesHarness(load(place.folder / "target.yaml"), "")
            try:
                with pytest.raises(HarnessError, match=r"does not answer: .*0\.5|does not answer: no answer in 0 s"):
                    await harness.start()
            finally:
                await harness.stop()

        asyncio.run(story())


def test_a_driver_that_is_no_program_is_told(place: Place) -> None:
    place.target({**TARGET, "local": {"driver": ["no-such-program"]}})
    code, said = place.run("-k", "TS-01,TS-06,TS-07")
    assert code == 3
    assert said.count("'no-such-program' can't be started") == 1, "once is enough"
    assert "Core not run (3 without a verdict)" in said
    assert "skipped" not in said
    assert place.left() == []


def test_an_implementation_that_dies_in_the_middle_is_an_error_not_a_failure(place: Place) -> None:
    code, said = place.run("-k", "TS-01,TS-06", mode="dies")
    assert code == 3, said
    rows = place.rows()
    assert {row["result"] for row in rows.values()} == {"error"}
    assert "the driver ended (exit code 7)" in rows["TS-01"]["reason"]
    assert place.left() == []


@pytest.mark.parametrize(("mode", "seen"), [("silent", "timeout"), ("closed", "refused")])
def test_an_implementation_that_answers_nothing_or_denies_everything_fails(place: Place, mode: str, seen: str) -> None:
    """Nobody passes a denial by being dead: the control of TT-01 fails."""
    code, said = place.run("-k", "TS-01,TT-01", "--quick", "--deadline", "1.5", mode=mode)
    rows = place.rows()
    assert code == 1, said
    assert [rows[name]["result"] for name in ("TS-01", "TT-01")] == ["failed", "failed"]
    assert f"last seen: {seen}" in rows["TS-01"]["reason"]
    assert place.left() == []


def test_an_implementation_that_denies_nothing_fails(place: Place) -> None:
    code, _ = place.run("-k", "TT-01", "--quick", "--deadline", "1.5")
    assert (code, place.rows()["TT-01"]["result"]) == (1, "failed")


def test_a_report_for_which_there_is_no_room_is_told_and_the_verdicts_too(place: Place) -> None:
    code, said = place.run("-k", "API-07", "--profile", "ACCESS-L4", most=1024)
    assert code == 5, said
    assert "the report could not be written" in said
    assert "passed" in said
    assert not list(place.folder.glob("*report*")), "nor is there a part of it"
    assert place.left() == []


def test_a_full_ledger_is_an_error_not_a_failure(place: Place) -> None:
    code, said = place.run("-k", "TS-06", "--deadline", "10", most=2500)
    assert place.rows()["TS-06"]["result"] == "error", said
    assert code == 3
    assert "can't write down what it receives" in said


def _interrupted(place: Place, sign: int) -> tuple[int, str]:
    """Interrupt a run after its first verdict."""
    process = place.start("-k", "TS-01,TS-06,TS-07,TS-12", "--deadline", "60", "--parallel", "1")
    assert process.stdout is not None
    first = ""
    while "TS-01" not in first:
        first = process.stdout.readline()
        assert first, "it ended"
    time.sleep(0.5)  # in the middle of the next case
    process.send_signal(sign)
    said, _ = process.communicate(timeout=60)
    return process.returncode, said


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_reports_what_it_knows_and_leaves_nothing(place: Place, sign: int) -> None:
    code, said = _interrupted(place, sign)
    assert code == 130, said
    assert "interrupted: 1 of 4 verdicts are known (1 passed)" in said
    assert f"the report has them: {place.report}" in said
    assert "everything that was created has been removed" in said
    assert "Traceback" not in said
    assert "error" not in said, "what was not played is counted, not listed"
    rows = place.rows()
    assert rows["TS-01"]["result"] == "passed"
    assert {rows[name]["result"] for name in ("TS-06", "TS-07", "TS-12")} == {"error"}
    assert report.read(place.report)["submittable"] is False
    assert place.left() == []


def test_who_interrupts_twice_is_not_kept_waiting_and_has_the_report(place: Place) -> None:
    process = place.start("-k", "TS-06", "--deadline", "60", mode="clings")
    assert process.stdout is not None
    _until_it_plays(place)
    process.send_signal(signal.SIGINT)
    line = ""
    while not line.startswith("interrupted: ending"):
        line = process.stdout.readline()
        assert line, "it ended"
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=20)  # its driver would have had 30 seconds to end
    assert process.returncode == 130, said
    assert "interrupted: 0 of 1 verdicts are known" in said
    assert "what is left is listed above" in said
    (folder,) = place.scratch.iterdir()
    assert f"left: ledgers and the driver's log in {folder}" in said
    assert "Traceback" not in said
    assert place.rows()["TS-06"]["result"] == "error"


def test_pytest_that_is_interrupted_says_what_is_known_too(place: Place) -> None:
    options = {"target": place.folder / "target.yaml", "report": place.report, "case": "TS-06", "versions": "v1alpha4"}
    code = "import signal, sys, pytest\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{code}sys.exit(pytest.main(sys.argv[1:]))", "-p", "smi_conformance.plugin"]
        + ["--pyargs", "smi_conformance", "-p", "no:cacheprovider", "-W", "ignore"]
        + [f"--smi-{name}={value}" for name, value in options.items()],
        cwd=place.folder,
        env={**os.environ, "PYTHONPATH": str(HERE.parent), "TMPDIR": str(place.scratch)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    _until_it_plays(place)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == pytest.ExitCode.INTERRUPTED, said
    assert "interrupted: 0 of 1 verdicts are known" in said
    assert f"the report has them: {place.report}" in said
    assert "Traceback" not in said
    assert "KeyboardInterrupt" not in said
    assert place.rows()["TS-06"]["result"] == "error"
    assert place.left() == []


def _until_it_plays(place: Place) -> None:
    """Wait until a case has sent requests: a workload has written down one."""
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size for path in place.scratch.glob("*/*.ledger")):
        assert time.monotonic() < deadline, "no case was played"
        time.sleep(0.1)


def test_a_repeated_run_ends_at_the_first_interruption(place: Place) -> None:
    process = place.start("-k", "TS-06", "--deadline", "60", "--repeat", "3")
    assert process.stdout is not None
    assert process.stdout.readline() == "run 1 of 3\n"
    deadline = time.monotonic() + 30
    while not list(place.scratch.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "run 2 of 3" not in said


def test_what_is_kept_is_listed(place: Place) -> None:
    code, said = place.run("-k", "TS-01", "--quick", "--keep")
    assert code == 0
    (line,) = [line for line in said.splitlines() if line.startswith("left:")]
    folder = Path(line.rpartition(" ")[2])
    assert folder.is_relative_to(Path(tempfile.gettempdir())) or folder.is_relative_to(place.scratch)
    assert list(folder.glob("*.ledger"))
    assert place.processes() == []


def test_what_a_failed_case_has_written_is_kept_and_its_namespace_listed(place: Place) -> None:
    """See the driver's own record of what was deleted: TS-06 fails and keeps its split, TS-01 passes and does not."""
    place.target({**TARGET, "settings": {"maxTimeToConsistency": "2s"}})
    deleted = place.folder / "deleted"
    code, said = place.run("-k", "TS-01,TS-06", "--quick", "--parallel", "1", "--keep", mode=f"deletes:{deleted}")
    assert code == 1, said
    (line,) = [line for line in said.splitlines() if line.startswith("left: TS-")]
    assert line.startswith("left: TS-06[v1alpha4]: ledgers of namespace cf-")
    gone = deleted.read_text().split()
    assert "Service" in gone
    assert "TrafficSplit" not in gone


def test_a_repeated_run_reports_the_worst_of_its_runs(place: Place) -> None:
    """Let the first run fail and the second one pass: the driver counts its starts."""
    place.target({**TARGET, "local": {"driver": ["sh", str(place.folder / "driver")]}})
    (place.folder / "driver").write_text(
        f"[ -e {place.folder}/again ] || export SMI_PLAIN=closed; touch {place.folder}/again\n"
        f"exec {sys.executable} {HERE / 'plain_driver.py'}\n"
    )
    code, said = place.run("-k", "TS-01", "--quick", "--deadline", "1.5", "--repeat", "2")
    assert code == 1, said
    assert "1 of 2 runs without a failure" in said
    assert place.rows()["TS-01"]["result"] == "failed"
