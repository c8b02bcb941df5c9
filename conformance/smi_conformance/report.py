"""The report: every case with what was observed, and for each profile what that amounts to.

Written as YAML that the schema beside this module describes; sorted, so that two runs can be compared line by line.
What the cases amount to is worked out in `tally`. A part of a profile is told as what it is, and is not submittable.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import IO, Any

import jsonschema
import yaml

from smi_conformance import SPEC_VERSION, __version__, catalog, tally, written
from smi_conformance.catalog import pairs
from smi_conformance.runner import Outcome, Run
from smi_conformance.statistics import ALPHA, SLACK

Report = dict[str, Any]
_WORST = ("failed", "error", "skipped", "notServed", "notSupported", "passed", "observed")
API_VERSION = "conformance.smi-adapter.dev/v1"


def build(run: Run) -> Report:
    """Make the report of a run, complete or not."""
    outcomes = [run.outcomes[name] for name in sorted(run.outcomes)]
    rows = [row for outcome in outcomes for row in _rows(outcome)]
    target, served = run.target, run.harness.served
    versions = pairs(target.claimed_versions)
    basis = tally.Basis(rows, run.profiles, target.features, versions, pairs(served), run.rules.quick)
    return {
        "apiVersion": API_VERSION,
        "kind": "ConformanceReport",
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "submittable": not tally.hindrances(basis),
        "suite": {"version": __version__, "catalogDigest": catalog.digest(), "specVersion": SPEC_VERSION},
        "implementation": dict(target.implementation),
        "claims": {
            "profiles": list(target.profiles),
            "features": sorted(target.features),
            "versions": {group: list(found) for group, found in sorted(target.claimed_versions.items())},
        },
        "environment": {
            **run.harness.environment,
            "harness": run.harness.name,
            "servedVersions": {group: list(found) for group, found in sorted(served.items())},
        },
        "settings": {
            "maxTimeToConsistency": f"{run.rules.deadline:g}s",
            "weightSamples": run.rules.samples,
            "alpha": ALPHA,
            "slackPoints": round(SLACK * 100, 3),
            "quick": run.rules.quick,
            "parallel": run.parallel,
            "meshes": len(run.harnesses),
            **({"selection": run.selection} if run.selection else {}),
        },
        "profiles": tally.profiles(basis),
        "cases": rows,
    }


def _rows(outcome: Outcome) -> Iterable[dict[str, Any]]:
    notes = outcome.notes
    for number, verdict in enumerate(outcome.verdicts):
        row: dict[str, Any] = {
            "id": outcome.instance.entry.id,
            "apiVersion": outcome.instance.version,
            "level": verdict.level,
            "result": verdict.result,
        }
        if verdict.reason:
            row["reason"] = verdict.reason
        if number == 0:  # what was observed belongs to the case, and is told once
            if notes.observed:
                row["observed"] = notes.observed
            if notes.converged:
                row["timeToConsistencyMs"] = round(max(0.0, notes.converged[-1]) * 1000)
            if outcome.milliseconds:
                row["durationMs"] = round(outcome.milliseconds)
        if verdict.level == "provisional" and notes.readings:
            row["readings"] = dict(sorted(notes.readings.items()))
        yield row


def worse(one: Outcome, two: Outcome) -> Outcome:
    """Return what two runs of one case amount to: of each level the worse verdict, and the story of that run."""
    pairs = zip(one.verdicts, two.verdicts, strict=True)
    verdicts = tuple(min(pair, key=lambda verdict: _WORST.index(verdict.result)) for pair in pairs)
    base = one if any(mine is not its for mine, its in zip(verdicts, two.verdicts, strict=True)) else two
    return replace(base, verdicts=verdicts)


# ------------------------------------------------------------------------------------------------------------- files


class _Dumper(yaml.SafeDumper):
    """Writes small numbers so that YAML reads them as numbers, quotes dates, and says the same thing twice."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write everything out: no anchors."""
        del data
        return True


def _float(dumper: yaml.SafeDumper, value: float) -> yaml.Node:
    text = repr(value)
    if "e" in text and "." not in text:
        text = text.replace("e", ".0e")
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


_Dumper.add_representer(float, _float)


def dump(report: Report) -> str:
    """Return the report as YAML."""
    return yaml.dump(report, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True, default_flow_style=None)


def write(report: Report, path: Path) -> None:
    """Write the report, as one page of HTML if the path says so."""
    from smi_conformance.page import page  # noqa: PLC0415 - the page needs this module

    put(page(report) if path.suffix == ".html" else dump(report), path)


def put(text: str, path: Path) -> None:
    """Write a file whole or not at all; a link stays one, and into a device or a pipe it is written as it is.

    What stdout is, be it a file, is written after what was printed: in its place, the rest would be printed nowhere.
    """
    if path.exists() and (stream := _stream(path)) is not None:
        stream.write(text)
        stream.flush()
        return
    if path.exists() and not path.is_file():
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
        return
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.fresh")
    try:
        fresh.write_text(text, encoding="utf-8")
        if path.exists():
            shutil.copymode(path, fresh)
        fresh.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink()  # half a report on a disk that is full
        raise


def _stream(path: Path) -> IO[str] | None:
    """Return stdout or stderr if that is what a path leads to; a terminal or /dev/null is opened like any device."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            there, here = os.fstat(stream.fileno()), path.stat()
            if os.path.samestat(there, here) and not stat.S_ISCHR(here.st_mode):
                return stream
    return None


def is_whole(path: Path) -> bool:
    """Tell whether a file that is written again takes the place of the old one; into a pipe it would go twice."""
    return not path.exists() or (path.is_file() and _stream(path) is None)


def clash(inputs: Mapping[str, str], outputs: Mapping[str, str]) -> str:
    """Return what is wrong with the places of outputs, so that it is told before a run: "": nothing.

    Nothing may be written over what was read or written. Devices may be named several times.
    """
    seen = {str(Path(path).resolve()): name for name, path in inputs.items() if path}
    for name, path in outputs.items():
        if not path:
            continue
        if Path(path).is_dir():
            return f"{name}: {path} is a folder"
        if not is_whole(Path(path)):
            continue
        where = str(Path(path).resolve())
        if where in seen:
            return f"{name}: {path} is the file of {seen[where]}, too"
        seen[where] = name
    return ""


def make_folders(outputs: Iterable[str]) -> list[str]:
    """Make the folders in which outputs go and return those that were not there; OSError: one can't be had."""
    made = []
    for path in outputs:
        folder = Path(path).resolve().parent
        if path and not folder.is_dir():
            folder.mkdir(parents=True)
            made.append(str(folder))
    return made


def read(path: Path) -> Report:
    """Read a report; ValueError says what is wrong with it."""
    try:
        raw = written.read(path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {error}") from error
    found = problems(raw)
    if found:
        raise ValueError("\n".join(f"{path}: {problem}" for problem in found))
    report: Report = raw
    return report


def schema() -> dict[str, Any]:
    """Return the JSON Schema of reports."""
    text = resources.files("smi_conformance").joinpath("report-schema.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def problems(raw: Any) -> list[str]:
    """Return what is wrong with a report, by the schema and by the catalogue."""
    validator = jsonschema.Draft202012Validator(schema(), format_checker=jsonschema.FormatChecker())
    found = [
        f"{'.'.join(str(part) for part in error.absolute_path) or 'report'}: {error.message}"
        for error in sorted(validator.iter_errors(raw), key=lambda error: [str(part) for part in error.absolute_path])
    ]
    if not found:
        known = catalog.entries()
        found = [f"cases: {row['id']} is not in the catalogue" for row in raw["cases"] if row["id"] not in known]
    return found


def verdicts(report: Report) -> dict[tuple[str, str, str], tuple[str, str]]:
    """Return what counts of a report: the result and the readings of each case, version and level."""
    return {
        (row["id"], row.get("apiVersion", ""), row["level"]): (
            row["result"],
            json.dumps(row.get("readings", {}), sort_keys=True),
        )
        for row in report["cases"]
    }


def diff(one: Report, two: Report) -> list[str]:
    """Return the differences of two reports in words; counts and times are no differences."""
    left, right = verdicts(one), verdicts(two)
    found: list[str] = []
    for key in sorted(left.keys() | right.keys()):
        name = f"{key[0]}[{key[1]}] {key[2]}"
        if key not in left or key not in right:
            found.append(f"{name}: only in the {'second' if key not in left else 'first'}")
        elif left[key] != right[key]:
            was, now = left[key], right[key]
            words = f"{was[0]} -> {now[0]}" if was[0] != now[0] else f"readings {was[1]} -> {now[1]}"
            found.append(f"{name}: {words}")
    found += [
        f"{part}: {json.dumps(one[part])} -> {json.dumps(two[part])}"
        for part in ("suite", "settings")
        if one[part] != two[part]
    ]
    return found


def readings(report: Report) -> dict[str, dict[str, str]]:
    """Return the readings by id; versions that agree are told once, others each under its own name."""
    by_id: dict[str, dict[str, dict[str, str]]] = defaultdict(dict)
    for row in report["cases"]:
        if row.get("readings"):
            by_id[row["id"]][row.get("apiVersion", "")] = row["readings"]
    found: dict[str, dict[str, str]] = {}
    for name, versions in sorted(by_id.items()):
        kinds = {json.dumps(value, sort_keys=True) for value in versions.values()}
        if len(kinds) == 1:
            found[name] = next(iter(versions.values()))
        else:
            found.update({f"{name}[{version}]": value for version, value in sorted(versions.items())})
    return found


def unexpected(report: Report, expected: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return the readings that differ from a file of expected ones; what was not observed is no difference."""
    found: list[str] = []
    for row in report["cases"]:
        name, version = row["id"], row.get("apiVersion", "")
        wanted = {**expected.get(name, {}), **expected.get(f"{name}[{version}]", {})}
        for key, value in sorted((row.get("readings") or {}).items()):
            if key in wanted and str(wanted[key]) != value:
                found.append(f"{name}[{version}] {key}: expected {wanted[key]!r}, observed {value!r}")
            elif key not in wanted:
                found.append(f"{name}[{version}] {key}: not expected at all, observed {value!r}")
        if row["level"] == "provisional" and row["result"] == "observed":
            found += [
                f"{name}[{version}] {key}: expected {wanted[key]!r}, nothing was observed"
                for key in sorted(set(wanted) - set(row.get("readings") or {}))
            ]
    return found
