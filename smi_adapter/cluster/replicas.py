"""What replicas tell each other: the one that writes status has to know what the others' proxies have acknowledged.

The leader's address stands on the Lease, which every candidate reads anyway, so nothing has to be discovered and no
further right is needed. Who does not lead sends its tally there when it changed, and now and then; it is signed with a
key that only replicas have (made from the mesh's authority), as anybody may connect to that port. A tally that is not
renewed is forgotten. Nothing depends on this but `Programmed`: no proxy is served otherwise. What comes with it is
where the sender is reached (`peers`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from smi_adapter.cluster.peers import SIGNATURE, signature, signed_by
from smi_adapter.report import Tally

_log = logging.getLogger(__name__)

PATH: Final = "/tally"

_RENEW = 10.0
_EXPIRES = 30.0
_SKEW = 60.0
_PAUSE = 0.25
_OBJECTS_A_SECOND = 5000
_MOST_REPLICAS = 20


@dataclass(frozen=True, slots=True)
class _Heard:
    """What another replica said last, by its clock and by ours."""

    tally: Tally
    sent: float
    at: float


class Replicas:
    """Sends this replica's tally to the leader, and keeps those of the others if it leads."""

    def __init__(
        self,
        name: str,
        key: bytes,
        changed: Callable[[], None] = lambda: None,
        met: Callable[[str], None] = lambda _address: None,
    ) -> None:
        self._name = name
        self.key = key
        self.address = ""
        """Where the others reach this one."""
        self._changed = changed
        self._met = met
        self._heard: dict[str, _Heard] = {}

    def tallies(self) -> tuple[Tally, ...]:
        """Return what the other replicas said, without those that are silent by now."""
        now = time.monotonic()
        self._heard = {name: heard for name, heard in self._heard.items() if now - heard.at < _EXPIRES}
        return tuple(heard.tally for heard in self._heard.values())

    def hear(self, body: bytes, signed: str) -> bool:
        """Take a message of another replica; False if it is not one, is old, or was heard already."""
        if not signed_by(self.key, body, signed):
            return False
        try:
            said: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
            name, sent, tally = str(said["name"]), float(said["sent"]), Tally.read(said["tally"])
        except (msgspec.DecodeError, KeyError, TypeError, ValueError):
            return False
        known = self._heard.get(name)
        if name == self._name or abs(time.time() - sent) > _SKEW or (known is not None and sent <= known.sent):
            return False
        if known is None and len(self._heard) >= _MOST_REPLICAS:
            return False
        self._heard[name] = _Heard(tally, sent, time.monotonic())
        self._met(str(said.get("address", "")))
        if known is None or known.tally != tally:
            self._changed()
        return True

    async def tell(self, leader: Callable[[], str], tally: Callable[[], Tally]) -> None:
        """Send the tally to `leader()`, the base URL of the one that leads ("": it is us, or nobody); for ever."""
        import aiohttp  # noqa: PLC0415 - the HTTP library is expensive to import, and the command line reads this module

        last: tuple[str, Tally] | None = None
        at = 0.0
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2.0)) as session:
            while True:
                await asyncio.sleep(max(_PAUSE, len(last[1].observed) / _OBJECTS_A_SECOND if last else 0.0))
                where = leader()
                if not where:
                    continue
                now = (where, tally())
                if now == last and time.monotonic() - at < _RENEW:
                    continue
                said = {"name": self._name, "sent": time.time(), "address": self.address, "tally": now[1].data()}
                body = msgspec.json.encode(said)
                headers = {SIGNATURE: signature(self.key, body)}
                with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                    sending = session.post(where + PATH, data=body, headers=headers, allow_redirects=False)
                    async with sending as answer:
                        if answer.status < 300:
                            last, at = now, time.monotonic()
