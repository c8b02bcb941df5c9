"""Log lines: text for people, JSON for collectors; what users and proxies wrote is escaped, so a line stays a line.

Logging never blocks the event loop: records go through a queue to a thread of their own. A full queue drops records
rather than wait for a pipe that nobody reads (faults.md F38).
"""

from __future__ import annotations

import atexit
import json
import logging
import logging.handlers
import queue
import sys
from datetime import UTC, datetime
from typing import Final

_MOST: Final = 10_000
_CHATTY: Final = ("aiohttp.access", "asyncio", "kubernetes_asyncio", "watchfiles")


class _Text(logging.Formatter):
    """`2026-01-01T00:00:00.000Z INFO smi_adapter.controller: message`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        lines = _printable(record.getMessage())
        if record.exc_info:
            lines += "\n" + self.formatException(record.exc_info)
        return f"{_time(record)} {record.levelname} {record.name}: {lines}"


class _Json(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields)


class _Queue(logging.handlers.QueueHandler):
    """Hands records over; a full queue loses them."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Keep the exception: the other thread formats it."""
        record.msg, record.args = record.getMessage(), None
        return record

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        """Drop the record."""


def configure(form: str, level: str) -> None:
    """Send all logs to stderr as `text` or `json`, from that level on. Call it again to change the level."""
    root = logging.getLogger()
    root.setLevel(level.upper())
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    if any(isinstance(handler, _Queue) for handler in root.handlers):
        return
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(_Json() if form == "json" else _Text())
    records: queue.Queue[logging.LogRecord] = queue.Queue(_MOST)
    listener = logging.handlers.QueueListener(records, stream)
    root.addHandler(_Queue(records))
    listener.start()
    atexit.register(listener.stop)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
