"""The resource types of xDS that decide about order, and what is special about each."""

from __future__ import annotations

from typing import Final

from smi_adapter.backends import Resource

CLUSTER: Final = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
ENDPOINTS: Final = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER: Final = "type.googleapis.com/envoy.config.listener.v3.Listener"
ROUTES: Final = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
EXTENSION: Final = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
SECRET: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105 - a type

SEND_ORDER: Final = (SECRET, CLUSTER, ENDPOINTS, LISTENER, EXTENSION, ROUTES)
"""What may go now goes in this order. Secrets come first: a cluster is not warm before it has its secrets."""

WILDCARD: Final = frozenset({CLUSTER, LISTENER})
"""Types whose first request may ask for everything; a secret or a route is only ever named."""

MAKES: Final = frozenset({CLUSTER, ENDPOINTS})
"""Types that others refer to: what depends on them waits for their ACKs (envoy.md, section 6)."""

WAITS: Final = frozenset({LISTENER, EXTENSION, ROUTES})
"""Types that wait. Secrets do not: Envoy holds the ACK of a cluster until its secrets have come."""

_SHORT: Final = {CLUSTER: "CDS", ENDPOINTS: "EDS", LISTENER: "LDS", ROUTES: "RDS", EXTENSION: "ECDS", SECRET: "SDS"}


def short(type_url: str) -> str:
    """Return the name that people use, such as `RDS`."""
    return _SHORT.get(type_url, type_url.rpartition("/")[2])


def bears_access(resource: Resource) -> bool:
    """Tell whether a resource decides who is let in: such a one travels alone, so that a NACK names it.

    One that brings its own closed form does, and so do inbound routes and the validation contexts of TCP ports.
    """
    return (
        resource.closed is not None
        or (resource.type_url == ROUTES and resource.name.startswith("in/"))
        or (resource.type_url == SECRET and resource.name.startswith("tcp/"))
    )
