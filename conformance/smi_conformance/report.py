"""The report: every case with what was observed, and for each profile what that amounts to.

Written as YAML that the schema beside this module describes; sorted, so that two runs can be compared line by line.
Counting: an error and a missing capability count as skipped and leave a level `partial` at best; a version that is not
served counts as failed where it was claimed, and not at all otherwise; features that are not claimed and observations
never count. A part of a profile is told as what it is, and is not submittable.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from smi_conformance import SPEC_VERSION, __version__, catalog
from smi_conformance.catalog import GROUPS, PROFILES
from smi_conformance.runner import Instance, Outcome, Run, instances
from smi_conformance.statistics import ALPHA, SLACK

Report = dict[str, Any]
_WORST = ("failed", "error", "skipped", "notServed", "notSupported", "passed", "observed")
_GOOD = frozenset({"passed", "observed"})
API_VERSION = "conformance.smi-adapter.dev/v1"


def build(run: Run) -> Report:
    """Make the report of a run, complete or not."""
    outcomes = [run.outcomes[name] for name in sorted(run.outcomes)]
    wanted = [item for item in instances() if _counts(item, run)]
    names = [name for name in PROFILES if name in run.profiles]
    profiles = [found for name in names if (found := _profile(name, outcomes, run, wanted)) is not None]
    rows = [row for outcome in outcomes for row in _rows(outcome)]
    clean = not run.broken and not any(row["result"] == "error" for row in rows)
    unverified = any(profile.get("claimedUnverified") for profile in profiles)
    listed = {str(profile["name"]) for profile in profiles}
    whole = all(item.id in run.outcomes for item in wanted if listed & set(item.entry.profiles))
    return {
        "apiVersion": API_VERSION,
        "kind": "ConformanceReport",
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "submittable": bool(profiles) and clean and whole and not unverified and not run.rules.quick,
        "suite": {"version": __version__, "catalogDigest": catalog.digest(), "specVersion": SPEC_VERSION},
        "implementation": dict(run.target.implementation),
        "environment": {
            **run.harness.environment,
            "harness": run.harness.name,
            "servedVersions": {group: list(versions) for group, versions in sorted(run.harness.served.items())},
        },
        "settings": {
            "maxTimeToConsistency": f"{run.rules.deadline:g}s",
            "weightSamples": run.rules.samples,
            "alpha": ALPHA,
            "slackPoints": round(SLACK * 100, 3),
            "quick": run.rules.quick,
            **({"selection": run.selection} if run.selection else {}),
        },
        "profiles": profiles,
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


def _profile(name: str, outcomes: Iterable[Outcome], run: Run, wanted: Iterable[Instance]) -> dict[str, Any] | None:
    mine = [outcome for outcome in outcomes if name in outcome.instance.entry.profiles]
    if not mine:
        return None
    core = _level(mine, ("must",), run)
    extended = _level(mine, ("should", "extended"), run)
    results: dict[str, set[str]] = defaultdict(set)
    for item in wanted:  # what was not run is no evidence
        if name in item.entry.profiles and item.entry.feature:
            results[item.entry.feature].add(run.outcomes[item.id].worst if item.id in run.outcomes else "notRun")
    verified = {feature for feature, found in results.items() if "passed" in found and found <= _GOOD}
    features = {entry.feature for entry in catalog.entries().values() if name in entry.profiles and entry.feature}
    claimed = features & run.target.features
    return {
        "name": name,
        "summary": _summary(core, extended),
        "core": core,
        "extended": extended,
        "verifiedFeatures": sorted(claimed & verified),
        "claimedUnverified": sorted(claimed - verified),
        "unsupportedFeatures": sorted(features - claimed),
    }


def _counts(item: Instance, run: Run) -> bool:
    """Tell whether a complete run has this: its version is served, or claimed to be."""
    group = GROUPS[item.entry.group]
    served = item.version in run.harness.served.get(group, ())
    return served or item.version in run.target.claimed_versions.get(group, ())


def worse(one: Outcome, two: Outcome) -> Outcome:
    """Return what two runs of one case amount to: of each level the worse verdict, and the story of that run."""
    pairs = zip(one.verdicts, two.verdicts, strict=True)
    verdicts = tuple(min(pair, key=lambda verdict: _WORST.index(verdict.result)) for pair in pairs)
    base = one if any(mine is not its for mine, its in zip(verdicts, two.verdicts, strict=True)) else two
    return replace(base, verdicts=verdicts)


def _claimed(outcome: Outcome, run: Run) -> bool:
    """Tell whether the target claims the version of an outcome."""
    return outcome.instance.version in run.target.claimed_versions.get(GROUPS[outcome.instance.entry.group], ())


def _level(outcomes: Iterable[Outcome], levels: tuple[str, ...], run: Run) -> dict[str, Any]:
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    failed: set[str] = set()
    skipped: set[str] = set()
    for outcome in outcomes:
        for verdict in outcome.verdicts:
            if verdict.level not in levels:
                continue
            result = verdict.result
            if result == "notServed":
                result = "failed" if _claimed(outcome, run) else ""
            if result in {"error", "skipped"}:
                skipped.add(outcome.instance.id)
                counts["skipped"] += 1
            elif result in {"passed", "failed"}:
                counts[result] += 1
                if result == "failed":
                    failed.add(outcome.instance.id)
    done = counts["passed"] + counts["failed"]
    result = "failure" if counts["failed"] else "partial" if counts["skipped"] and done else "success"
    level: dict[str, Any] = {"result": result if done else "notRun", "statistics": counts}
    if failed:
        level["failedCases"] = sorted(failed)
    if skipped:
        level["skippedCases"] = sorted(skipped)
    return level


def _summary(core: Mapping[str, Any], extended: Mapping[str, Any]) -> str:
    words = []
    for name, level in (("Core", core), ("Extended", extended)):
        counts = level["statistics"]
        text = {"success": "passed", "partial": "passed in part", "failure": "failed", "notRun": "not run"}[
            level["result"]
        ]
        more = [f"{counts[key]} {key}" for key in ("failed", "skipped") if counts[key]]
        words.append(f"{name} {text}" + (f" ({', '.join(more)})" if more else ""))
    return "; ".join(words) + "."


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

    path.parent.mkdir(parents=True, exist_ok=True)
    text = page(report) if path.suffix == ".html" else dump(report)
    fresh = path.with_name(f".{path.name}.fresh")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)


def read(path: Path) -> Report:
    """Read a report; ValueError says what is wrong with it."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
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


_SIDE = ("reason", "observed", "timeToConsistencyMs", "durationMs", "evidence")


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
