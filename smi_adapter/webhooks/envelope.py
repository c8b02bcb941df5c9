"""The outside of a review: hostile bytes in, one request as plain data out, or a refusal in words.

Whoever reaches the port may send anything, so size and nesting are judged before anything is parsed (security.md,
section 11; Istio's webhook port was brought down by a deep request). Validation and conversion share this, and nothing
else of them sees bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

MAX_ADMISSION: Final = 4 * 1024 * 1024
"""Bytes of one AdmissionReview: twice an object of the largest size that etcd takes (the old one comes too)."""

MAX_CONVERSION: Final = 32 * 1024 * 1024
"""Bytes of one ConversionReview: the API server sends a whole list at once."""

MAX_DEPTH: Final = 64
"""Levels of nesting; an SMI object with its review around it has about 12."""


class MalformedError(ValueError):
    """The bytes are no review that can be answered; `status` is the HTTP status to say so with."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def request_of(body: bytes, kind: str, most: int) -> Mapping[str, Any]:
    """Return the `request` of a review of that kind (version v1); MalformedError for everything else."""
    if len(body) > most:
        raise MalformedError(f"a {kind} of more than {most} bytes is not read", 413)
    if is_deep(body):
        raise MalformedError(f"a {kind} nested more than {MAX_DEPTH} levels deep is not read")
    try:
        review = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise MalformedError(f"a {kind} must be JSON") from error
    group = "admission.k8s.io" if kind == "AdmissionReview" else "apiextensions.k8s.io"
    if not isinstance(review, dict) or (review.get("apiVersion"), review.get("kind")) != (f"{group}/v1", kind):
        raise MalformedError(f"must be a {kind} of {group}/v1")
    request = review.get("request")
    if not isinstance(request, dict) or not isinstance(request.get("uid"), str):
        raise MalformedError(f"a {kind} needs a request with a uid")
    return request


def answer(kind: str, response: Mapping[str, Any]) -> bytes:
    """Return the review that carries a response."""
    group = "admission.k8s.io" if kind == "AdmissionReview" else "apiextensions.k8s.io"
    return msgspec.json.encode({"apiVersion": f"{group}/v1", "kind": kind, "response": response})


_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)  # possessive: one pass, whatever the bytes
_ALIKE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKET = bytes(byte for byte in range(256) if byte not in b"[]{}")


def is_deep(body: bytes) -> bool:
    """Tell whether brackets nest more than `MAX_DEPTH` levels: peel off the innermost ones, a level at a time."""
    brackets = _STRING.sub(b"", body).translate(_ALIKE, _NO_BRACKET)
    for _ in range(MAX_DEPTH):
        peeled = brackets.replace(b"[]", b"")
        if len(peeled) == len(brackets):
            return len(brackets) > MAX_DEPTH
        brackets = peeled
    return bool(brackets)
