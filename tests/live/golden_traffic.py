"""What a golden case's request meets on its way through real Envoys, in the words of `requests.yaml`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, TypeAlias

from smi_adapter.mesh import Protocol
from tests.golden.cases import Asked
from tests.live.golden_fleet import Scene

PATIENCE = 10.0
SILENCE = 0.5
"""How long a datagram may go unanswered before it counts as refused: nothing else tells."""

Outcome: TypeAlias = str | int
"""The pod that served it, an HTTP status, or CLOSED."""
CLOSED = "closed"


def expected(entry: Asked, scene: Scene, protocol: Protocol) -> list[tuple[frozenset[Outcome], float]]:
    """Return for each arm what may be seen of it, and its share."""
    found = []
    for arm in entry.expected["arms"]:
        access = arm.get("access", entry.expected["access"])
        status = arm.get("status", 403 if access == "denied" else None)
        outcomes: frozenset[Outcome] = frozenset()
        if status is None:
            outcomes = frozenset(scene.behind(arm["service"]))
        else:
            outcomes = frozenset({status if protocol is Protocol.HTTP else CLOSED})
        assert outcomes, f"nobody is behind {arm['service']}"
        found.append((outcomes, float(Fraction(str(arm["share"])))))
    return found


def wire(request: Mapping[str, Any], protocol: Protocol) -> bytes:
    """Return the bytes of a request, or of the first words on a TCP connection."""
    if protocol is not Protocol.HTTP:
        return b"hello\r\n\r\n"
    headers = {str(name): str(text) for name, text in request.get("headers", {}).items()}
    if not any(name.lower() == "host" for name in headers):
        headers["host"] = request["to"].partition(":")[0].replace("/", ".")
    lines = "".join(f"{name}: {text}\r\n" for name, text in headers.items())
    start = f"{request.get('method', 'GET')} {request.get('path', '/')} HTTP/1.1\r\n"
    return f"{start}{lines}content-length: 0\r\n\r\n".encode("latin-1")


class Connection:
    """A connection of a caller through its own proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, address: str, port: int) -> Connection | None:
        """Connect; None if nobody listens."""
        with contextlib.suppress(ConnectionError):
            return cls(*await asyncio.open_connection(address, port))
        return None

    async def close(self) -> None:
        """Close it and wait until it is."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    async def ask(self, message: bytes) -> Outcome:
        """Send and say what came back."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            async with asyncio.timeout(PATIENCE):
                self._writer.write(message)
                return await self._answer(has_body=not message.startswith(b"HEAD "))
        return CLOSED

    async def _answer(self, *, has_body: bool) -> Outcome:
        first = (await self._reader.readline()).decode("latin-1")
        if first.startswith("x-pod: "):
            return first.removeprefix("x-pod: ").strip()
        if not first:
            return CLOSED
        headers: dict[str, str] = {}
        while line := (await self._reader.readline()).decode("latin-1").strip():
            name, _, text = line.partition(":")
            headers[name.lower()] = text.strip()
        if has_body:
            await self._reader.readexactly(int(headers.get("content-length", "0")))
        return headers.get("x-pod", int(first.split(" ")[1]))


async def datagram(address: str, port: int) -> Outcome:
    """Send a datagram from a port of its own and say who answers."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Outcome] = loop.create_future()

    class Client(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002 - asyncio's signature
            if not answer.done():
                answer.set_result(data.decode())

        def error_received(self, exc: Exception) -> None:  # noqa: ARG002 - asyncio's signature
            if not answer.done():
                answer.set_result(CLOSED)

    transport, _ = await loop.create_datagram_endpoint(Client, remote_addr=(address, port))
    transport.sendto(b"hello")
    try:
        async with asyncio.timeout(SILENCE):
            return await answer
    except TimeoutError:
        return CLOSED
    finally:
        transport.close()
