"""Build `smi_adapter/envoy_api/envoy.desc`: the Envoy messages that we can speak, as one descriptor set.

Run it with any Python 3.11+ when Envoy's API is to be raised (edit the versions below), or with `--check` to see that
the committed file is what these versions give. It makes a virtual environment of its own in a temporary directory,
because the package xds-protos must never be beside the product: it overwrites files of other packages (`envoy/`,
`google/`, `opentelemetry/`). The product loads the result in a private descriptor pool and needs xds-protos nowhere.

The closure by imports is not enough: what travels inside `google.protobuf.Any` is imported by nobody. So each message
that we pack is listed as a root, by the module that defines it.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

PACKAGES = ("xds-protos==1.85.0", "grpcio-health-checking==1.85.1", "protobuf==7.36.2")

TARGET = Path(__file__).resolve().parent.parent / "smi_adapter" / "envoy_api" / "envoy.desc"

ROOTS = (
    # what a discovery stream carries
    "envoy.config.cluster.v3.cluster_pb2",
    "envoy.config.core.v3.extension_pb2",
    "envoy.config.endpoint.v3.endpoint_pb2",
    "envoy.config.listener.v3.listener_pb2",
    "envoy.config.route.v3.route_pb2",
    "envoy.extensions.transport_sockets.tls.v3.secret_pb2",
    "envoy.service.discovery.v3.ads_pb2",
    "envoy.service.discovery.v3.discovery_pb2",
    "envoy.service.extension.v3.config_discovery_pb2",
    # listener filters
    "envoy.extensions.filters.listener.http_inspector.v3.http_inspector_pb2",
    "envoy.extensions.filters.listener.original_dst.v3.original_dst_pb2",
    "envoy.extensions.filters.listener.proxy_protocol.v3.proxy_protocol_pb2",
    "envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2",
    # network filters
    "envoy.extensions.filters.network.connection_limit.v3.connection_limit_pb2",
    "envoy.extensions.filters.network.direct_response.v3.config_pb2",
    "envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2",
    "envoy.extensions.filters.network.rbac.v3.rbac_pb2",
    "envoy.extensions.filters.network.set_filter_state.v3.set_filter_state_pb2",
    "envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2",
    # UDP
    "envoy.extensions.filters.udp.udp_proxy.v3.route_pb2",
    "envoy.extensions.filters.udp.udp_proxy.v3.udp_proxy_pb2",
    # HTTP filters
    "envoy.extensions.filters.http.credential_injector.v3.credential_injector_pb2",
    "envoy.extensions.filters.http.fault.v3.fault_pb2",
    "envoy.extensions.filters.http.header_mutation.v3.header_mutation_pb2",
    "envoy.extensions.filters.http.health_check.v3.health_check_pb2",
    "envoy.extensions.filters.http.local_ratelimit.v3.local_rate_limit_pb2",
    "envoy.extensions.filters.http.rbac.v3.rbac_pb2",
    "envoy.extensions.filters.http.router.v3.router_pb2",
    "envoy.extensions.filters.http.set_metadata.v3.set_metadata_pb2",
    "envoy.extensions.filters.http.upstream_codec.v3.upstream_codec_pb2",
    "envoy.extensions.http.injected_credentials.generic.v3.generic_pb2",
    # who is who
    "envoy.extensions.rbac.audit_loggers.stream.v3.stream_pb2",
    "envoy.extensions.rbac.principals.mtls_authenticated.v3.mtls_authenticated_pb2",
    "envoy.extensions.transport_sockets.raw_buffer.v3.raw_buffer_pb2",
    "envoy.extensions.transport_sockets.tls.v3.tls_pb2",
    # upstreams
    "envoy.extensions.clusters.aggregate.v3.cluster_pb2",
    "envoy.extensions.load_balancing_policies.cluster_provided.v3.cluster_provided_pb2",
    "envoy.extensions.load_balancing_policies.least_request.v3.least_request_pb2",
    "envoy.extensions.load_balancing_policies.random.v3.random_pb2",
    "envoy.extensions.load_balancing_policies.round_robin.v3.round_robin_pb2",
    "envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb2",
    "envoy.extensions.upstreams.http.v3.http_protocol_options_pb2",
    # access logs and what formats them
    "envoy.extensions.access_loggers.file.v3.file_pb2",
    "envoy.extensions.access_loggers.grpc.v3.als_pb2",
    "envoy.extensions.access_loggers.stream.v3.stream_pb2",
    "envoy.extensions.formatter.metadata.v3.metadata_pb2",
    "envoy.extensions.formatter.req_without_query.v3.req_without_query_pb2",
    "envoy.service.accesslog.v3.als_pb2",
    # bootstrap, so that one can be checked before a process is started with it
    "envoy.config.bootstrap.v3.bootstrap_pb2",
    "envoy.config.grpc_credential.v3.file_based_metadata_pb2",
    "envoy.config.overload.v3.overload_pb2",
    "envoy.extensions.resource_monitors.downstream_connections.v3.downstream_connections_pb2",
    "envoy.extensions.resource_monitors.fixed_heap.v3.fixed_heap_pb2",
    # what a status service would ask an Envoy for
    "envoy.admin.v3.config_dump_pb2",
    # the one thing that the server answers without a credential
    "grpc_health.v1.health_pb2",
)


def emit(target: Path) -> None:
    """Write the closure of ROOTS to `target`; runs inside the environment that has xds-protos."""
    descriptor_pb2 = importlib.import_module("google.protobuf.descriptor_pb2")
    files: dict[str, Any] = {}

    def add(file: Any) -> None:
        """Add a file after everything that it imports, so that a reader may load the files in order."""
        if file.name in files:
            return
        for imported in sorted(file.dependencies, key=lambda dependency: str(dependency.name)):
            add(imported)
        proto = descriptor_pb2.FileDescriptorProto()
        file.CopyToProto(proto)
        files[file.name] = proto

    for root in sorted(ROOTS):
        add(importlib.import_module(root).DESCRIPTOR)
    whole = descriptor_pb2.FileDescriptorSet(file=files.values())
    target.write_bytes(whole.SerializeToString(deterministic=True))


def build(target: Path) -> None:
    """Make the environment, and the file with it."""
    with tempfile.TemporaryDirectory(prefix="smi-descriptors-") as directory:
        venv.create(directory, with_pip=True)
        python = Path(directory) / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)  # noqa: S603
        subprocess.run([python, __file__, "--emit", str(target)], check=True)  # noqa: S603


def main() -> int:
    """Build, or compare with what is committed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail if the committed file differs")
    parser.add_argument("--emit", metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.emit:
        emit(Path(options.emit))
        return 0
    if not options.check:
        build(TARGET)
        print(f"wrote {TARGET}: {TARGET.stat().st_size} bytes")
        return 0
    with tempfile.TemporaryDirectory() as directory:
        fresh = Path(directory) / "envoy.desc"
        build(fresh)
        same = fresh.read_bytes() == TARGET.read_bytes()
    print("envoy.desc is up to date" if same else "envoy.desc differs: run tools/make_descriptors.py and commit it")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
