"""The driver that lets `smi-conformance` run this adapter without a cluster.

It lives beside the product, not in the suite: the suite starts it as a command and speaks JSON lines with it
(conformance/docs/driver.md), so neither imports the other's insides. It puts `LocalMesh` on a directory of its own;
writing an object is writing a file, exactly as a user of the no-cluster mode does it, and a workload is a Deployment
whose command runs the suite's `echo.py`. What the adapter says about an object (its findings) stands for Events.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from smi_adapter import __version__, app, settings
from smi_adapter.decode import ref_of
from smi_adapter.findings import Ref, Severity
from smi_adapter.local import LocalMesh, LocalOptions
from smi_adapter.settings import Settings
from smi_adapter.smi import schema
from smi_adapter.smi.objects import Key

Raw = dict[str, Any]

CAPABILITIES = (
    *("tcp", "udp", "h2c", "unmeshed", "bypass", "pod-ip", "events", "dry-run", "scale", "service-types"),
    *("restart", "watch-fault"),
)
READY = 60.0
_SETTLED = 3.0
_LAST_NEWS = 0.3
"""Seconds for the last news of a folder to be heard: what is written afterwards has to be found without any."""


class Driver:
    """Carries out what the suite asks for; each request is a task of its own."""

    capabilities: tuple[str, ...] = CAPABILITIES
    objects = "files in a directory"
    """How what a case applies is written; reports say so."""
    listens: tuple[str, int] | None = None
    """Where the mesh serves its objects as a Kubernetes API, if it does (see driver_api.py)."""

    def __init__(self, mesh: LocalMesh, files: Path, chosen: Settings) -> None:
        self._mesh = mesh
        self._chosen = chosen
        self._files = files
        self._created: dict[Ref, str] = {}
        self._echo: tuple[str, str] = ("", "")
        self.stopped = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing is open."""

    async def answer(self, request: Mapping[str, Any]) -> Raw:
        """Return the answer to one request."""
        operation = getattr(self, f"do_{request['op']}")
        answer: Raw = await operation(request)
        return answer

    async def do_hello(self, request: Mapping[str, Any]) -> Raw:
        """Say who we are and what can be asked of us."""
        self._echo = (str(request["python"]), str(request["echo"]))
        environment = {"headersEncoding": "both", "mode": "no-cluster", "adapter": __version__, "objects": self.objects}
        return {
            "protocol": 1,
            "capabilities": self.capabilities,
            "served": {group: sorted(versions) for group, versions in sorted((await self.served()).items())},
            "environment": environment,
        }

    async def served(self) -> Mapping[str, set[str]]:
        """Return the versions of each group. A directory takes what there is a schema for."""
        found: dict[str, set[str]] = {}
        for (group, _), versions in schema.served().items():
            found.setdefault(group, set()).update(versions)
        return found

    async def do_apply(self, request: Mapping[str, Any]) -> Raw:
        """Write objects as files. A directory refuses nothing; with dryRun the schemas of the CRDs judge."""
        results: list[Raw] = []
        for raw in request["objects"]:
            if request.get("dryRun"):
                problems = schema.problems(raw) if ".smi-spec.io/" in str(raw.get("apiVersion")) else ()
                message = "; ".join(f"{field}: {text}" for field, text in problems)
                results.append({"code": 422 if problems else 200, "message": message})
                continue
            results.append({"code": 200 if ref_of(raw) in self._created else 201})
            self._write(raw)
        return {"results": results}

    async def do_delete(self, request: Mapping[str, Any]) -> Raw:
        """Delete the files of objects."""
        for raw in request["objects"]:
            ref = ref_of(raw)
            self._created.pop(ref, None)
            self._path(ref).unlink(missing_ok=True)
        return {}

    async def do_get(self, request: Mapping[str, Any]) -> Raw:
        """Return an object as it was written."""
        path = self._path(ref_of(request["object"]))
        return {"object": json.loads(path.read_text()) if path.exists() else None}

    async def do_deploy(self, request: Mapping[str, Any]) -> Raw:
        """Write a Deployment and wait until its Pods are ready and their proxies have their configuration."""
        app = request["app"]
        self._write(
            {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": {"name": app["account"], "namespace": app["namespace"]},
            }
        )
        self._write(self._deployment(app))
        names = {(app["namespace"], f"{app['name']}-{number}") for number in range(app["replicas"])}
        deadline = time.monotonic() + READY
        while not self._ready(app, names):
            if time.monotonic() > deadline:
                said = "; ".join(item.message for item in self._mesh.findings() if self._about(item.subject, names))
                text = f"{app['namespace']}/{app['name']} did not become ready in {READY:.0f} s"
                raise RuntimeError(f"{text}: {said or self._readiness(names)}")
            await asyncio.sleep(0.02)
        pods = self._pods()
        return {"pods": [{"name": name[1], "address": pods[name].address} for name in sorted(names)]}

    async def do_undeploy(self, request: Mapping[str, Any]) -> Raw:
        """Delete a Deployment and wait until its Pods are gone."""
        ref = Ref("Deployment", request["namespace"], request["name"], "apps")
        self._created.pop(ref, None)
        self._path(ref).unlink(missing_ok=True)
        prefix = f"{request['name']}-"
        for _ in range(int(_SETTLED / 0.02)):
            if not any(
                namespace == request["namespace"] and name.removeprefix(prefix).isdigit()
                for namespace, name in self._pods()
            ):
                break
            await asyncio.sleep(0.02)
        return {}

    async def do_address(self, request: Mapping[str, Any]) -> Raw:
        """Say where a client's proxy takes calls for a Service; without a client, where the endpoints are."""
        namespace, _, name = request["service"].partition("/")
        service, port = (namespace, name), int(request["port"])
        deadline = time.monotonic() + _SETTLED
        while True:
            found = self._dialled(request["client"], service, port) if request["client"] else self._plain(service, port)
            if found or time.monotonic() > deadline:
                return {"addresses": found}
            await asyncio.sleep(0.01)

    async def do_events(self, request: Mapping[str, Any]) -> Raw:
        """Return the findings about an object."""
        ref = ref_of(request["object"])
        found = [item for item in self._mesh.findings() if item.subject == ref]
        kinds = {item: "Normal" if item.severity is Severity.INFO else "Warning" for item in found}
        told = [
            {"reason": item.code, "message": f"{item.field}: {item.message}", "type": kinds[item]} for item in found
        ]
        return {"events": told}

    async def do_hook(self, request: Mapping[str, Any]) -> Raw:
        """Take the control plane away, bring it back with an empty memory, or cut the watch of the files.

        The control plane is what would run in the cluster: compiler and xDS server. The runtime that keeps processes
        alive is the kubelet of this mode and stays.
        """
        name = request["name"]
        if name in {"stop", "restart"}:
            await self._mesh.server.stop()
            self._mesh.server = self._mesh.new_server()
        if name in {"start", "restart"}:
            await self._mesh.server.start("127.0.0.1", self._mesh._port, self._mesh._tls)
            self._recompile()
        if name == "breakWatch":
            await asyncio.to_thread(self._replace_folder)
            await asyncio.sleep(_LAST_NEWS)
        return {}

    def _recompile(self) -> None:
        """Compile everything by a compiler that knows nothing yet."""
        mesh, chosen = self._mesh, self._chosen
        options = app.options_of(chosen, mesh._authority.bundle)
        mesh._compiler = app.Compiler(app.backend_of(chosen), options)
        mesh.compiled = None
        mesh._take(dict(mesh.source._world.objects))

    def _replace_folder(self) -> None:
        """Put another folder with the same files in place of the watched one, whose watch then sees nothing more."""
        other, old = self._files.with_name("other"), self._files.with_name("old")
        shutil.copytree(self._files, other)
        self._files.rename(old)
        other.rename(self._files)
        shutil.rmtree(old)

    async def do_stop(self, request: Mapping[str, Any]) -> Raw:
        """End."""
        del request
        self.stopped.set()
        return {}

    # ---------------------------------------------------------------------------------------------------- objects

    def _path(self, ref: Ref) -> Path:
        return self._files / f"{ref.kind}.{ref.namespace}.{ref.name}.json".lower()

    def _write(self, raw: Raw) -> None:
        """Write a file in one step, with the time of its creation, as an API server would set it."""
        ref = ref_of(raw)
        created = self._created.setdefault(ref, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        stamped = {**raw, "metadata": {**raw["metadata"], "creationTimestamp": created}}
        path = self._path(ref)
        fresh = self._files.parent / f"{path.name}.fresh"
        fresh.write_text(json.dumps(stamped))
        fresh.replace(path)

    def _deployment(self, app: Mapping[str, Any]) -> Raw:
        labels = {"conformance-app": app["name"], **app["labels"]}
        annotations = {**app["annotations"], **({} if app["meshed"] else {"smi-adapter.io/inject": "false"})}
        container: Raw = {"name": "echo", "image": "ignored"}
        if app["ports"]:
            own = {"fieldRef": {"fieldPath": "metadata.name"}}
            container |= {
                "command": [*self._echo, "serve"],
                "env": [
                    {"name": "POD_NAME", "valueFrom": own},
                    {"name": "ECHO_BIND", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                    {"name": "ECHO_POD", "value": "$(POD_NAME)"},
                    {"name": "ECHO_APP", "value": app["name"]},
                    {"name": "ECHO_NAMESPACE", "value": app["namespace"]},
                    {"name": "ECHO_ACCOUNT", "value": app["account"]},
                    {"name": "ECHO_PORTS", "value": json.dumps(app["ports"])},
                    {"name": "ECHO_LEDGER", "value": app["ledger"].replace("{pod}", "$(POD_NAME)")},
                ],
                # One is enough to see that it lives; the adapter looks at each declared port again and again.
                "ports": [{"containerPort": app["ports"][0]["port"]}],
            }
        template = {
            "metadata": {"labels": labels, "annotations": annotations},
            "spec": {"serviceAccountName": app["account"], "containers": [container]},
        }
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": app["name"], "namespace": app["namespace"]},
            "spec": {"replicas": app["replicas"], "selector": {"matchLabels": labels}, "template": template},
        }

    # ----------------------------------------------------------------------------------------------------- the mesh

    def _pods(self) -> Mapping[Key, Any]:
        return self._mesh.compiled.snapshot.pods if self._mesh.compiled else {}

    @staticmethod
    def _about(subject: Ref, names: set[Key]) -> bool:
        return subject.kind == "Pod" and (subject.namespace, subject.name) in names

    def _readiness(self, names: set[Key]) -> str:
        """Say which pods exist and which are ready, as the source, the runtime and the compiler see them."""
        pods, ready = self._pods(), self._mesh.runtime.ready()
        seen = {name: (name in pods and pods[name].ready, ready.get(name)) for name in sorted(names)}
        return ", ".join(f"{'/'.join(name)}: endpoint {one}, process {two}" for name, (one, two) in seen.items())

    def _ready(self, app: Mapping[str, Any], names: set[Key]) -> bool:
        pods, ready = self._pods(), self._mesh.runtime.ready()
        prefix = f"{app['name']}-"
        now = {
            (namespace, name)
            for namespace, name in pods
            if namespace == app["namespace"] and name.removeprefix(prefix).isdigit()
        }
        return (
            now == names
            and all(ready.get(name) for name in names)
            and (not app["ports"] or all(pods[name].ready for name in names))
        )

    def _dialled(self, client: str, service: Key, port: int) -> list[list[Any]]:
        namespace, _, name = client.partition("/")
        pod = self._pods().get((namespace, f"{name}-0"))
        address = pod.dial.get(service) if pod else None
        return [[address, port]] if address else []

    def _plain(self, service: Key, port: int) -> list[list[Any]]:
        """Do what kube-proxy does: all ready endpoints of a Service port."""
        snapshot = self._mesh.compiled.snapshot if self._mesh.compiled else None
        known = snapshot.services.get(service) if snapshot else None
        if snapshot is None or known is None:
            return []
        found: list[list[Any]] = []
        for wanted in known.ports:
            for part in snapshot.slices.values():
                if wanted.number != port or (part.meta.namespace, part.service) != service:
                    continue
                numbers = [item.number for item in part.ports if item.name == wanted.name]
                found += [[end.address, number] for end in part.endpoints if end.ready for number in numbers]
        return sorted(found)


async def _requests() -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=64 * 1024 * 1024)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def serve(folder: Path, kind: type[Driver] = Driver) -> None:
    """Answer the suite until it says stop or goes away."""
    files = folder / "files"
    files.mkdir()
    chosen = settings.read({"federated_domains": "federated.example"})
    output = os.fdopen(os.dup(1), "wb", buffering=0)
    options = LocalOptions(chosen, folder / "state", api=kind.listens)
    async with LocalMesh(files, options).running() as mesh, kind(mesh, files, chosen) as driver:
        reader = await _requests()
        tasks: set[asyncio.Task[None]] = set()

        async def one(line: bytes) -> None:
            request = json.loads(line)
            try:
                answer = await driver.answer(request)
            except Exception as error:  # noqa: BLE001 - the suite is told, and goes on
                answer = {"error": f"{type(error).__name__}: {error}"}
            output.write(json.dumps({"id": request["id"], **answer}).encode() + b"\n")

        async def read() -> None:
            while line := await reader.readline():
                task = asyncio.create_task(one(line))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            driver.stopped.set()

        reading = asyncio.create_task(read())
        await driver.stopped.wait()
        await asyncio.sleep(0.05)
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading


def main(kind: type[Driver] = Driver) -> None:
    """Run the driver in a folder that goes with it."""
    logging.basicConfig(level=os.environ.get("SMI_DRIVER_LOG", "WARNING"), format="%(asctime)s %(message)s")
    with tempfile.TemporaryDirectory(prefix="smi-driver-", ignore_cleanup_errors=True) as folder:
        asyncio.run(serve(Path(folder), kind))


if __name__ == "__main__":
    main()
