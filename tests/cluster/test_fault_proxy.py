"""The fault proxy does what its names say: otherwise the tests of faults would prove nothing."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from tests.cluster import fault_proxy
from tests.cluster.fault_proxy import PASS, ByteProxy, Delay, Hang, HttpProxy, Refuse, Reset, Stop, Truncate
from tests.cluster.pki import Authority

SOON = 0.2  # long enough for a byte on loopback to come if it were coming; nothing waits for it to pass a test


@pytest.fixture
async def echo() -> AsyncIterator[ByteProxy]:
    """Start a proxy in front of a server that sends back what it gets."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, ByteProxy(*server.sockets[0].getsockname()) as proxy:
        yield proxy


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, proxy: ByteProxy) -> "Client":
        return cls(*await asyncio.open_connection("127.0.0.1", proxy.port))

    async def read(self) -> bytes:
        return await asyncio.wait_for(self.reader.read(1000), 5)

    async def is_silent(self) -> bool:
        try:
            await asyncio.wait_for(self.reader.read(1), SOON)
        except TimeoutError:
            return True
        return False

    def close(self) -> None:
        self.writer.close()


async def test_without_a_fault_bytes_pass_both_ways(echo: ByteProxy) -> None:
    client = await Client.open(echo)
    client.writer.write(b"hello")
    assert await client.read() == b"hello"
    assert (echo.accepted, echo.open_connections) == (1, 1)
    client.close()


async def test_refused_connections_come_back_at_the_same_port(echo: ByteProxy) -> None:
    port = echo.port
    await echo.set(Refuse())
    with pytest.raises(ConnectionRefusedError):
        await Client.open(echo)
    await echo.set(PASS)
    client = await Client.open(echo)
    assert echo.port == port
    client.close()


async def test_refusing_leaves_open_connections_alone_until_they_are_reset(echo: ByteProxy) -> None:
    client = await Client.open(echo)
    client.writer.write(b"a")
    assert await client.read() == b"a"
    await echo.set(Refuse())
    client.writer.write(b"b")
    assert await client.read() == b"b"
    echo.reset()
    with pytest.raises(ConnectionResetError):
        await client.read()


async def test_a_hanging_proxy_accepts_and_says_nothing_until_it_is_released(echo: ByteProxy) -> None:
    await echo.set(Hang())
    client = await Client.open(echo)
    client.writer.write(b"hello")
    assert await client.is_silent()
    await echo.set(PASS)
    assert await client.read() == b"hello"
    client.close()


async def test_a_hang_freezes_open_connections_too(echo: ByteProxy) -> None:
    client = await Client.open(echo)
    client.writer.write(b"a")
    assert await client.read() == b"a"
    await echo.set(Hang())
    client.writer.write(b"b")
    assert await client.is_silent()
    await echo.set(PASS)
    assert await client.read() == b"b"
    client.close()


async def test_half_open_is_silent_one_way_and_loses_nothing(echo: ByteProxy) -> None:
    client = await Client.open(echo)
    await echo.set(Stop("to_client"))
    client.writer.write(b"hello")
    assert await client.is_silent()
    assert echo.open_connections == 1
    await echo.set(PASS)
    assert await client.read() == b"hello"
    client.close()


async def test_reset_comes_after_the_bytes_that_were_asked_for(echo: ByteProxy) -> None:
    await echo.set(Reset(after=3))
    client = await Client.open(echo)
    client.writer.write(b"hello")
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(client.reader.read(), 5)


async def test_truncation_is_an_orderly_end_after_the_bytes_that_were_asked_for(echo: ByteProxy) -> None:
    await echo.set(Truncate(after=3))
    client = await Client.open(echo)
    client.writer.write(b"hello")
    assert await asyncio.wait_for(client.reader.read(), 5) == b"hel"
    client.close()


async def test_delay_holds_each_way(echo: ByteProxy) -> None:
    await echo.set(Delay(0.1))
    client = await Client.open(echo)
    started = asyncio.get_running_loop().time()
    client.writer.write(b"hello")
    assert await client.read() == b"hello"
    assert asyncio.get_running_loop().time() - started >= 0.2
    client.close()


# ------------------------------------------------------------------------------------------------------------ HTTP
EVENTS = [json.dumps({"type": "ADDED", "object": {"metadata": {"name": name}}}).encode() for name in "abcd"]


class Kube:
    """An HTTPS server in the place of the API server, and a proxy before it."""

    def __init__(self, proxy: HttpProxy, session: aiohttp.ClientSession) -> None:
        self.proxy, self.session = proxy, session
        self.trust = ssl.create_default_context(cadata=proxy.authority.pem.decode())

    async def ask(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, str, str]:
        async with self.session.get(
            URL(self.proxy.url + path, encoded=True), ssl=self.trust, headers=headers
        ) as answer:
            return answer.status, await answer.text(), answer.headers.get("Retry-After", "")

    async def names(self) -> str:
        """Return the names of the watch's events in order; `!` is an ERROR."""
        _, text, _ = await self.ask("/api/v1/pods?watch=true")
        events = [json.loads(line) for line in text.splitlines()]
        return "".join("!" if event["type"] == "ERROR" else event["object"]["metadata"]["name"] for event in events)


@pytest.fixture
async def kube(tmp_path: Path) -> AsyncIterator[Kube]:
    async def watch(_: web.Request) -> web.Response:
        return web.Response(body=b"\n".join([*EVENTS, b""]))

    async def who(request: web.Request) -> web.Response:
        transport = request.transport
        assert transport
        certificate = transport.get_extra_info("peercert")
        return web.json_response([request.headers.get("Authorization"), bool(certificate), request.path_qs])

    authority = Authority("upstream")
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=authority.pem.decode())
    serving.verify_mode = ssl.CERT_OPTIONAL
    serving.load_cert_chain(*authority.server("127.0.0.1").write(tmp_path, "server"))
    plain = ssl.create_default_context(cadata=authority.pem.decode())
    known = ssl.create_default_context(cadata=authority.pem.decode())
    known.load_cert_chain(*authority.client("admin").write(tmp_path, "client"))
    app = web.Application()
    app.add_routes([web.get("/api/v1/pods", watch), web.get("/who", who)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=serving)
    await site.start()
    host, port = runner.addresses[0][:2]
    async with HttpProxy(f"https://{host}:{port}", plain, known) as proxy, aiohttp.ClientSession() as session:
        yield Kube(proxy, session)
    await runner.cleanup()


async def test_a_request_without_a_rule_passes_with_its_query(kube: Kube) -> None:
    status, text, _ = await kube.ask("/who?a=1%2F2&b")
    assert (status, json.loads(text)) == (200, [None, True, "/who?a=1%2F2&b"])
    assert kube.proxy.requests == [("GET", "/who?a=1%2F2&b")]


async def test_a_token_keeps_its_identity(kube: Kube) -> None:
    _, text, _ = await kube.ask("/who", {"Authorization": "Bearer t"})
    assert json.loads(text)[:2] == ["Bearer t", False]


@pytest.mark.parametrize(
    ("answer", "status", "retry_after"),
    [(fault_proxy.TOO_MANY, 429, "1"), (fault_proxy.INTERNAL, 500, ""), (fault_proxy.GONE_AS_HTTP, 410, "")],
)
async def test_an_error_is_answered_as_often_as_asked(
    kube: Kube, answer: fault_proxy.Answer, status: int, retry_after: str
) -> None:
    rule = kube.proxy.rule(fault_proxy.lists("pods"), answer, times=2)
    got = [await kube.ask("/api/v1/pods") for _ in range(3)]
    assert [each[0] for each in got] == [status, status, 200]
    assert json.loads(got[0][1])["code"] == status
    assert got[0][2] == retry_after
    assert rule.used == 2


@pytest.mark.parametrize(
    ("events", "names"),
    [
        (fault_proxy.gone_as_event(), "!"),
        (fault_proxy.gone_as_event(after=2), "ab!"),
        (fault_proxy.end_of_stream(after=1), "a"),
        (fault_proxy.end_of_stream(after=9), "abcd"),
        (fault_proxy.duplicated(), "aabbccdd"),
        (fault_proxy.swapped(), "badc"),
        (fault_proxy.dropped(lambda line: b'"b"' in line), "acd"),
    ],
)
async def test_events_of_a_watch_are_changed_as_named(kube: Kube, events: fault_proxy.Events, names: str) -> None:
    assert await kube.names() == "abcd"
    kube.proxy.rule(fault_proxy.watches("pods"), events, times=1)
    assert await kube.names() == names
    assert await kube.names() == "abcd"


def asked(method: str, path: str) -> web.BaseRequest:
    from aiohttp.test_utils import make_mocked_request  # noqa: PLC0415

    return make_mocked_request(method, path)


def test_conditions_tell_lists_watches_and_writes_apart() -> None:
    conditions = [fault_proxy.lists("pods"), fault_proxy.watches("pods"), fault_proxy.writes("pods")]
    table = {
        ("GET", "/api/v1/pods"): [True, False, False],
        ("GET", "/api/v1/namespaces/a/pods?limit=500"): [True, False, False],
        ("GET", "/api/v1/pods?watch=1"): [False, True, False],
        ("PATCH", "/api/v1/namespaces/a/pods/x/status"): [False, False, True],
        ("GET", "/api/v1/services"): [False, False, False],
    }
    for (method, path), expected in table.items():
        assert [condition(asked(method, path)) for condition in conditions] == expected, (method, path)
