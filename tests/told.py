"""A small cluster as raw objects, as the API gives them, compiled by the real compiler and reported on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from smi_adapter import app
from smi_adapter.backends import load
from smi_adapter.decode import RawObject, ref_of
from smi_adapter.findings import Finding, Ref
from smi_adapter.report import Report, Reporter, Tally
from smi_adapter.report.conditions import Condition
from smi_adapter.smi.objects import ACCESS_GROUP, SPECS_GROUP, SPLIT_GROUP, Key
from smi_adapter.snapshot import Options

NS = "shop"
SPLIT = Ref("TrafficSplit", NS, "canary", SPLIT_GROUP)
TARGET = Ref("TrafficTarget", NS, "open", ACCESS_GROUP)
GROUP = Ref("HTTPRouteGroup", NS, "all", SPECS_GROUP)


def raw(api: str, kind: str, name: str, generation: int = 1, **body: Any) -> RawObject:
    metadata = {"name": name, "namespace": NS, "uid": f"uid-{kind}-{name}", "generation": generation}
    return {"apiVersion": api, "kind": kind, "metadata": {**metadata, **body.pop("metadata", {})}, **body}


def service(name: str, app_label: str | None = None, port: int = 80) -> RawObject:
    ports = [{"port": port, "targetPort": 8080}]
    return raw("v1", "Service", name, spec={"selector": {"app": app_label or name}, "ports": ports})


def pod(app_label: str, address: str, *, ready: bool = True) -> list[RawObject]:
    """Return a Pod of its own Deployment, and its slice."""
    made = raw(
        "v1",
        "Pod",
        f"{app_label}-5d4f-x1",
        metadata={
            "labels": {"app": app_label, "pod-template-hash": "5d4f"},
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"{app_label}-5d4f", "controller": True}
            ],
        },
        spec={"serviceAccountName": app_label, "containers": [{"ports": [{"containerPort": 8080}]}]},
        status={"podIP": address, "conditions": [{"type": "Ready", "status": str(ready)}]},
    )
    target = {"kind": "Pod", "name": made["metadata"]["name"]}
    slice_ = raw(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        f"{app_label}-abc",
        metadata={"labels": {"kubernetes.io/service-name": app_label}},
        ports=[{"port": 8080}],
        endpoints=[{"addresses": [address], "conditions": {"ready": ready}, "targetRef": target}],
    )
    return [made, slice_, raw("v1", "ServiceAccount", app_label)]


def split(generation: int = 1, version: str = "v1alpha4", **spec: Any) -> RawObject:
    body = {"service": "web", "backends": [{"service": "v1", "weight": 1}, {"service": "v2", "weight": 1}], **spec}
    return raw(f"{SPLIT_GROUP}/{version}", "TrafficSplit", "canary", generation, spec=body)


def group(generation: int = 1, path: str = "/.*") -> RawObject:
    matches = [{"name": "all", "pathRegex": path, "methods": ["*"]}]
    return raw(f"{SPECS_GROUP}/v1alpha4", "HTTPRouteGroup", "all", generation, spec={"matches": matches})


def target(generation: int = 1, **spec: Any) -> RawObject:
    body = {
        "destination": {"kind": "ServiceAccount", "name": "v1", "namespace": NS},
        "rules": [{"kind": "HTTPRouteGroup", "name": "all"}],
        "sources": [{"kind": "ServiceAccount", "name": "buyer", "namespace": NS}],
        **spec,
    }
    return raw(f"{ACCESS_GROUP}/v1alpha3", "TrafficTarget", "open", generation, spec=body)


def shop() -> list[RawObject]:
    """Return a root, two versions of what is behind it and a buyer, each with one ready pod."""
    return [
        *(service("web", "v1"), service("v1"), service("v2")),
        *pod("v1", "10.0.0.1"),
        *pod("v2", "10.0.0.2"),
        *pod("buyer", "10.0.0.3"),
    ]


WORKLOADS: tuple[Key, ...] = ((NS, "v1"), (NS, "v2"), (NS, "buyer"))


class Told:
    """The pipeline from raw objects to reports, with a proxy for each workload that acknowledges as told."""

    def __init__(self, *objects: RawObject, backend: str = "envoy", **options: Any) -> None:
        self.compiler = app.Compiler(load(backend), Options(**options))
        self.reporter = Reporter(backend)
        self.generation = 0
        self.acknowledged: dict[Key, tuple[int, ...]] = {}
        self.apply(*objects)

    def apply(self, *objects: RawObject, gone: Iterable[Ref] = ()) -> None:
        """Publish a batch; nobody has acknowledged it yet."""
        batch: dict[Ref, RawObject | None] = {ref_of(item): item for item in objects}
        batch.update(dict.fromkeys(gone))
        compiled = self.compiler.apply(batch)
        self.generation += 1
        translation = compiled.translation
        touched = (translation.services, translation.workloads)
        self.reporter.take(batch, compiled.snapshot, translation.mesh, self.generation, touched)

    def acknowledge(self, *workloads: Key) -> None:
        """Have the proxies of these workloads (default: of all) acknowledge all that was published."""
        for key in workloads or WORKLOADS:
            self.acknowledged[key] = (self.generation,)

    def reports(self, elsewhere: Iterable[Tally] = (), extra: Iterable[Finding] = ()) -> Mapping[Ref, Report]:
        compiled = self.compiler.current
        found = (*(compiled.findings() if compiled else ()), *extra)
        return {item.subject.ref: item for item in self.reporter.reports(found, self.acknowledged, elsewhere)}

    def condition(self, ref: Ref, kind: str, **more: Any) -> Condition:
        return self.reports(**more)[ref].status.condition(kind)

    def programmed(self, ref: Ref, **more: Any) -> str:
        """Return the reason of `Programmed`, with `!` before it if it is false."""
        condition = self.condition(ref, "Programmed", **more)
        return condition.reason if condition.status else f"!{condition.reason}"
