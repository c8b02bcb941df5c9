"""What real Envoys do with the routes that the backend renders: HTTP from an application to an application."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from smi_adapter.backends.envoy import listeners
from smi_adapter.backends.envoy.listeners import OWN_DENIALS
from smi_adapter.mesh import Route, WeightedTarget
from tests.live.apps import HttpClient, TcpClient, get, http2
from tests.live.fleet import until
from tests.live.town import (
    ANYTHING,
    CLIENT,
    OTHER,
    WEB,
    Town,
    dial,
    endpoint,
    open_town,
    plain,
    proxy,
    web,
    weights,
)
from tests.meshes import key, match, rule, service, spiffe, split

pytestmark = [pytest.mark.live, pytest.mark.asyncio(loop_scope="module")]

GRPC = [
    (":method", "POST"),
    (":path", "/shop.Books/List"),
    (":scheme", "http"),
    (":authority", "web"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def town() -> AsyncIterator[Town]:
    async with open_town() as opened:
        yield opened


async def test_without_a_split_a_service_leads_to_its_own_endpoints(town: Town) -> None:
    await town.publish(web())
    assert await town.apps(count=5) == {"v1": 5}


async def test_weights_are_shares_of_the_requests_of_one_connection(town: Town) -> None:
    await town.publish(web(weights({"v1": 1, "v2": 3})))
    answers = await town.apps(count=400)
    assert answers.total() == answers["v1"] + answers["v2"]
    assert 55 <= answers["v1"] <= 145


async def test_a_backend_without_a_share_receives_nothing(town: Town) -> None:
    await town.publish(web(weights({"v2": 100, "v1": 0})))
    assert await town.apps(count=50) == {"v2": 50}


async def test_a_weight_change_is_in_effect_at_the_next_request_of_an_open_connection(town: Town) -> None:
    await town.publish(web(weights({"v1": 100})))
    async with await HttpClient.connect(dial("web"), WEB) as client:
        assert (await client.request()).app == "v1"
        await town.publish(web(weights({"v2": 100})))
        assert (await client.request()).app == "v2"


async def test_a_leaf_called_directly_is_not_split(town: Town) -> None:
    await town.publish(web(weights({"v2": 100})))
    assert await town.apps("v1", count=5) == {"v1": 5}


@pytest.mark.parametrize(
    ("path", "method", "headers", "app"),
    [
        ("/order/1", "GET", {}, "v2"),
        ("/order/1?x=/user", "GET", {}, "v2"),
        ("/user?next=/order/", "GET", {}, "v1"),
        ("/x/order/1", "GET", {}, "v1"),
        ("/buy", "POST", {}, "v2"),
        ("/buy", "PUT", {}, "v2"),
        ("/buy", "GET", {}, "v1"),
        ("/buy", "PATCH", {}, "v1"),
        ("/any", "GET", {"user-agent": "some Firefox/1"}, "v2"),
        ("/any", "GET", {"user-agent": "Chrome"}, "v1"),
        ("/any", "GET", {}, "v1"),
    ],
)
async def test_matched_requests_go_to_the_backends_and_others_to_the_root(
    town: Town, path: str, method: str, headers: dict[str, str], app: str
) -> None:
    chosen = [
        match("/order/.*"),
        match("/buy", "POST", "PUT"),
        match(headers={"user-agent": ".*Firefox.*"}),
    ]
    await town.publish(web((split({"v2": 1}, chosen, WEB), Route((WeightedTarget(key("web"), WEB, 1),)))))
    assert (await town.get(path, method, headers.items())).app == app


async def test_one_matching_value_of_a_repeated_header_is_enough(town: Town) -> None:
    chosen = [match(headers={"x-tier": "gold"})]
    await town.publish(web((split({"v2": 1}, chosen, WEB), Route((WeightedTarget(key("web"), WEB, 1),)))))
    for values in (("gold", "silver"), ("silver", "gold")):
        reply = await town.get(headers=[("x-tier", value) for value in values])
        assert reply.app == "v2", values
    assert (await town.get(headers=[("x-tier", "silver")])).app == "v1"


async def test_a_split_that_matches_nothing_leaves_everything_to_the_root(town: Town) -> None:
    await town.publish(web((split({"v2": 1}, [], WEB), Route((WeightedTarget(key("web"), WEB, 1),)))))
    assert await town.apps(count=5) == {"v1": 5}


async def test_all_weights_zero_is_503_for_that_root_only(town: Town) -> None:
    await town.publish(web(weights({})))
    assert await town.apps(count=3) == {"503": 3}
    assert await town.apps("v1", count=3) == {"v1": 3}


async def test_a_backend_without_endpoints_keeps_its_share_which_gets_503(town: Town) -> None:
    services = web(weights({"v1": 1, "mixed": 1}))
    await town.publish([*services, service("mixed", [], port=WEB, callers=[CLIENT], identities=[spiffe("v2")])])
    answers = await town.apps(count=200)
    assert set(answers) == {"v1", "503"}
    assert 60 <= answers["503"] <= 140


async def test_a_cluster_that_does_not_exist_is_503_for_its_share_and_no_nack(town: Town) -> None:
    await town.publish(web(weights({"v1": 1, "ghost": 1})))
    assert set(await town.apps(count=100)) == {"v1", "503"}


async def test_the_host_header_decides_nothing_and_is_kept(town: Town) -> None:
    await town.publish(web(weights({"v2": 1})))
    reply = await town.get()
    assert (reply.app, dict(reply.echo["headers"])["host"]) == ("v2", "any.example")


async def test_the_query_reaches_the_application(town: Town) -> None:
    await town.publish(web())
    assert (await town.get("/a?b=c%2fd")).echo["path"] == "/a?b=c%2fd"


async def test_http2_and_grpc_stay_what_they_are_end_to_end_and_are_split_by_call(town: Town) -> None:
    await town.publish(web(weights({"v1": 1, "v2": 1})))
    replies = await http2(dial("web"), WEB, GRPC, b"hello", times=60)
    assert {reply.status for reply in replies} == {200}
    assert {reply.headers["grpc-status"] for reply in replies} == {"0"}
    assert {reply.app for reply in replies} == {"v1", "v2"}
    assert {reply.echo["protocol"] for reply in replies} == {"HTTP/2"}
    assert replies[0].echo["body"] == "hello"
    assert (await town.get()).echo["protocol"] == "HTTP/1.1"


async def test_a_websocket_is_passed_on(town: Town) -> None:
    await town.publish(web())
    asked = [("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13")]
    async with await HttpClient.connect(dial("web"), WEB) as client:
        reply = await client.request("/chat", headers=asked)
        assert (reply.status, reply.headers["upgrade"]) == (101, "websocket")
        assert await client.frame(b"both ways") == b"v1 both ways"


async def test_a_client_may_speak_http_1_0(town: Town) -> None:
    await town.publish(web())
    reader, writer = await asyncio.open_connection(dial("web"), WEB)
    writer.write(b"GET /old HTTP/1.0\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200"))
    assert b'"path": "/old"' in answer


async def test_an_endpoint_without_a_proxy_is_reached_in_plain_text(town: Town) -> None:
    await town.publish([*web(), service("legacy", [plain("legacy")], port=WEB)])
    answers = await town.apps("legacy", count=3)
    assert answers == {"legacy": 3}


async def test_a_service_may_have_endpoints_with_and_without_a_proxy(town: Town) -> None:
    mixed = service("mixed", [endpoint("v1"), plain("legacy")], port=WEB)
    await town.publish([*web(), mixed])
    assert set(await town.apps("mixed", count=20)) == {"v1", "legacy"}


async def test_a_server_that_is_not_who_it_should_be_gets_no_request(town: Town) -> None:
    taken_over = service("mixed", [endpoint("v2", identity=spiffe("v1"))], port=WEB, callers=[CLIENT])
    await town.publish([*web(), taken_over])
    assert await town.apps("mixed", count=3) == {"503": 3}


async def test_a_service_of_proxied_pods_is_never_reached_in_plain_text(town: Town) -> None:
    """An endpoint whose application is dialled directly, but is said to have a proxy, gets a TLS handshake."""
    address = plain("legacy")
    lying = service("mixed", [endpoint("v1"), endpoint("legacy")], port=WEB, callers=[CLIENT])
    assert address.identity == ""
    await town.publish([*web(), lying])
    assert set(await town.apps("mixed", count=10)) <= {"v1", "503"}


async def test_a_service_out_of_scope_is_403_and_the_log_says_why(town: Town) -> None:
    await town.publish([*web(), service("secret", [endpoint("v2")], port=WEB, callers=[OTHER])])
    reply = await get(dial("secret"), WEB, "/x")
    assert (reply.status, reply.body) == (403, b"RBAC: access denied")
    assert (await town.get()).app == "v1"
    listener = f"out/shop/secret/{WEB}"
    await until(lambda: town.fleet.log(proxy("client"), listener=listener, path="/x"))
    line = town.fleet.log(proxy("client"), listener=listener, path="/x")[-1]
    assert line["code"] == 403
    assert "TrafficTarget" in line["route"]
    assert line["destination_address"] == f"{dial('secret')}:{WEB}"


@pytest.mark.parametrize("own", [0, OWN_DENIALS], ids=["shared", "own"])
async def test_a_service_may_come_into_scope_and_leave_it(
    town: Town, monkeypatch: pytest.MonkeyPatch, own: int
) -> None:
    """With few Services only routes change; with many an address moves from one Listener to another."""
    monkeypatch.setattr(listeners, "OWN_DENIALS", own)
    town.fleet.config = None
    for _ in range(5):
        await town.publish([*web(), service("secret", [endpoint("v2")], port=WEB, callers=[OTHER])])
        await eventually(403)
        await town.publish([*web(), service("secret", [endpoint("v2")], port=WEB, callers=[CLIENT])])
        await eventually(200)


async def eventually(status: int) -> None:
    """Wait for an answer of `secret`; a connection may still be taken by a Listener that is on its way out."""
    statuses: list[int] = []

    async def ask() -> bool:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            statuses.append((await get(dial("secret"), WEB)).status)
        return bool(statuses) and statuses[-1] == status

    for _ in range(200):
        if await ask():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(statuses)


async def test_a_denial_by_a_shared_listener_ends_the_connection_so_that_a_grant_counts_at_once(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners, "OWN_DENIALS", 0)
    town.fleet.config = None
    await town.publish([*web(), service("secret", [endpoint("v2")], port=WEB, callers=[OTHER])])
    async with await HttpClient.connect(dial("secret"), WEB) as client:
        reply = await client.request()
        assert (reply.status, reply.headers["connection"]) == (403, "close")


async def test_a_grant_and_a_revocation_lose_no_new_connection(town: Town) -> None:
    for _ in range(10):
        await town.publish([*web(), service("secret", [endpoint("v2")], port=WEB, callers=[OTHER])])
        assert (await get(dial("secret"), WEB)).status == 403
        await town.publish([*web(), service("secret", [endpoint("v2")], port=WEB, callers=[CLIENT])])
        assert (await get(dial("secret"), WEB)).app == "v2"


async def test_a_grant_and_a_revocation_reach_an_open_connection_at_once(town: Town) -> None:
    await town.publish([*web(), service("secret", [endpoint("v2")], port=WEB, callers=[OTHER])])
    async with await HttpClient.connect(dial("secret"), WEB) as client:
        for _ in range(5):
            assert (await client.request()).status == 403
            await town.publish([*web(), service("secret", [endpoint("v2")], port=WEB, callers=[CLIENT])])
            assert (await client.request()).status == 200
            await town.publish([*web(), service("secret", [endpoint("v2")], port=WEB, callers=[OTHER])])


async def test_services_in_scope_serve_on_while_others_come_and_go(town: Town) -> None:
    """Every request of a keep-alive connection succeeds while the Listener of denials is replaced beside it."""
    await town.publish(web())
    done = asyncio.Event()

    async def traffic() -> list[int]:
        statuses: list[int] = []
        async with await HttpClient.connect(dial("web"), WEB) as client:
            while not done.is_set():
                statuses.append((await client.request()).status)
        return statuses

    running = asyncio.create_task(traffic())
    for _ in range(5):
        await town.publish([*web(), service("secret", [endpoint("v2")], port=WEB, callers=[OTHER])])
        await town.publish([*web(), service("secret", [endpoint("v2")], port=WEB, callers=[CLIENT])])
        await town.publish(web())
    done.set()
    statuses = await running
    assert len(statuses) > 1
    assert set(statuses) == {200}


async def test_a_removed_service_is_refused_a_connection(town: Town) -> None:
    await town.publish([*web(), service("secret", [endpoint("v2")], port=WEB, callers=[OTHER])])
    await town.publish(web())
    for _ in range(200):
        try:
            (await TcpClient.connect(dial("secret"), WEB)).close()
        except ConnectionRefusedError:
            return
        await asyncio.sleep(0.01)
    pytest.fail("the port is still open")


async def test_the_access_log_names_the_split_and_the_match_that_chose(town: Town) -> None:
    chosen = [match("/named", label="the-match")]
    await town.publish(web((split({"v2": 1}, chosen, WEB), Route((WeightedTarget(key("web"), WEB, 1),)))))
    await town.get("/named?secret=1")
    await until(lambda: town.fleet.log(proxy("client"), path="/named"))
    line = town.fleet.log(proxy("client"), path="/named")[-1]
    assert line["route"] == "TrafficSplit shop/split HTTPRouteGroup shop/group the-match"
    assert line["cluster"] == f"shop/v2/{WEB}"
    assert line["upstream_identity"] == spiffe("v2")


async def test_a_denial_by_the_server_passes_through_the_callers_proxy(town: Town) -> None:
    await town.publish(web(), web_rules=(rule([OTHER]),))
    assert (await town.get()).status == 403
    await town.publish(web(), web_rules=ANYTHING)
    assert (await town.get()).status == 200
