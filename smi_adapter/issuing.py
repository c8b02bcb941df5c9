"""The certificates of a replica in a cluster: what it shows itself, and what it issues to those who stream.

The authority lies in a Secret that all replicas share (`cluster.authority`); whoever holds it may issue. The one in
memory is used whatever happens to the Secret (faults.md F37), and while there is none, loading is tried again (F1).
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from typing import Final

from smi_adapter.backends import Resource
from smi_adapter.backends.envoy import secrets as envoy_secrets
from smi_adapter.cluster.authority import AuthoritySecret, AuthoritySecretError
from smi_adapter.cluster.client import ApiError, Client, Unreachable
from smi_adapter.delivery.xds import AdsServer, ServerTls
from smi_adapter.identity import Authority, Issuer
from smi_adapter.settings import Settings

_log = logging.getLogger(__name__)

_LOOK: Final = 30.0
_OUTSIDE: Final = "smi-adapter"
"""What a controller that runs in no pod calls itself."""


class Issuing:
    """The authority and what it signs. Nothing but `load`, `keep` and `problem` may be used before `load` is done."""

    def __init__(self, settings: Settings, client: Client) -> None:
        namespace, service = client.namespace, settings.xds_service
        self.problem = ""
        """Why there is no authority, or not the one of the Secret; in words for people."""
        self.authority: Authority
        self._names = (
            f"{service}.{namespace}.svc",
            f"{service}.{namespace}.svc.cluster.local",
            f"{service}.{namespace}",
        )
        self._own = f"spiffe://{settings.trust_domain}/ns/{namespace}/sa/{client.account or _OUTSIDE}"
        self._life = float(settings.certificate_seconds)
        self._secret = AuthoritySecret(client, settings.authority_secret, settings.trust_domain)
        self._proxies: Issuer
        self._servers: Issuer

    async def load(self) -> Authority:
        """Load the authority; while the API server is away or the Secret is unusable, try again (F1)."""
        pause = 0.5
        while True:
            try:
                self.authority = await self._secret.load()
            except (ApiError, Unreachable, AuthoritySecretError) as error:
                self.problem = f"the certificate authority can't be loaded: {error}"
                _log.warning("%s; trying again", self.problem)
            else:
                break
            await asyncio.sleep(pause * random.uniform(0.75, 1.25))  # noqa: S311 - jitter
            pause = min(2.0, pause * 2)
        self.problem = ""
        self._proxies = Issuer(self.authority, self._life)
        self._servers = Issuer(self.authority, self._life, self._names)
        return self.authority

    def published(self) -> bytes | None:
        """Return the root certificates that all are to know; None while the Secret has others, or can't be read."""
        return None if self.problem else self.authority.bundle

    def tls(self) -> ServerTls:
        """Return what the xDS port shows now."""
        pair = self._servers.key_pair(self._own, time.time())
        return ServerTls(pair.certificate, pair.private_key)

    def secrets(self, identity: str, holder: str) -> tuple[Resource, ...]:
        """Return what a proxy gets beside its configuration: the key pair of its pod."""
        pair = self._proxies.key_pair(identity, time.time(), holder)
        return (envoy_secrets.key_pair(pair.certificate, pair.private_key),)

    def first_expiry(self) -> float:
        """Return when the first certificate expires: the authority's, or one of a proxy.

        Our own is not counted: it is renewed at a handshake, so it may well be old where nobody connects.
        """
        return min(self.authority.expires_at, self._proxies.first_expiry() or math.inf)

    async def rotate(self, server: AdsServer) -> None:
        """Renew certificates before they expire and send them to who streams with them; drop keys without a pod."""
        while True:
            due_at = self._proxies.next_due()
            await asyncio.sleep(min(5.0, max(0.05, due_at - time.time())) if due_at is not None else 1.0)
            streaming = server.holders()
            for identity, holder in self._proxies.holders() - streaming:
                self._proxies.forget(identity, holder)
            for identity in self._proxies.due(time.time()):
                server.secrets_changed(identity)

    async def keep(self) -> None:
        """See that the Secret still holds the authority; the one in memory is used in any case (F37)."""
        while True:
            await asyncio.sleep(_LOOK)
            try:
                problem = await self._secret.check(self.authority)
            except Unreachable:
                continue
            except ApiError as error:
                problem = f"{self._secret.shown} can't be looked after: {error}"
            if problem and problem != self.problem:
                _log.error("%s", problem)
            self.problem = problem
