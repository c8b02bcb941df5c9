"""A Pod that is deleted and created again within the time that its former processes take to leave."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from smi_adapter.sources.processes import find_envoy
from tests.live.test_processes import pass_on, proxies, running

pytestmark = pytest.mark.live


async def test_a_pod_that_comes_back_at_once_waits_until_its_former_proxy_has_left(tmp_path: Path) -> None:
    async with running(tmp_path, envoy=find_envoy(os.environ), bootstrap=pass_on, inject="true") as run:
        await run.until(run.ready)
        former = set(proxies())  # of the same name for the control plane: it would take the new one's ports
        run.write(inject="true", replicas=0)
        await run.until(lambda: not any(ref.kind == "Pod" for ref in run.objects))
        run.write(inject="true")
        assert not former & set(await run.until(lambda: set(proxies()) - former and proxies()))
