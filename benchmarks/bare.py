"""The bare ADS servers that the product is compared with. None of them decides anything.

`Bare` speaks delta xDS over the same transport as the product: it answers what Envoy asks from a fixed table and, on
`push`, writes ready bytes to every stream. That is the floor: what grpc.aio, the loopback and Envoy cost by
themselves. It keeps no order, waits for no ACK and merges nothing, so it also serves as the wrong order (P9), as
coalescing switched off (P12), as one table for the whole mesh (P3) and as rules inside Listeners (P10); what it
is then given is made in `layouts.py`.

`WholeState` is the other protocol, state of the world, built anew for each stream at each change (P4).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import grpc

from benchmarks import certificates
from smi_adapter import envoy_api
from smi_adapter.backends import Resource

Table: TypeAlias = Mapping[str, Mapping[str, Resource]]
"""Resources by type URL and name."""

_SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
_DELTA_REQUEST = "envoy.service.discovery.v3.DeltaDiscoveryRequest"
_DELTA_RESPONSE = "envoy.service.discovery.v3.DeltaDiscoveryResponse"
_EOF = grpc.aio.EOF  # type: ignore[attr-defined]
_OPTIONS = [("grpc.so_reuseport", 0), ("grpc.http2.min_ping_interval_without_data_ms", 1000)]


def table(resources: Iterable[Resource]) -> dict[str, dict[str, Resource]]:
    """Return resources as a table."""
    made: dict[str, dict[str, Resource]] = {}
    for resource in resources:
        made.setdefault(resource.type_url, {})[resource.name] = resource
    return made


def delta(type_url: str, resources: Iterable[Resource], removed: Iterable[str] = (), nonce: str = "bare") -> bytes:
    """Return the bytes of a delta response, made with the protobuf library."""
    entries = [
        {
            "name": item.name,
            "version": item.version,
            "resource": {"type_url": item.type_url, "value": item.body},
        }
        for item in resources
    ]
    response = envoy_api.message(_DELTA_RESPONSE)(
        resources=entries, type_url=type_url, nonce=nonce, removed_resources=list(removed)
    )
    return bytes(envoy_api.serialise(response))


class _Port:
    """A gRPC server with mutual TLS, as the product's."""

    def __init__(self, files: certificates.Files) -> None:
        self._files = files
        self._server: grpc.aio.Server | None = None

    async def _listen(self, port: int, method: str, handler: Any) -> int:
        server = grpc.aio.server(options=_OPTIONS)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {method: handler}),))
        pair = (self._files.key.read_bytes(), self._files.certificate.read_bytes())
        credentials = grpc.ssl_server_credentials([pair], self._files.roots.read_bytes(), require_client_auth=True)
        bound = server.add_secure_port(f"127.0.0.1:{port}", credentials)
        await server.start()
        self._server = server
        return bound

    async def stop(self) -> None:
        """End all streams and close the port."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None


class Bare(_Port):
    """A delta ADS server that answers from a table and pushes what it is told to."""

    def __init__(self, tables: Callable[[str], Table], files: certificates.Files) -> None:
        super().__init__(files)
        self._tables = tables
        self._queues: dict[asyncio.Queue[bytes], None] = {}

    async def start(self, port: int = 0) -> int:
        """Listen; return the port."""
        handler = grpc.stream_stream_rpc_method_handler(
            self._serve,
            request_deserializer=envoy_api.message(_DELTA_REQUEST).FromString,
            response_serializer=None,
        )
        return await self._listen(port, "DeltaAggregatedResources", handler)

    def push(self, data: bytes) -> None:
        """Write the bytes to every stream, whatever is under way."""
        for queue in self._queues:
            queue.put_nowait(data)

    async def _serve(self, _requests: object, context: Any) -> None:
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        reader = asyncio.create_task(self._read(context, queue))
        try:
            while data := await queue.get():
                await context.write(data)
        finally:
            self._queues.pop(queue, None)
            reader.cancel()

    async def _read(self, context: Any, queue: asyncio.Queue[bytes]) -> None:
        """Answer subscriptions: a type's first request without names means all of it."""
        seen: set[str] = set()
        resources: Table = {}
        while (request := await context.read()) is not _EOF:
            if not seen:
                resources = self._tables(request.node.id)
                self._queues[queue] = None
            of_type = resources.get(request.type_url, {})
            known = dict(request.initial_resource_versions)
            names = list(request.resource_names_subscribe)
            first = request.type_url not in seen
            seen.add(request.type_url)
            if first and (not names or names == ["*"]):
                found = [item for item in of_type.values() if known.get(item.name) != item.version]
                queue.put_nowait(delta(request.type_url, found))
            elif names:
                found = [of_type[name] for name in names if name in of_type]
                found = [item for item in found if known.get(item.name) != item.version]
                gone = [name for name in names if name not in of_type]
                if found or gone:
                    queue.put_nowait(delta(request.type_url, found, gone))
        queue.put_nowait(b"")


class WholeState(_Port):
    """A state-of-the-world server for one type: each change sends the whole type, built for each stream.

    The resources' bytes are kept; what is built is the response around them, as servers with a shared cache do.
    """

    def __init__(self, resources: dict[str, Resource], files: certificates.Files) -> None:
        super().__init__(files)
        self.resources = resources
        self._wakes: dict[asyncio.Event, None] = {}
        self._version = 0

    async def start(self, port: int = 0) -> int:
        """Listen; return the port."""
        handler = grpc.stream_stream_rpc_method_handler(
            self._serve,
            request_deserializer=envoy_api.message("envoy.service.discovery.v3.DiscoveryRequest").FromString,
            response_serializer=None,
        )
        return await self._listen(port, "StreamAggregatedResources", handler)

    def put(self, resource: Resource) -> None:
        """Change one resource and send everything to everybody."""
        self.resources[resource.name] = resource
        self._version += 1
        for wake in self._wakes:
            wake.set()

    async def _serve(self, _requests: object, context: Any) -> None:
        wake = asyncio.Event()
        self._wakes[wake] = None
        reader = asyncio.create_task(self._read(context))
        try:
            while not reader.done():
                await context.write(self._response())
                wake.clear()
                await wake.wait()
        finally:
            del self._wakes[wake]
            reader.cancel()

    async def _read(self, context: Any) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            while await context.read() is not _EOF:
                pass

    def _response(self) -> bytes:
        type_url = next(iter(self.resources.values())).type_url
        response = envoy_api.message("envoy.service.discovery.v3.DiscoveryResponse")(
            version_info=str(self._version),
            nonce=str(self._version),
            type_url=type_url,
            resources=[{"type_url": item.type_url, "value": item.body} for item in self.resources.values()],
        )
        return bytes(envoy_api.serialise(response))
