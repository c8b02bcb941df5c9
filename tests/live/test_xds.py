"""Delivery to real Envoys: every rule of order that a fake client cannot prove."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from smi_adapter.backends import Resource
from smi_adapter.delivery.xds import Limits, Pace
from smi_adapter.delivery.xds.types import CLUSTER, ENDPOINTS, LISTENER, ROUTES
from smi_adapter.findings import Ref
from tests.live.envoys import free_port
from tests.live.xds_world import (
    WEB,
    WEB_ID,
    Fleet,
    HttpConnection,
    backends,
    cluster,
    config,
    connected,
    endpoints,
    fleet,
    get,
    listener,
    load,
    refused_routes,
    routes,
    static_cluster,
    until,
)

pytestmark = pytest.mark.live

OUT = "out/shop/api/80"
FAST = Limits(pace=Pace(grace=0.5))


def bad(answers: Counter[tuple[int, str]]) -> dict[tuple[int, str], int]:
    return {answer: count for answer, count in answers.items() if answer[0] != 200}


async def test_configuration_arrives_over_mutual_tls_and_a_change_takes_effect_on_a_live_connection(
    tmp_path: Path,
) -> None:
    port = free_port()
    async with backends("v1", "v2") as ports, fleet(tmp_path) as world:
        base = [cluster(n) for n in ports] + [endpoints(n, [p]) for n, p in ports.items()] + [listener(OUT, port)]
        world.ads.publish(config(base, [routes(OUT, {"v1": 1})]))
        await world.envoy().ready()
        assert await world.ads.settled(10, proxies=1)
        async with connected(port) as connection:
            assert await connection.get() == (200, "v1")
            world.ads.publish(config(base, [routes(OUT, {"v2": 1})]))
            assert await world.ads.settled(10)
            await until(lambda: answers_v2(connection))
        (proxy,) = world.ads.proxies()
        assert (proxy.workload, proxy.identity, proxy.envoy_version) == (WEB, WEB_ID, "1.40.0")
        assert world.findings == []


async def answers_v2(connection: HttpConnection) -> bool:
    return await connection.get() == (200, "v2")


async def test_backends_are_added_shifted_and_removed_under_load_without_an_error(tmp_path: Path) -> None:
    port = free_port()
    async with backends("v0", "v1") as ports, fleet(tmp_path, limits=FAST) as world:
        front = listener(OUT, port)

        def only(name: str, port: int) -> None:
            world.ads.publish(config([front, cluster(name), endpoints(name, [port])], [routes(OUT, {name: 1})]))

        only("first", ports["v0"])
        await world.envoy().ready()
        async with load(port) as answers:
            for number in range(20):
                only(f"c{number}", ports[f"v{number % 2}"])  # add, shift and remove in one publish
                assert await world.ads.settled(10)
                await asyncio.sleep(0.03)
            await until(lambda: len(clusters(world)) == 2, what="for the removals")  # c19 and xds
        assert bad(answers) == {}
        assert answers.total() > 200


def clusters(world: Fleet) -> set[str]:
    dump = json.loads(world.envoys[0].admin("/clusters?format=json"))
    return {status["name"] for status in dump.get("cluster_statuses", [])}


async def test_a_changed_cluster_is_warm_at_once_because_its_endpoints_come_again(tmp_path: Path) -> None:
    port = free_port()
    async with backends("v1") as ports, fleet(tmp_path) as world:
        rest = [endpoints("v1", [ports["v1"]]), listener(OUT, port), routes(OUT, {"v1": 1})]
        world.ads.publish(config([cluster("v1"), *rest]))
        await world.envoy().ready()
        assert await world.ads.settled(10, proxies=1)
        async with load(port) as answers:
            world.ads.publish(config([cluster("v1", connect_timeout={"seconds": 4}), *rest]))
            assert await world.ads.settled(5)  # 15 s if Envoy had to wait
        assert bad(answers) == {}


async def test_an_envoy_that_starts_first_keeps_its_ports_closed_until_it_has_its_routes(tmp_path: Path) -> None:
    port = free_port()
    async with backends("v1") as ports, fleet(tmp_path) as world:
        envoy = world.envoy()
        await until(lambda: envoy.admin_status("/ready")[0] == 503)
        with pytest.raises(ConnectionRefusedError):
            await HttpConnection.open(port)
        world.ads.publish(
            config([cluster("v1"), endpoints("v1", [ports["v1"]]), listener(OUT, port), routes(OUT, {"v1": 1})])
        )
        await envoy.ready()
        assert await get(port) == (200, "v1")


async def test_after_a_restart_of_the_server_nothing_is_sent_again_and_no_request_fails(tmp_path: Path) -> None:
    port = free_port()
    async with backends("v1") as ports, fleet(tmp_path) as world:
        many = [part for n in range(50) for part in (cluster(f"c{n}"), endpoints(f"c{n}", [ports["v1"]]))]
        full = config(many, [listener(OUT, port), routes(OUT, {"c1": 1})])
        world.ads.publish(full)
        await world.envoy().ready()
        assert await world.ads.settled(10, proxies=1)
        async with load(port) as answers:
            await world.ads.stop()
            world.answers.clear()
            await asyncio.sleep(0.2)
            await world.serve()
            world.ads.publish(full)
            assert await world.ads.settled(15, proxies=1)
            sent = [r.name for _, _, answer in world.answers for r in answer.sent.resources]
            assert sent == []
            world.ads.publish(config(many, [listener(OUT, port), routes(OUT, {"c2": 1})]))
            assert await world.ads.settled(10)
        assert [r.name for _, _, answer in world.answers for r in answer.sent.resources] == [OUT]
        assert bad(answers) == {}


async def test_clusters_that_changed_and_left_while_the_server_was_away_harm_no_request(tmp_path: Path) -> None:
    port = free_port()
    async with backends("v1") as ports, fleet(tmp_path, limits=FAST) as world:

        def parts(name: str, seconds: int) -> list[Resource]:
            kept = cluster("kept", connect_timeout={"seconds": seconds})
            filled = [endpoints("kept", [ports["v1"]]), endpoints(name, [ports["v1"]])]
            return [kept, cluster(name), *filled, listener(OUT, port), routes(OUT, {name: 1, "kept": 1})]

        world.ads.publish(config(parts("old", 5)))
        await world.envoy().ready()
        assert await world.ads.settled(10, proxies=1)
        async with load(port) as answers:
            await world.ads.stop()
            await world.serve()
            world.ads.publish(config(parts("new", 4)))
            assert await world.ads.settled(10, proxies=1)
            await until(lambda: "old" not in clusters(world))
        assert bad(answers) == {}


async def test_a_stopped_envoy_costs_no_memory_and_has_the_last_version_soon_after_it_goes_on(tmp_path: Path) -> None:
    port = free_port()
    async with backends("v1") as ports, fleet(tmp_path) as world:
        base = [cluster("v1"), endpoints("v1", [ports["v1"]]), listener(OUT, port)]

        def publish(number: int) -> None:
            weights = {f"nothing-{number}-{n:05}": 1 for n in range(5000)} | {"v1": 1}  # about 350 kB
            world.ads.publish(config(base, [routes(OUT, {"v1": 1} if number == 59 else weights)]))

        publish(0)
        envoy = world.envoy()
        await envoy.ready()
        assert await world.ads.settled(10, proxies=1)
        envoy.freeze()
        before = resident()
        for number in range(60):
            publish(number)
            await asyncio.sleep(0.01)
        assert resident() - before < 20_000_000
        envoy.thaw()
        assert await world.ads.settled(10)
        assert await get(port) == (200, "v1")


async def test_the_stream_of_an_envoy_that_stays_stopped_ends_and_it_comes_back_by_itself(tmp_path: Path) -> None:
    port = free_port()
    limits = Limits(late_after=0.5, end_after=1.5)
    async with backends("v1", "v2") as ports, fleet(tmp_path, limits=limits) as world:
        base = [cluster(n) for n in ports] + [endpoints(n, [p]) for n, p in ports.items()] + [listener(OUT, port)]
        world.ads.publish(config(base, [routes(OUT, {"v1": 1})]))
        envoy = world.envoy()
        await envoy.ready()
        assert await world.ads.settled(10, proxies=1)
        envoy.freeze()
        stuffing = {f"nothing-{number:05}": 1 for number in range(30_000)}  # more than the socket buffers take
        world.ads.publish(config(base, [routes(OUT, {"v1": 1, **stuffing})]))
        await until(lambda: [found.code for found in world.findings] == ["SMI0604"])
        await until(lambda: not world.ads.proxies())
        world.ads.publish(config(base, [routes(OUT, {"v2": 1})]))
        envoy.thaw()
        assert await world.ads.settled(15, proxies=1)
        assert await get(port) == (200, "v2")
        assert world.ads.findings() == ()


def resident() -> int:
    """Return the resident bytes of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


async def test_a_refused_resource_is_named_and_everything_else_goes_out(tmp_path: Path) -> None:
    port, other = free_port(), free_port()
    split = Ref("TrafficSplit", "shop", "api", "split.smi-spec.io")
    async with backends("v1", "v2") as ports, fleet(tmp_path) as world:
        base = [cluster(n) for n in ports] + [endpoints(n, [p]) for n, p in ports.items()]
        base += [listener(OUT, port), listener("out/shop/b/80", other), routes("out/shop/b/80", {"v1": 1})]
        world.ads.publish(config(base, [routes(OUT, {"v1": 1})]))
        await world.envoy().ready()
        assert await world.ads.settled(10, proxies=1)
        base[-1] = routes("out/shop/b/80", {"v2": 1})
        world.ads.publish(config(base, [refused_routes(OUT, (split,))]))
        await until(world.ads.findings)
        (found,) = world.ads.findings()
        assert (found.code, found.subject) == ("SMI0603", split)
        assert "invalid perl operator" in found.message
        await until(lambda: gives(other, "v2"))
        assert await get(port) == (200, "v1")  # last good
        world.ads.publish(config(base, [routes(OUT, {"v2": 1})]))
        assert await world.ads.settled(10)
        assert world.ads.findings() == ()
        assert await get(port) == (200, "v2")


async def gives(port: int, body: str) -> bool:
    return await get(port) == (200, body)


async def test_an_access_rule_that_an_envoy_refuses_is_closed_there(tmp_path: Path) -> None:
    port, name = free_port(), "in/shop/web/80"
    closed = routes(name, {"nowhere": 1}).body
    async with backends("v1") as ports, fleet(tmp_path) as world:
        base = [cluster("v1"), endpoints("v1", [ports["v1"]]), listener(name, port)]
        world.ads.publish(config(base, [replace(routes(name, {"v1": 1}), closed=closed)]))
        await world.envoy().ready()
        async with connected(port) as connection:
            assert await connection.get() == (200, "v1")
            world.ads.publish(config(base, [replace(refused_routes(name), closed=closed)]))
            await until(lambda: refuses(connection), seconds=2)
        assert [found.code for found in world.ads.findings()] == ["SMI0603"]


async def refuses(connection: HttpConnection) -> bool:
    return (await connection.get())[0] == 503


async def test_a_forged_node_id_gets_no_configuration(tmp_path: Path) -> None:
    port = free_port()
    async with backends("v1") as ports, fleet(tmp_path) as world:
        secret = [cluster("v1"), endpoints("v1", [ports["v1"]]), listener(OUT, port), routes(OUT, {"v1": 1})]
        world.ads.publish(config(secret, identities={("bank", "vault"): WEB_ID.replace("shop", "bank")}))
        envoy = world.envoy(("bank", "vault"), WEB_ID)
        await until(lambda: envoy.admin_status("/ready")[0] == 503)
        await until(lambda: envoy.stats("cluster.xds.").get("cluster.xds.upstream_rq_total", 0) >= 3)  # it tried again
        assert world.answers == []
        assert world.ads.proxies() == ()
        assert clusters(world) == {"xds"}
        assert envoy.admin_status("/ready")[0] == 503


async def test_certificates_rotate_under_load_without_a_failed_request(tmp_path: Path) -> None:
    """Out and in again through one Envoy: it is client and server of the same mutual TLS."""
    front, back = free_port(), free_port()
    inbound = "in/shop/web/80"
    async with backends("app") as ports, fleet(tmp_path, life=60) as world:
        world.ads.publish(
            config(
                [cluster("tls", tls=True, max_requests_per_connection={"value": 1}), endpoints("tls", [back])],
                [listener(OUT, front), routes(OUT, {"tls": 1}, retries=0)],
                [
                    listener(inbound, back, tls=True),
                    routes(inbound, {"local": 1}),
                    static_cluster("local", ports["app"]),
                ],
            )
        )
        envoy = world.envoy()
        await envoy.ready()
        assert await get(front) == (200, "app")
        async with load(front, workers=2) as answers:
            for _ in range(5):
                await asyncio.sleep(0.2)
                before = serials(envoy.admin("/certs"))
                world.issuer.forget(WEB_ID)  # as if it were due
                world.ads.secrets_changed(WEB_ID)
                assert await world.ads.settled(5)
                assert serials(envoy.admin("/certs")) != before
        assert bad(answers) == {}
        assert answers.total() > 50
        stats = envoy.stats("listener.")
        assert sum(value for name, value in stats.items() if name.endswith("ssl.handshake")) > 50


def serials(certs: str) -> set[str]:
    return {
        item["serial_number"] for entry in json.loads(certs)["certificates"] for item in entry.get("cert_chain", [])
    }


async def test_forty_changes_at_once_are_few_pushes_and_all_types_stay_in_order(tmp_path: Path) -> None:
    port = free_port()
    async with backends("v1") as ports, fleet(tmp_path) as world:
        base = [cluster("v1"), endpoints("v1", [ports["v1"]]), listener(OUT, port)]
        world.ads.publish(config(base, [routes(OUT, {"v1": 1})]))
        await world.envoy().ready()
        assert await world.ads.settled(10, proxies=1)
        order = [answer.type_url for _, _, answer in world.answers if answer.sent.resources]
        assert order.index(CLUSTER) < order.index(LISTENER) < order.index(ROUTES)
        assert order.index(ENDPOINTS) < order.index(ROUTES)
        world.answers.clear()
        for weight in range(2, 42):
            world.ads.publish(config(base, [routes(OUT, {"v1": weight})]))
        assert await world.ads.settled(10)
        assert len(world.answers) <= 2
