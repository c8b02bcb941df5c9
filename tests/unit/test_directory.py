"""The directory source: what leaves it after an edit, and what an edit in the making must never do."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

import pytest
from watchfiles._rust_notify import WatchfilesRustInternalError

from smi_adapter.findings import Ref
from smi_adapter.sources import Batch, Location, Source, directory, files
from smi_adapter.sources.directory import DirectorySource, claim_network
from smi_adapter.sources.files import HAVE_LEASES

PATIENCE = 10.0

SPLIT = """
apiVersion: split.smi-spec.io/v1alpha2
kind: TrafficSplit
metadata: {name: web, namespace: shop}
spec: {service: web, backends: [{service: v1, weight: %d}]}
"""
DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec: {template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web, ports: [{containerPort: 80}]}]}}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80}]}
"""
SPLIT_REF = Ref("TrafficSplit", "shop", "web", "split.smi-spec.io")
SLICE_REF = Ref("EndpointSlice", "shop", "web-local-0", "discovery.k8s.io")
POD_REF = Ref("Pod", "shop", "web-0")


class Reader:
    """Reads batches with a deadline."""

    def __init__(self, source: DirectorySource, batches: AsyncIterator[Batch]) -> None:
        self.source = source
        self._batches = batches
        self._waiting: asyncio.Task[Batch] | None = None

    def _next(self) -> asyncio.Task[Batch]:
        if self._waiting is None:
            self._waiting = asyncio.ensure_future(anext(self._batches))
        return self._waiting

    async def next(self) -> Batch:
        batch = await asyncio.wait_for(asyncio.shield(self._next()), PATIENCE)
        self._waiting = None
        return batch

    async def until(self, ref: Ref, test: Any) -> Batch:
        """Return the first batch that holds such a form of an object."""
        while True:
            batch = await self.next()
            if ref in batch and test(batch[ref]):
                return batch

    async def silent(self, seconds: float) -> bool:
        done, _ = await asyncio.wait([self._next()], timeout=seconds)
        return not done

    async def stop(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            await asyncio.gather(self._waiting, return_exceptions=True)


@asynccontextmanager
async def reading(path: Path) -> AsyncIterator[Reader]:
    source = DirectorySource(path)
    protocol: Source = source
    batches = aiter(protocol)
    reader = Reader(source, batches)
    try:
        yield reader
    finally:
        await reader.stop()
        await batches.aclose()  # type: ignore[attr-defined]


def weight(raw: Any) -> Any:
    return raw["spec"]["backends"][0]["weight"]


async def test_the_first_batch_is_everything_and_the_next_only_what_changed(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(DEPLOYMENT)
    (tmp_path / "b.yaml").write_text(SPLIT % 1)
    async with reading(tmp_path) as reader:
        assert {ref.kind for ref in await reader.next()} == {
            "Deployment",
            "EndpointSlice",
            "Pod",
            "Service",
            "ServiceAccount",
            "TrafficSplit",
        }
        (tmp_path / "b.yaml").write_text(SPLIT % 2)
        batch = await reader.next()
        assert set(batch) == {SPLIT_REF}
        assert weight(batch[SPLIT_REF]) == 2
        assert reader.source.location(SPLIT_REF, "spec.service") == Location("b.yaml", 5)
        assert reader.source.location(POD_REF) == Location("a.yaml", 2)


async def test_an_empty_directory_is_a_full_sync_of_nothing(tmp_path: Path) -> None:
    async with reading(tmp_path) as reader:
        assert await reader.next() == {}
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "a.yaml").write_text(SPLIT % 1)
        assert set(await reader.next()) == {SPLIT_REF}


async def test_a_path_that_does_not_exist_is_an_error_at_once(tmp_path: Path) -> None:
    async with reading(tmp_path / "nowhere") as reader:
        with pytest.raises(FileNotFoundError, match="nowhere"):
            await reader.next()


async def test_one_file_can_be_the_source(tmp_path: Path) -> None:
    path = tmp_path / "manifest"
    path.write_text(SPLIT % 1)
    (tmp_path / "other.yaml").write_text(DEPLOYMENT)
    async with reading(path) as reader:
        assert set(await reader.next()) == {SPLIT_REF}
        path.write_text(SPLIT % 2)
        assert set(await reader.next()) == {SPLIT_REF}


async def test_what_comes_and_goes_beside_the_one_file_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(SPLIT % 1)
    async with reading(path) as reader:
        await reader.next()
        for number in range(2, 5):
            (tmp_path / f".a.yaml.{number}.swp").write_text("x")
            (tmp_path / f"b{number}.yaml").write_text(DEPLOYMENT)
            assert await reader.silent(0.05)
            path.write_text(SPLIT % number)
            batch = await reader.next()
            assert set(batch) == {SPLIT_REF}
            assert weight(batch[SPLIT_REF]) == number


async def test_an_edit_of_a_service_brings_its_slices_along(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(DEPLOYMENT)
    async with reading(tmp_path) as reader:
        await reader.next()
        path.write_text(DEPLOYMENT.replace("[{port: 80}]", "[{port: 81, name: x, targetPort: 80}]"))
        assert set(await reader.next()) == {Ref("Service", "shop", "web"), SLICE_REF}


async def test_readiness_reaches_the_pods_and_their_slices_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(DEPLOYMENT + "---" + SPLIT % 1)
    async with reading(tmp_path) as reader:
        await reader.next()
        reader.source.set_ready({})
        batch = await reader.next()
        assert set(batch) == {POD_REF, SLICE_REF}
        reader.source.set_ready({("shop", "web-0"): True})
        slices = (await reader.next())[SLICE_REF]
        assert slices is not None
        assert slices["endpoints"][0]["conditions"] == {"ready": True}
        reader.source.set_ready({("shop", "web-0"): True})
        assert await reader.silent(0.1)


async def test_a_reader_that_is_cancelled_at_the_moment_of_a_change_ends(tmp_path: Path) -> None:
    source = DirectorySource(tmp_path)
    begun = asyncio.Event()

    async def read() -> None:
        async for _ in source:
            begun.set()

    task = asyncio.create_task(read())
    await begun.wait()
    await asyncio.sleep(0)
    source.set_ready({("shop", "web-0"): True})
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=PATIENCE)
    assert done == {task}


async def test_f38_without_a_watcher_changes_are_found_by_looking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def used_up(*_: Any, **__: Any) -> Any:
        raise WatchfilesRustInternalError("Too many open files (os error 24)")

    monkeypatch.setattr("smi_adapter.sources.directory.awatch", used_up)
    path = tmp_path / "a.yaml"
    path.write_text(SPLIT % 1)
    async with reading(tmp_path) as reader:
        await reader.next()
        path.write_text(SPLIT % 2)
        assert weight((await reader.next())[SPLIT_REF]) == 2


def _moved(path: Path) -> None:
    path.rename(path.with_name("old"))
    path.with_name("second").rename(path)


def _turned(path: Path) -> None:
    path.with_name("turned").symlink_to(path.with_name("second"))
    path.with_name("turned").replace(path)


def _made_again(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()
    (path / "a.yaml").write_text(SPLIT % 2)


@pytest.mark.parametrize("put", [_moved, _turned, _made_again])
async def test_another_folder_in_place_of_the_watched_one_is_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, put: Callable[[Path], None]
) -> None:
    """A checkout that is put in place whole, or a link that turns, as git-sync and mounted ConfigMaps do it."""
    monkeypatch.setattr(directory, "RESCAN", 0.2)
    first, path = tmp_path / "first", tmp_path / "path"
    for folder, number in ((first, 1), (tmp_path / "second", 2)):
        folder.mkdir()
        (folder / "a.yaml").write_text(SPLIT % number)
    if put is _turned:
        path.symlink_to(first)
    else:
        first.rename(path)
    async with reading(path) as reader:
        assert weight((await reader.next())[SPLIT_REF]) == 1
        await asyncio.sleep(0.1)  # the watch stands
        put(path)
        await reader.until(SPLIT_REF, lambda raw: raw is not None and weight(raw) == 2)
        await asyncio.sleep(0.5)
        monkeypatch.setattr(directory, "RESCAN", 1000.0)
        await asyncio.sleep(0.3)  # the look that was due by then is over: what comes now is told, or never found
        (path / "a.yaml").write_text(SPLIT % 3)
        assert weight((await reader.next())[SPLIT_REF]) == 3


async def test_a_broken_file_is_said_in_an_empty_batch_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(SPLIT % 1)
    async with reading(tmp_path) as reader:
        await reader.next()
        path.write_text((SPLIT % 2)[:-5])
        assert await reader.next() == {}
        assert [item.code for item in reader.source.findings()] == ["SMI0507"]
        path.write_text(SPLIT % 3)
        assert weight((await reader.next())[SPLIT_REF]) == 3
        assert reader.source.findings() == ()


async def test_saving_without_a_change_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(SPLIT % 1)
    async with reading(tmp_path) as reader:
        await reader.next()
        path.write_text(f"# a comment\n{SPLIT % 1}")
        (tmp_path / ".a.yaml.swp").write_text("x")
        assert await reader.silent(0.2)
        assert reader.source.location(SPLIT_REF) == Location("a.yaml", 3)


async def test_a_removed_file_takes_its_objects_with_it(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(SPLIT % 1)
    async with reading(tmp_path) as reader:
        await reader.next()
        (tmp_path / "a.yaml").unlink()
        assert await reader.next() == {SPLIT_REF: None}


async def test_a_folder_that_comes_and_goes_brings_and_takes_its_objects(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text(DEPLOYMENT)
    async with reading(tmp_path) as reader:
        await reader.next()
        made = tmp_path.with_name("made")
        made.mkdir()
        (made / "a.yaml").write_text(SPLIT % 1)
        made.rename(tmp_path / "inside")
        await reader.until(SPLIT_REF, lambda raw: raw is not None)
        (tmp_path / "inside").rename(made)
        await reader.until(SPLIT_REF, lambda raw: raw is None)


async def test_news_of_a_file_needs_no_look_at_all_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other.yaml").write_text(DEPLOYMENT)
    path, fresh = tmp_path / "a.yaml", tmp_path.with_name("fresh")
    async with reading(tmp_path) as reader:
        await reader.next()
        path.write_text(SPLIT % 1)
        await reader.until(SPLIT_REF, lambda raw: raw is not None)  # the first news: the watch stands

        def never(_root: Path) -> files.Listing:
            raise AssertionError

        monkeypatch.setattr(directory, "RESCAN", 1000.0)
        monkeypatch.setattr(files, "listing", never)
        path.write_text(SPLIT % 2)
        await reader.until(SPLIT_REF, lambda raw: raw is not None and weight(raw) == 2)
        path.unlink()
        await reader.until(SPLIT_REF, lambda raw: raw is None)
        fresh.write_text(SPLIT % 3)
        fresh.rename(path)
        await reader.until(SPLIT_REF, lambda raw: raw is not None and weight(raw) == 3)


async def test_many_new_files_beside_many_old_ones_are_not_compared_with_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, number in (("a", 300), ("b", 1)):
        (tmp_path / folder).mkdir()
        for at in range(number):
            (tmp_path / folder / f"{at}.yaml").write_text("")
    async with reading(tmp_path) as reader:
        await reader.next()
        (tmp_path / "b" / "0.yaml").write_text(SPLIT % 1)
        await reader.until(SPLIT_REF, lambda raw: raw is not None)  # the first news: the watch stands
        parent: Callable[[PurePath], PurePath] = vars(PurePath)["parent"].fget
        asked = 0

        def counted(path: PurePath) -> PurePath:
            nonlocal asked
            asked += 1
            return parent(path)

        monkeypatch.setattr(directory, "RESCAN", 1000.0)
        monkeypatch.setattr(PurePath, "parent", property(counted))
        for at in range(1, 101):
            (tmp_path / "b" / f"{at}.yaml").write_text((SPLIT % 2).replace("name: web", f"name: web-{at}"))
        await reader.until(replace(SPLIT_REF, name="web-100"), lambda raw: raw is not None)
    assert asked < 300 * 10  # compared with each: 300 * 100


async def test_a_file_that_is_replaced_in_two_steps_never_loses_its_objects(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(SPLIT % 1)
    async with reading(tmp_path) as reader:
        await reader.next()
        for number in range(2, 6):  # as vim does: move away, write anew
            path.rename(tmp_path / "a.yaml~")
            assert await reader.silent(0.02)
            path.write_text(SPLIT % number)
            batch = await reader.next()
            assert weight(batch[SPLIT_REF]) == number


async def test_a_file_that_is_replaced_by_renaming_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(SPLIT % 1)
    async with reading(tmp_path) as reader:
        await reader.next()
        (tmp_path / ".new").write_text(SPLIT % 2)
        (tmp_path / ".new").replace(path)
        assert weight((await reader.next())[SPLIT_REF]) == 2


@pytest.mark.skipif(not HAVE_LEASES, reason="only Linux can tell whether a file is being written")
async def test_a_file_in_the_making_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(SPLIT % 1)
    async with reading(tmp_path) as reader:
        await reader.next()
        with path.open("w") as file:  # truncated: for a moment there is nothing in it
            file.flush()
            assert await reader.silent(0.1)
            file.write(SPLIT % 25)
            file.seek(file.tell() - 5)
            file.truncate()
            file.flush()
            assert await reader.silent(0.1)
            file.write("5}]}\n")
        assert weight((await reader.next())[SPLIT_REF]) == 25
        assert reader.source.findings() == ()


@pytest.mark.skipif(not HAVE_LEASES, reason="only Linux can tell whether a file is being written")
async def test_a_writer_that_never_closes_its_file_is_believed_in_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(SPLIT % 1)
    async with reading(tmp_path) as reader:
        await reader.next()
        with path.open("w") as file:
            file.write(SPLIT % 2)
            file.flush()
            assert weight((await reader.next())[SPLIT_REF]) == 2


async def test_the_last_of_many_quick_edits_is_in_force(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(SPLIT % 10)
    async with reading(tmp_path) as reader:
        await reader.next()
        for number in range(11, 99):
            await asyncio.to_thread(path.write_text, SPLIT % number)
        await reader.until(SPLIT_REF, lambda raw: raw is not None and weight(raw) == 98)


async def test_what_is_behind_a_link_is_followed_when_the_link_moves(tmp_path: Path) -> None:
    """Kubernetes mounts a ConfigMap like this; the change happens in a hidden folder."""
    for number in (1, 2):
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}" / "a.yaml").write_text(SPLIT % number)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    async with reading(tmp_path) as reader:
        assert weight((await reader.next())[SPLIT_REF]) == 1
        (tmp_path / "..new").symlink_to("..2")
        os.replace(tmp_path / "..new", tmp_path / "..data")  # noqa: PTH105 - Path.replace would follow nothing either
        assert weight((await reader.next())[SPLIT_REF]) == 2


async def test_f19_a_big_file_does_not_stop_the_event_loop(tmp_path: Path) -> None:
    documents = "---".join((SPLIT % 1).replace("name: web,", f"name: web-{number},") for number in range(2500))
    (tmp_path / "a.yaml").write_text(documents)
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.001)
            beats += 1

    async with reading(tmp_path) as reader:
        heart = asyncio.create_task(beat())
        assert len(await reader.next()) == 2500
        heart.cancel()
    assert beats > 10


def test_two_runs_on_one_machine_get_networks_of_their_own() -> None:
    first, one = claim_network()
    second, other = claim_network()
    with one, other:
        assert not first.overlaps(second)
    again, claim = claim_network(first.network_address.packed[1])
    with claim:
        assert again == first


async def test_a_folder_that_becomes_unreadable_keeps_what_it_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "a.yaml").write_text(SPLIT % 1)
    monkeypatch.setattr("smi_adapter.sources.directory.RESCAN", 0.05)
    real, closed = os.scandir, True

    def scandir(path: str) -> Iterator[os.DirEntry[str]]:
        if closed and Path(path) == tmp_path / "deep":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    async with reading(tmp_path) as reader:
        assert SPLIT_REF in await reader.next()
        monkeypatch.setattr(os, "scandir", scandir)
        assert await reader.next() == {}
        assert [(item.code, item.subject.name) for item in reader.source.findings()] == [("SMI0507", "deep")]
        assert await reader.silent(0.4)
        closed = False
        assert await reader.next() == {}
        assert reader.source.findings() == ()
        (tmp_path / "deep" / "er" / "a.yaml").unlink()
        await reader.until(SPLIT_REF, lambda raw: raw is None)
