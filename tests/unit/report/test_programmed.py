"""When an object counts as programmed: what proxies have acknowledged, and what is there."""

from __future__ import annotations

import pytest

from smi_adapter.findings import finding
from smi_adapter.report import Tally
from smi_adapter.snapshot import Mode
from tests.told import (
    GROUP,
    NS,
    SPLIT,
    TARGET,
    WORKLOADS,
    Told,
    group,
    pod,
    service,
    shop,
    split,
    target,
)


def permissive(*more: object) -> Told:
    return Told(*shop(), *more, mode=Mode.PERMISSIVE)  # type: ignore[arg-type]


def test_a_split_is_programmed_when_every_caller_has_acknowledged_it_and_not_before() -> None:
    told = permissive(split())
    assert told.programmed(SPLIT) == "!NoProxies"
    told.acknowledged = dict.fromkeys(WORKLOADS, (0,))
    assert told.programmed(SPLIT) == "!WaitingForProxies"
    told.acknowledge(*WORKLOADS[:2])
    condition = told.condition(SPLIT, "Programmed")
    assert (condition.status, condition.message) == (False, "Not acknowledged yet: 1 proxy, such as one of shop/buyer.")
    told.acknowledge()
    assert told.programmed(SPLIT) == "Programmed"


def test_an_edit_has_to_be_acknowledged_again() -> None:
    told = permissive(split())
    told.acknowledge()
    assert told.programmed(SPLIT) == "Programmed"
    told.apply(split(2, backends=[{"service": "v2", "weight": 1}]))
    report = told.reports()[SPLIT]
    assert (report.status.observed, report.passing) == (2, True)
    assert told.programmed(SPLIT) == "!WaitingForProxies"
    told.acknowledge()
    assert told.programmed(SPLIT) == "Programmed"


def test_what_changes_for_others_does_not_have_to_be_acknowledged_for_this_object() -> None:
    told = permissive(split())
    told.acknowledge()
    told.apply(service("other"), *pod("other", "10.0.0.9"))
    assert told.programmed(SPLIT) == "Programmed"
    told.apply(*pod("v2", "10.0.0.22"))  # endpoints come and go
    assert told.programmed(SPLIT) == "Programmed"


def test_our_own_status_write_changes_nothing() -> None:
    told = permissive(split())
    told.acknowledge()
    told.apply({**split(), "status": {"conditions": []}})
    assert told.programmed(SPLIT) == "Programmed"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ([*pod("v2", "10.0.0.2", ready=False)], "NoReadyEndpoints"),
        ([service("v2", port=81)], "PortMismatch"),
        ([split(2, backends=[{"service": "v1", "weight": 1}, {"service": "v9", "weight": 1}])], "BackendNotFound"),
        ([split(2, service="nowhere")], "RootNotFound"),
        ([split(2, backends={"v1": 1})], "LastGoodKept"),
    ],
)
def test_a_split_whose_endpoints_are_not_there_is_not_programmed(change: list[dict[str, object]], reason: str) -> None:
    told = permissive(split())
    told.acknowledge()
    told.apply(*change)
    told.acknowledge()
    assert told.programmed(SPLIT) == f"!{reason}"
    assert not told.reports()[SPLIT].passing


def test_a_backend_of_weight_zero_may_be_missing() -> None:
    told = permissive(split(backends=[{"service": "v1", "weight": 1}, {"service": "v9", "weight": 0}]))
    told.acknowledge()
    assert told.programmed(SPLIT) == "Programmed"


def test_endpoints_that_came_back_have_to_be_acknowledged_too() -> None:
    told = permissive(split(), *pod("v2", "10.0.0.2", ready=False))
    told.acknowledge()
    assert told.programmed(SPLIT) == "!NoReadyEndpoints"
    told.apply(*pod("v2", "10.0.0.2"))
    assert told.programmed(SPLIT) == "!WaitingForProxies"
    told.acknowledge()
    assert told.programmed(SPLIT) == "Programmed"


def test_a_target_concerns_its_destination_and_its_sources_only() -> None:
    told = Told(*shop(), group(), target())
    told.acknowledged = {(NS, "v2"): (0,), (NS, "v1"): (1,), (NS, "buyer"): (1,)}
    assert told.programmed(TARGET) == "Programmed"
    told.acknowledged[NS, "buyer"] = (0,)
    assert told.programmed(TARGET) == "!WaitingForProxies"


def test_a_destination_without_a_proxy_is_not_programmed() -> None:
    told = Told(*shop(), group(), target())
    told.acknowledged = {(NS, "buyer"): (1,)}
    assert told.programmed(TARGET) == "!ProxiesMissing"


def test_a_caller_that_lost_its_proxy_is_missed_and_one_that_never_had_any_is_not() -> None:
    told = permissive(split())
    told.acknowledge(*WORKLOADS[:2])
    assert told.programmed(SPLIT) == "Programmed"
    told.acknowledge()
    assert told.programmed(SPLIT) == "Programmed"
    del told.acknowledged[NS, "buyer"]
    assert told.programmed(SPLIT) == "!ProxiesMissing"


def test_a_target_that_opens_nothing_says_so() -> None:
    told = Told(*shop(), group(), target(destination={"kind": "ServiceAccount", "name": "nobody", "namespace": NS}))
    told.acknowledge()
    assert told.programmed(TARGET) == "!GrantsNothing"


def test_a_group_waits_for_the_proxies_of_what_refers_to_it() -> None:
    told = Told(*shop(), group())
    assert told.programmed(GROUP) == "NotReferenced"
    told.apply(target())
    told.acknowledge()
    assert told.programmed(GROUP) == "Programmed"
    told.apply(group(2, "/only"))
    assert [told.programmed(ref) for ref in (GROUP, TARGET)] == ["!WaitingForProxies", "!WaitingForProxies"]
    told.acknowledge()
    assert [told.programmed(ref) for ref in (GROUP, TARGET)] == ["Programmed", "Programmed"]


def test_a_refusal_is_no_acknowledgement() -> None:
    told = permissive(split())
    told.acknowledge()
    refused = finding("SMI0603", SPLIT, "", "the proxy of shop/buyer refused RDS out/shop/web/80: no")
    condition = told.condition(SPLIT, "Programmed", extra=[refused])
    assert (condition.status, condition.reason) == (False, "ConfigRejected")
    assert told.condition(SPLIT, "Accepted", extra=[refused]).status


def test_proxies_of_another_replica_count() -> None:
    here, there = permissive(split()), permissive(split())
    here.acknowledge(WORKLOADS[0])
    there.acknowledged = {WORKLOADS[1]: (1,), WORKLOADS[2]: (0,)}
    there.reports()
    tally = Tally.read(there.reporter.tally.data())
    assert here.programmed(SPLIT, elsewhere=[tally]) == "!WaitingForProxies"
    there.acknowledge(*WORKLOADS[1:])
    there.reports()
    assert here.programmed(SPLIT, elsewhere=[there.reporter.tally]) == "Programmed"
    here.apply(split(2))
    here.acknowledge(WORKLOADS[0])
    assert here.programmed(SPLIT, elsewhere=[there.reporter.tally]) == "!WaitingForReplica"


def test_a_pod_whose_proxy_is_with_another_replica_is_not_missing() -> None:
    told = Told(*shop(), group(), target())
    told.acknowledged = {(NS, "buyer"): (1,)}
    tally = Tally({(NS, "v1"): 1}, {TARGET: 1, GROUP: 1})
    assert told.programmed(TARGET, elsewhere=[tally]) == "Programmed"


def test_an_acknowledgement_is_told_to_the_leader_though_other_proxies_are_not_here() -> None:
    """A replica that does not lead knows nothing of the others' proxies; those miss, as far as it can see."""
    told = Told(*shop(), group(), target())
    told.acknowledged = {(NS, "buyer"): (0,)}
    assert told.programmed(TARGET) == "!ProxiesMissing"
    assert told.reporter.tally.waiting == {TARGET: 1, GROUP: 1}
    told.acknowledge((NS, "buyer"))
    for _ in told.reporter.news(told.acknowledged):
        pass
    assert told.reporter.tally.waiting == {}


def test_without_proxies_the_last_applied_generation_decides() -> None:
    told = Told(*shop(), split(), backend="gateway_api")
    (report,) = told.reporter.reports((), 0)
    assert report.status.condition("Programmed").reason == "WaitingForApply"
    (report,) = told.reporter.reports((), 1)
    assert report.status.condition("Programmed").status


def test_an_object_that_is_gone_is_not_reported_on() -> None:
    told = permissive(split())
    told.apply(gone=[SPLIT])
    assert told.reports() == {}


def test_objects_are_counted_by_the_conditions_that_are_true_of_them() -> None:
    told = permissive(split(), group())
    told.reports()
    counts = told.reporter.counts
    assert counts["TrafficSplit", "Any"] == counts["TrafficSplit", "Accepted"] == 1
    assert counts["TrafficSplit", "Programmed"] == 0
    told.acknowledge()
    told.reports()
    assert counts["TrafficSplit", "Programmed"] == counts["TrafficSplit", "Any"] == 1
    told.apply(split(2, backends=[{"service": "v1", "weight": -5}]))
    told.reports()
    assert (counts["TrafficSplit", "Accepted"], counts["TrafficSplit", "Any"]) == (0, 1)
    told.apply(gone=(SPLIT,))
    told.reports()
    assert counts["TrafficSplit", "Any"] == 0
    assert counts["HTTPRouteGroup", "Any"] == 1
