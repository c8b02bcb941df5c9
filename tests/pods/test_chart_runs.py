"""The chart and its image where pods run: install, answers of the webhook, test, upgrade, uninstallation."""

import pytest

from tests.cluster.control_plane import RequestError
from tests.cluster.node import Node
from tests.pods.release import NAME, NAMESPACE, RESTRICTED, Release, conditions

SPLIT = """
apiVersion: split.smi-spec.io/v1alpha4
kind: TrafficSplit
metadata: {{name: web, namespace: {namespace}}}
spec: {{service: web, backends: [{{service: web-v1, weight: {weight}}}]}}
"""


@pytest.fixture
def namespace(cluster: Node) -> str:
    return cluster.plane.new_namespace()


def test_two_replicas_are_ready_in_a_namespace_that_demands_restricted(release: Release) -> None:
    pods = release.pods()
    assert [conditions(each)["Ready"] for each in pods] == ["True", "True"]
    assert {each["status"]["containerStatuses"][0]["restartCount"] for each in pods} == {0}
    labels = release.cluster.plane.get(f"/api/v1/namespaces/{NAMESPACE}")["metadata"]["labels"]
    assert RESTRICTED.items() <= labels.items()


def test_the_budget_lets_one_replica_go_at_a_time(release: Release, cluster: Node) -> None:
    budget = f"/apis/policy/v1/namespaces/{NAMESPACE}/poddisruptionbudgets/{NAME}"
    cluster.wait_for(lambda: cluster.plane.get(budget).get("status", {}).get("disruptionsAllowed") == 1, "the budget")
    first, second = (each["metadata"]["name"] for each in release.pods())

    def evict(name: str) -> None:
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": NAMESPACE}}
        cluster.plane.request("POST", f"/api/v1/namespaces/{NAMESPACE}/pods/{name}/eviction", body)

    evict(first)
    with pytest.raises(RequestError, match="disruption budget"):
        evict(second)
    cluster.wait_for(lambda: len(release.pods()) == 2 and cluster.is_rolled_out(NAMESPACE, NAME), "the replacement")


def test_an_upgrade_replaces_the_pods_and_keeps_the_keys(release: Release, cluster: Node) -> None:
    secret = f"/api/v1/namespaces/{NAMESPACE}/secrets/{NAME}-ca"
    key, before = cluster.plane.get(secret)["data"], {each["metadata"]["uid"] for each in release.pods()}
    assert key
    release.upgrade("--set", "settings.logLevel=debug")
    cluster.wait_for(lambda: len(release.pods()) == 2, "two pods")
    assert not before & {each["metadata"]["uid"] for each in release.pods()}
    assert cluster.plane.get(secret)["data"] == key


def test_the_test_of_the_chart_passes(release: Release) -> None:
    assert "Phase:          Succeeded" in release.helm("test", NAME)


def test_the_api_server_asks_the_webhook_by_its_service(release: Release, cluster: Node, namespace: str) -> None:
    def warned() -> bool:  # the caBundle may come a moment after the pods are ready
        done = cluster.plane.kubectl("apply", "-f", "-", stdin=SPLIT.format(namespace=namespace, weight=1))
        cluster.plane.kubectl("delete", "trafficsplit", "web", "-n", namespace)
        return "SMI0101" in done.stderr or "SMI0102" in done.stderr

    cluster.wait_for(warned, "a warning of the webhook")
    group = {
        "apiVersion": "specs.smi-spec.io/v1alpha4",
        "kind": "HTTPRouteGroup",
        "metadata": {"name": "bad", "namespace": namespace},
        "spec": {"matches": [{"name": "a", "pathRegex": "/a(?!b)", "methods": ["GET"]}]},
    }
    done = cluster.plane.kubectl("apply", "-f", "-", stdin=str(group).replace("'", '"'), check=False)
    assert done.returncode != 0
    assert "SMI0201" in done.stderr


def test_status_and_events_are_written(release: Release, cluster: Node, namespace: str) -> None:
    cluster.plane.kubectl("apply", "-f", "-", stdin=SPLIT.format(namespace=namespace, weight=1))
    cluster.plane.kubectl("wait", "--for=condition=ResolvedRefs=false", "trafficsplit/web", "-n", namespace)
    events = f"/apis/events.k8s.io/v1/namespaces/{namespace}/events"
    cluster.wait_for(
        lambda: any(each["regarding"].get("name") == "web" for each in cluster.plane.get(events)["items"]),
        "an Event about the split",
    )
    assert release.leader()
