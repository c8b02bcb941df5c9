"""Whose a generated object is: what it is labelled with, and what of one that lies there tells it.

Several installations may share a cluster, each with namespaces of its own, and each lists what all of them have
generated. So an object names the installation that wrote it, by the Lease that elects its writer, and nobody prunes or
overwrites another's. One that names none is from a release before this label: it is taken over by who wants it, and
pruned only by who sees an SMI object that it was made from.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

import msgspec

MANAGED: Final = ("app.kubernetes.io/managed-by", "smi-adapter")
INSTALLATION: Final = "smi-adapter.io/installation"
ORIGIN: Final = "smi-adapter.io/origin"

_LONGEST: Final = 63


def installation(namespace: str, lease: str) -> str:
    """Return the name of an installation, as a label can hold it: the Lease that its writers compete for.

    A namespace has no dot, so two Leases never meet in one name.
    """
    name = f"{namespace}.{lease}"
    if len(name) <= _LONGEST:
        return name
    digest = blake2b(name.encode(), digest_size=8).hexdigest()
    return f"{name[: _LONGEST - len(digest) - 1].rstrip('-.')}.{digest}"


def labels(owner: str) -> dict[str, str]:
    """Return the labels of what an installation has generated."""
    return {MANAGED[0]: MANAGED[1], INSTALLATION: owner}


class Meta(msgspec.Struct):
    """What is read of a live object's metadata."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resourceVersion: str = ""  # noqa: N815 - Kubernetes' names
    generation: int = 0
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    ownerReferences: list[dict[str, Any]] | None = None  # noqa: N815
    deletionTimestamp: str | None = None  # noqa: N815


class Object(msgspec.Struct):
    """An object, or its metadata alone."""

    metadata: Meta


class _ListMeta(msgspec.Struct):
    continue_: str = msgspec.field(name="continue", default="")


class ObjectList(msgspec.Struct):
    """A page of a list."""

    metadata: _ListMeta
    items: list[Object] | None = None


@dataclass(frozen=True, slots=True)
class Live:
    """An object that lies there. `shape` changes when somebody edits it, and not when its status changes."""

    uid: str
    resource_version: str
    shape: tuple[Any, ...]
    origins: frozenset[str]
    owner: str
    """The installation that wrote it; "" for one that was written before they had names."""

    def goes(self, owner: str, seen: Collection[str], paused: frozenset[str]) -> bool:
        """Tell whether an installation that does not want it may take it away.

        `seen`: the SMI objects that it knows, `paused`: those whose generated ones are left alone.
        """
        if self.origins & paused:
            return False
        return self.owner == owner or (not self.owner and any(name in seen for name in self.origins))


def live(item: Object) -> Live:
    """Return what an object tells."""
    meta = item.metadata
    shape = (meta.uid, meta.generation, meta.labels, meta.annotations, meta.ownerReferences, meta.deletionTimestamp)
    origins = (meta.annotations or {}).get(ORIGIN, "")
    return Live(
        meta.uid, meta.resourceVersion, shape, frozenset(filter(None, origins.split(", "))), owner_of(meta.labels)
    )


def owner_of(found: Mapping[str, str] | None) -> str:
    """Return the installation that labels name."""
    return (found or {}).get(INSTALLATION, "")
