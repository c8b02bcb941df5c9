"""What a golden case is, for all who read them: the tests beside this file and those on real Envoys.

A case is a directory with an `in.yaml`, which begins with a comment that names the rows of the semantics it shows
(`# S3: ...`). Rows about history (S24, T15, T17) have an `edit.yaml` as well: objects that are changed after the world
of `in.yaml` was in force. What is made of such a case is what holds after the edit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from smi_adapter.snapshot import Mode, Options, Profile
from smi_adapter.sources.files import Tree, read_tree

HERE = Path(__file__).parent
CASES = sorted(path.parent for path in HERE.glob("*/in.yaml"))
BY_HAND = frozenset({"in.yaml", "edit.yaml", "options.yaml", "requests.yaml"})

ROWS = frozenset(
    {
        *(f"S{number}" for number in range(1, 25)),
        *(f"R{number}" for number in range(1, 12)),
        *(f"T{number}" for number in range(1, 18)),
        *(f"B{number}" for number in range(1, 6)),
        "U1",
    }
)
PROFILES = frozenset({"R1 osm", "R3 traefik", "R3 nsm", "R10 osm", "R10 traefik", "T4 osm"})
"""Rows which a profile reads in its own way."""

_ROW = re.compile(r"\b[SRTBU]\d+\b")


@dataclass(frozen=True, slots=True)
class Asked:
    """One entry of a requests.yaml; `before`: it is asked before the edit."""

    case: Path
    request: Mapping[str, Any]
    expected: Mapping[str, Any]
    before: bool = False

    def __str__(self) -> str:
        return f"{self.case.name}{' before the edit' if self.before else ''}: {self.request}"

    @property
    def source(self) -> tuple[str, str]:
        """Return the namespace and the ServiceAccount of the caller."""
        namespace, account = self.request["from"].split("/")
        return namespace, account

    @property
    def dialled(self) -> tuple[tuple[str, str], int]:
        """Return the Service and its port."""
        service, _, port = self.request["to"].partition(":")
        namespace, name = service.split("/")
        return (namespace, name), int(port)


def asked(case: Path) -> Iterator[Asked]:
    """Yield what is asked of a case."""
    path = case / "requests.yaml"
    for entry in yaml.safe_load(path.read_text()) if path.exists() else ():
        yield Asked(case, entry["request"], entry["expect"], entry.get("when") == "before")


def options_of(case: Path, bundle: bytes = b"") -> Options:
    """Return a case's options."""
    path = case / "options.yaml"
    found: dict[str, Any] = yaml.safe_load(path.read_text()) if path.exists() else {}
    return Options(
        profile=Profile(found.get("profile", "spec")),
        mode=Mode(found.get("mode", "enforce")),
        federated_domains=frozenset(found.get("federated_domains", ())),
        bundle=bundle,
    )


def stages(case: Path) -> list[Tree]:
    """Return the files of a case as they were read: the world, and the edit if there is one."""
    return [read_tree(path) for path in (case / "in.yaml", case / "edit.yaml") if path.exists()]


def shows(case: Path) -> frozenset[str]:
    """Return the rows that a case's first comment names, also as `row profile` if it has one."""
    head, colon, _ = (case / "in.yaml").read_text().partition("\n")[0].partition(":")
    rows = _ROW.findall(head) if colon and head.startswith("#") else []
    profile = options_of(case).profile
    return frozenset(rows if profile is Profile.SPEC else (f"{row} {profile.value}" for row in rows))
