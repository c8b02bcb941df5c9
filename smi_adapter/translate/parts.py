"""What the passes hand to each other: small frozen values, each the part of one object.

None of them is seen outside of `translate/`. Comparing a part with the last one decides whether anything that was made
from it has to be made again, so they hold nothing that does not decide something.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from smi_adapter.mesh import AccessRule, Match, Principal, Service, Workload
from smi_adapter.smi.objects import Key


@dataclass(frozen=True, slots=True)
class NamedMatch:
    """A match of an HTTPRouteGroup; `match` None: it is unusable and matches nothing (R4, R7).

    `field` names it in the object. `open_ended`: its path is anchored at the start only, without saying so (R1).
    """

    name: str
    field: str
    match: Match | None
    open_ended: bool = False


@dataclass(frozen=True, slots=True)
class ResolvedSplit:
    """A TrafficSplit whose Services are looked up: `root` None means that it has no effect.

    `backends`: (Service of the split's namespace, summed weight), by name; all weights are divided by the same number,
    so that whole ones are as their author wrote them (S2).
    """

    root: Key | None
    backends: tuple[tuple[Key, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Leaf:
    """A Service as it is without any split, and all the pods behind it, ready or not."""

    service: Service
    pods: tuple[Key, ...] = ()


@dataclass(frozen=True, slots=True)
class Bound:
    """Whom an IdentityBinding names: as a source `principals`, as a destination all pods of `accounts`, and `pods`."""

    principals: tuple[Principal, ...] = ()
    accounts: frozenset[str] = frozenset()
    pods: frozenset[Key] = frozenset()


@dataclass(frozen=True, slots=True)
class GrantRule:
    """One rule of a TrafficTarget that grants something, and the ports that it opens; None: all (R9)."""

    rule: AccessRule
    ports: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """What a TrafficTarget grants, port numbers still as written (R10).

    A rule opens the ports that are in both `rule.ports` and `limit`; None means all. `http`: the target has rules about
    HTTP. `fields` says where each number was written, for findings; `service_ports` are the numbers that mean the
    target port of a Service, any other one means a container port.
    """

    rules: tuple[GrantRule, ...] = ()
    limit: frozenset[int] | None = None
    http: bool = False
    fields: tuple[tuple[int, str], ...] = ()
    service_ports: frozenset[int] = frozenset()


NOTHING = Grant()


@dataclass(frozen=True, slots=True)
class Group:
    """The workloads made of one owner's pods, and which pod is in which."""

    workloads: tuple[Workload, ...] = ()
    of_pod: Mapping[Key, Workload] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Admission:
    """Who may call something behind a Service itself: on any port (None: anybody, nothing enforces), port by port.

    `empty`: no pod is behind it.
    """

    anywhere: frozenset[str] | None
    by_port: tuple[tuple[int, frozenset[str]], ...] = ()
    empty: bool = False
