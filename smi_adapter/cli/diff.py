"""`diff -f`: what would change in the mesh if these files were applied."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import yaml

from smi_adapter.cli import cluster, differences, output
from smi_adapter.cli.offline import meaning_options
from smi_adapter.cli.world import Where, World, of_cluster, settings_of
from smi_adapter.dump import plain
from smi_adapter.findings import Finding, by_severity_then_object, printable
from smi_adapter.mesh import Key


@click.command()
@click.option("-f", "--filename", "path", required=True, help="File or directory of YAML, or - for standard input.",
              type=click.Path(exists=True, allow_dash=True, path_type=Path))  # fmt: skip
@meaning_options
@cluster.cluster_options
@click.option("-o", "--output", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def diff(
    path: Path, profile: str | None, mode: str | None, config: Path | None, access: cluster.Access, form: str
) -> int:
    """Show what would change in the mesh if these files were applied: routes, access and findings; changes nothing.

    `kubectl diff` shows how objects differ, this what the difference means: which Service routes otherwise, and which
    workload lets other callers in. Exit status as of kubectl, 0: nothing; 1: differences; 3: the cluster cannot be
    reached.
    """
    world = of_cluster(Where(access, everywhere=True), settings_of(profile, mode, config), path)
    changes = dict(_changes(world))
    appeared, resolved = _findings(world)
    if form == "json":
        data = {
            "changes": changes,
            "appeared": [output.finding_data(item, world.location(item)) for item in appeared],
            "resolved": [output.finding_data(item) for item in resolved],
        }
        click.echo(output.as_json(data))
    else:
        _print(world, changes, appeared, resolved)
    return 1 if changes or appeared or resolved else 0


def _changes(world: World) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each part of the mesh that differs, as (its name, before and after); None: it is not there."""
    if world.before is None:
        return
    old, new = world.before.translation.mesh, world.state.translation.mesh
    keys = {"Service": world.state.translation.services, "Workload": world.state.translation.workloads}
    tables = {"Service": (old.services, new.services), "Workload": (old.workloads, new.workloads)}
    for kind, differing in keys.items():
        for key in sorted(differing):
            before, after = (_plain(table, key) for table in tables[kind])
            if before != after:
                yield f"{kind} {'/'.join(key)}", {"before": before, "after": after}


def _plain(table: Mapping[Key, Any], key: Key) -> Any:
    value = table.get(key)
    return None if value is None else plain(value)


def _findings(world: World) -> tuple[list[Finding], list[Finding]]:
    if world.before is None:
        return [], []
    before, after = set(world.before.findings()), set(world.state.findings()) | set(world.told)
    unread = world.told if world.tree is None else world.told - set(world.tree.findings())
    appeared = sorted(after - before - unread, key=by_severity_then_object)
    return appeared, sorted(before - after, key=by_severity_then_object)


def _print(world: World, changes: Mapping[str, Any], appeared: list[Finding], resolved: list[Finding]) -> None:
    for name in changes:
        click.echo(printable(_sentence(world, name)))
    for name, change in changes.items():
        lines = difflib.unified_diff(
            _text(change["before"]), _text(change["after"]), f"live/{name}", f"applied/{name}", lineterm=""
        )
        for line in lines:
            colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
            click.echo(output.paint(line, colour) if colour else line)
    for item in appeared:
        click.echo(f"new {output.finding_text(item, world.location(item))}")
    for item in resolved:
        click.echo(f"resolved {output.finding_text(item)}")
    number = len(world.tree.objects) if world.tree else 0
    click.echo(f"{output.counted(number, 'object')}, {output.counted(len(changes), 'change')} in the mesh", err=True)


def _sentence(world: World, name: str) -> str:
    if world.before is None:
        return name
    kind, _, path = name.partition(" ")
    namespace, _, key = path.partition("/")
    say = differences.of_service if kind == "Service" else differences.of_workload
    return say((namespace, key), world.before.translation.mesh, world.state.translation.mesh)


def _text(value: Any) -> list[str]:
    return [] if value is None else yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120).splitlines()
