"""What the chart grants, and what it never does."""

from collections.abc import Iterator
from typing import Any

from smi_adapter import crds
from smi_adapter.smi import schema
from tests.chart.rendering import NAMESPACE, VALUES, WATCHED, is_hook, of_kind, render

SMI = {(group, crds.plural(kind)) for group, kind in schema.served()}


def _grants(manifests: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield the roles of service accounts with each rule (those for people are another matter)."""
    bound = {
        (item["roleRef"]["kind"], item["roleRef"]["name"], item["metadata"].get("namespace", ""))
        for item in manifests
        if item["kind"] in {"RoleBinding", "ClusterRoleBinding"}
    }
    for item in manifests:
        if item["kind"] in {"Role", "ClusterRole"}:
            assert not item.get("aggregationRule")
            if (item["kind"], item["metadata"]["name"], item["metadata"].get("namespace", "")) in bound:
                for rule in item["rules"]:
                    yield item, rule


def test_nothing_is_ever_granted_that_must_not_be(variant: tuple[str, list[dict[str, Any]]]) -> None:
    """The list of kubernetes.md 6 and security.md 8."""
    for role, rule in _grants(variant[1]):
        where = f"{role['kind']} {role['metadata']['name']}: {rule}"
        assert not {"*"} & {*rule.get("apiGroups", ()), *rule.get("resources", ()), *rule["verbs"]}, where
        assert not {"escalate", "bind", "impersonate"} & {*rule["verbs"]}, where
        assert "nonResourceURLs" not in rule, where
        for resource in rule["resources"]:
            assert not resource.startswith(("pods/", "nodes", "roles", "clusterroles")), where
            if resource in {"secrets", "configmaps"}:
                assert role["kind"] == "Role", where
                assert role["metadata"]["namespace"] == NAMESPACE, where
                assert rule["resourceNames"], where
                assert {*rule["verbs"]} <= {"get", "patch"}, where
            if resource in {"customresourcedefinitions", "validatingwebhookconfigurations"}:
                assert rule["resourceNames"], where
                assert {*rule["verbs"]} <= {"get", "patch"}, where
            assert resource not in {"mutatingwebhookconfigurations", "apiservices"}, where
            if any((group, resource) in SMI for group in rule["apiGroups"]):
                assert {*rule["verbs"]} == {"get", "list", "watch"}, where


def test_the_controller_may_read_every_smi_kind_and_write_its_status(
    variant: tuple[str, list[dict[str, Any]]],
) -> None:
    name, manifests = variant
    reading, writing = set(), set()
    for _, rule in _grants([item for item in manifests if not is_hook(item)]):
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                if group.endswith("smi-spec.io") and {"get", "list", "watch"} <= {*rule["verbs"]}:
                    reading.add((group, resource))
                if group.endswith("smi-spec.io") and "patch" in rule["verbs"]:
                    writing.add((group, resource))
    assert reading == SMI, name
    assert writing == {(group, f"{resource}/status") for group, resource in SMI}, name


def test_in_chosen_namespaces_all_reading_is_by_roles() -> None:
    manifests = render(VALUES["namespaced"])
    for role, rule in _grants(manifests):
        if role["kind"] == "ClusterRole":
            assert rule == {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}
    assert {item["metadata"]["namespace"] for item in of_kind(manifests, "Role")} == {NAMESPACE, *WATCHED}


def test_only_the_selected_backend_may_write_its_kinds() -> None:
    def groups(*arguments: str) -> set[str]:
        return {group for _, rule in _grants(render(None, *arguments)) for group in rule["apiGroups"]}

    assert "gateway.networking.k8s.io" not in groups("--set", "webhooks.conversion.enabled=true")
    assert "gateway.networking.k8s.io" in groups("--set", "settings.backend=gateway_api")


def test_with_cert_manager_nothing_cluster_wide_may_be_patched() -> None:
    for role, rule in _grants(render(VALUES["cert-manager"])):
        if role["kind"] == "ClusterRole" and not is_hook(role):
            assert not {"customresourcedefinitions", "validatingwebhookconfigurations"} & {*rule["resources"]}


def test_who_edits_routes_traffic_and_only_who_administers_grants_access() -> None:
    """TN8 of security.md."""
    roles = {
        label.removeprefix("rbac.authorization.k8s.io/aggregate-to-"): item["rules"]
        for item in of_kind(render(), "ClusterRole")
        for label in item["metadata"]["labels"]
        if label.startswith("rbac.authorization.k8s.io/aggregate-to-")
    }
    assert roles.keys() == {"view", "edit", "admin"}
    can = {name: {resource for rule in rules for resource in rule["resources"]} for name, rules in roles.items()}
    assert can["view"] == {crds.plural(kind) for _, kind in schema.served()}
    assert can["edit"] == {"trafficsplits", "httproutegroups", "tcproutes", "udproutes"}
    assert can["admin"] == {"traffictargets", "identitybindings"}
    assert all({*rule["verbs"]} == {"get", "list", "watch"} for rule in roles["view"])
