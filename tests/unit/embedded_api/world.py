"""A served store whose shelf is a dictionary, and a client for it."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from smi_adapter.decode import RawObject, ref_of
from smi_adapter.embedded_api.server import ApiServer
from smi_adapter.embedded_api.shelf import ShelfError
from smi_adapter.embedded_api.store import Store
from smi_adapter.findings import Ref

SPLITS = "/apis/split.smi-spec.io/v1alpha4/namespaces/shop/trafficsplits"


def split(name: str = "web", weight: Any = 1, version: str = "v1alpha4", **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": f"split.smi-spec.io/{version}",
        "kind": "TrafficSplit",
        "metadata": {"name": name, "namespace": "shop", **metadata},
        "spec": {"service": "web", "backends": [{"service": "v1", "weight": weight}]},
    }


class MemoryShelf:
    """Objects that come back at once; `broken` is what to say instead."""

    def __init__(self, store: Store) -> None:
        self.objects: dict[Ref, RawObject] = {}
        self.broken = ""
        self._store = store

    def written(self, ref: Ref) -> RawObject | None:
        return self.objects.get(ref)

    def put(self, ref: Ref, raw: RawObject) -> None:
        self._check()
        self.objects[ref] = json.loads(json.dumps(raw))
        asyncio.get_running_loop().call_soon(self._store.take, {ref: self.objects[ref]})

    def check_removable(self, ref: Ref) -> None:
        assert ref in self.objects
        self._check()

    def remove(self, ref: Ref) -> None:
        self._check()
        del self.objects[ref]
        asyncio.get_running_loop().call_soon(self._store.take, {ref: None})

    def _check(self) -> None:
        if self.broken:
            raise ShelfError(self.broken)

    def edit(self, *raws: RawObject) -> None:
        """Edit files by hand."""
        batch = {ref_of(raw): raw for raw in raws}
        self.objects.update(batch)
        self._store.take(batch)


@dataclass(slots=True)
class Answer:
    status: int
    body: Any
    warnings: list[str] = field(default_factory=list)

    @property
    def causes(self) -> dict[str, str]:
        return {cause["field"]: cause["reason"] for cause in self.body["details"]["causes"]}


class Client:
    """Speaks to the server with the kubeconfig that it wrote."""

    def __init__(self, session: aiohttp.ClientSession, store: Store, shelf: MemoryShelf, server: ApiServer) -> None:
        self.session = session
        self.store = store
        self.shelf = shelf
        self.server = server
        self.url = server.url

    async def ask(
        self, method: str, path: str, body: Any = None, kind: str = "application/json", headers: Mapping[str, str] = {}
    ) -> Answer:
        data = body if isinstance(body, bytes | io.BytesIO) else None if body is None else json.dumps(body).encode()
        async with self.session.request(
            method, self.url + path, data=data, headers={"Content-Type": kind, **headers}
        ) as answer:
            text = await answer.text()
            is_json = answer.content_type == "application/json"
            return Answer(answer.status, json.loads(text) if is_json else text, answer.headers.getall("Warning", []))

    async def get(self, path: str, **headers: str) -> Any:
        found = await self.ask("GET", path, headers=headers)
        assert found.status == 200, found
        return found.body

    async def create(self, raw: Any, path: str = SPLITS) -> Answer:
        return await self.ask("POST", path, raw)

    async def merge(self, path: str, patch: Any) -> Answer:
        return await self.ask("PATCH", path, patch, "application/merge-patch+json")

    async def apply(self, raw: Any, manager: str = "me", query: str = "") -> Answer:
        name = raw["metadata"]["name"]
        path = f"{SPLITS}/{name}?fieldManager={manager}{query}"
        return await self.ask("PATCH", path, raw, "application/apply-patch+yaml")

    @asynccontextmanager
    async def watch(self, query: str = "", path: str = SPLITS) -> AsyncIterator[aiohttp.StreamReader]:
        async with self.session.get(f"{self.url}{path}?watch=true{query}") as answer:
            assert answer.status == 200
            yield answer.content


async def next_event(stream: aiohttp.StreamReader) -> tuple[str, Any]:
    async with asyncio.timeout(10):
        event = json.loads(await stream.readline())
    return event["type"], event["object"]


@asynccontextmanager
async def served(folder: Path, window: int = 100) -> AsyncIterator[Client]:
    store = Store(window=window)
    shelf = MemoryShelf(store)
    server = ApiServer(store, shelf)
    kubeconfig = folder / "kubeconfig"
    await server.start("127.0.0.1", 0, kubeconfig)
    store.take({})
    shelf.edit({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
    config = json.loads(kubeconfig.read_text())
    authority = base64.b64decode(config["clusters"][0]["cluster"]["certificate-authority-data"])
    trust = ssl.create_default_context(cadata=authority.decode())
    headers = {"Authorization": f"Bearer {config['users'][0]['user']['token']}"}
    connector = aiohttp.TCPConnector(ssl=trust)
    try:
        async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
            yield Client(session, store, shelf, server)
    finally:
        await server.stop()
