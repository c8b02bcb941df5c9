"""An xDS client in the same process: it speaks to the state machine of one stream, with a clock that tests turn."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from smi_adapter.backends import Part, Resource, XdsConfig
from smi_adapter.delivery.xds.catalogue import Catalogue, View
from smi_adapter.delivery.xds.stream import Answer, Pace, Stream
from smi_adapter.delivery.xds.types import CLUSTER, ENDPOINTS, EXTENSION, LISTENER, ROUTES, SECRET
from smi_adapter.envoy_api import message, version_of
from smi_adapter.findings import Ref
from smi_adapter.mesh import Key

Request = message("envoy.service.discovery.v3.DeltaDiscoveryRequest")
Response = message("envoy.service.discovery.v3.DeltaDiscoveryResponse")

ME: Key = ("shop", "web")
ID = "spiffe://cluster.local/ns/shop/sa/web"
PART: Part = ("all", "shop", "web")


def resource(
    type_url: str, name: str, content: object = 1, *, closed: bytes | None = None, origins: tuple[Ref, ...] = ()
) -> Resource:
    """Make a resource with some JSON as its body."""
    body = json.dumps(content).encode()
    return Resource(type_url, name, body, version_of(body), origins, closed)


def cluster(name: str, content: object = 1) -> Resource:
    return resource(CLUSTER, name, content)


def endpoints(name: str, content: object = 1) -> Resource:
    return resource(ENDPOINTS, name, content)


def listener(name: str, content: object = 1) -> Resource:
    return resource(LISTENER, name, content)


def routes(name: str, content: object = 1, closed: bytes | None = None) -> Resource:
    return resource(ROUTES, name, content, closed=closed)


def config(
    parts: Mapping[Part, Iterable[Resource]],
    scopes: Mapping[Key, Iterable[Part]] | None = None,
    **more: Any,
) -> XdsConfig:
    """Make a config in which ME sees everything, unless `scopes` says otherwise."""
    all_parts = {part: tuple(resources) for part, resources in parts.items()}
    chosen = {ME: all_parts} if scopes is None else scopes
    return XdsConfig(
        all_parts,
        {key: frozenset(scope) for key, scope in chosen.items()},
        dict.fromkeys(chosen, ID),
        **more,
    )


def one_part(*resources: Resource) -> XdsConfig:
    return config({PART: resources})


class Controller:
    """A catalogue and any number of clients: what the server is, without gRPC."""

    def __init__(self, first: XdsConfig) -> None:
        self.catalogue = Catalogue()
        self.generation = 0
        self.clients: list[Client] = []
        self.publish(first)

    def publish(self, new: XdsConfig) -> None:
        self.generation += 1
        before = self.catalogue.config
        changed = self.catalogue.apply(new)
        for client in self.clients:
            scope = new.scopes.get(client.workload, frozenset())
            client.stream.on_change(client.view.follow(scope, changed, before.parts), self.generation)

    def connect(
        self, workload: Key = ME, *, pace: Pace | None = None, secrets: Iterable[Resource] = (), slot: float = 0.0
    ) -> Client:
        client = Client(self, workload, pace or Pace(), secrets, slot)
        self.clients.append(client)
        return client


class Client:
    """One stream seen from the proxy's side."""

    def __init__(
        self, controller: Controller, workload: Key, pace: Pace, secrets: Iterable[Resource], slot: float
    ) -> None:
        self.workload = workload
        self.answers: list[Answer] = []
        self.now = 100.0
        scope = controller.catalogue.config.scopes.get(workload, frozenset())
        self.view = View(controller.catalogue, scope, secrets)
        self.stream = Stream(self.view, pace, slot=slot, on_answer=self.answers.append)

    def ask(
        self,
        type_url: str,
        *names: str,
        drop: Iterable[str] = (),
        holds: Mapping[str, str] | None = None,
        nonce: str = "",
    ) -> None:
        """Send a request that subscribes."""
        self.stream.on_request(
            Request(
                type_url=type_url,
                resource_names_subscribe=names,
                resource_names_unsubscribe=list(drop),
                initial_resource_versions=dict(holds or {}),
                response_nonce=nonce,
            )
        )

    def receive(self) -> Any:
        """Return the next response, or None if the server has nothing to say now."""
        while (data := self.stream.next_message(self.now)) is None and self.stream.wake_at <= self.now:
            pass
        return None if data is None else Response.FromString(data)

    def take(self) -> Any:
        """Receive a response and acknowledge it."""
        response = self.receive()
        if response is not None:
            self.ack(response)
        return response

    def take_all(self) -> list[Any]:
        """Receive and acknowledge until there is nothing more."""
        taken = []
        while (response := self.take()) is not None:
            taken.append(response)
        return taken

    def ack(self, response: Any) -> None:
        self.stream.on_request(Request(type_url=response.type_url, response_nonce=response.nonce))

    def nack(self, response: Any, why: str = "bad") -> None:
        self.stream.on_request(
            Request(
                type_url=response.type_url, response_nonce=response.nonce, error_detail={"code": 13, "message": why}
            )
        )

    def wait(self, seconds: float) -> None:
        self.now += seconds

    @property
    def waits_for_time(self) -> bool:
        return self.now < self.stream.wake_at < math.inf


def names(response: Any) -> list[str]:
    """Return what a response carries."""
    return [item.name for item in response.resources]


def said(responses: Iterable[Any]) -> list[tuple[str, list[str], list[str]]]:
    """Return responses as (short type, names, removed)."""
    short = {CLUSTER: "CDS", ENDPOINTS: "EDS", LISTENER: "LDS", ROUTES: "RDS", EXTENSION: "ECDS", SECRET: "SDS"}
    return [(short[item.type_url], names(item), list(item.removed_resources)) for item in responses]
