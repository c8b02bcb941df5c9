"""What a real Envoy makes of a path, held against `smi_adapter.paths`: a table, and as many random ones as is quick."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from random import Random

import pytest

from smi_adapter.paths import normalised, refusal
from tests.live.envoys import EnvoyProcess, free_port
from tests.paths import CASES

pytestmark = pytest.mark.live

PIECES = (
    "/", "/", "/", "//", "..", ".", "%2e", "%2E", ";", ";x", "a", "b", "\\", "%2f", "%5c", "%41", "%zz", "%", "%00",
    "?", "#", "|", "{", "~", "%7e", "%25", "...", "=", "%3b", "%C3%A9", "[", "^",
    "%4", "%31", "2", "e",
)  # fmt: skip


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Start an Envoy with the settings of our listeners (R2) that answers with the path that it saw."""
    number = free_port()
    name = "envoy.extensions.filters"
    manager = {
        "@type": f"type.googleapis.com/{name}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "paths",
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"type.googleapis.com/{name}.http.router.v3.Router"},
            }
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {
                            "match": {"prefix": "/"},
                            "direct_response": {"status": 200},
                            "response_headers_to_add": [{"header": {"key": "seen", "value": "%REQ(:PATH)%"}}],
                        }
                    ],
                }
            ]
        },
    }
    listener = {
        "name": "paths",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": number}},
        "filter_chains": [{"filters": [{"name": "manager", "typed_config": manager}]}],
    }
    with EnvoyProcess.start({"static_resources": {"listeners": [listener]}}) as envoy:
        envoy.wait_ready()
        yield number


def seen(port: int, path: str) -> str | None:
    """Send a path as it is and return what Envoy saw; None for 400."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nhost: a\r\n\r\n".encode("latin-1"))
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert response.status in {200, 400}
        return response.headers["seen"] if response.status == 200 else None


@pytest.mark.parametrize(("sent", "expected"), CASES)
def test_table_of_paths_is_what_envoy_does(port: int, sent: str, expected: str | None) -> None:
    assert seen(port, sent) == expected


def test_random_paths_are_seen_by_us_as_by_envoy(port: int) -> None:
    dice = Random(1)
    for _ in range(300):
        path = "/" + "".join(dice.choices(PIECES, k=dice.randint(1, 9)))
        found = seen(port, path)
        assert (None if refusal(path) else normalised(path)) == (found and found.partition("?")[0]), path
