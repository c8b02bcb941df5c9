"""What has to stand in the API server for it to call us: pure data, for the Helm chart, the tests and people.

The chart holds the same objects without a `caBundle`, which `keeper.py` (or cert-manager) puts in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from smi_adapter import crds
from smi_adapter.smi import schema

WEBHOOK = "validate.smi-adapter.io"
TIMEOUT = 2


def validating(name: str, client: Mapping[str, Any], exempt: Iterable[str] = ()) -> dict[str, Any]:
    """Return the ValidatingWebhookConfiguration: our groups alone, fails open, 2 s.

    `client` is a clientConfig. `exempt`: namespaces left out besides kube-system, such as our own.
    """
    groups: dict[str, set[str]] = {}
    plurals: dict[str, set[str]] = {}
    for (group, kind), versions in schema.served().items():
        groups.setdefault(group, set()).update(versions)
        plurals.setdefault(group, set()).add(crds.plural(kind))
    out = sorted({"kube-system", *exempt})
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": [
            {
                "name": WEBHOOK,
                "admissionReviewVersions": ["v1"],
                "clientConfig": dict(client),
                "failurePolicy": "Ignore",
                "matchPolicy": "Equivalent",
                "sideEffects": "None",
                "timeoutSeconds": TIMEOUT,
                "namespaceSelector": {
                    "matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": out}]
                },
                "rules": [
                    {
                        "apiGroups": [group],
                        "apiVersions": sorted(versions),
                        "operations": ["CREATE", "UPDATE"],
                        "resources": sorted(plurals[group]),
                        "scope": "Namespaced",
                    }
                    for group, versions in sorted(groups.items())
                ],
            }
        ],
    }


def conversion(client: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `spec.conversion` of a CRD that is converted by us (opt-in, ADR 5)."""
    return {"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"], "clientConfig": dict(client)}}
