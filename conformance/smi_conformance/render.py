"""Neutral objects to manifests: the shape of each version, as its document shows it.

The only module that knows wire forms. `Raw` manifests (negative cases write them by hand) pass through unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from smi_conformance import model
from smi_conformance.model import Versions

Manifest: TypeAlias = dict[str, Any]


class UnsayableError(ValueError):
    """The version has no field for what the case wants to say."""


def render(obj: model.Obj, versions: Versions, headers_as_list: bool = False) -> Manifest:  # noqa: FBT001, FBT002
    """Return the manifest of an object under these versions."""
    match obj:
        case model.Service():
            return _service(obj)
        case model.Split():
            return _split(obj, versions.split)
        case model.Routes():
            return _routes(obj, versions.specs, headers_as_list)
        case model.TcpRoute():
            return _ports_route(obj, "TCPRoute", versions.specs)
        case model.UdpRoute():
            return _ports_route(obj, "UDPRoute", versions.specs)
        case model.Target():
            return _target(obj, versions.access)
        case model.Binding():
            return _binding(obj, versions.access)
    raise TypeError(f"nothing is known of {type(obj).__name__}")


def _metadata(obj: model.Obj, annotations: model.Labels = ()) -> Manifest:
    metadata: Manifest = {"name": obj.name, "namespace": obj.namespace}
    if annotations:
        metadata["annotations"] = dict(annotations)
    return metadata


def _service(obj: model.Service) -> Manifest:
    ports = []
    for port in obj.ports:
        item: Manifest = {"name": port.name or f"{port.protocol}-{port.port}", "port": port.port}
        item["targetPort"] = port.target or port.port
        item["protocol"] = "UDP" if port.protocol == "udp" else "TCP"
        ports.append(item)
    spec: Manifest = {"selector": dict(obj.selector), "ports": ports}
    if obj.kind == "Headless":
        spec["clusterIP"] = "None"
    elif obj.kind != "ClusterIP":
        spec["type"] = obj.kind
    return {"apiVersion": "v1", "kind": "Service", "metadata": _metadata(obj), "spec": spec}


def _split(obj: model.Split, version: str) -> Manifest:
    backends: list[Manifest] = []
    for service, weight in obj.backends:
        # v1alpha1 weights are Kubernetes quantities; a whole number is one, written without a unit.
        value = f"{weight}" if version == "v1alpha1" and not isinstance(weight, str) else weight
        if version != "v1alpha1" and isinstance(weight, str) and weight.endswith("m"):
            raise UnsayableError(f"weight {weight} in {version}")
        backends.append({"service": service, "weight": value})
    spec: Manifest = {"service": obj.service, "backends": backends}
    if obj.matches is not None:
        if version in {"v1alpha1", "v1alpha2"}:
            raise UnsayableError(f"matches in {version}")
        spec["matches"] = [{"kind": "HTTPRouteGroup", "name": name} for name in obj.matches]
    return {
        "apiVersion": f"split.smi-spec.io/{version}",
        "kind": "TrafficSplit",
        "metadata": _metadata(obj, obj.annotations),
        "spec": spec,
    }


def _routes(obj: model.Routes, version: str, headers_as_list: bool) -> Manifest:  # noqa: FBT001
    as_list = headers_as_list if obj.headers_as_list is None else obj.headers_as_list
    matches = []
    for match in obj.matches:
        item: Manifest = {"name": match.name}
        if match.path is not None:
            item["pathRegex"] = match.path
        if match.methods is not None:
            item["methods"] = list(match.methods)
        if version == "v1alpha1":
            # Here every field is required (SP1), so what a case leaves open is written as "any".
            if match.headers:
                raise UnsayableError("headers in v1alpha1")
            item = {"name": match.name, "pathRegex": ".*", "methods": ["*"], **item}
        if match.headers:
            item["headers"] = [{name: value} for name, value in match.headers] if as_list else dict(match.headers)
        matches.append(item)
    manifest: Manifest = {
        "apiVersion": f"specs.smi-spec.io/{version}",
        "kind": "HTTPRouteGroup",
        "metadata": _metadata(obj),
    }
    if version in {"v1alpha1", "v1alpha2"}:
        return {**manifest, "matches": matches}
    return {**manifest, "spec": {"matches": matches}}


def _ports_route(obj: model.TcpRoute | model.UdpRoute, kind: str, version: str) -> Manifest:
    manifest: Manifest = {"apiVersion": f"specs.smi-spec.io/{version}", "kind": kind, "metadata": _metadata(obj)}
    if version != "v1alpha4":
        if obj.ports is not None or kind == "UDPRoute":
            raise UnsayableError(f"ports of a {kind} in {version}")
        return manifest if version in {"v1alpha1", "v1alpha2"} else {**manifest, "spec": {}}
    if obj.ports is None:
        return {**manifest, "spec": {}}
    return {**manifest, "spec": {"matches": {"ports": list(obj.ports)}}}


def _subject(subject: model.Subject, own: str) -> Manifest:
    item: Manifest = {"kind": subject.kind, "name": subject.name}
    if subject.group:
        item["group"] = subject.group
    if subject.namespace is not None:
        item["namespace"] = subject.namespace or own
    return item


def _target(obj: model.Target, version: str) -> Manifest:
    body: Manifest = {}
    if obj.destination is not None:
        body["destination"] = _subject(obj.destination, obj.namespace)
    if obj.port is not None:
        if version not in {"v1alpha1", "v1alpha2"}:
            raise UnsayableError(f"destination.port in {version}")
        body["destination"]["port"] = obj.port
    if obj.rules is not None:
        rules: list[Mapping[str, Any]] = []
        for rule in obj.rules:
            item: Manifest = {"kind": rule.kind, "name": rule.name}
            if rule.matches is not None:
                item["matches"] = list(rule.matches)
            rules.append(item)
        body["specs" if version == "v1alpha1" else "rules"] = rules
    if obj.sources is not None:
        body["sources"] = [_subject(source, obj.namespace) for source in obj.sources]
    head = {"apiVersion": f"access.smi-spec.io/{version}", "kind": "TrafficTarget", "metadata": _metadata(obj)}
    return {**head, **body} if version == "v1alpha1" else {**head, "spec": body}


def _binding(obj: model.Binding, version: str) -> Manifest:
    if version != "v1alpha4":
        raise UnsayableError(f"an IdentityBinding in {version}")
    schemes: Manifest = {}
    if obj.service_account is not None:
        schemes["serviceAccount"] = obj.service_account
    if obj.selector is not None:
        schemes["podLabelSelector"] = {"matchLabels": dict(obj.selector)}
    if obj.spiffe is not None:
        schemes["spiffeIdentities"] = list(obj.spiffe)
    return {
        "apiVersion": f"access.smi-spec.io/{version}",
        "kind": "IdentityBinding",
        "metadata": _metadata(obj),
        "spec": {"schemes": schemes},
    }
