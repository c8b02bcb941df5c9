"""What a configuration costs in memory, in processes of its own (P6).

`product` compiles a world as the controller does and tells what its configuration added to what was resident before:
resources as bytes, indices, the ADS server's catalogue. It also writes the resources to a file, from which `messages`
makes what others keep: the same resources as protobuf objects, by name, and nothing else.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import pickle
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import arms
from benchmarks.channel import answer, arguments, requests
from benchmarks.worlds import World
from smi_adapter import decode, envoy_api, translate
from smi_adapter.backends.envoy import EnvoyBackend
from smi_adapter.delivery.xds import AdsServer
from smi_adapter.snapshot import EMPTY, Options


def resident() -> int:
    """Return the resident bytes of this process, after everything free has been given back."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
        fields = Path("/proc/self/statm").read_text(encoding="ascii").split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource  # noqa: PLC0415 - its unit differs between systems; here it is macOS's

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


async def product(world: World, file: Path) -> dict[str, Any]:
    """Compile, publish, and return what each of the stages made resident."""
    backend, options = EnvoyBackend(), Options(bundle=b"roots")
    backend.render(translate.translate(EMPTY, options).mesh)  # loads the descriptors
    sizes = {"start": resident()}
    began = time.perf_counter()
    snapshot, _ = decode.apply(EMPTY, arms.changes_of(*world.objects()))
    sizes["snapshot"] = resident()
    translation = translate.translate(snapshot, options)
    sizes["mesh"] = resident()
    config = backend.render(translation.mesh)
    sizes["config"] = resident()
    seconds = time.perf_counter() - began
    server = AdsServer(lambda _identity, _holder: ())
    server.publish(config)
    sizes["published"] = resident()
    with file.open("wb") as dump:
        pickle.dump(len(config.parts), dump)
        for resources in config.parts.values():
            pickle.dump([(item.type_url, item.name, item.body) for item in resources], dump)
    return {
        **sizes,
        "seconds": seconds,
        "resources": sum(len(resources) for resources in config.parts.values()),
        "bytes": sum(len(item.body) for resources in config.parts.values() for item in resources),
    }


def messages(file: Path) -> dict[str, Any]:
    """Return what was resident before and after the resources were made protobuf objects."""
    EnvoyBackend().render(translate.translate(EMPTY, Options(bundle=b"roots")).mesh)
    kept: dict[tuple[str, str], Any] = {}
    before = resident()
    with file.open("rb") as dump:
        for _ in range(pickle.load(dump)):  # noqa: S301 - our own file
            for type_url, name, body in pickle.load(dump):  # noqa: S301
                kept[type_url, name] = envoy_api.message(type_url.removeprefix(envoy_api.TYPE_URL_PREFIX)).FromString(
                    body
                )
    after = resident()
    return {"start": before, "published": after, "resources": len(kept)}


def main() -> None:
    """Answer `product` and `messages`, each in a process of its own."""
    given = arguments()
    for request in requests():
        if request["do"] == "product":
            answer(**asyncio.run(product(World(**given["world"]), Path(given["file"]))))
        else:
            answer(**messages(Path(given["file"])))


if __name__ == "__main__":
    main()
