"""A change of the Mesh: it touches what it must, and says the same as starting again."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from smi_adapter.backends import Change, Part
from smi_adapter.backends.envoy import BACKEND, EnvoyConfig, names
from smi_adapter.backends.envoy.lint import lint
from smi_adapter.mesh import (
    AccessMode,
    Endpoint,
    InboundPort,
    Instance,
    Key,
    Mesh,
    Protocol,
    Route,
    Service,
    Trust,
    WeightedTarget,
    Workload,
)
from tests.meshes import HTTP, TCP, UDP, key, match, mesh, rule, service, spiffe, split, workload
from tests.rendered import found

ROOTS = b"-----BEGIN CERTIFICATE-----"


# ------------------------------------------------------------------------------------------------------- changes


def test_a_weight_change_touches_one_part_and_no_scope() -> None:
    before = mesh([service("web", routes=(split({"v1": 1, "v2": 1}),)), service("v1"), service("v2")], [workload("c")])
    first = BACKEND.render(before)
    web = service("web", routes=(split({"v1": 1, "v2": 9}),))
    after = mesh([web, service("v1"), service("v2")], [workload("c")])
    second = BACKEND.render(after, Change(before, first, frozenset({web.key}), frozenset()))
    assert second.changed_parts == frozenset({("routes", "shop", "web")})
    assert second.changed_scopes == frozenset()
    assert second.scopes is first.scopes
    untouched = ("endpoints", "shop", "web")
    assert second.parts[untouched] is first.parts[untouched]


def test_no_change_changes_nothing() -> None:
    world = mesh([service("web")], [workload("c", [InboundPort(80, HTTP)])], ROOTS)
    first = BACKEND.render(world)
    second = BACKEND.render(world, Change(world, first, frozenset(world.services), frozenset(world.workloads)))
    assert second.changed_parts == frozenset()
    assert second.parts is first.parts


def test_the_order_of_services_and_workloads_makes_no_difference() -> None:
    services = [service(f"s{number}", callers=None if number % 2 else [spiffe("c1")]) for number in range(8)]
    workloads = [workload(f"c{number}", [InboundPort(80, HTTP)], dial={"s1": "127.0.1.1"}) for number in range(4)]
    expected = BACKEND.render(mesh(services, workloads))
    for seed in range(3):
        random.Random(seed).shuffle(services)
        random.Random(seed).shuffle(workloads)
        again = BACKEND.render(mesh(services, workloads))
        assert (dict(again.parts), dict(again.scopes)) == (dict(expected.parts), dict(expected.scopes))


def test_new_roots_reach_every_context_and_close_nothing() -> None:
    port = InboundPort(90, TCP, (rule([spiffe("a")]),))
    before = mesh([service("web")], [workload("w", [port])], b"old")
    first = BACKEND.render(before)
    after = replace(before, trust=Trust(before.trust.domain, (), b"old new"))
    second = BACKEND.render(after, Change(before, first, frozenset(), frozenset()))
    assert second.changed_parts == frozenset({("trust", "", ""), ("inbound", "shop", "w")})
    listener = [item for item in second.parts[("inbound", "shop", "w")] if item.name == "in/shop/w"]
    assert listener == [item for item in first.parts[("inbound", "shop", "w")] if item.name == "in/shop/w"]


# ---------------------------------------------------------------------------------- the mark of a TCP filter chain


def marks(grants: list[list[str]], *, fresh_at: int = -1) -> list[str]:
    """Return the mark of a TCP port's chain after each of a history of grants; without memory at `fresh_at`."""
    found_marks: list[str] = []
    last: tuple[Mesh, EnvoyConfig] | None = None
    for step, names_of in enumerate(grants):
        who = [spiffe(name) for name in names_of]
        world = mesh([], [workload("w", [InboundPort(90, TCP, (rule(who),) if who else ())])], ROOTS)
        change = (
            None
            if last is None or step == fresh_at
            else Change(last[0], last[1], frozenset(), frozenset(world.workloads))
        )
        config = BACKEND.render(world, change)
        last = (world, config)
        chain = found(config, ("inbound", "shop", "w"), names.LISTENER, "in/shop/w").filter_chains[0]
        found_marks.append(chain.metadata.filter_metadata["smi-adapter"].fields["grants"].string_value)
    return found_marks


def test_a_grant_keeps_the_mark_and_a_revocation_changes_it() -> None:
    first, granted, revoked = marks([["a"], ["a", "b"], ["a"]])
    assert first == granted != revoked


def test_a_mark_never_comes_back() -> None:
    history = marks([["a"], ["a", "b"], ["a"], ["a", "b"], ["a"], [], ["a"], []])
    assert len({mark for mark, after in itertools.pairwise(history) if mark != after}) == 4


def test_a_restart_with_the_same_rules_keeps_the_mark_of_a_start() -> None:
    assert len(set(marks([["a"], ["a"]], fresh_at=1))) == 1


def test_a_revocation_while_the_controller_was_down_changes_the_mark() -> None:
    before, after = marks([["a", "b"], ["a"]], fresh_at=1)
    assert before != after


# ------------------------------------------------------------------------------------ incremental equals complete


def _service(draw: st.DrawFn, number: int) -> Service:
    protocol = draw(st.sampled_from([HTTP, HTTP, TCP, UDP]))
    targets = {
        f"s{target}": weight
        for target, weight in draw(st.dictionaries(st.integers(0, 4), st.integers(0, 3), max_size=3)).items()
    }
    use = draw(st.sampled_from(["own", "split", "match"]))
    rest = Route((WeightedTarget(key(f"s{number}"), 80, 1),))
    chosen: tuple[Route, ...] | None = None
    if use == "split":
        chosen = (split(targets),)
    elif use == "match":
        chosen = (split(targets, [match("/x")]), rest)
    endpoints = [
        Endpoint(f"10.0.{number}.{last}", 80, draw(st.sampled_from(["", spiffe("w0"), spiffe("w1")])))
        for last in range(draw(st.integers(0, 2)))
    ]
    callers = draw(st.sampled_from([None, (), ("w0",), ("w0", "w1")]))
    return service(
        f"s{number}",
        endpoints,
        routes=chosen,
        protocol=protocol,
        callers=None if callers is None else [spiffe(name) for name in callers],
        addresses=draw(st.sampled_from([(), (f"10.96.0.{number}",)])),
    )


def _workload(draw: st.DrawFn, number: int) -> Workload:
    rules = draw(st.sampled_from([(), (rule([spiffe("w0")]),), (rule([spiffe("w0"), spiffe("w1")], [match("/y")]),)]))
    ports = [InboundPort(80, draw(st.sampled_from([HTTP, TCP, UDP])), rules)]
    dial = draw(st.sampled_from([None, {"s0": f"127.5.{number}.1", "s1": f"127.5.{number}.2"}]))
    direct = draw(st.booleans())
    return workload(
        f"w{number}",
        ports,
        account=draw(st.sampled_from([f"w{number}", "w0"])),
        mode=draw(st.sampled_from(list(AccessMode))),
        instance=Instance("p", f"127.6.0.{number}", f"127.7.0.{number}") if direct else None,
        dial=dial,
    )


@st.composite
def histories(draw: st.DrawFn) -> list[Mesh]:
    """Meshes of which each differs from the last in a few Services and workloads."""
    services: dict[Key, Service] = {}
    workloads: dict[Key, Workload] = {}
    bundle = b"one"
    history: list[Mesh] = []
    for step in range(draw(st.integers(2, 5))):
        for number in range(5) if step == 0 else draw(st.lists(st.integers(0, 4), max_size=2)):
            if draw(st.booleans()):
                services[key(f"s{number}")] = _service(draw, number)
            else:
                services.pop(key(f"s{number}"), None)
        for number in range(3) if step == 0 else draw(st.lists(st.integers(0, 2), max_size=2)):
            if draw(st.booleans()):
                workloads[key(f"w{number}")] = _workload(draw, number)
            else:
                workloads.pop(key(f"w{number}"), None)
        bundle = draw(st.sampled_from([bundle, bundle, bundle + b"."]))
        history.append(mesh(services.values(), workloads.values(), bundle))
    return history


def _differing(before: Mapping[Key, object], after: Mapping[Key, object]) -> frozenset[Key]:
    return frozenset(name for name in {*before, *after} if before.get(name) != after.get(name))


def _without_marks(config: EnvoyConfig) -> dict[Part, list[Any]]:
    """Return the parts without the marks of TCP chains, the one thing that depends on history (docs/adr/0012)."""
    marks = [mark for mark, _ in config.index.marks.values()]

    def plain_bytes(text: bytes | None) -> bytes | None:
        for mark in marks:
            text = None if text is None else text.replace(mark.encode(), b"-" * len(mark))
        return text

    return {
        part: [
            (
                item.type_url,
                plain_bytes(item.name.encode()),
                plain_bytes(item.body),
                plain_bytes(item.closed),
                item.origins,
            )
            for item in resources
        ]
        for part, resources in config.parts.items()
    }


@settings(max_examples=60, deadline=None)
@given(histories())
def test_rendering_a_change_gives_what_rendering_everything_gives(history: list[Mesh]) -> None:
    config = BACKEND.render(history[0])
    for before, after in itertools.pairwise(history):
        change = Change(
            before, config, _differing(before.services, after.services), _differing(before.workloads, after.workloads)
        )
        last, config = config, BACKEND.render(after, change)
        whole = BACKEND.render(after)
        assert _without_marks(config) == _without_marks(whole)
        assert dict(config.scopes) == dict(whole.scopes)
        assert dict(config.identities) == dict(whole.identities)
        assert config.findings == whole.findings
        assert config.index.reach == whole.index.reach
        assert config.index.named == whole.index.named
        assert config.index.roots == whole.index.roots
        assert config.index.open == whole.index.open
        assert config.changed_parts == frozenset(
            part for part in {*last.parts, *config.parts} if last.parts.get(part) != config.parts.get(part)
        )
        assert config.changed_scopes == frozenset(
            name for name in {*last.scopes, *config.scopes} if last.scopes.get(name) != config.scopes.get(name)
        )
        assert not lint(config), "\n".join(lint(config))


def test_a_protocol_change_of_a_port_is_a_new_resource_of_another_type() -> None:
    before, after = mesh([service("web")]), mesh([service("web", protocol=TCP)])
    config = BACKEND.render(after, Change(before, BACKEND.render(before), frozenset({key("web")}), frozenset()))
    assert config.parts[("routes", "shop", "web")][0].type_url == names.type_url(names.EXTENSION)
    assert Protocol.TCP is TCP
