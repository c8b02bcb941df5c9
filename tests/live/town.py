"""The fleet that the live tests of the Envoy backend share: two callers, two versions of a web shop, a database.

One set of Envoys serves all tests of a module: each test publishes its own Mesh to them, so every test is also a test
of the transition from the one before.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass

from smi_adapter.backends import XdsConfig
from smi_adapter.mesh import AccessMode, AccessRule, Endpoint, InboundPort, Key, Mesh, Route, Service, Workload
from tests.live.apps import HttpClient, Reply, get, http_app, tcp_app, udp_app
from tests.live.fleet import Fleet, fleet, instance, loopback
from tests.meshes import HTTP, TCP, UDP, key, rule, service, spiffe, split, workload

WEB, DB, DNS = 18080, 13306, 15353
"""The ports: HTTP, TCP, UDP."""

PODS = {name: instance(number) for number, name in enumerate(("client", "other", "v1", "v2", "db", "legacy"), start=1)}
SERVICES = ("web", "v1", "v2", "secret", "db", "db2", "dns", "dns1", "dns2", "legacy", "mixed")
CLIENT, OTHER = spiffe("client"), spiffe("other")

ANYTHING = (rule([CLIENT]),)
"""The client may do anything."""


def dial(name: str, caller: str = "client") -> str:
    """Return where a caller's application dials a Service."""
    return loopback(50 if caller == "client" else 60, SERVICES.index(name) + 1)


def endpoint(pod: str, port: int = WEB, *, identity: str | None = None) -> Endpoint:
    """Return a meshed pod's endpoint."""
    return Endpoint(PODS[pod].address, port, spiffe(pod) if identity is None else identity, pod)


def plain(pod: str, port: int = WEB) -> Endpoint:
    """Return the endpoint of an application that has no proxy."""
    return Endpoint(PODS[pod].app_address, port)


def web(routes: tuple[Route, ...] | None = None, callers: Iterable[str] | None = (CLIENT,)) -> list[Service]:
    """Return the root `web`, whose own endpoint is v1, and its leaves."""
    return [
        service("web", [endpoint("v1")], routes=routes, port=WEB, callers=callers),
        service("v1", [endpoint("v1")], port=WEB, callers=callers),
        service("v2", [endpoint("v2")], port=WEB, callers=callers),
    ]


def database(name: str = "db", routes: tuple[Route, ...] | None = None, callers: Iterable[str] = (CLIENT,)) -> Service:
    return service(name, [endpoint("db", DB)], port=DB, protocol=TCP, callers=callers, routes=routes)


def weights(shares: Mapping[str, int], port: int = WEB) -> tuple[Route, ...]:
    return (split(shares, port=port),)


@dataclass(slots=True)
class Town:
    """The running fleet."""

    fleet: Fleet

    async def publish(
        self,
        services: Iterable[Service],
        *,
        web_rules: tuple[AccessRule, ...] = ANYTHING,
        db_rules: tuple[AccessRule, ...] = (),
        v2_rules: tuple[AccessRule, ...] | None = None,
        mode: AccessMode = AccessMode.ENFORCE,
    ) -> XdsConfig:
        """Publish Services, and who may use the web shop and the database."""
        return await self.fleet.publish(services, workloads(web_rules, db_rules, v2_rules, mode))

    async def apps(self, name: str = "web", count: int = 100, path: str = "/") -> Counter[str]:
        """Return how many of so many requests each application answered, or which status came instead."""
        answers: Counter[str] = Counter()
        async with await HttpClient.connect(dial(name), WEB) as client:
            for _ in range(count):
                reply = await client.request(path)
                answers[reply.app or str(reply.status)] += 1
        return answers

    async def get(self, path: str = "/", method: str = "GET", headers: Iterable[tuple[str, str]] = ()) -> Reply:
        """Ask `web` as the client."""
        return await get(dial("web"), WEB, path, method, headers)


def workloads(
    web_rules: tuple[AccessRule, ...],
    db_rules: tuple[AccessRule, ...],
    v2_rules: tuple[AccessRule, ...] | None = None,
    mode: AccessMode = AccessMode.ENFORCE,
) -> list[Workload]:
    calls = {name: dial(name) for name in SERVICES}
    others_calls = {name: dial(name, "other") for name in SERVICES}
    second = web_rules if v2_rules is None else v2_rules
    shop = [
        workload(name, [InboundPort(WEB, HTTP, rules), InboundPort(DNS, UDP)], instance=PODS[name], mode=mode)
        for name, rules in (("v1", web_rules), ("v2", second))
    ]
    return [
        workload("client", instance=PODS["client"], dial=calls),
        workload("other", instance=PODS["other"], dial=others_calls),
        *shop,
        workload("db", [InboundPort(DB, TCP, db_rules)], instance=PODS["db"], mode=mode),
    ]


def proxy(name: str) -> Key:
    return key(name)


@contextlib.asynccontextmanager
async def open_town() -> AsyncIterator[Town]:
    """Start everything: about two seconds."""
    async with fleet() as running, contextlib.AsyncExitStack() as stack:
        for name in ("v1", "v2", "legacy"):
            await stack.enter_async_context(http_app(name, PODS[name].app_address, WEB))
            await stack.enter_async_context(udp_app(name, PODS[name].app_address, DNS))
        await stack.enter_async_context(tcp_app("db", PODS["db"].app_address, DB, greets=True))
        await stack.enter_async_context(tcp_app("legacy", PODS["legacy"].app_address, DB))
        town = Town(running)
        config = await town.publish(web())
        assert config.scopes
        for item in workloads(ANYTHING, ()):
            await running.start(item)
        await running.settle()
        yield town


def mesh_now(town: Town) -> Mesh:
    return town.fleet.mesh
