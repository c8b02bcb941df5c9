"""Tables: what `kubectl get` prints. The server chooses the columns, so they are here and not in kubectl.

The columns of SMI kinds are those of their CRDs, so that a cluster and this API print the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeAlias

from smi_adapter.embedded_api.kinds import Kind

Object: TypeAlias = Mapping[str, Any]
Cell: TypeAlias = Callable[[Object, float], Any]


class Column(NamedTuple):
    """One column; a priority above 0 is for `-o wide`."""

    name: str
    cell: Cell
    priority: int = 0
    type: str = "string"


def table(kind: Kind, objects: Sequence[Object], *, now: float, include: str, revision: str,
          heads: bool = True) -> dict[str, Any]:  # fmt: skip
    """Return objects as a table; `include` says how much of each object comes with its row."""
    columns = columns_of(kind)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": revision},
        "columnDefinitions": [
            {
                "name": one.name,
                "type": one.type,
                "format": "name" if one.name == "Name" else "",
                "description": "",
                "priority": one.priority,
            }
            for one in columns
        ]
        if heads
        else None,
        "rows": [
            {"cells": [one.cell(item, now) for one in columns], "object": _included(item, include)} for item in objects
        ],
    }


def _included(item: Object, include: str) -> Any:
    if include == "Object":
        return item
    if include == "None":
        return None
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": item["metadata"]}


# ----------------------------------------------------------------------------------------------------- cells
def _at(item: Any, *path: str) -> Any:
    for step in path:
        item = item.get(step) if isinstance(item, Mapping) else None
    return item


def _text(*path: str) -> Cell:
    return lambda item, _: _at(item, *path) if _at(item, *path) is not None else "<none>"


def _items(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def _joined(parts: Iterable[Any], most: int = 4) -> str:
    listed = [str(part) for part in parts]
    more = f" + {len(listed) - most} more..." if len(listed) > most else ""
    return ",".join(listed[:most]) + more or "<none>"


def age(timestamp: Any, now: float) -> str:
    """Return how long ago that was, as kubectl writes it."""
    try:
        seconds = int(now - datetime.fromisoformat(str(timestamp).replace("Z", "+00:00")).astimezone(UTC).timestamp())
    except ValueError:
        return "<unknown>"
    if seconds < 120:
        return f"{max(seconds, 0)}s"
    if seconds < 3 * 3600:
        minutes, rest = divmod(seconds, 60)
        return f"{minutes}m{rest}s" if minutes < 10 and rest else f"{minutes}m"
    if seconds < 2 * 86400:
        hours, rest = divmod(seconds // 60, 60)
        return f"{hours}h{rest}m" if hours < 8 and rest else f"{hours}h"
    days, rest = divmod(seconds // 3600, 24)
    return f"{days}d{rest}h" if days < 8 and rest else f"{days}d"


def _age(item: Object, now: float) -> str:
    return age(_at(item, "metadata", "creationTimestamp"), now)


def _condition(name: str) -> Cell:
    def cell(item: Object, _: float) -> Any:
        return next(
            (one.get("status") for one in _items(_at(item, "status", "conditions")) if one.get("type") == name), ""
        )

    return cell


def _backends(item: Object, _: float) -> str:
    return _joined((f"{one.get('service')}={one.get('weight')}" for one in _items(_at(item, "spec", "backends"))), 8)


def _destination(item: Object, _: float) -> Any:
    return _at(item, "spec", "destination", "name") or _at(item, "destination", "name") or ""


def _sources(item: Object, _: float) -> str:
    return _joined((one.get("name") for one in _items(_at(item, "spec", "sources") or _at(item, "sources"))), 8)


def _matches(item: Object, _: float) -> str:
    return _joined((one.get("name") for one in _items(_at(item, "spec", "matches") or _at(item, "matches"))), 8)


def _ports(item: Object, _: float) -> str:
    return _joined((_at(item, "spec", "matches", "ports") or []), 8)


def _pod_ready(item: Object, _: float) -> str:
    total = len(_items(_at(item, "spec", "containers")))
    return f"{total if _condition('Ready')(item, 0) == 'True' else 0}/{total}"


def _service_ports(item: Object, _: float) -> str:
    return _joined((f"{one.get('port')}/{one.get('protocol', 'TCP')}" for one in _items(_at(item, "spec", "ports"))), 8)


def _selector(item: Object, _: float) -> str:
    chosen = _at(item, "spec", "selector") or {}
    chosen = chosen.get("matchLabels", chosen) if isinstance(chosen, Mapping) else {}
    return _joined((f"{name}={one}" for name, one in chosen.items()), 8)


def _replicas(item: Object) -> int:
    wanted = _at(item, "spec", "replicas")
    return wanted if isinstance(wanted, int) else 1


def _ready_of(item: Object, _: float) -> str:
    return f"{_at(item, 'status', 'readyReplicas') or 0}/{_replicas(item)}"


def _number(*path: str) -> Cell:
    return lambda item, _: _at(item, *path) or 0


def _endpoints(item: Object, _: float) -> str:
    return _joined(address for one in _items(item.get("endpoints")) for address in one.get("addresses") or ())


def _slice_ports(item: Object, _: float) -> str:
    return _joined(one.get("port") for one in _items(item.get("ports")))


def _event_object(item: Object, _: float) -> str:
    about = item.get("involvedObject") or item.get("regarding") or {}
    return f"{str(about.get('kind', '')).lower()}/{about.get('name', '')}"


def _event_age(item: Object, now: float) -> str:
    return age(item.get("lastTimestamp") or item.get("deprecatedLastTimestamp") or item.get("eventTime"), now)


_NAME = Column("Name", _text("metadata", "name"))
_AGE = Column("Age", _age)
_ACCEPTED = Column("Accepted", _condition("Accepted"))
_PROGRAMMED = Column("Programmed", _condition("Programmed"))

_WORKLOAD = (
    _NAME,
    Column("Ready", _ready_of),
    Column("Up-to-date", _number("status", "updatedReplicas")),
    Column("Available", _number("status", "availableReplicas")),
    _AGE,
)

_COLUMNS: Mapping[str, tuple[Column, ...]] = {
    "TrafficSplit": (_NAME, Column("Service", _text("spec", "service")), Column("Backends", _backends), _ACCEPTED,
                     _PROGRAMMED, _AGE),
    "TrafficTarget": (_NAME, Column("Destination", _destination), Column("Sources", _sources), _ACCEPTED, _PROGRAMMED,
                      _AGE),
    "HTTPRouteGroup": (_NAME, Column("Matches", _matches), _ACCEPTED, _AGE),
    "TCPRoute": (_NAME, Column("Ports", _ports), _ACCEPTED, _AGE),
    "UDPRoute": (_NAME, Column("Ports", _ports), _ACCEPTED, _AGE),
    "IdentityBinding": (_NAME, _ACCEPTED, _AGE),
    "Namespace": (_NAME, Column("Status", lambda item, _: _at(item, "status", "phase") or "Active"), _AGE),
    "Service": (_NAME, Column("Type", lambda item, _: _at(item, "spec", "type") or "ClusterIP"),
                Column("Cluster-IP", lambda *_: "None"), Column("External-IP", lambda *_: "<none>"),
                Column("Port(s)", _service_ports), _AGE, Column("Selector", _selector, 1)),
    "ServiceAccount": (_NAME, _AGE),
    "Pod": (_NAME, Column("Ready", _pod_ready), Column("Status", _text("status", "phase")),
            Column("Restarts", lambda *_: "0"), _AGE, Column("IP", _text("status", "podIP"), 1)),
    "Deployment": _WORKLOAD,
    "StatefulSet": (_NAME, Column("Ready", _ready_of), _AGE),
    "ReplicaSet": (_NAME, Column("Desired", lambda item, _: _replicas(item)),
                   Column("Ready", _number("status", "readyReplicas")), _AGE),
    "DaemonSet": (_NAME, Column("Ready", _number("status", "numberReady")), _AGE),
    "EndpointSlice": (_NAME, Column("AddressType", _text("addressType")), Column("Ports", _slice_ports),
                      Column("Endpoints", _endpoints), _AGE),
    "Event": (Column("Last Seen", _event_age), Column("Type", _text("type")), Column("Reason", _text("reason")),
              Column("Object", _event_object),
              Column("Message", lambda item, _: item.get("message") or item.get("note") or ""),
              Column("Name", _text("metadata", "name"), 1)),
}  # fmt: skip


def columns_of(kind: Kind) -> tuple[Column, ...]:
    """Return the columns of a kind."""
    return _COLUMNS[kind.name]
