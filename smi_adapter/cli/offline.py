"""Commands that look at files and touch nothing: `analyze`, `explain`, `translate`, `backends`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
import yaml

from smi_adapter import app, settings
from smi_adapter.backends import Backend, Files, Manifests, UnknownBackendError, XdsConfig, installed, load
from smi_adapter.cli import output
from smi_adapter.dump import plain
from smi_adapter.evaluate import Request, Verdict, as_data, evaluate
from smi_adapter.findings import Finding, Ref, Severity, by_severity_then_object, printable
from smi_adapter.mesh import Feature, Key
from smi_adapter.sources import Location
from smi_adapter.sources.controllers import Memory, World, reconcile
from smi_adapter.sources.files import Tree, read_tree

_F = TypeVar("_F", bound=Callable[..., Any])

_RANK = {Severity.ERROR: 2, Severity.WARNING: 1, Severity.INFO: 0}


def world_options(function: _F) -> _F:
    """Add the options that say which files and whose reading of SMI."""
    decorators = (
        click.option("-f", "--filename", "path", required=True, type=click.Path(exists=True, path_type=Path),
                     help="File or directory of YAML."),
        click.option("--profile", type=click.Choice(["spec", "osm", "traefik", "nsm"]), help="Whose reading of SMI."),
        click.option("--mode", type=click.Choice(["enforce", "audit", "permissive"]),
                     help="What happens to a request that nothing allows."),
        click.option("--config", type=click.Path(exists=True, path_type=Path), help="Settings as a TOML file."),
    )  # fmt: skip
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A directory, read and compiled."""

    tree: Tree
    world: World
    state: app.Compiled

    def findings(self) -> tuple[Finding, ...]:
        found = {*self.tree.findings(), *self.world.findings, *self.state.findings()}
        return tuple(sorted(found, key=by_severity_then_object))

    def location(self, item: Finding) -> Location | None:
        owner = self.world.owners.get(item.subject)
        return self.tree.location(owner or item.subject, "" if owner else item.field)


def _settings(profile: str | None, mode: str | None, config: Path | None) -> settings.Settings:
    try:
        return settings.read({"profile": profile, "mode": mode}, config)
    except settings.SettingsError as error:
        raise click.UsageError(str(error)) from error


def _backend(name: str) -> Backend:
    try:
        return load(name)
    except UnknownBackendError as error:
        raise click.UsageError(str(error)) from error


def _load(path: Path, chosen: settings.Settings, backend: str | None = None) -> _Loaded:
    tree = read_tree(path)
    world = reconcile(tree.objects, Memory())
    objects: Mapping[Ref, Any] = world.objects
    state = app.Compiler(_backend(backend or chosen.backend), app.options_of(chosen)).apply(objects)
    return _Loaded(tree, world, state)


# ---------------------------------------------------------------------------------------------------- analyze
@click.command()
@world_options
@click.option("--suppress", multiple=True, metavar="CODE", help="Leave out a code; may be given several times.")
@click.option("--fail-on", type=click.Choice(["error", "warning", "info", "never"]), default="warning",
              show_default=True, help="The least severity that makes the exit status 1.")  # fmt: skip
@click.option("-o", "--output", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def analyze(
    path: Path,
    profile: str | None,
    mode: str | None,
    config: Path | None,
    suppress: tuple[str, ...],
    fail_on: str,
    form: str,
) -> int:
    """Lint SMI and Kubernetes files: what is wrong, where, and what to do.

    Reads what `kubectl apply` would read, with nothing but the files. Exit status 0: nothing to fail on; 1: findings.
    """
    loaded = _load(path, _settings(profile, mode, config))
    found = [item for item in loaded.findings() if item.code not in suppress]
    if form == "json":
        click.echo(output.as_json({"findings": [output.finding_data(i, loaded.location(i)) for i in found]}))
    else:
        for item in found:
            click.echo(output.finding_text(item, loaded.location(item)))
        count = len(loaded.tree.objects)
        click.echo(f"{count} objects in {len(loaded.tree.states)} files, {len(found)} findings", err=True)
    worst = max((_RANK[item.severity] for item in found), default=-1)
    return 1 if fail_on != "never" and worst >= _RANK[Severity(fail_on)] else 0


# ---------------------------------------------------------------------------------------------------- explain
def _pair(value: str, what: str) -> Key:
    namespace, slash, name = value.partition("/")
    if not (namespace and slash and name):
        raise click.UsageError(f"{what} is written NAMESPACE/NAME, not {value!r}")
    return namespace, name


def _destination(value: str, loaded: _Loaded) -> tuple[Key, int]:
    """Read NAMESPACE/SERVICE[:PORT]; without a port, the Service's only or first one counts."""
    address, colon, port = value.rpartition(":") if ":" in value else (value, "", "")
    key = _pair(address, "--to")
    service = loaded.state.translation.mesh.services.get(key)
    if service is None:
        names = sorted("/".join(name) for name in loaded.state.translation.mesh.services)
        raise click.UsageError(f"there is no Service {address}; there are: {', '.join(names) or 'none'}")
    numbers = [item.number for item in service.ports]
    if not colon:
        if not numbers:
            raise click.UsageError(f"Service {address} has no ports")
        return key, numbers[0]
    if not port.isdigit() or int(port) not in numbers:
        raise click.UsageError(f"Service {address} has no port {port}; it has: {', '.join(map(str, numbers))}")
    return key, int(port)


def _headers(values: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    pairs = []
    for value in values:
        name, equals, text = value.partition("=")
        if not (name and equals):
            raise click.UsageError(f"--header is written NAME=VALUE, not {value!r}")
        pairs.append((name, text))
    return tuple(pairs)


def _source_address(loaded: _Loaded, key: Key, pod: str | None) -> str:
    """Return the address of the calling pod: the named one, else the first that runs under the ServiceAccount."""
    pods = loaded.state.snapshot.pods
    mine = sorted(item for item, value in pods.items() if (item[0], value.service_account) == key)
    if pod is None:
        return pods[mine[0]].address if mine else ""
    if (key[0], pod) not in mine:
        names = ", ".join(name for _, name in mine) or "none"
        raise click.UsageError(f"no pod {pod!r} runs under ServiceAccount {'/'.join(key)}; there are: {names}")
    return pods[(key[0], pod)].address


def _concerns(item: Finding, key: Key, verdict: Verdict) -> bool:
    """Tell whether a finding is about one of the namespaces that the request touches."""
    touched = {key[0], *(arm.service.partition("/")[0] for arm in verdict.arms if arm.service)}
    return item.subject.namespace in touched


@click.command()
@world_options
@click.option("--from", "source", required=True, metavar="NAMESPACE/SERVICEACCOUNT", help="Who calls.")
@click.option("--to", "destination", required=True, metavar="NAMESPACE/SERVICE[:PORT]", help="What is dialled.")
@click.option("--method", default="GET", show_default=True)
@click.option("--path", "request_path", default="/", show_default=True)
@click.option("--header", "headers", multiple=True, metavar="NAME=VALUE", help="May be given several times.")
@click.option("--pod", help="The calling pod, where an IdentityBinding selects some pods of the ServiceAccount only.")
@click.option("-o", "--output", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def explain(
    path: Path,
    profile: str | None,
    mode: str | None,
    config: Path | None,
    source: str,
    destination: str,
    method: str,
    request_path: str,
    headers: tuple[str, ...],
    pod: str | None,
    form: str,
) -> int:
    r"""Say what happens to one request, and why: where it goes with which odds, allowed or denied, and by which rule.

    \b
    smi-adapter explain -f examples/bookstore --from bookstore/bookbuyer --to bookstore/bookstore:14001 --path /buy
    """
    chosen = _settings(profile, mode, config)
    loaded = _load(path, chosen)
    caller = _pair(source, "--from")
    key, port = _destination(destination, loaded)
    request = Request(
        source=f"spiffe://{chosen.trust_domain}/ns/{caller[0]}/sa/{caller[1]}",
        service=key,
        port=port,
        method=method,
        path=request_path,
        headers=_headers(headers),
        source_address=_source_address(loaded, caller, pod),
    )
    verdict = evaluate(loaded.state.translation.mesh, request)
    findings = tuple(item for item in loaded.findings() if _concerns(item, key, verdict))
    if form == "json":
        click.echo(output.as_json({**as_data(verdict), "findings": [output.finding_data(item) for item in findings]}))
        return 0
    colour = {"allowed": "green", "denied": "red"}.get(verdict.access, "yellow")
    why = printable(verdict.why.removeprefix(f"{verdict.access}: "))
    click.echo(f"{output.paint(verdict.access, colour)}: {why}")
    rows = [
        (f"{float(arm.share):.1%}", arm.service or "-", str(arm.status) if arm.status is not None else "")
        for arm in verdict.arms
    ]
    if rows:
        click.echo(output.table(("SHARE", "SERVICE", "STATUS"), rows))
    for item in findings:
        click.echo(output.finding_text(item, loaded.location(item)), err=True)
    return 0


# -------------------------------------------------------------------------------------------------- translate
@click.command()
@world_options
@click.option("--to", "stage", required=True, metavar="mesh|BACKEND", help="`mesh`, `envoy`, `gateway-api`, ...")
def translate(path: Path, profile: str | None, mode: str | None, config: Path | None, stage: str) -> int:
    """Print a stage of the translation as YAML, offline: the neutral mesh, or what a backend makes of it.

    Findings go to stderr.
    """
    chosen = _settings(profile, mode, config)
    loaded = _load(
        path, chosen, None if stage == "mesh" else stage if stage in installed() else stage.replace("-", "_")
    )
    if stage == "mesh":
        _print_yaml([plain(loaded.state.translation.mesh)])
    else:
        match loaded.state.rendered:
            case Manifests(objects=objects):
                _print_yaml(objects)
            case Files(files=files):
                for name, body in sorted(files.items()):
                    click.echo(f"# {name}\n{body.decode(errors='replace')}")
            case XdsConfig() as config_of_proxies:
                from smi_adapter.delivery.xds.dump import readable  # noqa: PLC0415 - grpc and protobuf start slowly

                _print_yaml(readable(config_of_proxies))
    for item in loaded.findings():
        click.echo(output.finding_text(item, loaded.location(item)), err=True)
    return 0


def _print_yaml(documents: Any) -> None:
    sys.stdout.write(yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True, width=120))


# --------------------------------------------------------------------------------------------------- backends
@click.command()
@click.option("-o", "--output", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
def backends(form: str) -> int:
    """List the installed backends and what each can do."""
    loaded = {name: load(name) for name in installed()}
    if form == "json":
        click.echo(output.as_json({name: sorted(f.value for f in item.features) for name, item in loaded.items()}))
        return 0
    rows = [
        (feature.value, *("yes" if feature in item.features else "no" for item in loaded.values()))
        for feature in Feature
    ]
    click.echo(output.table(("FEATURE", *(name.upper() for name in loaded)), rows))
    return 0
