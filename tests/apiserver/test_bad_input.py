"""F17 to F19, F24 and F25 in a whole controller: real API server, real Envoy, and traffic all the while.

The CRDs are as others ship them, without validation, so that whatever is an object gets in.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from smi_adapter.cluster.client import Client
from smi_adapter.evaluate import Request
from smi_adapter.smi.objects import ACCESS_GROUP, SPECS_GROUP, SPLIT_GROUP
from tests.apiserver.test_status_faults import FIELDS, REASONS, bad, permissive
from tests.cluster.control_plane import ControlPlane
from tests.cluster.mesh import Mesh, until
from tests.cluster.stand import Stand, conditions, shop, stand
from tests.live.apps import http_app

pytestmark = pytest.mark.live

CORPUS = Path(__file__).parents[1] / "regex_corpus.yaml"
HOSTILE = ("\n", "\r\nx-evil: 1", '"', "a\x00b", "\u202egnp", "é", "%s${x}{{.}}", "\ufffd", "x\ty", "😀" * 300)
MANY = int(os.environ.get("SMI_F17_OBJECTS", "1000"))
"""Ten thousand is the row; a busy machine needs many minutes to create these."""
ROOTS = max(1, MANY // 50)
"""Services whose splits are good, with some matches each."""


@pytest.fixture(scope="module")
def lax(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Start an API server with CRDs that validate nothing."""
    with ControlPlane(tmp_path_factory.mktemp("lax")) as plane:
        plane.apply(*permissive())
        yield plane


@pytest.fixture
def mesh(lax: ControlPlane, tmp_path: Path) -> Mesh:
    made = Mesh(lax, lax.new_namespace(), tmp_path)
    shop(made)
    return made


def smi(group: str, kind: str, name: str, spec: object) -> dict[str, Any]:
    version = "v1alpha3" if kind == "TrafficTarget" else "v1alpha4"
    return {"apiVersion": f"{group}/{version}", "kind": kind, "metadata": {"name": name}, "spec": spec}


def group(name: str, matches: object) -> dict[str, Any]:
    return smi(SPECS_GROUP, "HTTPRouteGroup", name, {"matches": matches})


def path_of(mesh: Mesh, kind: str, name: str = "") -> str:
    version = {
        "TrafficSplit": f"{SPLIT_GROUP}/v1alpha4",
        "HTTPRouteGroup": f"{SPECS_GROUP}/v1alpha4",
        "TrafficTarget": f"{ACCESS_GROUP}/v1alpha3",
    }[kind]
    return f"/apis/{version}/namespaces/{mesh.namespace}/{kind.lower()}s" + (f"/{name}" if name else "")


async def create(mesh: Mesh, *objects: dict[str, Any]) -> None:
    """Create objects side by side; kubectl would need minutes for thousands."""
    client = await Client.connect(str(mesh.plane.kubeconfig))
    slots = asyncio.Semaphore(16)

    async def post(body: dict[str, Any]) -> None:
        async with slots:
            await client.request("POST", path_of(mesh, body["kind"]), body=body, timeout=60.0)

    try:
        await asyncio.gather(*(post(body) for body in objects))
    finally:
        await client.close()


async def accepted(mesh: Mesh, kind: str, name: str) -> tuple[str, str, str]:
    """Return status, reason and message of an object's condition Accepted."""
    found = (await conditions(mesh, path_of(mesh, kind, name)))["Accepted"]
    return found["status"], found["reason"], found["message"]


def callers(made: Stand, path: str = "/") -> str:
    """Return what becomes of a request of the client to the shop; its pods have no proxy, so nothing is denied."""
    account = f"spiffe://cluster.local/ns/{made.mesh.namespace}/sa/web"
    return made.verdict(Request(account, (made.mesh.namespace, "shop"), 80, path=path)).access


@pytest.mark.slow
async def test_f17_of_thousands_of_objects_every_bad_one_is_told_and_no_good_one_is_hurt(
    own_api_server: ControlPlane, tmp_path: Path
) -> None:
    """The API server says when it stored each status, so that looking for them costs the controller nothing."""
    plane = own_api_server
    await asyncio.to_thread(plane.apply, *permissive())
    mesh = Mesh(plane, plane.new_namespace(), tmp_path)
    shop(mesh)
    bads = [bad(mesh.namespace, number) for number in range(MANY * 3 // 10)]
    goods = [usable(number) for number in range(MANY - len(bads))]
    for number in range(ROOTS):
        mesh.service(root(number), "shop-v1", selector={"app": "shop"})
    await create(mesh, *bads, *goods)
    began, used, idle = time.time(), time.process_time(), memory()
    async with stand(mesh, root(0)) as made:
        first = time.time() - began
        async with asyncio.timeout(600):
            while left := await asyncio.to_thread(untold, mesh, MANY + 1):  # noqa: ASYNC110 - the API has no such event
                await asyncio.sleep(left / 200)  # fewer looks while there is much to do
        told = {(item["kind"], item["metadata"]["name"]): item for item in await asyncio.to_thread(list, stored(mesh))}
        ours = [seconds(item) - began for (_, name), item in told.items() if name.startswith("bad")]
        others = [seconds(item) - began for (_, name), item in told.items() if name.startswith("good")]
        print(  # noqa: T201
            f"{MANY} objects: traffic after {first:.0f} s, {len(ours)} bad ones told by {max(ours):.0f} s, "
            f"{len(others)} good ones in force by {max(others):.0f} s, {time.process_time() - used:.0f} CPU-seconds, "
            f"{memory() - idle:.0f} MB over {idle:.0f} MB of the test"
        )
        for (_, name), item in told.items():
            by_type = {one["type"]: one for one in item["status"]["conditions"]}
            if name.startswith("bad"):
                kind = int(name[3:]) % 3
                assert (by_type["Accepted"]["status"], by_type["Accepted"]["reason"]) == ("False", REASONS[kind]), item
                assert FIELDS[kind] in by_type["Accepted"]["message"]
            else:
                assert [by_type[one]["status"] for one in ("Accepted", "Programmed")] == ["True", "True"], item
        assert (await made.proxy.get(root(0), "/good/0/x")).app == "v2", "a good split is in force"
        assert (await made.proxy.get(root(0), "/else")).app == "v1"
        await made.still_obeys()
        await made.holds(120.0)


def root(number: int) -> str:
    return f"root-{number % ROOTS}"


def usable(number: int) -> dict[str, Any]:
    """Return an object that can be used: by turns a split of some path, and the group that says which."""
    pair = number // 2
    if number % 2 == 0:
        return group(f"good{pair}", [{"name": "it", "pathRegex": f"/good/{pair}/.*", "methods": ["*"]}])
    matches = [{"kind": "HTTPRouteGroup", "name": f"good{pair}"}]
    spec = {"service": root(pair), "backends": [{"service": "shop-v2", "weight": 1}], "matches": matches}
    return smi(SPLIT_GROUP, "TrafficSplit", f"good{pair}", spec)


def stored(mesh: Mesh) -> Iterator[dict[str, Any]]:
    """Return what the API server holds of SMI."""
    for kind in ("TrafficSplit", "HTTPRouteGroup", "TrafficTarget"):
        for item in mesh.plane.get(path_of(mesh, kind))["items"]:
            yield {"kind": kind, **item}


def untold(mesh: Mesh, wanted: int) -> int:
    """Return of how many nothing, or not the last word, is told: a good one waits for its proxies."""
    found = [item.get("status", {}).get("conditions", ()) for item in stored(mesh)]
    assert len(found) == wanted
    return sum(
        not any(one["type"] == "Accepted" and one["status"] == "False" for one in conditions)
        and not any(one["type"] == "Programmed" and one["status"] == "True" for one in conditions)
        for conditions in found
    )


def seconds(item: Mapping[str, Any]) -> float:
    """Return when the API server stored an object's status last."""
    times = [entry["time"] for entry in item["metadata"]["managedFields"] if entry.get("subresource") == "status"]
    return max(datetime.fromisoformat(each).timestamp() for each in times)


def memory() -> float:
    """Return this process's resident memory in MB."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


async def test_f18_a_pattern_that_envoy_would_refuse_hurts_nothing_beside_it(mesh: Mesh) -> None:
    rows = [(row["pattern"] * row.get("times", 1), row["verdict"]) for row in yaml.safe_load(CORPUS.read_text("utf-8"))]
    rows = [(text, verdict) for text, verdict in rows if not any("\ud800" <= each <= "\udfff" for each in text)]
    usable = [text for text, verdict in rows if verdict == "valid"]
    refused = [text for text, verdict in rows if verdict != "valid"]
    assert len(usable) > 50 < len(refused)
    names = {f"bad-{number}": text for number, text in enumerate(refused)}
    valid = [{"name": f"m{number}", "pathRegex": text} for number, text in enumerate(usable)]
    async with stand(mesh) as made:
        await create(
            mesh,
            group("usable", [*valid, {"name": "last", "pathRegex": "/only-here"}]),
            *(group(name, [{"name": "it", "pathRegex": text}]) for name, text in names.items()),
        )
        matches = [{"kind": "HTTPRouteGroup", "name": name} for name in ("usable", *names)]
        backends = [{"service": "shop-v2", "weight": 1}]
        spec = {"service": "shop", "backends": backends, "matches": matches}
        await create(mesh, smi(SPLIT_GROUP, "TrafficSplit", "by-path", spec))
        for name, text in names.items():
            status, reason, message = await accepted(mesh, "HTTPRouteGroup", name)
            assert (status, reason, "spec.matches[0].pathRegex" in message) == ("False", "InvalidRegex", True), text
        assert (await accepted(mesh, "HTTPRouteGroup", "usable"))[0] == "True"
        async with asyncio.timeout(60):
            while (await made.proxy.get("shop", "/only-here")).app != "v2":  # noqa: ASYNC110 - traffic has no event
                await asyncio.sleep(0.05)
        await made.holds()


@pytest.mark.slow
async def test_f19_huge_and_deep_objects_are_told_or_served_and_stop_nothing(mesh: Mesh) -> None:
    many = [{"name": f"m{number}", "pathRegex": f"/{number}/{'x' * 40}"} for number in range(10_000)]
    huge = (
        group("many", many),
        group("long", [{"name": "long", "pathRegex": "/" + "a" * 1_400_000}]),
        group("deep", [{"name": "deep", "pathRegex": "DEEP"}]),
        group("number", [{"name": "number", "pathRegex": "/a", "methods": [10**18]}]),
        smi(ACCESS_GROUP, "TrafficTarget", "wide", target(mesh, [f"caller-{number}" for number in range(10_000)])),
    )
    mesh.service("wide")
    mesh.split("wide", {"shop-v1": 1})
    async with stand(mesh, "wide") as made:
        for body in huge:  # as text: no client would write that depth
            text = json.dumps(body).replace('"DEEP"', '{"a": ' * 2000 + "1" + "}" * 2000)
            await asyncio.to_thread(mesh.plane.raw, "POST", path_of(mesh, body["kind"]), text.encode())
        for kind, name in (
            ("HTTPRouteGroup", "many"),
            ("HTTPRouteGroup", "long"),
            ("HTTPRouteGroup", "deep"),
            ("HTTPRouteGroup", "number"),
            ("TrafficTarget", "wide"),
        ):
            status, reason, message = await accepted(mesh, kind, name)
            assert status == "False", (name, reason, message)
            assert len(message) < 33_000
        await made.still_obeys()
        await asyncio.to_thread(endpoints, mesh, 50_000)
        await until(lambda: len(wide(made)) == 50_000, 120.0)
        await asyncio.to_thread(mesh.split, "wide", {"shop-v2": 1})
        await made.proxy.until("wide", "v2", 120.0)
        await made.still_obeys()
        await made.holds(120.0)


def target(mesh: Mesh, sources: Sequence[str]) -> dict[str, Any]:
    account = {"kind": "ServiceAccount", "namespace": mesh.namespace}
    return {
        "destination": {**account, "name": "default"},
        "rules": [{"kind": "HTTPRouteGroup", "name": "many"}],
        "sources": [{**account, "name": name} for name in sources],
    }


def endpoints(mesh: Mesh, count: int) -> None:
    """Give the Service `wide` so many endpoints, a thousand in a slice: more the API server refuses."""
    for first in range(0, count, 1000):
        ready = {"ready": True}
        found = [
            {"addresses": [f"10.200.{number // 250}.{number % 250}"], "conditions": ready}
            for number in range(first, first + 1000)
        ]
        mesh.plane.request(
            "POST",
            f"/apis/discovery.k8s.io/v1/namespaces/{mesh.namespace}/endpointslices",
            {
                "metadata": {"name": f"wide-{first}", "labels": {"kubernetes.io/service-name": "wide"}},
                "addressType": "IPv4",
                "endpoints": found,
                "ports": [{"name": "http", "port": 8080}],
            },
        )


def wide(made: Stand) -> Sequence[object]:
    assert made.running.compiled is not None
    service = made.running.compiled.supported.mesh.services.get((made.mesh.namespace, "wide"))
    return service.ports[0].endpoints if service is not None else ()


async def test_f24_names_that_look_alike_are_never_taken_for_each_other(mesh: Mesh, tmp_path: Path) -> None:
    """`x/b-shop` and `x-b/shop` are one text if they are joined carelessly; and each namespace has its `shop`."""
    plane = mesh.plane
    other = Mesh(plane, plane.new_namespace(f"{mesh.namespace}-b"), tmp_path)
    other.pod("shop-v3", "default", {"version": "v3"}, meshed=False)
    for name in ("shop", "shop-v3"):
        other.service(name, "shop-v3", selector={"version": "v3"})
    mesh.service("b-shop", "shop-v1", selector={"app": "shop"})
    other.account("web")
    other.pod("web-1", "web", {"app": "web"})
    async with stand(mesh, "b-shop") as made, http_app("v3", other.addresses["shop-v3"], 8080):
        await asyncio.to_thread(mesh.split, "b-shop", {"shop-v2": 1})
        await asyncio.to_thread(other.split, "shop", {"shop-v3": 1})
        await made.proxy.until("b-shop", "v2", 60.0)
        await made.proxy.until("shop", "v1", 60.0)
        later = smi(
            SPLIT_GROUP, "TrafficSplit", "zzz", {"service": "shop", "backends": [{"service": "shop-v2", "weight": 1}]}
        )
        await asyncio.sleep(1.1)  # the older of two splits wins, and their age is in whole seconds
        await create(mesh, later)
        found = await conditions(mesh, path_of(mesh, "TrafficSplit", "zzz"))
        assert (found["Conflicted"]["status"], "shop" in found["Conflicted"]["message"]) == ("True", True)
        await made.proxy.until("shop", "v1", 60.0)
        assert made.running.compiled is not None
        parts = made.running.compiled.rendered.parts  # type: ignore[union-attr]
        assert {("routes", mesh.namespace, "b-shop"), ("routes", other.namespace, "shop")} <= parts.keys()
        await asyncio.to_thread(plane.kubectl, "delete", "trafficsplit", "shop", "-n", other.namespace)
        await made.proxy.until("b-shop", "v2", 60.0)
        await made.holds()


async def test_f25_whatever_text_stands_in_a_field_it_is_told_in_one_line_and_harms_nobody(
    mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    async with stand(mesh) as made:
        caplog.set_level("INFO")
        caplog.clear()
        objects = [item for number, text in enumerate(HOSTILE) for item in hostile(mesh, number, text)]
        await create(mesh, *objects)
        for item in objects:
            name = item["metadata"]["name"]
            found = await conditions(mesh, path_of(mesh, item["kind"], name))
            assert all(one["message"].isprintable() for one in found.values()), found
        await made.still_obeys()
        assert not [record for record in caplog.records if not record.getMessage().isprintable()]
        assert made.running.compiled is not None
        granted = [
            rule
            for workload in made.running.compiled.supported.mesh.workloads.values()
            for port in workload.ports
            for rule in port.rules
        ]
        assert not granted, "none of them names anybody"
        await made.holds()


def hostile(mesh: Mesh, number: int, text: str) -> Iterator[dict[str, Any]]:
    """Yield objects with a text in every field that takes one."""
    account = {"kind": "ServiceAccount", "namespace": mesh.namespace}
    rules = [{"kind": "HTTPRouteGroup", "name": f"a{number}"}]
    sources = [{**account, "name": "web"}]
    matches = {
        "a": {"name": text, "pathRegex": "/a"},
        "b": {"name": "b", "pathRegex": text},
        "c": {"name": "c", "headers": {text: "a"}},
        "d": {"name": "d", "headers": {"x-a": text}},
        "e": {"name": "e", "methods": [text]},
    }
    for letter, match in matches.items():
        yield group(f"{letter}{number}", [match])
    backends = [{"service": "shop-v2", "weight": 1}]
    refs = [{"kind": "HTTPRouteGroup", "name": f"{letter}{number}"} for letter in matches]
    named = [{"kind": text, "name": "a"}, {"kind": "HTTPRouteGroup", "name": text}]
    splits = {
        "service": {"service": text, "backends": backends},
        "backend": {"service": "shop", "backends": [{"service": text, "weight": 1}, *backends], "matches": refs},
        "matches": {"service": "shop", "backends": backends, "matches": named},
        "weight": {"service": "shop-v1", "backends": [{"service": "shop-v2", "weight": text}]},
    }
    for name, spec in splits.items():
        yield smi(SPLIT_GROUP, "TrafficSplit", f"{name}-{number}", spec)
    web = {**account, "name": "web"}
    targets: dict[str, dict[str, Any]] = {
        "source": {"destination": web, "rules": rules, "sources": [{**account, "name": text}]},
        "space": {"destination": web, "rules": rules, "sources": [{**web, "namespace": text}]},
        "goal": {"destination": {**account, "name": text}, "rules": rules, "sources": sources},
        "kind": {"destination": {**web, "kind": text}, "rules": rules, "sources": sources},
        "rule": {"destination": web, "rules": [{"kind": "HTTPRouteGroup", "name": text}], "sources": sources},
        "match": {"destination": web, "rules": [{**rules[0], "matches": [text + "?"]}], "sources": sources},
    }
    for name, spec in targets.items():
        yield smi(ACCESS_GROUP, "TrafficTarget", f"{name}-{number}", spec)
