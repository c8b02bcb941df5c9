"""What a mutant is: where it breaks the adapter, which cases must find it, and which near ones must not mind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Mutant:
    """One broken variant.

    It is broken in one of four places: the objects as they come in (`raw`), the changes of a batch (`changes`), the
    Mesh before it is rendered (`mesh`), or functions of a stage (`patches`).

    `fails` must fail and `passes` must not. `readings`: of these cases only what was observed is different; they can't
    fail. `full`: with samples of full size, where a quick one would too often see nothing.
    """

    name: str
    fails: tuple[str, ...] = ()
    passes: tuple[str, ...] = ()
    readings: tuple[str, ...] = ()
    version: str = "v1alpha4"
    full: bool = False
    deadline: float = 8.0
    raw: Callable[[Raw], None] | None = None
    changes: Callable[[Snapshot, Changes], Changes] | None = None
    mesh: Callable[[Mesh], Mesh] | None = None
    patches: tuple[Patch, ...] = ()
