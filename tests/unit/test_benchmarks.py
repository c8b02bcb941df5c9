"""The benchmark's own arithmetic and shapes; how fast anything is, is no matter of tests."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import report
from benchmarks.__main__ import ALL
from benchmarks.arms import Setting, shifted, shifted_back
from benchmarks.bars import Bar, Part, delays, percentile, ratio
from benchmarks.bars import report as as_json
from benchmarks.certificates import make
from benchmarks.channel import Child, ChildError
from benchmarks.layouts import ROUTES, OneTable, with_rules_inside
from benchmarks.worlds import GUARDED, NAMESPACE, World
from smi_adapter import envoy_api

MS = 1_000_000


def part(value: float, control: float, *, bar: float = 2.0, reference: bool = False) -> Part:
    return Part("something", value, bar, control, "x", reference=reference)


# ------------------------------------------------------------------------------------------------ arithmetic
def test_a_delay_is_the_time_from_the_write_to_the_first_sight_of_its_state() -> None:
    writes = [(0, "b"), (50 * MS, "a")]
    seen = [(-5 * MS, "a"), (3 * MS, "b"), (54 * MS, "a")]
    assert delays(writes, seen) == [3.0, 4.0]


def test_a_write_without_effect_does_not_borrow_the_effect_of_a_later_one() -> None:
    writes = [(0, "b"), (50 * MS, "a"), (100 * MS, "b")]
    assert delays(writes, [(101 * MS, "b")]) == [math.inf, math.inf, 1.0]


def test_an_error_in_between_is_not_the_effect() -> None:
    assert delays([(0, "b")], [(1 * MS, "503"), (2 * MS, "b")]) == [2.0]


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_a_percentile_is_one_of_the_values_and_covers_its_share(values: list[float]) -> None:
    for share in (0.5, 0.9, 0.99, 1.0):
        found = percentile(values, share)
        assert found in values
        assert sum(value <= found for value in values) >= share * len(values)
    assert percentile(values, 1.0) == max(values)


def test_rounds_are_compared_with_their_own_neighbours() -> None:
    assert ratio([1, 20, 3], [1, 10, 1]) == 2.0
    with pytest.raises(ValueError, match="same number"):
        ratio([1, 2], [1])


# ------------------------------------------------------------------------------------------------------- bars
def test_a_bar_is_met_only_if_its_control_misses_it() -> None:
    assert part(1.0, 5.0).met
    assert not part(3.0, 5.0).met
    assert not part(1.0, 1.5).met


def test_a_reference_has_no_fault_to_show() -> None:
    assert part(1.5, 1.0, reference=True).met
    assert not part(2.5, 1.0, reference=True).met


def test_a_bar_needs_all_of_its_parts() -> None:
    assert not Bar("P1", "x", (part(1, 5), part(3, 5))).met


def test_what_never_came_misses_the_bar_and_is_null_in_json() -> None:
    bar = Bar("P10", "x", (part(math.inf, 5.0),))
    assert not bar.met
    assert json.loads(json.dumps(bar.as_json(), allow_nan=False))["value"] is None


def test_json_has_the_numbers_of_each_bar_at_its_top() -> None:
    bars = [Bar("P9", "lost requests", (Part("failed", 0, 0, 227, "requests", "0 of 9"),), "detail")]
    shown = json.loads(json.dumps(as_json(bars, quick=True)))
    assert shown["quick"] is True
    (bar,) = shown["bars"]
    assert bar.keys() >= {"id", "what", "value", "bar", "control", "unit", "met", "detail", "parts"}
    assert (bar["id"], bar["value"], bar["bar"], bar["control"], bar["unit"]) == ("P9", 0, 0, 227, "requests")
    assert bar["met"] is True
    assert bar["parts"][0]["note"] == "0 of 9"


def test_the_table_is_aligned_and_shouts_what_is_missed() -> None:
    bars = [Bar("P1", "one", (part(1, 5),)), Bar("P10", "another, longer", (part(3, 5),))]
    lines = report.table(bars).splitlines()
    column = lines[0].index("met")
    assert [line[column : column + 3].strip() for line in lines[2:]] == ["yes", "yes", "NO", "NO"]


def test_the_measured_part_of_the_document_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text(f"before\n\n{report.BEGIN}\nold\n{report.END}\n\nafter\n")
    report.write(report.markdown([Bar("P1", "one", (part(1, 5),))], "A run."), document)
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| P1 | one: something |" in text


def test_the_document_can_be_written_again() -> None:
    text = report.DOCUMENT.read_text(encoding="utf-8")
    assert text.index(report.BEGIN) < text.index(report.END)
    assert all(f"| {name} |" in text for name in ALL)


# -------------------------------------------------------------------------------------------------- processes
def test_a_probe_and_a_load_see_what_an_echo_server_answers() -> None:
    with Child("echo") as echo:
        port = echo.ask("listen", name="a")["port"]
        where = {"address": "127.0.0.1", "port": port}
        with Child("probe", where) as probe, Child("load", where) as load:
            assert probe.ask("until", state="a", seconds=20)["seen"]
            probe.ask("start")
            load.ask("start")
            counts = load.ask("stop")
            saw = probe.ask("stop")
    assert counts["failed"] == 0
    assert [state for _, state in saw["seen"]] in ([], ["a"])
    assert saw["connections"] == 1


def test_a_child_that_fails_says_why() -> None:
    with Child("echo") as child, pytest.raises(ChildError, match="KeyError"):
        child.ask("no-such-request")


# ----------------------------------------------------------------------------------------------------- worlds
@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    directory = tmp_path_factory.mktemp("certificates")
    make(directory, ("server",))
    return Setting.of(World(3, 8080, {"a": 1, "b": 2}, 20, probers=2, scoped=1, scoped_services=1), directory)


def test_a_world_is_sound(setting: Setting) -> None:
    current = setting.compiler.current
    assert current is not None
    assert [str(item) for item in current.findings() if item.severity.value != "info"] == []


def test_a_prober_sees_everything_and_a_scoped_proxy_its_services(setting: Setting) -> None:
    def listeners(node: str) -> set[str]:
        return {item.name for item in setting.visible(node) if item.type_url.endswith(".Listener")}

    assert {f"out/team-{index}/app-000{index}/8080" for index in range(3)} <= listeners("bench/prober-1")
    assert "out/team-0/app-0000/8080" in listeners("bench/scoped-0")
    assert "out/team-1/app-0001/8080" not in listeners("bench/scoped-0")


def test_a_flip_changes_one_resource_and_the_way_back_is_the_same_bytes(setting: Setting) -> None:
    before = setting.routes("a")
    assert setting.routes("b") != before
    setting.apply(setting.flip("b"))
    assert setting.config.changed_parts == frozenset({("routes", NAMESPACE, "probed")})
    setting.apply(setting.flip("a"))
    assert setting.routes("a") == before


def test_a_shift_comes_and_goes_without_a_trace(setting: Setting) -> None:
    before = dict(setting.config.parts)
    setting.apply(shifted(setting.world, "new-1", 3))
    assert ("endpoints", NAMESPACE, "new-1") in setting.config.parts
    setting.apply(shifted_back(setting.world, "new-1"))
    assert dict(setting.config.parts) == before


def test_one_table_has_the_routes_of_all_services(setting: Setting) -> None:
    one = OneTable(setting.visible("bench/prober-0"), setting.probed_name)
    tables = [item for item in one.resources if item.type_url == ROUTES and item.name.startswith("out/")]
    assert [item.name for item in tables] == [OneTable.NAME]
    hosts = envoy_api.message("envoy.config.route.v3.RouteConfiguration").FromString(tables[0].body).virtual_hosts
    assert len({host.name for host in hosts}) == len(hosts) > 3 * setting.world.services
    assert one.changed(setting.routes("b")).body != tables[0].body
    assert one.changed(setting.routes("a")).version == one.changed(setting.routes("a")).version


def test_rules_inside_a_listener_are_those_of_its_routes(setting: Setting) -> None:
    guards = setting.inbound("a")
    listener = next(item for item in guards if item.type_url.endswith(".Listener"))
    routes = next(item for item in guards if item.type_url == ROUTES)
    inside = with_rules_inside(listener, routes)
    assert inside.name == listener.name
    assert listener.name.startswith(f"in/{NAMESPACE}/{GUARDED}")
    assert routes.body in inside.body
    assert setting.inbound("403") != guards
