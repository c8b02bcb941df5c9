"""A whole controller on a real API server, with a real Envoy through which traffic flows while something goes wrong.

What holds in every fault (faults.md, section 2) is checked here: traffic that needs no new configuration never fails
(I1), what is in force is what a start from nothing would compute (I3), no task has ended (I4), and no proxy has refused
anything. Who may call whom (I2) is asked of what is in force: `verdict`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from smi_adapter import app
from smi_adapter.backends import XdsConfig, load
from smi_adapter.cluster.client import Client
from smi_adapter.cluster.listing import everything
from smi_adapter.cluster.pace import read
from smi_adapter.controller import Controller
from smi_adapter.evaluate import Request, Verdict, evaluate
from smi_adapter.settings import Settings
from tests.cluster.mesh import Mesh, Proxy, controller, ready, servers, settings
from tests.live.apps import http_app

Bytes = dict[tuple[str, str, str], list[tuple[str, str, bytes]]]


def shop(mesh: Mesh) -> None:
    """Create a client with a proxy, and the Service `shop` with two plain versions; its split leads to the first."""
    mesh.account("web")
    mesh.pod("web-1", "web", {"app": "web"})
    for version in ("v1", "v2"):
        mesh.pod(f"shop-{version}", "default", {"version": version}, meshed=False)
        mesh.service(f"shop-{version}", f"shop-{version}", selector={"version": version})
    mesh.service("shop", "shop-v1", "shop-v2", selector={"app": "shop"})
    mesh.split("shop", {"shop-v1": 1, "shop-v2": 0})


@dataclass
class Stand:
    """The running controller, the proxy of `web-1`, and what went wrong with the requests through it."""

    mesh: Mesh
    running: Controller
    chosen: Settings
    proxy: Proxy
    asked: int = 0
    failed: list[str] = field(default_factory=list)

    async def keep_asking(self) -> None:
        """Send request after request."""
        while True:
            self.asked += 1
            try:
                reply = await self.proxy.get("shop")
            except OSError as error:
                self.failed.append(repr(error))
            else:
                if reply.status != 200:
                    self.failed.append(f"{reply.status} {reply.body[:200]!r}")
            await asyncio.sleep(0.02)

    def verdict(self, request: Request) -> Verdict:
        """Return what happens to a request by what is in force."""
        assert self.running.compiled is not None
        return evaluate(self.running.compiled.supported.mesh, request)

    async def still_obeys(self) -> None:
        """Move the split to the second version, see it in the traffic, and move it back."""
        await self.mesh.patch_split("shop", {"shop-v1": 0, "shop-v2": 1})
        await self.proxy.until("shop", "v2", 60.0)
        await self.mesh.patch_split("shop", {"shop-v1": 1, "shop-v2": 0})
        await self.proxy.until("shop", "v1", 60.0)

    async def holds(self, seconds: float = 60.0) -> None:
        """Check I1, I3 and that nothing was refused; what the API said last may still be on its way."""
        deadline = time.monotonic() + seconds
        while self.asked <= 10:  # on a quiet machine a test may be over before
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        assert not self.failed, self.failed[:3]
        while differing := await self._differs():
            assert time.monotonic() < deadline, f"not what a start from nothing computes: {differing}"
            await asyncio.sleep(0.2)
        assert [status.last_nack for status in self.running.server.proxies()] == [""]

    async def _differs(self) -> list[Any]:
        """Return the parts in which what is in force is not what follows from the objects."""
        client = await Client.connect(str(self.mesh.plane.kubeconfig))
        try:
            objects = (await everything(client)).objects
        finally:
            await client.close()
        compiler = app.Compiler(load("envoy"), app.options_of(self.chosen, self.running.bundle), cluster=True)
        anew = content((await asyncio.to_thread(compiler.apply, objects)).rendered)
        assert self.running.compiled is not None
        now = content(self.running.compiled.rendered)
        return [part for part in now.keys() | anew.keys() if now.get(part) != anew.get(part)]


def content(config: object) -> Bytes:
    """Return the bytes of a configuration, by part."""
    assert isinstance(config, XdsConfig)
    return {part: [(each.type_url, each.name, each.body) for each in found] for part, found in config.parts.items()}


@asynccontextmanager
async def stand(mesh: Mesh, *roots: str, **more: Any) -> AsyncIterator[Stand]:
    """Run the controller and the proxy of `web-1`, which can be asked for `shop` and these roots; see `shop`."""
    chosen = settings(mesh.plane, **more)
    async with AsyncExitStack() as stack:
        for version in ("v1", "v2"):
            await stack.enter_async_context(http_app(version, mesh.addresses[f"shop-{version}"], 8080))
        running, _ = await stack.enter_async_context(controller(mesh.plane, chosen))
        await ready(running, 60.0)
        where = servers(running.bundle, chosen.xds_address.rpartition(":")[0])
        token = await asyncio.to_thread(mesh.token, "web", "web-1")
        proxy = stack.enter_context(mesh.envoy("web-1", token, where, "shop", *roots))
        await proxy.envoy.ready()
        await proxy.until("shop", "v1", 60.0)
        made = Stand(mesh, running, chosen, proxy)
        asking = asyncio.create_task(made.keep_asking())
        try:
            yield made
        finally:
            while not asking.done():  # a cancellation may get lost in what a request waits for
                asking.cancel()
                await asyncio.wait([asking], timeout=1.0)


class _Told(msgspec.Struct):
    status: dict[str, Any] = {}


async def conditions(mesh: Mesh, path: str, seconds: float = 60.0) -> Mapping[str, Mapping[str, Any]]:
    """Return the conditions of an object by type, once it has some."""
    deadline = time.monotonic() + seconds
    while True:
        answer = await asyncio.to_thread(mesh.plane.raw, "GET", path)
        found = read(answer, _Told).status.get("conditions")
        if found:
            return {one["type"]: one for one in found}
        assert time.monotonic() < deadline, f"{path}: nothing was told"
        await asyncio.sleep(0.1)
