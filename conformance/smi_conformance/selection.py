"""What a user asks for by ids, profiles and versions: whether there is such a thing, and why it is not played."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from smi_conformance import catalog
from smi_conformance.catalog import PROFILES, Entry
from smi_conformance.registry import cases
from smi_conformance.runner import Instance
from smi_conformance.target import VERSIONS

_DIGITS = str.maketrans("OIL", "011")


class SelectionError(ValueError):
    """Something was asked for that does not exist; the message says what there is."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What is to be played. No versions or no ids: all of them."""

    profiles: tuple[str, ...]
    versions: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()

    def has(self, instance: Instance) -> bool:
        """Tell whether this is to be played."""
        return (
            bool(instance.entry.among(self.profiles) and instance.entry.used(instance.version, self.profiles))
            and (not self.versions or instance.version in self.versions)
            and (not self.ids or instance.entry.id in self.ids)
        )

    def unplayed(self) -> list[str]:
        """Return why ids that were named are not played at all."""
        return [f"{name}: {why}" for name in self.ids if (why := self._why_not(catalog.entries()[name]))]

    def nothing(self) -> str:
        """Return why nothing is played at all; "": something is."""
        instances = [Instance(entry, version) for entry in _written() for version in entry.versions]
        if any(self.has(instance) for instance in instances):
            return ""
        reasons = self.unplayed()
        if not reasons:
            under = f" under {', '.join(self.versions)}" if self.versions else ""
            reasons = [f"there is no case of {', '.join(self.profiles)}{under} yet"]
        return f"nothing to run: {'; '.join(reasons)}"

    def _why_not(self, entry: Entry) -> str:
        if entry.later:
            return "it comes with a later version of the suite"
        if not entry.among(self.profiles):
            plays = ",".join(entry.profiles) if entry.together else entry.profiles[0]
            wanted = (" together with " if entry.together else " or ").join(entry.profiles)
            return f"it belongs to {wanted}, which is not claimed or not chosen (--profile {plays} plays it)"
        if self.versions and not set(entry.versions) & set(self.versions):
            return f"it is about {', '.join(entry.versions)}, not {', '.join(self.versions)}"
        return ""


def _written() -> list[Entry]:
    return [catalog.entries()[name] for name in cases()]


def selection(profiles: Iterable[str], versions: Iterable[str], ids: Iterable[str]) -> Selection:
    """Return what is to be played; SelectionError for a name that nothing has."""
    chosen = tuple(profiles)
    for profile in chosen:
        if profile not in PROFILES:
            raise SelectionError(f"unknown profile {profile}; known: {', '.join(PROFILES)}")
    under = tuple(versions)
    for version in under:
        if version not in VERSIONS:
            raise SelectionError(f"unknown version {version}; known: {', '.join(VERSIONS)}")
    return Selection(chosen, under, tuple(known_id(name) for name in ids))


def with_version(name: str) -> tuple[str, str]:
    """Split an instance as it is printed, TS-20[v1alpha4], into the id and its version; "": it has none."""
    found = re.fullmatch(r"(.+?)\[(v1alpha\d)\]", name.strip())
    return (found[1], found[2]) if found else (name, "")


def known_id(name: str) -> str:
    """Return the id that is meant, written a little otherwise perhaps; SelectionError with what there is."""
    entries = catalog.entries()
    found = re.fullmatch(r"([A-Z]+)-?([0-9OIL]{1,2})", name.upper())
    if found:
        meant = f"{found[1]}-{found[2].translate(_DIGITS).zfill(2)}"
        if meant in entries:
            return meant
    bare, version = with_version(name)
    if version:
        raise SelectionError(f"{name} is an id with a version: {bare}, and --versions {version}")
    prefix = found[1] if found else re.split(r"[^A-Z]", name.upper())[0]
    same = [one for one in entries if one.startswith(f"{prefix}-")]
    if same:
        raise SelectionError(f"unknown id {name}: {prefix} goes from {same[0]} to {same[-1]}")
    letters = dict.fromkeys(one.partition("-")[0] for one in entries)
    raise SelectionError(f"unknown id {name}: ids begin with {', '.join(letters)}; `smi-conformance list` has them all")
