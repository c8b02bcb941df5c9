"""What the oracle reads out of plain manifests: which objects there are, and what Kubernetes says about them.

Nothing here is about SMI's meaning; `evaluator.py` decides that. Every reader takes what `yaml.safe_load` may give,
of whatever type, and answers a wrong shape with nothing rather than with an exception.
"""

import datetime as dt
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from typing import Any

Manifest = Mapping[str, Any]

SPLIT, SPECS, ACCESS = "split.smi-spec.io", "specs.smi-spec.io", "access.smi-spec.io"
_EVERY_VERSION = frozenset({"v1alpha1", "v1alpha2", "v1alpha3", "v1alpha4"})
KINDS: Mapping[tuple[str, str], frozenset[str]] = {
    ("", "Namespace"): frozenset({"v1"}),
    ("", "Service"): frozenset({"v1"}),
    ("", "Pod"): frozenset({"v1"}),
    ("discovery.k8s.io", "EndpointSlice"): frozenset({"v1"}),
    (SPLIT, "TrafficSplit"): _EVERY_VERSION,
    (SPECS, "HTTPRouteGroup"): _EVERY_VERSION,
    (SPECS, "TCPRoute"): _EVERY_VERSION,
    (SPECS, "UDPRoute"): frozenset({"v1alpha4"}),
    (ACCESS, "TrafficTarget"): _EVERY_VERSION,
    (ACCESS, "IdentityBinding"): frozenset({"v1alpha4"}),
}
HTTP_PROTOCOLS = frozenset({"http", "http2", "grpc", "kubernetes.io/h2c", "kubernetes.io/ws"})
TCP_NAMES = frozenset({"tcp", "tls", "https", "mysql", "mongo", "redis", "postgres", "amqp", "kafka", "smtp"})


class Inventory:
    """The objects by kind, namespace and name, and the questions that Kubernetes itself answers about them."""

    def __init__(self, objects: Iterable[Manifest]) -> None:
        """Keep what is of a known kind and version; anything else is no part of the world."""
        self.by_kind: dict[str, dict[tuple[str, str], Manifest]] = {kind: {} for _, kind in KINDS}
        for thing in objects:
            group, _, version = str(thing.get("apiVersion", "")).rpartition("/")
            if version in KINDS.get((group, str(thing.get("kind"))), frozenset()):
                self.by_kind[thing["kind"]][namespace_of(thing), name_of(thing)] = thing

    def all(self, kind: str, namespace: str) -> Iterator[Manifest]:
        """List one kind in one namespace, by name."""
        return (thing for (ns, _), thing in sorted(self.by_kind[kind].items()) if ns == namespace)

    def get(self, kind: str, namespace: str, name: Any) -> Manifest | None:
        """Find one object; a name that is no text finds nothing."""
        return self.by_kind[kind].get((namespace, name)) if isinstance(name, str) else None

    def namespaces(self) -> set[str]:
        """Name every namespace that holds anything."""
        return {namespace for things in self.by_kind.values() for namespace, _ in things}

    def annotation(self, namespace: str, name: str) -> Any:
        """Read an annotation of a Namespace object."""
        return mapping(metadata(self.get("Namespace", namespace, namespace)).get("annotations")).get(name)

    def service(self, namespace: str, name: str) -> Manifest | None:
        """Find a Service; an ExternalName leads out of the mesh and counts as missing."""
        found = self.get("Service", namespace, name)
        return None if spec(found).get("type") == "ExternalName" else found

    def port(self, namespace: str, name: str, number: int) -> Manifest | None:
        """Find a Service's TCP port by number."""
        return next((p for p in tcp_ports(self.service(namespace, name)) if p.get("port") == number), None)

    def selects(self, service: Manifest, pod: Manifest) -> bool:
        """Say whether a pod is one of the Service's own, ready or not; hand-written EndpointSlices go first."""
        if slices := self._slices(service):
            return any(_is_endpoint(entry, pod) for part in slices for entry in items(part.get("endpoints")))
        selector = mapping(spec(service).get("selector"))
        same_namespace = namespace_of(service) == namespace_of(pod)
        return bool(selector) and same_namespace and selector.items() <= labels(pod).items()

    def endpoints(self, namespace: str, name: str, number: int) -> list[tuple[Manifest, int]]:
        """List the ready pods of a Service, each with the container port that this Service port means on it."""
        service, port = self.service(namespace, name), self.port(namespace, name, number)
        if service is None or port is None:
            return []
        pods = [pod for pod in self.all("Pod", namespace) if self.selects(service, pod) and self._ready(service, pod)]
        found = [(pod, container_port(port, pod)) for pod in pods]
        return [(pod, resolved) for pod, resolved in found if resolved is not None]

    def ports_of(self, pod: Manifest) -> dict[int, bool]:
        """Map the pod's container ports to "speaks HTTP", as its Services say, else as its own port names say."""
        said: dict[int, bool] = {}
        for service in self.all("Service", namespace_of(pod)):
            for port in tcp_ports(service) if self.selects(service, pod) else ():
                resolved = container_port(port, pod)
                if resolved is not None:
                    said[resolved] = said.get(resolved, True) and speaks_http(port)
        return {port["containerPort"]: speaks_http(port) for port in container_ports(pod)} | said

    def _slices(self, service: Manifest) -> list[Manifest]:
        slices = self.all("EndpointSlice", namespace_of(service))
        return [part for part in slices if labels(part).get("kubernetes.io/service-name") == name_of(service)]

    def _ready(self, service: Manifest, pod: Manifest) -> bool:
        if slices := self._slices(service):
            entries = [entry for part in slices for entry in items(part.get("endpoints")) if _is_endpoint(entry, pod)]
            return any(mapping(entry.get("conditions")).get("ready") is not False for entry in entries)
        status = mapping(pod.get("status"))
        conditions = items(status.get("conditions"))
        unready = any(c.get("type") == "Ready" and c.get("status") != "True" for c in conditions)
        gone = metadata(pod).get("deletionTimestamp") or status.get("phase") in {"Failed", "Succeeded"}
        return not gone and not unready


def speaks_http(port: Manifest) -> bool:
    """Tell HTTP from opaque TCP: `appProtocol` decides, then the port's name, and what says nothing is HTTP."""
    if protocol := port.get("appProtocol"):
        return protocol in HTTP_PROTOCOLS
    return str(port.get("name") or "").partition("-")[0] not in TCP_NAMES


def container_port(port: Manifest, pod: Manifest) -> int | None:
    """Resolve `targetPort` on one pod: a number, a container port's name, or the Service port itself."""
    wanted = port.get("targetPort", port.get("port"))
    if isinstance(wanted, int):
        return wanted
    return next((p["containerPort"] for p in container_ports(pod) if p.get("name") == wanted), None)


def selected_by(selector: Manifest, thing: Manifest) -> bool:
    """Apply a label selector; an empty one selects nobody (B5), and so does an operator that does not exist."""
    own, equal = labels(thing), mapping(selector.get("matchLabels"))
    expressions = items(selector.get("matchExpressions"))
    if not equal and not expressions:
        return False
    for expression in expressions:
        value, values = own.get(str(expression.get("key"))), sequence(expression.get("values"))
        holds = {
            "In": value in values,
            "NotIn": value not in values,
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }
        if not holds.get(str(expression.get("operator")), False):
            return False
    return equal.items() <= own.items()


def quantity(text: str) -> Fraction | None:
    """Read a Kubernetes quantity as whole milli-units, rounded up as Kubernetes does; None for anything else."""
    parsed = re.fullmatch(r"\+?(\d+\.?\d*|\.\d+)(?:([eE][+-]?\d{1,3})|([numkMGTPE]|[KMGTPE]i)?)", text)
    if parsed is None:
        return None
    number, exponent, suffix = parsed.groups()
    scale = Fraction(f"1{exponent or ''}")
    if suffix and suffix.endswith("i"):
        scale = Fraction(1024) ** ("KMGTPE".index(suffix[0]) + 1)
    elif suffix:
        scale = Fraction(1000) ** ("num kMGTPE".index(suffix) - 3)
    return Fraction(math.ceil(Fraction(number) * scale * 1000))


def field(thing: Manifest, name: str, old_name: str | None = None) -> Any:
    """Find a field by shape: below `spec` or at the top; where both are there, the version's own place counts."""
    below, above = spec(thing).get(name), thing.get(old_name or name)
    if version_of(thing) in {"v1alpha1", "v1alpha2"}:
        return above if above is not None else below
    return below if below is not None else above


def age(thing: Manifest) -> tuple[bool, float]:
    """Order by `creationTimestamp`, oldest first; an object without one comes after all that have one."""
    created = metadata(thing).get("creationTimestamp")
    if isinstance(created, str):
        created = dt.datetime.fromisoformat(created)
    return (False, created.timestamp()) if isinstance(created, dt.datetime) else (True, 0.0)


def tcp_ports(service: Manifest | None) -> list[Manifest]:
    """List a Service's ports that carry TCP; R9 keeps UDP apart."""
    return [port for port in items(spec(service).get("ports")) if port.get("protocol", "TCP") == "TCP"]


def container_ports(pod: Manifest) -> list[Manifest]:
    """List the TCP ports that the pod's containers declare."""
    ports = [port for container in items(spec(pod).get("containers")) for port in items(container.get("ports"))]
    return [port for port in ports if port.get("protocol", "TCP") == "TCP"]


def account_of(pod: Manifest) -> str:
    """Name the pod's ServiceAccount."""
    return str(spec(pod).get("serviceAccountName") or "default")


def labels(thing: Manifest) -> Manifest:
    """Read an object's labels."""
    return mapping(metadata(thing).get("labels"))


def name_of(thing: Manifest) -> str:
    """Read an object's name."""
    return str(metadata(thing).get("name"))


def namespace_of(thing: Manifest) -> str:
    """Read an object's namespace; a Namespace object is indexed as if it lay in itself."""
    return name_of(thing) if thing.get("kind") == "Namespace" else str(metadata(thing).get("namespace") or "default")


def version_of(thing: Manifest) -> str:
    """Read the version out of `apiVersion`."""
    return str(thing.get("apiVersion", "")).rpartition("/")[2]


def metadata(thing: Manifest | None) -> Manifest:
    """Read `metadata`, or nothing."""
    return mapping(mapping(thing).get("metadata"))


def spec(thing: Manifest | None) -> Manifest:
    """Read `spec`, or nothing."""
    return mapping(mapping(thing).get("spec"))


def mapping(value: Any) -> Manifest:
    """Take a mapping as it is and anything else as an empty one."""
    return value if isinstance(value, Mapping) else {}


def items(value: Any) -> list[Manifest]:
    """Take the mappings of a list."""
    return [item for item in sequence(value) if isinstance(item, Mapping)]


def sequence(value: Any) -> list[Any]:
    """Take a list as it is and anything else as an empty one."""
    return value if isinstance(value, list) else []


def _is_endpoint(entry: Manifest, pod: Manifest) -> bool:
    reference = mapping(entry.get("targetRef"))
    if not reference:
        return mapping(pod.get("status")).get("podIP") in sequence(entry.get("addresses"))
    referred = reference.get("namespace", namespace_of(pod)), reference.get("name")
    return referred == (namespace_of(pod), name_of(pod))
