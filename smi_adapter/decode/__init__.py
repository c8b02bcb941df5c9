"""Raw objects in, Snapshot out: the one door for a cluster, a directory and a test.

A source hands over changed objects exactly as they were written; `apply` decodes these and nothing else, and returns
a Snapshot that shares every unchanged value with the old one. A bad object is a finding that names the field and
hurts only itself: access closes (an undecodable TrafficTarget is not there, T17), traffic keeps what it last had
(S24). Kubernetes objects are projected onto the few fields that decide something (`forms`); SMI objects go through
`smi.wire`, the only module that knows their versions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from ipaddress import ip_address
from types import MappingProxyType
from typing import Any, Final, TypeAlias, TypeVar

from smi_adapter.decode.forms import (
    APP_ADDRESS,
    DIAL,
    INJECT,
    PREFIX,
    SERVICE_NAME,
    UNREADABLE,
    EndpointSliceForm,
    MetaForm,
    NamespaceForm,
    PodForm,
    RawObject,
    ServiceForm,
    convert,
    is_ready,
    name_problem,
    ref_of,
    workload_of,
)
from smi_adapter.decode.unread import HARMLESS, unread
from smi_adapter.findings import Finding, Ref, finding
from smi_adapter.overlay import GONE, edited
from smi_adapter.smi import wire
from smi_adapter.smi.objects import ACCESS_GROUP, SPECS_GROUP, SPLIT_GROUP, Key, Meta
from smi_adapter.snapshot import (
    EMPTY,
    MODE_ANNOTATION,
    ContainerPort,
    EndpointSlice,
    Mode,
    Namespace,
    Pod,
    Service,
    ServicePort,
    SliceEndpoint,
    SlicePort,
    Snapshot,
)

__all__ = ["RawObject", "apply", "decode", "ref_of"]

T = TypeVar("T")
_ALIKE: Final = 4096
"""How many values that may come again are remembered."""
_NO_ENTRIES: Final[Mapping[Any, Any]] = MappingProxyType({})


Decoded: TypeAlias = tuple[Any, tuple[Finding, ...]]
"""The value, or None if there is none to use, and what there is to say."""

_TABLES: Mapping[tuple[str, str], str] = {
    ("", "Namespace"): "namespaces",
    ("", "Service"): "services",
    ("", "Pod"): "pods",
    ("", "ServiceAccount"): "service_accounts",
    ("discovery.k8s.io", "EndpointSlice"): "slices",
    (SPLIT_GROUP, "TrafficSplit"): "splits",
    (SPECS_GROUP, "HTTPRouteGroup"): "route_groups",
    (SPECS_GROUP, "TCPRoute"): "tcp_routes",
    (SPECS_GROUP, "UDPRoute"): "udp_routes",
    (ACCESS_GROUP, "TrafficTarget"): "targets",
    (ACCESS_GROUP, "IdentityBinding"): "bindings",
}

_KINDS = frozenset(_TABLES)
_KEEPS_LAST_GOOD = frozenset({"services", "slices", "splits"})
"""Traffic, never access: what an edit makes undecodable here stays as it was, so that no flowing route is lost."""


def decode(objects: Iterable[RawObject]) -> Snapshot:
    """Decode a whole world; of two objects of one name the first counts."""
    changes: dict[Ref, RawObject | None] = {}
    for raw in objects:
        changes.setdefault(ref_of(raw), raw)
    return apply(EMPTY, changes)[0]


def apply(
    snapshot: Snapshot, changes: Mapping[Ref, RawObject | None], *, cluster: bool = False
) -> tuple[Snapshot, frozenset[Ref]]:
    """Return the Snapshot after the changes (None: deleted) and the names of the objects that really changed.

    `cluster`: the objects come from a cluster, where loopback addresses and our no-cluster annotations are refused.
    """
    draft = _Draft(snapshot)
    for ref, raw in changes.items():
        if raw is None:
            draft.put(ref, None, ())
        else:
            draft.put(ref, *_decode_one(ref, raw, cluster=cluster))
    return draft.finish(), frozenset(draft.changed)


class _Draft:
    """A Snapshot in the making: edits, by table and key, on top of the last one."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._edits: dict[str, dict[Any, Any]] = {}
        self.changed: set[Ref] = set()

    def _read(self, table: str, key: object) -> Any:
        edits = self._edits.get(table)
        if edits is not None and key in edits:
            return None if edits[key] is GONE else edits[key]
        if table == "service_accounts":
            return True if key in self._snapshot.service_accounts else None
        return getattr(self._snapshot, table).get(key)

    def _write(self, table: str, key: object, value: object) -> bool:
        """Set or (None) remove a value; tell whether that changed anything. An equal value keeps the old object."""
        if self._read(table, key) == value:
            return False
        self._edits.setdefault(table, {})[key] = GONE if value is None else value
        return True

    def put(self, ref: Ref, value: object, problems: tuple[Finding, ...]) -> None:
        """Take one decoded object in; S24 keeps the last good form of traffic objects that were there and are bad."""
        table, key = _TABLES.get((ref.group, ref.kind)), _key(ref)
        if table is not None:
            if value is None and problems and table in _KEEPS_LAST_GOOD and self._read(table, key) is not None:
                problems = (*problems, *_kept(ref, table))
            elif self._write(table, key, value):
                self.changed.add(ref)
        if self._write("problems", ref, problems or None):
            self.changed.add(ref)

    def finish(self) -> Snapshot:
        """Return the new Snapshot, or the old one itself if nothing changed."""
        tables: dict[str, Any] = {}
        for name, edits in self._edits.items():
            before = getattr(self._snapshot, name)
            if name == "service_accounts":
                kept = {key for key, value in edits.items() if value is not GONE}
                tables[name] = (before - edits.keys()) | kept
            else:
                tables[name] = edited(before, edits)
        return replace(self._snapshot, **tables) if tables else self._snapshot


def _key(ref: Ref) -> Key | str:
    return ref.name if ref.kind == "Namespace" else (ref.namespace, ref.name)


def _kept(ref: Ref, table: str) -> tuple[Finding, ...]:
    if table == "splits":
        return (finding("SMI0114", ref, "", "the split is invalid as it stands; its last good weights are used"),)
    return ()


def _decode_one(ref: Ref, raw: RawObject, *, cluster: bool) -> Decoded:
    try:
        problem = name_problem(ref)
        if (ref.group, ref.kind) not in _TABLES:
            return _without_table(ref, raw)
        if problem is not None:
            return None, (problem,)
        if UNREADABLE in raw:
            problem = finding("SMI0505", ref, "", f"the object can't be read: {str(raw[UNREADABLE])[:200]}")
            return _enforcing(ref) if ref.kind == "Namespace" else None, (problem,)
        if ref.group in {SPLIT_GROUP, SPECS_GROUP, ACCESS_GROUP}:
            return wire.decode(_with_namespace(ref, raw))
        return _decode_kubernetes(ref, raw, cluster=cluster)
    except Exception as error:  # noqa: BLE001 - rule 6: our own failure on one object must not hurt another
        problem = finding("SMI0606", ref, "", f"decoding failed: {type(error).__name__}")
        return _enforcing(ref) if (ref.group, ref.kind) == ("", "Namespace") else None, (problem,)


def _without_table(ref: Ref, raw: RawObject) -> Decoded:
    """Answer for a kind that we don't read: nothing to say for the usual ones, SMI's own findings for SMI's groups."""
    if (ref.group, ref.kind) in HARMLESS:
        return None, ()
    if ref.group in {SPLIT_GROUP, SPECS_GROUP, ACCESS_GROUP}:
        _, problems = wire.decode(_with_namespace(ref, raw))
        if problems:
            return None, problems
    return None, (unread(ref, raw, _KINDS),)


def _with_namespace(ref: Ref, raw: RawObject) -> RawObject:
    metadata = raw.get("metadata")
    if not isinstance(metadata, Mapping) or metadata.get("namespace") == ref.namespace:
        return raw
    return {**raw, "metadata": {**metadata, "namespace": ref.namespace}}


# ------------------------------------------------------------------------------------------- Kubernetes objects


def _decode_kubernetes(ref: Ref, raw: RawObject, *, cluster: bool) -> Decoded:
    match ref.kind:
        case "Namespace":
            return _namespace(ref, raw)
        case "ServiceAccount":
            return _service_account(ref, raw)
        case "Service":
            return _service(ref, raw)
        case "EndpointSlice":
            return _slice(ref, raw, cluster=cluster)
        case _:
            return _pod(ref, raw, cluster=cluster)


@lru_cache(maxsize=_ALIKE)
def _shared(value: T) -> T:
    """Return an equal value that is there already: thousands of Pods have the same ports and labels."""
    return value


def _shared_map(entries: Mapping[str, str] | None) -> Mapping[str, str]:
    """Return the entries, read-only; what is empty, or equal to others, is one object."""
    return _map_of(tuple(entries.items())) if entries else _NO_ENTRIES


@lru_cache(maxsize=_ALIKE)
def _map_of(items: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    return MappingProxyType(dict(items))


def _meta(form: MetaForm, ref: Ref, *, labels: bool = True) -> Meta:
    annotations = {key: value for key, value in (form.annotations or {}).items() if key.startswith(PREFIX)}
    for known in (APP_ADDRESS, DIAL):  # they become fields of the Pod
        annotations.pop(known, None)
    return Meta(
        ref.namespace,
        ref.name,
        form.creation_timestamp or "",
        form.generation or 0,
        _shared_map(form.labels if labels else None),
        _shared_map(annotations),
    )


def _namespace(ref: Ref, raw: RawObject) -> Decoded:
    form = convert(raw, NamespaceForm, ref)
    if isinstance(form, Finding):
        return _enforcing(ref), (form,)
    labels, annotations = form.metadata.labels or {}, form.metadata.annotations or {}
    return Namespace(ref.name, _shared_map(labels), _shared_map(annotations)), ()


def _enforcing(ref: Ref) -> Namespace:
    """Stand in for a Namespace that can't be read: it may ask for `enforce`, so no mode of the mesh may open it."""
    return Namespace(ref.name, MappingProxyType({}), MappingProxyType({MODE_ANNOTATION: Mode.ENFORCE.value}))


def _service_account(ref: Ref, raw: RawObject) -> Decoded:
    form = convert(raw, NamespaceForm, ref)
    return (None, (form,)) if isinstance(form, Finding) else (True, ())


def _service(ref: Ref, raw: RawObject) -> Decoded:
    form = convert(raw, ServiceForm, ref)
    if isinstance(form, Finding):
        return None, (form,)
    spec = form.spec
    ports: dict[tuple[int, str], ServicePort] = {}
    for index, port in enumerate(spec.ports or ()):
        protocol = port.protocol or "TCP"
        if (port.port, protocol) in ports:
            text = f"port {port.port}/{protocol} stands twice in spec.ports"
            return None, (finding("SMI0505", ref, f"spec.ports[{index}].port", text),)
        ports[port.port, protocol] = ServicePort(
            port.port, port.name or "", protocol, port.app_protocol or "", port.target_port or port.port
        )
    addresses = spec.cluster_ips or ([spec.cluster_ip] if spec.cluster_ip else [])
    service = Service(
        _meta(form.metadata, ref),
        _shared(tuple(ports.values())),
        _shared_map(spec.selector),
        tuple(address for address in addresses if address != "None"),
        spec.type or "ClusterIP",
    )
    return service, ()


def _slice(ref: Ref, raw: RawObject, *, cluster: bool) -> Decoded:
    form = convert(raw, EndpointSliceForm, ref)
    if isinstance(form, Finding):
        return None, (form,)
    problems: list[Finding] = []
    endpoints: list[SliceEndpoint] = []
    for index, endpoint in enumerate(form.endpoints or ()):
        refused = _refused(endpoint.addresses[0], cluster=cluster)
        if refused:
            text = f"{endpoint.addresses[0][:80]!r} {refused}; this endpoint is left out"
            problems.append(finding("SMI0703", ref, f"endpoints[{index}].addresses[0]", text))
            continue
        target, ready = endpoint.target_ref, endpoint.conditions.ready if endpoint.conditions else None
        ours = target is not None and target.kind == "Pod" and target.namespace in {None, "", ref.namespace}
        pod = target.name or "" if ours and target is not None else ""
        endpoints.append(SliceEndpoint(endpoint.addresses[0], ready is not False, pod))
    ports = _shared(
        tuple(SlicePort(port.name or "", port.port, port.protocol or "TCP") for port in form.ports or () if port.port)
    )
    service = (form.metadata.labels or {}).get(SERVICE_NAME, "")
    return EndpointSlice(_meta(form.metadata, ref, labels=False), service, ports, tuple(endpoints)), tuple(problems)


def _refused(address: str, *, cluster: bool) -> str:
    """Say why an address may not be routed to; in a cluster a loopback or link-local one is a confused deputy (TN7)."""
    try:
        ip = ip_address(address)
    except ValueError:
        return "is no IP address"
    mapped = getattr(ip, "ipv4_mapped", None) or ip
    if mapped.is_unspecified or mapped.is_multicast:
        return "is not the address of one host"
    if cluster and (mapped.is_loopback or mapped.is_link_local):
        return "is an address of the node itself"
    return ""


def _pod(ref: Ref, raw: RawObject, *, cluster: bool) -> Decoded:
    form = convert(raw, PodForm, ref)
    if isinstance(form, Finding):
        return None, (form,)
    annotations = form.metadata.annotations or {}
    try:
        dial = {} if cluster else _dial(annotations.get(DIAL, "{}"))
    except ValueError:
        text = "is no JSON object of namespace/service to address"
        return None, (finding("SMI0505", ref, f"metadata.annotations[{DIAL}]", text),)
    pod = Pod(
        _meta(form.metadata, ref),
        workload_of(form.metadata),
        form.spec.service_account_name or form.spec.service_account or "default",
        (form.status.pod_ip if form.status else None) or "",
        is_ready(form),
        _shared(
            tuple(
                ContainerPort(port.container_port, port.name or "", port.protocol or "TCP")
                for container in form.spec.containers or ()
                for port in container.ports or ()
            )
        ),
        annotations.get(INJECT, "").lower() not in {"false", "disabled", "no"},
        "" if cluster else annotations.get(APP_ADDRESS, ""),
        MappingProxyType(dial) if dial else _NO_ENTRIES,
    )
    return pod, ()


def _dial(text: str) -> dict[Key, str]:
    found: dict[Key, str] = {}
    for service, address in dict(json.loads(text)).items():
        namespace, slash, name = service.partition("/")
        if not slash:
            raise ValueError(service)
        found[namespace, name] = _address(address)
    return found


@lru_cache(maxsize=_ALIKE)
def _address(text: str) -> str:
    """Return an IP address as it is usually written; ValueError if it is none."""
    return str(ip_address(text))
