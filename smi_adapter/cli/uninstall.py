"""`uninstall`: take away what nobody else would, and say what to do with the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from smi_adapter.cli import cluster
from smi_adapter.findings import printable

if TYPE_CHECKING:
    from smi_adapter.cluster.client import Client
    from smi_adapter.cluster.removal import Removal


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@cluster.cluster_options
def uninstall(dry_run: bool, yes: bool, access: cluster.Access) -> int:
    """Undo what the controller has put into the cluster: conversion stanzas and generated objects.

    Do this before the controller goes: a conversion webhook that is left behind blocks reads and the deletion of
    namespaces. SMI objects and CRDs stay; the installation itself is removed by what installed it, which is named.
    Exit status 0: done; 1: something could not be done; 3: the cluster cannot be reached.
    """

    async def planned(client: Client) -> Removal:
        from smi_adapter.cluster import removal  # noqa: PLC0415 - only for who needs a cluster

        return await removal.plan(client)

    found = cluster.ask(access, planned)
    for step in found.steps:
        click.echo(f"{'would ' if dry_run else ''}{printable(step.words)}")
    if not found.steps:
        click.echo("there are no conversion stanzas and no generated objects of ours")
    for name in found.installed:
        click.echo(f"belongs to the installation: {printable(name)}")
    for name in found.stays:
        click.echo(f"stays: {printable(name)}")
    code = 0
    if found.steps and not dry_run:
        if not yes:
            click.confirm("Do this now?", abort=True, err=True)
        code = cluster.ask(access, lambda client: _done(client, found))
    for namespace, release in found.releases:
        click.echo(f"then: helm uninstall {release} --namespace {namespace}", err=True)
    return code


async def _done(client: Client, found: Removal) -> int:
    from smi_adapter.cluster import removal  # noqa: PLC0415

    wrong = [(step, said) for step in found.steps if (said := await removal.do(client, step))]
    for step, said in wrong:
        click.echo(printable(f"could not {step.words}: {said}"), err=True)
    return 1 if wrong else 0
