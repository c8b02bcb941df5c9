"""Discovery: which SMI kinds the API server has, and in which version to read each.

A kind that is not there is no error. The CRDs may be ours, with all versions and superset schemas (ADR 5), or anybody's
with one version and a lossy conversion webhook. To read an object in the version in which it is stored loses nothing
and calls no webhook, so that version is read if we know it; else the newest one that we know. Which version is stored
the discovery documents say by a hash, so no right to read CRDs is needed.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

import msgspec

from smi_adapter.cluster.client import ApiError, Resource, Unreachable
from smi_adapter.cluster.reach import Requests
from smi_adapter.findings import Finding, Ref, finding
from smi_adapter.smi import schema

Kind = tuple[str, str]
"""Group and kind."""


@dataclass(frozen=True, slots=True)
class Served:
    """A kind as this API server has it: how we read it, all its versions, and what it lacks.

    `status`: it has a status subresource. `ending`: its CRD is being deleted, and the objects go with it.
    """

    resource: Resource
    versions: tuple[str, ...] = ()
    status: bool = True
    ending: bool = False


@dataclass(frozen=True, slots=True)
class Survey:
    """All SMI kinds that are served in a version that we know, and what there is to say about the CRDs."""

    kinds: Mapping[Kind, Served]
    findings: tuple[Finding, ...] = ()


_Read = TypeVar("_Read")


class _Resource(msgspec.Struct):
    name: str
    kind: str = ""
    namespaced: bool = True
    verbs: list[str] = []
    storageVersionHash: str = ""  # noqa: N815 - Kubernetes' name


class _Resources(msgspec.Struct):
    resources: list[_Resource] | None = None


class _Version(msgspec.Struct):
    version: str


class _Group(msgspec.Struct):
    name: str
    versions: list[_Version] = []


class _Groups(msgspec.Struct):
    groups: list[_Group] | None = None


async def look(client: Requests) -> Survey:
    """Return which SMI kinds the API server has now; raise `ApiError` or `Unreachable`."""
    groups = _read(await client.request("GET", "/apis", timeout=10.0), _Groups).groups or []
    wanted = {group for group, _ in schema.served()}
    pairs = [(group.name, item.version) for group in groups if group.name in wanted for item in group.versions]
    lists = [await _resources(client, *pair) for pair in pairs]  # one after the other, on one connection
    found: dict[Kind, dict[str, _Resource]] = {}
    subresources: set[tuple[str, str, str]] = set()
    for (group, version), resources in zip(pairs, lists, strict=True):
        for item in resources:
            plural, slash, subresource = item.name.partition("/")
            if slash:
                subresources.add((group, plural, subresource))
            elif {"list", "watch"} <= set(item.verbs):
                found.setdefault((group, item.kind), {})[version] = item
    kinds: dict[Kind, Served] = {}
    told: list[Finding] = []
    for (group, kind), versions in sorted(found.items()):
        known = schema.served().get((group, kind))
        if known is None:
            continue
        version = _chosen(group, kind, versions, known)
        some = next(iter(versions.values()))
        subject = Ref("CustomResourceDefinition", "", f"{some.name}.{group}", "apiextensions.k8s.io")
        if not version:
            shown = ", ".join(sorted(versions))[:200]
            told.append(finding("SMI0501", subject, "spec.versions", f"the cluster serves {kind} only as {shown}"))
            continue
        item = versions[version]
        status = (group, item.name, "status") in subresources
        if not status:
            told.append(finding("SMI0502", subject, "spec.versions", f"{kind} has no status subresource"))
        resource = Resource(group, version, item.name, kind, item.namespaced)
        kinds[group, kind] = Served(resource, tuple(sorted(versions)), status, "create" not in item.verbs)
    return Survey(MappingProxyType(kinds), tuple(told))


async def lasts(client: Requests, resource: Resource) -> bool:
    """Tell whether a kind is there and not about to go with its CRD."""
    items = await _resources(client, resource.group, resource.version, wait=2.0)
    return any(item.name == resource.plural and "create" in item.verbs for item in items)


async def _resources(client: Requests, group: str, version: str, wait: float = 10.0) -> list[_Resource]:
    try:
        answer = await client.request("GET", f"/apis/{group}/{version}", timeout=wait)
    except ApiError as error:
        if error.status == 404:
            return []
        raise
    return _read(answer, _Resources).resources or []


def _chosen(group: str, kind: str, versions: Mapping[str, _Resource], known: tuple[str, ...]) -> str:
    """Return the stored version if we know it, else the newest one that we know, else ""."""
    usable = [version for version in known if version in versions]
    for version in usable:
        if versions[version].storageVersionHash == _storage_hash(group, version, kind):
            return version
    return usable[-1] if usable else ""


def _storage_hash(group: str, version: str, kind: str) -> str:
    """Return how discovery documents write that a kind is stored in this version."""
    return base64.b64encode(hashlib.sha256(f"{group}/{version}/{kind}".encode()).digest()[:8]).decode()


def _read(answer: bytes, form: type[_Read]) -> _Read:
    try:
        return msgspec.json.decode(answer, type=form)
    except msgspec.MsgspecError as error:
        raise Unreachable(f"a discovery document can't be read: {error}") from error
