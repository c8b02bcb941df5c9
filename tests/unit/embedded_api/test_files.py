"""The embedded API on a real directory: what clients and editors do to the same files, in any order."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from smi_adapter.decode import RawObject, ref_of
from smi_adapter.embedded_api.answers import RefusedError
from smi_adapter.embedded_api.deletion import Deletion
from smi_adapter.embedded_api.kinds import by_ref
from smi_adapter.embedded_api.patches import merge
from smi_adapter.embedded_api.store import Store
from smi_adapter.embedded_api.writes import Target, Writer
from smi_adapter.findings import Ref
from smi_adapter.local import FileShelf
from smi_adapter.sources.directory import DirectorySource
from smi_adapter.sources.files import read_tree
from tests.unit.embedded_api.world import split

SPLIT = ref_of(split())


class Run:
    """A directory, its store, and a writer as the server would use it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = DirectorySource(folder)
        self.store = Store()
        self.writer = Writer(self.store, FileShelf(self.source))

    async def follow(self) -> None:
        async for batch in self.source:
            self.store.take(batch)

    def target(self, kind: str, name: str, group: str = "", version: str = "v1") -> Target:
        found = by_ref(group, kind)
        assert found is not None
        return Target(found, version, "shop" if found.namespaced else "", name)

    def split(self, name: str = "web") -> Target:
        return self.target("TrafficSplit", name, "split.smi-spec.io", "v1alpha4")

    async def until(self, ref: Ref, condition: Any) -> None:
        async with asyncio.timeout(20):
            while not condition(found.raw if (found := self.store.get(ref)) else None):
                await self.store.moved()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - nobody tells when the watcher has looked
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Run]:
    run = Run(folder)
    follow = asyncio.create_task(run.follow())
    await until(lambda: run.store.synced)
    try:
        yield run
    finally:
        follow.cancel()
        await asyncio.gather(follow, return_exceptions=True)


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[Run]:
    (tmp_path / "shop.yaml").write_text("apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n")
    async with running(tmp_path) as found:
        yield found


async def test_a_write_is_answered_when_its_file_has_been_read(run: Run) -> None:
    await run.writer.create(run.split(), split())
    assert run.store.get(SPLIT) is not None
    assert (run.folder / "shop" / "trafficsplit-web.yaml").exists()
    written = await run.writer.patch(run.split(), lambda item: merge(item, {"spec": {"service": "other"}}))
    assert written.value["spec"]["service"] == "other"
    assert written.value["metadata"]["generation"] == 2
    await run.writer.delete(run.split(), Deletion())
    assert run.store.get(SPLIT) is None
    assert not (run.folder / "shop").exists()


async def test_a_namespace_can_be_deleted_right_after_files_in_it(run: Run) -> None:
    names = [f"web-{number}" for number in range(4)]
    for name in names:
        await run.writer.create(run.split(name), split(name))
    for name in names[::2]:
        (run.folder / "shop" / f"trafficsplit-{name}.yaml").unlink()
    namespace = by_ref("", "Namespace")
    assert namespace is not None
    await run.writer.delete(Target(namespace, "v1", "", "shop"), Deletion())
    await run.until(ref_of(split(names[0])), lambda raw: raw is None)
    assert run.store.refs("shop") == []
    assert list(run.folder.iterdir()) == []


async def test_an_edit_that_means_nothing_here_is_answered_too(run: Run) -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}}
    await run.writer.create(run.target("Service", "web"), service)
    await run.writer.patch(run.target("Service", "web"), lambda item: merge(item, {"spec": {"clusterIP": "10.0.0.1"}}))
    assert "10.0.0.1" in (run.folder / "shop" / "service-web.yaml").read_text()


async def test_an_object_in_a_broken_document_is_not_written(run: Run) -> None:
    await run.writer.create(run.split(), split())
    file = run.folder / "shop" / "trafficsplit-web.yaml"
    file.write_text("kind: TrafficSplit\nmetadata: [\n")
    await until(run.source.findings)
    with pytest.raises(RefusedError) as refused:
        await run.writer.patch(run.split(), lambda item: merge(item, {"spec": {"service": "other"}}))
    assert (refused.value.code, "shop/trafficsplit-web.yaml:2: " in str(refused.value)) == (403, True)
    assert file.read_text() == "kind: TrafficSplit\nmetadata: [\n"


@pytest.mark.parametrize(
    "broken",
    [
        "kind: Service\nmetadata: [\n",
        "metadata: {name: of-no-kind}\n",
        "- a list\n",
        "# \x01\n",
    ],
)
async def test_nothing_is_removed_from_a_file_in_which_something_cannot_be_read(run: Run, broken: str) -> None:
    file = run.folder / "both.yaml"
    for name in ("web", "other"):  # `other` stands in a file of its own
        await run.writer.create(run.split(name), split(name))
    (run.folder / "shop" / "trafficsplit-web.yaml").rename(file)
    await until(lambda: str(run.source.location(run.split().ref)) == "both.yaml:1")
    text = f"{file.read_text()}---\n{broken}"
    file.write_text(text)
    await until(run.source.findings)
    namespace = run.target("Namespace", "shop")
    for target in (run.split(), replace(run.split(), dry_run=True), replace(namespace, namespace="")):
        with pytest.raises(RefusedError, match=r"^both.yaml:\d+: .*; correct that first") as refused:
            await run.writer.delete(target, Deletion())
        assert refused.value.code == 403
    assert file.read_text() == text
    assert run.source.written(run.split("other").ref) is not None
    await run.writer.delete(run.split("other"), Deletion())

    file.write_text(text.replace(broken, ""))
    await until(lambda: not run.source.findings())
    await run.writer.delete(run.split(), Deletion())
    assert not file.exists()


async def test_a_document_that_can_be_read_is_changed_beside_one_that_cannot(run: Run) -> None:
    await run.writer.create(run.split(), split())
    file = run.folder / "shop" / "trafficsplit-web.yaml"
    file.write_text(f"{file.read_text()}---\nmetadata: [\n")
    await until(run.source.findings)
    await run.writer.patch(run.split(), lambda item: merge(item, {"spec": {"service": "changed"}}))
    assert "service: changed" in file.read_text()
    assert file.read_text().endswith("---\nmetadata: [\n")


async def test_an_editor_that_was_faster_is_a_conflict_and_nothing_is_lost(run: Run) -> None:
    await run.writer.create(run.split(), split())
    file = run.folder / "shop" / "trafficsplit-web.yaml"
    file.write_text(file.read_text().replace("weight: 1", "weight: 5"))  # nobody has read it yet
    with pytest.raises(RefusedError) as refused:
        await run.writer.patch(run.split(), lambda item: merge(item, {"spec": {"service": "other"}}))
    assert (refused.value.code, refused.value.reason) == (409, "Conflict")
    assert "weight: 5" in file.read_text()


async def test_a_pod_of_a_file_keeps_what_was_computed_for_it_out_of_the_file(run: Run) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "app"}]}}
    await run.writer.create(run.target("Pod", "p"), pod)
    file = run.folder / "shop" / "pod-p.yaml"
    await run.writer.patch(run.target("Pod", "p"), lambda item: merge(item, {"metadata": {"labels": {"a": "b"}}}))
    assert yaml.safe_load(file.read_text())["metadata"] == {"name": "p", "namespace": "shop", "labels": {"a": "b"}}
    assert "status" not in file.read_text()


def splits(objects: Mapping[Ref, RawObject]) -> dict[Ref, str]:
    return {ref: json.dumps(raw, sort_keys=True) for ref, raw in objects.items() if ref.kind == "TrafficSplit"}


async def step(run: Run, draw: random.Random, weight: int) -> None:
    """Do one thing as a client or with an editor."""
    target = run.split(draw.choice("abc"))
    backends = [{"service": "v1", "weight": weight}, {"service": "v2", "weight": 1}][: draw.randint(1, 2)]
    there = run.store.get(target.ref) is not None
    match draw.choice(["create", "patch", "apply", "delete", "comment", "weight"]):
        case "create" if not there:
            await run.writer.create(target, split(target.name, weight))
        case "patch" if there:
            await run.writer.patch(target, lambda item: merge(item, {"spec": {"backends": backends}}))
        case "apply":
            raw = {**split(target.name), "spec": {"service": "web", "backends": backends}}
            await run.writer.apply(replace(target, who="me", force=True), raw)
        case "delete" if there:
            await run.writer.delete(target, Deletion())
        case "comment" | "weight" as what:
            path = draw.choice(sorted(run.folder.rglob("*.yaml")))
            text = path.read_text()
            by_hand = re.sub(r"weight: \d+", f"weight: {weight}", text, count=1)
            path.write_text(by_hand if what == "weight" else f"{text}\n# by hand\n")


@pytest.mark.parametrize("seed", range(4))
async def test_any_history_of_clients_and_editors_leaves_both_with_the_same_objects(run: Run, seed: int) -> None:
    draw = random.Random(seed)
    documents = "".join(f"---\n# {name}\n{yaml.safe_dump(split(name))}" for name in "abc")
    (run.folder / "many.yaml").write_text(f"# All of them.\n{documents}")
    await run.until(ref_of(split("c")), lambda raw: raw is not None)
    refused = 0
    for weight in range(2, 40):
        try:
            await step(run, draw, weight)
        except RefusedError as error:
            if error.reason != "Conflict":
                raise
            refused += 1
    assert refused < 15
    there = splits(read_tree(run.folder).objects)
    await until(lambda: splits({ref: one.raw for ref, one in run.store.everything().items()}) == there)
    assert not run.source.findings()
