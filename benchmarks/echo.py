"""The applications behind the mesh: small HTTP servers on loopback, one for each name, that answer with their name."""

from __future__ import annotations

import asyncio
from typing import cast

from benchmarks.channel import Message, arguments, serve


class _Echo(asyncio.Protocol):
    """Answers every HTTP/1.1 request without a body; pipelining is not needed here."""

    def __init__(self, name: str) -> None:
        body = name.encode()
        self._answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer each complete head."""
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            _, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
            self._transport.write(self._answer)


async def main() -> None:
    """Listen for each name that was given and serve until the parent ends."""
    given = arguments()
    loop = asyncio.get_running_loop()

    async def listen(name: str, address: str = "127.0.0.1", port: int = 0) -> Message:
        server = await loop.create_server(lambda: _Echo(name), address, port, backlog=512)
        return {"port": server.sockets[0].getsockname()[1]}

    for name in given.get("names", ()):
        await listen(name)
    await serve({"listen": listen})


if __name__ == "__main__":
    asyncio.run(main())
