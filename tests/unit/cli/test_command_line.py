"""The command line itself: what it imports, how it answers, what it completes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from smi_adapter.cli import _ABOUT, _COMMANDS, completion, execute, main, output
from smi_adapter.cli.cluster import INSTALLATION, _seconds
from smi_adapter.cli.show import age

ROOT = Path(__file__).parents[3]
HEAVY = ("kubernetes_asyncio", "aiohttp", "grpc", "rich", "google.protobuf", "cryptography", "jsonschema")


@pytest.mark.parametrize("command", ["", *(name for name in _COMMANDS if name not in {"demo", "run"})])
def test_a_command_is_there_without_heavy_imports(command: str) -> None:
    """The Kubernetes client alone takes 0.8 s: help and completion must not wait for it."""
    script = "import sys; from smi_adapter.cli import execute; code = execute(sys.argv[1:]); print(sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script, *command.split(), "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = done.stdout.splitlines()[-1]
    assert "Usage:" in done.stdout
    assert not [name for name in HEAVY if f"'{name}'" in loaded]


BOOKSTORE = ("-f", "examples/bookstore")
NOWHERE = "http://127.0.0.1:1"
SERVERS = {*HEAVY, "asyncio", "watchfiles", "prometheus_client"} - {"google.protobuf"}


def _loaded_by(*command: str, **environment: str) -> tuple[int, set[str]]:
    """Run a command in a process of its own, and return its exit code and all modules that it came to need."""
    script = (
        "import sys; from smi_adapter.cli import execute; code = execute(sys.argv[1:]);"
        "print(code, *sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )
    code, *loaded = done.stderr.splitlines()[-1].split()
    return int(code), set(loaded)


@pytest.mark.parametrize(
    "command",
    [
        ("--version",),
        ("completion", "fish"),
        ("backends",),
        ("analyze", *BOOKSTORE),
        ("explain", *BOOKSTORE, "--from", "bookstore/bookbuyer", "--to", "bookstore/bookstore:14001"),
        ("translate", *BOOKSTORE, "--to", "mesh"),
        ("translate", *BOOKSTORE, "--to", "envoy"),
    ],
    ids=" ".join,
)
def test_a_command_that_looks_at_files_loads_no_server_client_or_schema_engine(command: tuple[str, ...]) -> None:
    code, loaded = _loaded_by(*command)
    assert code == 0
    assert not loaded & (SERVERS | {"pydantic"})


def test_without_the_envoy_backend_nothing_of_protobuf_is_loaded() -> None:
    code, loaded = _loaded_by("analyze", *BOOKSTORE, "--fail-on", "never", SMI_ADAPTER_BACKEND="gateway_api")
    assert code == 0
    assert not loaded & {"google.protobuf", "smi_adapter.envoy_api", "smi_adapter.backends.envoy"}
    assert "smi_adapter.backends.envoy" in _loaded_by("analyze", *BOOKSTORE)[1]


@pytest.mark.parametrize(
    "command",
    [("get", "splits"), ("check",), ("describe", "split", "it"), ("diff", *BOOKSTORE), ("bug-report",)],
    ids=" ".join,
)
def test_a_command_that_asks_a_cluster_is_no_server_and_loads_a_backend_only_to_compile(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    kubeconfig = tmp_path / "config"
    cluster = {"name": "it", "cluster": {"server": NOWHERE}}
    context = {"name": "it", "context": {"cluster": "it", "user": "it"}}
    kubeconfig.write_text(
        json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [cluster], "contexts": [context], "users": [{"name": "it", "user": {}}],
        })
    )  # fmt: skip
    code, loaded = _loaded_by(*command, "--kubeconfig", str(kubeconfig))
    assert code == 3, "there is no cluster"
    assert not loaded & ({*HEAVY, "watchfiles", "pydantic"} - {"kubernetes_asyncio", "aiohttp"})
    assert "aiohttp" in loaded


def test_a_command_s_name_is_completed_without_any_command() -> None:
    script = (
        "import sys; sys.argv = ['x', '']; from smi_adapter.cli.completion import kubectl_complete as run; run();"
        "print([name for name in sys.modules if name.startswith('smi_adapter.cli.')])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    *found, loaded = done.stdout.splitlines()
    assert {line.split("\t")[0] for line in found} >= _COMMANDS.keys()
    assert loaded == "['smi_adapter.cli.completion']"


def test_every_command_is_described() -> None:
    assert _ABOUT.keys() == _COMMANDS.keys()


def test_the_help_names_the_installation_that_is_looked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["uninstall", "--help"]) == 0
    text = "".join(capsys.readouterr().out.split())
    for name in INSTALLATION:
        assert f"(default:{name})" in text


def test_usage_errors_are_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["no-such-command"]) == 2
    assert execute(["get"]) == 2
    assert execute(["analyze", "--use-kube=false"]) == 2
    assert "Error" in capsys.readouterr().err


def test_what_proxies_log_is_not_a_setting_of_the_controller(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SMI_ADAPTER_LOG_REQUESTS", "true")
    assert execute(["run"]) == 2
    assert "smi-adapter bootstrap --log-requests" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if shell == "bash":
        monkeypatch.setattr("click.shell_completion.BashComplete._check_version", staticmethod(lambda: None))
    done = CliRunner().invoke(main, ["completion", shell])
    assert "_SMI_ADAPTER_COMPLETE" in done.output


@pytest.mark.parametrize(
    ("words", "shown", "directive"),
    [
        (["an"], "analyze", ":4"),
        (["get", "--all"], "--all-namespaces", ":4"),
        (["completion", ""], "bash", ":4"),
        (["analyze", "-f", ""], "", ":0"),
        (["nothing", "here", ""], "", ":4"),
        ([], "", ":4"),
    ],
)
def test_kubectl_is_told_how_a_word_goes_on(
    words: list[str], shown: str, directive: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["kubectl_complete-traffic", *words])
    completion.kubectl_complete()
    *found, last = capsys.readouterr().out.splitlines()
    assert last == directive
    assert not shown or any(line.split("\t")[0] == shown for line in found)


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ("{.spec.service}", "web"),
        ("{.spec.backends[*].weight}", "1 2"),
        ("{.spec.backends[1].service}", "b"),
        ("{.metadata.labels['a.b']}={.missing}", "yes="),
        ('{.spec.service}{"\\n"}', "web\n"),
    ],
)
def test_jsonpath_fills_in_a_template(template: str, shown: str) -> None:
    backends = [{"service": "a", "weight": 1}, {"service": "b", "weight": 2}]
    raw = {"metadata": {"labels": {"a.b": "yes"}}, "spec": {"service": "web", "backends": backends}}
    assert output.jsonpath(template)(raw) == shown


@pytest.mark.parametrize("template", ["{range .items[*]}", "{.a[?(@.b)]}", "{}"])
def test_jsonpath_refuses_what_it_does_not_know(template: str) -> None:
    with pytest.raises(click.UsageError):
        output.jsonpath(template)


@pytest.mark.parametrize(("text", "seconds"), [("5s", 5.0), ("2m", 120.0), ("0", 0.0), ("1.5", 1.5), ("300ms", 0.3)])
def test_durations_are_kubectl_s(text: str, seconds: float) -> None:
    assert _seconds(text) == pytest.approx(seconds)
    with pytest.raises(ValueError):
        _seconds(f"{text}x")


def test_ages_are_kubectl_s() -> None:
    assert age("not a time") == ""
    assert age("2020-01-01T00:00:00Z").endswith("d")


def test_a_broken_file_is_named_once_with_the_line_that_is_broken(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("kind: A\nmetadata: {name: a}\n---\nkind: B\nmetadata: {name: [\n")
    done = CliRunner().invoke(main, ["analyze", "-f", str(tmp_path)])
    head, message = done.stdout.splitlines()[:2]
    assert re.fullmatch(r".*a\.yaml:[5-6]: error SMI0507 \w+", head)
    assert "a.yaml" not in message
