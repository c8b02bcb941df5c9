"""The workload and its client, talking with each other for real."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smi_conformance import echo

HERE = "127.0.0.1"


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for item in sockets:
        item.bind((HERE, 0))
    ports = [int(item.getsockname()[1]) for item in sockets]
    for item in sockets:
        item.close()
    return ports


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, int], Path]]:
    kinds = ("http", "tcp", "tcp-first", "udp")
    ports = dict(zip(kinds, free_ports(4), strict=True))
    ledger = tmp_path_factory.mktemp("echo") / "ledger"
    listening = [{"port": port, "protocol": kind} for kind, port in ports.items()]
    environment = {
        **os.environ,
        "ECHO_BIND": HERE,
        "ECHO_APP": "v1",
        "ECHO_POD": "v1-6c5b9f7d8c-x2x4k",
        "ECHO_PORTS": json.dumps(listening),
        "ECHO_LEDGER": str(ledger),
    }
    process = subprocess.Popen([sys.executable, echo.__file__, "serve"], env=environment)
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection((HERE, ports["tcp-first"]), 1).close()
                break
            except OSError:
                assert time.monotonic() < deadline, "the server did not start"
                time.sleep(0.02)
        yield ports, ledger
    finally:
        process.kill()
        process.wait()


def run(job: dict[str, Any]) -> dict[str, Any]:
    return echo.Job({"id": 1, "host": "web.shop:80", "token": "t", "timeout": 2.0, **job}, {}).run()


def received(ledger: Path, token: str) -> list[dict[str, Any]]:
    deadline = time.monotonic() + 5
    while True:
        found = [json.loads(line) for line in ledger.read_text().splitlines()]
        mine = [item for item in found if item["token"].startswith(token)]
        if mine or time.monotonic() > deadline:
            return mine
        time.sleep(0.02)


@pytest.mark.parametrize("kind", ["http", "h2c", "grpc", "tcp", "tcp-first", "udp"])
@pytest.mark.parametrize("connection", ["keep", "new", "half"])
def test_every_protocol_is_answered_and_written_down(
    server: tuple[dict[str, int], Path], kind: str, connection: str
) -> None:
    ports, ledger = server
    port = ports["http" if kind in {"h2c", "grpc"} else kind]
    token = f"{kind}-{connection}"
    job = {
        "addresses": [[HERE, port]],
        "kind": kind,
        "n": 20,
        "concurrency": 4,
        "connection": connection,
        "token": token,
    }
    answer = run({**job, "path": "/p"})
    assert [reply[0] for reply in answer["replies"]] == ["ok"] * 20
    assert {json.loads(answer["bodies"][reply[2]])["app"] for reply in answer["replies"]} == {"v1"}
    lines = received(ledger, token)
    assert {item["token"] for item in lines} == {f"{token}-{number}" for number in range(20)}
    assert {(item["app"], item["pod"]) for item in lines} == {("v1", "v1-6c5b9f7d8c-x2x4k")}


def test_one_connection_is_kept_over_several_jobs(server: tuple[dict[str, int], Path]) -> None:
    ports, _ = server
    kept: dict[str, echo.Connection] = {}
    job = {
        "id": 1,
        "host": "h",
        "token": "k",
        "addresses": [[HERE, ports["http"]]],
        "kind": "http",
        "n": 3,
        "kept": "a",
    }
    first, second = (echo.Job(job, kept).run()["replies"] for _ in range(2))
    assert [reply[5] for reply in first] == [False, True, True]
    assert [reply[5] for reply in second] == [True, True, True]
    kept["a"].close()


def test_nobody_there_is_refused_and_a_request_without_token_leaves_no_trace(
    server: tuple[dict[str, int], Path],
) -> None:
    ports, ledger = server
    (nobody,) = free_ports(1)
    assert run({"addresses": [[HERE, nobody]], "kind": "http", "n": 1})["replies"][0][0] == "refused"
    before = ledger.read_text() if ledger.exists() else ""
    with socket.create_connection((HERE, ports["http"]), 2) as probe:
        probe.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert probe.recv(4096).startswith(b"HTTP/1.1 200")
    assert (ledger.read_text() if ledger.exists() else "") == before


def test_huffman_code_is_that_of_the_standard() -> None:  # RFC 7541, C.4 and C.6
    assert echo.huffman(bytes.fromhex("f1e3c2e5f23a6ba0ab90f4ff")) == "www.example.com"
    assert echo.huffman(bytes.fromhex("a8eb10649cbf")) == "no-cache"
    assert echo.huffman(bytes.fromhex("9d29ad171863c78f0b97c8e9ae82ae43d3")) == "https://www.example.com"


def test_header_blocks_of_the_standard_are_decoded_with_their_table() -> None:  # RFC 7541, C.4
    hpack = echo.Hpack()
    first = hpack.decode(bytes.fromhex("828684418cf1e3c2e5f23a6ba0ab90f4ff"))
    assert first == [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")]
    second = hpack.decode(bytes.fromhex("828684be5886a8eb10649cbf"))
    assert second[-2:] == [(":authority", "www.example.com"), ("cache-control", "no-cache")]
    own = [(":path", "/x"), ("long", "v" * 300)]
    assert echo.Hpack().decode(echo.encode_headers(own)) == own


@pytest.mark.parametrize(
    "nonsense",
    [
        b"GET / HTTP/1.1\r\ncontent-length: many\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\1\1\5\0\0\0\1\xff",
    ],
)
def test_a_connection_that_sends_nonsense_ends_and_no_other(
    server: tuple[dict[str, int], Path], nonsense: bytes
) -> None:
    ports, _ = server
    other = socket.create_connection((HERE, ports["http"]), 5)
    with socket.create_connection((HERE, ports["http"]), 5) as bad:
        bad.sendall(nonsense)
        while bad.recv(4096):
            pass
    other.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert other.recv(4096).startswith(b"HTTP/1.1 200")
    other.close()


def test_an_answer_that_the_other_side_is_slow_to_take_arrives_whole(server: tuple[dict[str, int], Path]) -> None:
    ports, _ = server
    asked = 20_000
    with socket.create_connection((HERE, ports["http"]), 30) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\n\r\n" * asked)  # nothing is taken before all is asked
        answered = 0
        rest = b""
        while answered < asked:
            data = slow.recv(65536)
            assert data
            whole = rest + data
            answered += whole.count(b"HTTP/1.1 200")
            rest = whole[-11:] if not whole.endswith(b"HTTP/1.1 200") else b""
    assert answered == asked
