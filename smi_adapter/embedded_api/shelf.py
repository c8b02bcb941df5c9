"""The seam to where objects are kept: what `local.py` has to offer so that a client's writes become edits of files."""

from __future__ import annotations

from typing import Protocol

from smi_adapter.decode import RawObject
from smi_adapter.findings import Ref


class ShelfError(RuntimeError):
    """An object could not be written or removed; the message says which file and why."""


class ShelfConflictError(ShelfError):
    """Somebody else has just changed the place where the object stands."""


class ShelfUnreadableError(ShelfError):
    """The place where the object stands can't be read; its author has to correct that first."""


class Shelf(Protocol):
    """Objects and where they are written. What was put or removed comes back in a batch of the source."""

    def written(self, ref: Ref) -> RawObject | None:
        """Return an object as its file holds it; None: it is in no file."""
        ...

    def put(self, ref: Ref, raw: RawObject) -> None:
        """Write an object: into the document where it stands, or into a new file; ShelfError if that fails."""
        ...

    def check_removable(self, ref: Ref) -> None:
        """Raise ShelfError if an object can't be removed."""
        ...

    def remove(self, ref: Ref) -> None:
        """Remove every document that defines an object; ShelfError if that fails."""
        ...
