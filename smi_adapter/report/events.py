"""Which Events to send: each finding of an object once, its coming back as a series, never too many of one object.

Pure: the clock is an argument, and what is returned is to be sent by `cluster/events.py`. The name of an Event is made
from the object and the finding, so that a second replica, or the next run, meets the Event that is there already.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

from smi_adapter.findings import Finding, Ref, Severity, printable

NOTE_BYTES: Final = 1024
"""The API refuses a longer note."""

_BURST = 10
_REFILL = 60.0
_AGAIN = 1800.0


@dataclass(frozen=True, slots=True)
class Notice:
    """One Event to send. `count` is 1 for a new one, else how often it was seen."""

    ref: Ref
    uid: str
    api_version: str
    name: str
    reason: str
    note: str
    count: int = 1


@dataclass(slots=True)
class _Seen:
    """One finding of one object: since when it is there, how often it was told, and when last."""

    since: float
    count: int = 0
    at: float = 0.0
    present: bool = True


@dataclass(slots=True)
class _OfObject:
    """The Events of one object, and how many it may still have: `tokens` come back one a minute."""

    tokens: float
    at: float
    seen: dict[str, _Seen] = field(default_factory=dict)


class EventBook:
    """Remembers what was said about each object. What is gone again within `settle` seconds is not worth an Event."""

    def __init__(self, settle: float = 1.0) -> None:
        self.unsettled = False
        """Whether something was seen that will be told when it is still there `settle` seconds later."""
        self._settle = settle
        self._objects: dict[str, _OfObject] = {}

    def notices(
        self, ref: Ref, uid: str, api_version: str, findings: Iterable[Finding], now: float
    ) -> tuple[Notice, ...]:
        """Return what to send, given all that is to be said about an object now.

        Errors and warnings only. A finding that stays is told again twice an hour, as the API forgets Events after
        one; one that was gone and comes back is told again within the object's rate.
        """
        of_code: dict[str, list[Finding]] = {}
        for item in dict.fromkeys(findings):
            if item.severity is not Severity.INFO:
                of_code.setdefault(item.code, []).append(item)
        told = {notice.name: notice for notice in (_notice(ref, uid, api_version, same) for same in of_code.values())}
        known = self._objects.get(uid)
        if known is None:
            if not told:
                return ()
            known = self._objects[uid] = _OfObject(_BURST, now)
        known.tokens = min(_BURST, known.tokens + (now - known.at) / _REFILL)
        known.at = now
        return tuple(self._due(known, told, now))

    def _due(self, known: _OfObject, told: dict[str, Notice], now: float) -> Iterable[Notice]:
        for name, seen in list(known.seen.items()):
            if name not in told:
                seen.present = False
                if not seen.count:
                    del known.seen[name]
        for name, notice in told.items():
            seen = known.seen.setdefault(name, _Seen(now))
            if not seen.present:
                seen.since, seen.present = now, True
            if seen.count and seen.at >= seen.since and now - seen.at < _AGAIN:
                continue
            if now - seen.since < self._settle:
                self.unsettled = True
                continue
            if known.tokens < 1:
                continue  # it is looked at again, and told when the object may speak again
            known.tokens -= 1
            seen.count, seen.at = seen.count + 1, now
            yield Notice(notice.ref, notice.uid, notice.api_version, name, notice.reason, notice.note, seen.count)
        while len(known.seen) > 10 * _BURST:
            del known.seen[next(iter(known.seen))]

    def forget(self, uids: Iterable[str]) -> None:
        """Forget objects that are gone."""
        for uid in uids:
            self._objects.pop(uid, None)


def _notice(ref: Ref, uid: str, api_version: str, same: list[Finding]) -> Notice:
    """Make the Event of all findings of one code: the first one's words, and how many there are."""
    item = same[0]
    where = f"{item.field}: " if item.field else ""
    more = f" ({len(same) - 1} more like this.)" if len(same) > 1 else ""
    note = cut(f"{item.code}: {where}{item.message.rstrip('.')}.{more} {item.hint}")
    digest = blake2b(f"{uid} {item.code} {note}".encode(), digest_size=8).hexdigest()
    return Notice(ref, uid, api_version, f"{ref.name[:200].rstrip('.-')}.{digest}", item.name, note)


def cut(text: str) -> str:
    """Return text as a note: printable, and no longer than the API takes, whatever its characters weigh."""
    whole = printable(text).encode()
    if len(whole) <= NOTE_BYTES:
        return whole.decode()
    return whole[: NOTE_BYTES - 3].decode(errors="ignore") + "..."
