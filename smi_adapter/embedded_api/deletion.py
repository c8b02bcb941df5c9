"""What a deletion was asked with: `DeleteOptions`, in the body (as kubectl sends them) or in the query.

A deletion can't be taken back, so what is not understood or can't be done here is refused, never passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from smi_adapter.embedded_api import answers
from smi_adapter.embedded_api.answers import RefusedError
from smi_adapter.embedded_api.kinds import Kind

GRACE = 5
"""Seconds that a process has to end before it is killed, whatever a client asks for."""
_OWNERS = frozenset({"DaemonSet", "Deployment", "ReplicaSet", "Service", "StatefulSet"})
"""Kinds from which others are made here; without them those go."""
_POLICIES = ("Background", "Foreground", "Orphan")
_DRY_RUN = "All"


@dataclass(frozen=True, slots=True)
class Deletion:
    """How to delete: `uid` and `revision` must be those of the object unless they are empty."""

    dry_run: bool = False
    uid: str = ""
    revision: str = ""


def dry_run(values: Any) -> bool:
    """Tell whether a request is a trial; what is neither that nor nothing is refused."""
    given = [values] if isinstance(values, str) else values
    if given is None or (isinstance(given, list | tuple) and all(one == _DRY_RUN for one in given)):
        return bool(given)
    raise answers.bad_request(f'dryRun: the one value is "{_DRY_RUN}"')


def deletion(kind: Kind, query: Mapping[str, str], body: Any) -> Deletion:
    """Read the options of a request to delete one object of a kind, or several."""
    if not isinstance(body, Mapping):
        raise answers.bad_request("the options of a deletion are an object")
    asked = {name: query[name] for name in _FORMS if name in query}
    said = {name: one for name, one in body.items() if name not in {"apiVersion", "kind"} and one is not None}
    if body.get("kind", "DeleteOptions") != "DeleteOptions":
        raise answers.bad_request(f"a deletion has DeleteOptions, not a {body['kind']}")
    for problem in (*_problems(kind, _of_query(asked)), *_problems(kind, said)):
        raise RefusedError(422, "Invalid", f"the deletion is not done: {problem}")
    wanted = said.get("preconditions") or {}
    return Deletion(
        # either one is enough: a real server reads the query only where there is no body, but nothing is lost here
        dry_run(asked.get("dryRun") or None) or dry_run(said.get("dryRun")),
        str(wanted.get("uid") or ""),
        str(wanted.get("resourceVersion") or ""),
    )


def _of_query(asked: Mapping[str, str]) -> dict[str, Any]:
    """Return the options of a query as a body has them."""
    found: dict[str, Any] = dict(asked)
    if (grace := asked.get("gracePeriodSeconds", "")).isdecimal():
        found["gracePeriodSeconds"] = int(grace)
    if (orphan := asked.get("orphanDependents")) in {"true", "false"}:
        found["orphanDependents"] = orphan == "true"
    return found


def _problems(kind: Kind, options: Mapping[str, Any]) -> Iterator[str]:
    for name, one in options.items():
        if name not in _FORMS:
            yield f"{str(name)[:80]!r} is not understood here"
        elif not _FORMS[name][0](one):
            yield f"{name} {_FORMS[name][1]}"
    if kind.name in _OWNERS and (options.get("propagationPolicy") == "Orphan" or options.get("orphanDependents")):
        yield f"what is made from a {kind.name} can't stay without it here"
    grace: Any = options.get("gracePeriodSeconds")
    if kind.name == "Pod" and _is_seconds(grace) and grace > GRACE:
        yield f"a process has {GRACE} s to end here, not {grace}"


def _is_seconds(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_precondition(value: Any) -> bool:
    return isinstance(value, Mapping) and not value.keys() - {"uid", "resourceVersion"}


_FORMS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "dryRun": (lambda value: dry_run(value) or True, f"is {_DRY_RUN}"),
    "preconditions": (_is_precondition, "are uid and resourceVersion"),
    "propagationPolicy": (lambda value: value in _POLICIES, f"is one of {', '.join(_POLICIES)}"),
    "orphanDependents": (lambda value: isinstance(value, bool), "is true or false"),
    "gracePeriodSeconds": (_is_seconds, "is a number of seconds"),
}
"""What is understood, and how it must look."""
