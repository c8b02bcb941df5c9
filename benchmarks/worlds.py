"""Synthetic worlds: as many Services as a bar asks for, and in their midst the one that is probed.

A *Service* here is what users split: a root with two versions behind it, so three Kubernetes Services, three Envoy
clusters and one address that is dialled; each version has meshed Pods, and one TrafficTarget lets the prober in. None
of these is ever called: their proxies need not run. Only the probed Services lead to live echo servers, which have no
proxy, so that one Envoy is enough for what is about routes. `guarded` is the server whose access rules are probed.

Everything is made as the raw objects that a cluster would send, in the form of the no-cluster mode: each prober has a
loopback address for each Service that it dials.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

RawObject: TypeAlias = Mapping[str, Any]
Key: TypeAlias = tuple[str, str]

NAMESPACE = "bench"
PROBED = "probed"
"""The root whose split moves between the echo servers `a` and `b`."""

GUARDED = "guarded"
TARGET = "prober-may-call-guarded"

PROBER = "prober"
"""ServiceAccount that may call everything."""

SCOPED = "scoped"
"""ServiceAccount that may call the first `scoped_services` only."""

_TEAMS = 10
_SPLIT = "split.smi-spec.io/v1alpha4"
_ACCESS = "access.smi-spec.io/v1alpha3"
_SPECS = "specs.smi-spec.io/v1alpha4"


@dataclass(frozen=True, slots=True)
class World:
    """What to make. `probers` and `scoped` are Pods with an own sidecar; `block` is the second octet of its addresses.

    `echo` says at which port of 127.0.0.1 each echo server listens; `port` is every Service's port.
    """

    services: int
    port: int
    echo: Mapping[str, int]
    block: int
    probers: int = 1
    scoped: int = 0
    scoped_services: int = 30

    def pods(self) -> tuple[tuple[str, str, int], ...]:
        """Return (Pod, ServiceAccount, number) of every Pod that has a running sidecar and dials."""
        probers = [(f"{PROBER}-{index}", PROBER, index) for index in range(self.probers)]
        scoped = [(f"{SCOPED}-{index}", SCOPED, self.probers + index) for index in range(self.scoped)]
        return (*probers, *scoped)

    def proxy_address(self, pod: int) -> str:
        """Return the address at which a Pod is reached through its proxy."""
        return f"127.{self.block}.{2 * pod}.1"

    def app_address(self, pod: int) -> str:
        """Return the address at which a Pod's application listens."""
        return f"127.{self.block}.{2 * pod}.2"

    def dial_address(self, pod: int, service: int) -> str:
        """Return where a Pod dials a Service: 0 is the probed one."""
        return f"127.{self.block + 1 + pod}.{service // 250}.{service % 250 + 1}"

    @property
    def guarded_pod(self) -> int:
        """Return the number of the guarded Pod."""
        return self.probers + self.scoped

    def objects(self) -> Iterator[RawObject]:
        """Yield every object."""
        yield _object("v1", "Namespace", "", NAMESPACE)
        for team in range(min(_TEAMS, self.services)):
            yield _object("v1", "Namespace", "", _team(team))
            yield _route_group(_team(team))
        for index in range(self.services):
            yield from self._service(index)
        yield from self._probed()
        yield from self._guarded()
        for name, account, number in self.pods():
            yield self._dialling_pod(name, account, number)
        for account in (PROBER, SCOPED, GUARDED):
            yield _object("v1", "ServiceAccount", NAMESPACE, account)

    def _service(self, index: int) -> Iterator[RawObject]:
        namespace, name = _team(index % _TEAMS), f"app-{index:04}"
        yield _object("v1", "ServiceAccount", namespace, name)
        pods: list[str] = []
        for version, share in (("v1", 0), ("v2", 1)):
            pod = f"{name}-{version}-0"
            labels = {"app": name, "version": version}
            yield service(namespace, f"{name}-{version}", self.port, labels)
            yield _pod(namespace, pod, name, labels, self.port, _cluster_address(index, share))
            yield endpoints(namespace, f"{name}-{version}", self.port, [(_cluster_address(index, share), pod)])
            pods.append(pod)
        yield service(namespace, name, self.port, {"app": name})
        addresses = [(_cluster_address(index, share), pod) for share, pod in enumerate(pods)]
        yield endpoints(namespace, name, self.port, addresses)
        yield split(namespace, name, {f"{name}-v1": 90, f"{name}-v2": 10})
        sources = [(NAMESPACE, PROBER)] + ([(NAMESPACE, SCOPED)] if index < self.scoped_services else [])
        yield target(namespace, name, name, sources, "http")

    def _probed(self) -> Iterator[RawObject]:
        yield service(NAMESPACE, PROBED, self.port, {})
        for name, port in self.echo.items():
            yield from self.echo_service(f"{PROBED}-{name}", port)
        yield self.probed_split({"a": 1, "b": 0})

    def _guarded(self) -> Iterator[RawObject]:
        number = self.guarded_pod
        yield _route_group(NAMESPACE)
        yield service(NAMESPACE, GUARDED, self.port, {"app": GUARDED})
        address = self.proxy_address(number)
        yield endpoints(NAMESPACE, GUARDED, self.port, [(address, GUARDED)])
        annotations = {"smi-adapter.io/app-address": self.app_address(number)}
        yield _pod(NAMESPACE, GUARDED, GUARDED, {"app": GUARDED}, self.port, address, annotations)
        yield guard()

    def _dialling_pod(self, name: str, account: str, number: int) -> RawObject:
        dials = {f"{NAMESPACE}/{PROBED}": self.dial_address(number, 0)}
        for index in range(self.services):
            if account == PROBER or index < self.scoped_services:
                key = f"{_team(index % _TEAMS)}/app-{index:04}"
                dials[key] = self.dial_address(number, index + 1)
        annotations = {
            "smi-adapter.io/app-address": self.app_address(number),
            "smi-adapter.io/dial": json.dumps(dials),
        }
        return _pod(NAMESPACE, name, account, {"app": account}, 0, self.proxy_address(number), annotations)

    def echo_service(self, name: str, port: int) -> tuple[RawObject, ...]:
        """Return a Service that leads to an echo server: its Pod has no proxy."""
        pod = _pod(NAMESPACE, name, "echo", {"app": name}, port, "127.0.0.1", {"smi-adapter.io/inject": "false"})
        slices = endpoints(NAMESPACE, name, port, [("127.0.0.1", name)])
        return service(NAMESPACE, name, self.port, {"app": name}), slices, pod

    def probed_split(self, weights: Mapping[str, int]) -> RawObject:
        """Return the probed TrafficSplit with these weights, by name of echo server."""
        return self.split_to({f"{PROBED}-{name}": weight for name, weight in weights.items()})

    def split_to(self, weights: Mapping[str, int]) -> RawObject:
        """Return the probed TrafficSplit with these weights, by name of Service."""
        return split(NAMESPACE, PROBED, weights)


def service(namespace: str, name: str, port: int, selector: Mapping[str, str]) -> RawObject:
    """Return a Service with one HTTP port."""
    spec: dict[str, Any] = {"ports": [{"name": "http", "port": port, "protocol": "TCP"}]}
    if selector:
        spec["selector"] = dict(selector)
    return _object("v1", "Service", namespace, name, spec=spec)


def endpoints(namespace: str, name: str, port: int, addresses: list[tuple[str, str]]) -> RawObject:
    """Return the EndpointSlice of a Service; an address with a Pod's name belongs to that Pod."""
    entries: list[dict[str, Any]] = []
    for address, pod in addresses:
        entry: dict[str, Any] = {"addresses": [address], "conditions": {"ready": True}}
        if pod:
            entry["targetRef"] = {"kind": "Pod", "namespace": namespace, "name": pod}
        entries.append(entry)
    return _object(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        namespace,
        f"{name}-1",
        labels={"kubernetes.io/service-name": name},
        addressType="IPv4",
        endpoints=entries,
        ports=[{"name": "http", "port": port, "protocol": "TCP"}],
    )


def split(namespace: str, root: str, weights: Mapping[str, int]) -> RawObject:
    """Return a TrafficSplit."""
    backends = [{"service": name, "weight": weight} for name, weight in weights.items()]
    return _object(_SPLIT, "TrafficSplit", namespace, root, spec={"service": root, "backends": backends})


def target(namespace: str, name: str, account: str, sources: list[Key], group: str) -> RawObject:
    """Return a TrafficTarget that lets the sources call all that a route group allows."""
    return _object(
        _ACCESS,
        "TrafficTarget",
        namespace,
        name,
        spec={
            "destination": {"kind": "ServiceAccount", "name": account, "namespace": namespace},
            "sources": [
                {"kind": "ServiceAccount", "name": source, "namespace": source_namespace}
                for source_namespace, source in sources
            ],
            "rules": [{"kind": "HTTPRouteGroup", "name": group}],
        },
    )


def guard() -> RawObject:
    """Return the TrafficTarget that lets the prober call the guarded server."""
    return target(NAMESPACE, TARGET, GUARDED, [(NAMESPACE, PROBER)], "http")


def _route_group(namespace: str) -> RawObject:
    matches = [
        {"name": "read", "pathRegex": "/.*", "methods": ["GET", "HEAD"]},
        {
            "name": "write",
            "pathRegex": "/api/v[0-9]+/.*",
            "methods": ["POST", "PUT"],
            "headers": {"x-team": "bench-.*"},
        },
    ]
    return _object(_SPECS, "HTTPRouteGroup", namespace, "http", spec={"matches": matches})


def _pod(  # noqa: PLR0913, PLR0917 - a Pod has that many things that count
    namespace: str,
    name: str,
    account: str,
    labels: Mapping[str, str],
    port: int,
    address: str,
    annotations: Mapping[str, str] | None = None,
) -> RawObject:
    ports = [{"name": "http", "containerPort": port, "protocol": "TCP"}] if port else []
    raw = dict(
        _object(
            "v1",
            "Pod",
            namespace,
            name,
            labels=labels,
            spec={"serviceAccountName": account, "containers": [{"name": "app", "ports": ports}]},
            status={"podIP": address, "phase": "Running"},
        )
    )
    if annotations:
        raw["metadata"] = {**raw["metadata"], "annotations": dict(annotations)}
    return raw


def _object(
    version: str, kind: str, namespace: str, name: str, *, labels: Mapping[str, str] | None = None, **rest: Any
) -> RawObject:
    metadata: dict[str, Any] = {"name": name}
    if namespace:
        metadata["namespace"] = namespace
    if labels:
        metadata["labels"] = dict(labels)
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **rest}


def _team(number: int) -> str:
    return f"team-{number}"


def _cluster_address(index: int, share: int) -> str:
    return f"10.{64 + share}.{index // 250}.{index % 250 + 1}"
