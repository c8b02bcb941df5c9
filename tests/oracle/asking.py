"""The small world that the oracle's own tests ask, and the ways to ask it."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from tests.oracle import build as b
from tests.oracle.evaluator import Mode, Options, Profile, Request, decide

BUYER, THIEF = ("shop", "buyer", "pod-0"), ("shop", "thief", "pod-3")
HALF = Fraction(1, 2)
WEB = {"app": "web"}
# A client, a thief, two versions of a shop: pod-1 is web v1, pod-2 is web v2, and `web` selects both.
PODS = [
    b.pod("pod-0", "buyer", {"app": "buyer"}),
    b.pod("pod-1", "web-v1", {"app": "web", "track": "v1"}),
    b.pod("pod-2", "web-v2", {"app": "web", "track": "v2"}),
    b.pod("pod-3", "thief", {"app": "thief"}),
]
LEAVES = [b.service("web-v1", {"track": "v1"}), b.service("web-v2", {"track": "v2"})]
WORLD = [b.namespace("shop"), *PODS, b.service("web", WEB), *LEAVES]
ANYTHING = b.route_group("anything", b.match("all", ".*"))


def ask(
    objects: Sequence[Any],
    path: str = "/",
    *,
    source: tuple[str, str, str] = BUYER,
    to: str = "web",
    port: int = 80,
    method: str = "GET",
    protocol: Any = "http",
    headers: Sequence[tuple[str, str]] = (),
    profile: Profile = "spec",
    mode: Mode = "enforce",
) -> dict[Any, Any]:
    """Decide, and write outcomes shortly: a pod's name, a status, or "closed"."""
    request = Request(source, ("shop", to), port, protocol, method, path, tuple(headers))
    decision = decide(objects, request, Options(profile, mode))
    assert sum(decision.shares.values()) == 1
    return {o.served_by or o.status or "closed": share for o, share in decision.shares.items()}


def routed(*objects: Any, **request: Any) -> dict[Any, Any]:
    """Ask with access control off, so that only routing decides."""
    return ask([*WORLD, *objects], mode="permissive", **request)


def opened(*objects: Any, path: str = "/", **request: Any) -> bool:
    """Ask for `web-v1` with access control on, and say whether its pod answers."""
    answer = ask([*WORLD, *objects], path, **({"to": "web-v1"} | request))
    assert len(answer) == 1
    assert answer.keys() <= {"pod-1", 403, "closed"}
    return "pod-1" in answer


def grant(*rules: Any, to: Any = None, source: Any = None, **form: Any) -> Any:
    """Build a target that opens web-v1 to the buyer."""
    return b.target("t", to or b.account("web-v1"), rules, [source or b.account("buyer")], **form)
