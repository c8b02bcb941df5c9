"""The driver of the conformance suite for a mutant: patches the program that SMI_MUTANT names, then runs as usual."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import Any

from smi_adapter import app, decode
from smi_adapter.backends import Backend
from smi_adapter.backends.capabilities import Supported
from smi_adapter.findings import Ref
from smi_adapter.mesh import Mesh
from smi_adapter.snapshot import Snapshot
from tests.conformance import driver
from tests.mutants.mutant import Changes, Mutant
from tests.mutants.variants import MUTANTS


def install(mutant: Mutant) -> None:
    """Break the program."""
    apply, supported = decode.apply, app.supported  # type: ignore[attr-defined] # replaced where it is used

    def broken_apply(snapshot: Snapshot, changes: Changes, **more: Any) -> Any:
        if mutant.changes is not None:
            changes = mutant.changes(snapshot, changes)
        return apply(snapshot, rewritten(mutant, changes), **more)

    def broken_supported(mesh: Mesh, backend: Backend, *_: object) -> Supported:
        if mutant.mesh is not None:
            mesh = mutant.mesh(mesh)
        return supported(mesh, backend)

    replaced: list[tuple[Any, str, Any]] = [(decode, "apply", broken_apply)]
    if mutant.mesh is not None:
        # What a mutant makes of one Service may hang on others, so nothing of the last answer is used again.
        replaced += [(app, "supported", broken_supported), (app, "Change", lambda *_: None)]
    replaced += [(patch.owner, patch.name, patch.made(getattr(patch.owner, patch.name))) for patch in mutant.patches]
    for owner, name, value in replaced:
        setattr(owner, name, value)


def rewritten(mutant: Mutant, changes: Changes) -> Changes:
    """Return a batch with every SMI object rewritten."""
    if mutant.raw is None:
        return changes
    found: dict[Ref, Mapping[str, Any] | None] = {}
    for ref, raw in changes.items():
        if raw is None or not ref.group.endswith("smi-spec.io"):
            found[ref] = raw
            continue
        mine = copy.deepcopy(dict(raw))
        mutant.raw(mine)
        found[ref] = mine
    return found


if __name__ == "__main__":
    install(MUTANTS[os.environ["SMI_MUTANT"]])
    driver.main()
