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
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

ENV_PREFIX = "SMI_ADAPTER_"
_CONFIG = f"{ENV_PREFIX}CONFIG"


class SettingsError(ValueError):
    """A setting is unknown or unusable; the message names it and the places where it may stand."""


def _comma_separated(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


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
