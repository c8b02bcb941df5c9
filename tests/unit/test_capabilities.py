"""What the core takes away from a backend that lacks a Feature, and what it tells."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smi_adapter.backends import Change, Files, Rendered
from smi_adapter.backends.capabilities import supported
from smi_adapter.findings import Ref, Severity
from smi_adapter.mesh import (
    AccessMode,
    Feature,
    HeaderMatch,
    Match,
    Mesh,
    Principal,
    Protocol,
    Route,
    Service,
    WeightedTarget,
    Workload,
    service_features,
    workload_features,
)
from tests.unit.meshes import (
    BUYER,
    DEPLOYMENT,
    EXAMPLES,
    SPLIT,
    STORE,
    TARGET,
    grant,
    mesh,
    meshes,
    service,
    split,
    start,
    to,
    whole,
    workload,
)


@dataclass(frozen=True)
class Some:
    """A backend with some features that renders nothing."""

    features: frozenset[Feature]
    name: str = "some"

    def render(self, mesh: Mesh, change: Change | None = None) -> Rendered:
        return Files({"seen": f"{len(mesh.services)} {change is None}".encode()})


ALL = frozenset(Feature)
ROUTES_ONLY = Some(frozenset(feature for feature in Feature if not feature.is_access))


def without(*features: Feature) -> Some:
    return Some(ALL - set(features))


def used(value: Mesh) -> Iterator[tuple[Feature, Ref]]:
    for one in value.services.values():
        yield from service_features(one)
    for other in value.workloads.values():
        yield from workload_features(other)


def only_service(value: Mesh) -> Service:
    (one,) = value.services.values()
    return one


def only_workload(value: Mesh) -> Workload:
    (one,) = value.workloads.values()
    return one


def test_a_backend_with_every_feature_gets_the_very_mesh() -> None:
    value = EXAMPLES[Feature.HTTP_SPLIT][0]
    assert supported(value, Some(ALL)).mesh is value


@pytest.mark.parametrize("feature", Feature, ids=lambda feature: feature.name)
def test_each_lacking_feature_is_reported_once_with_its_object(feature: Feature) -> None:
    value, _, ref = EXAMPLES[feature]
    result = supported(value, without(feature))
    assert [(item.code, item.subject) for item in result.findings] == [("SMI0601", ref)]
    assert feature.value in result.findings[0].message
    assert result.findings[0].severity is (Severity.ERROR if feature.is_access else Severity.WARNING)


@given(meshes(), st.sets(st.sampled_from(Feature)))
@settings(max_examples=60, deadline=None)
def test_a_backend_never_sees_what_it_did_not_claim(value: Mesh, features: set[Feature]) -> None:
    result = supported(value, Some(frozenset(features)))
    assert {feature for feature, _ in used(result.mesh)} <= features
    asked = {ref for feature, ref in used(value) if feature not in features}
    assert {item.subject for item in result.findings} == asked


@given(meshes(), st.sets(st.sampled_from(Feature)))
@settings(max_examples=60, deadline=None)
def test_every_port_keeps_a_last_route_that_always_matches(value: Mesh, features: set[Feature]) -> None:
    result = supported(value, Some(frozenset(features)))
    assert set(result.mesh.services) == set(value.services)
    for one in result.mesh.services.values():
        assert all(port.routes[-1].matches is None for port in one.ports)


@given(meshes(), st.sets(st.sampled_from(Feature)))
@settings(max_examples=60, deadline=None)
def test_taking_away_never_grants(value: Mesh, features: set[Feature]) -> None:
    result = supported(value, Some(frozenset(features)))
    for key, left in result.mesh.workloads.items():
        before = value.workloads[key]
        assert left.mode in {before.mode, AccessMode.ENFORCE}
        for port, old in zip(left.ports, before.ports, strict=True):
            granted = {(rule.matches, who) for rule in old.rules for who in rule.principals}
            assert {(rule.matches, who) for rule in port.rules for who in rule.principals} <= granted


@given(meshes(), meshes(), st.sets(st.sampled_from(Feature)))
@settings(max_examples=60, deadline=None)
def test_only_what_changed_is_looked_at_and_the_answer_is_the_same(
    old: Mesh, new: Mesh, features: set[Feature]
) -> None:
    backend = Some(frozenset(features))
    services = {key for key in {*old.services, *new.services} if old.services.get(key) != new.services.get(key)}
    workloads = {key for key in {*old.workloads, *new.workloads} if old.workloads.get(key) != new.workloads.get(key)}
    assert supported(new, backend, supported(old, backend), services, workloads) == supported(new, backend)


def test_what_lacks_nothing_is_shared() -> None:
    plain, header = service("api"), Match(headers=(HeaderMatch("x-beta", whole("yes")),))
    value = mesh(plain, service("web", split(to(web_v2=1), header)))
    assert supported(value, without(Feature.MATCH_HEADER)).mesh.services["shop", "api"] is plain


def test_a_match_that_would_lose_a_part_is_left_out_whole() -> None:
    both = Match(start("/user"), headers=(HeaderMatch("x-beta", whole("yes")),))
    path = Match(start("/order"))
    value = mesh(service("web", split(to(web_v2=1), both, path)))
    routes = only_service(supported(value, without(Feature.MATCH_HEADER)).mesh).ports[0].routes
    assert [route.matches for route in routes] == [(path,), None]


def test_a_split_that_cannot_be_done_goes_to_the_root() -> None:
    value = mesh(service("web", split(to(web_v1=1, web_v2=1)), protocol=Protocol.UDP))
    result = supported(value, without(Feature.UDP_SPLIT))
    assert only_service(result.mesh).ports[0].routes == (Route((WeightedTarget(("shop", "web"), 80, 1),)),)
    assert result.findings[0].subject == SPLIT


def test_a_grant_that_needs_an_address_is_withheld_and_the_others_stay() -> None:
    with_address, plain = Principal(BUYER, ("10.0.0.7",)), Principal(STORE)
    rule = grant()
    two = type(rule)((with_address, plain), None, TARGET)
    value = mesh(workloads=(workload(grant(addresses=("10.0.0.7",)), two),))
    left = only_workload(supported(value, without(Feature.ACCESS_ADDRESS)).mesh)
    assert [rule.principals for rule in left.ports[0].rules] == [(plain,)]


def test_audit_without_audit_is_enforcement() -> None:
    value = mesh(workloads=(workload(mode=AccessMode.AUDIT),))
    result = supported(value, without(Feature.ACCESS_AUDIT))
    assert only_workload(result.mesh).mode is AccessMode.ENFORCE
    assert result.findings[0].subject == DEPLOYMENT


def test_a_backend_without_access_features_gets_no_workload_and_all_routes() -> None:
    value = mesh(service("web", split(to(web_v1=1))), workloads=(workload(grant()),))
    result = supported(value, ROUTES_ONLY)
    assert result.mesh.workloads == {}
    assert result.mesh.services == value.services
    assert [(item.subject, item.severity) for item in result.findings] == [(TARGET, Severity.ERROR)]
    assert "closing of everything else" in result.findings[0].message
