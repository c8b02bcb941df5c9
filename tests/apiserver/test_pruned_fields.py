"""F21 beside a foreign CRD: what restricts and was pruned is told, and nothing is wider by it than it was written."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from smi_adapter.controller import Controller
from smi_adapter.evaluate import Request, Verdict, evaluate
from smi_adapter.smi.objects import ACCESS_GROUP, SPECS_GROUP, SPLIT_GROUP
from tests import foreign_crds
from tests.cluster.control_plane import ControlPlane
from tests.cluster.mesh import Mesh, controller, ready, settings, until

pytestmark = pytest.mark.slow

PLACES = {
    "port": "spec.destination.port",
    "rule": "spec.rules[0].matches",
    "headers": "spec.matches[1].headers",
    "ports": "spec.matches.ports",
    "canary": "spec.matches",
}


def objects(namespace: str) -> list[dict[str, Any]]:
    """Return objects that each lose something; every pod of the shop has a ServiceAccount of its own to be called."""

    def made(group: str, version: str, kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
        metadata = {"name": name, "namespace": namespace}
        return {"apiVersion": f"{group}/{version}", "kind": kind, "metadata": metadata, "spec": spec}

    def target(name: str, kind: str, route: str, port: dict[str, Any], **rule: Any) -> dict[str, Any]:
        web, shop = ({"kind": "ServiceAccount", "namespace": namespace, "name": each} for each in ("web", name))
        spec = {"destination": {**shop, **port}, "rules": [{"kind": kind, "name": route, **rule}], "sources": [web]}
        return made(ACCESS_GROUP, "v1alpha3", "TrafficTarget", name, spec)

    matches = [
        {"name": "plain", "pathRegex": "/plain", "methods": ["*"]},
        {"name": "wide", "pathRegex": "/.*", "methods": ["*"], "headers": [{"x-tester": "yes"}]},
    ]
    return [
        made(SPECS_GROUP, "v1alpha4", "HTTPRouteGroup", "headers", {"matches": matches}),
        made(SPECS_GROUP, "v1alpha4", "HTTPRouteGroup", "all", {"matches": [*one("a", "/a"), *one("b", "/b")]}),
        made(SPECS_GROUP, "v1alpha4", "TCPRoute", "ports", {"matches": {"name": "some", "ports": [9999]}}),
        made(SPECS_GROUP, "v1alpha4", "TCPRoute", "any", {"matches": {"name": "any"}}),
        target("port", "TCPRoute", "any", {"port": 9999}),
        target("rule", "HTTPRouteGroup", "all", {}, matches=["a"]),
        target("headers", "HTTPRouteGroup", "headers", {}),
        target("ports", "TCPRoute", "ports", {}),
        made(
            SPLIT_GROUP,
            "v1alpha2",
            "TrafficSplit",
            "canary",
            {
                "service": "rule",
                "backends": [{"service": "headers", "weight": 1}],
                "matches": [{"kind": "HTTPRouteGroup", "name": "headers"}],
            },
        ),
    ]


def one(name: str, path: str) -> list[dict[str, Any]]:
    return [{"name": name, "pathRegex": path, "methods": ["*"]}]


def judged(running: Controller, mesh: Mesh, service: str, path: str = "/", tester: str = "") -> Verdict:
    assert running.compiled is not None
    source = f"spiffe://cluster.local/ns/{mesh.namespace}/sa/web"
    headers = (("x-tester", tester),) if tester else ()
    request = Request(source, (mesh.namespace, service), 80, path=path, headers=headers)
    return evaluate(running.compiled.supported.mesh, request)


def allowed(running: Controller, mesh: Mesh, service: str, path: str = "/", tester: str = "") -> bool:
    return judged(running, mesh, service, path, tester).access == "allowed"


def command(plane: ControlPlane, *arguments: str) -> str:
    """Run our command as an admin and return all that it says."""
    program = [sys.executable, "-c", "from smi_adapter.cli import entry; entry()", *arguments]
    done = subprocess.run(
        [*program, f"--kubeconfig={plane.kubeconfig}"], capture_output=True, text=True, timeout=120, check=False
    )
    return done.stdout + done.stderr


def told(plane: ControlPlane, mesh: Mesh) -> dict[str, str]:
    """Return what Events say of fields that were pruned, by the object's name."""
    found = plane.get(f"/apis/events.k8s.io/v1/namespaces/{mesh.namespace}/events")["items"]
    return {item["regarding"]["name"]: item["note"] for item in found if item["reason"] == "FieldPruned"}


async def test_f21_what_a_foreign_crd_pruned_is_told_and_opens_nothing(
    own_api_server: ControlPlane, tmp_path: Path
) -> None:
    plane = own_api_server
    await asyncio.to_thread(plane.apply, *foreign_crds.lossy("osm"))
    mesh = Mesh(plane, plane.new_namespace(), tmp_path)
    mesh.account("web")
    mesh.pod("web-1", "web", {"app": "web"})
    for name in ("port", "rule", "headers", "ports"):
        mesh.account(name)
        mesh.pod(name, name, {"app": name})
        mesh.service(name, name, selector={"app": name})
    apply = ("apply", "--validate=false", "-f", "-")
    manifests = yaml.safe_dump_all(objects(mesh.namespace))
    await asyncio.to_thread(plane.kubectl, *apply, stdin=manifests)
    path = f"/apis/{ACCESS_GROUP}/v1alpha3/namespaces/{mesh.namespace}/traffictargets/port"
    assert "port" not in plane.get(path)["spec"]["destination"], "or there is nothing to show"
    async with controller(plane, settings(plane)) as (running, _):
        await ready(running)
        assert not allowed(running, mesh, "port"), "the port that it was for is not this one"
        assert not allowed(running, mesh, "ports")
        assert not allowed(running, mesh, "rule", "/b")
        assert not allowed(running, mesh, "headers", "/else")
        assert allowed(running, mesh, "headers", "/plain"), "the match beside it is whole"
        assert [arm.service for arm in judged(running, mesh, "rule", "/a").arms] == [f"{mesh.namespace}/rule"]
        await until(lambda: told(plane, mesh).keys() == PLACES.keys())
        for name, note in told(plane, mesh).items():
            assert PLACES[name] in note, note
        said = await asyncio.to_thread(command, plane, "check")
        status = await asyncio.to_thread(command, plane, "crds", "status")
        for field in ("spec.destination.port", "spec.rules[].matches", "spec.matches[].headers", "spec.matches.ports"):
            assert field in said
            assert field in status
        assert f"TrafficTarget {mesh.namespace}/port" in await asyncio.to_thread(command, plane, "analyze", "-A")

        await asyncio.to_thread(command, plane, "crds", "apply")
        await asyncio.to_thread(plane.kubectl, *apply, stdin=manifests)
        await until(lambda: allowed(running, mesh, "rule", "/a"))
        await until(lambda: allowed(running, mesh, "headers", "/else", "yes"))
        assert not allowed(running, mesh, "rule", "/b")
        assert not allowed(running, mesh, "headers", "/else")
        assert not allowed(running, mesh, "port")
        assert not allowed(running, mesh, "ports")
