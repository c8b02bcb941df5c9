"""The Namespaces of namespaced mode: there we may not list Namespaces, only get those that we are told to watch.

A Role cannot allow to list or watch Namespaces, so each is asked for now and then; all that we read of it is its
labels and annotations. It looks like a reflector to `source`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from smi_adapter.cluster.client import ApiError, Resource, Unreachable
from smi_adapter.cluster.projection import Head, Item, NotJSONError, Projection
from smi_adapter.cluster.reach import Reach, Requests
from smi_adapter.cluster.store import Changes, Store

EVERY = 10.0
"""Seconds between two looks."""


class NamespacePoll:
    """One Namespace, asked for by its name."""

    def __init__(
        self,
        client: Requests,
        resource: Resource,
        reach: Reach,
        changed: Callable[[NamespacePoll, Changes], None],
        namespace: str,
    ) -> None:
        self.resource = resource
        self.namespace = namespace
        self.store = Store()
        self.projection = Projection(resource)
        self.synced = asyncio.Event()
        self.trouble: Exception | None = None
        self.lists = self.streams = 0
        self.last_event: float | None = None
        self.seen = time.monotonic()
        """When the server last answered."""
        self._client = client
        self._reach = reach
        self._changed = changed

    def age(self) -> float:
        """Return for how many seconds what we hold may have been behind the server."""
        return 0.0 if self.trouble is None and self.synced.is_set() else time.monotonic() - self.seen

    def __str__(self) -> str:
        """Return what is followed, for logs."""
        return f"namespace {self.namespace}"

    async def run(self) -> None:
        """Ask for ever."""
        while True:
            await self._reach.wait()
            try:
                await self._look()
            except Unreachable as error:
                self.trouble = error
                await self._reach.lost()
            except (ApiError, NotJSONError) as error:
                self.trouble = error
            await asyncio.sleep(EVERY if self.trouble is None else EVERY / 10)

    async def _look(self) -> None:
        items: list[Item] = []
        with contextlib.suppress(_NotThereError):
            items = [await self._get()]
        self.seen, self.trouble = time.monotonic(), None
        self.lists += 1
        self.synced.set()
        changes = self.store.replace(items)
        if changes:
            self.last_event = time.monotonic()
            self._changed(self, changes)

    async def _get(self) -> Item:
        try:
            content = await self._client.request("GET", self.resource.path(name=self.namespace), timeout=10.0)
            return self.projection.item(content)
        except ApiError as error:
            if error.status == 404:
                raise _NotThereError from error
            if error.status == 403:  # it may ask for `enforce`, so nothing may open it (decode says the same)
                return self.projection.stand_in(Head(self.namespace), "the controller may not get this Namespace")
            raise


class _NotThereError(Exception):
    pass
