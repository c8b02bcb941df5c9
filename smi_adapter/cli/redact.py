"""Takes secrets out of what goes into a bug report: pure, and rather too much than too little.

Secrets are never read in the first place. But people write tokens into annotations and header rules, `kubectl` copies
whole objects into an annotation, and logs quote what somebody sent.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

GONE: Final = "<redacted>"

_OURS: Final = ("smi-adapter.io/", "app.kubernetes.io/", "meta.helm.sh/", "deployment.kubernetes.io/")
_HEADERS: Final = frozenset({"headers"})
_SECRET_PLACES: Final = frozenset({"path", "url"})
"""Where a webhook is called: who knows the path of ours may call it like the API server."""
_CERTIFICATES: Final = frozenset({"caBundle"})
_NAMED: Final = re.compile(
    r"(?i)((?:authorization|api[-_]?key|password|passwd|secret|token|client-key-data|cookie)[\"']?\s*[:=]\s*)"
    r"(?:(?:bearer|basic)\s+)?(\"[^\"]*\"|'[^']*'|[^\s,;}\]]+)"
)
_TEXTS: Final = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), GONE),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?"), GONE),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"), rf"\1 {GONE}"),
    (re.compile(r"(?i)([a-z][a-z0-9+.-]*://)[^/\s:@]+:[^/\s@]+@"), rf"\1{GONE}@"),
    (_NAMED, rf"\1{GONE}"),
)


def text(value: str) -> str:
    """Return text without keys, tokens, passwords and credentials in addresses."""
    for pattern, instead in _TEXTS:
        value = pattern.sub(instead, value)
    return value


def tree(value: Any) -> Any:
    """Return an object without what may be secret: in annotations, header rules, environments and `text`.

    Nor does it say where webhooks are called. Bundles become fingerprints, which is enough to compare them.
    """
    if isinstance(value, Mapping):
        return {str(key): _field(str(key), one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [tree(one) for one in value]
    return text(value) if isinstance(value, str) else value


def _field(key: str, value: Any) -> Any:
    if key == "annotations" and isinstance(value, Mapping):
        return {str(name): tree(one) if str(name).startswith(_OURS) else GONE for name, one in value.items()}
    if key in _HEADERS:
        return _names_only(value)
    if key in _CERTIFICATES and isinstance(value, str):
        return f"sha256:{hashlib.sha256(value.encode()).hexdigest()}"
    if key == "env" and isinstance(value, list):
        return [_variable(one) for one in value]
    if key == "clientConfig":
        return _without_places(tree(value))
    if key == "managedFields":
        return GONE
    return tree(value)


def _without_places(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: GONE if key in _SECRET_PLACES else _without_places(one) for key, one in value.items()}
    return [_without_places(one) for one in value] if isinstance(value, list) else value


def _names_only(headers: Any) -> Any:
    if isinstance(headers, Mapping):
        return dict.fromkeys(map(str, headers), GONE)
    return [_names_only(one) for one in headers] if isinstance(headers, list) else GONE


def _variable(one: Any) -> Any:
    if not isinstance(one, Mapping):
        return GONE
    name = str(one.get("name", ""))
    return {"name": name, "value": tree(one.get("value", "")) if name.startswith("SMI_ADAPTER_") else GONE}
