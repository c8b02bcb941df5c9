"""A report as one page of HTML: no network, no script that is needed, readable on paper.

A matrix of cases by version, what was observed, and where in the specification the rule stands.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from html import escape
from typing import Any

from smi_conformance import catalog

_SOURCE = "https://github.com/servicemeshinterface/smi-spec/blob/cc4babd/apis/"
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
:root{color-scheme:light dark}body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.15rem;margin:2rem 0 .5rem}table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.25rem .5rem;border-bottom:1px solid #8884;vertical-align:top}
td.m{text-align:center;width:4.5rem}
.passed{color:#15803d}.failed,.error{color:#b91c1c;font-weight:700}.skipped,.notSupported,.notServed{color:#777}
.observed{color:#6d28d9}code{font-size:.9em}small{color:#777}details{margin:.15rem 0}summary{cursor:pointer}
.card{display:inline-block;border:1px solid #8886;border-radius:.4rem;padding:.5rem .8rem;margin:.3rem .5rem .3rem 0}
pre{white-space:pre-wrap;margin:.2rem 0;font-size:.85em}
"""


def page(report: Mapping[str, Any]) -> str:
    """Return the page."""
    who, suite = report["implementation"], report["suite"]
    title = f"{who['project']} {who['version']}: SMI conformance"
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title><style>{_STYLE}</style>",
        f"<h1>{escape(title)}</h1><p>{escape(who['organization'])}, ",
        f"<a href='{escape(who['url'])}'>{escape(who['url'])}</a>",
        f" · {escape(report['date'])} · harness {escape(report['environment']['harness'])}",
        f" · suite {escape(suite['version'])}, specification {escape(suite['specVersion'])}",
        f" · {'submittable' if report['submittable'] else 'not submittable'}</p>",
        "".join(_card(profile) for profile in report["profiles"]),
        _matrix(report),
        "<h2>Settings</h2><pre>",
        escape(json.dumps({"settings": report["settings"], "environment": report["environment"]}, indent=1)),
        "</pre></html>\n",
    ]
    return "".join(parts)


def _card(profile: Mapping[str, Any]) -> str:
    kind = {"success": "passed", "failure": "failed"}.get(profile["core"]["result"], "skipped")
    features = ", ".join(profile.get("verifiedFeatures", ()))
    more = f"<br><small>verified: {escape(features)}</small>" if features else ""
    result = escape(profile["core"]["result"])
    return (
        f"<div class=card><b>{escape(profile['name'])}</b> <span class={kind}>{result}</span>"
        f"<br>{escape(profile.get('summary', ''))}{more}</div>"
    )


def _matrix(report: Mapping[str, Any]) -> str:
    rows: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in report["cases"]:
        rows[row["id"]].append(row)
    versions = sorted({row.get("apiVersion", "") for row in report["cases"]})
    head = "".join(f"<th>{escape(version)}" for version in versions)
    out = ["<h2>Cases</h2><table><tr><th>Case", head, "<th>Rule, source, and what was observed"]
    entries = catalog.entries()
    for name in [name for name in entries if name in rows]:
        out.append(f"<tr id={name}><td><a href='#{name}'>{name}</a>")
        for version in versions:
            found = [row for row in rows[name] if row.get("apiVersion") == version]
            marks = "".join(
                f"<span class={row['result']} title='{escape(row['level'])}: {escape(row['result'])}'>"
                f"{_MARKS[row['result']]}</span>"
                for row in found
            )
            out.append(f"<td class=m>{marks}")
        out.append(f"<td>{escape(entries[name].rule)} {_sources(entries[name])}{_details(rows[name])}")
    legend = " ".join(f"<span class={name}>{mark} {name}</span>" for name, mark in _MARKS.items())
    return "".join(out) + f"</table><p><small>{legend}</small></p>"


def _sources(entry: catalog.Entry) -> str:
    links = []
    for check in entry.checks:
        only = entry.only(check)
        level = f"{check.level} ({only})" if only else check.level
        first = check.document.split(",")[0]
        line = check.lines.split(";")[0].split(" ")[0].split("-")[0]
        if first == "silent":
            links.append(f"{level}: the specification is silent")
            continue
        place = (
            f"{first.partition('/')[0]}/{first.partition('/')[2]}/{first.partition('/')[0]}.md" if "/" in first else ""
        )
        url = f"{_SOURCE}{place}#{line}" if place else f"{_SOURCE.removesuffix('apis/')}{first}#{line}"
        links.append(f"{level}: <a href='{escape(url)}'>{escape(check.document)} {escape(check.lines)}</a>")
    return f"<br><small>{' · '.join(links)}</small>"


def _details(rows: list[Mapping[str, Any]]) -> str:
    lines = []
    for row in rows:
        said = {key: row[key] for key in ("reason", "observed", "readings", "timeToConsistencyMs") if row.get(key)}
        if said:
            text = escape(json.dumps(said, ensure_ascii=False))
            lines.append(f"<pre>{escape(row.get('apiVersion', ''))} {escape(row['level'])}: {text}</pre>")
    return f"<details><summary><small>observed</small></summary>{''.join(lines)}</details>" if lines else ""
