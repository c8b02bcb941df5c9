"""Where the API server is and who we are there: one context of a kubeconfig, found as kubectl finds it.

Certificates, tokens, files of tokens and exec plugins are understood, which covers kind, k3d, minikube and the clouds.
What is not understood is an error: somebody who asked to act for another one must not act as himself. Nothing that is
read here is ever printed or written.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import ssl
import tempfile
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from smi_conformance.protocol import HarnessError

EARLY = 30.0
"""Seconds before its end at which a credential is fetched again."""
_FILES = {
    "cluster": ("certificate-authority",),
    "user": ("client-certificate", "client-key", "tokenFile"),
}
"""Fields with a path, which begins at the folder of the file in which it stands."""
_UNKNOWN = {
    "cluster": ("proxy-url", "tls-server-name"),
    "user": ("as", "as-groups", "as-uid", "as-user-extra", "auth-provider", "password", "username"),
}
"""Fields that kubectl knows and we don't."""


class Access:
    """How to reach an API server; a credential that ends is fetched again by the plugin it came from."""

    def __init__(self, server: str, cluster: Mapping[str, Any], user: Mapping[str, Any]) -> None:
        self.server = server
        self.tls: ssl.SSLContext | None = None
        self._cluster = cluster
        self._user = user
        self._token = ""
        self._ends = 0.0
        self._lock = asyncio.Lock()

    async def headers(self, *, refused: str | None = None) -> dict[str, str]:
        """Return what to send along; `refused` is the authorization that the server no longer took."""
        async with self._lock:  # who comes second finds what the first has fetched
            if refused is not None and refused == self._authorization():
                self._ends = 0.0
            if not self._ends or time.time() > self._ends - EARLY:
                await self._renew()
        return {"authorization": found} if (found := self._authorization()) else {}

    def _authorization(self) -> str:
        token = self._token
        if not token and (path := self._user.get("tokenFile")):  # somebody keeps it fresh
            token = _bytes(path).decode(errors="replace").strip()
        token = token or str(self._user.get("token") or "")
        return f"Bearer {token}" if token else ""

    async def _renew(self) -> None:
        """Fetch a credential, if that is how it is had; connections that are made from now on use it."""
        found = await _exec(self._user["exec"]) if self._user.get("exec") else {}
        self._token = str(found.get("token") or "")
        self._ends = _end(found.get("expirationTimestamp"))
        if self.server.startswith("https") and (self.tls is None or found.get("clientCertificateData")):
            parts = {"client-certificate": found.get("clientCertificateData"), "client-key": found.get("clientKeyData")}
            own = {f"{name}-text": text for name, text in parts.items() if text}
            self.tls = _tls(self._cluster, {**self._user, **own})


def _end(text: Any) -> float:
    """Return when a credential ends; one that doesn't say, when it is refused."""
    try:
        return datetime.fromisoformat(str(text)).timestamp() if text else float("inf")
    except ValueError:
        return float("inf")


def _merged(path: str) -> dict[str, Any]:
    """Return what the files say together: of several of one name the first counts, and so does the first context."""
    listed = [item for item in os.environ.get("KUBECONFIG", "").split(os.pathsep) if item]
    files = [Path(item) for item in ([path] if path else listed or [str(Path.home() / ".kube" / "config")])]
    if len(files) > 1:  # of a list, some may be missing
        files = [file for file in files if file.exists()] or files[:1]
    merged: dict[str, Any] = {"clusters": [], "contexts": [], "users": []}
    for file in files:
        config = _read(file)
        merged["current-context"] = merged.get("current-context") or config.get("current-context")
        for kind in ("cluster", "context", "user"):
            merged[f"{kind}s"] += [_placed(item, kind, file) for item in config.get(f"{kind}s") or ()]
    return merged


def _read(file: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise HarnessError(f"kubeconfig {file}: {error}") from error
    if not isinstance(config, dict):
        raise HarnessError(f"kubeconfig {file}: is no mapping")
    return config


def _placed(item: Any, kind: str, file: Path) -> dict[str, Any]:
    """Return an entry whose paths begin where its file is."""
    if not isinstance(item, dict):
        raise HarnessError(f"kubeconfig {file}: an entry of {kind}s is no mapping")
    part = dict(item.get(kind) or {})
    folder = file.absolute().parent
    for name in _FILES.get(kind, ()):
        if part.get(name):
            part[name] = str(folder / str(part[name]))
    plugin = part.get("exec") or {}
    if os.sep in str(plugin.get("command", "")):
        part["exec"] = {**plugin, "command": str(folder / plugin["command"])}
    return {"name": item.get("name"), kind: part}


def _named(config: Mapping[str, Any], kind: str, name: str) -> Mapping[str, Any]:
    for item in config[f"{kind}s"]:
        if item["name"] == name:
            found: Mapping[str, Any] = item[kind]
            for field in _UNKNOWN.get(kind, ()):
                if found.get(field):
                    raise HarnessError(f"the kubeconfig's {kind} {name!r} has `{field}`, which the suite does not know")
            return found
    raise HarnessError(f"the kubeconfig has no {kind} {name!r}")


async def access(context: str, path: str = "") -> Access:
    """Return how to reach the API server of a context; the current one if none is named."""
    config = _merged(path)
    chosen = _named(config, "context", context or str(config.get("current-context") or ""))
    cluster = _named(config, "cluster", str(chosen.get("cluster")))
    user = _named(config, "user", str(chosen.get("user")))
    found = Access(str(cluster.get("server", "")).rstrip("/"), cluster, user)
    await found.headers()
    return found


async def _exec(plugin: Mapping[str, Any]) -> dict[str, Any]:
    """Run a credential plugin."""
    asked = {"apiVersion": plugin.get("apiVersion"), "kind": "ExecCredential", "spec": {"interactive": False}}
    given = {item["name"]: item["value"] for item in plugin.get("env") or ()}
    environment = {**os.environ, "KUBERNETES_EXEC_INFO": json.dumps(asked), **given}
    command = [str(plugin["command"]), *(str(part) for part in plugin.get("args") or ())]
    try:
        process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.PIPE)
        output, _ = await process.communicate()
        status: dict[str, Any] = json.loads(output)["status"]
    except (OSError, ValueError, KeyError) as error:
        raise HarnessError(f"the credential plugin {command[0]} failed: {type(error).__name__}") from error
    return status


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
    return _bytes(path) if (path := part.get(name)) else b""


def _bytes(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise HarnessError(f"the kubeconfig names {path}: {error.strerror}") from error
