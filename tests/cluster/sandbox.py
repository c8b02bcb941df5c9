"""A place of its own for a node: what a kubelet changes on a machine ends with it.

Mounts, network, processes and /run are private (namespaces of Linux), so several nodes stand side by side, and bridges,
iptables chains, overlay mounts, shims and containers go with the first process, which dies with the test process. From
outside one address is reached, over a veth pair that goes too. What is shared is put into a cgroup of our own, which
`close` takes away, and the settings of the kernel that a kubelet would change are covered by files that agree with it.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from tests.cluster.program import Program, ProgramError

CGROUPS: Final = Path("/sys/fs/cgroup")
SERVICE_RANGE: Final = "10.96.0.0/16"
NEEDED: Final = {"unshare": "util-linux", "nsenter": "util-linux", "ip": "iproute2"}
UNSHARE: Final = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc")
# What a kubelet writes: left alone, it is for the whole machine.
SETTINGS: Final = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
_INIT: Final = """
mount -t tmpfs -o mode=755 tmpfs /run && mount -t tmpfs tmpfs /var/lib && mount -t tmpfs tmpfs /var/log || exit 1
mkdir /run/settings && ip link set lo up || exit 1
echo 1 >/proc/sys/net/ipv4/ip_forward
for each in "$@"; do
    file=/run/settings/$(echo "${each%%=*}" | tr / -)
    echo "${each#*=}" >"$file" && mount --bind "$file" "/proc/sys/${each%%=*}" || exit 1
done
touch /run/made
while :; do sleep 3600; done
"""


class SandboxError(Exception):
    """A node can't be had here; the message says in one line what is missing."""


def missing(programs: dict[str, str]) -> str:
    """Say what this machine lacks for programs (name -> Debian package), or nothing."""
    if os.geteuid() != 0:
        return "a node needs root"
    packages = sorted({package for name, package in programs.items() if not shutil.which(name)})
    return f"a node needs the Debian packages {' '.join(packages)}" if packages else ""


class Sandbox:
    """The namespaces, held by one process; `inside` is what a command begins with to run there."""

    def __init__(self, folder: Path) -> None:
        self.name = f"smi-pods-{os.getpid()}-{random.randrange(16**4):04x}"
        self._link = f"smi{self.name.removeprefix('smi-pods-').replace('-', '')[-10:]}"
        self._block = f"10.{random.randint(192, 199)}.{random.randint(0, 255)}"
        settings = [f"{name}={value}" for name, value in SETTINGS.items()]
        self._holder = Program("sandbox", [*UNSHARE, "sh", "-c", _INIT, "sh", *settings], folder)
        self.inside: tuple[str, ...] = ()

    @property
    def address(self) -> str:
        """Return the address of the node, which the test process reaches too."""
        return f"{self._block}.2"

    def __enter__(self) -> Self:
        if problem := missing(NEEDED):
            raise SandboxError(problem)
        _forget_the_dead()
        try:
            self._holder.start()
            self.inside = ("nsenter", f"--target={self._first()}", "--mount", "--net", "--pid", "--")
            self._connect()
            for each in _hierarchies():
                (each / self.name).mkdir()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, *command: str, timeout: float = 120.0) -> str:
        """Run a command inside and return what it prints; ProgramError if it fails."""
        return _run(*self.inside, *command, timeout=timeout)

    def close(self) -> None:
        """End everything inside, by the end of its first process, and wait until it is gone."""
        self._holder.stop(kill=True)
        # The kernel takes it away too, but some time later.
        subprocess.run(["ip", "link", "delete", self._link], capture_output=True, check=False)
        deadline = time.monotonic() + 30
        while (left := _remove_cgroups(self.name)) and time.monotonic() < deadline:
            time.sleep(0.1)
        if left:
            raise ProgramError(f"these cgroups still have processes: {' '.join(map(str, left))}")

    def _first(self) -> int:
        """Return the process id of the first process inside, once it has made the place."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            self._holder.check()
            holder = self._holder.pid
            children = Path(f"/proc/{holder}/task/{holder}/children").read_text().split()
            if children and Path("/proc", children[0], "root", "run", "made").exists():
                return int(children[0])
            time.sleep(0.05)
        raise SandboxError(f"no namespaces can be made here: {self._holder.tail()}")

    def _connect(self) -> None:
        outer, inner = self._link, "uplink"
        target = self.inside[1].removeprefix("--target=")
        _run("ip", "link", "add", outer, "type", "veth", "peer", "name", inner, "netns", target)
        _run("ip", "address", "add", f"{self._block}.1/30", "dev", outer)
        _run("ip", "link", "set", outer, "up")
        self.run("ip", "address", "add", f"{self.address}/30", "dev", inner)
        self.run("ip", "link", "set", inner, "up")
        # Nothing outside is reached. Services have no device, but a route has to be there before kube-proxy rewrites.
        self.run("ip", "route", "add", SERVICE_RANGE, "dev", inner)
        self.run("ip", "route", "add", "unreachable", "default")


def _run(*command: str, timeout: float = 60.0) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        raise ProgramError(f"{' '.join(command)}: {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def _hierarchies() -> list[Path]:
    """Return the roots of the machine's cgroups: one for each controller, or the only one."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [each for each in CGROUPS.iterdir() if each.is_dir() and not each.is_symlink()]


def _remove_cgroups(name: str) -> list[Path]:
    """Remove a cgroup wherever it is, with all below it; return what is still in use."""
    left = []
    for hierarchy in _hierarchies():
        for folder, _, _ in os.walk(hierarchy / name, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
        if (hierarchy / name).exists():
            left.append(hierarchy / name)
    return left


def _forget_the_dead() -> None:
    """Remove the cgroups of test processes that were killed."""
    names = {each.name for hierarchy in _hierarchies() for each in hierarchy.glob("smi-pods-*")}
    for name in names:
        found = re.fullmatch(r"smi-pods-(\d+)-[0-9a-f]{4}", name)
        if found and not Path(f"/proc/{found[1]}").exists():
            _remove_cgroups(name)


def tails(programs: Sequence[Program]) -> str:
    """Return the last words of programs, for the message of a failure."""
    return "\n".join(f"--- {each.name}\n{each.tail()}" for each in programs)
