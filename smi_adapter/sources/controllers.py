"""What kube-controller-manager and the kubelet would add, for objects that come from files.

Deployments become Pods, Services with selectors get EndpointSlices, namespaces get their default ServiceAccount; what
the files themselves say stays as it is. Nothing redirects traffic on a laptop, so each Pod also gets loopback
addresses of its own: one where it is reached (its proxy), one where its application listens, and one for each Service
that it may dial. Pure: `reconcile` maps files, readiness and the addresses of before to objects and the addresses of
now. What it adds are raw Kubernetes objects, so that `decode` stays the only door.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Network
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from smi_adapter.decode import RawObject
from smi_adapter.decode.forms import (
    APP_ADDRESS,
    DIAL,
    INJECT,
    SERVICE_NAME,
    PodForm,
    PodStatus,
    ServiceForm,
    ServicePortForm,
    WorkloadForm,
    convert,
    is_ready,
    name_problem,
)
from smi_adapter.findings import Finding, Ref, finding
from smi_adapter.smi.objects import Key

WORKLOADS = frozenset({"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"})
SLICES = "discovery.k8s.io"
DEFAULT_NETWORK = IPv4Network("127.42.0.0/16")
MAX_REPLICAS = 1000
HOST = "127.0.0.1"
"""`status.hostIP` of the Pods that live on this machine; it tells the process runtime which ones are its own."""

Use: TypeAlias = tuple[Key, str]
"""Whose an address is and what for: (pod, "proxy"), (pod, "app") or (pod, "namespace/service")."""


def concerns(ref: Ref) -> bool:
    """Tell whether a changed object can change what `reconcile` adds: SMI objects can't."""
    if ref.group == "":
        return ref.kind in {"Namespace", "Pod", "Service", "ServiceAccount"}
    return ref.kind in WORKLOADS if ref.group == "apps" else ref.group == SLICES


def _empty() -> Mapping[Any, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Addresses:
    """Which loopback address serves what, and where the next one is looked for.

    An address that was given up is used again last, so that no listener has to leave before another can come. The
    same files on a fresh start lead to the same addresses.
    """

    network: IPv4Network = DEFAULT_NETWORK
    used: Mapping[Use, int] = field(default_factory=_empty)
    cursor: int = 0

    def text(self, use: Use) -> str:
        """Return the address of a use, "" if the network had none left for it."""
        offset = self.used.get(use)
        return "" if offset is None else _text(self.network, offset)

    def assign(self, uses: Iterable[Use]) -> Addresses:
        """Give each use an address: the one that it has, or the next free one.

        A Pod that lives keeps the address of a Service that went: its application, which knows that address from its
        start, finds the Service there again if it comes back.
        """
        wanted = list(uses)
        living = {pod for pod, _ in wanted}
        given = {use: offset for use, offset in self.used.items() if use[0] in living}
        new = [use for use in wanted if use not in given]
        if not new and len(given) == len(self.used):
            return self
        taken, cursor = set(given.values()), self.cursor
        # The first and last 256 addresses of the network are left alone: gateways, broadcasts, the claim of the run.
        room = self.network.num_addresses - 512
        for use in new:
            if len(taken) >= room:
                break
            while 256 + cursor % room in taken:
                cursor += 1
            given[use] = 256 + cursor % room
            taken.add(given[use])
            cursor += 1
        return Addresses(self.network, MappingProxyType(given), cursor)


@lru_cache(maxsize=4096)
def _text(network: IPv4Network, offset: int) -> str:
    """Return an address as text; each is asked for again whenever a Service comes or goes."""
    return str(network.network_address + offset)


@dataclass(frozen=True, slots=True)
class Memory:
    """What has to be carried from one reconciliation to the next: addresses, and last good forms."""

    addresses: Addresses = Addresses()
    good: Mapping[Ref, RawObject] = field(default_factory=_empty)


class World(NamedTuple):
    """All objects, those from files and those added; `owners` says from which object of a file an added one comes.

    The caller owns `objects` and may go on changing it.
    """

    objects: dict[Ref, RawObject]
    findings: tuple[Finding, ...]
    memory: Memory
    owners: Mapping[Ref, Ref]


@dataclass(slots=True)
class _LocalPod:
    """A Pod in the making: one that has no address of its own and therefore lives on this machine."""

    ref: Ref
    raw: RawObject
    form: PodForm
    owner: Ref | None = None

    @property
    def key(self) -> Key:
        return (self.ref.namespace, self.ref.name)

    @property
    def meshed(self) -> bool:
        return (self.form.metadata.annotations or {}).get(INJECT, "").lower() not in {"false", "disabled", "no"}


class _Reached(NamedTuple):
    """A Pod as an EndpointSlice shows it."""

    form: PodForm
    address: str
    ready: bool


@dataclass(frozen=True, slots=True)
class _Guard:
    """Confines our own failures to the object that they are about (rule 6)."""

    findings: list[Finding]
    failed: set[Ref] = field(default_factory=set)

    @contextmanager
    def about(self, ref: Ref) -> Iterator[None]:
        """Turn an unexpected exception about an object into a finding; the caller leaves the object out."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever it is, the other objects go on
            if ref not in self.failed:
                text = f"working out what controllers add failed: {type(error).__name__}; the object is left out"
                self.findings.append(finding("SMI0606", ref, "", text))
            self.failed.add(ref)


def reconcile(objects: Mapping[Ref, RawObject], memory: Memory, ready: Mapping[Key, bool] | None = None) -> World:
    """Return the objects with everything that controllers would add.

    `ready` is what the process runtime saw: a Pod that is not in it is not ready. None: nothing runs here, and every
    Pod counts as ready.
    """
    findings: list[Finding] = []
    good: dict[Ref, RawObject] = {}
    world = dict(objects)
    owners: dict[Ref, Ref] = {}
    guard = _Guard(findings)
    written = _written_pods(objects, memory.good, good, guard)
    pods = _pods(objects, written, memory.good, good, guard)
    services = _services(objects, guard)
    addresses = memory.addresses.assign(_uses(pods.values(), services))
    reached: dict[Ref, _Reached] = {}
    for ref, pod in sorted(pods.items()):
        if not all(addresses.text(use) for use in _uses((pod,), services)):
            text = f"the network {addresses.network} has too few addresses for it; it is left out"
            findings.append(finding("SMI0206", ref, "", text))
            world.pop(ref, None)
            continue
        alive = True if ready is None else ready.get(pod.key, False)
        with guard.about(ref):
            world[ref] = _finished(pod, addresses, services, alive=alive)
            reached[ref] = _Reached(pod.form, addresses.text((pod.key, "proxy")), alive)
            if pod.owner is not None:
                owners[ref] = pod.owner
    foreign = {ref: pod for ref, pod in written.items() if _own_address(pod.form)}
    world |= {ref: pod.raw for ref, pod in foreign.items()}
    reached |= {ref: _Reached(pod.form, _own_address(pod.form), is_ready(pod.form)) for ref, pod in foreign.items()}
    backing: dict[str, list[tuple[Ref, _Reached]]] = {}
    for ref in sorted(reached):
        backing.setdefault(ref.namespace, []).append((ref, reached[ref]))
    explicit = _services_with_slices(objects)
    for ref, service in services.items():
        with guard.about(ref):
            world[ref] = _without_cluster_ip(objects[ref])
            if (ref.namespace, ref.name) in explicit:
                continue
            for added in tuple(_slices(ref, service, backing.get(ref.namespace, ()))):
                slice_ref = Ref("EndpointSlice", ref.namespace, added["metadata"]["name"], SLICES)
                world[slice_ref] = added
                owners[slice_ref] = ref
    for ref in guard.failed:
        world.pop(ref, None)
    for namespace in sorted({ref.namespace for ref in world if ref.namespace and ref.kind in {"Pod", "Service"}}):
        account = Ref("ServiceAccount", namespace, "default")
        metadata = {"name": "default", "namespace": namespace}
        world.setdefault(account, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
    return World(world, tuple(findings), Memory(addresses, MappingProxyType(good)), owners)


# ------------------------------------------------------------------------------------------------------- Pods


def _written_pods(
    objects: Mapping[Ref, RawObject],
    before: Mapping[Ref, RawObject],
    good: dict[Ref, RawObject],
    guard: _Guard,
) -> dict[Ref, _LocalPod]:
    """Return the Pods of the files; one that an edit made invalid stays as it was, like a workload.

    What is wrong with one that was never good, decode says.
    """
    pods: dict[Ref, _LocalPod] = {}
    for ref, raw in objects.items():
        if (ref.group, ref.kind) != ("", "Pod") or name_problem(ref):
            continue
        with guard.about(ref):
            used, form = raw, convert(raw, PodForm, ref)
            if isinstance(form, Finding) and ref in before:
                guard.findings.append(form)
                used, form = before[ref], convert(before[ref], PodForm, ref)
            if not isinstance(form, Finding):
                good[ref] = used
                pods[ref] = _LocalPod(ref, used, form)
    return pods


def _pods(
    objects: Mapping[Ref, RawObject],
    written: Mapping[Ref, _LocalPod],
    before: Mapping[Ref, RawObject],
    good: dict[Ref, RawObject],
    guard: _Guard,
) -> dict[Ref, _LocalPod]:
    """Return the Pods that live here: those of the files without an address, then those of workloads."""
    pods = {ref: pod for ref, pod in written.items() if not _own_address(pod.form)}
    for ref in sorted(ref for ref in objects if ref.group == "apps" and ref.kind in WORKLOADS):
        with guard.about(ref):
            for copy in _copies(ref, objects[ref], before, good, guard.findings):
                if copy.ref in objects or copy.ref in pods:
                    text = f"the Pod {copy.ref.namespace}/{copy.ref.name} exists already; this copy is left out"
                    guard.findings.append(finding("SMI0508", ref, "spec.replicas", text))
                else:
                    pods[copy.ref] = copy
    return pods


def _copies(
    ref: Ref, raw: RawObject, before: Mapping[Ref, RawObject], good: dict[Ref, RawObject], findings: list[Finding]
) -> tuple[_LocalPod, ...]:
    """Return the Pods of a workload, of its last good form if an edit made it invalid."""
    form = _workload(raw, ref)
    if isinstance(form, Finding):
        findings.append(form)
        if ref not in before:
            return ()
        raw, form = before[ref], _workload(before[ref], ref)
        if isinstance(form, Finding):
            return ()
    good[ref] = raw
    return tuple(_replicas(ref, raw, form))


def _own_address(form: PodForm) -> str:
    """Return the address that the files give a Pod: it runs somewhere else then and is taken as it is."""
    return (form.status or PodStatus()).pod_ip or ""


def _workload(raw: RawObject, ref: Ref) -> WorkloadForm | Finding:
    if problem := name_problem(ref):
        return problem
    form = convert(raw, WorkloadForm, ref)
    if not isinstance(form, Finding) and (form.spec.replicas or 0) > MAX_REPLICAS:
        text = f"spec.replicas: {form.spec.replicas} is more than the {MAX_REPLICAS} copies that one machine may run"
        return finding("SMI0206", ref, "spec.replicas", text)
    return form


def _replicas(ref: Ref, raw: RawObject, form: WorkloadForm) -> Iterator[_LocalPod]:
    template = raw["spec"]["template"]
    metadata = template.get("metadata") or {}
    count = 1 if ref.kind == "DaemonSet" or form.spec.replicas is None else form.spec.replicas
    owner = {"apiVersion": raw.get("apiVersion"), "kind": ref.kind, "name": ref.name, "controller": True}
    for number in range(count):
        name = f"{ref.name}-{number}"
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**metadata, "name": name, "namespace": ref.namespace, "ownerReferences": [owner]},
            "spec": template["spec"],
        }
        pod_ref = Ref("Pod", ref.namespace, name)
        pod_form = convert(pod, PodForm, pod_ref)
        if not isinstance(pod_form, Finding):  # it can't be one: the template has the same forms
            yield _LocalPod(pod_ref, pod, pod_form, ref)


def _finished(pod: _LocalPod, addresses: Addresses, services: Mapping[Ref, ServiceForm], *, alive: bool) -> RawObject:
    """Return the raw Pod with its addresses and its status, as the kubelet and our injector would write them."""
    metadata = dict(pod.raw["metadata"])
    annotations = dict(metadata.get("annotations") or {})
    annotations.pop(APP_ADDRESS, None)
    annotations.pop(DIAL, None)
    if pod.meshed:
        annotations[APP_ADDRESS] = addresses.text((pod.key, "app"))
        dial = {
            service: address
            for ref in services
            if (address := addresses.text((pod.key, service := f"{ref.namespace}/{ref.name}")))
        }
        annotations[DIAL] = json.dumps(dial, sort_keys=True, separators=(",", ":"))
    status = {
        "podIP": addresses.text((pod.key, "proxy")),
        "hostIP": HOST,
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": "True" if alive else "False"}],
    }
    return {**pod.raw, "metadata": {**metadata, "annotations": annotations}, "status": status}


# ---------------------------------------------------------------------------------------------------- Services


def _services(objects: Mapping[Ref, RawObject], guard: _Guard) -> dict[Ref, ServiceForm]:
    found: dict[Ref, ServiceForm] = {}
    for ref in sorted(ref for ref in objects if (ref.group, ref.kind) == ("", "Service")):
        with guard.about(ref):
            form = convert(objects[ref], ServiceForm, ref)
            if not isinstance(form, Finding) and form.spec.type != "ExternalName" and not name_problem(ref):
                found[ref] = form
    return found


def _without_cluster_ip(raw: RawObject) -> RawObject:
    """Drop addresses that a dump from a cluster holds: here nobody answers at them."""
    spec = raw.get("spec") or {}
    if "clusterIP" not in spec and "clusterIPs" not in spec:
        return raw
    kept = {name: value for name, value in spec.items() if name not in {"clusterIP", "clusterIPs"}}
    return {**raw, "spec": kept}


def _uses(pods: Iterable[_LocalPod], services: Mapping[Ref, ServiceForm]) -> Iterator[Use]:
    for pod in sorted(pods, key=lambda item: item.key):
        yield (pod.key, "proxy")
        if pod.meshed:
            yield (pod.key, "app")
            for ref in services:
                yield (pod.key, f"{ref.namespace}/{ref.name}")


def _slices(ref: Ref, service: ServiceForm, pods: Iterable[tuple[Ref, _Reached]]) -> Iterator[dict[str, Any]]:
    """Yield the EndpointSlices of a Service with a selector: one for each way in which its ports are resolved."""
    selector = service.spec.selector
    if not selector:
        return
    groups: dict[tuple[tuple[str, int, str], ...], list[dict[str, Any]]] = {}
    for pod_ref, pod in pods:
        labels = pod.form.metadata.labels or {}
        if any(labels.get(key) != value for key, value in selector.items()):
            continue
        resolved = (
            (port.name or "", target(port, pod.form), port.protocol or "TCP") for port in service.spec.ports or ()
        )
        ports = tuple((name, number, protocol) for name, number, protocol in resolved if number)
        target_ref = {"kind": "Pod", "namespace": pod_ref.namespace, "name": pod_ref.name}
        endpoint = {"addresses": [pod.address], "conditions": {"ready": pod.ready}, "targetRef": target_ref}
        groups.setdefault(ports, []).append(endpoint)
    for number, (ports, endpoints) in enumerate(sorted(groups.items(), key=lambda item: item[0])):
        metadata = {
            "name": f"{ref.name}-local-{number}",
            "namespace": ref.namespace,
            "labels": {SERVICE_NAME: ref.name},
        }
        yield {
            "apiVersion": f"{SLICES}/v1",
            "kind": "EndpointSlice",
            "metadata": metadata,
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": [{"name": name, "port": port, "protocol": protocol} for name, port, protocol in ports],
        }


def target(port: ServicePortForm, pod: PodForm) -> int:
    """Return the container port behind a Service port; 0 if the Pod has none of the name that the Service gives."""
    if not isinstance(port.target_port, str):
        return port.target_port or port.port
    for container in pod.spec.containers or ():
        for declared in container.ports or ():
            if declared.name == port.target_port and (declared.protocol or "TCP") == (port.protocol or "TCP"):
                return declared.container_port
    return 0


def _services_with_slices(objects: Mapping[Ref, RawObject]) -> frozenset[Key]:
    """Return the Services for which the files hold EndpointSlices: those stand instead of ours."""
    found: set[Key] = set()
    for ref, raw in objects.items():
        if ref.kind == "EndpointSlice":
            metadata = raw.get("metadata")
            labels = metadata.get("labels") if isinstance(metadata, Mapping) else None
            if isinstance(labels, Mapping):
                found.add((ref.namespace, str(labels.get(SERVICE_NAME))))
    return frozenset(found)
