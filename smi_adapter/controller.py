"""A cluster in, its Envoys out: the whole program beside a Kubernetes API server.

Composes `ClusterSource`, `Compiler`, the ADS server behind its token door, and telemetry. Every replica serves proxies
from its own cache; only writing (status, Events) is for the one that holds the Lease. The process lives as long as all
of its core tasks: when one ends, for whatever reason, all end, and Kubernetes starts it again (faults.md F42).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import math
import secrets
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from aiohttp import web

from smi_adapter import __version__, app, decode
from smi_adapter.backends import Manifests, UnknownBackendError, XdsConfig
from smi_adapter.cluster import peers, replicas
from smi_adapter.cluster.apply import Applier
from smi_adapter.cluster.bundle import PublicBundle
from smi_adapter.cluster.client import ApiError, Client, NoCluster, Unreachable
from smi_adapter.cluster.lease import Lease, LeaseExpiredError
from smi_adapter.cluster.ownership import installation
from smi_adapter.cluster.reporting import Now, Reporting
from smi_adapter.cluster.residents import Residents
from smi_adapter.cluster.source import ClusterSource
from smi_adapter.cluster.tokens import TokenOptions, TokenReviewer
from smi_adapter.decode import RawObject
from smi_adapter.delivery.manifests import ManifestDelivery
from smi_adapter.delivery.xds import AdsServer, Answer, Limits, TokenDoor
from smi_adapter.delivery.xds.types import short
from smi_adapter.findings import Finding, Ref, by_severity_then_object, printable
from smi_adapter.identity import Caller
from smi_adapter.issuing import Issuing
from smi_adapter.mesh import AccessMode, Key
from smi_adapter.report import SMI_GROUPS
from smi_adapter.settings import Settings, host_and_port
from smi_adapter.sources import Batch, Source
from smi_adapter.telemetry import Health, HealthServer, Metrics, Reading
from smi_adapter.webhooks.service import WebhookOptions, Webhooks

_log = logging.getLogger(__name__)

_STALE: Final = 30.0
"""Seconds of age from which on what is known of any kind counts as out of date."""

_WAITING: Final = 16
"""Streams of one pod that may wait to be let in."""

_GOODBYE: Final = 4.0
_FOR_THE_LEADER: Final = frozenset({"report", "lead"})
_LEVELS: Final = {"error": logging.ERROR, "warning": logging.WARNING, "info": logging.INFO}


class ClusterView(Source, Protocol):
    """What the controller needs of a cluster's source beyond its batches."""

    @property
    def synced(self) -> bool:
        """Tell whether every served kind has been listed once."""
        ...

    @property
    def reachable(self) -> bool:
        """Tell whether the API server answered when it was last asked."""
        ...

    def cache_age(self) -> float:
        """Return the seconds since the cache was last known to be current."""
        ...

    def event_ages(self) -> Mapping[str, float]:
        """Return how long ago the API server gave a sign of life for each kind, in seconds."""
        ...

    def relists(self) -> Mapping[tuple[str, str], int]:
        """Return how often each kind had to be listed again, by (kind, why)."""
        ...

    def manifest(self, ref: Ref) -> RawObject | None:
        """Return an object with what tells one state of it from another: `uid`, `resourceVersion`, `status`."""
        ...


class CoreTaskEndedError(RuntimeError):
    """A task that has to run for ever has ended."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a running controller listens."""

    xds: int
    health: int
    webhooks: int = 0


class Controller:
    """One replica."""

    def __init__(self, settings: Settings, client: Client, source: ClusterView) -> None:
        self.compiled: app.Compiled | None = None
        self.metrics = Metrics(self._reading, __version__)
        self.residents = Residents()
        self._settings = settings
        self._client = client
        self._source = source
        self._issuing = Issuing(settings, client)
        self._public = PublicBundle(client, settings.authority_secret)
        options = TokenOptions(settings.trust_domain, settings.token_audience, settings.check_peer_address)
        self._reviewer = TokenReviewer(client, self.residents, options)
        limits = Limits(waiting_per_address=_WAITING if settings.check_peer_address else math.inf)
        self.server = AdsServer(self._issuing.secrets, on_ack=self._answered, limits=limits)
        me = socket.gethostname()
        holder = f"{me}_{secrets.token_hex(4)}"
        self._lease = Lease(client, client.namespace, settings.lease, holder)
        self._reporting = Reporting(client, settings.backend, me, self._lease.left, namespaces=settings.namespaces)
        owner = installation(client.namespace, settings.lease)
        applier = Applier(
            client, self._lease.left, owner, namespaces=settings.namespaces, changed=self._reporting.changed
        )
        self._applier, self._manifests = applier, ManifestDelivery(applier, app.kinds_left_by(settings))
        key = secrets.token_bytes(32)  # nobody else's until the authority is there
        self._peers = peers.Peers(holder, key, self._is_in_touch)
        self._replicas = replicas.Replicas(holder, key, self._reporting.changed, self._peers.met)
        hooks = _webhooks(settings)
        heard = self.metrics.reviewed
        self._webhooks = Webhooks(client, hooks, self._judge, self._lease.left, heard) if hooks else None
        spoken = [web.post(replicas.PATH, self._hear), web.post(peers.PATH, self._answer)]
        self._health = HealthServer(self.health, self.metrics.registry, spoken)
        self._changed = asyncio.Event()
        self._changed_at = time.monotonic()
        self._said: frozenset[Finding] = frozenset()
        self._draining = False
        self._ending = False
        self._compiler: app.Compiler

    # ------------------------------------------------------------------------------------------------------ life

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Ports]:
        """Run until the block ends, or until a core task does: then the block is cancelled and the error comes out."""
        try:
            health = await self._health.start(*host_and_port(self._settings.health_address))
            address = _reached_at(self._settings.health_address, health)
            self._lease.address = self._peers.address = self._replicas.address = address
            authority = await self._issuing.load()
            self._replicas.key = self._peers.key = authority.shared_key("replicas")
            if self._webhooks:
                self._webhooks.know(authority.shared_key("webhooks"))
            options = app.options_of(self._settings, authority.bundle, self._client.namespace)
            self._compiler = app.Compiler(app.backend_of(self._settings), options, cluster=True)
            door = TokenDoor(self._reviewer, self._workload_of, self._api_is_there, self._reviewer.screen)
            xds = await self.server.start(*host_and_port(self._settings.xds_address), self._issuing.tls, door)
            _log.info("proxies connect to port %d; health and metrics are on port %d", xds, health)
            hooks = await self._webhooks.start(*host_and_port(self._settings.webhook_address)) if self._webhooks else 0
            async with asyncio.TaskGroup() as tasks:
                core = self._core().items()
                started = [tasks.create_task(self._for_ever(name, task), name=name) for name, task in core]
                try:
                    yield Ports(xds, health, hooks)
                finally:
                    self._draining = self._ending = True  # not ready from now on
                for task in started:
                    if task.get_name() in _FOR_THE_LEADER:
                        task.cancel()
                await asyncio.gather(self._lease_released(started), self._drain())
                for task in started:
                    task.cancel()
        finally:
            if self._webhooks:
                await self._webhooks.stop()
            await self.server.stop()
            await self._health.stop()

    def _core(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        """Return the tasks of which none may end."""
        hooks = self._webhooks
        return {
            "follow": self._follow(),
            "rotate": self._issuing.rotate(self.server),
            "say": self._say(),
            "report": self._reporting.look(self._now),
            "lead": self._lead(),
            "tell-leader": self._tell_leader(),
            "compare": self._peers.compare(lambda: self._lease.leader_address),
            "keep-authority": self._issuing.keep(),
            "publish-bundle": self._public.keep(self._issuing.published),
            "keep-signing-keys": self._keep_signing_keys(),
            "sweep-proxies": self.server.watch(),
            "feel-loop": self.metrics.feel_loop(),
            **({"keep-webhooks": hooks.keep(), "sweep-webhooks": hooks.watch()} if hooks else {}),
        }

    async def _for_ever(self, name: str, task: Coroutine[Any, Any, None]) -> None:
        """Run a core task; that it ends is an error, even if somebody cancelled it (F42)."""
        try:
            await task
        except asyncio.CancelledError:
            if self._ending:
                raise
        except BaseException:
            self._ending = True
            raise
        self._ending = True
        raise CoreTaskEndedError(f"the task {name} has ended")

    async def _drain(self) -> None:
        """Leave without a failed request: streams end one by one and begin again elsewhere (F39)."""
        _log.info("going away: %d proxies move to another replica", len(self.server.proxies()))
        await self.server.drain(_GOODBYE)

    @property
    def bundle(self) -> bytes:
        """Return the PEM of the root certificates, by which proxies recognise this server and each other."""
        return self._issuing.authority.bundle

    # ------------------------------------------------------------------------------------------------ the one path

    async def _follow(self) -> None:
        """Carry each batch of the source through the compiler to the proxies."""
        async for batch in self._source:
            began = time.perf_counter()
            first = self.compiled is None
            self.residents.follow(batch)
            if batch or first:
                await self._take(batch)
                self.metrics.reconciled(time.perf_counter() - began)
            self._changed.set()
            if first:  # what the first sync made lives on: never look at it again for garbage (performance.md, rule 4)
                _log.info("ready: %d objects in force after %.1f s", len(batch), time.perf_counter() - began)
                gc.collect()
                gc.freeze()

    async def _take(self, batch: Batch) -> None:
        """Compile a batch and publish the result."""
        work = self._compiler.take
        compiled = await asyncio.to_thread(work, batch) if app.is_long(batch) else work(batch)
        self.compiled = compiled
        if compiled is None:
            return
        self.residents.settle(compiled.translation.mesh, compiled.translation.workloads)
        generation = self.server.publish(compiled.rendered) if isinstance(compiled.rendered, XdsConfig) else 0
        told = {
            ref: raw and (self._source.manifest(ref) or raw) for ref, raw in batch.items() if ref.group in SMI_GROUPS
        }
        if isinstance(compiled.rendered, Manifests):
            generation = self._manifests.publish(compiled.rendered, told)
        else:
            self._manifests.retire(told)
        self._reporting.published(told, compiled.snapshot, compiled.translation, generation)
        self._changed_at = time.monotonic()

    def _answered(self, _workload: Key, answer: Answer) -> None:
        waited = asyncio.get_running_loop().time() - answer.sent.at
        self.metrics.answered(short(answer.type_url), waited, refused=bool(answer.error))
        self._reporting.changed()

    # ------------------------------------------------------------------------------------------------- reporting

    async def _lead(self) -> None:
        """Hold the Lease, or wait for it; whoever holds it writes status and Events."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._hold_lease())
            await self._lease.acquired.wait()
            tasks.create_task(self._applier.run())
            await self._reporting.write()

    async def _hold_lease(self) -> None:
        """Be a candidate for ever: a Lease that ran out ends the writing, one that somebody took the process.

        While the API server is away proxies are served on (F2), and each write asks by itself how long it may.
        """
        while True:
            with contextlib.suppress(LeaseExpiredError):
                await self._lease.run()

    async def _tell_leader(self) -> None:
        """Tell whoever leads what the proxies of this replica have acknowledged."""
        await self._replicas.tell(lambda: self._lease.leader_address, lambda: self._reporting.reporter.tally)

    async def _lease_released(self, started: list[asyncio.Task[None]]) -> None:
        """Give the Lease up once nothing writes any more, so that another replica goes on at once."""
        await asyncio.wait([task for task in started if task.get_name() in _FOR_THE_LEADER])
        await self._lease.release()

    def _now(self) -> Now:
        """Return what is true of the objects at present."""
        compiled = self.compiled
        if compiled is None:
            return Now(self._loose(), {})
        findings = (*self._loose(), *compiled.loose())
        if isinstance(compiled.rendered, Manifests):
            return Now(findings, self._manifests.acknowledged(), tables=compiled.tables())
        return Now(findings, self.server.acknowledged(), self._replicas.tallies(), compiled.tables())

    async def _hear(self, request: web.Request) -> web.Response:
        """Take what another replica's proxies have acknowledged."""
        heard = self._replicas.hear(await request.read(), request.headers.get(peers.SIGNATURE, ""))
        return web.Response(status=204 if heard else 403)

    async def _answer(self, request: web.Request) -> web.Response:
        """Tell another replica, which is out of touch, whether this one is better informed."""
        answer = self._peers.answer(await request.read(), request.headers.get(peers.SIGNATURE, ""))
        if answer is None:
            return web.Response(status=403)
        return web.Response(body=answer[0], headers={peers.SIGNATURE: answer[1]})

    # ------------------------------------------------------------------------------------------------ identities

    def _workload_of(self, caller: Caller) -> Key | None:
        if not self._reviewer.is_current(caller):
            return None
        return self.residents.workload_of((caller.namespace, caller.pod))

    def _api_is_there(self) -> bool:
        """Tell whether a token could be reviewed now; that one kind can't be read has nothing to do with it (X7)."""
        return self._source.reachable

    def _is_in_touch(self) -> bool:
        """Tell whether this replica serves, and knows the world as it is."""
        serves = self.compiled is not None and not self._draining
        return serves and self._source.reachable and self._source.cache_age() < _STALE

    async def _keep_signing_keys(self) -> None:
        """Keep the keys with which tokens are checked while the API server is away (F2)."""
        while True:
            pause = 300.0
            try:
                await self._reviewer.keys.refresh(self._client)
            except (ApiError, Unreachable) as error:
                _log.warning("the keys of ServiceAccount tokens can't be read: %s", error)
                pause = 30.0
            await asyncio.sleep(pause)

    # ------------------------------------------------------------------------------------------------- webhooks

    def _judge(self, raw: RawObject) -> tuple[Finding, ...]:
        """Return what there would be to tell about an object if it were written now; on a thread of the webhooks."""
        if self.compiled is None:
            return ()
        ref = decode.ref_of(raw)
        return tuple({item for item in self._compiler.would({ref: raw}).notes() if item.subject == ref})

    # ------------------------------------------------------------------------------------------------- telemetry

    def findings(self) -> tuple[Finding, ...]:
        """Return all that is to be said now, by any stage, errors first."""
        return tuple(sorted(set(self._notes()), key=by_severity_then_object))

    def _notes(self) -> tuple[Finding, ...]:
        """Return the same in no order, and cheaply."""
        return (*(self.compiled.notes() if self.compiled else ()), *self._loose())

    def _loose(self) -> tuple[Finding, ...]:
        """Return what does not come from the compiler's stages."""
        culprits = tuple(self._compiler.culprits.values()) if self.compiled else ()
        hooks = self._webhooks.problems() if self._webhooks else ()
        own = (*self._source.findings(), *self.server.findings(), *self._reporting.findings(), *hooks)
        return (*culprits, *own, *self._manifests.findings())

    async def _say(self) -> None:
        """Log each finding once when it appears, and once when it is gone; never in the way of a push."""
        while True:
            await self._changed.wait()
            await asyncio.sleep(0.2)
            self._changed.clear()
            now = frozenset(self.findings())
            for item in sorted(now - self._said, key=by_severity_then_object):
                text = f"{item.subject}: {item.message} -> {item.hint}"
                _log.log(_LEVELS[item.severity.value], "%s %s", item.code, printable(text))
            for item in sorted(self._said - now, key=by_severity_then_object):
                _log.info("resolved: %s %s", item.code, printable(f"{item.subject} {item.field}"))
            self._said = now
            await asyncio.sleep(0.8)

    def health(self) -> Health:
        """Return whether proxies should come here."""
        alerts = tuple(text for text in (self._issuing.problem, self._public.problem) if text)
        if self._draining:
            return Health(ready=False, why=("this replica is going away",))
        if self.compiled is None:
            return Health(ready=False, why=(*alerts, "the cluster has not been read yet"))
        if not self._peers.out_of_touch():
            return Health(ready=True, why=alerts)
        late = f"some of what is served was last heard of {self._source.cache_age():.0f} s ago"
        if not self._source.reachable:
            late = "the API server does not answer; the last good configuration is served"
        if self._peers.better:  # proxies that stream from here stay; new ones are served better over there (F11)
            return Health(ready=False, why=(*alerts, late, f"the replica at {self._peers.better} is in touch with it"))
        return Health(ready=True, why=(*alerts, late))

    def _reading(self) -> Reading:
        compiled = self.compiled
        workloads = compiled.translation.mesh.workloads.values() if compiled else ()
        proxies = self.server.proxies() if compiled else ()
        hooks = self._webhooks.expires() if self._webhooks else None
        ends = [at for at in (hooks, self._issuing.first_expiry() if compiled else None) if at is not None]
        return Reading(
            config_age=time.monotonic() - self._changed_at,
            cache_age=self._source.cache_age(),
            event_ages=self._source.event_ages(),
            restarts=self._source.relists(),
            resources=self._reporting.reporter.counts,
            findings=Counter(item.code for item in self._said),
            proxies={
                "in_sync": sum(proxy.in_sync for proxy in proxies),
                "waiting": sum(not proxy.in_sync for proxy in proxies),
            },
            permissive_namespaces=len({item.key[0] for item in workloads if item.mode is not AccessMode.ENFORCE}),
            certificate_expiry=min(ends) - time.time() if ends else None,
            leader=self._lease.left() > 0,
        )


def _webhooks(settings: Settings) -> WebhookOptions | None:
    """Return what the webhooks are to be like if they were asked for."""
    if not settings.webhook_address:
        return None
    return WebhookOptions(
        settings.webhook_service,
        settings.webhook_secret,
        settings.webhook_configuration,
        settings.webhook_conversion,
        settings.webhook_certificates,
        settings.webhook_names,
    )


def _reached_at(address: str, port: int) -> str:
    """Return the URL under which the other replicas reach the health port; a pod's name resolves to its address."""
    host = host_and_port(address)[0]
    if host in {"", "0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
        with contextlib.suppress(OSError):
            host = socket.gethostbyname(socket.gethostname())
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class CannotStartError(Exception):
    """There is no way to begin: an address that is taken, or a backend that is not installed."""


class NoLoginError(CannotStartError):
    """There is no login to a cluster; `known`: there is at least somebody who says which cluster is meant."""

    def __init__(self, message: str, *, known: bool) -> None:
        super().__init__(message)
        self.known = known


def cluster_source(settings: Settings, client: Client) -> ClusterView:
    """Return the source of a whole cluster, or of the chosen namespaces."""
    return ClusterSource(client, namespaces=settings.namespaces, selector=settings.namespace_selector)


async def serve(settings: Settings, kubeconfig: str | None, context: str | None) -> None:
    """Run one replica until SIGTERM or ^C, or until one of its core tasks dies."""
    try:
        client = await Client.connect(kubeconfig, context)
    except Unreachable as error:
        known = not isinstance(error, NoCluster)
        raise NoLoginError(f"no login to a cluster: {error}", known=known) from error
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(client.close)
        try:
            controller = Controller(settings, client, cluster_source(settings, client))
            await stack.enter_async_context(controller.running())
        except OSError as error:
            raise CannotStartError(str(error)) from error
        except UnknownBackendError as error:
            raise CannotStartError(f"the setting backend or former_backends: {error}") from error
        await app.until_stopped()
