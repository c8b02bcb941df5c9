"""The forms of the Kubernetes objects that we read: only the fields that decide something.

`decode` projects raw objects onto these, and so does `sources.controllers`, which stands in for the Kubernetes
controllers where there is no cluster. msgspec checks types and bounds and says in words which field is wrong; fields
that are not named here are never looked at (a Pod has about 200).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec

from smi_adapter.findings import Finding, Ref, finding

RawObject: TypeAlias = Mapping[str, Any]
"""An object as it was written or sent, never changed by us."""

PREFIX = "smi-adapter.io/"
APP_ADDRESS = "smi-adapter.io/app-address"
"""Annotation of a Pod in no-cluster mode: the loopback address where its application listens."""
DIAL = "smi-adapter.io/dial"
"""Annotation of a Pod in no-cluster mode: JSON of `namespace/service` to the loopback address that it dials."""
INJECT = "smi-adapter.io/inject"
"""Annotation of a Pod: `false` means that it has no proxy."""
NO_CLUSTER = "smi-adapter/no-cluster"
"""The platform that the API of `run --source --api` names at /version: its world is read like the files behind it."""
UNREADABLE = "smi-adapter.io/unreadable"
"""Top-level field of a stand-in for an object that a source could not read at all: why not, in words."""
SERVICE_NAME = "kubernetes.io/service-name"
"""Label of an EndpointSlice: its Service."""

CLUSTER_SCOPED = frozenset(
    {
        "APIService",
        "CSIDriver",
        "ClusterRole",
        "ClusterRoleBinding",
        "CustomResourceDefinition",
        "File",
        "GatewayClass",
        "IngressClass",
        "MutatingWebhookConfiguration",
        "Namespace",
        "Node",
        "PersistentVolume",
        "PriorityClass",
        "RuntimeClass",
        "StorageClass",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
        "ValidatingWebhookConfiguration",
    }
)

Text: TypeAlias = str | None
Labels: TypeAlias = dict[str, str] | None
Port: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=65535)]
TransportProtocol: TypeAlias = Annotated[str, msgspec.Meta(pattern="^(TCP|UDP|SCTP)$")]
T = TypeVar("T")


class Form(msgspec.Struct, frozen=True, rename="camel", gc=False, omit_defaults=True):
    """The base of every form: camelCase outside, frozen inside."""


class Owner(Form, frozen=True):
    """One entry of `metadata.ownerReferences`."""

    kind: str = ""
    name: str = ""
    controller: bool | None = None


class MetaForm(Form, frozen=True):
    """`metadata`."""

    name: str
    namespace: Text = None
    labels: Labels = None
    annotations: Labels = None
    generation: int | None = None
    creation_timestamp: Text = None
    deletion_timestamp: Text = None
    owner_references: list[Owner] | None = None


class NamespaceForm(Form, frozen=True):
    """A Namespace, and every other object of which only the metadata counts."""

    metadata: MetaForm


class ServicePortForm(Form, frozen=True):
    """One entry of a Service's `spec.ports`."""

    port: Port
    name: Text = None
    protocol: TransportProtocol | None = None
    app_protocol: Text = None
    target_port: Port | Annotated[str, msgspec.Meta(min_length=1, max_length=63)] | None = None


class ServiceSpec(Form, frozen=True):
    """A Service's `spec`."""

    ports: list[ServicePortForm] | None = None
    selector: Labels = None
    type: Text = None
    cluster_ip: Text = msgspec.field(default=None, name="clusterIP")
    cluster_ips: list[str] | None = msgspec.field(default=None, name="clusterIPs")


class ServiceForm(Form, frozen=True):
    """A Service."""

    metadata: MetaForm
    spec: ServiceSpec = ServiceSpec()


class SlicePortForm(Form, frozen=True):
    """One entry of an EndpointSlice's `ports`; no `port` means all ports, which nothing here can use."""

    port: Port | None = None
    name: Text = None
    protocol: TransportProtocol | None = None


class Conditions(Form, frozen=True):
    """An endpoint's `conditions`; unknown readiness counts as ready, as Kubernetes says."""

    ready: bool | None = None


class TargetRef(Form, frozen=True):
    """An endpoint's `targetRef`."""

    kind: Text = None
    name: Text = None
    namespace: Text = None


class EndpointForm(Form, frozen=True):
    """One entry of an EndpointSlice's `endpoints`; only the first address counts, as Kubernetes says."""

    addresses: Annotated[list[str], msgspec.Meta(min_length=1)]
    conditions: Conditions | None = None
    target_ref: TargetRef | None = None


class EndpointSliceForm(Form, frozen=True):
    """An EndpointSlice."""

    metadata: MetaForm
    address_type: Text = None
    endpoints: list[EndpointForm] | None = None
    ports: list[SlicePortForm] | None = None


class FieldRef(Form, frozen=True):
    """`valueFrom.fieldRef`."""

    field_path: str


class ValueFrom(Form, frozen=True):
    """`valueFrom`: of its sources only `fieldRef` can be answered without a cluster."""

    field_ref: FieldRef | None = None


class EnvVar(Form, frozen=True):
    """One entry of a container's `env`."""

    name: Annotated[str, msgspec.Meta(pattern="^[^=\\x00]+$")]
    value: Text = None
    value_from: ValueFrom | None = None


class ContainerPortForm(Form, frozen=True):
    """One entry of a container's `ports`."""

    container_port: Port
    name: Text = None
    protocol: TransportProtocol | None = None


class ContainerPorts(Form, frozen=True):
    """What `decode` reads of a container."""

    ports: list[ContainerPortForm] | None = None


class Container(ContainerPorts, frozen=True):
    """A container, with `command`, `args`, `env` and `workingDir`, which the local runtime uses."""

    name: str = ""
    command: list[str] | None = None
    args: list[str] | None = None
    env: list[EnvVar] | None = None
    working_dir: Text = None


class PodSpec(Form, frozen=True):
    """A Pod's `spec`."""

    containers: list[Container] | None = None
    service_account_name: Text = None
    service_account: Text = None  # the deprecated alias, still written by old charts


class Condition(Form, frozen=True):
    """One entry of a Pod's `status.conditions`."""

    type: str = ""
    status: str = ""


class PodStatus(Form, frozen=True):
    """A Pod's `status`."""

    pod_ip: Text = msgspec.field(default=None, name="podIP")
    host_ip: Text = msgspec.field(default=None, name="hostIP")
    phase: Text = None
    conditions: list[Condition] | None = None


class PodForm(Form, frozen=True):
    """A Pod."""

    metadata: MetaForm
    spec: PodSpec = PodSpec()
    status: PodStatus | None = None


class ClusterPodSpec(Form, frozen=True):
    """What `decode` reads of a Pod's `spec`; in a cluster nobody here starts its containers. The node is for X4."""

    containers: list[ContainerPorts] | None = None
    node_name: Text = None
    service_account_name: Text = None
    service_account: Text = None


class PodAddress(Form, frozen=True):
    """One entry of a Pod's `status.podIPs`."""

    ip: Text = None


class ClusterPodStatus(Form, frozen=True):
    """What `decode` reads of a Pod's `status`, and all addresses that its proxy may connect from (X4)."""

    pod_ip: Text = msgspec.field(default=None, name="podIP")
    pod_ips: list[PodAddress] | None = msgspec.field(default=None, name="podIPs")
    phase: Text = None
    conditions: list[Condition] | None = None


class ClusterPodForm(Form, frozen=True):
    """A Pod as the cluster source projects it: all that `decode` reads, and no more; there may be many thousands."""

    metadata: MetaForm
    spec: ClusterPodSpec = ClusterPodSpec()
    status: ClusterPodStatus | None = None


class TemplateMeta(Form, frozen=True):
    """`spec.template.metadata`: a template needs no name."""

    labels: Labels = None
    annotations: Labels = None


class Template(Form, frozen=True):
    """`spec.template`."""

    spec: PodSpec
    metadata: TemplateMeta | None = None


class WorkloadSpec(Form, frozen=True):
    """The `spec` of a Deployment and its like."""

    template: Template
    replicas: Annotated[int, msgspec.Meta(ge=0)] | None = None


class WorkloadForm(Form, frozen=True):
    """A Deployment, StatefulSet, DaemonSet or ReplicaSet."""

    metadata: MetaForm
    spec: WorkloadSpec


_AT = re.compile(r"^(?P<what>.*?)(?: - at `(?P<where>.*)`)?$", re.DOTALL)
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_MAX_NAME = 253


def convert(raw: RawObject, form: type[T], ref: Ref) -> T | Finding:
    """Project a raw object onto a form, or say in a finding which field is wrong."""
    try:
        return msgspec.convert(raw, form)
    except msgspec.ValidationError as error:
        found = _AT.match(str(error))
        what, where = (found["what"], found["where"] or "") if found else (str(error), "")
        where = where.replace("`", "").removeprefix("$").removeprefix(".")
        return finding("SMI0505", ref, where, f"{where or 'the object'}: {what[:1].lower()}{what[1:]}")
    except RecursionError:
        return finding("SMI0505", ref, "", "the object is nested too deeply")
    except ValueError as error:  # UnicodeEncodeError above all: half of a surrogate pair is no text
        reason = "it holds a text that is no Unicode" if isinstance(error, UnicodeError) else str(error)[:200]
        return finding("SMI0505", ref, "", f"the object can't be read: {reason}")


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def ref_of(raw: RawObject) -> Ref:
    """Return the object's name; no namespace means `default`, as for kubectl. What is missing is "", never an error."""
    kind = _text(raw.get("kind"))
    group, slash, _ = _text(raw.get("apiVersion")).rpartition("/")
    metadata = raw.get("metadata")
    written = metadata if isinstance(metadata, Mapping) else {}
    namespace = "" if kind in CLUSTER_SCOPED else _text(written.get("namespace")) or "default"
    return Ref(kind, namespace, _text(written.get("name")), group if slash else "")


def name_problem(ref: Ref) -> Finding | None:
    """Say what is wrong with an object's name; names become parts of resource names, log lines and file names (F25)."""
    if ref.kind not in CLUSTER_SCOPED and not _LABEL.fullmatch(ref.namespace):
        return finding("SMI0505", ref, "metadata.namespace", f"{ref.namespace!r} is no name of a namespace")
    rule = _LABEL if ref.kind in {"Namespace", "Service"} else _SUBDOMAIN
    if len(ref.name) > _MAX_NAME or not rule.fullmatch(ref.name):
        shown = f"{ref.name[:80]!r}"
        return finding(
            "SMI0505", ref, "metadata.name", f"{shown} is no name of an object: lower-case letters, digits and '-' only"
        )
    return None


def workload_of(metadata: MetaForm) -> str:
    """Return the name of what owns a Pod: its Deployment, say, found through the ReplicaSet's name; else its own."""
    for owner in metadata.owner_references or ():
        if owner.controller is False or not owner.name:
            continue
        template_hash = (metadata.labels or {}).get("pod-template-hash", "")
        if owner.kind == "ReplicaSet" and template_hash:
            return owner.name.removesuffix(f"-{template_hash}") or owner.name
        return owner.name
    return metadata.name


def is_ready(pod: PodForm) -> bool:
    """Tell whether a Pod may receive requests; without any word about it, it may."""
    status = pod.status or PodStatus()
    if pod.metadata.deletion_timestamp or status.phase in {"Pending", "Failed", "Succeeded"}:
        return False
    return all(condition.status == "True" for condition in status.conditions or () if condition.type == "Ready")
