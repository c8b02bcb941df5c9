"""Conditions: which finding decides which, in words, and when their times move."""

from __future__ import annotations

from itertools import pairwise

from smi_adapter.findings import CODES, finding
from smi_adapter.report import ObjectStatus, timed
from smi_adapter.report.conditions import Condition, conditions_of
from smi_adapter.report.reporter import version_for
from smi_adapter.snapshot import Mode
from tests.told import NS, SPLIT, TARGET, Told, group, pod, shop, split, target

FINE = Condition("Programmed", True, "Programmed", "Every proxy concerned has acknowledged it.")


def test_every_object_has_the_five_conditions_once() -> None:
    told = Told(*shop(), split(), group(), target())
    for report in told.reports().values():
        kinds = [item.type for item in report.status.conditions]
        assert kinds == ["Accepted", "ResolvedRefs", "Programmed", "PartiallyTranslated", "Conflicted"]


def test_f17_a_bad_object_is_told_which_field_is_bad_and_why() -> None:
    told = Told(*shop(), split(backends=[{"service": "v1", "weight": -5}]), target(sources="everybody"))
    for ref, field in ((SPLIT, "spec.backends[0].weight"), (TARGET, "spec.sources")):
        condition = told.condition(ref, "Accepted")
        assert not condition.status
        assert condition.reason in {row.name for row in CODES.values()}
        assert field in condition.message
        assert condition.message.startswith("SMI")


def test_an_object_that_cannot_be_decoded_is_told_about_its_newest_generation() -> None:
    told = Told(*shop(), split())
    told.apply(split(7, backends={"v1": 1}))
    assert told.reports()[SPLIT].status.observed == 7


def test_what_is_not_there_makes_refs_unresolved_but_not_the_object_unaccepted() -> None:
    told = Told(*shop(), target())
    condition = told.condition(TARGET, "ResolvedRefs")
    assert (condition.status, condition.reason) == (False, "RuleNotResolved")
    told = Told(*shop(), split(service="nowhere"))
    assert told.condition(SPLIT, "ResolvedRefs").reason == "RootNotFound"
    assert told.condition(SPLIT, "Accepted").status


def test_the_second_of_two_splits_is_in_conflict() -> None:
    second = split()
    second = {**second, "metadata": {**second["metadata"], "name": "late", "uid": "late"}}
    told = Told(*shop(), split(), second, mode=Mode.PERMISSIVE)
    told.acknowledge()
    by_name = {ref.name: item for ref, item in told.reports().items()}
    assert not by_name["canary"].status.condition("Conflicted").status
    assert by_name["late"].status.condition("Conflicted").status
    assert by_name["late"].status.condition("Programmed").reason == "Conflicted"


def test_information_turns_no_condition() -> None:
    found = [finding("SMI0107", SPLIT, "spec.backends[0]", "root"), finding("SMI0404", TARGET, "", "far")]
    assert [item.status for item in conditions_of(found, FINE)] == [True, True, True, False, False]


def test_what_the_backend_cannot_do_is_partial_and_for_access_no_less() -> None:
    told = Told(*shop(), group(), target(), backend="gateway_api")
    assert told.condition(TARGET, "PartiallyTranslated").status
    assert told.condition(TARGET, "PartiallyTranslated").reason == "Unsupported"


def test_a_message_stays_short_whatever_is_wrong() -> None:
    found = [finding("SMI0505", SPLIT, f"spec.backends[{n}]", "x" * 900) for n in range(50)]
    accepted = conditions_of(found, FINE)[0]
    assert len(accepted.message) <= 1000
    found = [finding("SMI0505", SPLIT, f"spec.backends[{n}]", "bad") for n in range(50)]
    assert conditions_of(found, FINE)[0].message.endswith("And 47 more.")


def test_the_transition_time_moves_only_with_the_status() -> None:
    status = ObjectStatus(1, "envoy", (FINE,))
    first = status.data({}, 1000.0)
    again = ObjectStatus(2, "envoy", (FINE,)).data(first, 2000.0)
    other = Condition("Programmed", False, "WaitingForProxies", "Not yet.")
    then = ObjectStatus(2, "envoy", (other,)).data(again, 3000.0)
    times = [item["conditions"][0]["lastTransitionTime"] for item in (first, again, then)]
    assert times == ["1970-01-01T00:16:40Z", "1970-01-01T00:16:40Z", "1970-01-01T00:50:00Z"]
    assert [item["conditions"][0]["observedGeneration"] for item in (first, again, then)] == [1, 2, 2]
    assert [item["backends"][0]["name"] for item in (first, again, then)] == ["envoy"] * 3
    assert times == [item["backends"][0]["conditions"][0]["lastTransitionTime"] for item in (first, again, then)]


def test_whatever_lies_in_a_status_it_can_be_written() -> None:
    for before in (None, 3, ["x"], [{"type": None}], {"a": 1}):
        assert timed([FINE.data(1)], before, 0.0)[0]["lastTransitionTime"]
        assert ObjectStatus(1, "envoy", (FINE,)).data({"conditions": before, "backends": before}, 0.0)


def test_a_split_with_quantities_is_written_through_v1alpha1() -> None:
    assert version_for(SPLIT, split()) == "v1alpha4"
    quantities = split(backends=[{"service": "v1", "weight": "500m"}, {"service": "v2", "weight": "1"}])
    assert version_for(SPLIT, quantities) == "v1alpha1"
    assert version_for(SPLIT, split(backends=3)) == ""


def test_a_pod_that_is_not_ready_needs_no_proxy_yet() -> None:
    told = Told(*shop(), *pod("v1", "10.0.0.1", ready=False), group(), target())
    told.acknowledged = {(NS, "buyer"): (1,)}
    assert told.programmed(TARGET) == "Programmed"


def test_code_names_are_reasons_that_kubernetes_takes() -> None:
    assert all(row.name.isalnum() and row.name[0].isupper() for row in CODES.values())
    names = sorted(row.name for row in CODES.values())
    assert all(one != other for one, other in pairwise(names))
