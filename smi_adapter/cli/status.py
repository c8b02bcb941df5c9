"""`smi-adapter status`: what a running `smi-adapter run` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from smi_adapter.cli import output
from smi_adapter.findings import printable
from smi_adapter.runfolder import read_status, state_folder

_UNREACHABLE = 3
_TIMED_OUT = 4


@click.command()
@click.option("--source", default=".", type=click.Path(path_type=Path), help="The directory that it serves.")
@click.option("--state", type=click.Path(path_type=Path), help="Its folder of files, if `run` was given one.")
@click.option("-o", "--output", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
def status(source: Path, state: Path | None, form: str) -> int:
    """Show what a running `smi-adapter run` does: pods, proxies with acknowledged versions, findings.

    Exit status 3: nothing runs on that directory; 4: it does not answer.
    """
    try:
        answer = read_status(state or state_folder(source))
    except TimeoutError:
        click.echo(f"the run on {source.absolute()} does not answer; is it stopped or overloaded?", err=True)
        return _TIMED_OUT
    except ConnectionError:
        click.echo(f"nothing runs on {source.absolute()}; start it with `smi-adapter run --source {source}`", err=True)
        return _UNREACHABLE
    if form == "json":
        click.echo(output.as_json(answer))
        return 0
    click.echo(f"{answer['source']}, process {answer['pid']}, for {answer['seconds']} s\n")
    click.echo(
        output.table(("POD", "READY", "SERVICEACCOUNT", "ADDRESS", "APPLICATION"), map(_pod_row, answer["pods"]))
    )
    click.echo()
    header = ("PROXY", "IN SYNC", "ENVOY", "RESOURCES", "ACKNOWLEDGED", "REFUSED", "ACKNOWLEDGED VERSIONS")
    click.echo(output.table(header, map(_proxy_row, answer["proxies"])))
    click.echo()
    for item in answer["findings"]:
        where = f"{item['where']}: " if item["where"] else ""
        text = f"{where}{item['severity']} {item['code']} {item['object']} {item['field']}"
        click.echo(printable(f"{text}: {item['message']}"))
    if not answer["findings"]:
        click.echo("no findings")
    return 0


def _pod_row(pod: dict[str, Any]) -> tuple[str, ...]:
    ready = output.paint("yes", "green") if pod["ready"] else output.paint("no", "red")
    return (pod["pod"], ready, pod["service_account"], pod["address"], pod["application"])


def _proxy_row(proxy: dict[str, Any]) -> tuple[str, ...]:
    total = {
        name: sum(kind[name] for kind in proxy["types"]) for name in ("resources", "sent", "acknowledged", "refused")
    }
    synced = output.paint("yes", "green") if proxy["in_sync"] else output.paint("no", "yellow")
    acknowledged = f"{total['acknowledged']} of {total['sent']}"
    versions = " ".join(f"{kind['type']}:{kind['version'][:6]}" for kind in proxy["types"] if kind["version"])
    counted = (str(total["resources"]), acknowledged, str(total["refused"]))
    return (proxy["workload"], synced, proxy["envoy"], *counted, versions)
