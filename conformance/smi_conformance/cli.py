"""The command line: run, list, explain, validate, diff.

Exit codes of `run`: 0 all that was asked for passed, 1 something failed (or a reading or failure was not the expected
one), 2 usage, 3 the harness could not be started, 4 there were errors and no failures, 5 a report could not be
written, 130 on ^C.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import click
import pytest

from smi_conformance import __version__, catalog, expected, report, tally
from smi_conformance.catalog import FEATURES, PROFILES
from smi_conformance.page import page
from smi_conformance.plugin import REPORT, RUN, UNWRITTEN, deadline_of, ending, written
from smi_conformance.registry import cases
from smi_conformance.runner import Outcome, Run
from smi_conformance.selection import SelectionError, known_id, selection
from smi_conformance.target import TargetError, load

_MAIN = "smi_conformance.test_cases"
_FROM_ONE = click.IntRange(min=1)


def _ends(_context: click.Context, _option: click.Parameter, given: str | None) -> float | None:
    """Read a time that ends, and is more than none."""
    try:
        return None if given is None else deadline_of(given)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="smi-conformance")
def main() -> None:
    """Conformance suite for the Service Mesh Interface: real traffic decides."""


def entry() -> None:
    """Run the command line."""
    sys.exit(main(prog_name="smi-conformance"))


@main.command()
@click.option("--target", "target", required=True, type=click.Path(exists=True, dir_okay=False), help="target.yaml")
@click.option("--harness", type=click.Choice(["local", "kubernetes"]), default="local", show_default=True)
@click.option("--context", default="", help="kubeconfig context (kubernetes harness)")
@click.option("--profile", default="", help="Profiles, separated by commas (default: those claimed).")
@click.option("--versions", default="", help="Only these API versions, separated by commas.")
@click.option("-k", "only", default="", help="Only these ids, separated by commas.")
@click.option("--report", "report_path", default="", type=click.Path(), help="Write the report (YAML, or .html) here.")
@click.option("--html", default="", type=click.Path(), help="Write the report as a page here, too.")
@click.option("--junit", default="", type=click.Path(), help="Write JUnit XML here.")
@click.option("--quick", is_flag=True, help="A quarter of the requests; not submittable.")
@click.option("--repeat", default=1, show_default=True, type=_FROM_ONE, help="Run so often; the worst result counts.")
@click.option("--parallel", default=None, type=_FROM_ONE, help="Cases at a time (default: 4, or as many as meshes).")
@click.option(
    "--deadline",
    callback=_ends,
    metavar="SECONDS",
    help="Time to converge (default: the target's maxTimeToConsistency).",
)
@click.option("--keep", is_flag=True, help="Leave what was created and list it.")
@click.option("--expect-readings", default="", type=click.Path(), help="YAML of expected readings; others exit with 1.")
@click.option(
    "--expect-failures",
    default="",
    type=click.Path(),
    help="YAML list of known failures, and of texts that their reasons match: exit with 0 on those.",
)
def run(**options: Any) -> None:
    """Run the cases against an implementation."""
    try:
        target = load(Path(options["target"]))
    except TargetError as error:
        raise click.UsageError(str(error)) from error
    asked = {name: [part for part in options[name].split(",") if part] for name in ("profile", "versions", "only")}
    try:
        chosen = selection(asked["profile"] or target.profiles, asked["versions"], asked["only"])
    except SelectionError as error:
        raise click.UsageError(str(error)) from error
    if nothing := chosen.nothing():
        raise click.UsageError(nothing)
    for line in target.unused:
        click.echo(line, err=True)
    for line in chosen.unplayed():
        click.echo(f"not played: {line}", err=True)
    options["only"] = ",".join(chosen.ids)
    try:  # None: nothing is expected
        failures, readings = options["expect_failures"], options["expect_readings"]
        options["expect_failures"] = expected.failures(failures) if failures else None
        options["expect_readings"] = expected.readings(readings) if readings else None
    except expected.ExpectationError as error:
        raise click.UsageError(str(error)) from error
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: a shell's background jobs start with it ignored
        signal.signal(number, signal.default_int_handler)  # what was learned is reported, all is removed
    codes: list[int] = []
    outcomes: dict[str, Outcome] = {}
    while len(codes) < options["repeat"] and 130 not in codes:
        codes.append(_once(options, len(codes), outcomes))
    if options["repeat"] > 1:
        click.echo(f"{codes.count(0)} of {len(codes)} runs without a failure or an error")
    sys.exit(max(codes, key=lambda code: (code == 130, code == 1, code)))


def _once(options: dict[str, Any], number: int, outcomes: dict[str, Outcome]) -> int:
    """Run once and return the exit code; `outcomes` keeps the worst of all runs, and the report tells that."""
    if options["repeat"] > 1:
        click.echo(f"run {number + 1} of {options['repeat']}")
    arguments = [
        "-p",
        "smi_conformance.plugin",
        "-c",
        "/dev/null",
        "-q",
        "-s",
        "-W",
        "ignore",
        "-p",
        "no:cacheprovider",
        "--noconftest",
        f"--rootdir={Path(__file__).parent}",
    ]
    arguments += [
        "--pyargs",
        _MAIN,
        "--smi-cli",
        f"--smi-target={options['target']}",
        f"--smi-report={options['report_path']}",
    ]
    names = (("harness", "harness"), ("context", "context"), ("profile", "profile"), ("versions", "versions"))
    arguments += [f"--smi-{option}={options[name]}" for name, option in names if options[name]]
    arguments += [f"--smi-case={options['only']}"] if options["only"] else []
    arguments += [f"--smi-parallel={options['parallel']}"] if options["parallel"] else []
    arguments += [f"--smi-deadline={options['deadline']}"] if options["deadline"] else []
    arguments += ["--smi-quick"] if options["quick"] else []
    arguments += ["--smi-keep"] if options["keep"] else []
    arguments += [f"--junitxml={options['junit']}"] if options["junit"] else []
    result = _Result(str(options["junit"]))
    with pytest.MonkeyPatch.context() as alone:  # whatever else is installed or set here has no part in it
        alone.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS"):
            alone.delenv(name, raising=False)
        code = int(pytest.main(arguments, plugins=[result]))
    if result.report is None:
        click.echo("nothing was run", err=True)
        if code == pytest.ExitCode.INTERRUPTED:
            return 130
        return 2 if code in {pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED} else 3
    assert result.run is not None  # noqa: S101 - there is no report without it
    interrupted = code == pytest.ExitCode.INTERRUPTED
    for line in ending(result.report, result.run, str(options["report_path"]), unwritten=result.unwritten):
        click.echo(line)
    verdict = 130 if interrupted else _verdict(result.report, options)
    if options["repeat"] > 1:
        _merge(result, outcomes, options["report_path"], interrupted=interrupted)
    if options["html"] and not result.unwritten:
        try:
            report.write(result.report, Path(options["html"]))
        except OSError as error:
            result.unwritten = f"the page could not be written: {options['html']}: {error.strerror or error}"
            click.echo(result.unwritten, err=True)
    if not interrupted and number + 1 == options["repeat"] and not result.unwritten:
        places = " and ".join(str(options[name]) for name in ("report_path", "html") if options[name])
        click.echo(written(result.report, places) if places else "no report was kept: --report FILE writes one")
    return 5 if (result.unwritten or result.junit) and verdict in {0, 4} else verdict


def _merge(result: _Result, outcomes: dict[str, Outcome], path: str, *, interrupted: bool) -> None:
    """Put what was seen before into the report; what an interrupted run did not get to takes nothing away."""
    assert result.run is not None  # noqa: S101 - the caller looked
    for name, outcome in result.run.outcomes.items():
        if name not in outcomes:
            outcomes[name] = outcome
        elif not interrupted or outcome.worst != "error":
            outcomes[name] = report.worse(outcomes[name], outcome)
    result.run.outcomes = dict(outcomes)
    result.report = report.build(result.run)
    if path and not result.unwritten:
        try:
            report.write(result.report, Path(path))
        except OSError as error:
            result.unwritten = f"the report could not be written: {path}: {error.strerror or error}"
            click.echo(result.unwritten, err=True)


class _Result:
    """Takes the report out of the session: it is there also if it could not be written."""

    def __init__(self, junit: str) -> None:
        self.report: report.Report | None = None
        self.run: Run | None = None
        self.unwritten = ""
        """Why there is no report; that there is no JUnit file takes nothing away from it."""
        self.junit = ""
        self._path = junit

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, None, None]:
        try:
            yield
        except OSError as error:  # of pytest's own, as our report is tried for by the plugin
            self.junit = f"the JUnit file could not be written: {self._path}: {error.strerror or error}"
            click.echo(self.junit, err=True)
        self.report = session.config.stash.get(REPORT, None)
        self.run = session.config.stash.get(RUN, None)
        self.unwritten = session.config.stash.get(UNWRITTEN, "")


def _verdict(made: report.Report, options: dict[str, Any]) -> int:
    """Return the exit code; say what is not as it was expected."""
    errors = [row for row in made["cases"] if row["result"] == "error"]
    if errors and len(errors) == len(made["cases"]):
        click.echo(f"the harness does not work: {errors[0]['reason']}", err=True)
        return 3
    failed = _failed(made)
    wrong = 0
    if options["expect_failures"] is not None:
        surprises = list(expected.surprises(made, failed, options["expect_failures"]))
        wrong += len(surprises)
        for line in surprises:
            click.echo(line)
        failed = {}
    if options["expect_readings"] is not None:
        differences = report.unexpected(made, options["expect_readings"])
        wrong += len(differences)
        for line in differences:
            click.echo(f"reading: {line}")
    if failed or wrong:
        return 1
    return 4 if errors else 0


def _failed(made: report.Report) -> dict[str, str]:
    """Return what failed, and why: verdicts, and what a profile counts as failed, as a claimed version not served."""
    counted = {
        name
        for profile in made["profiles"]
        for level in ("core", "extended")
        for name in profile.get(level, {}).get("failedCases", ())
    }
    found: dict[str, str] = {}
    for row in made["cases"]:
        name = f"{row['id']}[{row['apiVersion']}]"
        if row["result"] == "failed" or (name in counted and row["result"] == "notServed"):
            found[name] = "; ".join(part for part in (found.get(name), row.get("reason")) if part)
    return found


@main.command("list")
@click.option("--profile", default="", help="Only this profile.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table")
def list_cases(profile: str, output: str) -> None:
    """List the catalogue."""
    if profile and profile not in PROFILES:
        raise click.UsageError(f"unknown profile {profile}; known: {', '.join(PROFILES)}")
    known = cases()
    rows = [item for item in catalog.entries().values() if not profile or profile in item.profiles]
    if output == "json":
        click.echo(json.dumps([_data(item) for item in rows], indent=2))
        return
    for item in rows:
        state = "later" if item.later else "" if item.id in known else "pending"
        levels = "+".join(_level(item, check) for check in item.checks)
        profiles = item.profiles[0] + (f"+{len(item.profiles) - 1}" if item.profiles[1:] else "")
        click.echo(f"{item.id:7} {profiles:10} {catalog.span(item.versions):10} {levels:26} {state:8}{item.rule}")


def _level(item: catalog.Entry, check: catalog.Check) -> str:
    """Return a level, with its versions if it is not there under all: must(3-4)."""
    only = item.only(check).removeprefix("v1alpha")
    return f"{check.level}({only})" if only else check.level


def _data(item: catalog.Entry) -> dict[str, Any]:
    return {
        "id": item.id,
        "profiles": item.profiles,
        "versions": item.versions,
        "together": item.together,
        "uses": [{"groups": use.groups, "versions": use.versions} for use in item.uses],
        "feature": item.feature,
        "part": item.part,
        "needs": item.needs,
        "rule": item.rule,
        "checks": [
            {
                "level": check.level,
                "versions": check.versions,
                "feature": check.feature,
                "document": check.document,
                "lines": check.lines,
            }
            for check in item.checks
        ],
        "later": item.later,
    }


@main.command()
@click.argument("name", metavar="ID")
@click.option("--version", "version", default="", help="Show the manifests of this version (default: the newest).")
def explain(name: str, version: str) -> None:
    """Explain a case: the rule, where it stands, the manifests, what is asserted."""
    from smi_conformance.explain import explained  # noqa: PLC0415 - only this command records a case

    try:
        name = known_id(name)
    except SelectionError as error:
        raise click.UsageError(str(error)) from error
    versions = catalog.entries()[name].versions
    if version and version not in versions:
        raise click.UsageError(f"{name} is about {', '.join(versions)}, not {version}")
    click.echo(explained(name, version))


@main.command()
@click.argument("path", type=click.Path(exists=True, dir_okay=False))
def validate(path: str) -> None:
    """Check a report against the schema and the catalogue, and work out again what follows from its cases."""
    try:
        found = report.read(Path(path))
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    if found["suite"]["catalogDigest"] != catalog.digest():
        click.echo(
            f"{path} is valid by the schema, but made with another catalogue (smi-conformance "
            f"{found['suite']['version']}, this is {__version__}): what follows from its cases was not worked out again"
        )
        return
    if differences := tally.differences(found):
        lines = "\n".join(f"{path}: {line}" for line in differences)
        raise click.ClickException(f"it does not say what follows from its own cases:\n{lines}")
    hindrances = tally.hindrances(tally.basis_of(found))
    click.echo(f"{path} is valid and " + (f"not submittable: {'; '.join(hindrances)}" if hindrances else "submittable"))


@main.command("page")
@click.argument("path", type=click.Path(exists=True, dir_okay=False))
@click.argument("html", type=click.Path(dir_okay=False))
def write_page(path: str, html: str) -> None:
    """Write a report as a page, without a run."""
    try:
        Path(html).write_text(page(report.read(Path(path))), encoding="utf-8")
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error


@main.command()
@click.argument("one", type=click.Path(exists=True, dir_okay=False))
@click.argument("two", type=click.Path(exists=True, dir_okay=False))
def diff(one: str, two: str) -> None:
    """Compare two reports: verdicts and readings, not counts and times."""
    try:
        differences = report.diff(report.read(Path(one)), report.read(Path(two)))
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    for line in differences:
        click.echo(line)
    if not differences:
        click.echo("no difference")
    sys.exit(1 if differences else 0)


@main.command()
def features() -> None:
    """List the features that a target may claim."""
    for name, ids in FEATURES.items():
        click.echo(f"{name:22} {', '.join(ids)}")
