"""What a port speaks, where it leads, and what selects what.

SMI has no field for the protocol of a port, so Kubernetes' own hints decide (docs/adr/0008): HTTP unless something
says otherwise. The rule is here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping

from smi_adapter.mesh import Protocol
from smi_adapter.snapshot import ContainerPort, Pod, Service, ServicePort

_HTTP_WORDS = frozenset(
    {"http", "http2", "grpc", "grpc-web", "h2c", "ws", "kubernetes.io/h2c", "kubernetes.io/ws"},
)
_TCP_WORDS = frozenset(
    {
        "amqp",
        "amqps",
        "cassandra",
        "dns",
        "ftp",
        "https",
        "imap",
        "kafka",
        "ldap",
        "ldaps",
        "memcached",
        "mongo",
        "mongodb",
        "mqtt",
        "mssql",
        "mysql",
        "nats",
        "pop3",
        "postgres",
        "postgresql",
        "redis",
        "smtp",
        "smtps",
        "ssh",
        "tcp",
        "tls",
        "wss",
        "zookeeper",
    },
)


def protocol_of(name: str, transport: str, app_protocol: str = "") -> Protocol | None:
    """Return what a Service's or container's port speaks; None: something that we don't carry (SCTP)."""
    if transport != "TCP":
        return Protocol.UDP if transport == "UDP" else None
    if app_protocol:
        return Protocol.HTTP if app_protocol.lower() in _HTTP_WORDS else Protocol.TCP
    return Protocol.TCP if name.lower().partition("-")[0] in _TCP_WORDS else Protocol.HTTP


def service_protocol(port: ServicePort) -> Protocol | None:
    """Return what a Service's port speaks."""
    return protocol_of(port.name, port.protocol, port.app_protocol)


def container_protocol(port: ContainerPort) -> Protocol | None:
    """Return what a container's port speaks, by its name alone."""
    return protocol_of(port.name, port.protocol)


def target_number(port: ServicePort, pod: Pod) -> int | None:
    """Return the number of the pod's port to which a Service's port leads; None: the pod has no port of that name."""
    if isinstance(port.target, int):
        return port.target or port.number
    if port.target.isdecimal():
        return int(port.target)
    for candidate in pod.ports:
        if candidate.name == port.target and candidate.protocol == port.protocol:
            return candidate.number
    return None


def selects(service: Service, labels: Mapping[str, str]) -> bool:
    """Tell whether a Service's selector holds for the labels; no selector selects nobody."""
    return bool(service.selector) and all(labels.get(key) == value for key, value in service.selector.items())
