"""What the controller has put into a cluster, and how to take it away so that nothing gets stuck.

Only what nobody else would clean up: a conversion stanza that points at our webhook (left behind it blocks every read
in another version, and with it the deletion of namespaces), and objects that were generated. The rest belongs to the
installation (Helm); SMI objects and their CRDs belong to the users and stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from smi_adapter import crds
from smi_adapter.cluster.client import ApiError, Client

_CRDS: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_PART_OF: Final = "app.kubernetes.io/part-of=smi-adapter"
_GENERATED: Final = "app.kubernetes.io/managed-by=smi-adapter"
_MERGE: Final = "application/merge-patch+json"
_GATEWAY: Final = "gateway.networking.k8s.io"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do: how it is called, and the request that does it."""

    words: str
    method: str
    path: str
    body: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Removal:
    """What to do, what belongs to an installation (as `Kind namespace/name`), and what stays."""

    steps: tuple[Step, ...]
    installed: tuple[str, ...]
    releases: tuple[tuple[str, str], ...]
    stays: tuple[str, ...]


async def plan(client: Client) -> Removal:
    """Look what there is to take away; ApiError or Unreachable."""
    steps = [*await _conversions(client), *await _generated(client)]
    installed, releases = await _installed(client)
    return Removal(tuple(steps), tuple(installed), tuple(sorted(releases)), tuple(await _staying(client)))


async def do(client: Client, step: Step) -> str:
    """Do one step; return what was wrong, or ""."""
    try:
        await client.request(step.method, step.path, body=step.body, content_type=_MERGE if step.body else "")
    except ApiError as error:
        return "" if error.status == 404 else str(error)
    return ""


async def _conversions(client: Client) -> list[Step]:
    steps = []
    for ours in crds.definitions():
        name = crds.name_of(ours)
        try:
            live = await client.get(f"{_CRDS}/{name}")
        except ApiError as error:
            if error.status == 404:
                continue
            raise
        conversion = live["spec"].get("conversion") or {}
        if conversion.get("strategy") == "Webhook" and await _points_at_us(client, conversion):
            body = {"spec": {"conversion": {"strategy": "None", "webhook": None}}}
            steps.append(Step(f"set the conversion of crd/{name} to None", "PATCH", f"{_CRDS}/{name}", body))
    return steps


async def _points_at_us(client: Client, conversion: Mapping[str, Any]) -> bool:
    """Tell whether a stanza names a Service of ours; one that is gone converts for nobody, so it counts as ours."""
    service = ((conversion.get("webhook") or {}).get("clientConfig") or {}).get("service") or {}
    if service.get("path") != "/convert":
        return False
    try:
        path = f"/api/v1/namespaces/{service['namespace']}/services/{service['name']}"
        labels = (await client.get(path))["metadata"].get("labels") or {}
    except ApiError as error:
        if error.status == 404:
            return True
        if error.status == 403:  # a hook of the chart has few rights, but it runs where that Service is
            return bool(service.get("namespace") == client.namespace)
        raise
    return bool(labels.get("app.kubernetes.io/part-of") == "smi-adapter")


async def _generated(client: Client) -> list[Step]:
    """Find what a manifest backend has written, by its label, in every kind of the Gateway API that is served."""
    steps = []
    for version, resource in await _served(client, _GATEWAY):
        base = f"/apis/{_GATEWAY}/{version}"
        try:
            found = (await client.get(f"{base}/{resource}", labelSelector=_GENERATED)).get("items") or ()
        except ApiError as error:
            if error.status not in {403, 404, 405}:
                raise
            continue  # who may not list them has not written any
        for item in found:
            metadata = item["metadata"]
            path = f"{base}/namespaces/{metadata['namespace']}/{resource}/{metadata['name']}"
            words = f"delete {resource}.{_GATEWAY} {metadata['namespace']}/{metadata['name']}"
            steps.append(Step(words, "DELETE", path))
    return steps


async def _served(client: Client, group: str) -> list[tuple[str, str]]:
    try:
        preferred = (await client.get(f"/apis/{group}"))["preferredVersion"]["version"]
        found = await client.get(f"/apis/{group}/{preferred}")
    except ApiError as error:
        if error.status == 404:
            return []
        raise
    resources = found.get("resources") or ()
    return [(preferred, one["name"]) for one in resources if one.get("namespaced") and "/" not in one["name"]]


_INSTALLED: Final = (
    ("Deployment", "/apis/apps/v1/deployments"),
    ("Service", "/api/v1/services"),
    ("ServiceAccount", "/api/v1/serviceaccounts"),
    ("Lease", "/apis/coordination.k8s.io/v1/leases"),
    ("ValidatingWebhookConfiguration", "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"),
    ("ClusterRole", "/apis/rbac.authorization.k8s.io/v1/clusterroles"),
    ("ClusterRoleBinding", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"),
)


async def _installed(client: Client) -> tuple[list[str], set[tuple[str, str]]]:
    names: list[str] = []
    releases: set[tuple[str, str]] = set()
    for kind, path in _INSTALLED:
        try:
            found = (await client.get(path, labelSelector=_PART_OF)).get("items") or ()
        except ApiError as error:
            if error.status != 403:
                raise
            names.append(f"{kind}: you may not list them")
            continue
        for item in found:
            metadata = item["metadata"]
            names.append(f"{kind} {metadata.get('namespace', '')}/{metadata['name']}".replace(" /", " "))
            notes = metadata.get("annotations") or {}
            if release := notes.get("meta.helm.sh/release-name"):
                releases.add((notes.get("meta.helm.sh/release-namespace", ""), release))
    return names, releases


async def _staying(client: Client) -> list[str]:
    """Say which CRDs stay, and with how many objects."""
    words = []
    for ours in crds.definitions():
        spec, name = ours["spec"], crds.name_of(ours)
        for version in reversed([one["name"] for one in spec["versions"]]):
            try:
                path = f"/apis/{spec['group']}/{version}/{spec['names']['plural']}"
                found = await client.get(path, limit="1")
            except ApiError:
                continue
            number = len(found.get("items") or ()) + int((found.get("metadata") or {}).get("remainingItemCount") or 0)
            words.append(f"crd/{name} with {number} objects")
            break
    return words
