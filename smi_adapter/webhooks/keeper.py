"""Sees to it that the API server trusts the webhook server: one Secret, renewed in time, and the `caBundle` patches.

Every replica reads the Secret and shows its certificate; only the leader writes, and no longer than its lease lasts.
What is in memory counts: a Secret that is deleted or overwritten stops nobody, it is reported, and written again only
if it was ours (faults.md F37).
The bundle is patched into the webhook configurations that are named, and there only where a webhook points at our own
Service; it is looked at every half minute, so whoever removes it (a re-install, GitOps) sees it come back. With it goes
the path on which the server says all that it knows (`server`).

With cert-manager none of this is needed: `FileKeeper` watches the mounted files instead, and needs no rights at all.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit, urlunsplit

from smi_adapter.cluster.client import ApiError, Client, Resource, Unreachable
from smi_adapter.findings import Finding, Ref, finding
from smi_adapter.webhooks import certificates
from smi_adapter.webhooks.certificates import Certificates, Lives, UnusableError

_log = logging.getLogger(__name__)

LOOK: Final = 30.0
"""Seconds between two looks, less a jitter of up to a quarter."""

RETRY: Final = 3.0
"""Seconds after a look that failed, or while there is no certificate yet."""

_OURS: Final = "smi-adapter.io/self-managed"
_MERGE: Final = "application/merge-patch+json"
_JSON_PATCH: Final = "application/json-patch+json"
_SECRETS: Final = Resource("", "v1", "secrets", "Secret")
_VALIDATING: Final = Resource(
    "admissionregistration.k8s.io",
    "v1",
    "validatingwebhookconfigurations",
    "ValidatingWebhookConfiguration",
    namespaced=False,
)
_CRDS: Final = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)


class Keeper(Protocol):
    """What a controller needs of either keeper."""

    @property
    def problems(self) -> tuple[Finding, ...]:
        """Return what there is to tell now."""
        ...

    def expires(self) -> float | None:
        """Return when the first certificate expires; None before there is one."""
        ...

    async def run(self) -> None:
        """Look, for ever."""
        ...


class Shows(Protocol):
    """The server: it shows a certificate from the next handshake on, and knows the path of its whole answers."""

    path: str

    def use(self, certificate: bytes, private_key: bytes) -> None:
        """Show this certificate; ValueError if the two do not fit."""
        ...


@dataclass(frozen=True, slots=True)
class Places:
    """Where things are. `service`: the Service of the webhooks; `names`: further DNS names of the certificate.

    `validating` and `conversions` are names of webhook configurations and of CRDs, the only ones that are patched.
    """

    secret: str
    service: str
    names: tuple[str, ...] = ()
    validating: tuple[str, ...] = ()
    conversions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Stored:
    """What the Secret holds. `version` "": there is no Secret; `blank`: it has no data."""

    held: Certificates | None
    ours: bool = False
    version: str = ""
    blank: bool = True
    wrong: str = ""


class SecretKeeper:
    """Makes, stores, renews and injects the certificates."""

    def __init__(  # noqa: PLR0913 - what is kept, where, for whom, and by which clock
        self,
        client: Client,
        places: Places,
        server: Shows,
        left: Callable[[], float],
        *,
        lives: Lives | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.held: Certificates | None = None
        self._client = client
        self._places = places
        self._server = server
        self._left = left
        self._lives = lives or Lives()
        self._clock = clock
        self._shown = b""
        self._ours = False
        self._said: tuple[Finding, ...] = ()
        namespace = client.namespace
        self.names = (
            f"{places.service}.{namespace}.svc",
            f"{places.service}.{namespace}.svc.cluster.local",
            f"{places.service}.{namespace}",
            *places.names,
        )
        self._path = _SECRETS.path(namespace, places.secret)
        self._subject = Ref("Secret", namespace, places.secret)

    @property
    def problems(self) -> tuple[Finding, ...]:
        """Return what there is to tell now."""
        return self._said

    def expires(self) -> float | None:
        """Return when the first certificate expires; None before there is one."""
        if self.held is None:
            return None
        return min(map(certificates.expiry, (self.held.serving.certificate, self.held.authority.bundle)))

    async def run(self) -> None:
        """Look, for ever; an API server that is away only makes the next look come sooner."""
        while True:
            pause = LOOK * random.uniform(0.75, 1.0)  # noqa: S311 - jitter
            try:
                await self.look()
                if self.held is None:
                    pause = RETRY
            except (ApiError, Unreachable) as error:
                _log.warning("the webhooks' certificates cannot be looked after: %s", error)
                pause = RETRY
            await asyncio.sleep(pause)

    async def look(self) -> None:
        """Do all that is due now: read, renew, write, inject; ApiError or Unreachable if the API server is away."""
        stored = await self._read()
        found: list[Finding] = []
        if stored.held is not None:
            self._ours = self._ours or stored.ours
            if self.held is None or certificates.to_data(stored.held) != certificates.to_data(self.held):
                self._take(stored.held)
        else:
            found += await self._missing(stored)
        if self.held is not None:
            if self._leads():
                found += await self._advance(stored)
            found += self._late(self.held)
        self._say(found)

    def _say(self, found: Iterable[Finding]) -> None:
        now = tuple(found)
        for item in now:
            if item not in self._said:
                _log.warning("%s %s: %s", item.code, item.subject, item.message)
        self._said = now

    def _take(self, held: Certificates) -> None:
        self.held = held
        if held.serving.certificate != self._shown:
            self._server.use(held.serving.certificate, held.serving.private_key)
            self._shown = held.serving.certificate
            end = time.strftime("%Y-%m-%d %H:%MZ", time.gmtime(held.serving.expires_at))
            _log.info("webhooks show a certificate that ends %s", end)

    # ------------------------------------------------------------------------------------------------ the Secret
    async def _read(self) -> _Stored:
        try:
            found = await self._client.get(self._path)
        except ApiError as error:
            if error.status == 404:
                return _Stored(None, wrong="is gone")
            raise
        metadata = found.get("metadata") or {}
        version, data = str(metadata.get("resourceVersion", "")), found.get("data") or {}
        if not any(data.values()):
            return _Stored(None, version=version, wrong="is empty")
        ours = (metadata.get("annotations") or {}).get(_OURS) == "true"
        try:
            raw = {str(name): base64.b64decode(str(value), validate=True) for name, value in data.items()}
            return _Stored(certificates.from_data(raw), ours, version, blank=False)
        except (binascii.Error, UnusableError) as error:
            wrong = str(error) if isinstance(error, UnusableError) else "has data that are not base64"
            return _Stored(None, ours, version, blank=False, wrong=wrong)

    async def _missing(self, stored: _Stored) -> list[Finding]:
        """Fill a Secret that is new; one that was ours is written again from memory, a foreign one is left alone."""
        if self.held is None and stored.blank:
            if self._leads() and await self._write(made := certificates.create(*self._wanted()), stored.version):
                self._take(made)
                self._ours = True
            return []  # else wait for the leader
        denied = ""
        if (self._ours or stored.ours) and self._leads():
            again = self.held or certificates.create(*self._wanted())
            try:
                if await self._write(again, stored.version):
                    self._take(again)
                    self._ours = True
                    return []
            except ApiError as error:  # the chart gives no right to create one: that cannot be limited by name
                denied = f" and may not be written ({error.status} {error.reason})"
        kept = "what is in memory is used" if self.held else "webhooks have no certificate"
        return [finding("SMI0906", self._subject, "data", f"{stored.wrong}{denied}; {kept}")]

    def _leads(self) -> bool:
        return self._left() > 0

    async def _send(self, method: str, path: str, **more: Any) -> None:
        """Write, if there is time left: what hangs longer would come in the way of the next leader."""
        left = self._left()
        if left <= 0:
            raise Unreachable("this replica does not lead any more")
        await self._client.request(method, path, timeout=min(10.0, left), **more)

    def _wanted(self) -> tuple[tuple[str, ...], Lives, float]:
        return self.names, self._lives, self._clock()

    async def _write(self, held: Certificates, version: str) -> bool:
        """Write over that version of the Secret; False if somebody else was faster."""
        data = {name: base64.b64encode(value).decode() for name, value in certificates.to_data(held).items()}
        metadata: dict[str, Any] = {"name": self._places.secret, "annotations": {_OURS: "true"}}
        try:
            if not version:
                body = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": data}
                await self._send("POST", _SECRETS.path(self._client.namespace), body=body)
                return True
            gone = {name: None for name in ("coming.pem", "leaving.crt") if name not in data}
            body = {"metadata": {**metadata, "resourceVersion": version}, "data": {**data, **gone}}
            await self._send("PATCH", self._path, body=body, content_type=_MERGE)
        except ApiError as error:
            if error.status == 409:
                return False
            raise
        return True

    async def _advance(self, stored: _Stored) -> list[Finding]:
        """Inject the bundle, take the step that is due, and inject again what that made of it."""
        if self.held is None:
            return []
        found, reached = await self._inject(self.held.bundle)
        held = certificates.advance(self.held, *self._wanted(), reached=reached)
        if held is self.held or stored.held is None:
            return found
        if not await self._write(held, stored.version):
            return found
        bundle = self.held.bundle
        self._take(held)
        return found if held.bundle == bundle else (await self._inject(held.bundle))[0]

    def _late(self, held: Certificates) -> list[Finding]:
        """Tell if something should have been renewed long ago: at half of the time between renewal and end."""
        now, found = self._clock(), []
        for what, pem in (("serving certificate", held.serving.certificate), ("authority", held.authority.bundle)):
            end = certificates.expiry(pem)
            if held.coming is None and now > (certificates.due(pem) + end) / 2:
                hours = f"{(end - now) / 3600:.0f} h"
                found.append(finding("SMI0901", self._subject, "data", f"the webhooks' {what} ends in {hours}"))
        return found

    # ------------------------------------------------------------------------------------------------- caBundle
    async def _inject(self, bundle: bytes) -> tuple[list[Finding], bool]:
        """Give the bundle to every webhook that is ours; return what could not be done, and if all that exist have it.

        A configuration that is not there is told, but it trusts nobody, so it holds no renewal up.
        """
        found, reached = [], True
        for resource, names in ((_VALIDATING, self._places.validating), (_CRDS, self._places.conversions)):
            for name in names:
                try:
                    wrong = await self._inject_into(resource, name, bundle)
                except ApiError as error:
                    wrong = f"the API server says: {error.status} {error.reason}"
                    reached = reached and error.status == 404
                if wrong:
                    found.append(finding("SMI0907", Ref(resource.kind, "", name, resource.group), "", wrong))
        return found, reached

    async def _inject_into(self, resource: Resource, name: str, bundle: bytes) -> str:
        """Patch one object if need be. Each operation tests that the list is still as it was read."""
        path = resource.path(name=name)
        clients = list(_clients(await self._client.get(path)))
        ours = [one for one in clients if self._is_ours(one.client)]
        if not ours:
            return "has no webhook that points at our Service" if clients else ""
        wanted = base64.b64encode(bundle).decode()
        operations: list[dict[str, Any]] = []
        for one in ours:
            changes = {} if one.client.get("caBundle") == wanted else {"caBundle": wanted}
            if resource is _VALIDATING:
                changes |= _led_to(one.client, self._server.path)
            if changes:
                operations.append({"op": "test", "path": one.guard, "value": one.value})
                operations += [
                    {"op": "add", "path": f"{one.path}/{at}", "value": value} for at, value in changes.items()
                ]
        if operations:
            await self._send("PATCH", path, body=operations, content_type=_JSON_PATCH)
        return ""

    def _is_ours(self, client: Mapping[str, Any]) -> bool:
        service = client.get("service") or {}
        if service:
            return (service.get("namespace"), service.get("name")) == (self._client.namespace, self._places.service)
        return urlsplit(str(client.get("url", ""))).hostname in self.names


@dataclass(frozen=True, slots=True)
class _Place:
    """A `clientConfig`, the JSON pointer to it, and a pointer with the value that shows that it is still that one."""

    client: Mapping[str, Any]
    path: str
    guard: str
    value: str


def _led_to(client: Mapping[str, Any], path: str) -> dict[str, str]:
    """Return what of a clientConfig has to be otherwise for the API server to call that path."""
    service = client.get("service")
    if not path:
        return {}
    if service:
        return {} if service.get("path") == path else {"service/path": path}
    url = urlsplit(str(client.get("url", "")))
    return {} if url.path == path else {"url": urlunsplit(url._replace(path=path))}


def _clients(found: Mapping[str, Any]) -> Iterable[_Place]:
    """Return every clientConfig of a webhook configuration or of a CRD's conversion."""
    for place, webhook in enumerate(found.get("webhooks") or ()):
        path = f"/webhooks/{place}"
        yield _Place(webhook.get("clientConfig") or {}, f"{path}/clientConfig", f"{path}/name", webhook["name"])
    conversion = (found.get("spec") or {}).get("conversion") or {}
    if conversion.get("strategy") == "Webhook":
        client = (conversion.get("webhook") or {}).get("clientConfig") or {}
        yield _Place(client, "/spec/conversion/webhook/clientConfig", "/spec/conversion/strategy", "Webhook")


class FileKeeper:
    """Shows the certificate of a mounted folder (cert-manager's), and the new one as soon as it is there."""

    def __init__(self, folder: Path, server: Shows, pause: float = 5.0) -> None:
        self._folder = folder
        self._server = server
        self._pause = pause
        self._shown: tuple[bytes, bytes] = (b"", b"")
        self._said: tuple[Finding, ...] = ()

    @property
    def problems(self) -> tuple[Finding, ...]:
        """Return what there is to tell now."""
        return self._said

    def expires(self) -> float | None:
        """Return when the certificate expires; None before there is one."""
        return certificates.expiry(self._shown[0]) if self._shown[0] else None

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(self._pause)

    def look(self) -> None:
        """Show what is in the files; while they do not fit (one is written before the other), keep what is shown."""
        try:
            pair = ((self._folder / "tls.crt").read_bytes(), (self._folder / "tls.key").read_bytes())
            if pair != self._shown:
                self._server.use(*pair)
                self._shown = pair
                _log.info("webhooks show the certificate in %s", self._folder)
            self._said = ()
        except (OSError, ValueError) as error:
            wrong = f"cannot be used: {error}"
            if not self._said:
                _log.warning("the webhooks' certificate in %s %s", self._folder, wrong)
            self._said = (finding("SMI0906", Ref("Secret", "", str(self._folder)), "data", wrong),)
