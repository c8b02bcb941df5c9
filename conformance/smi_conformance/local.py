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
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from smi_conformance import echo
from smi_conformance.answers import checked
from smi_conformance.lines import Lines
from smi_conformance.places import together
from smi_conformance.protocol import ApiResult, App, Batch, Event, HarnessError, Pod, Receipt, Reply, Req
from smi_conformance.render import Manifest
from smi_conformance.target import Target

HELLO = 30.0
"""Seconds for a driver to say hello."""
_STOP, _STOP_DEAF = 20.0, 3.0
"""Seconds for a driver to end when its stdin closes; for one that does not answer."""


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
