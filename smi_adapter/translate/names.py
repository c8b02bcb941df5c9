"""How SMI objects name things: Services by host names, identities by SPIFFE ids.

Pure text, no look-up: whether what is named exists is for the passes to find out.
"""

from __future__ import annotations

import re
from functools import lru_cache

from smi_adapter.smi.objects import Key, TrafficSplit

_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")
_DOTS = frozenset({".", ".."})


def service_name(text: str, namespace: str) -> Key | None:
    """Read `name`, `name.ns` and `name.ns.svc[.cluster.local]` as (namespace, name); None: some other host (S18).

    `name.ns` cannot be told from a host of two labels such as `example.com` by its text alone.
    """
    labels = text.removesuffix(".").split(".")
    if not all(labels):
        return None
    match labels:
        case [name]:
            return (namespace, name)
        case [name, other] | [name, other, "svc"] | [name, other, "svc", "cluster", "local"]:
            return (other, name)
        case _:
            return None


def may_be_host(text: str) -> bool:
    """Tell whether the text may be a host name that is no Service's (S18): several labels, without `.svc`."""
    labels = text.removesuffix(".").split(".")
    return len(labels) == 2 or service_name(text, "") is None


def candidate_root(split: TrafficSplit) -> Key | None:
    """Return the only Service that this split can have as its root, existing or not; None: it is refused (S19)."""
    namespace = split.meta.namespace
    named = service_name(split.service, namespace)
    if named is not None and named[0] == namespace:
        return named
    return (namespace, split.meta.name) if may_be_host(split.service) else None


@lru_cache(maxsize=4096)
def spiffe_parts(text: str) -> tuple[str, str] | None:
    """Split a SPIFFE id, written with or without `spiffe://`, into (trust domain, path); None: it is none."""
    domain, _, path = text.removeprefix("spiffe://").partition("/")
    segments = path.split("/")
    if not all(_SEGMENT.fullmatch(part) and part not in _DOTS for part in (domain, *segments)):
        return None
    return domain, path


def spiffe_account(text: str) -> Key | None:
    """Return the (namespace, ServiceAccount) that a SPIFFE id of a Kubernetes mesh names, or None."""
    parts = spiffe_parts(text)
    match parts[1].split("/") if parts else []:
        case ["ns", namespace, "sa", account]:
            return (namespace, account)
        case _:
            return None


@lru_cache(maxsize=4096)
def spiffe_id(trust_domain: str, account: Key) -> str:
    """Return the identity of a ServiceAccount (T12)."""
    return f"spiffe://{trust_domain}/ns/{account[0]}/sa/{account[1]}"
