"""The smallest mesh that a real Envoy can run, made by hand: resources, bootstrap, backends and a load.

It shares nothing with the Envoy backend: what is tested with it is the delivery, not what is delivered.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smi_adapter.backends import Part, Resource, XdsConfig
from smi_adapter.delivery.xds import AdsServer, Answer, Limits, ServerTls
from smi_adapter.envoy_api import message, pack, serialise, type_url, version_of
from smi_adapter.findings import Finding, Ref
from smi_adapter.identity import Authority, Issuer, KeyPair
from smi_adapter.mesh import Key
from tests.live.envoys import EnvoyProcess, free_port

DOMAIN = "cluster.local"
SERVER_ID = f"spiffe://{DOMAIN}/ns/smi-system/sa/smi-adapter"
WEB: Key = ("shop", "web")
WEB_ID = f"spiffe://{DOMAIN}/ns/shop/sa/web"

_CLUSTER = "envoy.config.cluster.v3.Cluster"
_ENDPOINTS = "envoy.config.endpoint.v3.ClusterLoadAssignment"
_LISTENER = "envoy.config.listener.v3.Listener"
_ROUTES = "envoy.config.route.v3.RouteConfiguration"
_SECRET = "envoy.extensions.transport_sockets.tls.v3.Secret"
_TLS = "envoy.extensions.transport_sockets.tls.v3"

_ADS = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": {"seconds": 20}}


def made(kind: str, name: str, fields: Mapping[str, Any], *, origins: tuple[Ref, ...] = ()) -> Resource:
    """Return a resource of a message built from `fields`."""
    body = serialise(message(kind)(**fields))
    return Resource(type_url(kind), name, body, version_of(body), origins)


def cluster(name: str, *, tls: bool = False, **more: Any) -> Resource:
    fields: dict[str, Any] = {
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": _ADS},
        "connect_timeout": {"seconds": 5},
        **more,
    }
    if tls:
        common = {
            "tls_certificate_sds_secret_configs": [{"name": "default", "sds_config": _ADS}],
            "combined_validation_context": _validation(),
        }
        context = message(f"{_TLS}.UpstreamTlsContext")(common_tls_context=common, sni="web")
        fields["transport_socket"] = {"name": "tls", "typed_config": pack(context)}
    return made(_CLUSTER, name, fields)


def static_cluster(name: str, port: int) -> Resource:
    """Return a cluster that brings its endpoint along."""
    fields = {
        "name": name,
        "type": "STATIC",
        "connect_timeout": {"seconds": 5},
        "load_assignment": _load_assignment(name, [port]),
    }
    return made(_CLUSTER, name, fields)


def endpoints(name: str, ports: Iterable[int]) -> Resource:
    return made(_ENDPOINTS, name, _load_assignment(name, ports))


def routes(name: str, weights: Mapping[str, int], *, retries: int = 2, origins: tuple[Ref, ...] = ()) -> Resource:
    route = {
        "weighted_clusters": {"clusters": [{"name": c, "weight": {"value": w}} for c, w in weights.items()]},
        "timeout": {"seconds": 0},
        "retry_policy": {"retry_on": "connect-failure,refused-stream", "num_retries": {"value": retries}},
    }
    host = {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": route}]}
    fields = {"name": name, "validate_clusters": {"value": False}, "virtual_hosts": [host]}
    return made(_ROUTES, name, fields, origins=origins)


def refused_routes(name: str, origins: tuple[Ref, ...] = ()) -> Resource:
    """Return routes that Envoy does not take: their regular expression is none."""
    match = {"safe_regex": {"regex": "(?!x)"}}
    host = {
        "name": "all",
        "domains": ["*"],
        "routes": [{"match": match, "direct_response": {"status": 200}}],
    }
    return made(_ROUTES, name, {"name": name, "virtual_hosts": [host]}, origins=origins)


def listener(name: str, port: int, *, tls: bool = False) -> Resource:
    """Return a listener whose routes have its name; with `tls` it wants a client certificate."""
    router = pack(message("envoy.extensions.filters.http.router.v3.Router")())
    hcm = message("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager")(
        stat_prefix="h",
        rds={"config_source": _ADS, "route_config_name": name},
        http_filters=[{"name": "router", "typed_config": router}],
    )
    chain: dict[str, Any] = {"filters": [{"name": "http", "typed_config": pack(hcm)}]}
    if tls:
        context = message(f"{_TLS}.DownstreamTlsContext")(
            require_client_certificate={"value": True},
            common_tls_context={
                "tls_certificate_sds_secret_configs": [{"name": "default", "sds_config": _ADS}],
                "combined_validation_context": _validation(),
            },
        )
        chain["transport_socket"] = {"name": "tls", "typed_config": pack(context)}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return made(_LISTENER, name, {"name": name, "address": address, "filter_chains": [chain]})


def secrets(pair: KeyPair, bundle: bytes) -> tuple[Resource, ...]:
    certificate = {
        "certificate_chain": {"inline_bytes": pair.certificate},
        "private_key": {"inline_bytes": pair.private_key},
    }
    return (
        made(_SECRET, "default", {"name": "default", "tls_certificate": certificate}),
        made(_SECRET, "ROOTCA", {"name": "ROOTCA", "validation_context": {"trusted_ca": {"inline_bytes": bundle}}}),
    )


def config(*parts: Iterable[Resource], identities: Mapping[Key, str] | None = None) -> XdsConfig:
    """Return a config in which the workload WEB sees everything."""
    named: dict[Part, tuple[Resource, ...]] = {
        ("part", "shop", str(number)): tuple(part) for number, part in enumerate(parts)
    }
    owners = identities or {WEB: WEB_ID}
    return XdsConfig(named, dict.fromkeys(owners, frozenset(named)), owners)


def _validation() -> dict[str, Any]:
    san = {"san_type": "URI", "matcher": {"exact": WEB_ID}}
    return {
        "default_validation_context": {"match_typed_subject_alt_names": [san]},
        "validation_context_sds_secret_config": {"name": "ROOTCA", "sds_config": _ADS},
    }


def _load_assignment(name: str, ports: Iterable[int]) -> dict[str, Any]:
    hosts = [
        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}} for port in ports
    ]
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": hosts}] if hosts else []}


# ------------------------------------------------------------------------------------------------------- a fleet


@dataclass
class Fleet:
    """An ADS server with its authority, and the Envoys that were started for it."""

    directory: Path
    life: float = 3600.0
    limits: Limits = field(default_factory=Limits)
    authority: Authority = field(default_factory=lambda: Authority.create(DOMAIN, time.time()))
    findings: list[Finding] = field(default_factory=list)
    answers: list[tuple[float, Key, Answer]] = field(default_factory=list)
    envoys: list[EnvoyProcess] = field(default_factory=list)
    port: int = 0

    def __post_init__(self) -> None:
        self.issuer = Issuer(self.authority, self.life)
        self.port = free_port()
        self.ads = self._new_server()

    def _new_server(self) -> AdsServer:
        return AdsServer(
            lambda identity, _holder: secrets(self.issuer.key_pair(identity, time.time()), self.authority.bundle),
            on_finding=self.findings.append,
            on_ack=lambda key, answer: self.answers.append((time.monotonic(), key, answer)),
            limits=self.limits,
        )

    async def serve(self) -> None:
        """Start the server, or another one in its place."""
        self.ads = self._new_server()
        await self.ads.start("127.0.0.1", self.port, self._tls)

    def _tls(self) -> ServerTls:
        pair = self.issuer.key_pair(SERVER_ID, time.time())
        return ServerTls(pair.certificate, pair.private_key, self.authority.bundle)

    def envoy(self, workload: Key = WEB, identity: str = WEB_ID) -> EnvoyProcess:
        """Start an Envoy that streams as that workload with a certificate of that identity."""
        home = self.directory / f"envoy{len(self.envoys)}"
        home.mkdir()
        pair = self.authority.issue(identity, time.time(), 3600)
        for file, data in (("cert", pair.certificate), ("key", pair.private_key), ("ca", self.authority.bundle)):
            (home / file).write_bytes(data)
        started = EnvoyProcess.start(self._bootstrap("/".join(workload), home), home)
        self.envoys.append(started)
        return started

    def _bootstrap(self, node: str, home: Path) -> dict[str, Any]:
        ads = {"ads": {}, "resource_api_version": "V3"}
        san = {"san_type": "URI", "matcher": {"exact": SERVER_ID}}
        tls = {
            "@type": f"type.googleapis.com/{_TLS}.UpstreamTlsContext",
            "common_tls_context": {
                "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
                "alpn_protocols": ["h2"],
                "tls_certificates": [
                    {
                        "certificate_chain": {"filename": str(home / "cert")},
                        "private_key": {"filename": str(home / "key")},
                    }
                ],
                "validation_context": {
                    "trusted_ca": {"filename": str(home / "ca")},
                    "match_typed_subject_alt_names": [san],
                },
            },
        }
        protocol = {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
        xds = {
            "name": "xds",
            "type": "STATIC",
            "connect_timeout": "1s",
            "load_assignment": {
                "cluster_name": "xds",
                "endpoints": [
                    {
                        "lb_endpoints": [
                            {
                                "endpoint": {
                                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": self.port}}
                                }
                            }
                        ]
                    }
                ],
            },
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": protocol},
            "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
        }
        back_off = {"retry_back_off": {"base_interval": "0.1s", "max_interval": "0.5s"}}
        service = {"envoy_grpc": {"cluster_name": "xds", "retry_policy": back_off}}
        return {
            "node": {"id": node, "cluster": "test"},
            "dynamic_resources": {
                "ads_config": {
                    "api_type": "DELTA_GRPC",
                    "transport_api_version": "V3",
                    "set_node_on_first_message_only": True,
                    "grpc_services": [service],
                },
                "cds_config": ads,
                "lds_config": ads,
            },
            "static_resources": {"clusters": [xds]},
        }


@contextlib.asynccontextmanager
async def fleet(directory: Path, **more: Any) -> AsyncIterator[Fleet]:
    """Run a server; stop it and all Envoys at the end."""
    running = Fleet(directory, **more)
    await running.serve()
    try:
        yield running
    finally:
        for envoy in running.envoys:
            envoy.stop()
        await running.ads.stop()


# --------------------------------------------------------------------------------------------- backends and a load


@contextlib.asynccontextmanager
async def backends(*names: str) -> AsyncIterator[dict[str, int]]:
    """Run HTTP servers that answer with their name; yield their ports."""
    writers: set[asyncio.StreamWriter] = set()

    def answering(name: bytes) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.add(writer)
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while await reader.readuntil(b"\r\n\r\n"):
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(name), name))
            writer.close()

        return serve

    servers = [await asyncio.start_server(answering(name.encode()), "127.0.0.1", 0) for name in names]
    try:
        yield {name: server.sockets[0].getsockname()[1] for name, server in zip(names, servers, strict=True)}
    finally:
        for server in servers:
            server.close()
        for writer in writers:
            writer.close()


class HttpConnection:
    """One keep-alive connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> HttpConnection:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def get(self, path: str = "/") -> tuple[int, str]:
        """Return status and body."""
        self._writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin1").lower()
        length = next(
            (int(line.partition(":")[2]) for line in head.split("\r\n") if line.startswith("content-length:")), 0
        )
        body = await self._reader.readexactly(length)
        return int(head.split()[1]), body.decode()

    def close(self) -> None:
        self._writer.close()


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[HttpConnection]:
    connection = await HttpConnection.open(port)
    try:
        yield connection
    finally:
        connection.close()


async def get(port: int) -> tuple[int, str]:
    """Return status and body over a connection of its own."""
    async with connected(port) as connection:
        return await connection.get()


@contextlib.asynccontextmanager
async def load(port: int, workers: int = 4) -> AsyncIterator[Counter[tuple[int, str]]]:
    """Ask in closed loops until the block ends; yield what was answered. A broken connection counts as status 0."""
    answers: Counter[tuple[int, str]] = Counter()
    running = True

    async def ask() -> None:
        connection = await HttpConnection.open(port)
        while running:
            try:
                answers[await connection.get()] += 1
            except (ConnectionError, asyncio.IncompleteReadError):
                answers[0, "broken"] += 1
                connection.close()
                connection = await HttpConnection.open(port)
            await asyncio.sleep(0.001)
        connection.close()

    tasks = [asyncio.create_task(ask()) for _ in range(workers)]
    try:
        yield answers
    finally:
        running = False
        await asyncio.gather(*tasks)


async def until(condition: Callable[[], Any], seconds: float = 15, what: str = "") -> None:
    """Poll a condition, plain or awaitable, until it holds."""
    deadline = time.monotonic() + seconds
    while True:
        held = condition()
        if asyncio.iscoroutine(held):
            held = await held
        if held:
            return
        assert time.monotonic() < deadline, f"waited {seconds} s in vain {what}"
        await asyncio.sleep(0.01)
