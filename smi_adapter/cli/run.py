"""`smi-adapter run --source DIR`: serve a directory until somebody says stop."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import click

from smi_adapter import settings
from smi_adapter.embedded_api.access import AddressError, loopback
from smi_adapter.identity.ca import AuthorityFileError
from smi_adapter.local import LocalMesh, LocalOptions, until_stopped
from smi_adapter.runfolder import AlreadyRunningError, StateFolderError, state_folder
from smi_adapter.sources.processes import EnvoyNotFoundError


@click.command()
@click.option("--source", required=True, type=click.Path(exists=True, path_type=Path), help="Directory of YAML.")
@click.option(
    "--api",
    is_flag=False,
    flag_value="127.0.0.1:0",
    metavar="[ADDRESS[:PORT]]",
    help="Serve a Kubernetes API of the files for kubectl, on this loopback address (default: any free port).",
)
@click.option("--state", type=click.Path(path_type=Path), help="Folder for logs, keys and the status socket.")
@click.option("--no-start", is_flag=True, help="Start proxies only; the applications are yours to start.")
@click.option("--profile", type=click.Choice(["spec", "osm", "traefik", "nsm"]), help="Whose reading of SMI.")
@click.option("--mode", type=click.Choice(["enforce", "audit", "permissive"]), help="What no rule allows is then ...")
@click.option("--certificate-seconds", type=int, help="Life of a workload's certificate (default: a day).")
@click.option("--config", type=click.Path(exists=True, path_type=Path), help="Settings as a TOML file.")
@click.option("-q", "--quiet", is_flag=True, help="Log warnings and errors only.")
def run(
    source: Path,
    api: str | None,
    state: Path | None,
    no_start: bool,
    profile: str | None,
    mode: str | None,
    certificate_seconds: int | None,
    config: Path | None,
    quiet: bool,
) -> int:
    """Serve a directory of Kubernetes and SMI YAML with real Envoys, without a cluster.

    Every Pod (or replica of a Deployment) becomes local processes: its application, if the container has a command,
    and an Envoy sidecar, on loopback addresses of their own. Save a file, and it is in effect. `smi-adapter status`
    shows what runs; ^C stops all of it.
    """
    logging.basicConfig(
        level=logging.WARNING if quiet else logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
    try:
        chosen = settings.read({"profile": profile, "mode": mode, "certificate_seconds": certificate_seconds}, config)
        if chosen.backend != "envoy":
            raise click.UsageError("without a cluster only the backend envoy can be run; `translate` prints the others")
        address = loopback(api) if api is not None else None
        folder = state or state_folder(source)
        asyncio.run(_serve(source, LocalOptions(chosen, folder, applications=not no_start, api=address)))
    except (settings.SettingsError, AddressError) as error:
        raise click.UsageError(str(error)) from error
    except (AlreadyRunningError, AuthorityFileError, EnvoyNotFoundError, StateFolderError, FileNotFoundError) as error:
        raise click.ClickException(str(error)) from error
    return 0


async def _serve(source: Path, options: LocalOptions) -> None:
    async with LocalMesh(source, options).running() as mesh:
        click.echo(f"serving {mesh.path}; logs are in {options.state}; ^C stops", err=True)
        if options.api:
            click.echo(mesh.export)
        await until_stopped()
