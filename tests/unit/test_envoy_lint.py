"""The lint sees each way in which Envoy would quietly allow too much: one planted violation for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeAlias

import pytest

from smi_adapter.backends import Resource
from smi_adapter.backends.envoy import BACKEND, EnvoyConfig, listeners, names
from smi_adapter.backends.envoy.lint import lint, lint_resource
from smi_adapter.envoy_api import TYPE_URL_PREFIX, message, serialise, version_of
from smi_adapter.mesh import Endpoint, InboundPort
from tests.meshes import HTTP, TCP, key, match, mesh, rule, service, spiffe, split, workload

Plant: TypeAlias = Callable[[Any], None]


@pytest.fixture(autouse=True)
def _denied_ports_share_a_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "OWN_DENIALS", 0)


def sound() -> EnvoyConfig:
    """Return a config with something of everything in it."""
    sources = [spiffe("client")]
    pod = [Endpoint("10.0.0.1", 80, spiffe("web"))]
    services = [
        service(
            "web", pod, routes=(split({"v1": 1, "v2": 2}, [match("/x", headers={"h": "v"})]), split({"v1": 1, "v2": 2}))
        ),
        service("mixed", [*pod, Endpoint("10.0.0.2", 80)]),
        service("db", pod, protocol=TCP, port=90),
        service("secret", pod, callers=[]),
    ]
    ports = [
        InboundPort(80, HTTP, (rule(sources, [match("/x", "GET", "PUT")], addresses=("10.0.0.9",)),)),
        InboundPort(90, TCP, (rule(sources),)),
    ]
    dial = {"web": "127.1.0.1", "secret": "127.1.0.2"}
    return BACKEND.render(
        mesh(services, [workload("w", ports, dial=dial), workload("v", [InboundPort(80, HTTP)])], b"roots")
    )


def inside(packed: Any, plant: Plant) -> None:
    """Plant something in a message that is packed in an Any."""
    content = message(packed.type_url.removeprefix(TYPE_URL_PREFIX)).FromString(packed.value)
    plant(content)
    packed.value = serialise(content)


def planted(message_name: str, name: str, plant: Plant) -> EnvoyConfig:
    """Return the sound config with one resource changed."""
    config = sound()
    parts = dict(config.parts)
    for part, resources in config.parts.items():
        if part[1:] == ("shop", "v"):
            continue
        parts[part] = tuple(changed(item, plant) if _is(item, message_name, name) else item for item in resources)
    assert parts != dict(config.parts), "nothing was planted"
    return replace(config, parts=MappingProxyType(parts))


def _is(resource: Resource, message_name: str, name: str) -> bool:
    """Tell whether it is the resource of that type and name; a name that ends with `/` is the beginning of one."""
    named = resource.name.startswith(name) if name.endswith("/") else resource.name == name
    return named and resource.type_url == names.type_url(message_name)


def changed(resource: Resource, plant: Plant) -> Resource:
    content = message(resource.type_url.removeprefix(TYPE_URL_PREFIX)).FromString(resource.body)
    plant(content)
    body = serialise(content)
    return replace(resource, body=body, version=version_of(body))


def override(plant: Plant) -> Plant:
    return lambda routes: inside(routes.virtual_hosts[0].typed_per_filter_config[names.RBAC_FILTER], plant)


def policy(plant: Plant) -> Plant:
    def in_policy(found: Any) -> None:
        for one in found.rbac.rules.policies.values():
            plant(one)

    return override(in_policy)


def manager(plant: Plant) -> Plant:
    return lambda listener: inside(listener.filter_chains[0].filters[0].typed_config, plant)


def guard(plant: Plant) -> Plant:
    return manager(lambda found: inside(found.http_filters[0].typed_config, plant))


def handshake(plant: Plant) -> Plant:
    return lambda listener: inside(listener.filter_chains[0].transport_socket.typed_config, plant)


def socket(plant: Plant) -> Plant:
    return lambda cluster: inside(cluster.transport_socket.typed_config, plant)


def extension(plant: Plant) -> Plant:
    return lambda found: inside(found.typed_config, plant)


def test_what_is_rendered_is_sound() -> None:
    assert lint(sound()) == ()


IN_ROUTES, OUT_ROUTES = "in/shop/w/80", "out/shop/web/80"
INBOUND, OUTBOUND, DENIED = "in/shop/w", "out/shop/web/80", "denied/http"
CLUSTER, TCP_ACCESS = "shop/web/80", "tcp/shop/w/90/"

PLANTED: list[tuple[str, str, str, Plant]] = [
    # RBAC that allows everything
    ("without `rules`", names.ROUTES, IN_ROUTES, override(lambda found: found.ClearField("rbac"))),
    ("without `rules`", names.ROUTES, IN_ROUTES, override(lambda found: found.rbac.ClearField("rules"))),
    ("without `rules`", names.LISTENER, INBOUND, guard(lambda found: found.ClearField("rules"))),
    ("without `rules`", names.EXTENSION, TCP_ACCESS, extension(lambda found: found.ClearField("rules"))),
    ("not the deny-all", names.LISTENER, INBOUND, guard(lambda found: found.shadow_rules.SetInParent())),
    ("not the deny-all", names.LISTENER, INBOUND, manager(lambda found: found.http_filters.pop(0))),
    ("without the deny-all", names.LISTENER, DENIED, manager(lambda found: found.http_filters.pop(0))),
    ("DENY without policies", names.ROUTES, IN_ROUTES, override(lambda found: setattr(found.rbac.rules, "action", 1))),
    ("no access rules", names.ROUTES, IN_ROUTES, lambda found: found.virtual_hosts[0].typed_per_filter_config.clear()),
    (
        "no filter has",
        names.ROUTES,
        IN_ROUTES,
        lambda found: (
            found.virtual_hosts[0]
            .typed_per_filter_config["rbac"]
            .CopyFrom(found.virtual_hosts[0].typed_per_filter_config[names.RBAC_FILTER])
        ),
    ),
    (
        "below the virtual host",
        names.ROUTES,
        IN_ROUTES,
        lambda found: found.virtual_hosts[0].routes[0].typed_per_filter_config["x"].SetInParent(),
    ),
    # policies and principals that admit too many, or are refused
    (
        "without permissions or principals",
        names.ROUTES,
        IN_ROUTES,
        policy(lambda found: found.ClearField("principals")),
    ),
    (
        "without permissions or principals",
        names.ROUTES,
        IN_ROUTES,
        policy(lambda found: found.ClearField("permissions")),
    ),
    ("lets in anybody", names.ROUTES, IN_ROUTES, policy(lambda found: setattr(found.principals[0], "any", True))),
    (
        "every certificate",
        names.ROUTES,
        IN_ROUTES,
        policy(lambda found: found.principals[0].authenticated.SetInParent()),
    ),
    ("kind None", names.ROUTES, IN_ROUTES, policy(lambda found: found.principals[0].Clear())),
    ("empty and_ids", names.ROUTES, IN_ROUTES, policy(lambda found: found.principals[0].and_ids.ClearField("ids"))),
    (
        "no certificate proves",
        names.ROUTES,
        IN_ROUTES,
        policy(lambda found: found.principals[0].direct_remote_ip.SetInParent()),
    ),
    (
        "every certificate proves",
        names.ROUTES,
        IN_ROUTES,
        policy(
            lambda found: inside(
                found.principals[0].and_ids.ids[0].custom.typed_config, lambda config: config.ClearField("san_matcher")
            )
        ),
    ),
    (
        "not one exact URI",
        names.ROUTES,
        IN_ROUTES,
        policy(
            lambda found: inside(
                found.principals[0].and_ids.ids[0].custom.typed_config,
                lambda config: setattr(config.san_matcher.matcher, "prefix", "spiffe://"),
            )
        ),
    ),
    (
        "empty and_rules",
        names.ROUTES,
        IN_ROUTES,
        policy(lambda found: found.permissions[0].and_rules.ClearField("rules")),
    ),
    (
        "header :path",
        names.ROUTES,
        IN_ROUTES,
        policy(lambda found: setattr(found.permissions[0].header, "name", ":path")),
    ),
    (
        "absent would match",
        names.ROUTES,
        OUT_ROUTES,
        lambda found: setattr(found.virtual_hosts[0].routes[0].match.headers[0], "invert_match", True),
    ),
    # certificates
    (
        "no names",
        names.SECRET,
        TCP_ACCESS,
        lambda found: found.validation_context.ClearField("match_typed_subject_alt_names"),
    ),
    ("no roots", names.SECRET, TCP_ACCESS, lambda found: found.validation_context.ClearField("trusted_ca")),
    ("no roots", names.SECRET, "ROOTCA", lambda found: found.validation_context.trusted_ca.Clear()),
    (
        "neither an exact URI",
        names.SECRET,
        TCP_ACCESS,
        lambda found: setattr(
            found.validation_context.match_typed_subject_alt_names[0].matcher, "prefix", "spiffe://cluster"
        ),
    ),
    (
        "no client certificate",
        names.LISTENER,
        INBOUND,
        handshake(lambda found: found.ClearField("require_client_certificate")),
    ),
    (
        "nobody is known",
        names.LISTENER,
        INBOUND,
        handshake(lambda found: found.ClearField("disable_stateless_session_resumption")),
    ),
    (
        "not verified",
        names.LISTENER,
        INBOUND,
        handshake(lambda found: found.common_tls_context.ClearField("combined_validation_context")),
    ),
    ("plain text", names.LISTENER, INBOUND, lambda found: found.filter_chains[0].ClearField("transport_socket")),
    ("plain text by default", names.CLUSTER, CLUSTER, lambda found: found.ClearField("transport_socket")),
    (
        "every certificate",
        names.CLUSTER,
        CLUSTER,
        socket(
            lambda found: found.common_tls_context.combined_validation_context.default_validation_context.ClearField(
                "match_typed_subject_alt_names"
            )
        ),
    ),
    ("no SNI", names.CLUSTER, CLUSTER, socket(lambda found: found.ClearField("sni"))),
    (
        "reached in plain text",
        names.CLUSTER,
        "shop/mixed/80",
        lambda found: found.transport_socket_matches[0].ClearField("match"),
    ),
    # settings of Listeners
    ("not normalised", names.LISTENER, INBOUND, manager(lambda found: found.ClearField("normalize_path"))),
    ("not normalised", names.LISTENER, OUTBOUND, manager(lambda found: found.ClearField("merge_slashes"))),
    (
        "escaped slashes",
        names.LISTENER,
        INBOUND,
        manager(lambda found: found.ClearField("path_with_escaped_slashes_action")),
    ),
    (
        "overrides the path settings",
        names.LISTENER,
        INBOUND,
        manager(lambda found: found.typed_header_validation_config.SetInParent()),
    ),
    (
        "claim another's certificate",
        names.LISTENER,
        INBOUND,
        manager(lambda found: found.ClearField("forward_client_cert_details")),
    ),
    (
        "underscores",
        names.LISTENER,
        INBOUND,
        manager(lambda found: found.common_http_protocol_options.ClearField("headers_with_underscores_action")),
    ),
    ("Envoy's default", names.LISTENER, INBOUND, manager(lambda found: found.ClearField("stream_idle_timeout"))),
    ("Host header", names.LISTENER, OUTBOUND, manager(lambda found: setattr(found, "strip_any_host_port", True))),
    ("undeclared ports", names.LISTENER, INBOUND, lambda found: found.default_filter_chain.SetInParent()),
    ("any port", names.LISTENER, INBOUND, lambda found: found.filter_chains[0].ClearField("filter_chain_match")),
    ("nothing guards", names.LISTENER, INBOUND, lambda found: found.filter_chains[1].filters.pop(0)),
    (
        "the port's own names",
        names.LISTENER,
        INBOUND,
        lambda found: inside(
            found.filter_chains[1].transport_socket.typed_config,
            lambda tls: setattr(
                tls.common_tls_context.validation_context_sds_secret_config, "name", "tcp/shop/other/90"
            ),
        ),
    ),
    # what Envoy would refuse, or what would move or lose traffic
    ("would be refused", names.ROUTES, OUT_ROUTES, lambda found: found.ClearField("validate_clusters")),
    (
        "path parameters",
        names.ROUTES,
        IN_ROUTES,
        lambda found: setattr(found, "ignore_path_parameters_in_path_matching", True),
    ),
    ("the Host header decides", names.ROUTES, OUT_ROUTES, lambda found: found.virtual_hosts[0].domains.append("x")),
    (
        "weights",
        names.ROUTES,
        OUT_ROUTES,
        lambda found: setattr(
            found.virtual_hosts[0].routes[0].route.weighted_clusters.clusters[0].weight, "value", 2**32 - 1
        ),
    ),
    (
        "a timeout",
        names.ROUTES,
        OUT_ROUTES,
        lambda found: found.virtual_hosts[0].routes[0].route.ClearField("timeout"),
    ),
    ("moves shares", names.CLUSTER, CLUSTER, lambda found: found.outlier_detection.SetInParent()),
    ("connect_timeout", names.CLUSTER, CLUSTER, lambda found: found.ClearField("connect_timeout")),
    (
        "neither by ADS nor as V3",
        names.CLUSTER,
        CLUSTER,
        lambda found: setattr(found.eds_cluster_config.eds_config, "resource_api_version", 3),
    ),
    (
        "is no address",
        names.ENDPOINTS,
        CLUSTER,
        lambda found: setattr(found.endpoints[0].lb_endpoints[0].endpoint.address.socket_address, "address", "host"),
    ),
]


@pytest.mark.parametrize(("problem", "message_name", "name", "plant"), PLANTED)
def test_a_planted_violation_is_seen(problem: str, message_name: str, name: str, plant: Plant) -> None:
    problems = lint(planted(message_name, name, plant))
    assert any(problem in said for said in problems), problems


def test_endpoints_must_come_with_their_cluster() -> None:
    config = sound()
    part = ("endpoints", "shop", "web")
    alone = tuple(item for item in config.parts[part] if not item.type_url.endswith("ClusterLoadAssignment"))
    problems = lint(replace(config, parts=MappingProxyType({**config.parts, part: alone})))
    assert any("warming" in said for said in problems)


def test_a_closed_form_that_is_open_is_seen() -> None:
    resource = next(item for item in sound().parts[("inbound", "shop", "w")] if item.name == IN_ROUTES)
    assert lint_resource(resource) == ()
    assert any("closed form with policies" in said for said in lint_resource(replace(resource, closed=resource.body)))


def test_a_version_must_be_the_hash_of_the_bytes() -> None:
    resource = sound().parts[("trust", "", "")][0]
    assert lint_resource(replace(resource, version="1"))


def test_a_scope_holds_no_other_workloads_side_and_nothing_that_does_not_exist() -> None:
    config = sound()
    wide = config.scopes[key("w")] | {("inbound", "shop", "v"), ("routes", "shop", "ghost")}
    problems = lint(replace(config, scopes=MappingProxyType({key("w"): wide})))
    assert any("belongs to another workload" in said for said in problems)
    assert any("does not exist" in said for said in problems)


def test_one_address_is_bound_by_one_listener() -> None:
    config = sound()
    dialled = config.parts[("dial", "shop", "w")]
    twice = tuple(
        changed(item, lambda found: setattr(found.address.socket_address, "address", "127.1.0.1"))
        for item in dialled
        if item.type_url.endswith("Listener")
    )
    problems = lint(replace(config, parts=MappingProxyType({**config.parts, ("dial", "shop", "w"): twice})))
    assert any("is bound 2 times" in said for said in problems)
