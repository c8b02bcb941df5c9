"""`smi-adapter crds`: the CRDs in the cluster, compared with ours and brought up to date."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import click
import yaml

from smi_adapter.cli import cluster, output
from smi_adapter.cluster import definitions
from smi_adapter.cluster.client import Client
from smi_adapter.crds.merge import Plan, State


@click.group()
def crds() -> None:
    """Compare the cluster's SMI CRDs with those of this version, and bring them up to date.

    Works beside CRDs that another mesh installed: versions are added, none that is served or stored is ever dropped.
    """


@crds.command()
@cluster.cluster_options
@click.option("-o", "--output", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
def status(form: str, access: cluster.Access) -> int:
    """Show which SMI CRDs are installed, whose they are, and how they compare with ours; changes nothing.

    Exit status 0: all are up to date; 1: something is missing or differs; 3: the cluster cannot be reached.
    """
    try:
        found = cluster.ask_cluster(access, definitions.plans)
    except cluster.NothingToInstallError:
        if form == "json":
            click.echo(output.as_json({"crds": []}))
        raise
    if form == "json":
        click.echo(output.as_json({"crds": [_data(item) for item in found]}))
    else:
        rows = [
            (
                item.name,
                item.state.value,
                ",".join(item.served) or "-",
                ",".join(item.stored) or "-",
                "-" if item.state is State.MISSING else "yes" if item.has_status else "no",
                item.owner or "-",
            )
            for item in found
        ]
        click.echo(output.table(("NAME", "STATE", "SERVED", "STORED", "STATUS", "INSTALLED-BY"), rows))
        _tell(found)
    behind = [item for item in found if item.state is not State.CURRENT]
    if behind:
        click.echo("-> see what would change: smi-adapter crds diff; change it: smi-adapter crds apply", err=True)
    return 1 if behind else 0


@crds.command()
@cluster.cluster_options
def diff(access: cluster.Access) -> int:
    """Show what `apply` would change, as the API server would store it; changes nothing.

    Exit status as of `kubectl diff`, 0: nothing; 1: differences; 3: the cluster cannot be reached.
    """
    outcome = cluster.ask_cluster(access, lambda client: definitions.apply(client, dry_run=True))
    changed = [item for item in outcome if item.changed]
    for item in changed:
        lines = difflib.unified_diff(
            _text(item.before), _text(item.after), f"live/{item.plan.name}", f"wanted/{item.plan.name}", lineterm=""
        )
        for line in lines:
            colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
            click.echo(output.paint(line, colour) if colour else line)
    _tell([item.plan for item in changed])
    return 1 if changed else 0


@crds.command()
@cluster.cluster_options
@click.option("--dry-run", is_flag=True, help="Let the API server check everything, but change nothing.")
@click.option("--timeout", type=float, default=30, show_default=True, help="Seconds to wait until all are served.")
def apply(dry_run: bool, timeout: float, access: cluster.Access) -> int:
    """Install the SMI CRDs or bring them up to date, by server-side apply with your own rights.

    Exit status 0: done; 1: refused by the API server; 3: the cluster cannot be reached; 4: not served in time.
    """

    async def applied(client: Client) -> tuple[definitions.Applied, ...]:
        outcome = await definitions.apply(client, dry_run=dry_run)
        if not dry_run:
            try:
                await definitions.established(client, timeout)
            except definitions.NotEstablishedError as error:
                raise cluster.TimedOutError(f"not served in time: {error}") from error
        return outcome

    outcome = cluster.ask_cluster(access, applied)
    _tell([item.plan for item in outcome if item.changed])
    for item in outcome:
        verb = "created" if item.before is None else "configured" if item.changed else "unchanged"
        click.echo(f"customresourcedefinition/{item.plan.name} {verb}{' (dry run)' if dry_run else ''}")
    return 0


def _tell(found: tuple[Plan, ...] | list[Plan]) -> None:
    for item in found:
        for note in item.notes:
            click.echo(f"{item.name}: {note}", err=True)


def _text(crd: Mapping[str, Any] | None) -> list[str]:
    if crd is None:
        return []
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # 50 kB a kind; the one in C takes a tenth of the time
    return str(yaml.dump(definitions.cleaned(crd), Dumper=dumper, sort_keys=True, width=120)).splitlines()


def _data(item: Plan) -> dict[str, Any]:
    return {
        "name": item.name,
        "state": item.state.value,
        "served": list(item.served),
        "stored": list(item.stored),
        "statusSubresource": item.has_status,
        "installedBy": item.owner,
        "notes": list(item.notes),
    }
