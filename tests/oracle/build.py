"""Builds manifests in any of their wire forms: what tests write by hand and what random worlds are rendered with.

A version decides the default form (where `matches` stands, how weights are written), and each form can also be asked
for on its own, because objects are decoded by shape as well as by version.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

Object = dict[str, Any]
Version = Literal["v1alpha1", "v1alpha2", "v1alpha3", "v1alpha4"]
Position = Literal["top", "spec"]
HeadersForm = Literal["map", "list"]

SHOP = "shop"
APP_PORTS: Mapping[str, int] = {"web": 8080, "admin": 9090, "tcp-raw": 7000}


def namespace(name: str, mode: str | None = None) -> Object:
    """Build a Namespace, with an access mode of its own if asked."""
    annotations = {} if mode is None else {"annotations": {"smi-adapter.io/access-mode": mode}}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, **annotations}}


def service_account(name: str, ns: str = SHOP) -> Object:
    """Build a ServiceAccount."""
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": ns}}


def pod(
    name: str,
    account: str = "default",
    labels: Mapping[str, str] | None = None,
    *,
    ns: str = SHOP,
    ready: bool | None = None,
    ports: Mapping[str, int] = APP_PORTS,
    address: str | None = None,
) -> Object:
    """Build a Pod; without a word about readiness it is ready, as in a directory of files."""
    containers = [{"name": "app", "ports": [{"name": k, "containerPort": v} for k, v in ports.items()]}]
    status: Object = {} if address is None else {"podIP": address}
    if ready is not None:
        status["conditions"] = [{"type": "Ready", "status": str(ready)}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": ns, "labels": dict(labels or {})},
        "spec": {"serviceAccountName": account, "containers": containers},
        **({"status": status} if status else {}),
    }


def port(number: int, target: int | str | None = None, name: str | None = None, protocol: str | None = None) -> Object:
    """Build a Service port; `protocol` is the application's."""
    written = {"name": name, "port": number, "targetPort": target, "appProtocol": protocol}
    return {key: value for key, value in written.items() if value is not None}


def service(name: str, selector: Mapping[str, str] | None, *ports: Object, ns: str = SHOP) -> Object:
    """Build a Service; without ports it has port 80 in front of 8080."""
    spec: Object = {"ports": list(ports) or [port(80, 8080, "http")]}
    if selector is not None:
        spec["selector"] = dict(selector)
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": ns}, "spec": spec}


def split(
    name: str,
    root: str,
    backends: Sequence[tuple[str, Any]] | Mapping[str, Any],
    *,
    matches: Sequence[str] | None = None,
    version: Version = "v1alpha4",
    ns: str = SHOP,
    created: str | None = None,
) -> Object:
    """Build a TrafficSplit; weights are written as given."""
    pairs = list(backends.items()) if isinstance(backends, Mapping) else list(backends)
    spec: Object = {"service": root, "backends": [{"service": b, "weight": w} for b, w in pairs]}
    if matches is not None:
        spec["matches"] = [{"kind": "HTTPRouteGroup", "name": group} for group in matches]
    metadata = {"name": name, "namespace": ns} | ({} if created is None else {"creationTimestamp": created})
    return {"apiVersion": f"split.smi-spec.io/{version}", "kind": "TrafficSplit", "metadata": metadata, "spec": spec}


def match(
    name: str,
    path: str | None = None,
    methods: Sequence[str] | None = None,
    headers: Mapping[str, Any] | None = None,
    *,
    form: HeadersForm = "map",
) -> Object:
    """Build one match of a route group, its headers as a map or as a list of maps of one key."""
    written: Object = {"name": name, "pathRegex": path, "methods": None if methods is None else list(methods)}
    if headers is not None:
        written["headers"] = dict(headers) if form == "map" else [{key: value} for key, value in headers.items()]
    return {key: value for key, value in written.items() if value is not None}


def route_group(
    name: str, *matches: Object, version: Version = "v1alpha4", ns: str = SHOP, position: Position | None = None
) -> Object:
    """Build an HTTPRouteGroup, its matches where the version has them unless a position is asked for."""
    thing = {"apiVersion": f"specs.smi-spec.io/{version}", "kind": "HTTPRouteGroup"}
    body = {"matches": list(matches)}
    return {**thing, "metadata": {"name": name, "namespace": ns}, **_placed(body, version, position)}


def route(
    name: str,
    ports: Sequence[Any] | None = None,
    *,
    kind: Literal["TCPRoute", "UDPRoute"] = "TCPRoute",
    version: Version = "v1alpha4",
    ns: str = SHOP,
) -> Object:
    """Build a TCPRoute or UDPRoute; before v1alpha4 it could not name ports."""
    thing: Object = {"apiVersion": f"specs.smi-spec.io/{version}", "kind": kind}
    spec: Object = {} if version in {"v1alpha1", "v1alpha2"} and ports is None else {"spec": {}}
    if ports is not None:
        spec = {"spec": {"matches": {"ports": list(ports)}}}
    return {**thing, "metadata": {"name": name, "namespace": ns}, **spec}


def account(name: str, ns: str | None = None, port: Any = None, kind: str = "ServiceAccount") -> Object:
    """Build a subject: a source, or a destination with or without a port."""
    written = {"kind": kind, "name": name, "namespace": ns, "port": port}
    return {key: value for key, value in written.items() if value is not None}


def bound(name: str, ns: str | None = None, group: str | None = "access.smi-spec.io") -> Object:
    """Build a subject that is an IdentityBinding."""
    return account(name, ns, kind="IdentityBinding") | ({} if group is None else {"group": group})


def rule(name: str, *matches: str, kind: str = "HTTPRouteGroup") -> Object:
    """Build a rule of a TrafficTarget, narrowed to matches if any are named."""
    return {"kind": kind, "name": name} | ({"matches": list(matches)} if matches else {})


def target(
    name: str,
    destination: Object,
    rules: Sequence[Object],
    sources: Sequence[Object],
    *,
    version: Version = "v1alpha4",
    ns: str = SHOP,
    position: Position | None = None,
) -> Object:
    """Build a TrafficTarget; at the top, the old place, rules are called `specs`."""
    place = position or ("top" if version in {"v1alpha1", "v1alpha2"} else "spec")
    rules_name = "specs" if place == "top" else "rules"
    body = {"destination": destination, rules_name: list(rules), "sources": list(sources)}
    thing = {"apiVersion": f"access.smi-spec.io/{version}", "kind": "TrafficTarget"}
    return {**thing, "metadata": {"name": name, "namespace": ns}, **_placed(body, version, place)}


def binding(name: str, schemes: Object, ns: str = SHOP) -> Object:
    """Build an IdentityBinding."""
    thing = {"apiVersion": "access.smi-spec.io/v1alpha4", "kind": "IdentityBinding"}
    return {**thing, "metadata": {"name": name, "namespace": ns}, "spec": {"schemes": schemes}}


def _placed(body: Object, version: Version, position: Position | None) -> Object:
    top = position == "top" if position else version in {"v1alpha1", "v1alpha2"}
    return body if top else {"spec": body}
