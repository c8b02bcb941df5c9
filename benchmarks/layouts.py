"""What the controls send: the product's own resources, arranged in the ways that the product avoids.

One table for the whole mesh instead of one for each Service port (P3), and access rules inside a Listener instead of
in its routes (P10). They are made from what the product rendered, so that nothing but the arrangement differs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from smi_adapter import envoy_api
from smi_adapter.backends import Resource

ROUTES = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"

_ROUTES = "envoy.config.route.v3.RouteConfiguration"
_LISTENER = "envoy.config.listener.v3.Listener"
_HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


class OneTable:
    """All routes of a proxy in one RouteConfiguration, chosen by host behind one Listener."""

    NAME = "out/everything"

    def __init__(self, resources: Iterable[Resource], probed: str) -> None:
        """Arrange a proxy's resources; `probed` is the name of the Listener and routes that become host `*`."""
        every = list(resources)
        routes = {item.name: item for item in every if item.type_url == ROUTES and item.name.startswith("out/")}
        self._probed = sorted(routes).index(probed)
        hosts = [self._host(name, routes[name], "*" if name == probed else name) for name in sorted(routes)]
        self._message = envoy_api.message(_ROUTES)(name=self.NAME, virtual_hosts=hosts)
        self._message.validate_clusters.value = False
        listener = next(item for item in every if item.type_url == LISTENER and item.name == probed)
        rest = [item for item in every if item.name not in routes]
        self.resources = (*rest, self._listener(listener), self._table())

    def changed(self, routes: Resource) -> Resource:
        """Return the whole table after a change of the probed routes."""
        self._message.virtual_hosts[self._probed].CopyFrom(self._host("probed", routes, "*"))
        return self._table()

    @staticmethod
    def _host(name: str, routes: Resource, domain: str) -> Any:
        message = envoy_api.message(_ROUTES).FromString(routes.body)
        host = message.virtual_hosts[0]
        host.name = name
        host.domains[:] = [domain.replace("/", ".")]
        return host

    def _table(self) -> Resource:
        body = envoy_api.serialise(self._message)
        return Resource(ROUTES, self.NAME, body, envoy_api.version_of(body))

    def _listener(self, original: Resource) -> Resource:
        listener, manager = _managed(original)
        listener.name = self.NAME
        manager.rds.route_config_name = self.NAME
        return _listening(listener, manager)


def with_rules_inside(listener: Resource, routes: Resource) -> Resource:
    """Return an inbound Listener with its routes, access rules included, inside instead of by RDS."""
    message, manager = _managed(listener)
    manager.ClearField("rds")
    manager.route_config.CopyFrom(envoy_api.message(_ROUTES).FromString(routes.body))
    return _listening(message, manager)


def _managed(listener: Resource) -> tuple[Any, Any]:
    """Return a Listener's message and its first connection manager."""
    message = envoy_api.message(_LISTENER).FromString(listener.body)
    chains = [
        *message.filter_chains,
        *([message.default_filter_chain] if message.HasField("default_filter_chain") else []),
    ]
    for chain in chains:
        for network_filter in chain.filters:
            if network_filter.typed_config.type_url.endswith(_HCM):
                return message, envoy_api.message(_HCM).FromString(network_filter.typed_config.value)
    raise LookupError(f"{listener.name} has no HTTP connection manager")


def _listening(message: Any, manager: Any) -> Resource:
    """Return the Listener with this connection manager in the place of its first one."""
    chains = [
        *message.filter_chains,
        *([message.default_filter_chain] if message.HasField("default_filter_chain") else []),
    ]
    for chain in chains:
        for network_filter in chain.filters:
            if network_filter.typed_config.type_url.endswith(_HCM):
                network_filter.typed_config.CopyFrom(envoy_api.pack(manager))
                body = envoy_api.serialise(message)
                return Resource(LISTENER, message.name, body, envoy_api.version_of(body))
    raise LookupError(f"{message.name} has no HTTP connection manager")
