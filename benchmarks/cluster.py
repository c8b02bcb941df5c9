"""A real API server: from a patch to the traffic (K1, K2), and what a controller costs beside a big cluster (K3).

The patch is the HTTP request of `kubectl patch`, without the time that the program itself takes to start. A second
process watches the same object and does nothing else: what the controller, gRPC and Envoy add is the difference.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.bars import Bar, Part, delays, percentile
from benchmarks.bench import Bench, until_answering
from benchmarks.channel import Child
from smi_adapter.cluster.client import Client
from tests.cluster.control_plane import ADMINS, MERGE, ControlPlane
from tests.cluster.mesh import Mesh, install_crds, servers

GAP: Final = 0.25
"""Seconds between two changes: longer than the control's timer takes."""
TIMER: Final = 0.1
GUARD_MS: Final = 10.0
READY: Final = 60.0

SERVICES, PODS, SPLITS = 1000, 5000, 500
"""500 Services are roots of a TrafficSplit; an HTTPRouteGroup for each of the others makes 1,000 SMI objects."""
MEMORY_MB, START_SECONDS = 150.0, 5.0


@dataclass(frozen=True, slots=True)
class Delays:
    """Milliseconds of each change: from the patch's return to the traffic and to the watch, and the difference."""

    traffic: list[float]
    watch: list[float]
    added: list[float]


def run(bench: Bench, wanted: frozenset[str]) -> Iterator[Bar]:
    """Measure what is wanted of K1, K2 and K3, each on an API server of its own."""
    for name, envoys in (("K1", 1), ("K2", 10)):
        if name in wanted:
            bench.say(f"{name}: a real API server and {envoys} Envoys")
            with ControlPlane(_folder(bench, name)) as plane:
                yield _patches(bench, plane, name, envoys)
    if "K3" in wanted:
        with ControlPlane(_folder(bench, "K3")) as plane:
            yield _footprint(bench, plane)


def _folder(bench: Bench, name: str) -> Path:
    folder = bench.directory / name
    folder.mkdir()
    return folder


# ---------------------------------------------------------------------------------------------- patch to traffic
def _patches(bench: Bench, plane: ControlPlane, name: str, envoys: int) -> Bar:
    with ExitStack() as stack:
        stage = _Stage(bench, plane, envoys, stack)
        ours, theirs = stage.measure(0.0), stage.measure(TIMER)
    mine, other = percentile(ours.added, 0.5), percentile(theirs.added, 0.5)
    tail = f"p99 {percentile(ours.added, 0.99):.1f} ms"
    return Bar(
        name,
        f"kubectl patch to traffic, real API server, {envoys} Envoy{'s' if envoys > 1 else ''}",
        (Part("added to the bare watch event, p50", mine, GUARD_MS, other, "ms", tail),),
        f"after the patch returned, p50 / p99: traffic {_both(ours.traffic)} ms, bare watch {_both(ours.watch)} ms; "
        f"{len(ours.added)} changes; the probe is behind the Envoy that connected last; control: a trailing timer of "
        f"{TIMER * 1000:.0f} ms",
    )


def _both(values: list[float]) -> str:
    return f"{percentile(values, 0.5):.1f} / {percentile(values, 0.99):.1f}"


class _Stage:
    """A namespace with a split Service, the Envoys of its clients, a probe and a bare watch."""

    def __init__(self, bench: Bench, plane: ControlPlane, envoys: int, stack: ExitStack) -> None:
        install_crds(plane)
        self._bench, self._plane, self._envoys, self._stack = bench, plane, envoys, stack
        mesh = self._mesh = Mesh(plane, plane.new_namespace(), bench.directory)
        mesh.account("client")
        for state in ("a", "b"):
            address = mesh.pod(f"pod-{state}", meshed=False)
            mesh.service(state, f"pod-{state}")
            bench.echo.ask("listen", name=state, address=address, port=8080)
        mesh.service("shop", "pod-a", "pod-b")
        mesh.split("shop", {"a": 1, "b": 0})
        self._path = f"/apis/split.smi-spec.io/v1alpha4/namespaces/{mesh.namespace}/trafficsplits"
        self._host = plane.addresses.next()

    def measure(self, timer: float) -> Delays:
        """Start a controller and the Envoys, move the split to and fro, and end them again."""
        with ExitStack() as stack:
            host, given = self._host, {"kubeconfig": str(self._plane.kubeconfig), "timer": timer}
            settings = {"xds_address": f"{host}:18000", "health_address": f"{host}:8080", "log_level": "warning"}
            replica = stack.enter_context(Child("replica", {**given, "settings": settings}))
            replica.ask("ready", seconds=READY)
            where = servers(replica.ask("bundle")["pem"].encode(), host)
            address = ""
            for number in range(self._envoys):
                pod = f"client-{timer}-{number}"
                address = self._mesh.pod(pod, "client")
                token = self._mesh.token("client", pod)
                stack.enter_context(self._mesh.envoy(pod, token, where, "shop"))
                if not replica.ask("connected", proxies=number + 1, seconds=READY)["settled"]:
                    raise TimeoutError("an Envoy does not connect")
            probe = stack.enter_context(Child("probe", {"address": address, "port": 7001}))
            until_answering(probe, "a")
            watching = stack.enter_context(Child("watching", self._watch()))
            probe.ask("start")
            watching.ask("start")
            sent, returned = self._flip(self._bench.plan.flips)
            return _delays(sent, returned, watching.ask("stop")["seen"], probe.ask("stop")["seen"])

    def _flip(self, count: int) -> tuple[list[tuple[int, str]], list[int]]:
        sent, returned = [], []
        for number in range(2 * (count // 2)):
            state = "ab"[(number + 1) % 2]
            backends = [{"service": name, "weight": int(name == state)} for name in "ab"]
            sent.append((time.monotonic_ns(), state))
            self._plane.request("PATCH", f"{self._path}/shop", {"spec": {"backends": backends}}, MERGE)
            returned.append(time.monotonic_ns())
            time.sleep(GAP)
        return sent, returned

    def _watch(self) -> dict[str, Any]:
        folder = self._plane.folder
        self._plane.tls("watcher", ADMINS)
        certificate, key = folder / "tls-watcher.crt", folder / "tls-watcher.key"
        return {
            "host": self._plane.host,
            "port": 6443,
            "ca": str(self._plane.ca),
            "certificate": str(certificate),
            "key": str(key),
            "path": f"{self._path}?watch=1&fieldSelector=metadata.name%3Dshop",
        }


def _delays(sent: list[tuple[int, str]], returned: list[int], watch: list[Any], traffic: list[Any]) -> Delays:
    """Return the times of each change; an event may come before the patch returns, which makes it negative."""
    own = [(done - when) / 1e6 for (when, _), done in zip(sent, returned, strict=True)]
    events, effects = (delays(sent, [(int(when), str(state)) for when, state in seen]) for seen in (watch, traffic))
    return Delays(
        [effect - part for effect, part in zip(effects, own, strict=True)],
        [event - part for event, part in zip(events, own, strict=True)],
        [effect - event for effect, event in zip(effects, events, strict=True)],
    )


# ----------------------------------------------------------------------------------------------------- footprint
def _footprint(bench: Bench, plane: ControlPlane) -> Bar:
    bench.say(f"K3: {SERVICES} Services, {PODS} Pods, {SERVICES} SMI objects on a real API server")
    install_crds(plane)
    namespace = plane.new_namespace()
    asyncio.run(_fill(plane.kubeconfig, namespace))
    bench.say("K3: starting the controller")
    host, kubeconfig = plane.addresses.next(), str(plane.kubeconfig)
    settings = {"xds_address": f"{host}:18000", "health_address": f"{host}:8080", "log_level": "error"}
    os.environ |= {"KUBERNETES_SERVICE_HOST": plane.host, "KUBERNETES_SERVICE_PORT": "6443"}
    with Child("replica", {"account": str(_account(plane, bench)), "settings": settings}) as replica:
        start = replica.ask("ready", seconds=120.0)["seconds"]
        time.sleep(2.0)
        memory = replica.ask("memory")
        bench.say(f"K3: {memory}")
    with Child("typed", {"kubeconfig": kubeconfig}) as typed:
        theirs = typed.ask("list")
    control = "control: the library's typed models of the same objects, without anything made of them"
    return Bar(
        "K3",
        f"controller beside {SERVICES} Services, {PODS} Pods and {SERVICES} SMI objects",
        (
            Part("memory", memory["bytes"] / 1e6, MEMORY_MB, theirs["bytes"] / 1e6, "MB"),
            Part("start to ready", start, START_SECONDS, theirs["seconds"], "s"),
        ),
        f"resident memory 2 s after it was ready; {control}",
    )


def _account(plane: ControlPlane, bench: Bench) -> Path:
    """Return a folder as a pod has it: with the token of a ServiceAccount that may do everything."""
    plane.kubectl("create", "clusterrolebinding", "all", "--clusterrole=cluster-admin", "--serviceaccount=default:all")
    plane.request("POST", "/api/v1/namespaces/default/serviceaccounts", {"metadata": {"name": "all"}})
    folder = _folder(bench, "account")
    (folder / "token").write_text(plane.service_account_token("default", "all"))
    (folder / "ca.crt").write_bytes(plane.ca.read_bytes())
    (folder / "namespace").write_text("default")
    return folder


async def _fill(kubeconfig: Path, namespace: str) -> None:
    """Create the objects; those of a pod as big as pods are."""
    client = await Client.connect(str(kubeconfig))
    slots = asyncio.Semaphore(16)

    async def post(path: str, body: Any) -> None:
        async with slots:
            await client.request("POST", path, body=body, timeout=60.0)

    async def pod(number: int) -> None:
        path = f"/api/v1/namespaces/{namespace}/pods"
        service = number % SERVICES
        await post(path, _pod(number, service))
        ip = f"10.{128 + number // 65536}.{number // 256 % 256}.{number % 256}"
        status = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [_READY]}
        async with slots:
            await client.request(
                "PATCH", f"{path}/pod-{number}/status", body={"status": status}, content_type=MERGE, timeout=60.0
            )

    async def service(number: int) -> None:
        name = f"service-{number}"
        port = {"name": "http", "port": 80, "targetPort": 8080}
        spec = {"selector": {"app": name}, "ports": [port]}
        await post(f"/api/v1/namespaces/{namespace}/services", {"metadata": {"name": name}, "spec": spec})
        pods = range(number, PODS, SERVICES)
        addresses = [f"10.{128 + each // 65536}.{each // 256 % 256}.{each % 256}" for each in pods]
        endpoints = [
            {"addresses": [ip], "conditions": {"ready": True}, "targetRef": {"kind": "Pod", "name": f"pod-{each}"}}
            for ip, each in zip(addresses, pods, strict=True)
        ]
        body = {
            "metadata": {"name": f"{name}-1", "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": [{"name": "http", "port": 8080}],
        }
        await post(f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices", body)
        if number < SPLITS:
            backends = [{"service": f"service-{SPLITS + (number + more) % SPLITS}", "weight": more} for more in (1, 2)]
            spec = {"service": name, "backends": backends}
            await post(f"/apis/split.smi-spec.io/v1alpha4/namespaces/{namespace}/trafficsplits", _smi(name, spec))
        else:
            match = {"name": "all", "pathRegex": f"/{name}/.*", "methods": ["GET"]}
            path = f"/apis/specs.smi-spec.io/v1alpha4/namespaces/{namespace}/httproutegroups"
            await post(path, _smi(name, {"matches": [match]}))

    try:
        for make, count in ((service, SERVICES), (pod, PODS)):
            for begin in range(0, count, 500):
                await asyncio.gather(*(make(number) for number in range(begin, min(count, begin + 500))))
    finally:
        await client.close()


def _smi(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    kind = ("TrafficSplit", "split") if "service" in spec else ("HTTPRouteGroup", "specs")
    version = f"{kind[1]}.smi-spec.io/v1alpha4"
    return {"apiVersion": version, "kind": kind[0], "metadata": {"name": name}, "spec": spec}


_READY: Final = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}


def _pod(number: int, service: int) -> dict[str, Any]:
    """Return a Pod of about 5 kB, as a Deployment with probes, environment and volumes makes them."""
    probe = {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 10, "timeoutSeconds": 1}
    container = {
        "name": "app",
        "image": "registry.example.com/team/app:1.2.3",
        "ports": [{"containerPort": 8080, "name": "http"}],
        "env": [{"name": f"SETTING_{index}", "value": "x" * 60} for index in range(25)],
        "livenessProbe": probe,
        "readinessProbe": probe,
        "volumeMounts": [{"name": f"v{index}", "mountPath": f"/data/{index}"} for index in range(5)],
    }
    volumes = [{"name": f"v{index}", "emptyDir": {}} for index in range(5)]
    owner = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "name": f"service-{service}-5f8c7d9b6",
        "uid": f"00000000-0000-0000-0000-{service:012}",
        "controller": True,
    }
    metadata = {
        "name": f"pod-{number}",
        "ownerReferences": [owner],
        "labels": {"app": f"service-{service}", "pod-template-hash": "5f8c7d9b6", "team": "shop"},
        "annotations": {"example.com/checksum": "0" * 64},
    }
    return {"metadata": metadata, "spec": {"containers": [container], "volumes": volumes}}
