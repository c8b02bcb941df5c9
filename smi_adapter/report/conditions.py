"""From findings to conditions: one rule for each code, in one table, and words for people.

A condition's reason is the name of the worst finding that decides it, so status, Event, log and documentation say the
same word. Everything that nobody put into a table and that is an error makes `Accepted` false: an object of which a
part is left out is not what its author wrote.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from smi_adapter.findings import CODES, Finding, Severity

ACCEPTED: Final = "Accepted"
RESOLVED: Final = "ResolvedRefs"
PROGRAMMED: Final = "Programmed"
PARTIAL: Final = "PartiallyTranslated"
CONFLICTED: Final = "Conflicted"

_UNRESOLVED: Final = frozenset(
    {"SMI0101", "SMI0102", "SMI0103", "SMI0110", "SMI0112", "SMI0301", "SMI0302", "SMI0308", "SMI0401"}
)
"""Something that the object names is not there: `ResolvedRefs` is false."""

_NOT_PROGRAMMED: Final = frozenset(
    {
        "SMI0101", "SMI0102", "SMI0103", "SMI0109", "SMI0112", "SMI0113", "SMI0114",
        "SMI0603", "SMI0604", "SMI0605", "SMI0606", "SMI0701",
    }
)  # fmt: skip
"""What the object asks for is not, or not wholly, in force: `Programmed` is false, whatever proxies acknowledge."""

_PARTIAL: Final = frozenset({"SMI0601", "SMI0602"})
_CONFLICTED: Final = frozenset({"SMI0109"})
_ELSEWHERE: Final = _UNRESOLVED | _PARTIAL | _CONFLICTED | frozenset({"SMI0603", "SMI0604", "SMI0605", "SMI0606"})
"""Codes that another condition tells, though some are errors."""

_MOST_FINDINGS = 3
_LONGEST = 1000


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition without its time, which the writer knows (`timed`)."""

    type: str
    status: bool
    reason: str
    message: str

    def data(self, generation: int) -> dict[str, Any]:
        """Return the condition as Kubernetes has it, without a time."""
        return {
            "type": self.type,
            "status": "True" if self.status else "False",
            "reason": self.reason,
            "message": self.message,
            "observedGeneration": generation,
        }


@dataclass(frozen=True, slots=True)
class ObjectStatus:
    """The status of one object: `observed` is the generation that it speaks of, `backend` who wrote it."""

    observed: int
    backend: str
    conditions: tuple[Condition, ...]

    def data(self, before: Mapping[str, Any], now: float) -> dict[str, Any]:
        """Return the status as it lies in the API; `before` is what lies there now, whose times are kept."""
        whole = [condition.data(self.observed) for condition in self.conditions]
        own = [condition for condition in whole if condition["type"] in {PROGRAMMED, PARTIAL}]
        backends = before.get("backends")
        entries = [item for item in backends if isinstance(item, Mapping)] if isinstance(backends, list) else []
        mine: Mapping[str, Any] = next((item for item in entries if item.get("name") == self.backend), {})
        return {
            "observedGeneration": self.observed,
            "conditions": timed(whole, before.get("conditions"), now),
            "backends": [{"name": self.backend, "conditions": timed(own, mine.get("conditions"), now)}],
        }

    def condition(self, kind: str) -> Condition:
        """Return the condition of a type."""
        return next(condition for condition in self.conditions if condition.type == kind)


def timed(conditions: Sequence[Mapping[str, Any]], before: object, now: float) -> list[dict[str, Any]]:
    """Give each condition its lastTransitionTime: the old one unless its status has changed."""
    items = [item for item in before if isinstance(item, Mapping)] if isinstance(before, list) else []
    known = {str(item.get("type")): item for item in items}  # of a foreign CRD it may be anything
    moment = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    made: list[dict[str, Any]] = []
    for condition in conditions:
        old = known.get(condition["type"], {})
        kept = old.get("lastTransitionTime") if old.get("status") == condition["status"] else None
        made.append({**condition, "lastTransitionTime": kept if isinstance(kept, str) and kept else moment})
    return made


def conditions_of(findings: Iterable[Finding], programmed: Condition) -> tuple[Condition, ...]:
    """Return the five conditions of an object; `programmed` is what its proxies say, which findings overrule."""
    found = tuple(item for item in findings if item.severity is not Severity.INFO)
    refused = tuple(item for item in found if item.severity is Severity.ERROR and item.code not in _ELSEWHERE)
    return (
        _unless(refused, ACCEPTED, "Accepted", "The object is valid and in use."),
        _unless(_of(found, _UNRESOLVED), RESOLVED, "ResolvedRefs", "Everything that the object names is there."),
        _overruled(found, refused, programmed),
        _if(_of(found, _PARTIAL), PARTIAL, "FullyTranslated", "The backend can do all that the object asks for."),
        _if(_of(found, _CONFLICTED), CONFLICTED, "NoConflict", "No other object takes its place."),
    )


def _overruled(found: tuple[Finding, ...], refused: tuple[Finding, ...], programmed: Condition) -> Condition:
    """Say why the object is not in force: its findings first, as waiting for proxies would never end then."""
    deciding = _of(found, _NOT_PROGRAMMED)
    if deciding:
        return Condition(PROGRAMMED, False, deciding[0].name, words(deciding))
    if refused and not programmed.status:
        return Condition(PROGRAMMED, False, refused[0].name, words(refused))
    return programmed


def _of(found: tuple[Finding, ...], codes: frozenset[str]) -> tuple[Finding, ...]:
    return tuple(item for item in found if item.code in codes)


def _unless(found: tuple[Finding, ...], kind: str, reason: str, message: str) -> Condition:
    return Condition(kind, False, found[0].name, words(found)) if found else Condition(kind, True, reason, message)


def _if(found: tuple[Finding, ...], kind: str, reason: str, message: str) -> Condition:
    return Condition(kind, True, found[0].name, words(found)) if found else Condition(kind, False, reason, message)


def words(found: Sequence[Finding]) -> str:
    """Return a sentence for each finding, with its code and field: the first few, and how many more there are."""
    said = [_sentence(item) for item in found[:_MOST_FINDINGS]]
    if len(found) > _MOST_FINDINGS:
        said.append(f"And {len(found) - _MOST_FINDINGS} more.")
    text = " ".join(said)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _sentence(item: Finding) -> str:
    message = item.message.rstrip(".") or CODES[item.code].cause.rstrip(".")
    return f"{item.code}: {item.field}: {message}." if item.field else f"{item.code}: {message}."
