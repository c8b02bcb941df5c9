"""A fake network between a client and a server, for injecting faults; it never changes what a healthy path carries.

`ByteProxy` knows bytes only, so TLS and client certificates pass through it: refused, hanging, half-open, slow, cut and
reset connections. `HttpProxy` ends TLS with an authority of its own and so can speak for the API server: 429, 500, 410
in its three shapes, and watch events doubled, swapped or lost. Both run in the event loop of the test.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import struct
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Self

import aiohttp
from aiohttp import web
from yarl import URL

from tests.cluster.pki import Authority

CHUNK: Final = 65536
RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # SO_LINGER with no time: close() sends RST
Direction = Literal["to_client", "to_server"]


@dataclass(frozen=True, slots=True)
class Pass:
    """No fault."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Nobody listens; connections that are open stay (`ByteProxy.reset` ends them)."""


@dataclass(frozen=True, slots=True)
class Hang:
    """Accept, then neither read nor write: nothing moves on old connections either."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Half-open: one direction moves, the other does not."""

    direction: Direction = "to_client"


@dataclass(frozen=True, slots=True)
class Reset:
    """RST once the server has sent this many bytes on a connection."""

    after: int = 0


@dataclass(frozen=True, slots=True)
class Truncate:
    """An orderly end once the server has sent this many bytes on a connection."""

    after: int = 0


@dataclass(frozen=True, slots=True)
class Delay:
    """Each piece of data waits this long, in both directions."""

    seconds: float


Fault = Pass | Refuse | Hang | Stop | Reset | Truncate | Delay
PASS: Final = Pass()


@dataclass(eq=False, slots=True)
class _Connection:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter | None = None
    sent: int = 0  # bytes to the client
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def close(self, *, reset: bool) -> None:
        for writer in (self.client, self.server):
            if writer is None:
                continue
            if reset:
                raw: socket.socket = writer.get_extra_info("socket")
                with contextlib.suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                writer.transport.abort()
            else:
                writer.close()


class ByteProxy:
    """Passes bytes between clients and `host:port`, until a fault is set. An async context manager."""

    def __init__(self, host: str, port: int, listen: str = "127.0.0.1") -> None:
        self._target = (host, port)
        self._listen = (listen, 0)
        self._fault: Fault = PASS
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self.accepted = 0

    @property
    def fault(self) -> Fault:
        """Return the fault that is set."""
        return self._fault

    @property
    def port(self) -> int:
        """Return the port that it listens on; it stays the same across `Refuse`."""
        return self._listen[1]

    @property
    def url(self) -> str:
        """Return the address for a kubeconfig; the API server's certificate is valid for it."""
        return f"https://{self._listen[0]}:{self.port}"

    @property
    def open_connections(self) -> int:
        """Return how many connections are open now."""
        return len(self._connections)

    async def set(self, fault: Fault) -> None:
        """Set the fault for old and new connections; what was held back flows on when it allows that."""
        self._fault = fault
        self._changed.set()
        self._changed = asyncio.Event()
        if isinstance(fault, Refuse):
            self._close_listener()
        elif self._server is None:
            await self._open_listener()

    def reset(self) -> None:
        """End all open connections with RST."""
        for connection in tuple(self._connections):
            connection.close(reset=True)

    async def __aenter__(self) -> Self:
        await self._open_listener()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._close_listener()
        running = [task for connection in self._connections for task in connection.tasks]
        self.reset()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _open_listener(self) -> None:
        self._server = await asyncio.start_server(self._serve, *self._listen)
        self._listen = self._server.sockets[0].getsockname()[:2]

    def _close_listener(self) -> None:
        if self._server:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        connection = _Connection(writer)
        self._connections.add(connection)
        connection.tasks.append(_this_task())
        try:
            await self._until(lambda fault: not isinstance(fault, Hang))
            upstream, connection.server = await asyncio.open_connection(*self._target)
            pumps = [
                asyncio.create_task(self._pump(connection, reader, connection.server, "to_server")),
                asyncio.create_task(self._pump(connection, upstream, writer, "to_client")),
            ]
            connection.tasks += pumps
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:
            pass  # the target is down: the client sees its connection end
        except asyncio.CancelledError:
            pass  # the proxy is closing; asyncio's stream protocol would log a cancelled handler
        finally:
            self._connections.discard(connection)
            connection.close(reset=False)

    async def _pump(
        self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                fault = await self._until(lambda fault: not isinstance(fault, Hang) and fault != Stop(direction))
                if isinstance(fault, Delay):
                    await asyncio.sleep(fault.seconds)
                if direction == "to_client" and isinstance(fault, Reset | Truncate):
                    room = fault.after - connection.sent
                    if len(data) >= room:
                        writer.write(data[: max(0, room)])
                        await writer.drain()
                        connection.close(reset=isinstance(fault, Reset))
                        return
                writer.write(data)
                await writer.drain()
                connection.sent += len(data) * (direction == "to_client")

    async def _until(self, moves: Callable[[Fault], bool]) -> Fault:
        while not moves(self._fault):
            await self._changed.wait()
        return self._fault


Lines = AsyncGenerator[bytes, None]
Asked = Callable[[web.BaseRequest], bool]


@dataclass(frozen=True, slots=True)
class Answer:
    """The proxy answers in the server's place, as Kubernetes writes an error."""

    status: int
    reason: str = ""
    retry_after: int | None = None
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Events:
    """The server answers, and its lines (watch events) go through a function."""

    through: Callable[[Lines], Lines]


@dataclass(slots=True)
class Rule:
    """What happens to requests of a kind, `times` times (None: always)."""

    asked: Asked
    outcome: Answer | Events
    times: int | None = None
    used: int = 0


GONE: Final = {
    "kind": "Status",
    "apiVersion": "v1",
    "metadata": {},
    "status": "Failure",
    "message": "too old resource version: 1 (2)",
    "reason": "Expired",
    "code": 410,
}
TOO_MANY: Final = Answer(429, "TooManyRequests", retry_after=1)
INTERNAL: Final = Answer(500, "InternalError")
GONE_AS_HTTP: Final = Answer(410, "Expired")


def gone_as_event(after: int = 0) -> Events:
    """Return 410 as an ERROR event in a watch that began well, after some events; then the stream ends."""

    async def through(lines: Lines) -> Lines:
        async for line in _first(after, lines):
            yield line
        yield json.dumps({"type": "ERROR", "object": GONE}).encode() + b"\n"

    return Events(through)


def end_of_stream(after: int = 0) -> Events:
    """Return a bare orderly end of a watch after some events (kubernetes/kubernetes#104171)."""
    return Events(lambda lines: _first(after, lines))


async def _first(count: int, lines: Lines) -> Lines:
    passed = 0
    while passed < count:
        line = await anext(lines, b"")
        if not line:
            return
        yield line
        passed += 1


def duplicated() -> Events:
    """Return every event twice."""

    async def through(lines: Lines) -> Lines:
        async for line in lines:
            yield line
            yield line

    return Events(through)


def swapped() -> Events:
    """Return events in pairs, the later one first; an event without a partner waits for one."""

    async def through(lines: Lines) -> Lines:
        async for first in lines:
            with contextlib.suppress(StopAsyncIteration):
                yield await anext(lines)
            yield first

    return Events(through)


def dropped(lost: Callable[[bytes], bool]) -> Events:
    """Return the events that are not lost."""

    async def through(lines: Lines) -> Lines:
        async for line in lines:
            if not lost(line):
                yield line

    return Events(through)


def watches(resource: str) -> Asked:
    """Return the condition for a watch of this resource, such as `pods`."""
    return lambda request: request.path.endswith(f"/{resource}") and request.query.get("watch", "") in {"true", "1"}


def lists(resource: str) -> Asked:
    """Return the condition for a list of this resource."""
    return lambda request: (
        request.method == "GET"
        and request.path.endswith(f"/{resource}")
        and request.query.get("watch", "") not in {"true", "1"}
    )


def writes(resource: str) -> Asked:
    """Return the condition for a change of an object of this resource or of its status."""
    return lambda request: f"/{resource}" in request.path and request.method in {"POST", "PUT", "PATCH", "DELETE"}


class HttpProxy:
    """An API server that obeys `rules`, the first that fits, and else passes to `upstream`. An async context manager.

    A client that sends a bearer token keeps its identity; any other gets that of `certificate` (a TLS context with a
    client certificate: `ControlPlane.tls`). `authority.pem` is what clients must trust.
    """

    def __init__(self, upstream: str, trust: ssl.SSLContext, certificate: ssl.SSLContext) -> None:
        self.upstream = upstream
        self.rules: list[Rule] = []
        self.requests: list[tuple[str, str]] = []  # method, path with query
        self.authority = Authority("fault-proxy-ca")
        self._trust = trust
        self._certificate = certificate
        self._stack = contextlib.AsyncExitStack()
        self.url = ""

    def rule(self, asked: Asked, outcome: Answer | Events, times: int | None = None) -> Rule:
        """Add a rule and return it; `rule.used` counts, and `rules.remove(rule)` ends it."""
        added = Rule(asked, outcome, times)
        self.rules.append(added)
        return added

    async def __aenter__(self) -> Self:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        with tempfile.TemporaryDirectory() as folder:
            context.load_cert_chain(*self.authority.server("localhost", "127.0.0.1").write(Path(folder), "proxy"))
        session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None), auto_decompress=False)
        self._session = await self._stack.enter_async_context(session)
        server = web.Server(self._serve)
        runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        listening = socket.create_server(("127.0.0.1", 0))
        await web.SockSite(runner, listening, ssl_context=context).start()
        self.url = f"https://127.0.0.1:{listening.getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests.append((request.method, request.raw_path))
        rule = next((each for each in self.rules if each.used != each.times and each.asked(request)), None)
        if rule:
            rule.used += 1
            if isinstance(rule.outcome, Answer):
                return await _answer(rule.outcome)
            return await self._forward(request, rule.outcome.through)
        return await self._forward(request, None)

    async def _forward(self, request: web.BaseRequest, through: Callable[[Lines], Lines] | None) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        with_token = "Authorization" in request.headers
        sent = self._session.request(
            request.method,
            URL(self.upstream + request.raw_path, encoded=True),
            headers=headers,
            data=await request.read() or None,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            ssl=self._trust if with_token else self._certificate,
            allow_redirects=False,
        )
        async with sent as answer:
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP}
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            if through is None:
                async for piece in answer.content.iter_any():
                    await response.write(piece)
            else:
                async with aclosing(_lines(answer.content)) as lines, aclosing(through(lines)) as changed:
                    async for line in changed:
                        await response.write(line)
            await response.write_eof()
            return response


_HOP_BY_HOP: Final = {"connection", "content-length", "host", "keep-alive", "te", "transfer-encoding", "upgrade"}


async def _answer(answer: Answer) -> web.Response:
    await asyncio.sleep(answer.delay)
    body = {**GONE, "code": answer.status, "reason": answer.reason, "message": f"the fault proxy says {answer.status}"}
    headers = {} if answer.retry_after is None else {"Retry-After": str(answer.retry_after)}
    return web.json_response(body, status=answer.status, headers=headers)


async def _lines(content: aiohttp.StreamReader) -> Lines:
    rest = b""
    async for piece in content.iter_any():
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line + b"\n"
    if rest:
        yield rest


def _this_task() -> asyncio.Task[None]:
    task = asyncio.current_task()
    assert task
    return task
