"""Pass `groups`: the pods of one owner as workloads, with the ports that they serve and who may use each.

Pods are alike, and share one configuration, if they run as the same ServiceAccount, are selected by the same Services
and by the same destination bindings, and declare the same ports. Access is deny-by-default: an inbound port has the
rules that targets grant it and no other (T1), and a port that nothing declares is not there at all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256

from smi_adapter.findings import Finding, Ref, Severity, finding
from smi_adapter.mesh import AccessMode, AccessRule, InboundPort, Instance, Protocol, Workload
from smi_adapter.smi.objects import Key, TrafficTarget
from smi_adapter.snapshot import ContainerPort, Pod, Profile
from smi_adapter.snapshot import Service as KubernetesService
from smi_adapter.translate.incremental import Outcome
from smi_adapter.translate.modes import mode_of
from smi_adapter.translate.names import spiffe_id
from smi_adapter.translate.parts import Grant, Group
from smi_adapter.translate.ports import container_protocol, service_protocol, target_number
from smi_adapter.translate.selection import services_of
from smi_adapter.translate.view import View

SUFFIX = "~"
"""Between an owner's name and what tells its groups apart; no Kubernetes name holds it, so nothing can collide."""


@dataclass(frozen=True, slots=True)
class _Likeness:
    """What pods must have in common to be one workload; `pod`: in no-cluster mode each is one of its own."""

    account: str
    services: tuple[Key, ...]
    bindings: tuple[Key, ...]
    ports: tuple[ContainerPort, ...]
    pod: str


def compute(view: View, key: Key) -> Outcome[Group]:
    """Make the workloads of one owner (namespace, name)."""
    alike: defaultdict[_Likeness, list[Pod]] = defaultdict(list)
    bare: defaultdict[_Likeness, list[Pod]] = defaultdict(list)
    for name in sorted(view.pods_of_owner.get(key) or ()):
        pod = view.pods.get(name)
        if pod is not None:
            (alike if pod.meshed else bare)[_likeness(view, pod)].append(pod)
    notes: list[Finding] = []
    workloads: list[Workload] = []
    of_pod: dict[Key, Workload] = {}
    for likeness, pods in alike.items():
        workload = _workload(view, _name(key, likeness, len(alike)), likeness, pods, notes)
        workloads.append(workload)
        of_pod.update((pod.meta.key, workload) for pod in pods)
    for likeness in bare:
        for target, _ in _grants(view, key[0], likeness):
            words = f"Pods of {key[0]}/{key[1]} have no proxy: they enforce nothing"
            notes.append(finding("SMI0701", target.ref, "spec.destination", words))
    workloads.sort(key=lambda workload: workload.key)
    return Group(tuple(workloads), of_pod), tuple(dict.fromkeys(notes))


def _likeness(view: View, pod: Pod) -> _Likeness:
    namespace = pod.meta.namespace
    bindings: set[Key] = set(view.bindings_of_namespace.get(namespace) or ())
    for label in pod.meta.labels.items():
        bindings.update(view.bindings_with_label.get((namespace, *label)) or ())
    ports = sorted(set(pod.ports), key=lambda port: (port.number, port.protocol, port.name))
    return _Likeness(
        account=pod.service_account,
        services=services_of(view, pod),
        bindings=tuple(sorted(name for name in bindings if _narrows(view, name, pod))),
        ports=tuple(ports),
        pod=pod.meta.name if pod.app_address else "",
    )


def _narrows(view: View, binding: Key, pod: Pod) -> bool:
    """Tell whether a binding that some target has as its destination selects this pod (B3)."""
    if not view.targets_of_binding.get(binding):
        return False
    bound = view.bound.get(binding)
    return bound is not None and pod.meta.key in bound.pods


def _name(owner: Key, likeness: _Likeness, groups: int) -> Key:
    """Return the owner's key, or the pod's; where an owner has several groups, with a suffix that says which."""
    if likeness.pod:
        return (owner[0], likeness.pod)
    if groups == 1:
        return owner
    return (owner[0], f"{owner[1]}{SUFFIX}{sha256(repr(likeness).encode()).hexdigest()[:6]}")


def _workload(view: View, key: Key, likeness: _Likeness, pods: list[Pod], notes: list[Finding]) -> Workload:
    namespace = key[0]
    services = [found for name in likeness.services if (found := view.services.get(name)) is not None]
    protocols = _protocols(services, pods[0])
    numbers = _numbers(services, pods[0])
    rules: defaultdict[int, list[AccessRule]] = defaultdict(list)
    for target, grant in _grants(view, namespace, likeness):
        door = _Door(target, grant, pods[0].workload, protocols, numbers, view.options.profile)
        notes.extend(door.findings())
        for number, rule in door.rules():
            rules[number].append(rule)
    ports = tuple(InboundPort(number, protocols[number], tuple(rules[number])) for number in sorted(protocols))
    ports += tuple(InboundPort(number, Protocol.UDP) for number in sorted(_datagrams(services, pods[0])))
    instances = tuple(Instance(pod.meta.name, pod.address, pod.app_address) for pod in pods)
    return Workload(
        key=key,
        identity=spiffe_id(view.options.trust_domain, (namespace, likeness.account)),
        mode=AccessMode(mode_of(view.namespaces.get(namespace), view.options.mode).value),
        instances=instances,
        ports=ports,
        dial=tuple(sorted(pods[0].dial.items())) if likeness.pod else (),
        origin=Ref("ServiceAccount", namespace, likeness.account),
    )


def _protocols(services: Iterable[KubernetesService], pod: Pod) -> dict[int, Protocol]:
    """Return the inbound ports: where Services lead, and what containers declare; a Service knows better what it is.

    Where two Services disagree about one port it is TCP, which is what any bytes are.
    """
    found: dict[int, Protocol] = {}
    for service in services:
        for port in service.ports:
            protocol, number = service_protocol(port), target_number(port, pod)
            if number is not None and protocol in {Protocol.HTTP, Protocol.TCP}:
                found[number] = protocol if found.get(number, protocol) is protocol else Protocol.TCP
    for declared in sorted(pod.ports, key=lambda port: (port.number, port.name)):
        protocol = container_protocol(declared)
        if protocol in {Protocol.HTTP, Protocol.TCP}:
            found.setdefault(declared.number, protocol)
    return found


def _datagrams(services: Iterable[KubernetesService], pod: Pod) -> frozenset[int]:
    """Return the UDP ports: where Services lead, and what containers declare. No rule can open one (U1)."""
    found = {port.number for port in pod.ports if container_protocol(port) is Protocol.UDP}
    for service in services:
        for port in service.ports:
            if service_protocol(port) is Protocol.UDP and (number := target_number(port, pod)) is not None:
                found.add(number)
    return frozenset(found)


def _numbers(services: Iterable[KubernetesService], pod: Pod) -> dict[int, frozenset[int]]:
    """Return to which of the pod's ports each Service port number leads (R10)."""
    found: dict[int, frozenset[int]] = {}
    for service in services:
        for port in service.ports:
            number = target_number(port, pod)
            if port.protocol == "TCP" and number is not None:
                found[port.number] = found.get(port.number, frozenset()) | {number}
    return found


def _grants(view: View, namespace: str, likeness: _Likeness) -> Iterator[tuple[TrafficTarget, Grant]]:
    """Yield the targets whose destination these pods are, by name: the order never depends on the input's."""
    account = (namespace, likeness.account)
    names = set(view.targets_of_account.get(account) or ())
    for binding in (*likeness.bindings, *(view.bindings_of_account.get(account) or ())):
        bound = view.bound.get(binding)
        if bound is not None and (binding in likeness.bindings or likeness.account in bound.accounts):
            names.update(view.targets_of_binding.get(binding) or ())
    for name in sorted(names):
        target, grant = view.targets.get(name), view.grants.get(name)
        if target is not None and grant is not None and grant.rules:
            yield target, grant


@dataclass(frozen=True, slots=True)
class _Door:
    """One target at one workload: which of the workload's ports it opens, and for what."""

    target: TrafficTarget
    grant: Grant
    owner: str
    protocols: dict[int, Protocol]
    numbers: dict[int, frozenset[int]]
    profile: Profile

    def rules(self) -> Iterator[tuple[int, AccessRule]]:
        """Yield (port, rule) for every port that a rule opens."""
        for rule in self.grant.rules:
            for number in sorted(self._opened(rule.ports) & self._opened(self.grant.limit)):
                if self._fits(number):
                    yield number, rule.rule

    def findings(self) -> Iterator[Finding]:
        """Yield what is surprising about these ports (T4, T5)."""
        where = f"{self.target.meta.namespace}/{self.owner}"
        for number, field in self.grant.fields:
            if self.grant.http:
                for opened in sorted(self._resolved(number)):
                    if self.protocols.get(opened) is Protocol.TCP:
                        words = f"Port {number} of {where} is not HTTP, so HTTP rules cannot match there"
                        yield finding("SMI0307", self.target.ref, field, words)
        if self.grant.http and self.protocols and Protocol.HTTP not in self.protocols.values():
            words = f"{where} has no HTTP port, so HTTP rules cannot match there"
            yield finding("SMI0307", self.target.ref, "spec.rules", words)
        for number in sorted({number for number in self._all_opened() if self.protocols[number] is Protocol.HTTP}):
            if not self.grant.http:
                yield self._l4_on_http(number, where)

    def _l4_on_http(self, number: int, where: str) -> Finding:
        """Tell what a target with only TCPRoute rules does on an HTTP port; `osm` opens nothing there (T4)."""
        if self._fits(number):
            words = f"Every HTTP request on port {number} of {where} is allowed"
            return finding("SMI0306", self.target.ref, "spec.rules", words)
        words = f"Port {number} of {where} is HTTP, which TCPRoute rules do not open in profile osm"
        return finding("SMI0303", self.target.ref, "spec.rules", words, severity=Severity.WARNING)

    def _all_opened(self) -> frozenset[int]:
        limit = self._opened(self.grant.limit)
        return frozenset().union(*(self._opened(rule.ports) & limit for rule in self.grant.rules))

    def _opened(self, written: frozenset[int] | None) -> frozenset[int]:
        """Return the inbound ports that written numbers stand for; None: all that are TCP or HTTP (R9)."""
        if written is None:
            return frozenset(self.protocols)
        return frozenset().union(*(self._resolved(number) for number in written)) & self.protocols.keys()

    def _resolved(self, number: int) -> frozenset[int]:
        """Return the ports that one written number means here (R10)."""
        if number in self.grant.service_ports:
            return self.numbers.get(number, frozenset())
        return frozenset({number})

    def _fits(self, number: int) -> bool:
        """Tell whether rules of this kind can match on a port (T4, T5)."""
        if self.protocols[number] is Protocol.TCP:
            return not self.grant.http
        return self.grant.http or self.profile is not Profile.OSM
