"""Building the tools, with a fake `go` in the place of the real one: it notes its calls and makes empty programs."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tools

FAKE_GO = """#!/bin/sh
echo "$@" >> "$CALLS"
case $1 in
env) echo go9.9 ;;
list) echo a; echo b ;;
build)
    while [ $# -gt 0 ]; do
        case $1 in -o) out=$2 ;; -ldflags) shift ;; esac
        last=$1; shift
    done
    [ -z "$SLOW" ] || sleep "$SLOW"
    [ -z "$BREAK" ] || { echo "compile: $BREAK" >&2; exit 2; }
    echo some/package >&2
    case $out in
    */) for each in server kube-apiserver kube-controller-manager kubectl; do echo > "$out$each"; done ;;
    *) echo > "$out" ;;
    esac ;;
esac
"""


@pytest.fixture
def go_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    fake = tmp_path / "bin" / "go"
    fake.parent.mkdir()
    fake.write_text(FAKE_GO)
    fake.chmod(0o755)
    calls = tmp_path / "calls"
    calls.touch()
    monkeypatch.setenv("CALLS", str(calls))
    monkeypatch.setenv("PATH", str(fake.parent), prepend=":")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    forget()
    yield calls
    forget()


def forget() -> None:
    tools.go.cache_clear()
    tools.go_version.cache_clear()


def builds(calls: Path) -> int:
    return sum(line.startswith("build ") for line in calls.read_text().splitlines())


def nothing(_: str) -> None:
    pass


def test_a_set_is_built_once_with_all_its_programs(go_calls: Path) -> None:
    assert not tools.is_there("kubernetes")
    folder = tools.build("kubernetes", nothing)
    assert {each.name for each in folder.iterdir()} == set(tools.SETS["kubernetes"].programs)
    assert tools.binary("etcd") == folder / "etcd"
    assert tools.build("kubernetes", nothing) == folder
    assert builds(go_calls) == 1


def test_the_programs_carry_the_version_of_go_mod(go_calls: Path) -> None:
    tools.build("kubernetes", nothing)
    version = tools.SETS["kubernetes"].version
    assert f"k8s.io/kubernetes {version}\n" in (tools.HERE / "kubernetes" / "go.mod").read_text()
    assert f"component-base/version.gitVersion={version} " in go_calls.read_text()


def test_of_two_builds_at_once_one_waits(go_calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLOW", "0.5")
    said: list[str] = []
    both = [threading.Thread(target=tools.build, args=("helm4", said.append)) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert builds(go_calls) == 1
    assert [line for line in said if "waiting" in line]


def test_a_failed_build_leaves_no_set_and_shows_the_words_of_go(
    go_calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BREAK", "no such thing")
    with pytest.raises(tools.ToolError, match="compile: no such thing"):
        tools.build("helm4", nothing)
    assert not tools.is_there("helm4")
    assert [each.name for each in tools.cache_folder().iterdir()] == ["helm4.lock"]


def test_what_a_killed_build_left_is_cleared_away(go_calls: Path) -> None:
    abandoned = tools.cache_folder() / ".building-helm4-killed"
    abandoned.mkdir(parents=True)
    tools.build("helm4", nothing)
    assert not abandoned.exists()


def test_another_version_of_go_means_another_folder(go_calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tools.location(tools.SETS["helm4"])
    fake = go_calls.parent / "bin" / "go"
    fake.write_text(FAKE_GO.replace("go9.9", "go9.10"))
    forget()
    assert tools.location(tools.SETS["helm4"]) != first


def test_without_go_one_line_says_what_to_install(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    environment = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    script = f"import sys; sys.executable = {str(python)!r}; from tests.tools.__main__ import main; sys.exit(main())"
    run, root = [sys.executable, "-c", script], tools.HERE.parent.parent
    done = subprocess.run(run, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"error: {tools.NO_GO}\n"


@pytest.mark.parametrize("name", tools.SETS)
def test_every_program_of_a_set_is_pinned_in_its_module(name: str) -> None:
    toolset = tools.SETS[name]
    assert toolset.version.startswith("v")
    own = f"smi-adapter/tests/tools/{toolset.module}/"  # a main package of ours imports what it is made of
    for package in toolset.programs.values():
        if package.startswith(own):
            assert (toolset.folder / package.removeprefix(own) / "main.go").exists()
        else:
            assert f'"{package}"' in (toolset.folder / "tools.go").read_text()


def test_a_missing_set_is_asked_for_by_the_command_that_makes_it(go_calls: Path) -> None:
    with pytest.raises(tools.ToolError, match="make tools ARGS=flagger"):
        tools.binary("flagger", "flagger")
