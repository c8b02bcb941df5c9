"""One cast of pods with real Envoys that plays every golden case, one after another.

An Envoy's certificate says who it is, so a pod of the cast keeps its namespace, ServiceAccount and addresses; a case's
own pods are mapped onto it, and with them their labels and ports. Who has no part in a case is there without labels.
Between the files of a case and its traffic lies the product's whole way.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from typing import Any, Self

from smi_adapter import app, decode
from smi_adapter.backends import Part, XdsConfig
from smi_adapter.backends.envoy import BACKEND
from smi_adapter.backends.envoy.bootstrap import ClientCertificate, ControlPlane, Local, bootstrap
from smi_adapter.findings import Ref
from smi_adapter.mesh import Key, Protocol
from smi_adapter.snapshot import Options, Pod
from smi_adapter.sources.controllers import WORKLOADS, Addresses, Memory, reconcile
from tests.live.envoys import EnvoyProcess
from tests.live.fleet import ADAPTER, Fleet, fleet

CAST = (
    ("default", "buyer"), ("default", "buyer"), ("default", "shop"), ("default", "shop"), ("default", "next"),
    ("default", "thief"), ("lab", "shop"), ("other", "buyer"),
)  # fmt: skip
"""Namespace and ServiceAccount of each pod: all that a golden case may use."""

Objects = Mapping[Ref, decode.RawObject]


@dataclass(frozen=True, slots=True)
class Scene:
    """A stage of a case with the cast in it: the objects, and which pod plays which (namespace, name) of the case."""

    objects: Objects
    roles: Mapping[Key, str]

    @classmethod
    def of(cls, written: Objects) -> Self:
        """Map a case's pods, those of its Deployments too, onto the cast."""
        free = [(Ref("Pod", namespace, f"cast-{number}"), account) for number, (namespace, account) in enumerate(CAST)]
        objects = {ref: raw for ref, raw in written.items() if ref.kind != "Pod" and ref.kind not in WORKLOADS}
        roles: dict[Key, str] = {}
        for ref, raw in sorted(reconcile(written, Memory()).objects.items()):
            if ref.kind != "Pod":
                continue
            wanted = (ref.namespace, raw["spec"].get("serviceAccountName", "default"))
            player = next((one for one in free if (one[0].namespace, one[1]) == wanted), None)
            assert player is not None, f"no pod of the cast is left for {ref} with ServiceAccount {wanted[1]}: see CAST"
            free.remove(player)
            roles[ref.namespace, ref.name] = player[0].name
            objects[player[0]] = _pod(player[0], raw["metadata"].get("labels", {}), raw["spec"])
        for ref, account in free:
            objects[ref] = _pod(ref, {}, {"serviceAccountName": account, "containers": [{"name": "app"}]})
        return cls(objects, roles)

    def behind(self, service: str) -> frozenset[str]:
        """Return the pods that a Service (`namespace/name`) selects."""
        namespace, name = service.split("/")
        raw = self.objects.get(Ref("Service", namespace, name))
        selector = (raw or {"spec": {}})["spec"].get("selector") or {}
        return frozenset(
            ref.name
            for ref, pod in self.objects.items()
            if selector and (ref.kind, ref.namespace) == ("Pod", namespace)
            if selector.items() <= pod["metadata"]["labels"].items()
        )


def _pod(ref: Ref, labels: Mapping[str, str], spec: Mapping[str, Any]) -> decode.RawObject:
    metadata = {"name": ref.name, "namespace": ref.namespace, "labels": dict(labels)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": dict(spec)}


class GoldenFleet:
    """The running cast; make it with `GoldenFleet.open`."""

    def __init__(self, running: Fleet, stack: contextlib.AsyncExitStack, network: IPv4Network) -> None:
        self._fleet, self._stack = running, stack
        self._memory = Memory(Addresses(network))
        self._applications: set[tuple[str, int, Protocol]] = set()
        self._compiler: app.Compiler | None = None
        self.state: app.Compiled | None = None

    @classmethod
    async def open(cls, stack: contextlib.AsyncExitStack, network: IPv4Network) -> Self:
        """Start the server and one Envoy for each pod; all end with the stack."""
        running = await stack.enter_async_context(fleet())
        opened = cls(running, stack, network)
        await opened._publish(Scene.of({}), Options(bundle=running.roots))
        for key, pod in sorted(opened._snapshot_pods().items()):
            opened._start(key, pod)
        for envoy in running.envoys.values():
            await envoy.ready()
        return opened

    @property
    def roots(self) -> bytes:
        """Return the trusted root certificates, for options."""
        return self._fleet.roots

    def pod(self, namespace: str, name: str) -> Pod:
        """Return a pod of the cast."""
        return self._snapshot_pods()[namespace, name]

    async def put(self, scene: Scene, options: Options | None = None) -> None:
        """Put a scene in force and wait until every proxy has acknowledged it; without options it is an edit."""
        await self._publish(scene, options)
        await self._fleet.settle()

    async def show_everything(self) -> bool:
        """Put the same world in force, but with each Service in every caller's sight; False if that is no difference.

        What nobody may call is in no proxy's sight. This way Envoys have to accept that as well, and refuse callers at
        the server alone (T13).
        """
        assert self.state is not None
        mesh = self.state.supported.mesh
        if all(service.callers is None for service in mesh.services.values()):
            return False
        services = {key: replace(service, callers=None) for key, service in mesh.services.items()}
        rendered = BACKEND.render(replace(mesh, services=services))
        seen = frozenset[Part]().union(*rendered.scopes.values())
        assert seen == rendered.parts.keys(), "a part is still in nobody's sight"
        self._fleet.server.publish(rendered)
        await self._fleet.settle()
        return True

    def _snapshot_pods(self) -> Mapping[Key, Pod]:
        assert self.state is not None
        return self.state.snapshot.pods

    async def _publish(self, scene: Scene, options: Options | None) -> None:
        if options is not None:
            self._compiler = app.Compiler(BACKEND, options)
        assert self._compiler is not None
        world = reconcile(scene.objects, self._memory)
        self._memory = world.memory
        self.state = self._compiler.apply(world.objects)
        assert isinstance(self.state.rendered, XdsConfig)
        assert not [item for item in self.state.findings() if item.code == "SMI0606"], self.state.findings()
        await self._serve()
        self._fleet.server.publish(self.state.rendered)

    async def _serve(self) -> None:
        """Start what is to answer at each inbound port and does not yet."""
        assert self.state is not None
        for workload in self.state.translation.mesh.workloads.values():
            for port in workload.ports:
                (instance,) = workload.instances
                protocol = Protocol.UDP if port.protocol is Protocol.UDP else Protocol.TCP
                place = (instance.app_address, port.number, protocol)
                if place in self._applications:
                    continue
                self._applications.add(place)
                if protocol is Protocol.UDP:
                    loop = asyncio.get_running_loop()
                    application = functools.partial(_Datagrams, instance.name)
                    transport, _ = await loop.create_datagram_endpoint(application, place[:2])
                    self._stack.callback(transport.close)
                else:
                    server = await asyncio.start_server(_Application(instance.name).serve, *place[:2])
                    self._stack.callback(server.close)

    def _start(self, key: Key, pod: Pod) -> None:
        running = self._fleet
        identity = f"spiffe://cluster.local/ns/{key[0]}/sa/{pod.service_account}"
        pair = running.issuer.key_pair(identity, time.time())
        control = ControlPlane("127.0.0.1", running.port, ADAPTER, running.roots.decode())
        credential = ClientCertificate(pair.certificate.decode(), pair.private_key.decode())
        start = bootstrap(key, control, credential, Local(source_address=pod.address))
        running.envoys[key] = EnvoyProcess.start(start, flags=("--reject-unknown-dynamic-fields",))


# ------------------------------------------------------------------------------------------------- applications
@dataclass(frozen=True, slots=True)
class _Application:
    """Answers with its pod's name: HTTP to HTTP, a line to anything else that ends with an empty line."""

    name: str

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                line = f"x-pod: {self.name}\r\n"
                is_http = b" HTTP/1." in head.partition(b"\r\n")[0]
                writer.write((f"HTTP/1.1 200 OK\r\n{line}content-length: 0\r\n\r\n" if is_http else line).encode())
                await writer.drain()
        writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    """Answers each datagram with its pod's name."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:  # noqa: ARG002 - asyncio's signature
        assert self._transport is not None
        self._transport.sendto(self._name.encode(), addr)
