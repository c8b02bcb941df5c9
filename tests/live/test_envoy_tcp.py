"""TCP and UDP through real Envoys: weights, who may connect, and what becomes of connections that are open."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from smi_adapter.mesh import AccessMode
from tests.live.apps import TcpClient, datagram
from tests.live.fleet import until
from tests.live.town import (
    CLIENT,
    DB,
    DNS,
    OTHER,
    PODS,
    Town,
    database,
    dial,
    endpoint,
    open_town,
    plain,
    proxy,
    web,
    weights,
)
from tests.meshes import TCP, UDP, match, rule, service, split

pytestmark = [pytest.mark.live, pytest.mark.asyncio(loop_scope="module")]

BOTH = (CLIENT, OTHER)
GREETING = "hello from db\n"
LET_CLIENT = (rule([CLIENT]),)
LET_BOTH = (rule(BOTH),)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def town() -> AsyncIterator[Town]:
    async with open_town() as opened:
        yield opened


async def connect(caller: str = "client", name: str = "db") -> TcpClient:
    return await TcpClient.connect(dial(name, caller), DB)


def listener_updates(town: Town) -> dict[str, int]:
    """Return how often the database's proxy has replaced a Listener or some of its chains."""
    return town.fleet.envoys[proxy("db")].stats("listener_manager.listener_")


async def test_an_allowed_client_is_greeted_and_answered(town: Town) -> None:
    await town.publish([*web(), database()], db_rules=LET_CLIENT)
    connection = await connect()
    assert await connection.line() == GREETING
    assert await connection.ask("select") == "db select\n"
    connection.close()


async def test_a_client_that_may_not_connect_does_not_even_see_the_greeting(town: Town) -> None:
    """The handshake fails; a network filter alone would wait for the client's first byte."""
    await town.publish([*web(), database(callers=BOTH)], db_rules=LET_CLIENT)
    connection = await connect("other")
    assert await connection.line() == ""
    connection.close()


async def test_the_log_says_why_a_client_was_turned_away(town: Town) -> None:
    await town.publish([*web(), database(callers=BOTH)], db_rules=())
    connection = await connect("other")
    assert await connection.line() == ""

    def refused() -> list[dict[str, object]]:
        lines = town.fleet.log(proxy("db"), listener="in/shop/db")
        return [line for line in lines if "VERIFY" in str(line.get("tls_failure", ""))]

    await until(refused)
    assert refused()[-1]["destination_address"] == f"{PODS['db'].address}:{DB}"
    stats = town.fleet.envoys[proxy("db")].stats("listener.")
    assert sum(count for name, count in stats.items() if name.endswith("ssl.fail_verify_san")) > 0


async def test_an_http_rule_opens_no_tcp_port(town: Town) -> None:
    await town.publish([*web(), database()], db_rules=(rule([CLIENT], [match()]),))
    assert await (await connect()).line() == ""


async def test_nobody_connects_without_a_rule(town: Town) -> None:
    await town.publish([*web(), database()], db_rules=())
    assert await (await connect()).line() == ""


async def test_a_service_out_of_scope_closes_the_connection_and_says_why(town: Town) -> None:
    await town.publish([*web(), database(callers=[OTHER])], db_rules=LET_BOTH)
    connection = await connect()
    assert await connection.line() == ""

    def said_why() -> list[dict[str, object]]:
        lines = town.fleet.log(proxy("client"), destination_address=f"{dial('db')}:{DB}")
        return [line for line in lines if "reason" in line]

    await until(said_why)
    assert "TrafficTarget" in str(said_why()[-1]["reason"])


async def test_a_grant_to_somebody_else_leaves_connections_open(town: Town) -> None:
    await town.publish([*web(), database(callers=BOTH)], db_rules=LET_CLIENT)
    connection = await connect()
    assert await connection.line() == GREETING
    before = listener_updates(town)
    await town.publish([*web(), database(callers=BOTH)], db_rules=LET_BOTH)
    assert listener_updates(town) == before, "no chain changes, so none drains and closes its connections"
    assert await connection.ask("still there") == "db still there\n"
    newcomer = await connect("other")
    assert await newcomer.line() == GREETING
    connection.close()
    newcomer.close()


async def test_a_revocation_closes_the_open_connections_and_refuses_new_ones(town: Town) -> None:
    await town.publish([*web(), database(callers=BOTH)], db_rules=LET_BOTH)
    connection = await connect("other")
    assert await connection.line() == GREETING
    await town.publish([*web(), database(callers=BOTH)], db_rules=LET_CLIENT)
    refused = await connect("other")
    assert await refused.line() == ""
    assert await connection.line() == "", "Envoy closes it when the old chain has drained"
    allowed = await connect()
    assert await allowed.line() == GREETING
    allowed.close()


async def test_a_grant_and_its_revocation_close_again(town: Town) -> None:
    """The rules are then as they were at first: the mark of the chain must still be a new one."""
    await town.publish([*web(), database(callers=BOTH)], db_rules=LET_CLIENT)
    await town.publish([*web(), database(callers=BOTH)], db_rules=LET_BOTH)
    connection = await connect("other")
    assert await connection.line() == GREETING
    await town.publish([*web(), database(callers=BOTH)], db_rules=LET_CLIENT)
    assert await connection.line() == ""


async def test_audit_mode_lets_everybody_in_and_counts_whom_it_would_not(town: Town) -> None:
    await town.publish([*web(), database(callers=BOTH)], db_rules=LET_CLIENT, mode=AccessMode.AUDIT)
    connection = await connect("other")
    assert await connection.line() == GREETING
    assert await connection.ask("x") == "db x\n"
    connection.close()
    await until(lambda: town.fleet.log(proxy("db"), would_be="denied"))
    assert town.fleet.log(proxy("db"), would_be="denied")[-1]["source"] == OTHER


async def test_permissive_mode_lets_everybody_in(town: Town) -> None:
    await town.publish([*web(), database(callers=BOTH)], db_rules=(), mode=AccessMode.PERMISSIVE)
    connection = await connect("other")
    assert await connection.ask("x") == GREETING
    connection.close()


async def test_a_rule_for_some_pods_counts_the_source_address(town: Town) -> None:
    right, wrong = PODS["client"].address, PODS["other"].address
    await town.publish([*web(), database()], db_rules=(rule([CLIENT], addresses=(right,)),))
    connection = await connect()
    assert await connection.line() == GREETING
    assert await connection.ask("x") == "db x\n"
    connection.close()
    await town.publish([*web(), database()], db_rules=(rule([CLIENT], addresses=(wrong,)),))
    refused = await connect()
    await refused.ask("x")
    assert await refused.ask("y") == ""


async def test_tcp_weights_are_shares_of_connections_and_a_change_leaves_them_open(town: Town) -> None:
    leaf = service("db2", [plain("legacy", DB)], port=DB, protocol=TCP)
    await town.publish([*web(), database(routes=weights({"db": 1}, DB)), leaf], db_rules=LET_CLIENT)
    old = await connect()
    assert await old.line() == GREETING
    await town.publish([*web(), database(routes=weights({"db": 1, "db2": 1}, DB)), leaf], db_rules=LET_CLIENT)
    reached: Counter[str] = Counter()
    for _ in range(60):
        connection = await connect()
        reached[(await connection.ask("x")).split()[0]] += 1
        connection.close()
    assert set(reached) == {"hello", "legacy"}
    assert 12 <= reached["legacy"] <= 48
    assert await old.ask("still there") == "db still there\n"
    old.close()


async def test_all_tcp_weights_zero_closes_the_connection(town: Town) -> None:
    await town.publish([*web(), database(routes=weights({}, DB))], db_rules=LET_CLIENT)
    assert await (await connect()).line() == ""


async def test_udp_weights_are_shares_of_sessions(town: Town) -> None:
    leaves = [
        service("dns1", [plain("v1", DNS)], port=DNS, protocol=UDP),
        service("dns2", [plain("v2", DNS), plain("legacy", DNS)], port=DNS, protocol=UDP),
    ]
    root = service("dns", [], port=DNS, protocol=UDP, routes=(split({"dns1": 4, "dns2": 1}, port=DNS),))
    await town.publish([*web(), root, *leaves])
    reached: Counter[str] = Counter([await datagram(dial("dns"), DNS) for _ in range(100)])
    assert reached["v1"] == 80
    assert reached["v2"] == reached["legacy"] == 10
    moved = service("dns", [], port=DNS, protocol=UDP, routes=(split({"dns2": 1}, port=DNS),))
    await town.publish([*web(), moved, *leaves])
    assert {await datagram(dial("dns"), DNS) for _ in range(10)} == {"v2", "legacy"}


async def test_udp_follows_the_endpoints_of_the_backends(town: Town) -> None:
    root = service("dns", [], port=DNS, protocol=UDP, routes=(split({"dns1": 1}, port=DNS),))
    await town.publish([*web(), root, service("dns1", [plain("v1", DNS)], port=DNS, protocol=UDP)])
    assert await datagram(dial("dns"), DNS) == "v1"
    await town.publish([*web(), root, service("dns1", [plain("v2", DNS)], port=DNS, protocol=UDP)])
    assert await datagram(dial("dns"), DNS) == "v2"
    await town.publish([*web(), root, service("dns1", [], port=DNS, protocol=UDP)])
    assert await datagram(dial("dns"), DNS, timeout=0.3) == ""


async def test_udp_to_a_proxied_pod_passes_only_where_no_rule_is_enforced(town: Town) -> None:
    root = service("dns", [endpoint("v1", DNS)], port=DNS, protocol=UDP)
    await town.publish([*web(), root], mode=AccessMode.PERMISSIVE)
    assert await datagram(dial("dns"), DNS) == "v1"
    config = await town.publish([*web(), root])
    assert await datagram(dial("dns"), DNS, timeout=0.3) == ""
    assert [item.subject.name for item in config.findings if item.code == "SMI0601"] == ["v1", "v2"]
