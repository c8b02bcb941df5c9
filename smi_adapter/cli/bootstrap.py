"""`smi-adapter bootstrap`: what the sidecars of a namespace start with, as a ConfigMap.

It holds nothing secret: where the controller is, the root by which it is recognised, and where Envoy finds its token.
All pods of a namespace share it, because who a proxy is comes from its token alone.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import click
import yaml

from smi_adapter.cli import cluster

if TYPE_CHECKING:
    from smi_adapter.cluster.client import Client

FOLDER: Final = "/etc/smi-adapter"
TOKEN: Final = "/var/run/secrets/smi-adapter"  # noqa: S105 - the folder of a projected volume
ADMIN: Final = "/tmp/smi-adapter-admin.sock"  # noqa: S108 - in the proxy's own container


@click.command()
@click.option("-n", "--namespace", required=True, help="Namespace of the pods.")
@cluster.installation_options
@click.option("--port", default=18000, show_default=True, help="Port for proxies.")
@click.option("--metrics", default="0.0.0.0:15090", show_default=True, help="Where the proxy shows its metrics.")
@click.option("--log-requests", is_flag=True, help="The proxy logs requests that went well, too.")
@cluster.cluster_options
def bootstrap(
    namespace: str,
    controller_namespace: str | None,
    release: str | None,
    port: int,
    metrics: str,
    log_requests: bool,
    access: cluster.Access,
) -> int:
    """Print the ConfigMap `smi-adapter-proxy`, from which the Envoys of a namespace start; changes nothing.

    Mount it at /etc/smi-adapter, and a projected ServiceAccount token of the audience `smi-adapter` with the path
    `token` at /var/run/secrets/smi-adapter, both in the proxy's container alone. Start Envoy with `-c
    /etc/smi-adapter/envoy.json --service-node NAMESPACE/POD --service-cluster NAMESPACE --drain-time-s 5`: so many
    seconds after a right is taken away its TCP connections are closed. docs/sidecar.md has a whole pod.
    """
    home, name = controller_namespace or cluster.INSTALLATION[0], release or cluster.INSTALLATION[1]
    try:
        roots = cluster.ask_cluster(access, lambda client: _roots(client, home, f"{name}-ca"))
    except cluster.NothingToInstallError as error:
        raise click.ClickException("`smi-adapter run --source` starts its Envoys itself: no pod needs this") from error
    if not roots:
        raise click.ClickException(
            f"ConfigMap {home}/{name}-ca holds no root certificates: is that where the controller runs "
            "(--controller-namespace, --release), and did it start yet?"
        )
    local = {"admin": ADMIN, "metrics": metrics, "log_every_request": log_requests}
    data = {**_files(f"{name}-xds.{home}.svc", port, local), "ca.crt": roots}
    metadata = {"name": "smi-adapter-proxy", "namespace": namespace}
    click.echo(yaml.safe_dump({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}), nl=False)
    return 0


async def _roots(client: Client, namespace: str, name: str) -> str:
    """Return what the controller has published; the Secret, with the key in it, is nobody's business."""
    from smi_adapter.cluster.bundle import CERTIFICATES, CONFIG_MAPS  # noqa: PLC0415 - not needed for help
    from smi_adapter.cluster.client import ApiError  # noqa: PLC0415

    try:
        found = await client.get(CONFIG_MAPS.path(namespace, name))
    except ApiError as error:
        if error.status == 404:
            return ""
        raise
    return str((found.get("data") or {}).get(CERTIFICATES, ""))


def _files(server: str, port: int, local: dict[str, Any]) -> dict[str, str]:
    from smi_adapter.backends.envoy import bootstrap as envoy  # noqa: PLC0415 - not needed for help

    control = envoy.ControlPlane(server, port, server, f"{FOLDER}/ca.crt", roots_file=True)
    credential = envoy.ServiceAccountToken(f"{FOLDER}/token.json", TOKEN)
    made = envoy.bootstrap(("", ""), control, credential, envoy.Local(**local))
    del made["node"]  # a flag of Envoy says which pod it is
    token = envoy.token_file(f"{TOKEN}/token")
    return {"envoy.json": json.dumps(made, indent=1), "token.json": json.dumps(token)}
