"""The private descriptor pool: complete, deterministic, apart from everybody else's messages."""

from __future__ import annotations

import subprocess
import sys

import pytest
from google.protobuf import any_pb2

from smi_adapter import envoy_api

RC = "envoy.config.route.v3.RouteConfiguration"


def test_any_comes_from_the_private_pool() -> None:
    packed = envoy_api.pack(envoy_api.message("envoy.extensions.filters.http.router.v3.Router")())
    assert packed.type_url == "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
    assert type(packed) is envoy_api.message("google.protobuf.Any")
    assert not isinstance(packed, any_pb2.Any)


def test_what_any_holds_can_be_nested_and_read_back() -> None:
    rbac = envoy_api.message("envoy.extensions.filters.http.rbac.v3.RBACPerRoute")(rbac={"rules": {}})
    route = envoy_api.message(RC)(name="r", typed_per_filter_config={"rbac": envoy_api.pack(rbac)})
    again = envoy_api.message(RC).FromString(envoy_api.serialise(route))
    assert type(rbac).FromString(again.typed_per_filter_config["rbac"].value) == rbac


def test_equal_messages_have_equal_bytes_whatever_the_order_of_their_maps() -> None:
    def metadata(*keys: str) -> bytes:
        content = envoy_api.message("envoy.config.core.v3.Metadata")()
        for key in keys:
            content.filter_metadata[key].fields["x"].string_value = key
        return envoy_api.serialise(content)

    keys = [f"k{number}" for number in range(20)]
    assert metadata(*keys) == metadata(*reversed(keys))
    assert envoy_api.version_of(metadata(*keys)) == envoy_api.version_of(metadata(*reversed(keys)))
    assert envoy_api.version_of(metadata("a")) != envoy_api.version_of(metadata("b"))


def test_an_unknown_field_or_message_is_refused() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        envoy_api.message(RC)(nonsense=1)
    with pytest.raises(KeyError):
        envoy_api.message("envoy.config.route.v3.Nonsense")


def test_importing_reads_no_descriptors() -> None:
    code = "import smi_adapter.envoy_api as e; raise SystemExit(e.pool.cache_info().currsize)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
