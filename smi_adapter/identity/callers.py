"""Who a credential speaks for, once somebody has checked it: the words that the checkers and the xDS server share.

`cluster.tokens` makes these values from ServiceAccount tokens; `delivery.xds` serves or ends streams by them. They
hold nothing that the caller says about itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class Caller:
    """One pod that proved who it is, with a token that was issued and expires at these seconds since the epoch."""

    identity: str
    namespace: str
    service_account: str
    service_account_uid: str
    pod: str
    pod_uid: str
    issued: float
    expires: float


class Reason(Enum):
    """Why a credential is not enough: it is none, it is not for this caller, or nobody can tell at present."""

    UNAUTHENTICATED = "unauthenticated"
    PERMISSION_DENIED = "permission denied"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class Refused:
    """A refusal; `why` is for the caller's eyes, so it says nothing that only others may know."""

    reason: Reason
    why: str
