"""Decides what one request meets in a world of manifests, from the rows of the semantics and from nothing else.

This is the oracle: it reads plain manifests as `yaml.safe_load` gives them, shares no code with the product, and knows
nothing of proxies but how they normalise a path (`paths.py`). It is written as a direct walk, request by request, where
the product compiles whole worlds, so that the two have no reason to be wrong in the same place. Rows are cited as S5,
R10 and so on; where the rows leave a choice, README.md beside this file lists what was chosen.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import re2

from tests.oracle import paths
from tests.oracle.inventory import (
    ACCESS,
    Inventory,
    Manifest,
    account_of,
    age,
    container_port,
    field,
    items,
    mapping,
    name_of,
    namespace_of,
    quantity,
    selected_by,
    sequence,
    speaks_http,
    spec,
    tcp_ports,
    version_of,
)

Profile = Literal["spec", "osm", "traefik", "nsm"]
Mode = Literal["enforce", "audit", "permissive"]
MODE_ANNOTATION = "smi-adapter.io/access-mode"
REGEX_BYTES, REGEX_PROGRAM = 1024, 1024


@dataclass(frozen=True, slots=True)
class Options:
    """What the installation chose: a semantics profile, the mesh's access mode, and who it is."""

    profile: Profile = "spec"
    mode: Mode = "enforce"
    trust_domain: str = "cluster.local"


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, or one TCP connection, from a pod (namespace, account, name) to a Service's port."""

    source: tuple[str, str, str]
    to: tuple[str, str]
    port: int
    protocol: Literal["http", "tcp"] = "http"
    method: str = "GET"
    path: str = "/"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the client sees: the pod that answered, or the proxy's status, or a closed connection."""

    served_by: str | None = None
    status: int | None = None
    closed: bool = False

    def __str__(self) -> str:
        return f"served by {self.served_by}" if self.served_by else f"status {self.status}" if self.status else "closed"


CLOSED = Outcome(closed=True)


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcomes that may be seen, each with its exact share of requests; the shares add up to 1."""

    shares: Mapping[Outcome, Fraction]

    @property
    def outcomes(self) -> frozenset[Outcome]:
        return frozenset(self.shares)


def decide(objects: Iterable[Manifest], request: Request, options: Options | None = None) -> Decision:
    """Say what the request meets in these manifests."""
    return answer(World(objects, options or Options()), request)


def answer(world: "World", request: Request) -> Decision:
    """Walk with the request: first the caller's own proxy, then the split, then the server's access rules."""
    namespace, root = request.to
    port = world.port(namespace, root, request.port)
    if port is None:
        return Decision({CLOSED: Fraction(1)})
    http = speaks_http(port)
    denied, unavailable = (Outcome(status=403), Outcome(status=503)) if http else (CLOSED, CLOSED)
    here = paths.forwarded(request.path)
    there = None if here is None else paths.forwarded(here)
    if http and (there is None or request.protocol == "tcp" or any("_" in name for name, _ in request.headers)):
        return Decision({Outcome(status=400): Fraction(1)})
    if world.mode(namespace) == "enforce" and not world.may_call_any(request.source, namespace, root):
        return Decision({denied: Fraction(1)})
    shares: dict[Outcome, Fraction] = {}
    for backend, share in world.arms(request, here if http else None):
        endpoints = world.endpoints(namespace, backend, request.port) if backend else []
        if not endpoints:
            shares[unavailable] = shares.get(unavailable, Fraction(0)) + share
        for pod, container in endpoints:
            allowed = world.allowed(request, pod, container, there or "/")
            outcome = Outcome(served_by=name_of(pod)) if allowed else denied
            shares[outcome] = shares.get(outcome, Fraction(0)) + share / len(endpoints)
    return Decision(shares)


@dataclass(frozen=True, slots=True)
class Match:
    """One entry of an HTTPRouteGroup that may be used: a refused one (R4, R7) never becomes a Match."""

    profile: Profile
    path: Any = None
    methods: frozenset[str] | None = None
    headers: tuple[tuple[str, Any], ...] = ()

    def __call__(self, request: Request, target: str) -> bool:
        """Path, method and every header filter must agree (R1, R5, R6, R8); an absent header agrees with none (R7)."""
        text = paths.text_of(target).encode("latin-1")
        if self.path is not None and not (self.path.fullmatch if self.profile == "osm" else self.path.match)(text):
            return False
        if self.methods is not None and request.method not in self.methods:
            return False
        sent = [(name.lower(), value.strip(" \t").encode("latin-1")) for name, value in request.headers]
        return all(any(name == n and self._agrees(regex, v) for n, v in sent) for name, regex in self.headers)

    def _agrees(self, regex: Any, value: bytes) -> bool:
        """Match the whole value, or search where that is what people come from (R3)."""
        return bool(regex.search(value) if self.profile in {"traefik", "nsm"} else regex.fullmatch(value))


@dataclass(frozen=True, slots=True)
class Target:
    """A TrafficTarget that may grant something: to whom, on which pods, and what; None means "not restricted"."""

    destination: tuple[Manifest, ...]
    sources: tuple[tuple[Manifest, Any], ...]
    limit: tuple[int, ...] | None
    http: tuple[Match, ...] | None
    tcp: tuple[tuple[int, ...] | None, ...] | None


class World(Inventory):
    """The manifests and what SMI makes of them, one method for each question."""

    def __init__(self, objects: Iterable[Manifest], options: Options) -> None:
        super().__init__(objects)
        self.options = options
        self._read: dict[str, list[Target]] = {}

    def mode(self, namespace: str) -> str:
        """Read T1's mode where the request is served; a value that is none of the three enforces."""
        annotated = self.annotation(namespace, MODE_ANNOTATION)
        mode = self.options.mode if annotated is None else annotated
        return mode if mode in {"enforce", "audit", "permissive"} else "enforce"

    # ------------------------------------------------------------------------------------- TrafficSplit

    def splits(self, namespace: str, root: str) -> list[Manifest]:
        """List the splits of this root in the order in which they are asked (S14); one without backends is none."""
        found = [split for split in self.all("TrafficSplit", namespace) if self._root(split) == root]
        usable = [split for split in found if items(spec(split).get("backends"))]
        return sorted(usable, key=lambda split: (not _is_narrowed(split), *age(split), name_of(split)))

    def arms(self, request: Request, target: str | None) -> list[tuple[str | None, Fraction]]:
        """Choose among backends, shares adding up to 1; None stands for "nobody is left" (S4, S5, S7)."""
        namespace, root = request.to
        for split in self.splits(namespace, root):
            groups = items(spec(split).get("matches"))
            if _is_narrowed(split) and not any(self._steers(namespace, entry, request, target) for entry in groups):
                continue
            weights: dict[str, Fraction] = {}
            for entry in items(spec(split).get("backends")):
                backend = _local(entry.get("service"), namespace)
                weight = _weight(version_of(split), entry.get("weight"))
                if backend and weight and self.port(namespace, backend, request.port):
                    weights[backend] = weights.get(backend, Fraction(0)) + weight
            total = sum(weights.values())
            return [(backend, weight / total) for backend, weight in weights.items()] or [(None, Fraction(1))]
        return [(root, Fraction(1))]

    def behind(self, namespace: str, root: str) -> list[Manifest]:
        """List the pods that the root's own selector or that of any backend of its splits selects, ready or not."""
        backends = [entry for split in self.splits(namespace, root) for entry in items(spec(split).get("backends"))]
        names = {root, *(_local(entry.get("service"), namespace) or root for entry in backends)}
        services = [service for name in names if (service := self.service(namespace, name))]
        return [pod for pod in self.all("Pod", namespace) if any(self.selects(service, pod) for service in services)]

    def _steers(self, namespace: str, reference: Manifest, request: Request, target: str | None) -> bool:
        """Ask the split's own namespace for the group; a missing one matches nothing, nor does TCP (S15, S16)."""
        if target is None or reference.get("kind") != "HTTPRouteGroup":
            return False
        group = self.group(namespace, reference.get("name")) or ()
        return any(match is not None and match(request, target) for _, match in group)

    def _root(self, split: Manifest) -> str | None:
        """Resolve `spec.service`: a name, one of this namespace, or a foreign host of the Service named alike (S18)."""
        text, namespace = spec(split).get("service"), namespace_of(split)
        if not isinstance(text, str) or (local := _local(text, namespace)):
            return local if isinstance(text, str) else None
        domain = text.partition(".")[2]
        if domain in self.namespaces() or domain.endswith((".svc", ".svc.cluster.local")):
            return None
        return name_of(split) if self.service(namespace, name_of(split)) else None

    # ------------------------------------------------------------------------------------------- routes

    def group(self, namespace: str, name: Any) -> list[tuple[Any, Match | None]] | None:
        """Read an HTTPRouteGroup; None for a missing one, and None in place of each match that is refused."""
        found = self.get("HTTPRouteGroup", namespace, name)
        if found is None:
            return None
        return [(raw.get("name"), self._match(raw)) for raw in items(field(found, "matches"))]

    def _match(self, raw: Manifest) -> Match | None:
        path = compiled(raw["pathRegex"]) if raw.get("pathRegex") is not None else None
        methods, headers = raw.get("methods") or [], raw.get("headers") or []
        entries = headers if isinstance(headers, list) else [headers]
        if not isinstance(methods, list) or not all(isinstance(entry, Mapping) for entry in entries):
            return None
        filters = [(str(name).lower(), compiled(regex)) for entry in entries for name, regex in entry.items()]
        if (path is None and raw.get("pathRegex") is not None) or not all(_usable(*entry) for entry in filters):
            return None
        if any(method != "*" and str(method) != str(method).upper() for method in methods):
            return None  # the schema asks for capitals, as HTTP's own methods are (R5)
        wanted = None if not methods or "*" in methods else frozenset(map(str, methods))
        return Match(self.options.profile, path, wanted, tuple(filters))

    def _ports(self, route: Manifest) -> tuple[int, ...] | None:
        """Read a TCPRoute's ports: None for every port (R9); an impossible number opens nothing (R11)."""
        matches = field(route, "matches")
        ports = mapping(matches).get("ports")
        if matches is None or (isinstance(matches, Mapping) and (ports is None or ports == [])):
            return None
        return tuple(number for number in sequence(ports) if _valid_port(number))

    # ------------------------------------------------------------------------------------------- access

    def allowed(self, request: Request, pod: Manifest, container: int, target: str) -> bool:
        """Decide where the request is served, and only there (S23): the union of what all targets grant (T2)."""
        if self.mode(namespace_of(pod)) != "enforce":
            return True
        http = self.ports_of(pod).get(container, True)
        return any(
            match(request, target)
            for found in self._targets(pod, request.source)
            for match in self._granted(found, pod, container, http)
        )

    def may_call_any(self, caller: tuple[str, str, str], namespace: str, root: str) -> bool:
        """Say whether any workload behind the root grants the caller anything at all, on any port.

        Where there is no workload there is nobody to refuse: the caller gets an honest 503.
        """
        pods = self.behind(namespace, root)
        return not pods or any(
            self._granted(found, pod, container, http)
            for pod in pods
            for found in self._targets(pod, caller)
            for container, http in self.ports_of(pod).items()
        )

    def _targets(self, pod: Manifest, caller: tuple[str, str, str]) -> Iterator[Target]:
        """List the targets that lead from the caller to the pod; only those of the pod's own namespace may (T11)."""
        namespace = namespace_of(pod)
        if namespace not in self._read:
            read = map(self._target, self.all("TrafficTarget", namespace))
            self._read[namespace] = [found for found in read if found is not None]
        for found in self._read[namespace]:
            if not any(pod is chosen for chosen in found.destination):
                continue
            if any(self._is_source(subject, home, caller) for subject, home in found.sources):
                yield found

    def _target(self, thing: Manifest) -> Target | None:
        """Read a TrafficTarget of any version, or None where it grants nothing (T8, T9, T10, T11)."""
        namespace = namespace_of(thing)
        subject = mapping(field(thing, "destination"))
        rules, sources = items(field(thing, "rules", "specs")), items(field(thing, "sources"))
        if (subject.get("namespace") or namespace) != namespace or not rules or not sources:
            return None
        http = [rule for rule in rules if rule.get("kind") == "HTTPRouteGroup"]
        tcp = [rule for rule in rules if rule.get("kind") == "TCPRoute"]
        routes = [self.get("TCPRoute", namespace, rule.get("name")) for rule in tcp]
        if http and None in routes:
            return None
        port = subject.get("port")
        return Target(
            tuple(pod for pod in self.all("Pod", namespace) if self._is_destination(subject, pod)),
            tuple((source, source.get("namespace") or namespace) for source in sources),
            None if port is None else tuple(number for number in [port] if _valid_port(number)),
            tuple(match for rule in http for match in self._rule(namespace, rule)) if http else None,
            tuple(self._ports(route) for route in routes if route is not None) if tcp else None,
        )

    def _rule(self, namespace: str, rule: Manifest) -> list[Match]:
        """Read one HTTP rule: all matches of the group, or the named ones; an unknown name voids the rule (T6, T7)."""
        known = self.group(namespace, rule.get("name")) or []
        names = [name for name, _ in known]
        wanted = rule.get("matches") or names
        if not isinstance(wanted, list) or any(name not in names for name in wanted):
            return []
        return [match for name, match in known if name in wanted and match is not None]

    def _granted(self, target: Target, pod: Manifest, container: int, http: bool) -> tuple[Match, ...]:
        """List what the target opens on one container port: port AND match within a target (T3, T4, T5)."""
        if target.limit is not None and not self._means(target, target.limit, pod, container):
            return ()
        opened = any(ports is None or self._means(target, ports, pod, container) for ports in target.tcp or ())
        if target.http is not None:
            return target.http if http and (target.tcp is None or opened) else ()
        return (Match(self.options.profile),) if opened and not (http and self.options.profile == "osm") else ()

    def _means(self, target: Target, numbers: Iterable[int], pod: Manifest, container: int) -> bool:
        """Translate written numbers: a Service port means its target port, an unknown one itself (R10)."""
        if self.options.profile in {"osm", "traefik"}:
            return container in numbers
        for number in numbers:
            named = [
                (service, port)
                for service in self.all("Service", namespace_of(pod))
                for port in tcp_ports(service)
                if port.get("port") == number and any(self.selects(service, other) for other in target.destination)
            ]
            meant = {container_port(port, pod) for service, port in named if self.selects(service, pod)}
            if container in (meant if named else {number}):
                return True
        return False

    # --------------------------------------------------------------------------------------- identities

    def _is_source(self, subject: Manifest, namespace: Any, caller: tuple[str, str, str]) -> bool:
        """Compare the caller's identity, and its pod where a selector narrows to pods (T12, B3)."""
        if namespace != caller[0]:
            return False
        if subject.get("kind") == "ServiceAccount":
            return bool(subject.get("name") == caller[1])
        selector, accounts = self._binding(subject, namespace)
        pod = self.get("Pod", namespace, caller[2])
        selected = pod is not None and account_of(pod) == caller[1] and selected_by(selector, pod)
        return caller[1] in accounts or selected

    def _is_destination(self, subject: Manifest, pod: Manifest) -> bool:
        if subject.get("kind") == "ServiceAccount":
            return bool(subject.get("name") == account_of(pod))
        selector, accounts = self._binding(subject, namespace_of(pod))
        return account_of(pod) in accounts or selected_by(selector, pod)

    def _binding(self, subject: Manifest, namespace: str) -> tuple[Manifest, set[str]]:
        """Read an IdentityBinding as a selector and accounts, both of its own namespace only (T16, B1-B5)."""
        found = self.get("IdentityBinding", namespace, subject.get("name"))
        if found is None or subject.get("kind") != "IdentityBinding" or subject.get("group", ACCESS) != ACCESS:
            return {}, set()
        schemes = mapping(spec(found).get("schemes"))
        account, selector = schemes.get("serviceAccount"), schemes.get("podLabelSelector")
        if account and selector is not None:
            return {}, set()
        prefix = f"{self.options.trust_domain}/ns/{namespace}/sa/"
        ids = [str(text).removeprefix("spiffe://") for text in sequence(schemes.get("spiffeIdentities"))]
        accounts = {text.removeprefix(prefix) for text in ids if text.startswith(prefix)}
        return mapping(selector), accounts | ({str(account)} if account else set())


def compiled(text: Any) -> Any:
    """Compile an author's pattern with RE2, or return None for one that grants and matches nothing (R4).

    Bytes as Latin-1, as the proxy counts them; valid alone and inside the wrapping that anchoring needs, or refused.
    """
    if not isinstance(text, str) or not 0 < len(text.encode()) <= REGEX_BYTES:
        return None
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.log_errors = False
    try:
        alone = re2.compile(text.encode(), options)
        wrapped = re2.compile(b".*(?:" + text.encode() + b").*", options)
    except re2.error:
        return None
    return alone if wrapped.programsize <= REGEX_PROGRAM else None


def _is_narrowed(split: Manifest) -> bool:
    """Say whether the split has `matches` at all; an empty list is as none (S17)."""
    return spec(split).get("matches") not in (None, [])


def _local(text: Any, namespace: str) -> str | None:
    """Read a Service's name with or without its own namespace behind it; any other host is None (S18, S19)."""
    if not isinstance(text, str):
        return None
    name, _, domain = text.partition(".")
    return name if domain in {"", namespace, f"{namespace}.svc", f"{namespace}.svc.cluster.local"} else None


def _weight(version: str, raw: Any) -> Fraction | None:
    """Read a weight: a quantity in v1alpha1, a whole number later; None excludes the backend, nothing is rounded."""
    if isinstance(raw, bool):
        return None
    if version == "v1alpha1":
        return quantity(str(raw))
    return Fraction(raw) if isinstance(raw, int) and raw >= 0 else None


def _usable(name: str, regex: Any) -> bool:
    """Refuse filters on what is no ordinary header (R7): pseudo headers, `host`, and what is no header name at all."""
    return regex is not None and name != "host" and re.fullmatch(r"[!#$%&'*+.^_`|~0-9a-z-]+", name) is not None


def _valid_port(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 1 <= number <= 65535
