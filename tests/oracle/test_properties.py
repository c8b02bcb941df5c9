"""What must hold of any reading of any world, and that the comparison can fail at all."""

import copy
import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.oracle import build as b
from tests.oracle import evaluator
from tests.oracle.compare import Observation, Observe, compare, pure, reduced, told
from tests.oracle.evaluator import Options, Outcome, Request, decide
from tests.oracle.worlds import NAMESPACES, SEEDS, Model, World, models, world, worlds

few = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def answers(world: World, objects: Any = None) -> list[Mapping[Outcome, Fraction]]:
    """Decide every request of the world, or the same requests over other objects."""
    told_objects = world.objects if objects is None else objects
    reading = evaluator.World(told_objects, world.options)
    return [evaluator.answer(reading, request).shares for request in world.requests]


def served(shares: Mapping[Outcome, Fraction]) -> dict[Outcome, Fraction]:
    return {outcome: share for outcome, share in shares.items() if outcome.served_by}


def of_kind(world: World, kind: str) -> list[Any]:
    return [thing for thing in world.objects if thing["kind"] == kind]


@few
@given(worlds())
def test_shares_add_up_to_one_and_none_is_zero(world: World) -> None:
    for shares in answers(world):
        assert sum(shares.values()) == 1
        assert all(share > 0 for share in shares.values())


@few
@given(worlds(), st.randoms(use_true_random=False))
def test_the_order_of_objects_is_irrelevant(world: World, random: Any) -> None:
    shuffled = list(world.objects)
    random.shuffle(shuffled)
    assert answers(world) == answers(world, shuffled)


@few
@given(worlds())
def test_deciding_changes_no_manifest(world: World) -> None:
    before = copy.deepcopy(world.objects)
    answers(world)
    assert world.objects == before


@few
@given(worlds())
def test_manifests_survive_yaml_and_json(world: World) -> None:
    assert answers(world) == answers(world, list(yaml.safe_load_all(yaml.safe_dump_all(world.objects))))
    assert answers(world) == answers(world, json.loads(json.dumps(world.objects)))


@few
@given(models(), SEEDS)
def test_a_world_means_the_same_under_every_version_and_form(model: Model, forms: int) -> None:
    assert answers(model.written(forms)) == answers(model.written(forms + 1))


@few
@given(worlds())
def test_renaming_namespaces_changes_nothing(world: World) -> None:
    renamed = json.dumps([world.objects, [[*request.source, *request.to] for request in world.requests]])
    for name in NAMESPACES:
        renamed = renamed.replace(name, f"{name}-renamed")
    objects, ends = json.loads(renamed)
    for request, end, shares in zip(world.requests, ends, answers(world), strict=True):
        moved = Request(tuple(end[:3]), tuple(end[3:]), request.port, request.protocol, request.method, request.path,
                        request.headers)  # fmt: skip
        assert decide(objects, moved, world.options).shares == shares


@few
@given(worlds())
def test_removing_a_target_never_adds_an_allow_and_adding_one_never_removes_any(world: World) -> None:
    full = answers(world)
    for gone in of_kind(world, "TrafficTarget"):
        for fewer, more in zip(answers(world, [t for t in world.objects if t is not gone]), full, strict=True):
            for outcome, share in served(fewer).items():
                assert more.get(outcome) == share


@few
@given(worlds())
def test_without_targets_nothing_is_served_where_access_is_enforced(world: World) -> None:
    bare = [thing for thing in world.objects if thing["kind"] not in {"TrafficTarget", "Namespace"}]
    for request in world.requests:
        assert not served(decide(bare, request, Options(world.options.profile)).shares)


@few
@given(worlds())
def test_permissive_allows_what_enforce_allows_and_audit_is_as_permissive(world: World) -> None:
    plain = [thing for thing in world.objects if thing["kind"] != "Namespace"]
    for request in world.requests:
        enforced, audited, open_ = (
            decide(plain, request, Options(world.options.profile, mode)).shares
            for mode in ("enforce", "audit", "permissive")
        )
        assert served(enforced).items() <= served(open_).items()
        assert audited == open_
        assert Outcome(status=403) not in open_


@few
@given(worlds())
def test_a_split_changes_only_its_own_root(world: World) -> None:
    full = answers(world)
    for gone in of_kind(world, "TrafficSplit"):
        root = gone["spec"]["service"].partition(".")[0]
        names = {root, gone["metadata"]["name"]}
        fewer = answers(world, [thing for thing in world.objects if thing is not gone])
        for request, with_it, without in zip(world.requests, full, fewer, strict=True):
            if request.to[0] != gone["metadata"]["namespace"] or request.to[1] not in names:
                assert with_it == without


@few
@given(worlds(), st.integers(2, 9))
def test_multiplying_all_weights_keeps_every_share(world: World, factor: int) -> None:
    objects = copy.deepcopy(world.objects)
    for thing in objects:
        for backend in thing["spec"]["backends"] if thing["kind"] == "TrafficSplit" else ():
            if isinstance(backend["weight"], int) and backend["weight"] >= 0:
                backend["weight"] *= factor
    scaled = [t for t in objects if t["kind"] != "TrafficSplit" or _all_whole(t)]
    kept = [t for t in world.objects if t["kind"] != "TrafficSplit" or _all_whole(t)]
    assert answers(world, kept) == answers(world, scaled)


def _all_whole(split: Any) -> bool:
    return all(isinstance(backend["weight"], int) for backend in split["spec"]["backends"])


@few
@given(worlds())
def test_bad_neighbours_change_nothing(world: World) -> None:
    split, access = "split.smi-spec.io", "access.smi-spec.io/v1alpha4"
    bad_shape = {"name": "bad-shape", "namespace": "shop"}
    bad: list[Any] = [
        {"apiVersion": f"{split}/v9", "kind": "TrafficSplit", "metadata": {"name": "s1", "namespace": "shop"}},
        b.split("bad", "nobody", {"nobody": 1}),
        b.split("bad-empty", "web", []),
        b.route_group("bad", b.match("m", "/(?!x")),
        b.target("bad", b.account("nobody"), [b.rule("bad")], [b.account("alpha")]),
        b.target("bad-kind", b.account("alpha"), [b.rule("g1")], [b.account("alpha", kind="Group")]),
        {"apiVersion": access, "kind": "TrafficTarget", "metadata": bad_shape},
        {"apiVersion": access, "kind": "TrafficTarget", "metadata": bad_shape, "spec": ["destination"]},
        {"apiVersion": access, "kind": "IdentityBinding", "metadata": bad_shape, "spec": 1},
        {"kind": "List"},
        {},
    ]
    assert answers(world) == answers(world, [*bad, *world.objects])


@few
@given(worlds())
def test_a_target_split_into_one_per_source_means_the_same(world: World) -> None:
    objects = []
    for thing in world.objects:
        if thing["kind"] != "TrafficTarget":
            objects.append(thing)
            continue
        for number, source in enumerate((thing.get("spec") or thing)["sources"]):
            part = copy.deepcopy(thing)
            part["metadata"]["name"] += f"-{number}"
            (part.get("spec") or part)["sources"] = [source]
            objects.append(part)
    assert answers(world) == answers(world, objects)


@few
@given(worlds())
def test_the_comparison_finds_no_difference_between_the_oracle_and_itself(world: World) -> None:
    reading = evaluator.World(world.objects, world.options)

    def shares(request: Request) -> Mapping[Outcome, Fraction]:
        return evaluator.answer(reading, request).shares

    assert not compare(pure(shares), world.objects, world.requests, world.options)

    def watch(request: Request) -> Observation:
        return Observation(max(shares(request), key=str))

    assert not compare(watch, world.objects, world.requests, world.options, samples=3)


def test_the_comparison_finds_a_wrong_outcome_a_wrong_share_and_silence() -> None:
    objects = [
        b.pod("pod-0", "alpha"),
        *(b.pod(f"pod-{i}", labels={"track": f"v{i}"}) for i in (1, 2)),
        *(b.service(f"web-v{i}", {"track": f"v{i}"}) for i in (1, 2)),
        b.service("web", None),
        b.split("s", "web", {"web-v1": 1, "web-v2": 3}),
    ]
    options, request = Options(mode="permissive"), Request(("shop", "alpha", "pod-0"), ("shop", "web"), 80)
    one, two = Outcome(served_by="pod-1"), Outcome(served_by="pod-2")
    right = {one: Fraction(1, 4), two: Fraction(3, 4)}
    agreeing = [Observation(one), Observation(two), Observation(shares=right | {Outcome(status=503): Fraction(0)})]
    for observation in agreeing:
        assert not compare(lambda _, seen=observation: seen, objects, [request], options)  # type: ignore[misc]
    wrong = [
        Observation(Outcome(served_by="pod-0")),
        Observation(Outcome(status=403)),
        Observation(note="timed out"),
        Observation(shares={one: Fraction(1, 2), two: Fraction(1, 2)}),
        Observation(shares={two: Fraction(1)}),
    ]
    for observation in wrong:
        found = compare(lambda _, seen=observation: seen, objects, [request], options)  # type: ignore[misc]
        assert len(found) == 1
        assert "served by pod-2: 3/4" in told(found)
        assert "kind: TrafficSplit" in told(found)


def test_a_disagreement_is_reduced_to_the_objects_that_it_needs() -> None:
    """An observer that forgets S12 and follows a backend's split: what is left is the two splits and what they name."""
    web = [b.service(name, {"track": name}) for name in ("web", "v1", "v2")]
    pods = [b.pod(f"pod-{i}", labels={"track": f"v{i}"}) for i in range(4)]
    splits = [b.split("a", "web", {"v1": 1}), b.split("b", "v1", {"v2": 1}), b.split("c", "v2", {"v1": 1})]
    objects = [*pods, *web, *splits, b.namespace("shop"), b.route_group("g"), b.route("r")]
    options, request = Options(mode="permissive"), Request(("shop", "default", "pod-0"), ("shop", "web"), 80)

    def following(manifests: Sequence[b.Object]) -> Observe:
        split = {thing["metadata"]["name"] for thing in manifests if thing["kind"] == "TrafficSplit"}
        followed = Request(request.source, ("shop", "v1" if {"a", "b"} <= split else "web"), 80)
        return pure(lambda _: decide(manifests, followed, options).shares)

    (found,) = compare(following(objects), objects, [request], options)
    left = {(thing["kind"], thing["metadata"]["name"]) for thing in reduced(following, found).objects}
    services = {("Service", "web"), ("Service", "v1")}
    assert left == {("Pod", "pod-0"), ("Pod", "pod-1"), *services, ("TrafficSplit", "a"), ("TrafficSplit", "b")}


@pytest.mark.parametrize(
    "blind",
    [
        "TrafficSplit", "HTTPRouteGroup", "TCPRoute", "TrafficTarget", "IdentityBinding", "Namespace",
    ],
)  # fmt: skip
def test_the_worlds_notice_a_reading_that_is_blind_to_one_kind(blind: str) -> None:
    """A comparison that nothing can fail proves nothing: here the observer ignores one kind of object."""
    found = 0
    for drawn in map(world, range(40)):
        seen = [thing for thing in drawn.objects if thing["kind"] != blind]
        reading = evaluator.World(seen, drawn.options)
        observe = pure(lambda request, reading=reading: evaluator.answer(reading, request).shares)  # type: ignore[misc]
        found += len(compare(observe, drawn.objects, drawn.requests, drawn.options))
    assert found > 0
