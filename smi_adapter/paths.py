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
_ESCAPED_AS_SENT = {character: f"%{ord(character):02X}" for character in '"<>^`{|}'}
_DOT_WITH_PARAMETERS = re.compile(r"(\.\.?);")


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
    if "%00" in _without_parameters(bare):
        return "the path holds an escaped NUL"
    return ""


def normalised(path: str) -> str:
    """Return what rules see of a path that is not refused: no query, one way to write it.

    Doing it twice can go further than doing it once (`%2e%2e;x`), and a request passes two proxies.
    """
    return _merged(_resolved(_unescaped(_without_parameters(path.partition("?")[0]).replace("\\", "/"))))


def _without_parameters(path: str) -> str:
    """Read a segment `..;a=b` as `..`, as many servers do."""
    found = ((_DOT_WITH_PARAMETERS.match(segment), segment) for segment in path.split("/"))
    return "/".join(match.group(1) if match else segment for match, segment in found)


def _unescaped(text: str) -> str:
    """Undo the escaping of characters that never need it, and escape a few that do; `%252e` stays as it is.

    A percent sign that begins no escape must not become one by what is undone behind it: `%2%41` is `%252A`.
    """
    out: list[str] = []
    stray = -3
    at = 0
    while at < len(text):
        escape = _ESCAPE.match(text, at)
        if escape is None:
            if text[at] == "%":
                stray = len(out)
            out.extend(_ESCAPED_AS_SENT.get(text[at], text[at]))
            at += 1
            continue
        at = escape.end()
        if int(escape.group(1), 16) not in _UNRESERVED:
            out.extend(escape.group(0))
            continue
        out.append(chr(int(escape.group(1), 16)))
        if stray >= len(out) - 3 and _ESCAPE.match("".join(out[stray:])):
            out[stray + 1 : stray + 1] = "25"
    return "".join(out)


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


def _merged(text: str) -> str:
    """Merge repeated slashes; a path of nothing else keeps two, the one at its start and the one at its end."""
    if "//" not in text:
        return text
    return "/" + "/".join(segment for segment in text.split("/") if segment) + ("/" if text.endswith("/") else "")
