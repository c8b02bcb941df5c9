"""The Kubernetes harness: any context of a kubeconfig, workloads as Deployments of one plain Python image.

`echo.py` comes from a ConfigMap, so there is no image of ours to publish or to trust. A client is one `exec` into its
pod that stays open: jobs go in and answers come out as JSON lines over its WebSocket, as they do locally over a pipe;
never a port-forward, which takes another path through the network. Ledgers are the pods' logs, read through the API
server, which works under default deny.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib import import_module, resources
from typing import Any

from smi_conformance import kubeconfig
from smi_conformance.catalog import GROUPS
from smi_conformance.local import host_of, receipt, replies, run_hook
from smi_conformance.protocol import ApiResult, App, Batch, Event, HarnessError, Pod, Receipt, Reply, Req
from smi_conformance.render import Manifest
from smi_conformance.target import Target

_PLURALS = {
    "ConfigMap": "configmaps",
    "Deployment": "deployments",
    "HTTPRouteGroup": "httproutegroups",
    "IdentityBinding": "identitybindings",
    "Namespace": "namespaces",
    "Service": "services",
    "ServiceAccount": "serviceaccounts",
    "TCPRoute": "tcproutes",
    "TrafficSplit": "trafficsplits",
    "TrafficTarget": "traffictargets",
    "UDPRoute": "udproutes",
}
_CAPABILITIES = frozenset(
    {"tcp", "udp", "h2c", "pod-ip", "events", "dry-run", "api", "scale", "service-types", "probes"}
)
_BYPASS = "bypass"
"""The container of a client's pod whose user the mesh leaves alone."""
PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
_MANAGER = "smi-conformance"
_READY = 180.0
_PATIENCE = 60.0
"""Seconds for the API server to answer."""
_MARKS = ("Labels", "Annotations")
_SLOW = 10.0
"""Seconds after which somebody who looks on wants to know what is waited for."""
_GONE_WITHIN = 40.0
"""Seconds for namespaces to go, pods and all, at the end; whoever ends the run waits for no more than a minute."""
_CONFLICTS = 10
"""So often an object is read and written again if somebody else (a controller's status) was faster."""
_STDIN, _STDOUT, _ERROR = 0, 1, 3
_FINE = frozenset({200, 201, 202})
_GONE = _FINE | {404}
_REFUSED = frozenset({400, 422})


class ExecStream:
    """One `exec` that stays open: JSON lines in and out, matched by `id`, over channels of a WebSocket."""

    def __init__(self, socket: Any, what: str) -> None:
        self._socket = socket
        self._what = what
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._buffer = bytearray()
        self._reader = asyncio.create_task(self._read())
        self.gone = ""

    async def _read(self) -> None:
        async for message in self._socket:
            data = message.data if isinstance(message.data, bytes) else str(message.data).encode()
            if not data:
                continue
            if data[0] == _ERROR:
                self.gone = f"{self._what}: {data[1:].decode(errors='replace')}"
            elif data[0] == _STDOUT:
                self.feed(data[1:])
        self.gone = self.gone or f"{self._what} ended"
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(HarnessError(self.gone))

    def feed(self, data: bytes) -> None:
        """Take a piece of stdout; a line may come in several, and several in one."""
        self._buffer += data
        while (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            with contextlib.suppress(ValueError, KeyError, TypeError):
                answer = json.loads(line)
                future = self._waiting.pop(answer["id"], None)
                if future is not None and not future.done():
                    future.set_result(answer)

    async def ask(self, job: Mapping[str, Any], patience: float) -> dict[str, Any]:
        """Send a job and return its answer."""
        if self.gone:
            raise HarnessError(self.gone)
        number = next(self._ids)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        await self.tell({"id": number, **job})
        try:
            async with asyncio.timeout(patience):
                answer = await future
        except TimeoutError:
            raise HarnessError(f"{self._what} did not answer in {patience:.0f} s") from None
        finally:
            self._waiting.pop(number, None)
        if "error" in answer:
            raise HarnessError(f"{self._what}: {answer['error']}")
        return answer

    async def tell(self, message: Mapping[str, Any]) -> None:
        """Send a line."""
        await self._socket.send_bytes(bytes([_STDIN]) + json.dumps(message).encode() + b"\n")

    async def close(self) -> None:
        """Close the stream."""
        await self._socket.close()
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)


class KubernetesHarness:
    """Speaks with an API server and with nothing else."""

    name = "kubernetes"

    def __init__(self, target: Target, context: str = "", path: str = "") -> None:
        self._target = target
        self._context = context
        self._path = path
        self._session: Any = None
        self._access: kubeconfig.Access
        self._server = ""
        self._streams: dict[str, ExecStream] = {}
        self._pods: dict[str, tuple[Pod, ...]] = {}
        self._last_line: dict[str, str] = {}
        self._slow: set[str] = set()
        self._going: set[str] = set()
        self.tell: Callable[[str], None] = lambda _: None
        """Takes what those who look on should know; the verdicts come another way."""
        hooks = target.hooks
        extra = {"restart"} if hooks.get("stop") and hooks.get("start") else set()
        extra |= {"watch-fault"} if hooks.get("breakWatch") else set()
        extra |= {"egress"} if target.settings.get("egress") else set()
        # A pod without a proxy is one that the target says how to make: a namespace may give one to all of its pods.
        extra |= {"unmeshed"} if any(target.mesh.get(f"unmeshedPod{each}") for each in _MARKS) else set()
        extra |= {"bypass"} if target.mesh.get("bypassUser") else set()
        self.capabilities = _CAPABILITIES | extra
        self.served: Mapping[str, tuple[str, ...]] = {}
        self.environment: Mapping[str, Any] = {"harness": "kubernetes"}

    # ---------------------------------------------------------------------------------------------------- API calls

    @property
    def _tls(self) -> Any:
        """Return what a connection is made with: another, once a credential plugin gave another certificate."""
        return self._access.tls or True

    async def _call(self, method: str, path: str, body: Any = None, **query: str) -> tuple[int, Any]:
        """Call the API server; trouble with the server itself is an error, a refusal is an answer."""
        # A patch with a field manager is an apply, any other one a merge patch.
        form = "json" if method != "PATCH" else "apply-patch+yaml" if "fieldManager" in query else "merge-patch+json"
        kind = {"content-type": f"application/{form}"}
        data = json.dumps(body) if body is not None else None
        status, text, who = 401, "", await self._access.headers()
        try:
            for _ in range(2):  # once more, if the credential has ended and there is another
                async with self._session.request(
                    method, f"{self._server}{path}", data=data, headers=kind | who, params=query, ssl=self._tls
                ) as answer:
                    text = await answer.text()
                    status = int(answer.status)
                if status != 401:
                    break
                who = await self._access.headers(refused=who.get("authorization", ""))
        except (OSError, TimeoutError, self._client_error) as error:
            words = str(error) or f"no answer in {_PATIENCE:.0f} s"
            raise HarnessError(f"the API server {self._server} does not answer: {words}") from error
        if status >= 500:
            raise HarnessError(f"{method} {path}: the API server answered {status}: {text[:300]}")
        try:
            return status, json.loads(text) if text and not path.endswith("/log") else text
        except ValueError:
            return status, text

    async def _must(
        self, method: str, path: str, body: Any = None, fine: Collection[int] = _FINE, **query: str
    ) -> tuple[int, Any]:
        """Call the API server for something that has to work; anything else is trouble, and no verdict."""
        code, answer = await self._call(method, path, body, **query)
        if code not in fine:
            raise HarnessError(f"{method} {path}: the API server answered {code}: {_message(answer)[:300]}")
        return code, answer

    async def start(self) -> None:
        """Reach the API server and learn what it serves."""
        try:
            aiohttp = import_module("aiohttp")
        except ImportError as error:
            message = "the Kubernetes harness needs aiohttp: pip install './conformance[kubernetes]' in a checkout"
            raise HarnessError(message) from error
        self._client_error = aiohttp.ClientError
        self._access = await kubeconfig.access(self._context, self._path)
        self._server = self._access.server
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_PATIENCE))
        _, version = await self._call("GET", "/version")
        _, nodes = await self._call("GET", "/api/v1/nodes")
        served: dict[str, tuple[str, ...]] = {}
        for group in GROUPS.values():
            status, answer = await self._must("GET", f"/apis/{group}", fine=_GONE)
            if status == 200:
                served[group] = tuple(sorted(item["version"] for item in answer["versions"]))
        if not served:
            raise HarnessError(f"{self._server} serves no SMI API group: are the CRDs installed?")
        self.served = served
        self.environment = {
            "harness": "kubernetes",
            "kubernetes": str(version.get("gitVersion", "unknown")),
            "nodes": len(nodes.get("items", ())),
            "headersEncoding": "map",
            "trustDomain": "cluster.local",
            **self._target.environment,
        }

    async def stop(self) -> None:
        """Close every stream; namespaces are removed by whoever made them."""
        for stream in self._streams.values():
            await stream.close()
        self._streams.clear()
        if self._session is not None:
            await self._session.close()

    async def leave(self) -> None:
        """Close every stream; namespaces stay."""
        await self.stop()

    def remains(self, namespaces: Sequence[str]) -> list[str]:
        """Return the namespaces and how they are deleted, and those that were but are not gone yet."""
        there = [
            f"namespace {name} (kubectl delete namespace {name})" for name in namespaces if name not in self._going
        ]
        return there + [f"namespace {name}, which is being deleted" for name in sorted(self._going)]

    # --------------------------------------------------------------------------------------------------- namespaces

    async def namespace(self, name: str, *, enforced: bool) -> None:
        """Create a namespace with the mesh's labels, and the workload's program in it."""
        mesh = self._target.mesh
        labels, annotations = dict(mesh.get("namespaceLabels") or {}), dict(mesh.get("namespaceAnnotations") or {})
        if not enforced:
            labels |= mesh.get("permissiveNamespaceLabels") or {}
            annotations |= mesh.get("permissiveNamespaceAnnotations") or {}
        metadata = {"name": name, "labels": {**labels, "smi-conformance": "true"}, "annotations": annotations}
        program = resources.files("smi_conformance").joinpath("echo.py").read_text(encoding="utf-8")
        results = await self.apply(
            [
                {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata},
                {
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": {"name": "conformance-echo", "namespace": name},
                    "data": {"echo.py": program},
                },
            ]
        )
        for result in results:
            if not result.accepted:
                raise HarnessError(f"namespace {name}: {result.code} {result.message}")

    async def remove_namespace(self, name: str) -> None:
        """Delete a namespace; the cluster removes what is in it."""
        await self._hang_up(name)
        for key in [key for key in self._pods if key.startswith(f"{name}/")]:
            del self._pods[key]
        code, _ = await self._must(
            "DELETE", f"/api/v1/namespaces/{name}", fine=_GONE | {409}
        )  # 409: it is going already
        if code != 404:
            self._going.add(name)

    async def removed(self) -> list[str]:
        """Wait until the namespaces that were removed are gone; return those that take too long."""
        started, told = time.monotonic(), False
        while True:
            for name in sorted(self._going):
                if (await self._must("GET", f"/api/v1/namespaces/{name}", fine=_GONE))[0] == 404:
                    self._going.discard(name)
            waited = time.monotonic() - started
            if not self._going or waited > _GONE_WITHIN:
                return self.remains(())
            if waited > _SLOW / 2 and not told:
                told = True
                self.tell(f"waiting until {len(self._going)} namespaces are gone, for at most {_GONE_WITHIN:.0f} s")
            await asyncio.sleep(0.25)

    # ---------------------------------------------------------------------------------------------------- workloads

    async def deploy(self, app: App) -> tuple[Pod, ...]:
        """Write a Deployment and wait until all its pods, and no others, are ready; of a probed one, until they run."""
        account = {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": app.account, "namespace": app.namespace},
        }
        results = await self.apply([account, _deployment(app, self._target)])
        for result in results:
            if not result.accepted:
                raise HarnessError(f"{app.key}: {result.code} {result.message}")
        await self._hang_up(app.key)
        path = f"/apis/apps/v1/namespaces/{app.namespace}/deployments/{app.name}"
        started = time.monotonic()
        for _ in range(int(_READY / 0.25)):
            _, found = await self._must("GET", path)
            if _rolled_out(found, app.replicas, ready=not app.probed):
                pods = await self._running(app)
                if len(pods) == app.replicas:
                    self._pods[app.key] = pods
                    return pods
            if time.monotonic() - started > _SLOW and app.namespace not in self._slow:
                self._slow.add(app.namespace)  # one of them will do
                why = f"kubectl get pods --namespace {app.namespace} says why"
                self.tell(f"waiting for pods of {app.key}, for at most {_READY:.0f} s ({why})")
            await asyncio.sleep(0.25)
        raise HarnessError(f"{app.key} did not become ready in {_READY:.0f} s")

    async def _alive(self, app: App) -> list[Any]:
        path, selector = f"/api/v1/namespaces/{app.namespace}/pods", f"conformance-app={app.name}"
        _, listed = await self._must("GET", path, labelSelector=selector)
        return [item for item in listed["items"] if not item["metadata"].get("deletionTimestamp")]

    async def _running(self, app: App) -> tuple[Pod, ...]:
        alive = await self._alive(app)
        if app.probed:
            alive = [item for item in alive if item.get("status", {}).get("phase") == "Running"]
        return tuple(Pod(item["metadata"]["name"], item.get("status", {}).get("podIP", "")) for item in alive)

    async def ready(self, app: App) -> bool:
        """Tell whether the kubelet finds every pod of a workload ready now."""
        conditions = [item.get("status", {}).get("conditions") or () for item in await self._alive(app)]
        found = [{each["type"]: each["status"] for each in some}.get("Ready") == "True" for some in conditions]
        return len(found) == app.replicas and all(found)

    async def undeploy(self, app: App) -> None:
        """Delete the Deployment."""
        await self._hang_up(app.key)
        self._pods.pop(app.key, None)
        path = f"/apis/apps/v1/namespaces/{app.namespace}/deployments/{app.name}"
        await self._must("DELETE", path, {"propagationPolicy": "Background", "gracePeriodSeconds": 1}, _GONE)

    # ------------------------------------------------------------------------------------------------------ objects

    async def apply(self, manifests: Sequence[Manifest], *, dry_run: bool = False) -> list[ApiResult]:
        """Write objects; a refusal is a result, but missing rights, a missing API or a busy server are trouble."""
        found: list[ApiResult] = []
        for manifest in manifests:
            query = {"dryRun": "All"} if dry_run else {}
            if manifest["apiVersion"].partition("/")[0] in GROUPS.values():
                code, body = await self._replace(manifest, query)
            else:
                query |= {"fieldManager": _MANAGER, "force": "true"}
                code, body = await self._call("PATCH", _path(manifest), manifest, **query)
            found.append(_result(manifest, code, body))
        return found

    async def patch(self, manifest: Manifest, change: Mapping[str, Any]) -> ApiResult:
        """Change an object by a merge patch."""
        return _result(manifest, *await self._call("PATCH", _path(manifest), change))

    async def _replace(self, manifest: Manifest, query: Mapping[str, str]) -> tuple[int, Any]:
        """Create or replace an object: server-side apply answers 500, not 422, to a value of the wrong type."""
        path = _path(manifest)
        code, body = await self._call("POST", path.rpartition("/")[0], manifest, **query)
        for _ in range(_CONFLICTS):
            if code != 409:
                break
            found, now = await self._must("GET", path, fine=_GONE)
            if found == 404:  # it went in between
                code, body = await self._call("POST", path.rpartition("/")[0], manifest, **query)
                continue
            metadata = {**manifest["metadata"], "resourceVersion": now["metadata"].get("resourceVersion", "")}
            code, body = await self._call("PUT", path, {**manifest, "metadata": metadata}, **query)
        return code, body

    async def delete(self, manifests: Sequence[Manifest]) -> None:
        """Delete objects; one that is gone already is fine."""
        for manifest in manifests:
            await self._must("DELETE", _path(manifest), fine=_GONE)

    async def get(self, manifest: Manifest, version: str = "") -> Manifest | None:
        """Read an object, under another version if one is named."""
        group = manifest["apiVersion"].partition("/")[0]
        asked = {**manifest, "apiVersion": f"{group}/{version}"} if version else manifest
        code, body = await self._must("GET", _path(asked), fine=_GONE)
        return body if code == 200 else None

    async def events(self, manifest: Manifest) -> list[Event]:
        """Return the Events about an object."""
        metadata = manifest["metadata"]
        selector = f"involvedObject.kind={manifest['kind']},involvedObject.name={metadata['name']}"
        path = f"/api/v1/namespaces/{metadata['namespace']}/events"
        _, listed = await self._must("GET", path, fieldSelector=selector)
        told = ("reason", "message", "type")
        return [Event(*(str(item.get(key) or "") for key in told)) for item in listed["items"]]

    # ------------------------------------------------------------------------------------------------------ traffic

    async def _stream(self, app: App, pod: Pod | None = None, container: str = "echo") -> ExecStream:
        """Return the stream into a container of a pod of a workload; of its first, unless told."""
        pods = self._pods.get(app.key) or await self._running(app)
        if not pods:
            raise HarnessError(f"{app.key} has no running pod")
        pod = pod or pods[0]
        key = f"{app.key}/{pod.name}/{container}"
        found = self._streams.get(key)
        if found is not None and not found.gone:
            return found
        path = f"/api/v1/namespaces/{app.namespace}/pods/{pod.name}/exec"
        command = [("command", part) for part in ("python", "-u", "/conformance/echo.py", "client")]
        query = [*command, ("container", container), ("stdin", "true"), ("stdout", "true"), ("stderr", "true")]
        address = self._server.replace("http", "ws", 1) + path
        socket = await self._dial(address, query, f"exec into {key}")
        self._streams[key] = ExecStream(socket, f"exec into {key}")
        return self._streams[key]

    async def _dial(self, address: str, query: Sequence[tuple[str, str]], what: str, refused: str | None = None) -> Any:
        """Open a WebSocket; once more, if the credential has ended."""
        who = await self._access.headers(refused=refused)
        try:
            return await self._session.ws_connect(
                address, params=query, protocols=PROTOCOLS, max_msg_size=0, headers=who, ssl=self._tls
            )
        except (OSError, TimeoutError, self._client_error) as error:
            if refused is None and getattr(error, "status", 0) == 401:
                return await self._dial(address, query, what, who.get("authorization", ""))
            raise HarnessError(f"{what}: {error}") from error

    async def _hang_up(self, prefix: str) -> None:
        """Close the streams into pods of a workload, or of a namespace."""
        for key in [key for key in self._streams if key.startswith(f"{prefix}/")]:
            await self._streams.pop(key).close()

    async def address(self, client: App, service: str, port: int) -> tuple[str, int]:
        """Return the name: the cluster's DNS and the mesh do the rest."""
        del client
        return _host(self._target.mesh, service), port

    async def send(self, client: App, req: Req, batch: Batch, token: str) -> list[Reply]:
        """Have the client's pod send the requests."""
        address = req.pod or _dialled(self._target.mesh, client, req)
        host = req.host or (f"{req.pod}:{req.port}" if req.pod else host_of(self._target.mesh, req.service, req.port))
        job = {
            "addresses": [[address, req.port]], "host": host, "kind": req.kind, "method": req.method,
            "path": req.path, "headers": list(req.headers), "n": batch.n, "concurrency": batch.concurrency,
            "timeout": batch.timeout, "connection": batch.connection, "interval": batch.interval, "kept": batch.kept,
            "token": token,
        }  # fmt: skip
        stream = await self._stream(client, container=_BYPASS if req.bypass else "echo")
        return replies(await stream.ask(job, 60 + batch.n * (batch.interval + batch.timeout / batch.concurrency)))

    async def close_connection(self, client: App, kept: str) -> None:
        """Close a kept connection."""
        for key, stream in list(self._streams.items()):
            if key.startswith(f"{client.key}/") and not stream.gone:
                await stream.tell({"close": kept})

    async def mark(self, app: App, token: str) -> set[str]:
        """Have every pod ask itself over its loopback, by an exec into it: its log has that after all before it.

        What a container prints gets into the log that the API server shows a little later, by way of the runtime.
        """
        port, found = app.ports[0], set[str]()
        for number, pod in enumerate(self._pods.get(app.key, ())):
            job = {
                "addresses": [["127.0.0.1", port.number]], "host": "localhost", "kind": port.protocol, "n": 1,
                "connection": "new", "timeout": 5.0, "token": f"{token}-{number}",
            }  # fmt: skip
            (reply,) = replies(await (await self._stream(app, pod)).ask(job, 30))
            if not reply.ok:
                raise HarnessError(f"{pod.name} does not answer itself at 127.0.0.1:{port.number}: {reply}")
            found.add(reply.token)
        return found

    async def receipts(self, app: App) -> list[Receipt]:
        """Read on in the logs of the workload's pods, from the second of the last line that is known.

        A log that no longer has this line was rotated (or the container is another one): what came between is lost, and
        whoever asks now is told. The next one reads on from there.
        """
        found: list[Receipt] = []
        for pod in self._pods.get(app.key, ()):
            path = f"/api/v1/namespaces/{app.namespace}/pods/{pod.name}/log"
            last = self._last_line.get(path, "")
            since: dict[str, Any] = {"sinceTime": _second(last)} if last else {}
            _, text = await self._must("GET", path, container="echo", timestamps="true", **since)
            lines = str(text).splitlines()
            self._last_line[path] = lines[-1] if lines else ""
            fresh = lines[lines.index(last) + 1 :] if last in lines else lines
            if last and last not in lines:
                raise HarnessError(f"{path}: the log was rotated, or the container restarted: receipts are lost")
            said = [line.partition(" ")[2] for line in fresh]
            found += [receipt(line.encode()) for line in said if line.startswith("{")]
        return found

    async def hook(self, name: str) -> None:
        """Run a command of the target."""
        await run_hook(self._target, name)


def _host(mesh: Mapping[str, Any], service: str) -> str:
    return host_of(mesh, service, 0).rpartition(":")[0]


def _dialled(mesh: Mapping[str, Any], client: App, req: Req) -> str:
    """Return the name that a client looks up: the one that a case spells, if the cluster knows the Service by it.

    A mesh that is reached by names of its own is reached by no other.
    """
    namespace, _, name = req.service.partition("/")
    usual, spelt = _host(mesh, req.service), req.host.partition(":")[0]
    known = {name, *(f"{name}.{namespace}{rest}" for rest in ("", ".svc", ".svc.cluster.local"))}
    if usual not in known or spelt not in known or (spelt == name and client.namespace != namespace):
        return usual
    return spelt


def _second(line: str) -> str:
    """Return the second of a line of a log, which begins with a time such as 2026-11-02T10:00:00.123456789+01:00."""
    return re.sub(r"\.\d+", "", line.partition(" ")[0], count=1)


def _message(answer: Any) -> str:
    return str(answer.get("message", "")) if isinstance(answer, dict) else str(answer)


def _result(manifest: Manifest, code: int, body: Any) -> ApiResult:
    """Return what the API said to an object; what is no answer about the object itself is trouble."""
    message = _message(body)
    if code not in _FINE and not _refusal(code, message):
        raise HarnessError(f"{_path(manifest)}: the API server answered {code}: {message[:300]}")
    return ApiResult(code, message, body if isinstance(body, dict) else {})


def _refusal(code: int, message: str) -> bool:
    """Tell whether an object was refused for what it says: by its schema, or by an admission webhook or policy.

    A group that is not there is not asked for, so a resource that is not found is a kind that the mesh leaves out.
    """
    if code == 404:
        return not message.startswith("namespaces ")
    return code in _REFUSED or (400 <= code < 500 and re.search(r"denied (the )?request", message) is not None)


def _path(manifest: Manifest) -> str:
    """Return where an object is in the API."""
    version, kind, metadata = manifest["apiVersion"], manifest["kind"], manifest["metadata"]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    place = f"/namespaces/{metadata['namespace']}" if metadata.get("namespace") and kind != "Namespace" else ""
    return f"{root}{place}/{_PLURALS[kind]}/{metadata['name']}"


def _rolled_out(deployment: Any, replicas: int, *, ready: bool = True) -> bool:
    status = deployment.get("status", {}) if isinstance(deployment, dict) else {}
    current = status.get("observedGeneration", 0) >= deployment.get("metadata", {}).get("generation", 1)
    names = ("replicas", "updatedReplicas", *(("readyReplicas",) if ready else ()))
    return bool(current) and all(status.get(name, 0) == replicas for name in names)


def _deployment(app: App, target: Target) -> Manifest:
    kind = "pod" if app.meshed else "unmeshedPod"
    labels = {"conformance-app": app.name, **(target.mesh.get(f"{kind}Labels") or {}), **dict(app.labels)}
    fields = {
        "ECHO_POD": "metadata.name",
        "ECHO_NAMESPACE": "metadata.namespace",
        "ECHO_ACCOUNT": "spec.serviceAccountName",
    }
    ports = [{"port": port.number, "protocol": port.protocol} for port in app.ports]
    environment: list[Manifest] = [
        {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()
    ]
    environment += [{"name": "ECHO_APP", "value": app.name}, {"name": "ECHO_PORTS", "value": json.dumps(ports)}]
    container: Manifest = {
        "name": "echo",
        "image": target.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-u", "/conformance/echo.py", "serve"],
        "env": environment,
        "ports": [
            {"containerPort": port.number, "protocol": "UDP" if port.protocol == "udp" else "TCP"} for port in app.ports
        ],
        "volumeMounts": [{"name": "program", "mountPath": "/conformance", "readOnly": True}],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    if listening := [port.number for port in app.ports if port.protocol != "udp"]:
        # Over the loopback: whether a mesh lets a kubelet's probes through is for one case to find out, not for all.
        look = f"import socket; socket.create_connection(('127.0.0.1', {listening[0]}), 2)"
        command = {"command": ["python", "-c", look]}
        container["startupProbe"] = {"exec": command, "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": 60}
    if app.probed:
        container["readinessProbe"] = {"httpGet": {"path": "/", "port": app.ports[0].number}, "periodSeconds": 1}
    containers = [container]
    if app.meshed and not app.ports and (user := target.mesh.get("bypassUser")):
        containers.append(
            {**container, "name": _BYPASS, "securityContext": {**container["securityContext"], "runAsUser": user}}
        )
    spec = {
        "serviceAccountName": app.account,
        "terminationGracePeriodSeconds": 1,
        "containers": containers,
        "volumes": [{"name": "program", "configMap": {"name": "conformance-echo"}}],
    }
    metadata = {"labels": labels, "annotations": dict(target.mesh.get(f"{kind}Annotations") or {})}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": app.name, "namespace": app.namespace},
        "spec": {
            "replicas": app.replicas,
            "selector": {"matchLabels": {"conformance-app": app.name}},
            "template": {"metadata": metadata, "spec": spec},
        },
    }
