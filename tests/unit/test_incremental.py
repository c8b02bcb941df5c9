"""The cost of one change, the meaning of the whole world: incremental and full translation agree, always."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smi_adapter import translate as package
from smi_adapter.findings import Ref
from smi_adapter.mesh import AccessMode, Mesh
from smi_adapter.snapshot import EMPTY, Mode, Options, Profile, Snapshot
from smi_adapter.translate import STEPS, Translation, translate
from smi_adapter.translate.incremental import Step
from tests.histories import Dice, applied, shuffled
from tests.worlds import NS, bookstore

SEEDS = st.integers(0, 2**32)


def same(incremental: Translation, full: Translation) -> None:
    assert incremental.mesh == full.mesh
    assert incremental.findings == full.findings
    assert list(incremental.mesh.services) == list(full.mesh.services)
    assert list(incremental.mesh.workloads) == list(full.mesh.workloads)
    one, other = incremental._state, full._state
    assert (one.parts, one.findings, one.failed) == (other.parts, other.findings, other.failed)
    assert members(one.reads) == members(other.reads)
    assert members(one.readers) == members(other.readers)
    assert members(incremental._relations) == members(full._relations)


def members(tables: Mapping[str, Mapping[Any, tuple[Any, ...]]]) -> dict[tuple[str, Any], frozenset[Any]]:
    """Return sets that are kept as tuples as what they mean; nothing may be in one twice."""
    flat = {(table, key): found for table, entries in tables.items() for key, found in entries.items()}
    assert all(len(set(found)) == len(found) for found in flat.values())
    return {place: frozenset(found) for place, found in flat.items()}


def differing(before: Mesh, after: Mesh) -> tuple[set[Any], set[Any]]:
    return (
        {
            key
            for key in before.services.keys() | after.services.keys()
            if before.services.get(key) != after.services.get(key)
        },
        {
            key
            for key in before.workloads.keys() | after.workloads.keys()
            if before.workloads.get(key) != after.workloads.get(key)
        },
    )


@given(SEEDS)
def test_incremental_translation_equals_full_translation_over_any_history(seed: int) -> None:
    dice = Dice(seed)
    world = dice.world()
    current = translate(world)
    for change, after in dice.history(world, 10):
        following = translate(after, Options(), current, frozenset(change))
        same(following, translate(after))
        assert (set(following.services), set(following.workloads)) == differing(current.mesh, following.mesh)
        for key in following.mesh.services.keys() - following.services:
            assert following.mesh.services[key] is current.mesh.services[key]
        for key in following.mesh.workloads.keys() - following.workloads:
            assert following.mesh.workloads[key] is current.mesh.workloads[key]
        current = following


@given(SEEDS)
def test_a_translation_never_changes_one_that_it_started_from(seed: int) -> None:
    dice = Dice(seed)
    world = dice.world()
    first = translate(world)
    mesh, findings = first.mesh, first.findings
    for _ in range(3):  # each from the first one again, as after a push that was not accepted
        change = dice.change()
        translate(applied(world, change), Options(), first, frozenset(change))
        same(first, translate(world))
        assert (first.mesh, first.findings) == (mesh, findings)


@given(SEEDS)
def test_order_of_objects_changes_nothing(seed: int) -> None:
    dice = Dice(seed)
    world = dice.world()
    same(translate(shuffled(world, dice.random)), translate(world))


@given(SEEDS, st.sampled_from(Profile), st.sampled_from(Mode))
def test_translation_never_raises_nor_fails_inside(seed: int, profile: Profile, mode: Mode) -> None:
    options = Options(profile=profile, mode=mode, federated_domains=frozenset({"far.example"}))
    made = translate(Dice(seed).world(), options)
    assert "SMI0606" not in {item.code for item in made.findings}


@given(SEEDS)
def test_other_options_translate_everything_and_name_what_differs(seed: int) -> None:
    world = Dice(seed).world()
    first = translate(world)
    second = translate(world, Options(mode=Mode.AUDIT, profile=Profile.OSM), first)
    assert (set(second.services), set(second.workloads)) == differing(first.mesh, second.mesh)
    for key in second.mesh.services.keys() - second.services:
        assert second.mesh.services[key] is first.mesh.services[key]


@given(SEEDS)
def test_every_route_and_rule_is_well_formed(seed: int) -> None:
    mesh = translate(Dice(seed).world()).mesh
    for service in mesh.services.values():
        for port in service.ports:
            assert port.routes[-1].matches is None
            assert all(route.matches for route in port.routes[:-1])
            for route in port.routes:
                assert all(target.weight >= 1 for target in route.targets)
                assert sum(target.weight for target in route.targets) <= 2**32 - 1
                assert all(target.service in mesh.services for target in route.targets)
    for workload in mesh.workloads.values():
        for inbound in workload.ports:
            assert all(rule.principals and (rule.matches is None or rule.matches) for rule in inbound.rules)


def world_with_split() -> Snapshot:
    return bookstore().split("s", "bookstore", {"bookstore-v1": 90, "bookstore-v2": 10}).snapshot()


def split_ref() -> Ref:
    return Ref("TrafficSplit", NS, "s", "split.smi-spec.io")


def test_a_weight_change_touches_its_root_alone() -> None:
    world = world_with_split()
    first = translate(world)
    changed = applied(world, {split_ref(): bookstore().split("s", "bookstore", {"bookstore-v1": 1}).splits[NS, "s"]})
    second = translate(changed, Options(), first, frozenset({split_ref()}))
    assert second.services == {(NS, "bookstore")}
    assert second.workloads == frozenset()


def test_readiness_touches_the_endpoints_of_its_services_and_no_route_of_the_root() -> None:
    world = bookstore().split("s", "bookstore", {"bookstore-v1": 1, "bookstore-v2": 1})
    world.service("bookstore", selector={"app": "none"})
    before = world.snapshot()
    pod = world.pods[NS, "bookstore-v1-0"]
    world.pods[NS, "bookstore-v1-0"] = replace(pod, ready=False)
    after = world.snapshot()
    refs = frozenset({Ref("Pod", NS, "bookstore-v1-0"), Ref("EndpointSlice", NS, "bookstore-v1")})
    second = translate(after, Options(), translate(before), refs)
    assert second.services == {(NS, "bookstore-v1")}
    assert second.workloads == frozenset()


def counted(steps: tuple[Step, ...], calls: list[tuple[str, Any]]) -> tuple[Step, ...]:
    def count(step: Step) -> Step:
        def compute(view: Any, key: Any) -> Any:
            calls.append((step.name, key))
            return step.compute(view, key)

        return replace(step, compute=compute)

    return tuple(map(count, steps))


def test_a_change_computes_only_what_looked_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, Any]] = []
    monkeypatch.setattr(package, "STEPS", counted(STEPS, calls))
    world = world_with_split()
    first = translate(world)
    calls.clear()
    changed = applied(world, {split_ref(): bookstore().split("s", "bookstore", {"bookstore-v1": 1}).splits[NS, "s"]})
    translate(changed, Options(), first, frozenset({split_ref()}))
    assert sorted(calls) == [
        ("callers", (NS, "bookstore")),
        ("checks", (NS, "s")),
        ("roots", (NS, "s")),
        ("routed", (NS, "bookstore")),
    ]


def failing(name: str, key: Any, steps: tuple[Step, ...] = STEPS) -> tuple[Step, ...]:
    """Return the steps with one that raises for one key."""

    def broken(step: Step) -> Step:
        def compute(view: Any, wanted: Any) -> Any:
            if wanted == key:
                raise ZeroDivisionError("planted")
            return step.compute(view, wanted)

        return replace(step, compute=compute) if step.name == name else step

    return tuple(map(broken, steps))


def touched(kind: str, world: Snapshot, first: Translation, **keys: Any) -> Translation:
    ref = Ref(kind, NS, keys["name"])
    return translate(world, Options(), first, frozenset({ref}))


def test_internal_error_in_routes_keeps_the_last_good_ones_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = world_with_split()
    first = translate(world)
    monkeypatch.setattr(package, "STEPS", failing("routed", (NS, "bookstore")))
    after = applied(
        world,
        {
            split_ref(): bookstore().split("s", "bookstore", {"bookstore-v1": 1}).splits[NS, "s"],
            Ref("Service", NS, "new"): bookstore().service("new").services[NS, "new"],
        },
    )
    second = translate(after, Options(), first, frozenset({split_ref(), Ref("Service", NS, "new")}))
    assert second.mesh.services[NS, "bookstore"].ports == first.mesh.services[NS, "bookstore"].ports
    assert (NS, "new") in second.mesh.services
    (found,) = [item for item in second.findings if item.code == "SMI0606"]
    assert found.subject == Ref("Service", NS, "bookstore")
    assert "ZeroDivisionError: planted" in found.message


def test_internal_error_in_routes_without_a_last_good_form_leaves_the_plain_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(package, "STEPS", failing("routed", (NS, "bookstore")))
    (port,) = translate(world_with_split()).mesh.services[NS, "bookstore"].ports
    assert [target.service for route in port.routes for target in route.targets] == [(NS, "bookstore")]


def test_internal_error_in_access_denies_that_workload_only(monkeypatch: pytest.MonkeyPatch) -> None:
    world = bookstore().namespace(NS, "permissive").snapshot()
    first = translate(world)
    monkeypatch.setattr(package, "STEPS", failing("groups", (NS, "bookstore-v1")))
    after = applied(world, {Ref("TrafficTarget", NS, "bookstore"): None})
    second = touched("TrafficTarget", after, first, name="bookstore")
    broken, other = second.mesh.workloads[NS, "bookstore-v1"], second.mesh.workloads[NS, "bookstore-v2"]
    assert broken.mode is AccessMode.ENFORCE
    assert [port.number for port in broken.ports] == [8080]
    assert not any(port.rules for port in broken.ports)
    assert other.mode is AccessMode.PERMISSIVE
    assert broken.instances == first.mesh.workloads[NS, "bookstore-v1"].instances
    assert [item.code for item in second.findings if item.severity.value == "error"] == ["SMI0606"]


@pytest.mark.parametrize("step", [step.name for step in STEPS])
def test_internal_error_in_any_step_never_escapes_and_never_widens_access(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def always(item: Step) -> Step:
        def compute(_view: Any, _key: Any) -> Any:
            raise RecursionError

        return replace(item, compute=compute) if item.name == step else item

    world = (
        bookstore()
        .split("s", "bookstore", {"bookstore-v1": 1}, matches=("everything",))
        .binding("b", sa="x")
        .snapshot()
    )
    good = translate(world).mesh
    monkeypatch.setattr(package, "STEPS", tuple(map(always, STEPS)))
    made = translate(world)
    for key, workload in made.mesh.workloads.items():
        for port in workload.ports:
            (before,) = [item for item in good.workloads[key].ports if item.number == port.number]
            assert set(port.rules) <= set(before.rules)
    assert "SMI0606" in {item.code for item in made.findings}


def test_an_error_that_passes_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_with_split()
    with monkeypatch.context() as planted:
        planted.setattr(package, "STEPS", failing("groups", (NS, "bookstore-v1")))
        broken = translate(world)
    mended = translate(world, Options(), broken, frozenset({Ref("Pod", NS, "bookstore-v1-0")}))
    same(mended, translate(world))


def test_an_empty_world_is_an_empty_mesh() -> None:
    made = translate(EMPTY)
    assert (made.mesh.services, made.mesh.workloads, made.findings) == ({}, {}, ())
    assert made.services == made.workloads == frozenset()
