"""The catalogue: every id with its versions, its levels, its place in the specification and the rule in our words.

`catalog.yaml` is written by hand in a short form; this module reads it into values and knows the long names of
things. Cases are bound to ids with `@case`, and the self-tests hold the two together in both directions.

Levels: must (follows from a sentence of the specification), should (recommended by it), extended (needs a claimed
feature, or is only implied), provisional (the specification is silent or contradicts itself: observed, never failed).
A level holds for all versions of its case, or for those that it names: what one version of the specification says may
be open in an older one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

import yaml

PROFILES = ("SPLIT", "SPLIT-AB", "ACCESS", "ACCESS-L4", "IDENTITY", "METRICS", "CONSUMER")
LEVELS = ("must", "should", "extended", "provisional")
GROUPS: Mapping[str, str] = MappingProxyType(
    {
        "split": "split.smi-spec.io",
        "access": "access.smi-spec.io",
        "specs": "specs.smi-spec.io",
        "metrics": "metrics.smi-spec.io",
    }
)
_SOURCE = "https://github.com/servicemeshinterface/smi-spec/blob/cc4babd"
_DOCUMENTS = {"TS": "traffic-split", "TA": "traffic-access", "SP": "traffic-specs", "TM": "traffic-metrics"}
_WORDS = {"spec": "the whole"}


@dataclass(frozen=True, slots=True)
class Check:
    """What one level of a case rests on: a document and its lines, or silence; and under which versions it is there."""

    level: str
    versions: tuple[str, ...]
    document: str
    lines: str
    readings: Mapping[str, str]

    @property
    def url(self) -> str:
        """Return where the first line that is cited can be read; "": the specification is silent."""
        if self.document == "silent":
            return ""
        first = self.document.split(",")[0]
        line = self.lines.split(";")[0].split(" ")[0].split("-")[0]
        folder = first.partition("/")[0]
        return f"{_SOURCE}/{f'apis/{first}/{folder}.md' if '/' in first else first}#{line}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One id of the catalogue."""

    id: str
    group: str
    versions: tuple[str, ...]
    profiles: tuple[str, ...]
    feature: str
    needs: tuple[str, ...]
    rows: tuple[str, ...]
    rule: str
    checks: tuple[Check, ...]
    later: bool

    def checks_of(self, version: str) -> tuple[Check, ...]:
        """Return what the case consists of under one version."""
        return tuple(check for check in self.checks if version in check.versions)

    def has(self, level: str, version: str = "") -> bool:
        """Tell whether the case has a check of that level, under one version or under any."""
        return any(check.level == level and version in {"", *check.versions} for check in self.checks)

    def only(self, check: Check) -> str:
        """Return under which versions alone a check is there, in short; "": under all of the case."""
        return span(check.versions) if check.versions != self.versions else ""


def span(versions: tuple[str, ...]) -> str:
    """Return versions in short: v1alpha3-4."""
    return versions[0] if len(versions) == 1 else f"{versions[0]}-{versions[-1][-1]}"


def text() -> str:
    """Return the catalogue as it is written."""
    return resources.files("smi_conformance").joinpath("catalog.yaml").read_text(encoding="utf-8")


def digest() -> str:
    """Return the digest that reports carry, so that two reports can be compared."""
    return "sha256:" + hashlib.sha256(text().encode()).hexdigest()


@cache
def entries() -> Mapping[str, Entry]:
    """Return all entries by id, in the order of the catalogue."""
    raw: dict[str, dict[str, Any]] = yaml.safe_load(text())
    return MappingProxyType({name: _entry(name, fields) for name, fields in raw.items()})


def _entry(name: str, raw: Mapping[str, Any]) -> Entry:
    unknown = set(raw) - {"group", "v", "profile", "feature", "needs", "rows", "rule", "readings", "later", *LEVELS}
    if unknown:
        raise ValueError(f"catalog.yaml: {name}: unknown {', '.join(sorted(unknown))}")
    readings = {str(key): str(value) for key, value in (raw.get("readings") or {}).items()}
    versions = _versions(str(raw["v"]))
    checks = tuple(
        _check(name, level, raw[level], versions, readings if level == "provisional" else {})
        for level in LEVELS
        if level in raw
    )
    profile = str(raw["profile"])
    return Entry(
        id=name,
        group=str(raw["group"]),
        versions=versions,
        profiles=("SPLIT", "SPLIT-AB", "ACCESS", "ACCESS-L4", "IDENTITY") if profile == "ALL" else (profile,),
        feature=str(raw.get("feature", "")),
        needs=tuple(raw.get("needs") or ()),
        rows=tuple(raw.get("rows") or ()),
        rule=str(raw["rule"]),
        checks=checks,
        later=bool(raw.get("later")),
    )


def _check(name: str, level: str, raw: Any, versions: tuple[str, ...], readings: Mapping[str, str]) -> Check:
    """Read `TS4 L28`, which is there under all versions, or `{v: 3-4, at: TS4 L28}`."""
    if isinstance(raw, dict):
        only = _versions(str(raw["v"]))
        if set(raw) != {"v", "at"} or not set(only) < set(versions):
            raise ValueError(f"catalog.yaml: {name}: {level} needs `at`, and `v` with some of the case's versions")
        versions, raw = only, raw["at"]
    return Check(level, versions, *_source(str(raw)), MappingProxyType(dict(readings)))


def _versions(short: str) -> tuple[str, ...]:
    first, _, last = short.partition("-")
    return tuple(f"v1alpha{number}" for number in range(int(first), int(last or first) + 1))


def _source(source: str) -> tuple[str, str]:
    """Turn `TS4 L28 TA4 L96-100` into documents and lines."""
    if source == "silent":
        return "silent", ""
    documents: list[str] = []
    lines: list[str] = []
    for word in source.split():
        if word.startswith("L"):
            lines.append(word)
            continue
        known = _DOCUMENTS.get(word[:2])
        if word == "SPEC":
            documents.append("SPEC_LATEST_STABLE.md")
        elif known and word != "TM":
            documents.append(f"{known}/v1alpha{word[2:]}")
        elif known:
            documents.append(f"{known}/v1alpha1")
        else:
            raise ValueError(f"catalog.yaml: unknown document {word}")
        lines.append(";")
    return ", ".join(documents), " ".join(lines).strip("; ").replace(" ; ", "; ")


FEATURES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        feature: tuple(entry.id for entry in entries().values() if entry.feature == feature)
        for feature in sorted({entry.feature for entry in entries().values() if entry.feature})
    }
)
