"""What a harness is: the few things that a case needs from wherever the mesh runs.

Two harnesses implement it, `local` (processes, started by the target's driver) and `kubernetes`. A case sees these
values only. Whatever a harness can't do is missing in `capabilities`, and the cases that need it are skipped with
that reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from smi_conformance.render import Manifest

CAPABILITIES = frozenset(
    {
        "tcp",  # raw TCP between workloads
        "udp",
        "h2c",  # HTTP/2 in clear text from the client to its proxy
        "unmeshed",  # a client outside of the mesh
        "bypass",  # a meshed client that goes round its own proxy
        "pod-ip",  # a pod can be dialled at its own address
        "events",  # what the implementation says about an object can be read
        "dry-run",  # the API tells whether it would accept an object
        "api",  # objects can be read back as they are stored
        "scale",  # pods can be added, removed and replaced
        "restart",  # the controller can be stopped and started, the data plane staying
        "watch-fault",  # the controller's watch can be broken
        "probes",  # a kubelet probes the pods: `ready` says what it found
        "egress",  # there is a host outside of the mesh: environment["egress"], host:port
        "spiffe",  # a certificate of a federated trust domain can be had
        "service-types",  # NodePort and LoadBalancer Services
        "metrics",
    }
)


class HarnessError(RuntimeError):
    """The harness can't do its work: an error, never a verdict about the mesh."""


@dataclass(frozen=True, slots=True)
class Port:
    """A port on which a workload listens: http (1.1 and 2), tcp, tcp-first (the server greets) or udp."""

    number: int
    protocol: str = "http"


@dataclass(frozen=True, slots=True)
class App:
    """A workload of one namespace. Without ports it is only a client.

    Of one that is `probed` a kubelet asks the first port, over HTTP, whether it is ready; it is deployed once it runs.
    """

    name: str
    namespace: str = ""
    account: str = "default"
    labels: tuple[tuple[str, str], ...] = ()
    ports: tuple[Port, ...] = ()
    replicas: int = 1
    meshed: bool = True
    probed: bool = False

    @property
    def key(self) -> str:
        """Return namespace/name."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Pod:
    """One running copy of an App."""

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class Req:
    """What a client sends. `service` is namespace/name; `pod` (an address) goes there directly instead."""

    service: str = ""
    port: int = 8080
    kind: str = "http"  # http, h2c, grpc, tcp, tcp-first, udp
    method: str = "GET"
    path: str = "/"
    headers: tuple[tuple[str, str], ...] = ()
    host: str = ""
    pod: str = ""
    bypass: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """How a request is sent: how often, over which connections (new, keep or half of each), how fast."""

    n: int = 1
    concurrency: int = 4
    connection: str = "half"
    interval: float = 0.0
    timeout: float = 5.0
    kept: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a client saw: ok, http_error, refused, reset, timeout or dns; and who answered."""

    outcome: str
    status: int
    token: str
    milliseconds: float = 0.0
    reused: bool = False
    backend: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Tell whether a workload of ours answered."""
        return self.outcome == "ok" and bool(self.backend)

    @property
    def app(self) -> str:
        """Return the name of the workload that answered."""
        return str(self.backend.get("app", ""))

    def __str__(self) -> str:
        said = f"{self.outcome}" + (f" {self.status}" if self.status else "")
        return f"{said} from {self.backend['ns']}/{self.app}" if self.backend else said


@dataclass(frozen=True, slots=True)
class Receipt:
    """One request that a server really received; `app` is its workload, whatever its pods are called."""

    app: str
    pod: str
    token: str
    port: int
    kind: str
    method: str = ""
    path: str = ""


@dataclass(frozen=True, slots=True)
class ApiResult:
    """What the API said to one object."""

    code: int
    message: str = ""
    body: Mapping[str, Any] = field(default_factory=dict)

    @property
    def accepted(self) -> bool:
        """Tell whether it took the object."""
        return 200 <= self.code < 300


@dataclass(frozen=True, slots=True)
class Event:
    """What the implementation said about an object."""

    reason: str
    message: str
    type: str = ""
    """Normal or Warning, if the harness tells."""


class Harness(Protocol):
    """The five verbs of a test bed, and what can be asked of it."""

    name: str
    capabilities: frozenset[str]
    served: Mapping[str, tuple[str, ...]]
    environment: Mapping[str, Any]

    async def start(self) -> None:
        """Make everything ready; HarnessError says what is missing."""

    async def stop(self) -> None:
        """Remove everything that was created."""

    async def leave(self) -> None:
        """End, and leave what can be left."""

    def remains(self, namespaces: Sequence[str]) -> list[str]:
        """Return what is there if nothing is removed, and where, a line for each; these namespaces among it."""

    async def namespace(self, name: str, *, enforced: bool) -> None:
        """Create a namespace in which access rules are enforced, or are not."""

    async def remove_namespace(self, name: str) -> None:
        """Have a namespace and all in it removed."""

    async def removed(self) -> list[str]:
        """Wait until what was removed is gone; return what takes too long, a line for each."""

    async def deploy(self, app: App) -> tuple[Pod, ...]:
        """Start a workload (or change its replicas) and return its pods once they are ready."""

    async def ready(self, app: App) -> bool:
        """Tell whether a kubelet finds every pod of a probed workload ready now."""

    async def undeploy(self, app: App) -> None:
        """Stop a workload."""

    async def apply(self, manifests: Sequence[Manifest], *, dry_run: bool = False) -> list[ApiResult]:
        """Write objects, in this order; a refusal is a result."""

    async def delete(self, manifests: Sequence[Manifest]) -> None:
        """Delete objects by apiVersion, kind, namespace and name; one that is missing is fine."""

    async def get(self, manifest: Manifest, version: str = "") -> Manifest | None:
        """Read an object back, under another version of its group if one is named."""

    async def patch(self, manifest: Manifest, change: Mapping[str, Any]) -> ApiResult:
        """Change an object by a merge patch; asked only where objects can be read back."""

    async def events(self, manifest: Manifest) -> list[Event]:
        """Return what was said about an object."""

    async def address(self, client: App, service: str, port: int) -> tuple[str, int]:
        """Return where a program in a client's pod finds a Service (namespace/name)."""

    async def send(self, client: App, req: Req, batch: Batch, token: str) -> list[Reply]:
        """Send a request n times from a workload; tokens are `token-0`, `token-1`, ..."""

    async def close_connection(self, client: App, kept: str) -> None:
        """Close a connection that was kept under a name."""

    async def mark(self, app: App, token: str) -> set[str]:
        """Have every pod of a workload write something into its ledger by a way that no mesh has a part in.

        Return the tokens of it: a ledger that has them has all that came before. None where `receipts` has at once
        what a server wrote.
        """

    async def receipts(self, app: App) -> list[Receipt]:
        """Return everything that the workload's pods received since the last call."""

    async def hook(self, name: str) -> None:
        """Do what the target says under that name: enforce, permissive, restart, stop, start."""
