"""The fixture for real Envoys itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.live.envoys import EnvoyError, EnvoyProcess

pytestmark = pytest.mark.live


def test_an_envoy_without_configuration_becomes_ready_and_answers() -> None:
    with EnvoyProcess.start({"node": {"id": "a", "cluster": "b"}}) as envoy:
        envoy.wait_ready()
        assert envoy.stats("server.")["server.live"] == 1
        assert envoy.memory() > 0
        assert envoy.admin_status("/nonsense")[0] == 404
    assert envoy.process.returncode is not None


def test_admin_may_be_a_unix_socket(tmp_path: Path) -> None:
    with EnvoyProcess.start({"admin": {"address": {"pipe": {"path": str(tmp_path / "a.sock")}}}}, tmp_path) as envoy:
        envoy.wait_ready()
        assert "server.live" in envoy.admin("/stats")


def test_an_envoy_that_refuses_its_bootstrap_is_an_error_with_its_log() -> None:
    with EnvoyProcess.start({"nonsense": 1}) as envoy, pytest.raises(EnvoyError, match="nonsense"):
        envoy.wait_ready()
