"""The token door: a bearer token that somebody has checked says who a stream is, and nothing else does."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import pytest

from smi_adapter.delivery.xds import AdsServer, Limits, ServerTls, TokenDoor
from smi_adapter.delivery.xds.door import ends_at
from smi_adapter.delivery.xds.types import CLUSTER, SECRET
from smi_adapter.identity import Caller, Reason, Refused
from smi_adapter.mesh import Key
from tests.unit.test_xds_server import _OWN, CA, METHOD, VAULT, WEB, Request, Response, WireClient, two_tenants, until
from tests.unit.xds_client import cluster, config, names, resource

NOW = time.time()


def caller(identity: str = WEB, pod: str = "web-1", **changed: Any) -> Caller:
    namespace, account = identity.split("/")[4], identity.split("/")[6]
    made = Caller(identity, namespace, account, "sa-uid", pod, f"uid of {pod}", NOW, NOW + 3600)
    return replace(made, **changed)


@dataclass
class Gate:
    """What the cluster's side would say about tokens and pods."""

    tokens: dict[str, Caller | Refused] = field(default_factory=dict)
    workloads: dict[str, Key] = field(default_factory=lambda: {"web-1": ("shop", "web"), "vault-1": ("bank", "vault")})
    asked: list[tuple[str, str]] = field(default_factory=list)
    api: bool = True
    broken: bool = False
    ads: AdsServer = field(init=False)
    port: int = 0
    screened: int = 0
    screening: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.screening.set()

    async def authenticate(self, token: str, address: str) -> Caller | Refused:
        self.asked.append((token, address))
        return self.tokens.get(token, Refused(Reason.UNAUTHENTICATED, "no such token"))

    def may_end(self) -> bool:
        if self.broken:
            raise ZeroDivisionError
        return self.api

    async def screen(self, token: str) -> Refused | None:
        self.screened += 1
        await self.screening.wait()
        return Refused(Reason.UNAUTHENTICATED, "forged") if token == "rubbish" else None

    @contextlib.asynccontextmanager
    async def client(self, token: str | None, node: str = "", *more: tuple[str, str]) -> AsyncIterator[WireClient]:
        options = [("grpc.ssl_target_name_override", "xds"), ("grpc.use_local_subchannel_pool", 1)]
        credentials = grpc.ssl_channel_credentials(CA.bundle)
        metadata = [*((("authorization", f"Bearer {token}"),) if token is not None else ()), *more]
        async with grpc.aio.secure_channel(f"127.0.0.1:{self.port}", credentials, options=options) as channel:
            call = channel.stream_stream(
                METHOD, request_serializer=Request.SerializeToString, response_deserializer=Response.FromString
            )(metadata=metadata)  # type: ignore[call-arg] # the stubs want the requests here
            yield WireClient(call, node)
            call.cancel()


@contextlib.asynccontextmanager
async def gate(limits: Limits | None = None, **tokens: Caller | Refused) -> AsyncIterator[Gate]:
    made = Gate(tokens)
    door = TokenDoor(
        made.authenticate,
        lambda who: made.workloads.get(who.pod),
        made.may_end,
        made.screen,
    )
    made.ads = AdsServer(
        lambda identity, holder: (resource(SECRET, "default", f"key of {identity} for {holder}"),),
        limits=limits or Limits(),
    )
    made.port = await made.ads.start("127.0.0.1", 0, lambda: ServerTls(_OWN.certificate, _OWN.private_key), door)
    made.ads.publish(two_tenants())
    try:
        yield made
    finally:
        await made.ads.stop()


async def test_a_token_gets_the_configuration_and_the_key_of_its_pod() -> None:
    async with gate(good=caller()) as made, made.client("good") as client:
        await client.ask(CLUSTER)
        assert names(await client.take()) == ["shop/web"]
        await client.ask(SECRET, "default")
        assert b"ns/shop/sa/web for uid of web-1" in (await client.take()).resources[0].resource.value
        assert made.asked == [("good", "127.0.0.1")]


@pytest.mark.parametrize("node", ["", "shop/web", "shop/web-1"])
async def test_node_id_may_agree(node: str) -> None:
    async with gate(good=caller()) as made, made.client("good", node) as client:
        await client.ask(CLUSTER)
        assert names(await client.take()) == ["shop/web"]


@pytest.mark.parametrize("node", ["bank/vault", "bank/vault-1", "shop/other", "web", "shop/web/x"])
async def test_x3_a_node_id_of_somebody_else_ends_the_stream(node: str) -> None:
    async with gate(good=caller()) as made, made.client("good", node) as client:
        await client.ask(CLUSTER)
        assert (await client.refused())[0] is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("token", "more", "asked"),
    [(None, (), 0), ("rubbish", (), 0), ("unknown", (), 1),
     ("good", (("authorization", "Bearer good"),), 0), (None, (("authorization", "Basic good"),), 0)],
)  # fmt: skip
async def test_x2_no_byte_without_one_good_token(
    token: str | None, more: tuple[tuple[str, str], ...], asked: int
) -> None:
    async with gate(good=caller()) as made, made.client(token, "", *more) as client:
        await client.ask(CLUSTER)
        assert (await client.refused())[0] is grpc.StatusCode.UNAUTHENTICATED
        assert len(made.asked) == asked


async def test_f02_nobody_can_tell_means_try_again() -> None:
    async with gate(good=Refused(Reason.UNAVAILABLE, "no API")) as made, made.client("good") as client:
        await client.ask(CLUSTER)
        assert await client.refused() == (grpc.StatusCode.UNAVAILABLE, "no API")


async def test_x7_a_deleted_pod_loses_its_stream() -> None:
    tokens = gate(good=caller(), other=caller(VAULT, "vault-1"))
    async with tokens as made, made.client("good") as client, made.client("other") as stays:
        for each in (client, stays):
            await each.ask(CLUSTER)
            await each.take()
        del made.workloads["web-1"]
        made.ads.publish(two_tenants())
        assert (await client.refused())[0] is grpc.StatusCode.UNAVAILABLE
        await until(lambda: [proxy.workload for proxy in made.ads.proxies()] == [("bank", "vault")])


async def test_x7_a_stream_ends_before_its_token_does_but_not_while_the_api_is_away() -> None:
    old = caller(issued=NOW - 3600, expires=time.time() + 0.2)
    async with gate(Limits(late_after=1.2, end_after=60), good=old) as made, made.client("good") as client:
        made.api = False
        await client.ask(CLUSTER)
        await client.take()
        await asyncio.sleep(0.7)  # longer than the sweeper's interval and the token's life
        assert len(made.ads.proxies()) == 1
        made.api = True
        assert (await client.refused())[0] is grpc.StatusCode.UNAVAILABLE


def test_x7_a_fleet_does_not_come_back_together() -> None:
    ends = {ends_at(caller(pod=f"web-{number}")) - NOW for number in range(100)}
    assert len(ends) == 100
    assert all(0.85 * 3600 <= end <= 0.95 * 3600 for end in ends)


async def test_a_pod_that_moves_to_another_workload_keeps_its_stream_and_changes_its_view() -> None:
    part = ("all", "shop", "web~1")
    moved = config(
        {**two_tenants().parts, part: [cluster("shop/other")]},
        {("shop", "web"): [("all", "shop", "web")], ("shop", "web~1"): [part]},
    )
    moved = replace(moved, identities={("shop", "web"): WEB, ("shop", "web~1"): WEB})
    async with gate(good=caller()) as made, made.client("good", "shop/web") as client:
        await client.ask(CLUSTER)
        assert names(await client.take()) == ["shop/web"]
        made.workloads["web-1"] = ("shop", "web~1")
        made.ads.publish(moved)
        assert names(await client.take()) == ["shop/other"]
        assert [proxy.workload for proxy in made.ads.proxies()] == [("shop", "web~1")]


async def test_streams_are_limited_for_each_pod_and_not_for_an_identity() -> None:
    limits = Limits(streams_per_proxy=1)
    async with gate(limits, one=caller(), two=caller(pod="web-2")) as made:
        made.workloads["web-2"] = ("shop", "web")
        async with made.client("one") as first, made.client("two") as second, made.client("one") as third:
            for client in (first, second):
                await client.ask(CLUSTER)
                assert names(await client.take()) == ["shop/web"]
            await third.ask(CLUSTER)
            assert (await third.refused())[0] is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_f39_a_server_that_goes_away_sends_its_proxies_to_another_one() -> None:
    async with gate(good=caller()) as made, made.client("good") as client:
        await client.ask(CLUSTER)
        await client.take()
        await made.ads.drain(0.1)
        assert (await client.refused())[0] is grpc.StatusCode.UNAVAILABLE
        async with made.client("good") as late:
            await late.ask(CLUSTER)
            assert (await late.refused())[0] is grpc.StatusCode.UNAVAILABLE


async def test_forged_tokens_do_not_keep_a_good_one_waiting() -> None:
    slow = Limits(streams_per_second=0.5, longest_queue=5.0)  # some turns fill the queue
    async with gate(slow, good=caller()) as made:
        for _ in range(30):
            async with made.client("rubbish") as forged:
                assert (await forged.refused())[0] is grpc.StatusCode.UNAUTHENTICATED
        async with made.client("good") as client:
            await client.ask(CLUSTER)
            assert names(await client.take()) == ["shop/web"]
        assert made.asked == [("good", "127.0.0.1")]


async def test_one_address_has_few_streams_that_wait_to_be_let_in() -> None:
    async with gate(Limits(waiting_per_address=2), good=caller()) as made, contextlib.AsyncExitStack() as stack:
        made.screening.clear()
        held = [await stack.enter_async_context(made.client("good")) for _ in range(2)]
        await until(lambda: made.screened == 2)
        async with made.client("good") as third:
            assert (await third.refused())[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        made.screening.set()
        for client in held:
            await client.ask(CLUSTER)
            assert names(await client.take()) == ["shop/web"]
        async with made.client("good") as later:  # who is in does not count any more
            await later.ask(CLUSTER)
            assert names(await later.take()) == ["shop/web"]


H2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
"""The preface of HTTP/2 and empty SETTINGS."""


@pytest.mark.parametrize("hello", [b"", H2_HELLO], ids=["says nothing", "opens no stream"])
async def test_a_connection_without_a_stream_is_closed(hello: bytes) -> None:
    async with gate(Limits(handshake=0.3, unused=0.3)) as made:
        trust = ssl.create_default_context(cadata=CA.bundle.decode())
        trust.check_hostname = False
        trust.set_alpn_protocols(["h2"])
        reader, writer = await asyncio.open_connection("127.0.0.1", made.port, ssl=trust)
        writer.write(hello)
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(reader.read(), 10)
        assert reader.at_eof() or reader.exception()
        writer.close()


async def test_a_connection_with_a_stream_is_kept_however_little_is_said_on_it() -> None:
    async with gate(Limits(unused=0.2), good=caller()) as made, made.client("good") as client:
        await client.ask(CLUSTER)
        await client.take()
        await asyncio.sleep(1.0)  # five times what an unused connection gets
        made.ads.publish(two_tenants("changed"))
        assert [proxy.workload for proxy in made.ads.proxies()] == [("shop", "web")]


async def test_f42_a_sweeper_that_fails_is_noticed() -> None:
    expired = caller(issued=NOW - 3600, expires=NOW - 1)
    async with gate(Limits(late_after=0.3), good=expired) as made, made.client("good") as client:
        watching = asyncio.create_task(made.ads.watch())
        made.broken = True
        await client.ask(CLUSTER)
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(watching, 10)
