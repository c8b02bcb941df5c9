"""How a neutral Match is said to Envoy, in its two dialects: a route's and a permission's.

Both use RE2 over the whole value, so a pattern that need not cover it is wrapped. Paths are matched without their
query: by `safe_regex` of a route, by `url_path` in a permission, never by the header `:path` (envoy.md section 9).
"""

from __future__ import annotations

import string
from typing import Final

from smi_adapter.backends.envoy.messages import Fields
from smi_adapter.mesh import Anchor, HeaderMatch, Match, Pattern
from smi_adapter.regex import PREFIX, SEARCH

ANY_PERMISSION: Final[Fields] = {"any": True}
_ANY_PATH: Final[Fields] = {"prefix": "/"}
_PLAIN: Final = frozenset(string.ascii_letters + string.digits)


def regex(pattern: Pattern) -> Fields:
    """Return a matcher that Envoy's full match makes mean what the pattern's anchor says."""
    if pattern.anchor is Anchor.START:
        return {"regex": PREFIX.format(pattern.text)}
    if pattern.anchor is Anchor.SEARCH:
        return {"regex": SEARCH.format(pattern.text)}
    return {"regex": pattern.text}


def route_match(match: Match | None) -> Fields:
    """Return a route's match; None and an empty Match mean every request."""
    if match is None:
        return _ANY_PATH
    headers = [header(item) for item in match.headers]
    if match.methods:
        headers.insert(0, {"name": ":method", "string_match": _one_of(match.methods)})
    path: Fields = _ANY_PATH if match.path is None else {"safe_regex": regex(match.path)}
    return {**path, "headers": headers} if headers else path


def permission(match: Match) -> Fields:
    """Return an RBAC permission; an empty Match permits every request (R6)."""
    parts: list[Fields] = []
    if match.path is not None:
        parts.append({"url_path": {"path": {"safe_regex": regex(match.path)}}})
    if match.methods:
        methods = [{"header": {"name": ":method", "string_match": {"exact": method}}} for method in match.methods]
        parts.append(methods[0] if len(methods) == 1 else {"or_rules": {"rules": methods}})
    parts.extend({"header": header(item)} for item in match.headers)
    if not parts:
        return ANY_PERMISSION
    return parts[0] if len(parts) == 1 else {"and_rules": {"rules": parts}}


def header(match: HeaderMatch) -> Fields:
    """Return a header matcher; a header that is absent does not match (R7)."""
    return {"name": match.name, "string_match": {"safe_regex": regex(match.pattern)}}


def _one_of(methods: tuple[str, ...]) -> Fields:
    """Return a matcher for any of these methods: a route's header matchers are ANDed, so it takes one regex."""
    if len(methods) == 1:
        return {"exact": methods[0]}
    return {"safe_regex": {"regex": "|".join(_quoted(method) for method in methods)}}


def _quoted(text: str) -> str:
    return "".join(letter if letter in _PLAIN else f"\\{letter}" for letter in text)
