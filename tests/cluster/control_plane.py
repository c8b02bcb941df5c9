"""A real control plane for tests: etcd, kube-apiserver and, if asked for, kube-controller-manager.

Each has a loopback address of its own (all of 127/8 is local on Linux), so any number run side by side on the usual
ports without a race for free ones, and its data and certificates in one folder that goes away with it. Every process
dies with the test process. There is no kubelet: pods are objects whose status a test writes (`node` has one).
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import itertools
import json
import os
import random
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, Self

import yaml

from tests.cluster.addresses import Addresses
from tests.cluster.pki import Authority, new_key, private_pem, public_pem
from tests.cluster.program import Program, ProgramError
from tests.cluster.sandbox import SERVICE_RANGE
from tests.tools import binary

PORT: Final = 6443
ETCD_PORT: Final = 2379
ISSUER: Final = "https://kubernetes.default.svc.cluster.local"
ADMINS: Final = ("system:masters",)
SERVER_SIDE: Final = "application/apply-patch+yaml"
MERGE: Final = "application/merge-patch+json"
CRDS: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
STALLED_DELETIONS: Final = 8
POLL: Final = 0.05
# Everything but reads of health and the API's own description; the stage at the end has the answer's code.
AUDIT_POLICY: Final = """
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
  - {level: None, nonResourceURLs: ["/healthz*", "/livez*", "/readyz*", "/openapi/*"]}
  - {level: Metadata}
"""


class RequestError(Exception):
    """The API server refused a request of the test itself."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"{status} {body[:2000]}")
        self.status = status
        self.body = body


class ControlPlane:
    """A running control plane; use it as a context manager or through the fixtures of tests/apiserver/conftest.py.

    Its methods block. A test with a server in its own event loop calls them by `asyncio.to_thread`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        controller_manager: bool = False,
        arguments: Sequence[str] = (),
        host: str = "",
        inside: Sequence[str] = (),
        nodes: bool = False,
    ) -> None:
        """`inside`: what a command begins with to run elsewhere, at an address that is reached from here."""
        self.folder = folder
        self._nodes = nodes
        self.host = host or own_loopback()
        self.url = f"https://{self.host}:{PORT}"
        self._authority = Authority("kubernetes-ca")
        self.ca = folder / "ca.crt"
        self.etcd = Program("etcd", [*inside, *self._etcd_command()], folder)
        self.api = Program("kube-apiserver", [*inside, *self._api_command(), *arguments], folder)
        self.kubeconfig = self.user("admin", ADMINS)
        self.controllers = (
            Program("kube-controller-manager", [*inside, *self._controllers_command()], folder)
            if controller_manager
            else None
        )
        self._connection: http.client.HTTPSConnection | None = None
        self._trust = self.tls("admin", ADMINS)
        self._asking = threading.Lock()
        self._addresses: Addresses | None = None
        self._names = itertools.count(1)

    # ------------------------------------------------------------------------------------------------ processes
    def __enter__(self) -> Self:
        try:
            self.etcd.start()
            self.start()
            if self.controllers:
                self.controllers.start()
                self.wait_for(lambda: self._exists("/api/v1/namespaces/default/serviceaccounts/default"))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the API server and wait until it is ready; its data are those of before."""
        self.api.start()
        self.wait_for(self.is_ready)

    def stop(self, kill: bool = False) -> None:  # noqa: FBT002
        """Stop the API server alone; etcd keeps the data."""
        self._drop_connection()
        self.api.stop(kill)

    def restart(self) -> None:
        """Stop and start the API server: its watch cache begins anew, so older resource versions are gone."""
        self.stop()
        self.start()

    def close(self) -> None:
        """End everything at once; the data are thrown away."""
        self._drop_connection()
        for program in (self.controllers, self.api, self.etcd):
            if program:
                program.stop(kill=True)
        if self._addresses:
            self._addresses.close()
            self._addresses = None

    def is_ready(self) -> bool:
        """Tell whether the API server says that it is ready."""
        self.api.check()
        self.etcd.check()
        try:
            return bool(self.raw("GET", "/readyz") == b"ok")
        except (OSError, http.client.HTTPException, RequestError):
            return False

    def wait_for(self, condition: Callable[[], bool], timeout: float = 90.0) -> None:
        """Poll a condition until it is true."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise ProgramError(f"waited {timeout:.0f} s in vain\n{self.api.tail()}")
            time.sleep(POLL)

    # ------------------------------------------------------------------------------------------------- identities
    def user(self, name: str, groups: Sequence[str] = (), server: str = "", ca: bytes = b"") -> Path:
        """Return a kubeconfig for a user with a client certificate; `server` and `ca` are those of a proxy between."""
        pair = self._authority.client(name, groups)
        login = {"client-certificate-data": _b64(pair.certificate), "client-key-data": _b64(pair.key)}
        return self._write_kubeconfig(name.replace(":", "-"), login, server, ca or self._authority.pem)

    def tls(self, user: str = "", groups: Sequence[str] = ()) -> ssl.SSLContext:
        """Return a TLS context that trusts the API server and, with a user, logs in as that one."""
        context = ssl.create_default_context(cadata=self._authority.pem.decode())
        if user:
            pair = self._authority.client(user, groups).write(self.folder, f"tls-{user.replace(':', '-')}")
            context.load_cert_chain(*pair)
        return context

    def token_kubeconfig(self, token: str, server: str = "", ca: bytes = b"") -> Path:
        """Return a kubeconfig that sends a bearer token, to a proxy with an authority of its own if need be."""
        return self._write_kubeconfig("token", {"token": token}, server, ca or self._authority.pem)

    def service_account_token(
        self, namespace: str, name: str, audience: str = "", pod: str = "", seconds: int = 3600
    ) -> str:
        """Return a token from the TokenRequest API, bound to a pod if one is named. The ServiceAccount must exist."""
        spec: dict[str, Any] = {"expirationSeconds": seconds, "audiences": [audience] if audience else []}
        if pod:
            uid = self.get(f"/api/v1/namespaces/{namespace}/pods/{pod}")["metadata"]["uid"]
            spec["boundObjectRef"] = {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        answer = self.request("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token", body)
        return str(answer["status"]["token"])

    # --------------------------------------------------------------------------------------------------- requests
    def server_certificate(self, name: str, *names: str) -> tuple[Path, Path]:
        """Return certificate and key, by the cluster's authority, of a server of these names and addresses."""
        return self._authority.server(*names).write(self.folder, name)

    def kubectl(
        self, *arguments: str, stdin: str | None = None, kubeconfig: Path | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run the real kubectl as admin, or with another kubeconfig; its exit code must be 0 unless `check` is off."""
        done = subprocess.run(
            [str(binary("kubectl")), *arguments],
            input=stdin,
            env=self.environment(kubeconfig),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if check and done.returncode:
            raise ProgramError(f"kubectl {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def environment(self, kubeconfig: Path | None = None) -> dict[str, str]:
        """Return the environment for a client: this kubeconfig, and no files outside the test's folder."""
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        return {**os.environ, "KUBECONFIG": str(kubeconfig or self.kubeconfig), "HOME": str(home)}

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Apply objects with kubectl, server-side, and wait for CRDs among them to be established."""
        text = yaml.safe_dump_all(objects, sort_keys=False)
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)
        crds = [f"crd/{each['metadata']['name']}" for each in objects if each["kind"] == "CustomResourceDefinition"]
        if crds:
            self.kubectl("wait", "--for=condition=Established", "--timeout=90s", *crds)

    def delete_crds(self, *names: str) -> None:
        """Delete these CRDs (default: all) with their objects, and wait until they are gone.

        One at which nothing moves for a while is deleted once more: the API server's finalizer gives up at a conflict
        with another controller of its own, and overlooks the change that it then waits for.
        """
        left: list[Any] = []

        def none() -> bool:
            found = self.get(CRDS)["items"]
            left[:] = [(item["metadata"], item["status"]) for item in found]
            return not {item["metadata"]["name"] for item in found if not names or item["metadata"]["name"] in names}

        for _ in range(STALLED_DELETIONS):
            for item in self.get(CRDS)["items"]:
                name = item["metadata"]["name"]
                if not names or name in names:
                    with contextlib.suppress(RequestError):  # gone meanwhile
                        self.request("DELETE", f"{CRDS}/{name}")
            with contextlib.suppress(ProgramError):
                self.wait_for(none, 15.0)
                return
        raise ProgramError(f"a CRD does not go: {left}")

    def get(self, path: str) -> Any:
        """Return what a path answers, decoded."""
        return self.request("GET", path)

    def watched(self, path: str, since: str, seconds: int = 1) -> list[dict[str, Any]]:
        """Return the watch events of a list after a resource version, those of the next second included."""
        query = f"watch=true&resourceVersion={since}&timeoutSeconds={seconds}"
        return [json.loads(line) for line in self.raw("GET", f"{path}?{query}").splitlines()]

    def request(self, method: str, path: str, body: object = None, content_type: str = "application/json") -> Any:
        """Send a request as admin and return the decoded answer; RequestError for a status of 400 and above."""
        encoded = None if body is None else json.dumps(body).encode()
        return json.loads(self.raw(method, path, encoded, content_type))

    def new_namespace(self, name: str = "", labels: Mapping[str, str] | None = None) -> str:
        """Create a namespace (a name of its own by default) with its default ServiceAccount, and return its name."""
        name = name or f"test-{next(self._names)}"
        self.request("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": dict(labels or {})}})
        account = {"metadata": {"name": "default", "namespace": name}}
        with contextlib.suppress(RequestError):  # kube-controller-manager, if it runs, was faster
            self.request("POST", f"/api/v1/namespaces/{name}/serviceaccounts", account)
        return name

    def patch_status(self, path: str, status: Mapping[str, Any]) -> None:
        """Merge into the status of an object, as a kubelet or a controller would."""
        self.request("PATCH", f"{path}/status", {"status": dict(status)}, MERGE)

    def raw(self, method: str, path: str, body: bytes | None = None, content_type: str = "application/json") -> bytes:
        """Send a request as admin on the kept connection and return the body."""
        with self._asking:
            return self._raw(method, path, body, content_type)

    def _raw(self, method: str, path: str, body: bytes | None, content_type: str) -> bytes:
        for attempt in (1, 2):
            connection = self._connection
            if connection is None:
                connection = http.client.HTTPSConnection(self.host, PORT, context=self._trust, timeout=30)
                self._connection = connection
            fresh = connection.sock is None
            try:
                connection.request(method, path, body, {"Content-Type": content_type, "Accept": "application/json"})
                answer = connection.getresponse()
                content = answer.read()
            except (OSError, http.client.HTTPException):
                self._drop_connection()
                if fresh or attempt == 2:
                    raise
                continue  # the server had closed the idle connection
            if answer.status >= 400:
                raise RequestError(answer.status, content.decode(errors="replace"))
            return content
        raise AssertionError

    def audit_events(self, user: str = "", having: str = "") -> list[dict[str, Any]]:
        """Return the audit log, of one user if named: who did what, and what RBAC decided.

        `having`: a text that the lines have; who asks often names one, as all of a log takes long to parse.
        """
        path = self.folder / "audit.log"
        lines = path.read_text().splitlines() if path.exists() else []
        events = [json.loads(line) for line in lines if line.endswith("}") and user in line and having in line]
        return [event for event in events if not user or event["user"]["username"] == user]

    # ------------------------------------------------------------------------------------------------------- etcd
    def compact(self) -> int:
        """Compact etcd to its present revision and return that.

        The API server goes on serving older watches and list continuations from its cache: see `forget_history`.
        """
        revision = int(self.etcd_request("/v3/kv/range", {"key": _b64(b"/")})["header"]["revision"])
        self.etcd_request("/v3/kv/compaction", {"revision": str(revision), "physical": True})
        return revision

    def forget_history(self) -> None:
        """Compact etcd and restart the API server: older watches and continuations get 410 Gone."""
        self.compact()
        self.restart()

    def etcd_request(self, path: str, body: Mapping[str, Any]) -> Any:
        """Ask etcd's HTTP gateway."""
        connection = http.client.HTTPConnection(self.host, ETCD_PORT, timeout=30)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status >= 400:
            raise RequestError(answer.status, content.decode(errors="replace"))
        return json.loads(content)

    # -------------------------------------------------------------------------------------------------- addresses
    @property
    def addresses(self) -> Addresses:
        """Return addresses that an EndpointSlice accepts and that processes of the test can bind to."""
        if self._addresses is None:
            self._addresses = Addresses()
        return self._addresses

    # --------------------------------------------------------------------------------------------------- commands
    def _etcd_command(self) -> list[str]:
        clients, peers = f"http://{self.host}:{ETCD_PORT}", f"http://{self.host}:{ETCD_PORT + 1}"
        return [
            str(binary("etcd")),
            *("--data-dir", str(self.folder / "etcd"), "--unsafe-no-fsync", "--log-level", "warn"),
            *("--listen-client-urls", clients, "--advertise-client-urls", clients),
            *("--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers),
            *("--initial-cluster", f"default={peers}"),
        ]

    def _api_command(self) -> list[str]:
        folder, authority = self.folder, self._authority
        names = ("kubernetes.default.svc", "kubernetes", "localhost", self.host, "127.0.0.1", "10.96.0.1")
        certificate, key = authority.server(*names).write(folder, "apiserver")
        kubelet_certificate, kubelet_key = authority.client("apiserver-kubelet-client", ADMINS).write(folder, "kubelet")
        self.ca.write_bytes(authority.pem)
        front = Authority("front-proxy-ca")
        (folder / "front-proxy-ca.crt").write_bytes(front.pem)
        proxy_certificate, proxy_key = front.client("front-proxy-client").write(folder, "front-proxy-client")
        signing = new_key()
        (folder / "sa.key").write_bytes(private_pem(signing))
        (folder / "sa.pub").write_bytes(public_pem(signing))
        (folder / "audit-policy.yaml").write_text(AUDIT_POLICY)
        options = {
            "etcd-servers": f"http://{self.host}:{ETCD_PORT}",
            "bind-address": self.host,
            "secure-port": str(PORT),
            # Nobody reaches the Service `kubernetes` here, and an endpoint may not be a loopback address.
            "advertise-address": "192.0.2.1",
            "endpoint-reconciler-type": "none",
            "service-cluster-ip-range": SERVICE_RANGE,
            "authorization-mode": "Node,RBAC",
            "enable-admission-plugins": "NodeRestriction",
            "tls-cert-file": certificate,
            "tls-private-key-file": key,
            "client-ca-file": self.ca,
            "kubelet-client-certificate": kubelet_certificate,
            "kubelet-client-key": kubelet_key,
            "requestheader-client-ca-file": folder / "front-proxy-ca.crt",
            "requestheader-allowed-names": "front-proxy-client",
            "requestheader-username-headers": "X-Remote-User",
            "requestheader-group-headers": "X-Remote-Group",
            "requestheader-extra-headers-prefix": "X-Remote-Extra-",
            "proxy-client-cert-file": proxy_certificate,
            "proxy-client-key-file": proxy_key,
            "enable-aggregator-routing": "true",
            "service-account-issuer": ISSUER,
            "service-account-key-file": folder / "sa.pub",
            "service-account-signing-key-file": folder / "sa.key",
            "api-audiences": ISSUER,
            "audit-policy-file": folder / "audit-policy.yaml",
            "audit-log-path": folder / "audit.log",
        }
        return [str(binary("kube-apiserver")), *(f"--{name}={value}" for name, value in options.items())]

    def _controllers_command(self) -> list[str]:
        folder = self.folder
        kubeconfig = self.user("system:kube-controller-manager")
        self._authority.pair.write(folder, "ca")
        options = {
            "kubeconfig": kubeconfig,
            "authentication-kubeconfig": kubeconfig,
            "authorization-kubeconfig": kubeconfig,
            "bind-address": self.host,
            "leader-elect": "false",
            # Without a kubelet nobody sends heartbeats, and a node without them would lose its pods.
            "controllers": "*" if self._nodes else "*,-node-lifecycle-controller,-taint-eviction-controller",
            "kube-api-qps": "500",
            "kube-api-burst": "1000",
            "use-service-account-credentials": "true",
            "service-account-private-key-file": folder / "sa.key",
            "root-ca-file": self.ca,
            "cluster-signing-cert-file": folder / "ca.crt",
            "cluster-signing-key-file": folder / "ca.key",
            "client-ca-file": self.ca,
            "requestheader-client-ca-file": folder / "front-proxy-ca.crt",
        }
        return [str(binary("kube-controller-manager")), *(f"--{name}={value}" for name, value in options.items())]

    def _write_kubeconfig(self, name: str, login: Mapping[str, str], server: str, ca: bytes) -> Path:
        cluster = {"server": server or self.url, "certificate-authority-data": _b64(ca)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": name, "user": dict(login)}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": name}}],
            "current-context": "test",
        }
        with tempfile.NamedTemporaryFile("w", dir=self.folder, prefix=f"{name}-", suffix=".yaml", delete=False) as file:
            yaml.safe_dump(config, file)
        return Path(file.name)

    def _exists(self, path: str) -> bool:
        if self.controllers:
            self.controllers.check()
        try:
            self.get(path)
        except RequestError as refusal:
            if refusal.status == 404:
                return False
            raise
        return True

    def _drop_connection(self) -> None:
        if self._connection:
            self._connection.close()
            self._connection = None


class StartControlPlane(Protocol):
    """The fixture `start_control_plane`: one more control plane, with further arguments for kube-apiserver."""

    def __call__(self, *arguments: str, controller_manager: bool = False) -> ControlPlane:
        """Start it; it ends with the test."""


def own_loopback() -> str:
    """Return a loopback address on which nobody listens at etcd's port, so that a whole control plane fits there."""
    while True:
        host = f"127.{random.randint(64, 223)}.{random.randint(0, 255)}.{random.randint(1, 254)}"
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((host, ETCD_PORT))
            return host


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
