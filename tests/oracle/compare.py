"""Holds anything that answers requests against the oracle: real Envoys, a pure function, or the oracle itself.

An observer sees one request at a time and says what it saw. One that watches real traffic sees one outcome, which has
to be among those that the oracle allows; where the oracle allows only one, that is equality. One that computes also
gives shares, which have to be exactly the oracle's.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import yaml

from tests.oracle.build import Object
from tests.oracle.evaluator import Decision, Options, Outcome, Request, World, answer


@dataclass(frozen=True, slots=True)
class Observation:
    """What an observer saw of one request: one outcome, or the share of each, and whatever may help to explain it."""

    outcome: Outcome | None = None
    shares: Mapping[Outcome, Fraction] | None = None
    note: str = ""

    def __str__(self) -> str:
        seen = "nothing" if self.outcome is None else str(self.outcome)
        return (seen if self.shares is None else _told(self.shares)) + (f" ({self.note})" if self.note else "")


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One request for which the two readings differ, with all that is needed to look at it again."""

    request: Request
    expected: Decision
    observed: Observation
    options: Options
    objects: tuple[Object, ...] = dataclasses.field(repr=False)

    def __str__(self) -> str:
        return "\n".join(
            [
                f"request:   {self.request}",
                f"options:   {self.options}",
                f"oracle:    {_told(self.expected.shares)}",
                f"observed:  {self.observed}",
                "manifests:",
                yaml.safe_dump_all(self.objects, sort_keys=False),
            ]
        )


Observe = Callable[[Request], Observation]
Prepare = Callable[[Sequence[Object]], Observe]


def compare(
    observe: Observe, objects: Sequence[Object], requests: Iterable[Request], options: Options, *, samples: int = 1
) -> list[Disagreement]:
    """Ask the observer and the oracle for every request and list where they differ.

    `samples` repeats a request whose outcome is left to weights, so that more than one of its arms is seen.
    """
    found = []
    world = World(objects, options)
    for request in requests:
        expected = answer(world, request)
        for _ in range(samples if len(expected.shares) > 1 else 1):
            observed = observe(request)
            if not agrees(expected, observed):
                found.append(Disagreement(request, expected, observed, options, tuple(objects)))
                break
    return found


def agrees(expected: Decision, observed: Observation) -> bool:
    """Say whether what was seen is what the oracle allows; seeing nothing agrees with nothing."""
    if observed.shares is not None:
        kept = {outcome: share for outcome, share in observed.shares.items() if share}
        return kept == dict(expected.shares)
    return observed.outcome in expected.outcomes


def pure(compute: Callable[[Request], Mapping[Outcome, Fraction]]) -> Observe:
    """Make an observer of a function that computes shares, such as the product's own evaluator behind an adapter."""
    return lambda request: Observation(shares=compute(request))


def reduced(prepare: Prepare, found: Disagreement) -> Disagreement:
    """Leave out every object without which the two readings still differ; `prepare` observes other objects.

    What the oracle expects has to stay as it was, so that no other disagreement is found on the way, and so has the
    caller's own pod, since somebody has to send the request.
    """
    smallest = found
    for candidate in found.objects:
        if candidate["kind"] == "Pod" and candidate["metadata"]["name"] == found.request.source[2]:
            continue
        fewer = [thing for thing in smallest.objects if thing is not candidate]
        again = compare(prepare(fewer), fewer, [found.request], found.options, samples=3)
        if again and again[0].expected.outcomes == found.expected.outcomes:
            smallest = again[0]
    return smallest


def told(disagreements: Sequence[Disagreement]) -> str:
    """Tell the first disagreement in full and the others by their requests."""
    first, *others = disagreements
    return "\n".join([str(first), *(f"also: {d.request}\n      {d.observed}" for d in others)])


def _told(shares: Mapping[Outcome, Fraction]) -> str:
    return ", ".join(sorted(f"{outcome}: {share}" for outcome, share in shares.items()))
