"""Addresses for pods that are processes of a test: an EndpointSlice refuses loopback ones.

A route of type `local` makes a whole block of 10/8 ours on the loopback interface: every address of it can be bound,
none is reachable from outside. A child holds the route and takes it away when the pipe to it closes, so it goes even
when the test process is killed. It needs CAP_NET_ADMIN; `unshare --map-root-user --net` gives that to anybody
(then `ip link set lo up` first).
"""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from typing import Final

_HOLD: Final = 'ip route add local "$1" dev lo && echo held && cat >/dev/null; ip route del local "$1" dev lo'


class AddressesError(Exception):
    """The addresses can't be had here; the message says what is missing."""


class Addresses:
    """A block of 254 addresses; `next()` gives one after the other."""

    def __init__(self) -> None:
        self.block = f"10.{random.randint(200, 254)}.{random.randint(0, 255)}"
        try:
            self._holder = subprocess.Popen(
                ["sh", "-c", _HOLD, "sh", f"{self.block}.0/24"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,  # Ctrl-C is for us; it ends with the pipe
            )
        except OSError as problem:
            raise AddressesError(f"no addresses for pods: {problem}") from problem
        answer = self._holder.stdout.readline().strip() if self._holder.stdout else ""
        if answer != "held":
            self.close()
            raise AddressesError(
                f"no addresses for pods ({answer}): run as root, or inside `unshare --map-root-user --net`"
            )
        self._free: Iterator[int] = iter(range(1, 255))

    def next(self) -> str:
        """Return an address that nobody got before."""
        return f"{self.block}.{next(self._free)}"

    def close(self) -> None:
        """Take the addresses away."""
        self._holder.communicate(timeout=10)
