"""Whether what an object's last change led to is in force, as a condition: the proxies' half of `Programmed`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from smi_adapter.findings import Ref
from smi_adapter.mesh import Mesh
from smi_adapter.report.conditions import PROGRAMMED, Condition
from smi_adapter.report.links import Links
from smi_adapter.report.standing import Fleet, Standing, Tally

APPLIED: Final = Condition(PROGRAMMED, True, "Programmed", "The generated objects are applied.")
_IN_FORCE: Final = Condition(PROGRAMMED, True, "Programmed", "Every proxy concerned has acknowledged it.")
_UNUSED: Final = Condition(PROGRAMMED, True, "NotReferenced", "Nothing refers to it, so no proxy needs it.")

PASSING: Final = frozenset({"NoProxies", "ProxiesMissing", "WaitingForApply", "WaitingForProxies", "WaitingForReplica"})
"""Reasons that mostly go by themselves, within moments: after a change, a restart or a rollout."""


class View:
    """Answers for one walk over the objects; `applied` is the last generation of a backend without proxies."""

    def __init__(self, mesh: Mesh, links: Links, fleet: Fleet, applied: int | None = None) -> None:
        self._mesh = mesh
        self._links = links
        self._fleet = fleet
        self._applied = applied

    def programmed(self, ref: Ref, mark: int) -> tuple[Standing, Condition]:
        """Say whether what an object's last change led to is in force."""
        if self._applied is not None:
            waiting = _waiting("WaitingForApply", "The generated objects are not applied yet.")
            return Standing(), APPLIED if self._applied >= mark else waiting
        match ref.kind:
            case "TrafficSplit":
                standing = self._split(ref, mark)
                return standing, _condition(standing) or _no_effect(
                    "NoProxies", "No connected proxy may call the root."
                )
            case "TrafficTarget":
                return self._target_condition(ref, mark)
            case _:
                return self._shared(ref, mark)

    def _split(self, ref: Ref, mark: int) -> Standing:
        standing = Standing()
        for root in self._links.roots.get(ref, ()):
            service = self._mesh.services.get(root)
            if service is not None:
                standing += self._fleet.callers(service.callers, mark)
        return standing

    def _target(self, ref: Ref, mark: int) -> Standing:
        doors = self._links.doors.get(ref, {})
        sources = frozenset().union(*doors.values())
        callers = [key for key in self._fleet.of(sources) if key not in doors]
        return self._fleet.workloads(doors, mark, required=True) + self._fleet.workloads(callers, mark)

    def _target_condition(self, ref: Ref, mark: int) -> tuple[Standing, Condition]:
        if ref not in self._links.doors:
            words = "It opens no port: no pod runs as the destination, or nothing in it resolves."
            return Standing(), _no_effect("GrantsNothing", words)
        standing = self._target(ref, mark)
        words = "No pod of the destination is ready yet."
        return standing, _condition(standing) or _no_effect("NoProxies", words)

    def _shared(self, ref: Ref, mark: int) -> tuple[Standing, Condition]:
        """Answer for what splits and targets refer to: with the proxies of all of these."""
        users = self._links.users.get(ref)
        if not users:
            return Standing(), _UNUSED
        standing = Standing()
        for user in users:
            standing += self._split(user, mark) if user.kind == "TrafficSplit" else self._target(user, mark)
        return standing, _condition(standing) or _no_effect("NoProxies", "No proxy needs it yet.")


def _condition(standing: Standing) -> Condition | None:
    """Return what proxies say; None if there are none."""
    if standing.missing:
        words = f"Not connected: {_proxies(standing.missing)}, such as one of {standing.example}."
        return _waiting("ProxiesMissing", words)
    if standing.waiting:
        words = f"Not acknowledged yet: {_proxies(standing.waiting)}, such as one of {standing.example}."
        return _waiting("WaitingForProxies", words)
    return _IN_FORCE if standing.proxies else None


def _proxies(number: int) -> str:
    return f"{number} proxies" if number > 1 else "1 proxy"


def _waiting(reason: str, message: str) -> Condition:
    return Condition(PROGRAMMED, False, reason, message)


_no_effect = _waiting


def with_replicas(programmed: Condition, ref: Ref, generation: int, others: Iterable[Tally]) -> Condition:
    """Let the proxies of the other replicas have a say."""
    if not programmed.status:
        return programmed
    for tally in others:
        if tally.observed.get(ref, -1) != generation:
            return _waiting("WaitingForReplica", "Another replica has not published the newest form yet.")
        if late := tally.waiting.get(ref, 0):
            return _waiting("WaitingForProxies", f"Not acknowledged yet: {_proxies(late)} of another replica.")
    return programmed
