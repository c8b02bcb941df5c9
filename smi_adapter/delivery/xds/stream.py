"""The state machine of one delta ADS stream: what to send next, given what was asked, acknowledged and changed.

No I/O and no clock: the server (`server.py`) feeds it requests, changes and the time, and writes what `next_message`
returns. So every rule of envoy.md, sections 5, 6 and 10 is tested with a client in the same process.

Three ideas carry it. *One unanswered message a type*: what changes meanwhile is merged, and goes when the answer
comes. *Generations*: each published configuration has a number; a route of generation 7 may go when no cluster or
endpoint of generation 7 or before is unacknowledged, and a cluster may be taken away a grace time after everything up
to the generation of its removal is acknowledged. *Suspicion*: of a refused message with several resources each is sent
again alone; refused bytes are remembered, and whoever is let in by them gets the closed form instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any, Final, Protocol

from smi_adapter.backends import Resource
from smi_adapter.delivery.xds import chunks
from smi_adapter.delivery.xds.catalogue import Changed
from smi_adapter.delivery.xds.subscription import ABSENT, NEVER, Pending, Sent, Subscription
from smi_adapter.delivery.xds.types import (
    CLUSTER,
    ENDPOINTS,
    LISTENER,
    MAKES,
    SEND_ORDER,
    WAITS,
    WILDCARD,
    bears_access,
)
from smi_adapter.envoy_api import version_of

_MOST_TYPES = 16
_ALL: Final = "*"


@dataclass(frozen=True, slots=True)
class Pace:
    """What a stream may cost, and how long things may take (security.md, section 11; times in seconds).

    `burst` changes of a type go at once, after that `per_second`; the answer to a request always goes at once.
    """

    response_bytes: int = 3_000_000
    strangers: int = 1000
    burst: int = 10
    per_second: float = 30.0
    grace: float = 5.0


class Sight(Protocol):
    """What the stream may see; a name outside is a name that does not exist."""

    def find(self, type_url: str, name: str) -> Resource | None:
        """Return the resource of that name."""
        ...

    def all(self, type_url: str) -> Iterable[Resource]:
        """Return all of a type."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """The proxy's answer to one message; `error` is "" if it took it."""

    type_url: str
    sent: Sent
    error: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """A resource that the proxy does not take, and what it said."""

    resource: Resource
    error: str


class _Verdict(Enum):
    """What to do about a name that is pending, other than to send its resource."""

    NEEDLESS = auto()
    REMOVE = auto()
    LATER = auto()


@dataclass(slots=True)
class _Leaving:
    """Something that the proxy still has and is to lose once `generation` is in force and a grace has passed."""

    generation: int
    grace: float
    ripe_at: float | None = None


class OverLimitError(Exception):
    """The proxy asks for more than it may; its stream ends."""


class Stream:
    """One proxy's stream."""

    def __init__(
        self, sight: Sight, pace: Pace, *, slot: float = 0.0, on_answer: Callable[[Answer], None] | None = None
    ) -> None:
        """`slot`: at which part of a second removals are said; streams that differ in it do not all speak at once."""
        self.slot = slot
        self.subscriptions: dict[str, Subscription] = {}
        self.refusals: dict[tuple[str, str], Refusal] = {}
        self.last_error = ""
        self._ordered: list[Subscription] = []
        self._sight = sight
        self._pace = pace
        self._on_answer = on_answer
        self._generation = 1
        self._nonce = 0
        self._leaving: dict[tuple[str, str], _Leaving] = {}
        self._reheat: set[str] = set()  # clusters that changed before the proxy asked for any endpoints
        self._inherited: list[Refusal] = []
        self._wake_at = math.inf

    # ---------------------------------------------------------------------------------------------- what comes in

    def on_request(self, request: Any) -> None:
        """Take a DeltaDiscoveryRequest: an answer, a change of what is asked for, or both."""
        subscription = self.subscriptions.get(request.type_url)
        if subscription is None:
            self._open(request)
            return
        if request.response_nonce:
            self._answered(subscription, request)
        for name in request.resource_names_unsubscribe:
            if name == _ALL and subscription.wildcard:
                subscription.wildcard = False
                for known in list(subscription.names):
                    self._drop(subscription, known)
            elif not subscription.wildcard:
                self._drop(subscription, name)
        for name in request.resource_names_subscribe:
            if name == _ALL and subscription.type_url in WILDCARD:
                self._ask_for_all(subscription, {})
            else:
                self._ask(subscription, name, None)

    def on_change(self, changes: Iterable[Changed], generation: int) -> None:
        """Take what a new configuration changes within sight, in the order of configurations."""
        self._generation = generation
        for type_url, name, resource in changes:
            subscription = self.subscriptions.get(type_url)
            if subscription is None or not subscription.wants(name):
                continue
            if resource is None:  # another part that is in sight may have it still
                resource = self._sight.find(type_url, name)  # noqa: PLW2901
            self.refusals.pop((type_url, name), None)
            subscription.add(name, Pending(resource, generation, generation))

    def inherit(self, refusals: Iterable[Refusal]) -> None:
        """Remember what the same proxy refused on an earlier stream, before its first request here."""
        self._inherited += refusals

    # ---------------------------------------------------------------------------------------------- what goes out

    def next_message(self, now: float) -> bytes | None:
        """Return the next response to write, or None; ask again after each event, and at `wake_at`."""
        self._wake_at = math.inf
        if self._leaving:
            self._ripen(now)
        for subscription in self._ordered:
            if subscription.outstanding is None and (subscription.pending or subscription.must_answer):
                message = self._compose(subscription, now)
                if message is not None:
                    return message
        return None

    @property
    def wake_at(self) -> float:
        """Return when `next_message` may have something to say without another event."""
        return self._wake_at

    # --------------------------------------------------------------------------------------------------- how it is

    @property
    def has_work(self) -> bool:
        """Tell whether `next_message` is worth asking."""
        return bool(self._leaving) or any(sub.pending or sub.must_answer for sub in self.subscriptions.values())

    @property
    def in_sync(self) -> bool:
        """Tell whether the proxy has acknowledged everything that it asked for and should have.

        It must have asked for clusters and listeners. What waits to be removed does not count: nothing uses it.
        """
        return (
            not self.refusals
            and all(type_url in self.subscriptions for type_url in WILDCARD)
            and all(
                sub.outstanding is None and not sub.pending and not sub.must_answer
                for sub in self.subscriptions.values()
            )
        )

    def acknowledged(self, published: int) -> int:
        """Return the last generation, of those up to `published`, of which nothing is left to say or unanswered.

        0 for a proxy that has not asked for clusters and listeners yet, or waits for its first answer.
        """
        subscriptions = self.subscriptions
        if any(url not in subscriptions or subscriptions[url].must_answer for url in WILDCARD):
            return 0
        return max(0, int(min(published, *(sub.oldest - 1 for sub in subscriptions.values()))))

    @property
    def waiting_since(self) -> float:
        """Return when the oldest unanswered message was sent; infinity if all are answered."""
        return min((sub.outstanding.at for sub in self.subscriptions.values() if sub.outstanding), default=math.inf)

    # ------------------------------------------------------------------------------------------------ subscribing

    def _open(self, request: Any) -> None:
        """Take the first request of a type; after a reconnect it says what the proxy holds."""
        if len(self.subscriptions) >= _MOST_TYPES:
            raise OverLimitError(f"more than {_MOST_TYPES} resource types")
        subscription = self.subscriptions[request.type_url] = Subscription(request.type_url)
        self._ordered.append(subscription)
        self._ordered.sort(key=lambda sub: SEND_ORDER.index(sub.type_url) if sub.type_url in SEND_ORDER else 99)
        for refusal in self._inherited:
            if refusal.resource.type_url == request.type_url:
                subscription.reject(refusal.resource, refusal.error)
        claimed = dict(request.initial_resource_versions)
        asked = request.resource_names_subscribe
        if request.type_url in WILDCARD and (not asked or _ALL in asked):
            self._ask_for_all(subscription, claimed)
        for name in asked:
            if name != _ALL or request.type_url not in WILDCARD:
                self._ask(subscription, name, claimed.get(name))
        if request.type_url == ENDPOINTS:
            self._reheat.clear()

    def _ask_for_all(self, subscription: Subscription, claimed: dict[str, str]) -> None:
        """Begin a wildcard: equal versions are skipped, what exists no more is taken away."""
        subscription.wildcard = True
        subscription.must_answer = True  # even with nothing, or Envoy waits
        generation = self._generation
        for resource in self._sight.all(subscription.type_url):
            version = claimed.pop(resource.name, None)
            if version is not None:
                subscription.names[resource.name] = resource.version if version == resource.version else version
            subscription.add(resource.name, Pending(resource, generation, generation, asked=True))
        for name, version in claimed.items():
            subscription.names[name] = version
            subscription.add(name, Pending(None, generation, generation))

    def _ask(self, subscription: Subscription, name: str, claimed: str | None) -> None:
        """Begin one name. Asked for again it is sent again; one that does not exist is told so, and remembered."""
        type_url = subscription.type_url
        resource = self._sight.find(type_url, name)
        if resource is not None:
            name = resource.name  # the catalogue's own strings: many streams, one name
            claimed = resource.version if claimed == resource.version else claimed
        elif claimed is None:
            subscription.strangers.add(name)
            if sum(len(sub.strangers) for sub in self.subscriptions.values()) > self._pace.strangers:
                raise OverLimitError(f"more than {self._pace.strangers} names that do not exist")
        generation = 0 if type_url in MAKES else self._generation
        subscription.names[name] = NEVER if claimed is None else claimed
        forced = claimed is None or (type_url == ENDPOINTS and name in self._reheat)
        subscription.add(name, Pending(resource, generation, self._generation, asked=True, forced=forced))

    def _drop(self, subscription: Subscription, name: str) -> None:
        subscription.drop(name)
        self.refusals.pop((subscription.type_url, name), None)

    # -------------------------------------------------------------------------------------------------- answering

    def _answered(self, subscription: Subscription, request: Any) -> None:
        """Take an ACK or a NACK; one of an older message says nothing any more."""
        sent = subscription.outstanding
        if sent is None or request.response_nonce != sent.nonce:
            return
        subscription.outstanding = None
        error = request.error_detail.message or "no reason given" if request.HasField("error_detail") else ""
        if error:
            subscription.refused += 1
            self.last_error = error
            self._suspect(subscription, sent, error)
        else:
            subscription.acknowledged += 1
            self._accept(subscription, sent)
        subscription.recount()
        if self._on_answer is not None:
            self._on_answer(Answer(subscription.type_url, sent, error))

    def _accept(self, subscription: Subscription, sent: Sent) -> None:
        names = subscription.names
        for resource in sent.resources:
            name = resource.name
            if subscription.wants(name):
                names[name] = resource.version
            subscription.alone.discard(name)
            subscription.strangers.discard(name)
        for name in sent.removed:
            if subscription.wildcard:
                names.pop(name, None)
            elif name in names:
                names[name] = ABSENT

    def _suspect(self, subscription: Subscription, sent: Sent, error: str) -> None:
        """Handle a NACK: one resource is the culprit; of several, some may be in force, and each is tried alone."""
        if len(sent.resources) == 1:
            subscription.reject(sent.resources[0], error)
        else:
            for resource in sent.resources:
                if subscription.wants(resource.name):
                    subscription.names[resource.name] = NEVER
                    subscription.alone.add(resource.name)
        again = [resource.name for resource in sent.resources] + list(sent.removed if sent.resources else ())
        for name in again:
            if subscription.wants(name):
                current = self._sight.find(subscription.type_url, name)
                subscription.add(name, Pending(current, sent.first, self._generation, asked=True))

    def _acceptable(self, subscription: Subscription, resource: Resource) -> Resource | None:
        """Return what to send for a resource: itself, its closed form once the proxy refused it, or nothing."""
        error = subscription.rejection(resource)
        if not error:
            return resource
        self.refusals[(resource.type_url, resource.name)] = Refusal(resource, error)
        if resource.closed is None:
            return None
        closed = replace(resource, body=resource.closed, version=version_of(resource.closed), closed=None)
        return None if subscription.rejection(closed) else closed

    # -------------------------------------------------------------------------------------------------- composing

    def _gate(self, subscription: Subscription) -> float:
        """Return the generation from which on resources of that type have to wait for clusters and endpoints."""
        if subscription.type_url not in WAITS:
            return math.inf
        return min((sub.oldest for url, sub in self.subscriptions.items() if url in MAKES), default=math.inf)

    def _compose(self, subscription: Subscription, now: float) -> bytes | None:
        """Make the next message of a type out of what is pending and may go now; None if nothing may."""
        resources, removed, asked = self._pick(subscription)
        if not resources and not removed and not (subscription.must_answer and not subscription.pending):
            return None
        asked |= subscription.must_answer
        if not asked and not self._paced(subscription, now):
            return None
        first = min(
            (subscription.pending.pop(name).first for name in [*(r.name for r in resources), *removed]),
            default=self._generation,
        )
        if subscription.type_url == CLUSTER:
            self._heat(subscription, resources, first)
        self._nonce += 1
        sent = Sent(f"{self._nonce:x}", tuple(resources), tuple(removed), first, now)
        subscription.outstanding = sent
        subscription.must_answer = False
        subscription.sent += 1
        subscription.recount()
        return chunks.response(subscription.type_url, sent.nonce, resources, removed)

    def _pick(self, subscription: Subscription) -> tuple[list[Resource], list[str], bool]:
        """Choose what goes into the next message: resources, names to remove, and whether the proxy waits for any.

        Forgets what need not be said. In the order in which it became pending, so nothing starves; a resource that
        bears access, or is under suspicion, is returned alone.
        """
        gate = self._gate(subscription)
        resources: list[Resource] = []
        removed: list[str] = []
        needless: list[str] = []
        asked = False
        size = 0
        for name, pending in subscription.pending.items():
            verdict = self._judge(subscription, name, pending, gate)
            if verdict is _Verdict.NEEDLESS:
                needless.append(name)
            elif verdict is _Verdict.REMOVE:
                removed.append(name)
                asked |= pending.asked
            elif isinstance(verdict, Resource):
                alone = name in subscription.alone or _bears_access(pending)
                size += chunks.size(verdict)
                if (resources or removed) and (alone or size > self._pace.response_bytes):
                    continue
                resources.append(verdict)
                asked |= pending.asked
                if alone:
                    break
        for name in needless:
            del subscription.pending[name]
            subscription.alone.discard(name)
        if needless:
            subscription.recount()
        return resources, removed, asked

    def _judge(self, subscription: Subscription, name: str, pending: Pending, gate: float) -> Resource | _Verdict:
        """Say what to do about one name now; a resource is to be sent."""
        if pending.resource is None:
            return _Verdict.REMOVE if self._may_remove(subscription, name, pending) else _Verdict.NEEDLESS
        resource = self._acceptable(subscription, pending.resource)
        if resource is None or (not pending.forced and subscription.names.get(name) == resource.version):
            return _Verdict.NEEDLESS
        if pending.last >= gate and not (_bears_access(pending) and subscription.holds(name)):
            return _Verdict.LATER  # what it refers to is on its way
        return resource

    def _may_remove(self, subscription: Subscription, name: str, pending: Pending) -> bool:
        """Tell whether to say now that a name is gone; if the proxy uses it still, it is put off (break after make).

        A Listener goes at once: its address may already belong to another one in the same message.
        """
        version = subscription.names.get(name)
        if version is None or (version is ABSENT and not pending.forced):
            return False
        if pending.asked or subscription.type_url == LISTENER or version is NEVER:
            return True
        grace = self._pace.grace if subscription.type_url == CLUSTER else 2 * self._pace.grace
        self._leaving[(subscription.type_url, name)] = _Leaving(pending.last, grace)
        self._wake_at = 0.0
        return False

    def _paced(self, subscription: Subscription, now: float) -> bool:
        """Tell whether a change may go now; isolated ones always may, a flood goes at the pace and merges."""
        interval = 1.0 / self._pace.per_second
        if subscription.earliest - now > (self._pace.burst - 1) * interval:
            self._wake_at = min(self._wake_at, subscription.earliest - (self._pace.burst - 1) * interval)
            return False
        subscription.earliest = max(subscription.earliest, now) + interval
        return True

    def _heat(self, clusters: Subscription, resources: Iterable[Resource], generation: int) -> None:
        """Have the endpoints of changed clusters sent again: Envoy does not ask, and would wait 15 s for them."""
        endpoints = self.subscriptions.get(ENDPOINTS)
        for resource in resources:
            if not clusters.holds(resource.name) and clusters.names.get(resource.name) is not NEVER:
                continue  # new to the proxy: it asks
            if endpoints is None:
                self._reheat.add(resource.name)
            elif resource.name in endpoints.names:
                found = self._sight.find(ENDPOINTS, resource.name)
                endpoints.add(resource.name, Pending(found, generation, generation, asked=True, forced=True))

    # --------------------------------------------------------------------------------------------------- removing

    def _ripen(self, now: float) -> None:
        """Take away what nothing uses any more: all of its generation is in force, and the grace is over."""
        oldest = min((sub.oldest for sub in self.subscriptions.values()), default=math.inf)
        done: list[tuple[str, str]] = []
        for key, leaving in self._leaving.items():
            if leaving.ripe_at is None:
                if oldest <= leaving.generation:
                    continue
                due = math.ceil(now + leaving.grace - self.slot)  # what leaves within a second goes together
                leaving.ripe_at = due + self.slot
            if leaving.ripe_at > now:
                self._wake_at = min(self._wake_at, leaving.ripe_at)
                continue
            done.append(key)
        for type_url, name in done:
            del self._leaving[(type_url, name)]
            subscription = self.subscriptions[type_url]
            if subscription.holds(name) and self._sight.find(type_url, name) is None:
                subscription.add(name, Pending(None, self._generation, self._generation, asked=True))


def _bears_access(pending: Pending) -> bool:
    return pending.resource is not None and bears_access(pending.resource)
