"""The composition root: source -> decode -> translate -> render -> deliver, on one page. Read this first.

`Compiler` is the whole pure middle: it keeps the last answer and moves it on by a set of changed objects; commands that
only look at files use it alone. `local.py` puts a directory in front of it and real Envoys behind it. Settings become
plain values here, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from smi_adapter import decode, translate
from smi_adapter.backends import Backend, Change, Rendered, load
from smi_adapter.backends.capabilities import Supported, supported
from smi_adapter.findings import Finding, Ref, by_severity_then_object
from smi_adapter.settings import Settings
from smi_adapter.snapshot import EMPTY, Mode, Options, Profile, Snapshot
from smi_adapter.translate import Translation


@dataclass(frozen=True, slots=True)
class Compiled:
    """One state of the world and all that follows from it."""

    snapshot: Snapshot
    translation: Translation
    supported: Supported
    rendered: Rendered

    def findings(self) -> tuple[Finding, ...]:
        """Return what every stage has to say, each thing once, errors first."""
        decoded = (item for found in self.snapshot.problems.values() for item in found)
        everything = {*decoded, *self.translation.findings, *self.supported.findings, *self.rendered.findings}
        return tuple(sorted(everything, key=by_severity_then_object))


class Compiler:
    """Turns changes of objects into configuration; the answer never depends on the path that led to it (ADR 3)."""

    def __init__(self, backend: Backend, options: Options) -> None:
        self._backend = backend
        self._options = options
        self.current: Compiled | None = None

    def apply(self, changes: Mapping[Ref, decode.RawObject | None]) -> Compiled:
        """Take changed objects (None: deleted) and return the new state; only what they touch is computed again."""
        self.current = self.would(changes)
        return self.current

    def would(self, changes: Mapping[Ref, decode.RawObject | None]) -> Compiled:
        """Return the state that the changes would lead to, and keep the present one: the webhook's question."""
        before = self.current
        snapshot, changed = decode.apply(before.snapshot if before else EMPTY, changes)
        translation = translate.translate(snapshot, self._options, before.translation if before else None, changed)
        services, workloads = translation.services, translation.workloads
        able = supported(translation.mesh, self._backend, before.supported if before else None, services, workloads)
        change = Change(before.supported.mesh, before.rendered, services, workloads) if before else None
        return Compiled(snapshot, translation, able, self._backend.render(able.mesh, change))


def compiled(objects: Iterable[decode.RawObject], backend: Backend, options: Options) -> Compiled:
    """Compile a set of objects once."""
    return Compiler(backend, options).apply({decode.ref_of(item): item for item in objects})


def options_of(settings: Settings, bundle: bytes = b"") -> Options:
    """Return the part of the settings that decides what objects mean; `bundle` is the PEM of our root certificates."""
    return Options(
        profile=Profile(settings.profile),
        mode=Mode(settings.mode),
        trust_domain=settings.trust_domain,
        federated_domains=frozenset(settings.federated_domains),
        bundle=bundle,
    )


def backend_of(settings: Settings) -> Backend:
    """Return the selected backend; an unknown name is an error that lists the installed ones."""
    return load(settings.backend)
