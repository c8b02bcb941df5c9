"""What an operator decides: the only reader of the environment, of the configuration file and of flags.

Flags win over the environment (`SMI_ADAPTER_PROFILE=osm`), the environment over the TOML file that `--config` or
`SMI_ADAPTER_CONFIG` names, the file over the defaults. `app.py` turns the answer into plain values; nothing below it
reads a variable. Each value is judged by the annotation of its field, and that only if it was given: a command that
runs with the defaults has nothing to wait for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from reprlib import repr as shortened
from typing import Annotated, Any, Final, Literal, TypeAlias, get_args, get_type_hints

from msgspec import Meta, ValidationError, convert

ENV_PREFIX = "SMI_ADAPTER_"
_CONFIG = f"{ENV_PREFIX}CONFIG"


class SettingsError(ValueError):
    """A setting is unknown or unusable; the message names it and the places where it may stand."""


_HOST_AND_PORT = r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]*):[0-9]{1,5}"
_ADDRESS = "host:port, such as 0.0.0.0:8080 or [::]:8080"

Address: TypeAlias = Annotated[str, Meta(pattern=rf"^{_HOST_AND_PORT}\Z", description=_ADDRESS)]
Name: TypeAlias = Annotated[
    str, Meta(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?\Z", description="the name of a Kubernetes object")
]
Names: TypeAlias = Annotated[tuple[str, ...], Meta(description="a list, outside of TOML separated by commas")]
Switch: TypeAlias = Annotated[bool, Meta(description="true or false")]
Text: TypeAlias = Annotated[str, Meta(description="a text")]

_SWITCHES: Final = {"yes": True, "on": True, "no": False, "off": False}
"""How people write a switch in the environment, beside true, false, 1 and 0."""


def host_and_port(address: Address) -> tuple[str, int]:
    """Split `host:port`; the brackets of an IPv6 address go."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of a run."""

    backend: Text = "envoy"
    """Name of the installed backend that renders the mesh."""
    profile: Literal["spec", "osm", "traefik", "nsm"] = "spec"
    """Whose reading of SMI counts."""
    mode: Literal["enforce", "audit", "permissive"] = "enforce"
    """What happens to a request that no rule allows."""
    trust_domain: Annotated[str, Meta(pattern=r"^[a-z0-9._-]{1,255}\Z", description="a SPIFFE trust domain")] = (
        "cluster.local"
    )
    federated_domains: Names = ()
    """Trust domains whose identities may be bound."""
    certificate_seconds: Annotated[int, Meta(ge=60, description="a whole number of at least 60")] = 86_400
    """Life of a workload's certificate."""

    log_requests: Switch = False
    """Without a cluster: whether proxies log requests that went well, too."""

    # What follows is for a cluster.
    namespaces: Names = ()
    """The only namespaces to look at, with rights in these alone; none: all."""
    namespace_selector: Text = ""
    """Labels of the namespaces to look at; none: all."""
    xds_address: Address = "0.0.0.0:18000"
    """Where proxies connect."""
    xds_service: Name = "smi-adapter-xds"
    """The Service in front of that port."""
    health_address: Address = "0.0.0.0:8080"
    """Where /healthz, /readyz and /metrics are."""
    authority_secret: Name = "smi-adapter-ca"  # noqa: S105 - the name of an object
    """The Secret of the mesh's authority."""
    former_backends: Names = ()
    """Backends that were selected before, whose generated objects are to go."""
    lease: Name = "smi-adapter"
    """The Lease of the replica that writes."""
    webhook_address: Annotated[str, Meta(pattern=rf"^({_HOST_AND_PORT})?\Z", description=_ADDRESS)] = ""
    """Where the API server calls webhooks; empty: nowhere."""
    webhook_service: Name = "smi-adapter-webhooks"
    """The Service in front of that port."""
    webhook_secret: Name = "smi-adapter-webhooks"  # noqa: S105 - the name of an object
    """The Secret of its certificates."""
    webhook_names: Names = ()
    """Further DNS names under which webhooks are called."""
    webhook_configuration: Text = ""
    """The ValidatingWebhookConfiguration to keep trusting us."""
    webhook_conversion: Switch = False
    """Whether CRDs are converted by us (ADR 5)."""
    webhook_certificates: Text = ""
    """Folder with tls.crt and tls.key that somebody else renews."""
    token_audience: Annotated[str, Meta(min_length=1, description="a text that is not empty")] = "smi-adapter"  # noqa: S105
    """Whom proxies' tokens must be for."""
    check_peer_address: Switch = True
    """Whether a proxy must connect from its pod's address (off: behind a port-forward)."""
    log_format: Literal["text", "json"] = "text"
    """How log lines look."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """From which level on to log."""


def read(flags: Mapping[str, Any], config: Path | None = None) -> Settings:
    """Return the settings; `flags` that are None were not given. Raises SettingsError in words a user can act on."""
    named = os.environ.get(_CONFIG)
    path = config or (Path(named) if named else None)
    environment = {
        name.removeprefix(ENV_PREFIX).lower(): value
        for name, value in os.environ.items()
        if name.startswith(ENV_PREFIX) and name != _CONFIG
    }
    given = {name: value for name, value in flags.items() if value is not None}
    places = f" or {path}" if path else ""
    return judged({**(_file(path) if path else {}), **environment, **given}, places)


def _file(path: Path) -> dict[str, Any]:
    import tomllib  # noqa: PLC0415 - most runs have no such file

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        message = f"configuration file {path}: {error}"
        raise SettingsError(message) from error


def judged(given: Mapping[str, Any], places: str = "") -> Settings:
    """Return the settings with these values, written as in the environment or in TOML; the others are the defaults."""
    if not given:
        return Settings()
    kinds = get_type_hints(Settings, include_extras=True)
    values = {}
    for name, value in given.items():
        written = f"(set by a flag, {ENV_PREFIX}{name.upper()}{places})"
        if name not in kinds:
            near = get_close_matches(name, kinds, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(kinds)}"
            raise SettingsError(f"setting {name!r}: there is no such setting; {hint} {written}")
        try:
            values[name] = convert(_plain(value, kinds[name]), kinds[name], strict=False)
        except ValidationError as error:
            raise SettingsError(
                f"setting {name!r}: must be {_wanted(kinds[name])}, not {shortened(value)} {written}"
            ) from error
    return Settings(**values)


def _plain(value: Any, kind: Any) -> Any:
    """Return a value as TOML would have it, if it is text that stands for something else."""
    if not isinstance(value, str):
        return value
    if kind == Names:
        return [part.strip() for part in value.split(",") if part.strip()]
    return _SWITCHES.get(value.lower(), value) if kind == Switch else value


def _wanted(kind: Any) -> str:
    described = [one.description for one in get_args(kind) if isinstance(one, Meta)]
    if described:
        return str(described[0])
    *others, last = (repr(choice) for choice in get_args(kind))
    return f"{', '.join(others)} or {last}"
