"""The Helm chart, without a cluster: what it renders, refuses and never grants."""

import difflib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from smi_adapter import __version__, crds
from smi_adapter.cluster import checks
from smi_adapter.settings import ENV_PREFIX, Settings, judged
from smi_adapter.smi import schema
from smi_adapter.telemetry import Metrics, Reading
from tests.chart.rendering import (
    CHART,
    NAMESPACE,
    NO_MODEL,
    VALUES,
    WATCHED,
    helm,
    is_hook,
    of_kind,
    problems,
    render,
    try_render,
)

GOLDEN = Path(__file__).parent / "golden"


def _one(manifests: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (item,) = of_kind(manifests, kind)
    return item


def _pods(manifests: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the spec of every pod that the chart makes, whatever makes it."""
    for item in manifests:
        if item["kind"] == "Pod":
            yield f"Pod {item['metadata']['name']}", item["spec"]
        elif item["kind"] in {"Deployment", "Job"}:
            yield f"{item['kind']} {item['metadata']['name']}", item["spec"]["template"]["spec"]


def _without_crds(manifests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [item for item in manifests if item["kind"] != "CustomResourceDefinition"]


# ------------------------------------------------------------------------------------------------------ what comes
@pytest.mark.parametrize("name", VALUES)
def test_helm_finds_nothing_to_complain_about(name: str) -> None:
    done = helm("lint", "--strict", str(CHART), "--values", str(VALUES[name]))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout


@pytest.mark.parametrize("name", VALUES)
def test_the_manifests_are_as_before(name: str, request: pytest.FixtureRequest) -> None:
    """`pytest tests/chart --update-golden` writes them; then read the diff. CRDs have a drift test of their own."""
    text = yaml.safe_dump_all(_without_crds(render(VALUES[name])), sort_keys=False, width=120)
    path = GOLDEN / f"{name}.yaml"
    if request.config.getoption("--update-golden"):
        path.write_text(text)
    known = path.read_text().splitlines() if path.exists() else []
    differences = "\n".join(difflib.unified_diff(known, text.splitlines(), "golden", "rendered", lineterm=""))
    if differences:
        pytest.fail(f"pytest tests/chart --update-golden, then read the diff\n{differences}", pytrace=False)


def test_no_golden_file_is_left_over() -> None:
    assert {path.stem for path in GOLDEN.glob("*.yaml")} == set(VALUES)


def test_every_manifest_has_only_known_fields_of_the_right_type(variant: tuple[str, list[dict[str, Any]]]) -> None:
    for item in _without_crds(variant[1]):
        if item["kind"] not in NO_MODEL:
            assert list(problems(item)) == []


@pytest.mark.parametrize(
    ("item", "complaint"),
    [
        ({"metadata": {"nmae": "x"}}, "ServiceAccount.metadata.nmae: no field of V1ObjectMeta"),
        ({"metadata": {"labels": {"a": 1}}}, "ServiceAccount.metadata.labels[a]: 1 is no str"),
        ({"automountServiceAccountToken": "false"}, "ServiceAccount.automountServiceAccountToken: 'false' is no bool"),
        ({"imagePullSecrets": {}}, "ServiceAccount.imagePullSecrets: {} is no list"),
        ({"imagePullSecrets": ["x"]}, "ServiceAccount.imagePullSecrets[0]: 'x' is no V1LocalObjectReference"),
    ],
)
def test_the_check_of_fields_and_types_finds(item: Mapping[str, Any], complaint: str) -> None:
    assert list(problems({"apiVersion": "v1", "kind": "ServiceAccount", **item})) == [complaint]


def test_every_object_says_whose_it_is(variant: tuple[str, list[dict[str, Any]]]) -> None:
    for item in variant[1]:
        labels = item["metadata"]["labels"]
        assert labels["app.kubernetes.io/part-of"] == "smi-adapter"
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert len(item["metadata"]["name"]) <= 63 or item["kind"] == "CustomResourceDefinition"


def test_every_object_of_a_namespace_names_it(variant: tuple[str, list[dict[str, Any]]]) -> None:
    """Without a namespace it would land wherever `kubectl apply` of `helm template` is run."""
    cluster_wide = {
        "ClusterRole",
        "ClusterRoleBinding",
        "CustomResourceDefinition",
        "ValidatingWebhookConfiguration",
    }
    for item in variant[1]:
        if item["kind"] in cluster_wide:
            assert "namespace" not in item["metadata"]
        else:
            assert item["metadata"]["namespace"] in {NAMESPACE, *WATCHED}


def test_selectors_find_the_pods(variant: tuple[str, list[dict[str, Any]]]) -> None:
    manifests = variant[1]
    deployment = _one(manifests, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    selectors = [deployment["spec"]["selector"]["matchLabels"]]
    selectors += [item["spec"]["selector"] for item in of_kind(manifests, "Service")]
    selectors += [item["spec"]["selector"]["matchLabels"] for item in of_kind(manifests, "PodDisruptionBudget")]
    selectors += [item["spec"]["podSelector"]["matchLabels"] for item in of_kind(manifests, "NetworkPolicy")]
    for selector in selectors:
        assert selector
        assert selector.items() <= labels.items()
    others = [
        item["spec"]["template"]["metadata"].get("labels", {}) if item["kind"] == "Job" else item["metadata"]["labels"]
        for item in manifests
        if item["kind"] in {"Job", "Pod"}
    ]
    for other in others:
        assert not selectors[0].items() <= other.items(), "a Service would send proxies there"


def test_every_port_that_is_named_is_there(variant: tuple[str, list[dict[str, Any]]]) -> None:
    manifests = variant[1]
    (container,) = _one(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    names = {port["name"]: port["containerPort"] for port in container["ports"]}
    used = {port["targetPort"] for item in of_kind(manifests, "Service") for port in item["spec"]["ports"]}
    used |= {container[probe]["httpGet"]["port"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    used |= {
        port["port"]
        for item in of_kind(manifests, "NetworkPolicy")
        for rule in item["spec"]["ingress"]
        for port in rule["ports"]
    }
    assert used == names.keys()
    assert len(set(names.values())) == len(names)


# ----------------------------------------------------------------------------------- the controller's settings
def _environment(manifests: list[dict[str, Any]]) -> dict[str, str]:
    (container,) = _one(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    names = [entry["name"] for entry in container["env"]]
    assert len(set(names)) == len(names), "Helm 4 refuses a name that stands twice"
    return {entry["name"]: entry.get("value", "") for entry in container["env"]}


def test_the_controller_takes_every_setting_that_the_chart_gives(
    variant: tuple[str, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {
        name.removeprefix(ENV_PREFIX).lower(): value
        for name, value in _environment(variant[1]).items()
        if name.startswith(ENV_PREFIX)
    }
    judged(given)


def test_names_in_settings_are_those_of_objects(variant: tuple[str, list[dict[str, Any]]]) -> None:
    manifests = variant[1]
    environment = _environment(manifests)
    assert environment["SMI_ADAPTER_XDS_SERVICE"] in {
        item["metadata"]["name"] for item in of_kind(manifests, "Service")
    }
    assert environment["SMI_ADAPTER_AUTHORITY_SECRET"] in {
        item["metadata"]["name"] for item in of_kind(manifests, "Secret")
    }
    assert environment["SMI_ADAPTER_AUTHORITY_SECRET"] == _one(manifests, "ConfigMap")["metadata"]["name"]
    leases = [
        name
        for role in of_kind(manifests, "Role")
        for rule in role["rules"]
        if "leases" in rule["resources"]
        for name in rule.get("resourceNames", ())
    ]
    assert {*leases} == {environment["SMI_ADAPTER_LEASE"]}
    assert _one(manifests, "Lease")["metadata"]["name"] == environment["SMI_ADAPTER_LEASE"]


# ------------------------------------------------------------------------------------------------------------ CRDs
def test_the_crds_are_ours_and_are_kept() -> None:
    found = {crds.name_of(item): item for item in of_kind(render(), "CustomResourceDefinition")}
    assert found.keys() == {crds.name_of(crd) for crd in crds.definitions()}
    for crd in crds.definitions():
        item = found[crds.name_of(crd)]
        assert item["spec"] == crd["spec"]
        assert item["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_the_crds_can_be_left_to_others_or_to_the_release() -> None:
    assert not of_kind(render(None, "--set", "crds.install=false"), "CustomResourceDefinition")
    for item in of_kind(render(None, "--set", "crds.keep=false"), "CustomResourceDefinition"):
        assert "annotations" not in item["metadata"]


def test_a_conversion_webhook_is_opt_in_and_names_our_service() -> None:
    for item in of_kind(render(), "CustomResourceDefinition"):
        assert item["spec"]["conversion"] == {"strategy": "None"}
    manifests = render(None, "--set", "webhooks.conversion.enabled=true")
    services = {item["metadata"]["name"] for item in of_kind(manifests, "Service")}
    for item in of_kind(manifests, "CustomResourceDefinition"):
        client = item["spec"]["conversion"]["webhook"]["clientConfig"]
        assert client["service"]["name"] in services
        assert "caBundle" not in client


# -------------------------------------------------------------------------------------------------- Pod Security
def test_every_pod_passes_pod_security_restricted(variant: tuple[str, list[dict[str, Any]]]) -> None:
    pods = list(_pods(variant[1]))
    assert pods
    for name, spec in pods:
        assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC", "ephemeralContainers"}, name
        whole = spec["securityContext"]
        assert whole["runAsNonRoot"] is True, name
        assert whole["runAsUser"] == 65532, name
        assert whole["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert all(volume.keys() & {"emptyDir", "secret", "configMap", "projected"} for volume in spec["volumes"]), name
        for container in [*spec["containers"], *spec.get("initContainers", ())]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert not context.get("privileged"), name
            assert all("hostPort" not in port for port in container.get("ports", ())), name
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}, name
            assert "memory" in container["resources"]["limits"], name
            assert not container["image"].endswith(":latest"), name


def test_one_replica_has_no_disruption_budget() -> None:
    """It would only stop the draining of a node."""
    assert of_kind(render(), "PodDisruptionBudget")
    assert not of_kind(render(None, "--set", "replicas=1"), "PodDisruptionBudget")


def test_a_digest_wins_over_a_tag() -> None:
    digest = "sha256:" + "0" * 64
    arguments = (
        "--set",
        f"image.digest={digest}",
        "--set-string",
        "image.tag=1",
        "--set",
        "image.registry=r.example/x",
    )
    ((_, spec), *_) = _pods(of_kind(render(None, *arguments), "Deployment"))
    assert spec["containers"][0]["image"] == f"r.example/x/smi-adapter@{digest}"


# --------------------------------------------------------------------------------------------------- around the pods
def test_replicas_reach_each_other_whoever_else_may() -> None:
    """The ones that do not lead tell the leader what their proxies have acknowledged, on the port of health."""
    manifests = render(VALUES["everything"])
    rules = _one(manifests, "NetworkPolicy")["spec"]["ingress"]
    (health,) = (rule for rule in rules if rule["ports"][0]["port"] == "health")
    own = {"podSelector": _one(manifests, "NetworkPolicy")["spec"]["podSelector"]}
    assert own in health["from"]
    assert len(health["from"]) == 2


def test_alerts_are_about_metrics_that_there_are() -> None:
    there = {
        name
        for family in Metrics(Reading).registry.collect()
        for name in (family.name, f"{family.name}_total", f"{family.name}_bucket")
    }
    (group,) = _one(render(VALUES["everything"]), "PrometheusRule")["spec"]["groups"]
    named = {name for rule in group["rules"] for name in re.findall(r"smi_adapter_\w+", rule["expr"])}
    assert named
    assert named <= there


# -------------------------------------------------------------------------------------------------------- webhooks
def test_a_dead_webhook_stops_nobody() -> None:
    (webhook,) = _one(render(), "ValidatingWebhookConfiguration")["webhooks"]
    assert webhook["failurePolicy"] == "Ignore"
    assert webhook["timeoutSeconds"] == 2
    assert webhook["sideEffects"] == "None"


def test_the_webhook_is_asked_about_our_kinds_only_and_not_in_our_own_namespace() -> None:
    (webhook,) = _one(render(), "ValidatingWebhookConfiguration")["webhooks"]
    (rule,) = webhook["rules"]
    assert {*rule["apiGroups"]} == {group for group, _ in schema.served()}
    assert {*rule["resources"]} == {crds.plural(kind) for _, kind in schema.served()}
    (left_out,) = webhook["namespaceSelector"]["matchExpressions"]
    assert (left_out["operator"], left_out["values"]) == ("NotIn", ["kube-system", NAMESPACE])


def test_the_bundle_is_left_to_the_controller(variant: tuple[str, list[dict[str, Any]]]) -> None:
    """An upgrade, or a GitOps tool, would undo what the controller has patched in."""
    assert "caBundle" not in yaml.safe_dump_all(_without_crds(variant[1]))


def test_the_path_of_the_webhook_is_left_to_the_controller_where_it_patches() -> None:
    """Else an upgrade would take the path away on which the API server is told all that there is to tell."""
    for values, path in ((None, None), (VALUES["cert-manager"], "/validate")):
        (webhook,) = _one(render(values), "ValidatingWebhookConfiguration")["webhooks"]
        assert webhook["clientConfig"]["service"].get("path") == path


def test_secrets_are_made_empty(variant: tuple[str, list[dict[str, Any]]]) -> None:
    for item in (*of_kind(variant[1], "Secret"), *of_kind(variant[1], "ConfigMap")):
        assert not item.keys() & {"data", "stringData"}


def test_the_checks_before_an_installation_ask_for_all_that_it_creates() -> None:
    made = {
        (item["apiVersion"].rpartition("/")[0], f"{item['kind'].lower()}s") for item in render() if not is_hook(item)
    }
    assert made <= set(checks._NEEDED)


# ------------------------------------------------------------------------------------------------------- uninstall
@pytest.mark.parametrize(
    ("values", "roles"),
    [
        ((), None),
        (("webhooks.conversion.enabled=true",), {"ClusterRole": [""]}),
        (("settings.backend=gateway_api",), {"ClusterRole": [""], "Role": [NAMESPACE]}),
        (("settings.formerBackends={gateway_api}",), {"ClusterRole": [""], "Role": [NAMESPACE]}),
        (("settings.backend=gateway_api", "watchNamespaces={shop,bank}"), {"Role": [NAMESPACE, "shop", "bank"]}),
        (("webhooks.conversion.enabled=true", "uninstallHook.enabled=false"), None),
        (("settings.formerBackends=null",), None),
    ],
)
def test_a_job_takes_away_what_helm_does_not_know(values: tuple[str, ...], roles: dict[str, list[str]] | None) -> None:
    """With rights no wider than those of the controller: none for the whole cluster where that has none."""
    manifests = render(None, *(argument for value in values for argument in ("--set", value)))
    hooks = [item for item in manifests if is_hook(item) and item["kind"] != "Pod"]
    assert len(of_kind(hooks, "Job")) == len(of_kind(hooks, "ServiceAccount")) == (roles is not None)
    for kind in ("ClusterRole", "Role"):
        for made in (kind, f"{kind}Binding"):
            places = [item["metadata"].get("namespace", "") for item in of_kind(hooks, made)]
            assert places == (roles or {}).get(kind, []), made
    for item in hooks:
        notes = item["metadata"]["annotations"]
        assert notes["helm.sh/hook"] == "pre-delete"
        assert "before-hook-creation" in notes["helm.sh/hook-delete-policy"], "a second try must not fail"
        assert item["kind"] == "Job" or int(notes["helm.sh/hook-weight"]) < 0


# ---------------------------------------------------------------------------------------------------------- values
@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ("replica=3", "Additional property replica is not allowed"),
        ("image.tga=1", "Additional property tga is not allowed"),
        ("replicas=0", "replicas"),
        ("image.tag=latest", "tag"),
        ("image.digest=sha256:abc", "digest"),
        ("settings.mode=enforced", "mode"),
        ("settings.certificateSeconds=5", "certificateSeconds"),
        ("webhooks.validating.failurePolicy=ignore", "failurePolicy"),
        ("watchNamespaces={Shop}", "watchNamespaces"),
        ("xds.port=80", "port"),
        ("extraEnv[0].name=SMI_ADAPTER_MODE", "extraEnv"),
    ],
)
def test_a_wrong_value_stops_the_installation(values: str, complaint: str) -> None:
    done = try_render(None, "--set", values)
    assert done.returncode != 0
    assert complaint in done.stderr


def test_two_ways_to_choose_namespaces_are_one_too_many() -> None:
    done = try_render(None, "--set", "watchNamespaces={shop}", "--set", "namespaceSelector=mesh=on")
    assert done.returncode != 0
    assert "not both" in done.stderr


def test_values_for_all_charts_are_allowed() -> None:
    assert render(None, "--set", "global.anything=1")


def test_every_value_is_in_the_schema_and_the_other_way_round() -> None:
    document = json.loads((CHART / "values.schema.json").read_text())
    assert document["$schema"] == "http://json-schema.org/draft-07/schema#"
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def compare(one: Mapping[str, Any], form: Mapping[str, Any], path: str) -> None:
        assert form["additionalProperties"] is False, path
        known = form["properties"].keys() - {"global"}
        if path in {"certManager.issuerRef", "resources"}:  # the user's own words; empty or partly given
            assert one.keys() <= known
            return
        assert one.keys() == known, path
        for name, value in one.items():
            if isinstance(value, dict) and "properties" in form["properties"][name]:
                compare(value, form["properties"][name], f"{path}.{name}".lstrip("."))

    compare(values, document, "")


def test_the_defaults_of_the_chart_are_those_of_the_program() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    defaults = Settings()
    for name, wire in {
        "profile": "profile",
        "mode": "mode",
        "trustDomain": "trust_domain",
        "backend": "backend",
    }.items():
        assert values["settings"][name] == getattr(defaults, wire)
    assert values["settings"]["certificateSeconds"] == defaults.certificate_seconds
    assert values["xds"]["tokenAudience"] == defaults.token_audience


# -------------------------------------------------------------------------------------------------------- metadata
def test_the_chart_has_the_version_of_the_program() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["apiVersion"], chart["appVersion"]) == ("v2", __version__)


def test_the_annotations_of_the_chart_are_true() -> None:
    notes = yaml.safe_load((CHART / "Chart.yaml").read_text())["annotations"]
    listed = {(item["name"], item["kind"], item["version"]) for item in yaml.safe_load(notes["artifacthub.io/crds"])}
    ours = {(crds.name_of(crd), crd["spec"]["names"]["kind"], crds.STORED) for crd in crds.definitions()}
    assert listed == ours
    for example in yaml.safe_load(notes["artifacthub.io/crdsExamples"]):
        assert schema.problems(example) == ()
    assert yaml.safe_load(notes["artifacthub.io/changes"])


def test_long_names_stay_within_the_limits() -> None:
    for item in render(release="a-release-with-quite-a-long-name-of-fifty-characters"):
        assert len(item["metadata"]["name"]) <= 63 or item["kind"] == "CustomResourceDefinition"


def test_the_notes_say_what_comes_next_and_what_is_missing(tmp_path: Path) -> None:
    chart = shutil.copytree(CHART, tmp_path / "smi-adapter")
    # Only an installation prints notes; `helm template` shows what a manifest includes.
    shown = '{{ include (print .Template.BasePath "/NOTES.txt") . | toJson }}'
    (chart / "templates" / "shown.yaml").write_text(f"notes: {shown}\n")

    def notes(release: str, *values: str) -> str:
        only = ("--show-only", "templates/shown.yaml", "--namespace", NAMESPACE)
        done = helm("template", release, str(chart), *only, *values)
        assert done.returncode == 0, done.stderr
        return str(yaml.safe_load(done.stdout)["notes"])

    there = notes("smi-adapter", "--set", "image.registry=registry.example.com/mesh")
    assert f"smi-adapter bootstrap --namespace NS --controller-namespace {NAMESPACE} | kubectl apply -f -" in there
    assert "image.registry" not in there
    assert "--release x-smi-adapter | kubectl" in notes("x")
    assert "image.registry is not set, so nodes look for smi-adapter:" in notes("x")


def test_the_package_holds_what_is_needed(tmp_path: Path) -> None:
    done = helm("package", str(CHART), "--destination", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (package,) = tmp_path.glob("*.tgz")
    shown = helm("show", "values", str(package))
    assert shown.stdout.strip() == (CHART / "values.yaml").read_text().strip()
    again = helm("template", "smi-adapter", str(package))
    assert again.stdout.count("kind: CustomResourceDefinition") == len(crds.definitions())
