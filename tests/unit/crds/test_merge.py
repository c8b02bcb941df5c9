"""Our CRDs beside those of others: nothing that is served or stored is ever dropped."""

import copy
from typing import Any

import pytest

from smi_adapter import crds
from smi_adapter.crds.merge import State, comparable, owner, plan, preferred
from tests import foreign_crds

OURS = {crds.name_of(crd): crd for crd in crds.definitions()}
FOREIGN = [(mesh, crd) for mesh in foreign_crds.MESHES for crd in foreign_crds.crds(mesh)]
IDS = [f"{mesh}-{crd['spec']['names']['kind']}" for mesh, crd in FOREIGN]


def _ours(live: dict[str, Any]) -> dict[str, Any]:
    return copy.deepcopy(OURS[crds.name_of(live)])


def _names(crd: dict[str, Any], key: str = "served") -> set[str]:
    return {version["name"] for version in crd["spec"]["versions"] if version[key]}


def test_a_crd_that_is_missing_is_installed_as_it_is() -> None:
    ours = OURS["trafficsplits.split.smi-spec.io"]
    decided = plan(ours, None)
    assert (decided.state, decided.wanted) == (State.MISSING, ours)


@pytest.mark.parametrize(("mesh", "live"), FOREIGN, ids=IDS)
def test_a_foreign_crd_keeps_what_it_serves_and_stores(mesh: str, live: dict[str, Any]) -> None:
    decided = plan(_ours(live), live)
    assert decided.state is State.FOREIGN
    assert decided.owner == mesh
    assert _names(decided.wanted) == _names(live) | _names(_ours(live))
    assert _names(decided.wanted, "storage") == _names(live, "storage")


@pytest.mark.parametrize(("mesh", "live"), FOREIGN, ids=IDS)
def test_a_foreign_crd_gets_status_and_our_schemas(mesh: str, live: dict[str, Any]) -> None:
    assert not plan(_ours(live), live).has_status
    ours = {version["name"]: version for version in _ours(live)["spec"]["versions"]}
    for version in plan(_ours(live), live).wanted["spec"]["versions"]:
        assert version["schema"] == ours[version["name"]]["schema"]
        assert version["subresources"] == {"status": {}}


@pytest.mark.parametrize(("mesh", "live"), FOREIGN, ids=IDS)
def test_what_was_applied_is_current(mesh: str, live: dict[str, Any]) -> None:
    wanted = plan(_ours(live), live).wanted
    again = plan(_ours(live), wanted)
    assert (again.state, again.wanted, again.notes) == (State.CURRENT, wanted, ())


def test_a_version_that_only_others_know_stays_as_it_is() -> None:
    live = _ours(OURS["trafficsplits.split.smi-spec.io"])
    theirs = {"name": "v1beta1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}}}
    live["spec"]["versions"] = [theirs]
    decided = plan(OURS["trafficsplits.split.smi-spec.io"], live)
    assert theirs in decided.wanted["spec"]["versions"]
    assert _names(decided.wanted, "storage") == {"v1beta1"}
    assert decided.stored == ("v1beta1",)
    assert "adds v1alpha1, v1alpha2, v1alpha3, v1alpha4" in decided.notes


def test_short_names_of_others_still_work() -> None:
    live = next(crd for crd in foreign_crds.crds("osm") if crd["spec"]["names"]["kind"] == "TCPRoute")
    live["spec"]["names"]["categories"] = ["all"]
    wanted = plan(_ours(live), live).wanted["spec"]["names"]
    assert (wanted["shortNames"], wanted["categories"]) == (["tr"], ["smi", "all"])


def test_a_conversion_webhook_stays_and_is_reported() -> None:
    live = foreign_crds.crds("smi-sdk-go")[0]
    live["spec"]["conversion"] = {"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"]}}
    decided = plan(_ours(live), live)
    assert decided.wanted["spec"]["conversion"] == live["spec"]["conversion"]
    assert any("webhook stays" in note for note in decided.notes)


def test_another_preferred_version_is_reported() -> None:
    live = foreign_crds.crds("traefik-mesh")[0]
    (note,) = (note for note in plan(_ours(live), live).notes if "Traefik" in note)
    assert "get v1alpha4 instead of v1alpha3" in note


def test_an_older_crd_of_ours_is_outdated_not_foreign() -> None:
    live = _ours(OURS["trafficsplits.split.smi-spec.io"])
    del live["spec"]["versions"][0]["additionalPrinterColumns"]
    assert plan(OURS["trafficsplits.split.smi-spec.io"], live).state is State.OUTDATED


def test_what_the_api_server_fills_in_is_no_difference() -> None:
    ours = OURS["trafficsplits.split.smi-spec.io"]
    live = copy.deepcopy(ours)
    live["metadata"] |= {"uid": "1", "generation": 3, "annotations": {"a": "b"}}
    live["status"] = {"storedVersions": ["v1alpha4"]}
    live["spec"]["preserveUnknownFields"] = False
    live["spec"]["versions"].reverse()
    for version in live["spec"]["versions"]:
        for column in version["additionalPrinterColumns"]:
            column["priority"] = 0
    assert comparable(live) == comparable(ours)
    assert plan(ours, live).state is State.CURRENT


def test_a_relic_that_keeps_unknown_fields_is_switched_off() -> None:
    live = foreign_crds.crds("osm")[0]
    live["spec"]["preserveUnknownFields"] = True
    assert plan(_ours(live), live).wanted["spec"]["preserveUnknownFields"] is False


@pytest.mark.parametrize(
    ("metadata", "who"),
    [
        (
            {"annotations": {"meta.helm.sh/release-name": "osm", "meta.helm.sh/release-namespace": "s"}},
            "Helm release s/osm",
        ),
        ({"labels": {"app.kubernetes.io/managed-by": "linkerd-smi"}}, "linkerd-smi"),
        ({"managedFields": [{"manager": "x", "subresource": "status"}, {"manager": "kubectl"}]}, "kubectl"),
        ({"annotations": None, "labels": None, "managedFields": None}, ""),
    ],
)
def test_the_installer_is_named(metadata: dict[str, Any], who: str) -> None:
    assert owner({"metadata": metadata}) == who


@pytest.mark.parametrize(
    ("versions", "best"),
    [
        (["v1alpha1", "v1alpha4", "v1alpha3"], "v1alpha4"),
        (["v1alpha10", "v1alpha9"], "v1alpha10"),
        (["v1beta1", "v1alpha4"], "v1beta1"),
        (["v1", "v2alpha1"], "v1"),
        (["foo", "v1alpha1"], "v1alpha1"),
        ([], ""),
    ],
)
def test_versions_are_preferred_in_kubernetes_order(versions: list[str], best: str) -> None:
    assert preferred([{"name": name, "served": True} for name in versions]) == best


PRESERVED = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
SERVICE = {"service": {"type": "string"}}
BACKENDS = {"backends": {"type": "array", "items": {"type": "object", "properties": SERVICE}}}


@pytest.mark.parametrize(
    ("schema", "dropped"),
    [
        ({"type": "object", "properties": {"spec": {**PRESERVED, "properties": BACKENDS}}}, "spec.backends[].weight"),
        ({"type": "object", "properties": {"spec": PRESERVED}}, ""),
        ({**PRESERVED, "properties": {"spec": {**PRESERVED, "properties": SERVICE}}}, ""),
        (
            {**PRESERVED, "properties": {"spec": {"type": "object", "properties": {**SERVICE, **BACKENDS}}}},
            "spec.backends[].weight, spec.matches",
        ),
        (PRESERVED, ""),
        ({"type": "object"}, "spec"),
        ({"type": "object", "properties": {"status": PRESERVED}}, "spec"),
        ({}, "spec"),
    ],
)
def test_what_a_schema_prunes_is_told_level_by_level(schema: dict[str, Any], dropped: str) -> None:
    """A node keeps its own unknown fields alone; what it lists is pruned by the schema of that."""
    live = _ours(OURS["trafficsplits.split.smi-spec.io"])
    for version in live["spec"]["versions"]:
        version["schema"] = {"openAPIV3Schema": schema}
    notes = [note for note in plan(_ours(live), live).notes if "drops" in note]
    assert len(notes) == bool(dropped)
    assert all(f"drops, {dropped} in v1alpha1" in note for note in notes)


def test_a_form_at_the_top_is_no_loss_of_the_other_form() -> None:
    live = _ours(OURS["httproutegroups.specs.smi-spec.io"])
    for version in live["spec"]["versions"]:
        del version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert not any("drops" in note for note in plan(_ours(live), live).notes)
