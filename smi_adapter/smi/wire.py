"""Between the wire and the frozen SMI objects: every version in, every version out.

`decode` is the only reader of SMI manifests. An object is read by its shape as well as by its apiVersion, because one
that is stored under another version must mean the same. The schema finds what is wrong; here stands what each damage
costs: a part that can go alone goes alone (a backend, an HTTP match, a port), anything else takes the object with it.
Nothing is ever read as wider than it was written: access fails closed.

`encode` is the way back. What a version cannot say is reported (SMI0504) and kept in an annotation (`lost.py`), so
that no chain of conversions loses anything. `FORMS`, at the end, is the only table of versions in the code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from math import gcd
from types import MappingProxyType
from typing import Any, TypeAlias

from smi_adapter.findings import CODES, Finding, Ref, Severity, finding
from smi_adapter.smi import lost, pruned, quantity, schema
from smi_adapter.smi.objects import (
    ACCESS_GROUP,
    NO_PORT,
    SPECS_GROUP,
    SPLIT_GROUP,
    HTTPMatch,
    HTTPRouteGroup,
    IdentityBinding,
    IdentitySubject,
    LabelRequirement,
    LabelSelector,
    Meta,
    SmiObject,
    SplitBackend,
    TCPRoute,
    TrafficSplit,
    TrafficTarget,
    TrafficTargetRule,
    UDPRoute,
)
from smi_adapter.smi.schema import Problem, Steps

Raw: TypeAlias = Mapping[str, Any]
Damage: TypeAlias = frozenset[Steps]


class UnservedVersionError(LookupError):
    """An object was to be written in a version that its kind does not have."""


@dataclass(frozen=True, slots=True)
class Form:
    """One (group, version, kind): how to read and write it, its shape, and what it cannot say."""

    read: Callable[[Raw, Meta, Damage], SmiObject]
    survives: Callable[[Problem, Raw], bool]
    write: Callable[[Any, Form], Written]
    flat: bool = False
    lacks: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Written:
    """The body of a manifest, what its version could not say, and (field, message) for each such thing."""

    body: dict[str, Any]
    lost: dict[str, Any]
    notes: tuple[tuple[str, str], ...] = ()


def decode(raw: Any) -> tuple[SmiObject | None, tuple[Finding, ...]]:
    """Return the object that a manifest describes, or None, and what there is to tell. Never raises."""
    subject = ref_of(raw)
    if not isinstance(raw, Mapping):
        return None, (finding("SMI0505", subject, "", f"must be an object, not {schema.shown(raw)}"),)
    if (subject.group, _version_of(raw), subject.kind) not in FORMS:
        return None, (_unknown(raw, subject),)
    try:
        whole, stale = lost.restore(raw, subject.kind)
    except lost.LostError as error:
        told = _told(schema.check((subject.group, _version_of(raw), subject.kind), raw), subject)
        message = "cannot be read, so what it restricts is not known; remove it if the object is complete without it"
        field = schema.field_path(("metadata", "annotations", str(error)))
        return None, (finding("SMI0505", subject, field, message), *told)
    if subject.kind == "TrafficSplit":
        whole = _as_written(whole)
    key = (subject.group, _version_of(whole), subject.kind)
    form = FORMS[key]
    found = schema.check(key, whole)
    fatal = _fatal(form, found, whole)
    if not fatal:  # else nothing of it is used anyhow, and it may be larger than can be compared
        known = {problem.path for problem in found}
        found += tuple(problem for problem in pruned.problems(whole) if problem.path not in known)
        fatal = _fatal(form, found, whole)
    told = _told([problem for problem in found if problem.path in fatal or problem.code not in _LATER], subject)
    told += tuple(
        finding(
            "SMI0504", subject, schema.field_path(("metadata", "annotations", name)), _STALE, severity=Severity.INFO
        )
        for name in stale
    )
    if fatal:
        return None, told
    damage = frozenset(problem.path for problem in found)
    return form.read(whole, _read_meta(whole["metadata"]), damage), told


def _fatal(form: Form, found: Sequence[Problem], raw: Raw) -> Damage:
    """Return the places of what an object does not outlive."""
    return frozenset(one.path for one in found if one.keyword != pruned.IDLE and not form.survives(one, raw))


_STALE = "is out of date and not used: what it belongs to was written anew"

_LATER = frozenset({"SMI0110", "SMI0303", "SMI0305", "SMI0401", "SMI0402"})
"""What an object outlives with these codes is told by the translator, once: it also sees it without the wire form."""


_MILD = frozenset(code for code in _LATER if CODES[code].severity is not Severity.ERROR)


def _told(found: Sequence[Problem], subject: Ref) -> tuple[Finding, ...]:
    """Turn problems into findings, errors unless they cost nothing; of very many only the first ones, and how many."""
    told = [
        finding(
            "SMI0505" if problem.code in _MILD else problem.code,
            subject,
            problem.field,
            problem.message,
            severity=Severity.WARNING if problem.keyword == pruned.IDLE else None,
        )
        for problem in found[: schema.MANY]
    ]
    if len(found) > schema.MANY:
        told.append(finding("SMI0505", subject, "", f"has {len(found) - schema.MANY} more problems like these"))
    return tuple(told)


def encode(obj: SmiObject, version: str) -> tuple[dict[str, Any], tuple[Finding, ...]]:
    """Return the manifest of an object in a version of its kind, and what that version cannot say (SMI0504)."""
    subject = obj.ref
    form = FORMS.get((subject.group, version, subject.kind))
    if form is None:
        raise UnservedVersionError(f"{subject.kind} has no version {version}")
    written = form.write(obj, form)
    metadata = _write_meta(obj.meta)
    if written.lost:
        text = json.dumps(written.lost, separators=(",", ":"))
        metadata["annotations"] = {**metadata.get("annotations", {}), lost.PREFIX + version: text}
    raw = {"apiVersion": f"{subject.group}/{version}", "kind": subject.kind, "metadata": metadata, **written.body}
    return raw, tuple(finding("SMI0504", subject, *note) for note in written.notes)


def ref_of(raw: Any) -> Ref:
    """Return the name of whatever object a manifest describes; what is not readable in it is left empty."""
    if not isinstance(raw, Mapping):
        return Ref("", "", "")
    metadata = raw.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    api = _text(raw.get("apiVersion"))
    group = api.rpartition("/")[0]
    return Ref(
        _text(raw.get("kind")), _text(metadata.get("namespace")) or "default", _text(metadata.get("name")), group
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _version_of(raw: Raw) -> str:
    return _text(raw.get("apiVersion")).rpartition("/")[2]


def _unknown(raw: Raw, subject: Ref) -> Finding:
    versions = schema.served().get((subject.group, subject.kind))
    if versions:
        message = f"{schema.shown(_version_of(raw))} is not a version of {subject.kind}; known: {', '.join(versions)}"
        return finding("SMI0501", subject, "apiVersion", message)
    kinds = sorted(kind for group, kind in schema.served() if group == subject.group)
    groups = sorted(group for group, kind in schema.served() if kind == subject.kind)
    if groups and not subject.group:
        message = f"{schema.shown(raw.get('apiVersion'))} has no group; {subject.kind} is of {' or '.join(groups)}"
        return finding("SMI0501", subject, "apiVersion", message)
    if kinds:
        message = f"{schema.shown(raw.get('kind'))} is not a kind of {subject.group}; known: {', '.join(kinds)}"
        return finding("SMI0501", subject, "kind", message)
    message = f"{schema.shown(raw.get('kind'))} of {schema.shown(raw.get('apiVersion'))} is not read"
    return finding("SMI0506", subject, "kind", message)


# ---------------------------------------------------------------------------------------------------- metadata
def _read_meta(metadata: Raw) -> Meta:
    created = metadata.get("creationTimestamp")
    if isinstance(created, date):  # YAML reads an unquoted time stamp as one
        created = created.isoformat().replace("+00:00", "Z")
    generation = metadata.get("generation")
    annotations = metadata.get("annotations") or {}
    return Meta(
        namespace=metadata.get("namespace", "default"),
        name=metadata["name"],
        created=created if isinstance(created, str) else "",
        generation=generation if isinstance(generation, int) and not isinstance(generation, bool) else 0,
        labels=MappingProxyType(dict(metadata.get("labels") or {})),
        annotations=MappingProxyType({k: v for k, v in annotations.items() if not k.startswith(lost.PREFIX)}),
    )


def _write_meta(meta: Meta) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": meta.name, "namespace": meta.namespace}
    if meta.created:
        metadata["creationTimestamp"] = meta.created
    if meta.generation:
        metadata["generation"] = meta.generation
    if meta.labels:
        metadata["labels"] = dict(meta.labels)
    if meta.annotations:
        metadata["annotations"] = dict(meta.annotations)
    return metadata


# ------------------------------------------------------------------------------------------------ TrafficSplit
def _as_written(raw: Raw) -> Raw:
    """Read a split with quantities under a later version as v1alpha1, if the API server stored it (it has a uid).

    Under conversion strategy None only the apiVersion changes, and only v1alpha1 takes a string: it was written so.
    In a file the apiVersion is the author's, and the schema refuses the string.
    """
    metadata, spec = raw.get("metadata"), raw.get("spec")
    if not (isinstance(metadata, Mapping) and metadata.get("uid") and isinstance(spec, Mapping)):
        return raw
    backends = spec.get("backends")
    if isinstance(backends, list | tuple) and any(
        isinstance(backend, Mapping) and isinstance(backend.get("weight"), str) for backend in backends
    ):
        return {**raw, "apiVersion": f"{SPLIT_GROUP}/v1alpha1"}
    return raw


def _split_survives(problem: Problem, raw: Raw) -> bool:
    """Tell what a split outlives: a bad weight (that backend alone goes, S2), a reference of another kind (S16)."""
    path = problem.path
    if path[:2] == ("spec", "backends") and path[3:] == ("weight",):
        return True
    return problem.code == "SMI0110" and problem.keyword == "enum" and _names_a_kind(raw["spec"]["matches"][path[2]])


def _names_a_kind(reference: Raw) -> bool:
    """Tell whether kind and group of a reference could be some other kind's: then it is kept, as one not known."""
    kind, group = reference.get("kind"), reference.get("group") or reference.get("apiGroup") or ""
    return (
        isinstance(kind, str)
        and isinstance(group, str)
        and _KIND.fullmatch(kind) is not None
        and _GROUP.fullmatch(group) is not None
    )


_KIND = re.compile(r"[A-Za-z][A-Za-z0-9]{0,62}")
_GROUP = re.compile(r"[a-z0-9.-]{0,253}")


def _read_split(raw: Raw, meta: Meta, damage: Damage) -> TrafficSplit:
    spec = raw["spec"]
    backends = []
    for index, backend in enumerate(spec["backends"]):
        usable = ("spec", "backends", index, "weight") not in damage
        backends.append(SplitBackend(backend["service"], _read_weight(backend["weight"]) if usable else None))
    matches, unknown = [], []
    for match in spec.get("matches", ()):
        kind, group = match["kind"], match.get("apiGroup") or ""
        if kind == "HTTPRouteGroup" and group in ("", SPECS_GROUP):
            matches.append(match["name"])
        else:
            unknown.append(f"{kind}{'.' if group else ''}{group}/{match['name']}")
    return TrafficSplit(meta, spec["service"], tuple(backends), tuple(matches), tuple(unknown))


def _read_weight(weight: float | str) -> int:
    return quantity.milli(weight) if isinstance(weight, str) else int(weight) * 1000


def _write_split(split: TrafficSplit, form: Form) -> Written:
    missing: dict[str, Any] = {}
    notes = []
    were = [None if backend.weight is None else quantity.write(backend.weight) for backend in split.backends]
    weights: Sequence[int | str | None] = were
    if "fractions" in form.lacks and any(isinstance(weight, str) for weight in were):
        weights = _in_whole_numbers([backend.weight for backend in split.backends])
        missing["weights"] = {"were": were, "shown": weights}
        notes.append(
            ("spec.backends", "its weights are fractions; whole numbers in the same proportion stand for them")
        )
    backends: list[dict[str, Any]] = [
        {"service": backend.service} | ({} if weight is None else {"weight": weight})
        for backend, weight in zip(split.backends, weights, strict=True)
    ]
    spec: dict[str, Any] = {"service": split.service, "backends": backends}
    matches = [{"kind": "HTTPRouteGroup", "name": name} for name in split.matches]
    matches += [_write_unknown_match(text) for text in split.unknown_matches]
    if matches and "matches" in form.lacks:
        missing["matches"] = matches
        notes.append(("spec.matches", "this version divides every request: it cannot name the ones that are meant"))
    elif matches:
        spec["matches"] = matches
    return Written({"spec": spec}, missing, tuple(notes))


def _write_unknown_match(text: str) -> dict[str, Any]:
    whole, _, name = text.rpartition("/")
    kind, _, group = whole.partition(".")
    return ({"apiGroup": group} if group else {}) | {"kind": kind, "name": name}


def _in_whole_numbers(weights: list[int | None]) -> list[int | None]:
    """Return the smallest whole numbers of the same proportion; out of bounds, the nearest ones that keep zero zero."""
    known = [weight for weight in weights if weight is not None]
    divisor = gcd(*known)
    excess = -(-max(known) // divisor // quantity.MAX_WEIGHT)
    if excess == 1:
        return [None if weight is None else weight // divisor for weight in weights]
    return [weight and max(1, weight // divisor // excess) for weight in weights]


# ------------------------------------------------------------------------------ HTTPRouteGroup, TCPRoute, UDPRoute
def _group_survives(problem: Problem, _: Raw) -> bool:
    """Tell what a group outlives: a match goes alone (R4, R7); an empty group stays, known to be empty."""
    path = problem.path[1:] if problem.path[:1] == ("spec",) else problem.path
    return path[:1] == ("matches",) and (len(path) > 1 or problem.keyword == "minItems")


def _read_group(raw: Raw, meta: Meta, damage: Damage) -> HTTPRouteGroup:
    prefix: Steps = ("spec", "matches") if "spec" in raw else ("matches",)
    bad = {path[len(prefix)] for path in damage if len(path) > len(prefix)}
    written = raw.get("spec", raw)["matches"]
    read = (_unusable(match) if index in bad else _read_match(match) for index, match in enumerate(written))
    return HTTPRouteGroup(meta, tuple(read))


def _unusable(match: Any) -> HTTPMatch:
    name = match.get("name") if isinstance(match, Mapping) else None
    return HTTPMatch(name if isinstance(name, str) else "", unusable=True)


def _read_match(match: Raw) -> HTTPMatch:
    headers = match.get("headers", {})
    if isinstance(headers, Mapping):
        pairs = tuple(headers.items())
    else:
        pairs = tuple(pair for one in headers for pair in one.items())
    return HTTPMatch(match["name"], match.get("pathRegex"), tuple(match.get("methods", ())), pairs)


def _write_group(group: HTTPRouteGroup, form: Form) -> Written:
    kept, missing, notes = [], [], []
    for place, match in enumerate(group.matches):
        if match.unusable:
            continue
        if match.headers and "headers" in form.lacks:
            missing.append([place, _write_match(match)])
            message = "this version has no headers, and a match without them would mean more; the whole match is kept"
            notes.append((f"matches[{place}]", f"{message} in an annotation"))
        else:
            kept.append(_write_match(match))
    body = {"matches": kept} if form.flat else {"spec": {"matches": kept}}
    return Written(body, {"matches": missing} if missing else {}, tuple(notes))


def _write_match(match: HTTPMatch) -> dict[str, Any]:
    written: dict[str, Any] = {"name": match.name}
    if match.path_regex is not None:
        written["pathRegex"] = match.path_regex
    if match.methods:
        written["methods"] = list(match.methods)
    if match.headers:
        as_map = dict(match.headers)
        # A map cannot say one name twice; the list form of smi-sdk-go can.
        written["headers"] = (
            as_map if len(as_map) == len(match.headers) else [{name: value} for name, value in match.headers]
        )
    return written


def _route_survives(problem: Problem, _: Raw) -> bool:
    return problem.path[:3] == ("spec", "matches", "ports") and len(problem.path) == 4


def _read_ports(raw: Raw, damage: Damage) -> tuple[tuple[int, ...], str]:
    """Return the usable ports and the match's name; if ports were written and none is usable, `NO_PORT` (R11)."""
    matches = raw.get("spec", {}).get("matches", {})
    written = matches.get("ports", ())
    ports = tuple(int(port) for index, port in enumerate(written) if ("spec", "matches", "ports", index) not in damage)
    return ports if ports or not written else NO_PORT, matches.get("name", "")


def _read_tcp(raw: Raw, meta: Meta, damage: Damage) -> TCPRoute:
    return TCPRoute(meta, *_read_ports(raw, damage))


def _read_udp(raw: Raw, meta: Meta, damage: Damage) -> UDPRoute:
    return UDPRoute(meta, *_read_ports(raw, damage))


def _write_route(route: TCPRoute | UDPRoute, form: Form) -> Written:
    matches: dict[str, Any] = {"name": route.match_name} if route.match_name else {}
    matches["ports"] = list(route.ports)
    if "ports" not in form.lacks:
        return Written({"spec": {"matches": matches}}, {})
    body: dict[str, Any] = {} if form.flat else {"spec": {}}
    if not (matches["ports"] or route.match_name):
        return Written(body, {})
    return Written(
        body, {"matches": matches}, (("spec.matches", "this version means every port: it cannot name some"),)
    )


# ----------------------------------------------------------------------------------------------- TrafficTarget
_GRANTS = frozenset({"rules", "specs", "sources"})


def _target_survives(problem: Problem, raw: Raw) -> bool:
    """Tell what a target outlives: no rules or sources (T9), and kinds not known (T16). They grant nothing."""
    path = problem.path[1:] if problem.path[:1] == ("spec",) else problem.path
    if len(path) == 1 and path[0] in _GRANTS:
        return problem.keyword in {"required", "minItems"}
    value: Any = raw
    for step in problem.path[:-1]:
        value = value[step]
    return problem.code == "SMI0305" and problem.keyword == "enum" and _names_a_kind(value)


def _read_target(raw: Raw, meta: Meta, _: Damage) -> TrafficTarget:
    body = raw.get("spec", raw)
    destination = body["destination"]
    port = destination.get("port")
    return TrafficTarget(
        meta,
        _read_subject(destination),
        tuple(
            TrafficTargetRule(rule["kind"], rule["name"], tuple(rule.get("matches", ())))
            for rule in body.get("rules" if "spec" in raw else "specs", ())
        ),
        tuple(_read_subject(source) for source in body.get("sources", ())),
        None if port is None else int(port),
    )


def _read_subject(subject: Raw) -> IdentitySubject:
    kind, group = subject["kind"], subject.get("group", "")
    fits = group == "" or (kind == "IdentityBinding" and group == ACCESS_GROUP)
    return IdentitySubject(kind if fits else f"{kind}.{group}", subject["name"], subject.get("namespace", ""), group)


def _write_target(target: TrafficTarget, form: Form) -> Written:
    destination = _write_subject(target.destination)
    missing: dict[str, Any] = {}
    notes = []
    if target.port is not None and "port" in form.lacks:
        missing["port"] = target.port
        notes.append(("spec.destination.port", "this version opens every port that the rules allow"))
    elif target.port is not None:
        destination["port"] = target.port
    rules = [
        {"kind": rule.kind, "name": rule.name} | ({"matches": list(rule.matches)} if rule.matches else {})
        for rule in target.rules
    ]
    sources = [_write_subject(source) for source in target.sources]
    notes += [
        ("kind", f"other readers of this version do not know {kind}; it is written all the same")
        for kind in sorted(form.lacks & {one["kind"] for one in (destination, *sources, *rules)})
    ]
    if form.flat:
        return Written({"destination": destination, "specs": rules, "sources": sources}, missing, tuple(notes))
    return Written({"spec": {"destination": destination, "rules": rules, "sources": sources}}, missing, tuple(notes))


def _write_subject(subject: IdentitySubject) -> dict[str, Any]:
    written: dict[str, Any] = {
        "kind": subject.kind.removesuffix(f".{subject.group}") if subject.group else subject.kind
    }
    if subject.group:
        written["group"] = subject.group
    written["name"] = subject.name
    if subject.namespace:
        written["namespace"] = subject.namespace
    return written


# --------------------------------------------------------------------------------------------- IdentityBinding
def _binding_survives(problem: Problem, _: Raw) -> bool:
    """Tell what a binding outlives: one that names nobody, or too much at once (B1), grants nothing as it is."""
    return problem.keyword in {"not", "minProperties", "minItems"} and problem.code in {"SMI0401", "SMI0402"}


def _read_binding(raw: Raw, meta: Meta, _: Damage) -> IdentityBinding:
    schemes = raw["spec"]["schemes"]
    selector = schemes.get("podLabelSelector")
    return IdentityBinding(
        meta,
        schemes.get("serviceAccount"),
        None if selector is None else _read_selector(selector),
        tuple(schemes.get("spiffeIdentities", ())),
    )


def _read_selector(selector: Raw) -> LabelSelector:
    return LabelSelector(
        tuple(selector.get("matchLabels", {}).items()),
        tuple(
            LabelRequirement(one["key"], one["operator"], tuple(one.get("values", ())))
            for one in selector.get("matchExpressions", ())
        ),
    )


def _write_binding(binding: IdentityBinding, _: Form) -> Written:
    schemes: dict[str, Any] = {}
    if binding.service_account is not None:
        schemes["serviceAccount"] = binding.service_account
    if binding.pod_label_selector is not None:
        schemes["podLabelSelector"] = _write_selector(binding.pod_label_selector)
    if binding.spiffe_identities:
        schemes["spiffeIdentities"] = list(binding.spiffe_identities)
    return Written({"spec": {"schemes": schemes}}, {})


def _write_selector(selector: LabelSelector) -> dict[str, Any]:
    written: dict[str, Any] = {}
    if selector.match_labels:
        written["matchLabels"] = dict(selector.match_labels)
    if selector.match_expressions:
        written["matchExpressions"] = [
            {"key": one.key, "operator": one.operator} | ({"values": list(one.values)} if one.values else {})
            for one in selector.match_expressions
        ]
    return written


# --------------------------------------------------------------------------------------------------- the table
def _split(*lacks: str) -> Form:
    return Form(_read_split, _split_survives, _write_split, lacks=frozenset(lacks))


def _http(*lacks: str, flat: bool = False) -> Form:
    return Form(_read_group, _group_survives, _write_group, flat, frozenset(lacks))


def _tcp(*lacks: str, flat: bool = False) -> Form:
    return Form(_read_tcp, _route_survives, _write_route, flat, frozenset(lacks))


def _target(*lacks: str, flat: bool = False) -> Form:
    return Form(_read_target, _target_survives, _write_target, flat, frozenset(lacks))


FORMS: Mapping[tuple[str, str, str], Form] = MappingProxyType(
    {
        (SPLIT_GROUP, "v1alpha1", "TrafficSplit"): _split("matches"),
        (SPLIT_GROUP, "v1alpha2", "TrafficSplit"): _split("matches", "fractions"),
        (SPLIT_GROUP, "v1alpha3", "TrafficSplit"): _split("fractions"),
        (SPLIT_GROUP, "v1alpha4", "TrafficSplit"): _split("fractions"),
        (SPECS_GROUP, "v1alpha1", "HTTPRouteGroup"): _http("headers", flat=True),
        (SPECS_GROUP, "v1alpha2", "HTTPRouteGroup"): _http(flat=True),
        (SPECS_GROUP, "v1alpha3", "HTTPRouteGroup"): _http(),
        (SPECS_GROUP, "v1alpha4", "HTTPRouteGroup"): _http(),
        (SPECS_GROUP, "v1alpha1", "TCPRoute"): _tcp("ports", flat=True),
        (SPECS_GROUP, "v1alpha2", "TCPRoute"): _tcp("ports", flat=True),
        (SPECS_GROUP, "v1alpha3", "TCPRoute"): _tcp("ports"),
        (SPECS_GROUP, "v1alpha4", "TCPRoute"): _tcp(),
        (SPECS_GROUP, "v1alpha4", "UDPRoute"): Form(_read_udp, _route_survives, _write_route),
        # v1alpha2 already has `spec`, in the specification's text as in smi-sdk-go's types; it is decoded flat as well.
        (ACCESS_GROUP, "v1alpha1", "TrafficTarget"): _target("IdentityBinding", "UDPRoute", flat=True),
        (ACCESS_GROUP, "v1alpha2", "TrafficTarget"): _target("IdentityBinding", "UDPRoute"),
        (ACCESS_GROUP, "v1alpha3", "TrafficTarget"): _target("port", "IdentityBinding"),
        (ACCESS_GROUP, "v1alpha4", "TrafficTarget"): _target("port"),
        (ACCESS_GROUP, "v1alpha4", "IdentityBinding"): Form(_read_binding, _binding_survives, _write_binding),
    }
)
"""Every wire form that we read and write."""
