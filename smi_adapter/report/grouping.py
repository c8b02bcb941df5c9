"""Findings by object, kept up to date at the cost of what is new in them.

The stages keep their findings in tables of tuples that are shared from one state to the next, so what changed is found
by identity. Findings that come loose (from proxies, from the backend) are few and are compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeAlias

from smi_adapter.findings import Finding, Ref, by_severity_then_object

Tables: TypeAlias = Mapping[str, Mapping[Any, tuple[Finding, ...]]]
"""The findings of each stage by whatever it looked at."""

_LOOSE: Final = ("", "")


class Grouped:
    """The findings of each object."""

    def __init__(self) -> None:
        self._tables: Tables = {}
        self._loose: dict[Ref, tuple[Finding, ...]] = {}
        self._of: dict[Ref, dict[tuple[str, Any], tuple[Finding, ...]]] = {}

    def update(self, tables: Tables, loose: Iterable[Finding]) -> Iterator[Ref]:
        """Take the findings of now; yield each object whose findings differ, at once, so that the caller may pause."""
        before, self._tables = self._tables, dict(tables)
        for name in before.keys() | tables.keys():
            old, new = before.get(name, {}), tables.get(name, {})
            if old is new:
                continue
            for key, found in new.items():
                known = old.get(key, ())
                if known is not found:
                    yield from self._replace((name, key), known, found)
            for key in old.keys() - new.keys():
                yield from self._replace((name, key), old[key], ())
        yield from self._take_loose(loose)

    def of(self, ref: Ref) -> tuple[Finding, ...]:
        """Return the findings of an object, each once, the worst first."""
        places = self._of.get(ref)
        if places is None:
            return ()
        return tuple(sorted({item for found in places.values() for item in found}, key=by_severity_then_object))

    def _take_loose(self, loose: Iterable[Finding]) -> Iterator[Ref]:
        before, self._loose = self._loose, _by_object(loose)
        for ref in before.keys() | self._loose.keys():
            found = self._loose.get(ref, ())
            if before.get(ref, ()) != found:
                self._put(_LOOSE, ref, found)
                yield ref

    def _replace(
        self, place: tuple[str, Any], before: tuple[Finding, ...], after: tuple[Finding, ...]
    ) -> Iterator[Ref]:
        old, new = _by_object(before), _by_object(after)
        for ref in old.keys() | new.keys():
            found = new.get(ref, ())
            if old.get(ref, ()) != found:
                self._put(place, ref, found)
                yield ref

    def _put(self, place: tuple[str, Any], ref: Ref, found: tuple[Finding, ...]) -> None:
        places = self._of.setdefault(ref, {})
        if found:
            places[place] = found
            return
        places.pop(place, None)
        if not places:
            del self._of[ref]


def _by_object(findings: Iterable[Finding]) -> dict[Ref, tuple[Finding, ...]]:
    made: dict[Ref, tuple[Finding, ...]] = {}
    for item in findings:
        made[item.subject] = (*made.get(item.subject, ()), item)
    return made
