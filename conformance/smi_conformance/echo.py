"""The one workload of the suite: a server that says who it is, and the client that calls it.

Standard library only, one file, so that it runs from a ConfigMap on any plain Python image as well as in a local
process. `serve` answers HTTP/1.1, HTTP/2 with prior knowledge, gRPC, TCP and UDP and writes a line for every request
that really arrived (the ledger): that, and not what a client saw, decides whether something was denied. `client`
reads jobs as JSON lines and answers each with one line; it stays alive, so that a connection can be kept over several
jobs. Requests without a token (probes of whoever keeps the pod alive) leave no trace.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

TOKEN = "x-conformance-token"  # noqa: S105 - a header's name
PASS_ON = "x-conformance-pass-on"  # noqa: S105
"""A header: whoever receives the request sends it on to this host:port, and answers what comes back from there."""
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


# ------------------------------------------------------------------------------------------------------------ HPACK
# RFC 7541. The Huffman code is canonical: the length of each symbol's code (in base 36) says everything.
_LENGTHS = (
    "dnsssssssoussussssssssusssssssss6aacd68baa8b8666555666666678f6cad67777777777777777777777878djde6f5656"
    "5666577666567655677777fbedskmkkmmmnmnnnnnonoomnonnnnlmnmnnomlkmmnnlnmmolmnnllmlnmnnkmmmnmmnqqkjmnmpqq"
    "qrrqopjlqrrqrollqqsrrrkoklmllnmmppooqnqrqqrrrrrsrrrrrqu"
)
_STATIC_TEXT = """\
:authority|:method=GET|:method=POST|:path=/|:path=/index.html|:scheme=http|:scheme=https|:status=200|:status=204|\
:status=206|:status=304|:status=400|:status=404|:status=500|accept-charset|accept-encoding=gzip, deflate|\
accept-language|accept-ranges|accept|access-control-allow-origin|age|allow|authorization|cache-control|\
content-disposition|content-encoding|content-language|content-length|content-location|content-range|content-type|\
cookie|date|etag|expect|expires|from|host|if-match|if-modified-since|if-none-match|if-range|if-unmodified-since|\
last-modified|link|location|max-forwards|proxy-authenticate|proxy-authorization|range|referer|refresh|retry-after|\
server|set-cookie|strict-transport-security|transfer-encoding|user-agent|vary|via|www-authenticate"""
_PAIRS = [text.partition("=") for text in _STATIC_TEXT.split("|")]
_STATIC = [("", ""), *((name, value) for name, _, value in _PAIRS)]


def _codes() -> dict[tuple[int, int], int]:
    lengths = [int(digit, 36) for digit in _LENGTHS]
    found: dict[tuple[int, int], int] = {}
    code = before = 0
    for symbol in sorted(range(257), key=lambda item: (lengths[item], item)):
        code <<= lengths[symbol] - before
        before = lengths[symbol]
        found[before, code] = symbol
        code += 1
    return found


_HUFFMAN = _codes()


def huffman(data: bytes) -> str:
    """Decode a Huffman-coded string."""
    out = bytearray()
    code = length = 0
    for byte in data:
        for shift in range(7, -1, -1):
            code, length = code << 1 | (byte >> shift & 1), length + 1
            symbol = _HUFFMAN.get((length, code))
            if symbol is not None:
                out.append(symbol)
                code = length = 0
    return out.decode("latin-1")


class Hpack:
    """Decodes header blocks of one connection and one direction."""

    def __init__(self) -> None:
        self._dynamic: list[tuple[str, str]] = []

    def decode(self, block: bytes) -> list[tuple[str, str]]:
        """Return the headers of one block."""
        at, found = 0, []
        while at < len(block):
            first = block[at]
            if first & 0x80:
                index, at = _integer(block, at, 7)
                found.append(self._entry(index))
            elif first & 0xE0 == 0x20:
                _, at = _integer(block, at, 5)
            else:
                indexed = bool(first & 0x40)
                index, at = _integer(block, at, 6 if indexed else 4)
                name = self._entry(index)[0] if index else ""
                if not index:
                    name, at = _text(block, at)
                value, at = _text(block, at)
                found.append((name, value))
                if indexed:
                    self._dynamic.insert(0, (name, value))
                    del self._dynamic[256:]
        return found

    def _entry(self, index: int) -> tuple[str, str]:
        return _STATIC[index] if index < len(_STATIC) else self._dynamic[index - len(_STATIC)]


def _integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    mask = (1 << bits) - 1
    value, at, shift = block[at] & mask, at + 1, 0
    if value == mask:
        while True:
            byte = block[at]
            at += 1
            value += (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                break
    return value, at


def _text(block: bytes, at: int) -> tuple[str, int]:
    coded = bool(block[at] & 0x80)
    length, at = _integer(block, at, 7)
    data = block[at : at + length]
    return (huffman(data) if coded else data.decode("latin-1")), at + length


def encode_headers(headers: list[tuple[str, str]]) -> bytes:
    """Return a header block of literals: no table, no Huffman code, nothing to keep in step."""
    out = bytearray()
    for name, value in headers:
        out.append(0)
        for text in (name, value):
            data = text.encode("latin-1")
            out += _length(len(data)) + data
    return bytes(out)


def _length(value: int) -> bytes:
    if value < 127:
        return bytes([value])
    out, value = bytearray([127]), value - 127
    while value >= 128:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one HTTP/2 frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def frames(buffer: bytearray) -> Iterator[tuple[int, int, int, bytes]]:
    """Take the complete frames out of a buffer."""
    while len(buffer) >= 9:
        length = int.from_bytes(buffer[:3], "big")
        if len(buffer) < 9 + length:
            return
        kind, flags, stream = struct.unpack(">BBI", buffer[3:9])
        payload = bytes(buffer[9 : 9 + length])
        del buffer[: 9 + length]
        yield kind, flags, stream & 0x7FFFFFFF, payload


def block_of(payload: bytes, flags: int) -> bytes:
    """Return the header block of a HEADERS frame without padding and priority."""
    start, end = 0, len(payload)
    if flags & 0x8:
        start, end = 1, end - payload[0]
    if flags & 0x20:
        start += 5
    return payload[start:end]


# ----------------------------------------------------------------------------------------------------------- server
class Identity:
    """Who this server is, and where it writes its ledger."""

    def __init__(self, environment: dict[str, str]) -> None:
        get = environment.get
        self.answer = {
            "ns": get("ECHO_NAMESPACE", ""),
            "app": get("ECHO_APP", ""),
            "pod": get("ECHO_POD", ""),
            "sa": get("ECHO_ACCOUNT", ""),
        }
        path = get("ECHO_LEDGER", "")
        self._out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) if path else 1
        self._broken = ""
        self._bodies: dict[int, bytes] = {}

    def body(self, port: int) -> bytes:
        """Return the answer of a port."""
        found = self._bodies.get(port)
        if found is None:
            said = {"broken": self._broken} if self._broken else {**self.answer, "port": port}
            found = self._bodies[port] = json.dumps(said, separators=(",", ":")).encode()
        return found

    def receipt(self, token: str, port: int, kind: str, **more: str) -> None:
        """Write down that a request arrived."""
        if token:
            line = {"app": self.answer["app"], "pod": self.answer["pod"], "token": token, "port": port, "kind": kind}
            try:
                os.write(self._out, json.dumps(line | more, separators=(",", ":")).encode() + b"\n")
            except OSError as error:  # the client is told: without a ledger nothing that is asked here proves anything
                self._broken = str(error)
                self._bodies.clear()


def family(host: str) -> socket.AddressFamily:
    """Return the kind of an address."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


class Loop:
    """Serves sockets as they become ready. A run starts a hundred servers: asyncio takes too long to import."""

    def __init__(self) -> None:
        self._ready = selectors.DefaultSelector()
        self._wake, ear = socket.socketpair()
        self._called: deque[Callable[[], None]] = deque()
        ear.setblocking(False)
        self.watch(ear, lambda _: ear.recv(4096))

    def watch(self, item: socket.socket, ready: Callable[[int], object], events: int = selectors.EVENT_READ) -> None:
        """Call `ready` with what a socket is ready for, from now on."""
        self._ready.register(item, events, ready)

    def change(self, item: socket.socket, events: int) -> None:
        """Wait for something else from now on."""
        self._ready.modify(item, events, self._ready.get_key(item).data)

    def forget(self, item: socket.socket) -> None:
        """Wait for nothing any more."""
        self._ready.unregister(item)

    def call(self, what: Callable[[], None]) -> None:
        """Have something called by the loop; any thread may ask."""
        self._called.append(what)
        self._wake.send(b"!")

    def listen(self, address: tuple[str, int], server: Callable[[], HttpServer | TcpServer]) -> None:
        """Accept connections, each with a server of its own."""
        door = socket.create_server(address, family=family(address[0]), backlog=512)
        door.setblocking(False)

        def accept(_: int) -> None:
            try:
                accepted, _address = door.accept()
            except OSError:  # it went away before we came
                return
            Stream(self, accepted, server())

        self.watch(door, accept)

    def run(self) -> None:
        """Serve until killed."""
        while True:
            for key, events in self._ready.select():
                key.data(events)
            while self._called:
                self._called.popleft()()


class Stream:
    """One accepted connection, which neither reads nor writes more than the other side is ready for."""

    def __init__(self, loop: Loop, accepted: socket.socket, server: HttpServer | TcpServer) -> None:
        self.loop = loop
        self._socket = accepted
        self._server = server
        self._unsent = bytearray()
        self._open = True
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loop.watch(accepted, self._go)
        server.connection_made(self)

    def write(self, data: bytes) -> None:
        """Send, now or as soon as the other side takes it."""
        if not self._open:
            return
        if not self._unsent:
            try:
                data = data[self._socket.send(data) :]
            except BlockingIOError:
                pass
            except OSError:
                self._close()
                return
            if not data:
                return
            self.loop.change(self._socket, selectors.EVENT_READ | selectors.EVENT_WRITE)
        self._unsent += data

    def _go(self, events: int) -> None:
        if events & selectors.EVENT_WRITE and self._unsent:
            data = bytes(self._unsent)
            self._unsent.clear()
            self.loop.change(self._socket, selectors.EVENT_READ)
            self.write(data)
        if events & selectors.EVENT_READ and self._open:
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if data:
                self.attempt(lambda: self._server.data_received(data))
            else:
                self._close()

    def attempt(self, what: Callable[[], None]) -> None:
        """Do something for this connection; if it sent nonsense, it ends, and no other."""
        try:
            what()
        except Exception as error:  # noqa: BLE001 - whatever nonsense it is
            sys.stderr.write(f"a connection sent nonsense: {type(error).__name__}: {error}\n")
            self._close()

    def _close(self) -> None:
        if self._open:
            self._open = False
            self.loop.forget(self._socket)
            self._socket.close()


class HttpServer:
    """HTTP/1.1 and, when the connection begins with its preface, HTTP/2."""

    def __init__(self, identity: Identity, port: int) -> None:
        self._identity = identity
        self._port = port
        self._buffer = bytearray()
        self._wanted = 0
        self._two = False
        self._hpack = Hpack()
        self._open: dict[int, list[tuple[str, str]]] = {}
        self._transport: Stream

    def connection_made(self, transport: Stream) -> None:
        """Keep the connection."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer every complete request."""
        self._buffer += data
        if not self._two and self._buffer.startswith(_PREFACE):
            self._two = True
            del self._buffer[: len(_PREFACE)]
            self._transport.write(frame(4, 0, 0))
        if self._two:
            for item in frames(self._buffer):
                self._frame(*item)
        elif not _PREFACE.startswith(self._buffer):
            while self._one():
                pass

    def _one(self) -> bool:
        if self._wanted:
            taken = min(self._wanted, len(self._buffer))
            del self._buffer[:taken]
            self._wanted -= taken
            if self._wanted:
                return False
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        lines = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        method, path, _ = (lines[0] + "  ").split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        self._wanted = int(headers.get("content-length", "0") or 0)
        if to := headers.get(PASS_ON, ""):
            passed = (to, path, headers.get(TOKEN, ""))
            threading.Thread(target=self._pass_on, args=passed, daemon=True).start()
            return False
        self._receipt(method, path, headers)
        body = self._identity.body(self._port)
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        self._transport.write(head if method == "HEAD" else head + body)
        return True

    def _pass_on(self, to: str, path: str, token: str) -> None:
        """Be a client of another workload; one request at a time for each connection, which HTTP/1.1 clients do."""
        host, _, port = to.rpartition(":")
        try:
            with socket.create_connection((host, int(port)), 30) as other:
                line = f"GET {path} HTTP/1.1\r\nhost: {to}\r\n{TOKEN}: {token}\r\nconnection: close\r\n\r\n"
                other.sendall(line.encode())
                head, _, body = b"".join(iter(lambda: other.recv(65536), b"")).partition(b"\r\n\r\n")
            status = head.split(b" ", 2)[1]
        except (OSError, ValueError, IndexError) as error:
            status, body = b"502", repr(error).encode()
        answer = b"HTTP/1.1 %s -\r\ncontent-length: %d\r\n\r\n" % (status, len(body)) + body
        self._transport.loop.call(lambda: self._transport.attempt(lambda: self._passed_on(answer)))

    def _passed_on(self, answer: bytes) -> None:
        self._transport.write(answer)
        while self._one():
            pass

    def _receipt(self, method: str, path: str, headers: dict[str, str]) -> None:
        self._identity.receipt(headers.get(TOKEN, ""), self._port, "http", method=method, path=path)

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == 4 and not flags & 1:
            self._transport.write(frame(4, 1, 0))
        elif kind == 6 and not flags & 1:
            self._transport.write(frame(6, 1, 0, payload))
        elif kind == 1:
            self._open[stream] = self._hpack.decode(block_of(payload, flags))
            if flags & 1:
                self._reply(stream)
        elif kind == 0:
            if payload:  # give the window back at once
                update = struct.pack(">I", len(payload))
                self._transport.write(frame(8, 0, 0, update) + frame(8, 0, stream, update))
            if flags & 1:
                self._reply(stream)
        elif kind == 3:
            self._open.pop(stream, None)

    def _reply(self, stream: int) -> None:
        headers = dict(self._open.pop(stream, []))
        self._receipt(headers.get(":method", ""), headers.get(":path", ""), headers)
        said = self._identity.body(self._port)
        if headers.get("content-type", "").startswith("application/grpc"):
            head = encode_headers([(":status", "200"), ("content-type", "application/grpc")])
            body = b"\0" + struct.pack(">I", len(said)) + said
            end = frame(1, 5, stream, encode_headers([("grpc-status", "0")]))
            self._transport.write(frame(1, 4, stream, head) + frame(0, 0, stream, body) + end)
            return
        head = encode_headers([(":status", "200"), ("content-length", str(len(said)))])
        self._transport.write(frame(1, 4, stream, head) + frame(0, 1, stream, said))


class TcpServer:
    """Answers each line (a token) with one line; `first` speaks before it is spoken to."""

    def __init__(self, identity: Identity, port: int, *, first: bool) -> None:
        self._identity, self._port, self._first = identity, port, first
        self._buffer = bytearray()
        self._transport: Stream

    def connection_made(self, transport: Stream) -> None:
        """Greet, if it is that kind of protocol."""
        self._transport = transport
        if self._first:
            self._transport.write(self._identity.body(self._port) + b"\n")

    def data_received(self, data: bytes) -> None:
        """Answer every complete line."""
        self._buffer += data
        while (end := self._buffer.find(b"\n")) >= 0:
            token = bytes(self._buffer[:end]).decode("latin-1").strip()
            del self._buffer[: end + 1]
            self._identity.receipt(token, self._port, "tcp")
            self._transport.write(self._identity.body(self._port) + b"\n")


def datagrams(loop: Loop, identity: Identity, address: tuple[str, int]) -> None:
    """Answer each datagram (a token) with one."""
    door = socket.socket(family(address[0]), socket.SOCK_DGRAM)
    door.bind(address)
    door.setblocking(False)

    def answer(_: int) -> None:
        try:
            data, sender = door.recvfrom(65536)
            identity.receipt(data.decode("latin-1").strip(), address[1], "udp")
            door.sendto(identity.body(address[1]), sender)
        except OSError:  # as of a sender who is gone
            pass

    loop.watch(door, answer)


def serve(environment: dict[str, str]) -> None:
    """Listen on every port of ECHO_PORTS at ECHO_BIND until killed."""
    identity = Identity(environment)
    host = environment.get("ECHO_BIND") or "0.0.0.0"  # noqa: S104 - in a pod it has to
    loop = Loop()
    for item in json.loads(environment.get("ECHO_PORTS", "[]")):
        port, protocol = int(item["port"]), str(item["protocol"])
        if protocol == "udp":
            datagrams(loop, identity, (host, port))
        else:
            loop.listen((host, port), _factory(identity, port, protocol))
    loop.run()


def _factory(identity: Identity, port: int, protocol: str) -> Callable[[], HttpServer | TcpServer]:
    if protocol == "http":
        return lambda: HttpServer(identity, port)
    return lambda: TcpServer(identity, port, first=protocol == "tcp-first")


# ----------------------------------------------------------------------------------------------------------- client
class Closed(Exception):  # noqa: N818
    """The other side closed or reset the connection before it answered."""


class Stopped(Exception):  # noqa: N818
    """Nothing came in time."""


def outcome_of(error: BaseException) -> str:
    """Name what went wrong with a connection."""
    if isinstance(error, socket.gaierror):
        return "dns"
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, (Stopped, TimeoutError, socket.timeout)):
        return "timeout"
    return "reset"


class Connection:
    """One blocking connection, HTTP/1.1, HTTP/2 or lines."""

    def __init__(self, address: tuple[str, int], timeout: float, source: str = "") -> None:
        self._socket = socket.create_connection(address, timeout, (source, 0) if source else None)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray()
        self._stream = -1
        self._greeted = False
        self._hpack = Hpack()

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def _more(self) -> None:
        data = self._socket.recv(65536)
        if not data:
            raise Closed
        self._buffer += data

    def line(self, token: str, *, first: bool) -> str:
        """Send a token and return the answer; with `first`, the server has to greet before."""
        if first and not self._greeted:
            self._greeted = bool(self._line())
        self._socket.sendall(token.encode() + b"\n")
        return self._line()

    def _line(self) -> str:
        while b"\n" not in self._buffer:
            self._more()
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer[:] = rest
        return line.decode("latin-1")

    def one(self, head: bytes, method: str) -> tuple[int, str]:
        """Send an HTTP/1.1 request and return status and body."""
        self._socket.sendall(head)
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            self._more()
        lines = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        status = int(lines[0].split(" ", 2)[1])
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        body = b""
        if method != "HEAD" and status not in {204, 304} and not (method == "CONNECT" and status == 200):
            body = self._chunks() if "chunked" in headers.get("transfer-encoding", "") else self._exactly(headers)
        if headers.get("connection", "").lower() == "close":
            self.close()
        return status, body.decode("latin-1")

    def _exactly(self, headers: dict[str, str]) -> bytes:
        length = int(headers.get("content-length", "0") or 0)
        while len(self._buffer) < length:
            self._more()
        body = bytes(self._buffer[:length])
        del self._buffer[:length]
        return body

    def _chunks(self) -> bytes:
        body = b""
        while True:
            size = int(self._line().split(";")[0].strip() or "0", 16)
            while len(self._buffer) < size + 2:
                self._more()
            body += bytes(self._buffer[:size])
            del self._buffer[: size + 2]
            if not size:
                return body

    def two(self, headers: list[tuple[str, str]], body: bytes) -> tuple[int, str]:  # noqa: C901 - a frame each
        """Send an HTTP/2 request and return status and body (of gRPC: the message)."""
        if self._stream < 0:
            self._socket.sendall(_PREFACE + frame(4, 0, 0))
        self._stream += 2
        stream = self._stream
        flags = 4 if body else 5
        self._socket.sendall(frame(1, flags, stream, encode_headers(headers)))
        if body:
            self._socket.sendall(frame(0, 1, stream, body))
        status, received = 0, b""
        while True:
            for kind, flags, at, payload in frames(self._buffer):
                if kind == 4 and not flags & 1:
                    self._socket.sendall(frame(4, 1, 0))
                elif kind == 6 and not flags & 1:
                    self._socket.sendall(frame(6, 1, 0, payload))
                elif kind == 7 or (kind == 3 and at == stream):
                    raise Closed
                elif kind == 1:
                    found = dict(self._hpack.decode(block_of(payload, flags)))
                    status = int(found.get(":status", status)) if at == stream else status
                elif kind == 0 and at == stream:
                    received += payload
                if at == stream and kind in {0, 1} and flags & 1:
                    return status, received.decode("latin-1")
            self._more()


class Crew:
    """Threads that are used again: most batches are small, and starting a thread takes as long as a request."""

    def __init__(self) -> None:
        self._idle: deque[SimpleQueue[Callable[[], None]]] = deque()

    def run(self, work: Callable[[], None]) -> None:
        """Have something done by a thread that has nothing to do, or by a new one."""
        try:
            box = self._idle.pop()
        except IndexError:
            box = SimpleQueue()
            threading.Thread(target=self._serve, args=(box,), daemon=True).start()
        box.put(work)

    def _serve(self, box: SimpleQueue[Callable[[], None]]) -> None:
        while True:
            box.get()()
            self._idle.append(box)


CREW = Crew()


class Job:
    """One batch of requests: where, what, how many, over which connections."""

    def __init__(self, job: dict[str, Any], kept: dict[str, Connection]) -> None:
        self._job = job
        self._kept = kept
        self._addresses = [(str(host), int(port)) for host, port in job["addresses"]]
        self._bodies: dict[str, int] = {}
        self._replies: list[list[Any]] = [[] for _ in range(job.get("n", 1))]
        self._lock = threading.Lock()
        self._next = iter(range(job.get("n", 1)))
        self._began = time.monotonic()
        self.cancelled = False

    def run(self) -> dict[str, Any]:
        """Do it and return what came back, in the order of sending."""
        width = min(self._job.get("concurrency", 8), len(self._replies))
        if self._job.get("kept"):
            width = 1
        over: SimpleQueue[BaseException | None] = SimpleQueue()
        for number in range(width):
            CREW.run(lambda number=number: over.put(self._tried(number)))  # type: ignore[misc]
        broken = [error for _ in range(width) if (error := over.get()) is not None]
        if broken:
            raise broken[0]
        done = [reply for reply in self._replies if reply]
        return {"id": self._job["id"], "bodies": list(self._bodies), "replies": done}

    def _tried(self, number: int) -> BaseException | None:
        try:
            self._loop(number)
        except Exception as error:  # noqa: BLE001 - whoever asked for the batch is told
            return error
        return None

    def _loop(self, number: int) -> None:
        connection: Connection | None = None
        style = self._job.get("connection", "half")
        fresh = style == "new" or (style == "half" and number % 2 == 1)
        name = self._job.get("kept", "")
        while not self.cancelled:
            with self._lock:
                index = next(self._next, None)
            if index is None:
                break
            if (interval := self._job.get("interval", 0.0)) and index:
                time.sleep(max(0.0, self._began + index * interval - time.monotonic()))
            if name:
                connection = self._kept.get(name)
            connection = self._send(index, None if fresh else connection)
            if name:
                if connection is not None:
                    self._kept[name] = connection
                else:
                    self._kept.pop(name, None)
            elif fresh and connection is not None:
                connection.close()
                connection = None
        if connection is not None and not name:
            connection.close()

    def _send(self, index: int, connection: Connection | None) -> Connection | None:
        """Send one request; return the connection if it can be used again."""
        job, started = self._job, time.monotonic()
        token = f"{job['token']}-{index}"
        status, body, outcome, kept = 0, "", "ok", connection is not None
        try:
            if job["kind"] == "udp":
                body = self._datagram(token, index)
            else:
                if connection is None:
                    address = self._addresses[index % len(self._addresses)]
                    connection = Connection(address, job.get("timeout", 5.0), job.get("source", ""))
                status, body = self._exchange(connection, token)
                outcome = "ok" if not status or 200 <= status < 300 else "http_error"
        except (OSError, Closed, Stopped, ValueError, IndexError, UnicodeError) as error:
            outcome = outcome_of(error)
            if connection is not None:
                connection.close()
            connection = None
        with self._lock:
            at = self._bodies.setdefault(body, len(self._bodies))
        took = round((time.monotonic() - started) * 1000, 1)
        self._replies[index] = [outcome, status, at, token, took, kept]
        return connection

    def _exchange(self, connection: Connection, token: str) -> tuple[int, str]:
        job = self._job
        if job["kind"].startswith("tcp"):
            return 0, connection.line(token, first=job["kind"] == "tcp-first")
        method, path = job.get("method", "GET"), job.get("path", "/")
        extra = [(name, value) for name, value in job.get("headers", [])]
        if job["kind"] in {"h2c", "grpc"}:
            headers = [(":method", "POST" if job["kind"] == "grpc" else method), (":scheme", "http"), (":path", path)]
            headers += [(":authority", job["host"]), (TOKEN, token), *((name.lower(), value) for name, value in extra)]
            if job["kind"] == "grpc":
                headers += [("content-type", "application/grpc"), ("te", "trailers")]
                status, body = connection.two(headers, b"\0\0\0\0\0")
                return status, body[5:]
            return connection.two(headers, b"")
        lines = [f"{method} {path} HTTP/1.1", f"host: {job['host']}", f"{TOKEN}: {token}"]
        lines += [f"{name}: {value}" for name, value in extra]
        if method in {"POST", "PUT", "PATCH"}:
            lines.append("content-length: 0")
        return connection.one(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"), method)

    def _datagram(self, token: str, index: int) -> str:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            if source := self._job.get("source", ""):
                datagrams.bind((source, 0))
            datagrams.settimeout(self._job.get("timeout", 1.0))
            datagrams.connect(self._addresses[index % len(self._addresses)])
            datagrams.send(token.encode())
            return datagrams.recv(65536).decode("latin-1")


def client() -> None:
    """Run jobs from stdin, several at a time, until it closes."""
    kept: dict[str, Connection] = {}
    running: dict[int, Job] = {}
    lock = threading.Lock()

    def run(job: Job, number: int) -> None:
        try:
            answer = job.run()
        except Exception as error:  # noqa: BLE001 - one broken job must not end the others
            answer = {"id": number, "error": f"{type(error).__name__}: {error}"}
        with lock:
            running.pop(number, None)
            sys.stdout.write(json.dumps(answer, separators=(",", ":")) + "\n")
            sys.stdout.flush()

    for line in sys.stdin:
        if not line.strip():
            continue
        raw = json.loads(line)
        if "cancel" in raw:
            with lock:
                if (other := running.get(raw["cancel"])) is not None:
                    other.cancelled = True
            continue
        if "close" in raw:
            if (connection := kept.pop(raw["close"], None)) is not None:
                connection.close()
            continue
        job = Job(raw, kept)
        with lock:
            running[raw["id"]] = job
        CREW.run(lambda job=job, number=raw["id"]: run(job, number))  # type: ignore[misc]


if __name__ == "__main__":
    if sys.argv[1:] == ["client"]:
        client()
    else:
        serve(dict(os.environ))
