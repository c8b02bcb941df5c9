"""The gRPC side of delta ADS: who may connect, and one reader and one writer for each stream.

Everything runs on one event loop; `publish` is synchronous and costs, for each connected proxy, a few look-ups and the
names that changed for it. Who a proxy is comes from its credential alone, which `door.py` looks at: before, no byte of
configuration goes out. What a stream may see, and when it gets it, is decided in `catalogue.py` and `stream.py`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import grpc

from smi_adapter import envoy_api
from smi_adapter.backends import Part, Resource, XdsConfig
from smi_adapter.delivery.xds import status
from smi_adapter.delivery.xds.admission import Admission, counted
from smi_adapter.delivery.xds.catalogue import Catalogue, Changed, View
from smi_adapter.delivery.xds.credentials import ServerTls, credentials
from smi_adapter.delivery.xds.door import CertificateDoor, Context, Door, Guest, RefusedError, address_of
from smi_adapter.delivery.xds.status import ProxyStatus, TypeStatus
from smi_adapter.delivery.xds.stream import Answer, OverLimitError, Pace, Refusal, Stream
from smi_adapter.delivery.xds.types import short
from smi_adapter.findings import Finding, by_severity_then_object
from smi_adapter.mesh import Key

Secrets: TypeAlias = Callable[[str, str], tuple[Resource, ...]]
"""Returns the secrets for a SPIFFE id and who holds the key (the UID of a pod, or ""): a key pair and the bundle."""

_log = logging.getLogger(__name__)

_EOF: Final = grpc.aio.EOF  # type: ignore[attr-defined]

_SERVING: Final = b"\x08\x01"  # grpc.health.v1.HealthCheckResponse(status=SERVING)
_NOT_SERVING: Final = b"\x08\x02"
_REMEMBERED_PROXIES: Final = 1000
_GOODBYE: Final = 5.0
_GOING: Final = "this server is going away"


@dataclass(frozen=True, slots=True)
class Limits:
    """Caps of the server (security.md, section 11). Times in seconds.

    A proxy that does not answer for `late_after` is a finding; after `end_after` its stream ends and its state goes.
    `waiting_per_address` bounds streams that are not let in yet; only where each pod comes by an address of its own.
    A connection must be set up within `handshake`, and ends when it had no stream for `unused`.
    """

    pace: Pace = field(default_factory=Pace)
    streams_per_second: float = 25.0
    longest_queue: float = 60.0
    streams_per_proxy: int = 10
    waiting_per_address: float = math.inf
    message_bytes: int = 4 * 1024 * 1024
    first_request: float = 10.0
    handshake: float = 10.0
    unused: float = 30.0
    late_after: float = 30.0
    end_after: float = 60.0


class _Session:
    """One live stream and who is behind it."""

    def __init__(self, guest: Guest, node: str, workload: Key, stream: Stream, view: View) -> None:
        self.guest = guest
        self.node = node
        self.workload = workload
        self.proxy = guest.proxy(workload)
        self.stream = stream
        self.view = view
        self.version: status.Version | None = None
        self.since = 0.0
        self.late = False
        self.wake = asyncio.Event()
        self.ending: tuple[grpc.StatusCode, str] | None = None
        self.task = asyncio.current_task()

    def end(self, code: grpc.StatusCode, details: str) -> None:
        """Have the stream closed by its writer."""
        if self.ending is None:
            self.ending = (code, details)
        self.wake.set()


class AdsServer:
    """Serves published configurations to Envoys that prove who they are."""

    def __init__(
        self,
        secrets: Secrets,
        *,
        on_finding: Callable[[Finding], None] | None = None,
        on_ack: Callable[[Key, Answer], None] | None = None,
        limits: Limits = Limits(),
    ) -> None:
        """Prepare a server; `on_ack` hears of every answer of a proxy, NACKs too, and must be quick."""
        self._secrets = secrets
        self._on_finding = on_finding
        self._on_ack = on_ack
        self._limits = limits
        self._catalogue = Catalogue()
        self._generation = 0
        self._published = asyncio.Event()
        self._sessions: dict[_Session, None] = {}
        self._opened = itertools.count()
        self._streams_of: Counter[Hashable] = Counter()
        self._refusals_of: OrderedDict[Hashable, list[Refusal]] = OrderedDict()
        self._admission = Admission(limits.streams_per_second, limits.longest_queue)
        self._waiting: Counter[str] = Counter()
        self._door: Door = CertificateDoor()
        self._draining = False
        self._server: grpc.aio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._pulse = asyncio.Event()

    # ------------------------------------------------------------------------------------------------- life cycle

    async def start(self, host: str, port: int, tls: Callable[[], ServerTls], door: Door | None = None) -> int:
        """Listen; return the port. OSError if the address is taken. Proxies wait until the first `publish`.

        `tls` is called on another thread at each handshake, so it may rotate; until then it returns equal values.
        Who may come in is up to `door`; the default one wants client certificates.
        """
        self._door = door or self._door
        server = grpc.aio.server(options=self._options())
        delta = grpc.stream_stream_rpc_method_handler(
            self._serve,
            request_deserializer=envoy_api.message("envoy.service.discovery.v3.DeltaDiscoveryRequest").FromString,
            response_serializer=None,  # bytes go out as they are
        )
        health = grpc.unary_unary_rpc_method_handler(self._check)
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    "envoy.service.discovery.v3.AggregatedDiscoveryService", {"DeltaAggregatedResources": delta}
                ),
                grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": health}),
            )
        )
        try:
            where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            shown = credentials(tls, client_certificates=self._door.client_certificates)
            bound = server.add_secure_port(where, shown)
        except RuntimeError as problem:
            raise OSError(f"cannot listen on {host}:{port}; is another process using that port?") from problem
        await server.start()
        self._server = server
        self._sweeper = asyncio.create_task(self._sweep(), name="xds-sweeper")
        return bound

    async def watch(self) -> None:
        """Run for as long as what `start` set going: its error, or its end, comes out here. For a core task (F42)."""
        if self._sweeper is not None:
            await asyncio.shield(self._sweeper)

    async def drain(self, seconds: float) -> None:
        """Let nobody in any more, and have the streams end one after the other, so that they begin again elsewhere."""
        self._draining = True
        sessions = list(self._sessions)
        for session in sessions:
            session.end(grpc.StatusCode.UNAVAILABLE, _GOING)
            await asyncio.sleep(seconds / len(sessions) if len(sessions) > 1 else 0.0)

    async def stop(self) -> None:
        """End all streams and close the port. Envoys keep what they have."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.wait([self._sweeper])  # if it had failed, `watch` told
            self._sweeper = None
        if self._server is not None:
            await self._server.stop(None)
            self._server = None
        if streams := [session.task for session in self._sessions if session.task is not None]:
            await asyncio.wait(streams, timeout=_GOODBYE)

    # ------------------------------------------------------------------------------------------------ what is new

    def publish(self, config: XdsConfig) -> int:
        """Put a configuration in force; return its generation, which `acknowledged` counts in.

        Call it on the event loop's thread, with every config, in order.
        """
        self._generation += 1
        before = self._catalogue.config
        changed = self._catalogue.apply(config)
        for session in list(self._sessions):
            try:
                changes = self._changes_for(session, config, changed, before)
                if changes:
                    session.stream.on_change(changes, self._generation)
                    session.wake.set()
            except RefusedError as refused:
                session.end(refused.code, refused.details)
            except Exception:  # noqa: BLE001 - a fault with one proxy must not keep the others from what is new
                _log.exception("publishing to %s/%s failed", *session.workload)
                session.end(grpc.StatusCode.INTERNAL, "internal error")
        self._published.set()
        return self._generation

    def secrets_changed(self, identity: str) -> None:
        """Send the secrets of an identity again, to whoever streams as it."""
        for session in self._sessions:
            if session.guest.identity == identity:
                changes = session.view.replace_secrets(self._secrets(identity, session.guest.holder))
                if changes:
                    session.stream.on_change(changes, self._generation)
                    session.wake.set()

    # ------------------------------------------------------------------------------------------------ what is true

    def proxies(self) -> tuple[ProxyStatus, ...]:
        """Return the state of every connected proxy, sorted by workload."""
        now = asyncio.get_running_loop().time()
        return tuple(
            _status(session, now)
            for session in sorted(self._sessions, key=lambda item: (item.workload, item.guest.address))
        )

    def acknowledged(self) -> dict[Key, tuple[int, ...]]:
        """Return, for each workload with proxies, up to which generation each of them has acknowledged everything.

        A generation that changes nothing for a proxy needs no answer of it. What it refused is in `findings`.
        """
        found: dict[Key, tuple[int, ...]] = {}
        for session in self._sessions:
            reached = session.stream.acknowledged(self._generation)
            found[session.workload] = (*found.get(session.workload, ()), reached)
        return found

    def identities(self) -> frozenset[str]:
        """Return the identities that stream now: those whose secrets have to be kept fresh."""
        return frozenset(session.guest.identity for session in self._sessions)

    def holders(self) -> frozenset[tuple[str, str]]:
        """Return who streams now, as (identity, holder of the key)."""
        return frozenset((session.guest.identity, session.guest.holder) for session in self._sessions)

    def findings(self) -> tuple[Finding, ...]:
        """Return what is wrong with connected proxies now."""
        found: set[Finding] = set()
        now = asyncio.get_running_loop().time()
        for session in self._sessions:
            for refusal in session.stream.refusals.values():
                found.update(status.refused(session.workload, refusal))
            if session.late:
                found.add(status.late(session.workload, now - session.stream.waiting_since))
            if status.is_too_old(session.version):
                found.add(status.too_old(session.workload, session.version))
        return tuple(sorted(found, key=by_severity_then_object))

    async def settled(self, timeout: float, proxies: int = 0) -> bool:  # noqa: ASYNC109 - False instead of an error
        """Wait until so many proxies (or more) are connected and have acknowledged all; False after `timeout` s."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while True:
            self._pulse.clear()
            if len(self._sessions) >= proxies and all(session.stream.in_sync for session in self._sessions):
                return True
            try:
                await asyncio.wait_for(self._pulse.wait(), deadline - loop.time())
            except TimeoutError:
                return False

    # -------------------------------------------------------------------------------------------------- one stream

    async def _serve(self, _requests: object, context: Context) -> None:
        """Serve one stream until it ends."""
        try:
            with counted(self._waiting, address_of(context), self._limits.waiting_per_address):
                session = await self._admit(context)
        except RefusedError as refused:
            await context.abort(refused.code, refused.details)
        reader = asyncio.create_task(self._read(session, context), name="xds-reader")
        try:
            await self._write(session, context)
        except asyncio.CancelledError:
            if session.ending is None:  # the proxy has gone
                raise
        finally:
            reader.cancel()
            self._forget(session)
        ending = session.ending
        del session, reader  # the abort may wait behind a message that a stopped proxy does not read
        if ending is not None and ending[0] is not grpc.StatusCode.OK:
            await context.abort(*ending)

    async def _admit(self, context: Context) -> _Session:
        """Find out who is there; RefusedError for anybody who may not stream. No byte of config goes out before."""
        guest = await self._door.admit(context, self._turn)
        try:
            async with asyncio.timeout(self._limits.first_request):  # 3.11's wait_for may lose a cancellation
                first = await _next(context)
        except TimeoutError:
            raise RefusedError(grpc.StatusCode.DEADLINE_EXCEEDED, "no request came") from None
        if first is _EOF:
            raise RefusedError(grpc.StatusCode.CANCELLED, "no request came")
        await self._published.wait()
        return self._open(first, guest)

    async def _turn(self) -> None:
        """Let streams in at a rate that does not slow those who are in."""
        if self._draining:
            raise RefusedError(grpc.StatusCode.UNAVAILABLE, _GOING)
        if not await self._admission.admit():
            raise RefusedError(grpc.StatusCode.UNAVAILABLE, "too many new streams, try again")

    def _open(self, first: Any, guest: Guest) -> _Session:
        """Make the session of a first request, if its node is one of that guest."""
        config, node = self._catalogue.config, first.node.id
        try:
            workload = self._door.workload(guest, node, config)
        except RefusedError as refused:
            _log.warning("%s at %s: %s", guest.identity, guest.address, refused.details)
            raise
        proxy = guest.proxy(workload)
        if self._streams_of[proxy] >= self._limits.streams_per_proxy:
            raise RefusedError(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many streams of one proxy")
        secrets = self._secrets(guest.identity, guest.holder)
        view = View(self._catalogue, config.scopes.get(workload, frozenset()), secrets)
        slot = next(self._opened) * 25 % 64 / 64  # neighbours lie far apart; and a sum with a binary fraction is exact
        stream = Stream(view, self._limits.pace, slot=slot, on_answer=lambda answer: self._answered(session, answer))
        session = _Session(guest, node, workload, stream, view)
        session.version = status.envoy_version(first.node)
        session.since = time.time()
        stream.inherit(self._refusals_of.pop(proxy, ()))
        try:
            stream.on_request(first)
        except OverLimitError as over:
            raise RefusedError(grpc.StatusCode.RESOURCE_EXHAUSTED, str(over)) from None
        self._streams_of[proxy] += 1
        self._sessions[session] = None
        version = status.version_text(session.version) or "?"
        _log.info("%s/%s connected from %s, Envoy %s", *workload, guest.address, version)
        if status.is_too_old(session.version):
            self._tell([status.too_old(workload, session.version)])
        return session

    def _forget(self, session: _Session) -> None:
        """Free everything but what the proxy refused: its next stream must not send that again."""
        del self._sessions[session]
        proxy = session.proxy
        self._streams_of[proxy] -= 1
        if not self._streams_of[proxy]:
            del self._streams_of[proxy]
        if session.stream.refusals:
            self._refusals_of[proxy] = list(session.stream.refusals.values())
            if len(self._refusals_of) > _REMEMBERED_PROXIES:
                self._refusals_of.popitem(last=False)
        self._pulse.set()
        _log.info("%s/%s disconnected", *session.workload)

    async def _read(self, session: _Session, context: Context) -> None:
        """Feed requests to the state machine. A bad one, or a fault of ours, ends this stream only (X6)."""
        stream = session.stream
        try:
            while (request := await _next(context)) is not _EOF:
                stream.on_request(request)
                if stream.has_work:
                    session.wake.set()
                else:
                    self._pulse.set()
        except OverLimitError as over:
            session.end(grpc.StatusCode.RESOURCE_EXHAUSTED, str(over))
        except Exception:  # noqa: BLE001 - whatever it is, the other streams go on
            _log.exception("the stream of %s/%s failed", *session.workload)
            session.end(grpc.StatusCode.INTERNAL, "internal error")
        else:
            session.end(grpc.StatusCode.OK, "")

    async def _write(self, session: _Session, context: Context) -> None:
        """Write what the state machine has to say, until the session ends."""
        loop = asyncio.get_running_loop()
        stream, wake = session.stream, session.wake
        while session.ending is None:
            wake.clear()
            message = stream.next_message(loop.time())
            if message is not None:
                await context.write(message)
                continue
            self._pulse.set()
            timer = loop.call_at(stream.wake_at, wake.set) if stream.wake_at < math.inf else None
            await wake.wait()
            if timer is not None:
                timer.cancel()

    # ---------------------------------------------------------------------------------------------------- the rest

    async def _check(self, _request: bytes, _context: object) -> bytes:
        """Answer a health check. It needs no credential, and says nothing else (X5)."""
        return _NOT_SERVING if self._draining else _SERVING

    def _changes_for(
        self, session: _Session, config: XdsConfig, changed: dict[Part, list[Changed]], before: XdsConfig
    ) -> list[Changed]:
        """Return what a new config changes for one session, and give the session its new scope.

        A pod whose labels or Services change may be in another workload now; its stream goes on with that one's scope.
        """
        workload, session.workload = session.workload, self._door.workload(session.guest, session.node, config)
        scope = config.scopes.get(session.workload, frozenset())
        unchanged = config.changed_scopes is not None and session.workload not in config.changed_scopes
        if unchanged and workload == session.workload:
            session.view.scope = scope  # an equal one
        return session.view.follow(scope, changed, before.parts)

    def _answered(self, session: _Session, answer: Answer) -> None:
        session.late = False
        if answer.error:
            names = ", ".join(resource.name for resource in answer.sent.resources[:5])
            kind, error = short(answer.type_url), status.printable(answer.error)
            _log.error("%s/%s refused %s %s: %s", *session.workload, kind, names, error)
            if len(answer.sent.resources) == 1:
                self._tell(status.refused(session.workload, Refusal(answer.sent.resources[0], answer.error)))
        if self._on_ack is not None:
            self._on_ack(session.workload, answer)

    def _tell(self, findings: Iterable[Finding]) -> None:
        if self._on_finding is not None:
            for item in findings:
                self._on_finding(item)

    async def _sweep(self) -> None:
        """Notice proxies that do not answer (gRPC's keepalive does not: envoy.md, section 5) or whose time is over."""
        loop = asyncio.get_running_loop()
        limits = self._limits
        while True:
            await asyncio.sleep(min(limits.late_after, limits.end_after) / 6)
            for session in list(self._sessions):
                waiting = loop.time() - session.stream.waiting_since
                if waiting > limits.late_after and not session.late:
                    session.late = True
                    _log.warning("%s/%s has not acknowledged for %.0f s", *session.workload, waiting)
                    self._tell([status.late(session.workload, waiting)])
                if waiting > limits.end_after and session.task is not None:
                    session.end(grpc.StatusCode.DEADLINE_EXCEEDED, "no acknowledgement")
                    session.task.cancel()  # its writer may be stuck in a write that never ends
                if session.guest.until < time.time() and self._door.may_end():
                    session.end(grpc.StatusCode.UNAVAILABLE, "time to show a fresh credential")

    def _options(self) -> list[tuple[str, int]]:
        return [
            ("grpc.so_reuseport", 0),  # two servers would silently share the port
            ("grpc.http2.min_ping_interval_without_data_ms", 1000),  # else: "Too many pings" after 15 s
            ("grpc.max_receive_message_length", self._limits.message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.server_handshake_timeout_ms", round(self._limits.handshake * 1000)),
            ("grpc.max_connection_idle_ms", round(self._limits.unused * 1000)),
        ]


async def _next(context: Context) -> Any:
    """Return the next request; EOF too when the connection or the server is gone, for which gRPC has many errors."""
    try:
        return await context.read()
    except Exception:  # noqa: BLE001 - see above
        return _EOF


def _status(session: _Session, now: float) -> ProxyStatus:
    stream = session.stream
    return ProxyStatus(
        session.workload,
        session.guest.identity,
        session.guest.address,
        status.version_text(session.version),
        session.since,
        stream.in_sync,
        max(0.0, now - stream.waiting_since),
        tuple(
            TypeStatus(short(sub.type_url), sub.version(), len(sub.names), sub.sent, sub.acknowledged, sub.refused)
            for sub in sorted(stream.subscriptions.values(), key=lambda sub: sub.type_url)
        ),
        status.printable(stream.last_error),
    )
