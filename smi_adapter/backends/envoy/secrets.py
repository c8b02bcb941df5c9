"""Secrets: a proxy's own key pair, and the roots that it trusts.

The key pair of an identity never comes near the Mesh or the rendered config: whoever delivers asks the issuer for it
and makes the resource here, for the one proxy that owns it (security.md L1).
"""

from __future__ import annotations

from smi_adapter.backends import Resource
from smi_adapter.backends.envoy.messages import Fields, resource
from smi_adapter.backends.envoy.names import DEFAULT_SECRET, SECRET, TRUST_SECRET
from smi_adapter.mesh import Trust


def key_pair(certificate_chain: bytes, private_key: bytes) -> Resource:
    """Return the secret `default` from a PEM chain (leaf first) and its PEM key."""
    return resource(
        SECRET,
        {
            "name": DEFAULT_SECRET,
            "tls_certificate": {
                "certificate_chain": {"inline_bytes": certificate_chain},
                "private_key": {"inline_bytes": private_key},
            },
        },
    )


def roots(trust: Trust) -> tuple[Resource, ...]:
    """Return the secret `ROOTCA`; none without roots: a context without a CA would verify nobody."""
    if not trust.bundle:
        return ()
    return (resource(SECRET, {"name": TRUST_SECRET, "validation_context": trusting(trust)}),)


def trusting(trust: Trust, names: list[Fields] | None = None) -> Fields:
    """Return a validation context with the roots and, unless another place holds them, the names to accept."""
    context: Fields = {"trusted_ca": {"inline_bytes": trust.bundle}}
    return context if names is None else {**context, "match_typed_subject_alt_names": names}
