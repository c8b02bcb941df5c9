"""The embedded Kubernetes API of the no-cluster mode, as the driver of the conformance suite uses it.

Nothing of it is called from inside: these are requests over TLS with the token of the kubeconfig file, as those of a
kubectl are. An object is created or else replaced, and what the API answers is handed on as it is.
"""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import aiohttp

from smi_adapter.decode import ref_of
from smi_adapter.embedded_api.kinds import Kind, by_ref
from tests.conformance.driver import Driver, main

Raw = dict[str, Any]

_GROUPS = ".smi-spec.io"
_CORE = frozenset({("", "Namespace"), ("", "Service")})
_TRIES = 5
"""So often a replacement is tried when somebody else (who keeps the status, say) was in between."""


def kind_of(raw: Mapping[str, Any]) -> Kind | None:
    """Return the kind of an object that goes through the API: SMI's own, Services, and the namespaces of both.

    What is applied in one order has to arrive in that order; an edit of a file is noticed whenever it is.
    """
    group = str(raw.get("apiVersion", "")).rpartition("/")[0]
    kind = str(raw.get("kind"))
    return by_ref(group, kind) if group.endswith(_GROUPS) or (group, kind) in _CORE else None


class Api:
    """A client of the API that a kubeconfig file names."""

    def __init__(self, kubeconfig: Path) -> None:
        config = json.loads(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self._url = str(cluster["server"])
        self._made: set[str] = set()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=ssl.create_default_context(cadata=authority)),
            headers={"Authorization": f"Bearer {user['token']}", "User-Agent": "conformance-driver"},
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def apply(self, raw: Raw, kind: Kind, *, dry_run: bool) -> Raw:
        """Create an object, or put it in the place of the one that is there; return code and message."""
        path = self._path(raw, kind)
        query = {"dryRun": "All"} if dry_run else {}
        code = 409
        body: Raw = {}
        if path not in self._made:
            code, body = await self._call("POST", path.rpartition("/")[0], raw, **query)
            if code == 201 and not dry_run:
                self._made.add(path)
        for _ in range(_TRIES):
            if code != 409:
                break
            found, now = await self._call("GET", path)
            if found == 404:
                self._made.discard(path)
                return await self.apply(raw, kind, dry_run=dry_run)
            metadata = {**raw["metadata"], "resourceVersion": now.get("metadata", {}).get("resourceVersion", "")}
            code, body = await self._call("PUT", path, {**raw, "metadata": metadata}, **query)
        return {"code": code, "message": "" if code < 300 else str(body.get("message", body))}

    async def delete(self, raw: Raw, kind: Kind) -> None:
        """Delete an object; one that is not there is fine."""
        path = self._path(raw, kind)
        self._made.discard(path)
        code, body = await self._call("DELETE", path)
        if code >= 300 and code != 404:
            raise RuntimeError(f"the API answered {code}: {body.get('message', body)}")

    async def get(self, raw: Raw, kind: Kind, version: str = "") -> Raw | None:
        """Return an object as it is served under a version, or under that in which it is written."""
        group = raw["apiVersion"].rpartition("/")[0]
        asked = {**raw, "apiVersion": f"{group}/{version}"} if version else raw
        code, body = await self._call("GET", self._path(asked, kind))
        if code not in {200, 404}:
            raise RuntimeError(f"the API answered {code}: {body.get('message', body)}")
        return body if code == 200 else None

    async def patch(self, raw: Raw, kind: Kind, change: Raw) -> Raw:
        """Change an object by a merge patch; return code and message."""
        code, body = await self._call("PATCH", self._path(raw, kind), change)
        return {"code": code, "message": "" if code < 300 else str(body.get("message", body))}

    async def served(self) -> Mapping[str, set[str]]:
        """Return the versions of SMI's groups that its discovery lists, as far as there is a list of resources."""
        found: dict[str, set[str]] = {}
        for group in (await self._discover("/apis")).get("groups", ()):
            for version in group["versions"] if group["name"].endswith(_GROUPS) else ():
                if (await self._discover(f"/apis/{version['groupVersion']}")).get("resources"):
                    found.setdefault(group["name"], set()).add(version["version"])
        return found

    async def _discover(self, path: str) -> Raw:
        code, body = await self._call("GET", path)
        if code not in {200, 404}:
            raise RuntimeError(f"the API answered {code} to {path}: {body.get('message', body)}")
        return body if code == 200 else {}

    @staticmethod
    def _path(raw: Mapping[str, Any], kind: Kind) -> str:
        metadata, version = raw["metadata"], str(raw["apiVersion"])
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        place = f"/namespaces/{metadata['namespace']}" if kind.namespaced else ""
        return f"{root}{place}/{kind.plural}/{metadata['name']}"

    async def _call(self, method: str, path: str, body: Raw | None = None, **query: str) -> tuple[int, Raw]:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        data, headers = json.dumps(body) if body is not None else None, {"Content-Type": kind}
        async with self._session.request(
            method, f"{self._url}{path}", data=data, headers=headers, params=query
        ) as answer:
            found: Raw = await answer.json(content_type=None)
            return answer.status, found


class ApiDriver(Driver):
    """The same mesh with its API: what a case applies is written and read there; workloads stay files."""

    capabilities = (*Driver.capabilities, "api")
    objects = "the mesh's Kubernetes API"
    listens = ("127.0.0.1", 0)

    async def __aenter__(self) -> Self:
        """Connect to the API, which listens by now."""
        self._api = Api(self._mesh.kubeconfig)
        self._blind = False
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        await self._api.close()

    async def served(self) -> Mapping[str, set[str]]:
        """Ask the API, as any client would find out."""
        return await self._api.served()

    async def do_apply(self, request: Mapping[str, Any]) -> Raw:
        """Write objects in their order, each where it belongs."""
        results: list[Raw] = []
        dry_run = bool(request.get("dryRun"))
        for raw in request["objects"]:
            kind = kind_of(raw)
            if kind is None:
                results += (await super().do_apply({**request, "objects": [raw]}))["results"]
            elif self._blind and not dry_run:
                results.append(self._edited(raw))
            else:
                results.append(await self._api.apply(raw, kind, dry_run=dry_run))
        self._blind = False
        return {"results": results}

    async def do_delete(self, request: Mapping[str, Any]) -> Raw:
        """Delete objects where they are."""
        for raw in request["objects"]:
            kind = kind_of(raw)
            if kind is None:
                await super().do_delete({"objects": [raw]})
            else:
                await self._api.delete(raw, kind)
        return {}

    async def do_get(self, request: Mapping[str, Any]) -> Raw:
        """Return an object as the API serves it."""
        raw = request["object"]
        kind = kind_of(raw)
        if kind is None:
            return await super().do_get(request)
        return {"object": await self._api.get(raw, kind, request.get("version", ""))}

    async def do_patch(self, request: Mapping[str, Any]) -> Raw:
        """Change an object by a merge patch."""
        raw = request["object"]
        kind = kind_of(raw)
        if kind is None:
            raise RuntimeError(f"{raw['kind']} is a file here, which nobody patches")
        return await self._api.patch(raw, kind, request["patch"])

    async def do_hook(self, request: Mapping[str, Any]) -> Raw:
        """After a broken watch, what is written next is written by an editor: the API would tell of its own writes."""
        answer = await super().do_hook(request)
        self._blind = request["name"] == "breakWatch"
        return answer

    def _edited(self, raw: Raw) -> Raw:
        """Put an object into the file in which it stands."""
        where = self._mesh.source.location(ref_of(raw))
        if where is None:
            raise RuntimeError(f"{ref_of(raw)} stands in no file")
        fresh = self._files.parent / "edited"
        fresh.write_text(json.dumps(raw))
        fresh.replace(self._files / where.file)
        return {"code": 200}


if __name__ == "__main__":
    main(ApiDriver)
