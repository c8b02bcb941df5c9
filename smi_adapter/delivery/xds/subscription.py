"""What one stream knows of one resource type: what was asked for, what was acknowledged, what is still to be said.

Only the newest version of a name is remembered and at most one message is unanswered, so a proxy that stopped reading
costs the same however much changes meanwhile (faults.md, F28).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

from smi_adapter.backends import Resource

NEVER: Final = "(never)"
"""In place of an acknowledged version: nothing is known to be there, or not what. Compared by identity."""

ABSENT: Final = "(absent)"
"""In place of an acknowledged version: the proxy was told that there is no such resource. Compared by identity."""

_KEPT_REJECTIONS = 16


@dataclass(slots=True)
class Pending:
    """Something to say about one name. `first` and `last`: the generations in which it began to be and became so.

    `asked`: the proxy waits for it (an answer, not a change). `forced`: say it even if the version is acknowledged.
    """

    resource: Resource | None
    first: int
    last: int
    asked: bool = False
    forced: bool = False


@dataclass(frozen=True, slots=True)
class Sent:
    """The one message that is not answered yet."""

    nonce: str
    resources: tuple[Resource, ...]
    removed: tuple[str, ...]
    first: int
    at: float


@dataclass(slots=True)
class Subscription:
    """All state of one type on one stream."""

    type_url: str
    wildcard: bool = False
    names: dict[str, str] = field(default_factory=dict)  # -> acknowledged version, NEVER or ABSENT
    pending: dict[str, Pending] = field(default_factory=dict)
    outstanding: Sent | None = None
    must_answer: bool = False
    alone: set[str] = field(default_factory=set)  # to be sent one by one, to find which of them a proxy refuses
    rejected: dict[str, dict[str, str]] = field(default_factory=dict)  # name -> version -> why, oldest first
    strangers: set[str] = field(default_factory=set)  # names asked for that did not exist
    earliest: float = 0.0  # when the next change may go, if changes come faster than the pace
    sent: int = 0
    acknowledged: int = 0
    refused: int = 0
    oldest: float = math.inf  # lowest generation that is pending or unanswered

    def wants(self, name: str) -> bool:
        """Tell whether changes of that name are for this stream."""
        return self.wildcard or name in self.names

    def holds(self, name: str) -> bool:
        """Tell whether the proxy has acknowledged some version of that name."""
        version = self.names.get(name)
        return version is not None and version is not NEVER and version is not ABSENT

    def version(self) -> str:
        """Return a hash of what the proxy has acknowledged; it costs a walk over all names, so ask only for people."""
        held = sorted((name, version) for name, version in self.names.items() if self.holds(name))
        return blake2b(repr(held).encode(), digest_size=5).hexdigest() if held else ""

    def add(self, name: str, pending: Pending) -> None:
        """Note something to say; it replaces what was to be said about that name, and keeps the stricter bounds."""
        known = self.pending.get(name)
        if known is not None:
            pending.first = min(known.first, pending.first)
            pending.last = max(known.last, pending.last)
            pending.asked |= known.asked
            pending.forced |= known.forced
        self.pending[name] = pending
        self.oldest = min(self.oldest, pending.first)

    def drop(self, name: str) -> None:
        """Forget a name that the proxy no longer asks for."""
        self.pending.pop(name, None)
        self.alone.discard(name)
        self.names.pop(name, None)
        self.strangers.discard(name)
        self.recount()

    def recount(self) -> None:
        """Find the oldest generation again, after something was sent, answered or dropped."""
        oldest: float = math.inf if self.outstanding is None else self.outstanding.first
        if self.pending:
            oldest = min(oldest, *[pending.first for pending in self.pending.values()])
        self.oldest = oldest

    def reject(self, resource: Resource, error: str) -> None:
        """Remember bytes that this proxy refused; they are not sent to it again."""
        versions = self.rejected.setdefault(resource.name, {})
        versions[resource.version] = error
        if len(versions) > _KEPT_REJECTIONS:
            del versions[next(iter(versions))]

    def rejection(self, resource: Resource) -> str:
        """Return why this proxy refused these bytes; "" if it did not."""
        return self.rejected[resource.name].get(resource.version, "") if resource.name in self.rejected else ""
