"""What one proxy makes of a request's path before any rule sees it.

R2 of the semantics matches "after normalisation", so the oracle has to know that normalisation: dot segments are
resolved, repeated slashes merged, escaped slashes refused. This module restates what Envoy 1.40 does with
`normalize_path`, `merge_slashes` and refused escaped slashes; `test_paths.py` compares it with the real one. A request
passes two proxies, the caller's and the server's, so it is normalised twice, and that is not the same as once:
`/a/%2e%2e;/b` leaves the first one as `/a/..;/b` and the second one as `/b`.
"""

import re

UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
ALWAYS_ESCAPED = frozenset('"<>^`{|}')


def forwarded(target: str) -> str | None:
    """Return the request target as the proxy sends it on, or None where it answers 400.

    Not restated: percent signs that begin no escape next to escapes that decode (`/%2%41`); no world contains them.
    """
    if "#" in target or not all("!" <= char <= "~" for char in target):
        return None
    path, mark, query = target.partition("?")
    if re.search("%(2f|5c)", path, re.IGNORECASE):
        return None
    # `..;x=y` is a dot segment with a parameter, which ends at a slash, never at a backslash; what it held is gone.
    path = "/".join(re.sub(r"^(\.\.?);.*$", r"\1", segment) for segment in path.split("/"))
    if "%00" in path or not path.startswith("/"):
        return None
    return _merge_slashes(_resolve(path.replace("\\", "/").split("/")[1:])) + mark + query


def text_of(target: str) -> str:
    """Return the part that `pathRegex` is matched against: no query string."""
    return target.partition("?")[0]


def _resolve(segments: list[str]) -> str:
    kept: list[str] = []
    for index, segment in enumerate(segments):
        dots = re.sub("%2e", ".", segment, flags=re.IGNORECASE)
        if dots not in {".", ".."}:
            kept.append(_canonical(segment))
            continue
        if dots == ".." and kept:
            kept.pop()
        if index == len(segments) - 1:
            kept.append("")
    return "/" + "/".join(kept)


def _merge_slashes(path: str) -> str:
    if "//" not in path:
        return path
    # Nothing but slashes becomes two of them, one as the prefix and one as the suffix: so does Envoy.
    return "/" + "/".join(part for part in path.split("/") if part) + ("/" if path.endswith("/") else "")


def _canonical(segment: str) -> str:
    decoded = re.sub("%([0-9A-Fa-f]{2})", _decode_unreserved, segment)
    return "".join(f"%{ord(char):02X}" if char in ALWAYS_ESCAPED else char for char in decoded)


def _decode_unreserved(escape: re.Match[str]) -> str:
    char = chr(int(escape[1], 16))
    return char if char in UNRESERVED else escape[0]
