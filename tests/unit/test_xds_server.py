"""The gRPC side: who may connect, and what one stream can do to the others. The clients are real gRPC over mTLS."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from smi_adapter.backends import Resource, XdsConfig
from smi_adapter.delivery.xds import AdsServer, Answer, Limits, ServerTls
from smi_adapter.delivery.xds.types import CLUSTER, LISTENER, ROUTES, SECRET
from smi_adapter.envoy_api import message
from smi_adapter.findings import Finding, Ref
from smi_adapter.identity import Authority, KeyPair
from smi_adapter.mesh import Key
from tests.unit.xds_client import cluster, config, listener, names, resource, routes

Request = message("envoy.service.discovery.v3.DeltaDiscoveryRequest")
Response = message("envoy.service.discovery.v3.DeltaDiscoveryResponse")

DOMAIN = "cluster.local"
SERVER = f"spiffe://{DOMAIN}/ns/smi/sa/adapter"
WEB = f"spiffe://{DOMAIN}/ns/shop/sa/web"
VAULT = f"spiffe://{DOMAIN}/ns/bank/sa/vault"
CA = Authority.create(DOMAIN, time.time())
METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"

web_part, vault_part = ("all", "shop", "web"), ("all", "bank", "vault")
ORIGIN = Ref("TrafficSplit", "shop", "web", "split.smi-spec.io")


def two_tenants(content: object = 1) -> XdsConfig:
    parts = {
        web_part: [cluster("shop/web"), listener("l"), resource(ROUTES, "out/shop/web/80", content, origins=(ORIGIN,))],
        vault_part: [cluster("bank/vault"), routes("in/bank/vault/80")],
    }
    rendered = config(parts, {("shop", "web"): [web_part], ("bank", "vault"): [vault_part]})
    return replace(rendered, identities={("shop", "web"): WEB, ("bank", "vault"): VAULT})


def secrets(identity: str, _holder: str = "") -> tuple[Resource, ...]:
    return (resource(SECRET, "default", f"key of {identity}"), resource(SECRET, "ROOTCA"))


@dataclass
class Running:
    """A server and what it told."""

    ads: AdsServer
    port: int = 0
    findings: list[Finding] = field(default_factory=list)
    answers: list[tuple[Key, Answer]] = field(default_factory=list)

    def channel(self, pair: KeyPair | None) -> Any:
        key, chain = (pair.private_key, pair.certificate) if pair else (None, None)
        return grpc.aio.secure_channel(
            f"127.0.0.1:{self.port}",
            grpc.ssl_channel_credentials(CA.bundle, key, chain),
            options=[("grpc.ssl_target_name_override", "xds"), ("grpc.use_local_subchannel_pool", 1)],
        )

    @contextlib.asynccontextmanager
    async def client(self, pair: KeyPair | None, node: str = "shop/web") -> AsyncIterator[WireClient]:
        async with self.channel(pair) as channel:
            call = channel.stream_stream(
                METHOD, request_serializer=Request.SerializeToString, response_deserializer=Response.FromString
            )()
            yield WireClient(call, node)
            call.cancel()


@dataclass
class WireClient:
    """One real stream."""

    call: Any
    node: str

    async def ask(self, type_url: str, *asked: str, **more: Any) -> None:
        request = Request(type_url=type_url, node={"id": self.node}, resource_names_subscribe=asked, **more)
        with contextlib.suppress(
            grpc.aio.AioRpcError, asyncio.InvalidStateError
        ):  # ended already: the read will say so
            await self.call.write(request)

    async def read(self) -> Any:
        return await asyncio.wait_for(self.call.read(), 10)

    async def take(self) -> Any:
        response = await self.read()
        await self.ask(response.type_url, response_nonce=response.nonce)
        return response

    async def nack(self, response: Any, why: str = "bad") -> None:
        error = {"code": 13, "message": why}
        await self.ask(response.type_url, response_nonce=response.nonce, error_detail=error)

    async def refused(self) -> tuple[grpc.StatusCode, str]:
        """Return how the server ended the stream; it must not have said anything before."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            assert await self.read() is grpc.aio.EOF  # type: ignore[attr-defined]
        return caught.value.code(), caught.value.details() or ""


def pair_of(identity: str) -> KeyPair:
    return CA.issue(identity, time.time(), 3600)


_OWN = CA.issue(SERVER, time.time(), 3600, dns_names=("xds",))


def server_tls() -> ServerTls:
    return ServerTls(_OWN.certificate, _OWN.private_key, CA.bundle)


@contextlib.asynccontextmanager
async def serving(limits: Limits | None = None, first: XdsConfig | None = None) -> AsyncIterator[Running]:
    running = Running(None)  # type: ignore[arg-type]
    running.ads = AdsServer(
        secrets,
        on_finding=running.findings.append,
        on_ack=lambda key, answer: running.answers.append((key, answer)),
        limits=limits or Limits(),
    )
    running.port = await running.ads.start("127.0.0.1", 0, server_tls)
    if first is not None:
        running.ads.publish(first)
    try:
        yield running
    finally:
        await running.ads.stop()


async def until(condition: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.01)


# --------------------------------------------------------------------------------------------------------- identity


async def test_a_proxy_gets_its_own_configuration_and_secrets_over_mutual_tls() -> None:
    async with serving(first=two_tenants()) as server, server.client(pair_of(WEB)) as client:
        await client.ask(CLUSTER)
        assert names(await client.take()) == ["shop/web"]
        await client.ask(SECRET, "default")
        assert b"ns/shop/sa/web" in (await client.take()).resources[0].resource.value


async def test_each_stream_has_its_own_part_of_a_second_for_removals() -> None:
    async with serving(first=two_tenants()) as server, contextlib.AsyncExitStack() as stack:
        for number in range(1, 5):
            client = await stack.enter_async_context(server.client(pair_of(WEB)))
            await client.ask(CLUSTER)
            await client.take()
            assert len({session.stream.slot for session in server.ads._sessions}) == number


async def test_a_forged_node_id_gets_nothing() -> None:
    async with serving(first=two_tenants()) as server:
        told = set()
        for node in ("bank/vault", "bank/nobody", "", "/", "shop/web/x", "x" * 100_000):
            async with server.client(pair_of(WEB), node) as client:
                await client.ask(CLUSTER)
                told.add(await client.refused())
        ((code, details),) = told  # the same answer whether the other exists or not
        assert code is grpc.StatusCode.PERMISSION_DENIED
        assert "vault" not in details


@pytest.mark.parametrize("uris", [(), (WEB, VAULT), (WEB, WEB), ("http://web",)])
async def test_a_certificate_without_exactly_one_spiffe_id_is_nobody(uris: tuple[str, ...]) -> None:
    async with serving(first=two_tenants()) as server, server.client(odd_pair(*uris)) as client:
        await client.ask(CLUSTER)
        assert (await client.refused())[0] is grpc.StatusCode.UNAUTHENTICATED


async def test_no_certificate_or_one_of_another_authority_does_not_connect() -> None:
    stranger = Authority.create(DOMAIN, time.time()).issue(WEB, time.time(), 3600)
    async with serving(first=two_tenants()) as server:
        for pair in (None, stranger):
            async with server.client(pair) as client:
                await client.ask(CLUSTER)
                assert (await client.refused())[0] is grpc.StatusCode.UNAVAILABLE


async def test_a_proxy_whose_workload_changes_identity_or_vanishes_is_cut_off() -> None:
    async with serving(first=two_tenants()) as server, server.client(pair_of(WEB)) as client:
        await client.ask(CLUSTER)
        await client.take()
        server.ads.publish(replace(two_tenants(), identities={("shop", "web"): VAULT}))
        assert (await client.refused())[0] is grpc.StatusCode.PERMISSION_DENIED
        await until(lambda: not server.ads.proxies())


async def test_attacks_by_name_never_bring_a_byte_of_another_tenant() -> None:
    async with serving(first=two_tenants()) as server, server.client(pair_of(WEB)) as client:
        await client.ask(CLUSTER, initial_resource_versions={"bank/vault": cluster("bank/vault").version})
        await client.ask(ROUTES, "in/bank/vault/80", "out/shop/web/80")
        await client.ask(SECRET, "*", "tcp/bank/vault/80", f"default/{VAULT}", "default")
        seen, carried = [], set[str]()
        while len(carried) < 3:
            seen.append(await client.take())
            carried.update(names(seen[-1]))
        assert carried == {"shop/web", "out/shop/web/80", "default"}
        assert all(VAULT.encode() not in r.resource.value for response in seen for r in response.resources)


async def test_nothing_is_served_before_the_first_config() -> None:
    async with serving() as server, server.client(pair_of(WEB)) as client:
        await client.ask(CLUSTER)
        reading = asyncio.ensure_future(client.take())
        done, _ = await asyncio.wait([reading], timeout=0.3)
        assert not done
        server.ads.publish(two_tenants())
        assert names(await reading) == ["shop/web"]


# ------------------------------------------------------------------------------------------------------ one stream


async def test_a_change_is_pushed_and_settled_says_when_it_is_acknowledged() -> None:
    async with serving(first=two_tenants()) as server, server.client(pair_of(WEB)) as client:
        for asked in ((CLUSTER,), (LISTENER,), (ROUTES, "out/shop/web/80")):
            await client.ask(*asked)
            await client.take()
        assert await server.ads.settled(5, proxies=1)
        assert not await server.ads.settled(0.05, proxies=2)
        server.ads.publish(two_tenants(2))
        response = await client.read()
        assert not await server.ads.settled(0.05)
        await client.ask(ROUTES, response_nonce=response.nonce)
        assert await server.ads.settled(5)
        (proxy,) = server.ads.proxies()
        assert (proxy.workload, proxy.identity, proxy.in_sync) == (("shop", "web"), WEB, True)
        assert {kind.type: (kind.sent, kind.acknowledged) for kind in proxy.types}["RDS"] == (2, 2)
        key, answer = server.answers[-1]
        assert (key, answer.type_url, [r.name for r in answer.sent.resources]) == (
            ("shop", "web"),
            ROUTES,
            ["out/shop/web/80"],
        )


async def test_a_refusal_names_the_object_and_not_more_of_the_error_than_is_safe() -> None:
    async with serving(first=two_tenants()) as server, server.client(pair_of(WEB)) as client:
        await client.ask(ROUTES, "out/shop/web/80")
        await client.nack(await client.read(), "bad regex\n\x1b[31m" + "x" * 10_000)
        await until(lambda: server.findings)
        assert not await server.ads.settled(0.05)
        (found,) = server.ads.findings()
        assert server.findings == [found]
        assert (found.code, found.subject) == ("SMI0603", ORIGIN)
        assert "bad regex\\n\\x1b" in found.message
        assert len(found.message) < 500
        assert server.ads.proxies()[0].last_nack.startswith("bad regex")
        server.ads.publish(two_tenants(2))
        await client.take()
        await until(lambda: not server.ads.findings())


async def test_secrets_changed_sends_them_to_that_identity_alone() -> None:
    version = 1

    def rotating(identity: str, _holder: str) -> tuple[Resource, ...]:
        return (resource(SECRET, "default", [identity, version]),)

    ads = AdsServer(rotating)
    server = Running(ads, await ads.start("127.0.0.1", 0, server_tls))
    ads.publish(two_tenants())
    async with server.client(pair_of(WEB)) as web, server.client(pair_of(VAULT), "bank/vault") as vault:
        for client in (web, vault):
            await client.ask(SECRET, "default")
            await client.take()
        assert ads.identities() == {WEB, VAULT}
        version = 2
        ads.secrets_changed(WEB)
        assert b"2]" in (await web.take()).resources[0].resource.value
        ads.secrets_changed(WEB)  # unchanged now
        await vault.ask(ROUTES, "nothing")
        assert (await vault.take()).type_url == ROUTES
    await ads.stop()


async def test_garbage_ends_its_own_stream_only() -> None:
    async with serving(first=two_tenants()) as server, server.client(pair_of(WEB)) as good:
        await good.ask(CLUSTER)
        await good.take()
        async with server.channel(pair_of(VAULT)) as channel:
            for garbage in (b"\xff" * 100, b"\x0a" * 5_000_000):
                call = channel.stream_stream(METHOD)()
                with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    await call.write(garbage)
                with pytest.raises(grpc.aio.AioRpcError):
                    await asyncio.wait_for(call.read(), 10)
        await good.ask(ROUTES, "out/shop/web/80")
        assert names(await good.take()) == ["out/shop/web/80"]


async def test_too_many_strange_names_end_the_stream() -> None:
    async with serving(first=two_tenants()) as server, server.client(pair_of(WEB)) as client:
        await client.ask(ROUTES, *(f"x{number}" for number in range(1001)))
        assert (await client.refused())[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert not server.ads.proxies()


async def test_a_proxy_has_a_bounded_number_of_streams() -> None:
    async with serving(Limits(streams_per_proxy=2), two_tenants()) as server, contextlib.AsyncExitStack() as stack:
        for _ in range(2):
            client = await stack.enter_async_context(server.client(pair_of(WEB)))
            await client.ask(CLUSTER)
            await client.take()
        client = await stack.enter_async_context(server.client(pair_of(WEB)))
        await client.ask(CLUSTER)
        assert (await client.refused())[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        other = await stack.enter_async_context(server.client(pair_of(VAULT), "bank/vault"))
        await other.ask(CLUSTER)
        await other.take()


async def test_new_streams_beyond_the_rate_wait_and_beyond_the_queue_are_sent_away() -> None:
    limits = Limits(streams_per_second=2, longest_queue=0.0)
    async with serving(limits, two_tenants()) as server, contextlib.AsyncExitStack() as stack:
        codes = []
        for _ in range(6):
            client = await stack.enter_async_context(server.client(pair_of(WEB)))
            await client.ask(CLUSTER)
            try:
                await client.take()
                codes.append(grpc.StatusCode.OK)
            except grpc.aio.AioRpcError as refused:
                codes.append(refused.code())
        assert grpc.StatusCode.OK in codes
        assert grpc.StatusCode.UNAVAILABLE in codes


async def test_a_stream_that_asks_for_nothing_is_ended() -> None:
    async with serving(Limits(first_request=0.1), two_tenants()) as server, server.client(pair_of(WEB)) as client:
        assert (await client.refused())[0] is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_proxy_that_does_not_answer_is_a_finding_and_then_its_state_is_freed() -> None:
    limits = Limits(late_after=0.2, end_after=1.0)
    async with serving(limits, two_tenants()) as server, server.client(pair_of(WEB)) as client:
        await client.ask(CLUSTER)
        await client.read()
        await until(lambda: [found.code for found in server.findings] == ["SMI0604"])
        assert [found.code for found in server.ads.findings()] == ["SMI0604"]
        await until(lambda: not server.ads.proxies())
        assert server.ads.findings() == ()


async def test_an_old_envoy_is_a_finding() -> None:
    version = {"version": {"major_number": 1, "minor_number": 38, "patch": 3}}
    async with serving(first=two_tenants()) as server, server.client(pair_of(WEB)) as client:
        node = {"id": "shop/web", "user_agent_build_version": version}
        await client.call.write(Request(type_url=CLUSTER, node=node))
        await client.take()
        assert server.ads.proxies()[0].envoy_version == "1.38.3"
        assert [found.code for found in server.ads.findings()] == ["SMI0705"]


# ------------------------------------------------------------------------------------------------------ the server


async def test_health_answers_serving_and_nothing_else_is_there() -> None:
    async with serving(first=two_tenants()) as server, server.channel(pair_of(VAULT)) as channel:
        answer = await channel.unary_unary("/grpc.health.v1.Health/Check")(b"")
        assert message("grpc.health.v1.HealthCheckResponse").FromString(answer).status == 1
        for method in (
            "/grpc.health.v1.Health/Watch",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            METHOD.replace("Delta", "Stream"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(method)(b"")
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_many_proxies_may_connect_at_once_and_the_server_certificate_may_rotate() -> None:
    certificates = [server_tls(), ServerTls(*replaced(), CA.bundle)]
    ads = AdsServer(secrets, limits=Limits(streams_per_second=1000, streams_per_proxy=1000))
    server = Running(ads, await ads.start("127.0.0.1", 0, lambda: certificates[0]))
    ads.publish(two_tenants())

    async def once() -> None:
        async with server.client(pair_of(WEB)) as client:
            await client.ask(CLUSTER)
            await client.take()

    await asyncio.gather(*(once() for _ in range(50)))
    del certificates[0]
    await once()
    await asyncio.gather(*(once() for _ in range(50)))
    await ads.stop()
    assert ads.proxies() == ()


def replaced() -> tuple[bytes, bytes]:
    pair = CA.issue(SERVER, time.time(), 3600, dns_names=("xds",))
    return pair.certificate, pair.private_key


async def test_a_taken_port_is_a_clear_error() -> None:
    async with serving() as server:
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{server.port}"):
            await AdsServer(secrets).start("127.0.0.1", server.port, server_tls)


async def test_a_key_is_in_no_repr() -> None:
    tls, pair = server_tls(), pair_of(WEB)
    secret = Resource(SECRET, "default", pair.private_key, "v")
    for text in (repr(tls), repr(pair), repr(secret), repr(CA)):
        assert "PRIVATE" not in text


def odd_pair(*uris: str) -> KeyPair:
    """Return a certificate of our authority that it would never issue."""
    key = ec.generate_private_key(ec.SECP256R1())
    root = CA._certificate
    sans: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
    sans = sans or [x509.DNSName("web")]
    leaf = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(root.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(root.not_valid_before_utc)
        .not_valid_after(root.not_valid_after_utc)
        .add_extension(x509.SubjectAlternativeName(sans), critical=True)
        .sign(CA._key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return KeyPair("", leaf.public_bytes(serialization.Encoding.PEM), pem, 0, 0)
