"""What `smi-adapter check` looks at: is everything there, is it ours, does it answer.

Each check is a question to the API server with the rights of the person who asks, and an answer in three grades: fine,
worth knowing, broken. A question that may not be asked is not a failure; it is skipped and says so. Every failure has
an anchor in docs/check.md, where cause and mend stand.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final

from smi_adapter import __version__
from smi_adapter.cluster import definitions, discovery, listing
from smi_adapter.cluster.client import ApiError, Client, Resource, Unreachable
from smi_adapter.cluster.removal import HOLDER
from smi_adapter.crds.merge import Plan, State
from smi_adapter.smi import schema

OLDEST: Final = 30
"""The oldest Kubernetes 1.x that the chart asks for: it judges values of a CRD only when they change (ADR 19)."""

_PART_OF: Final = "app.kubernetes.io/part-of=smi-adapter"
_NEEDED: Final = (
    ("", "namespaces"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
    ("apps", "deployments"),
    ("", "services"),
    ("", "secrets"),
    ("", "configmaps"),
    ("", "serviceaccounts"),
    ("coordination.k8s.io", "leases"),
    ("policy", "poddisruptionbudgets"),
    ("rbac.authorization.k8s.io", "roles"),
    ("rbac.authorization.k8s.io", "rolebindings"),
)
"""What an installation creates."""


class Grade(Enum):
    """The answer to a check."""

    FINE = "success"
    WARNING = "warning"
    ERROR = "error"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the answer. `anchor` names the section of docs/check.md that says what to do."""

    category: str
    about: str
    grade: Grade = Grade.FINE
    message: str = ""
    anchor: str = ""


async def run(client: Client, *, before: bool = False) -> AsyncIterator[Check]:
    """Yield the checks one by one, as they are answered; `before`: those that matter before an installation."""
    async for check in _api(client):
        yield check
    if await listing.without_cluster(client):
        yield Check("kubernetes-api", "it is the API of `smi-adapter run --source`: there is nothing to install")
        async for check in _objects(client):
            yield check
        return
    plans = await definitions.plans(client)
    for plan in plans:
        yield _definition(plan, before=before)
    async for check in _conversions(client, plans):
        yield check
    if before:
        async for check in _rights(client):
            yield check
        return
    async for check in _installation(client):
        yield check
    async for check in _objects(client):
        yield check


# -------------------------------------------------------------------------------------------------- the API server
async def _api(client: Client) -> AsyncIterator[Check]:
    category = "kubernetes-api"
    version = await client.get("/version")
    yield Check(category, "the API server answers")
    minor = re.match(r"\d+", str(version.get("minor", "")))
    about = f"it is Kubernetes 1.{OLDEST} or later"
    if minor and int(minor.group()) < OLDEST:
        said = f"it is {version.get('gitVersion')}: the chart asks for a newer one"
        yield Check(category, about, Grade.WARNING, said, "old-kubernetes")
    else:
        yield Check(category, about)


async def _rights(client: Client) -> AsyncIterator[Check]:
    """Ask whether this person may create what an installation creates."""
    for group, resource in _NEEDED:
        about = f"you may create {resource}"
        review = {"spec": {"resourceAttributes": {"group": group, "resource": resource, "verb": "create"}}}
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", **review}
        allowed = await _posted(client, path, body)
        if (allowed.get("status") or {}).get("allowed"):
            yield Check("rights", about)
        else:
            yield Check("rights", about, Grade.ERROR, "the API server would refuse it", "missing-rights")


async def _posted(client: Client, path: str, body: Mapping[str, Any], **query: str) -> Any:
    import msgspec  # noqa: PLC0415 - one line of it

    return msgspec.json.decode(await client.request("POST", path, query=query, body=dict(body)))


# ------------------------------------------------------------------------------------------------------------ CRDs
def _definition(plan: Plan, *, before: bool) -> Check:
    category, about = "smi-crds", f"{plan.name} is installed and ours"
    notes = "; ".join(plan.notes)
    match plan.state:
        case State.CURRENT:
            return Check(category, about)
        case State.MISSING if before:
            return Check(category, f"{plan.name} can be installed")
        case State.MISSING:
            return Check(category, about, Grade.ERROR, "it is missing", "crd-missing")
        case State.OUTDATED:
            return Check(category, about, Grade.WARNING, "it is of another version of smi-adapter", "crd-outdated")
        case _:
            who = f"it was installed by {plan.owner or 'somebody else'}, with {', '.join(plan.served) or 'no version'}"
            what = f"{who}; {notes}" if notes else who
            next_step = "; install with crds.install=false, then run `smi-adapter crds apply`" if before else ""
            return Check(category, about, Grade.WARNING, f"{what}{next_step}", "crd-foreign")


async def _conversions(client: Client, plans: tuple[Plan, ...]) -> AsyncIterator[Check]:
    """Read one object of each kind that a webhook converts, in a version in which it is not stored."""
    for plan in plans:
        live = plan.wanted if plan.state is not State.MISSING else {}
        spec = live.get("spec") or {}
        if (spec.get("conversion") or {}).get("strategy") != "Webhook":
            continue
        others = [one for one in plan.served if one not in plan.stored]
        about = f"the conversion webhook of {plan.name} answers"
        if not others:
            continue
        resource = Resource(spec["group"], others[0], spec["names"]["plural"], spec["names"]["kind"])
        try:
            await client.request("GET", resource.path(), query={"limit": "1"})
            yield Check("smi-crds", about)
        except (ApiError, Unreachable) as error:
            yield Check("smi-crds", about, Grade.ERROR, str(error)[:300], "conversion-dead")


# ---------------------------------------------------------------------------------------------------- installation
async def _installation(client: Client) -> AsyncIterator[Check]:
    category = "smi-adapter"
    try:
        found = await client.get("/apis/apps/v1/deployments", labelSelector=_PART_OF)
    except ApiError as error:
        if error.status != 403:
            raise
        yield Check(category, "a controller is installed", Grade.SKIPPED, "you may not list deployments")
        return
    deployments = found.get("items") or []
    if not deployments:
        words = f"no Deployment has the label {_PART_OF}"
        yield Check(category, "a controller is installed", Grade.ERROR, words, "not-installed")
        return
    yield Check(category, "a controller is installed")
    for deployment in deployments:
        async for check in _controller(client, deployment):
            yield check
    async for check in _webhooks(client):
        yield check


async def _controller(client: Client, deployment: Mapping[str, Any]) -> AsyncIterator[Check]:
    metadata, category = deployment["metadata"], "smi-adapter"
    name = f"{metadata['namespace']}/{metadata['name']}"
    wanted = (deployment.get("spec") or {}).get("replicas", 1)
    ready = (deployment.get("status") or {}).get("readyReplicas", 0)
    about = f"all replicas of {name} are ready"
    if ready < wanted:
        grade = Grade.WARNING if ready else Grade.ERROR
        yield Check(category, about, grade, f"{ready} of {wanted} are", "not-ready")
    else:
        yield Check(category, about)
    version = str((metadata.get("labels") or {}).get("app.kubernetes.io/version", ""))
    about = f"{name} has the version of this program, {__version__}"
    if version and version != __version__:
        yield Check(category, about, Grade.WARNING, f"it is {version}", "version-skew")
    elif version:
        yield Check(category, about)
    yield await _lease(client, metadata["namespace"], metadata["name"])


async def _lease(client: Client, namespace: str, name: str) -> Check:
    category, about = "smi-adapter", f"a replica of {namespace}/{name} leads"
    try:
        lease = await client.get(f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}")
    except ApiError as error:
        if error.status == 403:
            return Check(category, about, Grade.SKIPPED, "you may not read leases")
        return Check(category, about, Grade.WARNING, "there is no Lease: nobody writes status", "no-leader")
    spec = lease.get("spec") or {}
    try:
        age = (datetime.now(UTC) - datetime.fromisoformat(str(spec.get("renewTime")))).total_seconds()
    except ValueError:
        age = float("inf")
    if spec.get("holderIdentity") == HOLDER:
        words = "`smi-adapter uninstall` has taken the Lease: nobody writes for ten minutes"
        return Check(category, about, Grade.WARNING, words, "no-leader")
    if not spec.get("holderIdentity") or age > 60.0:
        return Check(category, about, Grade.WARNING, "the Lease has expired: nobody writes status", "no-leader")
    return Check(category, about)


async def _webhooks(client: Client) -> AsyncIterator[Check]:
    """Look at our webhook configurations, and write (as a dry run) what only the webhook refuses."""
    category, path = "smi-adapter", "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
    try:
        found = (await client.get(path, labelSelector=_PART_OF)).get("items") or []
    except ApiError as error:
        if error.status != 403:
            raise
        yield Check(category, "the webhook is trusted", Grade.SKIPPED, "you may not list webhook configurations")
        return
    for one in found:
        about = f"the API server trusts the webhooks of {one['metadata']['name']}"
        clients = [webhook.get("clientConfig") or {} for webhook in one.get("webhooks") or ()]
        if any(not each.get("caBundle") for each in clients):
            words = "the controller has not given it a certificate authority yet"
            yield Check(category, about, Grade.WARNING, words, "webhook-untrusted")
        else:
            yield Check(category, about)
    if found:
        yield await _refusing(client)


async def _refusing(client: Client) -> Check:
    about = "the validating webhook answers"
    body = {
        "apiVersion": "specs.smi-spec.io/v1alpha4",
        "kind": "HTTPRouteGroup",
        "metadata": {"name": "smi-adapter-check", "namespace": client.namespace},
        "spec": {"matches": [{"name": "broken", "headers": {"x-check": "("}}]},
    }
    resource = Resource("specs.smi-spec.io", "v1alpha4", "httproutegroups", "HTTPRouteGroup")
    try:
        await _posted(client, resource.path(client.namespace), body, dryRun="All")
    except ApiError as error:
        if error.status == 422:
            return Check("smi-adapter", about)
        return Check("smi-adapter", about, Grade.SKIPPED, f"a dry run was refused: {error.status} {error.reason}")
    words = f"a broken object was accepted in namespace {client.namespace} (as a dry run)"
    return Check("smi-adapter", about, Grade.WARNING, words, "webhook-dead")


# --------------------------------------------------------------------------------------------------------- objects
async def _objects(client: Client) -> AsyncIterator[Check]:
    survey = await discovery.look(client)
    kinds = [kind for kind in schema.served() if kind in survey.kinds]
    if not kinds:
        for condition in ("accepted", "programmed"):
            yield Check("smi-objects", f"every SMI object is {condition}", Grade.SKIPPED, "there can be none yet")
        return
    try:
        found, _ = await listing.some(client, listing.Chosen(kinds))
    except ApiError as error:
        if error.status != 403:
            raise
        yield Check("smi-objects", "all objects are in force", Grade.SKIPPED, "you may not list SMI objects everywhere")
        return
    for condition, anchor in (("Accepted", "not-accepted"), ("Programmed", "not-programmed")):
        about = f"every SMI object is {condition.lower()}"
        bad = [raw for raw in found if _status(raw, condition) == "False"]
        silent = [raw for raw in found if not _status(raw, condition)]
        if bad:
            grade = Grade.ERROR if condition == "Accepted" else Grade.WARNING
            yield Check("smi-objects", about, grade, f"{_some(bad)} not", anchor)
        elif silent:
            yield Check("smi-objects", about, Grade.WARNING, f"nothing has been said of {_some(silent)}", "no-status")
        else:
            yield Check("smi-objects", about)


def _status(raw: Mapping[str, Any], kind: str) -> str:
    conditions = (raw.get("status") or {}).get("conditions") or ()
    return next((str(one.get("status", "")) for one in conditions if one.get("type") == kind), "")


def _some(found: list[Mapping[str, Any]]) -> str:
    names = [f"{raw['kind']} {raw['metadata'].get('namespace', '')}/{raw['metadata']['name']}" for raw in found[:3]]
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return f"{', '.join(names)}{more} {'is' if len(found) == 1 else 'are'}" if more or names else ""


async def collected(client: Client, *, before: bool = False) -> list[Check]:
    """Return all checks; one that fails to be asked ends the rest of them, with its reason."""
    found: list[Check] = []
    try:
        async with asyncio.timeout(60.0):
            async for check in run(client, before=before):
                found.append(check)  # noqa: PERF401 - what was answered before an error is kept
    except ApiError as error:
        found.append(Check("kubernetes-api", "the checks could be made", Grade.ERROR, str(error)[:300], "api-refuses"))
    return found
