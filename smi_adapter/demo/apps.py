"""The applications of the bookstore: small HTTP servers and clients, with nothing but the standard library.

They know nothing of a mesh: they bind the address that the downward API gives them and dial Services where the
environment says. Each one counts what it really saw, as a client and as a server, and sends the totals to the UDP
address in SMI_DEMO_STATS, if there is one; these counts are what the demo's table and checks are made of.

Run as `python -m smi_adapter.demo.apps bookstore|bookwarehouse|bookbuyer|bookthief`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

PORT = 14001
REPORT_SECONDS = 0.1
PATIENCE = 5.0
UNREACHABLE = 0
"""The status of a request that got no answer at all."""
VERSION_HEADER = "x-version"

Seen: TypeAlias = tuple[str, str, str, str, str, int]
"""(`sent` or `served`, from, to, path, version that answered, status)"""
Headers: TypeAlias = Mapping[str, str]
Handler: TypeAlias = Callable[[str, str], Awaitable[tuple[int, str]]]

_CALLER = re.compile(r"URI=spiffe://[^/;,]+/ns/[^/;,]+/sa/([^/;,\"]+)")


class Counts:
    """What this process saw, as totals, so that a lost report costs nothing."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._seen: Counter[Seen] = Counter()
        self._head = {"pod": environ.get("POD_NAME", ""), "started": time.time()}
        host, _, port = environ.get("SMI_DEMO_STATS", "").rpartition(":")
        self._to = (host, int(port)) if port else None

    def add(self, seen: Seen) -> None:
        """Count one request."""
        self._seen[seen] += 1

    async def report(self) -> None:
        """Send the totals again and again."""
        if self._to is None:
            return
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            while True:
                body = {**self._head, "seen": [[*seen, count] for seen, count in self._seen.items()]}
                with contextlib.suppress(OSError):
                    sender.sendto(json.dumps(body, separators=(",", ":")).encode(), self._to)
                await asyncio.sleep(REPORT_SECONDS)


# ------------------------------------------------------------------------------------------------------ HTTP


async def read_message(reader: asyncio.StreamReader) -> tuple[str, Headers]:
    """Read one HTTP/1.1 message and return its first line and its headers; the body is read and forgotten."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:-2])}
    if headers.get("transfer-encoding") == "chunked":
        while size := int(await reader.readline(), 16):
            await reader.readexactly(size + 2)
        await reader.readline()
    else:
        await reader.readexactly(int(headers.get("content-length", "0")))
    return lines[0], headers


class Caller:
    """A client of one Service that keeps its connection; failures before the first answer are not counted."""

    def __init__(self, counts: Counts, name: str, environ: Mapping[str, str], service: str) -> None:
        self._counts = counts
        self._name = name
        self._service = service
        prefix = service.upper().replace("-", "_")
        self._address = (environ[f"{prefix}_SERVICE_HOST"], int(environ[f"{prefix}_SERVICE_PORT"]))
        self._turn = asyncio.Lock()
        self._met = False
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(self, method: str, path: str) -> int:
        """Send a request and return its status; UNREACHABLE if nobody answered."""
        async with self._turn:
            try:
                async with asyncio.timeout(PATIENCE):
                    line, headers = await self._exchange(method, path)
                status, version = int(line.split()[1]), headers.get(VERSION_HEADER, "")
                keep = headers.get("connection") != "close"
            except (OSError, EOFError, ValueError, IndexError):
                status, version, keep = UNREACHABLE, "", False
            if not keep:
                self._drop()
        self._met = self._met or status in {200, 403}
        if self._met:
            self._counts.add(("sent", self._name, self._service, path, version, status))
        return status

    async def _exchange(self, method: str, path: str) -> tuple[str, Headers]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address)
        reader, writer = self._streams
        writer.write(f"{method} {path} HTTP/1.1\r\nhost: {self._service}\r\ncontent-length: 0\r\n\r\n".encode())
        return await read_message(reader)

    def _drop(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def serve(handler: Handler, counts: Counts, name: str, environ: Mapping[str, str]) -> None:
    """Answer requests on the Pod's own address for ever."""
    version = environ.get("VERSION", "")

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError, ValueError), contextlib.closing(writer):
            while True:
                line, headers = await read_message(reader)
                method, path = line.split()[:2]
                status, text = await handler(method, path)
                caller = _CALLER.search(headers.get("x-forwarded-client-cert", ""))
                counts.add(("served", caller[1] if caller else "?", name, path, version, status))
                head = f"HTTP/1.1 {status} x\r\n{VERSION_HEADER}: {version}\r\ncontent-length: {len(text)}\r\n\r\n"
                writer.write(f"{head}{text}".encode())
                await writer.drain()

    server = await asyncio.start_server(connection, environ.get("POD_IP", "127.0.0.1"), PORT)
    async with server:
        await server.serve_forever()


# ------------------------------------------------------------------------------------------------------- roles


async def bookwarehouse(counts: Counts, environ: Mapping[str, str]) -> None:
    """Give books to whoever may come."""

    async def handler(method: str, path: str) -> tuple[int, str]:
        return (200, "here you are\n") if (method, path) == ("POST", "/restock-books") else (404, "no such door\n")

    await serve(handler, counts, "bookwarehouse", environ)


async def bookstore(counts: Counts, environ: Mapping[str, str]) -> None:
    """Sell books; each one sold is fetched from the warehouse."""
    warehouse = Caller(counts, f"bookstore {environ.get('VERSION', '')}".strip(), environ, "bookwarehouse")

    async def handler(_method: str, path: str) -> tuple[int, str]:
        if path == "/buy":
            fetched = await warehouse.request("POST", "/restock-books")
            return (200, "sold\n") if fetched == 200 else (503, "out of stock\n")
        return (200, f"{path}\n") if path in {"/books-bought", "/user", "/order"} else (404, "no such book\n")

    await serve(handler, counts, "bookstore", environ)


async def shop(counts: Counts, environ: Mapping[str, str], name: str, paths: tuple[str, ...]) -> None:
    """Ask the bookstore for one path after the other, at a steady pace."""
    store = Caller(counts, name, environ, "bookstore")
    pause = 1 / float(environ.get("REQUESTS_PER_SECOND", "20"))
    clock = asyncio.get_running_loop().time
    due = clock()
    while True:
        for path in paths:
            await store.request("GET", path)
            due = max(due + pause, clock())
            await asyncio.sleep(due - clock())


async def play(role: str, environ: Mapping[str, str]) -> None:
    """Play one role until SIGTERM."""
    counts = Counts(environ)
    roles: Mapping[str, Callable[[], Awaitable[None]]] = {
        "bookwarehouse": lambda: bookwarehouse(counts, environ),
        "bookstore": lambda: bookstore(counts, environ),
        "bookbuyer": lambda: shop(counts, environ, "bookbuyer", ("/buy", "/books-bought", "/user", "/order")),
        "bookthief": lambda: shop(counts, environ, "bookthief", ("/buy",)),
    }
    task = asyncio.ensure_future(asyncio.gather(roles[role](), counts.report()))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


if __name__ == "__main__":
    asyncio.run(play(sys.argv[1], os.environ))
