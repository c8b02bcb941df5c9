"""Commands that look and touch nothing: `analyze`, `explain`, `translate`, `backends`; at files, or at a cluster."""

from __future__ import annotations

import sys
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import click
import yaml

from smi_adapter.backends import WORDS, Files, Manifests, XdsConfig, in_a_word, installed, load
from smi_adapter.cli import cluster, output
from smi_adapter.cli.verdict import concerns, lines
from smi_adapter.cli.world import Where, World, of_cluster, of_files, settings_of, without
from smi_adapter.dump import plain
from smi_adapter.findings import Severity, printable
from smi_adapter.mesh import Feature, Key

_F = TypeVar("_F", bound=Callable[..., Any])

_RANK = {Severity.ERROR: 2, Severity.WARNING: 1, Severity.INFO: 0}


def file_option(*, required: bool) -> Callable[[_F], _F]:
    """Add `-f`."""
    words = "File or directory of YAML, or - for standard input."
    kind = click.Path(exists=True, allow_dash=True, path_type=Path)
    return click.option("-f", "--filename", "path", required=required, type=kind, help=words)


def meaning_options(function: _F) -> _F:
    """Add the options that say whose reading of SMI counts."""
    decorators = (
        click.option("--profile", type=click.Choice(["spec", "osm", "traefik", "nsm"]), help="Whose reading of SMI."),
        click.option("--mode", type=click.Choice(["enforce", "audit", "permissive"]),
                     help="What happens to a request that nothing allows."),
        click.option("--config", type=click.Path(exists=True, path_type=Path), help="Settings as a TOML file."),
    )  # fmt: skip
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


def findings_options(function: _F) -> _F:
    """Add the options that say which findings count."""
    decorators = (
        click.option("--suppress", multiple=True, metavar="CODE", help="Leave out a code; may be given several times."),
        click.option("--fail-on", type=click.Choice(["error", "warning", "info", "never"]), default="warning",
                     show_default=True, help="The least severity that makes the exit status 1."),
    )  # fmt: skip
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


# ---------------------------------------------------------------------------------------------------- analyze
@click.command()
@file_option(required=False)
@meaning_options
@click.option(
    "--use-kube",
    type=bool,
    is_flag=False,
    flag_value=True,
    default=None,
    metavar="BOOL",
    help="Look at the cluster too (the default without -f).",
)
@cluster.namespace_options
@cluster.cluster_options
@findings_options
@click.option("-o", "--output", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def analyze(
    path: Path | None,
    profile: str | None,
    mode: str | None,
    config: Path | None,
    use_kube: bool | None,
    namespace: str | None,
    all_namespaces: bool,
    access: cluster.Access,
    suppress: tuple[str, ...],
    fail_on: str,
    form: str,
) -> int:
    """Lint SMI and Kubernetes objects: what is wrong, where, and what to do.

    With -f these files alone, as `kubectl apply` would read them; without it the live cluster; with -f and --use-kube
    the cluster as it would be with these files, of which only what they bring is told. Exit status 0: nothing to fail
    on; 1: findings; 2: there is no object in these files; 3: the cluster cannot be reached; 4: it did not answer.
    """
    chosen = settings_of(profile, mode, config)
    if path is None and use_kube is False:
        raise click.UsageError("without the cluster there is only -f to look at")
    if path is not None and not use_kube:
        loaded = of_files(path, chosen)
    else:
        loaded = of_cluster(Where(access, namespace, all_namespaces), chosen, path)
    found = without(loaded.concerning(), suppress)
    if form == "json":
        click.echo(output.as_json({"findings": [output.finding_data(i, loaded.location(i)) for i in found]}))
    else:
        for item in found:
            click.echo(output.finding_text(item, loaded.location(item)))
        click.echo(_summary(loaded, len(found)), err=True)
    worst = max((_RANK[item.severity] for item in found), default=-1)
    return 1 if fail_on != "never" and worst >= _RANK[Severity(fail_on)] else 0


def _summary(loaded: World, number: int) -> str:
    found = output.counted(number, "finding")
    if loaded.tree is None:
        where = f"namespace {loaded.namespace}" if loaded.namespace else "all namespaces"
        objects = sum(1 for ref in loaded.live if loaded.namespace in {"", ref.namespace})
        return f"{output.counted(objects, 'object')} in {where}, {found}"
    files = output.counted(len(loaded.tree.states), "file")
    return f"{output.counted(len(loaded.tree.objects), 'object')} in {files}, {found}"


# ---------------------------------------------------------------------------------------------------- explain
def _pair(value: str, what: str) -> Key:
    namespace, slash, name = value.partition("/")
    if not (namespace and slash and name):
        raise click.UsageError(f"{what} is written NAMESPACE/NAME, not {value!r}")
    return namespace, name


def _warn_of_unknown(caller: Key, loaded: World) -> None:
    """Say if nothing runs as that ServiceAccount, and which one was perhaps meant; the answer holds all the same."""
    snapshot = loaded.state.snapshot
    known = {(pod.meta.namespace, pod.service_account) for pod in snapshot.pods.values()} | snapshot.service_accounts
    if caller in known:
        return
    near = get_close_matches("/".join(caller), ["/".join(key) for key in sorted(known)], 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    click.echo(printable(f"note: there is no ServiceAccount {'/'.join(caller)} here{hint}"), err=True)


def _destination(value: str, loaded: World) -> tuple[Key, int]:
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


def _source_address(loaded: World, key: Key, pod: str | None) -> str:
    """Return the address of the calling pod: the named one, else the first that runs under the ServiceAccount."""
    pods = loaded.state.snapshot.pods
    mine = sorted(item for item, value in pods.items() if (item[0], value.service_account) == key)
    if pod is None:
        return pods[mine[0]].address if mine else ""
    if (key[0], pod) not in mine:
        names = ", ".join(name for _, name in mine) or "none"
        raise click.UsageError(f"no pod {pod!r} runs under ServiceAccount {'/'.join(key)}; there are: {names}")
    return pods[(key[0], pod)].address


@click.command()
@file_option(required=False)
@meaning_options
@cluster.cluster_options
@click.option("--from", "source", required=True, metavar="NAMESPACE/SERVICEACCOUNT", help="Who calls.")
@click.option("--to", "destination", required=True, metavar="NAMESPACE/SERVICE[:PORT]", help="What is dialled.")
@click.option("--method", default="GET", show_default=True)
@click.option("--path", "request_path", default="/", show_default=True)
@click.option("--header", "headers", multiple=True, metavar="NAME=VALUE", help="May be given several times.")
@click.option("--pod", help="The calling pod, where an IdentityBinding selects some pods of the ServiceAccount only.")
@click.option("-o", "--output", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def explain(
    path: Path | None,
    profile: str | None,
    mode: str | None,
    config: Path | None,
    access: cluster.Access,
    source: str,
    destination: str,
    method: str,
    request_path: str,
    headers: tuple[str, ...],
    pod: str | None,
    form: str,
) -> int:
    """Say what happens to one request, and why: where it goes with which odds, allowed or denied, and by which rule.

    In the live cluster, or with -f in a world of files alone.

    \b
    smi-adapter explain -f examples/bookstore --from bookstore/bookbuyer --to bookstore/bookstore:14001 --path /buy
    """  # noqa: D301 - click takes the character itself for a paragraph that is not to be wrapped
    from smi_adapter.evaluate import Request, as_data, evaluate  # noqa: PLC0415 - the others ask nothing

    if not request_path.startswith("/"):
        raise click.UsageError(f"--path begins with a slash, as in /{request_path}; it is {request_path!r}")
    chosen = settings_of(profile, mode, config)
    loaded = of_files(path, chosen) if path else of_cluster(Where(access, everywhere=True), chosen)
    caller = _pair(source, "--from")
    _warn_of_unknown(caller, loaded)
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
    findings = tuple(filter(concerns(loaded.state.snapshot, caller, key, verdict), loaded.findings()))
    if form == "json":
        told = [output.finding_data(item, loaded.location(item)) for item in findings]
        click.echo(output.as_json({**as_data(verdict), "findings": told}))
        return 0
    click.echo("\n".join(lines(verdict)))
    for item in findings:
        click.echo(output.finding_text(item, loaded.location(item)), err=True)
    return 0


# -------------------------------------------------------------------------------------------------- translate
@click.command()
@file_option(required=True)
@meaning_options
@click.option("--to", "stage", required=True, metavar="mesh|BACKEND", help="`mesh`, `envoy`, `gateway-api`, ...")
def translate(path: Path, profile: str | None, mode: str | None, config: Path | None, stage: str) -> int:
    """Print a stage of the translation as YAML, offline: the neutral mesh, or what a backend makes of it.

    Findings go to stderr. Exit status 1: one of them is an error, so the output lacks something that was asked for.
    """
    chosen = settings_of(profile, mode, config)
    loaded = of_files(
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
                from smi_adapter.delivery.readable import readable  # noqa: PLC0415 - protobuf starts slowly

                _print_yaml(readable(config_of_proxies))
    findings = loaded.findings()
    for item in findings:
        click.echo(output.finding_text(item, loaded.location(item)), err=True)
    return 1 if any(item.severity is Severity.ERROR for item in findings) else 0


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
    rows = [(feature.value, *(in_a_word(feature, item.features) for item in loaded.values())) for feature in Feature]
    click.echo(output.table(("FEATURE", *(name.upper() for name in loaded)), rows))
    for word in sorted({cell for row in rows for cell in row[1:]} & WORDS.keys(), key=[*WORDS].index):
        click.echo(f"{word}: {WORDS[word]}", err=True)
    return 0
