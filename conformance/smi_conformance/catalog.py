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
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any, TypeAlias

import yaml

from smi_conformance.model import versions_for

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
_RESOURCES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "SPLIT": ("split",),
        "SPLIT-AB": ("split", "specs"),
        "ACCESS": ("access", "specs"),
        "ACCESS-L4": ("access", "specs"),
        "IDENTITY": ("access", "specs"),
        "METRICS": ("metrics",),
        "CONSUMER": ("split",),
    }
)
"""The groups that a case of a profile writes, unless the catalogue names others for it (`uses`)."""
GUARDED = frozenset({"ACCESS", "ACCESS-L4", "IDENTITY"})
"""The profiles that are about access control: what they test is enforced."""
Pairs: TypeAlias = frozenset[tuple[str, str]]
"""Groups, each with one of its versions: what is served, claimed or used."""


def pairs(versions: Mapping[str, Iterable[str]]) -> Pairs:
    """Return group and version of each."""
    return frozenset((group, version) for group, found in versions.items() for version in found)


@dataclass(frozen=True, slots=True)
class Use:
    """Groups that a case, or one part of it, writes together, and under which of its versions.

    The first is the group whose version is tested; the others have the version that goes with it.
    """

    groups: tuple[str, ...]
    versions: tuple[str, ...]
    profiles: tuple[str, ...] = ()
    """It is played for any of these."""

    def pairs(self, version: str, there: Pairs) -> Pairs:
        """Return what it writes under a version of the case, where these are to choose from."""
        if self.groups == ("metrics",):
            return frozenset({(GROUPS["metrics"], version)})
        found = versions_for(self.groups[0], version, there)
        return frozenset((GROUPS[group], str(getattr(found, group))) for group in self.groups)


@dataclass(frozen=True, slots=True)
class Claims:
    """What a run is about, for a case of which one part belongs to a profile or a feature of its own.

    An explanation leaves no profile out.
    """

    profiles: tuple[str, ...] = PROFILES
    features: frozenset[str] = frozenset()
    versions: Pairs = frozenset()
    both_modes: bool = True
    """Access rules can be enforced in one namespace and not in another; not so where they are switched for the mesh."""


@dataclass(frozen=True, slots=True)
class Check:
    """What one level of a case rests on: a document and its lines, or silence; and under which versions it is there."""

    level: str
    versions: tuple[str, ...]
    document: str
    lines: str
    readings: Mapping[str, str]
    feature: str = ""
    """Has a verdict only where this is claimed."""

    @property
    def url(self) -> str:
        """Return where the first lines that are cited can be read; "": the specification is silent."""
        return next((url for _, url in self.links), "")

    @property
    def links(self) -> tuple[tuple[str, str], ...]:
        """Return what is cited, a document and lines of it at a time, and where that is shown with those lines."""
        if self.document == "silent":
            return ()
        found: list[tuple[str, str]] = []
        for document, lines in zip(self.document.split(", "), self.lines.split("; "), strict=True):
            path = f"apis/{document}/{document.partition('/')[0]}.md" if "/" in document else document
            for number, part in enumerate(lines.split()):
                anchor = part.replace("-", "-L")
                found.append((part if number else f"{document} {part}", f"{_SOURCE}/{path}?plain=1#{anchor}"))
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Entry:
    """One id of the catalogue."""

    id: str
    group: str
    versions: tuple[str, ...]
    profiles: tuple[str, ...]
    together: bool
    """It counts only where all of its profiles are played."""
    uses: tuple[Use, ...]
    feature: str
    part: str
    """A feature that one part of the case is about; without the claim that part is left out."""
    needs: tuple[str, ...]
    rows: tuple[str, ...]
    rule: str
    checks: tuple[Check, ...]
    later: bool

    @property
    def features(self) -> tuple[str, ...]:
        """Return every feature that needs this case to be verified."""
        named = (self.feature, self.part, *(check.feature for check in self.checks))
        return tuple(dict.fromkeys(name for name in named if name))

    def among(self, profiles: Collection[str]) -> tuple[str, ...]:
        """Return in which of the profiles that are played the case counts."""
        found = tuple(name for name in self.profiles if name in profiles)
        return () if self.together and found != self.profiles else found

    def playable(self, version: str, there: Pairs, profiles: Collection[str]) -> bool:
        """Tell whether all groups of the case, or of one part of it, are there in the versions that it would write."""
        return any(use.pairs(version, there) <= there for use in self.used(version, profiles))

    def used(self, version: str, profiles: Collection[str]) -> list[Use]:
        """Return what the case, or each part of it, uses under a version if these profiles are played."""
        return [use for use in self.uses if version in use.versions and set(use.profiles) & set(profiles)]

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


_KEYS = (
    *("group", "v", "profile", "uses", "feature", "part", "needs"),
    *("rows", "rule", "readings", "later"),
)


@cache
def entries() -> Mapping[str, Entry]:
    """Return all entries by id, in the order of the catalogue."""
    raw: dict[str, dict[str, Any]] = yaml.safe_load(text())
    return MappingProxyType({name: _entry(name, fields) for name, fields in raw.items()})


def _entry(name: str, raw: Mapping[str, Any]) -> Entry:
    unknown = set(raw) - {*_KEYS, *LEVELS}
    if unknown:
        raise ValueError(f"catalog.yaml: {name}: unknown {', '.join(sorted(unknown))}")
    readings = {str(key): str(value) for key, value in (raw.get("readings") or {}).items()}
    versions = _versions(str(raw["v"]))
    checks = tuple(
        _check(name, level, raw[level], versions, readings if level == "provisional" else {})
        for level in LEVELS
        if level in raw
    )
    group, profile = str(raw["group"]), raw["profile"]
    profiles = _profiles(profile)
    together = isinstance(profile, str) and "+" in profile
    if len(profiles) > 1 and not together and "uses" not in raw:
        raise ValueError(f"catalog.yaml: {name}: needs `uses`, since its profiles use different groups")
    written = {group: None} | {item: None for profile in profiles for item in _RESOURCES[profile]}
    return Entry(
        id=name,
        group=group,
        versions=versions,
        profiles=profiles,
        together=together,
        uses=_uses(raw.get("uses") or ["+".join(written)], versions, profile, profiles),
        feature=str(raw.get("feature", "")),
        part=str(raw.get("part", "")),
        needs=tuple(raw.get("needs") or ()),
        rows=tuple(raw.get("rows") or ()),
        rule=str(raw["rule"]),
        checks=checks,
        later=bool(raw.get("later")),
    )


def _profiles(raw: Any) -> tuple[str, ...]:
    """Read `SPLIT`, `[SPLIT, ACCESS]` (in each that is played), `SPLIT+ACCESS` (where both are played), or `ALL`."""
    if raw == "ALL":
        return ("SPLIT", "SPLIT-AB", "ACCESS", "ACCESS-L4", "IDENTITY")
    return tuple(raw) if isinstance(raw, list) else tuple(str(raw).split("+"))


def _uses(raw: list[str], versions: tuple[str, ...], profile: Any, profiles: tuple[str, ...]) -> tuple[Use, ...]:
    """Read `access+specs`, or `access+specs 3-4` for a part that is there under some versions only.

    A list of profiles says for which of them each part is played.
    """
    found = []
    for number, item in enumerate(raw):
        groups, _, only = item.partition(" ")
        mine = (profiles[number],) if isinstance(profile, list) else profiles
        found.append(Use(tuple(groups.split("+")), _versions(only) if only else versions, mine))
    return tuple(found)


def _check(name: str, level: str, raw: Any, versions: tuple[str, ...], readings: Mapping[str, str]) -> Check:
    """Read `TS4 L28`, or `{at: TS4 L28}` with `v: 3-4` (not under all versions) or `feature` (only where claimed)."""
    feature = ""
    if isinstance(raw, dict):
        only = _versions(str(raw["v"])) if "v" in raw else ()
        if "at" not in raw or set(raw) - {"at", "v", "feature"} or not set(only) < set(versions):
            raise ValueError(f"catalog.yaml: {name}: {level} needs `at`, and `v` with some of the case's versions")
        versions, raw, feature = only or versions, raw["at"], str(raw.get("feature", ""))
    return Check(level, versions, *_source(str(raw)), MappingProxyType(dict(readings)), feature)


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
        feature: tuple(entry.id for entry in entries().values() if feature in entry.features)
        for feature in sorted({name for entry in entries().values() for name in entry.features})
    }
)
PLAYABLE = tuple(
    name for name in PROFILES if any(name in entry.profiles and not entry.later for entry in entries().values())
)
"""The profiles whose cases exist."""
