"""`target.yaml`: all that the suite knows of the implementation under test.

Read strictly: an unknown field is an error that names the fields there are, because a misspelt claim would otherwise
silently not be tested.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from smi_conformance import written
from smi_conformance.catalog import FEATURES, GROUPS, PLAYABLE, PROFILES


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
        "bypassUser",
        "hostTemplate",
    ),
    "hooks": ("enforce", "permissive", "restart", "stop", "start", "breakWatch"),
    "settings": ("maxTimeToConsistency", "metricsVia", "metricsWarmup", "headers", "trustDomain", "egress"),
    "local": ("driver", "directory", "meshes", "api"),
    "kubernetes": ("image",),
}
UNUSED: Mapping[str, str] = MappingProxyType(
    {
        "settings.metricsVia": "it comes with the cases of METRICS",
        "settings.metricsWarmup": "it comes with the cases of METRICS",
        "local.api": "what the driver says of itself counts, the capability `api`",
    }
)
"""Fields that a target may have and that change nothing yet, and why: who wrote one is told."""

VERSIONS = ("v1alpha1", "v1alpha2", "v1alpha3", "v1alpha4")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and all(_is_text(item) for item in value)


def _is_map(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(part, str) for item in value.items() for part in item)


def _is_host(value: Any) -> bool:
    try:
        return bool(_is_text(value) and value.format(svc="a", ns="b"))
    except (KeyError, IndexError, ValueError):
        return False


def _is_address(value: Any) -> bool:
    return _is_text(value) and re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s/]+\S*", value) is not None


_LIST = (_is_list, "no list of texts, such as [one, two]")
_MAP = (_is_map, 'no mapping of texts, such as {mesh: "yes"} (YAML takes a bare yes for true: quote it)')
_SHAPES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "implementation.contact": _LIST,
    "implementation.url": (_is_address, "no address, such as https://acme.example"),
    **{f"mesh.{name}": _MAP for name in _FIELDS["mesh"] if name not in {"hostTemplate", "bypassUser"}},
    "mesh.hostTemplate": (_is_host, 'no template, such as "{svc}.{ns}"; it knows svc and ns'),
    "mesh.bypassUser": (
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value > 0,
        "no number of a user, such as 1337",
    ),
    **{f"hooks.{name}": _LIST for name in _FIELDS["hooks"]},
    "settings.headers": (lambda value: value in {"map", "list", "both"}, "neither map, list nor both"),
    "settings.trustDomain": (_is_text, "no text"),
    "settings.egress": (
        lambda value: _is_text(value) and re.fullmatch(r"[^\s:/]+:\d{1,5}", value) is not None,
        "no host:port, such as example.org:80",
    ),
    "local.driver": _LIST,
    "local.directory": (_is_text, "no text"),
    "kubernetes.image": (_is_text, "no text"),
}
"""What a field has to look like, and what to say otherwise; a field that is null is as if it were not there."""


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
    unused: tuple[str, ...] = ()

    @property
    def environment(self) -> dict[str, str]:
        """Return what the settings say about the mesh; it counts before what a harness finds out."""
        names = {"headers": "headersEncoding", "trustDomain": "trustDomain", "egress": "egress"}
        return {name: str(value) for key, name in names.items() if (value := self.settings.get(key)) is not None}

    @property
    def permissive_by_namespace(self) -> bool:
        """Tell whether access control can be switched off for a namespace alone."""
        return bool(self.mesh.get("permissiveNamespaceLabels") or self.mesh.get("permissiveNamespaceAnnotations"))


def load(path: Path) -> Target:
    """Read a target file; TargetError says what is wrong with it."""
    try:
        raw = written.read(path)
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
    for where, (fits, words) in _SHAPES.items():
        section, _, name = where.partition(".")
        value = (raw.get(section) or {}).get(name)
        if value is not None and not fits(value):
            raise TargetError(f"{path}: {where}: {value!r} is {words}")
    return _target(path, raw)


def _target(path: Path, raw: Mapping[str, Any]) -> Target:
    implementation = raw.get("implementation") or {}
    for name in ("organization", "project", "url", "version", "contact"):
        if not implementation.get(name):
            raise TargetError(f"{path}: implementation.{name} is missing")
    claims = raw.get("claims") or {}
    profiles = _names(path, "claims.profiles", claims.get("profiles") or list(PLAYABLE), PROFILES)
    features = _names(path, "claims.features", claims.get("features") or [], FEATURES)
    local = raw.get("local") or {}
    settings = raw.get("settings") or {}
    return Target(
        implementation={key: _text(value) for key, value in implementation.items()},
        profiles=profiles,
        features=frozenset(features),
        claimed_versions=_versions(path, claims.get("versions") or {}),
        mesh=raw.get("mesh") or {},
        hooks={name: tuple(command or ()) for name, command in (raw.get("hooks") or {}).items()},
        deadline=seconds(path, settings.get("maxTimeToConsistency", "30s")),
        settings=settings,
        driver=tuple(str(part) for part in local.get("driver") or ()),
        directory=(path.parent / (local.get("directory") or ".")).resolve(),
        meshes=_count(path, "local.meshes", local.get("meshes", 1)),
        image=(raw.get("kubernetes") or {}).get("image") or "python:3-alpine",
        unused=tuple(
            f"{path}: {where} changes nothing yet: {why}" for where, why in UNUSED.items() if _has(raw, where)
        ),
    )


def _has(raw: Mapping[str, Any], where: str) -> bool:
    section, _, name = where.partition(".")
    return (raw.get(section) or {}).get(name) is not None


def _versions(path: Path, given: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(given, dict):
        raise TargetError(f"{path}: claims.versions is no mapping of groups, such as {{split.smi-spec.io: [v1alpha4]}}")
    for group, versions in given.items():
        if group not in GROUPS.values():
            raise TargetError(f"{path}: claims.versions: unknown group {group}; known: {', '.join(GROUPS.values())}")
        _names(path, f"claims.versions.{group}", versions, VERSIONS)
    return {group: tuple(dict.fromkeys(versions)) for group, versions in given.items()}


def _text(value: Any) -> Any:
    return [str(item) for item in value] if isinstance(value, list) else str(value)


def _names(path: Path, where: str, given: Any, known: Mapping[str, Any] | tuple[str, ...]) -> tuple[str, ...]:
    if not isinstance(given, list):
        raise TargetError(f"{path}: {where} is no list")
    for name in given:
        if not isinstance(name, str) or name not in known:
            raise TargetError(f"{path}: {where}: unknown {name!r}; known: {', '.join(sorted(known))}")
    return tuple(dict.fromkeys(given))


def _count(path: Path, where: str, given: Any) -> int:
    if not isinstance(given, int) or isinstance(given, bool) or given < 1:
        raise TargetError(f"{path}: {where}: {given!r} is no number above 0")
    return given


def seconds(path: Path, text: Any) -> float:
    """Read a duration such as 30s or 1m."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m)", str(text))
    if found is None:
        raise TargetError(f"{path}: settings.maxTimeToConsistency: {text!r} is no duration such as 30s")
    found_seconds = float(found[1]) * {"ms": 0.001, "s": 1.0, "m": 60.0}[found[2]]
    if not found_seconds:
        raise TargetError(f"{path}: settings.maxTimeToConsistency: {text!r} leaves no time at all")
    return found_seconds
