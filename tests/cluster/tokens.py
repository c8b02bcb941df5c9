"""Tokens that the API server would never issue, signed with its own key: expired ones, above all."""

from __future__ import annotations

import base64
import json
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature


def signed_again(token: str, private_key: bytes, **claims: Any) -> str:
    """Return a token with some claims changed, signed with that PEM key, as its issuer would."""
    head, payload, _ = token.split(".")
    changed = {**json.loads(_decoded(payload)), **{name: int(value) for name, value in claims.items()}}
    content = f"{head}.{_encoded(json.dumps(changed).encode())}"
    key = serialization.load_pem_private_key(private_key, None)
    if isinstance(key, rsa.RSAPrivateKey):
        signature = key.sign(content.encode(), padding.PKCS1v15(), hashes.SHA256())
    else:
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        r, s = decode_dss_signature(key.sign(content.encode(), ec.ECDSA(hashes.SHA256())))
        signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    return f"{content}.{_encoded(signature)}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
