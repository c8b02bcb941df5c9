"""Read and apply CustomResourceDefinitions, for `smi-adapter crds`.

The controller itself never writes a CRD: this runs with the rights of the person at the terminal. What to apply is
decided in `smi_adapter.crds.merge`; it goes out by server-side apply with the resourceVersion that it was decided on,
so that somebody else's change in between is looked at again instead of being undone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from smi_adapter import crds
from smi_adapter.cluster.client import ApiError, Client
from smi_adapter.crds.merge import Plan, plan

FIELD_MANAGER = "smi-adapter-crds"

_COLLECTION = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_TRIES = 5
_POLL = 0.1


class NotEstablishedError(Exception):
    """The API server took a CRD but doesn't serve it in time; the message says why."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of one CRD: how it was before (None: it was not there), and how it is or would be."""

    plan: Plan
    before: Mapping[str, Any] | None
    after: Mapping[str, Any]

    @property
    def changed(self) -> bool:
        """Tell whether anything but the bookkeeping of server-side apply differs."""
        return self.before is None or cleaned(self.before) != cleaned(self.after)


async def plans(client: Client) -> tuple[Plan, ...]:
    """Compare every CRD of ours with the installed one."""
    return tuple([plan(ours, await _read(client, crds.name_of(ours))) for ours in crds.definitions()])


async def apply(client: Client, *, dry_run: bool = False) -> tuple[Applied, ...]:
    """Apply every CRD; with `dry_run` the API server only says what would come out."""
    return tuple([await _apply(client, ours, dry_run=dry_run) for ours in crds.definitions()])


async def established(client: Client, seconds: float) -> None:
    """Wait until the API server serves every CRD; raise `NotEstablishedError`."""
    until = time.monotonic() + seconds
    for ours in crds.definitions():
        while why := _trouble(await _read(client, crds.name_of(ours))):
            if time.monotonic() > until:
                raise NotEstablishedError(f"{crds.name_of(ours)}: {why}")
            await asyncio.sleep(_POLL)


def cleaned(crd: Mapping[str, Any]) -> dict[str, Any]:
    """Return a CRD without what the API server keeps for itself."""
    metadata = {key: value for key, value in crd["metadata"].items() if key in {"name", "labels", "annotations"}}
    return {"apiVersion": crd["apiVersion"], "kind": crd["kind"], "metadata": metadata, "spec": crd["spec"]}


async def _read(client: Client, name: str) -> Mapping[str, Any] | None:
    try:
        found: Mapping[str, Any] = await client.get(f"{_COLLECTION}/{name}")
    except ApiError as error:
        if error.status == 404:
            return None
        raise
    return found


async def _apply(client: Client, ours: crds.Crd, *, dry_run: bool) -> Applied:
    name = crds.name_of(ours)
    query = {"fieldManager": FIELD_MANAGER, "force": "true"} | ({"dryRun": "All"} if dry_run else {})
    for last in (*[False] * (_TRIES - 1), True):
        before = await _read(client, name)
        decided = plan(ours, before)
        body = decided.wanted
        if before is not None:
            body = body | {"metadata": body["metadata"] | {"resourceVersion": before["metadata"]["resourceVersion"]}}
        try:
            answer = await client.request(
                "PATCH",
                f"{_COLLECTION}/{name}",
                query=query,
                body=body,
                content_type="application/apply-patch+yaml",
                timeout=30,
            )
        except ApiError as error:
            if error.status == 409 and not last:
                continue
            raise
        return Applied(decided, before, msgspec.json.decode(answer))
    raise AssertionError("the last try returns or raises")


def _trouble(crd: Mapping[str, Any] | None) -> str:
    if crd is None:
        return "it is gone"
    conditions = {one["type"]: one for one in crd.get("status", {}).get("conditions") or ()}
    for kind in ("NamesAccepted", "Established"):
        if conditions.get(kind, {}).get("status") != "True":
            return conditions.get(kind, {}).get("message") or f"it is not {kind} yet"
    return ""
