"""A fleet for tests: the real ADS server, real Envoys with identities, and a Mesh that is published to them.

Each workload has one proxy on loopback addresses of its own, as in no-cluster mode. A test publishes a Mesh, waits
until every proxy has acknowledged it, and then sends real traffic. No proxy may ever refuse a resource.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from smi_adapter.backends import Change, Resource, XdsConfig
from smi_adapter.backends.envoy import BACKEND
from smi_adapter.backends.envoy.bootstrap import ClientCertificate, ControlPlane, Local, bootstrap
from smi_adapter.backends.envoy.lint import lint
from smi_adapter.backends.envoy.secrets import key_pair
from smi_adapter.delivery.xds import AdsServer, ServerTls
from smi_adapter.findings import Finding
from smi_adapter.identity.ca import Authority
from smi_adapter.identity.issuer import Issuer
from smi_adapter.mesh import Instance, Key, Mesh, Service, Trust, Workload
from tests import meshes
from tests.live.envoys import EnvoyProcess

SETTLE = 40.0
_BLOCK = 20 + os.getpid() % 200


def loopback(third: int, last: int) -> str:
    """Return an address that other test processes do not use."""
    return f"127.{_BLOCK}.{third}.{last}"


@dataclass(slots=True)
class Fleet:
    """The server and its proxies."""

    server: AdsServer
    authority: Authority
    issuer: Issuer
    port: int
    mesh: Mesh = field(default_factory=Mesh)
    config: XdsConfig | None = None
    envoys: dict[Key, EnvoyProcess] = field(default_factory=dict)
    told: list[Finding] = field(default_factory=list)

    @property
    def roots(self) -> bytes:
        return self.authority.bundle

    async def publish(self, services: Iterable[Service], workloads: Iterable[Workload]) -> XdsConfig:
        """Render a Mesh as a change of the last one, publish it, and wait until it is acknowledged everywhere."""
        mesh = replace(meshes.mesh(services, workloads), trust=Trust(meshes.DOMAIN, (), self.roots))
        before, self.mesh = self.mesh, mesh
        change = None
        if self.config is not None:
            change = Change(
                before,
                self.config,
                _differing(before.services, mesh.services),
                _differing(before.workloads, mesh.workloads),
            )
        self.config = BACKEND.render(mesh, change)
        assert not lint(self.config), "\n".join(lint(self.config))
        assert not [item for item in self.config.findings if item.code == "SMI0606"], self.config.findings
        self.server.publish(self.config)
        await self.settle()
        return self.config

    async def settle(self) -> None:
        assert await self.server.settled(SETTLE, len(self.envoys)), self.server.proxies()
        assert not self.told, self.told

    async def start(self, workload: Workload, *, every_request: bool = True) -> EnvoyProcess:
        """Start a workload's proxy; its Mesh must have been published. `every_request`: has a line in its log."""
        pair = self.issuer.key_pair(workload.identity, time.time())
        control = ControlPlane("127.0.0.1", self.port, ADAPTER, self.roots.decode())
        credential = ClientCertificate(pair.certificate.decode(), pair.private_key.decode())
        local = Local(source_address=workload.instances[0].address, log_every_request=every_request)
        envoy = EnvoyProcess.start(
            bootstrap(workload.key, control, credential, local), flags=("--reject-unknown-dynamic-fields",)
        )
        self.envoys[workload.key] = envoy
        await envoy.ready()
        return envoy

    def client_tls(self, identity: str, issuer: Issuer | None = None) -> Any:
        """Return a TLS context of a client that has that identity but no proxy; one without a certificate for ""."""
        import ssl  # noqa: PLC0415
        import tempfile  # noqa: PLC0415

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if identity:
            pair = (issuer or self.issuer).key_pair(identity, time.time())
            with tempfile.NamedTemporaryFile() as file:
                file.write(pair.certificate + pair.private_key)
                file.flush()
                context.load_cert_chain(file.name)
        return context

    def log(self, workload: Key, **fields: object) -> list[dict[str, Any]]:
        """Return the access log lines of a proxy that have these values."""
        lines = []
        for text in self.envoys[workload].log().splitlines():
            if text.startswith("{"):
                line = json.loads(text)
                if all(line.get(name) == value for name, value in fields.items()):
                    lines.append(line)
        return lines


ADAPTER = meshes.spiffe("adapter", "smi-system")


@contextlib.asynccontextmanager
async def fleet() -> AsyncIterator[Fleet]:
    """Run a server; stop it and all proxies at the end."""
    authority = Authority.create(meshes.DOMAIN, time.time())
    issuer = Issuer(authority)
    told: list[Finding] = []

    def secrets(identity: str, _holder: str) -> tuple[Resource, ...]:
        pair = issuer.key_pair(identity, time.time())
        return (key_pair(pair.certificate, pair.private_key),)

    def tls() -> ServerTls:
        pair = issuer.key_pair(ADAPTER, time.time())
        return ServerTls(pair.certificate, pair.private_key, authority.bundle)

    server = AdsServer(secrets, on_finding=told.append)
    running = Fleet(server, authority, issuer, await server.start("127.0.0.1", 0, tls), told=told)
    try:
        yield running
    finally:
        for envoy in running.envoys.values():
            envoy.stop()
        await server.stop()


async def until(condition: Callable[[], object], timeout: float = SETTLE) -> None:  # noqa: ASYNC109
    """Wait for a condition, looking often; AssertionError at the deadline."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


def instance(number: int, third: int = 1) -> Instance:
    """Return the addresses of a pod: where its proxy is reached and where its application listens."""
    return Instance(f"pod-{number}", loopback(third, number), loopback(third + 100, number))


def _differing(before: Mapping[Key, object], after: Mapping[Key, object]) -> frozenset[Key]:
    return frozenset(key for key in {*before, *after} if before.get(key) != after.get(key))
