"""Small applications and clients for tests against real Envoys: HTTP/1.1 and HTTP/2 echo, TCP, UDP.

An echo answers with JSON that says which application it was and exactly what reached it. The clients write what they
are told, byte by byte, so that a test can send what no library would.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any, Self

import h2.config
import h2.connection
import h2.events

TIMEOUT = 20.0


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer. `echo` is what the application said, empty if it was not an application that answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def echo(self) -> dict[str, Any]:
        try:
            said = json.loads(self.body)
        except ValueError:
            return {}
        return said if isinstance(said, dict) else {}

    @property
    def app(self) -> str:
        return str(self.echo.get("app", ""))


@dataclass(slots=True)
class Request:
    """What an echo received."""

    method: str
    path: str
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""


def _echo(name: str, request: Request, protocol: str, peer: str) -> bytes:
    said = {
        "app": name,
        "method": request.method,
        "path": request.path,
        "headers": [list(item) for item in request.headers],
        "body": request.body.decode(errors="replace"),
        "protocol": protocol,
        "peer": peer,
    }
    return json.dumps(said).encode()


# ------------------------------------------------------------------------------------------------------- servers


@contextlib.asynccontextmanager
async def http_app(name: str, address: str, port: int) -> AsyncIterator[None]:
    """Serve an echo that speaks HTTP/1.1 and, to a client that begins with its preface, HTTP/2 in plain text."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = str(writer.get_extra_info("peername")[0])
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            first = await reader.readexactly(3)
            if first == b"PRI":
                await _serve_http2(name, first, reader, writer)
            else:
                await _serve_http1(name, first, reader, writer, peer)
        writer.close()

    async with _serving(serve, address, port):
        yield


@contextlib.asynccontextmanager
async def tcp_app(name: str, address: str, port: int, *, greets: bool = False) -> AsyncIterator[None]:
    """Serve lines back with the application's name before each; one that greets speaks first."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            if greets:
                writer.write(f"hello from {name}\n".encode())
            while line := await reader.readline():
                writer.write(name.encode() + b" " + line)
                await writer.drain()
        writer.close()

    async with _serving(serve, address, port):
        yield


@contextlib.asynccontextmanager
async def udp_app(name: str, address: str, port: int) -> AsyncIterator[None]:
    """Answer each datagram with the application's name."""

    class Protocol(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, _data: bytes, addr: tuple[str, int]) -> None:
            self.transport.sendto(name.encode(), addr)

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Protocol, (address, port))
    try:
        yield
    finally:
        transport.close()


@contextlib.asynccontextmanager
async def _serving(serve: Any, address: str, port: int) -> AsyncIterator[None]:
    tasks: set[asyncio.Task[None]] = set()

    async def tracked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await serve(reader, writer)
        except asyncio.CancelledError:
            task.uncancel()  # asyncio reports a cancelled handler as an error
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(tracked, address, port)
    try:
        yield
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _serve_http1(
    name: str, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: str
) -> None:
    while first:
        head = first + await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        method, path, _ = lines[0].split(" ", 2)
        headers = [(key.lower(), text.strip()) for key, _, text in (line.partition(":") for line in lines[1:] if line)]
        length = int(dict(headers).get("content-length", "0"))
        if dict(headers).get("upgrade") == "websocket":
            await _switch(name, reader, writer)
            return
        request = Request(method, path, headers, await reader.readexactly(length))
        body = _echo(name, request, "HTTP/1.1", peer)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body))
        writer.write(body)
        await writer.drain()
        first = await reader.read(1)


async def _switch(name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Speak something else from now on, as after a WebSocket handshake: whatever comes goes back."""
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
    while data := await reader.read(1024):
        writer.write(name.encode() + b" " + data)
        await writer.drain()


async def _serve_http2(name: str, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
    connection.initiate_connection()
    writer.write(connection.data_to_send())
    peer = str(writer.get_extra_info("peername")[0])
    requests: dict[int, Request] = {}
    data = first
    while data:
        for event in connection.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                headers = [(str(key), str(text)) for key, text in event.headers or []]
                known = dict(headers)
                requests[event.stream_id or 0] = Request(known[":method"], known[":path"], headers)
            elif isinstance(event, h2.events.DataReceived):
                requests[event.stream_id or 0].body += event.data or b""
                connection.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
            elif isinstance(event, h2.events.StreamEnded):
                stream = event.stream_id or 0
                body = _echo(name, requests.pop(stream), "HTTP/2", peer)
                connection.send_headers(stream, [(":status", "200"), ("content-type", "application/grpc")])
                connection.send_data(stream, body)
                connection.send_headers(stream, [("grpc-status", "0")], end_stream=True)
        writer.write(connection.data_to_send())
        await writer.drain()
        data = await reader.read(65536)


# ------------------------------------------------------------------------------------------------------- clients


class HttpClient:
    """One keep-alive HTTP/1.1 connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def connect(cls, address: str, port: int, *, source: str = "", tls: Any = None) -> Self:
        where: dict[str, Any] = {"local_addr": (source, 0)} if source else {}
        async with asyncio.timeout(TIMEOUT):  # `wait_for` of Python 3.11 may lose a cancellation
            name = "any" if tls else None
            return cls(*await asyncio.open_connection(address, port, ssl=tls, server_hostname=name, **where))

    async def request(
        self, path: str = "/", method: str = "GET", headers: Iterable[tuple[str, str]] = (), body: bytes = b""
    ) -> Reply:
        async with asyncio.timeout(TIMEOUT):
            return await self._request(path.encode("latin-1"), method, headers, body)

    async def _request(self, path: bytes, method: str, headers: Iterable[tuple[str, str]], body: bytes) -> Reply:
        lines = [b"%s %s HTTP/1.1" % (method.encode(), path)]
        lines += [f"{key}: {text}".encode("latin-1") for key, text in (("host", "any.example"), *headers)]
        if body:
            lines.append(b"content-length: %d" % len(body))
        self._writer.write(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        answered = {key.lower(): text.strip() for key, _, text in (line.partition(":") for line in head[1:] if line)}
        return Reply(int(head[0].split(" ")[1]), answered, await self._body(answered))

    async def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") != "chunked":
            return await self._reader.readexactly(int(headers.get("content-length", "0")))
        body = b""
        while size := int(await self._reader.readline(), 16):
            body += await self._reader.readexactly(size)
            await self._reader.readline()
        await self._reader.readline()
        return body

    def begin(self, path: str, method: str, length: int) -> None:
        """Send the head of a request, and nothing of its body."""
        self._writer.write(
            f"{method} {path} HTTP/1.1\r\nhost: any.example\r\ncontent-length: {length}\r\n\r\n".encode()
        )

    async def frame(self, data: bytes) -> bytes:
        """Send bytes after an upgrade; return what comes back."""
        self._writer.write(data)
        return await asyncio.wait_for(self._reader.read(1024), TIMEOUT)

    def close(self) -> None:
        self._writer.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


async def get(
    address: str, port: int, path: str = "/", method: str = "GET", headers: Iterable[tuple[str, str]] = ()
) -> Reply:
    """Send one request on a connection of its own."""
    async with await HttpClient.connect(address, port) as client:
        return await client.request(path, method, headers)


async def http2(
    address: str, port: int, headers: Iterable[tuple[str, str]], body: bytes = b"", times: int = 1
) -> list[Reply]:
    """Send requests over one HTTP/2 connection in plain text, all at once; trailers are among a reply's headers."""
    reader, writer = await asyncio.wait_for(asyncio.open_connection(address, port), TIMEOUT)
    connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    connection.initiate_connection()
    streams: dict[int, Reply] = {}
    for _ in range(times):
        stream = connection.get_next_available_stream_id()
        connection.send_headers(stream, list(headers), end_stream=not body)
        if body:
            connection.send_data(stream, body, end_stream=True)
        streams[stream] = Reply(0, {}, b"")
    writer.write(connection.data_to_send())
    open_streams = set(streams)
    async with asyncio.timeout(TIMEOUT):
        while open_streams and (data := await reader.read(65536)):
            for event in connection.receive_data(data):
                stream = getattr(event, "stream_id", None) or 0
                if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                    found = {str(key): str(text) for key, text in event.headers or []}
                    reply = streams[stream]
                    status = int(found.get(":status", reply.status))
                    streams[stream] = Reply(status, {**reply.headers, **found}, reply.body)
                elif isinstance(event, h2.events.DataReceived):
                    reply = streams[stream]
                    streams[stream] = Reply(reply.status, reply.headers, reply.body + (event.data or b""))
                    connection.acknowledge_received_data(event.flow_controlled_length or 0, stream)
                elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                    open_streams.discard(stream)
            writer.write(connection.data_to_send())
    writer.close()
    return list(streams.values())


class TcpClient:
    """One TCP connection that speaks lines; a closed one answers with ""."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def connect(cls, address: str, port: int) -> Self:
        return cls(*await asyncio.wait_for(asyncio.open_connection(address, port), TIMEOUT))

    async def line(self) -> str:
        """Return the next line; "" if the connection was closed, which closes this side too."""
        try:
            line = (await asyncio.wait_for(self._reader.readline(), TIMEOUT)).decode()
        except ConnectionError:
            line = ""
        if not line:
            self.close()
        return line

    async def ask(self, text: str) -> str:
        try:
            self._writer.write(text.encode() + b"\n")
            await self._writer.drain()
        except ConnectionError:
            self.close()
            return ""
        return await self.line()

    def close(self) -> None:
        self._writer.close()


async def datagram(address: str, port: int, timeout: float = 2.0) -> str:  # noqa: ASYNC109 - "" instead of an error
    """Send a datagram from a port of its own (a session of its own to a proxy); return the answer, "" if none."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[str] = loop.create_future()

    class Protocol(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, _addr: tuple[str, int]) -> None:
            if not answer.done():
                answer.set_result(data.decode())

        def error_received(self, _exc: Exception) -> None:
            if not answer.done():
                answer.set_result("")

    transport, _ = await loop.create_datagram_endpoint(Protocol, remote_addr=(address, port))
    try:
        transport.sendto(b"?")
        return await asyncio.wait_for(answer, timeout)
    except TimeoutError:
        return ""
    finally:
        transport.close()
