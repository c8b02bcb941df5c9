"""The HTTPS in front: certificates that change under load, and clients that mean no good."""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from smi_adapter.findings import Finding, Ref, finding
from smi_adapter.telemetry import Metrics, Reading
from smi_adapter.webhooks import certificates
from smi_adapter.webhooks import server as server_module
from smi_adapter.webhooks.certificates import Certificates, Lives, expiry
from smi_adapter.webhooks.keeper import FileKeeper
from smi_adapter.webhooks.server import Limits, WebhookServer

NAMES = ("localhost",)
SPLIT: dict[str, Any] = {
    "apiVersion": "split.smi-spec.io/v1alpha4",
    "kind": "TrafficSplit",
    "metadata": {"name": "it", "namespace": "shop"},
    "spec": {"service": "web", "backends": [{"service": "web-v1", "weight": 1}]},
}
REVIEW: dict[str, Any] = {
    "apiVersion": "admission.k8s.io/v1",
    "kind": "AdmissionReview",
    "request": {"uid": "u", "operation": "CREATE", "object": SPLIT},
}


def made() -> Certificates:
    return certificates.create(NAMES, Lives(), time.time())


def trusting(*held: Certificates) -> ssl.SSLContext:
    return ssl.create_default_context(cadata="".join(one.bundle.decode() for one in held))


class Running:
    def __init__(self, server: WebhookServer, port: int, held: Certificates) -> None:
        self.server, self.port, self.held = server, port, held
        self.url = f"https://localhost:{port}"
        self.metrics = Metrics(Reading)
        server._reviewed = self.metrics.reviewed

    def ended(self, webhook: str, result: str) -> float:
        labels = {"webhook": webhook, "result": result}
        return self.metrics.registry.get_sample_value("smi_adapter_webhook_requests_total", labels) or 0.0

    async def post(self, body: Any = REVIEW, path: str = "/validate", **options: Any) -> tuple[int, Any]:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with aiohttp.ClientSession() as session:
            options.setdefault("ssl", trusting(self.held))
            async with session.post(self.url + path, data=BytesIO(content), **options) as answer:
                text = await answer.text()
                return answer.status, json.loads(text) if answer.status == 200 else text


async def started(server: WebhookServer) -> Running:
    held = made()
    server.use(held.serving.certificate, held.serving.private_key)
    return Running(server, await server.start("127.0.0.1", 0), held)


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    one = await started(WebhookServer())
    yield one
    await one.server.stop(1.0)


async def test_a_review_is_answered(running: Running) -> None:
    status, answer = await running.post()
    assert status == 200
    assert answer["response"] == {"uid": "u", "allowed": True}


async def test_what_the_world_says_is_told_on_a_path_that_only_the_api_server_knows() -> None:
    """Security, section 1: who reaches the port does not learn which names there are."""
    asked = []

    def judge(raw: Any) -> tuple[Finding, ...]:
        asked.append(raw)
        return (finding("SMI0102", Ref("TrafficSplit", "shop", "web"), "spec.backends", "There is no Service"),)

    one = await started(WebhookServer(judge))
    for path, known in ((server_module.path_of(b"key"), b"key"), (server_module.path_of(b"another key"), b"")):
        one.server.path = path
        status, answer = await one.post(path="/validate")
        assert (status, answer["response"]) == (200, {"uid": "u", "allowed": True})
        assert not asked
        status, answer = await one.post(path=server_module.path_of(b"key"))
        assert (status, answer["response"]["allowed"]) == (200, True), "of another replica, with another key (F37)"
        assert bool(known) == bool(asked) == ("SMI0102" in str(answer))
        asked.clear()
    await one.server.stop(1.0)


async def test_conversion_is_there_only_if_asked_for(running: Running) -> None:
    review = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "ConversionReview",
        "request": {"uid": "u", "desiredAPIVersion": "split.smi-spec.io/v1alpha1", "objects": [SPLIT]},
    }
    assert (await running.post(review, "/convert"))[0] == 404
    other = await started(WebhookServer(converts=True))
    status, answer = await other.post(review, "/convert")
    assert status == 200
    assert answer["response"]["convertedObjects"][0]["apiVersion"] == "split.smi-spec.io/v1alpha1"
    await other.server.stop(1.0)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/", b"{}", 404),
        ("/validate/../convert", b"{}", 404),
        ("/validate", b"", 400),
        ("/validate", b"[" * 100_000, 400),
        ("/validate", b" " * (5 * 1024 * 1024), 413),
    ],
)
async def test_what_is_no_review_is_refused(running: Running, path: str, body: bytes, status: int) -> None:
    assert (await running.post(body, path))[0] == status
    assert (await running.post())[0] == 200


async def test_a_compressed_review_is_refused(running: Running) -> None:
    status, _ = await running.post(b"\x1f\x8b" + b"\0" * 100, headers={"Content-Encoding": "gzip"})
    assert status == 415


@pytest.mark.parametrize("first", [b"\x16\x03\x01" + b"\xff" * 500, b"GET / HTTP/1.1\r\n\r\n", b"\0" * 1000, b""])
async def test_bytes_that_are_no_handshake_hurt_nobody(running: Running, first: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(first)
    with suppress(ConnectionError):
        await writer.drain()
        if first:
            await asyncio.wait_for(reader.read(), 10)
    writer.close()
    assert (await running.post())[0] == 200


async def test_random_requests_inside_tls_hurt_nobody(running: Running) -> None:
    """Well begun and badly ended, cut off, huge heads, wrong lengths, several at once: the next one is answered."""
    luck = random.Random(20261124)
    head = b"POST /validate HTTP/1.1\r\nHost: x\r\n"
    shapes = (
        lambda noise: noise,
        lambda noise: head + noise,
        lambda noise: head + b"X: " + noise * 200 + b"\r\n\r\n",
        lambda noise: head + b"Transfer-Encoding: chunked\r\n\r\n" + noise,
        lambda noise: head + b"Content-Length: %d\r\n\r\n" % len(noise) + noise,
        lambda noise: head + b"Content-Length: -1\r\nContent-Length: 5\r\n\r\n" + noise,
        lambda noise: head + b"Content-Length: 99999999999\r\n\r\n" + noise,
        lambda noise: (head + b"Content-Length: 2\r\n\r\n{}") * 20 + noise,
    )
    for place in range(48):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", running.port, ssl=trusting(running.held), server_hostname="localhost"
        )
        with suppress(ConnectionError, ssl.SSLError, TimeoutError):
            writer.write(shapes[place % len(shapes)](luck.randbytes(luck.randrange(1, 300))))
            await writer.drain()
            await asyncio.wait_for(reader.read(64), 0.1)
        writer.transport.abort()
    assert (await running.post())[0] == 200


async def test_a_judge_that_takes_too_long_lets_the_object_through_and_says_so() -> None:
    def slow(_: Any) -> Any:
        time.sleep(0.5)
        return ()

    one = await started(WebhookServer(slow, limits=Limits(judging=0.05)))
    one.server.path = server_module.path_of(b"key")
    status, answer = await one.post(path=one.server.path)
    assert status == 200
    assert answer["response"]["allowed"] is True
    assert "no time" in answer["response"]["warnings"][0]
    await one.server.stop(1.0)


async def idle(one: Running, number: int) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    trust = trusting(one.held)
    return [
        await asyncio.open_connection("127.0.0.1", one.port, ssl=trust, server_hostname="localhost")
        for _ in range(number)
    ]


async def test_every_request_is_counted_once_by_how_it_ended() -> None:
    def judge(raw: Any) -> tuple[Finding, ...]:
        if raw["metadata"]["name"] == "slow":
            time.sleep(0.5)
        return ()

    limits = Limits(admissions=1)
    one = await started(WebhookServer(judge, converts=True, limits=limits))
    one.server.path = path = server_module.path_of(b"key")

    def review(name: str, **spec: Any) -> Any:
        changed = {**SPLIT, "metadata": {"name": name, "namespace": "shop"}, "spec": {**SPLIT["spec"], **spec}}
        return {**REVIEW, "request": {**REVIEW["request"], "object": changed}}

    def conversion(wanted: str) -> Any:
        request = {"uid": "u", "desiredAPIVersion": wanted, "objects": [SPLIT]}
        return {"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "request": request}

    await one.post(review("good"), path)
    await one.post(review("bad", backends=[{"service": "v1", "weight": -1}]))
    one.server._limits = replace(limits, judging=0.05)
    await one.post(review("slow"), path)
    one.server._limits = limits
    await one.post(b"{}")
    await one.post(conversion("split.smi-spec.io/v1alpha1"), "/convert")
    await one.post(conversion("split.smi-spec.io/v9"), "/convert")
    await one.post(b"{}", "/metrics")
    head = b"POST /validate HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"
    [(_, cut)] = await idle(one, 1)
    cut.write(head)
    async with asyncio.timeout(30):
        while not one.server._busy.total():  # noqa: ASYNC110 - until it is being read
            await asyncio.sleep(0.001)
        cut.transport.abort()
        while not one.ended("validate", "broken"):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    await one.server._admissions.acquire()
    one.server._limits = replace(limits, reading=0.3)
    assert (await one.post())[0] == 503

    ends = {
        ("validate", "allowed"), ("validate", "refused"), ("validate", "late"), ("validate", "malformed"),
        ("validate", "broken"), ("validate", "busy"), ("convert", "converted"), ("convert", "refused"),
        ("none", "malformed"),
    }  # fmt: skip
    assert {end: one.ended(*end) for end in ends} == dict.fromkeys(ends, 1.0)
    for webhook, number in (("validate", 6.0), ("convert", 2.0), ("none", 1.0)):
        name = "smi_adapter_webhook_seconds_count"
        assert one.metrics.registry.get_sample_value(name, {"webhook": webhook}) == number
    await one.server.stop(1.0)


async def test_a_fault_on_the_way_to_a_webhook_leaves_no_connection_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_path: str) -> Any:
        raise RuntimeError("a fault of ours")

    one = await started(WebhookServer())
    monkeypatch.setattr(one.server, "_route", fails)
    assert (await one.post())[0] == 500
    assert one.ended("none", "broken") == 1.0
    assert not one.server._busy.total()
    await one.server.stop(1.0)


async def test_connections_are_limited() -> None:
    one = await started(WebhookServer(limits=Limits(connections=3)))
    open_ones = await idle(one, 3)
    with pytest.raises((ssl.SSLError, ConnectionError, aiohttp.ClientError)):
        await one.post()
    for _, writer in open_ones:
        writer.transport.abort()
    await one.server.stop(1.0)


async def test_connections_that_bring_no_whole_request_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_UNUSED", 0.5)
    one = await started(WebhookServer())
    open_ones = await idle(one, 3)
    open_ones[0][1].write(b"POST /validate HTTP/1.1\r\nHost: x\r\n")
    for reader, writer in open_ones:
        with suppress(ConnectionError, ssl.SSLError):
            assert await asyncio.wait_for(reader.read(), 30) == b""
        writer.close()
    await one.server.stop(1.0)


async def test_a_body_that_never_ends_is_given_up() -> None:
    one = await started(WebhookServer(limits=Limits(reading=0.3)))
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", one.port, ssl=trusting(one.held), server_hostname="localhost"
    )
    writer.write(b"POST /validate HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
    assert b" 408 " in await asyncio.wait_for(reader.readline(), 10)
    writer.close()
    assert (await one.post())[0] == 200
    await one.server.stop(1.0)


async def test_f42_a_sweeper_that_fails_is_noticed(running: Running) -> None:
    watching = asyncio.create_task(running.server.watch())
    running.server._busy = None  # type: ignore[assignment] # a fault of ours
    with pytest.raises(AttributeError):
        await asyncio.wait_for(watching, 30)


# ------------------------------------------------------------------------------------------------- certificates
async def test_nobody_connects_before_there_is_a_certificate() -> None:
    server = WebhookServer()
    one = Running(server, await server.start("127.0.0.1", 0), made())
    with pytest.raises(aiohttp.ClientError):
        await one.post()
    server.use(one.held.serving.certificate, one.held.serving.private_key)
    assert (await one.post())[0] == 200
    await server.stop(1.0)


async def test_certificates_are_swapped_under_parallel_handshakes(running: Running) -> None:
    """Each handshake succeeds, each shows one of the certificates, and the last one is shown in the end."""
    sets = [running.held, *(made() for _ in range(4))]
    trust = trusting(*sets)
    stop = asyncio.Event()
    seen: set[bytes] = set()

    async def client(name: str | None) -> int:
        number = 0
        while not stop.is_set():
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", running.port, ssl=trust, server_hostname=name or "localhost"
            )
            seen.add(writer.get_extra_info("ssl_object").getpeercert(True))
            body = json.dumps(REVIEW).encode()
            writer.write(b"POST /validate HTTP/1.1\r\nHost: x\r\nConnection: close\r\n")
            writer.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
            assert b" 200 " in await reader.readline()
            await reader.read()
            writer.close()
            number += 1
        return number

    clients = [asyncio.create_task(client("localhost")) for _ in range(6)]
    for swap in range(20):
        held = sets[swap % len(sets)]
        running.server.use(held.serving.certificate, held.serving.private_key)
        before = running.ended("validate", "allowed")
        while running.ended("validate", "allowed") < before + 2:
            await asyncio.sleep(0.001)
            assert not any(one.done() for one in clients)
    stop.set()
    numbers = await asyncio.gather(*clients)
    assert all(number > 1 for number in numbers)
    assert len(seen) == len(sets)


async def test_an_open_connection_goes_on_over_a_swap(running: Running) -> None:
    async with aiohttp.ClientSession() as session:
        options: dict[str, Any] = {"ssl": trusting(running.held), "json": REVIEW}
        async with session.post(running.url + "/validate", **options) as answer:
            assert answer.status == 200
        other = made()
        running.server.use(other.serving.certificate, other.serving.private_key)
        async with session.post(running.url + "/validate", **options) as answer:
            assert answer.status == 200
    running.held = other
    assert (await running.post())[0] == 200


async def test_a_mounted_certificate_is_shown_when_both_files_have_changed(running: Running, tmp_path: Path) -> None:
    """cert-manager: the kubelet swaps the files of a Secret; half of a change is not used."""
    keeper = FileKeeper(tmp_path, running.server)
    keeper.look()
    assert [item.code for item in keeper.problems] == ["SMI0906"]
    assert keeper.expires() is None
    first, second = made(), made()
    (tmp_path / "tls.crt").write_bytes(first.serving.certificate)
    (tmp_path / "tls.key").write_bytes(first.serving.private_key)
    keeper.look()
    assert keeper.problems == ()
    assert keeper.expires() == expiry(first.serving.certificate)
    running.held = first
    assert (await running.post())[0] == 200
    (tmp_path / "tls.crt").write_bytes(second.serving.certificate)
    keeper.look()
    assert keeper.problems
    assert (await running.post())[0] == 200
    (tmp_path / "tls.key").write_bytes(second.serving.private_key)
    keeper.look()
    running.held = second
    assert (await running.post())[0] == 200
