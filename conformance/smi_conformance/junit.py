"""Outcomes as JUnit XML: what CI systems show. Of a repeated run the worst of each case, as in the report."""

from __future__ import annotations

import re
from collections.abc import Iterable
from xml.sax.saxutils import escape, quoteattr

from smi_conformance.runner import Outcome

_TAGS = {
    "failed": "failure",
    "error": "error",
    "skipped": "skipped",
    "notServed": "skipped",
    "notSupported": "skipped",
}
_FORBIDDEN = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(outcomes: Iterable[Outcome]) -> str:
    """Return the document."""
    rows = sorted(outcomes, key=lambda outcome: outcome.instance.id)
    counts = {tag: sum(_TAGS.get(row.worst) == tag for row in rows) for tag in ("failure", "error", "skipped")}
    took = sum(row.milliseconds for row in rows) / 1000
    head = (
        f'name="smi-conformance" tests="{len(rows)}" failures="{counts["failure"]}" errors="{counts["error"]}" '
        f'skipped="{counts["skipped"]}" time="{took:.3f}"'
    )
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<testsuites>", f"<testsuite {head}>"]
    return "\n".join([*lines, *(_case(row) for row in rows), "</testsuite>", "</testsuites>", ""])


def _case(row: Outcome) -> str:
    name, group = quoteattr(row.instance.id), quoteattr(f"smi_conformance.{row.instance.entry.profiles[0]}")
    start = f'<testcase classname={group} name={name} time="{row.milliseconds / 1000:.3f}"'
    tag = _TAGS.get(row.worst)
    if tag is None:
        return f"{start}/>"
    said = "\n".join(f"{item.level}: {item.reason}" for item in row.verdicts if item.result == row.worst)
    message = quoteattr(_FORBIDDEN.sub("?", row.reason), {"\n": "&#10;"})
    return f"{start}><{tag} message={message}>{escape(_FORBIDDEN.sub('?', said))}</{tag}></testcase>"
