"""Hypothesis strategies for SMI: objects of every kind, manifests of every version, and hostile JSON."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Any

from hypothesis import strategies as st

from smi_adapter import regex
from smi_adapter.smi.objects import (
    ACCESS_GROUP,
    NO_PORT,
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
from smi_adapter.smi.quantity import MAX_WEIGHT
from smi_adapter.smi.wire import FORMS

KINDS: tuple[tuple[str, str, str], ...] = tuple(FORMS)
"""Each (group, version, kind)."""

labels = st.from_regex(re.compile(r"[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?"), fullmatch=True)
"""DNS labels, such as names of Services and namespaces."""

names = st.lists(labels, min_size=1, max_size=3).map(".".join)
"""DNS names of one to three labels."""

match_names = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters=[*map(chr, range(32)), "\x7f"]), min_size=1, max_size=9
)
label_values = st.from_regex(re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,6}[A-Za-z0-9])?"), fullmatch=True)
string_maps = st.dictionaries(names, st.text(max_size=8), max_size=3).map(MappingProxyType)

patterns = st.one_of(
    st.sampled_from(
        ["/", "/api", "/api/.*", ".*", ".*Firefox.*", "/[a-z]+(/[0-9]{1,3})?$", "(?i)android", "^x|y$", "é+"]
    ),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12).map(re.escape),
).filter(lambda text: not regex.verdict(text))
"""Regular expressions that RE2 takes."""

header_names = st.from_regex(re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,9}"), fullmatch=True).filter(
    lambda name: name.lower() != "host"
)


@st.composite
def metas(draw: st.DrawFn) -> Meta:
    """Metadata with and without its optional parts."""
    return Meta(
        draw(labels),
        draw(names),
        draw(st.sampled_from(["", "2024-05-06T07:08:09Z"])),
        draw(st.integers(0, 9)),
        draw(string_maps),
        draw(string_maps),
    )


weights = st.one_of(
    st.integers(0, 100).map(lambda weight: weight * 1000),
    st.integers(0, 100_000),
    st.integers(0, MAX_WEIGHT * 1000),
    st.none(),
)
"""Weights in milli-units; None is one that was not usable."""

foreign_references = st.builds(
    lambda kind, group, name: f"{kind}{'.' if group else ''}{group}/{name}",
    st.sampled_from(["TCPRoute", "HTTPRoute", "Foo"]),
    st.sampled_from(["", "example.org"]),
    names,
)

splits = st.builds(
    TrafficSplit,
    metas(),
    names,
    st.lists(st.builds(SplitBackend, names, weights), min_size=1, max_size=5).map(tuple),
    st.lists(names, max_size=3).map(tuple),
    st.lists(foreign_references, max_size=2).map(tuple),
)

http_matches = st.builds(
    HTTPMatch,
    match_names,
    st.none() | patterns,
    st.lists(st.sampled_from(["GET", "HEAD", "POST", "*", "M-SEARCH"]), max_size=3).map(tuple),
    st.lists(st.tuples(header_names, patterns), max_size=3).map(tuple),
)
route_groups = st.builds(HTTPRouteGroup, metas(), st.lists(http_matches, max_size=4).map(tuple))

ports = st.integers(1, 65535)
_port_sets = st.lists(ports, max_size=4).map(tuple) | st.just(NO_PORT)
tcp_routes = st.builds(TCPRoute, metas(), _port_sets, st.just("") | match_names)
udp_routes = st.builds(UDPRoute, metas(), _port_sets, st.just("") | match_names)

subjects = st.one_of(
    st.builds(
        IdentitySubject, st.sampled_from(["ServiceAccount", "IdentityBinding", "User"]), names, st.just("") | labels
    ),
    st.builds(IdentitySubject, st.just("IdentityBinding"), names, st.just("") | labels, st.just(ACCESS_GROUP)),
    st.builds(
        lambda kind, group, name: IdentitySubject(f"{kind}.{group}", name, "", group),
        st.sampled_from(["ServiceAccount", "IdentityBinding"]),
        st.sampled_from(["example.org", "rbac"]),
        names,
    ),
)
targets = st.builds(
    TrafficTarget,
    metas(),
    subjects,
    st.lists(
        st.builds(
            TrafficTargetRule,
            st.sampled_from(["HTTPRouteGroup", "TCPRoute", "UDPRoute", "GRPCRoute"]),
            names,
            st.lists(match_names, max_size=3).map(tuple),
        ),
        max_size=4,
    ).map(tuple),
    st.lists(subjects, max_size=4).map(tuple),
    st.none() | ports,
)

requirements = st.one_of(
    st.builds(
        LabelRequirement,
        label_values,
        st.sampled_from(["In", "NotIn"]),
        st.lists(label_values, min_size=1, max_size=3).map(tuple),
    ),
    st.builds(LabelRequirement, label_values, st.sampled_from(["Exists", "DoesNotExist"])),
)
selectors = st.builds(
    LabelSelector,
    st.dictionaries(label_values, label_values, max_size=3).map(lambda items: tuple(items.items())),
    st.lists(requirements, max_size=2).map(tuple),
)
spiffe_ids = st.builds(
    lambda scheme, domain, path: f"{scheme}{domain}/{path}",
    st.sampled_from(["", "spiffe://"]),
    names,
    st.lists(labels, min_size=1, max_size=4).map("/".join),
)
bindings = st.builds(
    IdentityBinding, metas(), st.none() | names, st.none() | selectors, st.lists(spiffe_ids, max_size=3).map(tuple)
)

objects: st.SearchStrategy[SmiObject] = st.one_of(splits, route_groups, tcp_routes, udp_routes, targets, bindings)
"""Every object that decoding can make."""

_WORDS = (
    "apiVersion", "kind", "metadata", "name", "namespace", "annotations", "labels", "uid", "spec", "status", "matches",
    "backends", "service", "weight", "pathRegex", "methods", "headers", "ports", "destination", "sources", "specs",
    "rules", "port", "group", "apiGroup", "schemes", "serviceAccount", "podLabelSelector", "matchLabels",
    "matchExpressions", "key", "operator", "values", "spiffeIdentities", "smi-adapter.io/lost-in-v1alpha2",
)  # fmt: skip
_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70_000),
    st.sampled_from([10**30, 10**4000, -1, 0, 1.0, 1.5, float("nan"), float("inf")]),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(
        [*_WORDS, "HTTPRouteGroup", "ServiceAccount", "\ud800", "a\nb", "(", "1", "500m", "1u", "{}", "[1]"]
    ),
)
_KEYS: st.SearchStrategy[Any] = st.one_of(st.sampled_from(_WORDS), st.text(max_size=4), st.integers(0, 3), st.none())

hostile: st.SearchStrategy[Any] = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=5),
    max_leaves=30,
)
"""Anything that a YAML or JSON reader may hand over, with a liking for our own field names."""


@st.composite
def hostile_manifests(draw: st.DrawFn) -> Any:
    """Hostile JSON under a real apiVersion and kind, in places that are really read."""
    group, version, kind = draw(st.sampled_from(KINDS))
    raw = {"apiVersion": f"{group}/{version}", "kind": kind, "metadata": {"name": "x", "namespace": "y"}}
    for field in draw(st.lists(st.sampled_from(["metadata", "spec", "matches", "destination", "specs", "sources"]))):
        raw[field] = draw(hostile)
    return raw


@st.composite
def damaged(draw: st.DrawFn, manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest with one value somewhere in it replaced, removed or added."""
    path: list[Any] = []
    node: Any = manifest
    while isinstance(node, dict | list) and node and (not path or draw(st.integers(0, 3))):
        step = draw(st.sampled_from(sorted(node, key=repr) if isinstance(node, dict) else range(len(node))))
        path.append(step)
        node = node[step]
    changed: dict[str, Any] = _replaced(manifest, path, draw(st.one_of(st.just(_GONE), _SCALARS, hostile)))
    return changed


_GONE = object()


def _replaced(node: Any, path: list[Any], value: Any) -> Any:
    step, *rest = path
    new = _replaced(node[step], rest, value) if rest else value
    if isinstance(node, list):
        return [*node[:step], *([] if new is _GONE else [new]), *node[step + 1 :]]
    return {key: new if key == step else one for key, one in node.items() if not (key == step and new is _GONE)}
