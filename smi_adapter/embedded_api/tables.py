"""Tables: what `kubectl get` prints. The server chooses the columns, so they are here and not in kubectl.

The columns of SMI kinds are those of their CRDs, so that a cluster and this API print the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, NamedTuple, TypeAlias

from smi_adapter.embedded_api.kinds import Kind, crd_version

Object: TypeAlias = Mapping[str, Any]
Cell: TypeAlias = Callable[[Object, float], Any]


class Column(NamedTuple):
    """One column; a priority above 0 is for `-o wide`."""

    name: str
    cell: Cell
    priority: int = 0
    type: str = "string"


def table(columns: Sequence[Column], objects: Sequence[Object], *, now: float, include: str = "Metadata",
          heads: bool = True) -> dict[str, Any]:  # fmt: skip
    """Return objects as a table; `include` says how much of each object comes with its row."""
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {},
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
        seconds = int(now - datetime.fromisoformat(str(timestamp)).astimezone(UTC).timestamp())
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
    return age(_at(item, "series", "lastObservedTime") or item.get("eventTime"), now)


_NAME = Column("Name", _text("metadata", "name"))
_AGE = Column("Age", _age)
_WORKLOAD = (
    _NAME,
    Column("Ready", _ready_of),
    Column("Up-to-date", _number("status", "updatedReplicas")),
    Column("Available", _number("status", "availableReplicas")),
    _AGE,
)

_COLUMNS: Mapping[str, tuple[Column, ...]] = {
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


@cache
def columns_of(kind: Kind, version: str) -> tuple[Column, ...]:
    """Return the columns of a kind."""
    if not kind.smi:
        return _COLUMNS[kind.name]
    found = crd_version(kind, version)["additionalPrinterColumns"]
    return (_NAME, *(Column(one["name"], _by_path(one), one.get("priority", 0), one["type"]) for one in found))


# ------------------------------------------------------------------------------------------- columns of the CRDs
_STEP = re.compile(r"""(?P<deep>\.\.)?\.?(?P<name>\w+)|\[\?\(@\.(?P<key>\w+)=="(?P<value>[^"]*)"\)\]""")


def _by_path(column: Mapping[str, Any]) -> Cell:
    """Return the cell that a JSON path names, as the API server fills it: of several values the first."""
    steps = [found.groupdict() for found in _STEP.finditer(column["jsonPath"])]

    def cell(item: Object, now: float) -> Any:
        found: list[Any] = [item]
        for step in steps:
            found = [one for value in found for one in _step(value, step)]
        if not found or found[0] is None:
            return None
        if column["type"] == "date":
            return age(found[0], now)
        return found[0] if not isinstance(found[0], Mapping | list) else json.dumps(found[0], separators=(",", ":"))

    return cell


def _step(value: Any, step: Mapping[str, str | None]) -> Iterator[Any]:
    """Yield what one step of a JSON path leads to."""
    below = list(value.values()) if isinstance(value, Mapping) else value if isinstance(value, list) else []
    if step["key"]:
        yield from (one for one in below if isinstance(one, Mapping) and one.get(step["key"]) == step["value"])
        return
    if isinstance(value, Mapping) and step["name"] in value:
        yield value[step["name"]]
    if step["deep"]:
        for one in below:
            yield from _step(one, step)
