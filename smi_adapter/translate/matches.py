"""Pass `matches`: what each HTTPRouteGroup matches, in the words of the mesh.

The profile decides here, and only here, how much of a path or header a regex must cover (R1, R3). A match with an
unusable part is kept by name but matches nothing; the others of its group stand (R4).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from smi_adapter import regex
from smi_adapter.findings import Finding, finding
from smi_adapter.mesh import Anchor, HeaderMatch, Match, Pattern
from smi_adapter.smi.objects import HTTPMatch, HTTPRouteGroup, Key
from smi_adapter.snapshot import Profile
from smi_adapter.translate.incremental import Outcome
from smi_adapter.translate.parts import NamedMatch
from smi_adapter.translate.view import View

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")
_SAYS_HOW_IT_ENDS = re.compile(r"(?s:.*?)(?<!\\)(?:\\\\)*(?:\$|\.[*+]|\\z)")


def compute(view: View, key: Key) -> Outcome[tuple[NamedMatch, ...]]:
    """Read every match of a group."""
    group = view.route_groups.get(key)
    if group is None:
        return (), ()
    notes: list[Finding] = []
    return tuple(_named(group, index, view.options.profile, notes) for index in range(len(group.matches))), tuple(notes)


def _named(group: HTTPRouteGroup, index: int, profile: Profile, notes: list[Finding]) -> NamedMatch:
    written = group.matches[index]
    field = f"spec.matches[{index}]"
    if written.unusable:  # decoding told why
        return NamedMatch(written.name, field, None)
    problems = list(_problems(written))
    notes.extend(finding(code, group.ref, f"{field}.{part}", text) for code, part, text in problems)
    if problems:
        return NamedMatch(written.name, field, None)
    path_anchor = Anchor.WHOLE if profile is Profile.OSM else Anchor.START
    header_anchor = Anchor.SEARCH if profile in {Profile.TRAEFIK, Profile.NSM} else Anchor.WHOLE
    path = None if written.path_regex is None else Pattern(written.path_regex, path_anchor)
    headers = {HeaderMatch(name.lower(), Pattern(text, header_anchor)) for name, text in written.headers}
    match = Match(
        path=path,
        methods=() if "*" in written.methods else tuple(sorted(set(written.methods))),
        headers=tuple(sorted(headers, key=lambda header: (header.name, header.pattern.text))),
        origin=group.ref,
        label=written.name,
    )
    return NamedMatch(written.name, field, match, path is not None and _open_ended(path))


def _problems(written: HTTPMatch) -> Iterator[tuple[str, str, str]]:
    """Yield (code, field, words) for each part that makes a match unusable (R4, R7)."""
    if written.path_regex is not None:
        reason = regex.verdict(written.path_regex)
        if reason:
            yield "SMI0201", "pathRegex", f"{_short(written.path_regex)}: {reason}"
    for name, text in written.headers:
        if name.startswith(":") or name.lower() == "host":
            yield "SMI0203", "headers", f"{_short(name)} cannot be filtered"
        elif not _TOKEN.fullmatch(name.lower()):
            yield "SMI0203", "headers", f"{_short(name)} is not the name of a header"
        reason = regex.verdict(text)
        if reason:
            yield "SMI0201", f"headers.{name}", f"{_short(text)}: {reason}"


def _open_ended(path: Pattern) -> bool:
    """Tell whether a path is open at its end without saying so; `.*` at the end says so (R1)."""
    return path.anchor is Anchor.START and _SAYS_HOW_IT_ENDS.fullmatch(path.text) is None


def _short(text: str) -> str:
    return ascii(text if len(text) <= 80 else f"{text[:77]}...")
