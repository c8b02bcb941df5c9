"""What a replica says when it can't begin."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner

from smi_adapter.cli.run import run


class NoCluster:
    """A login with which nothing is asked any more."""

    namespace = "smi-system"
    account = ""
    closed = False

    async def close(self) -> None:
        self.closed = True


def test_a_former_backend_that_is_not_installed_is_told_by_the_name_of_the_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = NoCluster()

    async def connect(*_: Any) -> NoCluster:
        return client

    monkeypatch.setattr("smi_adapter.controller.Client.connect", connect)
    monkeypatch.setattr("smi_adapter.telemetry.configure", lambda *_: None)
    monkeypatch.setenv("SMI_ADAPTER_FORMER_BACKENDS", "envoi")
    found = CliRunner().invoke(run, [])
    assert found.exit_code == 1
    assert "former_backends" in found.output
    assert "'envoi'" in found.output
    assert "gateway_api" in found.output, "the installed ones"
    assert client.closed
