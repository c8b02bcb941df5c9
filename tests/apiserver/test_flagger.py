"""The real Flagger drives our TrafficSplits on the real API server, for each provider that writes SMI."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from smi_adapter import crds
from tests import tools
from tests.cluster.control_plane import ControlPlane
from tests.cluster.flagger import Flagger, canary
from tests.cluster.kubelet import Kubelet

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not tools.is_there("flagger"), reason="Flagger is not built: make tools ARGS=flagger"),
]

# Provider -> the version of split.smi-spec.io that it writes.
PROVIDERS = {
    "smi:v1alpha1": "v1alpha1",
    "smi:v1alpha2": "v1alpha2",
    "smi:v1alpha3": "v1alpha3",
    "linkerd": "v1alpha1",
    "osm": "v1alpha2",
}
APP = "shop"


@pytest.fixture(scope="module")
def flagger(api_server_with_controllers: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flagger]:
    plane = api_server_with_controllers
    plane.apply(*crds.definitions())
    with Flagger(plane, tmp_path_factory.mktemp("flagger")) as started:
        yield started


def deployment(version: str) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": APP},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": APP}},
            "template": {
                "metadata": {"labels": {"app": APP}},
                "spec": {
                    "containers": [
                        {"name": "web", "image": f"shop:{version}", "ports": [{"name": "http", "containerPort": 8080}]}
                    ]
                },
            },
        },
    }


def splits(plane: ControlPlane, namespace: str, version: str) -> str:
    return f"/apis/split.smi-spec.io/{version}/namespaces/{namespace}/trafficsplits"


def backends(split: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(each["service"], each["weight"]) for each in split["spec"]["backends"]]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_whole_canary_goes_through_our_splits(flagger: Flagger, provider: str) -> None:
    plane, version = flagger.plane, PROVIDERS[provider]
    namespace = plane.new_namespace(f"flagger-{provider.replace(':', '-')}")
    settle = partial(Kubelet(plane).settle, namespace)
    path = splits(plane, namespace, version)
    start = plane.get(path)["metadata"]["resourceVersion"]
    in_namespace = {"metadata": {"name": APP, "namespace": namespace}}
    plane.apply(deployment("1") | in_namespace)
    settle()
    plane.apply(canary(APP, provider) | in_namespace)

    flagger.advance(namespace, APP, "Initialized", settle)
    plane.apply(deployment("2") | in_namespace)
    flagger.advance(namespace, APP, "Succeeded", settle)

    quantity = str if version == "v1alpha1" else int
    history: list[list[tuple[str, Any]]] = []
    for event in plane.watched(path, start):
        assert event["object"]["spec"]["service"] == APP
        weights = backends(event["object"])
        if not history or history[-1] != weights:
            history.append(weights)
    assert history == [
        [(f"{APP}-canary", quantity(new)), (f"{APP}-primary", quantity(old))]
        for new, old in ((0, 100), (50, 50), (100, 0), (0, 100))
    ]
    primary = plane.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/{APP}-primary")
    assert primary["spec"]["template"]["spec"]["containers"][0]["image"] == "shop:2"
    owner = plane.get(f"{path}/{APP}")["metadata"]["ownerReferences"][0]
    assert owner["kind"] == "Canary"
