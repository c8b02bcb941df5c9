"""Who may do what: the one builder of everything that permits (envoy.md section 7, security.md D1-D9).

Envoy has several ways to write "deny" that allow everything, so no other module makes RBAC, and `lint.py` looks for
each of those ways in whatever was rendered. A rule that grants nothing gives no policy: an empty one is refused by
Envoy, and the older, looser one would stay in force.

HTTP rules travel in the routes (RDS) under a deny-all filter in the Listener. TCP rules are checked at the handshake,
by a validation context of their own (SDS), because a network filter waits for the client's first byte, while a server
that speaks first would already have greeted; a network filter (ECDS) beside it knows source addresses and counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Final, TypeAlias

from smi_adapter.backends.envoy.matches import ANY_PERMISSION, permission
from smi_adapter.backends.envoy.messages import Fields, extension, typed
from smi_adapter.backends.envoy.names import HTTP_RBAC, HTTP_RBAC_PER_ROUTE, MTLS_PRINCIPAL, RBAC_FILTER
from smi_adapter.backends.envoy.secrets import trusting
from smi_adapter.backends.envoy.tls import exactly, of_the_mesh
from smi_adapter.mesh import AccessMode, AccessRule, Principal, Trust

DENY_ALL: Final[Fields] = {"rules": {}}
"""`rules` that are present and empty. Without `rules` at all the filter would allow everything."""

Grant: TypeAlias = tuple[str, str]
"""(identity, source address); the address "" stands for any."""

ANYBODY: Final[frozenset[Grant]] = frozenset({("*", "")})
"""What a port grants in audit and permissive mode; no identity is called `*`."""


def deny_all_filter() -> Fields:
    """Return the HTTP filter that denies whatever no route's override permits."""
    return extension(RBAC_FILTER, HTTP_RBAC, DENY_ALL)


def http_override(mode: AccessMode, rules: Iterable[AccessRule]) -> Mapping[str, Fields]:
    """Return the `typed_per_filter_config` that puts these rules in the place of the Listener's deny-all."""
    return {RBAC_FILTER: typed(HTTP_RBAC_PER_ROUTE, {"rbac": _by_mode(mode, _policies(rules))})}


def http_denial() -> Mapping[str, Fields]:
    """Return the `typed_per_filter_config` that permits nothing."""
    return {RBAC_FILTER: typed(HTTP_RBAC_PER_ROUTE, {"rbac": DENY_ALL})}


def tcp_filter(mode: AccessMode, rules: Iterable[AccessRule], stat_prefix: str) -> Fields:
    """Return the network RBAC of a TCP port: HTTP rules cannot match there and grant nothing (T5)."""
    return {**_by_mode(mode, _policies(_for_tcp(rules))), "stat_prefix": stat_prefix}


def tcp_denial(stat_prefix: str) -> Fields:
    """Return a network RBAC that permits nothing."""
    return {**DENY_ALL, "stat_prefix": stat_prefix}


def tcp_context(mode: AccessMode, rules: Iterable[AccessRule], trust: Trust) -> Fields:
    """Return the validation context of a TCP port: a peer that is not named in it fails its handshake."""
    if mode is not AccessMode.ENFORCE:
        return trusting(trust, of_the_mesh(trust))
    return trusting(trust, exactly(identity for identity, _ in tcp_grants(mode, rules)))


def tcp_closed_context(trust: Trust) -> Fields:
    """Return a validation context that no peer passes."""
    return trusting(trust, exactly(()))


def tcp_grants(mode: AccessMode, rules: Iterable[AccessRule]) -> frozenset[Grant]:
    """Return who may connect, as a set that two versions of the rules can be compared by."""
    if mode is not AccessMode.ENFORCE:
        return ANYBODY
    grants: set[Grant] = set()
    for rule in _for_tcp(rules):
        for principal in rule.principals:
            if not principal.identity:
                continue
            addresses = ("",) if principal.addresses is None else principal.addresses
            grants.update((principal.identity, address) for address in addresses)
    return frozenset(grants)


def revokes(old: frozenset[Grant], new: frozenset[Grant]) -> bool:
    """Tell whether somebody who was let in by `old` is not by `new`."""
    return new != ANYBODY and not all(grant in new or (grant[0], "") in new for grant in old)


def generation(grants: frozenset[Grant], before: tuple[str, frozenset[Grant]] | None) -> str:
    """Return the mark of a TCP port's filter chain; a changed mark makes Envoy close the chain's connections (T15).

    It must change whenever somebody loses a right and stay when somebody gains one, which no function of the present
    rules alone can do. So it depends on `before`, the last mark and grants; without it, it is a hash of the grants.
    docs/adr/0012 says what that means after a restart.
    """
    if before is None:
        return _digest("", grants)
    mark, previous = before
    return _digest(mark, grants) if revokes(previous, grants) else mark


def _digest(mark: str, grants: frozenset[Grant]) -> str:
    text = "\n".join([mark, *(f"{identity} {address}" for identity, address in sorted(grants))])
    return blake2b(text.encode(), digest_size=8).hexdigest()


def _for_tcp(rules: Iterable[AccessRule]) -> Iterable[AccessRule]:
    return (rule for rule in rules if rule.matches is None)


def _by_mode(mode: AccessMode, policies: Mapping[str, Fields]) -> Fields:
    """Return enforced and shadow rules; `rules` is never absent, whatever the mode (only `shadow_rules` opens all)."""
    if mode is AccessMode.ENFORCE:
        return {"rules": {"policies": policies}} if policies else DENY_ALL
    anything = {"rules": {"policies": {mode.value: {"permissions": [ANY_PERMISSION], "principals": [{"any": True}]}}}}
    if mode is AccessMode.PERMISSIVE:
        return anything
    return {**anything, "shadow_rules": {"policies": policies} if policies else {}}


def _policies(rules: Iterable[AccessRule]) -> dict[str, Fields]:
    """Return one policy for each rule that grants something, by the name that the access log then shows (T14)."""
    policies: dict[str, Fields] = {}
    for rule in rules:
        principals = [said for principal in rule.principals for said in _principal(principal)]
        permissions = [ANY_PERMISSION] if rule.matches is None else [permission(match) for match in rule.matches]
        if not principals or not permissions:
            continue  # D2: an empty grant is no policy
        name = f"{rule.origin} {rule.rule}".rstrip()
        twin = 1
        while name in policies:
            twin += 1
            name = f"{rule.origin} {rule.rule} #{twin}"
        policies[name] = {"permissions": permissions, "principals": principals}
    return policies


def _principal(principal: Principal) -> list[Fields]:
    """Return the principal, or nothing if it can be nobody: no identity, or bound to no address at all."""
    if not principal.identity or principal.addresses == ():
        return []
    named: Fields = {
        "custom": extension(
            "envoy.rbac.principals.mtls_authenticated",
            MTLS_PRINCIPAL,
            {"san_matcher": {"san_type": "URI", "matcher": {"exact": principal.identity}}},
        )
    }
    if principal.addresses is None:
        return [named]
    sources = [{"direct_remote_ip": _host(address)} for address in principal.addresses]
    one_of = sources[0] if len(sources) == 1 else {"or_ids": {"ids": sources}}
    return [{"and_ids": {"ids": [named, one_of]}}]


def _host(address: str) -> Fields:
    return {"address_prefix": address, "prefix_len": {"value": 128 if ":" in address else 32}}
