"""The mutants: what each does wrong, which cases must fail for it and how, and which near ones must not.

Nothing of this is in the product. `driver` loads one by the variable SMI_MUTANT and patches the running program. Near
ones are mostly cases of the same layout: another would start as many pods again, and that is what a mutant costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from tests.mutants import batches, meshes, objects, stages
from tests.mutants.guards import GUARDS
from tests.mutants.mutant import Mutant, got, kept_out, leaked, let_in, off, reached, stray, unsaid

_SPLITS = (
    Mutant(
        "weights-swapped",
        {
            "TS-02": got("v1", "0.9"),
            "TS-05": got("v1", "0.6667"),
            "TS-33": got("v1", "0.9"),
            "TS-34": got("v1", "0.9"),
            "CC-01": f"not even nearly within|{stray('v2')}",
            "CC-03": got("v1", "0.05"),
        },
        ("TS-06", "TS-26"),
        version="v1alpha3",
        raw=objects.of_split(objects.swap),
    ),
    Mutant(
        "whole-percent",
        {"TS-30": "v1 got nothing at all"},
        ("TS-02", "TS-07"),
        raw=objects.of_split(objects.whole_percent),
    ),
    # A quick sample of 500 sees nothing of 1 % in one run of 150 (0.99**500); one of 2000 in one of 500 million.
    Mutant(
        "zero-leaks",
        {"TS-07": leaked("v1", "v2"), "TS-08": leaked("v1", "v2")},
        ("TS-06", "TS-26"),
        version="v1alpha2",
        full=True,
        raw=objects.of_split(objects.zero_is_one_percent),
    ),
    Mutant(
        "quantities-as-integers",
        {"TS-04": got("v1", "0.6667"), "API-04": off("v1", "0.6667")},
        ("TS-06", "TS-07"),
        version="v1alpha1",
        raw=objects.of_split(objects.without_unit),
    ),
    # A quick sample takes a half for two thirds in one run of 50.
    Mutant(
        "quantities-rounded-up",
        {"TS-03": got("v1", "0.006211"), "TS-04": got("v1", "0.6667")},
        ("TS-06", "TS-07"),
        version="v1alpha1",
        full=True,
        raw=objects.of_split(objects.rounded_up),
    ),
    Mutant("pooled-endpoints", {"TS-10": got("v1", "0.5")}, ("TS-02", "TS-06"), version="v1alpha2", mesh=meshes.pooled),
    Mutant(
        "first-endpoint-only",
        {
            "TS-01": "requests reach base and v1 and v2: .*never answered: v1, v2",
            "TT-25": r"only \['twin-\d'\] answered|never answered: .*twin-",
            "TS-32": r"not every pod answers after scaling up|never answered: .*v3-",
        },
        ("TS-02", "TS-26"),
        mesh=meshes.first_endpoint_only,
    ),
    Mutant(
        "root-leaks",
        {
            "TS-06": leaked("v1", "base"),
            "TS-09": leaked("v1", "base", "v2"),
            "CC-02": leaked("v1", "base"),
        },
        ("TS-01", "HR-01"),
        version="v1alpha1",
        raw=objects.of_split(objects.root_leaks),
    ),
    Mutant(
        "ports-ignored",
        {"TS-20": stray("v2")},
        ("TS-02", "TS-18"),
        version="v1alpha3",
        patches=stages.ports_ignored,
    ),
    Mutant(
        "first-port-only",
        {"TS-18": stray("base"), "TS-29": r"connections reach the backends: .*last seen: ok from \S+/base"},
        ("TS-02", "TS-25"),
        version="v1alpha2",
        mesh=meshes.first_port_only,
    ),
    Mutant(
        "roots-target-port",
        {"TS-19": r"came in at \[\('v1', 8080\), \('v2', 8080\)\]"},
        ("TS-02", "TS-18"),
        mesh=meshes.roots_target_port_for_all,
    ),
    Mutant(
        "backends-split-followed",
        {"TS-23": stray("v2")},
        ("TS-06", "TS-12"),
        version="v1alpha1",
        mesh=meshes.backends_splits_followed,
    ),
    Mutant("leaves-split-too", {"TS-12": stray("v2")}, ("TS-02", "TS-06"), mesh=meshes.leaves_split_too),
    Mutant(
        "names-count-everywhere",
        {"TS-17": "the other namespace's root: {'v1'"},
        ("TS-02", "TS-23"),
        mesh=meshes.names_count_everywhere,
    ),
    Mutant(
        "full-name-unknown",
        {"TS-14": "requests reach v1: .*http_error 404"},
        ("TS-02", "TS-15"),
        patches=stages.full_name_unknown,
    ),
    Mutant(
        "bare-name-unknown",
        {"TS-15": "requests reach v1: .*http_error 404"},
        ("TS-02", "TS-14"),
        version="v1alpha2",
        patches=stages.bare_name_unknown,
    ),
    Mutant(
        "cluster-ips-only",
        {"TS-31": "requests reach v2: .*http_error 503"},
        ("TS-02", "TS-06"),
        version="v1alpha3",
        changes=batches.cluster_ips_only,
    ),
    Mutant(
        "divided-by-client",
        {"TS-28": "requests reach v1 and v2: .*never answered: v[12]$"},
        ("TS-06", "TS-26"),
        patches=stages.divided_by_client,
    ),
    Mutant(
        "says-nothing",
        {
            "TS-21": unsaid("TrafficSplit"),
            "API-08": unsaid("TrafficSplit"),
            "API-09": unsaid("TrafficSplit"),
            "HR-19": unsaid("HTTPRouteGroup"),
        },
        ("TS-20", "TS-26"),
        patches=stages.says_nothing,
    ),
    Mutant(
        "own-clients-only",
        {"TS-11": stray("base"), "TS-16": stray("base")},
        ("TS-02", "TS-06"),
        version="v1alpha2",
        mesh=meshes.own_clients_only,
    ),
    Mutant(
        "delete-ignored",
        {"TS-26": stray("v1")},
        ("TS-06", "TS-25"),
        version="v1alpha1",
        changes=batches.deletions_lost("TrafficSplit"),
    ),
)

_MATCHES = (
    Mutant(
        "matches-ignored",
        {"TS-41": "unmatched requests were answered by {'v2'"},
        ("TS-40", "TS-02"),
        raw=objects.of_split(lambda spec: spec.pop("matches", 0)),
    ),
    Mutant("matches-never-match", {"TS-40": stray("base")}, ("TS-02", "TS-06"), mesh=meshes.matches_never_match),
    Mutant(
        "unmatched-to-backends",
        {"TS-41": "unmatched requests were answered by {'v2'"},
        ("TS-40", "TS-02"),
        version="v1alpha3",
        mesh=meshes.unmatched_to_backends,
    ),
    Mutant(
        "unmatched-to-nobody",
        {"TS-41": "unmatched requests were answered by {'[45]"},
        ("TS-40", "TS-02"),
        mesh=meshes.unmatched_to_nobody,
    ),
    Mutant(
        "heaviest-takes-what-matches",
        {"TS-42": "only backends answer: .*never answered: v2"},
        ("TS-40", "TS-02"),
        version="v1alpha3",
        mesh=meshes.heaviest_takes_what_matches,
    ),
    Mutant(
        "second-group-dropped",
        {"TS-43": reached("v2", "base")},
        ("TS-40", "TS-02"),
        version="v1alpha3",
        raw=objects.of_split(objects.first_group_only),
    ),
    Mutant(
        "headers-or",
        {"TS-44": reached("base", "v2"), "HR-10": let_in("alice", "/h")},
        ("HR-11", "TS-40"),
        raw=objects.of_group(objects.headers_one_by_one),
    ),
    Mutant(
        "split-methods-ignored",
        {"TS-45": reached("base", "v2")},
        ("TS-40", "TS-42"),
        mesh=meshes.split_methods_ignored,
    ),
    # What uses groups of this version at all fails: each document refers to those of its own.
    Mutant(
        "groups-of-older-versions-only",
        {"TS-46": reached("v2", "base"), "TS-40": stray("base")},
        ("TS-02", "TS-06"),
        changes=batches.version_unknown("HTTPRouteGroup", "specs.smi-spec.io/v1alpha4"),
    ),
    Mutant(
        "groups-of-the-newest-version-only",
        {"TS-46": reached("v2", "base"), "TS-40": stray("base")},
        ("TS-02", "TS-06"),
        version="v1alpha3",
        changes=batches.version_unknown("HTTPRouteGroup", "specs.smi-spec.io/v1alpha3"),
    ),
)

_STALE = (
    Mutant(
        "update-never-pushed",
        {
            "TS-25": stray("v1"),
            "CV-01": reached("v2", "v1"),
            "CV-06": reached("v2", "(?:v1|base)"),  # it is a restart, too: the first form is as seen as the second
        },
        ("TS-02", "TS-26"),
        changes=batches.updates_lost("TrafficSplit"),
    ),
    Mutant(
        "watch-not-renewed",
        {"CV-09": reached("v2", "v1")},
        ("API-02", "API-07"),  # what is written after it is seen by nobody either
        patches=stages.watch_not_renewed,
    ),
    Mutant(
        "updates-fail-first",
        {
            "TS-27": r"\d+ of \d+ requests failed, the first with: http_error 503",
            "CV-04": r"\d+ of \d+ requests failed, the first with: http_error 503",
        },
        ("TS-02", "TS-26"),
        patches=stages.updates_fail_first,
    ),
    Mutant(
        "references-resolved-once",
        {
            "TS-08": stray("base"),
            "CV-07": r"reach(?: v2| the pods): not within .*ok 200 from \S+/base",
            "TT-19": kept_out("alice"),
        },
        ("TS-02", "TT-02"),
        version="v1alpha2",
        changes=batches.references_resolved_once,
    ),
    Mutant(
        "second-proxies-keep-the-old",
        {"CV-03": reached("v2", "v1")},
        ("TS-11", "TS-25"),
        mesh=meshes.second_proxies_keep_the_old(),
    ),
    Mutant(
        "old-comes-back",
        {"CV-03": r"answers after convergence were old|then \d+ of \d+ were otherwise, the first: ok 200 from \S+/v1"},
        ("TS-02", "TS-06"),
        patches=stages.old_comes_back,
    ),
    Mutant(
        "edits-ignored-but-of-splits",
        {
            "TT-07": let_in("bob"),
            "CV-02": let_in("alice"),
            "IB-11": kept_out("carol"),
            "TS-47": reached("v2", "base"),
        },
        ("TT-02", "TT-03"),
        changes=batches.updates_lost("TrafficTarget", "IdentityBinding", "HTTPRouteGroup"),
    ),
    Mutant(
        "target-deletion-ignored",
        {"TT-07": let_in("alice")},
        ("TT-02", "TT-03"),
        version="v1alpha2",
        changes=batches.deletions_lost("TrafficTarget"),
    ),
    Mutant(
        "bad-object-stops",
        {"CV-08": reached("v1", "base")},
        ("TS-02", "TS-26"),
        changes=batches.one_bad_object_stops_all(),
    ),
    # How long a change may take is said by whoever runs the suite (30 s unless told): late is wrong after that only.
    # Far more than the deadline: on a busy machine the last look may take seconds.
    Mutant(
        "late",
        {
            "CV-01": "requests reach v1: not within 4 s",
            "CV-02": f"{kept_out('alice')} 4 s",
            "CV-05": "requests reach v2: not within 4 s",
        },
        ("TS-01",),
        deadline=4.0,
        patches=stages.late(12.0),
    ),
    Mutant("late-but-in-time", {}, ("TS-26", "TT-07"), deadline=30.0, patches=stages.late(5.0)),
)

_READINGS = (
    Mutant(
        "header-searched",
        {},
        ("HR-10", "HR-11"),
        ("HR-17",),
        raw=objects.of_match(objects.header_values(".*({}).*".format)),
    ),
    Mutant("query-matched", {}, ("HR-01", "HR-02"), ("HR-05",), mesh=meshes.query_matched),
    Mutant(
        "missing-keeps-its-share",
        {},
        ("TS-08", "TS-02"),
        ("TS-36",),
        changes=batches.missing_backends_have_no_pods,
    ),
    Mutant("newest-split-wins", {}, ("TS-02", "TS-25"), ("TS-37",), patches=stages.newest_wins),
    Mutant("container-port", {}, ("TR-02", "TR-03"), ("TR-07",), patches=stages.container_ports),
    Mutant("http-opens-tcp", {}, ("TR-03", "TT-02"), ("TR-06",), mesh=meshes.http_opens_tcp),
    Mutant("all-zero-is-even", {}, ("TS-07", "TS-02"), ("TS-35",), raw=objects.of_split(objects.all_zero_is_even)),
)

MUTANTS: Mapping[str, Mutant] = MappingProxyType(
    {mutant.name: mutant for mutant in (*_SPLITS, *_MATCHES, *_STALE, *GUARDS, *_READINGS)}
)

UNPROVED: Mapping[str, str] = MappingProxyType(
    {
        "TS-13": "what a client outside of the mesh finds is kube-proxy's work, which the driver does here",
        "API-03": "it reads objects back under other versions, which the files that mutants are played with can't do",
        "TT-26": "it needs a kubelet, and a host outside of the mesh",
        "UR-01": "it fails for the adapter as it is (ADR 16): no mutant can show that it fails for a reason",
        "UR-02": "the same",
        "UR-03": "the same",
    }
)
"""Cases that could fail (all but those that only observe) and do for no mutant, and why. It may only become shorter."""
