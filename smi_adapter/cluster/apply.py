"""Generated objects into the API: server-side apply, and prune of what is not generated any more.

Level-triggered, like everything here: a round compares what is wanted with what lies there (metadata only, found by our
label) and writes the difference, so a crash between any two writes, an edit or a deletion by hand and a missed change
are all the same case. Names are deterministic and fields are owned by our manager, so doing it twice does nothing.

We don't fight. What somebody changed is put right at once, and then no more than once a minute: whoever changes it
again is another owner, and the user is told (SMI0605). An object of that name that we did not make, or that another
installation made (`ownership`), is never touched. Nothing is pruned before something was wanted, and nothing of an
object that is paused.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, TypeAlias

import msgspec

from smi_adapter.cluster.client import ApiError, Resource, Unreachable
from smi_adapter.cluster.ownership import MANAGED, Live, Object, ObjectList, labels, live, owner_of
from smi_adapter.cluster.pace import Api, Pace, read
from smi_adapter.findings import Finding, Ref, finding

_log = logging.getLogger(__name__)

MANAGER: Final = "smi-adapter"

Place: TypeAlias = tuple[str, str, str, str]
"""(apiVersion, kind, namespace, name)"""

_METADATA: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
_APPLY: Final = "application/apply-patch+yaml"
_FRESH = 30.0
_PAGE = 500
_REFUSED = 60.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """An object to apply, the SMI objects that it was made from, and whether one of these is paused."""

    manifest: Mapping[str, Any]
    origins: tuple[Ref, ...] = ()
    paused: bool = False

    @property
    def place(self) -> Place:
        """Return where it belongs."""
        meta = self.manifest["metadata"]
        return (self.manifest["apiVersion"], self.manifest["kind"], meta["namespace"], meta["name"])


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds: between two looks at what lies there, and between two corrections of one object."""

    look: float = 5.0
    correct: float = 60.0


@dataclass(slots=True)
class _Memory:
    """What we did to one object: the digest of what was applied and the shape that it had then; our last correction.

    `disputed`: who else wants it. `refused`: (digest, when, why) of what the API refused.
    """

    digest: str = ""
    shape: tuple[Any, ...] = ()
    corrected: float | None = None
    disputed: str = ""
    refused: tuple[str, float, str] | None = None

    @property
    def uid(self) -> str:
        """Return that of the object that we applied to, which stays ours whoever takes its labels off."""
        return str(self.shape[0]) if self.shape else ""


class Applier:
    """Keeps generated objects as they are wanted; only while `left()` says that there is time for it.

    `changed` is called when a round has changed what `applied` or `findings` answer.
    `after_write` is called after each write: tests end the process there.
    """

    def __init__(  # noqa: PLR0913 - what there is to choose
        self,
        api: Api,
        left: Callable[[], float],
        installation: str,
        *,
        namespaces: tuple[str, ...] = (),
        timing: Timing = Timing(),
        after_write: Callable[[str], None] = lambda _path: None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.applied = 0
        """The last generation that lies there, but for what `findings` tells."""
        self.writes = 0
        self._api = api
        self._left = left
        self._installation = installation
        self._kinds: set[tuple[str, str]] = set()
        self._namespaces = namespaces
        self._timing = timing
        self._after_write = after_write
        self._on_change = changed
        self._wanted: Mapping[Place, Wanted] | None = None
        self._paused: frozenset[str] = frozenset()
        self._seen: Collection[str] = ()
        self._generation = 0
        self._memory: dict[Place, _Memory] = {}
        self._plurals: dict[tuple[str, str], tuple[float, str | None]] = {}
        self._problems: dict[Place, tuple[Finding, ...]] = {}
        self._hidden: set[str] = set()
        self._news = asyncio.Event()
        self._pace = Pace()

    def want(
        self,
        objects: Iterable[Wanted],
        generation: int,
        kinds: Iterable[tuple[str, str]] = (),
        paused: Iterable[Ref] = (),
        seen: Collection[str] = (),
    ) -> None:
        """Say what is to lie there from now on: all of it.

        `kinds`: each (apiVersion, kind) that may have been generated ever, so that orphans are found. `paused`: SMI
        objects whose generated ones are left alone. `seen`: the names of all SMI objects (see `Live.goes`).
        """
        self._wanted = {item.place: item for item in objects}
        self._kinds.update(kinds, (place[:2] for place in self._wanted))
        self._paused = frozenset(map(str, paused))
        self._seen = seen
        self._generation = generation
        self._news.set()

    def findings(self) -> tuple[Finding, ...]:
        """Return what stands in the way of single objects."""
        return tuple(item for found in self._problems.values() for item in found)

    async def run(self) -> None:
        """Work until cancelled: at once when something else is wanted, and now and then to see what others did."""
        while True:
            self._news.clear()
            if self._wanted is not None and self._left() > 0:
                try:
                    await self._pace.ready()
                    await self._round(self._wanted)
                    self._pace.worked()
                except (ApiError, Unreachable) as error:
                    _log.warning("generated objects could not be applied: %s", error)
                    self._pace.failed(error)
                    continue
            try:
                async with asyncio.timeout(self._timing.look):
                    await self._news.wait()
            except TimeoutError:
                pass

    # ------------------------------------------------------------------------------------------------------ a round

    async def _round(self, wanted: Mapping[Place, Wanted]) -> None:
        """Compare and write once."""
        generation, paused, seen = self._generation, self._paused, self._seen
        lying: dict[Place, Live] = {}
        for api_version, kind in sorted(self._kinds):
            lying.update(await self._list(api_version, kind, wanted))
        problems: dict[Place, tuple[Finding, ...]] = {}
        complete = True
        for place, item in wanted.items():
            found = () if item.paused else await self._settle(place, item, lying.get(place))
            complete = complete and found is not None
            if found:
                problems[place] = found
        for place, there in lying.items():
            if place not in wanted and there.goes(self._installation, seen, paused):
                await self._delete(place, there)
        for place in self._memory.keys() - wanted.keys():
            del self._memory[place]
        before = (self.applied, self._problems)
        self._problems = problems
        if complete:
            self.applied = generation
        else:
            self._news.set()
        if before != (self.applied, problems):
            self._on_change()

    async def _settle(self, place: Place, item: Wanted, there: Live | None) -> tuple[Finding, ...] | None:
        """Have one object as it is wanted; return what is in the way, None if it has to be looked at again."""
        resource = await self._resource(place)
        if resource is None:
            words = f"the cluster does not serve {place[1]} of {place[0]}, which would carry this"
            return self._told(item, "SMI0601", words)
        memory = self._memory.setdefault(place, _Memory())
        digest = _digest(item.manifest)
        if there is not None and memory.digest == digest and memory.shape == there.shape:
            if memory.disputed and not self._too_soon(memory):
                memory.disputed = ""
            return self._dispute(item, memory)
        if memory.refused is not None and memory.refused[0] == digest and self._now() - memory.refused[1] < _REFUSED:
            return self._told(item, "SMI0603", memory.refused[2])
        correction = memory.digest == digest
        if correction and self._too_soon(memory):
            memory.disputed = memory.disputed or f"{place[1]} {place[2]}/{place[3]} is changed again and again"
            return self._dispute(item, memory)
        if there is None or (there.owner not in {"", self._installation} and there.uid != memory.uid):
            memory.disputed = await self._foreign(resource, place, memory.uid)
            if memory.disputed:
                return self._dispute(item, memory)
        return await self._write(resource, place, item, (memory, digest, there, correction))

    async def _write(
        self, resource: Resource, place: Place, item: Wanted, known: tuple[_Memory, str, Live | None, bool]
    ) -> tuple[Finding, ...] | None:
        memory, digest, there, correction = known
        try:
            try:
                answer = await self._apply(resource, place, item, there, force=False)
            except ApiError as error:
                if not _is_conflict_of_owners(error):
                    raise
                if self._too_soon(memory):
                    memory.disputed = f"another writer owns fields of it: {error.message[:300]}"
                    return self._dispute(item, memory)
                correction = True
                answer = await self._apply(resource, place, item, there, force=True)
        except ApiError as error:
            if error.status == 409:
                return None  # it was changed since we listed it
            if error.status not in {400, 403, 404, 422}:
                raise
            words = f"the API server refused {place[1]} {place[2]}/{place[3]}: {error.message[:300]}"
            memory.refused = (digest, self._now(), words)
            return self._told(item, "SMI0603", words)
        memory.digest, memory.shape = digest, live(read(answer, Object)).shape
        memory.refused = None
        if correction:
            memory.corrected = self._now()
        else:
            memory.disputed = ""
        return self._dispute(item, memory)

    def _now(self) -> float:
        return time.monotonic()

    def _too_soon(self, memory: _Memory) -> bool:
        return memory.corrected is not None and self._now() - memory.corrected < self._timing.correct

    def _dispute(self, item: Wanted, memory: _Memory) -> tuple[Finding, ...]:
        return self._told(item, "SMI0605", memory.disputed) if memory.disputed else ()

    def _told(self, item: Wanted, code: str, words: str) -> tuple[Finding, ...]:
        return tuple(finding(code, origin, "", words) for origin in item.origins)

    # ------------------------------------------------------------------------------------------------------ the API

    async def _apply(self, resource: Resource, place: Place, item: Wanted, there: Live | None, *, force: bool) -> bytes:
        """Apply; with the resourceVersion that we saw, so that a deposed leader's write fails."""
        metadata = dict(item.manifest["metadata"])
        metadata["labels"] = {**metadata.get("labels", {}), **labels(self._installation)}
        if there is not None:
            metadata |= {"uid": there.uid, "resourceVersion": there.resource_version}
        path = resource.path(place[2], place[3])
        answer = await self._request(
            "PATCH",
            path,
            query={"fieldManager": MANAGER, "force": "true" if force else "false"},
            body={**item.manifest, "metadata": metadata},
            content_type=_APPLY,
        )
        self.writes += 1
        self._after_write(path)
        return answer

    async def _delete(self, place: Place, there: Live) -> None:
        resource = await self._resource(place)
        if resource is None:
            return
        preconditions = {"uid": there.uid, "resourceVersion": there.resource_version}
        path = resource.path(place[2], place[3])
        try:
            await self._request("DELETE", path, body={"preconditions": preconditions})
        except ApiError as error:
            if error.status == 404:
                return
            if error.status == 409:
                self._news.set()  # it was changed meanwhile: look again
                return
            raise
        self.writes += 1
        self._after_write(path)

    async def _foreign(self, resource: Resource, place: Place, uid: str) -> str:
        """Say whose object of that name there is, if it is not ours; that of this `uid` is, whatever its labels."""
        try:
            meta = read(await self._request("GET", resource.path(place[2], place[3])), Object).metadata
        except ApiError as error:
            if error.status != 404:
                raise
            return ""
        owner = owner_of(meta.labels)
        named = not owner and (meta.labels or {}).get(MANAGED[0]) == MANAGED[1]
        if named or owner == self._installation or (meta.uid and meta.uid == uid):
            return ""
        whose = f"of the installation {owner}" if owner else "that is not ours"
        return f"there is a {place[1]} {place[2]}/{place[3]} {whose}; it is left as it is"

    async def _list(self, api_version: str, kind: str, wanted: Collection[Place]) -> dict[Place, Live]:
        """Return what lies there; where nothing is wanted a right that is missing stops nothing else."""
        resource = await self._resource((api_version, kind, "", ""))
        found: dict[Place, Live] = {}
        if resource is None:
            return found
        for namespace in self._namespaces or ("",):
            try:
                async for item in self._pages(resource, namespace):
                    found[api_version, kind, item.metadata.namespace, item.metadata.name] = live(item)
            except ApiError as error:
                here = any(place[:2] == (api_version, kind) and namespace in {"", place[2]} for place in wanted)
                if error.status != 403 or here:
                    raise
                if (where := f"{kind} in {namespace or 'all namespaces'}") not in self._hidden:
                    _log.warning("what may be left over of %s stays, since it may not be listed: %s", where, error)
                    self._hidden.add(where)
        return found

    async def _pages(self, resource: Resource, namespace: str) -> AsyncIterator[Object]:
        query = {"labelSelector": "=".join(MANAGED), "limit": str(_PAGE)}
        while True:
            page = read(await self._request("GET", resource.path(namespace), query=query, accept=_METADATA), ObjectList)
            for item in page.items or ():
                yield item
            if not page.metadata.continue_:
                return
            query["continue"] = page.metadata.continue_

    async def _resource(self, place: Place) -> Resource | None:
        """Return what serves a kind, or None if nothing does; asked twice a minute at most."""
        api_version, kind = place[:2]
        group, _, version = api_version.rpartition("/")
        known = self._plurals.get((api_version, kind))
        if known is None or time.monotonic() - known[0] > _FRESH:
            plural: str | None = None
            try:
                answer = await self._request("GET", f"/apis/{group}/{version}")
                for item in read(answer, _Resources).resources:
                    if item.kind == kind and "/" not in item.name:
                        plural = item.name
            except ApiError as error:
                if error.status != 404:
                    raise
            known = self._plurals[api_version, kind] = (time.monotonic(), plural)
        return Resource(group, version, known[1], kind) if known[1] else None

    async def _request(self, method: str, path: str, **more: Any) -> bytes:
        left = self._left()
        if left <= 0 and method != "GET":
            raise Unreachable("this replica does not lead any more")
        return await self._api.request(method, path, timeout=max(0.1, min(10.0, left)), **more)


class _ApiResource(msgspec.Struct):
    name: str
    kind: str


class _Resources(msgspec.Struct):
    resources: list[_ApiResource] = []


def _is_conflict_of_owners(error: ApiError) -> bool:
    """Tell a conflict of field managers from one of resource versions, which has the same status and reason."""
    return error.status == 409 and error.message.startswith("Apply failed")


def _digest(manifest: Mapping[str, Any]) -> str:
    return blake2b(msgspec.json.encode(manifest, order="sorted"), digest_size=12).hexdigest()
