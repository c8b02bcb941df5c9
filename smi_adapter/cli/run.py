"""`smi-adapter run`: serve a cluster, or with `--source` a directory, until somebody says stop."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import click

from smi_adapter import settings
from smi_adapter.cli.cluster import WAY_OUT, UnreachableError
from smi_adapter.runfolder import AlreadyRunningError, StateFolderError, state_folder


@click.command()
@click.option(
    "--source", type=click.Path(exists=True, path_type=Path), help="Directory of YAML (or one file), no cluster."
)
@click.option(
    "--api",
    is_flag=False,
    flag_value="127.0.0.1:0",
    metavar="[ADDRESS[:PORT]]",
    help="Serve a Kubernetes API of the files for kubectl, on this loopback address (default: any free port).",
)
@click.option("--state", type=click.Path(path_type=Path), help="Folder for logs, keys and the status socket.")
@click.option("--no-start", is_flag=True, help="Start proxies only; the applications are yours to start.")
@click.option("--kubeconfig", help="Login file of the cluster (default: the pod's account, else kubectl's file).")
@click.option("--context", help="Context of that file.")
@click.option("--namespaces", help="The only namespaces to look at, comma-separated; rights in these are enough.")
@click.option("--namespace-selector", help="Labels of the namespaces to look at, such as `mesh=on`.")
@click.option("--xds-address", help="host:port where proxies connect (default 0.0.0.0:18000).")
@click.option("--health-address", help="host:port of /healthz, /readyz and /metrics (default 0.0.0.0:8080).")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="How log lines look.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="From which level on.")
@click.option("--profile", type=click.Choice(["spec", "osm", "traefik", "nsm"]), help="Whose reading of SMI.")
@click.option("--mode", type=click.Choice(["enforce", "audit", "permissive"]), help="What no rule allows is then ...")
@click.option("--certificate-seconds", type=int, help="Life of a workload's certificate (default: a day).")
@click.option("--config", type=click.Path(exists=True, path_type=Path), help="Settings as a TOML file.")
@click.option("-q", "--quiet", is_flag=True, help="Log warnings and errors only.")
def run(
    source: Path | None,
    api: str | None,
    state: Path | None,
    no_start: bool,
    kubeconfig: str | None,
    context: str | None,
    config: Path | None,
    quiet: bool,
    **flags: Any,
) -> int:
    """Serve a cluster; or with --source a directory of YAML with real Envoys, without a cluster.

    In a cluster this is the controller: it watches Services, Pods and SMI objects and configures the Envoy of every
    pod that connects. Each replica serves proxies; settings may also come from SMI_ADAPTER_* variables.

    With --source every Pod (or replica of a Deployment) becomes local processes: its application, if the container has
    a command, and an Envoy sidecar, on loopback addresses of their own. Save a file, and it is in effect. `smi-adapter
    status` shows what runs; ^C stops all of it. Exit status 1: it could not begin; 3: there is no login to a cluster.
    """
    try:
        chosen = settings.read({**flags, **({"log_level": "warning"} if quiet else {})}, config)
        if chosen.backend != "envoy" and source is not None:
            raise click.UsageError("without a cluster only the backend envoy can be run; `translate` prints the others")
        if source is None:
            if state is not None or no_start or api is not None:
                raise click.UsageError("--state, --no-start and --api are for --source")
            if chosen.log_requests:
                raise click.UsageError(
                    "log_requests is for --source; in a cluster a proxy's bootstrap says so: "
                    "smi-adapter bootstrap --log-requests"
                )
            return _cluster(chosen, kubeconfig, context)
        if kubeconfig or context:
            raise click.UsageError("--source is a world without a cluster: --kubeconfig and --context do not fit")
        _directory(source, chosen, state or state_folder(source), api, applications=not no_start)
    except settings.SettingsError as error:
        raise click.UsageError(str(error)) from error
    except (AlreadyRunningError, StateFolderError, FileNotFoundError) as error:
        raise click.ClickException(str(error)) from error
    return 0


def _directory(source: Path, chosen: settings.Settings, state: Path, api: str | None, *, applications: bool) -> None:
    from smi_adapter.app import until_stopped  # noqa: PLC0415 - not needed in a cluster
    from smi_adapter.embedded_api.access import AddressError, loopback  # noqa: PLC0415
    from smi_adapter.local import LocalMesh, LocalOptions  # noqa: PLC0415
    from smi_adapter.sources.processes import EnvoyNotFoundError  # noqa: PLC0415

    level = chosen.log_level.upper()
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("watchfiles").setLevel(logging.WARNING)

    async def serve() -> None:
        address = loopback(api) if api is not None else None
        options = LocalOptions(chosen, state, applications=applications, api=address)
        async with LocalMesh(source, options).running() as mesh:
            click.echo(f"serving {mesh.path}; logs are in {state}; ^C stops", err=True)
            if options.api:
                click.echo(mesh.export)
            await until_stopped()

    try:
        asyncio.run(serve())
    except AddressError as error:
        raise click.UsageError(str(error)) from error
    except EnvoyNotFoundError as error:
        raise click.ClickException(str(error)) from error


def _cluster(chosen: settings.Settings, kubeconfig: str | None, context: str | None) -> int:
    from smi_adapter import controller, telemetry  # noqa: PLC0415 - not needed without a cluster

    telemetry.configure(chosen.log_format, chosen.log_level)
    try:
        asyncio.run(controller.serve(chosen, kubeconfig, context))
    except controller.NoLoginError as error:
        way_out = "" if error.known else f"\n{WAY_OUT}"
        raise UnreachableError(f"{error}{way_out}") from error
    except controller.CannotStartError as error:
        raise click.ClickException(str(error)) from error
    return 0
