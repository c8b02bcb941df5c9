"""Small worlds for tests: a Snapshot from a few words, without YAML, and questions to ask it.

`World` collects objects; `snapshot()` adds what Kubernetes' controllers would (EndpointSlices from Services and pods).
Everything is in namespace `default` unless it says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from types import MappingProxyType
from typing import Any

from smi_adapter.evaluate import Request, Verdict, evaluate
from smi_adapter.findings import Finding
from smi_adapter.mesh import Mesh
from smi_adapter.smi.objects import (
    HTTPMatch,
    HTTPRouteGroup,
    IdentityBinding,
    IdentitySubject,
    Key,
    LabelSelector,
    Meta,
    SplitBackend,
    TCPRoute,
    TrafficSplit,
    TrafficTarget,
    TrafficTargetRule,
    UDPRoute,
)
from smi_adapter.snapshot import (
    MODE_ANNOTATION,
    ContainerPort,
    EndpointSlice,
    Namespace,
    Options,
    Pod,
    Service,
    ServicePort,
    SliceEndpoint,
    SlicePort,
    Snapshot,
)
from smi_adapter.translate import Translation, translate
from smi_adapter.translate.ports import selects, target_number

NS = "default"

Port = int | ServicePort


def meta(name: str, namespace: str = NS, *, created: str = "", **labels: str) -> Meta:
    return Meta(namespace, name, created=created, labels=MappingProxyType(labels))


def subject(text: str | IdentitySubject) -> IdentitySubject:
    """Read `name`, `ns/name`, `binding:name` and `binding:ns/name`."""
    if isinstance(text, IdentitySubject):
        return text
    kind = "IdentityBinding" if text.startswith("binding:") else "ServiceAccount"
    namespace, _, name = text.removeprefix("binding:").rpartition("/")
    return IdentitySubject(kind, name, namespace)


def rule(text: str | TrafficTargetRule) -> TrafficTargetRule:
    """Read `http:group`, `http:group/match,match`, `tcp:route`, `udp:route`."""
    if isinstance(text, TrafficTargetRule):
        return text
    kind, _, rest = text.partition(":")
    name, _, matches = rest.partition("/")
    kinds = {"http": "HTTPRouteGroup", "tcp": "TCPRoute", "udp": "UDPRoute"}
    return TrafficTargetRule(kinds.get(kind, kind), name, tuple(matches.split(",")) if matches else ())


def account_of(text: str, domain: str = "cluster.local") -> str:
    namespace, _, name = text.rpartition("/")
    return f"spiffe://{domain}/ns/{namespace or NS}/sa/{name}"


@dataclass
class World:
    """A world under construction; each method adds an object and returns the world."""

    namespaces: dict[str, Namespace] = field(default_factory=dict)
    services: dict[Key, Service] = field(default_factory=dict)
    slices: dict[Key, EndpointSlice] = field(default_factory=dict)
    pods: dict[Key, Pod] = field(default_factory=dict)
    accounts: set[Key] = field(default_factory=set)
    splits: dict[Key, TrafficSplit] = field(default_factory=dict)
    groups: dict[Key, HTTPRouteGroup] = field(default_factory=dict)
    tcp_routes: dict[Key, TCPRoute] = field(default_factory=dict)
    udp_routes: dict[Key, UDPRoute] = field(default_factory=dict)
    targets: dict[Key, TrafficTarget] = field(default_factory=dict)
    bindings: dict[Key, IdentityBinding] = field(default_factory=dict)

    def namespace(self, name: str, mode: str | None = None) -> World:
        self.namespaces[name] = Namespace(name, annotations={MODE_ANNOTATION: mode} if mode else {})
        return self

    def service(
        self, name: str, *ports: Port, ns: str = NS, selector: Mapping[str, str] | None = None, **other: Any
    ) -> World:
        """Add a Service; it selects `app: <name>` and has port 80 -> 8080 unless told otherwise."""
        made = tuple(ServicePort(port, target=8080) if isinstance(port, int) else port for port in ports or (80,))
        chosen = {"app": name} if selector is None else dict(selector)
        self.services[ns, name] = Service(meta(name, ns), made, chosen, **other)
        return self

    def app(
        self,
        name: str,
        *ports: ContainerPort | int,
        ns: str = NS,
        sa: str = "",
        labels: Mapping[str, str] | None = None,
        replicas: int = 1,
        **other: Any,
    ) -> World:
        """Add the pods of a Deployment, labelled `app: <name>`, running as a ServiceAccount of the same name."""
        made = tuple(ContainerPort(port) if isinstance(port, int) else port for port in ports)
        for index in range(replicas):
            pod = f"{name}-{index}"
            number = len(self.pods) + 1
            values = {"service_account": sa or name, "address": f"10.0.{number // 250}.{number % 250 + 1}", **other}
            labelled = meta(pod, ns, **(labels if labels is not None else {"app": name}))
            self.pods[ns, pod] = Pod(labelled, name, ports=made, **values)
        self.accounts.add((ns, sa or name))
        return self

    def split(
        self,
        name: str,
        root: str,
        backends: Mapping[str, int | float | None] | tuple[tuple[str, int | float | None], ...],
        *,
        ns: str = NS,
        matches: tuple[str, ...] = (),
        created: str = "",
        unknown: tuple[str, ...] = (),
    ) -> World:
        """Add a TrafficSplit; weights are whole numbers or fractions of one, as v1alpha1 can have them."""
        pairs = backends.items() if isinstance(backends, Mapping) else backends
        made = tuple(SplitBackend(name, None if weight is None else round(weight * 1000)) for name, weight in pairs)
        self.splits[ns, name] = TrafficSplit(meta(name, ns, created=created), root, made, matches, unknown)
        return self

    def group(self, name: str, *matches: HTTPMatch, ns: str = NS) -> World:
        self.groups[ns, name] = HTTPRouteGroup(meta(name, ns), matches)
        return self

    def tcp(self, name: str, *ports: int, ns: str = NS) -> World:
        self.tcp_routes[ns, name] = TCPRoute(meta(name, ns), ports)
        return self

    def udp(self, name: str, *ports: int, ns: str = NS) -> World:
        self.udp_routes[ns, name] = UDPRoute(meta(name, ns), ports)
        return self

    def target(
        self,
        name: str,
        to: str | IdentitySubject,
        rules: tuple[str | TrafficTargetRule, ...],
        sources: tuple[str | IdentitySubject, ...],
        *,
        ns: str = NS,
        port: int | None = None,
    ) -> World:
        made = TrafficTarget(meta(name, ns), subject(to), tuple(map(rule, rules)), tuple(map(subject, sources)), port)
        self.targets[ns, name] = made
        return self

    def binding(
        self,
        name: str,
        *,
        ns: str = NS,
        sa: str | None = None,
        pods: Mapping[str, str] | LabelSelector | None = None,
        spiffe: tuple[str, ...] = (),
    ) -> World:
        selector = LabelSelector(tuple(sorted(pods.items()))) if isinstance(pods, Mapping) else pods
        self.bindings[ns, name] = IdentityBinding(meta(name, ns), sa, selector, spiffe)
        return self

    def snapshot(self, *, reverse: bool = False) -> Snapshot:
        """Return the world as a Snapshot; `reverse` builds every table the other way round."""

        def table(items: Mapping[Any, Any]) -> dict[Any, Any]:
            return dict(reversed(items.items())) if reverse else dict(items)  # type: ignore[call-overload]

        slices = {key: made for key, service in self.services.items() if (made := slice_of(service, self.pods))}
        return Snapshot(
            namespaces=table(self.namespaces),
            services=table(self.services),
            slices=table({**slices, **self.slices}),
            pods=table(self.pods),
            service_accounts=frozenset(self.accounts),
            splits=table(self.splits),
            route_groups=table(self.groups),
            tcp_routes=table(self.tcp_routes),
            udp_routes=table(self.udp_routes),
            targets=table(self.targets),
            bindings=table(self.bindings),
        )

    def translate(self, **options: Any) -> Translation:
        return translate(self.snapshot(), Options(**options))

    def mesh(self, **options: Any) -> Mesh:
        return self.translate(**options).mesh

    def findings(self, code: str, **options: Any) -> list[Finding]:
        return [item for item in self.translate(**options).findings if item.code == code]

    def codes(self, **options: Any) -> list[str]:
        return sorted({item.code for item in self.translate(**options).findings})

    def ask(self, source: str, service: str, method: str = "GET", path: str = "/", **other: Any) -> Verdict:
        """Ask for one request: `source` is `sa` or `ns/sa` ("" for nobody), `service` is `[ns/]name[:port]`."""
        name, _, port = service.partition(":")
        namespace, _, name = name.rpartition("/")
        options = other.pop("options", {})
        headers = tuple(other.pop("headers", {}).items())
        request = Request(
            account_of(source) if source else "",
            (namespace or NS, name),
            int(port or 80),
            method,
            path,
            headers,
            **other,
        )
        return evaluate(self.mesh(**options), request)


def slice_of(service: Service, pods: Mapping[Key, Pod]) -> EndpointSlice | None:
    """Do what the EndpointSlice controller does, for pods that agree about named ports."""
    chosen = [pod for _, pod in sorted(pods.items()) if pod.meta.namespace == service.meta.namespace]
    chosen = [pod for pod in chosen if selects(service, pod.meta.labels)]
    if not chosen:
        return None
    ports = [(port, target_number(port, chosen[0])) for port in service.ports]
    return EndpointSlice(
        meta(service.meta.name, service.meta.namespace),
        service.meta.name,
        tuple(SlicePort(port.name, number, port.protocol) for port, number in ports if number),
        tuple(SliceEndpoint(pod.address, pod.ready, pod.meta.name) for pod in chosen if pod.address),
    )


def shares(verdict: Verdict) -> dict[str | int, Fraction]:
    """Return what share of the requests each Service gets, or each status."""
    found: dict[str | int, Fraction] = {}
    for arm in verdict.arms:
        name: str | int = arm.status or (arm.service or "").removeprefix(f"{NS}/")
        found[name] = found.get(name, Fraction(0)) + arm.share
    return found


def bookstore() -> World:
    """Two versions of a bookstore behind one root, everybody may GET everything; callers `buyer` and `thief`."""
    world = World().namespace(NS)
    world.service("bookstore")
    for version in ("v1", "v2"):
        world.service(f"bookstore-{version}", selector={"app": "bookstore", "version": version})
        world.app(f"bookstore-{version}", 8080, sa="bookstore", labels={"app": "bookstore", "version": version})
    world.app("buyer").app("thief")
    world.group("everything", HTTPMatch("everything", ".*", ("*",)))
    return world.target("bookstore", "bookstore", ("http:everything",), ("buyer",))
