"""What the chart leaves when it goes. With the conversion webhook its Job has to run, or namespaces get stuck."""

from collections.abc import Iterator

import pytest

from smi_adapter import crds
from tests.cluster.control_plane import RequestError
from tests.cluster.node import Node
from tests.pods.release import NAME, NAMESPACE, Release

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
SPLIT = {"service": "web", "backends": [{"service": "web-v1", "weight": 1}]}


def _conversions(cluster: Node) -> set[str]:
    names = [crds.name_of(each) for each in crds.definitions()]
    return {cluster.plane.get(f"{DEFINITIONS}/{name}")["spec"]["conversion"]["strategy"] for name in names}


@pytest.fixture
def converting(cluster: Node) -> Iterator[Release]:
    """Install the chart with the conversion webhook; it goes, if the test has left it."""
    release = Release(cluster)
    release.install("--set", "webhooks.conversion.enabled=true")
    yield release
    if release.is_there():
        release.remove()


def test_the_hook_ends_the_conversion_and_namespaces_can_be_deleted(cluster: Node, converting: Release) -> None:
    assert _conversions(cluster) == {"Webhook"}
    namespace = cluster.plane.new_namespace()
    metadata = {"name": "web", "namespace": namespace}
    split = {"apiVersion": "split.smi-spec.io/v1alpha4", "kind": "TrafficSplit", "metadata": metadata, "spec": SPLIT}

    cluster.plane.apply(split)
    older = f"/apis/split.smi-spec.io/v1alpha1/namespaces/{namespace}/trafficsplits/web"

    def converted() -> bool:  # certificate and caBundle come a moment after the pods are ready
        try:
            read = cluster.plane.get(older)
        except RequestError:
            return False
        return bool(read["spec"]["backends"] == [{"service": "web-v1", "weight": 1}])

    cluster.wait_for(converted, "the conversion webhook")

    converting.remove()

    assert _conversions(cluster) == {"None"}
    assert cluster.plane.get(older)["apiVersion"] == "split.smi-spec.io/v1alpha1"
    cluster.plane.kubectl("delete", "namespace", namespace, "--timeout=120s")
    left = cluster.plane.kubectl("get", "clusterrole,clusterrolebinding,validatingwebhookconfiguration", "-o", "name")
    assert NAME not in left.stdout
    assert NAMESPACE not in left.stdout
