"""What the controller has put into a cluster, and how to take it away so that nothing gets stuck.

Only what nobody else would clean up: a conversion stanza that points at our webhook (left behind it blocks every read
in another version, and with it the deletion of namespaces), and objects that were generated. The rest belongs to the
installation (Helm); SMI objects and their CRDs belong to the users and stay.

A controller that still runs would write generated objects anew. So the Lease is taken from it first: who does not hold
it writes nothing. That lasts for some minutes, in which whatever installed the controller takes it away; if nothing
does, the controller goes on afterwards, and writes what it wants to lie there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from smi_adapter import crds
from smi_adapter.cluster import ownership
from smi_adapter.cluster.client import ApiError, Client
from smi_adapter.cluster.lease import ADDRESS, LEASES, Timing
from smi_adapter.cluster.pace import read

HOLDER: Final = "uninstall"
AWAY: Final = 600
"""Seconds for which a Lease that was taken keeps controllers from writing."""

_CRDS: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_PART_OF: Final = "app.kubernetes.io/part-of=smi-adapter"
_GENERATED: Final = "=".join(ownership.MANAGED)
_DEPLOYMENTS: Final = "/apis/apps/v1/deployments"
_MERGE: Final = "application/merge-patch+json"
_GATEWAY: Final = "gateway.networking.k8s.io"


@dataclass(frozen=True, slots=True, order=True)
class Installation:
    """Whose traces to look for: the namespace of a controller and its full name, which is that of its Lease.

    `watched`: the only namespaces that it writes into; none: all.
    """

    namespace: str
    name: str
    watched: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return it as people write it."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do: how it is called, and the request that does it.

    `generated`: the controller would undo it, so it must not write any more.
    """

    words: str
    method: str
    path: str
    body: Mapping[str, Any] | None = None
    generated: bool = False


@dataclass(frozen=True, slots=True)
class Removal:
    """What to do, what belongs to an installation (as `Kind namespace/name`), and what stays."""

    steps: tuple[Step, ...]
    installed: tuple[str, ...]
    releases: tuple[tuple[str, str], ...]
    stays: tuple[str, ...]


async def installations(client: Client) -> list[Installation]:
    """Return the installations whose Deployments there are, as far as one may see them."""
    try:
        found = (await client.get(_DEPLOYMENTS, labelSelector=_PART_OF)).get("items") or ()
    except ApiError as error:
        if error.status != 403:
            raise
        return []
    return sorted(Installation(item["metadata"]["namespace"], item["metadata"]["name"]) for item in found)


async def plan(client: Client, whose: Installation) -> Removal:
    """Look what there is to take away; ApiError or Unreachable."""
    conversions, converted = await _conversions(client, whose)
    generated, others = await _generated(client, whose)
    installed, releases = await _installed(client)
    stays = (*converted, *others, *await _staying(client))
    return Removal((*conversions, *generated), tuple(installed), tuple(sorted(releases)), stays)


async def take_lease(client: Client, whose: Installation) -> tuple[str, float]:
    """Take the Lease from whoever writes; return the holder and after how many seconds it certainly writes no more.

    ("", 0): nobody wrote. What it has sent is bounded by its time as a leader, so to wait for that is enough.
    """
    path = LEASES.path(whose.namespace, whose.name)
    while True:
        try:
            lease = await client.get(path)
        except ApiError as error:
            if error.status == 404:
                return "", 0.0
            raise
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        taken = {
            "holderIdentity": HOLDER,
            "leaseDurationSeconds": AWAY,
            "acquireTime": now,
            "renewTime": now,
            "leaseTransitions": (spec.get("leaseTransitions") or 0) + 1,
        }
        notes = lease["metadata"].get("annotations") or {}
        lease["metadata"]["annotations"] = {name: value for name, value in notes.items() if name != ADDRESS}
        try:
            await client.request("PUT", path, body={**lease, "spec": taken})
        except ApiError as error:
            if error.status != 409:
                raise
            continue  # it was renewed in between
        return holder, Timing().duration if holder else 0.0


async def do(client: Client, step: Step) -> str:
    """Do one step; return what was wrong, or ""."""
    try:
        if step.body is None:
            await client.request(step.method, step.path)
        else:
            await client.request(step.method, step.path, body=step.body, content_type=_MERGE)
    except ApiError as error:
        return "" if error.status == 404 else str(error)
    return ""


async def _conversions(client: Client, whose: Installation) -> tuple[list[Step], list[str]]:
    """Find the CRDs that an installation converts, and say what stays."""
    steps, stays = [], []
    for ours in crds.definitions():
        name = crds.name_of(ours)
        try:
            live = await client.get(f"{_CRDS}/{name}")
        except ApiError as error:
            if error.status == 403:  # the hook of a release that converts nothing has no right to any CRD
                stays.append(f"the conversion of crd/{name}, which you may not read")
            elif error.status != 404:
                raise
            continue
        conversion = live["spec"].get("conversion") or {}
        if conversion.get("strategy") != "Webhook":
            continue
        service = ((conversion.get("webhook") or {}).get("clientConfig") or {}).get("service") or {}
        if await _is_theirs(client, whose, service):
            body = {"spec": {"conversion": {"strategy": "None", "webhook": None}}}
            steps.append(Step(f"set the conversion of crd/{name} to None", "PATCH", f"{_CRDS}/{name}", body))
        else:
            place = f"{service.get('namespace')}/{service.get('name')}" if service else "a URL"
            stays.append(f"the conversion of crd/{name} by {place}")
    return steps, stays


async def _is_theirs(client: Client, whose: Installation, service: Mapping[str, Any]) -> bool:
    """Tell whether a stanza names an installation's Service, or one of ours that is gone and converts for nobody."""
    if service.get("path") != "/convert":
        return False
    if (service["namespace"], service["name"]) == (whose.namespace, f"{whose.name}-webhooks"):
        return True
    try:
        await client.get(f"/api/v1/namespaces/{service['namespace']}/services/{service['name']}")
    except ApiError as error:
        if error.status not in {403, 404}:
            raise
        return error.status == 404
    return False


async def _generated(client: Client, whose: Installation) -> tuple[list[Step], list[str]]:
    """Find what a manifest backend has written, in every kind of the Gateway API that is served; say what stays."""
    steps = []
    others: Counter[str] = Counter()
    hidden: list[str] = []
    mine = ownership.installation(whose.namespace, whose.name)
    for version, resource in await _served(client, _GATEWAY):
        base = f"/apis/{_GATEWAY}/{version}"
        for scope in [f"namespaces/{one}/" for one in whose.watched] or [""]:
            try:
                answer = await client.request("GET", f"{base}/{scope}{resource}", query={"labelSelector": _GENERATED})
            except ApiError as error:
                if error.status not in {403, 404, 405}:
                    raise
                if error.status == 403:
                    hidden.append(f"{scope}{resource}".removeprefix("namespaces/"))
                continue
            for item in read(answer, ownership.ObjectList).items or ():
                metadata = item.metadata
                owner = ownership.owner_of(metadata.labels)
                if owner != mine:
                    others[owner] += 1
                    continue
                path = f"{base}/namespaces/{metadata.namespace}/{resource}/{metadata.name}"
                words = f"delete {resource}.{_GATEWAY} {metadata.namespace}/{metadata.name}"
                steps.append(Step(words, "DELETE", path, generated=True))
    stays = [
        f"generated objects of {owner or 'a release that named no installation'}: {number}"
        for owner, number in sorted(others.items())
    ]
    if hidden:
        stays.append(f"generated objects, if there are any, of {', '.join(sorted(hidden))}, which you may not list")
    return steps, stays


async def _served(client: Client, group: str) -> list[tuple[str, str]]:
    """Return each namespaced resource of a group, with the best version that has it: not every version has all."""
    try:
        versions = [one["version"] for one in (await client.get(f"/apis/{group}"))["versions"]]
        found = [(version, await client.get(f"/apis/{group}/{version}")) for version in versions]
    except ApiError as error:
        if error.status == 404:
            return []
        raise
    best: dict[str, str] = {}
    for version, listed in found:
        for one in listed.get("resources") or ():
            if one.get("namespaced") and "/" not in one["name"]:
                best.setdefault(one["name"], version)
    return [(version, resource) for resource, version in best.items()]


_INSTALLED: Final = (
    ("Deployment", _DEPLOYMENTS),
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


class _Remaining(msgspec.Struct):
    remainingItemCount: int | None = None  # noqa: N815 - Kubernetes' name


class _Counted(msgspec.Struct):
    metadata: _Remaining
    items: list[msgspec.Raw] | None = None


async def _staying(client: Client) -> list[str]:
    """Say which CRDs stay, and with how many objects."""
    words = []
    for ours in crds.definitions():
        spec, name = ours["spec"], crds.name_of(ours)
        for version in reversed([one["name"] for one in spec["versions"]]):
            try:
                path = f"/apis/{spec['group']}/{version}/{spec['names']['plural']}"
                answer = await client.request("GET", path, query={"limit": "1"})
            except ApiError:
                continue
            found = read(answer, _Counted)  # users' objects may be nested more deeply than `get` can read
            number = len(found.items or ()) + (found.metadata.remainingItemCount or 0)
            words.append(f"crd/{name} with {number} objects")
            break
    return words
