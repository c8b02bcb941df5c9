"""The meter: what goes over the ADS port of a server, whoever wrote the server.

It sits between grpc.aio and the handlers, so product and controls are counted in the same place: bytes and messages
sent, answers received and when. It replaces the (de)serialisers of a handler, which costs one call a message.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc

if TYPE_CHECKING:
    _Interceptor: TypeAlias = grpc.aio.ServerInterceptor[Any, Any]
else:
    _Interceptor = grpc.aio.ServerInterceptor


class Meter(_Interceptor):
    """Counts for all streams of one server. `answers` are (time in ns, type_url) of each ACK."""

    def __init__(self) -> None:
        self.streams = 0
        self.sent_bytes = 0
        self.sent_messages = 0
        self.answers: list[tuple[int, str]] = []
        self.answered = 0
        self.nacks: list[str] = []
        self.last_message = time.monotonic_ns()

    def reset(self) -> None:
        """Begin to count anew."""
        self.sent_bytes = self.sent_messages = self.answered = 0
        self.answers.clear()
        self.nacks.clear()

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        """Return the handler with counting (de)serialisers, if it serves streams."""
        handler = await continuation(details)
        if handler is None or handler.stream_stream is None:
            return handler
        return grpc.stream_stream_rpc_method_handler(
            partial(self._stream, handler.stream_stream),
            request_deserializer=partial(self._received, handler.request_deserializer),
            response_serializer=self._sending,
        )

    async def _stream(self, behaviour: Any, requests: Any, context: Any) -> None:
        self.streams += 1
        try:
            await behaviour(requests, context)
        finally:
            self.streams -= 1

    def _received(self, deserialise: Callable[[bytes], Any], data: bytes) -> Any:
        request = deserialise(data)
        self.last_message = now = time.monotonic_ns()
        if request.response_nonce:
            if request.HasField("error_detail"):
                self.nacks.append(f"{request.type_url}: {request.error_detail.message}")
            self.answers.append((now, request.type_url))
            self.answered += 1
        return request

    def _sending(self, data: bytes) -> bytes:
        self.sent_bytes += len(data)
        self.sent_messages += 1
        self.last_message = time.monotonic_ns()
        return data


def install(meter: Meter) -> None:
    """Have every grpc.aio server that this process makes from now on counted; AdsServer has no need to know."""
    original = grpc.aio.server

    def metered(*arguments: Any, **options: Any) -> Any:
        return original(*arguments, **{**options, "interceptors": [meter]})

    grpc.aio.server = metered  # type: ignore[assignment, unused-ignore]
