"""The real kubectl against the real API server and against the embedded one: the same script says the same.

Each story is run on both, and what kubectl prints is compared word by word, but for times, uids and revisions. So the
embedded API cannot drift. Where only our own words differ (what a bad value is called), the story says so.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from smi_adapter import crds
from tests.cluster.control_plane import ControlPlane
from tests.cluster.embedded import Kubectl, embedded_api

Story = Callable[[Kubectl], str]

SPLIT = """
apiVersion: split.smi-spec.io/v1alpha4
kind: TrafficSplit
metadata: {name: web, labels: {app: web}}
spec:
  service: web
  backends:
  - {service: v1, weight: 50}
  - {service: v2, weight: 50}
"""
ROUTES = """
apiVersion: specs.smi-spec.io/v1alpha3
kind: HTTPRouteGroup
metadata: {name: routes}
spec: {matches: [{name: all, pathRegex: ".*", methods: [GET]}]}
"""
TARGET = """
apiVersion: access.smi-spec.io/v1alpha3
kind: TrafficTarget
metadata: {name: target}
spec:
  destination: {kind: ServiceAccount, name: web}
  rules: [{kind: HTTPRouteGroup, name: routes}]
  sources: [{kind: ServiceAccount, name: client}]
"""
DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 0
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: web:1, env: [{name: A, value: "1"}, {name: B, value: "2"}]}
"""
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080, protocol: TCP}]}
"""


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    folder = tmp_path_factory.mktemp("embedded")
    (folder / "source").mkdir()
    (folder / "home").mkdir()
    with embedded_api(folder / "source", folder / "state") as kubeconfig:
        yield Kubectl(kubeconfig, folder / "home")


@pytest.fixture(scope="module")
def real(api_server: ControlPlane) -> Kubectl:
    api_server.apply(*crds.definitions())
    home = api_server.folder / "home"
    home.mkdir(exist_ok=True)
    return Kubectl(api_server.kubeconfig, home)


def apply(kubectl: Kubectl) -> Iterator[str]:
    yield kubectl.told("apply", "-f", "-", stdin=SPLIT)
    yield kubectl.told("apply", "-f", "-", stdin=SPLIT)
    more = SPLIT.replace("v1, weight: 50", "v1, weight: 60")
    yield kubectl.told("diff", "-f", "-", stdin=more)
    yield kubectl.told("apply", "-f", "-", "--dry-run=server", stdin=more)
    yield kubectl.told("get", "ts", "web", "-o", "jsonpath={.spec}")
    yield kubectl.told("apply", "-f", "-", stdin=more)
    yield kubectl.told("get", "ts", "web", "-o", "jsonpath={.spec} {.metadata.generation} {.metadata.annotations}")
    yield kubectl.told("diff", "-f", "-", stdin=more)
    yield kubectl.told("apply", "-f", "-", stdin=ROUTES + "---" + TARGET + "---" + SPLIT)
    yield kubectl.told("delete", "-f", "-", stdin=ROUTES + "---" + TARGET + "---" + SPLIT)
    yield kubectl.told("delete", "ts", "web")
    yield kubectl.told("delete", "ts", "web", "--ignore-not-found")


def apply_removes_what_is_left_out(kubectl: Kubectl) -> Iterator[str]:
    yield kubectl.told("apply", "-f", "-", stdin=SPLIT + "  matches: [{kind: HTTPRouteGroup, name: routes}]\n")
    yield kubectl.told("annotate", "ts", "web", "note=mine")
    yield kubectl.told("apply", "-f", "-", stdin=SPLIT.replace(", labels: {app: web}", ""))
    yield kubectl.told(
        "get", "ts", "web", "-o", "jsonpath={.spec.matches} {.metadata.labels} {.metadata.annotations.note}"
    )


def server_side_apply(kubectl: Kubectl) -> Iterator[str]:
    yield kubectl.told("apply", "--server-side", "-f", "-", stdin=SPLIT)
    yield kubectl.told("get", "ts", "web", "-o", "jsonpath={.metadata.managedFields}")
    yield kubectl.told("apply", "--server-side", "--field-manager=other", "-f", "-", stdin=SPLIT)
    other = SPLIT.replace("v1, weight: 50", "v1, weight: 60")
    yield kubectl.told("apply", "--server-side", "--field-manager=third", "-f", "-", stdin=other)
    yield kubectl.told("apply", "--server-side", "--field-manager=third", "--force-conflicts", "-f", "-", stdin=other)
    yield kubectl.told("get", "ts", "web", "-o", "jsonpath={.spec}")
    less = SPLIT.replace(", labels: {app: web}", "")
    yield kubectl.told("apply", "--server-side", "--field-manager=other", "--force-conflicts", "-f", "-", stdin=less)
    yield kubectl.told("get", "ts", "web", "--show-labels", "--no-headers", "-o", "custom-columns=:.metadata.labels")
    yield kubectl.told("apply", "--server-side", "--dry-run=server", "-f", "-", stdin=SPLIT)
    yield kubectl.told(
        "patch", "ts", "web", "--type=merge", "-p", '{"spec":{"service":"x"},"metadata":{"labels":{"app":"y"}}}'
    )
    yield kubectl.told("get", "ts", "web", "-o", "jsonpath={.metadata.managedFields}")
    yield kubectl.told("apply", "--server-side", "--field-manager=other", "-f", "-", stdin=SPLIT)


def server_side_after_client_side_apply(kubectl: Kubectl) -> Iterator[str]:
    yield kubectl.told("apply", "-f", "-", stdin=SPLIT)
    more = SPLIT.replace("v1, weight: 50", "v1, weight: 60")
    yield kubectl.told("apply", "--server-side", "-f", "-", stdin=more)
    yield kubectl.told("get", "ts", "web", "-o", "jsonpath={.spec}")
    managers = kubectl.out("get", "ts", "web", "-o", "jsonpath={.metadata.managedFields[*].manager}")
    yield " ".join(sorted(managers.split()))  # their order is one of time, and a second may be too short
    yield kubectl.told("apply", "--server-side", "-f", "-", stdin=more)


def create_and_replace(kubectl: Kubectl) -> Iterator[str]:
    yield kubectl.told("create", "-f", "-", stdin=SPLIT)
    yield kubectl.told("create", "-f", "-", stdin=SPLIT)
    yield kubectl.told("replace", "-f", "-", stdin=SPLIT.replace("v1, weight: 50", "v1, weight: 1"))
    yield kubectl.told("get", "ts", "web", "-o", "jsonpath={.spec.backends} {.metadata.generation}")
    stale = SPLIT.replace("name: web,", 'name: web, resourceVersion: "1",')
    yield kubectl.told("replace", "-f", "-", stdin=stale)
    yield kubectl.told("replace", "-f", "-", stdin=SPLIT.replace("name: web,", "name: other,"))
    yield kubectl.told("create", "-f", "-", "--namespace", "nowhere", stdin=SPLIT)
    yield kubectl.told("create", "serviceaccount", "joe")
    yield kubectl.told("create", "serviceaccount", "joe")


def patch(kubectl: Kubectl) -> Iterator[str]:
    yield kubectl.told("apply", "-f", "-", stdin=SPLIT)
    yield kubectl.told("patch", "ts", "web", "--type=merge", "-p", '{"spec":{"service":"shop"}}')
    yield kubectl.told("patch", "ts", "web", "--type=merge", "-p", '{"spec":{"service":"shop"}}')
    replace = '[{"op": "replace", "path": "/spec/backends/0/weight", "value": 7}]'
    yield kubectl.told("patch", "ts", "web", "--type=json", "-p", replace)
    yield kubectl.told("get", "ts", "web", "-o", "jsonpath={.spec} {.metadata.generation}")
    yield kubectl.told("patch", "ts", "nope", "--type=merge", "-p", "{}")
    yield kubectl.told("label", "ts", "web", "team=blue")
    yield kubectl.told("label", "ts", "web", "team=red")
    yield kubectl.told("label", "ts", "web", "team=red", "--overwrite")
    yield kubectl.told("label", "ts", "web", "team-")
    yield kubectl.told("get", "ts", "web", "-o", "jsonpath={.metadata.labels}")


def get(kubectl: Kubectl) -> Iterator[str]:
    yield kubectl.told("get", "ts")
    yield kubectl.told("apply", "-f", "-", stdin=SPLIT + "---" + TARGET + "---" + ROUTES)
    report(kubectl)
    for kind in ("ts", "tt", "htr", "trafficsplits.split.smi-spec.io", "smi"):
        yield kubectl.told("get", kind)
    yield kubectl.told("get", "ts", "-o", "wide")
    yield kubectl.told("get", "ts", "-o", "name")
    yield without_status(kubectl.told("get", "ts", "web", "-o", "yaml"))
    yield without_status(kubectl.told("get", "ts", "-o", "yaml"))
    for selector in ("app=web", "app!=web", "app", "!app", "app in (web,x)", "app notin (web)", "nope"):
        yield kubectl.told("get", "ts", "-l", selector, "-o", "name")
    yield kubectl.told("get", "ts", "--field-selector", "metadata.name=web", "-o", "name")
    yield kubectl.told("get", "ts", "nope")
    yield kubectl.told("get", "ts,tt", "web", "target", "-o", "name")
    for version in ("v1alpha1", "v1alpha2", "v1alpha3"):
        yield kubectl.told(
            "get", f"trafficsplits.{version}.split.smi-spec.io", "web", "-o", "jsonpath={.apiVersion} {.spec}"
        )
    yield kubectl.told("delete", "ts", "--all")


def report(kubectl: Kubectl) -> None:
    """Write the statuses that no controller writes on the real server; the embedded one, which has them, refuses."""
    for kind, name, programmed in (("ts", "web", "False"), ("tt", "target", "False"), ("htr", "routes", "False")):
        conditions = [{"type": "Accepted", "status": "True"}, {"type": "Programmed", "status": programmed}]
        dated = [
            {**one, "reason": "Test", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"} for one in conditions
        ]
        status = json.dumps({"status": {"conditions": dated}})
        kubectl.run("patch", kind, name, "--subresource=status", "--type=merge", "-p", status)


def without_status(text: str) -> str:
    """Leave out what only the embedded server says, as it is the controller too."""
    return re.sub(r"(?m)^( *)status:\n(\1[ -] ?.*\n)*", "", text)


def core_kinds(kubectl: Kubectl) -> Iterator[str]:
    yield kubectl.told("apply", "-f", "-", stdin=DEPLOYMENT)
    yield kubectl.told("apply", "-f", "-", stdin=DEPLOYMENT.replace('value: "2"', 'value: "3"'))
    env = "jsonpath={.spec.template.spec.containers[0].env}"
    yield kubectl.told("get", "deploy", "web", "-o", env)
    yield kubectl.told("apply", "-f", "-", stdin=DEPLOYMENT.replace('{name: A, value: "1"}, ', ""))
    yield kubectl.told("get", "deploy", "web", "-o", env)
    yield kubectl.told("set", "image", "deploy/web", "web=web:2")
    yield kubectl.told("get", "deploy", "web", "-o", "jsonpath={.spec.template.spec.containers[0].image}")
    yield kubectl.told("apply", "-f", "-", stdin=SERVICE)
    yield kubectl.told("patch", "svc", "web", "-p", '{"spec":{"ports":[{"port":80,"targetPort":9090}]}}')
    yield kubectl.told("get", "svc", "web", "-o", "jsonpath={.spec.ports}")
    yield kubectl.told(
        "apply", "--server-side", "-f", "-", stdin=SERVICE.replace("8080", "9090").replace("web}", "fresh}", 1)
    )
    yield kubectl.told("get", "svc", "fresh", "-o", "jsonpath={.spec.ports}")
    yield kubectl.told("delete", "deploy/web", "svc/web", "svc/fresh")


def trials(kubectl: Kubectl) -> Iterator[str]:
    """Whatever is tried with --dry-run=server, every object is afterwards what it was before."""
    everything = f"{SPLIT}---{ROUTES}---{TARGET}---{DEPLOYMENT}---{SERVICE}"
    kubectl.out("apply", "-f", "-", stdin=everything)
    kubectl.out("create", "serviceaccount", "joe")
    kinds = "ts,tt,htr,deploy,svc,sa,ns"
    there = "jsonpath={range .items[*]}{.kind} {.metadata.name} {.metadata.labels} {.spec}{end}"
    before = kubectl.out("get", "ts,tt,htr,deploy", "-o", there)
    names = kubectl.out("get", kinds, "-o", "name")
    tried = (
        *(("delete", *which) for which in (
            ("ts", "web"), ("tt", "target"), ("htr", "--all"), ("deploy", "web"), ("svc", "web"), ("sa", "joe"),
            ("ts,tt,htr", "--all"), ("deploy,svc", "-l", "!nope"), ("ns", kubectl.namespace),
        )),
        ("patch", "ts", "web", "--type=merge", "-p", '{"spec":{"service":"shop"}}'),
        ("patch", "deploy", "web", "-p", '{"spec":{"replicas":3}}'),
        ("scale", "deploy", "web", "--replicas=3"),
        ("annotate", "ts", "web", "note=mine"),
        ("label", "ts", "web", "team=blue"),
        ("set", "image", "deploy/web", "web=web:2"),
        ("create", "serviceaccount", "jim"),
        ("create", "namespace", "trial"),
    )  # fmt: skip
    for words in tried:
        yield kubectl.told(*words, "--dry-run=server")
    other = everything.replace("weight: 50", "weight: 60").replace("web:1", "web:2")
    for how in (("apply",), ("apply", "--server-side", "--force-conflicts"), ("replace",), ("delete",)):
        yield kubectl.told(*how, "-f", "-", "--dry-run=server", stdin=other)
    assert kubectl.out("get", "ts,tt,htr,deploy", "-o", there) == before
    assert kubectl.out("get", kinds, "-o", "name") == names


def explain(kubectl: Kubectl) -> Iterator[str]:
    for path in ("ts.spec", "ts.spec.backends.weight", "tt.spec.sources", "htr.spec.matches", "udproutes.spec"):
        yield kubectl.told("explain", path)
    yield kubectl.told("explain", "ts.spec.nope")
    yield kubectl.told("explain", "ts.spec", "--recursive")
    yield kubectl.told("explain", "ts.spec", "--api-version=split.smi-spec.io/v1alpha1")


def unknown_fields(kubectl: Kubectl) -> Iterator[str]:
    wrong = SPLIT.replace("spec:", "spec:\n  serivce: x")
    yield kubectl.told("apply", "-f", "-", stdin=wrong)
    yield kubectl.told("apply", "--validate=warn", "-f", "-", stdin=wrong)
    yield kubectl.told("get", "ts", "web", "-o", "jsonpath={.spec}")
    yield kubectl.told("apply", "--validate=ignore", "-f", "-", stdin=wrong)


def kinds_that_are_not_served(kubectl: Kubectl) -> Iterator[str]:
    wrong = SPLIT.replace("v1alpha4", "v1alpha9")
    rollout = "apiVersion: argoproj.io/v1alpha1\nkind: Rollout\nmetadata: {name: web}\nspec: {}\n"
    for text in (wrong, rollout):
        yield kubectl.told("apply", "-f", "-", stdin=text)
        yield kubectl.told("create", "-f", "-", stdin=text)
        yield kubectl.told("apply", "--server-side", "-f", "-", stdin=text)
        yield kubectl.told("delete", "-f", "-", stdin=text)
    yield kubectl.told("apply", "-f", "-", stdin=f"{wrong}---\n{ROUTES}---\n{rollout}---\n{SPLIT}")
    yield kubectl.told("get", "ts,htr", "-o", "name")
    yield kubectl.told("get", "rollouts")


def waiting(kubectl: Kubectl) -> Iterator[str]:
    yield kubectl.told("apply", "-f", "-", stdin=SPLIT)
    yield kubectl.told("wait", "ts/web", "--for=jsonpath={.spec.service}=web", "--timeout=10s")
    yield kubectl.told("wait", "ts/web", "--for=jsonpath={.spec.service}=other", "--timeout=1s")
    # -v=8 names each request, so that the object is deleted only once kubectl watches it. The log goes to stderr.
    with subprocess.Popen(
        kubectl.command("wait", "ts/web", "--for=delete", "--timeout=30s", "-v=8"),
        env=kubectl.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        assert any("watch=true" in line for line in process.stderr), "kubectl ended without a watch"
        yield kubectl.told("delete", "ts", "web")
        yield process.communicate(timeout=40)[0]
        yield str(process.returncode)


STORIES: tuple[Callable[[Kubectl], Iterator[str]], ...] = (
    apply,
    apply_removes_what_is_left_out,
    server_side_apply,
    server_side_after_client_side_apply,
    create_and_replace,
    patch,
    get,
    core_kinds,
    trials,
    explain,
    unknown_fields,
    kinds_that_are_not_served,
    waiting,
)


@pytest.mark.parametrize("story", STORIES, ids=lambda story: str(story.__name__))
def test_both_servers_tell_the_same(
    story: Callable[[Kubectl], Iterator[str]], real: Kubectl, embedded: Kubectl
) -> None:
    name = story.__name__.replace("_", "-")
    told = {}
    for server, kubectl in (("real", real), ("embedded", embedded)):
        kubectl.out("create", "namespace", name)
        there = Kubectl(kubectl.kubeconfig, kubectl.home, name)
        told[server] = list(story(there))
    for ours, theirs in zip(told["embedded"], told["real"], strict=True):
        assert ours == theirs


def test_an_object_of_a_kubernetes_kind_that_is_not_served_hinders_no_other(embedded: Kubectl) -> None:
    config = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\n"
    done = embedded.run("apply", "-f", "-", stdin=f"{config}---\n{SERVICE}")
    assert "service/web created" in done.stdout
    assert 'no matches for kind "ConfigMap" in version "v1"' in done.stderr


def test_kubectl_finds_nothing_strange_about_the_version_of_the_server(embedded: Kubectl) -> None:
    done = embedded.run("version")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Server Version: v1." in done.stdout


def test_who_asks_for_logs_is_told_where_they_are(embedded: Kubectl) -> None:
    pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: logged}\nspec: {containers: [{name: app}]}\n"
    embedded.out("apply", "-f", "-", stdin=pod)
    folder = embedded.kubeconfig.parent
    done = embedded.run("logs", "logged")
    assert (done.returncode, f"logs are files here: {folder}/default_logged_*.log" in done.stderr) == (1, True)
    assert "`smi-adapter status`" in embedded.run("exec", "logged", "--", "ls").stderr
    assert "not found" in embedded.run("logs", "nobody").stderr


def test_a_watch_tells_of_every_change(real: Kubectl, embedded: Kubectl, tmp_path: Path) -> None:
    told = []
    for kubectl in (real, embedded):
        kubectl.out("create", "namespace", "watch")
        there = Kubectl(kubectl.kubeconfig, kubectl.home, "watch")
        there.out("apply", "-f", "-", stdin=SPLIT)
        command = there.command("get", "ts", "--watch", "--output-watch-events", "--no-headers")
        with subprocess.Popen(command, env=there.environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline()]  # between two edits the embedded server tells of the status, too
            for weight in (1, 2):
                there.out("apply", "-f", "-", stdin=SPLIT.replace("v1, weight: 50", f"v1, weight: {weight}"))
                lines.append(next(line for line in process.stdout if f'"weight":{weight}}}' in line))
            there.out("delete", "ts", "web")
            lines.append(next(line for line in process.stdout if line.startswith("DELETED")))
            process.terminate()
        assert there.out("get", "ts", "-o", "name") == ""
        told.append([line.split()[:4] for line in lines])
    assert told[0] == told[1]
    assert [words[0] for words in told[1]] == ["ADDED", "MODIFIED", "MODIFIED", "DELETED"]
