"""The driver of the conformance suite for a mutant: patches the program that SMI_MUTANT names, then runs as usual."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from smi_adapter import app, decode
from smi_adapter.snapshot import Snapshot
from tests.conformance import driver
from tests.mutants.variants import MUTANTS, Changes, Mutant, rewritten


def install(mutant: Mutant) -> None:
    """Break the program."""
    apply, supported = decode.apply, app.supported  # type: ignore[attr-defined] # replaced where it is used

    def broken_apply(snapshot: Snapshot, changes: Changes, **more: Any) -> Any:
        if mutant.changes is not None:
            changes = mutant.changes(snapshot, changes)
        return apply(snapshot, rewritten(mutant, changes), **more)

    def broken_supported(mesh: Any, *more: Any) -> Any:
        return supported(mutant.mesh(mesh) if mutant.mesh is not None else mesh, *more)

    namespaces: list[tuple[Any, Mapping[str, Any]]] = [
        (decode, {"apply": broken_apply}),
        (app, {"supported": broken_supported}),
    ]
    for module, values in namespaces:
        for name, value in values.items():
            setattr(module, name, value)


if __name__ == "__main__":
    install(MUTANTS[os.environ["SMI_MUTANT"]])
    driver.main()
