"""Our CRDs beside those that are installed already, by whomever.

Other meshes install CRDs of the same names with fewer versions. What of theirs somebody may rely on stays: every
version that is served or in which objects are stored, the stored version itself, a conversion webhook, short names.
Ours is added: the other versions, schemas that list the fields of all, the status subresource, columns. Pure: live
objects in, the object to apply and words about it out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from smi_adapter.crds import PART_OF, Crd, name_of
from smi_adapter.smi.pruned import SAID_BY_KIND

_HEAD = frozenset({"apiVersion", "kind", "metadata", "spec", "status"})
"""What an object has beside the form of the first versions, which stands at the top."""


class State(Enum):
    """How an installed CRD compares with ours."""

    MISSING = "missing"
    CURRENT = "current"
    OUTDATED = "outdated"
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to apply for one CRD, and what the person who asks for it should know."""

    name: str
    state: State
    wanted: Crd
    owner: str
    served: tuple[str, ...]
    stored: tuple[str, ...]
    has_status: bool
    notes: tuple[str, ...]


def plan(ours: Crd, live: Mapping[str, Any] | None) -> Plan:
    """Return what to apply over a live CRD (None: there is none); nothing that is served or stored is dropped."""
    if live is None:
        return Plan(name_of(ours), State.MISSING, ours, "", (), (), has_status=False, notes=())
    wanted = _merged(ours, live)
    versions = live["spec"]["versions"]
    return Plan(
        name=name_of(ours),
        state=_state(wanted, live),
        wanted=wanted,
        owner=owner(live),
        served=tuple(one["name"] for one in versions if one["served"]),
        stored=tuple(live.get("status", {}).get("storedVersions") or (_storage(versions),)),
        has_status=all("status" in (one.get("subresources") or {}) for one in versions if one["served"]),
        notes=_notes(wanted, live),
    )


def owner(live: Mapping[str, Any]) -> str:
    """Return who installed a CRD, as far as it says so."""
    metadata = live["metadata"]
    notes, labels = metadata.get("annotations") or {}, metadata.get("labels") or {}
    if release := notes.get("meta.helm.sh/release-name"):
        return f"Helm release {notes.get('meta.helm.sh/release-namespace', '')}/{release}"
    for label in ("app.kubernetes.io/managed-by", PART_OF[0], "app.kubernetes.io/name"):
        if labels.get(label):
            return str(labels[label])
    writers = [one.get("manager", "") for one in metadata.get("managedFields") or () if not one.get("subresource")]
    return writers[0] if writers else ""


def comparable(crd: Mapping[str, Any]) -> Crd:
    """Return what of a CRD says how it is served, without what the API server fills in."""
    spec = {key: value for key, value in crd["spec"].items() if key != "preserveUnknownFields" or value}
    spec["versions"] = sorted((_comparable_version(one) for one in spec["versions"]), key=lambda one: one["name"])
    labels = crd["metadata"].get("labels") or {}
    return {"labels": {PART_OF[0]: labels.get(PART_OF[0])}, "spec": spec}


def preferred(versions: Sequence[Mapping[str, Any]]) -> str:
    """Return the served version that clients get unless they ask for another one, as Kubernetes orders them."""
    return max((one["name"] for one in versions if one["served"]), key=_priority, default="")


_VERSION = re.compile(r"v([0-9]+)(?:(alpha|beta)([0-9]+))?")


def _priority(name: str) -> tuple[int, int, int]:
    """Order stable before beta before alpha before other names, then the higher number."""
    form = _VERSION.fullmatch(name)
    if form is None:
        return 0, 0, 0
    major, stage, minor = form.groups()
    return {None: 3, "beta": 2, "alpha": 1}[stage], int(major), int(minor or 0)


def _comparable_version(version: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in version.items() if value is not None}
    kept["additionalPrinterColumns"] = [
        {key: value for key, value in column.items() if value} for column in kept.get("additionalPrinterColumns") or ()
    ]
    return kept


def _state(wanted: Crd, live: Mapping[str, Any]) -> State:
    if comparable(wanted) == comparable(live):
        return State.CURRENT
    labels = live["metadata"].get("labels") or {}
    return State.OUTDATED if labels.get(PART_OF[0]) == PART_OF[1] else State.FOREIGN


def _merged(ours: Crd, live: Mapping[str, Any]) -> Crd:
    known = {one["name"] for one in ours["spec"]["versions"]}
    there = live["spec"]
    storage = _storage(there["versions"])
    versions = [*ours["spec"]["versions"], *(one for one in there["versions"] if one["name"] not in known)]
    names = dict(ours["spec"]["names"])
    for field in ("shortNames", "categories"):
        if both := list(dict.fromkeys([*names.get(field, ()), *(there["names"].get(field) or ())])):
            names[field] = both
    spec = {
        **ours["spec"],
        "names": names,
        "versions": [{**one, "storage": one["name"] == storage} for one in versions],
    }
    if _webhook(there):
        spec["conversion"] = there["conversion"]
    if there.get("preserveUnknownFields"):
        spec["preserveUnknownFields"] = False  # a relic of apiextensions v1beta1; with it nothing is pruned
    return {**ours, "spec": spec}


def _storage(versions: Sequence[Mapping[str, Any]]) -> str:
    name: str = next(one["name"] for one in versions if one["storage"])
    return name


def _webhook(spec: Mapping[str, Any]) -> bool:
    return (spec.get("conversion") or {}).get("strategy") == "Webhook"


def _notes(wanted: Crd, live: Mapping[str, Any]) -> tuple[str, ...]:
    notes = []
    known = {one["name"] for one in live["spec"]["versions"]}
    if added := sorted({one["name"] for one in wanted["spec"]["versions"]} - known):
        notes.append(f"adds {', '.join(added)}")
    if dropped := _dropped(wanted, live):
        what = "; ".join(dropped)
        notes.append(
            f"it does not list, and so the API server drops, {what}: what has lost them is to be applied again"
        )
    before, after = preferred(live["spec"]["versions"]), preferred(wanted["spec"]["versions"])
    if before != after:
        notes.append(
            f"clients that ask for no version get {after} instead of {before or 'none'}; "
            "Traefik Mesh refuses to start then"
        )
    if _webhook(live["spec"]):
        notes.append(
            "its conversion webhook stays: while it is down nothing can be read, and what it drops on the way is lost"
        )
    return tuple(notes)


def _dropped(wanted: Crd, live: Mapping[str, Any]) -> tuple[str, ...]:
    """Return, for each served version, the fields of ours that the API server prunes as long as the CRD is theirs."""
    if live["spec"].get("preserveUnknownFields"):
        return ()
    ours = {one["name"]: _schema(one) for one in wanted["spec"]["versions"]}
    found: dict[tuple[str, ...], list[str]] = {}
    for one in live["spec"]["versions"]:
        if one["served"] and (fields := tuple(sorted(_unlisted(ours.get(one["name"], {}), _schema(one), "")))):
            found.setdefault(fields, []).append(one["name"])
    return tuple(f"{', '.join(fields)} in {', '.join(versions)}" for fields, versions in found.items())


def _schema(version: Mapping[str, Any]) -> Mapping[str, Any]:
    return (version.get("schema") or {}).get("openAPIV3Schema") or {}


def _unlisted(ours: Mapping[str, Any], theirs: Mapping[str, Any], path: str) -> Iterator[str]:
    """Yield what a schema does not list of what lies below the fields that it shares with ours.

    A field at the top is another version's form: who serves one form only never meant to keep the other. But whoever
    lists neither form keeps nothing. What preserves unknown fields does so at its own level only: what is listed there
    has a schema of its own.
    """
    if "additionalProperties" in theirs:
        return
    keeps = bool(theirs.get("x-kubernetes-preserve-unknown-fields"))
    if "items" in ours and "items" in theirs:
        yield from _unlisted(ours["items"], theirs["items"], f"{path}[]")
    listed, fields = theirs.get("properties") or {}, ours.get("properties") or {}
    flat = not path and bool(listed.keys() & fields.keys() - _HEAD)
    for name, field in fields.items():
        here = f"{path}.{name}" if path else name
        if name in listed:
            yield from _unlisted(field, listed[name], here)
        elif not keeps and name not in SAID_BY_KIND and (path or (name == "spec" and not flat)):
            yield here
