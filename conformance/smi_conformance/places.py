"""Namespaces with workloads, lent to one case at a time.

Starting workloads is what costs most, so a place is used again by a later case that wants the same ones. That does
not blur a verdict: each case has the place for itself, its Services and SMI objects have names that were never used
before, and all of them are deleted afterwards. Only the pods stay, and Services over them that no case changes (every
proxy of the mesh is told of each that comes and goes); and they only if all was well in the case: a mesh that is wrong
may hold on to what was deleted, and must not fail the next case with it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from smi_conformance.model import Service
from smi_conformance.protocol import App, Harness, HarnessError
from smi_conformance.render import Manifest

_TAKEN = "cf"
_T = TypeVar("_T")


async def together(*steps: Coroutine[Any, Any, _T]) -> list[_T]:
    """Do several things at once and return what came of each; the first trouble ends all of them, and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(step) for step in steps]
    except BaseExceptionGroup as trouble:
        raise trouble.exceptions[0] from None
    return [task.result() for task in tasks]


@dataclass(frozen=True, slots=True)
class Place:
    """A namespace and its workloads by name."""

    namespace: str
    apps: Mapping[str, App]
    layout: tuple[App, ...]
    enforced: bool
    standing: dict[Service, Manifest] = field(default_factory=dict, compare=False)
    """The Services that stay, by what they are but for the name."""
    alive: set[str] = field(default_factory=set, compare=False)
    """The clients that were seen to reach somebody."""

    def __getitem__(self, name: str) -> App:
        return self.apps[name]

    @property
    def pods(self) -> int:
        """Return how many pods it has."""
        return sum(app.replicas for app in self.layout)


class Pool:
    """Makes places and lends them; places that nobody has are kept as long as all have at most `keep` pods."""

    def __init__(self, harness: Harness, run: str = "", keep: int = 40) -> None:
        self.harness = harness
        self.mode: bool | None = None
        """Whether access rules are enforced in the place that was taken last."""
        self._run = run
        self._free: deque[Place] = deque()
        self._all: list[Place] = []
        self._count = 0
        self._keep = keep
        self._lock = asyncio.Lock()

    async def take(self, layout: tuple[App, ...], *, enforced: bool) -> Place:
        """Return a place with these workloads, a used one if there is one."""
        self.mode = enforced
        for place in self._free:
            if place.layout == layout and place.enforced == enforced:
                self._free.remove(place)
                return place
        self._count += 1
        namespace = f"{_TAKEN}{self._run}-{self._count}"
        place = Place(namespace, {app.name: replace(app, namespace=namespace) for app in layout}, layout, enforced)
        self._all.append(place)
        while self._free and sum(place.pods for place in self._all) > self._keep:
            await self._drop(self._free.popleft())
        try:
            await self.harness.namespace(namespace, enforced=enforced)
            await together(*(self.harness.deploy(app) for app in place.apps.values()))
        except BaseException:
            await self._drop(place)  # half a place is no use, and must not be in the way of the others
            raise
        return place

    async def give_back(self, place: Place) -> None:
        """Lend it to the next."""
        self._free.append(place)

    async def give_up(self, place: Place) -> None:
        """Remove it: what a case left in it that went wrong is nobody else's."""
        await self._drop(place)

    async def close(self) -> list[str]:
        """Remove all namespaces and wait until they are gone; return what is left, and why."""
        left: list[str] = []
        for place in list(self._all):
            try:
                await self._drop(place)
            except HarnessError as error:
                left.append(f"namespace {place.namespace}, which could not be removed: {error}")
        try:
            return left + await self.harness.removed()
        except HarnessError:
            return left + self.harness.remains(())

    async def _drop(self, place: Place) -> None:
        if place in self._all:
            try:
                if place.standing:  # a driver need not know that what is in a namespace goes with it
                    await self.harness.delete(list(place.standing.values()))
                    place.standing.clear()
            finally:
                await self.harness.remove_namespace(place.namespace)
            self._all = [other for other in self._all if other is not place]  # now only: what stays is listed

    def namespaces(self) -> tuple[str, ...]:
        """Return the namespaces that exist now."""
        return tuple(place.namespace for place in self._all)
