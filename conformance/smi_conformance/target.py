"""`target.yaml`: all that the suite knows of the implementation under test.

Read strictly: an unknown field is an error that names the fields there are, because a misspelt claim would otherwise
silently not be tested.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from smi_conformance.catalog import FEATURES, GROUPS, PROFILES


class TargetError(ValueError):
    """The target file can't be used; the message says where and why."""


_FIELDS: dict[str, tuple[str, ...]] = {
    "": ("implementation", "claims", "mesh", "hooks", "settings", "local", "kubernetes"),
    "implementation": ("organization", "project", "url", "version", "contact", "backend", "mode"),
    "claims": ("profiles", "features", "versions"),
    "mesh": (
        "namespaceLabels",
        "namespaceAnnotations",
        "permissiveNamespaceLabels",
        "permissiveNamespaceAnnotations",
        "podLabels",
        "podAnnotations",
        "unmeshedPodLabels",
        "unmeshedPodAnnotations",
        "hostTemplate",
    ),
    "hooks": ("enforce", "permissive", "restart", "stop", "start", "breakWatch"),
    "settings": ("maxTimeToConsistency", "metricsVia", "metricsWarmup", "headers", "trustDomain", "egress"),
    "local": ("driver", "directory", "meshes", "api"),
    "kubernetes": ("image",),
}


@dataclass(frozen=True, slots=True)
class Target:
    """The parsed file."""

    implementation: Mapping[str, Any]
    profiles: tuple[str, ...]
    features: frozenset[str]
    claimed_versions: Mapping[str, tuple[str, ...]]
    mesh: Mapping[str, Any] = field(default_factory=dict)
    hooks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    deadline: float = 30.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    driver: tuple[str, ...] = ()
    directory: Path = field(default_factory=Path.cwd)
    meshes: int = 1
    image: str = "python:3-alpine"

    @property
    def permissive_by_namespace(self) -> bool:
        """Tell whether access control can be switched off for a namespace alone."""
        return bool(self.mesh.get("permissiveNamespaceLabels") or self.mesh.get("permissiveNamespaceAnnotations"))


def load(path: Path) -> Target:
    """Read a target file; TargetError says what is wrong with it."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TargetError(f"{path}: {error}") from error
    if not isinstance(raw, dict):
        raise TargetError(f"{path}: is no mapping")
    for section, known in _FIELDS.items():
        part = raw if not section else raw.get(section) or {}
        if not isinstance(part, dict):
            raise TargetError(f"{path}: {section} is no mapping")
        for name in part:
            if name not in known:
                where = f"{section}.{name}" if section else str(name)
                raise TargetError(f"{path}: unknown field {where}; known here: {', '.join(known)}")
    return _target(path, raw)


def _target(path: Path, raw: Mapping[str, Any]) -> Target:
    implementation = raw.get("implementation") or {}
    for name in ("organization", "project", "url", "version", "contact"):
        if not implementation.get(name):
            raise TargetError(f"{path}: implementation.{name} is missing")
    claims = raw.get("claims") or {}
    profiles = _names(path, "claims.profiles", claims.get("profiles") or list(PROFILES), PROFILES)
    features = _names(path, "claims.features", claims.get("features") or [], FEATURES)
    versions = claims.get("versions") or {}
    for group in versions:
        if group not in GROUPS.values():
            raise TargetError(f"{path}: claims.versions: unknown group {group}; known: {', '.join(GROUPS.values())}")
    local = raw.get("local") or {}
    settings = raw.get("settings") or {}
    if settings.get("egress") is not None and not re.fullmatch(r"[^\s:/]+:\d{1,5}", str(settings["egress"])):
        raise TargetError(f"{path}: settings.egress: {settings['egress']!r} is no host:port, such as example.org:80")
    return Target(
        implementation={key: _text(value) for key, value in implementation.items()},
        profiles=profiles,
        features=frozenset(features),
        claimed_versions={group: tuple(found) for group, found in versions.items()},
        mesh=raw.get("mesh") or {},
        hooks={name: tuple(command or ()) for name, command in (raw.get("hooks") or {}).items()},
        deadline=seconds(path, settings.get("maxTimeToConsistency", "30s")),
        settings=settings,
        driver=tuple(str(part) for part in local.get("driver") or ()),
        directory=(path.parent / str(local.get("directory", "."))).resolve(),
        meshes=_count(path, "local.meshes", local.get("meshes", 1)),
        image=str((raw.get("kubernetes") or {}).get("image", "python:3-alpine")),
    )


def _text(value: Any) -> Any:
    return [str(item) for item in value] if isinstance(value, list) else str(value)


def _names(path: Path, where: str, given: Any, known: Mapping[str, Any] | tuple[str, ...]) -> tuple[str, ...]:
    if not isinstance(given, list):
        raise TargetError(f"{path}: {where} is no list")
    for name in given:
        if name not in known:
            raise TargetError(f"{path}: {where}: unknown {name!r}; known: {', '.join(sorted(known))}")
    return tuple(given)


def _count(path: Path, where: str, given: Any) -> int:
    if not isinstance(given, int) or isinstance(given, bool) or given < 1:
        raise TargetError(f"{path}: {where}: {given!r} is no number above 0")
    return given


def seconds(path: Path, text: Any) -> float:
    """Read a duration such as 30s or 1m."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m)", str(text))
    if found is None:
        raise TargetError(f"{path}: settings.maxTimeToConsistency: {text!r} is no duration such as 30s")
    return float(found[1]) * {"ms": 0.001, "s": 1.0, "m": 60.0}[found[2]]
