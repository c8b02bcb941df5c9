"""The calls of Argo Rollouts and of Flagger against our CRDs on the real API server."""

import uuid

import pytest

from smi_adapter import crds
from tests.cluster.control_plane import ControlPlane, RequestError
from tests.cluster.drivers import GROUP, ArgoRollouts, Canary, FlaggerRouter, NotOwnedError, Rollout

STATUS = {
    "observedGeneration": 1,
    "conditions": [
        {
            "type": "Accepted",
            "status": "True",
            "reason": "Accepted",
            "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
    ],
}
VERSIONS = ["v1alpha1", "v1alpha2", "v1alpha3"]


@pytest.fixture(scope="module", autouse=True)
def smi(api_server: ControlPlane) -> None:
    api_server.apply(*crds.definitions())


def rollout(namespace: str, root: str = "web") -> Rollout:
    return Rollout(namespace, "web", str(uuid.uuid4()), "web-canary", "web-stable", root)


def shares(api_server: ControlPlane, namespace: str, version: str) -> dict[str, int]:
    split = api_server.get(f"/apis/{GROUP}/{version}/namespaces/{namespace}/trafficsplits/web")
    return {each["service"]: int(each["weight"]) for each in split["spec"]["backends"]}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_rollout_from_start_to_end(api_server: ControlPlane, namespace: str, version: str) -> None:
    argo, web = ArgoRollouts(api_server, version), rollout(namespace)
    assert argo.set_weight(web, 0) == "created"
    for weight in (5, 50, 100):
        assert argo.set_weight(web, weight) == "patched"
        assert argo.set_weight(web, weight) == "unmodified"
        assert shares(api_server, namespace, version) == {"web-canary": weight, "web-stable": 100 - weight}
    assert argo.set_weight(web, 0) == "patched"


@pytest.mark.parametrize("version", VERSIONS)
def test_without_a_root_service_the_stable_one_is_root_and_backend(
    api_server: ControlPlane, namespace: str, version: str
) -> None:
    argo, web = ArgoRollouts(api_server, version), rollout(namespace, root="")
    argo.set_weight(web, 10)
    split = api_server.get(f"/apis/{GROUP}/{version}/namespaces/{namespace}/trafficsplits/web")
    assert split["spec"]["service"] == "web-stable"
    assert shares(api_server, namespace, version) == {"web-canary": 10, "web-stable": 90}


@pytest.mark.parametrize("version", VERSIONS)
def test_an_experiment_comes_and_goes(api_server: ControlPlane, namespace: str, version: str) -> None:
    argo, web = ArgoRollouts(api_server, version), rollout(namespace)
    argo.set_weight(web, 10, {"web-baseline": 20})
    assert shares(api_server, namespace, version) == {"web-canary": 10, "web-baseline": 20, "web-stable": 70}
    argo.set_weight(web, 10)
    assert shares(api_server, namespace, version) == {"web-canary": 10, "web-stable": 90}


def test_a_split_of_another_rollout_is_left_alone(api_server: ControlPlane, namespace: str) -> None:
    argo = ArgoRollouts(api_server)
    argo.set_weight(rollout(namespace), 10)
    with pytest.raises(NotOwnedError):
        argo.set_weight(rollout(namespace), 20)
    assert shares(api_server, namespace, "v1alpha1") == {"web-canary": 10, "web-stable": 90}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_status_from_us_changes_nothing_for_argo(api_server: ControlPlane, namespace: str, version: str) -> None:
    argo, web = ArgoRollouts(api_server, version), rollout(namespace)
    argo.set_weight(web, 10)
    path = f"/apis/{GROUP}/v1alpha4/namespaces/{namespace}/trafficsplits/web"
    api_server.patch_status(path, STATUS)
    assert argo.set_weight(web, 10) == "unmodified"
    assert argo.set_weight(web, 20) == "patched"
    kept = api_server.get(path)
    assert kept["status"]["conditions"][0]["type"] == "Accepted"
    assert kept["metadata"]["ownerReferences"][0]["uid"] == web.uid


def test_a_version_that_is_not_served_is_an_error_and_not_a_second_split(
    api_server: ControlPlane, namespace: str
) -> None:
    with pytest.raises(RequestError) as refusal:
        ArgoRollouts(api_server, "v1alpha9").set_weight(rollout(namespace), 10)
    assert refusal.value.status == 404


@pytest.mark.parametrize("version", VERSIONS)
def test_flagger_never_resets_a_split_that_carries_our_status(
    api_server: ControlPlane, namespace: str, version: str
) -> None:
    flagger, shop = FlaggerRouter(api_server, version), Canary(namespace, "shop", str(uuid.uuid4()))
    assert flagger.reconcile(shop) == "created"
    path = f"/apis/{GROUP}/v1alpha4/namespaces/{namespace}/trafficsplits/shop"
    api_server.patch_status(path, STATUS)
    for weight in (50, 100, 0):
        flagger.set_routes(shop, weight)
        assert flagger.reconcile(shop) == "kept"
        assert flagger.routes(shop) == (100 - weight, weight)
    kept = api_server.get(path)
    assert kept["status"]["conditions"][0]["type"] == "Accepted"
    assert kept["metadata"]["ownerReferences"][0]["uid"] == shop.uid
