"""A ClusterSource with a Compiler behind it and nothing else: what a controller would know and push."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from smi_adapter.app import Compiled, Compiler
from smi_adapter.backends import XdsConfig, load
from smi_adapter.cluster.client import Client
from smi_adapter.cluster.source import ClusterSource
from smi_adapter.decode import RawObject
from smi_adapter.evaluate import Request, Verdict, evaluate
from smi_adapter.findings import Ref
from smi_adapter.snapshot import EMPTY, Options, Snapshot

PATIENCE: Final = 90.0
"""Seconds; how soon something happens is measured elsewhere (tests/bench), here only whether it does."""


class Follower:
    """Runs in the test's event loop; an async context manager. Options go to `ClusterSource`."""

    def __init__(self, kubeconfig: Path, **options: Any) -> None:
        self._kubeconfig = kubeconfig
        self._options = options
        self._compiler = Compiler(load("envoy"), Options(), cluster=True)
        self.batches: list[dict[Ref, RawObject | None]] = []
        self.pushes = 0
        """How often the configuration of the proxies became another one."""

    @property
    def snapshot(self) -> Snapshot:
        """Return what is known now."""
        return self._compiler.current.snapshot if self._compiler.current else EMPTY

    @property
    def compiled(self) -> Compiled:
        """Return everything that follows from it."""
        assert self._compiler.current is not None
        return self._compiler.current

    def verdict(self, request: Request) -> Verdict:
        """Return what happens to a request."""
        return evaluate(self.compiled.supported.mesh, request)

    async def __aenter__(self) -> Self:
        self.client = await Client.connect(str(self._kubeconfig))
        self.source = ClusterSource(self.client, **self._options)
        self._task = asyncio.create_task(self._follow())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self.client.close()

    async def _follow(self) -> None:
        served: object = None
        async for batch in self.source:
            self.batches.append(dict(batch))
            config = self._compiler.apply(batch).rendered
            assert isinstance(config, XdsConfig)
            before, served = served, (config.parts, config.scopes, config.identities)  # how it was made is no matter
            self.pushes += served != before

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until a condition holds; only something that never comes about takes longer than a busy machine may."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if self._task.done():
                self._task.result()
                raise AssertionError("the source ended")
            assert time.monotonic() < deadline, f"waited {PATIENCE:.0f} s in vain; {self.source.state()}"
            await asyncio.sleep(0.01)

    async def synced(self) -> None:
        """Wait for the first batch."""
        await self.until(lambda: self.batches)
