"""Keeps one key pair for each identity, or each holder of it, and knows when it has to be renewed.

A pure book-keeper: it starts nothing. The composition root asks `next_due`, waits, asks `due` whom to tell, and tells
the xDS server, which fetches the pair through `key_pair`; that is where it is renewed.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from smi_adapter.identity.ca import Authority, KeyPair

RENEW_AT: Final = 2 / 3
"""The share of its life after which a certificate is renewed, less a jitter of up to a tenth of that."""

_JITTER: Final = 0.1


class Issuer:
    """One key pair for each identity and holder, from one authority.

    Where pods are known one by one, each has a key of its own (security.md, C1): `holder` is then the pod's UID.
    """

    def __init__(self, authority: Authority, life: float = 3600.0, dns_names: tuple[str, ...] = ()) -> None:
        """Issue certificates that live for `life` seconds; `dns_names` go into all of them (a server's own)."""
        self.authority = authority
        self._life = life
        self._dns_names = dns_names
        self._pairs: dict[tuple[str, str], KeyPair] = {}

    def __repr__(self) -> str:
        return f"Issuer({self.authority!r}, {len(self._pairs)} keys)"

    def key_pair(self, identity: str, now: float, holder: str = "") -> KeyPair:
        """Return the holder's pair: the one that it has, or a new one if there is none or it is due."""
        pair = self._pairs.get((identity, holder))
        if pair is None or renewal_time(pair) <= now:
            pair = self.authority.issue(identity, now, self._life, dns_names=self._dns_names)
            self._pairs[identity, holder] = pair
        return pair

    def due(self, now: float) -> tuple[str, ...]:
        """Return the identities of which a pair is to be renewed now, sorted: send theirs again."""
        return tuple(sorted({name for (name, _), pair in self._pairs.items() if renewal_time(pair) <= now}))

    def next_due(self) -> float | None:
        """Return when the first pair is due; None if there is none."""
        return min(map(renewal_time, self._pairs.values()), default=None)

    def first_expiry(self) -> float | None:
        """Return when the first certificate expires; None if there is none."""
        return min((pair.expires_at for pair in self._pairs.values()), default=None)

    def forget(self, identity: str, holder: str = "") -> None:
        """Drop a key that nobody uses any more."""
        self._pairs.pop((identity, holder), None)

    def holders(self) -> frozenset[tuple[str, str]]:
        """Return who has a key, as (identity, holder)."""
        return frozenset(self._pairs)


def renewal_time(pair: KeyPair) -> float:
    """Return when a pair is due. The jitter comes from the identity: spread over a fleet, the same in every process."""
    spread = blake2b(pair.identity.encode(), digest_size=4).digest()
    jitter = int.from_bytes(spread, "big") / 2**32 * _JITTER
    return pair.issued_at + (pair.expires_at - pair.issued_at) * RENEW_AT * (1.0 - jitter)
