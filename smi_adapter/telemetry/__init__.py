"""What an operator sees of a running controller: health, metrics, logs. It reads, and decides nothing.

The composition root hands over functions that return the present state as plain values; nothing here knows a cluster,
a mesh or a proxy. The port has no profiler and no debug handlers.
"""

from smi_adapter.telemetry.health import Health, HealthServer
from smi_adapter.telemetry.logs import configure
from smi_adapter.telemetry.metrics import Metrics, Reading

__all__ = ["Health", "HealthServer", "Metrics", "Reading", "configure"]
