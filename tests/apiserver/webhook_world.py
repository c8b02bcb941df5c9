"""Replicas of the webhooks beside a real API server, and objects to write.

The API server calls the webhooks by URL, because nothing routes Service addresses here; everything else is as in a
cluster. The webhook server is in this process, so kubectl runs on a thread.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import yaml

from smi_adapter import app, crds
from smi_adapter.backends import load
from smi_adapter.cluster.client import Client
from smi_adapter.smi import wire
from smi_adapter.snapshot import Options
from smi_adapter.webhooks import configuration
from smi_adapter.webhooks.certificates import Lives
from smi_adapter.webhooks.keeper import Places, SecretKeeper
from smi_adapter.webhooks.server import Limits, WebhookServer, path_of
from tests.cluster.control_plane import ControlPlane

CONFIGURATION = "smi-adapter"
SECRET = "smi-adapter-webhooks"
VALIDATING = f"/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/{CONFIGURATION}"
MERGE = "application/merge-patch+json"
PATIENT = Limits(reading=30.0, judging=25.0, converting=30.0)
"""On a busy machine 2 s are short; that a late answer stops nobody has tests of its own."""


@dataclass
class Replica:
    """One controller's part in this: a server, the keeper of its certificates, and whether it leads."""

    plane: ControlPlane
    client: Client
    server: WebhookServer
    port: int
    places: Places
    lives: Lives = field(default_factory=Lives)
    leads: bool = True
    ends: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How many requests to which webhook ended how."""

    def __post_init__(self) -> None:
        self.server._reviewed = self._count
        self.keeper = SecretKeeper(
            self.client,
            self.places,
            self.server,
            lambda: 10.0 if self.leads else 0.0,
            lives=self.lives,
        )

    def _count(self, webhook: str, end: str, _seconds: float) -> None:
        self.ends[webhook, end] += 1

    async def kubectl(self, *arguments: str, stdin: str | None = None) -> Any:
        return await asyncio.to_thread(self.plane.kubectl, *arguments, stdin=stdin, check=False)

    async def apply(self, raw: dict[str, Any], *arguments: str) -> Any:
        return await self.kubectl("apply", "-f", "-", *arguments, stdin=yaml.safe_dump(raw))

    def bundle(self) -> bytes:
        (webhook,) = self.plane.get(VALIDATING)["webhooks"]
        return base64.b64decode(webhook["clientConfig"].get("caBundle", ""))


class World:
    """Makes replicas, and takes away what they wrote."""

    def __init__(self, plane: ControlPlane, client: Client) -> None:
        self.plane, self.client = plane, client
        self.namespace = plane.new_namespace()
        client.namespace = self.namespace
        self.replicas: list[Replica] = []
        self.compiler = app.Compiler(load("envoy"), Options(), cluster=True)
        self.compiler.apply({})

    def judge(self, raw: Any) -> Any:
        found = self.compiler.would({wire.ref_of(raw): raw}).findings()
        return tuple(item for item in found if item.subject == wire.ref_of(raw))

    async def replica(self, *, converts: bool = False, lives: Lives | None = None, leads: bool = True) -> Replica:
        server = WebhookServer(self.judge, converts=converts, limits=PATIENT)
        server.path = path_of(b"shared by replicas")
        port = await server.start("127.0.0.1", 0)
        names = tuple(crds.name_of(one) for one in crds.definitions()) if converts else ()
        places = Places(SECRET, "smi-adapter-webhooks", ("localhost",), (CONFIGURATION,), names)
        made = Replica(self.plane, self.client, server, port, places, lives or Lives(), leads)
        self.replicas.append(made)
        return made

    def configure(self, port: int, **changes: Any) -> None:
        made = configuration.validating(CONFIGURATION, {"url": f"https://localhost:{port}/validate"})
        made["webhooks"][0].update({"timeoutSeconds": 30, **changes})
        self.plane.apply(made)

    async def close(self) -> None:
        for one in self.replicas:
            await one.server.stop(0.5)
        await asyncio.to_thread(
            self.plane.kubectl, "delete", "--ignore-not-found", "validatingwebhookconfiguration", CONFIGURATION
        )


async def trusted(replica: Replica) -> None:
    """Wait until the API server has read the configuration: from then on a bad object is refused."""
    await until(replica, lambda done: done.returncode == 1 and "SMI0201" in done.stderr)


async def until(replica: Replica, holds: Any) -> None:
    deadline = time.monotonic() + 60
    while not holds(done := await replica.apply(group(BAD, name="probe"), "--dry-run=server")):
        assert time.monotonic() < deadline, done
        await asyncio.sleep(0.1)


BAD = "("
"""A header's expression that RE2 does not take. The CRD cannot check headers, so only the webhook sees it."""


def group(header: str, name: str = "it", namespace: str = "", version: str = "v1alpha4") -> dict[str, Any]:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {
        "apiVersion": f"specs.smi-spec.io/{version}",
        "kind": "HTTPRouteGroup",
        "metadata": metadata,
        "spec": {"matches": [{"name": "m", "headers": {"x-beta": header}, "methods": ["GET"]}]},
    }


def split(namespace: str, backend: str = "web-v1") -> dict[str, Any]:
    return {
        "apiVersion": "split.smi-spec.io/v1alpha4",
        "kind": "TrafficSplit",
        "metadata": {"name": "it", "namespace": namespace},
        "spec": {"service": "web", "backends": [{"service": backend, "weight": 1}]},
    }
