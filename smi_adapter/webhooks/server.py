"""HTTPS for the webhooks: limits before anything is read, certificates that change while it runs.

The API server calls `/validate` and `/convert` as `validate.py` and `convert.py` answer them; judging happens on other
threads, so that a large list never stops the event loop that serves proxies. At each handshake `sni_callback` puts the
present certificate in place, so a renewal needs neither a new socket nor the end of a connection.

No client certificate is asked for: the API server has none by default. But what the world says of an object tells
which names there are, so it is told on a path that only the API server knows, from its webhook configuration
(`path_of`). Whoever else gets through learns what is wrong with an object that he wrote himself, and nothing of others.
What he could do is to be slow or large; connections, requests, bytes and seconds are therefore few.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import ssl
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

from aiohttp import web

from smi_adapter.webhooks import convert, envelope, validate

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one replica takes at a time. `judging`: the API server waits 2 s, so the answer comes before."""

    connections: int = 256
    admissions: int = 16
    conversions: int = 4
    reading: float = 5.0
    judging: float = 1.5
    converting: float = 20.0
    idle: float = 120.0


Reviewed: TypeAlias = Callable[[str, str, float], None]
"""Hears of each request: `validate`, `convert` or `none`; how it ended; after how many seconds.

Ends are `allowed`, `refused` and `converted`; `late`, if we had no time to judge or convert; `busy`, if there was no
place for it; `malformed`, if it was nothing that can be answered; `broken` for all else: cut off, or our own error.
"""

_Answered: TypeAlias = tuple[str, bytes]
"""How a request ended, and the body of the answer."""

_Webhook: TypeAlias = Callable[[web.BaseRequest], Awaitable[_Answered]]

_ENDS: Final = {503: "busy", 504: "late"}

DEFAULTS: Final = Limits()
VALIDATE: Final = "/validate"
_UNUSED: Final = 15.0
"""Seconds within which a connection must have brought a request."""


def path_of(key: bytes) -> str:
    """Return the path that only who has the key can make, or who may read our webhook configuration."""
    return f"{VALIDATE}/{key.hex()}"


class WebhookServer:
    """Serves admission and (if asked for) conversion; `use` gives it a certificate, without one nobody connects."""

    def __init__(
        self,
        judge: validate.Judge | None = None,
        reviewed: Reviewed | None = None,
        *,
        converts: bool = False,
        limits: Limits = DEFAULTS,
    ) -> None:
        self.judge = judge
        self.path = ""
        """The path on which the judge is asked; on others below `/validate` an object is judged by itself alone.

        Such a path may be the right one of a replica that holds another authority (faults.md F37)."""
        self._reviewed = reviewed
        self._converts = converts
        self._limits = limits
        self._present: ssl.SSLContext | None = None
        self._admissions = asyncio.Semaphore(limits.admissions)
        self._conversions = asyncio.Semaphore(limits.conversions)
        self._threads = ThreadPoolExecutor(2, "admission")
        self._converters = ThreadPoolExecutor(1, "conversion")
        self._http: web.Server | None = None
        self._listening: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._used: dict[Any, float] = {}
        self._busy: Counter[Any] = Counter()

    # ------------------------------------------------------------------------------------------------- lifetime
    def use(self, certificate: bytes, private_key: bytes) -> None:
        """Show this certificate from the next handshake on; ValueError if the two do not fit."""
        self._present = tls_context(certificate, private_key)

    async def start(self, host: str, port: int) -> int:
        """Listen, and return the port."""
        front = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        front.minimum_version = ssl.TLSVersion.TLSv1_2
        front.sni_callback = self._swap  # called at every handshake, also of a client that sends no name
        loop = asyncio.get_running_loop()
        self._http = web.Server(
            self._handle,
            access_log=None,
            keepalive_timeout=self._limits.idle,
            lingering_time=0.0,
            auto_decompress=False,
            max_line_size=2048,
            max_field_size=8190,
        )
        self._listening = await loop.create_server(
            self._connection, host, port, ssl=front, ssl_handshake_timeout=5.0, backlog=128
        )
        self._sweeper = asyncio.create_task(self._sweep(), name="webhooks: close unused connections")
        return int(self._listening.sockets[0].getsockname()[1])

    async def watch(self) -> None:
        """Run for as long as what `start` set going: its error, or its end, comes out here. For a core task (F42)."""
        if self._sweeper is not None:
            await asyncio.shield(self._sweeper)

    async def stop(self, grace: float = 5.0) -> None:
        """Take no new connections, let requests in flight end, and close."""
        if self._sweeper:
            self._sweeper.cancel()
        if self._listening:
            self._listening.close()
        if self._http:
            connections = self._http.connections
            self._http.pre_shutdown()
            await self._http.shutdown(grace)
            for one in connections:
                if one.transport is not None:
                    one.transport.abort()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._converters.shutdown(wait=False, cancel_futures=True)

    def _swap(self, connection: ssl.SSLObject, _name: str | None, _front: ssl.SSLContext) -> int | None:
        if self._present is None:
            return int(ssl.ALERT_DESCRIPTION_INTERNAL_ERROR)
        connection.context = self._present
        return None

    def _connection(self) -> asyncio.BaseProtocol:
        if self._http is None or len(self._http.connections) >= self._limits.connections:
            return _Refusing()
        return self._http()

    async def _sweep(self) -> None:
        """Close connections that never bring a whole request: aiohttp has no timeout for the head of one."""
        loop = asyncio.get_running_loop()
        while self._http is not None:
            await asyncio.sleep(_UNUSED / 5)
            now = loop.time()
            present = set(self._http.connections)
            self._used = {one: self._used.get(one, now) for one in present}
            for one in present:
                allowed = self._limits.idle * 2 if one in self._busy else _UNUSED
                if now - self._used[one] > allowed and self._busy.get(one, 0) <= 0 and one.transport is not None:
                    one.transport.abort()
            self._busy = Counter({one: number for one, number in self._busy.items() if one in present})

    # ------------------------------------------------------------------------------------------------- requests
    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection, loop = request.protocol, asyncio.get_running_loop()
        self._busy[connection] += 1
        began, webhook, end = loop.time(), "none", "broken"
        try:
            webhook, answer = self._route(request.path)
            end, body = await _asked(request, answer)
            return web.Response(body=body, content_type="application/json")
        except envelope.MalformedError as error:
            end = _ENDS.get(error.status, "malformed")
            response = web.Response(status=error.status, text=str(error))
            response.force_close()
            return response
        finally:
            self._busy[connection] -= 1
            self._used[connection] = loop.time()
            if self._reviewed is not None:
                self._reviewed(webhook, end, loop.time() - began)

    def _route(self, path: str) -> tuple[str, _Webhook | None]:
        """Return which webhook a path is of, and who answers there."""
        if self.path and hmac.compare_digest(path.encode(errors="surrogatepass"), self.path.encode()):
            return "validate", partial(self._validate, judge=self.judge)
        if VALIDATE in {path, path.rpartition("/")[0]}:
            return "validate", self._validate
        if path == "/convert" and self._converts:
            return "convert", self._convert
        return "none", None

    async def _validate(self, request: web.BaseRequest, judge: validate.Judge | None = None) -> _Answered:
        body = await self._body(request, envelope.MAX_ADMISSION, self._admissions)
        try:
            asked = await asyncio.to_thread(envelope.request_of, body, validate.KIND, envelope.MAX_ADMISSION)
            loop = asyncio.get_running_loop()
            judging = loop.run_in_executor(self._threads, validate.answered, asked, judge)
            try:
                response = await asyncio.wait_for(judging, self._limits.judging)
                end = "allowed" if response["allowed"] else "refused"
            except TimeoutError:
                end = "late"
                response = validate.passed(asked["uid"], "smi-adapter had no time to check this object")
            return end, envelope.answer(validate.KIND, response)
        finally:
            self._admissions.release()

    async def _convert(self, request: web.BaseRequest) -> _Answered:
        body = await self._body(request, envelope.MAX_CONVERSION, self._conversions)
        try:
            loop = asyncio.get_running_loop()
            work = loop.run_in_executor(self._converters, convert.review, body)
            converted, answer = await asyncio.wait_for(work, self._limits.converting)
        except TimeoutError as error:
            raise envelope.MalformedError("the conversion took too long", 504) from error
        finally:
            self._conversions.release()
        return "converted" if converted else "refused", answer

    async def _body(self, request: web.BaseRequest, most: int, places: asyncio.Semaphore) -> bytes:
        """Read a body with a place taken for it; on an error the place is free again."""
        if (request.content_length or 0) > most:
            raise envelope.MalformedError(f"a review of more than {most} bytes is not read", 413)
        if request.headers.get("Content-Encoding", "identity") != "identity":
            raise envelope.MalformedError("a compressed review is not read", 415)
        try:
            await asyncio.wait_for(places.acquire(), self._limits.reading)
        except TimeoutError as error:
            raise envelope.MalformedError("too many reviews at once", 503) from error
        try:
            async with asyncio.timeout(self._limits.reading):
                return await _read(request, most)
        except TimeoutError as error:
            places.release()
            raise envelope.MalformedError("the review did not arrive in time", 408) from error
        except BaseException:
            places.release()
            raise


async def _asked(request: web.BaseRequest, webhook: _Webhook | None) -> _Answered:
    if webhook is None:
        raise envelope.MalformedError("there is nothing here", 404)
    if request.method != "POST":
        raise envelope.MalformedError("a review is sent by POST", 405)
    return await webhook(request)


async def _read(request: web.BaseRequest, most: int) -> bytes:
    parts, size = [], 0
    async for part in request.content.iter_any():
        size += len(part)
        if size > most:
            raise envelope.MalformedError(f"a review of more than {most} bytes is not read", 413)
        parts.append(part)
    return b"".join(parts)


class _Refusing(asyncio.Protocol):
    """Ends a connection at once: there are too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            transport.abort()


def tls_context(certificate: bytes, private_key: bytes) -> ssl.SSLContext:
    """Return a server's context for a certificate in memory; ValueError if the key does not fit.

    Python reads a key from a file only; on Linux that file never touches a disk.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    content = private_key.rstrip(b"\n") + b"\n" + certificate
    try:
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("smi-adapter")
            try:
                os.write(descriptor, content)
                context.load_cert_chain(f"/proc/self/fd/{descriptor}")
            finally:
                os.close(descriptor)
        else:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "pair.pem"
                file.touch(0o600)
                file.write_bytes(content)
                context.load_cert_chain(file)
    except ssl.SSLError as error:
        raise ValueError("a certificate and a key that do not fit") from error
    return context
