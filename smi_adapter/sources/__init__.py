"""Sources: where raw objects come from.

A source turns something outside (a directory of YAML files, a cluster) into batches of changed objects; everything
after it is the same for all sources. `files` reads YAML safely, `directory` watches it, `controllers` adds what the
Kubernetes controllers would, and `processes` starts what the files ask for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple, Protocol, TypeAlias

from smi_adapter.decode import RawObject
from smi_adapter.findings import Finding, Ref

Batch: TypeAlias = Mapping[Ref, RawObject | None]
"""Changed objects by name; None: deleted. An empty batch says that only `findings()` changed."""


class Location(NamedTuple):
    """A line of a file, from 1."""

    file: str
    line: int

    def __str__(self) -> str:
        """Return `file:line`, as compilers do."""
        return f"{self.file}:{self.line}"


class Source(Protocol):
    """What the composition root needs of a source: batches, its own findings, and where an object was written."""

    def __aiter__(self) -> AsyncIterator[Batch]:
        """Yield batches for ever; the first one is the full sync, and nothing may be served before it."""
        ...

    def findings(self) -> tuple[Finding, ...]:
        """Return what the source itself has to say at present, such as files that it can't read."""
        ...

    def location(self, ref: Ref, field: str = "") -> Location | None:
        """Return where an object (and, as near as can be said, a field of it) was written; None: not in a file."""
        ...
