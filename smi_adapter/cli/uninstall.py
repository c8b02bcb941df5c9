"""`uninstall`: take away what nobody else would, and say what to do with the rest."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from smi_adapter.cli import cluster
from smi_adapter.findings import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from smi_adapter.cluster.client import Client
    from smi_adapter.cluster.removal import Installation, Removal, Step


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("-n", "--namespace", "watched", multiple=True, help="Look for generated objects in this one; repeatable.")
@cluster.installation_options
@cluster.cluster_options
def uninstall(
    dry_run: bool,
    yes: bool,
    watched: tuple[str, ...],
    controller_namespace: str | None,
    release: str | None,
    access: cluster.Access,
) -> int:
    """Undo what the controller has put into the cluster: conversion stanzas and generated objects.

    Do this before the controller goes: a conversion webhook that is left behind blocks reads and the deletion of
    namespaces. So that a controller that still runs does not write generated objects anew, its Lease is taken from it:
    it writes nothing for ten minutes. SMI objects and CRDs stay; the installation itself is removed by what installed
    it, which is named. Exit status 0: done; 1: something could not be done; 3: the cluster cannot be reached.
    """
    whose = _whose(controller_namespace, release, watched, access)
    found = _planned(whose, access)
    for step in found.steps:
        click.echo(f"{'would ' if dry_run else ''}{printable(step.words)}")
    if not found.steps:
        click.echo(printable(f"there are no conversion stanzas and no generated objects of {whose}"))
    for name in found.installed:
        click.echo(f"belongs to an installation: {printable(name)}")
    for name in found.stays:
        click.echo(f"stays: {printable(name)}")
    code = 0
    if found.steps and not dry_run:
        if not yes:
            click.confirm("Do this now?", abort=True, err=True)
        code = _do(whose, found, access)
    for namespace, name in found.releases:
        click.echo(f"then: helm uninstall {name} --namespace {namespace}", err=True)
    return code


def _whose(namespace: str | None, name: str | None, watched: tuple[str, ...], access: cluster.Access) -> Installation:
    """Return the installation that was named, or the only one that there is."""
    from smi_adapter.cluster import removal  # noqa: PLC0415 - only for who needs a cluster

    usual = cluster.INSTALLATION
    if namespace or name:
        return removal.Installation(namespace or usual[0], name or usual[1], watched)
    found = cluster.ask_cluster(access, removal.installations) or [removal.Installation(*usual)]
    if len(found) > 1:
        several = ", ".join(map(str, found))
        raise click.UsageError(f"there are several installations ({several}): say which, by both names")
    return removal.Installation(found[0].namespace, found[0].name, watched)


def _planned(whose: Installation, access: cluster.Access) -> Removal:
    from smi_adapter.cluster import removal  # noqa: PLC0415

    return cluster.ask_cluster(access, lambda client: removal.plan(client, whose))


def _do(whose: Installation, found: Removal, access: cluster.Access) -> int:
    """Do the steps, with the controller silenced first if it could undo one."""
    steps, code = found.steps, 0
    if any(step.generated for step in steps):
        if _silenced(whose, access):
            steps = _planned(whose, access).steps  # it may have written since
        else:
            steps, code = tuple(step for step in steps if not step.generated), 1
    return cluster.ask(access, lambda client: _done(client, steps)) or code


def _silenced(whose: Installation, access: cluster.Access) -> bool:
    """Take the Lease and wait until who held it writes no more; False, with the reason, if that is refused."""
    from smi_adapter.cluster import removal  # noqa: PLC0415
    from smi_adapter.cluster.client import ApiError  # noqa: PLC0415

    async def taken(client: Client) -> tuple[str, float] | ApiError:
        try:
            return await removal.take_lease(client, whose)
        except ApiError as error:
            return error

    answer = cluster.ask(access, taken)
    if isinstance(answer, ApiError):
        why = printable(f"the Lease {whose} cannot be taken: {answer}")
        click.echo(f"{why}; generated objects stay, since the controller would write them anew", err=True)
        return False
    holder, seconds = answer
    if seconds:
        click.echo(printable(f"took the Lease {whose} from {holder}; waiting {seconds:g} s for its last writes"))
        time.sleep(seconds)
    return True


async def _done(client: Client, steps: Sequence[Step]) -> int:
    from smi_adapter.cluster import removal  # noqa: PLC0415

    wrong = [(step, said) for step in steps if (said := await removal.do(client, step))]
    for step, said in wrong:
        click.echo(printable(f"could not {step.words}: {said}"), err=True)
    return 1 if wrong else 0
