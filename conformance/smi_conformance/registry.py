"""Binds cases to ids: `@case("TS-20")` over an async function that takes a `Trial`.

Every function in `cases/` that is decorated is a real case; an id without one is pending, and `pending` below says so
in the open rather than with a stub.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

from smi_conformance import catalog

if TYPE_CHECKING:
    from smi_conformance.trial import Trial

Play: TypeAlias = "Callable[[Trial], Awaitable[None]]"
F = TypeVar("F", bound="Callable[[Trial], Awaitable[None]]")

MODULES = (
    "api",
    "split",
    "split_more",
    "split_ab",
    "routes",
    "access",
    "identity",
    "l4",
    "cross",
    "convergence",
    "consumer",
)


Alone: TypeAlias = 'Literal["", "mesh", "machine"]'
"""What a case wants for itself: the mesh, because it disturbs it, or the machine, because it measures time: that one it
shares with others that do."""


@dataclass(frozen=True, slots=True)
class Registered:
    """A case and how it wants to be run."""

    play: Play
    enforced: bool
    alone: Alone
    first: bool


_CASES: dict[str, Registered] = {}


def case(name: str, *, alone: Alone = "", first: bool = False) -> Callable[[F], F]:
    """Register a case. One that takes long, or needs workloads that no other has, is to begin `first`."""
    entry = catalog.entries()[name]
    if name in _CASES:
        raise ValueError(f"{name} has two cases")
    if entry.later:
        raise ValueError(f"{name} is for later")

    def register(play: F) -> F:
        _CASES[name] = Registered(play, bool(catalog.GUARDED & set(entry.profiles)), alone, first)
        return play

    return register


def cases() -> dict[str, Registered]:
    """Return all cases by id, in the order of the catalogue."""
    for module in MODULES:
        import_module(f"smi_conformance.cases.{module}")
    return {name: _CASES[name] for name in catalog.entries() if name in _CASES}


def pending() -> tuple[str, ...]:
    """Return the ids that have no case yet."""
    known = cases()
    return tuple(name for name, entry in catalog.entries().items() if name not in known and not entry.later)
