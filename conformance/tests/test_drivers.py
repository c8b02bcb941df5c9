"""The local harness and drivers that misbehave: it is noticed, told at once, and nothing of them is left."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import pytest

from conformance.tests.test_bad_input import TARGET, Place, place
from smi_conformance import lines, local
from smi_conformance.lines import Lines
from smi_conformance.local import LocalHarness
from smi_conformance.protocol import App, HarnessError, Port
from smi_conformance.target import load

__all__ = ["place"]
Story = Callable[[LocalHarness], Coroutine[Any, Any, None]]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch, place: Place) -> None:
    monkeypatch.setattr(local, "HELLO", 3.0)
    monkeypatch.setattr(lines, "_ONCE_MORE", 0.5)
    monkeypatch.setattr(local, "_STOP_DEAF", 0.5)
    monkeypatch.setattr("tempfile.tempdir", str(place.scratch))
    monkeypatch.setenv("TMPDIR", str(place.scratch))  # by which a place knows its processes


def tell(place: Place, monkeypatch: pytest.MonkeyPatch, mode: str, story: Story) -> tuple[list[str], list[str]]:
    """Start a harness with a driver of that kind, live a story, stop it; return what it said and asked the driver."""
    monkeypatch.setenv("SMI_PLAIN", mode)
    place.target({**TARGET, "local": {**TARGET["local"]}})
    said: list[str] = []
    asked: list[str] = []
    ask = Lines.ask

    async def noted(lines: Lines, message: Mapping[str, Any], patience: float) -> dict[str, Any]:
        asked.append(message["op"])
        return await ask(lines, message, patience)

    monkeypatch.setattr(Lines, "ask", noted)

    async def all_of_it() -> None:
        harness = LocalHarness(load(place.folder / "target.yaml"))
        harness.tell = said.append
        try:
            await story(harness)
        finally:
            await harness.stop()

    asyncio.run(all_of_it())
    assert [line for line in place.left() if "pytest" not in line] == []
    return said, asked


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("mute", "did not answer hello in 3 s$"),
        ("rubbish", "the driver writes what is no answer; a line of its stdout that is no answer: 'y'"),
        ("text", r"""did not answer hello in 3 s; a line .* is no answer: '{"id": "1", "protocol": 1"""),
    ],
)
def test_a_driver_that_never_says_hello_is_not_asked_to_stop(
    place: Place, monkeypatch: pytest.MonkeyPatch, mode: str, words: str
) -> None:
    async def story(harness: LocalHarness) -> None:
        with pytest.raises(HarnessError, match=words):
            await harness.start()

    _, asked = tell(place, monkeypatch, mode, story)
    assert asked == ["hello"]


def test_a_driver_that_leaves_two_requests_without_an_answer_is_asked_no_more(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(harness: LocalHarness) -> None:
        await harness.start()
        for op, patience, said in (("get", 0.3, "get in 0 s"), ("events", 60.0, "get in 0 s, nor events in 0 s")):
            with pytest.raises(HarnessError, match=f"the driver did not answer {said}$"):
                await harness._ask(op, patience=patience, object={})
        with pytest.raises(HarnessError, match=r"nor events in 0 s$"):  # the same words: this one was not waited for
            await harness._ask("get", object={})

    _, asked = tell(place, monkeypatch, "deaf", story)
    assert "stop" not in asked


def test_a_driver_that_deploys_one_thing_after_the_other_is_not_deaf() -> None:
    """Answers come in order: while a deployment takes its time, what was asked beside it has none."""

    async def story() -> None:
        driver = Lines("the driver")
        slow = """read line; sleep 1.5; echo '{"id": 1}'; while read line; do :; done"""
        await driver.start(["sh", "-c", slow])
        try:
            deploy = asyncio.create_task(driver.ask({"op": "deploy"}, 30))
            await asyncio.sleep(0)
            for beside in range(2):  # the second one is asked when the first was given up
                with pytest.raises(HarnessError, match="did not answer get"):
                    await driver.ask({"op": "get", "beside": beside}, 0.3)
            assert await deploy == {"id": 1}
            assert (driver.gone, driver.deaf) == ("", False)
        finally:
            await driver.stop()

    asyncio.run(story())


def test_a_driver_that_dies_while_a_workload_holds_its_stdout_is_noticed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(harness: LocalHarness) -> None:
        await harness.start()
        with pytest.raises(HarnessError, match=r"the driver ended \(exit code 7\)"):
            await harness.address(App("c", namespace="n", ports=(Port(80),)), "n/s", 80)

    said, _ = tell(place, monkeypatch, "orphans", story)
    assert len(said) == 1
    assert said[0].startswith("the driver left processes behind; ended: sleep (")


def test_what_a_driver_leaves_at_the_end_of_a_good_run_is_ended_and_named(place: Place) -> None:
    code, said = place.run("-k", "TS-01", "--quick", mode="leaves")
    assert code == 0, said
    assert "the driver left processes behind; ended: sleep (" in said
    assert place.left() == []


def test_a_driver_that_leaves_nothing_is_not_spoken_of(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    said, _ = tell(place, monkeypatch, "", LocalHarness.start)
    assert said == []


def test_only_client_processes_are_told_what_is_cancelled(tmp_path: Path) -> None:
    """See what is written: the protocol of drivers has no such message."""

    async def cancelled(asked: Lines, file: Path) -> str:
        await asked.start(["sh", "-c", f"cat > {file}"])
        asking = asyncio.create_task(asked.ask({"op": "get"}, 30))
        await asyncio.sleep(0.1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await asked.stop()
        return file.read_text()

    assert "cancel" not in asyncio.run(cancelled(Lines("the driver"), tmp_path / "driver"))
    assert '{"cancel": 1}' in asyncio.run(cancelled(Lines("the client", cancels=True), tmp_path / "client"))


def test_a_stdout_that_is_closed_is_told_though_the_driver_lives() -> None:
    async def story() -> None:
        driver = Lines("the driver")
        await driver.start(["sh", "-c", "exec >&-; sleep 600"])
        with pytest.raises(HarnessError, match="the driver closed its stdout"):
            await driver.ask({"op": "hello"}, 30)
        assert "did not end in 0 s; ended: " in await driver.stop(0.2)

    asyncio.run(story())


def test_an_interruption_while_a_deaf_driver_is_ended_leaves_nothing(place: Place) -> None:
    process = place.start("-k", "TS-01", mode="rubbish")
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("the harness does not work: the driver writes what is no answer"), "told before the ending"
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=20)
    assert process.returncode == 130, said
    assert "everything that was created has been removed" in said
    assert place.left() == []


def test_who_does_not_wait_for_a_driver_is_told_that_it_is_left(place: Place) -> None:
    process = place.start("-k", "TS-01", mode="mute")
    deadline = time.monotonic() + 20
    while not list(place.scratch.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    while not process.stdout.readline().startswith("interrupted: ending"):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=20)
    assert "everything that was created has been removed" not in said
    assert said.count("left: ") >= 1
    assert process.returncode == 130
    _gone(place)


def _gone(place: Place) -> None:
    """Wait for the processes that end when we do."""
    deadline = time.monotonic() + 10
    while place.processes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert place.processes() == []
