"""Compute again only what looked at something that changed.

The translation is a list of steps. A step makes one part for each key of some table (a Service, a TrafficTarget, ...)
and may look at the Snapshot, at relations of it and at the parts of earlier steps, through `Tracked` tables that offer
one look-up and note it. So what a part depends on is recorded, never declared: a dependency cannot be forgotten. The
next translation computes the parts whose looked-up entries changed, in the order of the steps, and stops wherever a
part comes out as it was. Nothing is mutated that an earlier translation can see: tables are copied at their first
change (docs/adr/0018).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from smi_adapter.findings import Finding, Ref, finding
from smi_adapter.overlay import GONE, edited

K = TypeVar("K")
V = TypeVar("V")
K_contra = TypeVar("K_contra", contravariant=True)
V_co = TypeVar("V_co", covariant=True)

Token: TypeAlias = tuple[str, Any]
"""(table, key): something that a part may look at. A part is itself one: (step, key)."""

Node: TypeAlias = tuple[str, Any]
"""(step, key)"""

Outcome: TypeAlias = tuple[V, tuple[Finding, ...]]


class Table(Protocol[K_contra, V_co]):
    """What can be looked up."""

    def get(self, key: K_contra, /) -> V_co | None:
        """Return the entry, or None."""
        ...


class Tracked(Generic[K, V]):
    """A table that notes each look-up, also one that finds nothing. It can't be walked: that would read everything."""

    __slots__ = ("_reads", "_table", "_values")

    def __init__(self, table: str, values: Table[K, V], reads: set[Token]) -> None:
        self._table = table
        self._values = values
        self._reads = reads

    def get(self, key: K) -> V | None:
        """Return the entry, or None."""
        self._reads.add((self._table, key))
        return self._values.get(key)


class Members(Generic[K]):
    """A set that can be looked up like a table."""

    __slots__ = ("_members",)

    def __init__(self, members: Container[K]) -> None:
        self._members = members

    def get(self, key: K, /) -> bool | None:
        """Return True, or None if it is no member."""
        return True if key in self._members else None


class Draft(Generic[K, V]):
    """A mapping with edits on top, so that the translation it came from stays as it was."""

    __slots__ = ("_base", "_edits", "_grown")

    def __init__(self, base: Mapping[K, V]) -> None:
        self._base = base
        self._edits: dict[K, V] = {}
        self._grown = False

    def get(self, key: K, /) -> V | None:
        """Return the entry, or None."""
        if key in self._edits:
            found = self._edits[key]
            return None if found is GONE else found
        return self._base.get(key)

    def put(self, key: K, value: V) -> None:
        """Set an entry."""
        self._grown = self._grown or key not in self._base
        self._edits[key] = value

    def drop(self, key: K) -> None:
        """Remove an entry, if it is there."""
        if key in self._base:
            self._edits[key] = GONE
        else:
            self._edits.pop(key, None)

    def frozen(self, *, ordered: bool = False) -> Mapping[K, V]:
        """Return the result, read-only; `ordered`: by key, so that equal content is also walked equally."""
        if not self._edits:
            return self._base
        result = edited(self._base, self._edits)
        if ordered and self._grown:
            return MappingProxyType(dict(sorted(result.items())))
        return result


class Drafts(dict[str, Draft[Any, Any]]):
    """A draft of each table, made when it is first asked for: a small change touches few of them."""

    def __init__(self, tables: Mapping[str, Mapping[Any, Any]]) -> None:
        super().__init__()
        self._tables = tables

    def __missing__(self, name: str) -> Draft[Any, Any]:
        draft: Draft[Any, Any] = Draft(self._tables.get(name, _EMPTY))
        self[name] = draft
        return draft

    def frozen(self) -> Mapping[str, Mapping[Any, Any]]:
        """Return all tables that are not empty, those that were drafted as they are now."""
        tables = {**self._tables, **{name: draft.frozen() for name, draft in self.items()}}
        return {name: table for name, table in tables.items() if table}


@dataclass(frozen=True, slots=True)
class Step:
    """One pass: a part for each key of `universe`, a table of the Snapshot or a relation.

    `compute(view, key)` returns the part and its findings. If it raises, that is our bug: the part becomes
    `rescue(view, key, last part or None)` and `subject(key)` gets SMI0606 (security D4: routes stay, access closes).
    """

    name: str
    universe: str
    compute: Callable[[Any, Any], Outcome[Any]]
    rescue: Callable[[Any, Any, Any], Any]
    subject: Callable[[Any], Ref]


_EMPTY: Mapping[Any, Any] = MappingProxyType({})


def _empty() -> Mapping[Any, Any]:
    return _EMPTY


@dataclass(frozen=True, slots=True)
class State:
    """What all steps made: parts and findings by step and key, and who looked at what, in both directions.

    Who looked at what are sets, kept as tuples: most have one or two members, and a frozenset of these is four times
    as big.
    `failed` are the parts whose step raised; they are tried again each time.
    """

    parts: Mapping[str, Mapping[Any, Any]] = field(default_factory=_empty)
    findings: Mapping[str, Mapping[Any, tuple[Finding, ...]]] = field(default_factory=_empty)
    reads: Mapping[str, Mapping[Any, tuple[Token, ...]]] = field(default_factory=_empty)
    readers: Mapping[str, Mapping[Any, tuple[Node, ...]]] = field(default_factory=_empty)
    failed: frozenset[Node] = frozenset()


class Run:
    """One translation under way: drafts of the next State."""

    def __init__(self, steps: tuple[Step, ...], state: State) -> None:
        self._state = state
        self._steps = steps
        self.parts = Drafts(state.parts)
        self._findings = Drafts(state.findings)
        self._reads = Drafts(state.reads)
        self._due: defaultdict[str, set[Any]] = defaultdict(set)
        self._gained: defaultdict[Token, set[Node]] = defaultdict(set)
        self._lost: defaultdict[Token, set[Node]] = defaultdict(set)
        self._failed: set[Node] = set()
        self._same: dict[Token, Token] = {}  # one object for all parts that look at the same

    def walk(self, view: Any, universes: Mapping[str, Container[Any]], dirty: Iterable[Token]) -> dict[str, set[Any]]:
        """Bring every part up to date; return the keys whose part changed, by step.

        `dirty` are the entries of the Snapshot and its relations that changed.
        """
        touched: defaultdict[str, set[Any]] = defaultdict(set)
        for table, key in dirty:
            touched[table].add(key)
            self._mark((table, key))
        for step_name, key in self._state.failed:
            self._due[step_name].add(key)
        changed: dict[str, set[Any]] = {}
        for step in self._steps:
            changed[step.name] = set()
            universe = universes[step.universe]
            for key in self._due[step.name] | touched[step.universe]:
                differs = self._compute(step, view, key) if key in universe else self._forget(step, key)
                if differs:
                    changed[step.name].add(key)
                    self._mark((step.name, key))
        return changed

    def _mark(self, token: Token) -> None:
        for step, key in self._state.readers.get(token[0], _empty()).get(token[1], ()):
            self._due[step].add(key)

    def _compute(self, step: Step, view: Any, key: Any) -> bool:
        last = self.parts[step.name].get(key)
        known = self._reads[step.name].get(key)
        view.reads.clear()
        try:
            part, findings = step.compute(view, key)
        except Exception as error:  # noqa: BLE001 - a bug of ours must hurt this one part only (D4)
            part = step.rescue(view, key, last)
            self._failed.add((step.name, key))
            what = f"{step.name}: {type(error).__name__}: {error}"
            findings = (finding("SMI0606", step.subject(key), "", what[:300]),)
        self._note(step.name, key, frozenset(known or ()), view.reads)
        if findings:
            self._findings[step.name].put(key, findings)
        else:
            self._findings[step.name].drop(key)
        if known is not None and part == last:
            return False
        self.parts[step.name].put(key, part)
        return True

    def _forget(self, step: Step, key: Any) -> bool:
        known = self._reads[step.name].get(key)
        if known is None:
            return False
        self._note(step.name, key, frozenset(known), frozenset())
        self._reads[step.name].drop(key)
        self._findings[step.name].drop(key)
        self.parts[step.name].drop(key)
        return True

    def _note(self, step: str, key: Any, before: AbstractSet[Token], after: AbstractSet[Token]) -> None:
        if self._reads[step].get(key) is None or before != after:
            self._reads[step].put(key, tuple(self._same.setdefault(token, token) for token in after))
        reader = (step, key)
        for token in after - before:
            self._gained[token].add(reader)
        for token in before - after:
            self._lost[token].add(reader)

    def state(self) -> State:
        """Return the State of everything computed so far."""
        return State(
            parts=self.parts.frozen(),
            findings=self._findings.frozen(),
            reads=self._reads.frozen(),
            readers=regrouped(self._state.readers, self._gained, self._lost),
            failed=frozenset(self._failed),
        )


def regrouped(
    tables: Mapping[str, Mapping[Any, tuple[Any, ...]]],
    gained: Mapping[Token, set[Any]],
    lost: Mapping[Token, set[Any]],
) -> Mapping[str, Mapping[Any, tuple[Any, ...]]]:
    """Return the tables of sets with some members added and removed; tables that don't change are shared."""
    if not gained and not lost:
        return tables
    drafts: dict[str, Draft[Any, tuple[Any, ...]]] = {}
    equal: dict[AbstractSet[Any], tuple[Any, ...]] = {}  # pods of one owner are read by the same: one set for all
    for table, key in gained.keys() | lost.keys():
        draft = drafts.get(table)
        if draft is None:
            draft = drafts[table] = Draft(tables.get(table, _empty()))
        before = frozenset(draft.get(key) or ())
        members = before - lost.get((table, key), set()) | gained.get((table, key), set())
        if members:
            draft.put(key, equal.setdefault(members, tuple(members)))
        else:
            draft.drop(key)
    merged = {**tables, **{table: draft.frozen() for table, draft in drafts.items()}}
    return MappingProxyType({table: entries for table, entries in merged.items() if entries})
