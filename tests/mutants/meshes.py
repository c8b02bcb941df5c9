"""Mutants that serve something else than what was asked for: each changes the Mesh before it is rendered."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType

from smi_adapter.mesh import (
    AccessMode,
    AccessRule,
    Anchor,
    HeaderMatch,
    InboundPort,
    Key,
    Match,
    Mesh,
    Pattern,
    Principal,
    Protocol,
    Route,
    Service,
    ServicePort,
    WeightedTarget,
    Workload,
)

Change = Callable[[Mesh], Mesh]


def _services(change: Callable[[Service], Service]) -> Change:
    def apply(mesh: Mesh) -> Mesh:
        return replace(mesh, services=MappingProxyType({key: change(item) for key, item in mesh.services.items()}))

    return apply


def _ports(change: Callable[[Service, ServicePort], ServicePort]) -> Change:
    return _services(
        lambda service: replace(service, ports=tuple(change(service, port) for port in service.ports)),
    )


def _routes(change: Callable[[Service, Route], Route]) -> Change:
    return _ports(
        lambda service, port: replace(port, routes=tuple(change(service, route) for route in port.routes)),
    )


def _is_split(service: Service) -> bool:
    return any(route.origin is not None for port in service.ports for route in port.routes)


# ------------------------------------------------------------------------------------------------------------ splits


def _own(service: Service, port: int) -> tuple[WeightedTarget, ...]:
    targets = [target for item in service.ports for route in item.routes for target in route.targets]
    return (replace(targets[0], service=service.key, port=port, weight=1),) if targets else ()


def _unsplit(service: Service, port: ServicePort) -> ServicePort:
    return replace(port, routes=(Route((WeightedTarget(service.key, port.number, 1),)),))


def _first_port(service: Service) -> Service:
    return replace(
        service,
        ports=tuple(
            port if not number else replace(port, routes=(Route(_own(service, port.number)),))
            for number, port in enumerate(service.ports)
        ),
    )


first_port_only = _services(_first_port)
first_endpoint_only = _ports(lambda _, port: replace(port, endpoints=port.endpoints[:1]))
split_methods_ignored = _routes(
    lambda _, route: replace(
        route, matches=route.matches and tuple(replace(match, methods=()) for match in route.matches)
    )
)
heaviest_takes_what_matches = _routes(
    lambda _, route: (
        replace(route, targets=(max(route.targets, key=lambda target: target.weight),)) if route.matches else route
    )
)
matches_never_match = _ports(
    lambda _, port: replace(port, routes=tuple(route for route in port.routes if route.matches is None))
)


def _unmatched(port: ServicePort, targets: Callable[[Route], tuple[WeightedTarget, ...]]) -> ServicePort:
    split = next((route for route in port.routes if route.matches is not None), None)
    return replace(port, routes=(*port.routes[:-1], Route(targets(split)))) if split else port


unmatched_to_backends = _ports(lambda _, port: _unmatched(port, lambda split: split.targets))
unmatched_to_nobody = _ports(lambda _, port: _unmatched(port, lambda _: ()))


def _query_too(match: Match) -> Match:
    whole = (HeaderMatch(":path", match.path),) if match.path else ()
    return replace(match, path=None, headers=(*match.headers, *whole))


def pooled(mesh: Mesh) -> Mesh:
    """Spread weights over endpoints instead of Services."""

    def count(target: WeightedTarget) -> int:
        service = mesh.services.get(target.service)
        return max(
            [1, *(len(port.endpoints) for port in service.ports if port.number == target.port)] if service else [1]
        )

    def weighted(_: Service, route: Route) -> Route:
        targets = tuple(replace(target, weight=target.weight * count(target)) for target in route.targets)
        return replace(route, targets=targets)

    return _routes(weighted)(mesh)


def backends_splits_followed(mesh: Mesh) -> Mesh:
    """Let a backend's own split have what came through the root."""

    def deeper(root: Service, target: WeightedTarget) -> list[WeightedTarget]:
        leaf = mesh.services.get(target.service)
        port = next((item for item in leaf.ports if item.number == target.port), None) if leaf else None
        below = port.routes[-1].targets if port is not None and leaf is not root else ()
        return [replace(item, weight=target.weight) for item in below] or [target]

    return _routes(
        lambda root, route: replace(
            route, targets=tuple(item for target in route.targets for item in deeper(root, target))
        )
    )(mesh)


def leaves_split_too(mesh: Mesh) -> Mesh:
    """Let the split of a root divide what is sent to its backends directly."""
    routes: dict[tuple[Key, int], tuple[Route, ...]] = {}
    for service in mesh.services.values():
        for port in service.ports:
            for target in port.routes[0].targets if port.routes[0].origin else ():
                routes[target.service, target.port] = port.routes
    return _ports(
        lambda service, port: replace(port, routes=routes.get((service.key, port.number), port.routes)),
    )(mesh)


def roots_target_port_for_all(mesh: Mesh) -> Mesh:
    """Send to the backends' pods at the target port of the root."""
    numbers: dict[tuple[Key, int], int] = {}
    for service in mesh.services.values():
        for port in service.ports:
            for target in port.routes[0].targets if port.routes[0].origin and port.endpoints else ():
                numbers[target.service, target.port] = port.endpoints[0].port

    def moved(service: Service, port: ServicePort) -> ServicePort:
        number = numbers.get((service.key, port.number))
        return replace(port, endpoints=tuple(replace(end, port=number or end.port) for end in port.endpoints))

    return _ports(moved)(mesh)


def names_count_everywhere(mesh: Mesh) -> Mesh:
    """Apply a split to the Services of the same names in every namespace."""
    split = {service.key[1]: service for service in mesh.services.values() if _is_split(service)}

    def there(namespace: str, target: WeightedTarget) -> WeightedTarget:
        key = (namespace, target.service[1])
        return replace(target, service=key) if key in mesh.services else target

    def applied(service: Service) -> Service:
        model = split.get(service.key[1])
        if model is None or model.key == service.key:
            return service
        ports = tuple(
            replace(port, routes=tuple(
                replace(route, targets=tuple(there(service.key[0], target) for target in route.targets))
                for route in model_port.routes
            ))
            for port, model_port in zip(service.ports, model.ports, strict=False)
        )  # fmt: skip
        return replace(service, ports=ports)

    return _services(applied)(mesh)


def _seen_by(mesh: Mesh, other: Callable[[Service], Service | None], who: Callable[[Workload, Key], bool]) -> Mesh:
    """Show some workloads another form of a Service (None: the same one), under the address that they dial."""
    services, renamed = dict(mesh.services), dict[Key, Key]()
    for key, service in mesh.services.items():
        form = other(service)
        if form is not None:
            renamed[key] = (key[0], f"{key[1]}-otherwise")
            services[renamed[key]] = replace(form, key=renamed[key], callers=service.callers)
    workloads = {}
    for key, workload in mesh.workloads.items():
        dial = ((renamed[name] if name in renamed and who(workload, name) else name, at) for name, at in workload.dial)
        workloads[key] = replace(workload, dial=tuple(dial))
    return replace(mesh, services=MappingProxyType(services), workloads=MappingProxyType(workloads))


def own_clients_only(mesh: Mesh) -> Mesh:
    """Split what one client in the root's own namespace sends, and what nobody else does."""

    def plain(service: Service) -> Service | None:
        if not _is_split(service):
            return None
        return replace(service, ports=tuple(_unsplit(service, port) for port in service.ports))

    return _seen_by(mesh, plain, lambda workload, name: workload.key != (name[0], "client-0"))


def second_proxies_keep_the_old() -> Change:
    """Leave the proxies of servers with the first split that they saw."""
    first: dict[Key, Service] = {}

    def kept(service: Service) -> Service | None:
        return first.setdefault(service.key, service) if _is_split(service) else None

    return lambda mesh: _seen_by(mesh, kept, lambda workload, _: not workload.key[1].startswith("client"))


# ------------------------------------------------------------------------------------------------------------ access


def _workloads(change: Callable[[Workload], Workload], *, open_callers: bool = True) -> Change:
    def apply(mesh: Mesh) -> Mesh:
        changed = {key: change(item) for key, item in mesh.workloads.items()}
        services = mesh.services
        if open_callers:  # else the client's side would still say no
            services = MappingProxyType({key: replace(item, callers=None) for key, item in services.items()})
        return replace(mesh, workloads=MappingProxyType(changed), services=services)

    return apply


def _inbound(change: Callable[[Workload, InboundPort], tuple[AccessRule, ...]]) -> Change:
    return _workloads(
        lambda workload: replace(
            workload, ports=tuple(replace(port, rules=change(workload, port)) for port in workload.ports)
        )
    )


def _rules(change: Callable[[Workload, AccessRule], AccessRule]) -> Change:
    return _inbound(lambda workload, port: tuple(change(workload, rule) for rule in port.rules))


def _open(workload: Workload) -> Workload:
    return replace(workload, mode=AccessMode.PERMISSIVE)


allow_all = _workloads(_open)
clients_side_only = _workloads(_open, open_callers=False)
everything_dead = _workloads(
    lambda workload: replace(workload, ports=tuple(replace(port, rules=()) for port in workload.ports)),
    open_callers=False,
)
routes_ignored = _rules(lambda _, rule: replace(rule, matches=None))
query_matched = _rules(lambda _, rule: replace(rule, matches=rule.matches and tuple(map(_query_too, rule.matches))))


def _everybody(workload: Workload, like: Principal) -> tuple[Principal, ...]:
    domain = workload.identity.split("/ns/")[0]
    names = ("alice", "bob", "carol", "client")
    return tuple(replace(like, identity=f"{domain}/ns/{workload.key[0]}/sa/{name}") for name in names)


def _with_everybody(workload: Workload, rule: AccessRule) -> AccessRule:
    return replace(rule, principals=tuple(dict.fromkeys((*rule.principals, *_everybody(workload, rule.principals[0])))))


any_source = _rules(_with_everybody)


def _claimed(workload: Workload, rule: AccessRule) -> tuple[AccessRule, ...]:
    def by_header(match: Match, principal: Principal) -> Match:
        header = HeaderMatch("x-spiffe-id", Pattern(re.escape(principal.identity), Anchor.WHOLE))
        return replace(match, headers=(*match.headers, header))

    anybody = _everybody(workload, rule.principals[0])
    matches = tuple(by_header(match, who) for match in rule.matches or (Match(),) for who in rule.principals)
    return (rule, replace(rule, principals=anybody, matches=matches))


identity_by_header = _inbound(
    lambda workload, port: tuple(new for rule in port.rules for new in _claimed(workload, rule))
)


def sources_of_any_namespace(mesh: Mesh) -> Mesh:
    """Let in every account of a source's name, wherever it is."""
    alike: defaultdict[str, set[str]] = defaultdict(set)
    for workload in mesh.workloads.values():
        alike[workload.identity.rpartition("/")[2]].add(workload.identity)

    def widened(_: Workload, rule: AccessRule) -> AccessRule:
        found = {
            replace(principal, identity=identity): None
            for principal in rule.principals
            for identity in sorted({principal.identity} | alike[principal.identity.rpartition("/")[2]])
        }
        return replace(rule, principals=tuple(found))

    return _rules(widened)(mesh)


def by_service(mesh: Mesh) -> Mesh:
    """Let in at every pod of a Service whoever is let in at one."""
    behind = [{end.pod for port in service.ports for end in port.endpoints} for service in mesh.services.values()]

    def shared(workload: Workload, port: InboundPort) -> tuple[AccessRule, ...]:
        mates = set[str]().union(*(pods for pods in behind if workload.key[1] in pods), {workload.key[1]})
        rules = [
            rule
            for key, other in mesh.workloads.items()
            if key[0] == workload.key[0] and key[1] in mates
            for own in other.ports
            if own.number == port.number and own.protocol is port.protocol
            for rule in own.rules
        ]
        return tuple(dict.fromkeys(rules))

    return _inbound(shared)(mesh)


def first_workload_guarded(mesh: Mesh) -> Mesh:
    """Guard the first workload of an account and leave its others open."""
    first: dict[str, Key] = {}
    for key, workload in sorted(mesh.workloads.items()):
        first.setdefault(workload.identity, key)
    return _workloads(lambda item: item if first[item.identity] == item.key else _open(item))(mesh)


def _every_port(workload: Workload, port: InboundPort) -> tuple[AccessRule, ...]:
    ports = [other for other in workload.ports if port.rules and other.protocol is port.protocol]
    return tuple(dict.fromkeys(rule for other in ports for rule in other.rules))


ports_crossed_with_paths = _inbound(_every_port)


def first_service_guarded(mesh: Mesh) -> Mesh:
    """Guard what is sent to the first Service of a pod, and let everybody in who names another one."""
    names: defaultdict[Key, list[str]] = defaultdict(list)
    for namespace, name in sorted(mesh.services):
        for pod in {end.pod for port in mesh.services[namespace, name].ports for end in port.endpoints}:
            names[namespace, pod].append(name)

    def more(workload: Workload, rule: AccessRule) -> tuple[AccessRule, ...]:
        others = names[workload.key][1:]
        if not others:
            return (rule,)
        named = HeaderMatch(":authority", Pattern(rf"(?:{'|'.join(others)})\..*", Anchor.WHOLE))
        anybody = _everybody(workload, rule.principals[0])
        return (rule, replace(rule, principals=anybody, matches=(Match(headers=(named,)),)))

    return _inbound(lambda workload, port: tuple(new for rule in port.rules for new in more(workload, rule)))(mesh)


def _http_rules_everywhere(workload: Workload) -> Workload:
    rules = tuple(rule for port in workload.ports if port.protocol is Protocol.HTTP for rule in port.rules)
    opened = tuple(replace(rule, matches=None) for rule in rules)
    ports = (
        replace(port, rules=(*port.rules, *opened)) if port.protocol is Protocol.TCP else port
        for port in workload.ports
    )
    return replace(workload, ports=tuple(ports))


http_opens_tcp = _workloads(_http_rules_everywhere)
