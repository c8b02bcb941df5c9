"""Looks for configuration that Envoy would take and that would quietly allow too much, or that it would refuse.

Envoy has many ways to write "deny" that allow everything (envoy.md section 7), and what it refuses leaves an older,
perhaps looser version in force. The builders avoid all of that by construction; this module does not trust them: it
reads finished bytes. Tests run it over everything that they render. It says where and what, and is empty if all is
well. Rules are by message type; whatever is packed in an Any is opened and looked at too.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias

from google.protobuf.unknown_fields import UnknownFieldSet

from smi_adapter.backends import Part, Resource, XdsConfig
from smi_adapter.backends.envoy import names
from smi_adapter.envoy_api import TYPE_URL_PREFIX, message, serialise, version_of

Rule: TypeAlias = Callable[[Any], Iterator[str]]

MAX_RESOURCE_BYTES: Final = 1 << 20
_MOST: Final = 2**32 - 1
_OPEN_MODES: Final = frozenset({"audit", "permissive"})
_EXACT_LETTERS: Final = "exact"


def lint(config: XdsConfig) -> tuple[str, ...]:
    """Return what is wrong with a rendered config, sorted; nothing if it is sound."""
    problems: list[str] = []
    for part, resources in config.parts.items():
        problems += [f"{'/'.join(part)}: {problem}" for problem in _part(resources)]
    for workload, scope in config.scopes.items():
        problems += [f"scope of {'/'.join(workload)}: {problem}" for problem in _scope(config, workload, scope)]
    return tuple(sorted(problems))


def lint_resource(resource: Resource) -> tuple[str, ...]:
    """Return what is wrong with one resource, its closed form included."""
    return tuple(_resource(resource))


# ----------------------------------------------------------------------------------------------------- resources


def _part(resources: tuple[Resource, ...]) -> Iterator[str]:
    for resource in resources:
        yield from _resource(resource)
    endpoints = {resource.name for resource in resources if resource.type_url == names.type_url(names.ENDPOINTS)}
    for resource in resources:
        if resource.type_url == names.type_url(names.CLUSTER):
            cluster = message(names.CLUSTER).FromString(resource.body)
            if cluster.HasField("eds_cluster_config") and resource.name not in endpoints:
                yield f"{resource.name}: an EDS cluster without its endpoints stays in warming"


def _resource(resource: Resource) -> Iterator[str]:
    label = f"{resource.type_url.rpartition('.')[2]} {resource.name}"
    if resource.version != version_of(resource.body):
        yield f"{label}: the version is not the hash of the bytes"
    if len(resource.body) > MAX_RESOURCE_BYTES:
        yield f"{label}: {len(resource.body)} bytes"
    kind = message(resource.type_url.removeprefix(TYPE_URL_PREFIX))
    for form, body in (("", resource.body), (" (closed)", resource.closed)):
        if body is None:
            continue
        content = kind.FromString(body)
        if serialise(content) != body:
            yield f"{label}{form}: the bytes are not deterministic"
        own_name = content.cluster_name if resource.type_url.endswith("ClusterLoadAssignment") else content.name
        if own_name != resource.name:
            yield f"{label}{form}: the message calls itself {own_name!r}"
        yield from _content(content, label + form)
    if resource.closed is not None:
        yield from _closed(label, kind.FromString(resource.closed))


def _content(content: Any, label: str) -> Iterator[str]:
    for where, found in _walk(content, label):
        if len(UnknownFieldSet(found)):
            yield f"{where}: unknown fields"
        rule = _RULES.get(found.DESCRIPTOR.full_name)
        for problem in rule(found) if rule else ():
            yield f"{where}: {problem}"


def _closed(label: str, content: Any) -> Iterator[str]:
    """Find a closed form that lets anybody in."""
    for where, found in _walk(content, label + " (closed)"):
        name = found.DESCRIPTOR.full_name
        if name == "envoy.config.rbac.v3.RBAC" and found.policies:
            yield f"{where}: a closed form with policies"
        if name == _VALIDATION:
            allowed = [getattr(item.matcher, _EXACT_LETTERS) for item in found.match_typed_subject_alt_names]
            if allowed != [names.NOBODY]:
                yield f"{where}: a closed form that lets in {allowed}"


def _walk(content: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Yield a message and all messages in it, opening each Any."""
    content = _opened(content)
    yield where, content
    for descriptor, value in content.ListFields():
        if descriptor.message_type is None:
            continue
        place = f"{where}.{descriptor.name}"
        if descriptor.message_type.GetOptions().map_entry:
            if descriptor.message_type.fields_by_name["value"].message_type is not None:
                for key in sorted(value):
                    yield from _walk(value[key], f"{place}[{key}]")
        elif descriptor.is_repeated:
            for index, item in enumerate(value):
                yield from _walk(item, f"{place}[{index}]")
        else:
            yield from _walk(value, place)


def _opened(content: Any) -> Any:
    """Return what an Any holds, or the Any itself if that is unknown to us; any other message as it is."""
    if content.DESCRIPTOR.full_name != "google.protobuf.Any":
        return content
    try:
        kind = message(content.type_url.removeprefix(TYPE_URL_PREFIX))
    except KeyError:
        return content
    return kind.FromString(content.value)


# -------------------------------------------------------------------------------------------------------- scopes


def _scope(config: XdsConfig, workload: tuple[str, str], scope: frozenset[Part]) -> Iterator[str]:
    taken: Counter[tuple[str, str]] = Counter()
    addresses: Counter[tuple[str, int, str]] = Counter()
    for part in sorted(scope):
        if part not in config.parts:
            yield f"{part} does not exist"
            continue
        if part[0] in {"inbound", "dial"} and part[1:] != workload:
            yield f"{part} belongs to another workload"
        for resource in config.parts[part]:
            taken[resource.type_url, resource.name] += 1
            if resource.type_url == names.type_url(names.LISTENER):
                addresses.update(_bound(message(names.LISTENER).FromString(resource.body)))
    yield from (f"{name} stands {count} times" for (_, name), count in taken.items() if count > 1)
    yield from (f"{where} is bound {count} times" for where, count in addresses.items() if count > 1)


def _bound(listener: Any) -> Iterator[tuple[str, int, str]]:
    if listener.HasField("bind_to_port") and not listener.bind_to_port.value:
        return
    for address in (listener.address, *(item.address for item in listener.additional_addresses)):
        socket = address.socket_address
        yield socket.address, socket.port_value, "udp" if socket.protocol else "tcp"


# ------------------------------------------------------------------------------------------- who is let in: RBAC

_VALIDATION: Final = "envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext"


def _rbac(found: Any) -> Iterator[str]:
    if found.action != 0:
        yield "an action other than ALLOW: DENY without policies allows everything"
    for name, policy in found.policies.items():
        if not policy.permissions or not policy.principals:
            yield f"policy {name!r} without permissions or principals is refused, and the old policy stays"
        for principal in policy.principals:
            if principal.any and name not in _OPEN_MODES:
                yield f"policy {name!r} lets in anybody"
            elif not principal.any and not _names_somebody(principal):
                yield f"policy {name!r} has a principal that no certificate proves"


def _names_somebody(principal: Any) -> bool:
    """Tell whether a principal demands a certificate: an address or a header is nobody (T12)."""
    if principal.WhichOneof("identifier") == "and_ids":
        return any(_names_somebody(item) for item in principal.and_ids.ids)
    return bool(principal.WhichOneof("identifier") == "custom")


def _principal(found: Any) -> Iterator[str]:
    kind = found.WhichOneof("identifier")
    if kind == "authenticated":
        yield "`authenticated`: left empty it admits every certificate"
    elif kind not in {"any", "and_ids", "or_ids", "direct_remote_ip", "custom"}:
        yield f"a principal of kind {kind}"
    elif kind in {"and_ids", "or_ids"} and not getattr(found, kind).ids:
        yield f"empty {kind}"


def _permission(found: Any) -> Iterator[str]:
    kind = found.WhichOneof("rule")
    if kind not in {"any", "and_rules", "or_rules", "header", "url_path"}:
        yield f"a permission of kind {kind}"
    elif kind in {"and_rules", "or_rules"} and not getattr(found, kind).rules:
        yield f"empty {kind}"


def _mtls_principal(found: Any) -> Iterator[str]:
    if found.any_validated_client_certificate or not found.HasField("san_matcher"):
        yield "a principal that every certificate proves"
    elif found.san_matcher.san_type != 3 or not found.san_matcher.matcher.exact:
        yield "a principal that is not one exact URI"


def _some_rules(found: Any) -> Iterator[str]:
    if not found.HasField("rules"):
        yield "RBAC without `rules` allows everything"


def _per_route(found: Any) -> Iterator[str]:
    if not found.HasField("rbac") or not found.rbac.HasField("rules"):
        yield "an override without `rules` allows everything"


def _header(found: Any) -> Iterator[str]:
    if found.name.lower() in {":path", ":authority", "host"}:
        yield f"matches the header {found.name}"
    if found.invert_match or found.treat_missing_header_as_empty:
        yield "a header that is absent would match"


# ------------------------------------------------------------------------------------------------------------ TLS


def _validation(found: Any) -> Iterator[str]:
    for item in found.match_typed_subject_alt_names:
        exact, prefix = item.matcher.exact, item.matcher.prefix
        if item.san_type != 3 or not (exact or (prefix.startswith("spiffe://") and prefix.endswith("/"))):
            yield "a name that is neither an exact URI nor a whole trust domain"
    if found.HasField("trusted_ca") and not found.trusted_ca.inline_bytes:
        yield "no roots"
    if not found.HasField("trusted_ca") and not found.match_typed_subject_alt_names:
        yield "no names: every certificate of the CA would pass"


def _secret(found: Any) -> Iterator[str]:
    context = found.validation_context
    if found.name.startswith("tcp/") and not context.match_typed_subject_alt_names:
        yield "no names: every certificate of the CA would pass"
    if found.HasField("validation_context") and not context.HasField("trusted_ca"):
        yield "no roots: nobody would be verified"


def _tls(found: Any) -> Iterator[str]:
    kind = found.WhichOneof("validation_context_type")
    if kind == "combined_validation_context":
        combined = found.combined_validation_context
        if not combined.default_validation_context.match_typed_subject_alt_names:
            yield "no names: every certificate of the CA would pass"
        if combined.validation_context_sds_secret_config.name != names.TRUST_SECRET:
            yield "the roots are not the mesh's"
    elif kind != "validation_context_sds_secret_config" or not (
        found.validation_context_sds_secret_config.name.startswith("tcp/")
    ):
        yield "the other side is not verified"
    if [item.name for item in found.tls_certificate_sds_secret_configs] != [names.DEFAULT_SECRET]:
        yield "the key pair is not the proxy's own"


def _downstream_tls(found: Any) -> Iterator[str]:
    if not found.require_client_certificate.value:
        yield "no client certificate is required"
    if not (found.disable_stateless_session_resumption and found.disable_stateful_session_resumption):
        yield "on a resumed session nobody is known"


def _upstream_tls(found: Any) -> Iterator[str]:
    if not found.sni:
        yield "no SNI"
    if found.common_tls_context.WhichOneof("validation_context_type") != "combined_validation_context":
        yield "the server's names are not checked"


# ----------------------------------------------------------------------------------------- listeners and managers


def _manager(found: Any) -> Iterator[str]:
    if not found.normalize_path.value or not found.merge_slashes:
        yield "paths are not normalised"
    if found.path_with_escaped_slashes_action not in {2, 4}:  # REJECT_REQUEST, UNESCAPE_AND_FORWARD
        yield "escaped slashes are kept"
    if found.HasField("typed_header_validation_config"):
        yield "typed_header_validation_config overrides the path settings"
    if found.strip_any_host_port or found.strip_matching_host_port:
        yield "the Host header is changed (S20)"
    if found.use_remote_address.value:
        yield "use_remote_address is for edges"
    if found.common_http_protocol_options.headers_with_underscores_action != 1:
        yield "headers with underscores are not rejected"
    yield from _limits(found)


def _limits(found: Any) -> Iterator[str]:
    if found.codec_type != 0:
        yield "the codec is not AUTO"
    for limit in ("stream_idle_timeout", "max_request_headers_kb", "http2_protocol_options", "drain_timeout"):
        if not found.HasField(limit):
            yield f"{limit} is left to Envoy's default"
    if not found.http_filters or not found.http_filters[-1].typed_config.type_url.endswith(names.ROUTER):
        yield "the last filter is not the router"


def _listener(found: Any) -> Iterator[str]:
    inbound = found.name.startswith("in/") and not found.HasField("udp_listener_config")
    if inbound and found.HasField("default_filter_chain"):
        yield "undeclared ports are let in"
    for chain in found.filter_chains:
        if not chain.filters:
            yield f"chain {chain.name}: no filter"
            continue
        manager = _unpacked(chain.filters[0], names.HCM)
        if inbound:
            yield from (f"chain {chain.name}: {problem}" for problem in _inbound_chain(chain, manager))
        elif manager is not None:
            if manager.HasField("route_config") and not _guarded(manager):
                yield f"chain {chain.name}: a denial without the deny-all filter"
            if manager.forward_client_cert_details != 0:
                yield f"chain {chain.name}: a client's own certificate header is passed on"


def _inbound_chain(chain: Any, manager: Any) -> Iterator[str]:
    if not chain.filter_chain_match.destination_port.value:
        yield "matches any port"
    if not chain.transport_socket.typed_config.type_url.endswith(names.DOWNSTREAM_TLS):
        yield "plain text"
    if not chain.HasField("transport_socket_connect_timeout"):
        yield "a handshake may take for ever"
    if manager is None:
        if chain.filters[0].config_discovery.type_urls != [names.type_url(names.NETWORK_RBAC)]:
            yield "nothing guards the port"
        tls = _unpacked(chain.transport_socket, names.DOWNSTREAM_TLS)
        sds = tls.common_tls_context.validation_context_sds_secret_config.name if tls is not None else ""
        if sds != chain.filters[0].name:
            yield "its handshake is not guarded by the port's own names"
        return
    if not _guarded(manager):
        yield "the first HTTP filter is not the deny-all"
    if manager.forward_client_cert_details != 3:  # SANITIZE_SET
        yield "a client could claim another's certificate"
    if not manager.HasField("request_headers_timeout"):
        yield "request_headers_timeout is off"


def _guarded(manager: Any) -> bool:
    first = manager.http_filters[0]
    guard = _unpacked(first, names.HTTP_RBAC)
    if first.name != names.RBAC_FILTER or guard is None:
        return False
    return bool(guard.HasField("rules") and not guard.rules.policies and not guard.HasField("shadow_rules"))


def _unpacked(extension: Any, message_name: str) -> Any:
    if not extension.HasField("typed_config") or not extension.typed_config.type_url.endswith(message_name):
        return None
    return message(message_name).FromString(extension.typed_config.value)


def _unknown(found: Any) -> Iterator[str]:
    yield f"packs {found.type_url!r}, which we do not know"


def _config_source(found: Any) -> Iterator[str]:
    if not found.HasField("ads") or found.resource_api_version != 2:  # V3 is 2; Python accepts 3, Envoy does not
        yield "comes neither by ADS nor as V3"


# ---------------------------------------------------------------------------------------------- routes and clusters


def _routes(found: Any) -> Iterator[str]:
    if not found.HasField("validate_clusters") or found.validate_clusters.value:
        yield "a missing cluster would be refused"
    if found.ignore_path_parameters_in_path_matching:
        yield "path parameters are ignored"
    if [list(host.domains) for host in found.virtual_hosts] != [["*"]]:
        yield "the Host header decides (S20)"
    for host in found.virtual_hosts:
        if set(host.typed_per_filter_config) - {names.RBAC_FILTER}:
            yield "an override under a name that no filter has is ignored"
        if found.name.startswith("in/") and names.RBAC_FILTER not in host.typed_per_filter_config:
            yield "no access rules"


def _route(found: Any) -> Iterator[str]:
    if found.typed_per_filter_config:
        yield "an override below the virtual host"
    if found.HasField("route"):
        if not found.route.HasField("timeout") or found.route.timeout.seconds:
            yield "a timeout that a plain Service does not have"
        if found.route.HasField("weighted_clusters"):
            yield from _weights(item.weight.value for item in found.route.weighted_clusters.clusters)


def _tcp_proxy(found: Any) -> Iterator[str]:
    if found.HasField("weighted_clusters"):
        yield from _weights(item.weight for item in found.weighted_clusters.clusters)


def _weights(weights: Iterator[int]) -> Iterator[str]:
    shares = list(weights)
    if not 0 < sum(shares) <= _MOST or 0 in shares:
        yield f"weights {shares}"


def _cluster(found: Any) -> Iterator[str]:
    if not found.HasField("connect_timeout"):
        yield "no connect_timeout"
    if found.HasField("outlier_detection"):
        yield "outlier detection moves shares"
    for item in found.transport_socket_matches:
        if not item.match.fields:
            yield "an endpoint without a mark would be reached in plain text"
    secured = found.transport_socket.typed_config.type_url.endswith(names.UPSTREAM_TLS)
    if found.HasField("eds_cluster_config") and not found.name.endswith("/udp") and not secured:
        yield "plain text by default"


def _endpoint(found: Any) -> Iterator[str]:
    socket = found.address.socket_address
    try:
        ipaddress.ip_address(socket.address)
    except ValueError:
        yield f"{socket.address!r} is no address"
    if not 0 < socket.port_value < 65536:
        yield f"port {socket.port_value}"


_RULES: Final[Mapping[str, Rule]] = {
    "envoy.config.rbac.v3.RBAC": _rbac,
    "envoy.config.rbac.v3.Principal": _principal,
    "envoy.config.rbac.v3.Permission": _permission,
    names.MTLS_PRINCIPAL: _mtls_principal,
    names.HTTP_RBAC: _some_rules,
    names.HTTP_RBAC_PER_ROUTE: _per_route,
    names.NETWORK_RBAC: _some_rules,
    "envoy.config.route.v3.HeaderMatcher": _header,
    _VALIDATION: _validation,
    names.SECRET: _secret,
    "envoy.extensions.transport_sockets.tls.v3.CommonTlsContext": _tls,
    names.DOWNSTREAM_TLS: _downstream_tls,
    names.UPSTREAM_TLS: _upstream_tls,
    names.HCM: _manager,
    names.LISTENER: _listener,
    "envoy.config.core.v3.ConfigSource": _config_source,
    "google.protobuf.Any": _unknown,
    names.ROUTES: _routes,
    "envoy.config.route.v3.Route": _route,
    names.TCP_PROXY: _tcp_proxy,
    names.CLUSTER: _cluster,
    "envoy.config.endpoint.v3.Endpoint": _endpoint,
}
