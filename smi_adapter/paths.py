"""What a proxy makes of a request's path before any rule looks at it (R2), byte for byte as it does.

Rules see the path without its query, with dot segments and repeated slashes resolved, and a request whose path could
be read in two ways gets 400. What stands here was measured on a real Envoy; tests/live compares the two again. A leaf
module: the evaluator answers with it what would happen to a request.
"""

from __future__ import annotations

import re

_ESCAPED_SLASH = re.compile(r"%(?:2[fF]|5[cC])")
_ESCAPE = re.compile(r"%([0-9a-fA-F]{2})")
_VISIBLE = re.compile(r"[!-~]*")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_ESCAPED_AS_SENT = {ord(character): f"%{ord(character):02X}" for character in '"<>^`{|}'}
_DOT_WITH_PARAMETERS = re.compile(r"(\.\.?);")
_SLASHES = re.compile(r"/{2,}")


def refusal(path: str) -> str:
    """Return "" if a proxy accepts this path (with its query), else why it answers 400, in words."""
    if not path.startswith("/"):
        return "the path does not begin with a slash"
    if not _VISIBLE.fullmatch(path):
        return "the path holds a character that must be escaped"
    if "#" in path:
        return "the path holds a fragment"
    bare = path.partition("?")[0]
    if _ESCAPED_SLASH.search(bare):
        return "the path holds an escaped slash (%2F or %5C)"
    if "%00" in bare:
        return "the path holds an escaped NUL"
    return ""


def normalised(path: str) -> str:
    """Return what rules see of a path that is not refused: no query, one way to write it.

    Doing it twice can go further than doing it once (`%2e%2e;x`), and a request passes two proxies.
    """
    segments = path.partition("?")[0].split("/")
    text = "/".join(_without_parameters(segment) for segment in segments)
    text = _ESCAPE.sub(_unescaped, text.replace("\\", "/")).translate(_ESCAPED_AS_SENT)
    return _SLASHES.sub("/", _resolved(text))


def _without_parameters(segment: str) -> str:
    """Read `..;a=b` as `..`, as many servers do."""
    found = _DOT_WITH_PARAMETERS.match(segment)
    return found.group(1) if found else segment


def _unescaped(found: re.Match[str]) -> str:
    """Undo the escaping of a character that never needs it; `%252e` therefore stays as it is."""
    code = int(found.group(1), 16)
    return chr(code) if code in _UNRESERVED else found.group(0)


def _resolved(text: str) -> str:
    """Resolve `.` and `..`; nothing lies above the root, and a directory keeps its slash."""
    kept: list[str] = []
    segments = text.split("/")[1:]
    for index, segment in enumerate(segments):
        last = index == len(segments) - 1
        if segment in {".", ".."}:
            if segment == ".." and kept:
                kept.pop()
            if last:
                kept.append("")
        else:
            kept.append(segment)
    return "/" + "/".join(kept)
