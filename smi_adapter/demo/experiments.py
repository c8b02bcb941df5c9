"""The three experiments: how each one edits the file, and what has to follow from it in the traffic.

The edits are those that the file's own comments ask the reader for, made on the text, so that the comments stay true.
`expect` looks at counts that clients and servers reported and says in words what is not as it should be.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from smi_adapter.demo.traffic import DENIED, SOLD, Window

PATHS = ("/buy", "/books-bought", "/user", "/order")
SIGMAS = 4.5
"""How far a share may be from its weight: with six shares looked at in a run, chance alone fails one in 25,000."""
LEAST = 20
"""Requests that a window must hold for its shares to mean anything."""

Edit = Callable[[str], str]
Expect = Callable[[Window], list[str]]
Effect = Callable[[Window], bool]


class EditError(ValueError):
    """The file does not hold what the edit is about."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """One edit and what must be seen after it.

    `effect` tells from a moment's traffic that the edit has arrived there; `invite` is how a reader is asked for it.
    """

    name: str
    edit: Edit
    expect: Expect
    effect: Effect = lambda window: bool(window.count())
    invite: str = ""


def set_weights(first: int, second: int) -> Edit:
    """Return the edit that gives v1 and v2 these weights."""

    def edit(text: str) -> str:
        for service, weight in (("bookstore-v1", first), ("bookstore-v2", second)):
            text, found = re.subn(rf"(?m)^(  - {{service: {service}, weight: )\d+", rf"\g<1>{weight}", text)
            _once(found, f"a weight of {service}")
        return text

    return edit


def let_bookthief_in(text: str) -> str:
    """Remove the "#" before bookthief."""
    text, found = re.subn(r"(?m)^  #(- \{kind: ServiceAccount, name: bookthief\})", r"  \1", text)
    return _once(found, "bookthief behind a '#'", text)


def keep_bookthief_out(text: str) -> str:
    """Put the "#" before bookthief back."""
    text, found = re.subn(r"(?m)^  (- \{kind: ServiceAccount, name: bookthief\})", r"  #\1", text)
    return _once(found, "bookthief", text)


def split_by_path(text: str) -> str:
    """Remove the "#" from each line of the block at the end."""
    start = text.find("\n#---\n")
    if start < 0:
        raise EditError("the file holds no block of lines with '#' at its end")
    return text[: start + 1] + re.sub(r"(?m)^#", "", text[start + 1 :])


def _once(found: int, what: str, text: str = "") -> str:
    if found != 1:
        raise EditError(f"the file holds {what} {found} times, not once")
    return text


# ----------------------------------------------------------------------------------------------- expectations


def all_of(*expectations: Expect) -> Expect:
    """Return what holds if each of these holds."""
    return lambda window: [problem for expect in expectations for problem in expect(window)]


def nothing_fails(window: Window) -> list[str]:
    """Every request of anybody is served or denied."""
    return [f"{number} x {seen.source} -> {seen.service}{seen.path}: {seen.status or 'no answer'}"
            for seen, number in sorted(window.failed().items())]  # fmt: skip


def shares(first: int, second: int, paths: tuple[str, ...] = PATHS) -> Expect:
    """Return: on these paths bookbuyer gets v1 and v2 in this ratio; a weight of 0 is exactly nothing."""

    def expect(window: Window) -> list[str]:
        got = [
            sum(window.count(source="bookbuyer", path=path, version=version, status=SOLD) for path in paths)
            for version in ("v1", "v2")
        ]
        total, share = sum(got), first / (first + second)
        name = ", ".join(paths)
        if total < LEAST:
            return [f"only {total} requests on {name}"]
        if (first == 0 and got[0]) or (second == 0 and got[1]):
            return [f"v1 and v2 got {got[0]} and {got[1]} requests on {name}; one of them has no weight"]
        deviation = abs(got[0] - total * share) / math.sqrt(max(total * share * (1 - share), 1e-9))
        if 0 < share < 1 and deviation > SIGMAS:
            return [f"v1 got {got[0]} of {total} requests on {name}, which is not {share:.0%}"]
        return []

    return expect


def thief_is_denied(window: Window) -> list[str]:
    """Bookthief gets 403 every time, and no bookstore ever sees it."""
    denied = window.count(source="bookthief", status=DENIED)
    sold = window.count(source="bookthief", status=SOLD)
    reached = window.count("served", source="bookthief", service="bookstore")
    problems = [] if denied >= LEAST else [f"bookthief was denied {denied} times only"]
    problems += [f"bookthief got {sold} books"] if sold else []
    return problems + ([f"bookthief reached a bookstore {reached} times"] if reached else [])


def thief_is_served(window: Window) -> list[str]:
    """Bookthief gets every book, and the bookstores know that it was bookthief."""
    denied = window.count(source="bookthief", status=DENIED)
    sold = window.count(source="bookthief", status=SOLD)
    reached = window.count("served", source="bookthief", service="bookstore")
    problems = [] if sold >= LEAST else [f"bookthief got {sold} books only"]
    problems += [f"bookthief was denied {denied} times"] if denied else []
    return problems + ([] if reached else ["no bookstore saw bookthief's identity"])


def buyer_is_known(window: Window) -> list[str]:
    """Bookbuyer is never denied, and each hop carries the identity of its caller."""
    denied = window.count(source="bookbuyer", status=DENIED)
    problems = [f"bookbuyer was denied {denied} times"] if denied else []
    for source, service in (("bookbuyer", "bookstore"), ("bookstore", "bookwarehouse")):
        if window.count("served", source=source, service=service) < LEAST:
            problems.append(f"{service} hardly ever saw {source}'s identity")
    return problems


def thief_got(status: int) -> Effect:
    """Return: bookthief gets this answer and no other."""
    return lambda window: 0 < window.count(source="bookthief") == window.count(source="bookthief", status=status)


def only_from(version: str, path: str) -> Effect:
    """Return: this path is answered by this version and no other."""
    return lambda window: 0 < window.count(path=path) == window.count(path=path, version=version)


ALWAYS = all_of(nothing_fails, buyer_is_known)

START = Experiment("start", lambda text: text, all_of(ALWAYS, shares(50, 50), thief_is_denied))

EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        "move the weights (v1 10, v2 90)",
        set_weights(10, 90),
        all_of(ALWAYS, shares(10, 90), thief_is_denied),
        invite="Move the weights: give v1 and v2 other shares in the TrafficSplit.",
    ),
    Experiment(
        "move them all the way (v1 0, v2 100)",
        set_weights(0, 100),
        all_of(ALWAYS, shares(0, 100)),
        only_from("v2", "/user"),
    ),
    Experiment("move them back (v1 50, v2 50)", set_weights(50, 50), all_of(ALWAYS, shares(50, 50))),
    Experiment(
        "let bookthief in",
        let_bookthief_in,
        all_of(ALWAYS, thief_is_served, shares(50, 50)),
        thief_got(SOLD),
        'Let bookthief in: remove the "#" before its name in the TrafficTarget.',
    ),
    Experiment("keep bookthief out again", keep_bookthief_out, all_of(ALWAYS, thief_is_denied), thief_got(DENIED)),
    Experiment(
        "send /user to v1 and /order to v2",
        split_by_path,
        all_of(
            ALWAYS,
            shares(1, 0, ("/user",)),
            shares(0, 1, ("/order",)),
            shares(50, 50, ("/buy", "/books-bought")),
            thief_is_denied,
        ),
        only_from("v1", "/user"),
        'Send /user to v1 and /order to v2: remove the "#" at the start of each line at the end.',
    ),
)
