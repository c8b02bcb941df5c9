"""`smi-adapter demo`: the bookstore on real Envoys, for people or (`--check`) for machines."""

from __future__ import annotations

import asyncio
import logging

import click

from smi_adapter import settings
from smi_adapter.cli import output
from smi_adapter.sources.processes import EnvoyNotFoundError


@click.command()
@click.option("--check", is_flag=True, help="Perform the three experiments without a terminal and say what happened.")
def demo(*, check: bool) -> int:
    """Run the bookstore on real Envoys, without a cluster.

    Shows requests per second for each edge, allowed and denied, and names three experiments to try by editing one
    file. With --check it performs them itself on real traffic; exit status 1 if anything is not as it should be.
    """
    from smi_adapter.demo import stage  # noqa: PLC0415 - grpc and rich start slowly

    logging.basicConfig(level=logging.CRITICAL if not check else logging.ERROR)
    try:
        chosen = settings.read({})
        fine = asyncio.run((stage.check if check else stage.play)(chosen, output.finding_text))
    except settings.SettingsError as error:
        raise click.UsageError(str(error)) from error
    except EnvoyNotFoundError as error:
        raise click.ClickException(str(error)) from error
    return 0 if fine else 1
