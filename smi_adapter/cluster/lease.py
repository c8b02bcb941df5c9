"""Leader election on a Lease: which of several replicas writes status, Events and generated objects.

Serving proxies, webhooks and metrics never depends on it. Own code, because a library's election that never looks at
the clock while a request hangs is how two leaders come about. The rules (kubernetes.md, 1.4):

- our hold is judged by our monotonic clock since the *start* of the last renewal that worked; a renewal, however it
  hangs, ends with the renew deadline, and then the lease is lost and nothing may be written any more;
- another holder is judged by when *we* saw its record change, never by the time that stands in it;
- every write of the Lease carries its resourceVersion, so of two candidates one fails.

`left()` is what writers ask before each write, and what bounds their requests: who is frozen and wakes up later finds
no time left.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from smi_adapter.cluster.client import ApiError, Resource, Unreachable
from smi_adapter.cluster.pace import Api, read

_log = logging.getLogger(__name__)

LEASES: Final = Resource("coordination.k8s.io", "v1", "leases", "Lease")

ADDRESS: Final = "smi-adapter.io/leader-address"


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds: how long a lease is good for, when to give up renewing it, and the pause between two tries."""

    duration: float = 15.0
    renew: float = 10.0
    retry: float = 2.0


class LeaseLostError(Exception):
    """We were the leader and are not any more: the process has to end, so that nothing of it writes on."""


class LeaseExpiredError(LeaseLostError):
    """We could not renew in time, as the API is away or we were frozen.

    Nothing may be written, but there is much to serve, and nobody else could do it better: run again (F2).
    """


@dataclass(frozen=True, slots=True)
class _Seen:
    """Another holder's record, and when we saw it change."""

    record: tuple[Any, ...]
    at: float


class Lease:
    """One candidate. `holder` must be unique: the pod's name with something random.

    `address`: where the others reach this one while it leads.
    """

    def __init__(  # noqa: PLR0913 - what is there to choose
        self,
        api: Api,
        namespace: str,
        name: str,
        holder: str,
        *,
        timing: Timing = Timing(),
        address: str = "",
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        self.holder = holder
        self.address = address
        self.acquired = asyncio.Event()
        self._api = api
        self._collection = LEASES.path(namespace)
        self._path = LEASES.path(namespace, name)
        self._name, self._namespace = name, namespace
        self._timing = timing
        self._on_lost = on_lost
        self._object: dict[str, Any] = {}
        self._seen: _Seen | None = None
        self._renewed: float | None = None
        self._lock = asyncio.Lock()

    def left(self) -> float:
        """Return for how many seconds we may still write; 0 for who does not lead."""
        if self._renewed is None:
            return 0.0
        return max(0.0, self._renewed + self._timing.renew - time.monotonic())

    @property
    def leader_address(self) -> str:
        """Return where the leader is reached, as far as we know; "" if it is us, or nobody."""
        if self._renewed is not None or self._spec().get("holderIdentity") in {None, "", self.holder}:
            return ""
        annotations = (self._object.get("metadata") or {}).get("annotations") or {}
        return str(annotations.get(ADDRESS, ""))

    async def run(self) -> None:
        """Acquire the lease, however long that takes, and hold it; LeaseLostError when it is lost."""
        while not await self._once(self._acquire, self._timing.renew):  # noqa: ASYNC110 - it polls the API
            await asyncio.sleep(self._timing.retry)
        _log.info("leading as %s", self.holder)
        self.acquired.set()
        try:
            await self._hold()
        finally:
            self.acquired.clear()

    async def release(self) -> None:
        """Give the lease up: the next candidate need not wait for it to run out.

        Only after `run` and everything that writes was cancelled.
        """
        left, self._renewed = self.left(), None
        if left <= 0:
            return
        with contextlib.suppress(ApiError, Unreachable, TimeoutError):
            async with asyncio.timeout(left):
                try:
                    await self._put(self._record(time.time(), holder=""), left)
                except ApiError as error:
                    if error.status != 409:
                        raise
                    await self._get(left)  # a renewal that was cancelled had reached the server
                    if self._spec().get("holderIdentity") == self.holder:
                        await self._put(self._record(time.time(), holder=""), left)
                _log.info("released the lease")

    # ------------------------------------------------------------------------------------------------------ holding

    async def _hold(self) -> None:
        while True:
            await asyncio.sleep(self._timing.retry)
            try:
                async with asyncio.timeout(self.left()):
                    while not await self._once(self._renew, self._timing.renew / 2):  # noqa: ASYNC110
                        await asyncio.sleep(self._timing.retry)
            except TimeoutError:
                self._lost("it could not be renewed in time", LeaseExpiredError)

    async def _once(self, attempt: Callable[[float], Any], limit: float) -> bool:
        """Try once; False for whatever may be better the next time."""
        try:
            async with asyncio.timeout(limit):
                return bool(await attempt(limit))
        except (ApiError, Unreachable, TimeoutError) as error:
            _log.warning("lease %s: %s", self._name, str(error) or "timed out")
            return False

    async def _renew(self, limit: float) -> bool:
        started = time.monotonic()
        if self.left() <= 0:  # we were frozen
            raise TimeoutError
        try:
            await self._put(self._record(time.time()), limit)
        except ApiError as error:
            if error.status == 404:
                self._lost("it was deleted")
            if error.status != 409:
                raise
            await self._get(limit)
            if self._spec().get("holderIdentity") != self.holder:
                self._lost(f"{self._spec().get('holderIdentity') or 'nobody'} holds it")
            return False
        self._renewed = started
        return True

    def _lost(self, why: str, kind: type[LeaseLostError] = LeaseLostError) -> None:
        self._renewed = None
        _log.error("lost the lease: %s", why)
        if self._on_lost is not None:
            self._on_lost()
        raise kind(why)

    # ---------------------------------------------------------------------------------------------------- acquiring

    async def _acquire(self, limit: float) -> bool:
        started = time.monotonic()
        try:
            await self._get(limit)
        except ApiError as error:
            if error.status != 404:
                raise
            await self._create(limit)
            self._renewed = started
            return True
        if not self._is_free():
            return False
        try:
            await self._put(self._record(time.time()), limit)
        except ApiError as error:
            if error.status != 409:
                raise
            return False  # another candidate was faster
        self._renewed = started
        return True

    def _is_free(self) -> bool:
        """Tell whether nobody holds it: released, or its holder's record did not change for as long as it is good."""
        spec = self._spec()
        if spec.get("holderIdentity") in {None, "", self.holder}:  # ours: the answer to our own write was lost
            return True
        record = (spec.get("holderIdentity"), spec.get("renewTime"), spec.get("leaseTransitions"))
        now = time.monotonic()
        if self._seen is None or self._seen.record != record:
            self._seen = _Seen(record, now)
            return False
        duration = spec.get("leaseDurationSeconds")
        good_for = float(duration) if isinstance(duration, int) and duration > 0 else self._timing.duration
        return now - self._seen.at >= max(good_for, self._timing.duration)

    # ------------------------------------------------------------------------------------------------------ the API

    def _spec(self) -> dict[str, Any]:
        spec = self._object.get("spec")
        return spec if isinstance(spec, dict) else {}

    def _record(self, now: float, holder: str | None = None) -> dict[str, Any]:
        """Return the spec to write, from what we know of the one that is there."""
        before = self._spec()
        owner = self.holder if holder is None else holder
        moment = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        ours = before.get("holderIdentity") == self.holder
        transitions = before.get("leaseTransitions") or 0
        return {
            "holderIdentity": owner,
            "leaseDurationSeconds": max(1, round(self._timing.duration)) if owner else 1,
            "acquireTime": before.get("acquireTime") if ours else moment,
            "renewTime": moment,
            "leaseTransitions": transitions if ours or not before else transitions + 1,
        }

    async def _get(self, limit: float) -> None:
        self._object = read(await self._api.request("GET", self._path, timeout=limit), dict)

    async def _put(self, spec: dict[str, Any], limit: float) -> None:
        async with self._lock:
            metadata = dict(self._object.get("metadata") or {})
            metadata["annotations"] = {**(metadata.get("annotations") or {}), ADDRESS: self.address}
            body = {**self._object, "metadata": metadata, "spec": spec}
            answer = await self._api.request("PUT", self._path, body=body, timeout=max(0.1, limit))
            self._object = read(answer, dict)

    async def _create(self, limit: float) -> None:
        self._object = {}
        metadata = {"name": self._name, "namespace": self._namespace, "annotations": {ADDRESS: self.address}}
        body = {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": metadata,
            "spec": self._record(time.time()),
        }
        answer = await self._api.request("POST", self._collection, body=body, timeout=limit)
        self._object = read(answer, dict)
