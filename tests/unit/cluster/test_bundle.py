"""Who says what the mesh's root certificates are."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from smi_adapter.cluster import bundle
from smi_adapter.cluster.bundle import CERTIFICATES, PublicBundle
from smi_adapter.issuing import Issuing
from smi_adapter.settings import Settings
from tests.unit.test_xds_server import until


class Api:
    """An API server with this one ConfigMap."""

    namespace = "smi-system"
    account = ""

    def __init__(self) -> None:
        self.data = {CERTIFICATES: "of the Secret"}

    async def get(self, _path: str) -> Any:
        return {"data": dict(self.data)}

    async def request(self, _method: str, _path: str, *, body: Any, **_more: object) -> bytes:
        self.data |= body["data"]
        return b"{}"


async def test_f37_replicas_with_different_authorities_do_not_fight_over_the_bundle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bundle, "LOOK", 0.0)
    api: Any = Api()
    issuing = Issuing(Settings(), api)
    authority: Any = SimpleNamespace(bundle=b"in memory")
    issuing.authority, issuing.problem = authority, "the Secret holds another authority"
    looks = 0

    def look() -> bytes | None:
        nonlocal looks
        looks += 1
        return issuing.published()

    task = asyncio.create_task(PublicBundle(api, "ca").keep(look))
    await until(lambda: looks >= 3)
    assert api.data == {CERTIFICATES: "of the Secret"}
    issuing.problem = ""
    await until(lambda: api.data == {CERTIFICATES: "in memory"})
    assert not task.done()
    task.cancel()
