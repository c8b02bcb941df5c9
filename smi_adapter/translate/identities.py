"""Pass `bound`: whom each IdentityBinding names.

As a source it becomes principals; as a destination, pods. A binding speaks for its own namespace only (B2, B4), and
one that is ambiguous, empty or unreadable names nobody (B1, B5).
"""

from __future__ import annotations

from collections.abc import Iterable

from smi_adapter.findings import Finding, finding
from smi_adapter.mesh import Principal
from smi_adapter.smi.objects import IdentityBinding, Key, LabelSelector
from smi_adapter.translate.incremental import Outcome
from smi_adapter.translate.names import spiffe_account, spiffe_id, spiffe_parts
from smi_adapter.translate.parts import Bound
from smi_adapter.translate.view import View

NOBODY = Bound()


def compute(view: View, key: Key) -> Outcome[Bound]:
    """Resolve one binding."""
    binding = view.bindings.get(key)
    if binding is None:
        return NOBODY, ()
    if binding.service_account is not None and binding.pod_label_selector is not None:
        words = "serviceAccount and podLabelSelector exclude each other; the binding names nobody"
        return NOBODY, (finding("SMI0402", binding.ref, "spec.schemes", words),)
    notes: list[Finding] = []
    principals: list[Principal] = []
    accounts: set[str] = set()
    pods: dict[Key, Principal] = {}
    if binding.service_account is not None:
        accounts.add(binding.service_account)
        account = (binding.meta.namespace, binding.service_account)
        principals.append(Principal(spiffe_id(view.options.trust_domain, account)))
    if binding.pod_label_selector is not None:
        pods = _selected(view, binding.meta.namespace, binding.pod_label_selector)
        principals.extend(principal for principal in pods.values() if principal.addresses)
    for index, text in enumerate(binding.spiffe_identities):
        problem = _foreign(view, binding, text)
        if problem:
            notes.append(finding("SMI0403", binding.ref, f"spec.schemes.spiffeIdentities[{index}]", problem))
            continue
        principals.append(Principal(f"spiffe://{text.removeprefix('spiffe://')}"))
        account_of = spiffe_account(text) if _is_ours(view, text) else None
        if account_of is not None:
            accounts.add(account_of[1])
    if not principals and not notes:
        notes.append(finding("SMI0401", binding.ref, "spec.schemes", _nobody(binding)))
    return Bound(united(principals), frozenset(accounts), frozenset(pods)), tuple(notes)


def _selected(view: View, namespace: str, selector: LabelSelector) -> dict[Key, Principal]:
    """Return the selected pods, each as its ServiceAccount's identity at its own address (B3)."""
    if selector.match_labels:
        names = view.pods_with_label.get((namespace, *min(selector.match_labels)))
    else:
        names = view.pods_of_namespace.get(namespace)
    found: dict[Key, Principal] = {}
    for name in names or ():
        pod = view.pods.get(name)
        if pod is not None and selector.selects(pod.meta.labels):
            identity = spiffe_id(view.options.trust_domain, (namespace, pod.service_account))
            found[name] = Principal(identity, (pod.address,) if pod.address else ())
    return found


def _is_ours(view: View, text: str) -> bool:
    parts = spiffe_parts(text)
    return parts is not None and parts[0] == view.options.trust_domain


def _foreign(view: View, binding: IdentityBinding, text: str) -> str:
    """Say why this binding may not name that identity (B4); "" if it may."""
    parts = spiffe_parts(text)
    if parts is None:
        return f"{text[:200]!r} is not a SPIFFE id"
    if parts[0] != view.options.trust_domain:
        return "" if parts[0] in view.options.federated_domains else f"Trust domain {parts[0]!r} is not federated"
    account = spiffe_account(text)
    if account is None:
        return f"{text[:200]!r} names no ServiceAccount; here it takes the form .../ns/NAMESPACE/sa/NAME"
    if account[0] != binding.meta.namespace:
        return f"{text[:200]!r} belongs to namespace {account[0]}, the binding to {binding.meta.namespace}"
    return ""


def _nobody(binding: IdentityBinding) -> str:
    if binding.pod_label_selector is not None:
        return "Its podLabelSelector selects no pod that has an address; it names nobody as a source"
    return "It has no scheme; it names nobody"


def united(principals: Iterable[Principal]) -> tuple[Principal, ...]:
    """Merge principals of one identity: one without addresses includes all others, else the addresses add up."""
    addresses: dict[str, set[str] | None] = {}
    for principal in principals:
        known = addresses.setdefault(principal.identity, set())
        if principal.addresses is None or known is None:
            addresses[principal.identity] = None
        else:
            known.update(principal.addresses)
    return tuple(
        Principal(identity, None if found is None else tuple(sorted(found)))
        for identity, found in sorted(addresses.items())
    )
