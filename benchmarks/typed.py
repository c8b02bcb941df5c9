"""The same objects by the typed client of the library: what a controller holds that uses its models (control of K3)."""

from __future__ import annotations

import asyncio
import time
import warnings

from benchmarks.channel import Message, arguments, serve
from benchmarks.memory import resident


async def main() -> None:
    """List everything once; answer `list` with the time and the memory that it took."""
    given = arguments()
    began = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from kubernetes_asyncio import client, config  # noqa: PLC0415 - its import is part of the price

    await config.load_kube_config(given["kubeconfig"])

    async def everything() -> Message:
        async with client.ApiClient() as api:
            core, custom = client.CoreV1Api(api), client.CustomObjectsApi(api)
            held = [
                await core.list_pod_for_all_namespaces(),
                await core.list_service_for_all_namespaces(),
                await core.list_namespace(),
                await core.list_service_account_for_all_namespaces(),
                await client.DiscoveryV1Api(api).list_endpoint_slice_for_all_namespaces(),
                await custom.list_cluster_custom_object("split.smi-spec.io", "v1alpha4", "trafficsplits"),
            ]
            seconds = time.monotonic() - began
            return {"seconds": seconds, "bytes": resident(), "kinds": len(held)}

    await serve({"list": everything})


if __name__ == "__main__":
    asyncio.run(main())
