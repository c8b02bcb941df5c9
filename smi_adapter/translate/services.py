"""Pass `leaves`: each Service as it is by itself, with its endpoints and the identities behind it.

Splits come later; what is here is also what a split's share of this Service leads to, so a Service is never followed
further than this (S11).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeAlias

from smi_adapter.findings import Finding, Ref, finding
from smi_adapter.mesh import Endpoint, Protocol, Route, Service, ServicePort, WeightedTarget
from smi_adapter.smi.objects import Key
from smi_adapter.snapshot import EndpointSlice, Pod
from smi_adapter.snapshot import Service as KubernetesService
from smi_adapter.snapshot import ServicePort as KubernetesPort
from smi_adapter.translate.incremental import Outcome
from smi_adapter.translate.names import spiffe_id
from smi_adapter.translate.parts import Leaf
from smi_adapter.translate.ports import selects, service_protocol
from smi_adapter.translate.relations import label_of
from smi_adapter.translate.view import View

SLICE_GROUP = "discovery.k8s.io"

Address: TypeAlias = IPv4Address | IPv6Address


def compute(view: View, key: Key) -> Outcome[Leaf | None]:
    """Return the Service without any split; None: it is not routed (ExternalName)."""
    service = view.services.get(key)
    if service is None:
        return None, ()
    if service.type == "ExternalName":
        return None, (finding("SMI0702", service.ref, "spec.type", "Services of type ExternalName are not routed"),)
    notes: list[Finding] = []
    slices = [found for name in sorted(view.slices_of_service.get(key) or ()) if (found := view.slices.get(name))]
    pods = _pods(view, service, slices)
    identities = tuple(sorted({_identity(view, pod) for pod in pods.values() if pod.meshed}))
    ports: list[ServicePort] = []
    for port in sorted(service.ports, key=lambda port: (port.number, port.protocol)):
        protocol = service_protocol(port)
        if protocol is None:
            words = f"Port {port.number} is {port.protocol}, which is not carried"
            notes.append(finding("SMI0601", service.ref, "spec.ports", words))
            continue
        ports.append(_port(key, port, protocol, _endpoints(view, port, slices, pods, notes), identities))
    made = Service(key, tuple(ports), service.addresses, None, service.ref)
    return Leaf(made, tuple(sorted(pods))), tuple(dict.fromkeys(notes))


def _pods(view: View, service: KubernetesService, slices: list[EndpointSlice]) -> dict[Key, Pod]:
    """Return all pods behind a Service, ready or not: those that it selects and those in its slices."""
    namespace = service.meta.namespace
    names = {(namespace, endpoint.pod) for part in slices for endpoint in part.endpoints if endpoint.pod}
    found = {name: pod for name in names if (pod := view.pods.get(name)) is not None}
    if service.selector:
        for name in view.pods_with_label.get((namespace, *label_of(service.selector))) or ():
            pod = view.pods.get(name)
            if pod is not None and selects(service, pod.meta.labels):
                found[name] = pod
    return found


def _identity(view: View, pod: Pod) -> str:
    return spiffe_id(view.options.trust_domain, (pod.meta.namespace, pod.service_account))


def _port(
    key: Key, port: KubernetesPort, protocol: Protocol, endpoints: tuple[Endpoint, ...], identities: tuple[str, ...]
) -> ServicePort:
    own = Route((WeightedTarget(key, port.number, 1),))
    return ServicePort(port.number, protocol, (own,), endpoints, identities)


def _endpoints(
    view: View, port: KubernetesPort, slices: list[EndpointSlice], pods: dict[Key, Pod], notes: list[Finding]
) -> tuple[Endpoint, ...]:
    """Return the ready addresses for one port; an address that may not be routed to is left out (security TN7)."""
    found: dict[tuple[str, int], Endpoint] = {}
    for part, number in _slice_ports(port, slices):
        for endpoint in part.endpoints:
            pod = pods.get((part.meta.namespace, endpoint.pod)) if endpoint.pod else None
            reason = ""
            if pod is None or pod.address != endpoint.address:
                reason = refusal(endpoint.address) or _guarded(view, part, endpoint.address)
            if reason:
                subject = Ref("EndpointSlice", part.meta.namespace, part.meta.name, SLICE_GROUP)
                notes.append(finding("SMI0703", subject, "endpoints", f"{endpoint.address!r} {reason}"))
            elif endpoint.ready:
                identity = _identity(view, pod) if pod is not None and pod.meshed else ""
                name = pod.meta.name if pod is not None else ""
                found[endpoint.address, number] = Endpoint(endpoint.address, number, identity, name)
    return tuple(found[place] for place in sorted(found))


def _slice_ports(port: KubernetesPort, slices: list[EndpointSlice]) -> Iterator[tuple[EndpointSlice, int]]:
    """Yield each slice with the number that the Service's port has there: ports meet by name and protocol."""
    for part in slices:
        for candidate in part.ports:
            if candidate.name == port.name and candidate.protocol == port.protocol:
                yield part, candidate.number


def _guarded(view: View, part: EndpointSlice, address: str) -> str:
    """Say that an address is the API server's or the controller's, unless the slice is theirs (security TN7)."""
    guarded = view.options.guarded
    if (part.meta.namespace, part.service) in guarded:
        return ""
    found = (place for place in sorted(guarded) if _plain(address) in _addresses(view, place))
    return next((f"is an address of {'/'.join(place)}" for place in found), "")


def _addresses(view: View, place: Key) -> Iterator[Address | None]:
    """Yield the addresses of a Service and of what is behind it."""
    service = view.services.get(place)
    yield from map(_plain, service.addresses if service is not None else ())
    for key in view.slices_of_service.get(place) or ():
        part = view.slices.get(key)
        yield from (_plain(endpoint.address) for endpoint in (part.endpoints if part is not None else ()))


@lru_cache(maxsize=65536)
def _plain(address: str) -> Address | None:
    """Return an address without the many ways to write it: ::ffff:127.0.0.1 leads to where 127.0.0.1 does."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return None
    return getattr(parsed, "ipv4_mapped", None) or parsed


@lru_cache(maxsize=65536)
def refusal(address: str) -> str:
    """Return "" if a hand-made endpoint may have this address, else why not, in words (security TN7)."""
    parsed = _plain(address)
    if parsed is None:
        return "is not an IP address"
    if parsed.is_loopback:
        return "is a loopback address and not that of its pod"
    if parsed.is_link_local:
        return "is a link-local address"
    if parsed.is_unspecified or parsed.is_multicast:
        return "is not the address of one host"
    return ""
