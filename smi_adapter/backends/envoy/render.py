"""Mesh to XdsConfig: everything the first time, afterwards only what a change touches.

Parts follow what changes together: a Service's routes, its endpoints, a workload's inbound side, its dialled
Listeners, the roots. The answer to a change is the old config with the touched parts replaced, all others being the
same objects, so a weight change costs the same in a mesh of 10 and of 5,000 Services (performance.md P3, P4).

A failure of our own code in one Service or workload stays there (design.md rule 6): routes keep their last good form,
access is denied, and a finding SMI0606 says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, TypeAlias, TypeVar

from smi_adapter.backends import Change, Part, Resource, XdsConfig
from smi_adapter.backends.envoy import clusters, inbound, routes, secrets
from smi_adapter.backends.envoy.access import Grant, generation, tcp_grants
from smi_adapter.backends.envoy.accesslog import AccessLog
from smi_adapter.backends.envoy.listeners import Dialer, has_virtual_addresses, may_call
from smi_adapter.backends.envoy.names import (
    CATCH_PART,
    CLUSTER,
    LISTENER,
    TRUST_PART,
    dial_part,
    endpoints_part,
    inbound_part,
    outbound_name,
    routes_part,
    type_url,
    vip_part,
)
from smi_adapter.backends.envoy.relation import EditedRelation
from smi_adapter.findings import Finding, Ref, by_severity_then_object, finding
from smi_adapter.mesh import AccessMode, InboundPort, Key, Mesh, Protocol, Route, Service, WeightedTarget, Workload
from smi_adapter.overlay import GONE, edited

Mark: TypeAlias = tuple[str, frozenset[Grant]]

_K = TypeVar("_K")
_V = TypeVar("_V")


def _none() -> Mapping[_K, _V]:
    return MappingProxyType({})


_NO_SERVICE: Final = Service(key=("", ""), ports=(), callers=frozenset())


@dataclass(frozen=True, slots=True)
class Index:
    """What a later render needs in order not to look at everything."""

    # Service: the parts that its callers need
    reach: Mapping[Key, frozenset[Part]] = field(default_factory=_none)
    # identity: the Services that name it as a caller
    named: Mapping[str, frozenset[Key]] = field(default_factory=_none)
    # the Services that anybody may call
    open: frozenset[Key] = frozenset()
    # identity: its workloads
    proxies: Mapping[str, frozenset[Key]] = field(default_factory=_none)
    # Service: the others whose routes target it
    roots: Mapping[Key, frozenset[Key]] = field(default_factory=_none)
    # TCP port of a workload: see `access.generation`
    marks: Mapping[tuple[Key, int], Mark] = field(default_factory=_none)
    findings: Mapping[Part, tuple[Finding, ...]] = field(default_factory=_none)


@dataclass(frozen=True, slots=True)
class EnvoyConfig(XdsConfig):
    """An XdsConfig, with the index from which the next one is made."""

    index: Index = field(default_factory=Index)


NOTHING: Final = EnvoyConfig(parts=MappingProxyType({}), scopes=MappingProxyType({}), identities=MappingProxyType({}))


def render(mesh: Mesh, change: Change | None, log: AccessLog) -> EnvoyConfig:
    """Return the config of a Mesh; with `change`, by editing the last one."""
    if change is None or not isinstance(change.rendered, EnvoyConfig):
        whole = _Edit(NOTHING, Mesh(), mesh, log)
        whole.run(frozenset(mesh.services), frozenset(mesh.workloads))
        return replace(whole.finish(), changed_parts=None, changed_scopes=None)
    edit = _Edit(change.rendered, change.mesh, mesh, log)
    rerooted = frozenset[Key]() if change.mesh.trust == mesh.trust else frozenset(mesh.workloads)
    edit.run(change.services, change.workloads | rerooted)
    return edit.finish()


class _Edit:
    """One render: what `before` and the two meshes become. Lives for one call of `render`."""

    def __init__(self, before: EnvoyConfig, old: Mesh, new: Mesh, log: AccessLog) -> None:
        self.before, self.old, self.new, self.log = before, old, new, log
        self.dialer = Dialer(log)
        self.parts: dict[Part, tuple[Resource, ...] | None] = {}
        self.findings: dict[Part, tuple[Finding, ...]] = {}
        self.reach: dict[Key, frozenset[Part] | None] = {}
        self.marks: dict[tuple[Key, int], Mark | None] = {}
        self.named = EditedRelation(before.index.named)
        self.proxies = EditedRelation(before.index.proxies)
        self.roots = EditedRelation(before.index.roots)
        self.open = set(before.index.open)
        self.stale: set[Key] = set()  # workloads whose scope must be computed again
        self.virtual = CATCH_PART in before.parts
        self.doors: set[Key] = set()  # Services that look different to somebody who dials them

    def run(self, services: frozenset[Key], workloads: frozenset[Key]) -> None:
        """Render what changed, and what depends on it."""
        for key in sorted(workloads):
            self._workload(key)
        leaves = {root for key in services for root in self.before.index.roots.get(key, frozenset())}
        for key in sorted(services):
            self._service(key)
        for key in sorted(leaves - services):
            self._depends(key)
        self._dials(workloads)
        self._shared(services)

    def finish(self) -> EnvoyConfig:
        """Return the edited config; what was not touched is shared with the one before."""
        before, index = self.before, self.before.index
        scopes = self._scopes()
        known = _edited(index.findings, {part: found or None for part, found in self.findings.items()})
        return EnvoyConfig(
            parts=_edited(before.parts, self.parts),
            scopes=_edited(before.scopes, scopes),
            identities=_edited(before.identities, self._identities()),
            findings=tuple(sorted({item for found in known.values() for item in found}, key=by_severity_then_object)),
            changed_parts=frozenset(self.parts),
            changed_scopes=frozenset(scopes),
            index=Index(
                reach=_edited(index.reach, self.reach),
                named=self.named.finish(),
                open=index.open if self.open == index.open else frozenset(self.open),
                proxies=self.proxies.finish(),
                roots=self.roots.finish(),
                marks=_edited(index.marks, self.marks),
                findings=known,
            ),
        )

    # ------------------------------------------------------------------------------------------------ Services

    def _service(self, key: Key) -> None:
        """Render one Service; a field that is as before leaves its part alone."""
        old, new = self.old.services.get(key), self.new.services.get(key)
        if new is None:
            for part in (routes_part(key), endpoints_part(key), vip_part(key)):
                self._put(part, None)
        else:
            self._routes(old, new)
            self._endpoints(old, new)
            self._vip(old, new)
        self._index(key, old or _NO_SERVICE, new or _NO_SERVICE)
        if old is None or new is None or _door(old) != _door(new):
            self.doors.add(key)

    def _routes(self, old: Service | None, new: Service) -> None:
        if old is not None and _same(old, new, "number", "protocol", "routes") and old.origin == new.origin:
            return
        part = routes_part(new.key)
        try:
            self._put(part, routes.outbound(new), _unsupported(new))
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not stop the others
            self._put(part, self.before.parts.get(part) or _without_rules(new), _failed(new.origin, new.key, error))

    def _endpoints(self, old: Service | None, new: Service) -> None:
        same = old is not None and _same(old, new, "number", "protocol", "endpoints", "identities")
        if same and old is not None and old.origin == new.origin and not _udp_routes_differ(old, new):
            return
        part = endpoints_part(new.key)
        try:
            self._put(part, clusters.of_service(new, self.new.services), self._empty_shares(new))
        except Exception as error:  # noqa: BLE001
            self._put(part, self.before.parts.get(part, ()), _failed(new.origin, new.key, error))

    def _vip(self, old: Service | None, new: Service) -> None:
        if old is not None and old.addresses == new.addresses and _same(old, new, "number", "protocol"):
            return
        part = vip_part(new.key)
        try:
            self._put(part, self.dialer.shared(new) if new.addresses else None)
        except Exception as error:  # noqa: BLE001
            self._put(part, self.before.parts.get(part), _failed(new.origin, new.key, error))

    def _depends(self, key: Key) -> None:
        """Render what a Service takes from the Services that it routes to: UDP endpoints, and how far it reaches."""
        service = self.new.services.get(key)
        if service is None:
            return
        if clusters.udp_targets(service):
            self._endpoints(None, service)
        self._reach(service, service)

    def _empty_shares(self, service: Service) -> tuple[Finding, ...]:
        origin = next((route.origin for port in service.ports for route in port.routes if route.origin), service.origin)
        if origin is None or not clusters.empty_udp_share(service, self.new.services):
            return ()
        message = "a UDP backend has no ready endpoint; Envoy gives its share of the datagrams to the other backends"
        return (finding("SMI0602", origin, "spec.backends", message),)

    def _index(self, key: Key, old: Service, new: Service) -> None:
        if old.callers != new.callers:
            self.named.replace(key, old.callers or (), new.callers or ())
            (self.open.add if new.callers is None else self.open.discard)(key)
            self._touch(old.callers, new.callers)
        self.roots.replace(key, _targets(old), _targets(new))
        self._reach(old, new)

    def _reach(self, old: Service, new: Service) -> None:
        """Say which parts a caller needs: the routes, and the endpoints of everything that they lead to."""
        key = old.key if new is _NO_SERVICE else new.key
        reach: frozenset[Part] | None = None
        if new is not _NO_SERVICE:
            leaves = (leaf for leaf in _targets(new) if leaf in self.new.services)
            own = {routes_part(key), endpoints_part(key)} | ({vip_part(key)} if new.addresses else set())
            reach = frozenset(own.union(endpoints_part(leaf) for leaf in leaves))
        before = self.before.index.reach.get(key)
        if reach != before:
            self.reach[key] = reach
            for part in (reach or frozenset()) ^ (before or frozenset()):
                self._touch(*(self._only_through_routes(part, callers) for callers in (old.callers, new.callers)))

    def _only_through_routes(self, part: Part, callers: frozenset[str] | None) -> frozenset[str] | None:
        """Return those callers who see a part only because routes lead there: who may call it directly sees it anyway.

        So a split that moves between backends changes nobody's scope, as a rule, and costs the same in every mesh.
        """
        kind, *key = part
        old, new = self.old.services.get((key[0], key[1])), self.new.services.get((key[0], key[1]))
        if kind != "endpoints" or old is None or new is None or old.callers != new.callers:
            return callers
        if new.callers is None:
            return frozenset()
        return None if callers is None else callers - new.callers

    def _touch(self, *callers: frozenset[str] | None) -> None:
        """Mark the scopes of all workloads that are among these callers."""
        if None in callers:
            self.stale.update(self.new.workloads)
            return
        for identity in frozenset[str]().union(*(some for some in callers if some)):
            self.stale.update(self.proxies.of(identity))

    # ----------------------------------------------------------------------------------------------- workloads

    def _workload(self, key: Key) -> None:
        old, new = self.old.workloads.get(key), self.new.workloads.get(key)
        self.proxies.replace(key, (old.identity,) if old else (), (new.identity,) if new else ())
        self.stale.add(key)
        if new is None:
            for part in (inbound_part(key), dial_part(key)):
                self._put(part, None)
            self._forget_marks(key, old.ports if old else ())
            return
        if self.old.trust != self.new.trust or old is None or replace(old, dial=new.dial) != new:
            self._forget_marks(key, old.ports if old else ())
            self._inbound(new)

    def _forget_marks(self, key: Key, ports: tuple[InboundPort, ...]) -> None:
        for port in ports:
            if (key, port.number) in self.before.index.marks:
                self.marks[key, port.number] = None

    def _inbound(self, workload: Workload) -> None:
        """Render a workload's inbound side; whatever fails in it is closed, port by port."""
        part = inbound_part(workload.key)
        found: list[Finding] = list(_udp_closed(workload))
        decided: list[Resource] = []
        marks: dict[int, str] = {}
        for port in workload.ports:
            try:
                decided.extend(inbound.rules(workload, port, self.new.trust, self._mark(workload, port, marks)))
            except Exception as error:  # noqa: BLE001
                decided.extend(self._denial(workload, port, marks))
                found.extend(_failed(workload.origin, workload.key, error))
        try:
            structure = inbound.structure(workload, self.new.trust, marks, self.log)
        except Exception as error:  # noqa: BLE001
            found.extend(_failed(workload.origin, workload.key, error))
            decided, structure = self._shut(workload)
        self._put(part, (*decided, *structure), tuple(found))

    def _denial(self, workload: Workload, port: InboundPort, marks: dict[int, str]) -> tuple[Resource, ...]:
        closed = replace(port, rules=())
        mark = self._mark(replace(workload, mode=AccessMode.ENFORCE), closed, marks)
        return inbound.denial(workload, closed, self.new.trust, mark)

    def _shut(self, workload: Workload) -> tuple[list[Resource], tuple[Resource, ...]]:
        """Return the last good Listeners with denials under the names that they ask for."""
        kinds = (type_url(LISTENER), type_url(CLUSTER))
        structure = tuple(
            item for item in self.before.parts.get(inbound_part(workload.key), ()) if item.type_url in kinds
        )
        decided: list[Resource] = []
        for port in workload.ports:
            place = (workload.key, port.number)
            self.marks.pop(place, None)  # the chain keeps its mark
            mark, _ = self.before.index.marks.get(place, ("", frozenset()))
            decided.extend(inbound.denial(workload, port, self.new.trust, mark))
        return decided, structure

    def _mark(self, workload: Workload, port: InboundPort, marks: dict[int, str]) -> str:
        """Return a TCP port's mark and note it; other ports have none."""
        if port.protocol is not Protocol.TCP:
            return ""
        place = (workload.key, port.number)
        grants = tcp_grants(workload.mode, port.rules)
        marks[port.number] = generation(grants, self.before.index.marks.get(place))
        self.marks[place] = (marks[port.number], grants)
        return marks[port.number]

    def _dials(self, workloads: frozenset[Key]) -> None:
        """Render the dialled Listeners of the workloads that changed or that see a changed Service."""
        for key in sorted(self.new.workloads) if self.doors else sorted(workloads):
            workload = self.new.workloads.get(key)
            if workload is None or not (workload.dial or dial_part(key) in self.before.parts):
                continue
            part = dial_part(key)
            try:
                self._dial(workload)
            except Exception as error:  # noqa: BLE001
                self._put(part, self.before.parts.get(part, ()), _failed(workload.origin, key, error))

    def _dial(self, workload: Workload) -> None:
        part = dial_part(workload.key)
        if not workload.dial:
            self._put(part, None)
            return
        old = self.old.workloads.get(workload.key)
        alike = frozenset(old.dial) if old is not None and old.identity == workload.identity else frozenset()
        if part in self.before.index.findings:
            alike = frozenset()  # something failed: what is there may be older than the last Mesh
        changed = {place for place in workload.dial if place not in alike or not self._looks_alike(workload, place[0])}
        if not changed and len(alike) == len(workload.dial):
            return
        before = self.before.parts.get(part, ())
        doors = (item for item in before if item.type_url == type_url(LISTENER))
        known = {item.name: item for item in doors}
        resources: list[Resource] = []
        found: list[Finding] = []
        for key, address in workload.dial:
            service = self.new.services.get(key)
            if service is None or not may_call(workload.identity, service):
                continue
            names = [outbound_name(key, port.number, port.protocol) for port in service.ports]
            kept = [known[name] for name in names if name in known]
            if (key, address) not in changed:
                resources.extend(kept)
                continue
            try:
                resources.extend(self.dialer.allowed(service, address))
            except Exception as error:  # noqa: BLE001
                resources.extend(kept)
                found.extend(_failed(service.origin, key, error))
        denied = self.dialer.denied(workload, self.new.services, alike - changed, before)
        self._put(part, (*denied, *resources), tuple(found))

    def _looks_alike(self, workload: Workload, service: Key) -> bool:
        """Tell whether a Service is the same as before to this workload."""
        if service not in self.doors:
            return True
        old, new = self.old.services.get(service), self.new.services.get(service)
        if old is None or new is None or not _same(old, new, "number", "protocol") or old.origin != new.origin:
            return False
        return may_call(workload.identity, old) == may_call(workload.identity, new)

    # -------------------------------------------------------------------------------------------- for everybody

    def _shared(self, services: frozenset[Key]) -> None:
        """Render what all proxies of a cluster see: the roots, and the Listener that catches redirected traffic."""
        if self.new.trust != self.old.trust or TRUST_PART not in self.before.parts:
            self._put(TRUST_PART, secrets.roots(self.new.trust))
        if CATCH_PART in self.before.index.findings or any(vip_part(key) in self.parts for key in services):
            self.virtual = has_virtual_addresses(self.new)
            if self.virtual != (CATCH_PART in self.before.parts):
                self.stale.update(self.new.workloads)
            try:
                self._put(CATCH_PART, self.dialer.catching(self.new.services) if self.virtual else None)
            except Exception as error:  # noqa: BLE001
                suspect = min((key for key in services if vip_part(key) in self.parts), default=("", ""))
                self._put(CATCH_PART, self.before.parts.get(CATCH_PART, ()), _failed(None, suspect, error))

    def _scopes(self) -> dict[Key, frozenset[Part] | None]:
        """Return the scopes that differ from before."""
        scopes: dict[Key, frozenset[Part] | None] = {}
        everybody = self._reached(self.open) if self.stale else frozenset()
        for key in self.stale:
            workload = self.new.workloads.get(key)
            scope = None if workload is None else self._scope(workload, everybody)
            if scope != self.before.scopes.get(key):
                scopes[key] = scope
        return scopes

    def _reached(self, services: AbstractSet[Key]) -> frozenset[Part]:
        """Return the parts that callers of these Services need."""
        edited, known = self.reach, self.before.index.reach
        reached = (edited[service] if service in edited else known[service] for service in services)
        return frozenset[Part]().union(*(parts for parts in reached if parts))

    def _scope(self, workload: Workload, everybody: frozenset[Part]) -> frozenset[Part]:
        """Return the parts that a proxy sees: its own, and those of the Services that it may call (security.md L3)."""
        scope: set[Part] = {TRUST_PART, inbound_part(workload.key), *everybody}
        if workload.dial:
            scope.add(dial_part(workload.key))
        elif self.virtual:
            scope.add(CATCH_PART)
        scope |= self._reached(self.named.of(workload.identity))
        if workload.dial:
            scope = {part for part in scope if part[0] != "vip"}
        return frozenset(scope)

    def _identities(self) -> dict[Key, str | None]:
        found: dict[Key, str | None] = {}
        for key in self.stale:
            workload = self.new.workloads.get(key)
            identity = None if workload is None else workload.identity
            if identity != self.before.identities.get(key):
                found[key] = identity
        return found

    def _put(self, part: Part, resources: tuple[Resource, ...] | None, found: tuple[Finding, ...] = ()) -> None:
        """Replace a part, unless it is as before; a resource that is as before stays the same object."""
        old = self.before.parts.get(part)
        if found != self.before.index.findings.get(part, ()):
            self.findings[part] = found
        if resources is not None and old is not None:
            known = {(item.type_url, item.name): item for item in old}
            resources = tuple(_kept(known.get((item.type_url, item.name)), item) for item in resources)
        if resources != old:
            self.parts[part] = resources


def _kept(old: Resource | None, new: Resource) -> Resource:
    return old if old is not None and (old is new or old == new) else new


def _edited(before: Mapping[_K, _V], edits: Mapping[_K, _V | None]) -> Mapping[_K, _V]:
    """Return the mapping with these entries replaced, or removed where None; itself if there are no edits."""
    if not edits:
        return before
    changes: dict[_K, _V] = {key: GONE if value is None else value for key, value in edits.items()}
    return edited(before, changes)


def _same(old: Service, new: Service, *fields: str) -> bool:
    """Tell whether the ports of two Services agree in these fields."""
    return len(old.ports) == len(new.ports) and all(
        getattr(one, field_name) == getattr(other, field_name)
        for one, other in zip(old.ports, new.ports, strict=True)
        for field_name in fields
    )


def _door(service: Service) -> tuple[object, ...]:
    """Return what a dialled Listener depends on."""
    return (tuple((port.number, port.protocol) for port in service.ports), service.callers, service.origin)


def _targets(service: Service) -> frozenset[Key]:
    """Return the other Services that a Service's routes lead to."""
    return frozenset(
        target.service
        for port in service.ports
        for route in port.routes
        for target in route.targets
        if target.service != service.key
    )


def _udp_routes_differ(old: Service, new: Service) -> bool:
    return any(
        one.protocol is Protocol.UDP and one.routes != other.routes
        for one, other in zip(old.ports, new.ports, strict=True)
    )


def _without_rules(service: Service) -> tuple[Resource, ...]:
    """Return a Service's plain routes, to its own endpoints; if even they can't be made, 503 (S1, design.md rule 6)."""
    plain = replace(
        service,
        ports=tuple(
            replace(port, routes=(Route((WeightedTarget(service.key, port.number, 1),)),)) for port in service.ports
        ),
    )
    try:
        return routes.outbound(plain)
    except Exception:  # noqa: BLE001
        return routes.unavailable(service)


def _failed(origin: Ref | None, key: Key, error: Exception) -> tuple[Finding, ...]:
    subject = origin or Ref("Service", *key)
    return (finding("SMI0606", subject, "", f"the Envoy backend failed with {type(error).__name__}: {error}"),)


def _unsupported(service: Service) -> tuple[Finding, ...]:
    """Return a finding for each split of UDP behind a virtual IP: nothing redirects datagrams to the proxy (U1)."""
    if not service.addresses:
        return ()
    origins: Iterable[Ref] = (
        route.origin
        for port in service.ports
        if port.protocol is Protocol.UDP
        for route in port.routes
        if route.origin is not None
    )
    message = f"UDP traffic to {'/'.join(service.key)} does not pass the proxy in a cluster, so it is not split"
    return tuple(finding("SMI0601", origin, "spec.backends", message) for origin in dict.fromkeys(origins))


def _udp_closed(workload: Workload) -> tuple[Finding, ...]:
    """Return a finding for UDP ports that stay closed: a datagram proves no identity, so no rule can open them (U1)."""
    udp = [port.number for port in workload.ports if port.protocol is Protocol.UDP]
    if not udp or not workload.direct or workload.origin is None or inbound.open_udp_ports(workload):
        return ()
    message = f"UDP port {', '.join(map(str, udp))} is closed: Envoy cannot tell who sends a datagram"
    return (finding("SMI0601", workload.origin, "spec.containers.ports", message),)
