"""What the cases of a report amount to: the result of each profile, and whether the whole may be submitted.

Everything here is worked out from the rows of a report, what was served and what was claimed, and from nothing else. So
a report is made with these functions, and whoever receives one works out the same again (`differences`). Counting: an
error and a missing capability count as skipped and leave a level `partial` at best, as do cases that did not run. A
version that is not served counts as failed where it was claimed, and not at all otherwise; features that are not
claimed and observations never count.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smi_conformance import catalog
from smi_conformance.catalog import PROFILES, Pairs, pairs
from smi_conformance.runner import RANKED, Instance, instances

Row = Mapping[str, Any]
_GOOD = frozenset({"passed", "observed"})


@dataclass(frozen=True, slots=True)
class Basis:
    """What a report says before anything is worked out: rows, versions, claims, and how it was run."""

    rows: Sequence[Row]
    profiles: tuple[str, ...]
    features: frozenset[str]
    claimed: Pairs
    served: Pairs
    quick: bool

    def wanted(self) -> list[Instance]:
        """Return what a complete run has: every case under each version that is served, or claimed to be."""
        there = self.served | self.claimed
        return [item for item in instances() if item.entry.playable(item.version, there, self.profiles)]

    def mine(self, profile: str) -> list[Row]:
        """Return the rows of a profile."""
        return [row for row in self.rows if profile in catalog.entries()[row["id"]].among(self.profiles)]

    def result(self, row: Row) -> str:
        """Return what a row counts as: a version that is not there counts as failed where it was claimed."""
        result = str(row["result"])
        if result != "notServed":
            return result
        entry, version = catalog.entries()[row["id"]], row.get("apiVersion", "")
        there, promised = (
            entry.playable(version, pairs_, self.profiles) for pairs_ in (self.served, self.served | self.claimed)
        )
        return "failed" if promised and not there else ""


def profiles(basis: Basis) -> list[dict[str, Any]]:
    """Return what each profile of which anything was run amounts to."""
    names = [name for name in PROFILES if name in basis.profiles and basis.mine(name)]
    return [_profile(name, basis) for name in names]


def hindrances(basis: Basis) -> list[str]:
    """Return why the report can't be submitted; nothing: it can.

    What counts is what was claimed or chosen, not what has rows: a report can't be mended by leaving things out.
    """
    made = profiles(basis)
    ran_at_all = {item["name"] for item in made if any(item[key]["result"] != "notRun" for key in ("core", "extended"))}
    idle = [name for name in PROFILES if name in basis.profiles and name not in ran_at_all]
    found = [f"nothing of {', '.join(idle)} was run"] if idle else [] if made else ["no profile was run"]
    errors = sorted({_name(row) for row in basis.rows if row["result"] == "error"})
    ran = {_name(row) for row in basis.rows}
    missing = [item.id for item in basis.wanted() if item.entry.among(basis.profiles) and item.id not in ran]
    verified = {name for profile in made for name in profile["verifiedFeatures"]}
    unverified = sorted(basis.features - verified | {name for profile in made for name in profile["claimedUnverified"]})
    found += ["the run was quick"] if basis.quick else []
    found += [f"{_some(errors)} ended with an error"] if errors else []
    found += [f"{_some(missing)} of these profiles did not run"] if missing else []
    found += [f"claimed, but not verified: {', '.join(unverified)}"] if unverified else []
    return found


def _some(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} cases (such as {names[0]})"


def _name(row: Row) -> str:
    return f"{row['id']}[{row.get('apiVersion', '')}]"


def _profile(name: str, basis: Basis) -> dict[str, Any]:
    mine = basis.mine(name)
    ran: dict[str, set[str]] = defaultdict(set)
    for row in mine:
        ran[_name(row)].add(str(row["result"]))
    wanted = [item for item in basis.wanted() if name in item.entry.among(basis.profiles)]
    missing = [item for item in wanted if item.id not in ran]
    core, extended = (_level(mine, levels, basis, missing) for levels in _PARTS.values())
    results: dict[str, set[str]] = defaultdict(set)
    for item in wanted:  # what was not run is no evidence
        for feature in item.entry.features:
            results[feature].add(worst(ran[item.id]) if item.id in ran else "notRun")
    verified = {feature for feature, found in results.items() if "passed" in found and found <= _GOOD}
    features = {feature for entry in catalog.entries().values() if name in entry.profiles for feature in entry.features}
    claimed = features & basis.features
    return {
        "name": name,
        "summary": _summary(name, mine, (core, extended), (len(wanted) - len(missing), len(wanted))),
        "core": core,
        "extended": extended,
        "verifiedFeatures": sorted(claimed & verified),
        "claimedUnverified": sorted(claimed - verified),
        "unsupportedFeatures": sorted(features - claimed),
    }


def worst(results: Iterable[str]) -> str:
    """Return the result that says most about a case."""
    return min(results, key=RANKED.index, default="observed")


_PARTS: Mapping[str, tuple[str, ...]] = {"Core": ("must",), "Extended": ("should", "extended")}
"""What a profile has results of, and the levels that count there."""


def _has(item: Instance, levels: tuple[str, ...]) -> bool:
    return any(check.level in levels for check in item.checks)


def _level(rows: Iterable[Row], levels: tuple[str, ...], basis: Basis, missing: Iterable[Instance]) -> dict[str, Any]:
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    failed: set[str] = set()
    skipped: set[str] = set()
    for row in rows:
        if row["level"] not in levels:
            continue
        result = basis.result(row)
        if result in {"error", "skipped"}:
            skipped.add(_name(row))
            counts["skipped"] += 1
        elif result in {"passed", "failed"}:
            counts[result] += 1
            if result == "failed":
                failed.add(_name(row))
    done = counts["passed"] + counts["failed"]
    part = counts["skipped"] or any(_has(item, levels) for item in missing)
    result = "failure" if counts["failed"] else "partial" if part else "success"
    level: dict[str, Any] = {"result": result if done else "notRun", "statistics": counts}
    if failed:
        level["failedCases"] = sorted(failed)
    if skipped:
        level["skippedCases"] = sorted(skipped)
    return level


_RESULTS = {"success": "passed", "partial": "passed in part", "failure": "failed", "notRun": "not run"}


def _summary(name: str, rows: Sequence[Row], made: Iterable[Mapping[str, Any]], ran: tuple[int, int]) -> str:
    """Say it in one line; of a part of the profile first of all that it is one."""
    words = []
    for (part, levels), level in zip(_PARTS.items(), made, strict=True):
        if not any(name in item.entry.profiles and _has(item, levels) for item in instances()):
            words.append(f"{part} has no cases")
            continue
        counts = level["statistics"]
        errors = sum(row["result"] == "error" and row["level"] in levels for row in rows)
        told = {
            "failed": counts["failed"],
            "skipped": counts["skipped"] - errors,
            "without a verdict": errors,
        }
        more = ", ".join(f"{count} {word}" for word, count in told.items() if count)
        words.append(f"{part} {_RESULTS[level['result']]}" + (f" ({more})" if more else ""))
    done, all_ = ran
    return (f"In part ({done} of {all_} cases): " if done < all_ else "") + "; ".join(words) + "."


def is_claimed(report: Mapping[str, Any], profile: str) -> bool:
    """Tell whether a profile is claimed, not only played to see how it does; older reports don't say."""
    return "claims" not in report or profile in report["claims"]["profiles"]


# ------------------------------------------------------------------------------------------ a report of somebody else


def basis_of(report: Mapping[str, Any]) -> Basis:
    """Return what a report says before anything is worked out.

    Older reports do not hold the claims: there they are what the profiles tell of them.
    """
    claims, listed = report.get("claims"), report["profiles"]
    served = pairs(report["environment"].get("servedVersions", {}))
    if claims is not None:
        chosen = report["settings"].get("selection", {}).get("profiles") or claims["profiles"]
        features, claimed = frozenset(claims["features"]), pairs(claims["versions"])
    else:
        chosen = [profile["name"] for profile in listed]
        told = ("verifiedFeatures", "claimedUnverified")
        features = frozenset(name for profile in listed for key in told for name in profile.get(key, ()))
        failed = {
            name
            for profile in listed
            for level in ("core", "extended")
            for name in profile.get(level, {}).get("failedCases", ())
        }
        claimed = frozenset(
            pair
            for row in report["cases"]
            if row["result"] == "notServed" and _name(row) in failed
            for use in catalog.entries()[row["id"]].used(row.get("apiVersion", ""), chosen)
            for pair in use.pairs(row["apiVersion"], served)
        )
    return Basis(report["cases"], tuple(chosen), features, claimed, served, bool(report["settings"]["quick"]))


def differences(report: Mapping[str, Any]) -> list[str]:
    """Return in which points a report says something else than follows from its own cases."""
    basis = basis_of(report)
    found = list(_odd_rows(report, basis))
    if found:
        return found
    found += _odd_results(basis)
    stated = {str(profile["name"]): profile for profile in report["profiles"]}
    derived = {str(profile["name"]): profile for profile in profiles(basis)}
    for name in (name for name in PROFILES if name in stated.keys() | derived.keys()):
        if name not in stated or name not in derived:
            words = "is missing, though it was run" if name in derived else "is listed, though nothing of it was run"
            found.append(f"profiles.{name}: {words}")
        else:
            found += _differing(f"profiles.{name}", stated[name], derived[name])
    reasons = hindrances(basis)
    if bool(report["submittable"]) and reasons:
        found.append(f"submittable: says true, but {'; '.join(reasons)}")
    elif not report["submittable"] and not reasons:
        found.append("submittable: says false, but nothing in the report is against it")
    return found


def _differing(where: str, stated: Any, derived: Any) -> Iterator[str]:
    if isinstance(stated, Mapping) and isinstance(derived, Mapping):
        for key in sorted(stated.keys() | derived.keys()):
            yield from _differing(f"{where}.{key}", stated.get(key, _EMPTY.get(key)), derived.get(key, _EMPTY.get(key)))
    elif isinstance(stated, list) and isinstance(derived, list):
        more, less = sorted(set(stated) - set(derived)), sorted(set(derived) - set(stated))
        if more or less:
            words = [f"names {', '.join(more)}, its cases do not"] if more else []
            words += [f"lacks {', '.join(less)}"] if less else []
            yield f"{where}: {'; '.join(words)}"
    elif stated is None and not where.endswith(".summary"):
        yield f"{where}: is missing, its cases amount to {derived!r}"
    elif stated != derived and stated is not None:
        yield f"{where}: says {stated!r}, its cases amount to {derived!r}"


_OPTIONAL = ("failedCases", "skippedCases", "verifiedFeatures", "claimedUnverified", "unsupportedFeatures")
_EMPTY: Mapping[str, list[str]] = {name: [] for name in _OPTIONAL}


def _odd_rows(report: Mapping[str, Any], basis: Basis) -> Iterator[str]:
    """Find what no run writes down so: levels and profiles that are missing or double, versions that do not fit."""
    names = [str(profile["name"]) for profile in report["profiles"]]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"profiles.{name}: is listed {names.count(name)} times"
    levels: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in report["cases"]:
        levels[row["id"], row.get("apiVersion", "")].append(row["level"])
        entry, version = catalog.entries()[row["id"]], row.get("apiVersion", "")
        if row["result"] == "notServed" and entry.playable(version, basis.served, basis.profiles):
            yield f"cases: {_name(row)} says notServed, but servedVersions has that version"
    for (name, version), seen in sorted(levels.items()):
        entry = catalog.entries()[name]
        wanted = [check.level for check in entry.checks_of(version)]
        if version not in entry.versions:
            yield f"cases: {name} does not exist for version {version or '(none)'}"
        elif sorted(seen) != sorted(wanted):
            yield f"cases: {name}[{version}] has the levels {', '.join(seen)}; it consists of {', '.join(wanted)}"


def _odd_results(basis: Basis) -> Iterator[str]:
    """Find results that no run has there: an observation that takes the place of a verdict, a claim that is not one."""
    for row in basis.rows:
        entry = catalog.entries()[row["id"]]
        own = (check.feature for check in entry.checks if check.level == row["level"])
        feature = entry.feature or next(own, "")
        where = f"cases: {_name(row)} {row['level']} says {row['result']}"
        decides = row["level"] != "provisional"
        if row["result"] == "observed" and decides:
            yield f"{where}, but that level has a verdict"
        elif row["result"] in {"passed", "failed"} and not decides:
            yield f"{where}, but of what is provisional there is no verdict"
        elif row["result"] == "notSupported" and not feature:
            yield f"{where}, but the case is about no feature that could be left unclaimed"
        elif row["result"] == "notSupported" and feature in basis.features:
            yield f"{where}, but {feature} is claimed"
