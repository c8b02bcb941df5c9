"""What a container's spec means for a local process."""

from __future__ import annotations

import json
from typing import Any

import pytest

from smi_adapter.decode import decode
from smi_adapter.decode.forms import PodForm, ServiceForm, convert
from smi_adapter.findings import Ref, Severity
from smi_adapter.smi.objects import Key
from smi_adapter.sources.containers import Invocation, expand, invocation

SERVICES = {
    ("shop", "book-store"): [{"port": 80, "name": "http"}, {"port": 9090, "name": "admin-port"}],
    ("other", "far"): [{"port": 5}],
    ("shop", "unknown"): None,
}


def service(key: Key) -> ServiceForm:
    raw = {"metadata": {"name": key[1]}, "spec": {"ports": SERVICES[key]}}
    form = convert(raw, ServiceForm, Ref("Service", *key))
    assert isinstance(form, ServiceForm)
    return form


def started(**container: Any) -> Invocation | None:
    raw = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "web-0",
            "namespace": "shop",
            "labels": {"app.kubernetes.io/name": "web"},
            "annotations": {
                "smi-adapter.io/app-address": "127.42.1.2",
                "smi-adapter.io/dial": json.dumps({"shop/book-store": "127.42.1.3", "other/far": "127.42.1.4"}),
                "note": "hello",
            },
        },
        "spec": {"serviceAccountName": "seller", "containers": [{"name": "web", **container}]},
        "status": {"podIP": "127.42.1.1"},
    }
    form = convert(raw, PodForm, Ref("Pod", "shop", "web-0"))
    assert isinstance(form, PodForm)
    assert form.spec.containers
    pod = decode([raw]).pods["shop", "web-0"]
    services = {key: service(key) for key in SERVICES}
    return invocation(form.spec.containers[0], pod, form, services, "/usr/bin/our-python")


def environment(*env: dict[str, Any]) -> dict[str, str]:
    found = started(command=["x"], env=list(env))
    assert found is not None
    return dict(found.environment)


@pytest.mark.parametrize("command", [None, []])
def test_a_container_without_a_command_is_not_started(command: list[str] | None) -> None:
    assert started(command=command, args=["x"]) is None


@pytest.mark.parametrize(
    ("command", "program"),
    [
        ("python3", "/usr/bin/our-python"),
        ("python", "/usr/bin/our-python"),
        ("python3.12", "python3.12"),
        ("./x", "./x"),
    ],
)
def test_python_is_the_interpreter_that_we_run_with(command: str, program: str) -> None:
    found = started(command=[command, "-c"], args=["pass"])
    assert found is not None
    assert found.arguments == (program, "-c", "pass")


def test_services_are_found_where_this_pod_dials_them() -> None:
    found = environment()
    assert found["BOOK_STORE_SERVICE_HOST"] == "127.42.1.3"
    assert found["BOOK_STORE_SERVICE_PORT"] == "80"
    assert found["BOOK_STORE_SERVICE_PORT_ADMIN_PORT"] == "9090"
    assert "FAR_SERVICE_HOST" not in found
    assert json.loads(found["SMI_SERVICES"]) == {
        "book-store.shop:80": "127.42.1.3:80",
        "book-store.shop:9090": "127.42.1.3:9090",
        "far.other:5": "127.42.1.4:5",
    }


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "web-0"),
        ("metadata.namespace", "shop"),
        ("metadata.labels['app.kubernetes.io/name']", "web"),
        ("metadata.labels['none']", ""),
        ("metadata.annotations['note']", "hello"),
        ("spec.serviceAccountName", "seller"),
        ("status.podIP", "127.42.1.2"),
        ("status.hostIP", "127.0.0.1"),
    ],
)
def test_the_downward_api_answers(path: str, value: str) -> None:
    assert environment({"name": "X", "valueFrom": {"fieldRef": {"fieldPath": path}}})["X"] == value


@pytest.mark.parametrize(
    "source", [{"secretKeyRef": {"name": "s", "key": "k"}}, {"fieldRef": {"fieldPath": "metadata.uid"}}, {}]
)
def test_a_value_that_only_a_cluster_has_is_left_out_and_named(source: dict[str, Any]) -> None:
    found = started(command=["x"], env=[{"name": "A", "value": "1"}, {"name": "X", "valueFrom": source}])
    assert found is not None
    assert "X" not in found.environment
    (item,) = found.problems
    assert (item.severity, item.field) == (Severity.WARNING, "spec.containers[web].env[1].valueFrom")
    assert item.message.startswith("X: ")


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("$(A) and $(B)", "1 and 2"),
        ("$(A)$(A)", "11"),
        ("$(NONE)", "$(NONE)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$A ${A} $( $", "$A ${A} $( $"),
        ("", ""),
    ],
)
def test_variables_are_replaced_as_in_kubernetes(text: str, result: str) -> None:
    assert expand(text, {"A": "1", "B": "2"}) == result


def test_a_variable_may_use_those_before_it_only() -> None:
    found = environment({"name": "A", "value": "$(B)"}, {"name": "B", "value": "b$(BOOK_STORE_SERVICE_PORT)"})
    assert (found["A"], found["B"]) == ("$(B)", "b80")
