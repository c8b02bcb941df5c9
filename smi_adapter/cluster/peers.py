"""Whether another replica is better informed than this one (faults.md F11).

A replica that has lost the API server serves on what it last knew. While all have lost it that is the best there is;
but while another one is in touch, new proxies had better go there. So a replica that is out of touch asks the others,
and as long as one says that it is in touch this one is not ready; who streams from it already stays. Nobody has to be
discovered for that: the leader's address stands on the Lease, the others told theirs to the leader when they could,
and whoever is asked passes on whom it knows. While all is well nothing is asked.

Question and answer are signed with the key that only replicas have; an answer holds the signature of its question.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    import aiohttp

PATH: Final = "/in-touch"
SIGNATURE: Final = "X-Smi-Adapter-Signature"
PATIENCE: Final = 10.0
"""Seconds out of touch before others are asked and anybody is told: an API server that restarts is back by then."""

_LOOK = 2.0
_MOST = 20
_LARGEST = 16 * 1024


def signature(key: bytes, body: bytes) -> str:
    """Return what shows that a message is of one of us."""
    return hmac.new(key, body, sha256).hexdigest()


def signed_by(key: bytes, body: bytes, text: str) -> bool:
    """Tell whether a header is the signature of one of us, whatever stands in it: anybody may send one."""
    # What is not UTF-8 comes as surrogates.
    return hmac.compare_digest(text.encode(errors="surrogatepass"), signature(key, body).encode())


class Peers:
    """The other replicas, as far as this one knows them. `in_touch` tells whether this one hears the API server."""

    def __init__(
        self,
        name: str,
        key: bytes,
        in_touch: Callable[[], bool],
        look: float = _LOOK,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.key = key
        self.address = ""
        """Where the others reach this one."""
        self.better = ""
        """The address of one that is in touch while this one is not; "": as far as we know there is none."""
        self._name = name
        self._in_touch = in_touch
        self._look = look
        self._clock = clock
        self._addresses: OrderedDict[str, None] = OrderedDict()
        self._lost_at: float | None = None

    def met(self, address: str) -> None:
        """Remember where a replica is reached; the newest are kept."""
        if address and address != self.address:
            self._addresses[address] = None
            self._addresses.move_to_end(address)
            while len(self._addresses) > _MOST:
                self._addresses.popitem(last=False)

    def out_of_touch(self, patience: float = PATIENCE) -> bool:
        """Tell whether this replica has been without the API server for a while, and still is."""
        lost = self._lost_at
        return lost is not None and self._clock() - lost >= patience and not self._in_touch()

    # --------------------------------------------------------------------------------------------------- answering

    def answer(self, body: bytes, signed: str) -> tuple[bytes, str] | None:
        """Return the answer to a question and its signature; None if no replica asks. To ask again is harmless."""
        if not signed_by(self.key, body, signed):
            return None
        try:
            said: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
            name, address = str(said["name"]), str(said["address"])
        except (msgspec.DecodeError, KeyError):
            return None
        if name == self._name:
            return None
        others = [known for known in self._addresses if known != address]
        self.met(address)
        answer = msgspec.json.encode({"to": signed, "in_touch": self._in_touch(), "others": others})
        return answer, signature(self.key, answer)

    # ------------------------------------------------------------------------------------------------------ asking

    async def compare(self, leader: Callable[[], str], patience: float = PATIENCE) -> None:
        """Look whether this replica is in touch, and ask the others while it is not; for ever."""
        import aiohttp  # noqa: PLC0415 - the HTTP library is expensive to import, and the command line reads this module

        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self._look)) as session:
            while True:
                await asyncio.sleep(self._look)
                self.met(leader())
                if self._in_touch():
                    self._lost_at, self.better = None, ""
                    continue
                self._lost_at = self._clock() if self._lost_at is None else self._lost_at
                if self.out_of_touch(patience):
                    self.better = await self._ask(session, tuple(self._addresses))

    async def _ask(self, session: aiohttp.ClientSession, addresses: Iterable[str]) -> str:
        """Ask all at once; return the address of one that is in touch, or ""."""
        asked = [(address, self._ask_one(session, address)) for address in addresses]
        answers = await asyncio.gather(*(question for _, question in asked))
        return next((address for (address, _), found in zip(asked, answers, strict=True) if found), "")

    async def _ask_one(self, session: aiohttp.ClientSession, address: str) -> bool:
        import aiohttp  # noqa: PLC0415

        question = {"name": self._name, "address": self.address, "once": secrets.token_hex(8)}
        body = msgspec.json.encode(question)
        signed = signature(self.key, body)
        headers = {SIGNATURE: signed}
        try:
            async with session.post(address + PATH, data=body, headers=headers, allow_redirects=False) as response:
                if not 0 < (response.content_length or 0) <= _LARGEST:
                    return False
                content = await response.read()
                theirs = response.headers.get(SIGNATURE, "")
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):  # it is gone, or the address was nonsense
            return False
        if not signed_by(self.key, content, theirs):
            return False
        try:
            said: dict[str, Any] = msgspec.json.decode(content, type=dict[str, Any])
        except msgspec.DecodeError:
            return False
        if said.get("to") != signed:
            return False
        for other in said.get("others", ()):
            self.met(str(other))
        return said.get("in_touch") is True
