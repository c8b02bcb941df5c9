"""The demo's files, its edits, what it expects and how it shows it."""

from __future__ import annotations

import asyncio
import io
import json
import socket
from collections import Counter
from itertools import starmap
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from smi_adapter.cli.offline import analyze, explain
from smi_adapter.demo import experiments
from smi_adapter.demo.experiments import EXPERIMENTS, START, EditError
from smi_adapter.demo.stage import FILE, example, news
from smi_adapter.demo.table import lines, rows, table
from smi_adapter.demo.traffic import Seen, Traffic, Window
from smi_adapter.findings import Finding, Ref, finding

TEXT = (example() / FILE).read_text()


def edited(tmp_path: Path, *edits: experiments.Edit) -> Path:
    """Return a copy of the example after some edits."""
    for path in example().glob("*.yaml"):
        text = path.read_text()
        for edit in edits if path.name == FILE else ():
            text = edit(text)
        (tmp_path / path.name).write_text(text)
    return tmp_path


def found_in(folder: Path) -> list[str]:
    result = CliRunner().invoke(analyze, ["-f", str(folder), "-o", "json"])
    return [f"{item['code']} {item['message']}" for item in json.loads(result.stdout)["findings"]]


def answer(folder: Path, caller: str, path: str) -> tuple[str, dict[str, float]]:
    arguments = [
        "-f",
        str(folder),
        "--from",
        f"bookstore/{caller}",
        "--to",
        "bookstore/bookstore:14001",
        "--path",
        path,
    ]
    result = json.loads(CliRunner().invoke(explain, [*arguments, "-o", "json"]).stdout)
    return result["access"], {arm["service"]: arm["share"] for arm in result["arms"]}


V1, V2 = "bookstore/bookstore-v1", "bookstore/bookstore-v2"


def test_nothing_is_wrong_with_the_example() -> None:
    assert found_in(example()) == []


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=[item.name for item in EXPERIMENTS])
def test_nothing_is_wrong_after_an_experiment(tmp_path: Path, experiment: experiments.Experiment) -> None:
    before = [experiments.let_bookthief_in] if experiment.edit is experiments.keep_bookthief_out else []
    assert found_in(edited(tmp_path, *before, experiment.edit)) == []


def test_at_first_bookbuyer_is_let_in_and_bookthief_is_not() -> None:
    assert answer(example(), "bookbuyer", "/buy") == ("allowed", {V1: 0.5, V2: 0.5})
    assert answer(example(), "bookthief", "/buy")[0] == "denied"
    assert answer(example(), "bookbuyer", "/admin")[0] == "denied"


def test_the_weights_move(tmp_path: Path) -> None:
    assert answer(edited(tmp_path, experiments.set_weights(10, 90)), "bookbuyer", "/buy")[1] == {V1: 0.1, V2: 0.9}


def test_bookthief_is_let_in_by_one_character_and_kept_out_by_one(tmp_path: Path) -> None:
    text = experiments.let_bookthief_in(TEXT)
    assert len(TEXT) - len(text) == 1
    assert experiments.keep_bookthief_out(text) == TEXT
    assert answer(edited(tmp_path, experiments.let_bookthief_in), "bookthief", "/buy")[0] == "allowed"


def test_user_goes_to_v1_and_order_to_v2(tmp_path: Path) -> None:
    folder = edited(tmp_path, experiments.split_by_path)
    assert answer(folder, "bookbuyer", "/user")[1] == {V1: 1}
    assert answer(folder, "bookbuyer", "/order")[1] == {V2: 1}
    assert answer(folder, "bookbuyer", "/buy")[1] == {V1: 0.5, V2: 0.5}
    assert answer(folder, "bookthief", "/user")[0] == "denied"


@pytest.mark.parametrize(
    "edit", [experiments.set_weights(1, 2), experiments.let_bookthief_in, experiments.split_by_path]
)
def test_an_edit_of_another_text_is_an_error(edit: experiments.Edit) -> None:
    with pytest.raises(EditError):
        edit("kind: TrafficSplit\n")


# ----------------------------------------------------------------------------------------------- expectations


def window(*counts: tuple[Seen, int]) -> Window:
    return Window(Counter(dict(counts)), 2.0)


def sent(source: str, path: str, version: str, status: int) -> Seen:
    return Seen("sent", source, "bookstore", path, version, status)


def world(first: int, second: int, *more: tuple[Seen, int]) -> Window:
    """Return what is seen where all is well and v1 and v2 got these numbers of requests on each path."""
    counts = [
        (sent("bookbuyer", path, version, 200), number)
        for path in experiments.PATHS
        for version, number in (("v1", first), ("v2", second))
    ]
    served = [
        (Seen("served", "bookbuyer", "bookstore", "/buy", "v1", 200), 100),
        (Seen("served", "bookstore", "bookwarehouse", "/restock-books", "", 200), 100),
    ]
    return window(*counts, *served, *more)


DENIED = (sent("bookthief", "/buy", "", 403), 60)


def test_a_good_start_is_as_it_should_be() -> None:
    assert START.expect(world(50, 50, DENIED)) == []
    assert START.expect(world(45, 55, DENIED)) == []


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (world(20, 80, DENIED), "v1 got 80 of 400 requests"),
        (world(0, 0, DENIED), "only 0 requests"),
        (world(50, 50), "denied 0 times only"),
        (world(50, 50, DENIED, (sent("bookthief", "/buy", "v1", 200), 1)), "bookthief got 1 books"),
        (
            world(50, 50, DENIED, (Seen("served", "bookthief", "bookstore", "/buy", "v1", 200), 1)),
            "reached a bookstore",
        ),
        (world(50, 50, DENIED, (sent("bookbuyer", "/buy", "", 503), 2)), "2 x bookbuyer -> bookstore/buy: 503"),
        (world(50, 50, DENIED, (sent("bookbuyer", "/buy", "", 0), 1)), "no answer"),
        (world(50, 50, DENIED, (sent("bookbuyer", "/buy", "", 403), 1)), "bookbuyer was denied 1 times"),
        (window(DENIED), "hardly ever saw"),
    ],
)
def test_what_is_not_as_it_should_be_is_said(seen: Window, words: str) -> None:
    assert [problem for problem in START.expect(seen) if words in problem]


def test_a_weight_of_zero_is_exactly_nothing() -> None:
    expect = experiments.shares(0, 100)
    assert expect(world(0, 100)) == []
    assert expect(world(1, 1000))


# ------------------------------------------------------------------------------------------- traffic and table


def test_the_table_shows_rates_by_edge_path_and_version() -> None:
    seen = window(
        (sent("bookbuyer", "/buy", "v1", 200), 20),
        (sent("bookbuyer", "/buy", "v2", 200), 60),
        (sent("bookbuyer", "/buy", "", 503), 2),
        (sent("bookthief", "/buy", "", 403), 10),
        (Seen("sent", "bookstore v1", "bookwarehouse", "/restock-books", "", 200), 20),
    )
    found = rows(seen)
    assert [tuple(row) for row in found] == [
        ("bookbuyer", "bookstore", "/buy", 40, 10, 30, 0, 1),
        ("bookstore v1", "bookwarehouse", "/restock-books", 10, 0, 0, 0, 0),
        ("bookthief", "bookstore", "/buy", 0, 0, 0, 5, 0),
    ]
    text = "\n".join(lines(found))
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table(found))
    shown = console.export_text()
    for word in ("bookthief", "40.0", "30.0", "5.0"):
        assert word in text
        assert word in shown


async def test_reports_add_up_over_restarts_and_losses() -> None:
    traffic = Traffic()
    await traffic.start()
    seen = ["sent", "bookbuyer", "bookstore", "/buy", "v1", 200]
    host, _, port = traffic.address.partition(":")

    def report(started: float, count: int) -> bytes:
        return json.dumps({"pod": "bookbuyer-0", "started": started, "seen": [[*seen, count]]}).encode()

    garbage = [b"", b"[]", b"\xff", b'{"pod": 1}', b'{"pod": "a", "started": 1, "seen": [[1]]}', b'{"seen": 3}']
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for data in (report(1.0, 5), *garbage, report(1.0, 9)):
            sender.sendto(data, (host, int(port)))
        mark = await until(traffic, 9)
        for data in (report(2.0, 3), report(2.0, 4)):
            sender.sendto(data, (host, int(port)))
        await until(traffic, 13)
    assert traffic.since(mark).count(source="bookbuyer", status=200) == 4
    traffic.stop()


async def until(traffic: Traffic, count: int) -> tuple[Counter[Seen], float]:
    async with asyncio.timeout(10):
        while traffic.mark()[0].total() != count:  # noqa: ASYNC110 - datagrams have no event
            await asyncio.sleep(0.01)
    return traffic.mark()


def test_every_invitation_is_an_experiment_of_the_file() -> None:
    invited = [item.invite for item in EXPERIMENTS if item.invite]
    assert len(invited) == 3
    assert all(starmap(lambda number, words: f"{number}. {words.split(':')[0]}" in TEXT, enumerate(invited, 1)))


def test_without_a_terminal_each_finding_is_told_once_and_so_is_its_end() -> None:
    split, file = Ref("TrafficSplit", "shop", "web"), Ref("File", "", FILE)
    first, second = (
        finding("SMI0102", split, "spec.backends", "There is no Service."),
        finding("SMI0507", file, "", "x"),
    )

    def told(before: list[Finding], now: list[Finding]) -> list[str]:
        return list(news(lambda item: item.code, before, now))

    assert told([], [first]) == ["SMI0102"]
    assert told([first], [first, second]) == ["SMI0507"]
    assert told([first], []) == ["resolved: SMI0102 TrafficSplit shop/web spec.backends"]
