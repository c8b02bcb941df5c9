"""The webhooks as one thing that a controller starts, keeps and stops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from smi_adapter import crds
from smi_adapter.cluster.client import Client
from smi_adapter.findings import Finding
from smi_adapter.webhooks.keeper import FileKeeper, Keeper, Places, SecretKeeper
from smi_adapter.webhooks.server import Reviewed, WebhookServer, path_of
from smi_adapter.webhooks.validate import Judge


@dataclass(frozen=True, slots=True)
class WebhookOptions:
    """What the operator decides. `configuration` "": nobody validates; `folder`: certificates are cert-manager's."""

    service: str = "smi-adapter-webhooks"
    secret: str = "smi-adapter-webhooks"  # noqa: S105 - the name of one
    configuration: str = ""
    converts: bool = False
    folder: str = ""
    names: tuple[str, ...] = ()


class Webhooks:
    """A server, and the keeper of its certificates. `keep` is a task for as long as it runs, and must not end.

    `left`: see `Lease.left`.
    """

    def __init__(
        self, client: Client, options: WebhookOptions, judge: Judge, left: Callable[[], float], reviewed: Reviewed
    ) -> None:
        self.server = WebhookServer(judge, reviewed, converts=options.converts)
        self._keeper: Keeper
        if options.folder:
            self._keeper = FileKeeper(Path(options.folder), self.server)
        else:
            conversions = tuple(crds.name_of(one) for one in crds.definitions()) if options.converts else ()
            validating = (options.configuration,) if options.configuration else ()
            places = Places(options.secret, options.service, options.names, validating, conversions)
            self._keeper = SecretKeeper(client, places, self.server, left)

    def know(self, key: bytes) -> None:
        """Take the key that all replicas share: from it comes the path on which the API server is told everything."""
        self.server.path = path_of(key)

    async def start(self, host: str, port: int) -> int:
        """Listen, and return the port; nobody gets through before there is a certificate."""
        return await self.server.start(host, port)

    async def keep(self) -> None:
        """Look after the certificates, for ever."""
        await self._keeper.run()

    async def watch(self) -> None:
        """Run for as long as the server is whole; a task of its own, which must not end either."""
        await self.server.watch()

    async def stop(self) -> None:
        """Answer what is being asked, and close."""
        await self.server.stop()

    def expires(self) -> float | None:
        """Return when the first of their certificates expires; None before there is one."""
        return self._keeper.expires()

    def problems(self) -> tuple[Finding, ...]:
        """Return what there is to tell now."""
        return self._keeper.problems
