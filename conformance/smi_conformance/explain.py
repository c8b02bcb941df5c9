"""`explain`: a case in words, with the manifests that it applies, taken from the case itself.

The case is played against a harness that only writes down: objects are accepted, requests are never sent. What the
case says of itself (its name, what it waits for) becomes the list of what is asserted, so the explanation can't drift
away from the code.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import Any

import yaml

from smi_conformance import catalog
from smi_conformance.model import versions_for
from smi_conformance.places import Pool
from smi_conformance.protocol import CAPABILITIES, ApiResult, App, Batch, Event, Pod, Receipt, Reply, Req
from smi_conformance.registry import cases
from smi_conformance.render import Manifest
from smi_conformance.trial import Failure, Rules, Trial

_STEPS = 400
VERSIONS = ("v1alpha1", "v1alpha2", "v1alpha3", "v1alpha4")


class _Enough(Exception):  # noqa: N818 - ends the recording
    """The recording got stuck; what was written down so far is shown."""


class Recorder:
    """A harness without a mesh."""

    name = "local"
    capabilities = CAPABILITIES - {"api"}
    served: Mapping[str, tuple[str, ...]] = dict.fromkeys(catalog.GROUPS.values(), VERSIONS)
    environment: Mapping[str, Any] = {"harness": "local"}

    def __init__(self) -> None:
        self.manifests: list[Manifest] = []

    async def start(self) -> None:
        """Do nothing."""

    async def stop(self) -> None:
        """Do nothing."""

    async def leave(self) -> None:
        """Do nothing."""

    def remains(self, namespaces: Sequence[str]) -> list[str]:
        """Leave nothing."""
        del namespaces
        return []

    async def address(self, client: App, service: str, port: int) -> tuple[str, int]:
        """Return a name."""
        del client
        return service, port

    async def namespace(self, name: str, *, enforced: bool) -> None:
        """Do nothing."""

    async def remove_namespace(self, name: str) -> None:
        """Do nothing."""

    async def removed(self) -> list[str]:
        """Wait for nothing."""
        return []

    async def deploy(self, app: App) -> tuple[Pod, ...]:
        """Pretend."""
        return tuple(Pod(f"{app.name}-{number}", "10.0.0.1") for number in range(app.replicas))

    async def ready(self, app: App) -> bool:
        """Pretend."""
        del app
        return True

    async def undeploy(self, app: App) -> None:
        """Do nothing."""

    async def apply(self, manifests: Sequence[Manifest], *, dry_run: bool = False) -> list[ApiResult]:
        """Write the manifests down."""
        del dry_run
        self.manifests += [manifest for manifest in manifests if manifest not in self.manifests]
        return [ApiResult(201) for _ in manifests]

    async def delete(self, manifests: Sequence[Manifest]) -> None:
        """Do nothing."""

    async def get(self, manifest: Manifest, version: str = "") -> Manifest | None:
        """Return the manifest."""
        del version
        return manifest

    async def patch(self, manifest: Manifest, change: Mapping[str, Any]) -> ApiResult:
        """Change nothing."""
        del manifest, change
        return ApiResult(200)

    async def events(self, manifest: Manifest) -> list[Event]:
        """Return nothing."""
        del manifest
        return []

    async def send(self, client: App, req: Req, batch: Batch, token: str) -> list[Reply]:
        """Send nothing."""
        del client, req
        return [Reply("ok", 200, f"{token}-{number}") for number in range(batch.n)]

    async def close_connection(self, client: App, kept: str) -> None:
        """Do nothing."""

    async def mark(self, app: App, token: str) -> set[str]:
        """Do nothing."""
        del app, token
        return set()

    async def receipts(self, app: App) -> list[Receipt]:
        """Return nothing."""
        del app
        return []

    async def hook(self, name: str) -> None:
        """Do nothing."""


class Narrator(Trial):
    """A trial whose assertions write themselves down."""

    steps: list[str]

    def _tell(self, text: str) -> None:
        self.steps.append(text)
        if len(self.steps) > _STEPS:
            raise _Enough

    async def eventually(  # noqa: PLR0913
        self, client: App, req: Req, good: Callable[[Reply], bool], what: str, *, see: Collection[str] = (), k: int = 0
    ) -> list[Reply]:
        """Write down what is waited for."""
        del good, req
        self._tell(f"eventually, {k or self.rules.k} times in a row: {what}")
        apps = sorted(see) or ["?"]
        return [
            Reply("ok", 200, "", 0.0, True, {"app": app, "ns": client.namespace, "pod": f"{app}-6c5b9f7d8c-x2x4k"})
            for app in apps
        ]

    async def _stays(  # noqa: PLR0913
        self, client: App, req: Req, good: Callable[[Reply], bool], what: str, *, see: Collection[str] = (), k: int = 0
    ) -> None:
        """Write down what is waited for and then seen all the time."""
        await self.eventually(client, req, good, what, see=see, k=k)

    async def shares(
        self, client: App, req: Req, shares: Mapping[str, float], *, n: int = 0, note: str = ""
    ) -> dict[str, int]:
        """Write down the shares."""
        del client, req, note
        text = ", ".join(f"{name} {share:.2%}" for name, share in shares.items())
        self._tell(f"shares of {n or self.rules.samples} requests, within exact windows: {text}")
        return {}

    async def comes_near(self, client: App, req: Req, shares: Mapping[str, float]) -> None:
        """Say nothing: what is checked follows."""
        del client, req, shares

    async def alive(self, client: App, control: tuple[App, Req]) -> None:
        """Say nothing: it is part of every denial."""
        del client, control

    async def pause(self, seconds: float) -> None:
        """Go on at once."""
        del seconds

    @contextlib.asynccontextmanager
    async def load(self, client: App, req: Req, rate: int = 50) -> AsyncIterator[list[Reply]]:
        """Write down that requests are sent all the while."""
        del client
        self._tell(f"meanwhile {rate} requests a second to {req.service}, of which none may fail")
        yield []

    async def received(self, replies: Collection[Reply]) -> list[Receipt]:
        """Return nothing."""
        del replies
        return []

    async def arrived(self, replies: Collection[Reply], control: tuple[App, Req]) -> list[Receipt]:
        """Return nothing."""
        del replies, control
        return []

    async def denied(self, client: App, req: Req, control: tuple[App, Req]) -> list[Reply]:
        """Write down the denial."""
        self._tell(f"no server receives {req.method} {req.path} ({req.kind}) from {client.name}; the control works")
        return await self.not_received(client, req, control)

    async def not_received(self, client: App, req: Req, control: tuple[App, Req]) -> list[Reply]:
        """Pretend that it was denied."""
        del client, req, control
        return [Reply("http_error", 403, "")]

    async def said(self, obj: Any, *words: str) -> Event:
        """Write down the event."""
        self._tell(f"an Event about {self.manifest(obj)['kind']} names {', '.join(words) or 'the problem'}")
        return Event("", "")

    def check(self, fact: bool, message: str) -> None:  # noqa: FBT001
        """Assert nothing."""
        del fact, message


async def _record(name: str, version: str) -> tuple[list[Manifest], list[str]]:
    entry = catalog.entries()[name]
    harness = Recorder()
    trial = Narrator(harness, Pool(harness), Rules(), (version, versions_for(entry.group, version)))
    trial.steps = []
    try:
        async with asyncio.timeout(5):
            await cases()[name].play(trial)
    except (Failure, _Enough, TimeoutError, IndexError, KeyError, AttributeError, ZeroDivisionError, StopIteration):
        pass  # a case that looks closely at answers can't be played without any; what came before is shown
    return harness.manifests, list(dict.fromkeys(trial.steps))


def explained(name: str, version: str = "") -> str:
    """Return the explanation of a case."""
    entry = catalog.entries()[name]
    lines = [f"{entry.id}  {', '.join(entry.profiles)}", "", entry.rule, ""]
    for check in entry.checks:
        where = "the specification is silent" if check.document == "silent" else f"{check.document} {check.lines}"
        only = entry.only(check)
        lines.append(f"{check.level:12} {where}" + (f" ({only} only)" if only else ""))
        lines += [f"{'':12} {check.url}"] if check.url else []
        lines += [f"{'':12} [{key}: {value}]" for key, value in check.readings.items()]
    lines.append(f"{'versions':12} {', '.join(entry.versions)}")
    if entry.feature:
        lines.append(f"{'feature':12} {entry.feature}")
    if entry.needs:
        lines.append(f"{'needs':12} {', '.join(entry.needs)}")
    if entry.later:
        return "\n".join([*lines, "", "This case comes with a later version of the suite."])
    registered = cases().get(name)
    if registered is None:
        return "\n".join([*lines, "", "This case is not written yet."])
    version = version or entry.versions[-1]
    manifests, steps = asyncio.run(_record(name, version))
    lines += ["", f"Asserted ({registered.play.__module__.rpartition('.')[2]}.{registered.play.__name__}):"]
    if document := inspect.getdoc(registered.play):
        lines.append(f"  {document}")
    lines += [f"  - {step}" for step in steps]
    lines += ["", f"Manifests under {version}:", yaml.safe_dump_all(manifests, sort_keys=False).rstrip()]
    return "\n".join(lines)
