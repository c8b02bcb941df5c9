"""HTTP to a Kubernetes API server: login, timeouts and errors, and nothing of what the objects mean.

kubernetes-asyncio is used for what is tedious and changes (kubeconfig, exec and OIDC logins, in-cluster tokens, TLS);
its watches, typed objects and leader election are not used, because none of them survives a silent server. Every
request here has a connect, a read and a total timeout, and a watch is given up when it has been silent for longer than
the server's bookmarks are apart. The library costs 0.8 s and 70 MB to import, so that happens at the first connection,
and in a pod, which has all that it needs in three files, not at all (`in_pod`).

Proxies: `HTTPS_PROXY` is honoured. `NO_PROXY` takes host names and suffixes, not networks in CIDR form; in a cluster
it has to name the API server's address itself (`KUBERNETES_SERVICE_HOST`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
import traceback
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from smi_adapter.cluster import no_answer

if TYPE_CHECKING:
    import aiohttp

_log = logging.getLogger(__name__)

CONNECT = 5.0
"""Seconds to wait for a connection; a server that is there answers in milliseconds."""
HEADERS = 30.0
"""Seconds to wait for a watch to begin; a server with a cold cache may need some."""
LOGIN = 30.0
"""Seconds to wait for a login program (the library would wait for ever)."""
RENEW = 60.0
"""Seconds after which tokens are read again."""
RETRY_LOGIN = 5.0
"""Seconds between two new logins because of a refusal (401)."""
FAREWELL = 0.1
"""Seconds for the orderly end of a TLS connection."""
LONGEST_LINE = 8 * 1024 * 1024
"""Bytes of one watch event; etcd takes objects of 1.5 MiB, so that a longer one is no event that we could use."""
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_NOTHING: Mapping[str, str] = MappingProxyType({})


def _ignore() -> None:
    """Do nothing."""


class ApiError(Exception):
    """The API server answered, and the answer is an error."""

    def __init__(self, status: int, reason: str = "", message: str = "", retry_after: float | None = None) -> None:
        super().__init__(f"{status} {reason}: {message}" if message else f"{status} {reason}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after


class Unreachable(Exception):  # noqa: N818 - a state of the world, not a mistake
    """There was no answer: refused, timed out, cut off, TLS, or the login failed.

    `streaming`: a watch had begun, and broke or fell silent.
    """

    def __init__(self, message: str = "", *, streaming: bool = False) -> None:
        super().__init__(message)
        self.streaming = streaming


class NoCluster(Unreachable):
    """Nobody says which cluster is meant: there is no kubeconfig."""


class LineTooLong(Unreachable):
    """A watch sent an event that is too long; to resume would bring the same event again, so the caller lists anew."""


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind as the API serves it."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """Return `group/version`, or the version alone for the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Return the URL path of the collection (no name), an object, or its subresource."""
        parts = ["/apis", self.group, self.version] if self.group else ["/api", self.version]
        if namespace and self.namespaced:
            parts += ["namespaces", quote(namespace, safe="")]
        parts += [self.plural, *(quote(part, safe="") for part in (name, subresource) if part)]
        return "/".join(parts)


class _Status(msgspec.Struct):
    """What we read of a `Status` object, the body of an error."""

    class Details(msgspec.Struct):
        retryAfterSeconds: float | None = None  # noqa: N815 - Kubernetes' name

    reason: str = ""
    message: str = ""
    details: Details | None = None


class Client:
    """A connection to one API server with one identity."""

    def __init__(self, login: _Login) -> None:
        self._login = login
        self.namespace: str = login.namespace
        """The namespace of the kubeconfig's context, or of the pod."""
        self.account: str = login.account
        """The ServiceAccount of the pod; "" outside of one."""

    @classmethod
    async def connect(cls, kubeconfig: str | None = None, context: str | None = None) -> Client:
        """Log in, without asking the API server anything yet.

        In the cluster if neither argument is given and a service account is mounted; else by the kubeconfig, which is
        `$KUBECONFIG` or the usual file unless it is named.
        """
        inside = kubeconfig is None and context is None and (SERVICE_ACCOUNT / "token").exists()
        login = _InCluster() if inside else _Kubeconfig(kubeconfig, context)
        await login.renew(force=True)
        return cls(login)

    async def close(self) -> None:
        """Close all connections."""
        await self._login.close()

    async def request(  # noqa: PLR0913 - an HTTP request has these parts
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] = _NOTHING,
        body: object | None = None,
        content_type: str = "application/json",
        timeout: float = 10.0,  # noqa: ASYNC109 - goes into the HTTP library's own timeouts
        accept: str = "application/json",
    ) -> bytes:
        """Send one request and return the body of the answer; raise `ApiError` or `Unreachable`.

        The body is anything that JSON can say; that is what is sent for `application/apply-patch+yaml` too, because
        JSON is YAML.
        """
        headers = {"Accept": accept, "Content-Type": content_type}
        limits = _timeouts(connect=min(CONNECT, timeout), sock_read=timeout, total=timeout)
        with self._unreachable():
            response = await self._send(method, path, query, headers, body, limits)
            async with response:
                content = await response.read()
        if response.status >= 300:
            raise _error(response.status, response.reason or "", response.headers, content)
        return bytes(content)

    async def get(self, path: str, **query: str) -> Any:
        """Return what JSON document a GET answers."""
        try:
            return msgspec.json.decode(await self.request("GET", path, query=query))
        except msgspec.DecodeError as error:
            raise Unreachable(f"GET {path}: the answer is no JSON document: {error}") from error

    async def watch(
        self,
        path: str,
        query: Mapping[str, str],
        silence: float = 75.0,
        opened: Callable[[], None] = _ignore,
    ) -> AsyncGenerator[bytes, None]:
        """Yield the events of a watch, one line each, until the server ends it; silence for too long is `Unreachable`.

        `opened` is called when the server has accepted the watch. A line that was cut off at the end is not yielded.
        """
        limits = _timeouts(connect=CONNECT, sock_read=silence, total=None)
        with self._unreachable():
            async with asyncio.timeout(HEADERS):
                headers = {"Accept": "application/json", "Accept-Encoding": "identity"}  # events are small and urgent
                response = await self._send("GET", path, query, headers, None, limits)
        if response.status < 300:
            opened()
        with self._unreachable(streaming=True):
            async with contextlib.aclosing(_lines(response)) as lines:
                async for line in lines:
                    yield line

    @contextlib.contextmanager
    def _unreachable(self, *, streaming: bool = False) -> Iterator[None]:
        """Turn what an HTTP library raises for a broken connection into `Unreachable`."""
        import aiohttp  # noqa: PLC0415 - the library behind the expensive one

        try:
            yield
        except (TimeoutError, aiohttp.ClientError, OSError) as error:  # aiohttp's timeouts are TimeoutErrors too
            words = no_answer.in_words(error, self._login.server, self._login.named_by)
            raise Unreachable(words, streaming=streaming) from error

    async def _send(  # noqa: PLR0913, PLR0917 - an HTTP request has these parts
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        headers: dict[str, str],
        body: object,
        limits: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        await self._login.renew()
        for last in (False, True):
            response: aiohttp.ClientResponse = await self._login.api.call_api(
                path,
                method,
                query_params=list(query.items()),
                header_params=dict(headers),
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=limits,
            )
            if response.status != 401 or last or not await self._login.renew(force=True):
                return response
            response.release()
        raise AssertionError("the second answer was returned")


class _Login:
    """Credentials, and the library's client that uses them; both are made anew when the credentials change."""

    namespace = "default"
    account = ""
    server = ""
    """The URL of the API server."""
    named_by = "the pod's account"
    """Who says that it is this one."""

    def __init__(self) -> None:
        self.api: Any = None
        self._made_of: tuple[object, ...] = ()
        self._renewed = 0.0
        self._busy = asyncio.Lock()

    async def renew(self, *, force: bool = False) -> bool:
        """Read the credentials again if that is due; tell whether it was done.

        With `force` (the server refused us) whatever was remembered of the last login is forgotten; that happens at
        most every few seconds, since a login may start a program.
        """
        wait = RETRY_LOGIN if force else RENEW
        if self.api is not None and time.monotonic() - self._renewed < wait:
            return False
        async with self._busy:
            if self.api is not None and time.monotonic() - self._renewed < wait:
                return False
            try:
                async with asyncio.timeout(LOGIN):
                    await self._renew(force)
            except Exception as error:  # whatever a login program and the library's reading of it may do
                self._renewed = time.monotonic()
                await _end_program(error)
                if isinstance(error, no_answer.NoKubeconfigError):
                    raise NoCluster(str(error)) from error
                reason = f"it took more than {LOGIN:.0f} s" if isinstance(error, TimeoutError) else str(error)
                if self.api is None or force:
                    raise Unreachable(f"the login failed: {reason}") from error
                _log.warning("the login could not be renewed, the old one goes on: %s", reason)
                return False
            self._renewed = time.monotonic()
            return True

    async def _renew(self, force: bool) -> None:  # noqa: FBT001 - as in the public method
        raise NotImplementedError

    async def close(self) -> None:
        if self.api is not None:
            await self.api.close()
            await asyncio.sleep(2 * FAREWELL)  # a connection that was given up is closed by the event loop, later

    async def _use(self, configuration: Any) -> None:
        """Make a client of the configuration unless the present one has the same certificates."""
        from kubernetes_asyncio.client import ApiClient  # noqa: PLC0415 - expensive, see the module's docstring

        files = [configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file]
        made_of = (configuration.host, *((file, _content(file)) for file in files))
        if made_of == self._made_of:
            return
        configuration.connection_pool_maxsize = 0  # a watch holds its connection; there may be hundreds
        old, self.api = self.api, ApiClient(configuration)
        # asyncio would wait 30 s for a dead server to agree to the end of a TLS connection; aiohttp has no say in that.
        self.api.rest_client.pool_manager.connector._ssl_shutdown_timeout = FAREWELL  # noqa: SLF001
        self._made_of = made_of
        if old is not None:
            await old.close()


class _InCluster(_Login):
    """The service account of our pod."""

    def __init__(self) -> None:
        super().__init__()
        with contextlib.suppress(OSError):
            self.namespace = (SERVICE_ACCOUNT / "namespace").read_text("utf-8").strip() or "default"

    async def _renew(self, force: bool) -> None:  # noqa: ARG002, FBT001 - the file is all there is, and is read always
        from smi_adapter.cluster import in_pod  # noqa: PLC0415 - the HTTP library is not needed to print a help text

        ca = SERVICE_ACCOUNT / "ca.crt"
        made_of = (in_pod.server(), ca.read_bytes())
        self.server = made_of[0]
        token = (SERVICE_ACCOUNT / "token").read_text("utf-8").strip()
        if made_of != self._made_of:
            old, self.api = self.api, in_pod.PodApi(made_of[0], ca)
            self._made_of = made_of
            if old is not None:
                await old.close()
        self.api.token = token
        self.account = self.api.account


class _Kubeconfig(_Login):
    """A context of a kubeconfig file."""

    def __init__(self, path: str | None, context: str | None) -> None:
        super().__init__()
        self._path = path or os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
        self._context = context
        self._configuration: Any = None
        self._loader: Any = None

    async def _renew(self, force: bool) -> None:  # noqa: FBT001
        from kubernetes_asyncio.client import Configuration  # noqa: PLC0415
        from kubernetes_asyncio.config import load_kube_config  # noqa: PLC0415

        if self._loader is not None and not force:
            await self._loader.load_and_set(self._configuration)  # asks a login program only if its token expires
        else:
            no_answer.must_exist(self._path)
            self._configuration = self._configuration or Configuration()
            self._loader = await load_kube_config(self._path, self._context, self._configuration)
            chosen = (self._loader.current_context or {}).get("context") or {}
            self.namespace = str(chosen.get("namespace") or "default")
            name = (self._loader.current_context or {}).get("name") or self._context
            self.named_by = f"kubeconfig {self._path}, context {name}"
        self.server = str(self._configuration.host)
        await self._use(self._configuration)


def _timeouts(*, connect: float, sock_read: float, total: float | None) -> aiohttp.ClientTimeout:
    import aiohttp  # noqa: PLC0415

    return aiohttp.ClientTimeout(total=total, connect=connect, sock_connect=connect, sock_read=sock_read)


async def _lines(response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
    """Yield the lines of a response; the reader of the HTTP library would end at 4 MiB."""
    try:
        if response.status >= 300:
            raise _error(response.status, response.reason or "", response.headers, await response.read())
        parts: list[bytes] = []
        length = 0
        async for chunk in response.content.iter_any():
            first, *lines = chunk.split(b"\n")
            parts.append(first)
            length += len(first)
            for line in lines:
                if length:
                    yield b"".join(parts)
                parts, length = [line], len(line)
            if length > LONGEST_LINE:
                raise LineTooLong(f"a watch event is longer than {LONGEST_LINE} bytes")
    finally:
        if response.connection is not None and response.connection.transport is not None:
            response.connection.transport.abort()  # nobody waits for the orderly end of a stream that is given up
        response.close()


def _error(status: int, reason: str, headers: Mapping[str, str], content: bytes) -> ApiError:
    """Read the `Status` that an error comes with; a proxy on the way may have answered with anything else."""
    try:
        said = msgspec.json.decode(content, type=_Status)
    except msgspec.DecodeError:
        said = _Status(message=content[:200].decode("utf-8", "replace"))
    wait = said.details.retryAfterSeconds if said.details else None
    with contextlib.suppress(KeyError, ValueError):
        wait = float(headers["Retry-After"])
    return ApiError(status, said.reason or reason, said.message, wait)


async def _end_program(error: BaseException) -> None:
    """End the login program that took too long; the library forgets it, but the frames of the error still hold it."""
    while error.__cause__ is not None:
        error = error.__cause__
    for frame, _ in traceback.walk_tb(error.__traceback__):
        program = frame.f_locals.get("proc")
        if isinstance(program, asyncio.subprocess.Process) and program.returncode is None:
            program.kill()
            await program.communicate()


def _content(file: str | None) -> bytes:
    return Path(file).read_bytes() if file else b""
