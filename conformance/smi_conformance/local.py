"""The local harness: workloads as processes, each behind the proxy that the target's driver starts.

The driver is a command and nothing of it is imported: it speaks JSON lines on stdin and stdout (docs/driver.md). This
side asks it to start workloads, to write and delete objects, and where a client finds a Service; it sends the
requests itself, from client processes that several workloads share, and reads the servers' ledgers from files.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import math
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from smi_conformance import echo
from smi_conformance.answers import checked
from smi_conformance.places import together
from smi_conformance.protocol import ApiResult, App, Batch, Event, HarnessError, Pod, Receipt, Reply, Req
from smi_conformance.render import Manifest
from smi_conformance.target import Target

HELLO = 30.0
"""Seconds for a driver to say hello."""
_ONCE_MORE = 10.0
"""Seconds for the next request after one that was not answered."""
_STOP, _STOP_DEAF = 20.0, 3.0
"""Seconds for a driver to end when its stdin closes; for one that does not answer."""
_GRACE = 1.0
_WORTHLESS = 10_000
_SHOWN = 200
_NAMED = 5
_LINE = 64 * 1024 * 1024


class Lines:
    """A process that answers JSON lines with JSON lines, matched by `id`, and all that it starts.

    It leads a group of processes, which ends with it: what a driver has started and lost sight of, too.
    """

    def __init__(self, what: str, *, cancels: bool = False) -> None:
        self._what = what
        self._cancels = cancels
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._log: Path | None = None
        self._rubbish = b""
        self._worthless = 0
        self._unanswered: list[str] = []
        self._silent = 0.0
        """When the first of them was given up."""
        self._asked: dict[int, tuple[float, float]] = {}
        """When each that is waited for was asked, and until when it may be answered."""
        self.answers = False
        """Whether it answered anything, and the last request too: otherwise it would not answer `stop`."""
        self.gone = ""

    async def start(self, command: Sequence[str], directory: Path | None = None, log: Path | None = None) -> None:
        """Start the process."""
        self._log = log
        errors: Any = log.open("ab") if log else None
        try:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                cwd=directory,
                limit=_LINE,
                start_new_session=True,  # ^C is for us; we end it in an orderly way
            )
        except OSError as error:
            raise HarnessError(f"{self._what} {command[0]!r} can't be started: {error}") from error
        finally:
            if errors:
                errors.close()
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        """Read answers until it ends, even if what it started holds its stdout open; then tell all who wait."""
        assert self._process is not None  # noqa: S101 - `start` ran
        reading = asyncio.create_task(self._answers())
        ending = asyncio.create_task(_ended(self._process, look=0.2))
        try:
            await asyncio.wait({reading, ending}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({reading, ending}, timeout=_GRACE)  # its last words; its exit code
        finally:
            reading.cancel()
            ending.cancel()
        code = self._process.returncode
        ended = "closed its stdout" if code is None else f"ended (exit code {code})"
        self.gone = self.gone or f"{self._what} {ended}{''.join(f': {line}' for line in self.said()[-1:])}"
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(HarnessError(self.gone))

    async def _answers(self) -> None:
        assert self._process is not None  # noqa: S101 - `start` ran
        assert self._process.stdout is not None  # noqa: S101
        try:
            while line := await self._process.stdout.readline():
                self._take(line)
                if self._worthless >= _WORTHLESS:
                    self.gone = f"{self._what} writes what is no answer{self._last()}"
                    return
        except ValueError:
            self.gone = f"{self._what} wrote a line of more than {_LINE >> 20} MiB"

    def _take(self, line: bytes) -> None:
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            answer = None
        number = answer.get("id") if isinstance(answer, dict) else None
        if not isinstance(answer, dict) or type(number) is not int:
            self._rubbish = line  # something printed to stdout; not ours
            self._worthless += 1
            return
        self._worthless, self.answers = 0, True
        self._unanswered.clear()
        future = self._waiting.pop(number, None)
        if future is not None and not future.done():
            future.set_result(answer)

    def _last(self) -> str:
        """Return the last line that was no answer, for a message: who answers with a mistake sees it there."""
        text = self._rubbish[:_SHOWN].decode(errors="replace").strip()
        return f"; a line of its stdout that is no answer: {text!r}" if self._rubbish else ""

    def said(self) -> list[str]:
        """Return what it wrote to stderr, the last lines."""
        try:
            return self._log.read_text(errors="replace").strip().splitlines()[-5:] if self._log else []
        except OSError:
            return []

    async def ask(self, message: Mapping[str, Any], patience: float) -> dict[str, Any]:
        """Send a message and return the answer."""
        if self.gone or self._process is None or self._process.stdin is None:
            raise HarnessError(self.gone or f"{self._what} is not running")
        number = next(self._ids)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        self._process.stdin.write(json.dumps({"id": number, **message}).encode() + b"\n")
        now = time.monotonic()
        if self._unanswered and "op" in message and not self._busy(now):
            patience = min(patience, _ONCE_MORE)
        self._asked[number] = now, now + patience
        try:
            async with asyncio.timeout(patience):
                answer = await future
        except TimeoutError:
            raise HarnessError(self._deaf(message, patience, now)) from None
        except asyncio.CancelledError:
            if self._cancels:
                self.tell({"cancel": number})
            raise
        finally:
            self._waiting.pop(number, None)
            self._asked.pop(number, None)
        if "error" in answer:
            raise HarnessError(f"{self._what}: {answer['error']}")
        return answer

    def tell(self, message: Mapping[str, Any]) -> None:
        """Send a message that has no answer."""
        if self._process is not None and self._process.stdin is not None and not self.gone:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")

    def _deaf(self, message: Mapping[str, Any], patience: float, asked: float) -> str:
        """Take down that a request was not answered. One that was asked after that is the last: nobody is there."""
        now = time.monotonic()
        self._silent = self._silent if self._unanswered else now
        self._unanswered.append(f"{message.get('op', 'a batch')} in {patience:.0f} s")
        words = f"{self._what} did not answer {', nor '.join(self._unanswered)}{self._last()}"
        self.answers = False
        if asked > self._silent and "op" in message and not self._busy(now):
            self.gone = self.gone or words
        return words

    def _busy(self, now: float) -> bool:
        """Tell whether it may still be at something else that it was asked before, such as a slow `deploy`."""
        return any(asked <= self._silent and until > now for asked, until in self._asked.values())

    @property
    def deaf(self) -> bool:
        """Tell whether it left the last request without an answer, or writes what is none."""
        return bool(self._unanswered or self._worthless >= _WORTHLESS)

    @property
    def alive(self) -> int:
        """Return the id of its process; 0: it does not run."""
        return self._process.pid if self._process is not None and self._process.returncode is None else 0

    async def stop(self, patience: float = 20.0) -> str:
        """Close its stdin, which tells it to end; end what did not end by itself, and return what that was."""
        process = self._process
        if process is None:
            return ""
        said = ""
        try:
            if process.stdin is not None:
                process.stdin.close()
            if not await _ended(process, patience):
                said = f"{self._what} did not end in {patience:.0f} s"
            else:
                await _until(lambda: not _members(process.pid), _GRACE)
        finally:
            ended = _kill(process)
        if said or ended:
            said = f"{said or f'{self._what} left processes behind'}; ended: {ended or process.pid}"
            await _until(lambda: not _members(process.pid), _GRACE)  # being killed takes a moment
        await _ended(process, _GRACE)
        if self._reader is not None:
            await asyncio.gather(self._reader, return_exceptions=True)
        process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001 - who left our group may hold its stdout
        await asyncio.sleep(0)
        return said


async def _until(done: Callable[[], bool], patience: float, look: float = 0.02) -> bool:
    deadline = time.monotonic() + patience
    while not done():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(look)
    return True


async def _ended(process: asyncio.subprocess.Process, patience: float = math.inf, look: float = 0.02) -> bool:
    """Wait until a process has ended: asyncio's own wait lasts until nobody holds its stdout open any more."""
    return await _until(lambda: process.returncode is not None, patience, look)


def _kill(process: asyncio.subprocess.Process) -> str:
    """Kill what is left of a process's group and return what that was; the id of an empty group may be another's."""
    found = [f"{name} ({number})" for number, name in _members(process.pid)]
    if found or process.returncode is None or not Path("/proc/self/stat").exists():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    return ", ".join(found[:_NAMED]) + (f" and {len(found) - _NAMED} more" if found[_NAMED:] else "")


def _members(group: int) -> list[tuple[int, str]]:
    """Return the processes of a group and their names, where there is a /proc; without those that have ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            number, _, rest = path.read_text(errors="replace").partition(" (")
            name, _, fields = rest.rpartition(") ")
            state, _, its = fields.split()[:3]
            if int(its) == group and state not in "ZX":
                found.append((int(number), name))
    return sorted(found)


class LocalHarness:
    """Asks the driver for everything that belongs to the mesh, and does the traffic itself."""

    name = "local"

    def __init__(self, target: Target, clients: int = 2) -> None:
        self._target = target
        self._driver = Lines("the driver")
        self._clients = [Lines("the client process", cancels=True) for _ in range(clients)]
        self._turn = itertools.count()
        self._folder = Path()
        self._read_to: dict[Path, int] = {}
        self._apps: dict[str, App] = {}
        self._sources: dict[str, str] = {}
        self._found: dict[tuple[str, str, int], list[list[Any]]] = {}
        self.capabilities: frozenset[str] = frozenset()
        self.served: Mapping[str, tuple[str, ...]] = {}
        self.environment: Mapping[str, Any] = {"harness": "local"}
        self.tell: Callable[[str], None] = lambda _: None

    @property
    def folder(self) -> Path:
        """Return where ledgers and logs are while it runs."""
        return self._folder

    async def start(self) -> None:
        """Start the driver and the client processes, and learn what the driver can do."""
        if not self._target.driver:
            raise HarnessError("the target has no local.driver: the local harness needs a command that starts the mesh")
        try:
            self._folder = Path(tempfile.mkdtemp(prefix="smi-conformance-"))
        except OSError as error:
            raise HarnessError(f"there is no room for ledgers and logs: {error}") from error
        program = str(Path(echo.__file__))
        for client in self._clients:
            await client.start([sys.executable, "-u", program, "client"])
        command = [sys.executable if part in {"python", "python3"} else part for part in self._target.driver]
        log = self.folder / "driver.log"
        await self._driver.start(command, self._target.directory, log)
        try:
            hello = await self._ask("hello", patience=HELLO, echo=program, python=sys.executable)
        except HarnessError as error:
            more = [line for line in self._driver.said() if line not in str(error)]
            raise HarnessError("; ".join(dict.fromkeys([str(error), *more]))) from error
        if hello.get("protocol") != 1:
            raise HarnessError(f"the driver speaks protocol {hello.get('protocol')!r}, this suite speaks 1")
        self.capabilities = frozenset(hello.get("capabilities", ())) - {"probes"}  # there is no kubelet
        self.served = {group: tuple(versions) for group, versions in hello.get("served", {}).items()}
        self.environment = {"harness": "local", **hello.get("environment", {}), **self._target.environment}

    async def stop(self) -> None:
        """End the driver, and with it everything that it started."""
        try:
            await self._end()
        finally:
            if self._folder != Path():
                shutil.rmtree(self._folder, ignore_errors=True)

    async def leave(self) -> None:
        """End the driver; processes can't stay, but ledgers and logs do."""
        await self._end()

    def remains(self, namespaces: Sequence[str]) -> list[str]:
        """Return where ledgers and logs are, and the driver if it still runs; namespaces are in its memory alone."""
        del namespaces
        alive = self._driver.alive
        driver = [f"the driver and what it started, process group {alive}, which ends with us if it does as it is told"]
        folder = [f"ledgers and the driver's log in {self._folder}"] if self._folder != Path() else []
        return (driver if alive else []) + folder

    async def _end(self) -> None:
        if self._driver.answers:
            with contextlib.suppress(HarnessError):
                await self._ask("stop", patience=30)
        patience = _STOP_DEAF if self._driver.deaf else _STOP
        ends = (self._driver.stop(patience), *(client.stop(2.0) for client in self._clients))
        for said in await asyncio.gather(*ends):
            if said:
                self.tell(said)

    async def _ask(self, op: str, patience: float = 60.0, **fields: Any) -> dict[str, Any]:
        if op in {"apply", "delete", "deploy", "undeploy"}:
            self._found.clear()
        answer = await self._driver.ask({"op": op, **fields}, patience)
        checked(op, answer, len(fields["objects"]) if "objects" in fields else None)
        return answer

    async def _address(self, client: str, service: str, port: int) -> list[list[Any]]:
        """Ask where a client finds a Service; what its proxy listens on stays until something is written."""
        found = self._found.get((client, service, port))
        if found is None:
            answer = await self._ask("address", client=client, service=service, port=port)
            found = answer["addresses"]
            if client and found:
                self._found[client, service, port] = found
        return found

    async def namespace(self, name: str, *, enforced: bool) -> None:
        """Create a namespace."""
        mesh = self._target.mesh
        labels, annotations = dict(mesh.get("namespaceLabels") or {}), dict(mesh.get("namespaceAnnotations") or {})
        if not enforced:
            labels |= mesh.get("permissiveNamespaceLabels") or {}
            annotations |= mesh.get("permissiveNamespaceAnnotations") or {}
        metadata = {"name": name, "labels": labels, "annotations": annotations}
        await self._ask("apply", objects=[{"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}])

    async def remove_namespace(self, name: str) -> None:
        """Remove a namespace with its workloads."""
        # All at once: a driver may wait with each until it has drained.
        await together(*(self.undeploy(app) for app in list(self._apps.values()) if app.namespace == name))
        metadata = {"name": name}
        await self._ask("delete", objects=[{"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}])

    async def removed(self) -> list[str]:
        """Wait for nothing: the driver has answered when it is gone."""
        return []

    async def deploy(self, app: App) -> tuple[Pod, ...]:
        """Have the driver start the workload; a client outside of the mesh needs no process of its own."""
        self._apps[app.key] = app
        if not app.meshed and not app.ports:
            return ()
        answer = await self._ask("deploy", patience=120, app=_app_data(app, self.folder, self._target.mesh))
        pods = tuple(Pod(str(pod["name"]), str(pod["address"])) for pod in answer["pods"])
        self._sources[app.key] = pods[0].address if pods and _is_ours(pods[0].address) else ""
        return pods

    async def ready(self, app: App) -> bool:
        """Refuse: nobody probes a process."""
        raise HarnessError(f"{app.key}: there is no kubelet to ask")

    async def undeploy(self, app: App) -> None:
        """Have the driver stop the workload."""
        self._sources.pop(app.key, None)
        if self._apps.pop(app.key, None) is not None and (app.meshed or app.ports):
            await self._ask("undeploy", namespace=app.namespace, name=app.name)

    async def apply(self, manifests: Sequence[Manifest], *, dry_run: bool = False) -> list[ApiResult]:
        """Write objects."""
        answer = await self._ask("apply", objects=list(manifests), dryRun=dry_run)
        return [ApiResult(int(item["code"]), str(item.get("message", ""))) for item in answer["results"]]

    async def delete(self, manifests: Sequence[Manifest]) -> None:
        """Delete objects."""
        await self._ask("delete", objects=list(manifests))

    async def get(self, manifest: Manifest, version: str = "") -> Manifest | None:
        """Read an object back."""
        answer = await self._ask("get", object=manifest, version=version)
        found: Manifest | None = answer.get("object")
        return found

    async def patch(self, manifest: Manifest, change: Mapping[str, Any]) -> ApiResult:
        """Change an object by a merge patch."""
        answer = await self._ask("patch", object=manifest, patch=change)
        return ApiResult(int(answer["code"]), str(answer.get("message", "")))

    async def events(self, manifest: Manifest) -> list[Event]:
        """Return what was said about an object."""
        answer = await self._ask("events", object=manifest)
        return [Event(str(item["reason"]), str(item["message"]), item.get("type", "")) for item in answer["events"]]

    async def address(self, client: App, service: str, port: int) -> tuple[str, int]:
        """Ask the driver."""
        found = await self._address(client.key, service, port)
        if not found:
            raise HarnessError(f"{client.key} finds no address for {service}:{port}")
        return str(found[0][0]), int(found[0][1])

    async def send(self, client: App, req: Req, batch: Batch, token: str) -> list[Reply]:
        """Ask the driver where that client finds the Service, and send the requests there."""
        # What goes round the client's proxy comes from the client's address; to the proxy goes what reaches it.
        source = self._sources.get(client.key, "") if req.pod or req.bypass else ""
        if req.pod:
            addresses, host = [[req.pod, req.port]], req.host or f"{req.pod}:{req.port}"
        else:
            meshed = client.meshed and not req.bypass
            addresses = await self._address(client.key if meshed else "", req.service, req.port)
            host = req.host or host_of(self._target.mesh, req.service, req.port)
        if not addresses:
            return [Reply("dns", 0, f"{token}-{number}") for number in range(batch.n)]
        job = {
            "addresses": addresses, "host": host, "kind": req.kind, "method": req.method, "path": req.path,
            "headers": list(req.headers), "n": batch.n, "concurrency": batch.concurrency, "timeout": batch.timeout,
            "connection": batch.connection, "interval": batch.interval, "kept": batch.kept, "token": token,
            "source": source,
        }  # fmt: skip
        # A kept connection lives in one process.
        worker = self._clients[0] if batch.kept else self._clients[next(self._turn) % len(self._clients)]
        patience = 30 + batch.n * (batch.interval + batch.timeout / batch.concurrency)
        return replies(await worker.ask(job, patience))

    async def close_connection(self, client: App, kept: str) -> None:
        """Close a kept connection."""
        del client
        self._clients[0].tell({"close": kept})

    async def mark(self, app: App, token: str) -> set[str]:
        """Make none: a server writes into its file before it answers, and what stands there is read at once."""
        del app, token
        return set()

    async def receipts(self, app: App) -> list[Receipt]:
        """Read on in the ledgers of the workload's pods; a server begins its own before it listens."""
        found: list[Receipt] = []
        paths = sorted(self.folder.glob(f"{app.namespace}_{app.name}_*.ledger"))
        if not paths:
            raise HarnessError(f"{app.key} has no ledger: does the driver start it with ECHO_LEDGER?")
        for path in paths:
            with path.open("rb") as file:
                file.seek(self._read_to.get(path, 0))
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._read_to[path] = self._read_to.get(path, 0) + len(whole)
            found += [receipt(line) for line in whole.splitlines()]
        return found

    async def hook(self, name: str) -> None:
        """Run a command of the target; without one, the driver knows what to do."""
        if self._target.hooks.get(name):
            await run_hook(self._target, name)
        else:
            await self._ask("hook", name=name)


def _app_data(app: App, folder: Path, mesh: Mapping[str, Any]) -> dict[str, Any]:
    kind = "pod" if app.meshed else "unmeshedPod"
    return {
        "name": app.name,
        "namespace": app.namespace,
        "account": app.account,
        "labels": {**(mesh.get(f"{kind}Labels") or {}), **dict(app.labels)},
        "annotations": mesh.get(f"{kind}Annotations") or {},
        "ports": [{"port": port.number, "protocol": port.protocol} for port in app.ports],
        "replicas": app.replicas,
        "meshed": app.meshed,
        # The driver puts the pod's name in place of {pod}.
        "ledger": str(folder / f"{app.namespace}_{app.name}_{{pod}}.ledger"),
    }


def _is_ours(address: str) -> bool:
    """Tell whether requests can come from an address: it is one of this machine."""
    try:
        with socket.socket(echo.family(address), socket.SOCK_DGRAM) as trial:
            trial.bind((address, 0))
    except OSError:
        return False
    return True


def host_of(mesh: Mapping[str, Any], service: str, port: int) -> str:
    """Return the Host header for a Service, as the target says how Services are called."""
    namespace, _, name = service.partition("/")
    return str(mesh.get("hostTemplate") or "{svc}.{ns}").format(svc=name, ns=namespace) + f":{port}"


def replies(answer: Mapping[str, Any]) -> list[Reply]:
    """Turn what the client process says into replies."""
    backends: list[Mapping[str, Any]] = []
    for body in answer["bodies"]:
        try:
            value = json.loads(body) if body else {}
        except ValueError:
            value = {}
        if isinstance(value, dict) and value.get("broken"):
            raise HarnessError(f"a workload can't write down what it receives: {value['broken']}")
        backends.append(value if isinstance(value, dict) and "app" in value else {})
    return [
        Reply(str(outcome), int(status), str(token), float(took), bool(reused), backends[at])
        for outcome, status, at, token, took, reused in answer["replies"]
    ]


def receipt(line: bytes) -> Receipt:
    """Turn a line of a ledger into a receipt."""
    raw = json.loads(line)
    where = (raw["app"], raw["pod"], raw["token"], int(raw["port"]))
    return Receipt(*where, raw["kind"], raw.get("method", ""), raw.get("path", ""))


async def run_hook(target: Target, name: str) -> None:
    """Run a command of the target's hooks; a restart without one is a stop and a start."""
    command = target.hooks.get(name)
    if not command and name == "restart" and target.hooks.get("stop") and target.hooks.get("start"):
        await run_hook(target, "stop")
        await run_hook(target, "start")
        return
    if not command:
        raise HarnessError(f"the target has no hook {name}")
    process = await asyncio.create_subprocess_exec(*command, cwd=target.directory)
    if await process.wait():
        raise HarnessError(f"the hook {name} failed with exit code {process.returncode}")
