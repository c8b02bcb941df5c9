"""Health, metrics and logs: what an operator's probes, scrapes and collectors get."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from smi_adapter.telemetry import Health, HealthServer, Metrics, Reading
from smi_adapter.telemetry.logs import _Json, _Text


@asynccontextmanager
async def serving(health: Health, reading: Reading) -> AsyncIterator[str]:
    metrics = Metrics(lambda: reading, "1.2.3")
    metrics.reconciled(0.002)
    metrics.answered("RDS", 0.001, refused=False)
    metrics.answered("RDS", 0.001, refused=True)
    server = HealthServer(lambda: health, metrics.registry)
    port = await server.start("127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await server.stop()


async def ask(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.text()


@pytest.mark.parametrize(
    ("health", "status", "text"),
    [
        (Health(ready=True), 200, "ok\n"),
        (Health(ready=True, why=("no word from the API",)), 200, "degraded: no word from the API\n"),
        (Health(ready=False, why=("not read yet",)), 503, "not ready: not read yet\n"),
    ],
)
async def test_f02_a_replica_without_an_api_stays_ready_and_says_degraded(
    health: Health, status: int, text: str
) -> None:
    async with serving(health, Reading()) as url:
        assert await ask(f"{url}/readyz") == (status, text)
        assert await ask(f"{url}/healthz") == (200, "ok\n"), "whatever it waits for, it is alive"


async def test_there_is_nothing_else_on_the_port() -> None:
    async with serving(Health(ready=True), Reading()) as url:
        for path in ("/", "/debug/pprof", "/config_dump", "/quitquitquit"):
            assert (await ask(url + path))[0] == 404


async def test_metrics_have_the_documented_names_and_no_names_of_pods() -> None:
    reading = Reading(cache_age=3.0, proxies={"in_sync": 2, "waiting": 1}, findings={"SMI0101": 4}, leader=True)
    async with serving(Health(ready=True), reading) as url:
        _, text = await ask(f"{url}/metrics")
    lines = text.splitlines()
    for line in (
        'smi_adapter_info{version="1.2.3"} 1.0',
        "smi_adapter_cache_age_seconds 3.0",
        'smi_adapter_proxies{state="in_sync"} 2.0',
        'smi_adapter_findings{code="SMI0101"} 4.0',
        'smi_adapter_xds_nack_total{type="RDS"} 1.0',
        "smi_adapter_xds_push_seconds_count 2.0",
        "smi_adapter_reconcile_seconds_count 1.0",
        "smi_adapter_leader 1.0",
    ):
        assert line in lines, line
    for name in ("config_age_seconds", "permissive_namespaces", "certificate_expiry_seconds", "watch_restarts_total"):
        assert f"smi_adapter_{name}" in text


@pytest.mark.parametrize("left", [3600.0, 0.0, -5.0, None])
def test_an_expired_certificate_is_told_from_none(left: float | None) -> None:
    registry = Metrics(lambda: Reading(certificate_expiry=left)).registry
    assert registry.get_sample_value("smi_adapter_certificate_expiry_seconds") == left


async def test_a_loop_that_is_held_up_shows() -> None:
    metrics = Metrics(Reading)
    feeling = asyncio.create_task(metrics.feel_loop())
    await asyncio.sleep(0)
    time.sleep(0.4)  # noqa: ASYNC251 - the fault
    while not metrics.registry.get_sample_value("smi_adapter_loop_blocked_seconds_count"):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    feeling.cancel()
    assert (metrics.registry.get_sample_value("smi_adapter_loop_blocked_seconds_sum") or 0) >= 0.25


def test_every_metric_is_documented_and_nothing_else_is() -> None:
    reading = Reading(
        event_ages={"Pod": 1.0}, restarts={("Pod", "list"): 1}, resources={("TrafficSplit", "Any"): 1},
        findings={"SMI0101": 1}, proxies={"in_sync": 1}, certificate_expiry=1.0,
    )  # fmt: skip
    metrics = Metrics(lambda: reading)
    metrics.answered("RDS", 0.1, refused=True)
    metrics.reviewed("validate", "allowed", 0.1)
    found = {
        (sample.name if family.type == "counter" else family.name, tuple(sample.labels))
        for family in metrics.registry.collect()
        for sample in family.samples
        if not sample.name.endswith(("_created", "_bucket", "_sum", "_count"))
        or (family.type == "histogram" and sample.name.endswith("_count"))
    }
    page = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text()
    rows = re.findall(r"(?m)^\| `(\w+)(?:\{([\w,]+)\})?` \|", page)
    documented = {(f"smi_adapter_{name}", tuple(labels.split(",")) if labels else ()) for name, labels in rows}
    assert found == documented


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("smi_adapter.x", logging.WARNING, __file__, 1, text, None, None)


def test_what_a_user_wrote_cannot_begin_a_line_of_the_log() -> None:
    hostile = "shop\n2026-01-01T00:00:00Z ERROR forged\x1b[31m"
    assert len(_Text().format(record(hostile)).splitlines()) == 1
    assert "\x1b" not in _Text().format(record(hostile))
    line = _Json().format(record(hostile))
    assert len(line.splitlines()) == 1
    assert json.loads(line)["message"] == hostile
