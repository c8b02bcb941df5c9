"""The arms: the ways of bringing a change to proxies that take turns, all in the process of `controller`.

An arm is opened on a port, told of changes by `write`, and closed. `Product` is what we ship: a change is an object on
a queue, as a watch would deliver it, and goes through Compiler and AdsServer. The others are controls.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from benchmarks import certificates
from benchmarks.bare import Bare, Table, WholeState, delta, table
from benchmarks.layouts import LISTENER, ROUTES, OneTable, with_rules_inside
from benchmarks.worlds import GUARDED, NAMESPACE, PROBED, RawObject, World, guard
from smi_adapter.app import Compiler
from smi_adapter.backends import Resource, XdsConfig
from smi_adapter.backends.envoy import BACKEND
from smi_adapter.backends.envoy.secrets import key_pair
from smi_adapter.decode import ref_of
from smi_adapter.delivery.xds import AdsServer, Limits, ServerTls
from smi_adapter.findings import Ref
from smi_adapter.snapshot import Options
from smi_adapter.sources.directory import DirectorySource

Changes: TypeAlias = Mapping[Ref, RawObject | None]

TIMER = 0.1
"""The trailing debounce that others ship: seconds."""

ALLOWED, DENIED = "a", "403"

_CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
_ENDPOINTS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"


class Arm(Protocol):
    """A way of bringing changes to proxies."""

    async def open(self, port: int) -> int:
        """Listen on a port (0: any); return it."""
        ...

    async def close(self) -> None:
        """End all streams and close the port."""
        ...

    def write(self, state: str) -> None:
        """Change the world to a state: what the probed Service answers from then on."""
        ...


@dataclass(frozen=True, slots=True)
class Setting:
    """What all arms of a controller share: the world, compiled, and the run's certificates."""

    world: World
    directory: Path
    compiler: Compiler

    @classmethod
    def of(cls, world: World, directory: Path) -> Setting:
        """Compile a world."""
        bundle = (directory / "roots.pem").read_bytes()
        compiler = Compiler(BACKEND, Options(bundle=bundle, trust_domain=certificates.TRUST_DOMAIN))
        compiler.apply(changes_of(*world.objects()))
        return cls(world, directory, compiler)

    @property
    def files(self) -> certificates.Files:
        """Return the server's key pair."""
        return certificates.files(self.directory, certificates.SERVER)

    @property
    def config(self) -> XdsConfig:
        """Return the configuration as it is now."""
        current = self.compiler.current
        assert current is not None
        assert isinstance(current.rendered, XdsConfig)
        return current.rendered

    def apply(self, changes: Changes) -> XdsConfig:
        """Move the world on."""
        self.compiler.apply(changes)
        return self.config

    def secrets(self) -> Callable[[str], tuple[Resource, ...]]:
        """Return what the server asks for the secrets of an identity."""
        issuer = certificates.issuer(self.directory)

        def of(identity: str) -> tuple[Resource, ...]:
            pair = issuer.key_pair(identity, time.time())
            return (key_pair(pair.certificate, pair.private_key),)

        return of

    def visible(self, node: str) -> list[Resource]:
        """Return all resources in a proxy's scope, without its own key pair."""
        namespace, _, name = node.partition("/")
        config = self.config
        return [item for part in sorted(config.scopes[namespace, name]) for item in config.parts[part]]

    def table(self, node: str) -> dict[str, dict[str, Resource]]:
        """Return all that a proxy may see, as a table."""
        namespace, _, name = node.partition("/")
        identity = self.config.identities[namespace, name]
        return table([*self.visible(node), *self.secrets()(identity)])

    def flip(self, state: str) -> Changes:
        """Return the change after which only the echo server of that name gets requests."""
        return changes_of(self.world.probed_split({name: int(name == state) for name in self.world.echo}))

    def guarding(self, state: str) -> Changes:
        """Return the change that allows or denies the prober at the guarded server."""
        raw = guard()
        return {ref_of(raw): raw if state == ALLOWED else None}

    def routes(self, state: str) -> Resource:
        """Return the probed routes in a state, and put everything back."""
        name = self.probed_name
        part = ("routes", NAMESPACE, PROBED)
        found = next(item for item in self.apply(self.flip(state)).parts[part] if item.name == name)
        self.apply(self.flip("a"))
        return found

    @property
    def probed_name(self) -> str:
        """Return the name of the probed Listener and of its routes."""
        return f"out/{NAMESPACE}/{PROBED}/{self.world.port}"

    def inbound(self, state: str) -> tuple[Resource, ...]:
        """Return what guards the guarded server in a state, and put everything back."""
        part = ("inbound", NAMESPACE, GUARDED)
        found = self.apply(self.guarding(state)).parts[part]
        self.apply(self.guarding(ALLOWED))
        return found


def changes_of(*objects: RawObject) -> Changes:
    """Return these objects as a change."""
    return {ref_of(raw): raw for raw in objects}


class Product:
    """What we ship."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._changes: asyncio.Queue[Changes] = asyncio.Queue()
        self._server: AdsServer | None = None
        self._consumer: asyncio.Task[None] | None = None
        self._flips = {name: setting.flip(name) for name in setting.world.echo}

    async def open(self, port: int) -> int:
        """Listen and publish the world."""
        files = self._setting.files
        tls = ServerTls(files.certificate.read_bytes(), files.key.read_bytes(), files.roots.read_bytes())
        # Fake fleets are many streams of one workload at one address, which a real fleet never is.
        limits = Limits(streams_per_proxy=1000, streams_per_second=100.0)
        own = self._setting.secrets()
        self._server = AdsServer(lambda identity, _holder: own(identity), limits=limits)
        bound = await self._server.start("127.0.0.1", port, lambda: tls)
        self._server.publish(self._setting.config)
        self._consumer = asyncio.create_task(self._consume(self._server))
        return bound

    async def close(self) -> None:
        """Stop."""
        if self._consumer is not None:
            self._consumer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._consumer
        if self._server is not None:
            await self._server.stop()

    def write(self, state: str) -> None:
        """Move the probed split."""
        self.change(self._flips[state])

    def change(self, changes: Changes) -> None:
        """Put changed objects on the queue, as a watch does."""
        self._changes.put_nowait(changes)

    async def _consume(self, server: AdsServer) -> None:
        """Take what is there, all at once, and bring it on its way."""
        while True:
            changes = dict(await self._changes.get())
            while not self._changes.empty():
                changes.update(self._changes.get_nowait())
            server.publish(self._setting.apply(changes))


class Guarding(Product):
    """What we ship, told to allow or to deny at the guarded server."""

    def write(self, state: str) -> None:
        """Create or delete the TrafficTarget."""
        self.change(self._setting.guarding(state))


class Directory(Product):
    """What we ship, with a real file in front: writing is saving the file that holds the probed split."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._folder = Path(tempfile.mkdtemp(dir=setting.directory, prefix="source-"))
        self._aside = Path(tempfile.mkdtemp(dir=setting.directory, prefix="aside-"))
        self._reader: asyncio.Task[None] | None = None

    async def open(self, port: int) -> int:
        """Listen, publish the world and watch the folder."""
        self.write("a")
        bound = await super().open(port)
        self._reader = asyncio.create_task(self._read())
        return bound

    async def close(self) -> None:
        """Stop."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        await super().close()

    def write(self, state: str) -> None:
        """Replace the file, as an editor does."""
        (split,) = self._flips[state].values()
        fresh = self._aside / "split.yaml"
        fresh.write_text(json.dumps(split), encoding="utf-8")
        fresh.replace(self._folder / "split.yaml")

    async def _read(self) -> None:
        async for batch in DirectorySource(self._folder):
            if changes := {ref: raw for ref, raw in batch.items() if ref.kind == "TrafficSplit"}:
                self.change(changes)


class _BareArm:
    """A control on top of the bare server."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._tables: dict[str, dict[str, dict[str, Resource]]] = {}
        self._server = Bare(self._table_of, setting.files)

    def _table_of(self, node: str) -> Table:
        if node not in self._tables:
            self._tables[node] = self._setting.table(node)
        return self._tables[node]

    async def open(self, port: int) -> int:
        """Listen."""
        return await self._server.start(port)

    async def close(self) -> None:
        """Stop."""
        await self._server.stop()


class Ready(_BareArm):
    """The floor: bytes that are ready before the clock starts."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._ready = {state: delta(ROUTES, [setting.routes(state)]) for state in setting.world.echo}

    def write(self, state: str) -> None:
        """Push the bytes of a state."""
        self._server.push(self._ready[state])


class Immediate(_BareArm):
    """Coalescing off: taken from a queue and compiled as in the product, then pushed at once, each by itself."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._flips = {name: setting.flip(name) for name in setting.world.echo}
        self._changes: asyncio.Queue[Changes] = asyncio.Queue()
        self._consumer: asyncio.Task[None] | None = None

    async def open(self, port: int) -> int:
        """Listen."""
        self._consumer = asyncio.create_task(self._consume())
        return await super().open(port)

    async def close(self) -> None:
        """Stop."""
        if self._consumer is not None:
            self._consumer.cancel()
            await asyncio.gather(self._consumer, return_exceptions=True)
        await super().close()

    def write(self, state: str) -> None:
        """Move the probed split."""
        self.change(self._flips[state])

    def change(self, changes: Changes) -> None:
        """Put changed objects on the queue, as a watch does."""
        self._changes.put_nowait(changes)

    async def _consume(self) -> None:
        while True:
            self._take(await self._changes.get())

    def _take(self, changes: Changes) -> None:
        """Compile and push."""
        config = self._setting.apply(changes)
        for part in config.changed_parts or ():
            self._server.push(delta(ROUTES, [item for item in config.parts[part] if item.type_url == ROUTES]))


class Timer(Immediate):
    """A trailing timer: whatever changes is compiled and pushed when 100 ms have passed."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._waiting: dict[Ref, RawObject | None] = {}

    def _take(self, changes: Changes) -> None:
        """Wait, and merge what comes meanwhile."""
        if not self._waiting:
            asyncio.get_running_loop().call_later(TIMER, self._fire)
        self._waiting.update(changes)

    def _fire(self) -> None:
        changes, self._waiting = self._waiting, {}
        super()._take(changes)


class OneTableArm(_BareArm):
    """One RouteConfiguration for the whole mesh."""

    def __init__(self, setting: Setting, node: str) -> None:
        super().__init__(setting)
        self._routes = {state: setting.routes(state) for state in setting.world.echo}
        self._one = OneTable(setting.visible(node), setting.probed_name)
        own = setting.secrets()(setting.config.identities[tuple(node.split("/"))])  # type: ignore[index]
        self._tables[node] = table([*self._one.resources, *own])

    def write(self, state: str) -> None:
        """Serialise the whole table and push it."""
        self._server.push(delta(ROUTES, [self._one.changed(self._routes[state])]))


class WrongOrder(_BareArm):
    """The naive order: routes before the clusters that they name, and clusters away before the routes."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._flips = {state: delta(ROUTES, [setting.routes(state)]) for state in setting.world.echo}

    def write(self, state: str) -> None:
        """Push the bytes of a state."""
        self._server.push(self._flips[state])

    def shift(self, name: str, port: int) -> None:
        """Send everything to a Service that is new: routes first."""
        config = self._setting.apply(shifted(self._setting.world, name, port))
        made = config.parts["endpoints", NAMESPACE, name]
        for tables in self._tables.values():
            tables[_ENDPOINTS].update({item.name: item for item in made if item.type_url == _ENDPOINTS})
        routes = [item for item in config.parts["routes", NAMESPACE, PROBED] if item.type_url == ROUTES]
        self._server.push(delta(ROUTES, routes))
        self._server.push(delta(_CLUSTER, [item for item in made if item.type_url == _CLUSTER]))

    def shift_back(self, name: str) -> None:
        """Remove that Service: its cluster first."""
        gone = [item.name for item in self._setting.config.parts["endpoints", NAMESPACE, name]][:1]
        self._setting.apply(shifted_back(self._setting.world, name))
        self._server.push(delta(_CLUSTER, [], gone))
        self._server.push(self._flips["a"])


class RulesInside(_BareArm):
    """Access rules inside the Listener."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._listeners = {state: self._inside(state) for state in (ALLOWED, DENIED)}
        self._ready = {state: delta(LISTENER, [listener]) for state, listener in self._listeners.items()}
        node = f"{NAMESPACE}/{GUARDED}"
        tables = setting.table(node)
        tables[LISTENER] = {item.name: item for item in [self._listeners[ALLOWED]]}
        self._tables[node] = tables

    def write(self, state: str) -> None:
        """Push the Listener of a state."""
        self._server.push(self._ready[state])

    def _inside(self, state: str) -> Resource:
        guards = self._setting.inbound(state)
        listener = next(item for item in guards if item.type_url == LISTENER)
        routes = next(item for item in guards if item.type_url == ROUTES)
        return with_rules_inside(listener, routes)


class Whole:
    """Full state of the world, built for each stream at each change."""

    def __init__(self, setting: Setting, node: str) -> None:
        self._routes = {state: setting.routes(state) for state in setting.world.echo}
        self._server = WholeState(setting.table(node)[ROUTES], setting.files)

    async def open(self, port: int) -> int:
        """Listen."""
        return await self._server.start(port)

    async def close(self) -> None:
        """Stop."""
        await self._server.stop()

    def write(self, state: str) -> None:
        """Change one resource."""
        self._server.put(self._routes[state])


def shifted(world: World, name: str, port: int) -> Changes:
    """Return the change that makes a Service and sends all of the probed one's requests there."""
    return changes_of(*world.echo_service(name, port), world.split_to({name: 1}))


def shifted_back(world: World, name: str) -> Changes:
    """Return the change that sends the requests back to `a` and deletes the Service."""
    gone: dict[Ref, RawObject | None] = {ref_of(raw): None for raw in world.echo_service(name, 1)}
    return {**gone, **changes_of(world.probed_split({"a": 1, "b": 0}))}
