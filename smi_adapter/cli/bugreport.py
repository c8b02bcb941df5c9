"""`bug-report`: one archive with what is needed to understand a bug, and no secrets."""

from __future__ import annotations

import platform
import sys
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from smi_adapter import __version__
from smi_adapter.cli import cluster, output, redact
from smi_adapter.cli.world import Where, World, of_cluster, settings_of

if TYPE_CHECKING:
    from smi_adapter.cluster.client import Client


@click.command("bug-report")
@cluster.namespace_options
@cluster.cluster_options
@click.option("-o", "--output", "target", type=click.Path(dir_okay=False, path_type=Path),
              help="The archive to write; smi-adapter-bug-report-TIME.zip if not given.")  # fmt: skip
def bug_report(namespace: str | None, all_namespaces: bool, access: cluster.Access, target: Path | None) -> int:
    """Collect what a bug report needs into one archive: versions, checks, SMI objects, findings, Events, logs.

    Of all namespaces unless -n names one. No Secret is read; annotations of others, header rules, environments and
    whatever looks like a key, token or password is left out. Look through it before you send it. Exit status 0:
    written; 3: the cluster cannot be reached.
    """
    where = Where(access, namespace, all_namespaces or namespace is None)
    world = of_cluster(where, settings_of(None, None, None))
    parts = {**_of_world(world), **cluster.ask(access, lambda client: _of_cluster(client, world.namespace))}
    now = datetime.now(UTC)
    file = target or Path(f"smi-adapter-bug-report-{now:%Y%m%d-%H%M%S}.zip")
    with zipfile.ZipFile(file, "x", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(parts.items()):
            archive.writestr(name, content)
    file.chmod(0o600)
    click.echo(str(file))
    click.echo(f"{len(parts)} files; look through them before you send them", err=True)
    return 0


def _json(value: Any) -> str:
    return output.as_json(redact.tree(value)) + "\n"


def _of_world(world: World) -> dict[str, str]:
    live = [dict(raw) for ref, raw in sorted(world.live.items()) if world.namespace in {"", ref.namespace}]
    snapshot = world.state.snapshot
    tables = ("namespaces", "services", "slices", "pods", "splits", "route_groups", "tcp_routes", "targets", "bindings")
    counts = {name: len(getattr(snapshot, name)) for name in tables}
    return {
        "objects.json": _json(live),
        "findings.json": _json([output.finding_data(item) for item in world.concerning()]),
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
