"""Raw objects to Snapshot: what is kept, what is said, and that a bad object hurts only itself."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smi_adapter.decode import RawObject, apply, decode, ref_of
from smi_adapter.findings import Ref, Severity
from smi_adapter.snapshot import EMPTY, MODE_ANNOTATION, ContainerPort, Mode, ServicePort, SliceEndpoint, Snapshot
from smi_adapter.translate.modes import mode_of


def service(name: str = "web", **spec: Any) -> RawObject:
    spec = {"ports": [{"port": 80}], **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"}, "spec": spec}


def pod(**rest: Any) -> RawObject:
    metadata = {"name": "web-0", "namespace": "shop", **rest.pop("metadata", {})}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, **rest}


def endpoint_slice(*addresses: str) -> RawObject:
    metadata = {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}}
    endpoints = [{"addresses": [address]} for address in addresses]
    ports = [{"port": 8080, "name": ""}]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata,
        "endpoints": endpoints,
        "ports": ports,
    }


def said(snapshot: Snapshot) -> list[tuple[str, str]]:
    return [(item.code, item.field) for items in snapshot.problems.values() for item in items]


def only_pod(raw: RawObject, *, cluster: bool = False) -> Any:
    (found,) = apply(EMPTY, {ref_of(raw): raw}, cluster=cluster)[0].pods.values()
    return found


def test_a_name_without_a_namespace_is_in_the_default_one() -> None:
    assert ref_of({"kind": "Service", "metadata": {"name": "a"}}) == Ref("Service", "default", "a")
    assert ref_of({"kind": "Namespace", "metadata": {"name": "a", "namespace": "b"}}) == Ref("Namespace", "", "a")
    assert ref_of({"apiVersion": "apps/v1", "kind": "Deployment"}) == Ref("Deployment", "default", "", "apps")
    assert ref_of({"apiVersion": 3, "kind": [], "metadata": "x"}) == Ref("", "default", "")


def test_a_service_keeps_what_decides_something() -> None:
    raw = service(
        ports=[
            {"port": 80, "targetPort": "http", "name": "http", "appProtocol": "grpc", "nodePort": 30000},
            {"port": 53, "protocol": "UDP"},
            {"port": 53, "targetPort": 1053},
        ],
        selector={"app": "web"},
        clusterIPs=["10.0.0.1", "fd00::1"],
    )
    found = decode([raw]).services["shop", "web"]
    assert found.ports == (
        ServicePort(80, "http", "TCP", "grpc", "http"),
        ServicePort(53, "", "UDP", "", 53),
        ServicePort(53, "", "TCP", "", 1053),
    )
    assert found.selector == {"app": "web"}
    assert found.addresses == ("10.0.0.1", "fd00::1")


def test_a_headless_service_has_no_address() -> None:
    assert decode([service(clusterIP="None", clusterIPs=["None"])]).services["shop", "web"].addresses == ()


def test_an_external_name_service_keeps_its_type_for_the_translator_to_refuse() -> None:
    raw = service(type="ExternalName", externalName="metadata.internal")
    assert decode([raw]).services["shop", "web"].type == "ExternalName"


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (service(ports=[{"port": 0}]), "spec.ports[0].port"),
        (service(ports=[{"port": 65536}]), "spec.ports[0].port"),
        (service(ports=[{"port": 10**300}]), "spec.ports[0].port"),
        (service(ports=[{"port": "80"}]), "spec.ports[0].port"),
        (service(ports=[{"port": 80.5}]), "spec.ports[0].port"),
        (service(ports=[{}]), "spec.ports[0]"),
        (service(ports=[{"port": 1}, {"port": 80, "targetPort": 70000}]), "spec.ports[1].targetPort"),
        (service(ports=[{"port": 80, "protocol": "tcp"}]), "spec.ports[0].protocol"),
        (service(ports={"port": 80}), "spec.ports"),
        (service(ports=[{"port": 80}, {"port": 80}]), "spec.ports[1].port"),
        (service(selector={"version": 1}), "spec.selector[...]"),
        (service(selector=[]), "spec.selector"),
        (service("Web"), "metadata.name"),
        (service("../../etc"), "metadata.name"),
        (service("a\nb"), "metadata.name"),
        (service("a" * 64), "metadata.name"),
        ({**service(), "metadata": {"name": "web", "namespace": "a/b"}}, "metadata.namespace"),
        ({**service(), "spec": None}, "spec"),
        ({**service(), "metadata": None}, "metadata.name"),
        (
            pod(spec={"containers": [{"ports": [{"containerPort": 99999}]}]}),
            "spec.containers[0].ports[0].containerPort",
        ),
        (pod(metadata={"annotations": {"smi-adapter.io/dial": "[]x"}}), "metadata.annotations[smi-adapter.io/dial]"),
        (
            pod(metadata={"annotations": {"smi-adapter.io/dial": '{"a/b":"x"}'}}),
            "metadata.annotations[smi-adapter.io/dial]",
        ),
        ({**endpoint_slice(), "endpoints": [{"addresses": []}]}, "endpoints[0].addresses"),
    ],
)
def test_a_bad_field_is_named_and_only_that_object_is_left_out(raw: RawObject, field: str) -> None:
    snapshot = decode([raw, service("good")])
    assert set(snapshot.services) == {("shop", "good")}
    assert not snapshot.pods
    assert not snapshot.slices
    assert said(snapshot) == [("SMI0505", field)]
    assert all(item.message.isprintable() for items in snapshot.problems.values() for item in items)


def test_absent_and_null_mean_the_same() -> None:
    raw = pod(metadata={"labels": None, "annotations": None}, spec={"containers": None, "serviceAccountName": None})
    assert only_pod(raw) == only_pod(pod())
    assert decode([service(ports=None, selector=None)]).services["shop", "web"].ports == ()


def test_a_pod_keeps_its_identity_ports_and_addresses() -> None:
    raw = pod(
        metadata={
            "labels": {"app": "web"},
            "annotations": {
                "smi-adapter.io/app-address": "127.42.0.2",
                "smi-adapter.io/dial": '{"shop/web":"127.42.0.3"}',
                "smi-adapter.io/other": "x",
                "other.io/x": "y",
            },
        },
        spec={
            "serviceAccountName": "seller",
            "containers": [
                {"ports": [{"containerPort": 80, "name": "http"}]},
                {"ports": [{"containerPort": 53, "protocol": "UDP"}]},
            ],
        },
        status={"podIP": "127.42.0.1"},
    )
    found = only_pod(raw)
    assert (found.service_account, found.address, found.app_address) == ("seller", "127.42.0.1", "127.42.0.2")
    assert found.dial == {("shop", "web"): "127.42.0.3"}
    assert found.ports == (ContainerPort(80, "http"), ContainerPort(53, "", "UDP"))
    assert found.meta.annotations == {"smi-adapter.io/other": "x"}
    in_cluster = only_pod(raw, cluster=True)
    assert (in_cluster.app_address, in_cluster.dial) == ("", {})


@pytest.mark.parametrize(
    ("owners", "labels", "workload"),
    [
        ([], {}, "web-0"),
        ([{"kind": "StatefulSet", "name": "db", "controller": True}], {}, "db"),
        ([{"kind": "ReplicaSet", "name": "web-5d9f", "controller": True}], {"pod-template-hash": "5d9f"}, "web"),
        ([{"kind": "ReplicaSet", "name": "web", "controller": True}], {}, "web"),
        ([{"kind": "Node", "name": "n", "controller": False}], {}, "web-0"),
    ],
)
def test_a_pods_workload_is_what_owns_it(owners: list[Any], labels: dict[str, str], workload: str) -> None:
    assert only_pod(pod(metadata={"ownerReferences": owners, "labels": labels})).workload == workload


@pytest.mark.parametrize(
    ("status", "deleted", "ready"),
    [
        (None, None, True),
        ({"conditions": [{"type": "Ready", "status": "True"}]}, None, True),
        ({"conditions": [{"type": "Ready", "status": "False"}]}, None, False),
        ({"conditions": [{"type": "Ready", "status": "Unknown"}]}, None, False),
        ({"phase": "Succeeded"}, None, False),
        ({"phase": "Running"}, "2026-01-01T00:00:00Z", False),
    ],
)
def test_a_pod_is_ready_unless_something_says_otherwise(status: Any, deleted: str | None, *, ready: bool) -> None:
    assert only_pod(pod(metadata={"deletionTimestamp": deleted}, status=status)).ready is ready


def test_the_unready_endpoints_of_a_slice_are_kept_as_such() -> None:
    raw = endpoint_slice()
    conditions = [{"ready": True}, {"ready": False}, {"ready": None}, None]
    endpoints = [
        {
            "addresses": [f"10.0.0.{number}", "10.9.9.9"],
            "conditions": condition,
            "targetRef": {"kind": "Pod", "name": f"web-{number}", "namespace": "shop" if number else "other"},
        }
        for number, condition in enumerate(conditions)
    ]
    found = decode([{**raw, "endpoints": endpoints}]).slices["shop", "web-1"]
    assert found.service == "web"
    assert found.endpoints == (
        SliceEndpoint("10.0.0.0", ready=True, pod=""),
        SliceEndpoint("10.0.0.1", ready=False, pod="web-1"),
        SliceEndpoint("10.0.0.2", ready=True, pod="web-2"),
        SliceEndpoint("10.0.0.3", ready=True, pod="web-3"),
    )


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "169.254.169.254", "::1", "fe80::1", "::ffff:127.0.0.1"])
def test_an_endpoint_on_the_node_itself_is_refused_in_a_cluster_only(address: str) -> None:
    raw = endpoint_slice(address, "10.0.0.1")
    changes: dict[Ref, RawObject | None] = {ref_of(raw): raw}
    snapshot, _ = apply(EMPTY, changes, cluster=True)
    assert [item.address for item in snapshot.slices["shop", "web-1"].endpoints] == ["10.0.0.1"]
    assert said(snapshot) == [("SMI0703", "endpoints[0].addresses[0]")]
    assert len(apply(EMPTY, changes)[0].slices["shop", "web-1"].endpoints) == 2


@pytest.mark.parametrize("address", ["example.org", "0.0.0.0", "::", "224.0.0.1", "", "10.0.0.1\n"])
def test_an_endpoint_that_is_no_address_of_one_host_is_refused_everywhere(address: str) -> None:
    snapshot = decode([endpoint_slice(address)])
    assert snapshot.slices["shop", "web-1"].endpoints == ()
    assert said(snapshot) == [("SMI0703", "endpoints[0].addresses[0]")]


def test_namespaces_and_accounts_are_known_by_name() -> None:
    snapshot = decode(
        [
            {
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": "shop", "annotations": {"smi-adapter.io/access-mode": "audit"}},
            },
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "seller", "namespace": "shop"}},
        ]
    )
    assert snapshot.namespaces["shop"].annotations == {"smi-adapter.io/access-mode": "audit"}
    assert snapshot.service_accounts == {("shop", "seller")}


@pytest.mark.parametrize("written", ["permissive", "enforce", None])
def test_a_namespace_that_cannot_be_read_enforces_until_it_can(written: str | None) -> None:  # T1
    annotations = {MODE_ANNOTATION: written} if written else {}
    good: RawObject = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "shop", "annotations": annotations},
    }
    bad: RawObject = {**good, "metadata": {**good["metadata"], "labels": {"team": 5}}}
    at_start = decode([bad])
    edited, changed = apply(decode([good]), {ref_of(bad): bad})
    assert changed == {Ref("Namespace", "", "shop")}
    for snapshot in (at_start, edited):
        assert mode_of(snapshot.namespaces.get("shop"), Mode.PERMISSIVE) is Mode.ENFORCE
        assert [code for code, _ in said(snapshot)] == ["SMI0505"]
    assert apply(edited, {ref_of(good): good})[0] == decode([good])
    assert not apply(edited, {ref_of(bad): None})[0].namespaces


@pytest.mark.parametrize(
    ("version", "kind", "codes"),
    [
        ("v1", "ConfigMap", []),
        ("apps/v1", "Deployment", []),
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition", []),
        ("example.org/v1", "Deployment", ["SMI0506"]),
        ("argoproj.io/v1alpha1", "Rollout", ["SMI0506"]),
        ("gateway.networking.k8s.io/v1alpha2", "TCPRoute", ["SMI0506"]),
        ("metrics.smi-spec.io/v1alpha1", "TrafficMetrics", ["SMI0506"]),
        ("v1", "Node", ["SMI0506"]),
        ("networking.k8s.io/v1", "IngressClass", ["SMI0506"]),
    ],
)
def test_a_kind_that_nobody_reads_is_named_unless_it_stands_in_everybodys_files(
    version: str, kind: str, codes: list[str]
) -> None:
    snapshot = decode([{"apiVersion": version, "kind": kind, "metadata": {"name": "x"}}])
    assert [code for code, _ in said(snapshot)] == codes
    assert all(item.severity is Severity.INFO for items in snapshot.problems.values() for item in items)


@pytest.mark.parametrize(
    ("version", "kind", "meant"),
    [
        ("spilt.smi-spec.io/v1alpha4", "TrafficSplit", "TrafficSplit of split.smi-spec.io"),
        ("acess.smi-spec.io/v1alpha3", "TrafficTarget", "TrafficTarget of access.smi-spec.io"),
        ("smi-spec.io/v1alpha4", "HTTPRouteGroup", "HTTPRouteGroup of specs.smi-spec.io"),
        ("split.smi-spec.io/v1alpha4", "HTTPRouteGroup", "HTTPRouteGroup"),
        ("spilt.smi-spec.io/v1alpha4", "TrafficSplits", "TrafficSplit of split.smi-spec.io"),
        ("v1alpha4", "TrafficSplit", "TrafficSplit of split.smi-spec.io"),
        ("v1", "Sevrice", "Service"),
        ("v1", "Deployment", "Deployment of apps"),
        ("app/v1", "Deployment", "Deployment of apps"),
        ("discovery.k8s.io/v1", "EndpointSlices", "EndpointSlice"),
    ],
)
def test_a_misspelled_group_or_kind_is_a_warning_that_says_what_was_meant(version: str, kind: str, meant: str) -> None:
    snapshot = decode([{"apiVersion": version, "kind": kind, "metadata": {"name": "x"}}])
    ((problem,),) = snapshot.problems.values()
    assert problem.severity is not Severity.INFO
    assert problem.code == "SMI0501" or f"did you mean {meant}?" in problem.message


def test_what_did_not_change_is_shared() -> None:
    raw, other = service("a"), service("b")
    first, changed = apply(EMPTY, {ref_of(raw): raw, ref_of(other): other})
    assert changed == {ref_of(raw), ref_of(other)}
    same, changed = apply(first, {ref_of(raw): service("a")})
    assert same is first
    assert changed == frozenset()
    second, changed = apply(first, {ref_of(raw): service("a", ports=[{"port": 81}])})
    assert changed == {ref_of(raw)}
    assert second.services["shop", "b"] is first.services["shop", "b"]
    assert second.pods is first.pods
    third, changed = apply(second, {ref_of(raw): None, Ref("Service", "shop", "never"): None})
    assert changed == {ref_of(raw)}
    assert set(third.services) == {("shop", "b")}
    assert set(first.services) == {("shop", "a"), ("shop", "b")}


def test_a_service_that_an_edit_makes_undecodable_keeps_its_last_form() -> None:
    good, bad = service(), service(ports=[{"port": "x"}])
    first, _ = apply(EMPTY, {ref_of(good): good})
    second, changed = apply(first, {ref_of(good): bad})
    assert second.services == first.services
    assert changed == {ref_of(good)}
    assert said(second) == [("SMI0505", "spec.ports[0].port")]
    third, _ = apply(second, {ref_of(good): good})
    assert third.problems == {}
    assert apply(second, {ref_of(good): None})[0].services == {}


def test_a_pod_that_an_edit_makes_undecodable_is_gone() -> None:
    good = pod()
    first, _ = apply(EMPTY, {ref_of(good): good})
    assert apply(first, {ref_of(good): pod(spec=3)})[0].pods == {}


def test_the_order_of_changes_does_not_matter() -> None:
    raws = [service("a"), service("b"), pod(), endpoint_slice("10.0.0.1"), service("Bad")]
    one = decode(raws)
    other = decode(reversed(raws))
    assert one == other


FIELDS = st.sampled_from(
    ["metadata", "name", "namespace", "labels", "annotations", "spec", "ports", "port", "selector", "containers",
     "endpoints", "addresses", "conditions", "status", "podIP", "ownerReferences", "targetPort", "smi-adapter.io/dial"]
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=4),
    max_leaves=15,
)


@given(
    st.sampled_from(["Service", "Pod", "EndpointSlice", "Namespace", "ServiceAccount", "Other"]),
    st.dictionaries(FIELDS, JSON),
)
def test_any_object_is_decoded_or_named(kind: str, rest: dict[str, Any]) -> None:
    group = "discovery.k8s.io/v1" if kind == "EndpointSlice" else "v1"
    raw = {**rest, "apiVersion": group, "kind": kind}
    snapshot = decode([raw])
    there = any((snapshot.services, snapshot.pods, snapshot.slices, snapshot.namespaces, snapshot.service_accounts))
    assert there or snapshot.problems
    assert all(item.code != "SMI0606" for items in snapshot.problems.values() for item in items)
