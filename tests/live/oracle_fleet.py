"""Six pods with real Envoys that live through one random world after another, and the oracle's observer of them.

The product's whole way lies between manifests and traffic: controllers, decode, translate, the Envoy backend, the ADS
server. Pod N keeps its namespace, ServiceAccount and addresses from world to world (an Envoy's certificate says who it
is), everything else changes. All of it runs on one event loop that stands still between calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from ipaddress import IPv4Network
from typing import Any

from smi_adapter import decode
from smi_adapter.app import compiled
from smi_adapter.backends import XdsConfig
from smi_adapter.backends.envoy import BACKEND
from smi_adapter.backends.envoy.bootstrap import ClientCertificate, ControlPlane, Local, bootstrap
from smi_adapter.mesh import Key
from smi_adapter.snapshot import Mode, Options, Pod, Profile
from smi_adapter.sources.controllers import Addresses, Memory, reconcile
from tests.live.envoys import EnvoyProcess
from tests.live.fleet import ADAPTER, Fleet, fleet
from tests.oracle import build
from tests.oracle.compare import Observation
from tests.oracle.evaluator import CLOSED, Outcome, Request
from tests.oracle.evaluator import Options as OracleOptions

IDENTITIES = (
    ("shop", "alpha"), ("shop", "beta"), ("shop", "beta"), ("bank", "alpha"), ("shop", "gamma"), ("bank", "beta"),
)  # fmt: skip
HTTP_PORTS, TCP_PORT = (8080, 9090), 7000
PATIENCE = 10.0

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class OracleFleet:
    """The running fleet; make it with `OracleFleet.open`."""

    def __init__(self, running: Fleet, network: IPv4Network) -> None:
        self._fleet = running
        self._memory = Memory(Addresses(network))
        self.pods: Mapping[Key, Pod] = {}

    @classmethod
    async def open(cls, stack: contextlib.AsyncExitStack, network: IPv4Network) -> OracleFleet:
        """Start the server, six applications and six Envoys; all end with the stack."""
        running = await stack.enter_async_context(fleet())
        opened = cls(running, network)
        opened._publish((), OracleOptions())
        for key, pod in sorted(opened.pods.items()):
            for port in (*HTTP_PORTS, TCP_PORT):
                application = _http(key[1]) if port in HTTP_PORTS else _tcp(key[1])
                server = await asyncio.start_server(application, pod.app_address, port)
                stack.callback(server.close)
            opened._start(key, pod)
        for envoy in running.envoys.values():
            await envoy.ready()
        return opened

    def _start(self, key: Key, pod: Pod) -> None:
        running = self._fleet
        identity = f"spiffe://cluster.local/ns/{key[0]}/sa/{pod.service_account}"
        pair = running.issuer.key_pair(identity, time.time())
        control = ControlPlane("127.0.0.1", running.port, ADAPTER, running.roots.decode())
        credential = ClientCertificate(pair.certificate.decode(), pair.private_key.decode())
        start = bootstrap(key, control, credential, Local(source_address=pod.address))
        running.envoys[key] = EnvoyProcess.start(start, flags=("--reject-unknown-dynamic-fields",))

    async def put(self, objects: Sequence[build.Object], options: OracleOptions) -> None:
        """Put a world in force and wait until every proxy has acknowledged it."""
        self._publish(objects, options)
        await self._fleet.settle()

    def _publish(self, objects: Sequence[build.Object], options: OracleOptions) -> None:
        everybody = whole(objects)
        raw = {decode.ref_of(item): item for item in map(_local, everybody)}
        world = reconcile(raw, self._memory, _readiness(everybody))
        self._memory = world.memory
        chosen = Options(Profile(options.profile), Mode(options.mode), options.trust_domain, bundle=self._fleet.roots)
        state = compiled(world.objects.values(), BACKEND, chosen)
        assert isinstance(state.rendered, XdsConfig)
        self.pods = state.snapshot.pods
        self._fleet.server.publish(state.rendered)

    async def see(self, request: Request) -> Observation:
        """Send one request through the caller's own proxy and say what came back."""
        pod = self.pods[(request.source[0], request.source[2])]
        address = pod.dial.get(request.to)
        if address is None:
            return Observation(CLOSED, note="there is no such Service")
        try:
            async with asyncio.timeout(PATIENCE):
                reader, writer = await asyncio.open_connection(address, request.port)
                try:
                    writer.write(_wire(request))
                    return Observation(await _answer(reader))
                finally:
                    writer.close()
        except (ConnectionError, asyncio.IncompleteReadError) as problem:
            return Observation(CLOSED, note=type(problem).__name__)


def whole(objects: Sequence[build.Object]) -> list[build.Object]:
    """Return a world with all six pods: one that it lacks is there without labels, so that its Envoy may stay."""
    present = {item["metadata"]["name"] for item in objects if item["kind"] == "Pod"}
    absent = [
        build.pod(f"pod-{index}", account, {}, ns=namespace)
        for index, (namespace, account) in enumerate(IDENTITIES)
        if f"pod-{index}" not in present
    ]
    return [*objects, *absent]


def _local(item: build.Object) -> build.Object:
    """Return an object as a directory has it: its Pods have no status, they live on this machine."""
    return {name: value for name, value in item.items() if name != "status"} if item["kind"] == "Pod" else item


def _readiness(objects: Sequence[build.Object]) -> dict[Key, bool]:
    found: dict[Key, bool] = {}
    for item in objects:
        if item["kind"] == "Pod":
            conditions = item.get("status", {}).get("conditions", [])
            ready = all(one["status"] == "True" for one in conditions if one["type"] == "Ready")
            found[item["metadata"]["namespace"], item["metadata"]["name"]] = ready
    return found


# ------------------------------------------------------------------------------------------------- applications
def _http(name: str) -> Serve:
    head = f"HTTP/1.1 200 OK\r\nx-pod: {name}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head)
            await writer.drain()
        writer.close()

    return serve


def _tcp(name: str) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            if await reader.read(1):
                writer.write(f"x-pod: {name}\n".encode())
                await writer.drain()
        writer.close()

    return serve


# ------------------------------------------------------------------------------------------------------ requests
def _wire(request: Request) -> bytes:
    if request.protocol == "tcp":
        return b"hello\r\n\r\n"
    lines: list[tuple[str, str]] = list(request.headers)
    if not any(name.lower() == "host" for name, _ in lines):
        lines.append(("host", f"{request.to[1]}.{request.to[0]}"))
    head = f"{request.method} {request.path} HTTP/1.1\r\n" + "".join(f"{name}: {text}\r\n" for name, text in lines)
    return f"{head}content-length: 0\r\n\r\n".encode("latin-1")


async def _answer(reader: asyncio.StreamReader) -> Outcome:
    """Read the first line and what follows it as far as it says who answered."""
    first = (await reader.readline()).decode("latin-1")
    if first.startswith("x-pod: "):
        return Outcome(served_by=first.removeprefix("x-pod: ").strip())
    if not first:
        return CLOSED
    status = int(first.split(" ")[1])
    headers: dict[str, Any] = {}
    while line := (await reader.readline()).decode("latin-1").strip():
        name, _, text = line.partition(":")
        headers[name.lower()] = text.strip()
    return Outcome(served_by=headers["x-pod"]) if "x-pod" in headers else Outcome(status=status)
