"""The files of what a run is expected to fail and to observe: read and checked before anything is run.

A name in them that nothing has would switch an expectation off without a word, so it is a mistake, as is a pattern that
does not compile. A known failure says how it fails: another failure of the same case is none that is known.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from smi_conformance import catalog, report, written
from smi_conformance.runner import Instance, instances

Failures = Mapping[str, re.Pattern[str]]
Readings = Mapping[str, Mapping[str, Any]]
_ANY = re.compile("")


class ExpectationError(ValueError):
    """A file can't be used; the message says where and why."""


def failures(path: str) -> Failures:
    """Read a list of `TS-02[v1alpha4]`, or `TS-02[v1alpha4]: what its reason matches`."""
    raw = _loaded(path, list, "list")
    names = {item.id for item in instances()}
    found: dict[str, re.Pattern[str]] = {}
    for item in raw:
        name, pattern = next(iter(item.items())) if isinstance(item, dict) and len(item) == 1 else (item, "")
        if not isinstance(name, str) or not isinstance(pattern, str):
            raise ExpectationError(f"{path}: {item!r} is neither a name, such as TS-02[v1alpha4], nor one and a text")
        if name not in names:
            raise ExpectationError(f"{path}: there is no {name!r}; a name is an id with a version: TS-02[v1alpha4]")
        try:
            found[name] = re.compile(pattern) if pattern else _ANY
        except re.error as error:
            raise ExpectationError(f"{path}: {name}: {pattern!r} is no regular expression: {error}") from error
    return found


def readings(path: str) -> Readings:
    """Read a mapping of ids (or ids with a version) to what is read there."""
    raw: dict[str, dict[str, Any]] = _loaded(path, dict, "mapping")
    known = {entry.id: entry for entry in catalog.entries().values()}
    known |= {Instance(entry, version).id: entry for entry in known.values() for version in entry.versions}
    for name, wanted in raw.items():
        if name not in known:
            raise ExpectationError(f"{path}: there is no {name!r}; a name is an id: TS-35, or TS-35[v1alpha4]")
        if not isinstance(wanted, dict):
            raise ExpectationError(f"{path}: {name}: {wanted!r} is no mapping of readings")
        keys = {key for check in known[name].checks for key in check.readings}
        for key, value in wanted.items():
            if key not in keys:
                there = ", ".join(sorted(keys)) or "nothing: it has no readings"
                raise ExpectationError(f"{path}: {name}: unknown {key!r}; known: {there}")
            if not isinstance(value, str | int) or isinstance(value, bool):
                raise ExpectationError(f"{path}: {name}: {key}: {value!r} is no text (YAML takes a bare yes for true)")
    return raw


def _loaded(path: str, kind: type, word: str) -> Any:
    try:
        found = written.read(Path(path))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ExpectationError(f"{path}: {error}") from error
    if not isinstance(found if found is not None else kind(), kind):
        raise ExpectationError(f"{path}: is no {word}")
    return found or kind()


def surprises(made: report.Report, failed: Mapping[str, str], known: Failures) -> Iterator[str]:
    """Return what is not as the list of known failures says, a line for each.

    `failed` has the reason of each failure.
    """
    for name, reason in sorted(failed.items()):
        if name not in known:
            yield f"failed, and is no known failure: {name}"
        elif not known[name].search(reason):
            yield f"failed, but not as it is known to ({known[name].pattern}): {name}: {reason}"
    passed = {f"{row['id']}[{row['apiVersion']}]" for row in made["cases"] if row["result"] == "passed"}
    for name in sorted((known.keys() & passed) - failed.keys()):
        yield f"a known failure that passes now, to be taken off the list: {name}"
