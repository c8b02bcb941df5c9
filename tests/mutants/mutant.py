"""What a mutant is: where it breaks the adapter, which cases must find it, and which near ones must not mind."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from smi_adapter.findings import Ref
from smi_adapter.mesh import Mesh
from smi_adapter.snapshot import Snapshot

Raw = dict[str, Any]
Changes = Mapping[Ref, Mapping[str, Any] | None]


@dataclass(frozen=True, slots=True)
class Patch:
    """One function (or constant) of the adapter, and what is made of it; `owner` is the module or class that has it."""

    owner: Any
    name: str
    made: Callable[[Any], Any]


# What a case says when it fails for what a mutant breaks. A case that fails otherwise proves nothing of the mutant.


def got(app: str, share: str) -> str:
    """Say that a workload got another share than its weight."""
    return rf"{app} got \d+ of \d+, accepted for {re.escape(share)}:"


def off(app: str, share: str) -> str:
    """Say that weights that were changed never came near, or are not kept in the sample."""
    return f"not even nearly within|{got(app, share)}"


def stray(app: str) -> str:
    """Say that a workload answered that is none of the backends."""
    return rf"only backends answer: .*last seen: ok 200 from \S+/{app}$"


def leaked(app: str, *others: str) -> str:
    """Say that others got some of what belongs to a workload alone: in the sample, or before it came to that."""
    return f"{got(app, '1')}|{stray('(?:' + '|'.join(others) + ')')}"


def reached(wanted: str, app: str) -> str:
    """Say that requests for one workload reached another one."""
    return rf"requests reach {wanted}: .*ok 200 from \S+/{app}$"


def let_in(who: str, path: str = "/", *, where: str = r"\S+", port: int = 8080) -> str:
    """Say that somebody got in who must not."""
    ways = r"is denied: .*last seen: ok|: \d+ of \d+ (?:were answered|arrived)"
    return rf"(?:^|\s){path} on {where}:{port} \(\w+\) by \S+/(?:{who})\s?(?:{ways})"


def unsaid(kind: str) -> str:
    """Say that nothing was said about an object of a kind."""
    return f"nothing about {kind} "


def began_open(who: str = "alice") -> str:
    """Say that somebody got in before anybody was let in."""
    return rf" by \S+/{who} begins denied: .*last seen: ok"


def kept_out(who: str, path: str = "/") -> str:
    """Say that somebody did not get in who may."""
    return rf"(?:^|\s){path} on \S+ \(\w+\) by \S+/{who} is allowed: not within"


@dataclass(frozen=True, slots=True)
class Mutant:
    """One broken variant.

    It is broken in one of four places: the objects as they come in (`raw`), the changes of a batch (`changes`), the
    Mesh before it is rendered (`mesh`), or functions of a stage (`patches`).

    `fails` must fail, each for a reason in which its expression is found, and `passes` must not. `readings`: of these
    cases only what was observed is different; they can't fail. `full`: with samples of full size, where a quick one
    would too often see nothing.
    """

    name: str
    fails: Mapping[str, str] = field(default_factory=dict)
    passes: tuple[str, ...] = ()
    readings: tuple[str, ...] = ()
    version: str = "v1alpha4"
    full: bool = False
    deadline: float = 8.0
    raw: Callable[[Raw], None] | None = None
    changes: Callable[[Snapshot, Changes], Changes] | None = None
    mesh: Callable[[Mesh], Mesh] | None = None
    patches: tuple[Patch, ...] = ()
