"""From the bytes of the API to the few facts that we keep of each object.

A Pod has about 200 fields and 5 kB; we read 15 of them. msgspec decodes these and skips the rest, so that a page of
500 objects costs about as much as two typed ones. What `decode` does not read is not kept either, which makes
"did anything that matters change" a comparison of two values. SMI objects stay whole, without `managedFields`.
What is kept is kept as JSON text: as objects of Python it would take six times the memory, for ever.

Nothing that somebody writes into one object may hide the others of its page. A page that can't be decoded at once is
decoded object by object; one that is nested too deeply for any decoder is taken apart by a scanner that does not
recurse. What stays unreadable is handed on as a stand-in that `decode` turns into a finding on that object.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec
from msgspec.structs import replace

from smi_adapter.cluster.client import Resource
from smi_adapter.decode import forms
from smi_adapter.decode.forms import PREFIX, SERVICE_NAME, UNREADABLE, ClusterPodForm, MetaForm

END_OF_LIST = "k8s.io/initial-events-end"
"""Annotation of the bookmark that completes a streaming list."""


_TOO_DEEP: Final = "it is nested too deeply"
_encode: Final = msgspec.json.encode


class NotJSONError(ValueError):
    """An answer that is no JSON document of the expected kind: cut off, or not from an API server."""


Kept: TypeAlias = bytes
"""What is kept of an object: equal if nothing that matters changed. `Projection.raw` turns it into a manifest."""


class Item(NamedTuple):
    """One object: its name, its resource version and identity, and what is kept of it.

    `value` is what `decode` reads; `status` is kept for those who write it (SMI objects only), as JSON text too.
    """

    namespace: str
    name: str
    version: str
    uid: str
    value: Kept
    status: bytes | None = None


class Page(NamedTuple):
    """One page of a list."""

    items: list[Item]
    version: str
    token: str


class Event(NamedTuple):
    """One event of a watch. `status` is the code of an ERROR event."""

    type: str
    version: str = ""
    item: Item | None = None
    complete: bool = False
    status: int = 0
    reason: str = ""
    message: str = ""
    retry_after: float | None = None


class _ListMeta(msgspec.Struct):
    resourceVersion: str = ""  # noqa: N815 - Kubernetes' name
    token: str = msgspec.field(default="", name="continue")


class _RawPage(msgspec.Struct):
    metadata: _ListMeta = msgspec.field(default_factory=_ListMeta)
    items: list[msgspec.Raw] | None = None


class _RawEvent(msgspec.Struct):
    type: str
    object: msgspec.Raw = msgspec.Raw(b"null")


class Head(msgspec.Struct):
    """What names an object."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resourceVersion: str = ""  # noqa: N815
    annotations: Mapping[str, Any] | None = None


class _Headed(msgspec.Struct):
    metadata: Head = msgspec.field(default_factory=Head)


class _Error(msgspec.Struct):
    class Details(msgspec.Struct):
        retryAfterSeconds: float | None = None  # noqa: N815

    code: int = 0
    reason: str = ""
    message: str = ""
    details: Details | None = None


class _ItemMeta(MetaForm, frozen=True):
    """`metadata` as `decode` reads it, and what tells one state of an object from the next."""

    uid: str = ""
    resource_version: str = ""


def _with_version(form: type[Any]) -> type[Any]:
    """Return the form with our `metadata` in place of its own."""
    fields = [
        (field.name, _ItemMeta if field.name == "metadata" else field.type, msgspec.field(name=field.encode_name))
        if field.required
        else (field.name, field.type, msgspec.field(default=field.default, name=field.encode_name))
        for field in msgspec.structs.fields(form)
    ]
    return msgspec.defstruct(f"{form.__name__}Item", fields, frozen=True, gc=False)


def _lean_meta(meta: _ItemMeta, labels: dict[str, str] | None) -> _ItemMeta:
    ours = {key: text for key, text in (meta.annotations or {}).items() if key.startswith(PREFIX)} or None
    return replace(meta, labels=labels, annotations=ours, uid="", resource_version="")


def _lean_namespace(item: Any) -> Any:
    return replace(item, metadata=replace(item.metadata, uid="", resource_version=""))


def _lean_account(item: Any) -> Any:
    return replace(item, metadata=_ItemMeta(item.metadata.name, item.metadata.namespace, uid=item.metadata.uid))


def _lean_service(item: Any) -> Any:
    return replace(item, metadata=_lean_meta(item.metadata, item.metadata.labels))


def _lean_slice(item: Any) -> Any:
    service = (item.metadata.labels or {}).get(SERVICE_NAME)
    return replace(item, metadata=_lean_meta(item.metadata, {SERVICE_NAME: service} if service else None))


def _lean_pod(item: Any) -> Any:
    status = item.status
    if status is not None:
        ready = [condition for condition in status.conditions or () if condition.type == "Ready"]
        status = replace(status, conditions=ready or None)
    lean = replace(_lean_meta(item.metadata, item.metadata.labels), uid=item.metadata.uid)
    return replace(item, metadata=lean, status=status)


_FORMS: Mapping[tuple[str, str], tuple[type[Any], Callable[[Any], Any]]] = MappingProxyType(
    {
        ("", "Namespace"): (forms.NamespaceForm, _lean_namespace),
        ("", "Service"): (forms.ServiceForm, _lean_service),
        ("", "ServiceAccount"): (forms.NamespaceForm, _lean_account),
        ("", "Pod"): (ClusterPodForm, _lean_pod),
        ("discovery.k8s.io", "EndpointSlice"): (forms.EndpointSliceForm, _lean_slice),
    }
)


class Projection:
    """Reads lists and events of one kind."""

    def __init__(self, resource: Resource) -> None:
        self._resource = resource
        known = _FORMS.get((resource.group, resource.kind))
        self._one: Callable[[bytes | msgspec.Raw], Item] = self._whole
        self._page: msgspec.json.Decoder[Any] | None = None
        if known is not None:
            item = _with_version(known[0])
            self._lean = known[1]
            self._typed = msgspec.json.Decoder(item)
            self._one = self._projected
            items: Any = list[item]  # type: ignore[valid-type] # made above
            fields = [("metadata", _ListMeta, msgspec.field(default_factory=_ListMeta)), ("items", items | None, None)]
            self._page = msgspec.json.Decoder(msgspec.defstruct("TypedPage", fields))

    def page(self, content: bytes) -> Page:
        """Read one page; an object that can't be read becomes a stand-in, and the others are read all the same."""
        if self._page is not None:
            try:
                page = self._page.decode(content)
                items = [self._kept(item) for item in page.items or ()]
            except (msgspec.MsgspecError, ValueError, RecursionError):  # one of them; which, the slow way tells
                pass
            else:
                return Page(items, page.metadata.resourceVersion, page.metadata.token)
        try:
            raw = msgspec.json.decode(content, type=_RawPage)
            return Page([self.item(one) for one in raw.items or ()], raw.metadata.resourceVersion, raw.metadata.token)
        except RecursionError:
            head = msgspec.json.decode(pruned(content, 2), type=_RawPage).metadata
            return Page([self.item(one) for one in _items(content)], head.resourceVersion, head.token)
        except (msgspec.MsgspecError, ValueError) as error:
            raise NotJSONError(f"the list of {self._resource.plural} can't be read: {error}") from error

    def event(self, line: bytes) -> Event:
        """Read one event of a watch."""
        try:
            raw = msgspec.json.decode(line, type=_RawEvent)
            content = bytes(raw.object)
        except RecursionError:
            raw = msgspec.json.decode(pruned(line, 1), type=_RawEvent)
            content = line[line.index(b"{", 1) : line.rindex(b"}")]
        except (msgspec.MsgspecError, ValueError) as error:
            raise NotJSONError(f"an event of {self._resource.plural} can't be read: {error}") from error
        if raw.type == "ERROR":
            return _error(content)
        if raw.type == "BOOKMARK":
            head = _head(content)
            return Event("BOOKMARK", head.resourceVersion, complete=END_OF_LIST in (head.annotations or {}))
        item = self.item(content)
        return Event(raw.type, item.version, item)

    def item(self, content: bytes | msgspec.Raw) -> Item:
        """Read one object: its projection, else all of it (for `decode` to say what is wrong), else a stand-in."""
        try:
            return self._one(content)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            pass
        try:
            return self._whole(content)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            deep = isinstance(error, RecursionError)
            return self.stand_in(_head(content), _TOO_DEEP if deep else str(error))

    def _projected(self, content: bytes | msgspec.Raw) -> Item:
        return self._kept(self._typed.decode(content))

    def _kept(self, item: Any) -> Item:
        """Keep what decides something; what is left out here is nothing that `decode` reads."""
        metadata: _ItemMeta = item.metadata
        value = _encode(self._lean(item))
        namespace = sys.intern(metadata.namespace or "")
        return Item(namespace, metadata.name, metadata.resource_version, metadata.uid, value)

    def raw(self, value: Kept) -> dict[str, Any]:
        """Return what was kept as a manifest, as `decode` takes it."""
        try:
            manifest: dict[str, Any] = msgspec.json.decode(value)
        except RecursionError:  # it was read with fewer calls on the stack than there are now
            manifest = {"metadata": msgspec.to_builtins(_head(value)), UNREADABLE: _TOO_DEEP}
        manifest["apiVersion"], manifest["kind"] = self._resource.api_version, self._resource.kind
        return manifest

    def _whole(self, content: bytes | msgspec.Raw) -> Item:
        fields = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
        metadata = msgspec.json.decode(fields["metadata"], type=dict[str, msgspec.Raw])
        metadata.pop("managedFields", None)
        version = metadata.pop("resourceVersion", None)
        fields["metadata"] = msgspec.Raw(_encode(metadata))
        status = fields.pop("status", None)
        value = _encode(fields)
        shown = msgspec.json.decode(value)["metadata"]
        uid = str(shown.get("uid", ""))  # stays: wire reads by it, too
        namespace, name = (str(shown.get(field) or "") for field in ("namespace", "name"))
        text = "" if version is None else str(msgspec.json.decode(version))
        return Item(namespace, name, text, uid, value, bytes(status) if status and status != b"null" else None)

    def stand_in(self, head: Head, why: str) -> Item:
        """Return what stands for an object that can't be read; `decode` makes a finding of it."""
        value = {
            "apiVersion": self._resource.api_version,
            "kind": self._resource.kind,
            "metadata": {"name": head.name, "namespace": head.namespace},
            UNREADABLE: why,
        }
        return Item(head.namespace, head.name, head.resourceVersion, head.uid, _encode(value))


def status_of(text: bytes | None) -> Any:
    """Return a status that was kept as text; None if there is none, or none that can be read."""
    try:
        return None if text is None else msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):  # anybody with the right may have written it
        return None


def _head(content: bytes | msgspec.Raw) -> Head:
    """Return what names an object, whatever else is wrong with it."""
    try:
        return msgspec.json.decode(content, type=_Headed).metadata
    except RecursionError:
        return msgspec.json.decode(pruned(bytes(content), 3), type=_Headed).metadata


def _error(content: bytes) -> Event:
    try:
        said = msgspec.json.decode(content, type=_Error)
    except msgspec.MsgspecError as error:
        raise NotJSONError(f"an ERROR event can't be read: {error}") from error
    wait = said.details.retryAfterSeconds if said.details else None
    return Event("ERROR", status=said.code, reason=said.reason, message=said.message, retry_after=wait)


# --------------------------------------------------------------------- JSON that is nested too deeply for a decoder
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)


def _brackets(text: bytes) -> Iterator[tuple[int, int]]:
    """Yield each bracket outside of strings: where it is, and how deep we are after it (negative: it closes)."""
    depth = 0
    for token in _TOKEN.finditer(text):
        character = text[token.start()]
        if character in b"[{":
            depth += 1
            yield token.start(), depth
        elif character in b"]}":
            depth -= 1
            yield token.start(), -depth - 1


def pruned(text: bytes, levels: int) -> bytes:
    """Return a JSON text with null in place of everything that is nested more deeply than so many levels."""
    parts: list[bytes] = []
    kept = 0
    for at, depth in _brackets(text):
        if depth == levels + 1:
            parts += [text[kept:at], b"null"]
        elif -depth - 1 == levels:
            kept = at + 1
    return b"".join([*parts, text[kept:]])


def _items(page: bytes) -> Iterator[bytes]:
    """Yield the objects of a list: what stands at the third level, in brackets, of the array `items`."""
    start = 0
    for at, depth in _brackets(page):
        if depth == 3 and page[at] == ord("{"):
            start = at
        elif depth == -3 and page[at] == ord("}") and start:
            yield page[start : at + 1]
