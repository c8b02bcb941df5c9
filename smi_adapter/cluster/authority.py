"""The mesh's certificate authority, kept in one Secret of our own namespace (security.md C3; faults.md F37).

All replicas sign with the same key, so it has to live somewhere; the right to read it is one Role with one name in it.
The chart creates the Secret empty (`create` can't be limited by name), whoever starts first fills it, and the others
read what that one wrote. Once loaded, the authority lives in memory: a Secret that is deleted or overwritten stops
nobody, it is reported, and written again only if it was ours.
"""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from smi_adapter.cluster.client import ApiError, Resource
from smi_adapter.cluster.pace import Asking
from smi_adapter.identity.ca import Authority, AuthorityFileError

_log = logging.getLogger(__name__)

_SECRETS: Final = Resource("", "v1", "secrets", "Secret")
_OURS: Final = "smi-adapter.io/self-managed"
_CERTIFICATE, _KEY = "tls.crt", "tls.key"
_ATTEMPTS: Final = 5
_LIFE: Final = 10 * 365 * 86_400.0
_MERGE: Final = "application/merge-patch+json"


class AuthoritySecretError(Exception):
    """The Secret can't be used; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class _Stored:
    """What the Secret holds: `problem` says why there is no authority, unless it is simply empty or not there.

    `version` is its resourceVersion, "" if there is no Secret.
    """

    authority: Authority | None
    ours: bool
    version: str
    problem: str = ""


class AuthoritySecret:
    """One Secret and the authority in it."""

    def __init__(self, client: Asking, name: str, trust_domain: str, clock: Callable[[], float] = time.time) -> None:
        self._client = client
        self._name = name
        self._trust_domain = trust_domain
        self._clock = clock
        self._path = _SECRETS.path(client.namespace, name)
        self._ours = False

    @property
    def shown(self) -> str:
        """Return the Secret's name for people."""
        return f"Secret {self._client.namespace}/{self._name}"

    async def load(self) -> Authority:
        """Return the authority, made by us if there is none; ApiError, Unreachable or AuthoritySecretError."""
        for _ in range(_ATTEMPTS):
            stored = await self._read()
            if stored.problem:  # perhaps another replica has the right one in memory
                raise AuthoritySecretError(stored.problem)
            if stored.authority is not None:
                self._ours = stored.ours
                return stored.authority
            made = Authority.create(self._trust_domain, self._clock(), _LIFE)
            if await self._write(made, stored.version):
                _log.info("made a certificate authority for %s and saved it in %s", self._trust_domain, self.shown)
                self._ours = True
                return made
        raise AuthoritySecretError(f"{self.shown} changes all the time; does something else write it?")

    async def check(self, authority: Authority) -> str:
        """Look whether the Secret still holds the authority; restore it if it was ours. Return what is wrong, or ""."""
        stored = await self._read()
        if stored.authority is not None:
            same = stored.authority.bundle == authority.bundle
            return "" if same else f"{self.shown} holds another authority; the one in memory is used until a restart"
        problem = stored.problem or f"{self.shown} is empty or gone"
        if not self._ours:
            return f"{problem}; the authority in memory is used"
        if await self._write(authority, stored.version):
            _log.warning("%s; it was written again from memory", problem)
        return ""

    async def _read(self) -> _Stored:
        try:
            found = await self._client.get(self._path)
        except ApiError as error:
            if error.status == 404:
                return _Stored(None, ours=False, version="")
            raise
        metadata, data = found.get("metadata") or {}, found.get("data") or {}
        version = str(metadata.get("resourceVersion", ""))
        if not data.get(_CERTIFICATE) and not data.get(_KEY):
            return _Stored(None, ours=False, version=version)
        ours = (metadata.get("annotations") or {}).get(_OURS) == "true"
        parsed = self._parsed(data)
        if isinstance(parsed, str):
            return _Stored(None, ours, version, parsed)
        return _Stored(parsed, ours, version)

    def _parsed(self, data: Mapping[str, Any]) -> Authority | str:
        """Return the authority in the Secret's data, or what is wrong with it."""
        try:
            parts = [base64.b64decode(str(data.get(name, "")), validate=True) for name in (_KEY, _CERTIFICATE)]
            authority = Authority.from_pem(b"\n".join(parts))
        except (AuthorityFileError, ValueError):
            return f"{self.shown} does not hold a key and its certificate; empty its data, and new ones are made"
        if authority.trust_domain != self._trust_domain:
            return f"{self.shown} is the authority of trust domain {authority.trust_domain}, not {self._trust_domain}"
        return authority

    async def _write(self, authority: Authority, version: str) -> bool:
        """Write the authority over that version of the Secret; False if somebody else was faster."""
        key, certificate = authority.to_pem(), authority.bundle
        data = {
            _KEY: base64.b64encode(key.removesuffix(certificate)).decode(),
            _CERTIFICATE: base64.b64encode(certificate).decode(),
        }
        metadata: dict[str, Any] = {"name": self._name, "annotations": {_OURS: "true"}}
        try:
            if version:
                body: dict[str, Any] = {"metadata": {**metadata, "resourceVersion": version}, "data": data}
                await self._client.request("PATCH", self._path, body=body, content_type=_MERGE)
            else:
                body = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}
                await self._client.request("POST", _SECRETS.path(self._client.namespace), body=body)
        except ApiError as error:
            if error.status == 409:
                return False
            raise
        return True
