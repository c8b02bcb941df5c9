"""`check`: the installation and the cluster, one line each."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

import click

from smi_adapter.cli import cluster, output
from smi_adapter.cli.advice import ADVICE
from smi_adapter.findings import printable

if TYPE_CHECKING:
    from smi_adapter.cluster.checks import Check
    from smi_adapter.cluster.client import Client

_MARKS = {"success": ("√", "green"), "warning": ("‼", "yellow"), "error": ("×", "red"), "skipped": ("-", "cyan")}  # noqa: RUF001 - the usual mark
_PAGE = "docs/check.md"


@click.command()
@click.option("--pre", is_flag=True, help="Check what matters before an installation.")
@cluster.cluster_options
@click.option("-n", "--namespace", help="Namespace in which a broken object is offered to the webhook, as a dry run.")
@click.option("-o", "--output", "form", type=click.Choice(["table", "json", "short"]), default="table",
              show_default=True, help="`short` shows failures only.")  # fmt: skip
def check(pre: bool, access: cluster.Access, namespace: str | None, form: str) -> int:
    """Check the installation and the cluster: one line for each check, with a hint for every failure; changes nothing.

    Exit status 0: all is well, warnings included; 1: a check failed; 3: the cluster cannot be reached.
    """

    async def question(client: Client) -> list[Check]:
        from smi_adapter.cluster import checks  # noqa: PLC0415 - only for who needs a cluster

        client.namespace = namespace or client.namespace
        return await checks.collected(client, before=pre)

    try:
        found = cluster.ask(access, question)
    except cluster.UnreachableError as error:
        if form == "json":
            click.echo(output.as_json({"success": False, "error": error.message, "categories": []}))
        else:
            first, *more = error.message.split("\n")
            click.echo("\n".join([f"{_mark('error')} {printable(first)}", *(f"    {line}" for line in more)]))
            if not more:
                click.echo(_advice("unreachable"))
        return error.exit_code
    failed = any(item.grade.value == "error" for item in found)
    if form == "json":
        click.echo(output.as_json({"success": not failed, "categories": _categories(found)}))
    else:
        _print(found, short=form == "short")
        click.echo(f"\nStatus check results are {_mark('error' if failed else 'success')}", err=form == "short")
    return 1 if failed else 0


def _print(found: list[Check], *, short: bool) -> None:
    for place, (category, items) in enumerate(groupby(found, lambda item: item.category)):
        if not short:
            click.echo(f"{'' if place == 0 else chr(10)}{category}\n{'-' * len(category)}")
        for item in items:
            if short and item.grade.value not in {"warning", "error"}:
                continue
            click.echo(f"{_mark(item.grade.value)} {printable(item.about)}")
            if item.message:
                click.echo(f"    {printable(item.message)}")
            if item.anchor:
                click.echo(_advice(item.anchor))


def _advice(anchor: str) -> str:
    return f"    -> {ADVICE[anchor]}\n       more: {_PAGE}#{anchor}"


def _mark(grade: str) -> str:
    mark, colour = _MARKS[grade]
    return output.paint(mark, colour)


def _categories(found: list[Check]) -> list[dict[str, Any]]:
    return [
        {
            "categoryName": category,
            "checks": [
                {"description": item.about, "result": item.grade.value}
                | ({"error": item.message} if item.message else {})
                | ({"hint": f"{_PAGE}#{item.anchor}", "advice": ADVICE[item.anchor]} if item.anchor else {})
                for item in items
            ],
        }
        for category, items in groupby(found, lambda item: item.category)
    ]
