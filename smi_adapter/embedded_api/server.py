"""The HTTP server: paths, formats and watches of the Kubernetes API.

It decides who may ask (a bearer token over TLS, loopback addresses, our own Host names), finds the kind and the object
behind a path, and says the answer in the form that was asked for: objects, lists, tables, a stream of events. What a
request means is decided in `writes` and `views`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from aiohttp import web

from smi_adapter.embedded_api import answers, discovery, openapi, patches, views
from smi_adapter.embedded_api.access import Access, AddressError, new_access, write_private
from smi_adapter.embedded_api.answers import RefusedError
from smi_adapter.embedded_api.bodies import body as body_of
from smi_adapter.embedded_api.deletion import Deletion, deletion, dry_run
from smi_adapter.embedded_api.kinds import Kind, by_path
from smi_adapter.embedded_api.scale import scale_of, scaled
from smi_adapter.embedded_api.selectors import Test, selected
from smi_adapter.embedded_api.shelf import Shelf
from smi_adapter.embedded_api.store import Change, Entry, ExpiredError, Store
from smi_adapter.embedded_api.tables import columns_of, table
from smi_adapter.embedded_api.writes import Target, Writer

_log = logging.getLogger(__name__)

MAX_BODY = 1 << 20
BOOKMARK_EVERY = 30.0
WATCH_AT_MOST = 3600

_OF_A_NODE = frozenset({"log", "exec", "attach", "portforward", "ephemeralcontainers"})
"""Subresources of a Pod for which a real API server asks its node."""

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a path names."""

    kind: Kind
    version: str
    namespace: str
    name: str = ""
    part: str = ""


class ApiServer:
    """Serves a store; `start` makes the kubeconfig file, `stop` ends every watch."""

    def __init__(self, store: Store, shelf: Shelf) -> None:
        self._store = store
        self._writer = Writer(store, shelf)
        self._runner: web.AppRunner | None = None
        self._access: Access | None = None
        self._hosts: frozenset[str] = frozenset()
        self._stopping = asyncio.Event()
        self._kubeconfig: Path | None = None
        self.url = ""

    # ------------------------------------------------------------------------------------------------------ life
    async def start(self, host: str, port: int, kubeconfig: Path, namespace: str = "default") -> None:
        """Listen, then write the kubeconfig file, readable by its owner alone; it goes again with `stop`."""
        self._access = new_access(host)
        application = web.Application(middlewares=[self._guard], client_max_size=MAX_BODY)
        application.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port, ssl_context=self._access.context())
        try:
            await site.start()
        except OSError as error:
            raise AddressError(f"the API can't listen on {host}:{port}: {error.strerror}") from error
        bound = self._runner.addresses[0][1]
        written = f"[{host}]" if ":" in host else host
        self._hosts = frozenset({f"{written}:{bound}", f"localhost:{bound}"})
        self.url = f"https://{written}:{bound}"
        write_private(kubeconfig, self._access.kubeconfig(self.url, namespace))
        self._kubeconfig = kubeconfig

    async def stop(self) -> None:
        """End the watches and stop listening."""
        self._stopping.set()
        if self._kubeconfig is not None:
            self._kubeconfig.unlink(missing_ok=True)
        if self._runner is not None:
            await self._runner.cleanup()

    # ------------------------------------------------------------------------------------------------- the guard
    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let in only who has the token and calls us by our own name; say every refusal as a Status."""
        try:
            self._check(request)
            return await handler(request)
        except RefusedError as error:
            return _json(error.status(), status=error.code)
        except web.HTTPRequestEntityTooLarge:
            refused = RefusedError(413, "RequestEntityTooLarge", f"the request is larger than {MAX_BODY} bytes")
            return _json(refused.status(), status=413)
        except web.HTTPException:
            raise
        except Exception:  # noqa: BLE001 - it hurts this request alone
            _log.exception("internal error, please report it")
            refused = RefusedError(500, "InternalError", "an internal error; the log of smi-adapter has more")
            return _json(refused.status(), status=500)

    def _check(self, request: web.Request) -> None:
        if request.host not in self._hosts:
            raise RefusedError(403, "Forbidden", "this server does not go by that name")
        access = self._access
        if access is None or not access.allows(request.headers.get("Authorization", "")):
            raise RefusedError(401, "Unauthorized", "Unauthorized")

    # -------------------------------------------------------------------------------------------------- the paths
    async def _answer(self, request: web.Request) -> web.StreamResponse:
        parts = [part for part in request.path.split("/") if part]
        fixed = self._fixed(parts) if request.method == "GET" else None
        if isinstance(fixed, str):
            return web.Response(text=fixed)
        if fixed is not None:
            return _json(fixed)
        if parts == ["openapi", "v2"] and request.method == "GET":
            return _openapi_v2(request)
        wanted = _wanted(parts)
        if wanted is None:
            raise answers.no_such_path()
        if not self._store.synced:
            raise RefusedError(503, "ServiceUnavailable", "the files have not been read yet")
        if wanted.part:
            return await self._part(request, wanted)
        if wanted.name:
            return await self._one(request, wanted)
        return await self._many(request, wanted)

    def _fixed(self, parts: list[str]) -> Mapping[str, Any] | str | None:
        """Return the answers that are always the same."""
        match parts:
            case ["healthz" | "livez" | "readyz"]:
                return "ok"
            case ["openapi", "v3"]:
                return openapi.index()
            case ["openapi", "v3", *rest]:
                return openapi.document(*_group_version(rest)) if len(rest) in {2, 3} else None
            case ["api"]:
                return discovery.core_versions(self.url.removeprefix("https://"))
            case ["api", _] | ["apis", _, _]:
                return discovery.resources(*_group_version(parts))
            case _:
                return discovery.answer(parts)

    # -------------------------------------------------------------------------------------------------- one object
    async def _one(self, request: web.Request, wanted: Wanted) -> web.StreamResponse:
        target = _target(request, wanted)
        match request.method:
            case "GET":
                return self._say(request, wanted, self._found(wanted))
            case "PUT":
                written = await self._writer.replace(target, await body_of(request))
            case "PATCH":
                written = await self._patch(request, target)
            case "DELETE":
                return _json(await self._writer.delete(target, await _deletion(request, wanted.kind)))
            case _:
                raise answers.not_allowed(f"{request.method} is not done on one object")
        return self._say(request, wanted, written.value, written.warnings, created=written.created)

    def _found(self, wanted: Wanted) -> dict[str, Any]:
        entry = self._store.get(wanted.kind.ref(wanted.namespace, wanted.name))
        if entry is None:
            raise answers.not_found(wanted.kind, wanted.name)
        return self._seen(wanted, entry)

    def _seen(self, wanted: Wanted, entry: Entry) -> dict[str, Any]:
        return views.shown(entry, wanted.kind, wanted.version, self._store)

    async def _patch(self, request: web.Request, target: Target) -> Any:
        body, how = await body_of(request), request.content_type
        if how == "application/apply-patch+yaml":
            return await self._writer.apply(target, body)
        changes: dict[str, Callable[[Any, Any], Any]] = {
            "application/merge-patch+json": patches.merge,
            "application/json-patch+json": patches.json_patch,
        }
        if not target.kind.smi:
            changes["application/strategic-merge-patch+json"] = patches.strategic
        if how not in changes:
            raise RefusedError(415, "UnsupportedMediaType", f"a patch of type {how} is not understood here")
        change = changes[how]
        return await self._writer.patch(target, lambda before: change(before, body))

    async def _part(self, request: web.Request, wanted: Wanted) -> web.StreamResponse:
        """Answer for a subresource: the status is read only, the scale of a workload is its replicas."""
        kind = wanted.kind
        if kind.name == "Pod" and wanted.part in _OF_A_NODE:
            raise self._without_a_node(wanted)
        if wanted.part == "status" and kind.smi:
            if request.method != "GET":
                raise answers.not_allowed("statuses are written by smi-adapter alone")
            return self._say(request, wanted, self._found(wanted))
        if wanted.part != "scale" or not kind.scale:
            raise answers.no_such_path()
        if request.method == "GET":
            return _json(scale_of(self._found(wanted)))
        if request.method not in {"PUT", "PATCH"}:
            raise answers.not_allowed(f"{request.method} is not done on a scale")
        body = await body_of(request)
        written = await self._writer.patch(_target(request, wanted), partial(scaled, body=body))
        return _json(scale_of(written.value))

    def _without_a_node(self, wanted: Wanted) -> RefusedError:
        """Say where to find what a node would answer for: a Pod is processes of this machine."""
        self._found(wanted)
        folder = self._kubeconfig.parent if self._kubeconfig else ""
        if wanted.part == "log":
            files = f"{folder}/{wanted.namespace}_{wanted.name}_*.log"
            return answers.not_allowed(f"logs are files here: {files} (`smi-adapter status` lists what runs)")
        why = "a Pod is processes of this machine here; `smi-adapter status` lists them with their addresses"
        return answers.not_allowed(f"{wanted.part} is not done: {why}")

    # ----------------------------------------------------------------------------------------------- many objects
    async def _many(self, request: web.Request, wanted: Wanted) -> web.StreamResponse:
        if request.method == "POST":
            written = await self._writer.create(_target(request, wanted), await body_of(request))
            return self._say(request, wanted, written.value, written.warnings, created=True)
        test = selected(request.query.get("labelSelector", ""), request.query.get("fieldSelector", ""))
        if request.method == "GET" and request.query.get("watch") in {"true", "1"}:
            return await self._watch(request, wanted, test)
        found = [
            item
            for entry in self._store.entries(wanted.kind, wanted.namespace)
            if test(item := self._seen(wanted, entry))
        ]
        revision = str(self._store.revision)
        if request.method == "DELETE":
            options = await _collection(request, wanted)
            for item in found:
                metadata = item["metadata"]
                one = Wanted(wanted.kind, wanted.version, metadata.get("namespace", ""), metadata["name"])
                await self._writer.delete(_target(request, one), options)
        elif request.method != "GET":
            raise answers.not_allowed(f"{request.method} is not done on a collection")
        elif _as_table(request):
            return _json(self._table(request, wanted, found, revision))
        return _json(
            {
                "kind": f"{wanted.kind.name}List",
                "apiVersion": wanted.kind.api_version(wanted.version),
                "metadata": {"resourceVersion": revision},
                "items": found,
            }
        )

    def _table(
        self, request: web.Request, wanted: Wanted, items: list[dict[str, Any]], revision: str, *, heads: bool = True
    ) -> dict[str, Any]:
        include = request.query.get("includeObject", "Metadata")
        made = table(columns_of(wanted.kind, wanted.version), items, now=time.time(), include=include, heads=heads)
        return {**made, "metadata": {"resourceVersion": revision}}

    def _say(
        self,
        request: web.Request,
        wanted: Wanted,
        item: dict[str, Any],
        warnings: tuple[str, ...] = (),
        *,
        created: bool = False,
    ) -> web.Response:
        if _as_table(request) and request.method == "GET":
            return _json(self._table(request, wanted, [item], item["metadata"]["resourceVersion"]))
        response = _json(item, status=201 if created else 200)
        for warning in warnings:
            response.headers.add("Warning", f"299 - {json.dumps(warning)}")
        return response

    # ------------------------------------------------------------------------------------------------- the watch
    async def _watch(self, request: web.Request, wanted: Wanted, test: Test) -> web.StreamResponse:
        """Stream events until the client leaves or its time is up."""
        seconds = min(_number("timeoutSeconds", request.query.get("timeoutSeconds") or "3600"), WATCH_AT_MOST)
        asked = request.query.get("resourceVersion", "")
        begin = None if asked in {"", "0"} else _number("resourceVersion", asked)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        with contextlib.suppress(TimeoutError, ConnectionResetError):
            async with asyncio.timeout(seconds):
                heads = True
                async for kind, item in self._events(request, wanted, test, begin):
                    body: Any = item
                    if _as_table(request) and kind not in {"ERROR", "BOOKMARK"}:
                        revision = item["metadata"]["resourceVersion"]
                        body, heads = self._table(request, wanted, [item], revision, heads=heads), False
                    await response.write(json.dumps({"type": kind, "object": body}).encode() + b"\n")
        with contextlib.suppress(ConnectionResetError):
            await response.write_eof()
        return response

    async def _events(
        self, request: web.Request, wanted: Wanted, test: Test, begin: int | None
    ) -> AsyncIterator[tuple[str, Any]]:
        query = request.query
        bookmarks = query.get("allowWatchBookmarks") in {"true", "1"}
        initial = query.get("sendInitialEvents") in {"true", "1"}
        at = self._store.revision if begin is None or initial else begin
        if begin is None or initial:
            for entry in self._store.entries(wanted.kind, wanted.namespace):
                if test(item := self._seen(wanted, entry)):
                    yield "ADDED", item
            if initial and bookmarks:
                yield "BOOKMARK", self._bookmark(wanted, at, {"k8s.io/initial-events-end": "true"})
        while not self._stopping.is_set():
            try:
                changes = self._store.since(at)
            except ExpiredError as error:
                yield "ERROR", answers.gone(error.asked, error.oldest).status()
                return
            for change in changes:
                at = change.revision
                if event := self._event(change, wanted, test):
                    yield event
            if self._store.revision == at and not await self._news() and bookmarks:
                yield "BOOKMARK", self._bookmark(wanted, at, {})

    async def _news(self) -> bool:
        """Wait for a change, or the end of the run; False: it was quiet for long."""
        waits = [asyncio.ensure_future(self._store.moved()), asyncio.ensure_future(self._stopping.wait())]
        try:
            done, _ = await asyncio.wait(waits, timeout=BOOKMARK_EVERY, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()
        return bool(done)

    def _event(self, change: Change, wanted: Wanted, test: Test) -> tuple[str, Any] | None:
        """Return what a change is to a watch: an object that no longer fits its selectors is deleted for it."""
        before, after = (self._fits(entry, wanted, test) for entry in (change.before, change.after))
        if after is not None:
            return ("ADDED" if before is None else "MODIFIED"), after
        if before is not None:
            before["metadata"]["resourceVersion"] = str(change.revision)
            return "DELETED", before
        return None

    def _fits(self, entry: Entry | None, wanted: Wanted, test: Test) -> dict[str, Any] | None:
        if entry is None or not wanted.kind.holds(entry.ref):
            return None
        if wanted.namespace and entry.ref.namespace != wanted.namespace:
            return None
        item = self._seen(wanted, entry)
        return item if test(item) else None

    def _bookmark(self, wanted: Wanted, revision: int, annotations: dict[str, str]) -> dict[str, Any]:
        metadata: dict[str, Any] = {"resourceVersion": str(revision)}
        if annotations:
            metadata["annotations"] = annotations
        api = wanted.kind.api_version(wanted.version)
        return {"kind": wanted.kind.name, "apiVersion": api, "metadata": metadata}


# ------------------------------------------------------------------------------------------------------- requests
def _group_version(parts: list[str]) -> tuple[str, str]:
    """Return group and version of `api/v1` and `apis/GROUP/VERSION`."""
    return (parts[1], parts[2]) if len(parts) == 3 else ("", parts[1])


def _wanted(parts: list[str]) -> Wanted | None:
    """Return what a path names; None: no kind of ours."""
    match parts:
        case ["api", version, *rest]:
            group = ""
        case ["apis", group, version, *rest]:
            pass
        case _:
            return None
    namespace = ""
    if rest[:1] == ["namespaces"] and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    if not rest or len(rest) > 3:
        return None
    kind = by_path(group, version, rest[0])
    if kind is None or (namespace and not kind.namespaced):
        return None
    name, part = (*rest[1:], "", "")[:2]
    return Wanted(kind, version, namespace, name, part)


def _target(request: web.Request, wanted: Wanted) -> Target:
    query = request.query
    namespace = wanted.namespace
    if wanted.kind.namespaced and not namespace:
        raise answers.bad_request("an object of this kind is written within its namespace")
    agent = request.headers.get("User-Agent", "unknown").partition("/")[0]
    return Target(
        wanted.kind,
        wanted.version,
        namespace,
        wanted.name,
        who=query.get("fieldManager") or agent,
        validation=query.get("fieldValidation") or "Warn",
        dry_run=dry_run(query.getall("dryRun", None)),
        force=query.get("force") in {"true", "1"},
    )


async def _deletion(request: web.Request, kind: Kind) -> Deletion:
    """Return how to delete; a body that is not there at all asks for nothing special."""
    said = await body_of(request) if request.can_read_body and await request.read() else {}
    return deletion(kind, request.query, said)


async def _collection(request: web.Request, wanted: Wanted) -> Deletion:
    """Return how to delete several objects at once: those of one namespace, all that were selected."""
    if not wanted.namespace:
        raise answers.not_allowed(f"{wanted.kind.resource} are deleted together in one namespace only")
    options = await _deletion(request, wanted.kind)
    if options.uid or options.revision or {"limit", "continue"} & request.query.keys():
        raise answers.bad_request("a deletion of several objects has no preconditions and no limit here")
    return options


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > 20:
        raise answers.bad_request(f"{name}: {text[:40]!r} is no number")
    return int(text)


def _openapi_v2(request: web.Request) -> web.Response:
    """Answer with a document of the old form that describes nothing; as protobuf, that is no bytes at all.

    kubectl asks for it about kinds that are in no document of the new form, and only goes on if there is one: then it
    finds out from the discovery that the kind is not served, says so, and does the rest.
    """
    if "protobuf" in request.headers.get("Accept", ""):
        return web.Response(body=b"", headers={"Content-Type": openapi.V2_PROTOBUF})
    return _json(openapi.V2)


def _as_table(request: web.Request) -> bool:
    return "as=Table" in request.headers.get("Accept", "")


def _json(value: Mapping[str, Any], *, status: int = 200) -> web.Response:
    return web.Response(body=json.dumps(value).encode(), status=status, content_type="application/json")
