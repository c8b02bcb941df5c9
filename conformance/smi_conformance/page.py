"""A report as one page of HTML: no network, no script that is needed, readable on paper.

A matrix of cases by version, what was observed, and where in the specification the rule stands. What nobody claims is
there for information: what failed of it is told, but not as a failure of the whole.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from html import escape
from typing import Any

from smi_conformance import catalog, tally

_MARKS = {
    "passed": "✓",
    "failed": "✗",
    "skipped": "-",
    "notSupported": "·",
    "notServed": "∅",
    "observed": "◦",
    "error": "!",
}
_STYLE = """
:root{color-scheme:light dark;--good:#15803d;--bad:#b91c1c;--dim:#666;--seen:#6d28d9;--link:#0645ad}
@media(prefers-color-scheme:dark){:root{--good:#4ade80;--bad:#f87171;--dim:#a3a3a3;--seen:#a78bfa;--link:#8ab4f8}}
@media(prefers-color-scheme:dark){body{background:#121212;color:#eee}}a{color:var(--link)}
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.15rem;margin:2rem 0 .5rem}table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.25rem .5rem;border-bottom:1px solid #8884;vertical-align:top}
td:first-child{white-space:nowrap}.m{text-align:center;width:4.5rem}.unclaimed{color:var(--dim);font-weight:700}
.passed{color:var(--good)}.failed,.error{color:var(--bad);font-weight:700}.skipped,.notSupported,.notServed{color:var(--dim)}
.observed{color:var(--seen)}code{font-size:.9em}small{color:var(--dim)}details{margin:.15rem 0}summary{cursor:pointer}
.card{display:inline-block;border:1px solid #8886;border-radius:.4rem;padding:.5rem .8rem;margin:.3rem .5rem .3rem 0}
pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:.2rem 0;font-size:.85em}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem;margin:0}dt{color:var(--dim)}dd{margin:0}
@media(max-width:46rem){body{margin:1rem auto}.cases tr{display:flex;flex-wrap:wrap;border-bottom:1px solid #8884}
.cases td,.cases th{border:0;width:3.2rem;padding:.15rem .25rem}.cases th{font-size:.7em}
.cases td:last-child,.cases th:last-child{flex:0 0 100%;width:auto}
dl{grid-template-columns:1fr}dd{margin:0 0 .3rem 1rem}}
"""


def page(report: Mapping[str, Any]) -> str:
    """Return the page."""
    who, suite = report["implementation"], report["suite"]
    title = f"{who['project']} {who['version']}: SMI conformance"
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width,initial-scale=1'>",
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f"<h1>{escape(title)}</h1><p>{escape(who['organization'])}, ",
        f"<a href='{escape(who['url'])}'>{escape(who['url'])}</a>",
        f" · {escape(report['date'])} · harness {escape(report['environment']['harness'])}",
        f" · suite {escape(suite['version'])}, specification {escape(suite['specVersion'])}",
        f"</p><p>{_standing(report)}</p>",
        "".join(_card(report, profile) for profile in report["profiles"]),
        _matrix(report),
        f"<h2>Settings</h2>{_said(report['settings'])}",
        f"<h2>Environment</h2>{_said(report['environment'])}</html>\n",
    ]
    return "".join(parts)


def _standing(report: Mapping[str, Any]) -> str:
    """Return whether the report can be handed in, which says nothing of how well it looks, and why it can't be."""
    if report["submittable"]:
        return "<b>Submittable</b>: complete, without errors, and every claimed feature verified."
    known = report["suite"]["catalogDigest"] == catalog.digest()
    reasons = tally.hindrances(tally.basis_of(report)) if known else ["made with another catalogue"]
    return f"<b>Not submittable</b>: {escape('; '.join(reasons))}."


def _said(fields: Mapping[str, Any]) -> str:
    """Return settings as text: a name and what it is."""
    rows = (f"<dt>{escape(name)}<dd>{escape(_words(value)) or 'none'}" for name, value in fields.items())
    return f"<dl>{''.join(rows)}</dl>"


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {_words(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(_words(item) for item in value)
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _card(report: Mapping[str, Any], profile: Mapping[str, Any]) -> str:
    claimed = tally.is_claimed(report, profile["name"])
    levels = {name: profile[name] for name in ("core", "extended") if name in profile}
    name = next((name for name, level in levels.items() if level["result"] != "notRun"), "core")  # some have no core
    result = str(levels[name]["result"])
    kind = {"success": "passed", "failure": "failed"}.get(result, "skipped") if claimed else "unclaimed"
    failed = [case for level in levels.values() for case in level.get("failedCases", ())]
    links = ", ".join(f"<a href='#{escape(case.partition('[')[0])}'>{escape(case)}</a>" for case in failed)
    verified = escape(", ".join(profile.get("verifiedFeatures", ())))
    more = [f"failed: {links}"] if links else []
    more += [f"verified: {verified}"] if verified else []
    words = escape(result if name == "core" else f"{name} {result}")
    return (
        f"<div class=card><b>{escape(profile['name'])}</b> <span class={kind}>{words}</span>"
        + ("" if claimed else " · not claimed, for information")
        + f"<br>{escape(profile.get('summary', ''))}"
        + "".join(f"<br><small>{line}</small>" for line in more)
        + "</div>"
    )


def _matrix(report: Mapping[str, Any]) -> str:
    rows: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in report["cases"]:
        rows[row["id"]].append(row)
    versions = sorted({row.get("apiVersion", "") for row in report["cases"]})
    head = "".join(f"<th class=m>{escape(version)}" for version in versions)
    out = ["<h2>Cases</h2><table class=cases><tr><th>Case", head, "<th>Rule, source, and what was observed"]
    entries = catalog.entries()
    for name in [name for name in entries if name in rows]:
        claimed = any(tally.is_claimed(report, profile) for profile in entries[name].profiles)
        out.append(f"<tr id={name}><td><a href='#{name}'>{name}</a>")
        for version in versions:
            found = [row for row in rows[name] if row.get("apiVersion") == version]
            out.append(f"<td class=m>{''.join(_mark(row, claimed=claimed) for row in found)}")
        out.append(f"<td>{escape(entries[name].rule)} {_sources(entries[name])}{_details(rows[name])}")
    legend = " ".join(f"<span class={name}>{mark} {name}</span>" for name, mark in _MARKS.items())
    return "".join(out) + f"</table><p><small>{legend}</small></p>"


def _mark(row: Mapping[str, Any], *, claimed: bool) -> str:
    result = str(row["result"])
    kind, more = (result, "") if claimed or result != "failed" else ("unclaimed", ", of a profile that is not claimed")
    return f"<span class={kind} title='{escape(row['level'])}: {escape(result)}{more}'>{_MARKS[result]}</span>"


def _sources(entry: catalog.Entry) -> str:
    said = []
    for check in entry.checks:
        only = entry.only(check)
        links = [f"<a href='{escape(url)}'>{escape(words)}</a>" for words, url in check.links]
        level = f"{check.level} ({only})" if only else check.level
        said.append(f"{level}: {', '.join(links) or 'the specification is silent'}")
    return f"<br><small>{' · '.join(said)}</small>"


def _details(rows: list[Mapping[str, Any]]) -> str:
    """Return what was observed, folded up; why something did not go well is there to be read."""
    lines, bad = [], False
    for row in rows:
        said = {key: row[key] for key in ("observed", "readings", "timeToConsistencyMs") if row.get(key)}
        words = [escape(str(row["reason"]))] if row.get("reason") else []
        words += [escape(json.dumps(said, ensure_ascii=False))] if said else []
        if words:
            text = "\n".join(words)
            lines.append(f"<pre>{escape(row.get('apiVersion', ''))} {escape(row['level'])}: {text}</pre>")
            bad = bad or row["result"] in {"failed", "error"}
    fold = "<details open>" if bad else "<details>"
    return f"{fold}<summary><small>observed</small></summary>{''.join(lines)}</details>" if lines else ""
