"""The whole cluster once, for a command: what the controller would see, without following it.

It reads the same kinds through the same projections as `source`, so that a command and the controller judge the same
facts. A person may have fewer rights than the controller: a kind that may not be listed everywhere is listed in the
chosen namespace, and what stays hidden is said, because a Service that nobody may see looks like one that is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from smi_adapter.cluster import discovery
from smi_adapter.cluster.client import ApiError, Client, Resource
from smi_adapter.cluster.discovery import Survey
from smi_adapter.cluster.projection import Item, Projection, status_of
from smi_adapter.cluster.source import CORE, NAMESPACES
from smi_adapter.decode import RawObject
from smi_adapter.decode.forms import NO_CLUSTER
from smi_adapter.findings import Finding, Ref, finding

_PAGE: Final = "500"
_RESTARTS: Final = 3
_PATIENCE: Final = 5
"""So many times a busy API server is asked again."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What was there. `live` holds SMI objects as the API has them, with status; `findings` what could not be read.

    `cluster`: False if it is the API of `run --source --api`, where loopback addresses are what they should be.
    """

    objects: Mapping[Ref, RawObject]
    live: Mapping[Ref, Mapping[str, Any]]
    survey: Survey
    findings: tuple[Finding, ...]
    cluster: bool = True


async def everything(client: Client, namespaces: Sequence[str] = ()) -> Listing:
    """List all that decides anything; with `namespaces`, a kind that is not to be seen everywhere only in these."""
    survey = await discovery.look(client)
    wanted = (*CORE, *(served.resource for served in survey.kinds.values() if not served.ending))
    answers = await asyncio.gather(*(_listed(client, resource, namespaces) for resource in wanted))
    objects: dict[Ref, RawObject] = {}
    live: dict[Ref, Mapping[str, Any]] = {}
    told = list(survey.findings)
    for resource, (items, denied) in zip(wanted, answers, strict=True):
        projection = Projection(resource)
        for item in items:
            raw = projection.raw(item.value)
            ref = Ref(resource.kind, item.namespace if resource.namespaced else "", item.name, resource.group)
            objects[ref] = raw
            if resource.group:
                live[ref] = _whole(raw, item)
        if denied:
            subject = Ref("CustomResourceDefinition" if resource.group else "API", "", resource.plural)
            told.append(finding("SMI0904", subject, "", f"{denied}; what depends on it may be said wrongly"))
    return Listing(objects, live, survey, tuple(told), cluster=not await without_cluster(client))


async def without_cluster(client: Client) -> bool:
    """Tell whether this is the API of `run --source --api`, and no cluster at all."""
    return bool((await client.get("/version")).get("platform") == NO_CLUSTER)


def _whole(raw: RawObject, item: Item) -> dict[str, Any]:
    metadata = {**raw["metadata"], "uid": item.uid, "resourceVersion": item.version}
    status = status_of(item.status)
    return {**raw, "metadata": metadata, **({} if status is None else {"status": status})}


async def _listed(client: Client, resource: Resource, namespaces: Sequence[str]) -> tuple[list[Item], str]:
    """Return the objects of a kind, and in words what is hidden from us."""
    try:
        return await _pages(client, resource, resource.path()), ""
    except ApiError as error:
        if error.status == 404:
            return [], ""
        if error.status != 403:
            raise
        if not namespaces:
            return [], f"you may not list {resource.plural}"
    found: list[Item] = []
    hidden = ""
    for namespace in namespaces:
        try:
            found += await _in_namespace(client, resource, namespace)
        except ApiError as error:
            if error.status not in {403, 404}:
                raise
            hidden = f"you may not list {resource.plural} in {namespace}"
    only = f"you may list {resource.plural} in {', '.join(namespaces)} only"
    return found, hidden or (only if resource != NAMESPACES else "")


async def _in_namespace(client: Client, resource: Resource, namespace: str) -> list[Item]:
    if resource.namespaced:
        return await _pages(client, resource, resource.path(namespace))
    return [Projection(resource).item(await client.request("GET", resource.path(name=namespace)))]


async def _pages(client: Client, resource: Resource, path: str) -> list[Item]:
    """Return all pages; a list that has grown too old on the way is begun anew."""
    projection = Projection(resource)
    for last in (False,) * _RESTARTS + (True,):
        found: list[Item] = []
        token = ""
        try:
            while True:
                query = {"limit": _PAGE, **({"continue": token} if token else {})}
                page = projection.page(await _answer(client, path, query))
                found += page.items
                token = page.token
                if not token:
                    return found
        except ApiError as error:
            if error.status != 410 or last:
                raise
    raise AssertionError("the last attempt returned or raised")


async def _answer(client: Client, path: str, query: Mapping[str, str]) -> bytes:
    """GET; an API server that is busy (a CRD was just changed, say) is asked again when it says so."""
    for _ in range(_PATIENCE):
        try:
            return await client.request("GET", path, query=query, timeout=30.0)
        except ApiError as error:
            if error.status not in {429, 503}:
                raise
            await asyncio.sleep(min(5.0, max(0.2, error.retry_after or 0.2)))
    return await client.request("GET", path, query=query, timeout=30.0)


async def events_of(client: Client, namespace: str, kind: str, name: str) -> list[Mapping[str, Any]]:
    """Return the Events about an object, oldest first; none if we may not see them."""
    selector = f"involvedObject.kind={kind},involvedObject.name={name}"
    try:
        answer = await client.get(f"/api/v1/namespaces/{namespace}/events", fieldSelector=selector, limit="50")
    except ApiError as error:
        if error.status == 403:
            return []
        raise
    except msgspec.DecodeError:
        return []
    items: list[Mapping[str, Any]] = answer.get("items") or []
    return sorted(items, key=lambda item: str(item.get("lastTimestamp") or item.get("eventTime") or ""))


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which SMI objects: kinds as (group, kind), a namespace ("": all), a label selector, a name."""

    kinds: Sequence[tuple[str, str]]
    namespace: str = ""
    selector: str = ""
    name: str = ""


async def some(client: Client, chosen: Chosen) -> tuple[list[Mapping[str, Any]], dict[Resource, str]]:
    """Return SMI objects as the API has them, and for each kind that is served where a watch would go on."""
    survey = await discovery.look(client)
    found: list[Mapping[str, Any]] = []
    versions: dict[Resource, str] = {}
    for kind in chosen.kinds:
        served = survey.kinds.get(kind)
        if served is None:
            continue
        path, projection = served.resource.path(chosen.namespace), Projection(served.resource)
        query = _narrowed(chosen)
        page = projection.page(await _answer(client, path, query))
        versions[served.resource] = page.version
        found += [_whole(projection.raw(item.value), item) for item in page.items]
    return sorted(found, key=lambda raw: (raw["metadata"].get("namespace", ""), raw["metadata"]["name"])), versions


async def changes(
    client: Client, resource: Resource, version: str, chosen: Chosen
) -> AsyncIterator[tuple[str, Mapping[str, Any]]]:
    """Yield what happens to objects of a kind from now on, as (ADDED, MODIFIED or DELETED, object)."""
    projection = Projection(resource)
    query = {"watch": "true", "resourceVersion": version, "allowWatchBookmarks": "true", **_narrowed(chosen)}
    async for line in client.watch(resource.path(chosen.namespace), query):
        event = projection.event(line)
        if event.type == "ERROR":
            raise ApiError(event.status, event.reason, event.message)
        if event.item is not None:
            yield event.type, _whole(projection.raw(event.item.value), event.item)


def _narrowed(chosen: Chosen) -> dict[str, str]:
    by_name = {"fieldSelector": f"metadata.name={chosen.name}"} if chosen.name else {}
    return {**by_name, **({"labelSelector": chosen.selector} if chosen.selector else {})}
