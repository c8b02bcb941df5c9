"""The client against an HTTP server of our own: timeouts, errors, lines, logins."""

from __future__ import annotations

import asyncio
import json
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from smi_adapter.cluster import client as module
from smi_adapter.cluster.client import ApiError, Client, LineTooLong, Resource, Unreachable

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def kubeconfig(folder: Path, url: str, user: dict[str, Any]) -> str:
    path = folder / "config"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "one",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "one", "context": {"cluster": "c", "user": "u", "namespace": "here"}}],
    }
    path.write_text(json.dumps(document))
    return str(path)


@asynccontextmanager
async def connected(folder: Path, handler: Handler, user: dict[str, Any] | None = None) -> AsyncIterator[Client]:
    async with serving(handler) as url:
        client = await Client.connect(kubeconfig(folder, url, user or {"token": "t"}))
        try:
            yield client
        finally:
            await client.close()


async def echo(request: web.Request) -> web.StreamResponse:
    return web.json_response(
        {
            "method": request.method,
            "path": request.raw_path,
            "authorization": request.headers.get("Authorization"),
            "type": request.headers.get("Content-Type"),
            "body": (await request.read()).decode(),
        }
    )


def test_paths_of_resources() -> None:
    split = Resource("split.smi-spec.io", "v1alpha4", "trafficsplits", "TrafficSplit")
    assert split.path() == "/apis/split.smi-spec.io/v1alpha4/trafficsplits"
    assert split.path("a/b", "x", "status").endswith("/namespaces/a%2Fb/trafficsplits/x/status")
    assert Resource("", "v1", "namespaces", "Namespace", namespaced=False).path("n", "n") == "/api/v1/namespaces/n"


async def test_an_apply_patch_is_sent_as_json(tmp_path: Path) -> None:
    async with connected(tmp_path, echo) as client:
        content_type = "application/apply-patch+yaml"
        said = json.loads(await client.request("PATCH", "/x", body={"a": [1]}, content_type=content_type))
        assert (said["type"], json.loads(said["body"]), said["authorization"]) == (content_type, {"a": [1]}, "Bearer t")
        assert client.namespace == "here"


async def test_an_error_says_what_the_server_said(tmp_path: Path) -> None:
    async def refuse(_: web.Request) -> web.StreamResponse:
        status = {"kind": "Status", "reason": "Expired", "message": "too old"}
        return web.json_response(status, status=410, headers={"Retry-After": "3"})

    async with connected(tmp_path, refuse) as client:
        with pytest.raises(ApiError) as caught:
            await client.get("/x")
        error = caught.value
        assert (error.status, error.reason, error.message, error.retry_after) == (410, "Expired", "too old", 3.0)


async def test_an_answer_that_does_not_come_is_unreachable(tmp_path: Path) -> None:
    async def hang(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(30)
        return web.Response()

    async with connected(tmp_path, hang) as client:
        with pytest.raises(Unreachable):
            await client.request("GET", "/x", timeout=0.2)


async def test_nobody_there_is_unreachable(tmp_path: Path) -> None:
    async with serving(echo) as url:
        pass
    client = await Client.connect(kubeconfig(tmp_path, url, {"token": "t"}))
    with pytest.raises(Unreachable):
        await client.get("/x")
    await client.close()


async def lines(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for piece in (b'{"a":', b'1}\n{"b":2}\n', b"\n", b"x" * int(request.query.get("long", "0")), b'{"cut'):
        await response.write(piece)
    await asyncio.sleep(float(request.query.get("silent", "0")))
    return response


async def test_a_watch_yields_whole_lines_only(tmp_path: Path) -> None:
    opened: list[bool] = []
    async with connected(tmp_path, lines) as client:
        found = [line async for line in client.watch("/w", {}, 5.0, lambda: opened.append(True))]
    assert found == [b'{"a":1}', b'{"b":2}']
    assert opened == [True]


async def test_a_silent_watch_is_given_up(tmp_path: Path) -> None:
    async with connected(tmp_path, lines) as client:
        with pytest.raises(Unreachable) as caught:
            [line async for line in client.watch("/w", {"silent": "30"}, 0.3)]
        assert caught.value.streaming


async def test_a_line_without_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_LINE", 10_000)
    async with connected(tmp_path, lines) as client:
        with pytest.raises(LineTooLong):
            [line async for line in client.watch("/w", {"long": "20000"}, 5.0)]


def login_program(folder: Path, body: str) -> dict[str, Any]:
    program = folder / "login"
    program.write_text(f"#!{sys.executable}\n{body}")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(program)}}


TOKENS = """
import json, pathlib
count = pathlib.Path(__file__).with_name("count")
number = int(count.read_text()) + 1 if count.exists() else 1
count.write_text(str(number))
status = {"token": f"t{number}"}
print(json.dumps({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}))
"""


async def test_a_token_that_is_refused_makes_a_new_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def guard(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") == "Bearer t1":
            return web.json_response({"reason": "Unauthorized"}, status=401)
        return await echo(request)

    monkeypatch.setattr(module, "RETRY_LOGIN", 0.0)
    async with connected(tmp_path, guard, login_program(tmp_path, TOKENS)) as client:
        assert (await client.get("/x"))["authorization"] == "Bearer t2"


async def test_a_login_program_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOGIN", 0.5)
    user = login_program(tmp_path, "import time; time.sleep(30)")
    with pytest.raises(Unreachable, match="login"):
        await Client.connect(kubeconfig(tmp_path, "http://127.0.0.1:1", user))


async def test_a_token_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = tmp_path / "token"
    token.write_text("first")
    monkeypatch.setattr(module, "RENEW", 0.0)
    async with connected(tmp_path, echo, {"tokenFile": str(token)}) as client:
        assert (await client.get("/x"))["authorization"] == "Bearer first"
        token.write_text("second")
        assert (await client.get("/x"))["authorization"] == "Bearer second"


async def test_a_missing_kubeconfig_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="nowhere"):
        await Client.connect(str(tmp_path / "nowhere"))


def test_the_expensive_library_is_not_imported_before_it_is_needed() -> None:
    code = (
        "import sys, smi_adapter.cluster.source; print('kubernetes_asyncio' in sys.modules, 'aiohttp' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
