"""What Kubernetes' own kinds look like here, for `kubectl explain`: the fields that mean something without a cluster.

Every object may hold more (all other fields are kept in the files as they are written), so nothing is refused by these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def _text(description: str) -> dict[str, Any]:
    return {"type": "string", "description": description}


def _number(description: str) -> dict[str, Any]:
    return {"type": "integer", "description": description}


def _map(description: str) -> dict[str, Any]:
    return {"type": "object", "description": description, "additionalProperties": {"type": "string"}}


def _object(description: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "description": description,
        "properties": properties,
        "x-kubernetes-preserve-unknown-fields": True,
    }


def _list(description: str, item: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "description": description, "items": dict(item)}


OBJECT_META = _object(
    "What every object has.",
    name=_text("Name, unique for the kind within the namespace."),
    namespace=_text("Namespace of the object; none means default."),
    labels=_map("Labels, by which Services and other objects select."),
    annotations=_map("Annotations; those that begin with smi-adapter.io/ are read by smi-adapter."),
)

_CONTAINER = _object(
    "One process of a Pod.",
    name=_text("Name of the container."),
    image=_text("Not looked at without a cluster: the command is run on this machine."),
    command=_list("Program and first arguments; without it the process is yours to start.", _text("A word.")),
    args=_list("More arguments.", _text("A word.")),
    env=_list(
        "Environment of the process.",
        _object("A variable.", name=_text("Name."), value=_text("Value; $(OTHER) is replaced.")),
    ),
    ports=_list(
        "Ports on which the process listens, at the address of its Pod.",
        _object("A port.", name=_text("Name, for targetPort."), containerPort=_number("Number."),
                protocol=_text("TCP, UDP or SCTP.")),
    ),
    workingDir=_text("Where the process starts, within the directory of the files."),
)  # fmt: skip

_POD_SPEC = _object(
    "What runs in a Pod.",
    serviceAccountName=_text("Identity of the Pod, by which TrafficTargets know it; none means default."),
    containers=_list("The processes of the Pod.", _CONTAINER),
)

_SELECTOR = _object("Which Pods belong to it.", matchLabels=_map("Labels that a Pod must have."))

_TEMPLATE = _object("What each Pod looks like.", metadata=OBJECT_META, spec=_POD_SPEC)

_WORKLOAD_SPEC = _object(
    "How many Pods there are, and what each looks like.",
    replicas=_number("How many Pods to run; none means one."),
    selector=_SELECTOR,
    template=_TEMPLATE,
)

_SERVICE_SPEC = _object(
    "Who is behind the Service and at which ports.",
    selector=_map("Labels of the Pods behind it."),
    ports=_list(
        "Ports of the Service.",
        _object(
            "A port.",
            name=_text("Name; one that begins with tcp- or the like says what is spoken."),
            port=_number("Number that clients dial."),
            targetPort={
                "description": "Number or name of the port of the Pods; none means the same number.",
                "x-kubernetes-int-or-string": True,
            },
            protocol=_text("TCP, UDP or SCTP; none means TCP."),
            appProtocol=_text("What is spoken: http, grpc, tcp and the like; none means HTTP."),
        ),
    ),
    type=_text("ClusterIP. ExternalName is not routed."),
)

_ENDPOINTS = _list(
    "The addresses behind the Service.",
    _object("One of them.", addresses=_list("Addresses.", _text("An address."))),
)

_SCHEMAS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "Namespace": (
        "A space of names. Its annotation smi-adapter.io/access-mode says whether access rules are enforced in it.",
        {},
    ),
    "Service": ("A name that is dialled, and the Pods behind it.", {"spec": _SERVICE_SPEC}),
    "ServiceAccount": ("An identity of Pods.", {}),
    "Pod": ("Processes of this machine with a proxy in front of them.", {"spec": _POD_SPEC}),
    "Event": (
        "Something that smi-adapter has to say about an object.",
        {
            "message": _text("What happened."),
            "reason": _text("The name of the finding."),
            "type": _text("Normal or Warning."),
        },
    ),
    "Deployment": ("A number of like Pods.", {"spec": _WORKLOAD_SPEC}),
    "StatefulSet": ("A number of like Pods.", {"spec": _WORKLOAD_SPEC}),
    "ReplicaSet": ("A number of like Pods.", {"spec": _WORKLOAD_SPEC}),
    "DaemonSet": ("One Pod, as this is one machine.", {"spec": _WORKLOAD_SPEC}),
    "EndpointSlice": (
        "The addresses behind a Service; smi-adapter makes it unless you write one.",
        {"endpoints": _ENDPOINTS},
    ),
}  # fmt: skip


def schema_of(kind: str) -> dict[str, Any]:
    """Return the schema of one of Kubernetes' own kinds."""
    description, properties = _SCHEMAS[kind]
    return _object(
        description,
        apiVersion=_text("The API group and version that this object is written in."),
        kind=_text("The kind of this object."),
        **properties,
    )
