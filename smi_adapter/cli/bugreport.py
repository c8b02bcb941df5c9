"""`bug-report`: one archive with what is needed to understand a bug, and no secrets."""

from __future__ import annotations

import os
import platform
import sys
import zipfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from smi_adapter import __version__
from smi_adapter.cli import cluster, output, redact
from smi_adapter.cli.world import Where, World, of_cluster, of_files, settings_of
from smi_adapter.findings import Ref
from smi_adapter.runfolder import read_status, state_folder

if TYPE_CHECKING:
    from smi_adapter.cluster.client import Client


_LONGEST_LOG = 1 << 20
"""Bytes of the end of a log that go into the archive."""


@click.command("bug-report")
@click.option("-n", "--namespace", help="The only namespace to look at; all if not given.")
@click.option("-A", "--all-namespaces", is_flag=True, help="Look at all namespaces, which is the default.")
@click.option("--source", type=click.Path(exists=True, path_type=Path),
              help="Without a cluster: the directory that `smi-adapter run --source` serves.")  # fmt: skip
@click.option("--state", type=click.Path(path_type=Path), help="The folder of files of that run, if it was given one.")
@cluster.cluster_options
@click.option("-o", "--output", "target", type=click.Path(path_type=Path),
              help="The archive to write; smi-adapter-bug-report-TIME.zip if not given.")  # fmt: skip
def bug_report(
    namespace: str | None,
    all_namespaces: bool,
    source: Path | None,
    state: Path | None,
    access: cluster.Access,
    target: Path | None,
) -> int:
    """Collect what a bug report needs into one archive: versions, checks, SMI objects, findings, Events, logs.

    Of a cluster, in all namespaces unless -n names one; or with --source of a directory and of what runs on it. No
    Secret is read; annotations of others, header rules, environments and whatever looks like a key, token or password
    is left out. Look through it before you send it. Exit status 0: written; 2: the archive cannot be written there; 3:
    the cluster cannot be reached.
    """
    file = target or Path(f"smi-adapter-bug-report-{datetime.now(UTC):%Y%m%d-%H%M%S}.zip")
    _must_be_free(file)
    chosen = settings_of(None, None, None)
    if source is None:
        where = Where(access, namespace, all_namespaces or namespace is None)
        world = of_cluster(where, chosen)
        parts = {**_of_world(world), **cluster.ask(access, lambda client: _of_cluster(client, world.namespace))}
    else:
        world = of_files(source, chosen, empty=True)
        parts = {**_of_world(world, namespace or ""), **_of_run(state or state_folder(source))}
    _write(file, parts)
    click.echo(str(file))
    click.echo(f"{output.counted(len(parts), 'file')}; look through them before you send them", err=True)
    return 0


def _must_be_free(file: Path) -> None:
    """Say before anything is asked that the archive cannot be written, and what to do."""
    if file.is_dir():
        raise click.UsageError(f"{file} is a folder; name a file in it: -o {file / 'bug-report.zip'}")
    if file.exists() or file.is_symlink():
        raise click.UsageError(f"{file} exists, and nothing is overwritten; remove it or name another file with -o")
    if not file.parent.is_dir():
        raise click.UsageError(f"there is no folder {file.parent}; make it or name a file elsewhere with -o")
    if not os.access(file.parent, os.W_OK | os.X_OK):
        raise click.UsageError(f"you may not write into {file.parent.absolute()}; name a file elsewhere with -o")


def _write(file: Path, parts: Mapping[str, str]) -> None:
    """Write the archive, which is private from its first byte on."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as raw, zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in sorted(parts.items()):
                archive.writestr(name, content)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise click.UsageError(f"{file} cannot be written: {why}; name another file with -o") from error


def _json(value: Any) -> str:
    return output.as_json(redact.tree(value)) + "\n"


def _of_world(world: World, only: str = "") -> dict[str, str]:
    namespace = only or world.namespace
    objects = world.live if world.tree is None else _smi_objects(world.tree.objects)
    live = [dict(raw) for ref, raw in sorted(objects.items()) if namespace in {"", ref.namespace}]
    told = [item for item in world.concerning() if not only or item.subject.namespace in {"", only}]
    snapshot = world.state.snapshot
    tables = ("namespaces", "services", "slices", "pods", "splits", "route_groups", "tcp_routes", "targets", "bindings")
    counts = {name: len(getattr(snapshot, name)) for name in tables}
    return {
        "objects.json": _json(live),
        "findings.json": _json([output.finding_data(item, world.location(item)) for item in told]),
        "counts.json": _json(counts),
        "about.json": _json(
            {
                "smi-adapter": __version__,
                "python": sys.version,
                "platform": platform.platform(),
                "time": str(datetime.now(UTC)),
            }
        ),
    }


def _smi_objects(objects: Mapping[Ref, Any]) -> dict[Ref, Any]:
    return {ref: raw for ref, raw in objects.items() if ref.group.endswith("smi-spec.io")}


def _of_run(state: Path) -> dict[str, str]:
    """Return what a run says of itself, and the logs of its Envoys; those of applications are private."""
    try:
        said: Any = read_status(state)
    except (ConnectionError, TimeoutError) as error:
        said = {"error": str(error) or "it does not answer"}
    logs = {path.relative_to(state).as_posix(): path for path in sorted(state.rglob("envoy.log"))}
    return {"run.json": _json(said)} | {f"logs/{name}": redact.text(_end_of(path)) for name, path in logs.items()}


def _end_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _LONGEST_LOG))
            return file.read().decode(errors="replace")
    except OSError as error:
        return f"{error.strerror}\n"


async def _of_cluster(client: Client, namespace: str) -> dict[str, str]:
    from smi_adapter.cluster import checks, evidence  # noqa: PLC0415 - only for who needs a cluster

    found = await checks.collected(client)
    objects, logs = await evidence.installation(client)
    made = {
        "server.json": _json(await client.get("/version")),
        "check.json": _json([
            {"category": one.category, "about": one.about, "grade": one.grade.value, "message": one.message}
            for one in found
        ]),
        "installation.json": _json(objects),
        "events.json": _json(await evidence.events(client, namespace)),
    }  # fmt: skip
    return made | {f"logs/{name}.log": redact.text(text) for name, text in logs.items()}
