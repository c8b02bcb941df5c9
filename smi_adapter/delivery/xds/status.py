"""What can be told about connected proxies: their state, and findings that name the objects behind a refusal.

Text that came from a proxy is shortened and escaped here, once, before anybody logs or shows it: an Envoy quotes
configuration in its errors, and a stolen one may send anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from smi_adapter.delivery.xds.stream import Refusal
from smi_adapter.delivery.xds.types import short
from smi_adapter.findings import Finding, Ref, finding
from smi_adapter.mesh import Key

Version: TypeAlias = tuple[int, int, int]

_LONGEST = 300

# The first fixed release of each supported minor version (envoy.md, section 1); what is older than the first is open.
_FIXED: dict[tuple[int, int], int] = {(1, 36): 10, (1, 37): 6, (1, 38): 4, (1, 39): 1}


@dataclass(frozen=True, slots=True)
class TypeStatus:
    """One resource type of one proxy: `sent` messages, and how many of them it took and refused.

    `version`: a hash of all names with their acknowledged versions. Equal in two proxies: they hold the same.
    """

    type: str
    version: str
    names: int
    sent: int
    acknowledged: int
    refused: int


@dataclass(frozen=True, slots=True)
class ProxyStatus:
    """One connected proxy. `in_sync`: it has acknowledged all that it should have; `waiting`: seconds for an ACK."""

    workload: Key
    identity: str
    address: str
    envoy_version: str
    connected_since: float
    in_sync: bool
    waiting: float
    types: tuple[TypeStatus, ...]
    last_nack: str = ""


def printable(text: str) -> str:
    """Return text of a proxy as one short line of printable characters."""
    cut = text if len(text) <= _LONGEST else text[:_LONGEST] + "..."
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in cut)


def envoy_version(node: Any) -> Version | None:
    """Return the version that a node says it has."""
    version = node.user_agent_build_version.version
    numbers = (version.major_number, version.minor_number, version.patch)
    return numbers if any(numbers) else None


def version_text(version: Version | None) -> str:
    """Return a version as people write it; "" if the proxy did not say."""
    return ".".join(map(str, version)) if version else ""


def is_too_old(version: Version | None) -> bool:
    """Tell whether that Envoy has known holes that matter to access rules (security.md, X8)."""
    if version is None:
        return False
    minor = version[:2]
    return minor < min(_FIXED) or version[2] < _FIXED.get(minor, 0)


def refused(workload: Key, refusal: Refusal) -> Iterator[Finding]:
    """Yield a finding for each object that a refused resource was made from."""
    resource = refusal.resource
    message = (
        f"the proxy of {workload[0]}/{workload[1]} refused {short(resource.type_url)} {resource.name}: "
        f"{printable(refusal.error)}"
    )
    for origin in resource.origins or (_subject(workload),):
        yield finding("SMI0603", origin, "", message)


def late(workload: Key, seconds: float) -> Finding:
    """Return the finding for a proxy that does not answer."""
    return finding("SMI0604", _subject(workload), "", f"no acknowledgement for {seconds:.0f} s")


def too_old(workload: Key, version: Version | None) -> Finding:
    """Return the finding for a proxy with known holes."""
    return finding("SMI0705", _subject(workload), "", f"Envoy {version_text(version)}")


def _subject(workload: Key) -> Ref:
    return Ref("Workload", *workload)
