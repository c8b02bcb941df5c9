"""The connection of a pod to its API server: the token, the CA and the address that every pod is given, and aiohttp.

The library (see `client`) can do this too, but importing it takes 70 MB and more than a second for the models of all of
Kubernetes, of which nothing here is used. In a cluster, where that counts, it is not imported at all.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from smi_adapter.cluster.signing import claims_of


class NoServerError(Exception):
    """The pod was not told where the API server is."""


class PodApi:
    """Sends requests with the token of the pod; its methods are those of the library's client that `client` uses."""

    def __init__(self, server: str, ca: Path) -> None:
        self.token = ""
        self._server = server
        context = ssl.create_default_context(cafile=str(ca))
        connector = aiohttp.TCPConnector(ssl=context, limit=0)  # a watch holds its connection; there may be hundreds
        self._session = aiohttp.ClientSession(connector=connector, trust_env=True)

    @property
    def account(self) -> str:
        """Return the name of the ServiceAccount that the token is of; "" if it does not say so."""
        claims = claims_of(self.token)
        return claims.bound.serviceaccount.name if claims else ""

    async def call_api(
        self,
        path: str,
        method: str,
        *,
        query_params: list[tuple[str, str]],
        header_params: Mapping[str, str],
        body: object = None,
        _request_timeout: aiohttp.ClientTimeout,
        **_more: Any,
    ) -> aiohttp.ClientResponse:
        """Send one request; the caller reads the answer."""
        url = URL(self._server + path, encoded=True).update_query(query_params)
        headers = {**header_params, "Authorization": f"Bearer {self.token}", "User-Agent": "smi-adapter"}
        content = None if body is None else msgspec.json.encode(body)
        return await self._session.request(
            method, url, headers=headers, data=content, timeout=_request_timeout, allow_redirects=False
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()


def server() -> str:
    """Return the URL of the API server, from the variables that the kubelet sets; NoServerError without them."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not port:
        raise NoServerError("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set; is this a pod?")
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
