"""Where the API server is and who we are there: one context of a kubeconfig.

Certificates, tokens and exec plugins are understood, which covers kind, k3d, minikube and the clouds. Nothing that is
read here is ever printed or written.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from smi_conformance.protocol import HarnessError


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach an API server."""

    server: str
    tls: ssl.SSLContext | None
    headers: Mapping[str, str]


def _named(config: Mapping[str, Any], kind: str, name: str) -> Mapping[str, Any]:
    for item in config.get(f"{kind}s") or ():
        if item.get("name") == name:
            found: Mapping[str, Any] = item.get(kind) or {}
            return found
    raise HarnessError(f"the kubeconfig has no {kind} {name!r}")


def _read(path: str) -> dict[str, Any]:
    file = Path(path or os.environ.get("KUBECONFIG", "").split(":")[0] or Path.home() / ".kube" / "config")
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise HarnessError(f"kubeconfig {file}: {error}") from error
    if not isinstance(config, dict):
        raise HarnessError(f"kubeconfig {file}: is no mapping")
    return config


async def access(context: str, path: str = "") -> Access:
    """Return how to reach the API server of a context; the current one if none is named."""
    config = _read(path)
    chosen = _named(config, "context", context or str(config.get("current-context", "")))
    cluster = _named(config, "cluster", str(chosen.get("cluster")))
    user = _named(config, "user", str(chosen.get("user")))
    server = str(cluster.get("server", "")).rstrip("/")
    credential = await _exec(user["exec"]) if user.get("exec") else {}
    token = credential.get("token") or user.get("token")
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return Access(server, _tls(cluster, {**user, **credential}) if server.startswith("https") else None, headers)


async def _exec(plugin: Mapping[str, Any]) -> dict[str, Any]:
    """Run a credential plugin."""
    environment = {**os.environ, **{item["name"]: item["value"] for item in plugin.get("env") or ()}}
    command = [str(plugin["command"]), *(str(part) for part in plugin.get("args") or ())]
    try:
        process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.PIPE)
        output, _ = await process.communicate()
        status: dict[str, Any] = json.loads(output)["status"]
    except (OSError, ValueError, KeyError) as error:
        raise HarnessError(f"the credential plugin {command[0]} failed: {type(error).__name__}") from error
    return {
        "token": status.get("token"),
        "client-certificate-text": status.get("clientCertificateData"),
        "client-key-text": status.get("clientKeyData"),
    }


def _tls(cluster: Mapping[str, Any], user: Mapping[str, Any]) -> ssl.SSLContext:
    authority = _content(cluster, "certificate-authority")
    context = ssl.create_default_context(cadata=authority.decode() if authority else None)
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    certificate, key = _content(user, "client-certificate"), _content(user, "client-key")
    if certificate and key:
        # The ssl module reads a key pair from a file only.
        with tempfile.NamedTemporaryFile() as file:
            file.write(certificate + b"\n" + key)
            file.flush()
            context.load_cert_chain(file.name)
    return context


def _content(part: Mapping[str, Any], name: str) -> bytes:
    if text := part.get(f"{name}-text"):
        return str(text).encode()
    if data := part.get(f"{name}-data"):
        return base64.b64decode(data)
    if path := part.get(name):
        return Path(path).read_bytes()
    return b""
