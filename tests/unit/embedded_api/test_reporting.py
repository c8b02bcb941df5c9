"""Statuses and Events without a cluster: when they come, and when nothing is said."""

from __future__ import annotations

from typing import Any

from smi_adapter import app
from smi_adapter.backends import load
from smi_adapter.decode import ref_of
from smi_adapter.embedded_api.reporting import EVENT_LIFE, Reporting
from smi_adapter.embedded_api.store import Store
from smi_adapter.snapshot import Options
from tests.unit.embedded_api.world import split


class Run:
    """A store that is reported on, at a time of our own."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.store = Store(clock=lambda: self.now)
        self.reporting = Reporting(self.store, "envoy", clock=lambda: self.now)
        self.compiler = app.Compiler(load("envoy"), Options())

    def edit(self, *raws: Any) -> None:
        self._change({ref_of(raw): raw for raw in raws})

    def _change(self, batch: Any) -> None:
        compiled = self.compiler.apply(batch)
        self.store.take(batch)
        self.reporting.take(batch, compiled.snapshot, compiled.translation.mesh, 1)
        self.tell()

    def remove(self, raw: Any) -> None:
        self._change({ref_of(raw): None})

    def tell(self, seconds: float = 0.0) -> None:
        self.now += seconds
        assert self.compiler.current is not None
        self.reporting.tell(self.compiler.current.findings(), {})

    def events(self) -> list[str]:
        return [entry.raw["reason"] for ref, entry in self.store.everything().items() if ref.kind == "Event"]


def conditions(run: Run) -> dict[str, str]:
    status = run.store.everything()[ref_of(split())].status
    return {one["type"]: one["status"] for one in status["conditions"]}


def test_a_status_is_there_with_the_object_and_an_event_when_its_finding_lasts() -> None:
    run = Run()
    run.edit(split())
    assert conditions(run)["ResolvedRefs"] == "False"
    assert run.events() == []
    run.tell(2.0)
    assert run.events() == ["RootNotFound"]


def test_nothing_is_said_while_nothing_is_new() -> None:
    run = Run()
    run.edit(split())
    run.tell(2.0)
    revision = run.store.revision
    for _ in range(100):
        run.tell(1.0)
    assert run.store.revision == revision


def test_a_status_of_the_same_generation_keeps_its_times() -> None:
    run = Run()
    run.edit(split())
    first = run.store.everything()[ref_of(split())].status["conditions"][0]["lastTransitionTime"]
    run.now += 100
    run.edit(split(weight=2))
    status = run.store.everything()[ref_of(split())].status
    assert status["observedGeneration"] == 2
    assert status["conditions"][0]["lastTransitionTime"] == first


def test_events_outlive_their_object_for_an_hour_but_not_their_namespace() -> None:
    run = Run()
    run.edit(split())
    run.tell(2.0)
    run.edit({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "joe", "namespace": "shop"}})
    run.remove(split())
    assert run.events() == ["RootNotFound"]
    run.tell(EVENT_LIFE + 1)
    assert run.events() == []
    run.edit(split())
    run.tell(2.0)
    assert run.events() == ["RootNotFound"]
    run.store.take(dict.fromkeys([ref for ref in run.store.everything() if ref.namespace == "shop"]))
    assert run.events() == []


def test_a_workload_says_how_many_of_its_pods_are_ready() -> None:
    run = Run()
    owner = [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}]
    spec: dict[str, Any] = {"template": {"metadata": {}, "spec": {"containers": []}}}
    run.edit(
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "shop"}, "spec": spec}
    )
    for number, ready in enumerate(("True", "False")):
        metadata = {"name": f"web-{number}", "namespace": "shop", "ownerReferences": owner}
        status = {"podIP": f"127.0.0.{number + 2}", "conditions": [{"type": "Ready", "status": ready}]}
        run.edit(
            {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": []}, "status": status}
        )
    found: Any = next(entry.status for ref, entry in run.store.everything().items() if ref.kind == "Deployment")
    assert (found["replicas"], found["readyReplicas"]) == (2, 1)
    assert [one["status"] for one in found["conditions"]] == ["False", "True"]
