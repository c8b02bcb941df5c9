"""Which kinds are served, in which version each is read, and what deletions mean when a CRD goes."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import pytest

from smi_adapter.cluster import discovery
from smi_adapter.cluster.client import ApiError, Unreachable
from smi_adapter.cluster.grace import Grace
from smi_adapter.findings import Ref

SPLIT = "split.smi-spec.io"
ALL = ("create", "delete", "get", "list", "patch", "update", "watch")


class Documents:
    """An API server that has nothing but discovery documents."""

    def __init__(self) -> None:
        self.groups: dict[str, dict[str, list[dict[str, Any]]]] = {}
        self.error: Exception | None = None

    def serve(self, *versions: str, stored: str = "", verbs: tuple[str, ...] = ALL, status: bool = True) -> None:
        hashed = hashlib.sha256(f"{SPLIT}/{stored}/TrafficSplit".encode()).digest()[:8]
        item = {
            "name": "trafficsplits",
            "kind": "TrafficSplit",
            "namespaced": True,
            "verbs": list(verbs),
            "storageVersionHash": base64.b64encode(hashed).decode(),
        }
        extra = [{"name": "trafficsplits/status", "kind": "TrafficSplit", "verbs": ["patch"]}] if status else []
        self.groups[SPLIT] = {version: [item, *extra] for version in versions}

    async def request(
        self,
        method: str,  # noqa: ARG002
        path: str,
        *,
        query: Mapping[str, str] | None = None,  # noqa: ARG002
        timeout: float = 10.0,  # noqa: ARG002, ASYNC109
    ) -> bytes:
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        if path == "/apis":
            groups = [
                {"name": name, "versions": [{"version": v} for v in found]} for name, found in self.groups.items()
            ]
            return json.dumps({"groups": [*groups, {"name": "apps", "versions": [{"version": "v1"}]}]}).encode()
        _, _, group, version = path.split("/")
        if version not in self.groups.get(group, {}):
            raise ApiError(404, "NotFound")
        return json.dumps({"resources": self.groups[group][version]}).encode()


async def test_a_cluster_without_smi_serves_nothing_and_that_is_no_error() -> None:
    survey = await discovery.look(Documents())
    assert not survey.kinds
    assert not survey.findings


@pytest.mark.parametrize(
    ("versions", "stored", "read"),
    [
        (("v1alpha1", "v1alpha2", "v1alpha3", "v1alpha4"), "v1alpha2", "v1alpha2"),
        (("v1alpha2", "v1alpha1"), "", "v1alpha2"),
        (("v1alpha3",), "v1beta1", "v1alpha3"),
        (("v1alpha4", "v1"), "v1", "v1alpha4"),
    ],
)
async def test_the_stored_version_is_read_or_else_the_newest_known(
    versions: tuple[str, ...], stored: str, read: str
) -> None:
    api = Documents()
    api.serve(*versions, stored=stored)
    [served] = (await discovery.look(api)).kinds.values()
    assert served.resource.version == read
    assert served.versions == tuple(sorted(versions))


async def test_a_kind_in_unknown_versions_alone_is_a_finding() -> None:
    api = Documents()
    api.serve("v2")
    survey = await discovery.look(api)
    assert not survey.kinds
    assert [(item.code, item.subject.name) for item in survey.findings] == [
        ("SMI0501", "trafficsplits.split.smi-spec.io")
    ]


async def test_a_crd_without_status_is_a_finding() -> None:
    api = Documents()
    api.serve("v1alpha3", status=False)
    survey = await discovery.look(api)
    assert not survey.kinds[SPLIT, "TrafficSplit"].status
    assert [item.code for item in survey.findings] == ["SMI0502"]


async def test_a_crd_that_is_being_deleted_is_seen_by_its_verbs() -> None:
    api = Documents()
    api.serve("v1alpha4", verbs=("delete", "deletecollection", "get", "list", "watch"))
    [served] = (await discovery.look(api)).kinds.values()
    assert served.ending
    assert not await discovery.lasts(api, served.resource)


async def test_an_answer_that_is_no_document_is_unreachable() -> None:
    class Proxy(Documents):
        async def request(self, *_: object, **__: object) -> bytes:
            return b"<html>"

    with pytest.raises(Unreachable):
        await discovery.look(Proxy())


class Held:
    """A Grace with what it believed."""

    def __init__(self, api: Documents, seconds: float) -> None:
        self.believed: list[Ref] = []
        self.grace = Grace(api, self.believed.extend, seconds)
        self.task = asyncio.create_task(self.grace.run())

    async def turns(self, seconds: float = 0.05) -> list[Ref]:
        await asyncio.sleep(seconds)
        return self.believed

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


REF = Ref("TrafficSplit", "shop", "api", SPLIT)


@pytest.mark.parametrize("trouble", [None, Unreachable("down")])
async def test_a_deletion_is_believed_while_its_kind_lasts_or_nobody_knows(trouble: Exception | None) -> None:
    api = Documents()
    api.serve("v1alpha4")
    [served] = (await discovery.look(api)).kinds.values()
    api.error = trouble
    held = Held(api, 60.0)
    held.grace.deleted(REF, served.resource)
    assert await held.turns() == [REF]
    await held.end()


async def test_a_deletion_with_its_kind_is_believed_after_the_grace_once() -> None:
    api = Documents()
    api.serve("v1alpha4")
    [served] = (await discovery.look(api)).kinds.values()
    api.groups.clear()
    held = Held(api, 0.2)
    held.grace.deleted(REF, served.resource)
    held.grace.vanished([REF])
    assert await held.turns() == []
    assert await held.turns(0.4) == [REF]
    await held.end()


async def test_an_object_that_returns_within_the_grace_never_went() -> None:
    held = Held(Documents(), 0.1)
    held.grace.vanished([REF])
    held.grace.returned(REF)
    assert await held.turns(0.3) == []
    await held.end()
