"""The world that a command looks at: files, the live cluster, or files laid over the cluster; compiled once.

Files alone are read as `run --source` reads them. A cluster is listed once, and judged as the controller judges it.
Files over a cluster answer "what if I applied these": their objects take the place of those of the same name.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

from smi_adapter import app, settings
from smi_adapter.backends import Backend, UnknownBackendError, load
from smi_adapter.cli import cluster
from smi_adapter.cli.output import counted
from smi_adapter.decode import RawObject
from smi_adapter.findings import Finding, Ref, by_severity_then_object
from smi_adapter.sources import Location
from smi_adapter.sources.controllers import Memory, reconcile
from smi_adapter.sources.files import SUFFIXES, Tree, read_tree

if TYPE_CHECKING:
    from smi_adapter.cluster.client import Client
    from smi_adapter.cluster.listing import Listing

_MADE_BY_OTHERS = frozenset({"Pod", "EndpointSlice"})
"""Kinds that a cluster's own controllers write: a file's would only stand beside the real ones."""


def _nothing() -> Mapping[Any, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class World:
    """What there is, and all that follows from it. `live`: SMI objects as the API has them; `namespace` "": all.

    `root` is the file or the folder that was read, as the user wrote it: places in it are named from where they are.
    """

    state: app.Compiled
    told: frozenset[Finding]
    tree: Tree | None = None
    owners: Mapping[Ref, Ref] = field(default_factory=_nothing)
    live: Mapping[Ref, Mapping[str, Any]] = field(default_factory=_nothing)
    namespace: str = ""
    before: app.Compiled | None = None
    compiler: app.Compiler | None = None
    root: Path | None = None

    def findings(self) -> tuple[Finding, ...]:
        """Return what every stage has to say, each thing once, errors first."""
        return tuple(sorted({*self.told, *self.state.findings()}, key=by_severity_then_object))

    def concerning(self) -> tuple[Finding, ...]:
        """Return the findings that were asked for: of the namespace; with files over a cluster, what they bring."""
        found = self.findings()
        if self.before is not None and self.tree is not None:
            known = set(self.before.findings())
            mine = self.tree.objects.keys()
            return tuple(item for item in found if item not in known or item.subject in mine)
        return tuple(item for item in found if self._is_asked_for(item.subject))

    def _is_asked_for(self, subject: Ref) -> bool:
        return not self.namespace or subject.namespace in {"", self.namespace} or subject.name == self.namespace

    def location(self, item: Finding) -> Location | None:
        """Return where a finding's object was written; None: in no file."""
        if self.tree is None:
            return None
        owner = self.owners.get(item.subject)
        found = self.tree.location(owner or item.subject, "" if owner else item.field)
        if found is None or self.root is None or str(self.root) == "-":
            return found
        return found._replace(file=str(self.root / found.file if self.root.is_dir() else self.root))


def backend_named(name: str) -> Backend:
    """Return an installed backend; UsageError for another name."""
    try:
        return load(name)
    except UnknownBackendError as error:
        raise click.UsageError(str(error)) from error


def settings_of(profile: str | None, mode: str | None, config: Path | None) -> settings.Settings:
    """Return the settings; UsageError for what is unusable in them."""
    try:
        return settings.read({"profile": profile, "mode": mode}, config)
    except settings.SettingsError as error:
        raise click.UsageError(str(error)) from error


def something_in(path: Path) -> Tree:
    """Return what stands there; UsageError for nothing at all, since a wrong folder must not pass for a sound one."""
    tree = read_files(path)
    if tree.objects or tree.findings():
        return tree
    if str(path) == "-":
        raise click.UsageError("there is no object on standard input")
    if tree.states:
        raise click.UsageError(f"there is no object in {path}: {counted(len(tree.states), 'file')} read")
    raise click.UsageError(f"there is nothing to read in {path}: no file there ends in {', '.join(SUFFIXES)}")


def read_files(path: Path) -> Tree:
    """Return what stands in a file, in the files of a directory, or (`-`) on standard input."""
    if str(path) != "-":
        return read_tree(path)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "stdin.yaml"
        file.write_bytes(sys.stdin.buffer.read())
        return read_tree(file)


def of_files(path: Path, chosen: settings.Settings, backend: str | None = None, *, empty: bool = False) -> World:
    """Compile files alone; `empty`: there may be none."""
    tree = read_files(path) if empty else something_in(path)
    made = reconcile(tree.objects, Memory())
    objects: Mapping[Ref, Any] = made.objects
    state = app.Compiler(backend_named(backend or chosen.backend), app.options_of(chosen)).apply(objects)
    return World(state, frozenset({*tree.findings(), *made.findings}), tree, made.owners, root=path)


@dataclass(frozen=True, slots=True)
class Where:
    """Which part of a cluster is meant: `namespace` None is the context's, `everywhere` all."""

    access: cluster.Access
    namespace: str | None = None
    everywhere: bool = False


def of_cluster(where: Where, chosen: settings.Settings, path: Path | None = None) -> World:
    """Compile the live cluster; with `path`, as it would be if these files were applied."""
    tree = something_in(path) if path is not None else None
    listing, namespace = listed(where)
    compiler = app.Compiler(backend_named(chosen.backend), app.options_of(chosen), cluster=listing.cluster)
    state = compiler.apply(listing.objects)
    told = {*listing.findings}
    before = None
    if tree is not None:
        before, state = state, compiler.would(_over(tree.objects))
        told |= set(tree.findings())
    return World(state, frozenset(told), tree, {}, listing.live, namespace, before, compiler, path)


def listed(where: Where) -> tuple[Listing, str]:
    """Return everything in the cluster, and the namespace that is meant ("": all)."""

    async def question(client: Client) -> tuple[Listing, str]:
        from smi_adapter.cluster import listing  # noqa: PLC0415 - only for who needs a cluster

        namespace = "" if where.everywhere else where.namespace or client.namespace
        return await listing.everything(client, (namespace,) if namespace else ()), namespace

    return cluster.ask(where.access, question)


def _over(objects: Mapping[Ref, RawObject]) -> dict[Ref, RawObject]:
    return {ref: raw for ref, raw in objects.items() if ref.kind not in _MADE_BY_OTHERS}


def without(findings: Sequence[Finding], suppressed: Sequence[str]) -> list[Finding]:
    """Return the findings but for those of some codes."""
    return [item for item in findings if item.code not in suppressed]
