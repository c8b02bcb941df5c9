"""What `explain` tells of a case: all of it, in order, in words that somebody who makes a mesh can act on."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path

import pytest

from smi_conformance import catalog
from smi_conformance.explain import Recorder, Recording, explained, record
from smi_conformance.model import versions_for
from smi_conformance.narrator import FACTS, LET_IN, MANY, SETTLED, Narrator, Step, facts, folded
from smi_conformance.places import Pool
from smi_conformance.registry import Registered, cases
from smi_conformance.runner import Instance, instances
from smi_conformance.trial import Failure, Rules, Trial

CASES = Path(__file__).parents[1] / "smi_conformance" / "cases"
LONGEST = 90
VERDICTS = (
    "reaches",
    "allowed",
    "denied",
    "answer",
    "wait until",
    "Event about",
    "accepts",
    "these requests: none",
)


def told(name: str, version: str = "") -> Recording:
    return asyncio.run(record(name, version or catalog.entries()[name].versions[-1]))


@pytest.mark.parametrize("instance", instances(), ids=lambda instance: instance.id)
def test_what_is_asserted_is_told_to_the_end_for_every_instance(instance: Instance) -> None:
    found = told(instance.entry.id, instance.version)
    assert found.cut == ""
    assert [step for step in found.steps if any(word in step for word in VERDICTS)]
    assert len(found.steps) <= LONGEST
    assert not [step for step in found.steps if "or it fails with" in step], "a check without words of its own"
    assert f"- {SETTLED}" not in found.steps, "a verdict hangs on the order in which objects take effect"


def test_every_check_of_a_case_has_words_and_no_words_are_left_over() -> None:
    assert set[str]().union(*map(facts, CASES.glob("*.py"))) == set(FACTS)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("API-01", ("the API accepts TrafficSplit canary, TrafficSplit ab", "HTTPRouteGroup the-routes")),
        ("API-02", ("IdentityBinding ids (a dry run)",)),
        ("API-08", ("{service: root-1})", "these answer: api 300 (100 %), web none")),
        ("API-09", ("apply TrafficSplit odd0-1 (root-1: v1-1 0, v2-1 1)", "v1, whose weight is 1.5, answers none")),
        ("TS-14", ("with Host root-1.cf-1.svc.cluster.local:8080 reaches v1",)),
        (
            "TS-20",
            ("v2-1 (v2, ports 8081", "to root-1:8080 from client these answer: v1 2000 (100 %), v2 and base none"),
        ),
        ("TS-28", ("over HTTP/2", "at least 190 use the connection again", "v1 and v2 answer at least 40 each")),
        ("TS-29", ("of 1200 times TCP to root-1:9000", "v1 answers 810 to 984", "answered by the same backend")),
        ("TT-12", ("GET / to api-1:8081 from alice is denied, while GET / to api-1:8080 from alice works",)),
        ("TT-14", ("ledger (yes): alice GET /metrics, bob GET /api, bob POST /api", "carol DELETE /api")),
        ("HR-10", ("GET /h to api-1:8080 from alice with x-a: 1 is denied",)),
        ("HR-20", ("//secret", "/public/../secret", "/public/%2e%2e/secret", "/public%2F..%2Fsecret", "/./secret")),
        ("XR-01", ("the servers' ledgers have some, and only those of v1", "are answered: the share of v1")),
        ("CV-02", ("TrafficTarget target-1 (bob to api by routes-1)", "20 in a row")),
        ("CV-03", ("over 10 s", "every one is answered by v2")),
        ("CV-06", ("stop the controller", "restart the controller")),
        ("IB-12", ("IdentityBinding source-1 of group other.example.com to api",)),
    ],
)
def test_what_a_case_is_about_is_among_what_is_told(name: str, words: tuple[str, ...]) -> None:
    text = "\n".join(told(name).steps)
    assert [word for word in words if word not in text] == []


def test_steps_are_told_in_their_order_also_those_that_were_told_before() -> None:
    steps = told("TS-25").steps
    first, second = [number for number, step in enumerate(steps) if "v1 500 (100 %)" in step]
    between = [step for step in steps[first:second] if step.startswith("- apply TrafficSplit")]
    assert len(between) == 3


def test_what_is_only_observed_stands_under_its_reading() -> None:
    steps = told("TS-36").steps
    at = steps.index("- observed only, as the reading missing:")
    assert all(step.startswith("  - ") for step in steps[at + 1 : at + 4])


def test_of_many_alike_the_first_and_the_last_are_told() -> None:
    lines = folded([Step("begin"), *(Step(f"write {number}") for number in range(MANY + 1)), Step("end")])
    assert lines == [
        "- begin",
        "- write 0",
        f"- … {MANY - 1} times more, with other numbers, and at last:",
        "- write 5",
        "- end",
    ]
    assert len(folded([Step(f"write {number}") for number in range(MANY)])) == MANY


def test_a_case_that_could_not_be_told_to_its_end_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async def breaks(t: Trial) -> None:
        await t.place((), enforced=False)
        raise Failure("no such thing")

    monkeypatch.setitem(cases.__globals__["_CASES"], "TS-01", Registered(breaks, False, "", False))
    assert told("TS-01").cut == "Failure: no such thing"
    assert "(this is not all: Failure: no such thing)" in explained("TS-01")


def test_a_check_without_words_is_told_as_it_is_written() -> None:
    async def tell() -> str:
        harness = Recorder()
        trial = Narrator(harness, Pool(harness), Rules(), ("v1alpha4", versions_for("split", "v1alpha4")))
        trial.begin()
        count = 3
        trial.check(count >= 2, f"only {count} of them")
        return str(trial.steps[-1])

    assert asyncio.run(tell()) == ": count >= 2, or it fails with: only 3 of them"


def test_words_are_explained_that_are_used_and_no_others() -> None:
    assert [word.partition(":")[0] for word in told("TT-12").words] == ["denied"]
    assert [word.partition(":")[0] for word in told("TS-02").words] == ["reaches", "these answer"]
    assert [word.partition(":")[0] for word in told("CV-02").words] == ["is allowed", "arrives nowhere"]


@pytest.mark.parametrize("name", ["TR-03", "TT-18", "TT-23", "HR-19", "CV-02"])
def test_what_only_has_to_arrive_nowhere_is_not_told_as_a_denial(name: str) -> None:
    """It has no control before it, waits for nothing, and sees of no client that it is alive."""
    found = told(name)
    lines = [step for step in found.steps if " arrives nowhere " in step]
    assert lines
    assert all("arrives nowhere (20 requests), then " in line and line.endswith(" is answered") for line in lines)
    (meaning,) = [word for word in found.words if word.startswith("arrives nowhere:")]
    assert "the control is answered after them only" in meaning


def test_a_denial_is_told_with_its_controls_and_that_its_client_is_alive() -> None:
    (meaning,) = told("TT-12").words
    steps = ("the control is answered, ", "is one that reaches somebody, ", "the control is answered again")
    assert [step for step in steps if step not in meaning] == []


def test_how_many_answers_in_a_row_are_enough_is_told_where_it_is_not_the_usual_number() -> None:
    usual = inspect.signature(Trial.allowed).parameters["k"].default
    assert usual == LET_IN
    assert "- GET / to root-1:8080 from client reaches base (5 in a row)" in told("TS-25").steps
    assert "- GET / to root-1:8080 from client reaches v1" in told("CV-01").steps
    assert "- GET / to api-1:8080 from alice is allowed (20 in a row)" in told("CV-02").steps
    (reaches,) = told("CV-01").words
    assert reaches.startswith("reaches: within 30 s, 20 answers in a row, or as many as the line says")
    assert reaches.endswith("If not, and fewer than 20 were enough before, 20 in a row and 100 more decide.")


def test_sources_are_told_one_by_one_and_a_level_or_part_with_its_feature() -> None:
    assert "traffic-split/v1alpha4 L21-28; L114-116; traffic-access/v1alpha3 L39\n" in explained("API-08")
    assert "extended     traffic-split/v1alpha1 L222 (with ApiConversion)\n" in explained("API-04")
    assert "feature      ConsumerFlagger; one part of the case only (with ApiConversion)\n" in explained("CC-02")


def test_where_one_grant_follows_another_the_first_is_seen_to_be_gone() -> None:
    """TT-17: or what the next one opens could have been opened by the last."""
    steps = told("TT-17").steps
    after = [steps[number + 1] for number, step in enumerate(steps) if step.startswith("- delete TrafficTarget")]
    assert after == ["- GET / to api-1:8080 from bob is not answered (5 in a row)"] * 4


def test_a_target_that_loses_what_it_needs_was_seen_to_let_somebody_in() -> None:
    """API-08: or one that never arrived would pass."""
    steps = told("API-08").steps
    for field in ("destination", "rules", "sources"):
        at = next(number for number, step in enumerate(steps) if step.endswith(f"part-1 that names {field}"))
        assert steps[at - 2].endswith("from cf-2/alice is allowed")
        assert steps[at + 1].endswith("from cf-2/alice is not answered (20 in a row)")


def test_many_manifests_that_are_alike_are_not_all_printed() -> None:
    text = explained("CV-05")
    assert "more that differ in their numbers only" in text
    assert len(text.splitlines()) < 400
