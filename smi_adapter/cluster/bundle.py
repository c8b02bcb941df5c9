"""The root certificates of the mesh for everybody to read: a ConfigMap of our namespace (security.md, section 8).

Who makes a sidecar's configuration needs them, and must not need the Secret in which the key lies beside them. The
ConfigMap is called like that Secret; the chart makes it empty, as it does the Secret, so that no right to create one
is needed. All replicas hold the same authority, so whichever looks first writes, and the others find it written; who
finds another authority in the Secret than the one it holds (faults.md F37) leaves the writing to those who hold that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from smi_adapter.cluster.client import ApiError, Client, Resource, Unreachable

_log = logging.getLogger(__name__)

CONFIG_MAPS: Final = Resource("", "v1", "configmaps", "ConfigMap")
CERTIFICATES: Final = "ca.crt"
LOOK: Final = 30.0
"""Seconds between two looks."""
_RETRY: Final = 3.0
_MERGE: Final = "application/merge-patch+json"


class PublicBundle:
    """One ConfigMap and what has to stand in it."""

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self._name = name
        self._path = CONFIG_MAPS.path(client.namespace, name)
        self.problem = ""
        """Why it does not stand there; in words for people."""

    async def keep(self, bundle: Callable[[], bytes | None]) -> None:
        """See for ever that the bundle stands there; None: it is not for us to say."""
        while True:
            pause = LOOK
            try:
                content = bundle()
                problem = await self.publish(content.decode()) if content is not None else ""
            except (ApiError, Unreachable) as error:
                problem, pause = str(error), _RETRY
            told = f"the root certificates are not published in ConfigMap {self._name}: {problem}" if problem else ""
            if told and told != self.problem:
                _log.warning("%s", told)
            self.problem = told
            await asyncio.sleep(pause)

    async def publish(self, bundle: str) -> str:
        """Write the bundle unless it stands there; return what is in the way; ApiError or Unreachable may pass."""
        try:
            found = await self._client.get(self._path)
        except ApiError as error:
            if error.status != 404:
                raise
            return await self._write("POST", CONFIG_MAPS.path(self._client.namespace), self._whole(bundle))
        if (found.get("data") or {}).get(CERTIFICATES) == bundle:
            return ""
        return await self._write("PATCH", self._path, {"data": {CERTIFICATES: bundle}})

    def _whole(self, bundle: str) -> dict[str, Any]:
        metadata = {"name": self._name, "labels": {"app.kubernetes.io/part-of": "smi-adapter"}}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {CERTIFICATES: bundle}}

    async def _write(self, method: str, path: str, body: dict[str, Any]) -> str:
        content_type = _MERGE if method == "PATCH" else "application/json"
        try:
            await self._client.request(method, path, body=body, content_type=content_type)
        except ApiError as error:
            if error.status == 403:
                return "there is none, or it may not be written; is it part of the installation?"
            if error.status != 409:  # another replica was faster
                raise
        return ""
