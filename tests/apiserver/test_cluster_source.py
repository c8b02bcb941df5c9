"""Which namespaces the source follows, with which rights, and what one bad object does to the others."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from smi_adapter import crds
from tests.cluster.control_plane import ControlPlane
from tests.cluster.follower import Follower
from tests.cluster.mesh import until


@pytest.fixture
def plane(api_server: ControlPlane) -> ControlPlane:
    api_server.apply(*crds.definitions())
    return api_server


def route_group(namespace: str, name: str, matches: list[Any]) -> dict[str, Any]:
    return {
        "apiVersion": "specs.smi-spec.io/v1alpha4",
        "kind": "HTTPRouteGroup",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"matches": matches},
    }


ALL = [{"name": "all", "pathRegex": ".*", "methods": ["*"]}]
DEPTH = 5000
GROUPS = "/apis/specs.smi-spec.io/v1alpha4/namespaces/{}/httproutegroups"


async def create_group(plane: ControlPlane, namespace: str, name: str, matches: list[Any] | None = None) -> None:
    body = route_group(namespace, name, ALL if matches is None else matches)
    await asyncio.to_thread(plane.request, "POST", GROUPS.format(namespace), body)


async def test_only_namespaces_with_the_label_are_followed(plane: ControlPlane) -> None:
    inside = await asyncio.to_thread(plane.new_namespace, "", {"mesh": "yes"})
    outside = await asyncio.to_thread(plane.new_namespace)
    for namespace in (inside, outside):
        await create_group(plane, namespace, "routes")
    async with Follower(plane.kubeconfig, selector="mesh=yes") as world:
        await world.synced()
        assert set(world.snapshot.namespaces) == {inside}
        assert set(world.snapshot.route_groups) == {(inside, "routes")}
        assert {key[0] for key in world.snapshot.service_accounts} == {inside}
        await asyncio.to_thread(plane.kubectl, "label", "ns", outside, "mesh=yes")
        await world.until(lambda: (outside, "routes") in world.snapshot.route_groups)
        assert outside in world.snapshot.namespaces
        await asyncio.to_thread(plane.kubectl, "label", "ns", inside, "mesh-")
        await world.until(lambda: inside not in world.snapshot.namespaces)
        assert set(world.snapshot.route_groups) == {(outside, "routes")}
        assert {key[0] for key in world.snapshot.service_accounts} == {outside}
    await asyncio.to_thread(plane.kubectl, "label", "ns", outside, "mesh-")


def grant(plane: ControlPlane, namespace: str, user: str, rules: list[dict[str, Any]]) -> None:
    rbac = "rbac.authorization.k8s.io"
    subject = {"kind": "User", "name": user, "apiGroup": rbac}
    plane.apply(
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "Role",
            "metadata": {"name": user, "namespace": namespace},
            "rules": rules,
        },
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": user, "namespace": namespace},
            "subjects": [subject],
            "roleRef": {"kind": "Role", "name": user, "apiGroup": rbac},
        },
    )


def reads(groups: list[str], resources: list[str], *verbs: str) -> dict[str, Any]:
    return {"apiGroups": groups, "resources": resources, "verbs": list(verbs or ("get", "list", "watch"))}


OURS = [
    reads([""], ["services", "pods", "serviceaccounts"]),
    reads(["discovery.k8s.io"], ["endpointslices"]),
    reads(["split.smi-spec.io", "access.smi-spec.io", "specs.smi-spec.io"], ["*"]),
]


async def test_namespaced_mode_needs_roles_in_its_namespaces_only(plane: ControlPlane) -> None:
    first, second, other = [await asyncio.to_thread(plane.new_namespace) for _ in range(3)]
    for namespace in (first, second, other):
        await create_group(plane, namespace, "routes")
    await asyncio.to_thread(grant, plane, first, "tenant", [*OURS, reads([""], ["namespaces"], "get")])
    await asyncio.to_thread(grant, plane, second, "tenant", OURS)
    mode = "smi-adapter.io/access-mode=permissive"
    for namespace in (first, second):
        await asyncio.to_thread(plane.kubectl, "annotate", "ns", namespace, mode)
    async with Follower(plane.user("tenant"), namespaces=[first, second]) as world:
        await world.synced()
        assert set(world.snapshot.route_groups) == {(first, "routes"), (second, "routes")}
        modes = {name: item.annotations for name, item in world.snapshot.namespaces.items()}
        assert modes[first]["smi-adapter.io/access-mode"] == "permissive"
        assert modes[second] == {"smi-adapter.io/access-mode": "enforce"}, "what can't be read may ask for it"
        assert not world.source.findings()
        await create_group(plane, second, "more")
        await world.until(lambda: (second, "more") in world.snapshot.route_groups)
    denied = [event for event in plane.audit_events("tenant") if event["responseStatus"].get("code") == 403]
    assert {event["requestURI"] for event in denied} == {f"/api/v1/namespaces/{second}"}


async def test_a_kind_that_may_not_be_read_is_a_finding_and_nothing_is_served(plane: ControlPlane) -> None:
    namespace = await asyncio.to_thread(plane.new_namespace)
    rules = [OURS[0], OURS[2], reads([""], ["namespaces"], "get")]
    await asyncio.to_thread(grant, plane, namespace, "narrow", rules)
    async with Follower(plane.user("narrow"), namespaces=[namespace]) as world:
        await until(lambda: "SMI0904" in {item.code for item in world.source.findings()})
        assert not world.batches
        [told] = world.source.findings()
        assert "endpointslices" in told.subject.name
        await asyncio.to_thread(grant, plane, namespace, "narrow", [*rules, OURS[1]])
        await world.synced()


async def test_one_bad_object_hurts_no_other(plane: ControlPlane) -> None:
    namespace = await asyncio.to_thread(plane.new_namespace)
    many = [{"name": f"m{number}", "pathRegex": "/" + "x" * 1000, "methods": ["GET"]} for number in range(256)]
    large = [{**item, "headers": {f"h{index}": "y" * 250 for index in range(14)}} for item in many]
    wrong = [{**ALL[0], "headers": 7}]
    deep = json.dumps(route_group(namespace, "deep", [{**ALL[0], "headers": "DEEP"}]))
    body = deep.replace('"DEEP"', '{"a":' * DEPTH + "{}" + "}" * DEPTH).encode()
    async with Follower(plane.kubeconfig) as world:
        await world.synced()
        await asyncio.to_thread(plane.raw, "POST", GROUPS.format(namespace), body)
        await create_group(plane, namespace, "large", large)
        await create_group(plane, namespace, "wrong", wrong)
        await create_group(plane, namespace, "good")
        await world.until(lambda: (namespace, "good") in world.snapshot.route_groups)
        await all_as_it_should_be(world, namespace)
    async with Follower(plane.kubeconfig) as afresh:
        await afresh.synced()
        await all_as_it_should_be(afresh, namespace)


async def all_as_it_should_be(world: Follower, namespace: str) -> None:
    here = {name for space, name in world.snapshot.route_groups if space == namespace}
    assert here == {"good", "large", "wrong"}, "of the wrong one only a match is left out"
    problems = {ref.name: found for ref, found in world.snapshot.problems.items() if ref.namespace == namespace}
    assert {name: {item.code for item in found} for name, found in problems.items()} == {
        "deep": {"SMI0505"},
        "wrong": {"SMI0505"},
    }
