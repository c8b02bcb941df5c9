"""What the controllers add where there is no cluster: Pods, EndpointSlices, ServiceAccounts and addresses."""

from __future__ import annotations

import json
from ipaddress import IPv4Network
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from smi_adapter.decode import RawObject, apply, decode, ref_of
from smi_adapter.decode.forms import APP_ADDRESS, DIAL
from smi_adapter.findings import Ref
from smi_adapter.snapshot import EMPTY, SliceEndpoint, SlicePort
from smi_adapter.sources import controllers
from smi_adapter.sources.controllers import Addresses, Memory, World, reconcile

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  template:
    metadata: {labels: {app: web}}
    spec:
      serviceAccountName: seller
      containers:
      - {name: web, ports: [{name: http, containerPort: 8080}, {name: admin, containerPort: 9090}]}
"""
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}]}
"""


def objects(*texts: str) -> dict[Ref, RawObject]:
    return {ref_of(raw): raw for text in texts for raw in yaml.safe_load_all(text)}


def pod(name: str, **rest: Any) -> dict[Ref, RawObject]:
    raw = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", **rest.pop("metadata", {})},
    }
    return {Ref("Pod", "shop", name): {**raw, **rest}}


def addresses_of(world: World) -> dict[str, str]:
    found: dict[str, str] = {}
    for ref, raw in world.objects.items():
        if ref.kind == "Pod":
            annotations = raw["metadata"]["annotations"]
            found[f"{ref.name} proxy"] = raw["status"]["podIP"]
            found[f"{ref.name} app"] = annotations[APP_ADDRESS]
            found |= {f"{ref.name} {name}": address for name, address in json.loads(annotations[DIAL]).items()}
    return found


def test_a_deployment_becomes_pods_and_a_service_finds_them() -> None:
    world = reconcile(objects(DEPLOYMENT, SERVICE), Memory())
    snapshot = decode(world.objects.values())
    assert set(snapshot.pods) == {("shop", "web-0"), ("shop", "web-1")}
    first = snapshot.pods["shop", "web-0"]
    assert (first.workload, first.service_account, first.ready, first.meshed) == ("web", "seller", True, True)
    assert first.meta.labels == {"app": "web"}
    assert set(first.dial) == {("shop", "web")}
    (found,) = snapshot.slices.values()
    assert found.service == "web"
    assert found.ports == (SlicePort("http", 8080),)
    assert found.endpoints == tuple(
        SliceEndpoint(snapshot.pods["shop", name].address, ready=True, pod=name) for name in ("web-0", "web-1")
    )
    assert ("shop", "default") in snapshot.service_accounts
    assert snapshot.problems == {}
    assert world.owners[Ref("Pod", "shop", "web-0")] == Ref("Deployment", "shop", "web", "apps")


@pytest.mark.parametrize("kind", ["StatefulSet", "ReplicaSet"])
def test_what_is_like_a_deployment_becomes_pods_too(kind: str) -> None:
    world = reconcile(objects(DEPLOYMENT.replace("Deployment", kind)), Memory())
    assert len([ref for ref in world.objects if ref.kind == "Pod"]) == 2


def test_a_daemon_set_runs_once_on_the_one_node() -> None:
    world = reconcile(objects(DEPLOYMENT.replace("Deployment", "DaemonSet")), Memory())
    assert [ref.name for ref in world.objects if ref.kind == "Pod"] == ["web-0"]


def test_a_pod_that_is_not_ready_stays_in_the_slice_as_not_ready() -> None:
    world = reconcile(objects(DEPLOYMENT, SERVICE), Memory(), {("shop", "web-1"): True})
    snapshot = decode(world.objects.values())
    (found,) = snapshot.slices.values()
    assert [(item.pod, item.ready) for item in found.endpoints] == [("web-0", False), ("web-1", True)]
    assert [snapshot.pods["shop", name].ready for name in ("web-0", "web-1")] == [False, True]


def test_a_named_target_port_is_resolved_for_each_pod() -> None:
    world = reconcile(
        objects(SERVICE)
        | pod(
            "old",
            metadata={"labels": {"app": "web"}},
            spec={"containers": [{"ports": [{"name": "http", "containerPort": 1}]}]},
        )
        | pod(
            "new",
            metadata={"labels": {"app": "web"}},
            spec={"containers": [{"ports": [{"name": "http", "containerPort": 2}]}]},
        )
        | pod("without", metadata={"labels": {"app": "web"}}, spec={"containers": [{}]}),
        Memory(),
    )
    found = decode(world.objects.values()).slices.values()
    assert sorted((tuple(port.number for port in item.ports), item.endpoints[0].pod) for item in found) == [
        ((), "without"),
        ((1,), "old"),
        ((2,), "new"),
    ]


def test_a_service_selects_only_in_its_own_namespace_and_only_by_all_labels() -> None:
    other = DEPLOYMENT.replace("namespace: shop", "namespace: other")
    narrow = SERVICE.replace("{app: web}", "{app: web, tier: x}").replace("name: web", "name: narrow")
    world = reconcile(objects(other, SERVICE, narrow), Memory())
    assert not [ref for ref in world.objects if ref.kind == "EndpointSlice"]


def test_slices_and_pods_of_the_files_are_respected() -> None:
    own = """
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: mine, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [192.0.2.1]}]
ports: [{name: http, port: 5}]
"""
    world = reconcile(objects(DEPLOYMENT, SERVICE, own), Memory())
    assert [ref.name for ref in world.objects if ref.kind == "EndpointSlice"] == ["mine"]
    given = pod("elsewhere", metadata={"labels": {"app": "web"}}, status={"podIP": "192.0.2.7"})
    world = reconcile(objects(SERVICE) | given, Memory(), {})
    assert world.objects[Ref("Pod", "shop", "elsewhere")] is given[Ref("Pod", "shop", "elsewhere")]
    (found,) = decode(world.objects.values()).slices.values()
    assert found.endpoints == (SliceEndpoint("192.0.2.7", ready=True, pod="elsewhere"),)


def test_a_pod_of_the_files_stands_before_a_copy_of_the_same_name() -> None:
    world = reconcile(objects(DEPLOYMENT) | pod("web-0"), Memory())
    assert world.owners.keys() == {Ref("Pod", "shop", "web-1")}
    assert [item.code for item in world.findings] == ["SMI0508"]


def test_a_pod_without_a_proxy_has_one_address() -> None:
    world = reconcile(
        objects(SERVICE) | pod("plain", metadata={"annotations": {"smi-adapter.io/inject": "false"}}), Memory()
    )
    found = decode(world.objects.values()).pods["shop", "plain"]
    assert (found.meshed, found.app_address, found.dial) == (False, "", {})
    assert found.address


def test_cluster_addresses_in_a_dump_are_dropped() -> None:
    dumped = SERVICE.replace("ports:", "clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ports:")
    world = reconcile(objects(dumped), Memory())
    assert decode(world.objects.values()).services["shop", "web"].addresses == ()


@pytest.mark.parametrize(
    "edit", [("replicas: 2", "replicas: two"), ("replicas: 2", "replicas: 100000"), ("spec:\n      s", "x:\n      s")]
)
def test_a_workload_that_an_edit_makes_invalid_keeps_its_pods(edit: tuple[str, str]) -> None:
    first = reconcile(objects(DEPLOYMENT), Memory())
    second = reconcile(objects(DEPLOYMENT.replace(*edit)), first.memory)
    assert addresses_of(second) == addresses_of(first)
    (item,) = second.findings
    assert item.subject == Ref("Deployment", "shop", "web", "apps")
    assert not addresses_of(reconcile(objects(DEPLOYMENT.replace(*edit)), Memory()))


def test_every_address_is_used_once_and_stays() -> None:
    other = SERVICE.replace("name: web", "name: aaa")
    first = reconcile(objects(DEPLOYMENT, SERVICE), Memory())
    second = reconcile(objects(DEPLOYMENT.replace("replicas: 2", "replicas: 3"), SERVICE, other), first.memory)
    assert addresses_of(first).items() <= addresses_of(second).items()
    assert len(set(addresses_of(second).values())) == len(addresses_of(second)) == 3 * 4
    third = reconcile(objects(DEPLOYMENT, SERVICE), second.memory)
    assert addresses_of(third) == addresses_of(first)


def test_a_service_that_comes_back_is_dialled_where_it_was() -> None:
    first = reconcile(objects(DEPLOYMENT, SERVICE), Memory())
    without = reconcile(objects(DEPLOYMENT), first.memory)
    assert "web-0 shop/web" not in addresses_of(without)
    other = reconcile(objects(DEPLOYMENT, SERVICE.replace("name: web", "name: other")), without.memory)
    assert addresses_of(other)["web-0 shop/other"] not in addresses_of(first).values()
    assert addresses_of(reconcile(objects(DEPLOYMENT, SERVICE), other.memory)) == addresses_of(first)


def test_a_restart_with_the_same_files_leads_to_the_same_addresses() -> None:
    world = objects(DEPLOYMENT, SERVICE)
    assert addresses_of(reconcile(world, Memory())) == addresses_of(reconcile(dict(reversed(world.items())), Memory()))


def test_addresses_come_from_the_network_that_is_configured() -> None:
    network = IPv4Network("127.99.0.0/16")
    world = reconcile(objects(DEPLOYMENT, SERVICE), Memory(Addresses(network)))
    assert all(address.startswith("127.99.") for address in addresses_of(world).values())


def test_a_pod_for_which_no_address_is_left_is_left_out_and_named() -> None:
    small = Memory(Addresses(IPv4Network("127.99.0.0/22")))
    world = reconcile(objects(DEPLOYMENT.replace("replicas: 2", "replicas: 300")), small)
    assert {item.code for item in world.findings} == {"SMI0206"}
    assert len([ref for ref in world.objects if ref.kind == "Pod"]) + len(world.findings) == 300
    assert len(set(addresses_of(world).values())) == len(addresses_of(world)) == 512


@given(st.lists(st.sets(st.integers(0, 40), max_size=30), max_size=8))
def test_an_address_is_never_shared_and_never_moves(history: list[set[int]]) -> None:
    addresses = Addresses(IPv4Network("127.99.0.0/22"))
    for wanted in history:
        uses = [(("a", str(number)), "proxy") for number in sorted(wanted)]
        following = addresses.assign(uses)
        assert len(set(following.used.values())) == len(uses)
        assert all(following.used[use] == addresses.used[use] for use in uses if use in addresses.used)
        addresses = following


def test_an_address_that_was_given_up_is_used_again_last() -> None:
    one = Addresses().assign([(("a", "one"), "proxy")])
    two = one.assign([(("a", "two"), "proxy")])
    assert set(one.used.values()).isdisjoint(two.used.values())


def test_bad_objects_of_every_kind_never_raise() -> None:
    bad: dict[Ref, RawObject] = {
        Ref("Pod", "shop", "a"): {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "a"},
            "spec": {"containers": 5},
        },
        Ref("Service", "shop", "b"): {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "b"},
            "spec": {"ports": [{}]},
        },
        Ref("EndpointSlice", "shop", "c", "discovery.k8s.io"): {"kind": "EndpointSlice", "metadata": 3},
        Ref("Deployment", "shop", "../d", "apps"): {"kind": "Deployment", "metadata": {"name": "../d"}},
        Ref("Pod", "shop", "../e"): {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "../e"}},
    }
    world = reconcile(bad, Memory())
    snapshot, _ = apply(EMPTY, world.objects)
    assert not snapshot.pods
    assert {item.subject.name for item in world.findings} == {"../d"}
    assert {ref.name for ref in snapshot.problems} == {"a", "b", "c", "../e"}


@pytest.mark.parametrize("part", ["_finished", "_slices", "_workload", "_without_cluster_ip"])
def test_our_own_failure_about_one_object_leaves_only_that_one_out(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    real = getattr(controllers, part)

    def failing(*args: Any, **rest: Any) -> Any:
        if "bad" in str(args[0]):
            raise UnicodeEncodeError("utf-8", "x", 0, 1, "surrogates not allowed")
        return real(*args, **rest)

    bad = [text.replace("name: web,", "name: bad,").replace("app: web", "app: bad") for text in (DEPLOYMENT, SERVICE)]
    expected = reconcile(objects(DEPLOYMENT, SERVICE), Memory())
    monkeypatch.setattr(controllers, part, failing)
    world = reconcile(objects(DEPLOYMENT, SERVICE, *bad), Memory())
    assert {item.code for item in world.findings} == {"SMI0606"}
    failed = {item.subject for item in world.findings}
    assert failed
    assert all(ref.name.startswith("bad") for ref in failed)
    assert not failed & world.objects.keys()
    assert expected.objects.keys() <= world.objects.keys()


def test_half_of_a_surrogate_pair_is_a_finding_of_its_object_alone() -> None:
    bad = pod("bad", metadata={"\ud800": "x"})
    world = reconcile(objects(DEPLOYMENT, SERVICE) | bad, Memory())
    snapshot = decode(world.objects.values())
    assert set(snapshot.pods) == {("shop", "web-0"), ("shop", "web-1")}
    assert [item.code for items in snapshot.problems.values() for item in items] == ["SMI0505"]


@pytest.mark.parametrize("status", [{}, {"status": {"podIP": "10.0.0.1", "phase": "Running"}}])
def test_a_pod_that_an_edit_makes_invalid_stays_as_it_was(status: dict[str, Any]) -> None:
    def edition(number: int) -> dict[Ref, RawObject]:
        spec = {"containers": [{"name": "web", "ports": [{"name": "http", "containerPort": number}]}]}
        return objects(SERVICE) | pod("one", metadata={"labels": {"app": "web"}}, spec=spec, **status)

    good = reconcile(edition(8080), Memory())
    bad = reconcile(edition(80800), good.memory)
    again = reconcile(edition(80800), bad.memory)
    for world in (bad, again):
        assert world.objects == good.objects
        (said,) = world.findings
        assert (said.code, said.subject) == ("SMI0505", Ref("Pod", "shop", "one"))
    mended = reconcile(edition(8081), again.memory)
    assert mended.findings == ()
    assert decode(mended.objects.values()).slices["shop", "web-local-0"].ports == (SlicePort("http", 8081),)
    gone = reconcile(objects(SERVICE), again.memory)
    assert Ref("Pod", "shop", "one") not in gone.objects
    assert Ref("Pod", "shop", "one") not in gone.memory.good


def test_a_pod_that_was_never_good_is_said_once() -> None:
    spec = {"containers": [{"name": "web", "ports": [{"containerPort": 80800}]}]}
    world = reconcile(pod("one", spec=spec), Memory())
    assert world.findings == ()
    assert [item.code for items in decode(world.objects.values()).problems.values() for item in items] == ["SMI0505"]
