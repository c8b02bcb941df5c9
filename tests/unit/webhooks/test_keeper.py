"""The keeper of the webhooks' certificates writes only while its replica leads; the rest is tested on a real API."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from smi_adapter.cluster.client import ApiError, Unreachable
from smi_adapter.webhooks.keeper import Places, SecretKeeper
from smi_adapter.webhooks.server import WebhookServer


@dataclass
class Api:
    """An API server without the Secret."""

    namespace: str = "smi-system"
    writes: list[tuple[str, float]] = field(default_factory=list)

    async def get(self, path: str) -> Any:
        raise ApiError(404, "NotFound", path)

    async def request(self, method: str, _path: str, *, timeout: float, **_more: object) -> bytes:  # noqa: ASYNC109
        self.writes.append((method, timeout))
        return b"{}"


def keeper(api: Any, *left: float) -> SecretKeeper:
    """Return a keeper whose lease has so many seconds left when it looks, and looks again; the last one stays."""
    seconds = list(left)
    places = Places("webhooks", "webhooks")
    return SecretKeeper(api, places, WebhookServer(), lambda: seconds.pop(0) if len(seconds) > 1 else seconds[0])


async def test_a_write_lasts_no_longer_than_the_lease() -> None:
    api = Api()
    await keeper(api, 3.0).look()
    assert [method for method, _ in api.writes] == ["POST"]
    assert all(timeout <= 3.0 for _, timeout in api.writes)


async def test_a_lease_that_runs_out_on_the_way_ends_the_writing() -> None:
    api = Api()
    with pytest.raises(Unreachable):
        await keeper(api, 3.0, 0.0).look()
    assert api.writes == []


async def test_who_does_not_lead_writes_nothing() -> None:
    api = Api()
    await keeper(api, 0.0).look()
    assert api.writes == []
