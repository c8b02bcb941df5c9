"""The command line: run, list, explain, validate, diff.

Exit codes of `run`: 0 all that was asked for passed, 1 something failed (or a reading or failure was not the expected
one), 2 usage, 3 the harness could not be started, 4 there were errors and no failures, 5 a report could not be
written or stdout not be printed on, 130 on ^C.
"""

from __future__ import annotations

import copy
import json
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import pytest

from smi_conformance import __version__, catalog, expected, report, tally
from smi_conformance.catalog import FEATURES, PROFILES
from smi_conformance.console import Console
from smi_conformance.junit import junit
from smi_conformance.page import page
from smi_conformance.plugin import REPORT, RUN, deadline_of, ending, written
from smi_conformance.runner import Outcome, Run
from smi_conformance.selection import Selection, SelectionError, known_id, selection, with_version
from smi_conformance.target import Target, TargetError, load

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
    """Run the command line; 5 if something went well and could not be told on stdout, 130 on ^C."""
    console = Console()
    try:
        code: Any = main(prog_name="smi-conformance", standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        code = 130
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except SystemExit as end:
        code = end.code
    code = code if isinstance(code, int) else 0
    trouble = console.trouble()
    if trouble and not console.left:
        click.echo(f"not all could be printed: {trouble}", err=True)
    sys.exit(5 if trouble and code in {0, 4} else code)


@main.command()
@click.option("--target", "target", required=True, type=click.Path(exists=True, dir_okay=False), help="target.yaml")
@click.option("--harness", type=click.Choice(["local", "kubernetes"]), default="local", show_default=True)
@click.option("--context", default="", help="kubeconfig context (kubernetes harness)")
@click.option("--profile", default=None, help="Profiles, separated by commas (default: those claimed).")
@click.option("--versions", default=None, help="Only these API versions, separated by commas.")
@click.option("-k", "only", default=None, help="Only these ids, separated by commas.")
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
    chosen = _chosen(options, target)
    for line in target.unused:
        click.echo(line, err=True)
    for line in chosen.unplayed():
        click.echo(f"not played: {line}", err=True)
    _places(_read_by(options), _written_by(options))
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


def _chosen(options: dict[str, Any], target: Target) -> Selection:
    """Return what is to be played; a usage error if that is nothing, or not what was meant."""
    asked = {name: _asked(options, name) for name in ("profile", "versions", "only")}
    printed = [with_version(name) for name in asked["only"]]  # as a run prints them: TS-20[v1alpha4]
    if len({version for _, version in printed}) == 1 and printed[0][1] and asked["versions"] in ([], [printed[0][1]]):
        asked["only"], options["versions"] = [name for name, _ in printed], printed[0][1]
        asked["versions"] = [options["versions"]]
    try:
        chosen = selection(asked["profile"] or target.profiles, asked["versions"], asked["only"])
    except SelectionError as error:
        raise click.UsageError(str(error)) from error
    if nothing := chosen.nothing():
        raise click.UsageError(nothing)
    return chosen


def _asked(options: dict[str, Any], name: str) -> list[str]:
    """Return the names that an option lists. An empty one is a variable that was not set: it would play everything."""
    found = [part.strip() for part in (options[name] or "").split(",") if part.strip()]
    if options[name] is not None and not found:
        raise click.UsageError(f"{'-k' if name == 'only' else f'--{name}'} is empty: leave it out to play all")
    options[name] = ",".join(found)
    return found


def _read_by(options: Mapping[str, Any]) -> dict[str, str]:
    names = ("target", "expect_readings", "expect_failures")
    return {f"--{name.replace('_', '-')}": str(options[name]) for name in names}


def _written_by(options: Mapping[str, Any]) -> dict[str, str]:
    return {"--report": str(options["report_path"]), "--html": str(options["html"]), "--junit": str(options["junit"])}


def _places(inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    """Look at where outputs go before anything is done; a folder that was made is told, as it may be a typo."""
    try:
        if wrong := report.clash(inputs, outputs):
            raise click.UsageError(wrong)
        for folder in report.make_folders(outputs.values()):
            click.echo(f"the folder {folder} was not there and has been made", err=True)
    except OSError as error:
        raise click.UsageError(f"{error.filename}: {error.strerror}") from error


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
    ]
    names = (("harness", "harness"), ("context", "context"), ("profile", "profile"), ("versions", "versions"))
    arguments += [f"--smi-{option}={options[name]}" for name, option in names if options[name]]
    arguments += [f"--smi-case={options['only']}"] if options["only"] else []
    arguments += [f"--smi-parallel={options['parallel']}"] if options["parallel"] else []
    arguments += [f"--smi-deadline={options['deadline']}"] if options["deadline"] else []
    arguments += ["--smi-quick"] if options["quick"] else []
    arguments += ["--smi-keep"] if options["keep"] else []
    result = _Result()
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
    verdict = 130 if interrupted else _verdict(result.report, options, told=result.run.told)
    made, worst = result.report, result.run.outcomes
    if options["repeat"] > 1:
        made, worst = _merge(result.run, outcomes, interrupted=interrupted), outcomes
    last = interrupted or number + 1 == options["repeat"]
    unwritten = _write(made, worst, options, last=last)
    path = str(options["report_path"])
    for line in ending(result.report, result.run, path, unwritten="yes" if "--report" in unwritten else ""):
        click.echo(line)
    if not interrupted and last and "--report" not in unwritten:
        where = {"--report": path, "--html": str(options["html"])}
        places = " and ".join(place for option, place in where.items() if place and option not in unwritten)
        click.echo(written(made, places) if places else "no report was kept: --report FILE writes one")
    return 5 if unwritten and verdict in {0, 4} else verdict


def _write(made: report.Report, worst: Mapping[str, Outcome], options: Mapping[str, Any], *, last: bool) -> set[str]:
    """Write the report, the page and the JUnit file and return which of them could not be written.

    After each of several runs, so that what is known is there if the next one is killed; a pipe gets the last alone.
    """
    texts: dict[str, Callable[[], str]] = {
        "--report": lambda: page(made) if Path(options["report_path"]).suffix == ".html" else report.dump(made),
        "--html": lambda: page(made),
        "--junit": lambda: junit(worst.values()),
    }
    words = {"--report": "the report", "--html": "the page", "--junit": "the JUnit file"}
    unwritten: set[str] = set()
    for option, path in _written_by(options).items():
        try:
            if path and (last or report.is_whole(Path(path))):
                report.put(texts[option](), Path(path))
        except OSError as error:
            unwritten.add(option)
            click.echo(f"{words[option]} could not be written: {path}: {error.strerror or error}", err=True)
    return unwritten


def _merge(run: Run, outcomes: dict[str, Outcome], *, interrupted: bool) -> report.Report:
    """Return the report of all runs so far; what an interrupted run did not get to takes nothing away."""
    for name, outcome in run.outcomes.items():
        if name not in outcomes:
            outcomes[name] = outcome
        elif not interrupted or outcome.worst != "error":
            outcomes[name] = report.worse(outcomes[name], outcome)
    all_runs = copy.copy(run)
    all_runs.outcomes = dict(outcomes)
    return report.build(all_runs)


class _Result:
    """Takes the report out of the session."""

    def __init__(self) -> None:
        self.report: report.Report | None = None
        self.run: Run | None = None

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self.report = session.config.stash.get(REPORT, None)
        self.run = session.config.stash.get(RUN, None)


def _verdict(made: report.Report, options: dict[str, Any], *, told: str = "") -> int:
    """Return the exit code; say what is not as it was expected."""
    errors = [row for row in made["cases"] if row["result"] == "error"]
    if errors and len(errors) == len(made["cases"]):
        if errors[0]["reason"] != told:
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
    rows = [item for item in catalog.entries().values() if not profile or profile in item.profiles]
    if output == "json":
        click.echo(json.dumps([_data(item) for item in rows], indent=2))
        return
    for item in rows:
        state = "later" if item.later else ""
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

    name, printed = with_version(name)
    version = version or printed
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
    _places({"the report": path}, {"the page": html})
    try:
        report.put(page(report.read(Path(path))), Path(html))
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
