"""Status and Events on a real API server: objects by kubectl, the real pipeline, and proxies that answer as told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from smi_adapter import app, crds
from smi_adapter.backends import load
from smi_adapter.cluster.client import Client
from smi_adapter.cluster.reporting import Now, Reporting
from smi_adapter.decode import RawObject, ref_of
from smi_adapter.findings import Finding, Ref
from smi_adapter.smi.objects import Key
from smi_adapter.snapshot import Options
from tests.cluster.control_plane import ControlPlane

SECONDS = 30.0


def plural_path(raw: Mapping[str, Any]) -> str:
    """Return where an object lies."""
    meta = raw["metadata"]
    plural = crds.plural(raw["kind"])
    return f"/apis/{raw['apiVersion']}/namespaces/{meta['namespace']}/{plural}/{meta['name']}"


def bare(raw: RawObject, namespace: str) -> dict[str, Any]:
    """Return a manifest as a user would apply it: without what the API adds."""
    metadata = {"name": raw["metadata"]["name"], "namespace": namespace}
    if "annotations" in raw["metadata"]:
        metadata["annotations"] = raw["metadata"]["annotations"]
    return {**raw, "metadata": metadata}


def always() -> float:
    """Stand in for a lease that is held."""
    return 10.0


@dataclass
class Cluster:
    """A namespace of an API server whose objects are compiled and reported on."""

    plane: ControlPlane
    namespace: str
    reporting: Reporting
    compiler: app.Compiler
    generation: int = 0
    acknowledged: dict[Key, tuple[int, ...]] = field(default_factory=dict)
    extra: list[Finding] = field(default_factory=list)

    def kubectl_apply(self, *objects: Mapping[str, Any]) -> None:
        self.plane.apply(*objects)

    def seen(self, *objects: RawObject, gone: Iterable[Ref] = ()) -> None:
        """Publish objects as the source would, after a push."""
        batch: dict[Ref, RawObject | None] = {ref_of(item): item for item in objects}
        batch.update(dict.fromkeys(gone))
        compiled = self.compiler.apply(batch)
        self.generation += 1
        self.reporting.published(batch, compiled.snapshot, compiled.translation, self.generation)

    def reread(self, *objects: Mapping[str, Any]) -> None:
        """Publish objects as they lie in the API now."""
        self.seen(*(self.plane.get(plural_path(item)) for item in objects))

    def acknowledge(self, *workloads: str) -> None:
        for name in workloads:
            self.acknowledged[self.namespace, name] = (self.generation,)
        self.reporting.changed()

    def now(self) -> Now:
        compiled = self.compiler.current
        found = compiled.notes() if compiled is not None else ()
        return Now([*found, *self.extra], dict(self.acknowledged))

    def status(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """Return the status of an object by condition: (status, reason)."""
        found = self.plane.get(plural_path(item)).get("status", {})
        conditions = found.get("conditions", ()) if isinstance(found, dict) else ()  # it may be nonsense
        return {one["type"]: (one["status"], one["reason"]) for one in conditions if "status" in one}

    def events(self) -> list[dict[str, Any]]:
        found = self.plane.get(f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events")["items"]
        return [item for item in found if item.get("reportingController") == "smi-adapter.io/controller"]


async def until(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    """Poll a condition, off the event loop, as it asks the API server."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not await asyncio.to_thread(condition):
        assert asyncio.get_running_loop().time() < deadline, "waited in vain"
        await asyncio.sleep(0.05)


@asynccontextmanager
async def cluster(
    plane: ControlPlane,
    namespace: str,
    *,
    kubeconfig: str = "",
    left: Callable[[], float] = always,
    backend: str = "envoy",
    **options: Any,
) -> AsyncIterator[Cluster]:
    """Report on a namespace, through another kubeconfig if one is named (of a proxy that makes faults)."""
    client = await Client.connect(kubeconfig or str(plane.kubeconfig))
    reporting = Reporting(client, backend, "smi-adapter-test", left, pause=0.02)
    made = Cluster(plane, namespace, reporting, app.Compiler(load(backend), Options(**options)))
    tasks = [asyncio.create_task(reporting.look(made.now)), asyncio.create_task(reporting.write())]
    try:
        yield made
        for task in tasks:
            assert not task.done(), task
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await client.close()
