"""What a version could not say, kept in an annotation: how it is put back into a manifest.

`wire.encode` writes the annotation, `wire.decode` calls `restore` before anything else looks at the manifest. It works
on the raw form, because every version's schema knows the fields of all versions: what was lost is put where a version
that has the field would hold it, and is then checked and read like anything that an author wrote. Whatever was
written into its place since then counts more than the annotation.

The annotation is JSON, by the name of what was lost (docs/versions.md):
TrafficSplit `matches`: the list; `weights`: `{"were": [1, "500m"], "shown": [2, 1]}`. TCPRoute `matches`: the object.
TrafficTarget `port`: the number. HTTPRouteGroup `matches`: `[[place, match], ...]`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from smi_adapter.smi.objects import SPLIT_GROUP

PREFIX = "smi-adapter.io/lost-in-"
"""Followed by the version, such as v1alpha2. It is read back under every version."""

Raw: TypeAlias = Mapping[str, Any]


class LostError(ValueError):
    """An annotation is not as this program writes it, so what it restricts is not known."""


def restore(raw: Raw, kind: str) -> tuple[Raw, tuple[str, ...]]:
    """Return the manifest with all that its annotations hold, and the annotations that are out of date."""
    metadata = raw.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, Mapping) else None
    if not isinstance(annotations, Mapping):
        return raw, ()
    stale = []
    for key in sorted(k for k in annotations if isinstance(k, str) and k.startswith(PREFIX)):
        try:
            for what, value in json.loads(annotations[key]).items():
                again = _RESTORE[kind, what](raw, value)
                if again is None:
                    stale.append(key)
                else:
                    raw = again
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise LostError(key) from error
    return raw, tuple(stale)


def _split_matches(raw: Raw, value: Any) -> Raw | None:
    return None if "matches" in raw["spec"] else {**raw, "spec": {**raw["spec"], "matches": value}}


def _split_weights(raw: Raw, value: Any) -> Raw | None:
    """Put the quantities back unless a weight was changed: then the numbers that were shown are what is meant now."""
    backends = [dict(backend) for backend in raw["spec"]["backends"]]
    if json.dumps([backend.get("weight") for backend in backends]) != json.dumps(value["shown"]):
        return None
    for backend, weight in zip(backends, value["were"], strict=True):
        if weight is not None:
            backend["weight"] = weight
    return {**raw, "apiVersion": f"{SPLIT_GROUP}/v1alpha1", "spec": {**raw["spec"], "backends": backends}}


def _route_matches(raw: Raw, value: Any) -> Raw | None:
    spec = raw.get("spec", {})
    return None if spec.get("matches") else {**raw, "spec": {**spec, "matches": value}}


def _group_matches(raw: Raw, value: Any) -> Raw:
    """Put whole matches back in their places; the others may have been edited meanwhile."""
    flat = "spec" not in raw
    matches = list((raw if flat else raw["spec"]).get("matches", ()))
    for place, match in value:
        matches.insert(place, match)
    return {**raw, "matches": matches} if flat else {**raw, "spec": {**raw["spec"], "matches": matches}}


def _target_port(raw: Raw, value: Any) -> Raw | None:
    flat = "spec" not in raw
    destination = (raw if flat else raw["spec"])["destination"]
    if "port" in destination:
        return None
    whole = {**destination, "port": value}
    return {**raw, "destination": whole} if flat else {**raw, "spec": {**raw["spec"], "destination": whole}}


_RESTORE: Mapping[tuple[str, str], Callable[[Raw, Any], Raw | None]] = {
    ("TrafficSplit", "matches"): _split_matches,
    ("TrafficSplit", "weights"): _split_weights,
    ("HTTPRouteGroup", "matches"): _group_matches,
    ("TCPRoute", "matches"): _route_matches,
    ("TrafficTarget", "port"): _target_port,
}
