"""The composition root: source -> decode -> translate -> render -> deliver, on one page. Read this first.

`Compiler` is the whole pure middle: it keeps the last answer and moves it on by a set of changed objects; commands that
only look at files use it alone. `local.py` puts a directory in front of it and real Envoys behind it, `controller.py` a
cluster in front of it and the cluster's Envoys behind it. Settings become plain values here, and nowhere else.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from smi_adapter import decode, translate
from smi_adapter.backends import Backend, Change, Manifests, Rendered, load
from smi_adapter.backends.capabilities import Supported, supported
from smi_adapter.findings import Finding, Ref, by_severity_then_object, finding
from smi_adapter.mesh import Mesh
from smi_adapter.settings import Settings
from smi_adapter.smi.objects import ACCESS_GROUP
from smi_adapter.smi.pruned import APPLIED
from smi_adapter.snapshot import API_SERVER, EMPTY, Mode, Options, Profile, Snapshot
from smi_adapter.translate import Translation

_log = logging.getLogger(__name__)

_MANY: Final = 50
_MANY_ITEMS: Final = 8
_LONG_TEXT: Final = 1 << 14
"""Objects of a batch, items of one of them, or characters of what it was applied as, from which on it is compiled on
another thread: neither a first sync nor a group of 256 patterns may stop the event loop."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """One state of the world and all that follows from it."""

    snapshot: Snapshot
    translation: Translation
    supported: Supported
    rendered: Rendered

    def findings(self) -> tuple[Finding, ...]:
        """Return what every stage has to say, each thing once, errors first."""
        return tuple(sorted(set(self.notes()), key=by_severity_then_object))

    def tables(self) -> Mapping[str, Mapping[Any, tuple[Finding, ...]]]:
        """Return the findings of decoding and translation as they are kept; `loose` are the others."""
        return {**self.translation.tables(), "decode": self.snapshot.problems}

    def loose(self) -> tuple[Finding, ...]:
        """Return the findings of the selected backend."""
        return (*self.supported.findings, *self.rendered.findings)

    def notes(self) -> Iterator[Finding]:
        """Yield the same in no order, one perhaps twice: sorting thousands takes longer than a push."""
        for found in self.snapshot.problems.values():
            yield from found
        yield from self.translation.notes()
        yield from self.supported.findings
        yield from self.rendered.findings


class Compiler:
    """Turns changes of objects into configuration; the answer never depends on the path that led to it (ADR 3).

    `cluster`: the objects come from a cluster, where loopback addresses and our no-cluster annotations are refused.
    """

    def __init__(self, backend: Backend, options: Options, *, cluster: bool = False) -> None:
        self._backend = backend
        self._options = options
        self._cluster = cluster
        self.current: Compiled | None = None
        self.culprits: dict[Ref, Finding] = {}
        """Objects that our own code failed on in `take`."""

    def apply(self, changes: Mapping[Ref, decode.RawObject | None]) -> Compiled:
        """Take changed objects (None: deleted) and return the new state; only what they touch is computed again."""
        self.current = self.would(changes)
        return self.current

    def would(self, changes: Mapping[Ref, decode.RawObject | None]) -> Compiled:
        """Return the state that the changes would lead to, and keep the present one: the webhook's question."""
        before = self.current
        snapshot, changed = decode.apply(before.snapshot if before else EMPTY, changes, cluster=self._cluster)
        translation = translate.translate(snapshot, self._options, before.translation if before else None, changed)
        services, workloads = translation.services, translation.workloads
        able = supported(translation.mesh, self._backend, before.supported if before else None, services, workloads)
        change = Change(before.supported.mesh, before.rendered, services, workloads) if before else None
        return Compiled(snapshot, translation, able, self._backend.render(able.mesh, change))

    def take(self, changes: Mapping[Ref, decode.RawObject | None]) -> Compiled | None:
        """Do as `apply` does, but never fail: an error of our own hurts only the object that led to it (D4).

        Such an object keeps its last form, except that one about access then grants nothing. None only if the very
        first batch has nothing that can be compiled.
        """
        for ref in changes:
            self.culprits.pop(ref, None)
        try:
            return self.apply(changes)
        except Exception:  # noqa: BLE001
            _log.exception("internal error, please report it")
        for ref, raw in sorted(changes.items()):
            try:
                self.apply({ref: raw})
            except Exception as error:  # noqa: BLE001
                words = f"{type(error).__name__} in our own code; it is left as it was"
                self.culprits[ref] = finding("SMI0606", ref, "", words)
                if ref.group == ACCESS_GROUP:
                    with contextlib.suppress(Exception):
                        self.apply({ref: None})
        return self.current


def is_long(batch: Mapping[Ref, decode.RawObject | None]) -> bool:
    """Tell whether compiling a batch may take longer than an event loop can wait."""
    return len(batch) > _MANY or any(_is_large(raw) for ref, raw in batch.items() if ref.group and raw)


def _is_large(raw: decode.RawObject) -> bool:
    """Tell whether an object holds many items of whatever it is made of, or was applied as a long text."""
    bodies = [body for body in (raw, raw.get("spec")) if isinstance(body, Mapping)]
    if sum(len(item) for body in bodies for item in body.values() if isinstance(item, list)) > _MANY_ITEMS:
        return True
    metadata = raw.get("metadata")
    notes = metadata.get("annotations") if isinstance(metadata, Mapping) else None
    applied = notes.get(APPLIED) if isinstance(notes, Mapping) else None
    return isinstance(applied, str) and len(applied) > _LONG_TEXT


def compiled(objects: Iterable[decode.RawObject], backend: Backend, options: Options) -> Compiled:
    """Compile a set of objects once."""
    return Compiler(backend, options).apply({decode.ref_of(item): item for item in objects})


def options_of(settings: Settings, bundle: bytes = b"", namespace: str = "") -> Options:
    """Return the part of the settings that decides what objects mean.

    `bundle` is the PEM of our root certificates, `namespace` where we run in a cluster.
    """
    own = {(namespace, name) for name in (settings.xds_service, settings.webhook_service) if namespace}
    return Options(
        profile=Profile(settings.profile),
        mode=Mode(settings.mode),
        trust_domain=settings.trust_domain,
        federated_domains=frozenset(settings.federated_domains),
        bundle=bundle,
        guarded=frozenset({API_SERVER, *own}),
    )


def backend_of(settings: Settings) -> Backend:
    """Return the selected backend; an unknown name is an error that lists the installed ones."""
    return load(settings.backend)


def kinds_left_by(settings: Settings) -> frozenset[tuple[str, str]]:
    """Return each (apiVersion, kind) that the backends which were selected before may have written."""
    empty = [load(name).render(Mesh()) for name in settings.former_backends]
    return frozenset(kind for rendered in empty if isinstance(rendered, Manifests) for kind in rendered.kinds)


async def until_stopped() -> None:
    """Wait for SIGINT or SIGTERM."""
    import asyncio  # noqa: PLC0415 - who compiles files alone needs no event loop
    import signal  # noqa: PLC0415

    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()
