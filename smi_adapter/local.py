"""A directory in, Envoys out: the whole program on one machine, without a cluster.

Composes `DirectorySource`, `Compiler`, the ADS server, the embedded CA and the local runtime. The files are the API:
saving one is `kubectl apply`. What a run leaves behind or shows (lock, logs, status socket, keys while it lasts) lives
in one private folder, which is chosen by the directory's path, so that `smi-adapter status --source DIR` finds it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import shlex
import shutil
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smi_adapter import app
from smi_adapter.backends import XdsConfig
from smi_adapter.backends.envoy import bootstrap as envoy_bootstrap
from smi_adapter.backends.envoy import secrets as envoy_secrets
from smi_adapter.decode import RawObject
from smi_adapter.delivery.xds import AdsServer, ServerTls
from smi_adapter.embedded_api.ledger import Ledger
from smi_adapter.embedded_api.reporting import Reporting
from smi_adapter.embedded_api.shelf import ShelfConflictError, ShelfError, ShelfUnreadableError
from smi_adapter.embedded_api.store import Store
from smi_adapter.findings import Finding, Ref, by_severity_then_object, printable
from smi_adapter.identity.ca import Authority, KeyPair
from smi_adapter.identity.issuer import Issuer
from smi_adapter.runfolder import lock, private_folder, status_socket
from smi_adapter.settings import Settings
from smi_adapter.snapshot import Pod
from smi_adapter.sources import Batch
from smi_adapter.sources.directory import DirectorySource, claim_network
from smi_adapter.sources.edits import ChangedError, EditError, UnreadableError
from smi_adapter.sources.processes import LocalRuntime, Setup, find_envoy, inherited

if TYPE_CHECKING:
    from smi_adapter.embedded_api.server import ApiServer

_log = logging.getLogger(__name__)

_AUTHORITY_LIFE = 10 * 365 * 86_400.0
_REPORT = 0.1
"""Seconds within which what is to be said of several batches and answers of proxies is said together."""
_LOOK = 0.5
"""Seconds between two looks at the findings for what came without either: of processes and proxies."""
_REMEMBER = 2.0
"""Seconds between two writes of what the API remembers for the next run."""
_PAIR = "pair.json"
"""The file, in a folder for each proxy, with the key pair by which it proves to us who it is."""

_OWN_ACCOUNT = "/ns/smi-system/sa/smi-adapter"


@dataclass(frozen=True, slots=True)
class LocalOptions:
    """How to run: `state` takes the run's files; without `applications`, only proxies are started.

    `environment` is what applications get beside what their specs say; they start in the directory of the files.
    `api` is where the embedded Kubernetes API listens (port 0: any); without it there is none. `api_namespace` is the
    one that kubectl uses unless it is told another.
    """

    settings: Settings
    state: Path
    applications: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)
    api: tuple[str, int] | None = None
    api_namespace: str = "default"


class LocalMesh:
    """One run on one directory. Create and use it on the main thread's event loop: children die with that thread."""

    def __init__(self, source: Path, options: LocalOptions) -> None:
        self.path = source.absolute()
        self.compiled: app.Compiled | None = None
        options = replace(options, state=options.state.absolute())  # proxies start in a folder of their own
        self._options = options
        self._started = time.time()
        self._changed = asyncio.Event()
        self._said: frozenset[Finding] = frozenset()
        private_folder(options.state)
        self._socket = status_socket(options.state)
        if self._socket.parent != options.state:
            private_folder(self._socket.parent)
        self._lock = lock(options.state)
        trust_domain = options.settings.trust_domain
        self._own = f"spiffe://{trust_domain}{_OWN_ACCOUNT}"
        self._authority = Authority.create(trust_domain, time.time(), _AUTHORITY_LIFE)  # nobody knows it but this run
        self._issuer = Issuer(self._authority, options.settings.certificate_seconds)
        self._key_folders: set[Path] = set()
        self._stirred = asyncio.Event()
        self.server = self.new_server()
        self._network, self._claim = claim_network()
        self.source = DirectorySource(self.path, self._network)
        self.source.set_ready({})  # nothing is ready before the runtime has seen it
        self._port = 0
        setup = Setup(
            state=options.state,
            home=self.path if self.path.is_dir() else self.path.parent,
            bootstrap=self._bootstrap,
            envoy=find_envoy(os.environ),
            environment={**inherited(os.environ), **options.environment},
            applications=options.applications,
        )
        self.runtime = LocalRuntime(setup, self._changed.set)
        self._ledger = Ledger(options.state / "books.json")
        self._store = Store(remembered=self._ledger.read() if options.api else {})
        self._api = _api_server(self._store, FileShelf(self.source)) if options.api else None
        self._reporting = Reporting(self._store, options.settings.backend)
        self._generation = 0
        self._unreported = asyncio.Event()
        bundle = self._authority.bundle
        self._compiler = app.Compiler(app.backend_of(options.settings), app.options_of(options.settings, bundle))

    def new_server(self) -> AdsServer:
        """Return an xDS server for this run that knows nothing yet."""
        return AdsServer(self._secrets, on_ack=lambda *_: self._stirred.set())

    @property
    def kubeconfig(self) -> Path:
        """Return the file by which kubectl finds the API of this run; it stays the same over restarts."""
        return self._options.state / "kubeconfig"

    @property
    def export(self) -> str:
        """Return the line for a shell that lets kubectl find the API."""
        return f"export KUBECONFIG={shlex.quote(str(self.kubeconfig))}"

    # ------------------------------------------------------------------------------------------------------ life

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[LocalMesh]:
        """Run until the block ends, or until a task dies: then the block is cancelled and the error comes out."""
        try:
            self._port = await self.server.start("127.0.0.1", 0, self._tls)
            if self._api and self._options.api:
                await self._api.start(*self._options.api, self.kubeconfig, self._options.api_namespace)
            status = await asyncio.start_unix_server(self._answer, self._socket)
            async with status, asyncio.TaskGroup() as tasks:
                work = (self._follow(), self._listen(), self._rotate(), self._report(), self.server.watch())
                started = [tasks.create_task(task) for task in work]
                yield self
                for task in started:
                    task.cancel()
        finally:
            if self._api:
                await self._api.stop()
                self._ledger.write(self._store)
            await self.runtime.stop()
            await self.server.stop()
            for folder in self._key_folders:
                shutil.rmtree(folder, ignore_errors=True)
            self._socket.unlink(missing_ok=True)
            self._claim.close()
            self._lock.close()

    async def _follow(self) -> None:
        """Carry each batch of the source through the compiler to the proxies."""
        async for batch in self.source:
            first = self.compiled is None
            self._take(batch)
            await asyncio.sleep(0)  # the streams write before anything else is done with the batch
            self.runtime.apply(batch)
            if self._api and self.compiled is not None:
                self._store.take(batch)
                await asyncio.sleep(0)  # whoever waits for this batch is answered before anything is said about it
                compiled = self.compiled
                self._reporting.take(batch, compiled.snapshot, compiled.translation.mesh, self._generation)
                self._unreported.set()
                self._stirred.set()
            self._say()
            if first:  # what the first sync made lives on: never look at it again for garbage (performance.md, rule 4)
                gc.collect()
                gc.freeze()

    def _take(self, batch: Batch) -> None:
        """Compile a batch and publish the result."""
        if not batch and self.compiled is not None:
            return
        self.compiled = self._compiler.take(batch)
        if self.compiled is not None and isinstance(self.compiled.rendered, XdsConfig):
            self._generation = self.server.publish(self.compiled.rendered)

    async def _listen(self) -> None:
        """Hand on what the runtime sees: readiness to the source, problems to the log."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            self.source.set_ready(self.runtime.ready())
            self._say()

    async def _report(self) -> None:
        """Keep the statuses and Events that the API serves up to date."""
        acknowledged, at = self.server.acknowledged(), 0.0
        while self._api:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    await self._stirred.wait()
            self._stirred.clear()
            before, acknowledged = acknowledged, self.server.acknowledged()
            begun = time.monotonic()
            if self._unreported.is_set() or before != acknowledged or begun >= at:
                self._unreported.clear()
                self._reporting.tell(self.findings(), acknowledged)
                cost = time.monotonic() - begun
                at = begun + max(_LOOK, 20 * cost)  # of very many objects less often
            self._ledger.write(self._store, every=_REMEMBER)
            await asyncio.sleep(_REPORT)

    async def _rotate(self) -> None:
        """Renew certificates before they expire and send them to who streams with them."""
        while True:
            due_at = self._issuer.next_due()
            await asyncio.sleep(min(5.0, max(0.05, due_at - time.time())) if due_at is not None else 1.0)
            for identity in self._issuer.due(time.time()):
                pair = self._issuer.key_pair(identity, time.time())
                self.server.secrets_changed(identity)
                for pod in self._pods_of(identity):
                    _write_pair(self._keys(pod), pair)

    # ------------------------------------------------------------------------------------------------ identities

    def _tls(self) -> ServerTls:
        pair = self._issuer.key_pair(self._own, time.time())
        return ServerTls(pair.certificate, pair.private_key, self._authority.bundle)

    def _secrets(self, identity: str, _holder: str) -> tuple[Any, ...]:
        pair = self._issuer.key_pair(identity, time.time())
        return (envoy_secrets.key_pair(pair.certificate, pair.private_key),)

    def _identity(self, pod: Pod) -> str:
        return f"spiffe://{self._options.settings.trust_domain}/ns/{pod.meta.namespace}/sa/{pod.service_account}"

    def _pods_of(self, identity: str) -> Iterable[Pod]:
        pods = self.compiled.snapshot.pods.values() if self.compiled else ()
        return [pod for pod in pods if pod.meshed and pod.app_address and self._identity(pod) == identity]

    def _keys(self, pod: Pod) -> Path:
        return self._options.state / f"{pod.meta.namespace}_{pod.meta.name}_keys"

    def _bootstrap(self, pod: Pod) -> Mapping[str, Any]:
        """Return the bootstrap of a pod's Envoy; its client certificate lies in a file that `_rotate` replaces."""
        keys = self._keys(pod)
        private_folder(keys)
        self._key_folders.add(keys)
        _write_pair(keys, self._issuer.key_pair(self._identity(pod), time.time()))
        roots = self._authority.bundle.decode()
        control = envoy_bootstrap.ControlPlane("127.0.0.1", self._port, self._own, roots)
        credential = envoy_bootstrap.WatchedKeyPair(str(keys / _PAIR), str(keys))
        local = envoy_bootstrap.Local(
            admin="127.0.0.1:0",
            source_address=pod.address,
            log_every_request=self._options.settings.log_requests,
        )
        return envoy_bootstrap.bootstrap(pod.meta.key, control, credential, local)

    # ---------------------------------------------------------------------------------------------------- status

    def findings(self) -> tuple[Finding, ...]:
        """Return all that is to be said now, by any stage, errors first."""
        compiled = self.compiled.findings() if self.compiled else ()
        running = (*self.runtime.findings(), *self.server.findings(), *self._compiler.culprits.values())
        found = {*self.source.findings(), *compiled, *running}
        return tuple(sorted(found, key=by_severity_then_object))

    def _say(self) -> None:
        """Log each finding once when it appears, and once when it is gone."""
        now = frozenset(self.findings())
        for item in sorted(now - self._said, key=by_severity_then_object):
            where = self.source.location(item.subject, item.field)
            _log.log(
                _LEVELS[item.severity.value],
                "%s%s %s: %s -> %s",
                f"{where}: " if where else "",
                item.code,
                printable(str(item.subject)),
                printable(item.message),
                item.hint,
            )
        for item in sorted(self._said - now, key=by_severity_then_object):
            _log.info("resolved: %s %s", item.code, printable(f"{item.subject} {item.field}"))
        self._said = now

    def status(self) -> dict[str, Any]:
        """Return what this run does as plain data."""
        ready = self.runtime.ready()
        pods = self.compiled.snapshot.pods if self.compiled else {}
        return {
            "source": str(self.path),
            "state": str(self._options.state),
            "pid": os.getpid(),
            "seconds": round(time.time() - self._started),
            "pods": [_pod_data(pod, ready=ready.get(key, False)) for key, pod in sorted(pods.items())],
            "proxies": [
                {
                    "workload": "/".join(proxy.workload),
                    "identity": proxy.identity,
                    "envoy": proxy.envoy_version,
                    "in_sync": proxy.in_sync,
                    "waiting_seconds": round(proxy.waiting, 1),
                    "types": [
                        {"type": kind.type, "version": kind.version, "resources": kind.names, "sent": kind.sent,
                         "acknowledged": kind.acknowledged, "refused": kind.refused}
                        for kind in proxy.types
                    ],
                    "last_refusal": proxy.last_nack,
                }
                for proxy in self.server.proxies()
            ],
            "findings": [self._finding_data(item) for item in self.findings()],
        }  # fmt: skip

    def _finding_data(self, item: Finding) -> dict[str, Any]:
        where = self.source.location(item.subject, item.field)
        return {
            "code": item.code,
            "severity": item.severity.value,
            "object": str(item.subject),
            "field": item.field,
            "message": item.message,
            "hint": item.hint,
            "where": str(where) if where else "",
        }

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer whoever connects to the status socket with the status, once."""
        del reader
        writer.write(json.dumps(self.status()).encode())
        await writer.drain()
        writer.close()


class FileShelf:
    """The directory as the embedded API's shelf."""

    def __init__(self, source: DirectorySource) -> None:
        self._source = source

    def written(self, ref: Ref) -> RawObject | None:
        """Return an object as its file holds it."""
        return self._source.written(ref)

    def put(self, ref: Ref, raw: RawObject) -> None:
        """Write an object into its file."""
        with _as_shelf_errors():
            self._source.put(ref, raw)

    def check_removable(self, ref: Ref) -> None:
        """Raise ShelfError if an object can't be removed from its files."""
        with _as_shelf_errors():
            self._source.check_removable(ref)

    def remove(self, ref: Ref) -> None:
        """Remove an object from its files."""
        with _as_shelf_errors():
            self._source.remove(ref)


@contextlib.contextmanager
def _as_shelf_errors() -> Iterator[None]:
    try:
        yield
    except ChangedError as error:
        raise ShelfConflictError(str(error)) from error
    except UnreadableError as error:
        raise ShelfUnreadableError(str(error)) from error
    except EditError as error:
        raise ShelfError(str(error)) from error


_LEVELS = {"error": logging.ERROR, "warning": logging.WARNING, "info": logging.INFO}


def _pod_data(pod: Pod, *, ready: bool) -> dict[str, Any]:
    return {
        "pod": f"{pod.meta.namespace}/{pod.meta.name}",
        "service_account": pod.service_account,
        "address": pod.address,
        "application": pod.app_address,
        "ready": ready,
        "dials": {"/".join(key): address for key, address in sorted(pod.dial.items())},
    }


# ------------------------------------------------------------------------------------------------------------ files
def _api_server(store: Store, shelf: FileShelf) -> ApiServer:
    """Return the server of the embedded API: few runs have one, and aiohttp is a third of what a start imports."""
    from smi_adapter.embedded_api.server import ApiServer  # noqa: PLC0415

    return ApiServer(store, shelf)


def _write_pair(folder: Path, pair: KeyPair) -> None:
    """Replace a key pair in one step; Envoy reads it when the folder changes."""
    made = envoy_bootstrap.key_pair_file(pair.certificate.decode(), pair.private_key.decode())
    fresh = folder / f".{_PAIR}"
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(made, file)
    fresh.replace(folder / _PAIR)
