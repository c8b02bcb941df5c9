"""The one place that compiles a user's regular expression, in the proxies' own dialect: RE2.

Python's `re` gives the opposite verdict on about half of real patterns and can be made to run for hours, so it never
judges or matches a user's pattern (docs/adr: RE2 only). A leaf module: pure, used by schema checks, the translator,
the evaluator and backends. Facts: envoy.md section 9, "Regular expressions"; limits: security.md section 11.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import re2

MAX_BYTES = 1024
MAX_PROGRAM_SIZE = 1024
"""Also the bootstrap's `re2.max_program_size.error_level`: the proxy must accept what we accept."""

PREFIX = "(?:{})(?s:.*)"
SEARCH = "(?s:.*)(?:{})(?s:.*)"
ANCHORS: Mapping[str, str] = MappingProxyType({"whole": "{}", "start": PREFIX, "search": SEARCH})
"""How a proxy, which always matches a whole value, is told how much of it the author's text must cover."""


def _options() -> Any:
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.log_errors = False
    return options


@lru_cache(maxsize=8192)
def _compile(pattern: str) -> Any:
    return re2.compile(pattern.encode(), _options())


@lru_cache(maxsize=8192)
def verdict(text: str) -> str:
    """Return "" if the pattern is usable, else why not, in words.

    The author's text is compiled alone first and then in the widest wrapping that any anchoring needs: text that is
    valid only in one of the two is refused (security.md D8).
    """
    if not text:
        return "it is empty"
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        return f"it is longer than {MAX_BYTES} bytes"
    if any(ord(character) < 0x20 or 0xD800 <= ord(character) <= 0xDFFF for character in text):
        return "it holds control characters"
    for form in (text, anchored(text, "search")):
        try:
            program = _compile(form)
        except (re2.error, UnicodeError) as error:
            reason = error.args[0] if error.args else error
            return f"RE2 says: {reason.decode(errors='replace') if isinstance(reason, bytes) else reason}"
        if program.programsize > MAX_PROGRAM_SIZE:
            return f"its program size {program.programsize} is over {MAX_PROGRAM_SIZE}"
    return ""


def whole(pattern: str, value: str) -> bool:
    """Tell whether a valid pattern covers the whole value, as a proxy's full match does."""
    return _compile(pattern).fullmatch(value.encode("utf-8", "surrogateescape")) is not None


def anchored(text: str, anchor: str) -> str:
    """Return the text as a proxy is to be given it; `anchor` is `whole`, `start` or `search`."""
    return ANCHORS[anchor].format(text)


def matches(text: str, anchor: str, value: str) -> bool:
    """Tell whether a proxy that is given the valid text with that anchoring matches the value."""
    return whole(anchored(text, anchor), value)
