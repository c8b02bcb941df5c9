"""Real Envoys take the bootstrap in each of its forms, and keep their admin port to themselves."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509 import load_pem_x509_certificate

from smi_adapter.backends.envoy.accesslog import LOG_FROM
from smi_adapter.backends.envoy.bootstrap import (
    ClientCertificate,
    ControlPlane,
    Credential,
    Local,
    ServiceAccountToken,
    WatchedKeyPair,
    bootstrap,
    key_pair_file,
    token_file,
)
from smi_adapter.identity.ca import Authority, KeyPair
from tests.live.apps import get
from tests.live.envoys import EnvoyProcess, envoy_binary, free_port
from tests.live.fleet import until
from tests.meshes import DOMAIN, key, spiffe

pytestmark = pytest.mark.live

ADAPTER = spiffe("adapter", "smi-system")


def files(home: Path) -> dict[str, Path]:
    """Write a key pair, a token and roots as a pod would find them."""
    authority = Authority.create(DOMAIN, time.time())
    pair = authority.issue(spiffe("web"), time.time(), 3600.0)
    made = {name: home / name for name in ("cert.pem", "key.pem", "roots.pem", "token", "token.json", "pair.json")}
    made["cert.pem"].write_bytes(pair.certificate)
    made["key.pem"].write_bytes(pair.private_key)
    made["roots.pem"].write_bytes(authority.bundle)
    made["token"].write_text("token")
    made["token.json"].write_text(json.dumps(token_file(str(made["token"]))))
    made["pair.json"].write_text(json.dumps(key_pair_file(made["cert.pem"].read_text(), made["key.pem"].read_text())))
    return made


def credentials(made: dict[str, Path]) -> list[tuple[ControlPlane, Credential]]:
    """Return each way in: certificate inline, in files and watched; token, to servers behind a name."""
    roots, home = made["roots.pem"], str(made["roots.pem"].parent)
    pair = made["cert.pem"].read_text(), made["key.pem"].read_text()
    here = ControlPlane("127.0.0.1", 18000, ADAPTER, roots.read_text())
    cluster = ControlPlane(
        "smi-adapter.smi-system.svc", 18000, "smi-adapter.smi-system.svc", str(roots), roots_file=True
    )
    return [
        (here, ClientCertificate(*pair)),
        (here, ClientCertificate(str(made["cert.pem"]), str(made["key.pem"]), files=True)),
        (here, WatchedKeyPair(str(made["pair.json"]), home)),
        (cluster, ServiceAccountToken(str(made["token.json"]), home)),
    ]


def test_every_form_is_a_bootstrap_that_envoy_takes(tmp_path: Path) -> None:
    for number, (control, credential) in enumerate(credentials(files(tmp_path))):
        local = Local(admin=str(tmp_path / "admin.sock"), source_address="127.0.0.2", metrics="127.0.0.1:15090")
        config = bootstrap(key("web"), control, credential, local)
        assert config["node"]["id"] == "shop/web"
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps(config))
        command = [envoy_binary(), "--mode", "validate", "-c", str(path), "--disable-hot-restart", "-l", "warning"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr


def test_a_key_is_not_shown_by_accident() -> None:
    assert "secret" not in repr(ClientCertificate("cert", "secret"))


async def test_only_metrics_and_readiness_of_the_admin_port_can_be_reached_from_elsewhere(tmp_path: Path) -> None:
    port = free_port()
    made = files(tmp_path)
    control, credential = credentials(made)[0]
    local = Local(admin=str(tmp_path / "admin.sock"), metrics=f"127.0.0.1:{port}")
    config: dict[str, Any] = bootstrap(key("web"), control, credential, local)
    config["dynamic_resources"]["cds_config"]["initial_fetch_timeout"] = "0.2s"  # nobody answers, so start without
    config["dynamic_resources"]["lds_config"]["initial_fetch_timeout"] = "0.2s"
    with EnvoyProcess.start(config, tmp_path) as envoy:
        await envoy.ready()
        assert (await get("127.0.0.1", port, "/ready")).body == b"LIVE\n"
        metrics = await get("127.0.0.1", port, "/stats/prometheus?usedonly")
        assert metrics.status == 200
        assert b"envoy_server_live" in metrics.body
        for path in (
            "/",
            "/config_dump",
            "/certs",
            "/stats",
            "/stats/prometheus/../../config_dump",
            "/ready/..%2fconfig_dump",
            "//config_dump",
            "/ready;/config_dump",
        ):
            assert (await get("127.0.0.1", port, path)).status in {400, 404}, path
        for path in ("/quitquitquit", "/runtime_modify?a=b", "/ready", "/stats/prometheus"):
            assert (await get("127.0.0.1", port, path, "POST")).status in {400, 404}, path
        assert envoy.is_ready()


async def test_a_proxy_without_its_configuration_is_not_ready(tmp_path: Path) -> None:
    port = free_port()
    control, credential = credentials(files(tmp_path))[0]
    local = Local(admin=str(tmp_path / "admin.sock"), metrics=f"127.0.0.1:{port}")
    with EnvoyProcess.start(bootstrap(key("web"), control, credential, local), tmp_path) as envoy:
        deadline = time.monotonic() + 10
        while (status := envoy.admin_status("/ready")[0]) == 0:
            assert time.monotonic() < deadline
        assert status == 503


def inotify_instances(pid: int) -> int:
    """Return how many a process has, of the few that a user has."""
    return [str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()].count("anon_inode:inotify")


async def test_a_key_pair_is_read_again_when_its_file_is_replaced(tmp_path: Path) -> None:
    made = files(tmp_path)
    control, _ = credentials(made)[0]
    folder = tmp_path / "keys"
    folder.mkdir()

    def put(pair: KeyPair) -> str:
        fresh = tmp_path / "fresh.json"
        fresh.write_text(json.dumps(key_pair_file(pair.certificate.decode(), pair.private_key.decode())))
        fresh.replace(folder / "pair.json")
        return f"{load_pem_x509_certificate(pair.certificate).serial_number:x}"

    authority = Authority.create(DOMAIN, time.time())
    first, second = (authority.issue(spiffe("web"), time.time(), 3600.0) for _ in range(2))
    serial = put(first)
    config: dict[str, Any] = bootstrap(key("web"), control, WatchedKeyPair(str(folder / "pair.json"), str(folder)))
    with EnvoyProcess.start(config, tmp_path) as envoy:
        await until(lambda: serial in envoy.admin_status("/certs")[1])
        serial = put(second)
        await until(lambda: serial in envoy.admin_status("/certs")[1])
        assert inotify_instances(envoy.pid) == 1


@pytest.mark.parametrize("asked", [False, True])
def test_a_proxy_logs_what_went_well_only_where_its_bootstrap_asks_for_it(asked: bool, tmp_path: Path) -> None:
    control, credential = credentials(files(tmp_path))[0]
    config: dict[str, Any] = bootstrap(key("web"), control, credential, Local(log_every_request=asked))
    runtime = config["layered_runtime"]["layers"][0]["static_layer"]
    assert runtime.get(LOG_FROM) == (0 if asked else None)


def test_the_proxy_counts_what_we_read_and_little_else(tmp_path: Path) -> None:
    control, credential = credentials(files(tmp_path))[0]
    config: dict[str, Any] = bootstrap(key("web"), control, credential, Local(metrics=f"127.0.0.1:{free_port()}"))
    del config["dynamic_resources"]
    with EnvoyProcess.start(config, tmp_path) as envoy:
        envoy.wait_ready()
        counted = {name.partition(".")[0] for name in envoy.stats()}
        of_listeners = {name for name in envoy.stats("listener.") if ".ssl." not in name}
        of_clusters = {name.rpartition(".")[2] for name in envoy.stats("cluster.")}
    assert {"cluster", "server", "http", "listener_manager", "cluster_manager"} <= counted
    assert not of_listeners, "the same is counted by the connection manager"
    assert "upstream_cx_active" in of_clusters
    assert not of_clusters & {"upstream_rq_retry", "upstream_cx_rx_bytes_total", "lb_healthy_panic"}
