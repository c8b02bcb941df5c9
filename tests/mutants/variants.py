"""The mutants: what each does wrong, which cases must fail for it, and which near ones must not.

Nothing of this is in the product. `driver` loads one by the variable SMI_MUTANT and patches the running program. Near
ones are mostly cases of the same layout: another would start as many pods again, and that is what a mutant costs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from tests.mutants import batches, meshes, objects, stages
from tests.mutants.mutant import Mutant

_SPLITS = (
    Mutant("weights-swapped", ("TS-02", "TS-05"), ("TS-06", "TS-26"), raw=objects.of_split(objects.swap)),
    Mutant("whole-percent", ("TS-30",), ("TS-02", "TS-07"), raw=objects.of_split(objects.whole_percent)),
    # A quick sample of 500 sees nothing of 1 % in one run of 150 (0.99**500); one of 2000 in one of 500 million.
    Mutant("zero-leaks", ("TS-07", "TS-08"), ("TS-06",), full=True, raw=objects.of_split(objects.zero_is_one_percent)),
    Mutant(
        "quantities-as-integers",
        ("TS-04", "API-04"),
        ("TS-06",),
        version="v1alpha1",
        raw=objects.of_split(objects.without_unit),
    ),
    Mutant(
        "quantities-rounded-up",
        ("TS-03", "TS-04"),
        ("TS-06", "TS-07"),
        version="v1alpha1",
        raw=objects.of_split(objects.rounded_up),
    ),
    Mutant("pooled-endpoints", ("TS-10",), ("TS-02",), mesh=meshes.pooled),
    Mutant("first-endpoint-only", ("TS-01", "TS-09"), ("TS-02", "TS-26"), mesh=meshes.first_endpoint_only),
    Mutant("root-leaks", ("TS-06", "TS-09"), ("TS-01",), raw=objects.of_split(objects.root_leaks)),
    Mutant("ports-ignored", ("TS-20",), ("TS-02", "TS-18"), patches=stages.ports_ignored),
    Mutant("first-port-only", ("TS-18",), ("TS-02", "TS-25"), mesh=meshes.first_port_only),
    Mutant("roots-target-port", ("TS-19",), ("TS-02", "TS-18"), mesh=meshes.roots_target_port_for_all),
    Mutant("backends-split-followed", ("TS-23",), ("TS-02", "TS-12"), mesh=meshes.backends_splits_followed),
    Mutant("leaves-split-too", ("TS-12",), ("TS-02", "TS-06"), mesh=meshes.leaves_split_too),
    Mutant("names-count-everywhere", ("TS-17",), ("TS-02", "TS-23"), mesh=meshes.names_count_everywhere),
    Mutant("full-name-unknown", ("TS-14",), ("TS-02", "TS-15"), patches=stages.full_name_unknown),
    Mutant("own-clients-only", ("TS-11", "TS-16"), ("TS-02", "TS-06"), mesh=meshes.own_clients_only),
    Mutant("delete-ignored", ("TS-26",), ("TS-02", "TS-25"), changes=batches.deletions_lost("TrafficSplit")),
)

_MATCHES = (
    Mutant(
        "matches-ignored",
        ("TS-41", "TS-42"),
        ("TS-40", "TS-02"),
        raw=objects.of_split(lambda spec: spec.pop("matches", 0)),
    ),
    Mutant("matches-never-match", ("TS-40",), ("TS-02", "TS-06"), mesh=meshes.matches_never_match),
    Mutant("unmatched-to-backends", ("TS-41", "TS-42"), ("TS-40",), mesh=meshes.unmatched_to_backends),
    Mutant("unmatched-to-nobody", ("TS-41",), ("TS-40", "TS-02"), mesh=meshes.unmatched_to_nobody),
    Mutant("second-group-dropped", ("TS-43",), ("TS-40", "TS-41"), raw=objects.of_split(objects.first_group_only)),
    Mutant(
        "headers-or",
        ("TS-44", "HR-10"),
        ("HR-11", "TS-40"),
        raw=objects.of_group(objects.headers_one_by_one),
    ),
    Mutant("split-methods-ignored", ("TS-46", "TS-45"), ("TS-40", "TS-42"), mesh=meshes.split_methods_ignored),
)

_STALE = (
    Mutant("update-never-pushed", ("TS-25", "CV-01"), ("TS-02",), changes=batches.updates_lost("TrafficSplit")),
    Mutant("second-proxies-keep-the-old", ("CV-03",), ("TS-11", "TS-25"), mesh=meshes.second_proxies_keep_the_old()),
    Mutant("old-comes-back", ("CV-03",), ("TS-02",), patches=stages.old_comes_back),
    Mutant(
        "target-edits-ignored", ("TT-07", "CV-02"), ("TT-02", "TT-03"), changes=batches.updates_lost("TrafficTarget")
    ),
    Mutant("target-deletion-ignored", ("TT-07",), ("XR-01",), changes=batches.deletions_lost("TrafficTarget")),
    Mutant("bad-object-stops", ("CV-08",), ("TS-01",), changes=batches.one_bad_object_stops_all()),
    # How long a change may take is said by whoever runs the suite (30 s unless told): late is wrong after that only.
    Mutant("late", ("CV-01", "CV-02"), ("TS-01",), deadline=4.0, patches=stages.late(5.0)),
    Mutant("late-but-in-time", (), ("TS-26", "TT-07"), deadline=30.0, patches=stages.late(5.0)),
)

_ROUTES = (
    Mutant("path-searched", ("HR-03",), ("HR-04", "HR-01"), raw=objects.of_match(objects.pattern(".*{}".format))),
    Mutant("path-whole", ("HR-04",), ("HR-01", "HR-03"), raw=objects.of_match(objects.pattern("(?:{})$".format))),
    Mutant(
        "plus-is-a-plus",
        ("HR-02",),
        ("HR-01", "HR-03"),
        raw=objects.of_match(objects.pattern(lambda text: text.replace("+", r"\+"))),
    ),
    Mutant("paths-as-they-come", ("HR-20",), ("HR-01", "HR-03"), patches=stages.paths_as_they_come),
    Mutant(
        "methods-ignored",
        ("HR-06", "HR-13", "TT-14"),
        ("HR-01", "HR-10"),
        raw=objects.of_match(lambda match: match.update(methods=["*"])),
    ),
    Mutant("star-literal", ("HR-07",), ("HR-14",), raw=objects.of_match(objects.star_is_get)),
    Mutant("third-match-dropped", ("HR-08", "HR-11"), ("HR-01", "HR-10"), raw=objects.of_group(lambda all_: all_[:2])),
    Mutant("rule-matches-ignored", ("HR-09",), ("HR-08", "TT-04"), raw=objects.of_target(objects.whole_groups)),
    Mutant("bad-pattern-is-any", ("HR-19",), ("HR-01",), raw=objects.of_match(objects.bad_pattern_is_any)),
    Mutant("header-literal", ("HR-12",), ("HR-10", "HR-11"), raw=objects.of_match(objects.header_values(re.escape))),
    Mutant(
        "no-path-is-no-match",
        ("HR-14",),
        ("HR-10", "HR-13"),
        raw=objects.of_group(lambda all_: [match for match in all_ if "pathRegex" in match]),
    ),
)

_ACCESS = (
    # No case of ACCESS passes for sure: each sees first that its house is closed, as it is only until Envoy knows it.
    Mutant("allow-all", ("TT-01", "TT-03", "TT-04", "XR-01"), ("TS-02",), mesh=meshes.allow_all),
    Mutant("everything-dead", ("TT-01", "TT-02"), ("TS-02",), mesh=meshes.everything_dead),
    Mutant("any-source", ("TT-03", "TT-05"), ("TT-02", "TT-04"), mesh=meshes.any_source),
    Mutant("routes-ignored", ("TT-04", "HR-01"), ("TT-02", "TT-03"), mesh=meshes.routes_ignored),
    Mutant("first-target-wins", ("TT-06",), ("TT-02", "TT-03"), changes=batches.first_target_wins),
    Mutant("first-workload-guarded", ("TT-08", "TT-16"), ("TT-03",), mesh=meshes.first_workload_guarded),
    Mutant("by-service", ("TT-09",), ("TT-02", "TT-03"), mesh=meshes.by_service),
    Mutant("sources-of-any-namespace", ("TT-10", "IB-07"), ("TT-03", "IB-01"), mesh=meshes.sources_of_any_namespace),
    Mutant("own-sources-only", ("TT-10", "IB-08"), ("TT-02", "IB-01"), raw=objects.own_sources_only),
    Mutant("first-match-only", ("TT-11",), ("TT-02", "HR-09"), patches=stages.first_match_only),
    Mutant(
        "port-ignored",
        ("TT-12",),
        ("TT-13", "TT-02"),
        version="v1alpha2",
        raw=objects.of_target(objects.port_ignored),
    ),
    Mutant(
        "no-port-grants-nothing",
        ("API-06", "TT-13"),
        ("TT-12",),
        version="v1alpha1",
        raw=objects.of_target(objects.no_port_grants_nothing),
    ),
    Mutant(
        "clients-side-only",
        ("TT-15", "TT-04"),
        ("TT-02", "TT-03"),
        mesh=meshes.clients_side_only,
        patches=stages.plain_text_too,
    ),
    Mutant(
        "empty-sources-are-all", ("TT-17",), ("TT-02", "TT-03"), raw=objects.of_target(objects.empty_sources_are_all)
    ),
    Mutant("missing-group-is-any", ("TT-18",), ("TT-02", "HR-09"), patches=stages.missing_group_is_any),
    Mutant("missing-match-is-the-group", ("TT-18",), ("TT-02", "HR-09"), patches=stages.missing_match_is_the_group),
    Mutant("bindings-only", ("TT-22", "TT-02"), ("API-02",), raw=objects.of_target(objects.bindings_only)),
    Mutant("identity-by-header", ("TT-23",), ("TT-02", "TT-03"), mesh=meshes.identity_by_header),
    Mutant(
        "targets-at-their-destination",
        ("TT-24",),
        ("TT-02", "TT-03"),
        changes=batches.targets_at_their_destination(),
    ),
)

_IDENTITIES = (
    Mutant(
        "accounts-ignored",
        ("IB-01",),
        ("IB-04", "IB-10"),
        raw=objects.of_binding(lambda schemes: schemes.pop("serviceAccount", 0)),
    ),
    Mutant(
        "labels-are-the-account",
        ("IB-02", "IB-03"),
        ("IB-01", "IB-04"),
        raw=objects.of_binding(objects.labels_are_the_account),
    ),
    Mutant(
        "spiffe-ids-ignored",
        ("IB-04",),
        ("IB-01", "IB-10"),
        raw=objects.of_binding(lambda schemes: schemes.pop("spiffeIdentities", 0)),
    ),
    Mutant("one-scheme-only", ("IB-06",), ("IB-01", "IB-04"), raw=objects.of_binding(objects.one_scheme_only)),
    Mutant("selector-crosses-namespaces", ("IB-09",), ("IB-01", "IB-10"), patches=stages.selector_crosses_namespaces),
    Mutant("empty-selector-is-all", ("IB-10",), ("IB-01",), raw=objects.of_binding(objects.empty_selector_is_all)),
)

_PORTS = (
    Mutant("tcp-routes-unknown", ("TR-01",), ("TT-02",), version="v1alpha3", changes=batches.kind_unknown("TCPRoute")),
    Mutant("tcp-ports-ignored", ("TR-02",), ("TR-03",), raw=objects.of_tcp_route(objects.without_tcp_ports)),
    Mutant("no-ports-is-none", ("TR-03",), ("TR-02", "TR-04"), raw=objects.of_tcp_route(objects.no_ports_is_none)),
    Mutant("first-tcp-port-only", ("TR-04",), ("TR-02", "TR-03"), raw=objects.of_tcp_route(objects.first_tcp_port)),
    Mutant("api-refuses-and-lacks", ("API-01", "API-02", "API-07"), ("TS-01",), patches=stages.api_refuses_and_lacks),
)

_READINGS = (
    Mutant(
        "header-searched",
        (),
        ("HR-10", "HR-11"),
        ("HR-17",),
        raw=objects.of_match(objects.header_values(".*({}).*".format)),
    ),
    Mutant("http-opens-tcp", (), ("TR-03", "TT-02"), ("TR-06",), mesh=meshes.http_opens_tcp),
    Mutant("all-zero-is-even", (), ("TS-07", "TS-02"), ("TS-35",), raw=objects.of_split(objects.all_zero_is_even)),
)

MUTANTS: Mapping[str, Mutant] = MappingProxyType(
    {
        mutant.name: mutant
        for mutant in (
            *_SPLITS, *_MATCHES, *_STALE, *_ROUTES, *_ACCESS, *_IDENTITIES, *_PORTS, *_READINGS
        )
    }
)  # fmt: skip

UNPROVED: Mapping[str, str] = MappingProxyType(
    {
        "TS-13": "what a client outside of the mesh finds is kube-proxy's work, which the driver does here",
        "UR-01": "it fails for the adapter as it is (ADR 16): no mutant can show that it fails for a reason",
        "UR-02": "the same",
        "UR-03": "the same",
    }
)
"""MUST cases that no mutant fails, and why. It may only become shorter."""
