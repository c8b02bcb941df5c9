"""Objects of kinds that we don't read: which of them nobody needs to be told of, and which are probably misspelled.

A misspelled group or kind is the worst way to be ignored: a TrafficTarget of `acess.smi-spec.io` looks as if it held.
"""

from __future__ import annotations

from difflib import get_close_matches
from functools import lru_cache

from smi_adapter.decode.forms import RawObject
from smi_adapter.findings import Finding, Ref, Severity, finding

HARMLESS = frozenset(
    {
        ("", "ConfigMap"),
        ("", "Event"),
        ("", "LimitRange"),
        ("", "PersistentVolume"),
        ("", "PersistentVolumeClaim"),
        ("", "ResourceQuota"),
        ("", "Secret"),
        ("apiextensions.k8s.io", "CustomResourceDefinition"),
        ("apps", "DaemonSet"),
        ("apps", "Deployment"),
        ("apps", "ReplicaSet"),
        ("apps", "StatefulSet"),
        ("autoscaling", "HorizontalPodAutoscaler"),
        ("batch", "CronJob"),
        ("batch", "Job"),
        ("kustomize.config.k8s.io", "Kustomization"),
        ("networking.k8s.io", "Ingress"),
        ("networking.k8s.io", "NetworkPolicy"),
        ("policy", "PodDisruptionBudget"),
        ("rbac.authorization.k8s.io", "ClusterRole"),
        ("rbac.authorization.k8s.io", "ClusterRoleBinding"),
        ("rbac.authorization.k8s.io", "Role"),
        ("rbac.authorization.k8s.io", "RoleBinding"),
    }
)
"""Kinds that stand beside a Service in everybody's files and that nobody expects a mesh to read."""

_NEAR = 0.75
_BOTH_NEAR = 0.88
"""How alike names must be where the other part is right, and where neither is: others have groups and kinds, too."""


def unread(ref: Ref, raw: RawObject, read: frozenset[tuple[str, str]]) -> Finding:
    """Say that an object is left out; a warning if it looks like one of a kind that is `read`, or of a usual one."""
    kind = f"{ref.kind[:80]!r} of {str(raw.get('apiVersion'))[:80]!r} is a kind that is not read here"
    if meant := _meant(ref.group[:80], ref.kind[:80], read | HARMLESS):
        return finding("SMI0506", ref, "kind", f"{kind}; did you mean {meant}?", severity=Severity.WARNING)
    return finding("SMI0506", ref, "kind", kind)


@lru_cache(maxsize=256)
def _meant(group: str, kind: str, known: frozenset[tuple[str, str]]) -> str:
    """Return what was probably meant, by the part of the name that is wrong; "" if nothing is like it."""
    groups = sorted(one for one, name in known if name == kind and one)
    kinds = sorted(name for one, name in known if one == group)
    if found := get_close_matches(group, groups, 1, _NEAR) if group else groups[:1]:
        return f"{kind} of {found[0]}"
    if found := get_close_matches(kind, kinds, 1, _NEAR):
        return found[0]
    for near in get_close_matches(group, sorted({one for one, _ in known if one}), 1, _BOTH_NEAR):
        if named := get_close_matches(kind, sorted(name for one, name in known if one == near), 1, _BOTH_NEAR):
            return f"{named[0]} of {near}"
    return ""
