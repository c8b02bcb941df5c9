"""Fake proxies: many ADS streams from one process, which take everything and acknowledge it.

They stand in for Envoys where only the server's cost counts: 40 real ones would fight for the machine's CPU with the
server that is measured. They ask in Envoy's order (clusters, their endpoints, Listeners, their routes, secrets) and
never look into what they get.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

from benchmarks import certificates
from benchmarks.channel import Message, arguments, serve
from smi_adapter import envoy_api

_TYPE = "type.googleapis.com/"
_CLUSTER = _TYPE + "envoy.config.cluster.v3.Cluster"
_ENDPOINTS = _TYPE + "envoy.config.endpoint.v3.ClusterLoadAssignment"
_LISTENER = _TYPE + "envoy.config.listener.v3.Listener"
_ROUTES = _TYPE + "envoy.config.route.v3.RouteConfiguration"
_SECRET = _TYPE + "envoy.extensions.transport_sockets.tls.v3.Secret"
_FOLLOWS = {_CLUSTER: _ENDPOINTS, _LISTENER: _ROUTES}
_EOF = grpc.aio.EOF  # type: ignore[attr-defined]
_SERVICE = "/envoy.service.discovery.v3.AggregatedDiscoveryService"


class Proxy:
    """One fake proxy."""

    def __init__(self, node: str, port: int, files: certificates.Files) -> None:
        credentials = grpc.ssl_channel_credentials(
            files.roots.read_bytes(), files.key.read_bytes(), files.certificate.read_bytes()
        )
        options = [
            ("grpc.ssl_target_name_override", certificates.SERVER_NAME),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", -1),
        ]
        self._node = {"id": node, "cluster": node}
        self._channel = grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options)
        self._asked: set[str] = set()
        self.received = 0

    async def delta(self) -> None:
        """Stream delta xDS until cancelled."""
        request = envoy_api.message("envoy.service.discovery.v3.DeltaDiscoveryRequest")
        response_type = envoy_api.message("envoy.service.discovery.v3.DeltaDiscoveryResponse")
        call = self._call("DeltaAggregatedResources", request, response_type.FromString)
        await call.write(request(node=self._node, type_url=_CLUSTER))
        await call.write(request(type_url=_LISTENER))
        await call.write(request(type_url=_SECRET, resource_names_subscribe=["default", "ROOTCA"]))
        while (response := await call.read()) is not _EOF:
            self.received += 1
            follower = _FOLLOWS.get(response.type_url)
            if follower and (names := self._new_names(response)):
                await call.write(request(type_url=follower, resource_names_subscribe=names))
            await call.write(request(type_url=response.type_url, response_nonce=response.nonce))

    async def whole(self) -> None:
        """Stream state-of-the-world routes until cancelled; what comes is not even parsed."""
        request = envoy_api.message("envoy.service.discovery.v3.DiscoveryRequest")
        call = self._call("StreamAggregatedResources", request, bytes)
        await call.write(request(node=self._node, type_url=_ROUTES))
        while await call.read() is not _EOF:
            self.received += 1
            await call.write(request(type_url=_ROUTES, response_nonce="any"))

    def _call(self, method: str, request: Any, deserialise: Callable[[bytes], Any]) -> Any:
        stream: Any = self._channel.stream_stream(f"{_SERVICE}/{method}", request.SerializeToString, deserialise)
        return stream()

    def _new_names(self, response: Any) -> list[str]:
        names = []
        for resource in response.resources:
            followed = response.type_url == _CLUSTER or resource.name.startswith("out/")
            if followed and resource.name not in self._asked:
                self._asked.add(resource.name)
                names.append(resource.name)
        return names


async def main() -> None:
    """Serve `open` (delta or whole) and `close` until the parent ends."""
    given = arguments()
    files = certificates.files(Path(given["certificates"]), given["account"])
    running: list[asyncio.Task[None]] = []
    proxies: list[Proxy] = []

    async def open_streams(protocol: str, port: int, count: int, node: str) -> Message:
        proxies[:] = [Proxy(node, port, files) for _ in range(count)]
        running[:] = [asyncio.create_task(getattr(proxy, protocol)()) for proxy in proxies]
        return {}

    async def received() -> Message:
        for task in running:
            if task.done():
                task.result()
        return {"received": [proxy.received for proxy in proxies]}

    async def close() -> Message:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        running.clear()
        proxies.clear()
        return {}

    await serve({"open": open_streams, "received": received, "close": close})


if __name__ == "__main__":
    asyncio.run(main())
