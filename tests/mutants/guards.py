"""Mutants that let in, or keep out, somebody else than the rules say: routes, targets, bindings, TCP routes."""

from __future__ import annotations

import re

from tests.mutants import batches, meshes, objects, stages
from tests.mutants.mutant import Mutant, began_open, kept_out, let_in

_ROUTES = (
    Mutant(
        "path-searched",
        {"HR-03": let_in("alice", "/x/metrics")},
        ("HR-04", "HR-01"),
        version="v1alpha1",
        raw=objects.of_match(objects.pattern(".*{}".format)),
    ),
    Mutant(
        "path-whole",
        {"HR-04": kept_out("alice", "/metrics/sub")},
        ("HR-01", "HR-03"),
        version="v1alpha2",
        raw=objects.of_match(objects.pattern("(?:{})$".format)),
    ),
    Mutant(
        "plus-is-a-plus",
        {"HR-02": kept_out("alice", "/api/v1")},
        ("HR-01", "HR-03"),
        raw=objects.of_match(objects.pattern(lambda text: text.replace("+", r"\+"))),
    ),
    Mutant(
        "paths-as-they-come",
        {"HR-20": "secret arrived as"},
        ("HR-01", "HR-03"),
        patches=stages.paths_as_they_come,
    ),
    Mutant(
        "methods-ignored",
        {
            "HR-06": let_in("alice", "POST /get"),
            "HR-13": let_in("alice", "POST /h"),
            "TT-14": r"alice POST /metrics: ok 200 from \S+/api, [1-9]\d* arrived",
        },
        ("HR-01", "HR-10"),
        version="v1alpha2",
        raw=objects.of_match(lambda match: match.update(methods=["*"])),
    ),
    Mutant(
        "star-literal",
        {"HR-07": kept_out("alice", "PUT /any")},
        ("HR-01", "HR-06"),
        version="v1alpha1",
        raw=objects.of_match(objects.star_is_get),
    ),
    Mutant(
        "third-match-dropped",
        {"HR-08": kept_out("alice", "POST /b"), "HR-11": kept_out("alice", "/h")},
        ("HR-01", "HR-10"),
        raw=objects.of_group(lambda all_: all_[:2]),
    ),
    Mutant(
        "rule-matches-ignored",
        {"HR-09": let_in("alice", "/secret")},
        ("HR-08", "TT-04"),
        version="v1alpha1",
        raw=objects.of_target(objects.whole_groups),
    ),
    Mutant(
        "bad-pattern-is-any",
        {"HR-19": let_in("alice", r"/new\(?")},
        ("HR-01", "HR-02"),
        raw=objects.of_match(objects.bad_pattern_is_any),
    ),
    Mutant(
        "header-literal",
        {"HR-12": kept_out("alice", "/h")},
        ("HR-10", "HR-11"),
        version="v1alpha3",
        raw=objects.of_match(objects.header_values(re.escape)),
    ),
    Mutant(
        "headers-dropped-where-there-are-none",
        {"HR-16": let_in("alice", "/h")},
        ("HR-01", "HR-06"),
        version="v1alpha1",
        raw=objects.of_match(objects.without_headers),
    ),
    Mutant(
        "no-path-is-no-match",
        {"HR-14": kept_out("alice", "/any")},
        ("HR-10", "HR-13"),
        version="v1alpha2",
        raw=objects.of_group(lambda all_: [match for match in all_ if "pathRegex" in match]),
    ),
)

_ACCESS = (
    # No case of ACCESS passes for sure: each sees first that its house is closed, as it is only until Envoy knows it.
    Mutant(
        "allow-all",
        {
            "TT-01": f"{began_open()}|{let_in('alice')}",
            "TT-03": f"{began_open()}|{let_in('bob')}",
            "TT-04": f"{began_open()}|{let_in('alice', '/closed')}",
            "XR-01": r"the open share works: .*ok 200 from \S+/v2",
        },
        ("TS-02", "TS-06"),
        mesh=meshes.allow_all,
    ),
    Mutant(
        "everything-dead",
        {"TT-01": r"the control \(.*\) works: .*http_error 403", "TT-02": "requests reach api: .*http_error 403"},
        ("TS-02", "TS-06"),
        mesh=meshes.everything_dead,
    ),
    Mutant(
        "any-source",
        {"TT-03": let_in("bob"), "TT-05": let_in("carol")},
        ("TT-02", "TT-04"),
        version="v1alpha1",
        mesh=meshes.any_source,
    ),
    Mutant(
        "routes-ignored",
        {
            "TT-04": let_in("alice", "/closed"),
            "HR-01": let_in("alice", "/other"),
            "HR-18": let_in("alice", "/shop.Shop/Put"),
        },
        ("TT-02", "TT-03"),
        version="v1alpha3",
        mesh=meshes.routes_ignored,
    ),
    Mutant(
        "first-target-wins",
        {"TT-06": kept_out("alice", "/[xy]")},
        ("TT-02", "TT-03"),
        changes=batches.first_target_wins,
    ),
    Mutant(
        "ports-crossed-with-paths",
        {"TT-06": let_in("alice", "/y")},
        ("TT-14", "TT-02"),
        mesh=meshes.ports_crossed_with_paths,
    ),
    Mutant(
        "first-workload-guarded",
        {"TT-08": let_in("bob", where=r"\S+/other-\d+")},
        ("TT-02", "TT-03"),
        mesh=meshes.first_workload_guarded,
    ),
    Mutant(
        "first-service-guarded",
        {"TT-16": let_in("bob", where=r"\S+/both-\d+")},
        ("TT-03", "TT-08"),
        mesh=meshes.first_service_guarded,
    ),
    Mutant(
        "by-service",
        {"TT-09": r"only the open pods answer: .*ok 200 from \S+/web|requests arrived at \['api', 'web'\]"},
        ("TT-02", "TT-03"),
        version="v1alpha3",
        mesh=meshes.by_service,
    ),
    Mutant(
        "sources-of-any-namespace",
        {"TT-10": let_in("alice"), "IB-07": let_in("alice")},
        ("TT-03", "IB-01"),
        mesh=meshes.sources_of_any_namespace,
    ),
    Mutant(
        "own-sources-only",
        {"TT-10": kept_out("alice"), "IB-08": kept_out("alice")},
        ("TT-02", "IB-01"),
        raw=objects.own_sources_only,
    ),
    Mutant(
        "first-match-only",
        {"TT-11": kept_out("alice", "/b")},
        ("TT-02", "HR-09"),
        version="v1alpha1",
        patches=stages.first_match_only,
    ),
    Mutant(
        "port-ignored",
        {"TT-12": let_in("alice", port=8081)},
        ("TT-13", "TT-02"),
        version="v1alpha2",
        raw=objects.of_target(objects.port_ignored),
    ),
    Mutant(
        "no-port-grants-nothing",
        {"API-06": kept_out("alice"), "TT-13": kept_out("alice")},
        ("TT-12", "API-02"),
        version="v1alpha1",
        raw=objects.of_target(objects.no_port_grants_nothing),
    ),
    Mutant(
        "clients-side-only",
        {
            "TT-15": let_in("outside"),
            "TT-16": let_in("bob", where=r"[\d.]+"),
            "TT-04": let_in("alice", "/closed"),
        },
        ("TT-02", "TT-03"),
        mesh=meshes.clients_side_only,
        patches=stages.plain_text_too,
    ),
    Mutant(
        "empty-sources-are-all",
        {"TT-17": let_in("alice|bob")},
        ("TT-02", "TT-03"),
        version="v1alpha3",
        raw=objects.of_target(objects.empty_sources_are_all),
    ),
    Mutant(
        "missing-group-is-any",
        {"TT-18": let_in("alice", "/two")},
        ("TT-02", "HR-09"),
        version="v1alpha2",
        patches=stages.missing_group_is_any,
    ),
    Mutant(
        "missing-match-is-the-group",
        {"TT-18": let_in("alice", "/two")},
        ("TT-02", "HR-09"),
        patches=stages.missing_match_is_the_group,
    ),
    Mutant(
        "bindings-only",
        {"TT-22": kept_out("alice"), "TT-02": "requests reach api: .*http_error 403"},
        ("API-02", "TS-01"),
        raw=objects.of_target(objects.bindings_only),
    ),
    Mutant(
        "identity-by-header",
        {"TT-23": let_in("bob")},
        ("TT-02", "TT-03"),
        version="v1alpha2",
        mesh=meshes.identity_by_header,
    ),
    Mutant(
        "targets-at-their-destination",
        {"TT-24": let_in("alice")},
        ("TT-02", "TT-03"),
        changes=batches.targets_at_their_destination(),
    ),
)

_IDENTITIES = (
    Mutant(
        "accounts-ignored",
        {"IB-01": kept_out("alice")},
        ("IB-04", "IB-10"),
        raw=objects.of_binding(lambda schemes: schemes.pop("serviceAccount", 0)),
    ),
    Mutant(
        "labels-are-the-account",
        {"IB-02": let_in("plain"), "IB-03": let_in("alice", where=r"\S+/other-\d+")},
        ("IB-01", "IB-04"),
        raw=objects.of_binding(objects.labels_are_the_account),
    ),
    Mutant(
        "spiffe-ids-ignored",
        {"IB-04": kept_out("alice")},
        ("IB-01", "IB-10"),
        raw=objects.of_binding(lambda schemes: schemes.pop("spiffeIdentities", 0)),
    ),
    Mutant(
        "one-scheme-only",
        {"IB-06": kept_out("carol")},
        ("IB-01", "IB-04"),
        raw=objects.of_binding(objects.one_scheme_only),
    ),
    Mutant(
        "selector-crosses-namespaces",
        {"IB-09": let_in("gold")},
        ("IB-01", "IB-10"),
        patches=stages.selector_crosses_namespaces,
    ),
    Mutant(
        "empty-selector-is-all",
        {"IB-10": let_in("alice")},
        ("IB-01", "IB-04"),
        raw=objects.of_binding(objects.empty_selector_is_all),
    ),
    # A mesh that knows everything by its name alone: no API group, no trust domain, no namespace of routes.
    Mutant(
        "names-alone-count",
        {"IB-05": let_in("alice"), "IB-12": let_in("alice"), "TT-21": let_in("alice", "/far")},
        ("IB-01", "TT-04"),
        raw=objects.names_only,
        patches=stages.groups_of_any_namespace,
    ),
)

_PORTS = (
    Mutant(
        "tcp-routes-unknown",
        {"TR-01": "requests reach api: .*reset", "TR-05": "requests reach api: .*(?:reset|timeout)"},
        ("TT-02", "TT-03"),
        version="v1alpha3",
        changes=batches.kind_unknown("TCPRoute"),
    ),
    Mutant(
        "tcp-ports-ignored",
        {"TR-02": let_in("alice", port=9001)},
        ("TR-03", "TR-04"),
        raw=objects.of_tcp_route(objects.without_tcp_ports),
    ),
    Mutant(
        "no-ports-is-none",
        {"TR-03": "requests reach api: .*reset"},
        ("TR-02", "TR-04"),
        raw=objects.of_tcp_route(objects.no_ports_is_none),
    ),
    Mutant("udp-left-open", {"TR-03": let_in("alice", port=9003)}, ("TR-02", "TR-04"), patches=stages.udp_left_open),
    Mutant(
        "first-tcp-port-only",
        {"TR-04": "requests reach api: .*reset"},
        ("TR-02", "TR-03"),
        raw=objects.of_tcp_route(objects.first_tcp_port),
    ),
    Mutant(
        "api-refuses-and-lacks",
        {
            "API-01": "access.smi-spec.io/v1alpha4 is not served",
            "API-02": "HTTPRouteGroup .*: 422 spec.matches.pathRegex: is required",
            "API-07": r"TCPRoute .*'ports': \[\].*: spec.matches.ports: is required",
        },
        ("TS-01",),
        patches=stages.api_refuses_and_lacks,
    ),
)

GUARDS = (*_ROUTES, *_ACCESS, *_IDENTITIES, *_PORTS)
