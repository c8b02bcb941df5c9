"""Places are lent to one case after the other, as long as nothing of a case can be left in them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from smi_conformance.explain import Recorder
from smi_conformance.layouts import GUARD, TWIN, house, shop
from smi_conformance.model import versions_for
from smi_conformance.places import Place, Pool
from smi_conformance.protocol import App, HarnessError, Pod
from smi_conformance.render import Manifest
from smi_conformance.trial import QUICK, Trial

LAYOUT = (App("client"),)


class Harness(Recorder):
    """Has trouble when a test says so, and knows what there is."""

    def __init__(self) -> None:
        super().__init__()
        self.there: set[str] = set()
        self.stuck = False
        self.trouble: Callable[[App], bool] = lambda _: False
        self.over = 0

    async def namespace(self, name: str, *, enforced: bool) -> None:
        del enforced
        self.there.add(name)

    async def remove_namespace(self, name: str) -> None:
        if self.stuck:
            raise HarnessError("no answer")
        self.there = {other for other in self.there if other.partition("/")[0] != name}

    async def deploy(self, app: App) -> tuple[Pod, ...]:
        self.there.add(app.key)  # half of it is there, whatever comes next
        if self.trouble(app):
            raise HarnessError(f"{app.name} does not start")
        for _ in range(20):
            await asyncio.sleep(0)
        self.over += 1
        return (Pod(f"{app.name}-0", "127.0.0.1"),)

    async def undeploy(self, app: App) -> None:
        self.there.discard(app.key)


def trial(harness: Harness, pool: Pool) -> Trial:
    return Trial(harness, pool, QUICK, ("v1alpha4", versions_for("access", "v1alpha4")))


def test_the_place_of_a_case_that_went_wrong_is_removed_and_that_of_another_is_lent_again() -> None:
    harness = Harness()

    async def after(*, bad: bool) -> tuple[Place, Place]:
        pool = Pool(harness)
        one = trial(harness, pool)
        first = await one.place(LAYOUT, enforced=True)
        await one.close(bad=bad)
        return first, await trial(harness, pool).place(LAYOUT, enforced=True)

    first, second = asyncio.run(after(bad=False))
    assert first == second
    harness.there.clear()
    first, second = asyncio.run(after(bad=True))
    assert harness.there == {second.namespace, second["client"].key}
    assert first.namespace != second.namespace


def test_services_that_no_case_changes_stay_with_their_place_and_go_with_it() -> None:
    harness, deleted = Harness(), []

    async def delete(manifests: Sequence[Manifest]) -> None:
        deleted.extend(item["metadata"]["name"] for item in manifests)

    harness.delete = delete  # type: ignore[method-assign]

    async def play() -> list[dict[str, str]]:
        pool = Pool(harness)
        names = []
        for bad in (False, True, False):
            one = trial(harness, pool)
            found = await shop(one, enforced=True)
            names.append({"place": found.ns, **{name: found.names[name] for name in ("root", "v1", "v2")}})
            await one.close(bad=bad)
            assert names[-1]["root"] in deleted
        return names

    first, second, third = asyncio.run(play())
    assert first["root"] != second["root"]
    assert {name: first[name] for name in ("place", "v1", "v2")} == {
        name: second[name] for name in ("place", "v1", "v2")
    }
    assert {second["v1"], second["v2"]} <= set(deleted), "the place of a case that went wrong is removed"
    assert third["place"] != second["place"]
    assert not {third["v1"], third["v2"]} & set(deleted)


def test_a_namespace_is_removed_though_its_services_could_not_be_deleted() -> None:
    harness = Harness()

    async def refuse(manifests: Sequence[Manifest]) -> None:
        del manifests
        raise HarnessError("no answer")

    async def play() -> str:
        pool = Pool(harness)
        one = trial(harness, pool)
        found = await shop(one, enforced=True)
        harness.delete = refuse  # type: ignore[method-assign]
        with pytest.raises(HarnessError):
            await one.close(bad=True)
        return found.ns

    assert asyncio.run(play()) not in harness.there


def test_a_namespace_that_could_not_be_removed_is_listed() -> None:
    harness = Harness()
    pool = Pool(harness)

    async def story() -> list[str]:
        one = trial(harness, pool)
        await one.place(LAYOUT, enforced=True)
        harness.stuck = True
        with pytest.raises(HarnessError):
            await one.close(bad=True)
        return await pool.close()

    (said,) = asyncio.run(story())
    assert said == f"namespace {pool.namespaces()[0]}, which could not be removed: no answer"


def test_a_namespace_that_takes_too_long_to_go_is_listed() -> None:
    harness = Harness()
    pool = Pool(harness)

    async def removed() -> list[str]:
        assert harness.there == set(), "all of them go at the same time"
        return ["namespace cf-1, which is being deleted"]

    harness.removed = removed  # type: ignore[method-assign]

    async def story() -> list[str]:
        for _ in range(2):
            await trial(harness, pool).place(LAYOUT, enforced=True)
        return await pool.close()

    assert asyncio.run(story()) == ["namespace cf-1, which is being deleted"]


def test_a_workload_that_does_not_start_is_taken_away_and_nothing_goes_on_beside_it() -> None:
    harness = Harness()
    pool = Pool(harness)

    async def story() -> None:
        one = trial(harness, pool)
        harness.trouble = lambda app: app.name == TWIN.name
        with pytest.raises(HarnessError, match="twin does not start"):
            await house(one, more=(App("slow"), TWIN))
        assert harness.over == len(GUARD), "slow was still being started"
        await one.close()
        (namespace,) = pool.namespaces()
        assert harness.there == {namespace, *(f"{namespace}/{app.name}" for app in GUARD)}

    asyncio.run(story())


def test_half_a_place_is_removed_when_nothing_is_started_in_it_any_more() -> None:
    harness = Harness()
    pool = Pool(harness)

    async def story() -> None:
        harness.trouble = lambda app: app.name == "second"
        with pytest.raises(HarnessError, match="second does not start"):
            await pool.take((App("first"), App("second")), enforced=True)
        for _ in range(40):
            await asyncio.sleep(0)
        assert (harness.there, harness.over, pool.namespaces()) == (set(), 0, ())

    asyncio.run(story())
