"""Real Envoys take every form of every resource, those that are seldom sent too: nothing rendered is ever refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from types import MappingProxyType

import pytest
import pytest_asyncio

from smi_adapter.backends import Resource, XdsConfig
from smi_adapter.backends.envoy import BACKEND, AccessLog, EnvoyBackend, names
from smi_adapter.backends.envoy.lint import lint
from smi_adapter.envoy_api import message, serialise, version_of
from smi_adapter.mesh import AccessMode, Anchor, Instance
from tests import meshes
from tests.live.apps import HttpClient, TcpClient
from tests.live.fleet import loopback, until
from tests.live.town import (
    ANYTHING,
    CLIENT,
    DB,
    OTHER,
    PODS,
    WEB,
    Town,
    database,
    dial,
    endpoint,
    open_town,
    plain,
    proxy,
    web,
    weights,
    workloads,
)
from tests.meshes import TCP, UDP, match, rule, service, spiffe, split

pytestmark = [pytest.mark.live, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def town() -> AsyncIterator[Town]:
    async with open_town() as opened:
        yield opened


def edited(config: XdsConfig, edit: Callable[[Resource], Resource]) -> XdsConfig:
    """Return a config with each resource passed through `edit`."""
    parts = {part: tuple(edit(item) for item in resources) for part, resources in config.parts.items()}
    return replace(config, parts=MappingProxyType(parts), changed_parts=None, changed_scopes=None)


def with_body(resource: Resource, body: bytes) -> Resource:
    return replace(resource, body=body, version=version_of(body))


async def test_the_closed_forms_are_taken_and_close(town: Town) -> None:
    config = await town.publish([*web(), database()], db_rules=ANYTHING)
    assert (await town.get()).status == 200
    closed = edited(config, lambda item: item if item.closed is None else with_body(item, item.closed))
    town.fleet.server.publish(closed)
    await town.fleet.settle()
    assert (await town.get()).status == 403
    connection = await TcpClient.connect(dial("db"), DB)
    assert await connection.line() == ""
    town.fleet.server.publish(edited(config, lambda item: item))
    await town.fleet.settle()
    assert (await town.get()).status == 200


@pytest.mark.parametrize("mode", list(AccessMode))
async def test_each_mode_is_taken_with_rules_and_without(town: Town, mode: AccessMode) -> None:
    some = (rule([CLIENT], [match("/x", "GET", headers={"a": "b"})], addresses=("10.0.0.1", "fd00::1")), *ANYTHING)
    for rules in ((), some):
        await town.publish([*web(), database()], web_rules=rules, db_rules=rules, mode=mode)


async def test_every_kind_of_match_is_taken(town: Town) -> None:
    matches = [
        match(),
        match("/a|/b", anchor=Anchor.WHOLE),
        match("/a|/b", anchor=Anchor.SEARCH),
        match(r"/\d+(\.\d+){0,3}[[:alpha:]]\Q.\E(?i)x$", "GET", "M-SEARCH", "PROPFIND"),
        match("/" + "(a|b)?" * 60, headers={"x-a": ".*", "x-b": "(?s:.*)(?:v)(?s:.*)"}),
        match(r"/[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"),
    ]
    await town.publish(web((split({"v2": 1}, matches, WEB), *weights({"v1": 2**31, "v2": 2**31 - 1}))))
    await town.publish(web(), web_rules=(rule([CLIENT], matches),))


async def test_odd_shapes_of_services_are_taken(town: Town) -> None:
    services = [
        *web(weights({"v1": 1, "v2": 2**32 - 2})),
        service("secret", callers=[]),
        service("mixed", [endpoint("v1"), plain("legacy"), endpoint("v1")], port=WEB),
        service("db", [], port=DB, protocol=TCP, callers=[OTHER]),
        service("db2", [], port=DB, protocol=TCP, routes=weights({"db": 1, "db2": 2}, DB)),
        service("dns", [], port=53, protocol=UDP, routes=weights({}, 53)),
    ]
    await town.publish(services)


async def test_a_changed_set_of_ports_is_taken(town: Town) -> None:
    """A Listener whose addresses change overlaps with itself."""
    await town.publish(web())
    pods = workloads(ANYTHING, ())
    grown = [
        replace(pod, ports=(*pod.ports, replace(pod.ports[0], number=WEB + 1))) if pod.key == proxy("v1") else pod
        for pod in pods
    ]
    for _ in range(2):
        await town.fleet.publish(web(), grown)
        assert (await town.get()).status == 200
        await town.fleet.publish(web(), pods)
        assert (await town.get()).status == 200


async def test_the_forms_for_a_cluster_are_taken(town: Town) -> None:
    """Redirected Listeners bind all addresses in a pod's namespace: here the address alone is replaced by loopback."""
    services = [
        replace(item, addresses=(f"10.96.0.{number}", f"fd00::{number}"))
        for number, item in enumerate([*web(weights({"v1": 1, "v2": 1})), database(callers=[OTHER])], start=1)
    ]
    pods = [
        replace(pod, instances=(Instance("a", "10.0.0.1", ""), Instance("b", "10.0.0.2", "")), dial=())
        for pod in workloads(ANYTHING, ANYTHING)
    ]
    await town.publish(web())
    trust = town.fleet.mesh.trust
    places = {names.OUTBOUND_ANY: loopback(200, 1), "in/shop/v1": loopback(200, 2), "in/shop/v2": loopback(200, 3)}

    def moved(item: Resource) -> Resource:
        if item.type_url != names.type_url(names.LISTENER):
            return item
        listener = message(names.LISTENER).FromString(item.body)
        address = listener.address.socket_address
        if address.address == "0.0.0.0":
            address.address = places.get(item.name, loopback(200, 4))
        return with_body(item, serialise(listener))

    rendered = BACKEND.render(replace(meshes.mesh(services, pods), trust=trust))
    assert not lint(rendered), "\n".join(lint(rendered))
    town.fleet.server.publish(edited(rendered, moved))
    town.fleet.config = None  # the next test renders everything
    await town.fleet.settle()
    listening = {name: town.fleet.envoys[proxy(name)].admin("/listeners") for name in ("client", "v1")}
    assert f"out/any::{loopback(200, 1)}:15001" in listening["client"]
    assert "out/shop/web/18080::10.96.0.1:18080" in listening["client"]
    assert f"in/shop/v1::{loopback(200, 2)}:15006" in listening["v1"]


async def test_a_log_of_refusals_alone_leaves_nothing_out(town: Town) -> None:
    name = proxy("v1")
    town.fleet.envoys.pop(name).stop()
    await town.fleet.start(town.fleet.mesh.workloads[name], every_request=False)
    audited = (rule([CLIENT], [match("/ok")]),)
    await town.publish(web())
    for mode, refused in ((AccessMode.ENFORCE, "/denied"), (AccessMode.AUDIT, "/would-be")):
        pods = workloads(audited, (), mode=mode)
        world = replace(meshes.mesh(web(), pods), trust=town.fleet.mesh.trust)
        town.fleet.server.publish(BACKEND.render(world))
        town.fleet.config = None
        await town.fleet.settle()
        # A connection of its own: those of the callers' proxies are still on the old chain, which drains.
        tls = town.fleet.client_tls(CLIENT)
        async with await HttpClient.connect(PODS["v1"].address, WEB, tls=tls) as client:
            assert (await client.request("/ok")).status == 200
            await client.request(refused)
            for path in ("/grpc", "/grpc%2fodd"):  # their HTTP status is 200
                await client.request(path, "POST", [("content-type", "application/grpc"), ("te", "trailers")])
        async with await HttpClient.connect(PODS["v1"].address, WEB, tls=tls) as client:
            client.begin("/ok?gone", "POST", 10)
        for path in (refused, "/grpc", "/grpc/odd", "/ok"):
            await until(lambda path=path: town.fleet.log(proxy("v1"), path=path))  # type: ignore[misc]
        assert {line["flags"] for line in town.fleet.log(proxy("v1"), path="/ok")} == {"DC"}


async def test_a_proxy_may_log_nothing(town: Town) -> None:
    silent = EnvoyBackend(access_log=AccessLog(""))
    world = replace(meshes.mesh(web(), workloads(ANYTHING, ANYTHING)), trust=town.fleet.mesh.trust)
    town.fleet.server.publish(silent.render(world))
    town.fleet.config = None
    await town.fleet.settle()
    assert (await town.get("/unseen")).status == 200


async def test_a_proxy_that_is_asked_directly_for_an_undeclared_port_closes(town: Town) -> None:
    await town.publish(web())
    with pytest.raises(OSError):
        await HttpClient.connect(PODS["v1"].address, WEB + 7, tls=town.fleet.client_tls(spiffe("client")))
