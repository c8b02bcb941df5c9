"""`explain`: a case in words, with the manifests that it applies, taken from the case itself.

The case is played against a harness that only writes down: objects are accepted, requests are never sent. What the
case says of itself (its name, what it waits for) becomes the list of what is asserted, so the explanation can't drift
away from the code.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from smi_conformance import catalog
from smi_conformance.model import versions_for
from smi_conformance.narrator import Narrator, folded
from smi_conformance.places import Pool
from smi_conformance.protocol import CAPABILITIES, ApiResult, App, Batch, Event, Pod, Receipt, Reply, Req
from smi_conformance.registry import cases
from smi_conformance.render import Manifest
from smi_conformance.trial import Rules

_SECONDS = 10.0
_ALIKE = 8
"""So many manifests that differ in their numbers only are shown."""

VERSIONS = ("v1alpha1", "v1alpha2", "v1alpha3", "v1alpha4")
HOOKS = {
    "stop": "stop the controller",
    "start": "start the controller",
    "restart": "restart the controller",
    "breakWatch": "break the controller's watch, so that it has to list again",
}


class Recorder:
    """A harness without a mesh."""

    name = "local"
    capabilities = CAPABILITIES  # all of a case is told, also what only some harnesses can do
    served: Mapping[str, tuple[str, ...]] = dict.fromkeys(catalog.GROUPS.values(), VERSIONS)
    environment: Mapping[str, Any] = {"harness": "local"}

    def __init__(self) -> None:
        self.manifests: list[Manifest] = []
        self.narrator: Narrator | None = None

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
        if dry_run and self.narrator is not None:
            names = ", ".join(f"{item['kind']} {item['metadata']['name']}" for item in manifests)
            self.narrator.tell_of(f"{names} (a dry run)")
        self.manifests += [manifest for manifest in manifests if manifest not in self.manifests]
        return [ApiResult(201) for _ in manifests]

    async def delete(self, manifests: Sequence[Manifest]) -> None:
        """Do nothing."""

    async def get(self, manifest: Manifest, version: str = "") -> Manifest | None:
        """Return the manifest."""
        if self.narrator is not None:
            kind = f"{manifest['kind']} {manifest['metadata']['name']}"
            self.narrator.tell_of(f"{kind} under {version}" if version else kind)
        group = manifest["apiVersion"].partition("/")[0]
        return {**manifest, "apiVersion": f"{group}/{version}"} if version else manifest

    async def patch(self, manifest: Manifest, change: Mapping[str, Any]) -> ApiResult:
        """Say what is changed."""
        if self.narrator is not None:
            name = f"{manifest['kind']} {manifest['metadata']['name']}"
            self.narrator.tell(f"patch {name} with {yaml.safe_dump(dict(change), default_flow_style=True).strip()}")
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
        """Say what is done to the controller."""
        if self.narrator is not None:
            self.narrator.tell(HOOKS.get(name, name))


@dataclass(frozen=True, slots=True)
class Recording:
    """What a case wrote, said and meant; `cut` tells why it was not played to its end."""

    manifests: list[Manifest]
    steps: list[str]
    words: list[str]
    cut: str = ""


async def record(name: str, version: str) -> Recording:
    """Play a case against nothing."""
    entry = catalog.entries()[name]
    harness = Recorder()
    trial = Narrator(harness, Pool(harness), Rules(), (version, versions_for(entry.group, version)))
    trial.claims = catalog.Claims(features=frozenset(catalog.FEATURES))
    trial.begin()
    harness.narrator = trial
    cut = ""
    try:
        async with asyncio.timeout(_SECONDS):
            await cases()[name].play(trial)
        trial.finish()
    except Exception as error:  # noqa: BLE001 - what came before is shown, and that it is not all
        cut = f"{type(error).__name__}: {error}"
    return Recording(harness.manifests, folded(trial.steps), trial.words(), cut)


def explained(name: str, version: str = "") -> str:
    """Return the explanation of a case."""
    entry = catalog.entries()[name]
    lines = [f"{entry.id}  {', '.join(entry.profiles)}", "", entry.rule, ""]
    for check in entry.checks:
        where = "; ".join(words for words, _ in check.links) or "the specification is silent"
        only = f" ({spanned} only)" if (spanned := entry.only(check)) else ""
        lines.append(f"{check.level:12} {where}{only}{_with(check.feature)}")
        lines += [f"{'':12} {url}" for _, url in check.links]
        lines += [f"{'':12} [{key}: {value}]" for key, value in check.readings.items()]
    lines.append(f"{'versions':12} {', '.join(entry.versions)}")
    features = [entry.feature, f"one part of the case only{_with(entry.part)}" if entry.part else ""]
    if any(features):
        lines.append(f"{'feature':12} {'; '.join(filter(None, features))}")
    if entry.needs:
        lines.append(f"{'needs':12} {', '.join(entry.needs)}")
    if entry.later:
        return "\n".join([*lines, "", "This case comes with a later version of the suite."])
    registered = cases()[name]
    version = version or entry.versions[-1]
    found = asyncio.run(record(name, version))
    lines += ["", f"Asserted ({registered.play.__module__.rpartition('.')[2]}.{registered.play.__name__}):"]
    if document := inspect.getdoc(registered.play):
        lines += [f"  {line}".rstrip() for line in document.splitlines()]
    lines += [f"  {step}" for step in found.steps]
    lines += [f"  (this is not all: {found.cut})"] if found.cut else []
    lines += ["", *found.words] if found.words else []
    lines += ["", f"Manifests under {version}, in the order in which they are written:", _shown(found.manifests)]
    return "\n".join(lines)


def _with(feature: str) -> str:
    return f" (with {feature})" if feature else ""


def _shown(manifests: Sequence[Manifest]) -> str:
    """Return the manifests; of many that differ in their numbers only, the first ones."""
    texts = [yaml.safe_dump(manifest, sort_keys=False).rstrip() for manifest in manifests]
    shapes = [re.sub(r"\d+", "0", text) for text in texts]
    count = Counter(shapes)
    shown: list[str] = []
    for number, (text, shape) in enumerate(zip(texts, shapes, strict=True)):
        before = shapes[:number].count(shape)
        if count[shape] <= _ALIKE or before < _ALIKE // 2:
            shown.append(text)
        elif before == _ALIKE // 2:
            shown.append(f"# and {count[shape] - before} more that differ in their numbers only")
    return "\n---\n".join(shown)
