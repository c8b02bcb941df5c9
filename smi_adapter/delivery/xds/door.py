"""The door of the xDS server: what a connection proves about who is there, and which workload that makes it.

There are two doors, each on a port of its own, because a gRPC server in Python can only demand client certificates or
ignore them (security.md, X2). `CertificateDoor` believes a certificate with exactly one SPIFFE id (no cluster, SPIRE);
`node.id` says which workload of that identity it is. `TokenDoor` believes a bearer token that an injected authenticator
has checked (a cluster); the pod behind the token says which workload it is, and `node.id` may only agree (X3).
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, Protocol, TypeAlias
from urllib.parse import unquote

import grpc

from smi_adapter.backends import XdsConfig
from smi_adapter.identity.callers import Caller, Reason, Refused
from smi_adapter.mesh import Key

Context: TypeAlias = "grpc.aio.ServicerContext[Any, bytes]"
Turn: TypeAlias = Callable[[], Awaitable[None]]
"""Waits until one more stream may come in; RefusedError if that takes too long."""

_NOT_YOU: Final = "this credential may not stream as that node"
_BEARER: Final = "bearer "
_LONGEST_TOKEN: Final = 16_384
_GROUP_SUFFIX: Final = "~"  # between an owner's name and what tells its groups of pods apart (translate.workloads)

_CODES: Final = {
    Reason.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Reason.PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    Reason.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
}


class RefusedError(Exception):
    """The stream may not be served, or no longer."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


@dataclass(frozen=True, slots=True)
class Guest:
    """Who was let in. `caller` is the pod behind a token; with a certificate it is None.

    `until`: seconds since the epoch after which the stream has to begin again, with a fresh credential.
    """

    identity: str
    address: str
    caller: Caller | None = None
    until: float = math.inf

    @property
    def holder(self) -> str:
        """Return what a key is made for: the UID of a pod; "" for an identity as a whole."""
        return self.caller.pod_uid if self.caller else ""

    def proxy(self, workload: Key) -> Hashable:
        """Return what streams are counted for: pods, never identities, which replicas share."""
        return self.holder or (workload, self.address)


class Door(Protocol):
    """What the server asks of a door."""

    @property
    def client_certificates(self) -> bool:
        """Tell whether the port demands client certificates."""
        ...

    async def admit(self, context: Context, turn: Turn) -> Guest:
        """Find out who is there; RefusedError for anybody who may not stream. Costly checks come after the turn."""
        ...

    def workload(self, guest: Guest, node: str, config: XdsConfig) -> Key:
        """Return the workload that a guest is; asked again with each config; RefusedError if it is none any more."""
        ...

    def may_end(self) -> bool:
        """Tell whether a stream whose time is over could begin again now (X7)."""
        ...


class CertificateDoor:
    """Believes client certificates of our own authority."""

    client_certificates = True

    async def admit(self, context: Context, turn: Turn) -> Guest:
        """Take the one SPIFFE id of the certificate (X2)."""
        identity = _certified(context)
        if identity is None:
            words = "the client certificate must have exactly one SPIFFE id as URI SAN"
            raise RefusedError(grpc.StatusCode.UNAUTHENTICATED, words)
        await turn()
        return Guest(identity, _peer(context))

    def workload(self, guest: Guest, node: str, config: XdsConfig) -> Key:
        """Take the workload that the node names, if it is one of that identity."""
        namespace, _, name = node.partition("/")
        workload = (namespace, name)
        if config.identities.get(workload) != guest.identity:
            raise RefusedError(grpc.StatusCode.PERMISSION_DENIED, _NOT_YOU)
        return workload

    def may_end(self) -> bool:
        """Answer yes: nobody else has to be asked about a certificate."""
        return True


class TokenDoor:
    """Believes bearer tokens that `authenticate` has checked."""

    client_certificates = False

    def __init__(
        self,
        authenticate: Callable[[str, str], Awaitable[Caller | Refused]],
        workload_of: Callable[[Caller], Key | None],
        may_end: Callable[[], bool] = lambda: True,
        screen: Callable[[str], Awaitable[Refused | None]] | None = None,
    ) -> None:
        """Prepare the door.

        `workload_of` answers None for a pod that does not exist any more. `screen` refuses what can't be a good token
        before it waits for a turn: what is forged must not stand in the way of those who are not.
        """
        self._authenticate = authenticate
        self._workload_of = workload_of
        self._may_end = may_end
        self._screen = screen

    async def admit(self, context: Context, turn: Turn) -> Guest:
        """Have the token checked."""
        token = _bearer(context)
        if not token:
            raise RefusedError(grpc.StatusCode.UNAUTHENTICATED, "a ServiceAccount token for this server is needed")
        if self._screen is not None and (refused := await self._screen(token)):
            raise RefusedError(_CODES[refused.reason], refused.why)
        await turn()
        address = address_of(context)
        caller = await self._authenticate(token, address)
        if isinstance(caller, Refused):
            raise RefusedError(_CODES[caller.reason], caller.why)
        return Guest(caller.identity, address, caller, ends_at(caller))

    def workload(self, guest: Guest, node: str, config: XdsConfig) -> Key:
        """Take the workload of the pod; a node that names another one is not believed in anything (X3)."""
        caller = guest.caller
        workload = self._workload_of(caller) if caller else None
        if caller is None or workload is None:
            raise RefusedError(grpc.StatusCode.UNAVAILABLE, "this pod is not (or no longer) part of the mesh")
        owner = workload[1].partition(_GROUP_SUFFIX)[0]
        if node and node not in {f"{workload[0]}/{name}" for name in (workload[1], owner, caller.pod)}:
            raise RefusedError(grpc.StatusCode.PERMISSION_DENIED, _NOT_YOU)
        if config.identities.get(workload) != guest.identity:
            raise RefusedError(grpc.StatusCode.UNAVAILABLE, "the workload of this pod is not known yet")
        return workload

    def may_end(self) -> bool:
        """Answer no while tokens can't be checked: whoever is in stays in."""
        return self._may_end()


def ends_at(caller: Caller) -> float:
    """Return when a stream has to begin again: at about 90 % of its token's life, when a kubelet has long renewed it.

    Spread over a tenth of the life, so that a fleet that started together does not come back together. With a token
    that is older than that already: half-way to its end.
    """
    spread = int.from_bytes(blake2b(caller.pod_uid.encode(), digest_size=4).digest(), "big") / 2**32
    life = caller.expires - caller.issued
    return caller.expires - life * (0.05 + 0.1 * spread)


def address_of(context: Context) -> str:
    """Return the peer's IP address, as Kubernetes writes it; "" if it has none."""
    _kind, _, rest = unquote(str(context.peer())).partition(":")
    host = rest.rpartition(":")[0].strip("[]")
    return host.removeprefix("::ffff:") if "." in host else host


def _peer(context: Context) -> str:
    """Return the peer's address without its port, as gRPC writes it."""
    return str(context.peer()).rpartition(":")[0]


def _certified(context: Context) -> str | None:
    """Return the SPIFFE id of the client certificate; None unless it has exactly one URI SAN and that is one (X2)."""
    peer = context.auth_context()
    uris, ids = list(peer.get("peer_uri", ())), list(peer.get("peer_spiffe_id", ()))
    return ids[0].decode() if len(uris) == 1 and uris == ids else None


def _bearer(context: Context) -> str:
    """Return the token of the stream; "" unless there is exactly one `authorization: Bearer`."""
    given = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
    if len(given) != 1 or not isinstance(given[0], str) or not given[0].lower().startswith(_BEARER):
        return ""
    token = given[0][len(_BEARER) :].strip()
    return token if len(token) <= _LONGEST_TOKEN else ""
