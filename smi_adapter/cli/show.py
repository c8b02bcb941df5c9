"""`get` and `describe`: the SMI objects of the cluster, whatever version they were written in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from smi_adapter.cli import cluster, output
from smi_adapter.findings import Ref, printable
from smi_adapter.smi import quantity, wire
from smi_adapter.smi.objects import (
    ACCESS_GROUP,
    SPECS_GROUP,
    SPLIT_GROUP,
    HTTPMatch,
    HTTPRouteGroup,
    IdentityBinding,
    IdentitySubject,
    TrafficSplit,
    TrafficTarget,
)

if TYPE_CHECKING:
    from smi_adapter.cluster.client import Client, Resource
    from smi_adapter.cluster.listing import Chosen

_SPLIT, _TARGET, _BINDING = (
    (SPLIT_GROUP, "TrafficSplit"),
    (ACCESS_GROUP, "TrafficTarget"),
    (ACCESS_GROUP, "IdentityBinding"),
)
_HTTP, _TCP, _UDP = ((SPECS_GROUP, kind) for kind in ("HTTPRouteGroup", "TCPRoute", "UDPRoute"))

KINDS: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "splits": (_SPLIT,),
    "targets": (_TARGET,),
    "routes": (_HTTP, _TCP, _UDP),
    "bindings": (_BINDING,),
}
"""What may be asked for, and the kinds that it means."""

_ALIASES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("split", "trafficsplit", "trafficsplits", "ts"), "splits"),
    **dict.fromkeys(("target", "traffictarget", "traffictargets", "tt"), "targets"),
    **dict.fromkeys(("route", "httproutegroup", "httproutegroups", "htr", "tcproute", "tcproutes", "udproute",
                     "udproutes"), "routes"),
    **dict.fromkeys(("binding", "identitybinding", "identitybindings"), "bindings"),
}  # fmt: skip


class _Columns(NamedTuple):
    header: tuple[str, ...]
    cells: Callable[[Any], tuple[str, ...]]
    wide: tuple[str, ...] = ()
    more: Callable[[Any], tuple[str, ...]] = lambda _: ()


def _split_cells(split: TrafficSplit) -> tuple[str, ...]:
    shares = ",".join(f"{one.service}={_weight(one.weight)}" for one in split.backends)
    return (split.service, shares)


def _weight(milli: int | None) -> str:
    return "<invalid>" if milli is None else str(quantity.write(milli))


def _subject(one: IdentitySubject) -> str:
    kind = "" if one.kind == "ServiceAccount" else f"{one.kind}:"
    return f"{kind}{one.namespace}/{one.name}" if one.namespace else f"{kind}{one.name}"


def _target_cells(target: TrafficTarget) -> tuple[str, ...]:
    rules = ",".join(
        f"{rule.kind}/{rule.name}" + (f"[{' '.join(rule.matches)}]" if rule.matches else "") for rule in target.rules
    )
    port = f":{target.port}" if target.port is not None else ""
    return (_subject(target.destination) + port, ",".join(map(_subject, target.sources)), rules)


def _route_cells(route: Any) -> tuple[str, ...]:
    if isinstance(route, HTTPRouteGroup):
        return (route.ref.kind, ",".join(match.name for match in route.matches))
    return (route.ref.kind, "none" if route.closed else ",".join(map(str, route.ports)) or "all")


def _match(match: HTTPMatch) -> str:
    headers = "".join(f" {name}={pattern}" for name, pattern in match.headers)
    return f"{'|'.join(match.methods) or '*'} {match.path_regex or '*'}{headers}"


def _route_more(route: Any) -> tuple[str, ...]:
    return ("; ".join(map(_match, route.matches)) if isinstance(route, HTTPRouteGroup) else "",)


def _binding_cells(binding: IdentityBinding) -> tuple[str, ...]:
    selector = binding.pod_label_selector
    labels = ",".join(f"{key}={value}" for key, value in selector.match_labels) if selector else ""
    return (binding.service_account or "", labels, ",".join(binding.spiffe_identities))


_COLUMNS: Final[Mapping[str, _Columns]] = {
    "splits": _Columns(("SERVICE", "BACKENDS"), _split_cells, ("MATCHES",), lambda one: (",".join(one.matches),)),
    "targets": _Columns(("DESTINATION", "SOURCES", "RULES"), _target_cells),
    "routes": _Columns(("KIND", "MEANS"), _route_cells, ("MATCHES",), _route_more),
    "bindings": _Columns(("SERVICEACCOUNT", "PODS", "SPIFFE"), _binding_cells),
}


def _kind_named(word: str) -> str:
    name = _ALIASES.get(word.lower(), word.lower())
    if name not in KINDS:
        raise click.UsageError(f"there is no {word!r} to look at; there are: {', '.join(KINDS)}")
    return name


def _slash(words: tuple[str, ...]) -> tuple[str, str]:
    """Read `split NAME`, `split/NAME` or `split`."""
    kind, slash, name = words[0].partition("/")
    if len(words) > 2 or (slash and len(words) > 1):
        raise click.UsageError("write KIND, KIND NAME or KIND/NAME")
    return _kind_named(kind), name if slash else (words[1] if len(words) > 1 else "")


# -------------------------------------------------------------------------------------------------------- get
@click.command()
@click.argument("what", nargs=-1, required=True, metavar="splits|targets|routes|bindings [NAME]")
@cluster.namespace_options
@cluster.cluster_options
@click.option("-l", "--selector", default="", help="Labels that the objects must have.")
@click.option(
    "-o",
    "--output",
    "form",
    default="table",
    show_default=True,
    metavar="table|wide|yaml|json|name|jsonpath=…",
    help="How the answer looks.",
)
@click.option("--no-headers", is_flag=True, help="Leave out the line of column names.")
@click.option("-w", "--watch", is_flag=True, help="Go on and show each change.")
def get(
    what: tuple[str, ...],
    namespace: str | None,
    all_namespaces: bool,
    access: cluster.Access,
    selector: str,
    form: str,
    no_headers: bool,
    watch: bool,
) -> int:
    """List SMI objects: splits, targets, routes or bindings, with what became of them.

    Exit status 0: listed; 1: the object that was named is not there; 3: the cluster cannot be reached.
    """
    kind, name = _slash(what)
    show = _shower(kind, form, all_namespaces, no_headers)

    async def question(client: Client) -> int:
        from smi_adapter.cluster import listing  # noqa: PLC0415 - only for who needs a cluster

        chosen = listing.Chosen(KINDS[kind], "" if all_namespaces else namespace or client.namespace, selector, name)
        found, versions = await listing.some(client, chosen)
        if name and not found and not watch:
            click.echo(f"{kind} {name!r} not found in namespace {chosen.namespace or 'any'}", err=True)
            return 1
        if not versions:
            click.echo(f"the cluster has no CRDs for {kind}; install them: smi-adapter crds apply", err=True)
            return 1
        if not found and form in {"table", "wide"}:
            where = f"in namespace {chosen.namespace}" if chosen.namespace else "in any namespace"
            click.echo(f"No {kind} found {where}.", err=True)
        else:
            show(found, not no_headers)
        if watch:
            await asyncio.gather(*(_follow(client, one, version, chosen, show) for one, version in versions.items()))
        return 0

    patience = cluster.Access(access.kubeconfig, access.context, 0.0) if watch else access
    return cluster.ask(patience, question)


_Show = Callable[[Sequence[Mapping[str, Any]], bool], None]


async def _follow(client: Client, resource: Resource, version: str, chosen: Chosen, show: _Show) -> None:
    from smi_adapter.cluster import listing  # noqa: PLC0415

    async for event, raw in listing.changes(client, resource, version, chosen):
        if event != "DELETED":
            show((raw,), False)


def _shower(kind: str, form: str, everywhere: bool, no_headers: bool) -> _Show:
    """Return what prints objects in a form; UsageError for a form that there is not."""
    if form in {"table", "wide"}:
        return lambda found, header: click.echo(
            _table(kind, found, form == "wide", everywhere, header and not no_headers)
        )
    if form == "name":
        return lambda found, _: click.echo("\n".join(map(_named, found)), nl=bool(found))
    if form == "json":
        return lambda found, _: click.echo(output.as_json(_as_list(found)))
    if form == "yaml":
        return lambda found, _: click.echo(_yaml(_as_list(found)), nl=False)
    if form.startswith("jsonpath="):
        query = output.jsonpath(form.removeprefix("jsonpath="))
        return lambda found, _: click.echo(query(_as_list(found)))
    raise click.UsageError(f"there is no output {form!r}; there are table, wide, yaml, json, name and jsonpath=…")


def _yaml(value: Any) -> str:
    import yaml  # noqa: PLC0415 - most answers are tables

    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120))


def _named(raw: Mapping[str, Any]) -> str:
    ref = wire.ref_of(raw)
    return f"{ref.kind.lower()}.{ref.group}/{ref.name}"


def _as_list(found: Sequence[Mapping[str, Any]]) -> Any:
    if len(found) == 1:
        return found[0]
    return {"apiVersion": "v1", "kind": "List", "items": list(found)}


def _table(kind: str, found: Sequence[Mapping[str, Any]], wide: bool, everywhere: bool, header: bool) -> str:
    columns = _COLUMNS[kind]
    names = ("NAME", *columns.header, "ACCEPTED", "PROGRAMMED", "AGE", *((*columns.wide, "WRITTEN AS") if wide else ()))
    rows = [_row(columns, raw, wide) for raw in found]
    if everywhere:
        names = ("NAMESPACE", *names)
        rows = [(str(raw["metadata"].get("namespace", "")), *row) for raw, row in zip(found, rows, strict=True)]
    shown = [tuple(printable(cell) or "-" for cell in row) for row in rows]
    text = output.table(names, shown)
    return text if header else text.partition("\n")[2]


def _row(columns: _Columns, raw: Mapping[str, Any], wide: bool) -> tuple[str, ...]:
    obj, _ = wire.decode(raw)
    cells = columns.cells(obj) if obj is not None else ("<invalid>",) + ("",) * (len(columns.header) - 1)
    more = (columns.more(obj) if obj is not None else ("",) * len(columns.wide)) if wide else ()
    written = (str(raw["apiVersion"]).rpartition("/")[2],) if wide else ()
    verdict = tuple(str(condition(raw, one).get("status", "")) for one in ("Accepted", "Programmed"))
    return (raw["metadata"]["name"], *cells, *verdict, age(raw["metadata"].get("creationTimestamp")), *more, *written)


def condition(raw: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """Return a condition of an object's status, or nothing."""
    conditions = (raw.get("status") or {}).get("conditions") or ()
    return next((one for one in conditions if isinstance(one, Mapping) and one.get("type") == kind), {})


def age(created: Any, now: datetime | None = None) -> str:
    """Return how old something is, as kubectl writes it."""
    try:
        began = datetime.fromisoformat(str(created))
        seconds = int(((now or datetime.now(UTC)) - began).total_seconds())
    except (ValueError, TypeError):
        return ""
    if seconds < 120:
        return f"{max(0, seconds)}s"
    if seconds < 7200:
        return f"{seconds // 60}m"
    return f"{seconds // 3600}h" if seconds < 172_800 else f"{seconds // 86_400}d"


# --------------------------------------------------------------------------------------------------- describe
@click.command()
@click.argument("what", nargs=-1, required=True, metavar="KIND NAME")
@click.option("-n", "--namespace", help="Namespace of the object; the context's if not given.")
@cluster.cluster_options
def describe(what: tuple[str, ...], namespace: str | None, access: cluster.Access) -> int:
    """Show one object: what it says, its conditions, who has it programmed, findings and Events.

    Exit status 0: shown; 1: it is not there; 3: the cluster cannot be reached.
    """
    from smi_adapter.cli.world import Where, of_cluster, settings_of  # noqa: PLC0415 - `get` starts without it

    kind, name = _slash(what)
    if not name:
        raise click.UsageError("describe needs a name: describe KIND NAME")
    world = of_cluster(Where(access, namespace), settings_of(None, None, None))
    refs = [Ref(one, world.namespace, name, group) for group, one in KINDS[kind]]
    found = [ref for ref in refs if ref in world.live]
    if not found:
        click.echo(f"{kind} {name!r} not found in namespace {world.namespace}", err=True)
        return 1
    for ref in found:
        click.echo("\n\n".join(part for part in _described(world.live[ref]) if part))
        told = [item for item in world.findings() if item.subject == ref]
        click.echo("\nFindings:" if told else "\nFindings: none")
        for item in told:
            click.echo(_indented(output.finding_text(item)))
        for line in _events(access, ref):
            click.echo(line)
    return 0


def _described(raw: Mapping[str, Any]) -> list[str]:
    ref, metadata = wire.ref_of(raw), raw["metadata"]
    status = raw.get("status") or {}
    head = [
        f"{ref.kind} {ref.namespace}/{ref.name}",
        f"Shown as: {raw['apiVersion']}",
        f"Age: {age(metadata.get('creationTimestamp'))}",
    ]
    if metadata.get("labels"):
        head.append("Labels: " + ", ".join(f"{key}={value}" for key, value in sorted(metadata["labels"].items())))
    body = {key: value for key, value in raw.items() if key not in {"apiVersion", "kind", "metadata", "status"}}
    text = _yaml(body).rstrip()
    parts = [printable_lines("\n".join(head)), printable_lines(text)]
    stale = status.get("observedGeneration") not in {None, metadata.get("generation")}
    parts.append(_conditions("Conditions" + (" (of an earlier generation)" if stale else ""), status.get("conditions")))
    backends = [one for one in status.get("backends") or () if isinstance(one, Mapping)]
    return [*parts, *(_conditions(f"Backend {one.get('name', '')}", one.get("conditions")) for one in backends)]


def _conditions(title: str, conditions: Any) -> str:
    shown = [one for one in conditions or () if isinstance(one, Mapping)]
    rows = [
        (*_cells(one, "type", "status", "reason"), age(one.get("lastTransitionTime")) or "-", *_cells(one, "message"))
        for one in shown
    ]
    if not rows:
        return f"{title}: none"
    return f"{title}:\n" + _indented(output.table(("TYPE", "STATUS", "REASON", "AGE", "MESSAGE"), rows))


def _cells(one: Mapping[str, Any], *keys: str) -> tuple[str, ...]:
    return tuple(printable(str(one.get(key, ""))) or "-" for key in keys)


def _events(access: cluster.Access, ref: Ref) -> list[str]:
    async def question(client: Client) -> list[Mapping[str, Any]]:
        from smi_adapter.cluster import listing  # noqa: PLC0415

        return await listing.events_of(client, ref.namespace, ref.kind, ref.name)

    rows = [
        (*_cells(one, "type", "reason"), age(one.get("lastTimestamp") or one.get("eventTime")) or "-",
         *_cells(one, "message"))
        for one in cluster.ask(access, question)
    ]  # fmt: skip
    if not rows:
        return ["", "Events: none"]
    return ["", "Events:", _indented(output.table(("TYPE", "REASON", "AGE", "MESSAGE"), rows))]


def printable_lines(text: str) -> str:
    """Return text of several lines without control characters."""
    return "\n".join(printable(line) for line in text.split("\n"))


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.split("\n"))
