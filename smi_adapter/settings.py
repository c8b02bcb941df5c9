"""What an operator decides: the only reader of the environment, of the configuration file and of flags.

Flags win over the environment (`SMI_ADAPTER_PROFILE=osm`), the environment over the TOML file that `--config` or
`SMI_ADAPTER_CONFIG` names, the file over the defaults. `app.py` turns the answer into plain values; nothing below it
reads a variable.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

ENV_PREFIX = "SMI_ADAPTER_"
_CONFIG = f"{ENV_PREFIX}CONFIG"


class SettingsError(ValueError):
    """A setting is unknown or unusable; the message names it and the places where it may stand."""


def _comma_separated(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


NAME = r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"
Address: TypeAlias = Annotated[str, Field(pattern=r"^(\[[0-9a-fA-F:.]+\]|[^:\[\]]*):[0-9]{1,5}$")]


def host_and_port(address: Address) -> tuple[str, int]:
    """Split `host:port`; the brackets of an IPv6 address go."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


class Settings(BaseModel):
    """All settings of a run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    backend: str = Field("envoy", description="name of the installed backend that renders the mesh")
    profile: Literal["spec", "osm", "traefik", "nsm"] = Field("spec", description="whose reading of SMI counts")
    mode: Literal["enforce", "audit", "permissive"] = Field("enforce", description="what no rule allows is then ...")
    trust_domain: str = Field("cluster.local", pattern=r"^[a-z0-9._-]{1,255}$", description="SPIFFE trust domain")
    federated_domains: Annotated[tuple[str, ...], BeforeValidator(_comma_separated)] = Field(
        (), description="trust domains whose identities may be bound"
    )
    certificate_seconds: int = Field(86_400, ge=60, description="life of a workload's certificate, in seconds")

    log_requests: bool = Field(
        default=False, description="without a cluster: whether proxies log requests that went well, too"
    )

    # What follows is for a cluster.
    namespaces: Annotated[tuple[str, ...], BeforeValidator(_comma_separated)] = Field(
        (), description="the only namespaces to look at, with rights in these alone; none: all"
    )
    namespace_selector: str = Field("", description="labels of the namespaces to look at; none: all")
    xds_address: Address = Field("0.0.0.0:18000", description="where proxies connect")
    xds_service: str = Field("smi-adapter-xds", pattern=NAME, description="the Service in front of that port")
    health_address: Address = Field("0.0.0.0:8080", description="where /healthz, /readyz and /metrics are")
    authority_secret: str = Field("smi-adapter-ca", pattern=NAME, description="the Secret of the mesh's authority")
    former_backends: Annotated[tuple[str, ...], BeforeValidator(_comma_separated)] = Field(
        (), description="backends that were selected before, whose generated objects are to go"
    )
    lease: str = Field("smi-adapter", pattern=NAME, description="the Lease of the replica that writes")
    webhook_address: Literal[""] | Address = Field(
        "", description="where the API server calls webhooks; empty: nowhere"
    )
    webhook_service: str = Field("smi-adapter-webhooks", pattern=NAME, description="the Service in front of that port")
    webhook_secret: str = Field("smi-adapter-webhooks", pattern=NAME, description="the Secret of its certificates")
    webhook_names: Annotated[tuple[str, ...], BeforeValidator(_comma_separated)] = Field(
        (), description="further DNS names under which webhooks are called"
    )
    webhook_configuration: str = Field("", description="the ValidatingWebhookConfiguration to keep trusting us")
    webhook_conversion: bool = Field(default=False, description="whether CRDs are converted by us (ADR 5)")
    webhook_certificates: str = Field("", description="folder with tls.crt and tls.key that somebody else renews")
    token_audience: str = Field("smi-adapter", min_length=1, description="whom proxies' tokens must be for")
    check_peer_address: bool = Field(
        default=True, description="whether a proxy must connect from its pod's address (off: behind a port-forward)"
    )
    log_format: Literal["text", "json"] = Field("text", description="how log lines look")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="from which level on to log")


def read(flags: Mapping[str, Any], config: Path | None = None) -> Settings:
    """Return the settings; `flags` that are None were not given. Raises SettingsError in words a user can act on."""
    named = os.environ.get(_CONFIG)
    path = config or (Path(named) if named else None)
    try:
        file = tomllib.loads(path.read_text(encoding="utf-8")) if path else {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        message = f"configuration file {path}: {error}"
        raise SettingsError(message) from error
    environment = {
        name.removeprefix(ENV_PREFIX).lower(): value
        for name, value in os.environ.items()
        if name.startswith(ENV_PREFIX) and name != _CONFIG
    }
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return Settings.model_validate({**file, **environment, **given})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        places = f"a flag, {ENV_PREFIX}{field.upper()}" + (f" or {path}" if path else "")
        message = f"setting {field!r}: {first['msg']} (set by {places})"
        raise SettingsError(message) from error
