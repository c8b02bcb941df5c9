"""The fixture itself: what the other tests of this suite rely on."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.control_plane import ControlPlane, RequestError, StartControlPlane
from tests.tools import SETS

WIDGETS = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "widgets.example.com"},
    "spec": {
        "group": "example.com",
        "scope": "Namespaced",
        "names": {"kind": "Widget", "plural": "widgets"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {"type": "object", "properties": {"weight": {"type": "integer", "minimum": 0}}}
                        },
                    }
                },
            }
        ],
    },
}


def widget(namespace: str, weight: int) -> str:
    return f"""
apiVersion: example.com/v1
kind: Widget
metadata: {{name: reviews, namespace: {namespace}}}
spec: {{weight: {weight}}}
"""


def test_kubectl_applies_and_gets_an_object_of_an_established_crd(api_server: ControlPlane, namespace: str) -> None:
    api_server.apply(WIDGETS)
    api_server.kubectl("apply", "-f", "-", stdin=widget(namespace, 7))
    shown = api_server.kubectl("get", "widget", "reviews", "-n", namespace, "-o", "jsonpath={.spec.weight}")
    assert shown.stdout == "7"


def test_an_object_that_breaks_the_schema_is_refused(api_server: ControlPlane, namespace: str) -> None:
    api_server.apply(WIDGETS)
    refused = api_server.kubectl("apply", "-f", "-", stdin=widget(namespace, -1), check=False)
    assert refused.returncode == 1
    assert "spec.weight" in refused.stderr


def test_client_and_server_say_the_pinned_version(api_server: ControlPlane) -> None:
    said = api_server.kubectl("version", "-o", "json").stdout
    assert said.count(f'"gitVersion": "{SETS["kubernetes"].version}"') == 2


@pytest.mark.parametrize(("audience", "accepted"), [("smi-adapter", True), ("another", False)])
def test_a_token_is_reviewed_for_its_audience(
    api_server: ControlPlane, namespace: str, audience: str, accepted: bool
) -> None:
    token = api_server.service_account_token(namespace, "default", audience)
    review = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token, "audiences": ["smi-adapter"]},
    }
    status = api_server.request("POST", "/apis/authentication.k8s.io/v1/tokenreviews", review)["status"]
    assert status.get("authenticated", False) is accepted
    if accepted:
        assert status["user"]["username"] == f"system:serviceaccount:{namespace}:default"


def test_a_token_bound_to_a_pod_names_the_pod(api_server: ControlPlane, namespace: str) -> None:
    pod = {"metadata": {"name": "web-1"}, "spec": {"containers": [{"name": "web", "image": "web"}]}}
    api_server.request("POST", f"/api/v1/namespaces/{namespace}/pods", pod)
    token = api_server.service_account_token(namespace, "default", "smi-adapter", pod="web-1")
    review = {"spec": {"token": token, "audiences": ["smi-adapter"]}}
    status = api_server.request("POST", "/apis/authentication.k8s.io/v1/tokenreviews", review)["status"]
    assert status["user"]["extra"]["authentication.kubernetes.io/pod-name"] == ["web-1"]


def test_a_user_has_the_rights_of_its_groups_and_its_requests_are_in_the_audit_log(api_server: ControlPlane) -> None:
    nobody = api_server.user("nobody-in-particular")
    refused = api_server.kubectl("get", "pods", kubeconfig=nobody, check=False)
    assert "Forbidden" in refused.stderr
    denied = [
        event
        for event in api_server.audit_events("nobody-in-particular")
        if event["annotations"]["authorization.k8s.io/decision"] == "forbid"
    ]
    assert ("list", "pods") in {(event["verb"], event["objectRef"]["resource"]) for event in denied}


def test_data_survive_a_stop_of_the_api_server(own_api_server: ControlPlane) -> None:
    name = own_api_server.new_namespace()
    own_api_server.stop()
    assert own_api_server.kubectl("get", "ns", check=False).returncode == 1
    own_api_server.start()
    assert own_api_server.get(f"/api/v1/namespaces/{name}")["metadata"]["name"] == name


def test_a_watch_from_before_a_compaction_is_gone(own_api_server: ControlPlane) -> None:
    old = own_api_server.get("/api/v1/namespaces")["metadata"]["resourceVersion"]
    for _ in range(3):
        own_api_server.new_namespace()
    own_api_server.forget_history()
    answer = own_api_server.raw("GET", f"/api/v1/namespaces?watch=true&resourceVersion={old}&timeoutSeconds=1")
    assert b'"code":410' in answer


def test_a_continuation_from_before_a_compaction_is_gone(own_api_server: ControlPlane) -> None:
    for _ in range(3):
        own_api_server.new_namespace()
    page = own_api_server.get("/api/v1/namespaces?limit=1")["metadata"]["continue"]
    own_api_server.new_namespace()
    own_api_server.forget_history()
    with pytest.raises(RequestError) as refusal:
        own_api_server.get(f"/api/v1/namespaces?limit=1&continue={page}")
    assert refusal.value.status == 410


def test_several_run_side_by_side_and_leave_nothing_behind(
    api_server: ControlPlane, start_control_plane: StartControlPlane
) -> None:
    other = start_control_plane()
    name = other.new_namespace("only-here")
    assert name not in api_server.kubectl("get", "ns", "-o", "name").stdout
    pids = [other.api.pid, other.etcd.pid]
    other.close()
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_everything_ends_with_a_test_process_that_is_killed(tmp_path: Path) -> None:
    script = """
import sys, time
from pathlib import Path
from tests.cluster.control_plane import ControlPlane
plane = ControlPlane(Path(sys.argv[1])).__enter__()
print(plane.api.pid, plane.etcd.pid, flush=True)
time.sleep(600)
"""
    run = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(run, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout
        pids = [int(word) for word in started.stdout.readline().split()]
        started.kill()
    assert len(pids) == 2
    deadline = time.monotonic() + 10
    while alive := [pid for pid in pids if _runs(pid)]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_controllers_make_what_a_cluster_has(api_server_with_controllers: ControlPlane) -> None:
    name = "with-controllers"
    api_server_with_controllers.kubectl("create", "namespace", name)
    api_server_with_controllers.kubectl("create", "deployment", "web", "--image=web", "-n", name)
    pods = f"/api/v1/namespaces/{name}/pods"
    api_server_with_controllers.wait_for(lambda: bool(api_server_with_controllers.get(pods)["items"]))
    api_server_with_controllers.kubectl("delete", "deployment", "web", "-n", name)
    api_server_with_controllers.wait_for(lambda: not api_server_with_controllers.get(pods)["items"])
    api_server_with_controllers.kubectl("delete", "namespace", name, "--timeout=60s")
