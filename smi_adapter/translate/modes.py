"""Pass `modes`: what happens in each namespace to a request that nothing allows (T1).

The mesh's mode is the operator's; a namespace may have its own by an annotation, which takes a cluster-level right to
write (security D6). Every mode but `enforce` is told, and a misspelt one closes.
"""

from __future__ import annotations

from smi_adapter.findings import Finding, Ref, Severity, finding
from smi_adapter.snapshot import MODE_ANNOTATION, Mode, Namespace
from smi_adapter.translate.incremental import Outcome
from smi_adapter.translate.view import View

_FIELD = f"metadata.annotations[{MODE_ANNOTATION}]"


def mode_of(namespace: Namespace | None, default: Mode) -> Mode:
    """Return the mode of a namespace; a word that is no mode means `enforce`."""
    written = namespace.annotations.get(MODE_ANNOTATION) if namespace is not None else None
    if written is None:
        return default
    try:
        return Mode(written)
    except ValueError:
        return Mode.ENFORCE


def compute(view: View, name: str) -> Outcome[Mode]:
    """Return the mode of a namespace that has pods, and tell if it is not `enforce`."""
    namespace = view.namespaces.get(name)
    mode = mode_of(namespace, view.options.mode)
    written = namespace.annotations.get(MODE_ANNOTATION) if namespace is not None else None
    subject = Ref("Namespace", "", name)
    notes: tuple[Finding, ...] = ()
    if written is not None and written != mode.value:
        words = f"{written[:80]!r} is no access mode; access is enforced"
        notes = (finding("SMI0310", subject, _FIELD, words, severity=Severity.WARNING),)
    elif mode is not Mode.ENFORCE:
        why = "by the mesh's settings" if written is None else "by its annotation"
        words = f"Access to the pods of namespace {name} is in mode {mode.value}, {why}"
        notes = (finding("SMI0310", subject, "" if written is None else _FIELD, words),)
    return mode, notes
