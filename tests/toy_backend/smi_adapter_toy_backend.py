"""A backend that prints the mesh as one text file, for a reader instead of a proxy.

It lives in its own distribution and knows of smi-adapter only what `docs/backends-howto.md` calls the contract: the
Mesh that it reads, the `Files` that it returns, and the entry point in `pyproject.toml` by which it is found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from smi_adapter.backends import Change, Files
from smi_adapter.mesh import Feature, Match, Mesh, Principal, Route, Service, Workload


@dataclass(frozen=True, slots=True)
class Toy:
    """Says everything, so it claims every Feature."""

    name: str = "toy"
    features: frozenset[Feature] = frozenset(Feature)

    def render(self, mesh: Mesh, change: Change | None = None) -> Files:  # noqa: ARG002 - all of it, each time
        """Return `mesh.txt`."""
        lines = [f"trust domain {mesh.trust.domain}"]
        for _, service in sorted(mesh.services.items()):
            lines += _service(service)
        for _, workload in sorted(mesh.workloads.items()):
            lines += _workload(workload)
        return Files({"mesh.txt": "\n".join([*lines, ""]).encode()})


BACKEND: Final = Toy()


def _service(service: Service) -> Iterator[str]:
    callers = "anybody" if service.callers is None else ", ".join(sorted(service.callers)) or "nobody"
    yield f"service {'/'.join(service.key)} for {callers}"
    for port in service.ports:
        yield f"  port {port.number} {port.protocol.value}"
        yield from (f"    {_route(route)}" for route in port.routes)
        yield from (
            f"    endpoint {endpoint.address}:{endpoint.port} {endpoint.identity}" for endpoint in port.endpoints
        )


def _route(route: Route) -> str:
    targets = " + ".join(f"{'/'.join(to.service)}:{to.port} x {to.weight}" for to in route.targets) or "503"
    return f"{_matches(route.matches)} -> {targets} ({route.origin or 'the root itself'})"


def _matches(matches: tuple[Match, ...] | None) -> str:
    return "everything" if matches is None else " or ".join(_match(match) for match in matches)


def _match(match: Match) -> str:
    parts = [f"path {match.path.anchor.value} {match.path.text!r}"] if match.path else []
    parts += [f"method {'/'.join(match.methods)}"] if match.methods else []
    parts += [f"{header.name} {header.pattern.anchor.value} {header.pattern.text!r}" for header in match.headers]
    return " and ".join(parts) or "any request"


def _workload(workload: Workload) -> Iterator[str]:
    yield f"workload {'/'.join(workload.key)} is {workload.identity} ({workload.mode.value})"
    for port in workload.ports:
        yield f"  port {port.number} {port.protocol.value}"
        for rule in port.rules:
            yield f"    {', '.join(map(_principal, rule.principals))}: {_matches(rule.matches)} ({rule.origin})"


def _principal(principal: Principal) -> str:
    return principal.identity + ("" if principal.addresses is None else f" from {', '.join(principal.addresses)}")
