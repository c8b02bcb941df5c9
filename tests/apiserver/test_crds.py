"""Our CRDs on a real API server: what it takes, refuses, keeps and shows."""

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from smi_adapter import crds
from smi_adapter.smi import schema
from tests.cluster.control_plane import MERGE, SERVER_SIDE, ControlPlane, RequestError

ROOT = Path(__file__).parent.parent.parent
CHART = ROOT / "charts" / "smi-adapter" / "files" / "crds"

# What neither a structural schema nor a rule can look into. The webhook, `analyze` and the translator refuse it.
NOT_FOR_THE_API_SERVER = {
    "httproutegroup-header-host": "headers is a map or a list, so it has no schema",
    "httproutegroup-header-list-with-two": "headers is a map or a list, so it has no schema",
    "httproutegroup-header-regex": "headers is a map or a list, so it has no schema",
    "httproutegroup-header-reserved": "headers is a map or a list, so it has no schema",
    "httproutegroup-headers-text": "headers is a map or a list, so it has no schema",
    "httproutegroup-regex-too-large": "the size of a compiled expression is RE2's own",
    "traffictarget-rule-matches-null": "to the API server a null is an absent field, dropped before anything else",
    "trafficsplit-weight-too-fine": "a pattern cannot count the digits that a suffix leaves",
}


def _examples(kind: str) -> Iterator[tuple[str, Path]]:
    for path in sorted((ROOT / "schemas").glob(f"*/*/examples/{kind}/*.yaml")):
        yield f"{path.parts[-4]}-{path.stem}", path


VALID, INVALID = dict(_examples("valid")), dict(_examples("invalid"))
KINDS = sorted(schema.served())


@pytest.fixture(scope="module")
def server(api_server: ControlPlane) -> ControlPlane:
    """Return the shared API server with the CRDs of the chart's files."""
    api_server.apply(*(yaml.safe_load(path.read_text()) for path in sorted(CHART.glob("*.yaml"))))
    return api_server


def _read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(path.read_text())
    return document


def _collection(group: str, version: str, kind: str, namespace: str) -> str:
    return f"/apis/{group}/{version}/namespaces/{namespace}/{crds.plural(kind)}"


def _content(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the author wrote, without what differs between versions or belongs to the API server."""
    return {key: value for key, value in item.items() if key not in {"apiVersion", "metadata"}}


def _try(server: ControlPlane, item: Mapping[str, Any], namespace: str) -> str:
    """Send an object as kubectl does (unknown fields are errors); return "" if it would be stored, else the refusal."""
    group, _, version = item["apiVersion"].partition("/")
    body = {**item, "metadata": {**item["metadata"], "namespace": namespace}}
    path = _collection(group, version, item["kind"], namespace)
    try:
        server.request("POST", f"{path}?dryRun=All&fieldValidation=Strict", body)
    except RequestError as refusal:
        if refusal.status not in {400, 422}:
            raise
        return str(json.loads(refusal.body)["message"])
    return ""


def _split(namespace: str, version: str, weights: tuple[int | str, int | str], name: str = "web") -> dict[str, Any]:
    return {
        "apiVersion": f"split.smi-spec.io/{version}",
        "kind": "TrafficSplit",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "service": "web",
            "backends": [
                {"service": f"web-v{number}", "weight": weight} for number, weight in enumerate(weights, start=1)
            ],
        },
    }


def _status(server: ControlPlane, path: str, version: str, programmed: str = "True") -> None:
    """Apply a status as the controller does."""
    condition = {
        "type": "Programmed",
        "status": programmed,
        "reason": "Programmed",
        "message": "All proxies have acknowledged.",
        "observedGeneration": 1,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    body = {
        "apiVersion": f"split.smi-spec.io/{version}",
        "kind": "TrafficSplit",
        "status": {
            "observedGeneration": 1,
            "conditions": [condition],
            "backends": [{"name": "envoy", "conditions": [condition]}],
        },
    }
    server.request("PATCH", f"{path}/status?fieldManager=smi-adapter&force=true", body, SERVER_SIDE)


# ----------------------------------------------------------------------------------------------- taken and refused
def test_every_crd_is_established_and_its_schemas_are_structural(server: ControlPlane) -> None:
    for crd in crds.definitions():
        live = server.get(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{crds.name_of(crd)}")
        conditions = {one["type"]: one["status"] for one in live["status"]["conditions"]}
        assert conditions["Established"] == conditions["NamesAccepted"] == "True"
        assert "NonStructuralSchema" not in conditions
        assert live["status"]["storedVersions"] == [crds.STORED]


@pytest.mark.parametrize("name", VALID)
def test_a_valid_example_is_taken(server: ControlPlane, namespace: str, name: str) -> None:
    assert _try(server, _read(VALID[name]), namespace) == ""


@pytest.mark.parametrize("name", [name for name in INVALID if name.split("-", 1)[1] not in NOT_FOR_THE_API_SERVER])
def test_an_invalid_example_is_refused(server: ControlPlane, namespace: str, name: str) -> None:
    assert _try(server, _read(INVALID[name]), namespace)


@pytest.mark.parametrize("name", [name for name in INVALID if name.split("-", 1)[1] in NOT_FOR_THE_API_SERVER])
def test_what_only_we_can_refuse_is_still_what_only_we_can_refuse(
    server: ControlPlane, namespace: str, name: str
) -> None:
    """If the API server learns to refuse one of these, its line leaves the table."""
    assert _try(server, _read(INVALID[name]), namespace) == ""


@pytest.mark.parametrize(
    ("example", "words"),
    [
        ("v1alpha4-identitybinding-two-schemes", "SMI0402: must hold serviceAccount or podLabelSelector, not both"),
        ("v1alpha4-identitybinding-values-missing", "SMI0505: must be a condition with values for In and NotIn"),
        ("v1alpha1-traffictarget-both-shapes", "SMI0505: write either destination with specs and sources or spec"),
        ("v1alpha4-httproutegroup-neither-shape", "SMI0505: write either spec or matches, in one form only"),
        ("v1alpha4-httproutegroup-regex-look-ahead", "SMI0201: must be an RE2 regular expression"),
        ("v1alpha4-httproutegroup-regex-that-escapes-its-wrapping", "error parsing regexp: unexpected )"),
        ("v1alpha4-trafficsplit-weight-text", "SMI0105: must be a whole number of at least 0"),
        ("v1alpha4-traffictarget-rule-match-misspelt", 'unknown field "spec.rules[0].match"'),
    ],
)
def test_a_refusal_says_what_is_wrong(server: ControlPlane, namespace: str, example: str, words: str) -> None:
    assert words in _try(server, _read(INVALID[example]), namespace)


# --------------------------------------------------------------------------------------------------- round trips
def _distinct(group: str, kind: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the valid examples of a kind, of all versions, each content once."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for name, path in VALID.items():
        item = _read(path)
        if (item["apiVersion"].partition("/")[0], item["kind"]) == (group, kind):
            found.setdefault(json.dumps(_content(item), sort_keys=True), (name, item))
    return list(found.values())


@pytest.mark.parametrize(("group", "kind"), KINDS)
def test_what_is_written_through_one_version_is_read_whole_through_each(
    server: ControlPlane, namespace: str, group: str, kind: str
) -> None:
    versions = schema.served()[group, kind]
    for (name, item), written in itertools.product(_distinct(group, kind), versions):
        body = {**item, "apiVersion": f"{group}/{written}", "metadata": {"name": "x"}}
        if schema.problems(body):
            assert "quantit" in name  # only v1alpha1 takes a quantity
            continue
        path = _collection(group, written, kind, namespace)
        server.request("POST", f"{path}?fieldValidation=Strict", body)
        for read in versions:
            found = server.get(f"{_collection(group, read, kind, namespace)}/x")
            assert found["apiVersion"] == f"{group}/{read}"
            assert _content(found) == _content(body), f"{name} written as {written}, read as {read}"
        server.request("DELETE", f"{path}/x")


def test_an_update_through_another_version_loses_nothing(server: ControlPlane, namespace: str) -> None:
    """A typed client of v1alpha2 changes a weight in an object that has the `matches` of v1alpha3."""
    body = _split(namespace, "v1alpha4", (90, 10))
    body["spec"]["matches"] = [{"kind": "HTTPRouteGroup", "name": "firefox"}]
    server.apply(body)
    path = _collection("split.smi-spec.io", "v1alpha2", "TrafficSplit", namespace)
    found = server.get(f"{path}/web")
    found["spec"]["backends"][1]["weight"] = 50
    server.request("PUT", f"{path}/web", found)
    body["spec"]["backends"][1]["weight"] = 50
    assert server.get(f"{path.replace('v1alpha2', 'v1alpha4')}/web")["spec"] == body["spec"]


# --------------------------------------------------------------------------------- quantities, read by later versions
@pytest.fixture
def quantities(server: ControlPlane, namespace: str) -> str:
    """Return the path (v1alpha4) of a split that was written with quantities."""
    server.apply(_split(namespace, "v1alpha1", ("500m", 1)))
    return f"{_collection('split.smi-spec.io', 'v1alpha4', 'TrafficSplit', namespace)}/web"


@pytest.mark.parametrize("version", ["v1alpha1", "v1alpha2", "v1alpha3", "v1alpha4"])
def test_the_status_of_quantities_can_be_applied_through_every_version(
    server: ControlPlane, quantities: str, version: str
) -> None:
    """With the type of its own version alone this is an error 500, not even a 422 (ADR 19)."""
    _status(server, quantities.replace("v1alpha4", version), version)
    assert server.get(quantities)["status"]["conditions"][0]["type"] == "Programmed"


def test_quantities_do_not_stop_those_who_applied_whole_numbers(server: ControlPlane, namespace: str) -> None:
    body = _split(namespace, "v1alpha4", (5, 1))
    path = f"{_collection('split.smi-spec.io', 'v1alpha4', 'TrafficSplit', namespace)}/web"
    server.apply(body)
    _status(server, path, "v1alpha4")
    quantity = {"spec": _split(namespace, "v1alpha1", ("500m", 1))["spec"]}
    server.request("PATCH", path.replace("v1alpha4", "v1alpha1"), quantity, MERGE)
    for version in ("v1alpha4", "v1alpha1"):
        _status(server, path.replace("v1alpha4", version), version, "False")
    server.apply(body)
    assert server.get(path)["spec"] == body["spec"]


def test_a_quantity_that_is_there_stays_when_something_else_is_changed(server: ControlPlane, quantities: str) -> None:
    server.request("PATCH", quantities, {"metadata": {"labels": {"a": "b"}}, "spec": {"service": "shop"}}, MERGE)
    assert [one["weight"] for one in server.get(quantities)["spec"]["backends"]] == ["500m", 1]


def test_a_later_version_takes_no_new_quantity(server: ControlPlane, quantities: str) -> None:
    new = {"spec": {"backends": [{"service": "web-v1", "weight": "250m"}, {"service": "web-v2", "weight": 1}]}}
    with pytest.raises(RequestError, match="SMI0105") as refused:
        server.request("PATCH", quantities, new, MERGE)
    assert refused.value.status == 422


# ------------------------------------------------------------------------------------------------------- status
def test_a_status_is_written_through_its_subresource_alone(server: ControlPlane, namespace: str) -> None:
    body = _split(namespace, "v1alpha4", (90, 10)) | {"status": {"observedGeneration": 7}}
    server.apply(body)
    path = f"{_collection('split.smi-spec.io', 'v1alpha4', 'TrafficSplit', namespace)}/web"
    assert "status" not in server.get(path)
    _status(server, path, "v1alpha4")
    found = server.get(path)
    assert found["spec"] == body["spec"]
    assert found["metadata"]["generation"] == 1
    assert found["status"]["backends"][0]["name"] == "envoy"


def test_two_writers_own_a_condition_each(server: ControlPlane, namespace: str) -> None:
    server.apply(_split(namespace, "v1alpha4", (90, 10)))
    path = f"{_collection('split.smi-spec.io', 'v1alpha4', 'TrafficSplit', namespace)}/web"
    _status(server, path, "v1alpha4")
    theirs = {
        "type": "Verified",
        "status": "True",
        "reason": "X",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    body = {"apiVersion": "split.smi-spec.io/v1alpha4", "kind": "TrafficSplit", "status": {"conditions": [theirs]}}
    server.request("PATCH", f"{path}/status?fieldManager=somebody", body, SERVER_SIDE)
    _status(server, path, "v1alpha4", "False")
    found = {one["type"]: one["status"] for one in server.get(path)["status"]["conditions"]}
    assert found == {"Programmed": "False", "Verified": "True"}


def test_kubectl_waits_for_a_condition(server: ControlPlane, namespace: str) -> None:
    server.apply(_split(namespace, "v1alpha4", (90, 10)))
    waiting = ("wait", "--for=condition=Programmed", "ts/web", "-n", namespace)
    assert server.kubectl(*waiting, "--timeout=1s", check=False).returncode == 1
    _status(server, f"{_collection('split.smi-spec.io', 'v1alpha1', 'TrafficSplit', namespace)}/web", "v1alpha1")
    assert "condition met" in server.kubectl(*waiting, "--timeout=20s").stdout


# ------------------------------------------------------------------------------------------------ what people see
def test_kubectl_get_shows_columns(server: ControlPlane, namespace: str) -> None:
    server.apply(_split(namespace, "v1alpha4", (90, 10)))
    path = f"{_collection('split.smi-spec.io', 'v1alpha4', 'TrafficSplit', namespace)}/web"
    _status(server, path, "v1alpha4")
    header, row = server.kubectl("get", "ts", "-n", namespace).stdout.splitlines()
    assert header.split() == ["NAME", "SERVICE", "BACKENDS", "ACCEPTED", "PROGRAMMED", "AGE"]
    backends = '[{"service":"web-v1","weight":90},{"service":"web-v2","weight":10}]'
    assert row.split()[:-1] == ["web", "web", backends, "True"]


@pytest.mark.parametrize("form", ["v1alpha1-traffictarget-one-path", "v1alpha4-traffictarget-one-path"])
def test_the_columns_of_a_target_are_filled_in_either_form(server: ControlPlane, namespace: str, form: str) -> None:
    item = _read(VALID[form])
    item["metadata"]["namespace"] = namespace
    server.apply(item)
    for version in ("v1alpha1", "v1alpha4"):
        kind = f"traffictargets.{version}.access.smi-spec.io"
        header, row = server.kubectl("get", kind, "-n", namespace).stdout.splitlines()
        assert header.split()[1:3] == ["DESTINATION", "SOURCES"]
        assert row.split()[1] == "web"
        assert '"name":"prometheus"' in row.split()[2]


def test_kubectl_lists_all_kinds_by_category(server: ControlPlane, namespace: str) -> None:
    objects = []
    for group, kind in KINDS:
        _, item = _distinct(group, kind)[0]
        item["metadata"]["namespace"] = namespace
        objects.append(item)
    server.apply(*objects)
    found = server.kubectl("get", "smi", "-n", namespace, "-o", "name").stdout.split()
    assert {name.partition(".")[0] for name in found} == {kind.lower() for _, kind in KINDS}


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("ts.spec.backends", "A Service and the share of the traffic"),
        ("tt.spec.destination.port", "<integer>"),
        ("htr.spec.matches.pathRegex", "<string>"),
        ("identitybinding.spec.schemes.podLabelSelector", "An empty selector selects nobody"),
        ("tcproutes.specs.smi-spec.io.spec.matches", "every TCP port"),
        ("ts.status.conditions", "Programmed"),
    ],
)
def test_kubectl_explains_a_field(server: ControlPlane, what: str, words: str) -> None:
    assert words in " ".join(server.kubectl("explain", what).stdout.split())


def test_kubectl_refuses_a_misspelt_field(server: ControlPlane, namespace: str) -> None:
    text = INVALID["v1alpha4-traffictarget-rule-match-misspelt"].read_text()
    item = yaml.safe_load(text)
    item["metadata"]["namespace"] = namespace
    for options in ((), ("--server-side",)):
        done = server.kubectl("apply", *options, "-f", "-", stdin=yaml.safe_dump(item), check=False)
        assert done.returncode == 1
        assert "rules[0].match" in done.stderr


def test_kubectl_deletes_what_it_applied(server: ControlPlane, namespace: str) -> None:
    text = yaml.safe_dump(_split(namespace, "v1alpha2", (1, 1)))
    server.kubectl("apply", "-f", "-", stdin=text)
    assert "unchanged" in server.kubectl("apply", "-f", "-", stdin=text).stdout
    assert "deleted" in server.kubectl("delete", "-f", "-", stdin=text).stdout
