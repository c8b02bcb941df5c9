"""`/healthz`, `/readyz` and `/metrics` on a port of their own (kubernetes.md, section 2).

Alive means that the event loop turns: a frozen process does not answer, and the kubelet restarts it. Ready means that
the first full build is in force. A replica whose API server is away stays ready and says `degraded`: it serves the
last good configuration (F2); unless another replica has a better one (F11).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

_LARGEST = 8 * 1024 * 1024
"""Bytes of what another replica sends: the names of all objects (100 bytes each)."""


@dataclass(frozen=True, slots=True)
class Health:
    """Whether to send proxies here; `why`: what is missing, or what is degraded, one sentence each."""

    ready: bool
    why: tuple[str, ...] = ()


class HealthServer:
    """The server of these three paths."""

    def __init__(
        self, health: Callable[[], Health], registry: CollectorRegistry, more: Iterable[web.RouteDef] = ()
    ) -> None:
        """Prepare it; `more`: what else is asked for on this port, by other replicas."""
        self._health = health
        self._registry = registry
        self._more = tuple(more)
        self._runner: web.AppRunner | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; return the port. OSError if the address is taken."""
        app = web.Application(client_max_size=_LARGEST)
        app.add_routes(
            [web.get("/healthz", self._alive), web.get("/readyz", self._ready), web.get("/metrics", self._metrics)]
        )
        app.add_routes(self._more)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host or None, port)
        await site.start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Close the port."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _alive(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _ready(self, _request: web.Request) -> web.Response:
        health = self._health()
        if not health.ready:
            return web.Response(status=503, text="".join(f"not ready: {line}\n" for line in health.why))
        return web.Response(text="".join(f"degraded: {line}\n" for line in health.why) or "ok\n")

    async def _metrics(self, _request: web.Request) -> web.Response:
        body = generate_latest(self._registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})
