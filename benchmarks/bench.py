"""One run of the benchmark: its plan, its directory, and the processes that it starts and ends."""

from __future__ import annotations

import random
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks import certificates
from benchmarks.channel import Child, Message
from benchmarks.worlds import GUARDED, NAMESPACE, PROBER, SCOPED, World
from smi_adapter.backends.envoy.bootstrap import ClientCertificate, ControlPlane, Local, bootstrap
from tests.live.envoys import EnvoyProcess

ECHOES = ("a", "b", "n")
"""The echo servers: `a` and `b` behind the probed Service, `n` behind those that come and go (P9)."""

READY = 60.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured. `few`: rounds of what takes long; `tails`: changes behind a p99; a gap is in seconds."""

    quick: bool
    rounds: int
    few: int
    flips: int
    tails: int
    gap: float
    envoys: int
    fake_proxies: int
    large: int
    small: int
    huge: int

    @classmethod
    def of(cls, *, quick: bool) -> Plan:
        """Return the plan of a quick or a full run."""
        if quick:
            return cls(True, 3, 2, 30, 300, 0.05, 10, 40, 1000, 100, 1000)
        return cls(False, 5, 3, 60, 500, 0.05, 40, 40, 1000, 100, 5000)


class Bench:
    """A run. What it starts ends with it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._stack = ExitStack()
        self._began = time.monotonic()
        self._random = random.Random()
        self._block = self._random.randrange(20, 100)

    def __enter__(self) -> Self:
        self.directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        certificates.make(self.directory, (PROBER, SCOPED, GUARDED))
        self.echo = self._stack.enter_context(Child("echo"))
        self._echo_ports = {name: int(self.echo.ask("listen", name=name)["port"]) for name in ECHOES}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def say(self, text: str) -> None:
        """Tell on stderr what is going on."""
        print(f"[{time.monotonic() - self._began:5.0f} s] {text}", file=sys.stderr, flush=True)

    def echo_port(self, name: str) -> int:
        """Return the port of an echo server."""
        return self._echo_ports[name]

    def world(self, services: int, **more: int) -> World:
        """Return a world whose addresses nothing else of this run uses."""
        block = self._block
        self._block += 2 + more.get("probers", 1) + more.get("scoped", 0)
        ports = {name: port for name, port in self._echo_ports.items() if name in {"a", "b"}}
        return World(services, self._free_port(block), ports, block, **more)

    @contextmanager
    def controller(self, world: World) -> Iterator[Child]:
        """Start a controller for a world and wait until it has compiled it."""
        given = {"world": asdict(world), "certificates": str(self.directory)}
        with Child("controller", given) as child:
            child.ask("about")
            yield child

    def envoy(self, account: str, workload: str, port: int, *, default_statistics: bool = False) -> EnvoyProcess:
        """Start a sidecar that gets its configuration from a port; end it with `stop`."""
        pair = certificates.files(self.directory, account)
        config = bootstrap(
            (NAMESPACE, workload),
            ControlPlane("127.0.0.1", port, certificates.SERVER_NAME, str(pair.roots), roots_file=True),
            ClientCertificate(str(pair.certificate), str(pair.key), files=True),
            Local(),
        )
        if default_statistics:
            del config["stats_config"], config["stats_flush_interval"]
        return EnvoyProcess.start(config)

    @contextmanager
    def envoys(self, world: World, port: int, count: int, first: int = 0) -> Iterator[list[EnvoyProcess]]:
        """Start the sidecars of some of a world's probers."""
        with ExitStack() as stack:
            yield [
                stack.enter_context(self.envoy(account, name, port))
                for name, account, _ in world.pods()[first : first + count]
            ]

    @contextmanager
    def probe(self, address: str, port: int, controller: Child, *, account: str = "") -> Iterator[Child]:
        """Start a probe that tells a controller what it sees; with an account it speaks mutual TLS itself."""
        given: dict[str, Any] = {"address": address, "port": port, "notify": controller.ask("about")["notices"]}
        if account:
            given["tls"] = certificates.files(self.directory, account).as_json()
        with Child("probe", given) as child:
            yield child

    @contextmanager
    def load(self, address: str, port: int) -> Iterator[Child]:
        """Start a load generator."""
        with Child("load", {"address": address, "port": port}) as child:
            yield child

    def _free_port(self, block: int) -> int:
        while True:
            port = self._random.randrange(15_000, 32_000)
            with socket.socket() as trial:
                try:
                    trial.bind((f"127.{block}.0.1", port))
                except OSError:
                    continue
                return port


def until_answering(probe: Child, state: str) -> None:
    """Wait until a probe sees a state."""
    if probe.ask("until", state=state, seconds=READY)["seen"] is None:
        raise TimeoutError(f"the probe does not see {state!r} but {probe.ask('ask')['state']!r}")


def measured(probe: Child, controller: Child, command: str, **fields: Any) -> tuple[Message, Message]:
    """Let a controller do something while a probe watches; return what each of them has to say."""
    probe.ask("start")
    told = controller.ask(command, **fields)
    time.sleep(0.2)
    return told, probe.ask("stop")
